// SPDX-License-Identifier: Apache-2.0
// The log: one line an event, to standard error. Where that is the journal each line begins with its priority, as
// sd-daemon(3) has it, and the journal knows when; elsewhere with time and level. What clients can cause at will is
// logged at a bounded rate. No line contains tokens or text of a client but its name, of printable letters.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

namespace iokv {

// From now on everybody's spdlog:: lines go there. `level`: debug, info, warning or error.
void start_log(const std::string& level);
void set_log_level(const std::string& level);

// Why the daemon ends, or does not start: to whoever sits there "iokvd: ...", to the journal an error.
void log_failure(const std::string& message);

// Whether `descriptor` is what $JOURNAL_STREAM ("device:inode") names.
bool is_journal(int descriptor, const char* journal_stream);
// A formatter of spdlog for the one and the other.
std::unique_ptr<spdlog::formatter> log_formatter(bool journal);

// Lines of one kind: kBurst at once, and one every kIntervalNs after that. The next that is shown says how many were not.
// One thread.
class LogRate {
 public:
  static constexpr uint32_t kBurst = 20;
  static constexpr uint64_t kIntervalNs = 10'000'000'000;

  template <typename... Arguments>
  void log(uint64_t now_ns, spdlog::level::level_enum level, fmt::format_string<Arguments...> format, Arguments&&... arguments) {
    if (!spdlog::should_log(level) || !take(now_ns)) return;
    std::string line = fmt::format(format, std::forward<Arguments>(arguments)...);
    if (const uint64_t hidden = std::exchange(hidden_, 0); hidden > 0) {
      line += fmt::format(" (and {} more like it, which are not shown)", hidden);
    }
    spdlog::log(level, "{}", line);
  }

 private:
  bool take(uint64_t now_ns);

  uint32_t left_ = kBurst;
  uint64_t refilled_ns_ = 0;  // when left_ was last added to
  uint64_t hidden_ = 0;
};

}  // namespace iokv
