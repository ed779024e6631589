// SPDX-License-Identifier: Apache-2.0
/**
 * \file
 * The C++ binding of iokv.h: header-only, C++20, nothing but libiokv to link.
 *
 *     iokv::Client client;
 *     iokv::Sequence sequence = client.open();
 *     for (const iokv::Token& token : sequence.step(prompt, 64)) std::cout << client.token_bytes(token.token);
 *
 * Two layers, each whole: Connection is the C ABI call for call, with errors as exceptions; Client, Sequence and Operation
 * stand on it, submit what they place, and hand each completion to the operation that it belongs to.
 *
 * Conventions
 *  1. A function that fails throws iokv::Error and then has had no effect; Error::code() compares with iokv::Errc.
 *  2. What owns something is move-only and gives it up in its destructor, which never throws. An object that was closed or
 *     moved from throws Errc::closed from every call but close() and its destructor.
 *  3. Threads as in iokv.h: of one Connection, one thread in the submitting calls and one in the reaping calls at a time;
 *     a second one gets Errc::busy, at once. A Client and what came from it is used by one thread at a time. wake(),
 *     outstanding() and fd() are for any thread.
 *  4. After fork() the child gets Errc::forked from whatever it inherited.
 */
#ifndef IOKV_IOKV_HPP
#define IOKV_IOKV_HPP

#include <iokv/iokv.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <iterator>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <unordered_map>
#include <utility>
#include <vector>

namespace iokv {

// ---- errors ---------------------------------------------------------------------------------------------------------

/** The codes of iokv.h, as std::error_code in category(). */
enum class Errc {
  invalid_argument = IOKV_EINVAL,
  out_of_memory = IOKV_ENOMEM,
  try_again = IOKV_EAGAIN,
  no_daemon = IOKV_ENODAEMON,
  access_denied = IOKV_EACCES,
  version_mismatch = IOKV_EVERSION,
  still_loading = IOKV_ELOADING,
  closed = IOKV_ECLOSED,
  protocol = IOKV_EPROTOCOL,
  busy = IOKV_EBUSY,
  forked = IOKV_EFORK,
  timed_out = IOKV_ETIMEDOUT,
  woken = IOKV_EWOKEN,
  context_full = IOKV_ECONTEXT,
  pool_too_small = IOKV_EPOOL,
  limit = IOKV_ELIMIT,
  no_such_sequence = IOKV_ESEQUENCE,
  bad_token = IOKV_ETOKEN,
  canceled = IOKV_ECANCELED,
  deadline_passed = IOKV_EDEADLINE,
  shutting_down = IOKV_ESHUTDOWN,
  device = IOKV_EDEVICE,
  unsupported = IOKV_EUNSUPPORTED,
  mask = IOKV_EMASK,
  stop = IOKV_ESTOP,
};

/** The category of Errc: message() is iokv_strerror. */
inline const std::error_category& category() noexcept {
  class Category final : public std::error_category {
    const char* name() const noexcept override { return "iokv"; }
    std::string message(int code) const override { return ::iokv_strerror(code); }
  };
  static const Category instance;
  return instance;
}

inline std::error_code make_error_code(Errc code) noexcept { return {static_cast<int>(code), category()}; }

}  // namespace iokv

template <>
struct std::is_error_code_enum<iokv::Errc> : std::true_type {};

