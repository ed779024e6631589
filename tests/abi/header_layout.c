/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frozen: where every field of every public struct lies on 64-bit machines, and every constant's value. Fields may be added at
 * an end, and with them a struct's size grows; no other line here ever changes. Compiled as C11 with -Wpedantic, which the header must bear as well.
 */
#include <iokv/iokv.h>

_Static_assert(sizeof(iokv_error_detail) == 512, "iokv_error_detail");
_Static_assert(offsetof(iokv_error_detail, struct_size) == 0, "iokv_error_detail.struct_size");
_Static_assert(offsetof(iokv_error_detail, code) == 4, "iokv_error_detail.code");
_Static_assert(offsetof(iokv_error_detail, message) == 8, "iokv_error_detail.message");

_Static_assert(sizeof(iokv_connect_options) == 56, "iokv_connect_options");
_Static_assert(offsetof(iokv_connect_options, struct_size) == 0, "iokv_connect_options.struct_size");
_Static_assert(offsetof(iokv_connect_options, flags) == 4, "iokv_connect_options.flags");
_Static_assert(offsetof(iokv_connect_options, socket_path) == 8, "iokv_connect_options.socket_path");
_Static_assert(offsetof(iokv_connect_options, name) == 16, "iokv_connect_options.name");
_Static_assert(offsetof(iokv_connect_options, timeout_ns) == 24, "iokv_connect_options.timeout_ns");
_Static_assert(offsetof(iokv_connect_options, spin_ns) == 32, "iokv_connect_options.spin_ns");
_Static_assert(offsetof(iokv_connect_options, submission_entries) == 40, "iokv_connect_options.submission_entries");
_Static_assert(offsetof(iokv_connect_options, completion_entries) == 44, "iokv_connect_options.completion_entries");
_Static_assert(offsetof(iokv_connect_options, arena_bytes) == 48, "iokv_connect_options.arena_bytes");
_Static_assert(offsetof(iokv_connect_options, result_bytes) == 52, "iokv_connect_options.result_bytes");

_Static_assert(sizeof(iokv_info) == 296, "iokv_info");
_Static_assert(offsetof(iokv_info, struct_size) == 0, "iokv_info.struct_size");
_Static_assert(offsetof(iokv_info, protocol_version) == 4, "iokv_info.protocol_version");
_Static_assert(offsetof(iokv_info, daemon_instance) == 8, "iokv_info.daemon_instance");
_Static_assert(offsetof(iokv_info, client_id) == 16, "iokv_info.client_id");
_Static_assert(offsetof(iokv_info, vocabulary) == 24, "iokv_info.vocabulary");
_Static_assert(offsetof(iokv_info, max_context) == 28, "iokv_info.max_context");
_Static_assert(offsetof(iokv_info, layers) == 32, "iokv_info.layers");
_Static_assert(offsetof(iokv_info, hidden) == 36, "iokv_info.hidden");
_Static_assert(offsetof(iokv_info, heads) == 40, "iokv_info.heads");
_Static_assert(offsetof(iokv_info, kv_heads) == 44, "iokv_info.kv_heads");
_Static_assert(offsetof(iokv_info, head_dim) == 48, "iokv_info.head_dim");
_Static_assert(offsetof(iokv_info, begin_token) == 52, "iokv_info.begin_token");
_Static_assert(offsetof(iokv_info, end_token_count) == 56, "iokv_info.end_token_count");
_Static_assert(offsetof(iokv_info, end_tokens) == 60, "iokv_info.end_tokens");
_Static_assert(offsetof(iokv_info, max_sequences) == 92, "iokv_info.max_sequences");
_Static_assert(offsetof(iokv_info, max_operations) == 96, "iokv_info.max_operations");
_Static_assert(offsetof(iokv_info, max_step_tokens) == 100, "iokv_info.max_step_tokens");
_Static_assert(offsetof(iokv_info, max_stop_tokens) == 104, "iokv_info.max_stop_tokens");
_Static_assert(offsetof(iokv_info, submission_entries) == 108, "iokv_info.submission_entries");
_Static_assert(offsetof(iokv_info, completion_entries) == 112, "iokv_info.completion_entries");
_Static_assert(offsetof(iokv_info, pool_tokens) == 120, "iokv_info.pool_tokens");
_Static_assert(offsetof(iokv_info, model_digest) == 128, "iokv_info.model_digest");
_Static_assert(offsetof(iokv_info, tokenizer_digest) == 160, "iokv_info.tokenizer_digest");
_Static_assert(offsetof(iokv_info, model_name) == 192, "iokv_info.model_name");
_Static_assert(offsetof(iokv_info, daemon_version) == 256, "iokv_info.daemon_version");
_Static_assert(offsetof(iokv_info, features) == 288, "iokv_info.features");

