// SPDX-License-Identifier: Apache-2.0
// Fetching what the daemon hands out, once a connection. Blocking; both threads' role.
#include "libiokv/client.h"

namespace iokv {

int fetch_blob(iokv_client& client, wire::BlobKind kind, iokv_client::Blob& blob) {
  using State = iokv_client::Blob::State;
  if (blob.state == State::present) return 0;
  if (blob.state == State::absent) return IOKV_EUNSUPPORTED;
  if (client.channel.ended()) return IOKV_ECLOSED;
  Packet packet;
  wire::Blob answer;
  // While the ring is armed somebody may be polling the socket for the doorbell that this call could swallow.
  if (!client.channel.fetch(kind, client.completions.armed(), packet, answer)) return IOKV_ECLOSED;
  if (answer.result != 0 || answer.bytes == 0) {
    blob.state = State::absent;
    return IOKV_EUNSUPPORTED;
  }
  if (!packet.descriptors[0]) {
    client.channel.end(IOKV_EPROTOCOL, "the daemon sent a BLOB without its descriptor");
    return IOKV_ECLOSED;
  }
  blob.bytes = Region(packet.descriptors[0], answer.bytes, Region::Access::read_only, "blob");
  blob.size = answer.bytes;
  blob.state = State::present;
  return 0;
}

}  // namespace iokv
