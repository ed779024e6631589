// SPDX-License-Identifier: Apache-2.0
// A daemon's end of one connection, written from docs/protocol.md with its numbers and without code of libiokv or iokvd.
// It does nothing by itself: a test takes entries and posts completions, honest or not, in the order that it wants.
//
// Invariants
//  1. Only serve() has a thread of its own, for iokv_connect blocks; it has ended when the constructor of Connection ends.
//  2. Nothing else here waits.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "iokv/iokv.h"
#include "tests/cmocka_cpp.h"
#include "wire/handshake.h"

namespace iokv {

inline constexpr wire::Geometry kSmall{8, 16, 4096, 4096};
inline constexpr uint32_t kVocabulary = 100;

class FakeDaemon {
 public:
  explicit FakeDaemon(const wire::Geometry& geometry = kSmall) : geometry_(geometry) {
    char pattern[] = "/tmp/iokv-test-XXXXXX";
    directory_ = ::mkdtemp(pattern);
    path_ = directory_ + "/iokv.sock";
    listener_ = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path_.data(), path_.size());
    assert_int_equal(::bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    assert_int_equal(::listen(listener_, 4), 0);
    welcome.header = {wire::kMagic, wire::MessageType::welcome, sizeof welcome};
    welcome.version = 1;
    welcome.geometry = geometry;
    welcome.vocabulary = kVocabulary;
    welcome.max_context = 1 << 20;
    welcome.max_sequences = 4;
    welcome.max_operations = geometry.completion_entries;
    welcome.max_step_tokens = 1 << 20;
    welcome.max_stop_tokens = 8;
    welcome.begin_token = -1;
  }
  ~FakeDaemon() {
    die();
    ::close(listener_);
    if (up_ != nullptr) ::munmap(up_, up_bytes_), ::munmap(down_, down_bytes_);
    ::unlink(path_.c_str());
    ::rmdir(directory_.c_str());
  }
  FakeDaemon(const FakeDaemon&) = delete;

  const std::string& path() const { return path_; }
  const std::string& directory() const { return directory_; }
  wire::Welcome welcome{};
  wire::Hello hello{};
  int seals = F_SEAL_SHRINK | F_SEAL_GROW;

  void accept_hello() {
    socket_ = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    if (::recv(socket_, &hello, sizeof hello, 0) != sizeof hello) std::abort();
  }
  void serve() {
    accept_hello();
    up_bytes_ = 4096 + pages(geometry_.submission_entries * 64) + geometry_.arena_bytes;
    down_bytes_ = 4096 + pages(geometry_.completion_entries * 64) + geometry_.result_bytes;
    int descriptors[2] = {share("up", up_bytes_, up_), share("down", down_bytes_, down_)};
    char control[CMSG_SPACE(sizeof descriptors)] = {};
    iovec part{&welcome, sizeof welcome};
    msghdr message{};
    message.msg_iov = &part, message.msg_iovlen = 1;
    message.msg_control = control, message.msg_controllen = sizeof control;
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET, header->cmsg_type = SCM_RIGHTS, header->cmsg_len = CMSG_LEN(sizeof descriptors);
    std::memcpy(CMSG_DATA(header), descriptors, sizeof descriptors);
    if (::sendmsg(socket_, &message, MSG_NOSIGNAL) < 0) std::abort();
    ::close(descriptors[0]), ::close(descriptors[1]);
  }

  // ---- words and memory, by the document's offsets
  std::atomic_ref<uint32_t> up(size_t offset) const { return word(up_ + offset); }
  std::atomic_ref<uint32_t> down(size_t offset) const { return word(down_ + offset); }
  uint32_t announced() const { return up(0).load(std::memory_order_acquire); }
  uint32_t completion_head() const { return up(128).load(std::memory_order_acquire); }
  uint32_t result_head() const { return up(256).load(std::memory_order_acquire); }
  uint32_t client_flags() const { return up(384).load(std::memory_order_seq_cst); }
  void set_flags(uint32_t flags) { down(384).store(flags, std::memory_order_seq_cst); }