namespace iokv {

/** Any failure of a call or of an operation. `error.code() == iokv::Errc::closed` asks which; what() is one line. */
class Error : public std::system_error {
 public:
  explicit Error(int code) : std::system_error(code, category()) {}
  Error(Errc code, const std::string& what) : std::system_error(code, what) {}
  Error(int code, const std::string& what) : std::system_error(code, category(), what) {}
};

// ---- values ---------------------------------------------------------------------------------------------------------

/** No limit, where a time-out is asked for. */
inline constexpr std::chrono::nanoseconds forever{-1};

/** How tokens are drawn; as it is here, greedily. Fields as in iokv_sampling, where 0 is the default of each. */
struct Sampling {
  float temperature = 0;
  float top_p = 0;
  std::uint32_t top_k = 0;
  std::uint64_t seed = 0;
  float min_p = 0;
  float typical_p = 0;
  float repetition_penalty = 0;
  float presence_penalty = 0;
  float frequency_penalty = 0;
  std::uint32_t repetition_from = 0;
  std::uint32_t frequency_from = 0;
  std::vector<iokv_logit_bias> logit_bias;
};

/** Fields as in iokv_connect_options; empty and 0 mean the default. */
struct ConnectOptions {
  std::string socket_path;
  std::string name;
  std::chrono::nanoseconds timeout = std::chrono::seconds(60);  ///< of the whole handshake; `forever`: no limit
  std::chrono::nanoseconds spin{0};                             ///< a reap may busy-wait so long before it sleeps
  std::uint32_t submission_entries = 0;
  std::uint32_t completion_entries = 0;
  std::uint32_t arena_bytes = 0;
  std::uint32_t result_bytes = 0;
};

/** Fields as in iokv_open_options. */
struct OpenOptions {
  std::optional<Sampling> sampling;  ///< for every step of the sequence; none: greedy
  std::int32_t priority = 0;         ///< -100..100
  std::uint32_t model = 0;
  std::uint32_t adapter = 0;
};

/** Fields as in iokv_step_options; what spans refer to is copied by the call. */
struct StepOptions {
  std::span<const std::int32_t> tokens;       ///< to append
  std::uint32_t max_tokens = 0;               ///< to sample at the most
  std::span<const std::int32_t> stop_tokens;
  std::vector<std::vector<std::int32_t>> stop_sequences;
  std::optional<Sampling> sampling;           ///< for this step only; none: the sequence's
  std::uint32_t top_logprobs = 0;             ///< so many most probable tokens with each token
  std::vector<std::vector<std::uint32_t>> masks;  ///< one for each draw: token t is bit t % 32 of word t / 32
  bool each = false;                          ///< IOKV_STEP_EACH
  bool logits = false;                        ///< IOKV_STEP_LOGITS
  std::int32_t priority = 0;
  std::uint64_t deadline_ns = 0;              ///< CLOCK_MONOTONIC; 0: none
};

/** iokv_completion with names for its flags. */
struct Completion : iokv_completion {
  bool final() const noexcept { return (flags & IOKV_COMPLETION_MORE) == 0; }
  bool sampled() const noexcept { return (flags & IOKV_COMPLETION_TOKEN) != 0; }      ///< `token` was appended
  bool predicted() const noexcept { return (flags & IOKV_COMPLETION_PREDICTED) != 0; }  ///< `token` was not
  bool stopped() const noexcept { return (flags & IOKV_COMPLETION_STOPPED) != 0; }
  bool has_logits() const noexcept { return (flags & IOKV_COMPLETION_LOGITS) != 0; }
  bool has_top() const noexcept { return (flags & IOKV_COMPLETION_TOP) != 0; }

  /** What the time of its step went to; none when it comes from no step, or the daemon does not say. */
  std::optional<iokv_times> step_times() const noexcept {
    iokv_times filled{};
    filled.struct_size = sizeof filled;
    if (::iokv_completion_times(this, &filled) != 0) return std::nullopt;
    return filled;
  }

  /** Throws the operation's failure, if this says one. */
  void throw_on_failure() const {
    if (result < 0) throw Error(result);
  }
};
static_assert(sizeof(Completion) == sizeof(iokv_completion), "completions are reaped in place");

/** A completion that carries a token, with copies of what else the step asked for. */
struct Token : Completion {
  std::vector<float> logits;            ///< one for each token of the vocabulary, or empty
  std::vector<iokv_token_logprob> top;  ///< the most probable first
};

/** What an opening call gives: the sequence's id, usable at once, and the operation that opens it. */
struct Opened {
  iokv_sequence sequence;
  iokv_operation operation;
};

/** One of the daemon's counters; what its pointers refer to is static. */
using Counter = iokv_counter;

namespace detail {

// Throws Errc::busy where a second thread enters what is for one. Acquire and release: what the first thread did to the
// handle is visible to whoever comes in afterwards.
class Role {
 public:
  Role(std::atomic<bool>& taken, const char* who) : taken_(taken) {
    if (taken_.exchange(true, std::memory_order_acquire)) {
      throw Error(Errc::busy, std::string("another thread is in a ") + who + " call of this connection");
    }
  }
  ~Role() { taken_.store(false, std::memory_order_release); }
  Role(const Role&) = delete;
  Role& operator=(const Role&) = delete;

