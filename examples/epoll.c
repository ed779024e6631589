/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Many sequences in one thread, driven by epoll: the shape of a server. Each sequence samples 32 tokens with a seed of its
 * own; whichever has something is served. Prints one line a sequence.
 *
 *   cc epoll.c $(pkg-config --cflags --libs iokv) && ./a.out [SEQUENCES]
 */
#include <iokv/iokv.h>

#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { MOST_SEQUENCES = 64, TOKENS = 32 };

struct stream {
  iokv_sequence sequence;
  uint32_t count;
  int32_t tokens[TOKENS];
};

static int die(const char* what, int code) {
  fprintf(stderr, "%s: %s\n", what, iokv_strerror(code));
  return 1;
}

/* user_data is the stream's number; OPEN's completion carries it as well, and nothing else of interest if it is 0. */
static int start(iokv_client* client, struct stream* streams, uint32_t i) {
  static const int32_t prompt[] = {1, 2, 3, 4};
  iokv_sampling sampling = {.struct_size = sizeof sampling, .temperature = 0.8f, .top_p = 0.95f, .seed = i + 1};
  iokv_open_options open = {.struct_size = sizeof open, .user_data = i, .sampling = &sampling};
  int code = iokv_open(client, &open, &streams[i].sequence, NULL);
  if (code != 0) return code;
  iokv_step_options step = {.struct_size = sizeof step, .user_data = i, .tokens = prompt, .token_count = 4,
                            .max_tokens = TOKENS};
  return iokv_step(client, streams[i].sequence, &step, NULL);
}

static int take(struct stream* streams, const iokv_completion* completion) {
  struct stream* stream = &streams[completion->user_data];
  if (completion->result < 0) return completion->result;
  if (completion->flags & IOKV_COMPLETION_TOKEN) stream->tokens[stream->count++] = completion->token;
  return 0;
}

int main(int argc, char** argv) {
  uint32_t count = argc > 1 ? (uint32_t)atoi(argv[1]) : 8;
  if (count < 1 || count > MOST_SEQUENCES) count = MOST_SEQUENCES;
  iokv_error_detail why = {.struct_size = sizeof why};
  iokv_client* client;
  if (iokv_connect(NULL, &client, &why) != 0) {
    fprintf(stderr, "%s\n", why.message);
    return 1;
  }
  static struct stream streams[MOST_SEQUENCES];
  for (uint32_t i = 0; i < count; i++) {
    int code = start(client, streams, i);
    if (code != 0) return die("start", code);
  }
  iokv_submit(client);

  int loop = epoll_create1(EPOLL_CLOEXEC);
  struct epoll_event event = {.events = EPOLLIN};
  epoll_ctl(loop, EPOLL_CTL_ADD, iokv_fd(client), &event);
  /* Looked at once before the first wait: a reap that returns less than asked for arms the descriptor. */
  for (int got = 0; iokv_outstanding(client) > 0;) {
    iokv_completion completions[32];
    while ((got = iokv_reap(client, completions, 32, 0)) > 0) {
      for (int i = 0; i < got; i++) {
        int code = take(streams, &completions[i]);
        if (code != 0) return die("step", code);
      }
      if (got < 32) break;
    }
    if (got < 0) return die("reap", got);
    if (iokv_outstanding(client) > 0) epoll_wait(loop, &event, 1, -1);
  }
  for (uint32_t i = 0; i < count; i++) {
    printf("%u:", i);
    for (uint32_t j = 0; j < streams[i].count; j++) printf(" %d", streams[i].tokens[j]);
    printf("\n");
  }
  close(loop);
  iokv_disconnect(client);
  return 0;
}
