// SPDX-License-Identifier: Apache-2.0
#include "daemon/runtime/host_exchange.h"

#include <cstdlib>
#include <string>

namespace iokv {
namespace {

constexpr size_t kPageBytes = 4096;  // what is pinned shares its pages with nothing

constexpr size_t whole_pages(size_t bytes) { return (bytes + kPageBytes - 1) / kPageBytes * kPageBytes; }

}  // namespace

Result<std::unique_ptr<HostExchange>> HostExchange::make(Backend& backend, const ModelSpec& spec, uint32_t rows) {
  const size_t query_bytes = whole_pages(size_t{rows} * spec.q_width() * size_of(backend.info().compute));
  const size_t state_bytes = whole_pages(size_t{rows} * spec.heads * attend_state_floats(spec.head_dim) * sizeof(float));
  std::unique_ptr<HostExchange> exchange(new HostExchange(backend, query_bytes, state_bytes));
  exchange->data_ = static_cast<std::byte*>(std::aligned_alloc(kPageBytes, exchange->bytes_));
  if (exchange->data_ == nullptr) return error("no memory for " + std::to_string(exchange->bytes_) + " bytes");
  IOKV_TRY(backend.pin(exchange->data_, exchange->bytes_));
  exchange->pinned_ = true;
  return exchange;
}

HostExchange::~HostExchange() {
  if (pinned_) backend_.unpin(data_);
  std::free(data_);
}

}  // namespace iokv
