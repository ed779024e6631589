// SPDX-License-Identifier: Apache-2.0
// Draws a token a row, as daemon/base/sampling.h says and with the numbers of daemon/backend/cpu/philox.h. A block of
// threads a row.
//
// Weights are e^((logit − largest) / temperature) in units of 2^-40, so that their sums are integers: exact, and the
// same in whatever order threads add them. 2^20 tokens of the largest weight sum to 2^60. A token of less than 2^-41 of
// the largest weight is never drawn; with a million of those it would have been one draw in a million.
//
// Cuts are found as the CPU finds them (daemon/backend/cpu/sampler.cpp): by radix selection on the bits of logits, or of
// what else a cut orders tokens by, three digits from the top.
//
// Biases and penalties are written to the row's logits, and what was there is put back before the kernel ends: they are few
// beside a copy of the row.
#include <cmath>

#include "daemon/backend/cuda/element.cuh"
#include "daemon/backend/cuda/launch.cuh"

namespace iokv::cuda {
namespace {

constexpr int kThreads = 1024, kWarps = kThreads / 32;
constexpr int kDigits = 2048;
constexpr unsigned kAll = 0xffffffffu;
using Count64 = unsigned long long;

static_assert(kDigits == 2 * kThreads, "each thread looks at two sums");

__device__ double uniform(uint64_t seed, uint64_t position) {
  uint32_t counter[4] = {static_cast<uint32_t>(position), static_cast<uint32_t>(position >> 32), 0, 0};
  uint32_t key[2] = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xd2511f53u} * counter[0], b = uint64_t{0xcd9e8d57u} * counter[2];
    const uint32_t next[4] = {static_cast<uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(b),
                              static_cast<uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(a)};
    for (int i = 0; i < 4; ++i) counter[i] = next[i];
    key[0] += 0x9e3779b9u;
    key[1] += 0xbb67ae85u;
  }
  const uint64_t bits = (uint64_t{counter[0]} << 32) | counter[1];
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

// Unsigned order of keys is the order of logits; both zeros have one key.
__device__ uint32_t key_of(float logit) {
  const uint32_t bits = __float_as_uint(logit + 0.0f);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

struct Largest {
  float logit;
  uint32_t token;
};
__device__ Largest better(Largest a, Largest b) {
  return b.logit > a.logit || (b.logit == a.logit && b.token < a.token) ? b : a;
}

struct Shared {
  Count64 sums[kDigits];
  Count64 warps[kWarps];
  float floats[kWarps];
  Largest largest[kWarps];
  Count64 found[3];
  Largest top[kMaxTopLogprobs];
  uint32_t tops;
};

// As adjusted() of daemon/backend/adjustments.h, rounding for rounding.
__device__ float adjust(float logit, const Adjustment& adjustment, const SampleParams& params) {
  logit = __fadd_rn(logit, adjustment.bias);
  if (adjustment.repeated != 0) {
    logit = logit < 0.0f ? __fmul_rn(logit, params.repetition_penalty) : __fdiv_rn(logit, params.repetition_penalty);
  }
  if (adjustment.counted != 0) {
    const float of_frequency = __fmul_rn(static_cast<float>(adjustment.counted), params.frequency_penalty);
    logit = __fsub_rn(logit, __fadd_rn(params.presence_penalty, of_frequency));
  }
  return logit;
}

__device__ Largest block_largest(Shared& shared, Largest value) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    const Largest other = {__shfl_xor_sync(kAll, value.logit, distance), __shfl_xor_sync(kAll, value.token, distance)};
    value = better(value, other);
  }
  __syncthreads();  // what an earlier call left has been read
  if (threadIdx.x % 32 == 0) shared.largest[threadIdx.x / 32] = value;
  __syncthreads();
  Largest result = shared.largest[0];
  for (int i = 1; i < kWarps; ++i) result = better(result, shared.largest[i]);
  return result;
}

__device__ float block_sum(Shared& shared, float value) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(kAll, value, distance);
  __syncthreads();  // what an earlier call left has been read
  if (threadIdx.x % 32 == 0) shared.floats[threadIdx.x / 32] = value;
  __syncthreads();
  float result = 0;
  for (int i = 0; i < kWarps; ++i) result += shared.floats[i];
  return result;
}

// The sum of the threads before this one; `total` is that of all.
__device__ Count64 block_before(Shared& shared, Count64 value, Count64& total) {
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  Count64 upto = value;
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const Count64 other = __shfl_up_sync(kAll, upto, distance);
    if (lane >= distance) upto += other;
  }
  __syncthreads();  // what an earlier call left has been read
  if (lane == 31) shared.warps[warp] = upto;
  __syncthreads();
  Count64 before = upto - value;
  total = 0;
  for (int i = 0; i < kWarps; ++i) {
    if (i < warp) before += shared.warps[i];
    total += shared.warps[i];
  }
  return before;
}

