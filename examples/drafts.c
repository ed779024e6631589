/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Speculative decoding, the verifier's side: a draft of several tokens is appended in one step, which predicts at each of
 * them; the longest right beginning is kept and the rest rolled back with TRUNCATE. The draft here says that
 * the last three tokens come again; a real one comes from a small model. Greedy, so the result must equal plain decoding: it is compared.
 *
 *   cc drafts.c $(pkg-config --cflags --libs iokv) && ./a.out
 */
#include <iokv/iokv.h>

#include <stdio.h>
#include <string.h>

enum { DRAFT = 4, WANTED = 48, PROMPT = 8 };

static int32_t prompt[PROMPT] = {5, 6, 7, 5, 6, 7, 5, 6};

static int fail(const char* what, int code) {
  fprintf(stderr, "%s: %s\n", what, iokv_strerror(code));
  return -1;
}

/* Waits for everything outstanding. Predictions by index go to `predicted`; returns 0 or the first failure. */
static int settle(iokv_client* client, int32_t* predicted) {
  int failure = 0;
  while (iokv_outstanding(client) > 0) {
    iokv_completion completions[16];
    int got = iokv_reap(client, completions, 16, -1);
    if (got < 0) return got;
    for (int i = 0; i < got; i++) {
      if (completions[i].result < 0) failure = completions[i].result;
      if (completions[i].flags & IOKV_COMPLETION_PREDICTED) predicted[completions[i].index] = completions[i].token;
    }
  }
  return failure;
}

static int plain(iokv_client* client, int32_t* tokens) {
  iokv_sequence sequence;
  uint32_t count = 0;
  iokv_step_options step = {.struct_size = sizeof step, .tokens = prompt, .token_count = PROMPT, .max_tokens = WANTED};
  int code = iokv_open(client, NULL, &sequence, NULL);
  if (code == 0) code = iokv_submit(client) < 0 ? IOKV_ECLOSED : settle(client, NULL);
  if (code == 0) code = iokv_generate(client, sequence, &step, tokens, WANTED, &count);
  return code;
}

/* tokens[0 .. WANTED) by verified drafts; *steps says how many steps it took. */
static int verified(iokv_client* client, int32_t* tokens, int* steps) {
  int32_t history[PROMPT + WANTED + DRAFT + 1];
  memcpy(history, prompt, sizeof prompt);
  int32_t predicted[PROMPT + DRAFT + 1];
  iokv_sequence sequence;
  int code = iokv_open(client, NULL, &sequence, NULL);
  /* The prompt but for its last token; that one leads the first draft. */
  iokv_step_options first = {.struct_size = sizeof first, .tokens = prompt, .token_count = PROMPT - 1};
  if (code == 0) code = iokv_step(client, sequence, &first, NULL);
  uint32_t length = PROMPT; /* tokens known to be right; the sequence holds all but the last */
  while (code == 0 && length < PROMPT + WANTED) {
    int32_t batch[DRAFT + 1] = {history[length - 1]};
    for (uint32_t i = 0; i < DRAFT; i++) batch[i + 1] = i < 3 ? history[length - 3 + i] : batch[i - 2];
    iokv_step_options step = {.struct_size = sizeof step, .flags = IOKV_STEP_EACH, .tokens = batch,
                              .token_count = DRAFT + 1};
    code = iokv_step(client, sequence, &step, NULL);
    if (code == 0) code = iokv_submit(client) < 0 ? IOKV_ECLOSED : settle(client, predicted);
    if (code != 0) break;
    uint32_t right = 0; /* drafted tokens that the model would have sampled */
    while (right < DRAFT && predicted[right] == batch[right + 1]) right++;
    for (uint32_t i = 0; i <= right && length < PROMPT + WANTED; i++) history[length++] = predicted[i];
    /* Everything up to the last right token stays, but for the last one known: it leads the next draft. */
    code = iokv_truncate(client, sequence, length - 1, 0, NULL);
    ++*steps;
  }
  if (code == 0) code = iokv_submit(client) < 0 ? IOKV_ECLOSED : settle(client, predicted);
  memcpy(tokens, history + PROMPT, WANTED * sizeof *tokens);
  return code;
}

int main(void) {
  iokv_error_detail why = {.struct_size = sizeof why};
  iokv_client* client;
  if (iokv_connect(NULL, &client, &why) != 0) {
    fprintf(stderr, "%s\n", why.message);
    return 1;
  }
  int32_t expected[WANTED], tokens[WANTED];
  int steps = 0;
  int code = plain(client, expected);
  if (code != 0) return fail("plain decoding", code), 1;
  code = verified(client, tokens, &steps);
  if (code != 0) return fail("verified drafts", code), 1;
  iokv_disconnect(client);
  if (memcmp(tokens, expected, sizeof tokens) != 0) {
    fprintf(stderr, "verified drafts differ from plain decoding\n");
    return 1;
  }
  printf("%d tokens in %d steps, equal to plain decoding\n", WANTED, steps);
  return 0;
}
