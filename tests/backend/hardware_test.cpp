// SPDX-License-Identifier: Apache-2.0
// Hardware by name and from files: the figures that it is known for, and what is wrong with a wrong file, by its line.
#include "daemon/backend/modelled/hardware.h"

#include <unistd.h>

#include <cmath>
#include <cstring>

#include "tests/cmocka_cpp.h"

using namespace iokv;

namespace {

class HardwareFile {
 public:
  explicit HardwareFile(const std::string& text) {
    const int descriptor = ::mkstemps(path_, 5);
    assert_int_equal(::write(descriptor, text.data(), text.size()), text.size());
    ::close(descriptor);
  }
  ~HardwareFile() { ::unlink(path_); }
  const char* path() const { return path_; }

 private:
  char path_[40] = "/tmp/iokv-hardware-XXXXXX.toml";
};

constexpr const char* kComplete =
    "description = \"a machine\"\n"      // line 1
    "source = \"nowhere\"\n"             // 2
    "memory_gib = 2\n"                   // 3
    "[link]\n"                           // 4
    "h2d_gb_per_s = 10\n"                // 5
    "d2h_gb_per_s = 12.5\n"              // 6
    "copy_ns = 100\n"                    // 7
    "duplex = 1.5\n"                     // 8
    "[compute]\n"                        // 9
    "matrix_tflop_per_s = 3\n"           // 10
    "memory_gb_per_s = 200\n"            // 11
    "launch_ns = 40\n"                   // 12
    "contention = 0.25\n";               // 13

// The complete file with one part of it replaced.
std::string with(const std::string& part, const std::string& replacement) {
  std::string text = kComplete;
  const size_t at = text.find(part);
  assert_true(at != std::string::npos);
  return text.replace(at, part.size(), replacement);
}

void assert_refused(const std::string& text, const std::string& place, const char* mentions) {
  const HardwareFile file(text);
  Result<Hardware> result = find_hardware(file.path());
  assert_false(static_cast<bool>(result));
  const std::string& message = result.failure().message;
  if (!message.starts_with(file.path() + place) || message.find(mentions) == std::string::npos) {
    fail_msg("\"%s\" does not begin with the file and \"%s\" or does not mention \"%s\"", message.c_str(),
             place.c_str(), mentions);
  }
}

void assert_near(double value, double expected) {
  if (std::abs(value - expected) > 1e-9 * std::abs(expected)) fail_msg("%g is not %g", value, expected);
}

void a_file_is_read_in_base_units(void**) {
  const HardwareFile file(kComplete);
  Result<Hardware> hardware = find_hardware(file.path());
  assert_true(static_cast<bool>(hardware));
  assert_string_equal(hardware->description.c_str(), "a machine");
  assert_string_equal(hardware->source.c_str(), "nowhere");
  assert_near(hardware->memory_bytes, 2147483648.0);
  assert_near(hardware->h2d_bytes_per_s, 10e9);
  assert_near(hardware->d2h_bytes_per_s, 12.5e9);
  assert_near(hardware->copy_ns, 100);
  assert_near(hardware->duplex, 1.5);
  assert_near(hardware->matrix_flop_per_s, 3e12);
  assert_near(hardware->memory_bytes_per_s, 200e9);
  assert_near(hardware->launch_ns, 40);
  assert_near(hardware->contention, 0.25);
  assert_true(hardware->host_attend_bytes_per_s == 0 && hardware->host_slows_link == 1);
}

void what_the_host_does_may_be_said(void**) {
  const HardwareFile file(std::string(kComplete) + "[host]\nattend_gb_per_s = 84\nslows_link = 1.5\n");
  Result<Hardware> hardware = find_hardware(file.path());
  assert_true(static_cast<bool>(hardware));
  assert_near(hardware->host_attend_bytes_per_s, 84e9);
  assert_near(hardware->host_slows_link, 1.5);
  assert_true(hardware->host_attend_ns == 0);
  assert_refused(std::string(kComplete) + "[host]\nslows_link = 0.5\n", ":15: ", "host.slows_link must be a number from 1 to 10");
  assert_refused(std::string(kComplete) + "[host]\ncores = 5\n", ":15: ", "hardware has no \"host.cores\"");
}

void known_names_have_the_figures_of_their_data_sheets(void**) {
  const struct {
    const char* name;
    double link_gb_per_s, matrix_tflop_per_s, least_memory_gb, most_memory_gb;
  } rows[] = {
      {"a100-pcie4", 32, 312, 40, 43},       // the constants of KVPR's code
      {"grace-hopper", 450, 989, 96, 104},   // NVLink-C2C, 900 GB/s both ways together
      {"h100", 54.7, 690, 80, 86},           // measured
      {"h200", 55.5, 690, 141, 151},         // measured
      {"rtx4090-pcie4", 31.5, 165.2, 24, 26},
  };
  size_t i = 0;
  for (const std::string& name : known_hardware()) {
    assert_true(i < std::size(rows));
    assert_string_equal(name.c_str(), rows[i].name);
    Result<Hardware> hardware = find_hardware(name);
    assert_true(static_cast<bool>(hardware));
    assert_near(hardware->h2d_bytes_per_s, rows[i].link_gb_per_s * 1e9);
    assert_near(hardware->matrix_flop_per_s, rows[i].matrix_tflop_per_s * 1e12);
    assert_true(hardware->memory_bytes >= rows[i].least_memory_gb * 1e9);
    assert_true(hardware->memory_bytes <= rows[i].most_memory_gb * 1e9);
    ++i;
  }
  assert_int_equal(i, std::size(rows));
}

// Copies were measured at 48.8 GB/s for 1 MiB, 17.9 for 64 KiB and 53.7 for 4 MiB; both ways at once at 51.0 each.
void the_h200s_link_is_as_measured(void**) {
  Result<Hardware> h200 = find_hardware("h200");
  assert_true(static_cast<bool>(h200));
  const struct {
    double bytes, gb_per_s;
  } measured[] = {{65536, 17.9}, {1048576, 48.8}, {4194304, 53.7}};
  for (const auto& one : measured) {
    const double rate = one.bytes / (h200->copy_ns + one.bytes / h200->h2d_bytes_per_s * 1e9);
    assert_true(std::abs(rate / one.gb_per_s - 1) < 0.02);
  }
  assert_true(std::abs(h200->h2d_bytes_per_s / h200->duplex / 51.0e9 - 1) < 0.001);
}

void an_unknown_name_lists_those_that_are_known(void**) {
  for (const char* wrong : {"", "H200", "tpu"}) {
    Result<Hardware> result = find_hardware(wrong);
    assert_false(static_cast<bool>(result));
    const std::string& message = result.failure().message;
    assert_non_null(std::strstr(message.c_str(), "a100-pcie4, grace-hopper, h100, h200, rtx4090-pcie4"));
    assert_non_null(std::strstr(message.c_str(), (std::string("\"") + wrong + "\"").c_str()));
  }
}

void mistakes_are_named_with_file_and_line(void**) {
  assert_refused(with("copy_ns = 100\n", ""), ":4: ", "link.copy_ns is missing");
  assert_refused(with("memory_gib = 2\n", ""), ":1: ", "memory_gib is missing");
  const std::string complete = kComplete;
  assert_refused(complete.substr(0, complete.find("[compute]")), ":1: ", "compute.matrix_tflop_per_s is missing");
  assert_refused("", ":1: ", "memory_gib is missing");
  assert_refused(with("copy_ns", "copy_us"), ":7: ", "no \"link.copy_us\"; it has: description, source, memory_gib");
  assert_refused(with("memory_gib", "memory_gb"), ":3: ", "no \"memory_gb\"");
  assert_refused(with("[compute]\n", "[compute]\nduplex = 1\n"), ":10: ", "no \"compute.duplex\"");
  assert_refused(std::string(kComplete) + "[network]\n", ":14: ", "no \"network\"");
  assert_refused(with("duplex = 1.5", "duplex = 0.9"), ":8: ", "link.duplex must be a number from 1 to 2");
  assert_refused(with("launch_ns = 40", "launch_ns = -1"), ":12: ", "compute.launch_ns must be a number from 0 to");
  assert_refused(with("contention = 0.25", "contention = nan"), ":13: ", "from 0 to 1");
  assert_refused(with("h2d_gb_per_s = 10", "h2d_gb_per_s = 0"), ":5: ", "link.h2d_gb_per_s must be a number");
  assert_refused(with("h2d_gb_per_s = 10", "h2d_gb_per_s = \"10\""), ":5: ", "link.h2d_gb_per_s must be a number");
  assert_refused(with("\"a machine\"", "7"), ":1: ", "description must be a string");
  assert_refused("link = 5\n", ":1: ", "link must be a table");
  assert_refused(with("memory_gib = 2", "memory_gib = "), ":3: ", "");
}

void a_file_that_is_not_there_is_named(void**) {
  for (const char* path : {"/nonexistent-iokv/hardware", "nonexistent-iokv.toml"}) {
    Result<Hardware> result = find_hardware(path);
    assert_false(static_cast<bool>(result));
    assert_string_equal(result.failure().message.c_str(), (std::string(path) + ": No such file or directory").c_str());
  }
}

}  // namespace

int main() {
  const CMUnitTest tests[] = {
      cmocka_unit_test(a_file_is_read_in_base_units),
      cmocka_unit_test(what_the_host_does_may_be_said),
      cmocka_unit_test(known_names_have_the_figures_of_their_data_sheets),
      cmocka_unit_test(the_h200s_link_is_as_measured),
      cmocka_unit_test(an_unknown_name_lists_those_that_are_known),
      cmocka_unit_test(mistakes_are_named_with_file_and_line),
      cmocka_unit_test(a_file_that_is_not_there_is_named),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
