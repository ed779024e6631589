// SPDX-License-Identifier: Apache-2.0
#include "daemon/load_bar.h"

#include <cstdio>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

namespace iokv {
namespace {

constexpr uint32_t kCells = 30;
constexpr uint64_t kTerminalPauseNs = 100'000'000, kLogPauseNs = 1'000'000'000;
constexpr double kGiB = 1 << 30;

}  // namespace

LoadBar::~LoadBar() {
  if (drawn_) fmt::print(stderr, "\n");
}

void LoadBar::show(uint32_t percent, uint64_t now_ns) {
  const bool ends = terminal_ && percent == 100;
  if (!ends && now_ns - said_ns_ < (terminal_ ? kTerminalPauseNs : kLogPauseNs)) return;
  said_ns_ = now_ns;
  const std::string line = text(percent, total_bytes_, now_ns - begun_ns_, terminal_);
  if (!terminal_) return spdlog::info("{}", line);
  drawn_ = true;
  fmt::print(stderr, "\r{}\x1b[K", line);  // and nothing of a longer one before it
  std::fflush(stderr);
}

std::string LoadBar::text(uint32_t percent, uint64_t total_bytes, uint64_t elapsed_ns, bool bar) {
  const double seconds = static_cast<double>(elapsed_ns) / 1e9, total = static_cast<double>(total_bytes);
  const double done = total * percent / 100, rate = seconds > 0 ? done / seconds : 0;
  std::string cells;
  if (bar) {
    const uint32_t full = kCells * percent / 100;
    cells = fmt::format("[{:#<{}}{:-<{}}] ", "", full, "", kCells - full);
  }
  std::string line = fmt::format("weights: {}{} % of {:.2f} GiB, {:.2f} GiB a second", cells, percent, total / kGiB, rate / kGiB);
  if (rate > 0) line += fmt::format(", {:.0f} s left", (total - done) / rate);
  return line;
}

}  // namespace iokv
