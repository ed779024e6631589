// SPDX-License-Identifier: Apache-2.0
// What turns tokens into text and back: the vocabulary's bytes and the tokenizer's files.
#include <cstring>

#include "libiokv/client.h"
#include "libiokv/detail.h"

namespace iokv {
namespace {

template <typename T>
T number_at(const iokv_client::Blob& blob, uint64_t offset) {
  T value;
  std::memcpy(&value, blob.bytes.data() + offset, sizeof value);
  return value;
}

// The bytes of one token in the blob of wire/handshake.h. false: the blob is not what it should be.
bool find_token(const iokv_client::Blob& blob, uint32_t token, const uint8_t** bytes, uint32_t* size) {
  constexpr uint64_t kTable = 2 * sizeof(uint32_t);
  if (blob.size < kTable) return false;
  const uint32_t count = number_at<uint32_t>(blob, 0);
  if ((uint64_t{count} + 1) * sizeof(uint64_t) > blob.size - kTable) return false;
  *bytes = reinterpret_cast<const uint8_t*>(blob.bytes.data());
  *size = 0;
  if (token >= count) return true;  // in the model's vocabulary, but the tokenizer has no text for it
  const uint64_t begin = number_at<uint64_t>(blob, kTable + uint64_t{token} * sizeof(uint64_t));
  const uint64_t end = number_at<uint64_t>(blob, kTable + (uint64_t{token} + 1) * sizeof(uint64_t));
  if (begin > end || end > blob.size || end - begin > UINT32_MAX) return false;
  *bytes += begin;
  *size = static_cast<uint32_t>(end - begin);
  return true;
}

}  // namespace
}  // namespace iokv

int iokv_token_bytes(iokv_client* client, int32_t token, const uint8_t** bytes, uint32_t* size) {
  if (int code = iokv::check_handle(client); code != 0) return code;
  if (bytes == nullptr || size == nullptr) return IOKV_EINVAL;
  if (token < 0 || static_cast<uint32_t>(token) >= client->facts.vocabulary) return IOKV_ETOKEN;
  return iokv::guarded([&] {
    if (int code = iokv::fetch_blob(*client, iokv::wire::BlobKind::vocabulary, client->vocabulary); code != 0) return code;
    if (iokv::find_token(client->vocabulary, static_cast<uint32_t>(token), bytes, size)) return 0;
    client->channel.end(IOKV_EPROTOCOL, "the daemon's vocabulary is malformed");
    return static_cast<int>(IOKV_ECLOSED);
  });
}

int iokv_text(iokv_client* client, int file, const uint8_t** bytes, uint64_t* size) {
  if (int code = iokv::check_handle(client); code != 0) return code;
  if (bytes == nullptr || size == nullptr) return IOKV_EINVAL;
  if (file != IOKV_TEXT_TOKENIZER && file != IOKV_TEXT_CHAT_TEMPLATE) return IOKV_EINVAL;
  const bool tokenizer = file == IOKV_TEXT_TOKENIZER;
  iokv_client::Blob& blob = tokenizer ? client->tokenizer : client->chat_template;
  const auto kind = tokenizer ? iokv::wire::BlobKind::tokenizer : iokv::wire::BlobKind::chat_template;
  return iokv::guarded([&] {
    const int code = iokv::fetch_blob(*client, kind, blob);
    if (code != 0 && code != IOKV_EUNSUPPORTED) return code;
    *bytes = code == 0 ? reinterpret_cast<const uint8_t*>(blob.bytes.data()) : nullptr;
    *size = code == 0 ? blob.size : 0;
    return 0;
  });
}