  bool has_entry() const { return announced() != taken_; }
  wire::Submission take() {
    wire::Submission entry;
    std::memcpy(&entry, up_ + 4096 + (taken_++ % geometry_.submission_entries) * 64, sizeof entry);
    return entry;
  }
  // Here and in announce(): the full fence before the client's flags are looked at.
  void free_taken() { down(128).store(taken_, std::memory_order_seq_cst); }
  std::vector<int32_t> words_of(const wire::Submission& entry) const {
    const std::byte* arena = up_ + 4096 + pages(geometry_.submission_entries * 64);
    std::vector<int32_t> words(entry.payload_bytes / 4);
    std::memcpy(words.data(), arena + entry.payload_offset % geometry_.arena_bytes, entry.payload_bytes);
    return words;
  }

  void post(const wire::Completion& completion) {
    std::memcpy(down_ + 4096 + (posted_++ % geometry_.completion_entries) * 64, &completion, sizeof completion);
  }
  void announce() { down(256).store(posted_, std::memory_order_seq_cst); }
  void complete(const wire::Submission& entry, int32_t result = 0, uint32_t flags = 0) {
    wire::Completion completion{};
    completion.operation = entry.operation;
    completion.user_data = entry.user_data;
    completion.sequence = entry.sequence;
    completion.result = result;
    completion.flags = flags;
    post(completion);
  }
  // Takes every announced entry and completes those that are no parts.
  uint32_t serve_all() {
    uint32_t count = 0;
    for (; has_entry(); count++) {
      const wire::Submission entry = take();
      if ((entry.flags & 4) == 0) complete(entry);
    }
    free_taken();
    announce();
    return count;
  }
  std::byte* results() { return down_ + 4096 + pages(geometry_.completion_entries * 64); }

  // ---- socket
  void ring() { (void)::send(socket_, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL); }
  // Doorbells since the last time.
  uint32_t doorbells() {
    char byte;
    uint32_t count = 0;
    while (::recv(socket_, &byte, 1, MSG_DONTWAIT) == 1) count++;
    return count;
  }
  template <typename Message>
  void send(const Message& message) { (void)::send(socket_, &message, sizeof message, MSG_NOSIGNAL); }
  void say(wire::MessageType type, int32_t code, const char* text) {
    wire::Farewell farewell{};
    farewell.header = {wire::kMagic, type, sizeof farewell};
    farewell.code = code;
    std::strncpy(farewell.message, text, sizeof farewell.message - 1);
    send(farewell);
  }
  void die() {
    if (socket_ >= 0) ::close(socket_);
    socket_ = -1;
  }

 private:
  static size_t pages(size_t bytes) { return (bytes + 4095) / 4096 * 4096; }
  static std::atomic_ref<uint32_t> word(std::byte* address) {
    return std::atomic_ref<uint32_t>(*reinterpret_cast<uint32_t*>(address));
  }
  int share(const char* name, size_t bytes, std::byte*& mapping) const {
    int descriptor = ::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (::ftruncate(descriptor, static_cast<off_t>(bytes)) != 0) std::abort();
    mapping = static_cast<std::byte*>(::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0));
    if (seals != 0 && ::fcntl(descriptor, F_ADD_SEALS, seals) != 0) std::abort();
    return descriptor;
  }

  wire::Geometry geometry_;
  std::string directory_, path_;
  int listener_ = -1, socket_ = -1;
  std::byte *up_ = nullptr, *down_ = nullptr;
  size_t up_bytes_ = 0, down_bytes_ = 0;
  uint32_t taken_ = 0, posted_ = 0;
};

// A client of a FakeDaemon.
class Connection {
 public:
  explicit Connection(FakeDaemon& daemon, iokv_connect_options options = {}) {
    options.struct_size = sizeof options;
    options.socket_path = daemon.path().c_str();
    std::thread serving([&] { daemon.serve(); });
    detail.struct_size = sizeof detail;
    code = iokv_connect(&options, &client, &detail);
    serving.join();
  }
  ~Connection() { iokv_disconnect(client); }
  Connection(const Connection&) = delete;
  operator iokv_client*() const { return client; }

  iokv_client* client = nullptr;
  iokv_error_detail detail{};
  int code;
};

// A step of these tokens; other fields can be set behind it.
inline iokv_step_options step_of(const std::vector<int32_t>& tokens, uint32_t max_tokens = 0) {
  iokv_step_options options{};
  options.struct_size = sizeof options;
  options.tokens = tokens.data();
  options.token_count = static_cast<uint32_t>(tokens.size());
  options.max_tokens = max_tokens;
  return options;
}

inline constexpr iokv_sequence kSequence = (uint64_t{1} << 32) | 0;

}  // namespace iokv
