/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The smallest client: appends a few tokens, samples some more, prints them.
 *
 *   cc smallest.c $(pkg-config --cflags --libs iokv) && ./a.out 1 2 3
 */
#include <iokv/iokv.h>

#include <stdio.h>
#include <stdlib.h>

int main(int argc, char** argv) {
  iokv_error_detail why = {.struct_size = sizeof why};
  iokv_client* client;
  if (iokv_connect(NULL, &client, &why) != 0) {
    fprintf(stderr, "%s\n", why.message);
    return 1;
  }

  int32_t prompt[64] = {1};
  uint32_t count = 1;
  if (argc > 1) {
    for (count = 0; (int)count + 1 < argc && count < 64; count++) prompt[count] = (int32_t)atoi(argv[count + 1]);
  }

  /* An operation like any other: placed in the ring, made visible, completed. */
  iokv_sequence sequence;
  int code = iokv_open(client, NULL, &sequence, NULL);
  iokv_completion opened;
  if (code == 0 && iokv_submit(client) > 0 && iokv_reap(client, &opened, 1, -1) == 1) code = opened.result;

  int32_t tokens[16];
  uint32_t sampled = 0;
  iokv_step_options step = {.struct_size = sizeof step, .tokens = prompt, .token_count = count, .max_tokens = 16};
  if (code == 0) code = iokv_generate(client, sequence, &step, tokens, 16, &sampled);
  for (uint32_t i = 0; i < sampled; i++) printf("%d%c", tokens[i], i + 1 == sampled ? '\n' : ' ');
  if (code != 0) fprintf(stderr, "%s\n", iokv_strerror(code));
  iokv_disconnect(client);
  return code == 0 ? 0 : 1;
}