_Static_assert(sizeof(iokv_sampling) == 64, "iokv_sampling");
_Static_assert(offsetof(iokv_sampling, struct_size) == 0, "iokv_sampling.struct_size");
_Static_assert(offsetof(iokv_sampling, temperature) == 4, "iokv_sampling.temperature");
_Static_assert(offsetof(iokv_sampling, top_p) == 8, "iokv_sampling.top_p");
_Static_assert(offsetof(iokv_sampling, top_k) == 12, "iokv_sampling.top_k");
_Static_assert(offsetof(iokv_sampling, seed) == 16, "iokv_sampling.seed");
_Static_assert(offsetof(iokv_sampling, min_p) == 24, "iokv_sampling.min_p");
_Static_assert(offsetof(iokv_sampling, typical_p) == 28, "iokv_sampling.typical_p");
_Static_assert(offsetof(iokv_sampling, repetition_penalty) == 32, "iokv_sampling.repetition_penalty");
_Static_assert(offsetof(iokv_sampling, presence_penalty) == 36, "iokv_sampling.presence_penalty");
_Static_assert(offsetof(iokv_sampling, frequency_penalty) == 40, "iokv_sampling.frequency_penalty");
_Static_assert(offsetof(iokv_sampling, repetition_from) == 44, "iokv_sampling.repetition_from");
_Static_assert(offsetof(iokv_sampling, frequency_from) == 48, "iokv_sampling.frequency_from");
_Static_assert(offsetof(iokv_sampling, logit_bias_count) == 52, "iokv_sampling.logit_bias_count");
_Static_assert(offsetof(iokv_sampling, logit_bias) == 56, "iokv_sampling.logit_bias");

_Static_assert(sizeof(iokv_logit_bias) == 8, "iokv_logit_bias");
_Static_assert(offsetof(iokv_logit_bias, token) == 0, "iokv_logit_bias.token");
_Static_assert(offsetof(iokv_logit_bias, bias) == 4, "iokv_logit_bias.bias");

_Static_assert(sizeof(iokv_token_logprob) == 8, "iokv_token_logprob");
_Static_assert(offsetof(iokv_token_logprob, token) == 0, "iokv_token_logprob.token");
_Static_assert(offsetof(iokv_token_logprob, logprob) == 4, "iokv_token_logprob.logprob");

_Static_assert(sizeof(iokv_open_options) == 40, "iokv_open_options");
_Static_assert(offsetof(iokv_open_options, struct_size) == 0, "iokv_open_options.struct_size");
_Static_assert(offsetof(iokv_open_options, flags) == 4, "iokv_open_options.flags");
_Static_assert(offsetof(iokv_open_options, user_data) == 8, "iokv_open_options.user_data");
_Static_assert(offsetof(iokv_open_options, sampling) == 16, "iokv_open_options.sampling");
_Static_assert(offsetof(iokv_open_options, model) == 24, "iokv_open_options.model");
_Static_assert(offsetof(iokv_open_options, adapter) == 28, "iokv_open_options.adapter");
_Static_assert(offsetof(iokv_open_options, priority) == 32, "iokv_open_options.priority");
_Static_assert(offsetof(iokv_open_options, reserved) == 36, "iokv_open_options.reserved");

