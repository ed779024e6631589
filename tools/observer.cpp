// SPDX-License-Identifier: Apache-2.0
// HELLO{observer} -> WELCOME, FETCH{kind} -> BLOB with one sealed memfd, which is mapped and copied. The daemon is
// trusted no further than a message's length: sizes are checked before anything is read.
#include "tools/observer.h"

#include <grp.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "iokv/iokv.h"
#include "wire/handshake.h"

namespace iokv {

const std::array<CounterInfo, wire::kCounters> kCounterInfos = {{
#define IOKV_COUNTER_INFO(name, unit, meaning) {#name, unit, meaning},
    IOKV_COUNTERS(IOKV_COUNTER_INFO)
#undef IOKV_COUNTER_INFO
}};

namespace {

class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_ = -1;
};

struct Packet {
  alignas(8) std::array<std::byte, wire::kMaxMessageBytes> bytes;
  size_t size = 0;
  Descriptor descriptor;
};

std::vector<std::string> candidate_paths(const std::string& given) {
  if (!given.empty()) return {given};
  std::vector<std::string> paths;
  if (const char* path = std::getenv("IOKV_SOCKET"); path != nullptr && *path != '\0') paths.emplace_back(path);
  if (const char* directory = std::getenv("XDG_RUNTIME_DIR"); directory != nullptr && *directory != '\0') {
    paths.push_back(std::string(directory) + "/iokv.sock");
  }
  paths.emplace_back("/run/iokv/iokv.sock");
  return paths;
}

Error not_permitted(const std::string& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) return error(fmt::format("{}: permission denied", path), IOKV_EACCES);
  const group* entry = ::getgrgid(status.st_gid);
  return error(fmt::format("{}: permission denied: join the group {}", path,
                           entry != nullptr ? entry->gr_name : std::to_string(status.st_gid)),
               IOKV_EACCES);
}

Result<Descriptor> connect_to(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) {
    return error(fmt::format("{}: longer than the {} bytes of a socket path", path, sizeof(address.sun_path) - 1),
                 IOKV_EINVAL);
  }
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  Descriptor socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (socket.get() < 0) return error(fmt::format("socket: {}", std::strerror(errno)), IOKV_ENOMEM);
  const timeval limit{.tv_sec = 5, .tv_usec = 0};
  ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
  ::setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    if (errno == EACCES || errno == EPERM) return not_permitted(path);
    return error(fmt::format("no daemon listens on {} ({})", path, std::strerror(errno)), IOKV_ENODAEMON);
  }
  return socket;
}

template <typename Message>
Status send(const Descriptor& socket, const Message& message) {
  if (::send(socket.get(), &message, sizeof(message), MSG_NOSIGNAL) == ssize_t{sizeof(message)}) return {};
  return error(fmt::format("sending to the daemon: {}", std::strerror(errno)), IOKV_ECLOSED);
}

Result<Packet> receive(const Descriptor& socket) {
  Packet packet;
  iovec vector{packet.bytes.data(), packet.bytes.size()};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  const ssize_t size = ::recvmsg(socket.get(), &message, MSG_CMSG_CLOEXEC);
  if (size < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
    return error("the daemon has not answered for 5 s", IOKV_ETIMEDOUT);
  }
  if (size <= 0) return error("the daemon closed the connection", IOKV_ECLOSED);
  packet.size = static_cast<size_t>(size);
  const cmsghdr* header = CMSG_FIRSTHDR(&message);
  if (header != nullptr && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS) {
    int fd = -1;
    std::memcpy(&fd, CMSG_DATA(header), sizeof(fd));
    packet.descriptor = Descriptor(fd);
  }
  return packet;
}

template <typename Message>
Result<Message> parse(const Packet& packet) {
  if (packet.size < sizeof(Message)) return error("the daemon sent a message that is too short", IOKV_EPROTOCOL);
  Message message;
  std::memcpy(&message, packet.bytes.data(), sizeof(message));
  return message;
}

