// SPDX-License-Identifier: Apache-2.0
// See profiler.h. Reads top down: what is measured in which order, then how one curve is, then one time.
#include "daemon/runtime/profiler.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <functional>
#include <utility>

namespace iokv {
namespace {

// Rounds of the few ratios that are measured at one size each.
constexpr uint32_t kRatioRounds = 7;
// Rows of the dense work that those take: a small batch.
constexpr uint32_t kRows = 16;
// A recomputation's fewest tokens: fewer are not a tile of rows to any kernel.
constexpr uint32_t kTokens = 16;
// Of rows of X that are copied within the device; fewer take the time of a launch.
constexpr uint32_t kLeastKeptBytes = 4096;
// Repetitions within one window, below half of the tickets that a backend remembers.
constexpr uint32_t kMostRepetitions = 4096;
// How long one copy of those that keep the link busy takes: some of them are outstanding when a window ends.
constexpr double kBusyCopyNs = 1e6;

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// What is compared with another time is the least of its rounds: whatever disturbs a machine makes either longer, and
// the quotient anything.
struct Least {
  double ns = INFINITY;
  void add(double time_ns) { ns = std::min(ns, time_ns); }
};

double slowdown(double together_ns, double alone_ns) { return alone_ns > 0 ? std::max(1.0, together_ns / alone_ns) : 1; }

struct Operation {
  Queue queue;
  uint32_t least, most;  // sizes
  std::function<void(uint32_t size)> issue;
};

class Profiler {
 public:
  Profiler(Backend& backend, Probe& probe, const ProfilerLimits& limits);
  Result<MeasuredProfile> run();

 private:
  uint32_t most_copy() const { return static_cast<uint32_t>(std::min<size_t>(probe_.max_copy_bytes(), size_t{1} << 31)); }
  // At most half of the buffers, so that such copies may run both ways at once.
  uint32_t least_copy() const {
    return static_cast<uint32_t>(std::min<size_t>(limits_.least_copy_bytes, most_copy() / 2));
  }

  Status link();
  Status duplex();
  Status pieces();
  Status compute();
  Status parts();
  Status contention();
  Result<double> contention_of(const Operation& other, uint32_t size, uint32_t rows);
  Status host();
  Status interference();
  Status link_beside_host();
  Result<double> copies_beside(const Operation& operation, uint32_t size, double operation_ns);

  Status curve(Curve Profile::*curve, const Operation& operation);
  Result<double> time(const Operation& operation, uint32_t size);
  Result<double> window(const Operation& operation, uint32_t size, uint32_t repetitions);
  Result<double> least_time(const Operation& operation, uint32_t size);
  uint32_t repetitions_of(const Operation& operation, double once_ns) const;
  double since(Ticket begin, Ticket end) {
    return static_cast<double>(backend_.reached_ns(end)) - static_cast<double>(backend_.reached_ns(begin));
  }
  Status wait(Ticket ticket);

  void keep_link_busy(double ns);
  Status let_link_rest();
  Profile& profile() { return result_.profile; }
  std::vector<Sample>& samples_of(Curve Profile::*curve) {
    size_t i = 0;
    while (kProfileCurves[i].curve != curve) ++i;
    return result_.samples[i];
  }

  Backend& backend_;
  Probe& probe_;
  const ProfilerLimits limits_;
  MeasuredProfile result_;

  const Operation h2d_, d2h_, recompute_, attend_, attend_rows_, dense_, head_, keep_x_, host_attend_, exchange_;