 private:
  std::atomic<bool>& taken_;
};

}  // namespace detail

// ---- the C ABI, call for call ---------------------------------------------------------------------------------------

/** What came beside a completion, in shared memory, given back by the destructor. Reaping thread; ends before its
 * Connection. */
class Results {
 public:
  Results(Results&& other) noexcept
      : client_(std::exchange(other.client_, nullptr)), completion_(other.completion_), logits_(other.logits_),
        top_(other.top_) {}
  Results& operator=(Results&& other) noexcept {
    if (this != &other) {
      release();
      client_ = std::exchange(other.client_, nullptr);
      completion_ = other.completion_;
      logits_ = other.logits_;
      top_ = other.top_;
    }
    return *this;
  }
  ~Results() { release(); }

  /** One for each token of the vocabulary, or empty: not asked for, or released. */
  std::span<const float> logits() const noexcept { return logits_; }
  /** The most probable tokens, the most probable first; empty: not asked for, or released. */
  std::span<const iokv_token_logprob> top() const noexcept { return top_; }
  /** Gives the space back before the destructor would. Calling it again does nothing. */
  void release() noexcept {
    logits_ = {};
    top_ = {};
    if (client_ != nullptr) ::iokv_release(std::exchange(client_, nullptr), &completion_);
  }

 private:
  friend class Connection;
  Results(iokv_client* client, const Completion& completion) : client_(client), completion_(completion) {
    if (completion.has_logits()) view_logits();
    if (completion.has_top()) view_top();
    if (!completion.has_logits() && !completion.has_top()) client_ = nullptr;
  }
  void view_logits() {
    iokv_logits_view view{};
    view.struct_size = sizeof view;
    fail_on(::iokv_logits(client_, &completion_, &view));
    if (view.dtype != IOKV_F32) fail_on(IOKV_EUNSUPPORTED);
    logits_ = {static_cast<const float*>(view.data), view.count};
  }
  void view_top() {
    const iokv_token_logprob* entries = nullptr;
    std::uint32_t count = 0;
    fail_on(::iokv_top_logprobs(client_, &completion_, &entries, &count));
    top_ = {entries, count};
  }
  // Nobody else will give the space back when the constructor throws.
  void fail_on(int code) {
    if (code == 0) return;
    release();
    throw Error(code);
  }

  iokv_client* client_;
  iokv_completion completion_;
  std::span<const float> logits_;
  std::span<const iokv_token_logprob> top_;
};

/** A connection to a daemon. What is placed becomes visible by submit(); completions come from reap(). */
class Connection {
 public:
  /** iokv_connect: blocks until the daemon is ready. */
  explicit Connection(const ConnectOptions& options = {}) : state_(std::make_unique<State>()) {
    iokv_connect_options raw{};
    raw.struct_size = sizeof raw;
    raw.socket_path = options.socket_path.empty() ? nullptr : options.socket_path.c_str();
    raw.name = options.name.empty() ? nullptr : options.name.c_str();
    // 0 would be the default.
    raw.timeout_ns = options.timeout.count() == 0 ? 1 : options.timeout.count();
    raw.spin_ns = static_cast<std::uint64_t>(options.spin.count());
    raw.submission_entries = options.submission_entries;
    raw.completion_entries = options.completion_entries;
    raw.arena_bytes = options.arena_bytes;
    raw.result_bytes = options.result_bytes;
    iokv_error_detail why{};
    why.struct_size = sizeof why;
    if (const int code = ::iokv_connect(&raw, &state_->handle, &why); code != 0) throw Error(code, why.message);
    state_->info.struct_size = sizeof state_->info;
    if (const int code = ::iokv_get_info(state_->handle, &state_->info); code != 0) throw Error(code);
  }
  Connection(Connection&&) noexcept = default;
  Connection& operator=(Connection&&) noexcept = default;

  /** iokv_disconnect. Alone; calling it again does nothing. */
  void close() noexcept { state_.reset(); }
  bool is_open() const noexcept { return state_ != nullptr; }

  /** Facts and limits, constant for the life of the connection. */
  const iokv_info& info() const { return state().info; }