// Receives until a message of the wanted type; doorbells (one byte) and LOADING on the way mean nothing here.
Result<Packet> await(const Descriptor& socket, wire::MessageType wanted) {
  for (int packets = 0; packets < 1000; ++packets) {
    IOKV_TRY_ASSIGN(Packet packet, receive(socket));
    if (packet.size == 1) continue;
    IOKV_TRY_ASSIGN(const wire::MessageHeader header, parse<wire::MessageHeader>(packet));
    if (header.magic != wire::kMagic) return error("what listens there is no iokvd", IOKV_EPROTOCOL);
    if (header.type == wanted) return packet;
    if (header.type == wire::MessageType::refused || header.type == wire::MessageType::ended) {
      IOKV_TRY_ASSIGN(wire::Farewell farewell, parse<wire::Farewell>(packet));
      farewell.message[sizeof(farewell.message) - 1] = '\0';
      return error(farewell.message, farewell.code);
    }
  }
  return error("the daemon does not answer the request", IOKV_EPROTOCOL);
}

template <typename Message>
wire::MessageHeader header_of(wire::MessageType type) {
  return {.magic = wire::kMagic, .type = type, .bytes = sizeof(Message)};
}

constexpr uint64_t kMostBlobBytes = uint64_t{1} << 30;  // 1,024 steps of a trace are 320 MiB at the most

Result<wire::Blob> check_blob(const Packet& packet) {
  IOKV_TRY_ASSIGN(const wire::Blob blob, parse<wire::Blob>(packet));
  if (blob.result == IOKV_EUNSUPPORTED) {
    return error("this daemon cannot say that: it is older than this iokv", IOKV_EUNSUPPORTED);
  }
  if (blob.result != 0) return error(fmt::format("the daemon does not answer (code {})", blob.result), blob.result);
  return blob;
}

Result<const void*> map_counters(const Packet& packet) {
  IOKV_TRY(check_blob(packet));
  struct stat status {};
  if (packet.descriptor.get() < 0 || ::fstat(packet.descriptor.get(), &status) != 0 ||
      status.st_size < off_t{wire::kCounterBytes}) {
    return error("the daemon's counters are shorter than a page", IOKV_EPROTOCOL);
  }
  const void* page = ::mmap(nullptr, wire::kCounterBytes, PROT_READ, MAP_SHARED, packet.descriptor.get(), 0);
  if (page == MAP_FAILED) return error(fmt::format("mapping the counters: {}", std::strerror(errno)), IOKV_ENOMEM);
  return page;
}

// Relaxed like the daemon's stores: each counter is right by itself, together they are of nearly one moment.
void copy_counters(const void* page, CounterSnapshot& snapshot) {
  const auto* slots = static_cast<const uint64_t*>(page);
  snapshot.known =
      static_cast<uint32_t>(std::min<uint64_t>(__atomic_load_n(&slots[0], __ATOMIC_RELAXED), wire::kCounters));
  for (uint32_t i = 0; i < snapshot.known; ++i) snapshot.values[i] = __atomic_load_n(&slots[i + 1], __ATOMIC_RELAXED);
}

Result<std::vector<std::byte>> copy_blob(const Packet& packet) {
  IOKV_TRY_ASSIGN(const wire::Blob blob, check_blob(packet));
  if (blob.bytes == 0) return std::vector<std::byte>();
  struct stat status {};
  if (packet.descriptor.get() < 0 || ::fstat(packet.descriptor.get(), &status) != 0 || blob.bytes > kMostBlobBytes ||
      status.st_size < static_cast<off_t>(blob.bytes)) {
    return error("the daemon's answer is shorter than it says", IOKV_EPROTOCOL);
  }
  void* memory = ::mmap(nullptr, blob.bytes, PROT_READ, MAP_SHARED, packet.descriptor.get(), 0);
  if (memory == MAP_FAILED) return error(fmt::format("mapping the answer: {}", std::strerror(errno)), IOKV_ENOMEM);
  const auto* bytes = static_cast<const std::byte*>(memory);
  std::vector<std::byte> copy(bytes, bytes + blob.bytes);
  ::munmap(memory, blob.bytes);
  return copy;
}

