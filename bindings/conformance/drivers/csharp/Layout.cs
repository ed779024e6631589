// SPDX-License-Identifier: Apache-2.0
// Written by bindings/abi/generate from include/iokv/iokv.h: edit neither this nor its order.
using System.Collections.Generic;
using Iokv.Native;

internal static unsafe class Layout
{
    public static IEnumerable<string> Lines()
    {
        var lines = new List<string>();
        {
            var value = default(ErrorDetail);
            lines.Add("size iokv_error_detail " + sizeof(ErrorDetail));
            lines.Add("field iokv_error_detail.struct_size " + ((byte*)&value.struct_size - (byte*)&value) + " " + (sizeof(uint)));
            lines.Add("field iokv_error_detail.code " + ((byte*)&value.code - (byte*)&value) + " " + (sizeof(int)));
            lines.Add("field iokv_error_detail.message " + ((byte*)value.message - (byte*)&value) + " " + (sizeof(byte) * 504));
        }
        {
            var value = default(ConnectOptions);
            lines.Add("size iokv_connect_options " + sizeof(ConnectOptions));
            lines.Add("field iokv_connect_options.struct_size " + ((byte*)&value.struct_size - (byte*)&value) + " " + (sizeof(uint)));
            lines.Add("field iokv_connect_options.flags " + ((byte*)&value.flags - (byte*)&value) + " " + (sizeof(uint)));
            lines.Add("field iokv_connect_options.socket_path " + ((byte*)&value.socket_path - (byte*)&value) + " " + (sizeof(void*)));
            lines.Add("field iokv_connect_options.name " + ((byte*)&value.name - (byte*)&value) + " " + (sizeof(void*)));
            lines.Add("field iokv_connect_options.timeout_ns " + ((byte*)&value.timeout_ns - (byte*)&value) + " " + (sizeof(long)));
            lines.Add("field iokv_connect_options.spin_ns " + ((byte*)&value.spin_ns - (byte*)&value) + " " + (sizeof(ulong)));
            lines.Add("field iokv_connect_options.submission_entries " + ((byte*)&value.submission_entries - (byte*)&value) + " " + (sizeof(uint)));
            lines.Add("field iokv_connect_options.completion_entries " + ((byte*)&value.completion_entries - (byte*)&value) + " " + (sizeof(uint)));
            lines.Add("field iokv_connect_options.arena_bytes " + ((byte*)&value.arena_bytes - (byte*)&value) + " " + (sizeof(uint)));
            lines.Add("field iokv_connect_options.result_bytes " + ((byte*)&value.result_bytes - (byte*)&value) + " " + (sizeof(uint)));
        }
        {
            var value = default(Info);
            lines.Add("size iokv_info " + sizeof(Info));
            lines.Add("field iokv_info.struct_size " + ((byte*)&value.struct_size - (byte*)&value) + " " + (sizeof(uint)));
            lines.Add("field iokv_info.protocol_version " + ((byte*)&value.protocol_version - (byte*)&value) + " " + (sizeof(uint)));
            lines.Add("field iokv_info.daemon_instance " + ((byte*)&value.daemon_instance - (byte*)&value) + " " + (sizeof(ulong)));
            lines.Add("field iokv_info.client_id " + ((byte*)&value.client_id - (byte*)&value) + " " + (sizeof(ulong)));
            lines.Add("field iokv_info.vocabulary " + ((byte*)&value.vocabulary - (byte*)&value) + " " + (sizeof(uint)));
            lines.Add("field iokv_info.max_context " + ((byte*)&value.max_context - (byte*)&value) + " " + (sizeof(uint)));
            lines.Add("field iokv_info.layers " + ((byte*)&value.layers - (byte*)&value) + " " + (sizeof(uint)));
            lines.Add("field iokv_info.hidden " + ((byte*)&value.hidden - (byte*)&value) + " " + (sizeof(uint)));
            lines.Add("field iokv_info.heads " + ((byte*)&value.heads - (byte*)&value) + " " + (sizeof(uint)));
            lines.Add("field iokv_info.kv_heads " + ((byte*)&value.kv_heads - (byte*)&value) + " " + (sizeof(uint)));
            lines.Add("field iokv_info.head_dim " + ((byte*)&value.head_dim - (byte*)&value) + " " + (sizeof(uint)));
            lines.Add("field iokv_info.begin_token " + ((byte*)&value.begin_token - (byte*)&value) + " " + (sizeof(int)));
            lines.Add("field iokv_info.end_token_count " + ((byte*)&value.end_token_count - (byte*)&value) + " " + (sizeof(uint)));
            lines.Add("field iokv_info.end_tokens " + ((byte*)value.end_tokens - (byte*)&value) + " " + (sizeof(int) * 8));
            lines.Add("field iokv_info.max_sequences " + ((byte*)&value.max_sequences - (byte*)&value) + " " + (sizeof(uint)));
            lines.Add("field iokv_info.max_operations " + ((byte*)&value.max_operations - (byte*)&value) + " " + (sizeof(uint)));
            lines.Add("field iokv_info.max_step_tokens " + ((byte*)&value.max_step_tokens - (byte*)&value) + " " + (sizeof(uint)));
            lines.Add("field iokv_info.max_stop_tokens " + ((byte*)&value.max_stop_tokens - (byte*)&value) + " " + (sizeof(uint)));
            lines.Add("field iokv_info.submission_entries " + ((byte*)&value.submission_entries - (byte*)&value) + " " + (sizeof(uint)));
            lines.Add("field iokv_info.completion_entries " + ((byte*)&value.completion_entries - (byte*)&value) + " " + (sizeof(uint)));
            lines.Add("field iokv_info.pool_tokens " + ((byte*)&value.pool_tokens - (byte*)&value) + " " + (sizeof(ulong)));
            lines.Add("field iokv_info.model_digest " + ((byte*)value.model_digest - (byte*)&value) + " " + (sizeof(byte) * 32));
            lines.Add("field iokv_info.tokenizer_digest " + ((byte*)value.tokenizer_digest - (byte*)&value) + " " + (sizeof(byte) * 32));
            lines.Add("field iokv_info.model_name " + ((byte*)value.model_name - (byte*)&value) + " " + (sizeof(byte) * 64));
            lines.Add("field iokv_info.daemon_version " + ((byte*)value.daemon_version - (byte*)&value) + " " + (sizeof(byte) * 32));
            lines.Add("field iokv_info.features " + ((byte*)&value.features - (byte*)&value) + " " + (sizeof(ulong)));
        }
        {
            var value = default(LogitBias);
            lines.Add("size iokv_logit_bias " + sizeof(LogitBias));
            lines.Add("field iokv_logit_bias.token " + ((byte*)&value.token - (byte*)&value) + " " + (sizeof(int)));
            lines.Add("field iokv_logit_bias.bias " + ((byte*)&value.bias - (byte*)&value) + " " + (sizeof(float)));
        }
        {
            var value = default(Sampling);
            lines.Add("size iokv_sampling " + sizeof(Sampling));
            lines.Add("field iokv_sampling.struct_size " + ((byte*)&value.struct_size - (byte*)&value) + " " + (sizeof(uint)));
            lines.Add("field iokv_sampling.temperature " + ((byte*)&value.temperature - (byte*)&value) + " " + (sizeof(float)));
            lines.Add("field iokv_sampling.top_p " + ((byte*)&value.top_p - (byte*)&value) + " " + (sizeof(float)));
            lines.Add("field iokv_sampling.top_k " + ((byte*)&value.top_k - (byte*)&value) + " " + (sizeof(uint)));
            lines.Add("field iokv_sampling.seed " + ((byte*)&value.seed - (byte*)&value) + " " + (sizeof(ulong)));
            lines.Add("field iokv_sampling.min_p " + ((byte*)&value.min_p - (byte*)&value) + " " + (sizeof(float)));
            lines.Add("field iokv_sampling.typical_p " + ((byte*)&value.typical_p - (byte*)&value) + " " + (sizeof(float)));
            lines.Add("field iokv_sampling.repetition_penalty " + ((byte*)&value.repetition_penalty - (byte*)&value) + " " + (sizeof(float)));
            lines.Add("field iokv_sampling.presence_penalty " + ((byte*)&value.presence_penalty - (byte*)&value) + " " + (sizeof(float)));
            lines.Add("field iokv_sampling.frequency_penalty " + ((byte*)&value.frequency_penalty - (byte*)&value) + " " + (sizeof(float)));
            lines.Add("field iokv_sampling.repetition_from " + ((byte*)&value.repetition_from - (byte*)&value) + " " + (sizeof(uint)));
            lines.Add("field iokv_sampling.frequency_from " + ((byte*)&value.frequency_from - (byte*)&value) + " " + (sizeof(uint)));
            lines.Add("field iokv_sampling.logit_bias_count " + ((byte*)&value.logit_bias_count - (byte*)&value) + " " + (sizeof(uint)));
            lines.Add("field iokv_sampling.logit_bias " + ((byte*)&value.logit_bias - (byte*)&value) + " " + (sizeof(void*)));
        }
        {
            var value = default(OpenOptions);
            lines.Add("size iokv_open_options " + sizeof(OpenOptions));
            lines.Add("field iokv_open_options.struct_size " + ((byte*)&value.struct_size - (byte*)&value) + " " + (sizeof(uint)));
            lines.Add("field iokv_open_options.flags " + ((byte*)&value.flags - (byte*)&value) + " " + (sizeof(uint)));
            lines.Add("field iokv_open_options.user_data " + ((byte*)&value.user_data - (byte*)&value) + " " + (sizeof(ulong)));
            lines.Add("field iokv_open_options.sampling " + ((byte*)&value.sampling - (byte*)&value) + " " + (sizeof(void*)));
            lines.Add("field iokv_open_options.model " + ((byte*)&value.model - (byte*)&value) + " " + (sizeof(uint)));
            lines.Add("field iokv_open_options.adapter " + ((byte*)&value.adapter - (byte*)&value) + " " + (sizeof(uint)));
            lines.Add("field iokv_open_options.priority " + ((byte*)&value.priority - (byte*)&value) + " " + (sizeof(int)));
            lines.Add("field iokv_open_options.reserved " + ((byte*)&value.reserved - (byte*)&value) + " " + (sizeof(uint)));
        }
        {
            var value = default(StepOptions);
            lines.Add("size iokv_step_options " + sizeof(StepOptions));
            lines.Add("field iokv_step_options.struct_size " + ((byte*)&value.struct_size - (byte*)&value) + " " + (sizeof(uint)));
            lines.Add("field iokv_step_options.flags " + ((byte*)&value.flags - (byte*)&value) + " " + (sizeof(uint)));
            lines.Add("field iokv_step_options.user_data " + ((byte*)&value.user_data - (byte*)&value) + " " + (sizeof(ulong)));
            lines.Add("field iokv_step_options.tokens " + ((byte*)&value.tokens - (byte*)&value) + " " + (sizeof(void*)));
            lines.Add("field iokv_step_options.token_count " + ((byte*)&value.token_count - (byte*)&value) + " " + (sizeof(uint)));
            lines.Add("field iokv_step_options.max_tokens " + ((byte*)&value.max_tokens - (byte*)&value) + " " + (sizeof(uint)));
            lines.Add("field iokv_step_options.stop_tokens " + ((byte*)&value.stop_tokens - (byte*)&value) + " " + (sizeof(void*)));
            lines.Add("field iokv_step_options.stop_token_count " + ((byte*)&value.stop_token_count - (byte*)&value) + " " + (sizeof(uint)));
            lines.Add("field iokv_step_options.priority " + ((byte*)&value.priority - (byte*)&value) + " " + (sizeof(int)));
            lines.Add("field iokv_step_options.sampling " + ((byte*)&value.sampling - (byte*)&value) + " " + (sizeof(void*)));
            lines.Add("field iokv_step_options.deadline_ns " + ((byte*)&value.deadline_ns - (byte*)&value) + " " + (sizeof(ulong)));
            lines.Add("field iokv_step_options.stop_sequences " + ((byte*)&value.stop_sequences - (byte*)&value) + " " + (sizeof(void*)));
            lines.Add("field iokv_step_options.stop_sequence_lengths " + ((byte*)&value.stop_sequence_lengths - (byte*)&value) + " " + (sizeof(void*)));
            lines.Add("field iokv_step_options.stop_sequence_count " + ((byte*)&value.stop_sequence_count - (byte*)&value) + " " + (sizeof(uint)));
            lines.Add("field iokv_step_options.top_logprobs " + ((byte*)&value.top_logprobs - (byte*)&value) + " " + (sizeof(uint)));
            lines.Add("field iokv_step_options.masks " + ((byte*)&value.masks - (byte*)&value) + " " + (sizeof(void*)));
            lines.Add("field iokv_step_options.mask_words " + ((byte*)&value.mask_words - (byte*)&value) + " " + (sizeof(uint)));
            lines.Add("field iokv_step_options.mask_count " + ((byte*)&value.mask_count - (byte*)&value) + " " + (sizeof(uint)));
        }
        {
            var value = default(Completion);
            lines.Add("size iokv_completion " + sizeof(Completion));
            lines.Add("field iokv_completion.user_data " + ((byte*)&value.user_data - (byte*)&value) + " " + (sizeof(ulong)));
            lines.Add("field iokv_completion.operation " + ((byte*)&value.operation - (byte*)&value) + " " + (sizeof(ulong)));
            lines.Add("field iokv_completion.sequence " + ((byte*)&value.sequence - (byte*)&value) + " " + (sizeof(ulong)));
            lines.Add("field iokv_completion.result " + ((byte*)&value.result - (byte*)&value) + " " + (sizeof(int)));
            lines.Add("field iokv_completion.flags " + ((byte*)&value.flags - (byte*)&value) + " " + (sizeof(uint)));
            lines.Add("field iokv_completion.token " + ((byte*)&value.token - (byte*)&value) + " " + (sizeof(int)));
            lines.Add("field iokv_completion.logprob " + ((byte*)&value.logprob - (byte*)&value) + " " + (sizeof(float)));
            lines.Add("field iokv_completion.index " + ((byte*)&value.index - (byte*)&value) + " " + (sizeof(uint)));
            lines.Add("field iokv_completion.length " + ((byte*)&value.length - (byte*)&value) + " " + (sizeof(uint)));
            lines.Add("field iokv_completion.view " + ((byte*)value.view - (byte*)&value) + " " + (sizeof(uint) * 2));
            lines.Add("field iokv_completion.times " + ((byte*)&value.times - (byte*)&value) + " " + (sizeof(ulong)));
        }
        {
            var value = default(LogitsView);
            lines.Add("size iokv_logits_view " + sizeof(LogitsView));
            lines.Add("field iokv_logits_view.struct_size " + ((byte*)&value.struct_size - (byte*)&value) + " " + (sizeof(uint)));
            lines.Add("field iokv_logits_view.dtype " + ((byte*)&value.dtype - (byte*)&value) + " " + (sizeof(uint)));
            lines.Add("field iokv_logits_view.count " + ((byte*)&value.count - (byte*)&value) + " " + (sizeof(uint)));
            lines.Add("field iokv_logits_view.reserved " + ((byte*)&value.reserved - (byte*)&value) + " " + (sizeof(uint)));
            lines.Add("field iokv_logits_view.data " + ((byte*)&value.data - (byte*)&value) + " " + (sizeof(void*)));
        }
        {
            var value = default(TokenLogprob);
            lines.Add("size iokv_token_logprob " + sizeof(TokenLogprob));
            lines.Add("field iokv_token_logprob.token " + ((byte*)&value.token - (byte*)&value) + " " + (sizeof(int)));
            lines.Add("field iokv_token_logprob.logprob " + ((byte*)&value.logprob - (byte*)&value) + " " + (sizeof(float)));
        }
        {
            var value = default(Times);
            lines.Add("size iokv_times " + sizeof(Times));
            lines.Add("field iokv_times.struct_size " + ((byte*)&value.struct_size - (byte*)&value) + " " + (sizeof(uint)));
            lines.Add("field iokv_times.reserved " + ((byte*)&value.reserved - (byte*)&value) + " " + (sizeof(uint)));
            lines.Add("field iokv_times.queued_ns " + ((byte*)&value.queued_ns - (byte*)&value) + " " + (sizeof(ulong)));
            lines.Add("field iokv_times.link_ns " + ((byte*)&value.link_ns - (byte*)&value) + " " + (sizeof(ulong)));
            lines.Add("field iokv_times.recompute_ns " + ((byte*)&value.recompute_ns - (byte*)&value) + " " + (sizeof(ulong)));
            lines.Add("field iokv_times.dense_ns " + ((byte*)&value.dense_ns - (byte*)&value) + " " + (sizeof(ulong)));
        }
        {
            var value = default(Counter);
            lines.Add("size iokv_counter " + sizeof(Counter));
            lines.Add("field iokv_counter.name " + ((byte*)&value.name - (byte*)&value) + " " + (sizeof(void*)));
            lines.Add("field iokv_counter.unit " + ((byte*)&value.unit - (byte*)&value) + " " + (sizeof(void*)));
            lines.Add("field iokv_counter.meaning " + ((byte*)&value.meaning - (byte*)&value) + " " + (sizeof(void*)));
            lines.Add("field iokv_counter.value " + ((byte*)&value.value - (byte*)&value) + " " + (sizeof(ulong)));
        }
        lines.Add("constant IOKV_VERSION_MAJOR " + Constants.IOKV_VERSION_MAJOR);
        lines.Add("constant IOKV_VERSION_MINOR " + Constants.IOKV_VERSION_MINOR);
        lines.Add("constant IOKV_OK " + Constants.IOKV_OK);
        lines.Add("constant IOKV_EINVAL " + Constants.IOKV_EINVAL);
        lines.Add("constant IOKV_ENOMEM " + Constants.IOKV_ENOMEM);
        lines.Add("constant IOKV_EAGAIN " + Constants.IOKV_EAGAIN);
        lines.Add("constant IOKV_ENODAEMON " + Constants.IOKV_ENODAEMON);
        lines.Add("constant IOKV_EACCES " + Constants.IOKV_EACCES);
        lines.Add("constant IOKV_EVERSION " + Constants.IOKV_EVERSION);
        lines.Add("constant IOKV_ELOADING " + Constants.IOKV_ELOADING);
        lines.Add("constant IOKV_ECLOSED " + Constants.IOKV_ECLOSED);
        lines.Add("constant IOKV_EPROTOCOL " + Constants.IOKV_EPROTOCOL);
        lines.Add("constant IOKV_EBUSY " + Constants.IOKV_EBUSY);
        lines.Add("constant IOKV_EFORK " + Constants.IOKV_EFORK);
        lines.Add("constant IOKV_ETIMEDOUT " + Constants.IOKV_ETIMEDOUT);
        lines.Add("constant IOKV_EWOKEN " + Constants.IOKV_EWOKEN);
        lines.Add("constant IOKV_ECONTEXT " + Constants.IOKV_ECONTEXT);
        lines.Add("constant IOKV_EPOOL " + Constants.IOKV_EPOOL);
        lines.Add("constant IOKV_ELIMIT " + Constants.IOKV_ELIMIT);
        lines.Add("constant IOKV_ESEQUENCE " + Constants.IOKV_ESEQUENCE);
        lines.Add("constant IOKV_ETOKEN " + Constants.IOKV_ETOKEN);
        lines.Add("constant IOKV_ECANCELED " + Constants.IOKV_ECANCELED);
        lines.Add("constant IOKV_EDEADLINE " + Constants.IOKV_EDEADLINE);
        lines.Add("constant IOKV_ESHUTDOWN " + Constants.IOKV_ESHUTDOWN);
        lines.Add("constant IOKV_EDEVICE " + Constants.IOKV_EDEVICE);
        lines.Add("constant IOKV_EUNSUPPORTED " + Constants.IOKV_EUNSUPPORTED);
        lines.Add("constant IOKV_EMASK " + Constants.IOKV_EMASK);
        lines.Add("constant IOKV_ESTOP " + Constants.IOKV_ESTOP);
        lines.Add("constant IOKV_FEATURE_SAMPLING " + Constants.IOKV_FEATURE_SAMPLING);
        lines.Add("constant IOKV_MAX_LOGIT_BIAS " + Constants.IOKV_MAX_LOGIT_BIAS);
        lines.Add("constant IOKV_MAX_TOP_LOGPROBS " + Constants.IOKV_MAX_TOP_LOGPROBS);
        lines.Add("constant IOKV_MAX_STOP_SEQUENCES " + Constants.IOKV_MAX_STOP_SEQUENCES);
        lines.Add("constant IOKV_MAX_MASKS " + Constants.IOKV_MAX_MASKS);
        lines.Add("constant IOKV_STEP_EACH " + Constants.IOKV_STEP_EACH);
        lines.Add("constant IOKV_STEP_LOGITS " + Constants.IOKV_STEP_LOGITS);
        lines.Add("constant IOKV_COMPLETION_MORE " + Constants.IOKV_COMPLETION_MORE);
        lines.Add("constant IOKV_COMPLETION_TOKEN " + Constants.IOKV_COMPLETION_TOKEN);
        lines.Add("constant IOKV_COMPLETION_PREDICTED " + Constants.IOKV_COMPLETION_PREDICTED);
        lines.Add("constant IOKV_COMPLETION_LOGITS " + Constants.IOKV_COMPLETION_LOGITS);
        lines.Add("constant IOKV_COMPLETION_STOPPED " + Constants.IOKV_COMPLETION_STOPPED);
        lines.Add("constant IOKV_COMPLETION_TOP " + Constants.IOKV_COMPLETION_TOP);
        lines.Add("constant IOKV_LIMIT_NONE " + Constants.IOKV_LIMIT_NONE);
        lines.Add("constant IOKV_LIMIT_SEQUENCES " + Constants.IOKV_LIMIT_SEQUENCES);
        lines.Add("constant IOKV_LIMIT_QUEUED_TOKENS " + Constants.IOKV_LIMIT_QUEUED_TOKENS);
        lines.Add("constant IOKV_LIMIT_USER_SEQUENCES " + Constants.IOKV_LIMIT_USER_SEQUENCES);
        lines.Add("constant IOKV_LIMIT_USER_QUEUED_TOKENS " + Constants.IOKV_LIMIT_USER_QUEUED_TOKENS);
        lines.Add("constant IOKV_F32 " + Constants.IOKV_F32);
        lines.Add("constant IOKV_F16 " + Constants.IOKV_F16);
        lines.Add("constant IOKV_BF16 " + Constants.IOKV_BF16);
        lines.Add("constant IOKV_TEXT_TOKENIZER " + Constants.IOKV_TEXT_TOKENIZER);
        lines.Add("constant IOKV_TEXT_CHAT_TEMPLATE " + Constants.IOKV_TEXT_CHAT_TEMPLATE);
        return lines;
    }
}
