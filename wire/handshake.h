// SPDX-License-Identifier: Apache-2.0
// Control messages on the SOCK_SEQPACKET socket. A packet of one byte is a doorbell, whatever the byte; every other
// packet begins with MessageHeader. The client speaks first: HELLO; the daemon answers with any number of LOADING, then
// WELCOME (with two descriptors, up and down) or REFUSED. After that FETCH/BLOB and, from the daemon, ENDED.
// Frozen at 1.0. A receiver accepts a longer message of a known type when what it does not know is zero.
#pragma once

#include <cstddef>
#include <cstdint>

#include "wire/rings.h"

namespace iokv::wire {

inline constexpr uint32_t kMagic = 0x766b6f69;  // "iokv"
inline constexpr uint16_t kVersionMin = 1, kVersionMax = 1;
inline constexpr size_t kMaxMessageBytes = 1024;

enum class MessageType : uint16_t { hello = 1, loading = 2, welcome = 3, refused = 4, fetch = 5, blob = 6, ended = 7 };

struct MessageHeader {
  uint32_t magic;
  MessageType type;
  uint16_t bytes;  // of the whole message, = the packet's length
};

enum HelloFlags : uint32_t {
  kHelloObserver = 1,  // wants counters only: no rings, no descriptors in WELCOME, does not wait for loading
};

// What came later than 1.0: the client offers what it knows, and what the daemon knows of it holds for the connection.
enum Features : uint64_t {
  kFeatureSampling = 1,  // the fields of StepPayload since 1.1
};
inline constexpr uint64_t kFeatures = kFeatureSampling;

// Sizes of 0 ask for the daemon's default; the daemon may grant less.
struct Hello {
  MessageHeader header;
  uint16_t version_min, version_max;
  uint32_t flags;  // HelloFlags
  uint64_t features;  // Features that the client knows; 0 at 1.0
  Geometry wanted;
  char name[32];  // NUL-terminated
};

struct Loading {
  MessageHeader header;
  uint32_t percent;  // 0..100
  uint32_t reserved;
};

struct Welcome {
  MessageHeader header;
  uint16_t version;
  uint16_t reserved0;
  uint32_t flags;  // 0
  uint64_t features;  // those of HELLO that hold
  uint64_t daemon_instance;
  uint64_t client_id;
  Geometry geometry;
  uint32_t vocabulary, max_context, layers, hidden, heads, kv_heads, head_dim;
  int32_t begin_token;
  uint32_t end_token_count;
  int32_t end_tokens[8];
  uint32_t max_sequences, max_operations, max_step_tokens, max_stop_tokens;
  uint32_t reserved1;
  uint64_t pool_tokens;
  uint8_t model_digest[32];
  uint8_t tokenizer_digest[32];
  char model_name[64];
  char daemon_version[32];
};

// REFUSED instead of WELCOME, ENDED afterwards: a negative IOKV_E... code and one line for a person.
struct Farewell {
  MessageHeader header;
  int32_t code;
  char message[500];  // NUL-terminated
};

enum class BlobKind : uint32_t { counters = 1, vocabulary = 2, tokenizer = 3, chat_template = 4, trace = 5, sequences = 6 };

struct Fetch {
  MessageHeader header;
  BlobKind kind;
  uint32_t reserved;
};

// The answer to FETCH, in order. With result 0 and bytes > 0 it carries one descriptor: a sealed memfd, to be mapped
// read-only. counters: wire/counters.h. vocabulary: u32 count, u32 reserved, u64 offset[count + 1] from the start of the
// blob, bytes. tokenizer, chat_template: the file's bytes. trace: wire/trace.h, sequences: wire/sequences.h, both
// as of about the moment of asking.
struct Blob {
  MessageHeader header;
  BlobKind kind;
  int32_t result;  // 0 or a negative code
  uint64_t bytes;
};

static_assert(sizeof(MessageHeader) == 8);
static_assert(sizeof(Hello) == 72 && offsetof(Hello, features) == 16 && offsetof(Hello, name) == 40);
static_assert(sizeof(Loading) == 16);
static_assert(sizeof(Welcome) == 312 && offsetof(Welcome, geometry) == 40 && offsetof(Welcome, vocabulary) == 56);
static_assert(offsetof(Welcome, end_tokens) == 92 && offsetof(Welcome, pool_tokens) == 144);
static_assert(offsetof(Welcome, model_digest) == 152 && offsetof(Welcome, model_name) == 216);
static_assert(sizeof(Farewell) == 512);
static_assert(sizeof(Fetch) == 16 && sizeof(Blob) == 24);
static_assert(sizeof(Farewell) <= kMaxMessageBytes && sizeof(Welcome) <= kMaxMessageBytes);

}  // namespace iokv::wire
