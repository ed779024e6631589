// SPDX-License-Identifier: Apache-2.0
#include "daemon/offer.h"

#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "daemon/model/digest.h"
#include "iokv/iokv.h"

namespace iokv {
namespace {

constexpr uint32_t kMaxStepTokens = 1u << 20;
constexpr uint32_t kMaxStopTokens = 256;

Result<uint64_t> random_number() {
  uint64_t number = 0;
  while (number == 0) {
    if (::getrandom(&number, sizeof number, 0) != sizeof number) return error("getrandom: " + std::string(strerror(errno)));
  }
  return number;
}

Result<SharedBlob> blob_of(const std::string& name, const std::string& text) {
  if (text.empty()) return SharedBlob();
  return SharedBlob::create(name, std::as_bytes(std::span(text)));
}

}  // namespace

Result<Offer> Offer::make(const ModelFiles& files, const OfferLimits& limits) {
  const ModelSpec& spec = files.spec();
  IOKV_TRY_ASSIGN(CountersPage counters, CountersPage::create());
  Offer offer(std::move(counters));
  if (least_result_bytes(spec.vocab) > offer.geometry_limits_.result_bytes.largest) {
    return error(files.path() + ": a vocabulary of " + std::to_string(spec.vocab) +
                 " tokens: logits of more than half of the largest result buffer cannot be handed out");
  }
  offer.session_limits_.vocabulary = spec.vocab;
  offer.session_limits_.max_step_tokens = std::min(2 * limits.max_context, kMaxStepTokens);
  offer.session_limits_.max_stop_tokens = kMaxStopTokens;

  const TokenizerExport& text = files.tokenizer();
  if (!text.token_bytes.empty()) {
    IOKV_TRY_ASSIGN(offer.vocabulary_, SharedBlob::create("iokv-vocabulary", vocabulary_bytes(text.token_bytes)));
  }
  IOKV_TRY_ASSIGN(offer.tokenizer_, blob_of("iokv-tokenizer", text.tokenizer_json));
  IOKV_TRY_ASSIGN(offer.chat_template_, blob_of("iokv-chat-template", text.chat_template));

  wire::Welcome& facts = offer.facts_;
  IOKV_TRY_ASSIGN(facts.daemon_instance, random_number());
  facts.vocabulary = spec.vocab;
  facts.max_context = limits.max_context;
  facts.layers = spec.layers;
  facts.hidden = spec.hidden;
  facts.heads = spec.heads;
  facts.kv_heads = spec.kv_heads;
  facts.head_dim = spec.head_dim;
  facts.begin_token = spec.begin_token;
  facts.end_token_count = static_cast<uint32_t>(std::min(spec.end_tokens.size(), std::size(facts.end_tokens)));
  std::copy_n(spec.end_tokens.begin(), facts.end_token_count, facts.end_tokens);
  facts.max_sequences = limits.max_sequences;
  facts.max_step_tokens = offer.session_limits_.max_step_tokens;
  facts.max_stop_tokens = kMaxStopTokens;
  facts.pool_tokens = limits.pool_tokens;
  std::copy(files.digest().begin(), files.digest().end(), facts.model_digest);
  DigestBuilder tokenizer;
  tokenizer.update(text.tokenizer_json);
  std::copy(tokenizer.value().begin(), tokenizer.value().end(), facts.tokenizer_digest);
  put_text(facts.model_name, spec.name);
  put_text(facts.daemon_version, IOKV_DAEMON_VERSION);

  CountersPage& page = offer.counters_;
  page.set(wire::Counter::instance, facts.daemon_instance);
  page.set(wire::Counter::pid, static_cast<uint64_t>(::getpid()));
  page.set(wire::Counter::model_file_bytes, files.stored_bytes());
  return offer;
}

wire::Geometry Offer::grant(const wire::Geometry& wanted) const {
  return iokv::grant(wanted, geometry_limits_, session_limits_.vocabulary);
}

wire::Welcome Offer::welcome(uint16_t version, uint64_t features) const {
  wire::Welcome message = facts_;
  message.header = make_welcome(version).header;
  message.version = version;
  message.features = features & wire::kFeatures;
  return message;
}

wire::Blob Offer::answer(wire::BlobKind kind, int& descriptor) const {
  auto reply = [&](int number, uint64_t bytes) {
    descriptor = number;
    return make_blob(kind, 0, bytes);
  };
  switch (kind) {
    case wire::BlobKind::counters: return reply(counters_.descriptor(), CountersPage::bytes());
    case wire::BlobKind::vocabulary: return reply(vocabulary_.descriptor(), vocabulary_.bytes());
    case wire::BlobKind::tokenizer: return reply(tokenizer_.descriptor(), tokenizer_.bytes());
    case wire::BlobKind::chat_template: return reply(chat_template_.descriptor(), chat_template_.bytes());
    case wire::BlobKind::trace:
    case wire::BlobKind::sequences: break;  // reports, not offers: connections.h
  }
  descriptor = -1;
  return make_blob(kind, IOKV_EUNSUPPORTED, 0);
}

}  // namespace iokv