// A row of logits and which of its tokens are kept: of those that the mask permits those of larger keys than `key_`, and
// of equal ones those up to `last_token_`; of these what min_p and typical_p leave.
class Row {
 public:
  __device__ Row(Shared& shared, const float* logits, uint32_t vocab, const uint32_t* mask, float largest, float temperature)
      : shared_(shared), logits_(logits), mask_(mask), vocab_(vocab), largest_(largest), temperature_(temperature),
        range_((vocab + kThreads - 1) / kThreads) {}

  __device__ Count64 weight(uint32_t token) const {
    return static_cast<Count64>(__float2ull_rn(share(token) * 0x1p40f));
  }

  __device__ bool kept(uint32_t token) const {
    if (mask_ != nullptr && (mask_[token / 32] >> token % 32 & 1) == 0) return false;
    const uint32_t key = key_of(logits_[token]);
    if (key < key_ || (key == key_ && token > last_token_)) return false;
    return share(token) >= least_share_ && (typical_key_ == 0 || typical(token) >= typical_key_);
  }

  __device__ Count64 mass() {
    Count64 sum = 0, total = 0;
    for (uint32_t token = threadIdx.x; token < vocab_; token += kThreads) {
      if (kept(token)) sum += weight(token);
    }
    block_before(shared_, sum, total);
    return total;
  }

  // Keeps the fewest of the largest logits whose measures reach the target, 0 < target <= the sum of all measures kept.
  template <typename Measure>
  __device__ void cut(Count64 target, const Measure& measure) {
    Count64 above = 0;
    const auto key = [this](uint32_t token) { return key_of(logits_[token]); };
    const uint32_t last_key = select(target, key, measure, above);
    keep_equals(last_key, target - above, measure);
  }

  // The largest logit's share is 1.
  __device__ void cut_improbable(float min_p) { least_share_ = min_p; }

  // Keeps those whose −log p is nearest to the entropy, equals together, until they have the share typical_p.
  __device__ void cut_atypical(float typical_p) {
    const Count64 total = mass();
    log_mass_ = static_cast<float>(log(static_cast<double>(total) * 0x1p-40));
    float sum = 0;
    for (uint32_t token = threadIdx.x; token < vocab_; token += kThreads) {
      if (!kept(token) || weight(token) == 0) continue;
      sum += static_cast<float>(weight(token)) / static_cast<float>(total) * surprise(token);
    }
    entropy_ = block_sum(shared_, sum);
    const double wanted = ceil(static_cast<double>(typical_p) * static_cast<double>(total));
    const Count64 target = wanted < 1 ? 1 : min(static_cast<Count64>(wanted), total);
    Count64 above = 0;
    typical_key_ = select(target, [this](uint32_t token) { return typical(token); },
                          [this](uint32_t token) { return weight(token); }, above);
  }

  // The token at which the running sum of weights passes the number's share of their sum.
  __device__ uint32_t walk(double number) {
    const Count64 total = mass();
    Count64 target = static_cast<Count64>(number * static_cast<double>(total));
    if (target >= total) target = total - 1;
    const uint32_t begin = min(threadIdx.x * range_, vocab_), end = min(begin + range_, vocab_);
    Count64 sum = 0, all = 0;
    for (uint32_t token = begin; token < end; ++token) {
      if (kept(token)) sum += weight(token);
    }
    Count64 before = block_before(shared_, sum, all);
    if (before <= target && target < before + sum) {
      uint32_t token = begin;
      for (; token < end; ++token) {
        if (kept(token)) before += weight(token);
        if (before > target) break;
      }
      shared_.found[2] = token;
    }
    __syncthreads();
    return static_cast<uint32_t>(shared_.found[2]);
  }

 private:
  __device__ float share(uint32_t token) const { return expf((logits_[token] - largest_) / temperature_); }
  __device__ float surprise(uint32_t token) const { return log_mass_ - (logits_[token] - largest_) / temperature_; }
  // Larger for a token whose surprise is nearer to the entropy; 0 is no token's.
  __device__ uint32_t typical(uint32_t token) const { return key_of(-fabsf(surprise(token) - entropy_)); }

