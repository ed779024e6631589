// SPDX-License-Identifier: Apache-2.0
// Sockets, descriptors and shared memory as the kernel sees them: who may listen, what a client can do to memory that it
// was handed, what becomes of clients that do not read.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>

#include "daemon/base/monotonic.h"
#include "daemon/session/blob.h"
#include "daemon/session/listener.h"
#include "daemon/session/messages.h"
#include "daemon/session/regions.h"
#include "include/iokv/iokv.h"

#include "tests/cmocka_cpp.h"

using namespace iokv;

namespace {

constexpr wire::Geometry kGeometry{16, 16, 4096, 4096};

class Directory {
 public:
  Directory() {
    char path[] = "/tmp/iokv-test-XXXXXX";
    path_ = ::mkdtemp(path);
  }
  ~Directory() { std::filesystem::remove_all(path_); }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

Descriptor connected_to(const std::string& path) {
  Descriptor socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
  if (::connect(socket.number(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) return Descriptor();
  return socket;
}

void assert_mentions(const std::string& message, const std::string& what) {
  if (message.find(what) == std::string::npos) fail_msg("\"%s\" does not mention %s", message.c_str(), what.c_str());
  assert_true(message.find('\n') == std::string::npos);
}

void a_second_daemon_on_the_same_path_is_told_so(void**) {
  Directory directory;
  auto first = Listener::open(directory / "s");
  assert_true(static_cast<bool>(first));
  auto second = Listener::open(directory / "s");
  assert_false(static_cast<bool>(second));
  assert_mentions(second.failure().message, "another iokvd already listens");
}

void a_stale_socket_is_replaced(void**) {
  Directory directory;
  const std::string path = directory / "s";
  {
    Descriptor dead(::socket(AF_UNIX, SOCK_SEQPACKET, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, path.c_str());
    assert_int_equal(::bind(dead.number(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  }
  auto listener = Listener::open(path);
  assert_true(static_cast<bool>(listener));
  assert_true(static_cast<bool>(connected_to(path)));
  struct stat file{};
  assert_int_equal(::stat(path.c_str(), &file), 0);
  assert_int_equal(file.st_mode & 0777, 0660);
}

void a_socket_that_somebody_else_serves_is_not_taken(void**) {
  Directory directory;
  const std::string path = directory / "s";
  Descriptor other(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strcpy(address.sun_path, path.c_str());
  assert_int_equal(::bind(other.number(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  assert_int_equal(::listen(other.number(), 1), 0);
  auto listener = Listener::open(path);
  assert_false(static_cast<bool>(listener));
  assert_mentions(listener.failure().message, "another process listens");
  assert_true(std::filesystem::exists(path));
}

// In a child that has given up root, to whom every directory is open.
void a_directory_that_may_not_be_written_is_named(void**) {
  constexpr uid_t nobody = 65534;
  Directory directory;
  assert_int_equal(::chmod((directory / "").c_str(), 0555), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    if (::geteuid() == 0 && ::setuid(nobody) != 0) ::_exit(2);
    auto listener = Listener::open(directory / "s");
    ::_exit(!listener && listener.failure().message.find("no permission to write in") != std::string::npos ? 0 : 1);
  }
  int status = -1;
  assert_int_equal(::waitpid(child, &status, 0), child);
  assert_true(WIFEXITED(status));
  assert_int_equal(WEXITSTATUS(status), 0);
}

void what_is_no_socket_is_left_alone(void**) {
  Directory directory;
  std::ofstream(directory / "s") << "precious";
  auto listener = Listener::open(directory / "s");
  assert_false(static_cast<bool>(listener));
  assert_mentions(listener.failure().message, "is not a socket");
  assert_true(std::filesystem::exists(directory / "s"));
}

void bad_paths_say_what_is_wrong(void**) {
  Directory directory;
  auto missing = Listener::open(directory / "nowhere/s");
  assert_mentions(missing.failure().message, "there is no directory");
  auto longest = Listener::open(directory / std::string(200, 'x'));
  assert_mentions(longest.failure().message, "the system allows 107");
}

void the_socket_goes_with_its_listener(void**) {
  Directory directory;
  const std::string path = directory / "s";
  { assert_true(static_cast<bool>(Listener::open(path))); }
  assert_false(std::filesystem::exists(path));
  assert_false(std::filesystem::exists(path + ".lock"));
}

void the_kernel_says_who_connected(void**) {
  Directory directory;
  auto listener = Listener::open(directory / "s");
  Descriptor client = connected_to(directory / "s");
  auto accepted = listener->accept();
  assert_true(accepted && accepted->has_value());
  assert_int_equal((*accepted)->pid(), ::getpid());
  assert_int_equal((*accepted)->uid(), ::getuid());
  auto nobody = listener->accept();
  assert_true(nobody && !nobody->has_value());
}

void doorbells_messages_and_hang_ups_are_told_apart(void**) {
  Directory directory;
  auto listener = Listener::open(directory / "s");
  Descriptor client = connected_to(directory / "s");
  Peer peer = *std::move(*listener->accept());
  const char bells[3] = {0, 1, 2};
  for (const char& bell : bells) assert_int_equal(::send(client.number(), &bell, 1, 0), 1);
  assert_int_equal(::send(client.number(), "message", 7, 0), 7);
  Peer::Received received = peer.receive();
  assert_int_equal(received.doorbells, 3);
  assert_int_equal(received.message->size(), 7);
  assert_false(received.hangup);
  const std::string huge(5000, 'x');
  ::send(client.number(), huge.data(), huge.size(), 0);
  assert_true(peer.receive().oversized);
  client.close();
  assert_true(peer.receive().hangup);
}

void a_client_that_does_not_read_blocks_nobody(void**) {
  Directory directory;
  auto listener = Listener::open(directory / "s");
  Descriptor client = connected_to(directory / "s");
  Peer peer = *std::move(*listener->accept());
  const wire::Loading message = make_loading(1);
  bool full = false;
  for (int i = 0; i < 100'000 && !full; i++) full = peer.send_message(bytes_of(message)) == Peer::Sent::full;
  assert_true(full);
  assert_true(peer.ring());  // it has been rung already
}

void nobody_can_shrink_grow_or_unseal_the_regions(void**) {
  auto regions = Regions::create(kGeometry);
  assert_true(static_cast<bool>(regions));
  for (int descriptor : {regions->up_descriptor(), regions->down_descriptor()}) {
    assert_int_equal(::ftruncate(descriptor, 0), -1);
    assert_int_equal(::ftruncate(descriptor, 1 << 24), -1);
    assert_int_equal(::fcntl(descriptor, F_ADD_SEALS, F_SEAL_WRITE), -1);
    assert_int_equal(errno, EPERM);
  }
}

void a_client_can_only_read_down(void**) {
  auto regions = Regions::create(kGeometry);
  const int down = regions->down_descriptor();
  const size_t bytes = wire::down_bytes(kGeometry);
  assert_ptr_equal(::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, down, 0), MAP_FAILED);
  assert_int_equal(::pwrite(down, "x", 1, 0), -1);
  assert_int_equal(::fallocate(down, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), -1);
  const Descriptor reopened(::open(("/proc/self/fd/" + std::to_string(down)).c_str(), O_RDWR | O_CLOEXEC));
  if (reopened) {
    assert_ptr_equal(::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, reopened.number(), 0), MAP_FAILED);
  }
  auto* seen = static_cast<volatile char*>(::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, down, 0));
  assert_true(seen != MAP_FAILED);
  regions->down()[100] = std::byte{42};
  assert_int_equal(seen[100], 42);
  ::munmap(const_cast<char*>(seen), bytes);
}

void a_report_is_made_anew_in_a_twentieth_of_the_time_at_most(void**) {
  int made = 0;
  Report report("test", [&made] {
    made++;
    return std::vector<std::byte>(8, static_cast<std::byte>(made));
  });
  const uint64_t asked_ns = monotonic_ns();
  const int first = (*report.get(asked_ns))->descriptor();
  const uint64_t took_ns = monotonic_ns() - asked_ns;
  assert_int_equal((*report.get(asked_ns))->descriptor(), first);
  assert_int_equal(made, 1);
  // Making it has taken no longer than this thread has seen.
  assert_true(static_cast<bool>(report.get(asked_ns + (Report::kPause + 1) * took_ns)));
  assert_int_equal(made, 2);
}

void blobs_cannot_be_written_and_the_vocabulary_is_laid_out_as_said(void**) {
  const std::vector<std::byte> bytes = vocabulary_bytes({"a", "", "bcd"});
  const uint64_t offsets[] = {8 + 4 * 8, 41, 41, 44};
  uint32_t count;
  std::memcpy(&count, bytes.data(), sizeof count);
  assert_int_equal(count, 3);
  assert_memory_equal(bytes.data() + 8, offsets, sizeof offsets);
  assert_memory_equal(bytes.data() + 40, "abcd", 4);
  auto blob = SharedBlob::create("test", bytes);
  assert_int_equal(::pwrite(blob->descriptor(), "x", 1, 0), -1);
  auto page = CountersPage::create();
  page->set(wire::Counter::steps, 7);
  page->add(wire::Counter::steps, 2);
  assert_int_equal(page->get(wire::Counter::steps), 9);
  uint64_t words[2 + static_cast<size_t>(wire::Counter::steps)];
  assert_int_equal(::pread(page->descriptor(), words, sizeof words, 0), sizeof words);
  assert_int_equal(words[0], wire::kCounters);
  assert_int_equal(words[1 + static_cast<size_t>(wire::Counter::steps)], 9);
  assert_int_equal(::pwrite(page->descriptor(), "x", 1, 0), -1);
}

void a_hello_is_checked_to_its_last_byte(void**) {
  wire::Hello hello{};
  hello.header = {wire::kMagic, wire::MessageType::hello, sizeof hello};
  hello.version_min = hello.version_max = 1;
  std::strcpy(hello.name, "test\n");
  auto parsed = parse_hello(bytes_of(hello));
  assert_true(static_cast<bool>(parsed));
  assert_string_equal(name_of(*parsed).c_str(), "test?");
  assert_false(static_cast<bool>(parse_hello(bytes_of(hello).first(sizeof hello - 1))));
  wire::Hello unknown = hello;
  unknown.flags = 8;
  assert_int_equal(parse_hello(bytes_of(unknown)).failure().code, IOKV_EUNSUPPORTED);
  wire::Hello endless = hello;
  std::memset(endless.name, 'x', sizeof endless.name);
  assert_int_equal(parse_hello(bytes_of(endless)).failure().code, IOKV_EPROTOCOL);
  wire::Hello future = hello;
  future.version_min = 2, future.version_max = 9;
  assert_int_equal(agree_on_version(*parse_hello(bytes_of(future))).failure().code, IOKV_EVERSION);
  // A newer client's longer message is fine while what we do not know is zero.
  std::vector<std::byte> longer(bytes_of(hello).begin(), bytes_of(hello).end());
  longer.resize(sizeof hello + 8);
  const uint16_t size = static_cast<uint16_t>(longer.size());
  std::memcpy(longer.data() + offsetof(wire::MessageHeader, bytes), &size, sizeof size);
  assert_true(static_cast<bool>(parse_hello(longer)));
  longer.back() = std::byte{1};
  assert_false(static_cast<bool>(parse_hello(longer)));
}

void a_client_gets_what_it_asked_for_within_the_limits(void**) {
  const GeometryLimits limits;
  const wire::Geometry usual = grant({}, limits, 1000);
  assert_int_equal(usual.submission_entries, limits.submission_entries.usual);
  const wire::Geometry greedy = grant({1u << 31, 1u << 31, 1u << 31, 1u << 31}, limits, 1000);
  assert_int_equal(greedy.arena_bytes, limits.arena_bytes.largest);
  const wire::Geometry modest = grant({1, 1, 1, 1}, limits, 100'000);
  assert_int_equal(modest.completion_entries, limits.completion_entries.smallest);
  assert_true(modest.result_bytes >= 2 * 100'000 * sizeof(float));
}

}  // namespace

int main() {
  const CMUnitTest tests[] = {
      cmocka_unit_test(a_second_daemon_on_the_same_path_is_told_so),
      cmocka_unit_test(a_stale_socket_is_replaced),
      cmocka_unit_test(a_socket_that_somebody_else_serves_is_not_taken),
      cmocka_unit_test(a_directory_that_may_not_be_written_is_named),
      cmocka_unit_test(what_is_no_socket_is_left_alone),
      cmocka_unit_test(bad_paths_say_what_is_wrong),
      cmocka_unit_test(the_socket_goes_with_its_listener),
      cmocka_unit_test(the_kernel_says_who_connected),
      cmocka_unit_test(doorbells_messages_and_hang_ups_are_told_apart),
      cmocka_unit_test(a_client_that_does_not_read_blocks_nobody),
      cmocka_unit_test(nobody_can_shrink_grow_or_unseal_the_regions),
      cmocka_unit_test(a_client_can_only_read_down),
      cmocka_unit_test(a_report_is_made_anew_in_a_twentieth_of_the_time_at_most),
      cmocka_unit_test(blobs_cannot_be_written_and_the_vocabulary_is_laid_out_as_said),
      cmocka_unit_test(a_hello_is_checked_to_its_last_byte),
      cmocka_unit_test(a_client_gets_what_it_asked_for_within_the_limits),
  };
  return cmocka_run_group_tests(tests, nullptr, nullptr);
}
