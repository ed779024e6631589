// SPDX-License-Identifier: Apache-2.0
// iokv_generate: one step, blocking, made of the calls that a user could make. Both threads' role.
#include "libiokv/client.h"
#include "libiokv/struct_size.h"

namespace {

struct Generation {
  iokv_client* client;
  iokv_sequence sequence;
  iokv_operation operation = 0;
  int32_t* tokens;
  uint32_t capacity;
  uint32_t count = 0;
  int code = 0;        // what the call returns
  bool woken = false;

  void take(const iokv_completion& completion) {
    if (completion.operation != operation) return;  // of our own CANCEL
    if ((completion.flags & IOKV_COMPLETION_TOKEN) != 0 && count < capacity) tokens[count++] = completion.token;
    if ((completion.flags & IOKV_COMPLETION_MORE) == 0) code = completion.result;
  }

  // Ends the step early; it still has its final completion.
  void cancel() {
    if (woken) return;
    woken = true;
    if (iokv_cancel(client, sequence, operation, 0, nullptr) == 0) iokv_submit(client);
  }

  void run() {
    iokv_submit(client);
    while (iokv_outstanding(client) != 0) {
      iokv_completion completions[16];
      const int got = iokv_reap(client, completions, 16, -1);
      if (got == IOKV_EWOKEN) {
        cancel();
        continue;
      }
      if (got < 0) {
        code = got;
        return;
      }
      for (int i = 0; i < got; i++) take(completions[i]);
    }
    if (woken && code == IOKV_ECANCELED) code = IOKV_EWOKEN;
  }
};

}  // namespace

int iokv_generate(iokv_client* client, iokv_sequence sequence, const iokv_step_options* options, int32_t* tokens,
                  uint32_t capacity, uint32_t* count) {
  if (int code = iokv::check_handle(client); code != 0) return code;
  iokv_step_options checked{};
  if (count == nullptr || options == nullptr || !iokv::read_struct(options, checked)) return IOKV_EINVAL;
  if (checked.flags != 0 || checked.top_logprobs != 0 || capacity < checked.max_tokens || (tokens == nullptr && checked.max_tokens != 0)) {
    return IOKV_EINVAL;
  }
  *count = 0;
  if (iokv_outstanding(client) != 0) return IOKV_EBUSY;
  Generation generation{client, sequence, 0, tokens, capacity};
  if (int code = iokv_step(client, sequence, options, &generation.operation); code != 0) return code;
  generation.run();
  *count = generation.count;
  return generation.code;
}