_Static_assert(sizeof(iokv_step_options) == 104, "iokv_step_options");
_Static_assert(offsetof(iokv_step_options, struct_size) == 0, "iokv_step_options.struct_size");
_Static_assert(offsetof(iokv_step_options, flags) == 4, "iokv_step_options.flags");
_Static_assert(offsetof(iokv_step_options, user_data) == 8, "iokv_step_options.user_data");
_Static_assert(offsetof(iokv_step_options, tokens) == 16, "iokv_step_options.tokens");
_Static_assert(offsetof(iokv_step_options, token_count) == 24, "iokv_step_options.token_count");
_Static_assert(offsetof(iokv_step_options, max_tokens) == 28, "iokv_step_options.max_tokens");
_Static_assert(offsetof(iokv_step_options, stop_tokens) == 32, "iokv_step_options.stop_tokens");
_Static_assert(offsetof(iokv_step_options, stop_token_count) == 40, "iokv_step_options.stop_token_count");
_Static_assert(offsetof(iokv_step_options, priority) == 44, "iokv_step_options.priority");
_Static_assert(offsetof(iokv_step_options, sampling) == 48, "iokv_step_options.sampling");
_Static_assert(offsetof(iokv_step_options, deadline_ns) == 56, "iokv_step_options.deadline_ns");
_Static_assert(offsetof(iokv_step_options, stop_sequences) == 64, "iokv_step_options.stop_sequences");
_Static_assert(offsetof(iokv_step_options, stop_sequence_lengths) == 72, "iokv_step_options.stop_sequence_lengths");
_Static_assert(offsetof(iokv_step_options, stop_sequence_count) == 80, "iokv_step_options.stop_sequence_count");
_Static_assert(offsetof(iokv_step_options, top_logprobs) == 84, "iokv_step_options.top_logprobs");
_Static_assert(offsetof(iokv_step_options, masks) == 88, "iokv_step_options.masks");
_Static_assert(offsetof(iokv_step_options, mask_words) == 96, "iokv_step_options.mask_words");
_Static_assert(offsetof(iokv_step_options, mask_count) == 100, "iokv_step_options.mask_count");

_Static_assert(sizeof(iokv_completion) == 64, "iokv_completion");
_Static_assert(offsetof(iokv_completion, user_data) == 0, "iokv_completion.user_data");
_Static_assert(offsetof(iokv_completion, operation) == 8, "iokv_completion.operation");
_Static_assert(offsetof(iokv_completion, sequence) == 16, "iokv_completion.sequence");
_Static_assert(offsetof(iokv_completion, result) == 24, "iokv_completion.result");
_Static_assert(offsetof(iokv_completion, flags) == 28, "iokv_completion.flags");
_Static_assert(offsetof(iokv_completion, token) == 32, "iokv_completion.token");
_Static_assert(offsetof(iokv_completion, logprob) == 36, "iokv_completion.logprob");
_Static_assert(offsetof(iokv_completion, index) == 40, "iokv_completion.index");
_Static_assert(offsetof(iokv_completion, length) == 44, "iokv_completion.length");
_Static_assert(offsetof(iokv_completion, view) == 48, "iokv_completion.view");
_Static_assert(offsetof(iokv_completion, times) == 56, "iokv_completion.times");

_Static_assert(sizeof(iokv_times) == 40, "iokv_times");
_Static_assert(offsetof(iokv_times, struct_size) == 0, "iokv_times.struct_size");
_Static_assert(offsetof(iokv_times, reserved) == 4, "iokv_times.reserved");
_Static_assert(offsetof(iokv_times, queued_ns) == 8, "iokv_times.queued_ns");
_Static_assert(offsetof(iokv_times, link_ns) == 16, "iokv_times.link_ns");
_Static_assert(offsetof(iokv_times, recompute_ns) == 24, "iokv_times.recompute_ns");
_Static_assert(offsetof(iokv_times, dense_ns) == 32, "iokv_times.dense_ns");

_Static_assert(sizeof(iokv_logits_view) == 24, "iokv_logits_view");
_Static_assert(offsetof(iokv_logits_view, struct_size) == 0, "iokv_logits_view.struct_size");
_Static_assert(offsetof(iokv_logits_view, dtype) == 4, "iokv_logits_view.dtype");
_Static_assert(offsetof(iokv_logits_view, count) == 8, "iokv_logits_view.count");
_Static_assert(offsetof(iokv_logits_view, reserved) == 12, "iokv_logits_view.reserved");
_Static_assert(offsetof(iokv_logits_view, data) == 16, "iokv_logits_view.data");

_Static_assert(sizeof(iokv_counter) == 32, "iokv_counter");
_Static_assert(offsetof(iokv_counter, name) == 0, "iokv_counter.name");
_Static_assert(offsetof(iokv_counter, unit) == 8, "iokv_counter.unit");
_Static_assert(offsetof(iokv_counter, meaning) == 16, "iokv_counter.meaning");
_Static_assert(offsetof(iokv_counter, value) == 24, "iokv_counter.value");