  // The key at which the measures of the kept tokens with larger keys, `above`, do not reach the target, and with those of
  // this key do. Of tokens whose measure is 0 nothing is known.
  template <typename Key, typename Measure>
  __device__ uint32_t select(Count64 target, const Key& key_of_token, const Measure& measure, Count64& above) {
    constexpr uint32_t kShifts[3] = {21, 10, 0}, kMasks[3] = {2047, 2047, 1023};
    uint32_t prefix = 0, prefix_mask = 0;
    for (int digit = 0; digit < 3; ++digit) {
      const uint32_t shift = kShifts[digit], mask = kMasks[digit];
      __syncthreads();  // sums and found of an earlier digit have been read
      for (int i = static_cast<int>(threadIdx.x); i < kDigits; i += kThreads) shared_.sums[i] = 0;
      __syncthreads();
      for (uint32_t token = threadIdx.x; token < vocab_; token += kThreads) {
        const uint32_t key = key_of_token(token);
        if ((key & prefix_mask) != prefix || !kept(token)) continue;
        const Count64 amount = measure(token);
        if (amount != 0) atomicAdd(&shared_.sums[(key >> shift) & mask], amount);
      }
      __syncthreads();
      // From the highest digit down, two a thread.
      const uint32_t high = kDigits - 1 - 2 * threadIdx.x;
      const Count64 first = shared_.sums[high], second = shared_.sums[high - 1];
      Count64 total = 0;
      const Count64 before = above + block_before(shared_, first + second, total);
      if (before < target && target <= before + first + second) {
        const bool is_first = target <= before + first;
        shared_.found[0] = is_first ? high : high - 1;
        shared_.found[1] = is_first ? before : before + first;
      }
      __syncthreads();
      prefix |= static_cast<uint32_t>(shared_.found[0]) << shift;
      prefix_mask |= mask << shift;
      above = shared_.found[1];
    }
    return prefix;
  }

  // Of the tokens kept with this key those of the smallest ids, as many as are needed for what is missing.
  template <typename Measure>
  __device__ void keep_equals(uint32_t key, Count64 missing, const Measure& measure) {
    const uint32_t begin = min(threadIdx.x * range_, vocab_), end = min(begin + range_, vocab_);
    Count64 equals = 0, all = 0;
    uint32_t one = 0;
    for (uint32_t token = begin; token < end; ++token) {
      if (key_of(logits_[token]) != key || !kept(token)) continue;
      ++equals;
      one = token;
    }
    Count64 before = block_before(shared_, equals, all);
    if (equals != 0) {
      const Count64 each = measure(one), wanted = (missing + each - 1) / each;
      if (before < wanted && wanted <= before + equals) {
        uint32_t token = begin;
        for (; token < end; ++token) {
          if (key_of(logits_[token]) == key && kept(token) && ++before == wanted) break;
        }
        shared_.found[2] = token;
      }
    }
    __syncthreads();
    key_ = key;
    last_token_ = static_cast<uint32_t>(shared_.found[2]);
    __syncthreads();
  }

  Shared& shared_;
  const float* logits_;
  const uint32_t* mask_;  // null: every token is permitted
  const uint32_t vocab_;
  const float largest_, temperature_;
  const uint32_t range_;  // of neighbouring tokens, a thread's
  uint32_t key_ = 0, last_token_ = 0xffffffffu;
  float least_share_ = 0;
  uint32_t typical_key_ = 0;
  float log_mass_ = 0, entropy_ = 0;
};

// Of the tokens that the mask permits.
__device__ Largest largest_of(Shared& shared, const float* logits, uint32_t vocab, const uint32_t* mask) {
  Largest largest = {-INFINITY, vocab};
  for (uint32_t token = threadIdx.x; token < vocab; token += kThreads) {
    if (mask != nullptr && (mask[token / 32] >> token % 32 & 1) == 0) continue;
    largest = better(largest, {logits[token], token});
  }
  largest = block_largest(shared, largest);
  if (largest.token >= vocab) largest.token = 0;  // there is no number among them
  return largest;
}

__device__ float logprob_of(float logit, float largest, float sum) {
  return static_cast<float>(static_cast<double>(logit) - static_cast<double>(largest) - log(static_cast<double>(sum)));
}

