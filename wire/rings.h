// SPDX-License-Identifier: Apache-2.0
// The two memory regions that a client and the daemon share: `up`, which the client writes, and `down`, which only the
// daemon can write (its seal forbids any other writable mapping). Frozen at 1.0: clients outlive daemons.
//
// Invariants
//  1. Little-endian fixed-width integers only; every reserved field is zero and is checked.
//  2. An index is a free-running u32; entry i of a ring of n (a power of two) is slot i & (n - 1). Positions in the arena
//     and the result FIFO are free-running byte counts, used modulo their power-of-two sizes.
//  3. Each index is written by one side only and has a 128-byte line of its own (two 64-byte lines: the adjacent-line
//     prefetcher pairs them). The owner stores with release after the data it announces; the peer loads with acquire.
//  4. Payloads and results are contiguous and 8-byte aligned: what does not fit before the end of its buffer starts at
//     the buffer's beginning, and the bytes skipped count as used.
//  5. The daemon stores the submission head before the completion tail of the same pass: a client that has seen a
//     completion finds the entries taken before it free.
//  6. The result of one completion is at most half of the result FIFO: so it fits an empty one at any position.
//  7. A client advances the completion head before it announces entries that count on it (max_operations), and the daemon
//     loads the submission tail before the completion head: else it could take an honest client for one that exceeds it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace iokv::wire {

inline constexpr uint32_t kIndexLineBytes = 128;
inline constexpr uint32_t kEntryBytes = 64;
inline constexpr uint32_t kPageBytes = 4096;
inline constexpr uint32_t kPayloadAlignment = 8;
inline constexpr uint32_t kMaxStepPayloadBytes = 1024;  // of the struct alone, whatever later versions add

enum class Opcode : uint8_t { nop = 1, open = 2, step = 3, fork = 4, truncate = 5, cancel = 6, close = 7 };

enum SubmissionFlags : uint16_t {
  kSubmissionEach = 1,    // STEP: as IOKV_STEP_EACH
  kSubmissionLogits = 2,  // STEP: as IOKV_STEP_LOGITS
  kSubmissionPart = 4,    // STEP with m = 0: a part of a longer append. It has no completion when it succeeds; when it
                          // fails, its failure is the result of the STEP without this flag that ends the append, and
                          // later parts are dropped. All parts carry that STEP's operation id.
};

// One entry of the submission ring.
struct Submission {
  Opcode opcode;
  uint8_t reserved0;
  uint16_t flags;           // SubmissionFlags
  int16_t priority;         // OPEN, STEP: -100..100
  uint16_t model;           // OPEN: 0
  uint64_t operation;       // id chosen by the library: never 0, unique and rising within the connection
  uint64_t user_data;       // opaque
  uint64_t sequence;        // index | generation << 32, generation >= 1; FORK: the child
  uint64_t argument;        // STEP: deadline (ns of CLOCK_MONOTONIC, 0 none); FORK: parent; CANCEL: operation or 0 = all
  uint32_t payload_offset;  // OPEN, STEP: position in the arena
  uint32_t payload_bytes;   // OPEN, STEP: 0 = none
  uint32_t n;               // STEP: tokens appended; FORK: tokens shared (UINT32_MAX all); TRUNCATE: new length
  uint32_t m;               // STEP: tokens sampled at the most
  uint32_t adapter;         // OPEN: 0
  uint32_t reserved1;
};