  /** Why the connection ended, once a call has thrown Errc::closed. */
  std::pair<int, std::string> end_reason() const {
    iokv_error_detail why{};
    why.struct_size = sizeof why;
    check(::iokv_end_reason(handle(), &why));
    return {why.code, why.message};
  }

  // Submitting thread; each places one entry and names the operation.

  Opened open(const OpenOptions& options = {}, std::uint64_t user_data = 0) {
    const auto role = submitting();
    const RawSampling sampling(options.sampling);
    iokv_open_options raw{};
    raw.struct_size = sizeof raw;
    raw.user_data = user_data;
    raw.sampling = sampling.get();
    raw.model = options.model;
    raw.adapter = options.adapter;
    raw.priority = options.priority;
    Opened opened{};
    check_placed(::iokv_open(handle(), &raw, &opened.sequence, &opened.operation));
    return opened;
  }
  iokv_operation step(iokv_sequence sequence, const StepOptions& options, std::uint64_t user_data = 0) {
    const auto role = submitting();
    const RawStep raw(options, user_data);
    iokv_operation operation = 0;
    check_placed(::iokv_step(handle(), sequence, raw.get(), &operation));
    return operation;
  }
  Opened fork(iokv_sequence parent, std::uint32_t tokens = UINT32_MAX, std::uint64_t user_data = 0) {
    const auto role = submitting();
    Opened opened{};
    check(::iokv_fork(handle(), parent, tokens, user_data, &opened.sequence, &opened.operation));
    return opened;
  }
  iokv_operation truncate(iokv_sequence sequence, std::uint32_t length, std::uint64_t user_data = 0) {
    const auto role = submitting();
    iokv_operation operation = 0;
    check(::iokv_truncate(handle(), sequence, length, user_data, &operation));
    return operation;
  }
  /** `target` 0: all of the sequence's operations. */
  iokv_operation cancel(iokv_sequence sequence, iokv_operation target = 0, std::uint64_t user_data = 0) {
    const auto role = submitting();
    iokv_operation operation = 0;
    check(::iokv_cancel(handle(), sequence, target, user_data, &operation));
    return operation;
  }
  iokv_operation close_sequence(iokv_sequence sequence, std::uint64_t user_data = 0) {
    const auto role = submitting();
    iokv_operation operation = 0;
    check(::iokv_close(handle(), sequence, user_data, &operation));
    return operation;
  }
  iokv_operation nop(std::uint64_t user_data = 0) {
    const auto role = submitting();
    iokv_operation operation = 0;
    check(::iokv_nop(handle(), user_data, &operation));
    return operation;
  }
  /** Makes placed entries visible to the daemon; how many. */
  std::uint32_t submit() {
    const auto role = submitting();
    return check(::iokv_submit(handle()));
  }

  // Reaping thread.

  /** Fills the front of `into` and returns that part; empty only with a time-out of 0. */
  std::span<Completion> reap(std::span<Completion> into, std::chrono::nanoseconds timeout = forever) {
    const auto role = reaping();
    const auto capacity = static_cast<std::uint32_t>(std::min<std::size_t>(into.size(), INT32_MAX));
    return into.first(check(::iokv_reap(handle(), into.data(), capacity, timeout.count())));
  }
  /** A view of what came beside `completion`. Each completion that has logits or top tokens must be asked once. */
  Results results(const Completion& completion) {
    const auto role = reaping();
    return Results(handle(), completion);
  }

  // Any thread.

  int fd() const { return static_cast<int>(check(::iokv_fd(handle()))); }
  void wake() const { check(::iokv_wake(handle())); }
  std::uint32_t outstanding() const { return ::iokv_outstanding(handle()); }

  // Both threads' role.

