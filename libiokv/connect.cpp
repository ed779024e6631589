// SPDX-License-Identifier: Apache-2.0
// iokv_connect and iokv_disconnect: from options to a handle and back. The thread that calls; blocking.
#include <bit>
#include <cerrno>
#include <cstring>
#include <memory>

#include "libiokv/client.h"
#include "libiokv/struct_size.h"

iokv_client::iokv_client(iokv::Descriptor socket, const iokv::Welcomed& welcomed, uint64_t spin)
    : facts(welcomed.facts),
      spin_ns(spin),
      up(welcomed.up, iokv::wire::up_bytes(facts.geometry), iokv::Region::Access::read_write, "region `up`"),
      down(welcomed.down, iokv::wire::down_bytes(facts.geometry), iokv::Region::Access::read_only, "region `down`"),
      channel(std::move(socket), down.data() + iokv::wire::kDownEndCode),
      sequences(facts.max_sequences),
      submissions(facts.geometry, up.data(), down.data()),
      completions(facts.geometry, up.data(), down.data()),
      results(facts.geometry, facts.vocabulary, down.data()) {}

namespace iokv {
namespace {

constexpr int64_t kDefaultTimeoutNs = 60 * kSecondNs;

uint32_t checked_size(uint32_t value, const char* name) {
  if (value == 0 || std::has_single_bit(value)) return value;
  throw Failure{IOKV_EINVAL, std::string(name) + " is " + std::to_string(value) + ": give a power of two, or 0"};
}

wire::Hello hello_of(const iokv_connect_options& options) {
  wire::Hello hello{};
  hello.header = header_of<wire::Hello>(wire::MessageType::hello);
  hello.version_min = wire::kVersionMin;
  hello.version_max = wire::kVersionMax;
  hello.features = wire::kFeatures;
  hello.wanted.submission_entries = checked_size(options.submission_entries, "submission_entries");
  hello.wanted.completion_entries = checked_size(options.completion_entries, "completion_entries");
  hello.wanted.arena_bytes = checked_size(options.arena_bytes, "arena_bytes");
  hello.wanted.result_bytes = checked_size(options.result_bytes, "result_bytes");
  if (options.name != nullptr && std::strlen(options.name) >= sizeof hello.name) {
    throw Failure{IOKV_EINVAL, std::string("the name has more than 31 bytes: ") + options.name};
  }
  std::strncpy(hello.name, options.name != nullptr ? options.name : program_invocation_short_name,
               sizeof hello.name - 1);
  return hello;
}

std::unique_ptr<iokv_client> connect(const iokv_connect_options* given) {
  iokv_connect_options options{};
  if (given != nullptr && !read_struct(given, options)) {
    throw Failure{IOKV_EINVAL, "the options' struct_size is impossible, or they ask for what this library does not know"};
  }
  if (options.flags != 0) throw Failure{IOKV_EINVAL, "the options' flags must be 0"};
  wire::Hello hello = hello_of(options);
  Deadline deadline = Deadline::after(options.timeout_ns == 0 ? kDefaultTimeoutNs : options.timeout_ns);
  Connected connected = connect_first(socket_candidates(options.socket_path), deadline);
  Welcomed welcomed = shake_hands(connected, hello, deadline);
  return std::make_unique<iokv_client>(std::move(connected.socket), welcomed, options.spin_ns);
}

}  // namespace
}  // namespace iokv

int iokv_connect(const iokv_connect_options* options, iokv_client** client, iokv_error_detail* detail) {
  if (client == nullptr || !iokv::detail_is_usable(detail)) return IOKV_EINVAL;
  return iokv::guarded(
      [&] {
        *client = iokv::connect(options).release();
        iokv::write_detail(detail, 0, "");
        return 0;
      },
      detail);
}

void iokv_disconnect(iokv_client* client) {
  if (client == nullptr) return;
  if (client->guard.forked()) {
    for (iokv::Region* region : {&client->up, &client->down, &client->counters.bytes, &client->vocabulary.bytes,
                                 &client->tokenizer.bytes, &client->chat_template.bytes}) {
      region->abandon();
    }
  } else {
    // The hang-up reaches the daemon even if a forked child still holds the socket.
    client->channel.end(IOKV_ECLOSED, "iokv_disconnect was called");
  }
  delete client;
}