// Of the model's logits: as many as are kept of them by rank, each of which counts those that come before it.
__device__ void write_tops(Shared& shared, const float* logits, uint32_t vocab, uint32_t count, float largest, float sum,
                           TokenLogprob* tops) {
  Row row(shared, logits, vocab, nullptr, largest, 1.0f);
  if (count < vocab) row.cut(count, [](uint32_t) { return Count64{1}; });
  if (threadIdx.x == 0) shared.tops = 0;
  __syncthreads();
  for (uint32_t token = threadIdx.x; token < vocab; token += kThreads) {
    if (!row.kept(token)) continue;
    const uint32_t place = atomicAdd(&shared.tops, 1u);
    if (place < kMaxTopLogprobs) shared.top[place] = {logits[token], token};
  }
  __syncthreads();
  if (threadIdx.x < count) {
    const Largest own = shared.top[threadIdx.x];
    uint32_t rank = 0;
    for (uint32_t i = 0; i < count; ++i) {
      const Largest other = shared.top[i];
      if (other.token != own.token && better(own, other).token == other.token) ++rank;
    }
    tops[rank] = {static_cast<int32_t>(own.token), logprob_of(own.logit, largest, sum)};
  }
}

__global__ void __launch_bounds__(kThreads) sample(const SampleLaunch launch, const __grid_constant__ Table table) {
  let_next_kernel_begin();
  wait_for_earlier_kernels();
  __shared__ Shared shared;
  const SampleTableRow* rows = entries<SampleTableRow>(table);
  const SampleTableRow& row = rows[blockIdx.x];
  const SampleParams params = row.params;
  const auto* all_adjustments = reinterpret_cast<const Adjustment*>(rows + launch.rows);
  const auto* masks = reinterpret_cast<const uint32_t*>(all_adjustments + launch.adjustments);
  const Adjustment* adjustments = all_adjustments + row.first_adjustment;
  const uint32_t* mask = row.mask == SampleTableRow::kNoMask ? nullptr : masks + row.mask;
  const uint32_t vocab = launch.vocab;
  float* logits = launch.logits + size_t{row.logits_row} * vocab;

  const Largest model_largest = largest_of(shared, logits, vocab, nullptr);
  float sum = 0;
  for (uint32_t token = threadIdx.x; token < vocab; token += kThreads) sum += expf(logits[token] - model_largest.logit);
  sum = block_sum(shared, sum);
  if (row.top != 0) {
    write_tops(shared, logits, vocab, row.top, model_largest.logit, sum, launch.tops + size_t{blockIdx.x} * kMaxTopLogprobs);
  }

  float* originals = launch.originals + row.first_adjustment;
  if (row.adjustments != 0) __syncthreads();  // the logits have been read
  for (uint32_t i = threadIdx.x; i < row.adjustments; i += kThreads) {
    float& logit = logits[adjustments[i].token];
    originals[i] = logit;
    logit = adjust(logit, adjustments[i], params);
  }
  __syncthreads();
  const bool changed = row.adjustments != 0 || mask != nullptr;
  const Largest largest = changed ? largest_of(shared, logits, vocab, mask) : model_largest;
  uint32_t token = largest.token;
  // Where the largest logit is no finite number there is nothing to draw from.
  if (params.temperature > 0.0f && isfinite(largest.logit)) {
    Row drawn(shared, logits, vocab, mask, largest.logit, params.temperature);
    if (params.top_k != 0 && params.top_k < vocab) {
      const auto one = [](uint32_t) { return Count64{1}; };
      Count64 all = vocab;
      if (mask != nullptr) {
        Count64 permitted = 0;
        for (uint32_t t = threadIdx.x; t < vocab; t += kThreads) permitted += drawn.kept(t) ? 1 : 0;
        block_before(shared, permitted, all);
      }
      if (params.top_k < all) drawn.cut(params.top_k, one);
    }
    if (params.top_p < 1.0f) {
      const Count64 mass = drawn.mass();
      const double share = ceil(static_cast<double>(params.top_p) * static_cast<double>(mass));
      const Count64 target = share < 1 ? 1 : min(static_cast<Count64>(share), mass);
      drawn.cut(target, [&drawn](uint32_t t) { return drawn.weight(t); });
    }
    if (params.min_p > 0.0f) drawn.cut_improbable(params.min_p);
    if (params.typical_p < 1.0f) drawn.cut_atypical(params.typical_p);
    token = drawn.walk(uniform(params.seed, row.position));
  }
  if (row.adjustments != 0) __syncthreads();  // they have been read for the last time
  for (uint32_t i = threadIdx.x; i < row.adjustments; i += kThreads) logits[adjustments[i].token] = originals[i];
  __syncthreads();
  if (threadIdx.x != 0) return;
  launch.draws[blockIdx.x] = {static_cast<int32_t>(token), logprob_of(logits[token], model_largest.logit, sum)};
}

}  // namespace

cudaError_t launch_sample(cudaStream_t stream, const SampleLaunch& arguments, const Table& table) {
  return launch(sample, arguments.rows, kThreads, 0, stream, arguments, table);
}

}  // namespace iokv::cuda
