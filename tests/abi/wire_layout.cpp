// SPDX-License-Identifier: Apache-2.0
// Frozen: where every field of every entry and message lies, and every constant of the wire. Clients outlive daemons and
// daemons clients, so a line here never changes, but for the size of a struct that has got fields at its end; see also the
// assertions beside the structs.
#include <cstddef>
#include <cstdint>

#include "wire/counters.h"
#include "wire/handshake.h"
#include "wire/rings.h"
#include "wire/sequences.h"
#include "wire/times.h"
#include "wire/trace.h"

namespace iokv::wire {

static_assert(sizeof(Submission) == 64, "Submission");
static_assert(offsetof(Submission, opcode) == 0, "Submission.opcode");
static_assert(offsetof(Submission, reserved0) == 1, "Submission.reserved0");
static_assert(offsetof(Submission, flags) == 2, "Submission.flags");
static_assert(offsetof(Submission, priority) == 4, "Submission.priority");
static_assert(offsetof(Submission, model) == 6, "Submission.model");
static_assert(offsetof(Submission, operation) == 8, "Submission.operation");
static_assert(offsetof(Submission, user_data) == 16, "Submission.user_data");
static_assert(offsetof(Submission, sequence) == 24, "Submission.sequence");
static_assert(offsetof(Submission, argument) == 32, "Submission.argument");
static_assert(offsetof(Submission, payload_offset) == 40, "Submission.payload_offset");
static_assert(offsetof(Submission, payload_bytes) == 44, "Submission.payload_bytes");
static_assert(offsetof(Submission, n) == 48, "Submission.n");
static_assert(offsetof(Submission, m) == 52, "Submission.m");
static_assert(offsetof(Submission, adapter) == 56, "Submission.adapter");
static_assert(offsetof(Submission, reserved1) == 60, "Submission.reserved1");

static_assert(sizeof(StepPayload) == 80, "StepPayload");
static_assert(offsetof(StepPayload, struct_bytes) == 0, "StepPayload.struct_bytes");
static_assert(offsetof(StepPayload, stop_tokens) == 4, "StepPayload.stop_tokens");
static_assert(offsetof(StepPayload, has_sampling) == 8, "StepPayload.has_sampling");
static_assert(offsetof(StepPayload, temperature) == 12, "StepPayload.temperature");
static_assert(offsetof(StepPayload, top_p) == 16, "StepPayload.top_p");
static_assert(offsetof(StepPayload, top_k) == 20, "StepPayload.top_k");
static_assert(offsetof(StepPayload, seed) == 24, "StepPayload.seed");
static_assert(offsetof(StepPayload, min_p) == 32, "StepPayload.min_p");
static_assert(offsetof(StepPayload, typical_p) == 36, "StepPayload.typical_p");
static_assert(offsetof(StepPayload, repetition_penalty) == 40, "StepPayload.repetition_penalty");
static_assert(offsetof(StepPayload, presence_penalty) == 44, "StepPayload.presence_penalty");
static_assert(offsetof(StepPayload, frequency_penalty) == 48, "StepPayload.frequency_penalty");
static_assert(offsetof(StepPayload, repetition_from) == 52, "StepPayload.repetition_from");
static_assert(offsetof(StepPayload, frequency_from) == 56, "StepPayload.frequency_from");
static_assert(offsetof(StepPayload, logit_biases) == 60, "StepPayload.logit_biases");
static_assert(offsetof(StepPayload, stop_sequences) == 64, "StepPayload.stop_sequences");
static_assert(offsetof(StepPayload, stop_sequence_tokens) == 68, "StepPayload.stop_sequence_tokens");
static_assert(offsetof(StepPayload, masks) == 72, "StepPayload.masks");
static_assert(offsetof(StepPayload, top_logprobs) == 76, "StepPayload.top_logprobs");
static_assert(kFirstStepPayloadBytes == 32, "kFirstStepPayloadBytes");
static_assert(kMaxLogitBiases == 1024, "kMaxLogitBiases");
static_assert(kMaxStopSequences == 64, "kMaxStopSequences");
static_assert(kMaxMasks == 64, "kMaxMasks");
static_assert(kMaxTopLogprobs == 64, "kMaxTopLogprobs");
static_assert(kFeatureSampling == 1, "kFeatureSampling");
static_assert(mask_words(1) == 1 && mask_words(32) == 1 && mask_words(33) == 2, "mask_words");

static_assert(sizeof(LogitBias) == 8, "LogitBias");
static_assert(offsetof(LogitBias, token) == 0, "LogitBias.token");
static_assert(offsetof(LogitBias, bias) == 4, "LogitBias.bias");

static_assert(sizeof(TopHeader) == 8, "TopHeader");
static_assert(offsetof(TopHeader, count) == 0, "TopHeader.count");
static_assert(offsetof(TopHeader, reserved) == 4, "TopHeader.reserved");
static_assert(sizeof(TokenLogprob) == 8, "TokenLogprob");
static_assert(offsetof(TokenLogprob, token) == 0, "TokenLogprob.token");
static_assert(offsetof(TokenLogprob, logprob) == 4, "TokenLogprob.logprob");
static_assert(kTopBytes == 64 && top_bytes(1) == 64 && top_bytes(7) == 64 && top_bytes(8) == 128, "top_bytes");

static_assert(sizeof(Completion) == 64, "Completion");
static_assert(offsetof(Completion, user_data) == 0, "Completion.user_data");
static_assert(offsetof(Completion, operation) == 8, "Completion.operation");
static_assert(offsetof(Completion, sequence) == 16, "Completion.sequence");
static_assert(offsetof(Completion, result) == 24, "Completion.result");
static_assert(offsetof(Completion, flags) == 28, "Completion.flags");
static_assert(offsetof(Completion, token) == 32, "Completion.token");
static_assert(offsetof(Completion, logprob) == 36, "Completion.logprob");
static_assert(offsetof(Completion, index) == 40, "Completion.index");
static_assert(offsetof(Completion, length) == 44, "Completion.length");
static_assert(offsetof(Completion, result_position) == 48, "Completion.result_position");
static_assert(offsetof(Completion, result_bytes) == 52, "Completion.result_bytes");
static_assert(offsetof(Completion, times) == 56, "Completion.times");

static_assert(sizeof(Geometry) == 16, "Geometry");
static_assert(offsetof(Geometry, submission_entries) == 0, "Geometry.submission_entries");
static_assert(offsetof(Geometry, completion_entries) == 4, "Geometry.completion_entries");
static_assert(offsetof(Geometry, arena_bytes) == 8, "Geometry.arena_bytes");
static_assert(offsetof(Geometry, result_bytes) == 12, "Geometry.result_bytes");

static_assert(sizeof(MessageHeader) == 8, "MessageHeader");
static_assert(offsetof(MessageHeader, magic) == 0, "MessageHeader.magic");
static_assert(offsetof(MessageHeader, type) == 4, "MessageHeader.type");
static_assert(offsetof(MessageHeader, bytes) == 6, "MessageHeader.bytes");

static_assert(sizeof(Hello) == 72, "Hello");
static_assert(offsetof(Hello, header) == 0, "Hello.header");
static_assert(offsetof(Hello, version_min) == 8, "Hello.version_min");
static_assert(offsetof(Hello, version_max) == 10, "Hello.version_max");
static_assert(offsetof(Hello, flags) == 12, "Hello.flags");
static_assert(offsetof(Hello, features) == 16, "Hello.features");
static_assert(offsetof(Hello, wanted) == 24, "Hello.wanted");
static_assert(offsetof(Hello, name) == 40, "Hello.name");

static_assert(sizeof(Loading) == 16, "Loading");
static_assert(offsetof(Loading, header) == 0, "Loading.header");
static_assert(offsetof(Loading, percent) == 8, "Loading.percent");
static_assert(offsetof(Loading, reserved) == 12, "Loading.reserved");

static_assert(sizeof(Welcome) == 312, "Welcome");
static_assert(offsetof(Welcome, header) == 0, "Welcome.header");
static_assert(offsetof(Welcome, version) == 8, "Welcome.version");
static_assert(offsetof(Welcome, reserved0) == 10, "Welcome.reserved0");
static_assert(offsetof(Welcome, flags) == 12, "Welcome.flags");
static_assert(offsetof(Welcome, features) == 16, "Welcome.features");
static_assert(offsetof(Welcome, daemon_instance) == 24, "Welcome.daemon_instance");
static_assert(offsetof(Welcome, client_id) == 32, "Welcome.client_id");
static_assert(offsetof(Welcome, geometry) == 40, "Welcome.geometry");
static_assert(offsetof(Welcome, vocabulary) == 56, "Welcome.vocabulary");
static_assert(offsetof(Welcome, max_context) == 60, "Welcome.max_context");
static_assert(offsetof(Welcome, layers) == 64, "Welcome.layers");
static_assert(offsetof(Welcome, hidden) == 68, "Welcome.hidden");
static_assert(offsetof(Welcome, heads) == 72, "Welcome.heads");
static_assert(offsetof(Welcome, kv_heads) == 76, "Welcome.kv_heads");
static_assert(offsetof(Welcome, head_dim) == 80, "Welcome.head_dim");
static_assert(offsetof(Welcome, begin_token) == 84, "Welcome.begin_token");
static_assert(offsetof(Welcome, end_token_count) == 88, "Welcome.end_token_count");
static_assert(offsetof(Welcome, end_tokens) == 92, "Welcome.end_tokens");
static_assert(offsetof(Welcome, max_sequences) == 124, "Welcome.max_sequences");
static_assert(offsetof(Welcome, max_operations) == 128, "Welcome.max_operations");
static_assert(offsetof(Welcome, max_step_tokens) == 132, "Welcome.max_step_tokens");
static_assert(offsetof(Welcome, max_stop_tokens) == 136, "Welcome.max_stop_tokens");
static_assert(offsetof(Welcome, reserved1) == 140, "Welcome.reserved1");
static_assert(offsetof(Welcome, pool_tokens) == 144, "Welcome.pool_tokens");
static_assert(offsetof(Welcome, model_digest) == 152, "Welcome.model_digest");
static_assert(offsetof(Welcome, tokenizer_digest) == 184, "Welcome.tokenizer_digest");
static_assert(offsetof(Welcome, model_name) == 216, "Welcome.model_name");
static_assert(offsetof(Welcome, daemon_version) == 280, "Welcome.daemon_version");

static_assert(sizeof(Farewell) == 512, "Farewell");
static_assert(offsetof(Farewell, header) == 0, "Farewell.header");
static_assert(offsetof(Farewell, code) == 8, "Farewell.code");
static_assert(offsetof(Farewell, message) == 12, "Farewell.message");

static_assert(sizeof(Fetch) == 16, "Fetch");
static_assert(offsetof(Fetch, header) == 0, "Fetch.header");
static_assert(offsetof(Fetch, kind) == 8, "Fetch.kind");
static_assert(offsetof(Fetch, reserved) == 12, "Fetch.reserved");

static_assert(sizeof(Blob) == 24, "Blob");
static_assert(offsetof(Blob, header) == 0, "Blob.header");
static_assert(offsetof(Blob, kind) == 8, "Blob.kind");
static_assert(offsetof(Blob, result) == 12, "Blob.result");
static_assert(offsetof(Blob, bytes) == 16, "Blob.bytes");

static_assert(sizeof(TraceHeader) == 32, "TraceHeader");
static_assert(offsetof(TraceHeader, header_bytes) == 0, "TraceHeader.header_bytes");
static_assert(offsetof(TraceHeader, lanes) == 4, "TraceHeader.lanes");
static_assert(offsetof(TraceHeader, kinds) == 8, "TraceHeader.kinds");
static_assert(offsetof(TraceHeader, step_bytes) == 12, "TraceHeader.step_bytes");
static_assert(offsetof(TraceHeader, op_bytes) == 16, "TraceHeader.op_bytes");
static_assert(offsetof(TraceHeader, steps) == 20, "TraceHeader.steps");
static_assert(offsetof(TraceHeader, ops) == 24, "TraceHeader.ops");

static_assert(sizeof(TraceStep) == 96, "TraceStep");
static_assert(offsetof(TraceStep, id) == 0, "TraceStep.id");
static_assert(offsetof(TraceStep, started_ns) == 8, "TraceStep.started_ns");
static_assert(offsetof(TraceStep, ended_ns) == 16, "TraceStep.ended_ns");
static_assert(offsetof(TraceStep, step_ns) == 24, "TraceStep.step_ns");
static_assert(offsetof(TraceStep, predicted_ns) == 32, "TraceStep.predicted_ns");
static_assert(offsetof(TraceStep, lane_predicted_ns) == 40, "TraceStep.lane_predicted_ns");
static_assert(offsetof(TraceStep, rows) == 80, "TraceStep.rows");
static_assert(offsetof(TraceStep, sequences) == 84, "TraceStep.sequences");
static_assert(offsetof(TraceStep, ops) == 88, "TraceStep.ops");
static_assert(offsetof(TraceStep, ops_left_out) == 92, "TraceStep.ops_left_out");

static_assert(sizeof(TraceOp) == 40, "TraceOp");
static_assert(offsetof(TraceOp, begin_ns) == 0, "TraceOp.begin_ns");
static_assert(offsetof(TraceOp, end_ns) == 8, "TraceOp.end_ns");
static_assert(offsetof(TraceOp, bytes) == 16, "TraceOp.bytes");
static_assert(offsetof(TraceOp, tokens) == 24, "TraceOp.tokens");
static_assert(offsetof(TraceOp, round) == 28, "TraceOp.round");
static_assert(offsetof(TraceOp, layer) == 32, "TraceOp.layer");
static_assert(offsetof(TraceOp, lane) == 34, "TraceOp.lane");
static_assert(offsetof(TraceOp, kind) == 35, "TraceOp.kind");
static_assert(offsetof(TraceOp, reserved) == 36, "TraceOp.reserved");

static_assert(sizeof(SequencesHeader) == 16, "SequencesHeader");
static_assert(offsetof(SequencesHeader, header_bytes) == 0, "SequencesHeader.header_bytes");
static_assert(offsetof(SequencesHeader, row_bytes) == 4, "SequencesHeader.row_bytes");
static_assert(offsetof(SequencesHeader, sequences) == 8, "SequencesHeader.sequences");
static_assert(offsetof(SequencesHeader, reserved) == 12, "SequencesHeader.reserved");

static_assert(sizeof(SequenceRow) == 168, "SequenceRow");
static_assert(offsetof(SequenceRow, client_id) == 0, "SequenceRow.client_id");
static_assert(offsetof(SequenceRow, id) == 8, "SequenceRow.id");
static_assert(offsetof(SequenceRow, client_slot) == 16, "SequenceRow.client_slot");
static_assert(offsetof(SequenceRow, pid) == 20, "SequenceRow.pid");
static_assert(offsetof(SequenceRow, client_name) == 24, "SequenceRow.client_name");
static_assert(offsetof(SequenceRow, length) == 56, "SequenceRow.length");
static_assert(offsetof(SequenceRow, cached) == 60, "SequenceRow.cached");
static_assert(offsetof(SequenceRow, kv_blocks) == 64, "SequenceRow.kv_blocks");
static_assert(offsetof(SequenceRow, x_blocks) == 68, "SequenceRow.x_blocks");
static_assert(offsetof(SequenceRow, priority) == 72, "SequenceRow.priority");
static_assert(offsetof(SequenceRow, state) == 76, "SequenceRow.state");
static_assert(offsetof(SequenceRow, operations) == 80, "SequenceRow.operations");
static_assert(offsetof(SequenceRow, steps) == 84, "SequenceRow.steps");
static_assert(offsetof(SequenceRow, times) == 88, "SequenceRow.times");
static_assert(offsetof(SequenceRow, host_times) == 152, "SequenceRow.host_times");

// Durations: by hand from the definition.
static_assert(pack_duration(0) == 0 && pack_duration(2047) == 2047 && pack_duration(2048) == 2048);
static_assert(pack_duration(4095) == 4095 && pack_duration(4096) == (2 << 11) && pack_duration(4098) == (2 << 11 | 1));
static_assert(pack_duration(8191) == (3 << 11) && pack_duration(UINT64_MAX) == 0xffff);
static_assert(unpack_duration(0xffff) == uint64_t{4095} << 30 && unpack_duration(5 << 11 | 7) == 2055 << 4);
static_assert(pack_times({1, 2, 3, 4}) == 0x0004'0003'0002'0001 && pack_times({}) == uint64_t{1} << 48);
static_assert(unpack_times(0x0004'0003'0002'0001).recompute_ns == 3);

static_assert(kIndexLineBytes == 128);
static_assert(kEntryBytes == 64);
static_assert(kPageBytes == 4096);
static_assert(kPayloadAlignment == 8);
static_assert(kMaxStepPayloadBytes == 1024);
static_assert(kSubmissionEach == 1);
static_assert(kSubmissionLogits == 2);
static_assert(kSubmissionPart == 4);
static_assert(kUpSubmissionTail == 0);
static_assert(kUpCompletionHead == 128);
static_assert(kUpResultHead == 256);
static_assert(kUpFlags == 384);
static_assert(kUpEntries == 4096);
static_assert(kUpNeedWakeup == 1);
static_assert(kUpNeedRoom == 2);
static_assert(kDownGeometry == 0);
static_assert(kDownSubmissionHead == 128);
static_assert(kDownCompletionTail == 256);
static_assert(kDownFlags == 384);
static_assert(kDownEndCode == 512);
static_assert(kDownEntries == 4096);
static_assert(kDownNeedWakeup == 1);
static_assert(kDownNeedReap == 2);
static_assert(kMagic == 1986752361);
static_assert(kVersionMin == 1);
static_assert(kVersionMax == 1);
static_assert(kMaxMessageBytes == 1024);
static_assert(kHelloObserver == 1);
static_assert(kCounterBytes == 4096);
static_assert(kTraceLanes == 5);
static_assert(kTraceNameBytes == 16);
static_assert(kRowSteps == 8);
static_assert(static_cast<uint32_t>(SequenceState::idle) == 0);
static_assert(static_cast<uint32_t>(SequenceState::running) == 1);
static_assert(static_cast<uint32_t>(SequenceState::waiting) == 2);
static_assert(static_cast<uint32_t>(SequenceState::parked) == 3);
static_assert(static_cast<uint32_t>(Opcode::nop) == 1);
static_assert(static_cast<uint32_t>(Opcode::open) == 2);
static_assert(static_cast<uint32_t>(Opcode::step) == 3);
static_assert(static_cast<uint32_t>(Opcode::fork) == 4);
static_assert(static_cast<uint32_t>(Opcode::truncate) == 5);
static_assert(static_cast<uint32_t>(Opcode::cancel) == 6);
static_assert(static_cast<uint32_t>(Opcode::close) == 7);
static_assert(static_cast<uint32_t>(MessageType::hello) == 1);
static_assert(static_cast<uint32_t>(MessageType::loading) == 2);
static_assert(static_cast<uint32_t>(MessageType::welcome) == 3);
static_assert(static_cast<uint32_t>(MessageType::refused) == 4);
static_assert(static_cast<uint32_t>(MessageType::fetch) == 5);
static_assert(static_cast<uint32_t>(MessageType::blob) == 6);
static_assert(static_cast<uint32_t>(MessageType::ended) == 7);
static_assert(static_cast<uint32_t>(BlobKind::counters) == 1);
static_assert(static_cast<uint32_t>(BlobKind::vocabulary) == 2);
static_assert(static_cast<uint32_t>(BlobKind::tokenizer) == 3);
static_assert(static_cast<uint32_t>(BlobKind::chat_template) == 4);
static_assert(static_cast<uint32_t>(BlobKind::trace) == 5);
static_assert(static_cast<uint32_t>(BlobKind::sequences) == 6);

// Counters are appended: a position never changes its meaning.
static_assert(static_cast<uint32_t>(Counter::instance) == 0);
static_assert(static_cast<uint32_t>(Counter::pid) == 1);
static_assert(static_cast<uint32_t>(Counter::start_ns) == 2);
static_assert(static_cast<uint32_t>(Counter::ready) == 3);
static_assert(static_cast<uint32_t>(Counter::loading_percent) == 4);
static_assert(static_cast<uint32_t>(Counter::clients) == 5);
static_assert(static_cast<uint32_t>(Counter::clients_total) == 6);
static_assert(static_cast<uint32_t>(Counter::clients_ended) == 7);
static_assert(static_cast<uint32_t>(Counter::sequences) == 8);
static_assert(static_cast<uint32_t>(Counter::operations) == 9);
static_assert(static_cast<uint32_t>(Counter::submissions) == 10);
static_assert(static_cast<uint32_t>(Counter::completions) == 11);
static_assert(static_cast<uint32_t>(Counter::refusals) == 12);
static_assert(static_cast<uint32_t>(Counter::steps) == 13);
static_assert(static_cast<uint32_t>(Counter::steps_shared) == 14);
static_assert(static_cast<uint32_t>(Counter::steps_multiclient_possible) == 15);
static_assert(static_cast<uint32_t>(Counter::step_ns) == 16);
static_assert(static_cast<uint32_t>(Counter::prefill_tokens) == 17);
static_assert(static_cast<uint32_t>(Counter::decode_tokens) == 18);
static_assert(static_cast<uint32_t>(Counter::sampled_tokens) == 19);
static_assert(static_cast<uint32_t>(Counter::recomputed_tokens) == 20);
static_assert(static_cast<uint32_t>(Counter::preemptions) == 21);
static_assert(static_cast<uint32_t>(Counter::stall_releases) == 22);
static_assert(static_cast<uint32_t>(Counter::parked) == 23);
static_assert(static_cast<uint32_t>(Counter::waiting) == 24);
static_assert(static_cast<uint32_t>(Counter::pool_units) == 25);
static_assert(static_cast<uint32_t>(Counter::pool_units_free) == 26);
static_assert(static_cast<uint32_t>(Counter::pool_bytes) == 27);
static_assert(static_cast<uint32_t>(Counter::weights_bytes) == 28);
static_assert(static_cast<uint32_t>(Counter::model_file_bytes) == 29);
static_assert(static_cast<uint32_t>(Counter::wakeups) == 30);
static_assert(static_cast<uint32_t>(Counter::doorbells_sent) == 31);
static_assert(static_cast<uint32_t>(Counter::doorbells_received) == 32);
static_assert(static_cast<uint32_t>(Counter::first_work_ns) == 33);
static_assert(static_cast<uint32_t>(Counter::first_works) == 34);
static_assert(static_cast<uint32_t>(Counter::predicted_ns) == 35);
static_assert(static_cast<uint32_t>(Counter::measured_ns) == 36);
static_assert(static_cast<uint32_t>(Counter::planned_h2d_bytes) == 37);
static_assert(static_cast<uint32_t>(Counter::h2d_bytes) == 38);
static_assert(static_cast<uint32_t>(Counter::d2h_bytes) == 39);
static_assert(static_cast<uint32_t>(Counter::h2d_busy_ns) == 40);
static_assert(static_cast<uint32_t>(Counter::d2h_busy_ns) == 41);
static_assert(static_cast<uint32_t>(Counter::recompute_busy_ns) == 42);
static_assert(static_cast<uint32_t>(Counter::dense_busy_ns) == 43);
static_assert(static_cast<uint32_t>(Counter::x_blocks) == 44);
static_assert(static_cast<uint32_t>(Counter::kv_blocks) == 45);
static_assert(static_cast<uint32_t>(Counter::x_share_ppm) == 46);
static_assert(static_cast<uint32_t>(Counter::profile_fits) == 47);
static_assert(static_cast<uint32_t>(Counter::drifted_steps) == 48);
static_assert(static_cast<uint32_t>(Counter::link_ratio_ppm) == 49);
static_assert(static_cast<uint32_t>(Counter::device_ratio_ppm) == 50);
static_assert(static_cast<uint32_t>(Counter::device_units) == 51);
static_assert(static_cast<uint32_t>(Counter::device_units_free) == 52);
static_assert(static_cast<uint32_t>(Counter::copies_dropped) == 53);
static_assert(static_cast<uint32_t>(Counter::audit_steps) == 54);
static_assert(static_cast<uint32_t>(Counter::audit_mismatches) == 55);
static_assert(static_cast<uint32_t>(Counter::audit_skipped) == 56);

}  // namespace iokv::wire