// What a payload begins with. At struct_bytes follow, without gaps: tokens (n × i32), stop tokens (stop_tokens × i32),
// lengths of the stop sequences (stop_sequences × u32), their tokens (stop_sequence_tokens × i32), biases
// (logit_biases × {i32 token, f32 bias}), masks (masks × mask_words(vocabulary) × u32).
struct StepPayload {
  uint32_t struct_bytes;  // >= sizeof this at 1.0, <= kMaxStepPayloadBytes; a multiple of 8; what the reader does not
                          // know must be zero
  uint32_t stop_tokens;
  uint32_t has_sampling;  // 0: the sequence's (OPEN: greedy), 1: the four below
  float temperature;
  float top_p;
  uint32_t top_k;
  uint64_t seed;
  // Since 1.1, with kFeatureSampling only; as iokv_sampling and iokv_step_options say. What of it is of sampling counts
  // where has_sampling is 1 and is zero elsewhere.
  float min_p;
  float typical_p;
  float repetition_penalty;
  float presence_penalty;
  float frequency_penalty;
  uint32_t repetition_from;
  uint32_t frequency_from;
  uint32_t logit_biases;          // <= kMaxLogitBiases
  uint32_t stop_sequences;        // <= kMaxStopSequences
  uint32_t stop_sequence_tokens;  // with stop_tokens at most max_stop_tokens
  uint32_t masks;                 // 0, or as many as the step draws; <= kMaxMasks
  uint32_t top_logprobs;          // <= kMaxTopLogprobs
};
inline constexpr uint32_t kFirstStepPayloadBytes = 32;  // struct_bytes at 1.0, and of whatever uses no more
inline constexpr uint32_t kMaxLogitBiases = 1024, kMaxStopSequences = 64, kMaxMasks = 64, kMaxTopLogprobs = 64;

struct LogitBias {
  int32_t token;
  float bias;
};
// u32 of a mask: token t is bit t % 32 of word t / 32, set where it may be drawn.
constexpr uint32_t mask_words(uint32_t vocabulary) { return vocabulary / 32 + (vocabulary % 32 != 0 ? 1 : 0); }

// A completion's result is its logits (LOGITS), then at the next multiple of 8 its most probable tokens (TOP): the
// header, `count` TokenLogprob, and up to a multiple of kTopBytes nothing.
struct TopHeader {
  uint32_t count;  // 1..kMaxTopLogprobs
  uint32_t reserved;
};
struct TokenLogprob {
  int32_t token;
  float logprob;
};
inline constexpr uint32_t kTopBytes = 64;
constexpr uint32_t top_bytes(uint32_t count) {
  return (static_cast<uint32_t>(sizeof(TopHeader) + count * sizeof(TokenLogprob)) + kTopBytes - 1) / kTopBytes * kTopBytes;
}

// One entry of the completion ring; the public iokv_completion has the same layout.
struct Completion {
  uint64_t user_data;
  uint64_t operation;
  uint64_t sequence;
  int32_t result;
  uint32_t flags;            // enum iokv_completion_flags
  int32_t token;
  float logprob;
  uint32_t index;
  uint32_t length;
  uint32_t result_position;  // LOGITS, TOP: position in the result FIFO
  uint32_t result_bytes;     // LOGITS, TOP: bytes of it; with LOGITS alone vocabulary · 4, f32
  uint64_t times;            // wire/times.h, of the step that it comes from; 0: of none
};

// Offsets of `up`. Entries follow at kUpEntries, then the arena, page-aligned.
inline constexpr size_t kUpSubmissionTail = 0 * kIndexLineBytes;  // entries announced by the client
inline constexpr size_t kUpCompletionHead = 1 * kIndexLineBytes;  // completions taken by the client
inline constexpr size_t kUpResultHead = 2 * kIndexLineBytes;      // position up to which results are released
inline constexpr size_t kUpFlags = 3 * kIndexLineBytes;           // UpFlags
inline constexpr size_t kUpEntries = kPageBytes;

enum UpFlags : uint32_t {
  kUpNeedWakeup = 1,  // the client is about to block: ring after posting completions
  kUpNeedRoom = 2,    // a longer append waits for room in `up`: ring after advancing the submission head
};