  /** iokv_generate: one blocking step with nothing else outstanding; the sampled tokens. */
  std::vector<std::int32_t> generate(iokv_sequence sequence, const StepOptions& options) {
    const auto submitter = submitting();
    const auto reaper = reaping();
    const RawStep raw(options, 0);
    std::vector<std::int32_t> tokens(options.max_tokens);
    std::uint32_t count = 0;
    check(::iokv_generate(handle(), sequence, raw.get(), tokens.data(), options.max_tokens, &count));
    tokens.resize(count);
    return tokens;
  }
  /** The bytes of a token's text, maybe part of a UTF-8 character; valid until close(). */
  std::string_view token_bytes(std::int32_t token) {
    const auto submitter = submitting();
    const auto reaper = reaping();
    const std::uint8_t* bytes = nullptr;
    std::uint32_t size = 0;
    check(::iokv_token_bytes(handle(), token, &bytes, &size));
    return {reinterpret_cast<const char*>(bytes), size};
  }
  /** A file that turns text into tokens; empty when the model came without it; valid until close(). */
  std::string_view text(iokv_text_file file) {
    const auto submitter = submitting();
    const auto reaper = reaping();
    const std::uint8_t* bytes = nullptr;
    std::uint64_t size = 0;
    check(::iokv_text(handle(), file, &bytes, &size));
    return {reinterpret_cast<const char*>(bytes), size};
  }
  /** The daemon's counters, from memory that it shares. */
  std::vector<Counter> counters() {
    const auto submitter = submitting();
    const auto reaper = reaping();
    std::vector<Counter> found;
    Counter counter{};
    int code = ::iokv_get_counter(handle(), 0, &counter);
    for (; code == 0; code = ::iokv_get_counter(handle(), static_cast<std::uint32_t>(found.size()), &counter)) {
      found.push_back(counter);
    }
    if (code != IOKV_EINVAL || found.empty()) check(code);
    return found;
  }

 private:
  struct State {
    State() = default;
    State(const State&) = delete;
    State& operator=(const State&) = delete;
    ~State() { ::iokv_disconnect(handle); }

    iokv_client* handle = nullptr;
    iokv_info info{};
    std::atomic<bool> submitting = false, reaping = false;
  };

  static std::uint32_t check(int result) {
    if (result < 0) throw Error(result);
    return static_cast<std::uint32_t>(result);
  }
  // A failure of open or step, with the line that names the argument and its range.
  void check_placed(int result) const {
    if (result >= 0) return;
    iokv_error_detail why{};
    why.struct_size = sizeof why;
    if (::iokv_last_failure(handle(), &why) != 0 || why.message[0] == 0) throw Error(result);
    throw Error(result, why.message);
  }

  static std::uint32_t size_of(std::size_t elements) {
    if (elements > std::numeric_limits<std::uint32_t>::max()) throw Error(IOKV_EINVAL);
    return static_cast<std::uint32_t>(elements);
  }

  // Options as the C ABI takes them; what they point to must outlive the call.
  class RawSampling {
   public:
    explicit RawSampling(const std::optional<Sampling>& given) : given_(given.has_value()) {
      if (!given) return;
      raw_.struct_size = sizeof raw_;
      raw_.temperature = given->temperature;
      raw_.top_p = given->top_p;
      raw_.top_k = given->top_k;
      raw_.seed = given->seed;
      raw_.min_p = given->min_p;
      raw_.typical_p = given->typical_p;
      raw_.repetition_penalty = given->repetition_penalty;
      raw_.presence_penalty = given->presence_penalty;
      raw_.frequency_penalty = given->frequency_penalty;
      raw_.repetition_from = given->repetition_from;
      raw_.frequency_from = given->frequency_from;
      raw_.logit_bias_count = size_of(given->logit_bias.size());
      raw_.logit_bias = given->logit_bias.data();
    }
    const iokv_sampling* get() const { return given_ ? &raw_ : nullptr; }

   private:
    bool given_;
    iokv_sampling raw_{};
  };

  class RawStep {
   public:
    RawStep(const StepOptions& options, std::uint64_t user_data) : sampling_(options.sampling) {
      raw_.struct_size = sizeof raw_;
      if (options.each) raw_.flags |= IOKV_STEP_EACH;
      if (options.logits) raw_.flags |= IOKV_STEP_LOGITS;
      raw_.user_data = user_data;
      raw_.tokens = options.tokens.data();
      raw_.token_count = size_of(options.tokens.size());
      raw_.max_tokens = options.max_tokens;
      raw_.stop_tokens = options.stop_tokens.data();
      raw_.stop_token_count = size_of(options.stop_tokens.size());
      raw_.priority = options.priority;
      raw_.sampling = sampling_.get();
      raw_.deadline_ns = options.deadline_ns;
      raw_.top_logprobs = options.top_logprobs;
      take_stop_sequences(options.stop_sequences);
      take_masks(options.masks);
    }
    RawStep(const RawStep&) = delete;
    RawStep& operator=(const RawStep&) = delete;
    const iokv_step_options* get() const { return &raw_; }