// The packet with the BLOB.
Result<Packet> fetch(const Descriptor& socket, wire::BlobKind kind) {
  wire::Hello hello{};
  hello.header = header_of<wire::Hello>(wire::MessageType::hello);
  hello.version_min = wire::kVersionMin;
  hello.version_max = wire::kVersionMax;
  hello.flags = wire::kHelloObserver;
  std::strcpy(hello.name, "iokv");
  IOKV_TRY(send(socket, hello));
  IOKV_TRY(await(socket, wire::MessageType::welcome));

  wire::Fetch fetch{};
  fetch.header = header_of<wire::Fetch>(wire::MessageType::fetch);
  fetch.kind = kind;
  IOKV_TRY(send(socket, fetch));
  return await(socket, wire::MessageType::blob);
}

struct Fetched {
  std::string socket_path;
  Descriptor socket;
  Packet packet;
};

// From the first daemon that is there.
Result<Fetched> fetch_from(const std::string& socket_path, wire::BlobKind kind) {
  Error last = error("no socket path to try", IOKV_ENODAEMON);
  for (const std::string& path : candidate_paths(socket_path)) {
    Result<Descriptor> socket = connect_to(path);
    if (!socket) {
      last = std::move(socket.failure());
      if (last.code == IOKV_ENODAEMON) continue;
      return last;
    }
    Result<Packet> packet = fetch(*socket, kind);
    if (!packet) return std::move(packet.failure()).within(path);
    return Fetched{path, *std::move(socket), *std::move(packet)};
  }
  return last;
}

}  // namespace

Result<CounterSnapshot> read_counters(const std::string& socket_path) {
  IOKV_TRY_ASSIGN(const CounterWatch watch, CounterWatch::open(socket_path));
  if (auto snapshot = watch.read()) return *std::move(snapshot);
  return error("the daemon closed the connection", IOKV_ECLOSED);
}

Result<CounterWatch> CounterWatch::open(const std::string& socket_path) {
  IOKV_TRY_ASSIGN(Fetched fetched, fetch_from(socket_path, wire::BlobKind::counters));
  Result<const void*> page = map_counters(fetched.packet);
  if (!page) return std::move(page.failure()).within(fetched.socket_path);
  return CounterWatch(fetched.socket_path, fetched.socket.release(), *page);
}

CounterWatch::CounterWatch(std::string socket_path, int socket, const void* page)
    : socket_path_(std::move(socket_path)), socket_(socket), page_(page) {}

CounterWatch::CounterWatch(CounterWatch&& other) noexcept
    : socket_path_(std::move(other.socket_path_)),
      socket_(std::exchange(other.socket_, -1)),
      page_(std::exchange(other.page_, nullptr)) {}

CounterWatch::~CounterWatch() {
  if (socket_ >= 0) ::close(socket_);
  if (page_ != nullptr) ::munmap(const_cast<void*>(page_), wire::kCounterBytes);
}

std::optional<CounterSnapshot> CounterWatch::read() const {
  // The daemon says nothing to an observer but goodbye.
  pollfd said{socket_, POLLIN, 0};
  if (::poll(&said, 1, 0) != 0) return std::nullopt;
  CounterSnapshot snapshot;
  snapshot.socket_path = socket_path_;
  copy_counters(page_, snapshot);
  return snapshot;
}

Result<ObservedBlob> read_blob(const std::string& socket_path, wire::BlobKind kind) {
  IOKV_TRY_ASSIGN(const Fetched fetched, fetch_from(socket_path, kind));
  auto bytes = copy_blob(fetched.packet);
  if (!bytes) return std::move(bytes.failure()).within(fetched.socket_path);
  return ObservedBlob{fetched.socket_path, *std::move(bytes)};
}

}  // namespace iokv