// Offsets of `down`. The header repeats the geometry of WELCOME, for tools. Entries follow at kDownEntries, then the
// result FIFO, page-aligned.
inline constexpr size_t kDownGeometry = 0;                          // Geometry
inline constexpr size_t kDownSubmissionHead = 1 * kIndexLineBytes;  // entries taken by the daemon
inline constexpr size_t kDownCompletionTail = 2 * kIndexLineBytes;  // completions announced by the daemon
inline constexpr size_t kDownFlags = 3 * kIndexLineBytes;           // DownFlags
inline constexpr size_t kDownEndCode = 4 * kIndexLineBytes;         // i32: why the daemon ended the connection, or 0
inline constexpr size_t kDownEntries = kPageBytes;

enum DownFlags : uint32_t {
  kDownNeedWakeup = 1,  // the daemon sleeps: ring after announcing submissions
  kDownNeedReap = 2,    // a sequence waits for room: ring after advancing the completion or result head
};

// Sizes of the buffers of one connection; in WELCOME and at kDownGeometry.
struct Geometry {
  uint32_t submission_entries;
  uint32_t completion_entries;
  uint32_t arena_bytes;
  uint32_t result_bytes;
};

constexpr size_t page_align(size_t bytes) { return (bytes + kPageBytes - 1) & ~size_t{kPageBytes - 1}; }
constexpr size_t arena_offset(const Geometry& geometry) {
  return page_align(kUpEntries + size_t{geometry.submission_entries} * kEntryBytes);
}
constexpr size_t up_bytes(const Geometry& geometry) { return page_align(arena_offset(geometry) + geometry.arena_bytes); }
constexpr size_t result_offset(const Geometry& geometry) {
  return page_align(kDownEntries + size_t{geometry.completion_entries} * kEntryBytes);
}
constexpr size_t down_bytes(const Geometry& geometry) {
  return page_align(result_offset(geometry) + geometry.result_bytes);
}

// Where `bytes` go in a FIFO of `size` (a power of two) whose next free position is `position`: there, or at the
// buffer's beginning when they would cross its end. bytes <= size.
constexpr uint32_t place(uint32_t position, uint32_t bytes, uint32_t size) {
  uint32_t offset = position & (size - 1);
  return offset + bytes <= size ? position : position + (size - offset);
}
constexpr uint32_t padded(uint32_t bytes) { return (bytes + kPayloadAlignment - 1) & ~(kPayloadAlignment - 1); }

static_assert(sizeof(Submission) == kEntryBytes && alignof(Submission) == 8);
static_assert(offsetof(Submission, flags) == 2 && offsetof(Submission, priority) == 4);
static_assert(offsetof(Submission, model) == 6 && offsetof(Submission, operation) == 8);
static_assert(offsetof(Submission, user_data) == 16 && offsetof(Submission, sequence) == 24);
static_assert(offsetof(Submission, argument) == 32 && offsetof(Submission, payload_offset) == 40);
static_assert(offsetof(Submission, payload_bytes) == 44 && offsetof(Submission, n) == 48);
static_assert(offsetof(Submission, m) == 52 && offsetof(Submission, adapter) == 56);
static_assert(offsetof(Submission, reserved1) == 60);
static_assert(sizeof(StepPayload) == 80 && offsetof(StepPayload, seed) == 24 && offsetof(StepPayload, top_k) == 20);
static_assert(offsetof(StepPayload, min_p) == kFirstStepPayloadBytes && offsetof(StepPayload, top_logprobs) == 76);
static_assert(sizeof(LogitBias) == 8 && sizeof(TokenLogprob) == 8 && sizeof(TopHeader) == 8);
static_assert(kTopBytes % kPayloadAlignment == 0);
static_assert(sizeof(Completion) == kEntryBytes && alignof(Completion) == 8);
static_assert(offsetof(Completion, result) == 24 && offsetof(Completion, token) == 32);
static_assert(offsetof(Completion, length) == 44 && offsetof(Completion, result_position) == 48);
static_assert(offsetof(Completion, times) == 56);
static_assert(sizeof(Geometry) == 16 && sizeof(Geometry) <= kIndexLineBytes);

}  // namespace iokv::wire