   private:
    void take_stop_sequences(const std::vector<std::vector<std::int32_t>>& sequences) {
      for (const std::vector<std::int32_t>& sequence : sequences) {
        stops_.insert(stops_.end(), sequence.begin(), sequence.end());
        lengths_.push_back(size_of(sequence.size()));
      }
      raw_.stop_sequences = stops_.data();
      raw_.stop_sequence_lengths = lengths_.data();
      raw_.stop_sequence_count = size_of(lengths_.size());
    }
    void take_masks(const std::vector<std::vector<std::uint32_t>>& masks) {
      for (const std::vector<std::uint32_t>& mask : masks) {
        if (mask.size() != masks.front().size()) throw Error(Errc::mask, "the masks of a step have different lengths");
        words_.insert(words_.end(), mask.begin(), mask.end());
      }
      raw_.masks = words_.data();
      raw_.mask_words = masks.empty() ? 0 : size_of(masks.front().size());
      raw_.mask_count = size_of(masks.size());
    }

    RawSampling sampling_;
    std::vector<std::int32_t> stops_;
    std::vector<std::uint32_t> lengths_, words_;
    iokv_step_options raw_{};
  };

  State& state() const {
    if (state_ == nullptr) throw Error(Errc::closed, "the connection was closed or moved from");
    return *state_;
  }
  iokv_client* handle() const { return state().handle; }
  detail::Role submitting() const { return detail::Role(state().submitting, "submitting"); }
  detail::Role reaping() const { return detail::Role(state().reaping, "reaping"); }

  std::unique_ptr<State> state_;
};

// ---- sequences and operations that look after themselves ------------------------------------------------------------

class Sequence;

namespace detail {

struct Progress {
  std::deque<Token> arrived;  // and not yet taken
  std::optional<Completion> end;
};

// A connection and who waits for what on it. Shared by a Client and all that came from it.
class Dispatch {
 public:
  explicit Dispatch(const ConnectOptions& options) : connection(options) {}

  // Places by `place`, which returns the operation, waiting for room where there is none; submits.
  template <typename Place>
  std::shared_ptr<Progress> run(const Place& place, iokv_operation* id) {
    for (;;) {
      try {
        *id = place(connection);
        break;
      } catch (const Error& error) {
        if (error.code() != Errc::try_again) throw;
        turn(forever);
      }
    }
    auto progress = std::make_shared<Progress>();
    waiting_.emplace(*id, progress);
    connection.submit();
    return progress;
  }

  // Reaps what is there, waiting for the first up to `timeout`; hands it out. How many.
  std::size_t turn(std::chrono::nanoseconds timeout) {
    connection.submit();
    std::span<Completion> reaped;
    try {
      reaped = connection.reap(buffer_, timeout);
    } catch (const Error& error) {
      if (error.code() != Errc::closed || !connection.is_open()) throw;
      throw Error(Errc::closed, connection.end_reason().second);
    }
    for (const Completion& completion : reaped) deliver(completion);
    return reaped.size();
  }

  // Reaps until nothing more is there, so that the descriptor is armed.
  void poll() {
    while (turn(std::chrono::nanoseconds(0)) == buffer_.size()) {
    }
  }

  Connection connection;

 private:
  // Logits are copied out and their space given back at once: nobody who leaves tokens lying holds up another's step.
  void deliver(const Completion& completion) {
    Token token{completion, {}, {}};
    if (completion.has_logits() || completion.has_top()) {
      const Results results = connection.results(completion);
      token.logits.assign(results.logits().begin(), results.logits().end());
      token.top.assign(results.top().begin(), results.top().end());
    }
    const auto found = waiting_.find(completion.operation);
    if (found == waiting_.end()) return;
    if (const std::shared_ptr<Progress> progress = found->second.lock()) {
      if (completion.sampled() || completion.predicted()) progress->arrived.push_back(std::move(token));
      if (completion.final()) progress->end = completion;
    }
    if (completion.final()) waiting_.erase(found);
  }

