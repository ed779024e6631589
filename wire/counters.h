// SPDX-License-Identifier: Apache-2.0
// The daemon's counters: one page of u64, written by the daemon with relaxed stores, mapped read-only by whoever asks.
// New counters are appended; a position never changes its meaning. Slot 0 holds the number of counters.
#pragma once

#include <cstdint>

namespace iokv::wire {

// X(name, unit, meaning)
#define IOKV_COUNTERS(X)                                                                                      \
  X(instance, "1", "random number of this run of the daemon")                                                 \
  X(pid, "1", "process id of the daemon")                                                                     \
  X(start_ns, "ns", "CLOCK_MONOTONIC when the daemon started")                                                \
  X(ready, "1", "1 once the model is loaded and the self-test has passed")                                    \
  X(loading_percent, "1", "how far the model has been loaded, 0 to 100")                                      \
  X(clients, "1", "connected clients")                                                                        \
  X(clients_total, "1", "connections accepted since the start")                                               \
  X(clients_ended, "1", "connections ended by the daemon because the client broke the protocol")              \
  X(sequences, "1", "open sequences")                                                                         \
  X(operations, "1", "operations admitted and not yet completed")                                             \
  X(submissions, "1", "submission entries taken since the start")                                             \
  X(completions, "1", "completions posted since the start")                                                   \
  X(refusals, "1", "operations that ended with an error code at admission")                                   \
  X(steps, "1", "batches that the backend has executed")                                                      \
  X(steps_shared, "1", "batches with rows of two clients or more")                                            \
  X(steps_multiclient_possible, "1", "batches built while two clients or more had runnable sequences")        \
  X(step_ns, "ns", "time that the backend has spent on batches")                                              \
  X(prefill_tokens, "tokens", "tokens computed that were not sampled in the step before")                     \
  X(decode_tokens, "tokens", "tokens computed one at a time after being sampled")                             \
  X(sampled_tokens, "tokens", "tokens drawn and delivered")                                                   \
  X(recomputed_tokens, "tokens", "tokens times layers whose K,V was recomputed from X")                       \
  X(preemptions, "1", "sequences that lost their blocks to make room; their tokens are kept")                 \
  X(stall_releases, "1", "parked sequences that lost their blocks after stall_lease")                         \
  X(parked, "1", "sequences waiting for their client to reap")                                                \
  X(waiting, "1", "sequences with work that wait for pool blocks")                                            \
  X(pool_units, "1", "allocation units in the KV pool, each one layer's X-sized block times all layers")      \
  X(pool_units_free, "1", "of these, free")                                                                   \
  X(pool_bytes, "bytes", "size of the KV pool")                                                               \
  X(weights_bytes, "bytes", "weights in the compute dtype")                                                   \
  X(model_file_bytes, "bytes", "weights as stored in the model's files")                                      \
  X(wakeups, "1", "times that the conductor woke from sleep")                                                 \
  X(doorbells_sent, "1", "wake-ups sent to clients")                                                          \
  X(doorbells_received, "1", "wake-ups received from clients")                                                \
  X(first_work_ns, "ns", "sum over batches that ended an idle time: from taking the entry to the backend's start") \
  X(first_works, "1", "batches that ended an idle time")                                                      \
  X(predicted_ns, "ns", "sum of the predicted times of batches; 0 while nothing is known of the device")      \
  X(measured_ns, "ns", "sum of their times on the device's clock, each from the end of the one before it")    \
  X(planned_h2d_bytes, "bytes", "cached tokens that batches were planned to bring to the device")             \
  X(h2d_bytes, "bytes", "bytes that the executor has copied to the device for them")                          \
  X(d2h_bytes, "bytes", "bytes of new tokens that it has written back to the host")                           \
  X(h2d_busy_ns, "ns", "time in copies to the device")                                                        \
  X(d2h_busy_ns, "ns", "time in copies to the host")                                                          \
  X(recompute_busy_ns, "ns", "time in recomputing K,V from X")                                                \
  X(dense_busy_ns, "ns", "time in everything else that the device computes for the layers")                   \
  X(x_blocks, "1", "blocks in the pool that are stored as X")                                                 \
  X(kv_blocks, "1", "blocks in the pool that are stored as K,V")                                              \
  X(x_share_ppm, "1e-6", "share of cached tokens that is aimed at to be stored as X")                         \
  X(profile_fits, "1", "times that the profile was corrected because steps took another time than predicted") \
  X(drifted_steps, "1", "decoding batches that took over 15 % more or less than predicted")                   \
  X(link_ratio_ppm, "1e-6", "measured over predicted time of the link, averaged over the last batches")       \
  X(device_ratio_ppm, "1e-6", "the same of the device")                                                       \
  X(device_units, "1", "allocation units for copies of blocks on the device")                                 \
  X(device_units_free, "1", "of these, free")                                                                 \
  X(copies_dropped, "1", "copies of blocks on the device that idle sequences have given up")                  \
  X(audit_steps, "1", "batches of which a row's logits were computed again, from its tokens alone, and compared") \
  X(audit_mismatches, "1", "of these, those whose logits differed")                                           \
  X(audit_skipped, "1", "batches to be audited that could not be: another audit ran, or there was no room")   \
  X(first_token_to_500us, "1", "first tokens of an operation that took up to 500 us since it could begin")    \
  X(first_token_to_1ms, "1", "first tokens that took up to 1 ms, and longer than those above")                \
  X(first_token_to_2ms, "1", "first tokens that took up to 2 ms, and longer than those above")                \
  X(first_token_to_5ms, "1", "first tokens that took up to 5 ms, and longer than those above")                \
  X(first_token_to_10ms, "1", "first tokens that took up to 10 ms, and longer than those above")              \
  X(first_token_to_20ms, "1", "first tokens that took up to 20 ms, and longer than those above")              \
  X(first_token_to_50ms, "1", "first tokens that took up to 50 ms, and longer than those above")              \
  X(first_token_to_100ms, "1", "first tokens that took up to 100 ms, and longer than those above")            \
  X(first_token_to_200ms, "1", "first tokens that took up to 200 ms, and longer than those above")            \
  X(first_token_to_500ms, "1", "first tokens that took up to 500 ms, and longer than those above")            \
  X(first_token_to_1s, "1", "first tokens that took up to 1 s, and longer than those above")                  \
  X(first_token_to_2s, "1", "first tokens that took up to 2 s, and longer than those above")                  \
  X(first_token_to_5s, "1", "first tokens that took up to 5 s, and longer than those above")                  \
  X(first_token_to_10s, "1", "first tokens that took up to 10 s, and longer than those above")                \
  X(first_token_to_20s, "1", "first tokens that took up to 20 s, and longer than those above")                \
  X(first_token_to_50s, "1", "first tokens that took up to 50 s, and longer than those above")                \
  X(first_token_to_100s, "1", "first tokens that took up to 100 s, and longer than those above")              \
  X(first_token_beyond, "1", "first tokens that took longer")                                                 \
  X(first_token_ns, "ns", "sum of their times")                                                               \
  X(token_gap_to_500us, "1", "later tokens that took up to 500 us since the one before")                      \
  X(token_gap_to_1ms, "1", "later tokens that took up to 1 ms, and longer than those above")                  \
  X(token_gap_to_2ms, "1", "later tokens that took up to 2 ms, and longer than those above")                  \
  X(token_gap_to_5ms, "1", "later tokens that took up to 5 ms, and longer than those above")                  \
  X(token_gap_to_10ms, "1", "later tokens that took up to 10 ms, and longer than those above")                \
  X(token_gap_to_20ms, "1", "later tokens that took up to 20 ms, and longer than those above")                \
  X(token_gap_to_50ms, "1", "later tokens that took up to 50 ms, and longer than those above")                \
  X(token_gap_to_100ms, "1", "later tokens that took up to 100 ms, and longer than those above")              \
  X(token_gap_to_200ms, "1", "later tokens that took up to 200 ms, and longer than those above")              \
  X(token_gap_to_500ms, "1", "later tokens that took up to 500 ms, and longer than those above")              \
  X(token_gap_to_1s, "1", "later tokens that took up to 1 s, and longer than those above")                    \
  X(token_gap_to_2s, "1", "later tokens that took up to 2 s, and longer than those above")                    \
  X(token_gap_to_5s, "1", "later tokens that took up to 5 s, and longer than those above")                    \
  X(token_gap_to_10s, "1", "later tokens that took up to 10 s, and longer than those above")                  \
  X(token_gap_to_20s, "1", "later tokens that took up to 20 s, and longer than those above")                  \
  X(token_gap_to_50s, "1", "later tokens that took up to 50 s, and longer than those above")                  \
  X(token_gap_to_100s, "1", "later tokens that took up to 100 s, and longer than those above")                \
  X(token_gap_beyond, "1", "later tokens that took longer")                                                   \
  X(token_gap_ns, "ns", "sum of their times; how long their client did not reap is not counted")              \
  X(ready_after_ns, "ns", "from the daemon's start until it served")                                          \
  X(pool_prepared_ns, "ns", "of it, making the pool ready for the device")                                    \
  X(weights_loaded_ns, "ns", "of it, bringing the weights from their files to the device")                    \
  X(profiled_ns, "ns", "of it, reading or measuring the device's profile")                                    \
  X(host_attended_tokens, "1", "cached tokens of batches that the host's CPU attended to in each layer, where they lie") \
  X(host_busy_ns, "ns", "time in that")                                                                       \
  X(host_ratio_ppm, "1e-6", "measured over predicted time of it, averaged over the last batches")

enum class Counter : uint32_t {
#define IOKV_COUNTER_NAME(name, unit, meaning) name,
  IOKV_COUNTERS(IOKV_COUNTER_NAME)
#undef IOKV_COUNTER_NAME
      count
};

// What they are now, and not a count of what has been.
constexpr bool is_gauge(Counter counter) {
  switch (counter) {
    case Counter::instance: case Counter::pid: case Counter::start_ns: case Counter::ready: case Counter::loading_percent:
    case Counter::clients: case Counter::sequences: case Counter::operations: case Counter::parked: case Counter::waiting:
    case Counter::pool_units: case Counter::pool_units_free: case Counter::pool_bytes: case Counter::weights_bytes:
    case Counter::model_file_bytes: case Counter::x_blocks: case Counter::kv_blocks: case Counter::x_share_ppm:
    case Counter::link_ratio_ppm: case Counter::device_ratio_ppm: case Counter::device_units:
    case Counter::device_units_free: case Counter::ready_after_ns: case Counter::pool_prepared_ns:
    case Counter::weights_loaded_ns: case Counter::profiled_ns: case Counter::host_ratio_ppm:
      return true;
    default: return false;
  }
}

// Times of tokens are counted in the slots that follow `first`, one a bound and one for what is beyond the last, each
// time in one of them; the sum of the times is the slot behind those.
inline constexpr uint64_t kTokenTimeBounds_ns[] = {
    500'000, 1'000'000, 2'000'000, 5'000'000, 10'000'000, 20'000'000,
    50'000'000, 100'000'000, 200'000'000, 500'000'000,
    1'000'000'000, 2'000'000'000, 5'000'000'000, 10'000'000'000, 20'000'000'000, 50'000'000'000, 100'000'000'000};
inline constexpr uint32_t kTokenTimeBounds = sizeof kTokenTimeBounds_ns / sizeof kTokenTimeBounds_ns[0];

struct TokenTimes {
  const char* name;
  const char* meaning;
  Counter first;
  // The slot of bound i; i = kTokenTimeBounds: beyond the last.
  constexpr Counter slot(uint32_t i) const { return static_cast<Counter>(static_cast<uint32_t>(first) + i); }
  constexpr Counter sum_ns() const { return slot(kTokenTimeBounds + 1); }
};
inline constexpr TokenTimes kFirstToken = {"first_token", "from when an operation could begin to its first token",
                                           Counter::first_token_to_500us};
inline constexpr TokenTimes kTokenGap = {"token_gap", "between successive tokens of an operation", Counter::token_gap_to_500us};
static_assert(kFirstToken.sum_ns() == Counter::first_token_ns && kTokenGap.sum_ns() == Counter::token_gap_ns);

constexpr Counter slot_of(const TokenTimes& times, uint64_t ns) {
  uint32_t i = 0;
  while (i < kTokenTimeBounds && ns > kTokenTimeBounds_ns[i]) i++;
  return times.slot(i);
}

inline constexpr uint32_t kCounters = static_cast<uint32_t>(Counter::count);
inline constexpr uint32_t kCounterBytes = 4096;
static_assert((kCounters + 1) * sizeof(uint64_t) <= kCounterBytes);

}  // namespace iokv::wire
