// SPDX-License-Identifier: Apache-2.0
// What a handle knows without asking the daemon. Any thread.
#include "libiokv/client.h"
#include "libiokv/struct_size.h"

namespace {

iokv_info info_of(const iokv::wire::Welcome& facts) {
  iokv_info info{};
  info.protocol_version = facts.version;
  info.daemon_instance = facts.daemon_instance;
  info.client_id = facts.client_id;
  info.vocabulary = facts.vocabulary;
  info.max_context = facts.max_context;
  info.layers = facts.layers;
  info.hidden = facts.hidden;
  info.heads = facts.heads;
  info.kv_heads = facts.kv_heads;
  info.head_dim = facts.head_dim;
  info.begin_token = facts.begin_token;
  info.end_token_count = facts.end_token_count;
  static_assert(sizeof info.end_tokens == sizeof facts.end_tokens);
  std::memcpy(info.end_tokens, facts.end_tokens, sizeof info.end_tokens);
  info.max_sequences = facts.max_sequences;
  info.max_operations = facts.max_operations;
  info.max_step_tokens = facts.max_step_tokens;
  info.max_stop_tokens = facts.max_stop_tokens;
  info.submission_entries = facts.geometry.submission_entries;
  info.completion_entries = facts.geometry.completion_entries;
  info.pool_tokens = facts.pool_tokens;
  static_assert(sizeof info.model_digest == sizeof facts.model_digest);
  std::memcpy(info.model_digest, facts.model_digest, sizeof info.model_digest);
  std::memcpy(info.tokenizer_digest, facts.tokenizer_digest, sizeof info.tokenizer_digest);
  static_assert(sizeof info.model_name == sizeof facts.model_name);
  std::memcpy(info.model_name, facts.model_name, sizeof info.model_name);
  std::memcpy(info.daemon_version, facts.daemon_version, sizeof info.daemon_version);
  info.features = facts.features;
  return info;
}

}  // namespace

int iokv_get_info(const iokv_client* client, iokv_info* info) {
  if (int code = iokv::check_handle(client); code != 0) return code;
  if (info == nullptr || info->struct_size < sizeof info->struct_size) return IOKV_EINVAL;
  iokv_info filled = info_of(client->facts);
  filled.struct_size = std::min<uint32_t>(info->struct_size, sizeof filled);
  iokv::write_struct(filled, info);
  return 0;
}

int iokv_end_reason(const iokv_client* client, iokv_error_detail* detail) {
  if (int code = iokv::check_handle(client); code != 0) return code;
  if (detail == nullptr || !iokv::detail_is_usable(detail)) return IOKV_EINVAL;
  bool ended = client->channel.ended();
  iokv::write_detail(detail, ended ? client->channel.end_code() : 0, ended ? client->channel.end_reason() : "");
  return 0;
}

int iokv_last_failure(const iokv_client* client, iokv_error_detail* detail) {
  if (int code = iokv::check_handle(client); code != 0) return code;
  if (detail == nullptr || !iokv::detail_is_usable(detail)) return IOKV_EINVAL;
  iokv::write_detail(detail, client->refusal.code(), client->refusal.line());
  return 0;
}

int iokv_fd(const iokv_client* client) {
  int code = iokv::check_handle(client);
  return code != 0 ? code : client->channel.socket();
}

uint32_t iokv_outstanding(const iokv_client* client) {
  if (iokv::check_handle(client) != 0) return 0;
  // finished first: it never passes a later reading of placed. Acquire orders the two.
  uint64_t finished = client->finished.load(std::memory_order_acquire);
  return static_cast<uint32_t>(client->placed.load(std::memory_order_relaxed) - finished);
}

int iokv_wake(iokv_client* client) {
  if (int code = iokv::check_handle(client); code != 0) return code;
  client->waker.wake();
  return 0;
}