  // A Progress that nobody holds any more belongs to an operation that was destroyed before its end.
  std::unordered_map<iokv_operation, std::weak_ptr<Progress>> waiting_;
  std::vector<Completion> buffer_ = std::vector<Completion>(256);
};

}  // namespace detail

/**
 * A submitted operation. As a range: each completion that carries a token, as it arrives; at the end the operation's
 * failure is thrown, if it failed. Destroyed before its end it runs on, and what it draws is dropped.
 */
class Operation {
 public:
  iokv_operation id() const noexcept { return id_; }
  bool ended() const noexcept { return progress_ != nullptr && progress_->end.has_value(); }

  /** The next token, waiting for it; none at the end. */
  std::optional<Token> next() {
    while (usable().arrived.empty() && !ended()) dispatch_->turn(forever);
    return take();
  }
  /** As next(), of what has arrived: does not wait. None: nothing yet, or the end, as ended() says. */
  std::optional<Token> try_next() {
    if (usable().arrived.empty() && !ended()) dispatch_->poll();
    return usable().arrived.empty() && !ended() ? std::nullopt : take();
  }
  /** Waits for the end; the final completion, or throws the operation's failure. Tokens can be taken afterwards. */
  Completion result() {
    usable();
    while (!ended()) dispatch_->turn(forever);
    progress_->end->throw_on_failure();
    return *progress_->end;
  }
  /** Waits for the end; the sampled tokens. */
  std::vector<std::int32_t> tokens() {
    std::vector<std::int32_t> sampled;
    while (const std::optional<Token> token = next()) {
      if (token->sampled()) sampled.push_back(token->token);
    }
    return sampled;
  }

  class Iterator {
   public:
    using value_type = Token;
    using difference_type = std::ptrdiff_t;

    Iterator() = default;
    explicit Iterator(Operation* operation) : operation_(operation) { ++*this; }
    const Token& operator*() const { return *current_; }
    const Token* operator->() const { return &*current_; }
    Iterator& operator++() {
      current_ = operation_->next();
      return *this;
    }
    void operator++(int) { ++*this; }
    bool operator==(std::default_sentinel_t) const { return !current_.has_value(); }

   private:
    Operation* operation_ = nullptr;
    std::optional<Token> current_;
  };
  Iterator begin() { return Iterator(this); }
  std::default_sentinel_t end() const noexcept { return {}; }

 private:
  friend class Sequence;
  friend class Client;
  template <typename Place>
  Operation(std::shared_ptr<detail::Dispatch> dispatch, const Place& place) : dispatch_(std::move(dispatch)) {
    progress_ = dispatch_->run(place, &id_);
  }

  detail::Progress& usable() const {
    if (progress_ == nullptr) throw Error(Errc::closed, "the operation was moved from");
    return *progress_;
  }
  std::optional<Token> take() {
    if (progress_->arrived.empty()) {
      progress_->end->throw_on_failure();
      return std::nullopt;
    }
    Token token = std::move(progress_->arrived.front());
    progress_->arrived.pop_front();
    return token;
  }

  std::shared_ptr<detail::Dispatch> dispatch_;
  std::shared_ptr<detail::Progress> progress_;
  iokv_operation id_ = 0;
};

/** A growing list of tokens that the daemon keeps; closed by close() or the destructor. */
class Sequence {
 public:
  Sequence(Sequence&& other) noexcept : dispatch_(std::move(other.dispatch_)), id_(other.id_) {}
  Sequence& operator=(Sequence&& other) noexcept {
    if (this != &other) {
      close();
      dispatch_ = std::move(other.dispatch_);
      id_ = other.id_;
    }
    return *this;
  }
  ~Sequence() { close(); }

  iokv_sequence id() const noexcept { return id_; }

