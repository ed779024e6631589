// SPDX-License-Identifier: Apache-2.0
// What lines look like for the journal and elsewhere, and how many of a kind there are.
#include <sys/stat.h>
#include <unistd.h>

#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include <spdlog/sinks/ostream_sink.h>

#include "daemon/log.h"

#include "tests/cmocka_cpp.h"

using namespace iokv;

namespace {

// Everything logged while it lives, by line.
class Captured {
 public:
  explicit Captured(bool journal) : before_(spdlog::default_logger()) {
    auto logger = std::make_shared<spdlog::logger>("test", std::make_shared<spdlog::sinks::ostream_sink_mt>(text_));
    logger->set_formatter(log_formatter(journal));
    logger->set_level(spdlog::level::debug);
    spdlog::set_default_logger(logger);
  }
  ~Captured() { spdlog::set_default_logger(before_); }
  std::vector<std::string> lines() const {
    std::vector<std::string> found;
    std::istringstream text(text_.str());
    for (std::string line; std::getline(text, line);) found.push_back(line);
    return found;
  }

 private:
  std::ostringstream text_;
  std::shared_ptr<spdlog::logger> before_;
};

void the_journal_gets_a_priority_and_one_line(void**) {
  Captured log(true);
  spdlog::error("a");
  spdlog::warn("b");
  spdlog::info("c\nd\x1b[2J");
  spdlog::debug("e");
  spdlog::critical("f");
  assert_true(log.lines() == (std::vector<std::string>{"<3>a", "<4>b", "<6>c d [2J", "<7>e", "<2>f"}));
}

void elsewhere_a_line_has_its_time_and_level(void**) {
  Captured log(false);
  spdlog::warn("something");
  assert_int_equal(log.lines().size(), 1);
  const std::string line = log.lines()[0];
  assert_true(line.ends_with(" warning something"));
  assert_int_equal(line.size(), std::string("2026-11-25 10:00:00.000 warning something").size());
}

void the_journal_is_known_by_device_and_inode(void**) {
  int ends[2];
  assert_int_equal(::pipe(ends), 0);
  struct stat status{};
  assert_int_equal(::fstat(ends[1], &status), 0);
  const std::string stream = std::to_string(status.st_dev) + ":" + std::to_string(status.st_ino);
  assert_true(is_journal(ends[1], stream.c_str()));
  assert_false(is_journal(ends[1], (stream + "1").c_str()));
  assert_false(is_journal(ends[1], nullptr));
  assert_false(is_journal(ends[1], ""));
  ::close(ends[0]);
  ::close(ends[1]);
}

void a_kind_of_line_comes_at_a_bounded_rate_and_says_what_was_left_out(void**) {
  Captured log(true);
  LogRate rate;
  const uint64_t start_ns = 1'000 * LogRate::kIntervalNs;
  for (int i = 0; i < 1000; i++) rate.log(start_ns + static_cast<uint64_t>(i), spdlog::level::warn, "line {}", i);
  assert_int_equal(log.lines().size(), LogRate::kBurst);
  rate.log(start_ns + LogRate::kIntervalNs, spdlog::level::warn, "later");
  assert_string_equal(log.lines().back().c_str(), "<4>later (and 980 more like it, which are not shown)");
  rate.log(start_ns + LogRate::kIntervalNs + 1, spdlog::level::warn, "at once");
  assert_int_equal(log.lines().size(), LogRate::kBurst + 1);
  // An hour later there is a burst again, and not an hour's worth.
  for (int i = 0; i < 1000; i++) rate.log(start_ns + 360 * LogRate::kIntervalNs, spdlog::level::warn, "line {}", i);
  assert_int_equal(log.lines().size(), 2 * LogRate::kBurst + 1);
}

}  // namespace

int main() {
  const CMUnitTest tests[] = {
      cmocka_unit_test(the_journal_gets_a_priority_and_one_line),
      cmocka_unit_test(elsewhere_a_line_has_its_time_and_level),
      cmocka_unit_test(the_journal_is_known_by_device_and_inode),
      cmocka_unit_test(a_kind_of_line_comes_at_a_bounded_rate_and_says_what_was_left_out),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
