// SPDX-License-Identifier: Apache-2.0
// Round trips: NOP through the rings, which takes the conductor's whole pass, and 64 bytes to a process that sends them
// back over a Unix socket. Each once with both ends spinning and once with the client (rings) or both ends (socket)
// blocking, in turn, so that all four see the same machine. Then steps of one token, each from an idle daemon.
//
// usage: bench_nop SOCKET ROUNDS TRIPS STEPS; prints one JSON object
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <string>

#include "bench/client.h"

namespace {

using bench::now_ns;
using bench::require;

constexpr size_t kMessageBytes = 64;       // as large as an entry of the rings
constexpr uint64_t kSpinNs = 100'000'000;  // longer than any round trip: such a client never sleeps

// A child process that returns every message; ends when its socket does.
class Echo {
 public:
  explicit Echo(bool spinning) : flags_(spinning ? MSG_DONTWAIT : 0) {
    int sockets[2];
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) != 0) {
      std::perror("socketpair");
      std::exit(1);
    }
    child_ = ::fork();
    if (child_ == 0) {
      ::close(sockets[0]);
      while (receive(sockets[1])) send(sockets[1]);
      ::_exit(0);
    }
    ::close(sockets[1]);
    socket_ = sockets[0];
  }
  ~Echo() {
    ::close(socket_);
    ::waitpid(child_, nullptr, 0);
  }
  Echo(const Echo&) = delete;
  Echo& operator=(const Echo&) = delete;

  void trip() {
    send(socket_);
    if (!receive(socket_)) std::exit(1);
  }

 private:
  void send(int socket) {
    if (::send(socket, message_.data(), message_.size(), MSG_NOSIGNAL) != ssize_t{kMessageBytes}) ::_exit(1);
  }
  bool receive(int socket) {
    ssize_t size = 0;
    do {
      size = ::recv(socket, message_.data(), message_.size(), flags_);
    } while (size < 0 && (errno == EAGAIN || errno == EINTR));
    return size == ssize_t{kMessageBytes};
  }

  const int flags_;
  pid_t child_ = -1;
  int socket_ = -1;
  std::array<char, kMessageBytes> message_{};
};

template <typename Trip>
void measure(std::vector<uint64_t>& times_ns, int trips, const Trip& trip) {
  for (int i = 0; i < trips; ++i) {
    const uint64_t start_ns = now_ns();
    trip();
    times_ns.push_back(now_ns() - start_ns);
  }
}

void nop(const bench::Client& client) {
  iokv_completion completion;
  require(iokv_nop(client.get(), 1, nullptr), "iokv_nop");
  require(iokv_submit(client.get()), "iokv_submit");
  require(iokv_reap(client.get(), &completion, 1, -1), "iokv_reap");
}

uint64_t counter(const bench::Client& client, const std::string& name) {
  iokv_counter found{};
  for (uint32_t i = 0; iokv_get_counter(client.get(), i, &found) == 0; ++i) {
    if (name == found.name) return found.value;
  }
  std::fprintf(stderr, "the daemon has no counter %s\n", name.c_str());
  std::exit(1);
}

// What a step costs besides the backend's work: from the client's submit to its reap, and from the daemon's taking of the
// entry to the backend's start. Greedy, so that the next step depends on nothing but this one.
void measure_steps(bench::Client& client, int steps) {
  iokv_sequence sequence = 0;
  const std::vector<int32_t> tokens = bench::prompt(16, 1, client.info().vocabulary);
  iokv_step_options options{};
  options.struct_size = sizeof(options);
  options.tokens = tokens.data();
  options.token_count = static_cast<uint32_t>(tokens.size());
  options.max_tokens = 1;
  require(iokv_open(client.get(), nullptr, &sequence, nullptr), "iokv_open");
  require(iokv_step(client.get(), sequence, &options, nullptr), "iokv_step");
  client.drain();
  options.tokens = nullptr;
  options.token_count = 0;

  const uint64_t work_ns = counter(client, "step_ns"), first_ns = counter(client, "first_work_ns");
  const uint64_t works = counter(client, "steps"), firsts = counter(client, "first_works");
  uint64_t trips_ns = 0;
  for (int i = 0; i < steps; ++i) {
    const uint64_t start_ns = now_ns();
    require(iokv_step(client.get(), sequence, &options, nullptr), "iokv_step");
    client.drain();
    trips_ns += now_ns() - start_ns;
  }
  client.drain();
  const double worked = static_cast<double>(counter(client, "step_ns") - work_ns);
  const double first = static_cast<double>(counter(client, "first_work_ns") - first_ns);
  const double first_works = static_cast<double>(counter(client, "first_works") - firsts);
  const double step_ns = worked / static_cast<double>(counter(client, "steps") - works);
  std::printf(" \"step_ns\": %.0f, \"outside_ns\": %.0f, \"outside_share\": %.5f, \"first_work_ns\": %.0f,"
              " \"first_work_share\": %.5f",
              step_ns, (static_cast<double>(trips_ns) - worked) / steps,
              (static_cast<double>(trips_ns) - worked) / worked, first_works > 0 ? first / first_works : 0.0,
              first_works > 0 ? first / first_works / step_ns : 0.0);
}

void print(const char* name, std::vector<uint64_t>& times_ns, const char* p99_name) {
  std::printf(" \"%s\": %lu, \"%s\": %lu,", name, static_cast<unsigned long>(bench::percentile(times_ns, 50)), p99_name,
              static_cast<unsigned long>(bench::percentile(times_ns, 99)));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) {
    std::fprintf(stderr, "usage: bench_nop SOCKET ROUNDS TRIPS STEPS\n");
    return 2;
  }
  const int rounds = std::atoi(argv[2]), trips = std::atoi(argv[3]), steps = std::atoi(argv[4]);
  // A forked child must not inherit a connection: the echoes come first.
  std::vector<uint64_t> spinning_ns, blocking_ns, uds_spinning_ns, uds_blocking_ns;
  for (int round = 0; round < rounds; ++round) {
    {
      Echo echo(true);
      measure(uds_spinning_ns, trips, [&] { echo.trip(); });
    }
    {
      Echo echo(false);
      measure(uds_blocking_ns, trips, [&] { echo.trip(); });
    }
    {
      bench::Client client(argv[1], "bench nop", kSpinNs);
      measure(spinning_ns, trips, [&] { nop(client); });
    }
    {
      bench::Client client(argv[1], "bench nop", 0);
      measure(blocking_ns, trips, [&] { nop(client); });
    }
  }
  std::printf("{");
  print("p50_ns", spinning_ns, "p99_ns");
  print("blocking_p50_ns", blocking_ns, "blocking_p99_ns");
  print("uds_spinning_ns", uds_spinning_ns, "uds_spinning_p99_ns");
  print("uds_blocking_ns", uds_blocking_ns, "uds_blocking_p99_ns");
  bench::Client client(argv[1], "bench nop", 0);
  measure_steps(client, steps);
  std::printf("}\n");
  return 0;
}