  /** Appends and samples; does not wait. */
  Operation step(const StepOptions& options) {
    return run([&](Connection& connection) { return connection.step(id_, options); });
  }
  Operation step(std::span<const std::int32_t> tokens, std::uint32_t max_tokens) {
    StepOptions options;
    options.tokens = tokens;
    options.max_tokens = max_tokens;
    return step(options);
  }
  /** Appends without sampling; waits; the new length. */
  std::uint32_t append(std::span<const std::int32_t> tokens) { return step(tokens, 0).result().length; }
  /** Appends, samples and waits; the sampled tokens. */
  std::vector<std::int32_t> generate(std::span<const std::int32_t> tokens, std::uint32_t max_tokens) {
    return step(tokens, max_tokens).tokens();
  }
  /** A new sequence that begins with the first `tokens` tokens of this one. Waits. */
  Sequence fork(std::uint32_t tokens = UINT32_MAX) {
    iokv_sequence child = 0;
    Operation forked = run([&](Connection& connection) {
      const Opened opened = connection.fork(id_, tokens);
      child = opened.sequence;
      return opened.operation;
    });
    forked.result();
    return Sequence(dispatch_, child);
  }
  /** Drops every token from position `length` on. Waits. */
  void truncate(std::uint32_t length) {
    run([&](Connection& connection) { return connection.truncate(id_, length); }).result();
  }
  /** Cancels all of the sequence's operations, or one; how many were cancelled. Waits. */
  int cancel() { return cancel_operation(0); }
  int cancel(const Operation& operation) { return cancel_operation(operation.id()); }
  /** Cancels what is outstanding and frees the sequence; does not wait. Calling it again does nothing. */
  void close() noexcept {
    if (dispatch_ == nullptr) return;
    try {
      run([&](Connection& connection) { return connection.close_sequence(id_); });
    } catch (const std::exception&) {
      // With the connection gone the sequence is gone.
    }
    dispatch_.reset();
  }

 private:
  friend class Client;
  Sequence(std::shared_ptr<detail::Dispatch> dispatch, iokv_sequence id) : dispatch_(std::move(dispatch)), id_(id) {}

  template <typename Place>
  Operation run(const Place& place) {
    if (dispatch_ == nullptr) throw Error(Errc::closed, "the sequence was closed or moved from");
    return Operation(dispatch_, place);
  }
  int cancel_operation(iokv_operation target) {
    return run([&](Connection& connection) { return connection.cancel(id_, target); }).result().result;
  }

  std::shared_ptr<detail::Dispatch> dispatch_;
  iokv_sequence id_;
};

/** A connection whose sequences and operations look after themselves. Used by one thread at a time. */
class Client {
 public:
  /** Connects; blocks until the daemon is ready. */
  explicit Client(const ConnectOptions& options = {}) : dispatch_(std::make_shared<detail::Dispatch>(options)) {}
  Client(Client&&) noexcept = default;
  Client& operator=(Client&&) noexcept = default;

  /** Ends the connection: what is outstanding is cancelled, every sequence closed. Calling it again does nothing. */
  void close() noexcept {
    if (dispatch_ != nullptr) dispatch_->connection.close();
  }

  /** Opens an empty sequence. Waits. */
  Sequence open(const OpenOptions& options = {}) {
    iokv_sequence sequence = 0;
    Operation opened(usable(), [&](Connection& connection) {
      const Opened placed = connection.open(options);
      sequence = placed.sequence;
      return placed.operation;
    });
    opened.result();
    return Sequence(dispatch_, sequence);
  }
  /** A round trip through the daemon that does nothing. */
  void nop() { Operation(usable(), [](Connection& connection) { return connection.nop(); }).result(); }

  /** For event loops: poll fd() for readability, then call poll(); Operation::try_next() has what came. */
  int fd() { return connection().fd(); }
  void poll() { usable()->poll(); }

  const iokv_info& info() { return connection().info(); }
  std::string_view token_bytes(std::int32_t token) { return connection().token_bytes(token); }
  std::string_view text(iokv_text_file file) { return connection().text(file); }
  std::vector<Counter> counters() { return connection().counters(); }
  /** What all of this stands on, for what has no shorter way: wake(), outstanding(), end_reason(). */
  Connection& connection() { return usable()->connection; }

 private:
  const std::shared_ptr<detail::Dispatch>& usable() const {
    if (dispatch_ == nullptr) throw Error(Errc::closed, "the client was moved from");
    return dispatch_;
  }

  std::shared_ptr<detail::Dispatch> dispatch_;
};

}  // namespace iokv

#endif  // IOKV_IOKV_HPP
