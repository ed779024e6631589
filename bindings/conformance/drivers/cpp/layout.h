// SPDX-License-Identifier: Apache-2.0
// Written by bindings/abi/generate from include/iokv/iokv.h: edit neither this nor its order.
#pragma once

#include <cstddef>
#include <cstdio>

#include "iokv/iokv.h"

inline void print_layout() {
  std::printf("size iokv_error_detail %zu\n", sizeof(iokv_error_detail));
  std::printf("field iokv_error_detail.struct_size %zu %zu\n", offsetof(iokv_error_detail, struct_size),
              sizeof(iokv_error_detail::struct_size));
  std::printf("field iokv_error_detail.code %zu %zu\n", offsetof(iokv_error_detail, code),
              sizeof(iokv_error_detail::code));
  std::printf("field iokv_error_detail.message %zu %zu\n", offsetof(iokv_error_detail, message),
              sizeof(iokv_error_detail::message));
  std::printf("size iokv_connect_options %zu\n", sizeof(iokv_connect_options));
  std::printf("field iokv_connect_options.struct_size %zu %zu\n", offsetof(iokv_connect_options, struct_size),
              sizeof(iokv_connect_options::struct_size));
  std::printf("field iokv_connect_options.flags %zu %zu\n", offsetof(iokv_connect_options, flags),
              sizeof(iokv_connect_options::flags));
  std::printf("field iokv_connect_options.socket_path %zu %zu\n", offsetof(iokv_connect_options, socket_path),
              sizeof(iokv_connect_options::socket_path));
  std::printf("field iokv_connect_options.name %zu %zu\n", offsetof(iokv_connect_options, name),
              sizeof(iokv_connect_options::name));
  std::printf("field iokv_connect_options.timeout_ns %zu %zu\n", offsetof(iokv_connect_options, timeout_ns),
              sizeof(iokv_connect_options::timeout_ns));
  std::printf("field iokv_connect_options.spin_ns %zu %zu\n", offsetof(iokv_connect_options, spin_ns),
              sizeof(iokv_connect_options::spin_ns));
  std::printf("field iokv_connect_options.submission_entries %zu %zu\n", offsetof(iokv_connect_options, submission_entries),
              sizeof(iokv_connect_options::submission_entries));
  std::printf("field iokv_connect_options.completion_entries %zu %zu\n", offsetof(iokv_connect_options, completion_entries),
              sizeof(iokv_connect_options::completion_entries));
  std::printf("field iokv_connect_options.arena_bytes %zu %zu\n", offsetof(iokv_connect_options, arena_bytes),
              sizeof(iokv_connect_options::arena_bytes));
  std::printf("field iokv_connect_options.result_bytes %zu %zu\n", offsetof(iokv_connect_options, result_bytes),
              sizeof(iokv_connect_options::result_bytes));
  std::printf("size iokv_info %zu\n", sizeof(iokv_info));
  std::printf("field iokv_info.struct_size %zu %zu\n", offsetof(iokv_info, struct_size),
              sizeof(iokv_info::struct_size));
  std::printf("field iokv_info.protocol_version %zu %zu\n", offsetof(iokv_info, protocol_version),
              sizeof(iokv_info::protocol_version));
  std::printf("field iokv_info.daemon_instance %zu %zu\n", offsetof(iokv_info, daemon_instance),
              sizeof(iokv_info::daemon_instance));
  std::printf("field iokv_info.client_id %zu %zu\n", offsetof(iokv_info, client_id),
              sizeof(iokv_info::client_id));
  std::printf("field iokv_info.vocabulary %zu %zu\n", offsetof(iokv_info, vocabulary),
              sizeof(iokv_info::vocabulary));
  std::printf("field iokv_info.max_context %zu %zu\n", offsetof(iokv_info, max_context),
              sizeof(iokv_info::max_context));
  std::printf("field iokv_info.layers %zu %zu\n", offsetof(iokv_info, layers),
              sizeof(iokv_info::layers));
  std::printf("field iokv_info.hidden %zu %zu\n", offsetof(iokv_info, hidden),
              sizeof(iokv_info::hidden));
  std::printf("field iokv_info.heads %zu %zu\n", offsetof(iokv_info, heads),
              sizeof(iokv_info::heads));
  std::printf("field iokv_info.kv_heads %zu %zu\n", offsetof(iokv_info, kv_heads),
              sizeof(iokv_info::kv_heads));
  std::printf("field iokv_info.head_dim %zu %zu\n", offsetof(iokv_info, head_dim),
              sizeof(iokv_info::head_dim));
  std::printf("field iokv_info.begin_token %zu %zu\n", offsetof(iokv_info, begin_token),
              sizeof(iokv_info::begin_token));
  std::printf("field iokv_info.end_token_count %zu %zu\n", offsetof(iokv_info, end_token_count),
              sizeof(iokv_info::end_token_count));
  std::printf("field iokv_info.end_tokens %zu %zu\n", offsetof(iokv_info, end_tokens),
              sizeof(iokv_info::end_tokens));
  std::printf("field iokv_info.max_sequences %zu %zu\n", offsetof(iokv_info, max_sequences),
              sizeof(iokv_info::max_sequences));
  std::printf("field iokv_info.max_operations %zu %zu\n", offsetof(iokv_info, max_operations),
              sizeof(iokv_info::max_operations));
  std::printf("field iokv_info.max_step_tokens %zu %zu\n", offsetof(iokv_info, max_step_tokens),
              sizeof(iokv_info::max_step_tokens));
  std::printf("field iokv_info.max_stop_tokens %zu %zu\n", offsetof(iokv_info, max_stop_tokens),
              sizeof(iokv_info::max_stop_tokens));
  std::printf("field iokv_info.submission_entries %zu %zu\n", offsetof(iokv_info, submission_entries),
              sizeof(iokv_info::submission_entries));
  std::printf("field iokv_info.completion_entries %zu %zu\n", offsetof(iokv_info, completion_entries),
              sizeof(iokv_info::completion_entries));
  std::printf("field iokv_info.pool_tokens %zu %zu\n", offsetof(iokv_info, pool_tokens),
              sizeof(iokv_info::pool_tokens));
  std::printf("field iokv_info.model_digest %zu %zu\n", offsetof(iokv_info, model_digest),
              sizeof(iokv_info::model_digest));
  std::printf("field iokv_info.tokenizer_digest %zu %zu\n", offsetof(iokv_info, tokenizer_digest),
              sizeof(iokv_info::tokenizer_digest));
  std::printf("field iokv_info.model_name %zu %zu\n", offsetof(iokv_info, model_name),
              sizeof(iokv_info::model_name));
  std::printf("field iokv_info.daemon_version %zu %zu\n", offsetof(iokv_info, daemon_version),
              sizeof(iokv_info::daemon_version));
  std::printf("field iokv_info.features %zu %zu\n", offsetof(iokv_info, features),
              sizeof(iokv_info::features));
  std::printf("size iokv_logit_bias %zu\n", sizeof(iokv_logit_bias));
  std::printf("field iokv_logit_bias.token %zu %zu\n", offsetof(iokv_logit_bias, token),
              sizeof(iokv_logit_bias::token));
  std::printf("field iokv_logit_bias.bias %zu %zu\n", offsetof(iokv_logit_bias, bias),
              sizeof(iokv_logit_bias::bias));
  std::printf("size iokv_sampling %zu\n", sizeof(iokv_sampling));
  std::printf("field iokv_sampling.struct_size %zu %zu\n", offsetof(iokv_sampling, struct_size),
              sizeof(iokv_sampling::struct_size));
  std::printf("field iokv_sampling.temperature %zu %zu\n", offsetof(iokv_sampling, temperature),
              sizeof(iokv_sampling::temperature));
  std::printf("field iokv_sampling.top_p %zu %zu\n", offsetof(iokv_sampling, top_p),
              sizeof(iokv_sampling::top_p));
  std::printf("field iokv_sampling.top_k %zu %zu\n", offsetof(iokv_sampling, top_k),
              sizeof(iokv_sampling::top_k));
  std::printf("field iokv_sampling.seed %zu %zu\n", offsetof(iokv_sampling, seed),
              sizeof(iokv_sampling::seed));
  std::printf("field iokv_sampling.min_p %zu %zu\n", offsetof(iokv_sampling, min_p),
              sizeof(iokv_sampling::min_p));
  std::printf("field iokv_sampling.typical_p %zu %zu\n", offsetof(iokv_sampling, typical_p),
              sizeof(iokv_sampling::typical_p));
  std::printf("field iokv_sampling.repetition_penalty %zu %zu\n", offsetof(iokv_sampling, repetition_penalty),
              sizeof(iokv_sampling::repetition_penalty));
  std::printf("field iokv_sampling.presence_penalty %zu %zu\n", offsetof(iokv_sampling, presence_penalty),
              sizeof(iokv_sampling::presence_penalty));
  std::printf("field iokv_sampling.frequency_penalty %zu %zu\n", offsetof(iokv_sampling, frequency_penalty),
              sizeof(iokv_sampling::frequency_penalty));
  std::printf("field iokv_sampling.repetition_from %zu %zu\n", offsetof(iokv_sampling, repetition_from),
              sizeof(iokv_sampling::repetition_from));
  std::printf("field iokv_sampling.frequency_from %zu %zu\n", offsetof(iokv_sampling, frequency_from),
              sizeof(iokv_sampling::frequency_from));
  std::printf("field iokv_sampling.logit_bias_count %zu %zu\n", offsetof(iokv_sampling, logit_bias_count),
              sizeof(iokv_sampling::logit_bias_count));
  std::printf("field iokv_sampling.logit_bias %zu %zu\n", offsetof(iokv_sampling, logit_bias),
              sizeof(iokv_sampling::logit_bias));
  std::printf("size iokv_open_options %zu\n", sizeof(iokv_open_options));
  std::printf("field iokv_open_options.struct_size %zu %zu\n", offsetof(iokv_open_options, struct_size),
              sizeof(iokv_open_options::struct_size));
  std::printf("field iokv_open_options.flags %zu %zu\n", offsetof(iokv_open_options, flags),
              sizeof(iokv_open_options::flags));
  std::printf("field iokv_open_options.user_data %zu %zu\n", offsetof(iokv_open_options, user_data),
              sizeof(iokv_open_options::user_data));
  std::printf("field iokv_open_options.sampling %zu %zu\n", offsetof(iokv_open_options, sampling),
              sizeof(iokv_open_options::sampling));
  std::printf("field iokv_open_options.model %zu %zu\n", offsetof(iokv_open_options, model),
              sizeof(iokv_open_options::model));
  std::printf("field iokv_open_options.adapter %zu %zu\n", offsetof(iokv_open_options, adapter),
              sizeof(iokv_open_options::adapter));
  std::printf("field iokv_open_options.priority %zu %zu\n", offsetof(iokv_open_options, priority),
              sizeof(iokv_open_options::priority));
  std::printf("field iokv_open_options.reserved %zu %zu\n", offsetof(iokv_open_options, reserved),
              sizeof(iokv_open_options::reserved));
  std::printf("size iokv_step_options %zu\n", sizeof(iokv_step_options));
  std::printf("field iokv_step_options.struct_size %zu %zu\n", offsetof(iokv_step_options, struct_size),
              sizeof(iokv_step_options::struct_size));
  std::printf("field iokv_step_options.flags %zu %zu\n", offsetof(iokv_step_options, flags),
              sizeof(iokv_step_options::flags));
  std::printf("field iokv_step_options.user_data %zu %zu\n", offsetof(iokv_step_options, user_data),
              sizeof(iokv_step_options::user_data));
  std::printf("field iokv_step_options.tokens %zu %zu\n", offsetof(iokv_step_options, tokens),
              sizeof(iokv_step_options::tokens));
  std::printf("field iokv_step_options.token_count %zu %zu\n", offsetof(iokv_step_options, token_count),
              sizeof(iokv_step_options::token_count));
  std::printf("field iokv_step_options.max_tokens %zu %zu\n", offsetof(iokv_step_options, max_tokens),
              sizeof(iokv_step_options::max_tokens));
  std::printf("field iokv_step_options.stop_tokens %zu %zu\n", offsetof(iokv_step_options, stop_tokens),
              sizeof(iokv_step_options::stop_tokens));
  std::printf("field iokv_step_options.stop_token_count %zu %zu\n", offsetof(iokv_step_options, stop_token_count),
              sizeof(iokv_step_options::stop_token_count));
  std::printf("field iokv_step_options.priority %zu %zu\n", offsetof(iokv_step_options, priority),
              sizeof(iokv_step_options::priority));
  std::printf("field iokv_step_options.sampling %zu %zu\n", offsetof(iokv_step_options, sampling),
              sizeof(iokv_step_options::sampling));
  std::printf("field iokv_step_options.deadline_ns %zu %zu\n", offsetof(iokv_step_options, deadline_ns),
              sizeof(iokv_step_options::deadline_ns));
  std::printf("field iokv_step_options.stop_sequences %zu %zu\n", offsetof(iokv_step_options, stop_sequences),
              sizeof(iokv_step_options::stop_sequences));
  std::printf("field iokv_step_options.stop_sequence_lengths %zu %zu\n", offsetof(iokv_step_options, stop_sequence_lengths),
              sizeof(iokv_step_options::stop_sequence_lengths));
  std::printf("field iokv_step_options.stop_sequence_count %zu %zu\n", offsetof(iokv_step_options, stop_sequence_count),
              sizeof(iokv_step_options::stop_sequence_count));
  std::printf("field iokv_step_options.top_logprobs %zu %zu\n", offsetof(iokv_step_options, top_logprobs),
              sizeof(iokv_step_options::top_logprobs));
  std::printf("field iokv_step_options.masks %zu %zu\n", offsetof(iokv_step_options, masks),
              sizeof(iokv_step_options::masks));
  std::printf("field iokv_step_options.mask_words %zu %zu\n", offsetof(iokv_step_options, mask_words),
              sizeof(iokv_step_options::mask_words));
  std::printf("field iokv_step_options.mask_count %zu %zu\n", offsetof(iokv_step_options, mask_count),
              sizeof(iokv_step_options::mask_count));
  std::printf("size iokv_completion %zu\n", sizeof(iokv_completion));
  std::printf("field iokv_completion.user_data %zu %zu\n", offsetof(iokv_completion, user_data),
              sizeof(iokv_completion::user_data));
  std::printf("field iokv_completion.operation %zu %zu\n", offsetof(iokv_completion, operation),
              sizeof(iokv_completion::operation));
  std::printf("field iokv_completion.sequence %zu %zu\n", offsetof(iokv_completion, sequence),
              sizeof(iokv_completion::sequence));
  std::printf("field iokv_completion.result %zu %zu\n", offsetof(iokv_completion, result),
              sizeof(iokv_completion::result));
  std::printf("field iokv_completion.flags %zu %zu\n", offsetof(iokv_completion, flags),
              sizeof(iokv_completion::flags));
  std::printf("field iokv_completion.token %zu %zu\n", offsetof(iokv_completion, token),
              sizeof(iokv_completion::token));
  std::printf("field iokv_completion.logprob %zu %zu\n", offsetof(iokv_completion, logprob),
              sizeof(iokv_completion::logprob));
  std::printf("field iokv_completion.index %zu %zu\n", offsetof(iokv_completion, index),
              sizeof(iokv_completion::index));
  std::printf("field iokv_completion.length %zu %zu\n", offsetof(iokv_completion, length),
              sizeof(iokv_completion::length));
  std::printf("field iokv_completion.view %zu %zu\n", offsetof(iokv_completion, view),
              sizeof(iokv_completion::view));
  std::printf("field iokv_completion.times %zu %zu\n", offsetof(iokv_completion, times),
              sizeof(iokv_completion::times));
  std::printf("size iokv_logits_view %zu\n", sizeof(iokv_logits_view));
  std::printf("field iokv_logits_view.struct_size %zu %zu\n", offsetof(iokv_logits_view, struct_size),
              sizeof(iokv_logits_view::struct_size));
  std::printf("field iokv_logits_view.dtype %zu %zu\n", offsetof(iokv_logits_view, dtype),
              sizeof(iokv_logits_view::dtype));
  std::printf("field iokv_logits_view.count %zu %zu\n", offsetof(iokv_logits_view, count),
              sizeof(iokv_logits_view::count));
  std::printf("field iokv_logits_view.reserved %zu %zu\n", offsetof(iokv_logits_view, reserved),
              sizeof(iokv_logits_view::reserved));
  std::printf("field iokv_logits_view.data %zu %zu\n", offsetof(iokv_logits_view, data),
              sizeof(iokv_logits_view::data));
  std::printf("size iokv_token_logprob %zu\n", sizeof(iokv_token_logprob));
  std::printf("field iokv_token_logprob.token %zu %zu\n", offsetof(iokv_token_logprob, token),
              sizeof(iokv_token_logprob::token));
  std::printf("field iokv_token_logprob.logprob %zu %zu\n", offsetof(iokv_token_logprob, logprob),
              sizeof(iokv_token_logprob::logprob));
  std::printf("size iokv_times %zu\n", sizeof(iokv_times));
  std::printf("field iokv_times.struct_size %zu %zu\n", offsetof(iokv_times, struct_size),
              sizeof(iokv_times::struct_size));
  std::printf("field iokv_times.reserved %zu %zu\n", offsetof(iokv_times, reserved),
              sizeof(iokv_times::reserved));
  std::printf("field iokv_times.queued_ns %zu %zu\n", offsetof(iokv_times, queued_ns),
              sizeof(iokv_times::queued_ns));
  std::printf("field iokv_times.link_ns %zu %zu\n", offsetof(iokv_times, link_ns),
              sizeof(iokv_times::link_ns));
  std::printf("field iokv_times.recompute_ns %zu %zu\n", offsetof(iokv_times, recompute_ns),
              sizeof(iokv_times::recompute_ns));
  std::printf("field iokv_times.dense_ns %zu %zu\n", offsetof(iokv_times, dense_ns),
              sizeof(iokv_times::dense_ns));
  std::printf("size iokv_counter %zu\n", sizeof(iokv_counter));
  std::printf("field iokv_counter.name %zu %zu\n", offsetof(iokv_counter, name),
              sizeof(iokv_counter::name));
  std::printf("field iokv_counter.unit %zu %zu\n", offsetof(iokv_counter, unit),
              sizeof(iokv_counter::unit));
  std::printf("field iokv_counter.meaning %zu %zu\n", offsetof(iokv_counter, meaning),
              sizeof(iokv_counter::meaning));
  std::printf("field iokv_counter.value %zu %zu\n", offsetof(iokv_counter, value),
              sizeof(iokv_counter::value));
  std::printf("constant IOKV_VERSION_MAJOR %d\n", static_cast<int>(IOKV_VERSION_MAJOR));
  std::printf("constant IOKV_VERSION_MINOR %d\n", static_cast<int>(IOKV_VERSION_MINOR));
  std::printf("constant IOKV_OK %d\n", static_cast<int>(IOKV_OK));
  std::printf("constant IOKV_EINVAL %d\n", static_cast<int>(IOKV_EINVAL));
  std::printf("constant IOKV_ENOMEM %d\n", static_cast<int>(IOKV_ENOMEM));
  std::printf("constant IOKV_EAGAIN %d\n", static_cast<int>(IOKV_EAGAIN));
  std::printf("constant IOKV_ENODAEMON %d\n", static_cast<int>(IOKV_ENODAEMON));
  std::printf("constant IOKV_EACCES %d\n", static_cast<int>(IOKV_EACCES));
  std::printf("constant IOKV_EVERSION %d\n", static_cast<int>(IOKV_EVERSION));
  std::printf("constant IOKV_ELOADING %d\n", static_cast<int>(IOKV_ELOADING));
  std::printf("constant IOKV_ECLOSED %d\n", static_cast<int>(IOKV_ECLOSED));
  std::printf("constant IOKV_EPROTOCOL %d\n", static_cast<int>(IOKV_EPROTOCOL));
  std::printf("constant IOKV_EBUSY %d\n", static_cast<int>(IOKV_EBUSY));
  std::printf("constant IOKV_EFORK %d\n", static_cast<int>(IOKV_EFORK));
  std::printf("constant IOKV_ETIMEDOUT %d\n", static_cast<int>(IOKV_ETIMEDOUT));
  std::printf("constant IOKV_EWOKEN %d\n", static_cast<int>(IOKV_EWOKEN));
  std::printf("constant IOKV_ECONTEXT %d\n", static_cast<int>(IOKV_ECONTEXT));
  std::printf("constant IOKV_EPOOL %d\n", static_cast<int>(IOKV_EPOOL));
  std::printf("constant IOKV_ELIMIT %d\n", static_cast<int>(IOKV_ELIMIT));
  std::printf("constant IOKV_ESEQUENCE %d\n", static_cast<int>(IOKV_ESEQUENCE));
  std::printf("constant IOKV_ETOKEN %d\n", static_cast<int>(IOKV_ETOKEN));
  std::printf("constant IOKV_ECANCELED %d\n", static_cast<int>(IOKV_ECANCELED));
  std::printf("constant IOKV_EDEADLINE %d\n", static_cast<int>(IOKV_EDEADLINE));
  std::printf("constant IOKV_ESHUTDOWN %d\n", static_cast<int>(IOKV_ESHUTDOWN));
  std::printf("constant IOKV_EDEVICE %d\n", static_cast<int>(IOKV_EDEVICE));
  std::printf("constant IOKV_EUNSUPPORTED %d\n", static_cast<int>(IOKV_EUNSUPPORTED));
  std::printf("constant IOKV_EMASK %d\n", static_cast<int>(IOKV_EMASK));
  std::printf("constant IOKV_ESTOP %d\n", static_cast<int>(IOKV_ESTOP));
  std::printf("constant IOKV_FEATURE_SAMPLING %d\n", static_cast<int>(IOKV_FEATURE_SAMPLING));
  std::printf("constant IOKV_MAX_LOGIT_BIAS %d\n", static_cast<int>(IOKV_MAX_LOGIT_BIAS));
  std::printf("constant IOKV_MAX_TOP_LOGPROBS %d\n", static_cast<int>(IOKV_MAX_TOP_LOGPROBS));
  std::printf("constant IOKV_MAX_STOP_SEQUENCES %d\n", static_cast<int>(IOKV_MAX_STOP_SEQUENCES));
  std::printf("constant IOKV_MAX_MASKS %d\n", static_cast<int>(IOKV_MAX_MASKS));
  std::printf("constant IOKV_STEP_EACH %d\n", static_cast<int>(IOKV_STEP_EACH));
  std::printf("constant IOKV_STEP_LOGITS %d\n", static_cast<int>(IOKV_STEP_LOGITS));
  std::printf("constant IOKV_COMPLETION_MORE %d\n", static_cast<int>(IOKV_COMPLETION_MORE));
  std::printf("constant IOKV_COMPLETION_TOKEN %d\n", static_cast<int>(IOKV_COMPLETION_TOKEN));
  std::printf("constant IOKV_COMPLETION_PREDICTED %d\n", static_cast<int>(IOKV_COMPLETION_PREDICTED));
  std::printf("constant IOKV_COMPLETION_LOGITS %d\n", static_cast<int>(IOKV_COMPLETION_LOGITS));
  std::printf("constant IOKV_COMPLETION_STOPPED %d\n", static_cast<int>(IOKV_COMPLETION_STOPPED));
  std::printf("constant IOKV_COMPLETION_TOP %d\n", static_cast<int>(IOKV_COMPLETION_TOP));
  std::printf("constant IOKV_LIMIT_NONE %d\n", static_cast<int>(IOKV_LIMIT_NONE));
  std::printf("constant IOKV_LIMIT_SEQUENCES %d\n", static_cast<int>(IOKV_LIMIT_SEQUENCES));
  std::printf("constant IOKV_LIMIT_QUEUED_TOKENS %d\n", static_cast<int>(IOKV_LIMIT_QUEUED_TOKENS));
  std::printf("constant IOKV_LIMIT_USER_SEQUENCES %d\n", static_cast<int>(IOKV_LIMIT_USER_SEQUENCES));
  std::printf("constant IOKV_LIMIT_USER_QUEUED_TOKENS %d\n", static_cast<int>(IOKV_LIMIT_USER_QUEUED_TOKENS));
  std::printf("constant IOKV_F32 %d\n", static_cast<int>(IOKV_F32));
  std::printf("constant IOKV_F16 %d\n", static_cast<int>(IOKV_F16));
  std::printf("constant IOKV_BF16 %d\n", static_cast<int>(IOKV_BF16));
  std::printf("constant IOKV_TEXT_TOKENIZER %d\n", static_cast<int>(IOKV_TEXT_TOKENIZER));
  std::printf("constant IOKV_TEXT_CHAT_TEMPLATE %d\n", static_cast<int>(IOKV_TEXT_CHAT_TEMPLATE));
}