  bool beside_link_ = false;     // keep h2d busy during windows
  uint32_t busy_bytes_ = 0;      // of one of the copies that do
  std::deque<Ticket> busy_;      // of those that are out
};

Profiler::Profiler(Backend& backend, Probe& probe, const ProfilerLimits& limits)
    : backend_(backend),
      probe_(probe),
      limits_(limits),
      h2d_{Queue::h2d, least_copy(), most_copy(), [this](uint32_t bytes) { probe_.h2d(bytes); }},
      d2h_{Queue::d2h, least_copy(), most_copy(), [this](uint32_t bytes) { probe_.d2h(bytes); }},
      recompute_{Queue::recompute, std::min(kTokens, probe.max_tokens()), probe.max_tokens(),
                 [this](uint32_t tokens) { probe_.recompute(tokens); }},
      attend_{Queue::dense, std::min(kBlockTokens, probe.max_attended()), probe.max_attended(),
              [this](uint32_t tokens) { probe_.attend(tokens); }},
      attend_rows_{Queue::dense, probe.least_products(), probe.most_products(),
                   [this](uint32_t products) { probe_.attend_rows(products); }},
      dense_{Queue::dense, 1, probe.max_rows(), [this](uint32_t rows) { probe_.dense(rows); }},
      head_{Queue::dense, 1, probe.max_draws(), [this](uint32_t rows) { probe_.head(rows); }},
      keep_x_{Queue::dense, std::min(kLeastKeptBytes, probe.max_kept_bytes()), probe.max_kept_bytes(),
              [this](uint32_t bytes) { probe_.keep_x(bytes); }},
      host_attend_{Queue::host, std::min(kBlockTokens, probe.max_host_attended()), probe.max_host_attended(),
                   [this](uint32_t tokens) { probe_.attend_host(tokens); }},
      exchange_{Queue::dense, std::min(1u, probe.max_exchanged()), probe.max_exchanged(),
                [this](uint32_t rows) { probe_.exchange(rows); }} {}

Result<MeasuredProfile> Profiler::run() {
  const uint64_t begun_ns = backend_.now_ns();
  if (probe_.max_copy_bytes() != 0) {
    IOKV_TRY(link());
    IOKV_TRY(duplex());
    if (probe_.max_piece_blocks() != 0) IOKV_TRY(pieces());
  }
  beside_link_ = busy_bytes_ != 0;
  IOKV_TRY(compute());
  IOKV_TRY(parts());
  IOKV_TRY(contention());
  if (host_attend_.most != 0) IOKV_TRY(host());
  IOKV_TRY(let_link_rest());
  beside_link_ = false;
  if (busy_bytes_ != 0) IOKV_TRY(interference());
  if (busy_bytes_ != 0 && host_attend_.most != 0) IOKV_TRY(link_beside_host());
  result_.took_ns = static_cast<double>(backend_.now_ns() - begun_ns);
  return std::move(result_);
}

Status Profiler::link() {
  IOKV_TRY(curve(&Profile::h2d, h2d_));
  IOKV_TRY(curve(&Profile::d2h, d2h_));
  const double bytes = profile().h2d.each_ns > 0 ? kBusyCopyNs / profile().h2d.each_ns : h2d_.most;
  busy_bytes_ = static_cast<uint32_t>(std::clamp<double>(bytes, h2d_.least, h2d_.most / 2));
  return {};
}

// Both directions from one beginning, as many copies each.
Status Profiler::duplex() {
  Least up_alone, down_alone, up_both, down_both;
  for (uint32_t round = 0; round < kRatioRounds; ++round) {
    const uint32_t count = repetitions_of(h2d_, profile().h2d.at(busy_bytes_));
    IOKV_TRY_ASSIGN(const double up_ns, window(h2d_, busy_bytes_, count));
    IOKV_TRY_ASSIGN(const double down_ns, window(d2h_, busy_bytes_, count));
    const Ticket up = backend_.record(Queue::h2d), down = backend_.record(Queue::d2h);
    for (uint32_t i = 0; i < count; ++i) {
      h2d_.issue(busy_bytes_);
      d2h_.issue(busy_bytes_);
    }
    const Ticket up_end = backend_.record(Queue::h2d), down_end = backend_.record(Queue::d2h);
    IOKV_TRY(wait(up_end));
    IOKV_TRY(wait(down_end));
    up_alone.add(up_ns);
    down_alone.add(down_ns);
    up_both.add(since(up, up_end) / count);
    down_both.add(since(down, down_end) / count);
  }
  profile().duplex = (slowdown(up_both.ns, up_alone.ns) + slowdown(down_both.ns, down_alone.ns)) / 2;
  return {};
}

// Copies of as many bytes in pieces and in one, either way.
Status Profiler::pieces() {
  const uint32_t blocks = probe_.max_piece_blocks(), count = probe_.pieces(blocks);
  const auto bytes = static_cast<uint32_t>(count * probe_.piece_bytes());
  const Operation up{Queue::h2d, 1, blocks, [this](uint32_t size) { probe_.h2d_pieces(size); }};
  const Operation down{Queue::d2h, 1, blocks, [this](uint32_t size) { probe_.d2h_pieces(size); }};
  double ns = 0;
  for (const auto& [in_pieces, in_one] : {std::pair(&up, &h2d_), std::pair(&down, &d2h_)}) {
    IOKV_TRY_ASSIGN(const double pieces_ns, least_time(*in_pieces, blocks));
    IOKV_TRY_ASSIGN(const double one_ns, least_time(*in_one, bytes));
    ns += std::max(0.0, pieces_ns - one_ns) / 2;
  }
  profile().piece_ns = count > 1 ? ns / (count - 1) : 0;
  return {};
}

Status Profiler::compute() {
  if (recompute_.most != 0) IOKV_TRY(curve(&Profile::recompute, recompute_));
  IOKV_TRY(curve(&Profile::attend, attend_));
  IOKV_TRY(curve(&Profile::attend_rows, attend_rows_));
  // Rows that share what is read take no longer than rows that do not: what says so is noise.
  Curve& rows = profile().attend_rows;
  const Curve& alone = profile().attend;
  rows = {std::min(rows.least_ns, alone.least_ns), std::min(rows.fixed_ns, alone.fixed_ns), std::min(rows.each_ns, alone.each_ns)};
  IOKV_TRY(curve(&Profile::dense, dense_));
  IOKV_TRY(curve(&Profile::head, head_));
  return curve(&Profile::keep_x, keep_x_);
}

// Of dense work what comes before attention, and of the head what comes before the layers.
Status Profiler::parts() {
  const uint32_t rows = std::min(kRows, head_.most);
  const Operation project{Queue::dense, 1, dense_.most, [this](uint32_t size) { probe_.project(size); }};
  const Operation embed{Queue::dense, 1, head_.most, [this](uint32_t size) { probe_.embed(size); }};
  IOKV_TRY_ASSIGN(const double dense_ns, least_time(dense_, rows));
  IOKV_TRY_ASSIGN(const double project_ns, least_time(project, rows));
  if (dense_ns > 0) profile().project_share = std::min(1.0, project_ns / dense_ns);
  IOKV_TRY_ASSIGN(profile().embed_ns, least_time(embed, rows));
  return {};
}

// Dense work and a recomputation that takes about as long.
Status Profiler::contention() {
  if (recompute_.most == 0) return {};
  const uint32_t rows = std::min(kRows, dense_.most);
  uint32_t tokens = 1;
  while (tokens * 2 <= recompute_.most && profile().recompute.at(tokens * 2) <= profile().dense.at(rows)) tokens *= 2;
  IOKV_TRY_ASSIGN(profile().contention, contention_of(recompute_, tokens, rows));
  return {};
}

// Attention on the host beside a busy link, what handing over and merging takes without it, and what it takes from dense
// work where both run on the same cores.
Status Profiler::host() {
  IOKV_TRY(curve(&Profile::host_attend, host_attend_));
  IOKV_TRY(curve(&Profile::exchange, exchange_));
  // Less what the host has worked in it: of each row it had a block.
  const Curve& attend = profile().host_attend;
  std::vector<Sample>& exchanged = samples_of(&Profile::exchange);
  for (Sample& sample : exchanged) sample.ns = std::max(0.0, sample.ns - attend.at(kBlockTokens * sample.size));
  profile().exchange = fit(exchanged);
  const uint32_t rows = std::min(kRows, dense_.most);
  uint32_t tokens = kBlockTokens;
  while (tokens * 2 <= host_attend_.most && attend.at(tokens * 2) <= profile().dense.at(rows)) tokens *= 2;
  IOKV_TRY_ASSIGN(profile().host_contention, contention_of(host_attend_, std::min(tokens, host_attend_.most), rows));
  return {};
}

// Dense work beside an operation of another queue, from one beginning: of the shorter one's time, how much does the longer
// one's end come later?
Result<double> Profiler::contention_of(const Operation& other, uint32_t size, uint32_t rows) {
  Least dense_alone, other_alone, both;
  for (uint32_t round = 0; round < kRatioRounds; ++round) {
    const uint32_t count = repetitions_of(dense_, profile().dense.at(rows));
    IOKV_TRY_ASSIGN(const double dense_ns, window(dense_, rows, count));
    IOKV_TRY_ASSIGN(const double other_ns, window(other, size, count));
    if (beside_link_) keep_link_busy(count * (dense_ns + other_ns));
    const Ticket dense = backend_.record(Queue::dense), begin = backend_.record(other.queue);
    for (uint32_t i = 0; i < count; ++i) {
      other.issue(size);
      dense_.issue(rows);
    }
    const Ticket dense_end = backend_.record(Queue::dense), other_end = backend_.record(other.queue);
    IOKV_TRY(wait(dense_end));
    IOKV_TRY(wait(other_end));
    const Ticket begun = backend_.reached_ns(dense) < backend_.reached_ns(begin) ? dense : begin;
    dense_alone.add(dense_ns);
    other_alone.add(other_ns);
    both.add(std::max(since(begun, dense_end), since(begun, other_end)) / count);
  }
  const double longer = std::max(dense_alone.ns, other_alone.ns);
  const double shorter = std::min(dense_alone.ns, other_alone.ns);
  return shorter > 0 ? std::clamp((both.ns - longer) / shorter, 0.0, 1.0) : 0;
}

// How much the link slows dense work goes into the Profile; the other way round is for whoever reads it. Dense work is
// issued for as long as some copies take, and those are timed.
Status Profiler::interference() {
  const uint32_t rows = std::min(kRows, dense_.most);
  IOKV_TRY_ASSIGN(const double alone_ns, least_time(dense_, rows));
  beside_link_ = true;
  IOKV_TRY_ASSIGN(const double beside_ns, least_time(dense_, rows));
  beside_link_ = false;
  IOKV_TRY(let_link_rest());
  result_.link_slows_dense = slowdown(beside_ns, alone_ns);
  profile().link_slowdown = result_.link_slows_dense;

  IOKV_TRY_ASSIGN(result_.dense_slows_link, copies_beside(dense_, rows, beside_ns));
  return {};
}

// What the host does to the link: they read the same memory. What the link does to the host is in its curve.
Status Profiler::link_beside_host() {
  IOKV_TRY_ASSIGN(profile().host_slows_link, copies_beside(host_attend_, host_attend_.most, profile().host_attend.at(host_attend_.most)));
  return {};
}

// How much longer copies take while operations run that take `operation_ns` each.
Result<double> Profiler::copies_beside(const Operation& operation, uint32_t size, double operation_ns) {
  const uint32_t copies = 16;
  const double copies_ns = copies * profile().h2d.at(busy_bytes_), most = kMostRepetitions;
  const auto operations = static_cast<uint32_t>(std::clamp(1.2 * copies_ns / std::max(operation_ns, 1.0) + 1, 1.0, most));
  Least alone, beside;
  for (uint32_t round = 0; round < kRatioRounds; ++round) {
    IOKV_TRY_ASSIGN(const double copy_ns, window(h2d_, busy_bytes_, copies));
    const Ticket begin = backend_.record(Queue::h2d);
    for (uint32_t i = 0; i < copies; ++i) h2d_.issue(busy_bytes_);
    const Ticket end = backend_.record(Queue::h2d);
    for (uint32_t i = 0; i < operations; ++i) operation.issue(size);
    IOKV_TRY(wait(backend_.record(operation.queue)));
    IOKV_TRY(wait(end));
    alone.add(copy_ns);
    beside.add(since(begin, end) / copies);
  }
  return slowdown(beside.ns, alone.ns);
}

// The least size, doubled up to the most, and the most, as far as there is time. Rounds go over all sizes, so that what
// disturbs the machine for a while touches one time of each and not all of one.
Status Profiler::curve(Curve Profile::*curve, const Operation& operation) {
  struct Point {
    uint32_t size = 0;
    std::vector<double> times;
  };
  std::vector<Point> points;
  const auto curve_ns = static_cast<double>(limits_.curve_ns);
  const uint64_t begun_ns = backend_.now_ns();
  auto spent_ns = [&] { return static_cast<double>(backend_.now_ns() - begun_ns); };
  for (uint32_t size = operation.least;; size = std::min(operation.most, size * 2)) {
    if (!points.empty() && points.back().times.front() * size / points.back().size > curve_ns / 4) break;
    IOKV_TRY(window(operation, size, 1));  // the first of its size pays for caches, tables and lazy loading
    IOKV_TRY_ASSIGN(const double ns, time(operation, size));
    points.push_back({size, {ns}});
    if (size == operation.most) break;
  }
  for (uint32_t round = 1; round < limits_.rounds; ++round) {
    for (Point& point : points) {
      if (spent_ns() + *std::min_element(point.times.begin(), point.times.end()) > curve_ns) continue;
      IOKV_TRY_ASSIGN(const double ns, time(operation, point.size));
      point.times.push_back(ns);
    }
  }
  std::vector<Sample> samples;
  for (const Point& point : points) samples.push_back({static_cast<double>(point.size), median(point.times)});
  profile().*curve = fit(samples);
  samples_of(curve) = std::move(samples);
  return {};
}

// Mean time of an operation that is issued again and again.
Result<double> Profiler::time(const Operation& operation, uint32_t size) {
  IOKV_TRY_ASSIGN(const double once_ns, window(operation, size, 1));
  const uint32_t repetitions = repetitions_of(operation, once_ns);
  if (repetitions == 1) return once_ns;
  return window(operation, size, repetitions);
}

Result<double> Profiler::least_time(const Operation& operation, uint32_t size) {
  Least least;
  for (uint32_t round = 0; round < kRatioRounds; ++round) {
    IOKV_TRY_ASSIGN(const double ns, time(operation, size));
    least.add(ns);
  }
  return least.ns;
}

Result<double> Profiler::window(const Operation& operation, uint32_t size, uint32_t repetitions) {
  // A window is timed again if the link has run out of work in it: the first guess of its length may be short.
  double expected_ns = static_cast<double>(limits_.window_ns);
  for (int attempt = 0;; ++attempt) {
    if (beside_link_) keep_link_busy(expected_ns);
    operation.issue(operation.least);  // the clock starts when the queue has begun to work: waking it up is not counted
    const Ticket begin = backend_.record(operation.queue);
    for (uint32_t i = 0; i < repetitions; ++i) operation.issue(size);
    const Ticket end = backend_.record(operation.queue);
    IOKV_TRY(wait(end));
    const double ns = since(begin, end);
    if (!beside_link_ || attempt == 2) return ns / repetitions;
    IOKV_TRY_ASSIGN(const bool idle, backend_.poll(busy_.back(), false));
    if (!idle) return ns / repetitions;
    expected_ns = 1.5 * ns;
  }
}

uint32_t Profiler::repetitions_of(const Operation& operation, double once_ns) const {
  const bool copies = operation.queue == Queue::h2d || operation.queue == Queue::d2h;
  const double wanted = static_cast<double>(copies ? limits_.link_window_ns : limits_.window_ns) / std::max(once_ns, 1.0);
  return static_cast<uint32_t>(std::clamp(std::ceil(wanted), 1.0, static_cast<double>(kMostRepetitions)));
}

Status Profiler::wait(Ticket ticket) {
  IOKV_TRY(backend_.poll(ticket, true));
  return {};
}

// Issues copies until those that are out take `ns` and one copy more.
void Profiler::keep_link_busy(double ns) {
  for (; !busy_.empty(); busy_.pop_front()) {
    const Result<bool> reached = backend_.poll(busy_.front(), false);
    if (!reached || !*reached) break;  // a lost device is seen by who waits
  }
  const double copy_ns = std::max(profile().h2d.at(busy_bytes_), 1.0);
  const auto wanted = static_cast<size_t>(std::min(std::ceil(ns / copy_ns) + 1, kMostRepetitions / 4.0));
  while (busy_.size() < wanted) {
    h2d_.issue(busy_bytes_);
    busy_.push_back(backend_.record(Queue::h2d));
  }
}

Status Profiler::let_link_rest() {
  if (!busy_.empty()) IOKV_TRY(wait(busy_.back()));
  busy_.clear();
  return {};
}

}  // namespace

Result<MeasuredProfile> measure(Backend& backend, const ModelSpec& spec, const Weights& weights,
                                const ProfilerLimits& limits) {
  IOKV_TRY_ASSIGN(auto probe, Probe::make(backend, spec, weights, limits.probe));
  return Profiler(backend, *probe, limits).run();
}

}  // namespace iokv