_Static_assert(IOKV_OK == 0, "IOKV_OK");
_Static_assert(IOKV_EINVAL == -1, "IOKV_EINVAL");
_Static_assert(IOKV_ENOMEM == -2, "IOKV_ENOMEM");
_Static_assert(IOKV_EAGAIN == -3, "IOKV_EAGAIN");
_Static_assert(IOKV_ENODAEMON == -4, "IOKV_ENODAEMON");
_Static_assert(IOKV_EACCES == -5, "IOKV_EACCES");
_Static_assert(IOKV_EVERSION == -6, "IOKV_EVERSION");
_Static_assert(IOKV_ELOADING == -7, "IOKV_ELOADING");
_Static_assert(IOKV_ECLOSED == -8, "IOKV_ECLOSED");
_Static_assert(IOKV_EPROTOCOL == -9, "IOKV_EPROTOCOL");
_Static_assert(IOKV_EBUSY == -10, "IOKV_EBUSY");
_Static_assert(IOKV_EFORK == -11, "IOKV_EFORK");
_Static_assert(IOKV_ETIMEDOUT == -12, "IOKV_ETIMEDOUT");
_Static_assert(IOKV_EWOKEN == -13, "IOKV_EWOKEN");
_Static_assert(IOKV_ECONTEXT == -14, "IOKV_ECONTEXT");
_Static_assert(IOKV_EPOOL == -15, "IOKV_EPOOL");
_Static_assert(IOKV_ELIMIT == -16, "IOKV_ELIMIT");
_Static_assert(IOKV_ESEQUENCE == -17, "IOKV_ESEQUENCE");
_Static_assert(IOKV_ETOKEN == -18, "IOKV_ETOKEN");
_Static_assert(IOKV_ECANCELED == -19, "IOKV_ECANCELED");
_Static_assert(IOKV_EDEADLINE == -20, "IOKV_EDEADLINE");
_Static_assert(IOKV_ESHUTDOWN == -21, "IOKV_ESHUTDOWN");
_Static_assert(IOKV_EDEVICE == -22, "IOKV_EDEVICE");
_Static_assert(IOKV_EUNSUPPORTED == -23, "IOKV_EUNSUPPORTED");
_Static_assert(IOKV_EMASK == -24, "IOKV_EMASK");
_Static_assert(IOKV_ESTOP == -25, "IOKV_ESTOP");
_Static_assert(IOKV_FEATURE_SAMPLING == 1, "IOKV_FEATURE_SAMPLING");
_Static_assert(IOKV_MAX_LOGIT_BIAS == 1024, "IOKV_MAX_LOGIT_BIAS");
_Static_assert(IOKV_MAX_TOP_LOGPROBS == 64, "IOKV_MAX_TOP_LOGPROBS");
_Static_assert(IOKV_MAX_STOP_SEQUENCES == 64, "IOKV_MAX_STOP_SEQUENCES");
_Static_assert(IOKV_MAX_MASKS == 64, "IOKV_MAX_MASKS");
_Static_assert(IOKV_STEP_EACH == 1, "IOKV_STEP_EACH");
_Static_assert(IOKV_STEP_LOGITS == 2, "IOKV_STEP_LOGITS");
_Static_assert(IOKV_COMPLETION_MORE == 1, "IOKV_COMPLETION_MORE");
_Static_assert(IOKV_COMPLETION_TOKEN == 2, "IOKV_COMPLETION_TOKEN");
_Static_assert(IOKV_COMPLETION_PREDICTED == 4, "IOKV_COMPLETION_PREDICTED");
_Static_assert(IOKV_COMPLETION_LOGITS == 8, "IOKV_COMPLETION_LOGITS");
_Static_assert(IOKV_COMPLETION_STOPPED == 16, "IOKV_COMPLETION_STOPPED");
_Static_assert(IOKV_COMPLETION_TOP == 32, "IOKV_COMPLETION_TOP");
_Static_assert(IOKV_F32 == 0, "IOKV_F32");
_Static_assert(IOKV_F16 == 1, "IOKV_F16");
_Static_assert(IOKV_BF16 == 2, "IOKV_BF16");
_Static_assert(IOKV_TEXT_TOKENIZER == 1, "IOKV_TEXT_TOKENIZER");
_Static_assert(IOKV_TEXT_CHAT_TEMPLATE == 2, "IOKV_TEXT_CHAT_TEMPLATE");
