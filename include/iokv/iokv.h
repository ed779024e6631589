/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libiokv: the client library of iokvd, which decodes language models for any number of local processes.
 *
 * Conventions
 *  1. A client is a connection; a sequence is a growing list of tokens that the daemon keeps; an operation is submitted
 *     for a sequence and ends in exactly one final completion.
 *  2. Errors have two channels. A call returns 0 (or a count) or a negative IOKV_E... code at once and then has had no
 *     effect. What happens to an operation later is the `result` of its final completion.
 *  3. Operations of one sequence run in the order of submission; operations of different sequences in any order.
 *     CANCEL and CLOSE overtake what waits before them. After an operation has failed, the operations of that sequence
 *     that were submitted before its completion was posted complete with IOKV_ECANCELED.
 *  4. A sequence's length counts every token appended and every token sampled. A client never sends a token again.
 *  5. Every options struct begins with struct_size, which the caller sets to sizeof the struct. A shorter one (an older
 *     caller) is filled up with zeros, and zero always means the default; a longer one (a newer caller) must be zero
 *     beyond what this library knows, else IOKV_EINVAL.
 *  6. Nothing calls back. The library has no threads, prints nothing and keeps no state outside its handles.
 *  7. Threads: for one client, one thread may be in the submitting calls and one in the reaping calls at a time (they
 *     may be the same or different threads). "Any thread" below means at any time, beside both. iokv_disconnect must
 *     be alone. Different clients are independent.
 *  8. After fork() the child must not use a client of its parent: calls return IOKV_EFORK there (iokv_disconnect frees
 *     the child's copy and does not disturb the parent).
 *  9. Times are nanoseconds of CLOCK_MONOTONIC. Tokens are int32_t, 0 <= token < vocabulary.
 *
 * The socket is the one given, else $IOKV_SOCKET, else $XDG_RUNTIME_DIR/iokv.sock, else /run/iokv/iokv.sock: where one
 * is absent or refuses the connection the next is tried.
 */
#ifndef IOKV_IOKV_H
#define IOKV_IOKV_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define IOKV_API __attribute__((visibility("default")))
#else
#define IOKV_API
#endif

#define IOKV_VERSION_MAJOR 1
#define IOKV_VERSION_MINOR 1 /* what is marked "1.1" below has come with it */

/* ---- errors ---------------------------------------------------------------------------------------------------- */

enum iokv_error {
  IOKV_OK = 0,
  IOKV_EINVAL = -1,       /* an argument is out of range; the detail or the function's comment says which */
  IOKV_ENOMEM = -2,       /* this process is out of memory, descriptors or address space */
  IOKV_EAGAIN = -3,       /* the submission ring, the arena or the outstanding operations are full: reap, then retry */
  IOKV_ENODAEMON = -4,    /* no daemon listens on the socket */
  IOKV_EACCES = -5,       /* the socket's permissions: join its group (the detail names it) */
  IOKV_EVERSION = -6,     /* library and daemon have no protocol version in common */
  IOKV_ELOADING = -7,     /* the time-out passed while the daemon was loading its model */
  IOKV_ECLOSED = -8,      /* the daemon is gone or ended the connection; iokv_end_reason says why */
  IOKV_EPROTOCOL = -9,    /* the peer broke the protocol */
  IOKV_EBUSY = -10,       /* not possible while operations are outstanding */
  IOKV_EFORK = -11,       /* a handle of the parent process, used in a forked child */
  IOKV_ETIMEDOUT = -12,   /* the time-out passed */
  IOKV_EWOKEN = -13,      /* iokv_wake ended the wait */
  IOKV_ECONTEXT = -14,    /* the sequence would be longer than the model's context */
  IOKV_EPOOL = -15,       /* the sequence could never fit the daemon's KV pool, or its user's share of it, even alone */
  IOKV_ELIMIT = -16,      /* a limit of this client or its user: see iokv_info, and enum iokv_limit */
  IOKV_ESEQUENCE = -17,   /* no such sequence: never opened, closed, or of another generation */
  IOKV_ETOKEN = -18,      /* a token is negative or not below the vocabulary */
  IOKV_ECANCELED = -19,   /* cancelled by CANCEL or CLOSE, or an earlier operation of the sequence failed */
  IOKV_EDEADLINE = -20,   /* the operation's deadline passed before it was done */
  IOKV_ESHUTDOWN = -21,   /* the daemon is stopping */
  IOKV_EDEVICE = -22,     /* the compute device failed */
  IOKV_EUNSUPPORTED = -23, /* this daemon does not offer that (model, adapter or feature) */
  IOKV_EMASK = -24,       /* 1.1: a mask has another length than the vocabulary, or permits nothing, or there are not as many
                             as the step draws */
  IOKV_ESTOP = -25        /* 1.1: a step's stop tokens and stop sequences are too many or too long: iokv_info */
};

/* A fixed sentence for a code ("no daemon listens on the socket"); never NULL, static. Any thread. */
IOKV_API const char* iokv_strerror(int code);

/* Caller-owned detail of a failed call: one line that says what, where and what to do. */
typedef struct iokv_error_detail {
  uint32_t struct_size;
  int32_t code;
  char message[504]; /* NUL-terminated */
} iokv_error_detail;

/* ---- connecting ------------------------------------------------------------------------------------------------ */

typedef struct iokv_client iokv_client;

typedef struct iokv_connect_options {
  uint32_t struct_size;
  uint32_t flags;              /* 0 */
  const char* socket_path;     /* NULL: see the top of this file */
  const char* name;            /* shown to the administrator, up to 31 bytes; NULL: the program's name */
  int64_t timeout_ns;          /* of the whole handshake, loading included; 0: 60 s; negative: no limit */
  uint64_t spin_ns;            /* iokv_reap may busy-wait so long before it sleeps; 0: never */
  uint32_t submission_entries; /* power of two, 0: 256 */
  uint32_t completion_entries; /* power of two, 0: 1024 */
  uint32_t arena_bytes;        /* for prompts on their way, power of two; 0: 1 MiB */
  uint32_t result_bytes;       /* for logits on their way, power of two; 0: 8 MiB, or two rows of logits if that is more */
} iokv_connect_options;

/*
 * Connects to a daemon and waits until it is ready. options and detail may be NULL. On success *client is owned by the
 * caller, who ends it with iokv_disconnect. Errors: EINVAL, ENOMEM, ENODAEMON, EACCES, EVERSION, ELOADING (the detail
 * says how far), ELIMIT (the daemon's client limit), EPROTOCOL, ETIMEDOUT, ESHUTDOWN. Any thread; blocks.
 */
IOKV_API int iokv_connect(const iokv_connect_options* options, iokv_client** client, iokv_error_detail* detail);

/* Ends the connection: everything outstanding is cancelled, every sequence closed, all views become invalid. NULL is
 * fine. Alone on the client. */
IOKV_API void iokv_disconnect(iokv_client* client);

/* Facts and limits, constant for the life of a connection. */
typedef struct iokv_info {
  uint32_t struct_size;         /* in: sizeof(iokv_info); out: bytes filled */
  uint32_t protocol_version;
  uint64_t daemon_instance;     /* random at each start of the daemon */
  uint64_t client_id;           /* as in `iokv status` */
  uint32_t vocabulary;          /* tokens */
  uint32_t max_context;         /* tokens a sequence may hold */
  uint32_t layers;
  uint32_t hidden;
  uint32_t heads;
  uint32_t kv_heads;
  uint32_t head_dim;
  int32_t begin_token;          /* to put before a prompt, or -1 */
  uint32_t end_token_count;     /* of end_tokens that are set */
  int32_t end_tokens[8];        /* where generation usually stops */
  uint32_t max_sequences;       /* open at once by this client */
  uint32_t max_operations;      /* outstanding at once: submitted and final completion not yet reaped */
  uint32_t max_step_tokens;     /* appended by one iokv_step call */
  uint32_t max_stop_tokens;
  uint32_t submission_entries;
  uint32_t completion_entries;
  uint64_t pool_tokens;         /* tokens that the daemon's whole KV pool can hold */
  uint8_t model_digest[32];
  uint8_t tokenizer_digest[32];
  char model_name[64];
  char daemon_version[32];
  uint64_t features;            /* 1.1: enum iokv_feature, what this daemon offers */
} iokv_info;

enum iokv_feature {
  IOKV_FEATURE_SAMPLING = 1 /* 1.1: all that is marked 1.1 in iokv_sampling and iokv_step_options; without it EUNSUPPORTED */
};

/* Any thread. EINVAL, EFORK. */
IOKV_API int iokv_get_info(const iokv_client* client, iokv_info* info);

/* Why the connection ended, after a call has returned IOKV_ECLOSED: fills the detail. Any thread. */
IOKV_API int iokv_end_reason(const iokv_client* client, iokv_error_detail* detail);

/* ---- sequences and operations ---------------------------------------------------------------------------------- */

typedef uint64_t iokv_sequence;  /* chosen by the library at open or fork; 0 is never a sequence */
typedef uint64_t iokv_operation; /* chosen by the library at submission; 0 is never an operation */

/* 1.1: what is added to the logit of one token. */
typedef struct iokv_logit_bias {
  int32_t token;
  float bias; /* -10000..10000; OpenAI's -100 all but forbids a token, 100 all but forces it */
} iokv_logit_bias;

enum iokv_sampling_limit {
  IOKV_MAX_LOGIT_BIAS = 1024, /* 1.1: tokens with a bias */
  IOKV_MAX_TOP_LOGPROBS = 64, /* 1.1 */
  IOKV_MAX_STOP_SEQUENCES = 64, /* 1.1 */
  IOKV_MAX_MASKS = 64         /* 1.1: of a step */
};

/*
 * How tokens are drawn. temperature 0 takes the most probable token (the smallest id among equals). Otherwise logits are
 * divided by temperature, cut to the top_k most probable (0: all) and then to the smallest set whose probability
 * reaches top_p (0 or 1: all), and one is drawn by a counter-based generator from (seed, position): the same seed gives
 * the same text, alone or under load.
 *
 * 1.1: before that, in this order: logit_bias is added; the logit of a token that the sequence holds from position
 * repetition_from on is divided by repetition_penalty if it is positive, else multiplied; from the logit of one that it
 * holds n > 0 times from position frequency_from on presence_penalty + n * frequency_penalty is taken; the step's mask
 * forbids tokens. Temperature 0 then takes the largest. After top_p, min_p drops what is less probable than min_p times
 * the most probable, and typical_p keeps those whose -log p is nearest to the entropy, until they have that probability.
 * Each is what the logits processor of that name in Hugging Face transformers computes; presence and frequency are
 * OpenAI's (with frequency_from the length of the prompt, as there). Values out of range: IOKV_EINVAL, and
 * iokv_last_failure names them.
 */
typedef struct iokv_sampling {
  uint32_t struct_size;
  float temperature; /* >= 0, finite */
  float top_p;       /* 0..1 */
  uint32_t top_k;
  uint64_t seed;
  /* 1.1 */
  float min_p;               /* 0..1; 0: all */
  float typical_p;           /* 0..1; 0 or 1: all */
  float repetition_penalty;  /* 0.01..100; 0 or 1: none */
  float presence_penalty;    /* -100..100 */
  float frequency_penalty;   /* -100..100 */
  uint32_t repetition_from;  /* position of the first token that repetition_penalty is about */
  uint32_t frequency_from;   /* position of the first token that presence_penalty and frequency_penalty count */
  uint32_t logit_bias_count; /* 0..IOKV_MAX_LOGIT_BIAS */
  const iokv_logit_bias* logit_bias; /* each token once; copied before the call returns */
} iokv_sampling;

typedef struct iokv_open_options {
  uint32_t struct_size;
  uint32_t flags;               /* 0 */
  uint64_t user_data;           /* comes back in the completion */
  const iokv_sampling* sampling; /* for every step of the sequence; NULL: greedy */
  uint32_t model;               /* 0 */
  uint32_t adapter;             /* 0 */
  int32_t priority;             /* -100..100, higher first among the sequences of this client; 0 */
  uint32_t reserved;
} iokv_open_options;

/* What a step's completions carry besides sampled tokens. */
enum iokv_step_flags {
  IOKV_STEP_EACH = 1,  /* a completion also for each appended token but the last (with max_tokens 0: for the last as
                          well), with the token that would be drawn after it (IOKV_COMPLETION_PREDICTED). Not with
                          tokens beyond max_step_tokens. Verifies drafts. */
  IOKV_STEP_LOGITS = 2 /* each completion that carries a token also carries the model's logits there, before anything that
                          iokv_sampling says */
};

typedef struct iokv_step_options {
  uint32_t struct_size;
  uint32_t flags;                /* iokv_step_flags */
  uint64_t user_data;            /* comes back in every completion of the step */
  const int32_t* tokens;         /* to append; copied before the call returns */
  uint32_t token_count;          /* 0..max_step_tokens */
  uint32_t max_tokens;           /* to sample at the most; 0: append only */
  const int32_t* stop_tokens;    /* sampling one of these ends the step; it is appended and reported. Copied. */
  uint32_t stop_token_count;
  int32_t priority;              /* added to the sequence's, the sum clamped to -100..100 */
  const iokv_sampling* sampling; /* for this step only; NULL: the sequence's */
  uint64_t deadline_ns;          /* CLOCK_MONOTONIC; past it the step ends with IOKV_EDEADLINE; 0: none */
  /* 1.1. Together with stop tokens and biases these must fit half of the arena (IOKV_ELIMIT). All are copied. */
  const int32_t* stop_sequences; /* tokens of all stop sequences, one behind the other: when the tokens that this step has
                                    sampled end with one of them, the step ends as with a stop token */
  const uint32_t* stop_sequence_lengths; /* tokens of each, 1 at least; their sum and stop_token_count together are at
                                    most max_stop_tokens (IOKV_ESTOP) */
  uint32_t stop_sequence_count;  /* 0..IOKV_MAX_STOP_SEQUENCES */
  uint32_t top_logprobs;         /* 0..IOKV_MAX_TOP_LOGPROBS: so many most probable tokens come with each completion that
                                    carries a token: IOKV_COMPLETION_TOP */
  const uint32_t* masks;         /* [mask_count][mask_words]: which tokens may be drawn, token t is bit t % 32 of word
                                    t / 32; bits beyond the vocabulary mean nothing */
  uint32_t mask_words;           /* (vocabulary + 31) / 32, or 0 without masks; else IOKV_EMASK */
  uint32_t mask_count;           /* 0, or as many as the step draws: max_tokens, and with IOKV_STEP_EACH as many more as it
                                    predicts; at most IOKV_MAX_MASKS. Else IOKV_EMASK. A mask that permits nothing: IOKV_EMASK */
} iokv_step_options;

/*
 * These calls place one entry in the submission ring and return; iokv_submit makes all placed entries visible to the
 * daemon (OPEN and STEP can go together). Common errors: EINVAL, EAGAIN (nothing was placed: submit, reap and try
 * again), EFORK, ECLOSED. `operation` may be NULL. Submitting thread.
 */

/* 1.1. Why the latest iokv_open or iokv_step of this client returned what it returned: the code and one line that names the
 * argument and its range ("top_p is 1.5: it must be 0 to 1"); code 0 and an empty line when it has not failed. EINVAL, EFORK. */
IOKV_API int iokv_last_failure(const iokv_client* client, iokv_error_detail* detail);

/* Opens an empty sequence. options may be NULL. Also ELIMIT: max_sequences are open already. Completion result: 0, ELIMIT,
 * EUNSUPPORTED. */
IOKV_API int iokv_open(iokv_client* client, const iokv_open_options* options, iokv_sequence* sequence,
                       iokv_operation* operation);

/*
 * Appends token_count tokens, then samples up to max_tokens. One completion a sampled token, with IOKV_COMPLETION_MORE on
 * all but the last; with max_tokens 0 one completion in all. With token_count 0 sampling goes on from where the sequence
 * is (it must not be empty: EINVAL). A prompt larger than the arena is passed on in parts, which the caller does not see.
 * Also ESTOP, EMASK, ELIMIT and EUNSUPPORTED, as iokv_step_options says.
 * Completion result: 0, ECONTEXT, EPOOL, ESEQUENCE, ETOKEN, EINVAL, ECANCELED, EDEADLINE, ELIMIT, EDEVICE, ESHUTDOWN, EMASK.
 * After a failure the sequence holds `length` tokens, as the final completion says.
 */
IOKV_API int iokv_step(iokv_client* client, iokv_sequence sequence, const iokv_step_options* options,
                       iokv_operation* operation);

/* Opens a new sequence that begins with the first `tokens` tokens of `parent` (UINT32_MAX: all) and its sampling. Runs in
 * the order of the parent's operations. Also ELIMIT, as iokv_open. Completion (sequence: the child) result: 0, ESEQUENCE,
 * EINVAL (tokens beyond the parent's length), ELIMIT. */
IOKV_API int iokv_fork(iokv_client* client, iokv_sequence parent, uint32_t tokens, uint64_t user_data,
                       iokv_sequence* child, iokv_operation* operation);

/* Drops every token from position `length` on. Completion result: 0, ESEQUENCE, EINVAL (longer than the sequence). */
IOKV_API int iokv_truncate(iokv_client* client, iokv_sequence sequence, uint32_t length, uint64_t user_data,
                           iokv_operation* operation);

/* Cancels one outstanding operation, or with target 0 all of the sequence's. Overtakes. Completion result: how many
 * were cancelled (0: it had ended), or ESEQUENCE. The cancelled ones complete with ECANCELED; the sequence stays usable. */
IOKV_API int iokv_cancel(iokv_client* client, iokv_sequence sequence, iokv_operation target, uint64_t user_data,
                         iokv_operation* operation);

/* Cancels what is outstanding and frees the sequence. Completion result: 0, ESEQUENCE. */
IOKV_API int iokv_close(iokv_client* client, iokv_sequence sequence, uint64_t user_data, iokv_operation* operation);

/* Goes the way of a step through the daemon and does nothing. Completion result: 0. */
IOKV_API int iokv_nop(iokv_client* client, uint64_t user_data, iokv_operation* operation);

/* Makes placed entries visible; a system call only if the daemon sleeps. Returns how many. Submitting thread. */
IOKV_API int iokv_submit(iokv_client* client);

/* ---- completions ----------------------------------------------------------------------------------------------- */

enum iokv_completion_flags {
  IOKV_COMPLETION_MORE = 1,      /* the operation goes on: not its final completion */
  IOKV_COMPLETION_TOKEN = 2,     /* `token` was sampled and appended, `logprob` is its log-probability */
  IOKV_COMPLETION_PREDICTED = 4, /* `token` is what would follow appended token `index`; it was not appended */
  IOKV_COMPLETION_LOGITS = 8,    /* iokv_logits gives a view, which must be released */
  IOKV_COMPLETION_STOPPED = 16,  /* `token` is one of the step's stop tokens, or (1.1) ends one of its stop sequences */
  IOKV_COMPLETION_TOP = 32       /* 1.1: iokv_top_logprobs gives a view, which must be released */
};

/* `index` of a completion whose result is ELIMIT: which limit it was. Of a client they are in iokv_info; of a user, all of
 * whose processes count, whoever runs the daemon sets them (iokvd.toml(5)). Later versions may add some. */
enum iokv_limit {
  IOKV_LIMIT_NONE = 0,               /* none of these: what the daemon could not do */
  IOKV_LIMIT_SEQUENCES = 1,          /* max_sequences of a client are open */
  IOKV_LIMIT_QUEUED_TOKENS = 2,      /* more tokens would wait in operations of this client that have not started */
  IOKV_LIMIT_USER_SEQUENCES = 3,     /* user_sequences are open */
  IOKV_LIMIT_USER_QUEUED_TOKENS = 4  /* user_queued_tokens would wait in operations that have not started */
};

typedef struct iokv_completion {
  uint64_t user_data;
  iokv_operation operation;
  iokv_sequence sequence;
  int32_t result;     /* 0, a count (CANCEL) or a negative code */
  uint32_t flags;     /* iokv_completion_flags */
  int32_t token;
  float logprob;      /* natural logarithm, of the unmodified distribution */
  uint32_t index;     /* TOKEN: of the sampled token in its step; PREDICTED: of the appended one; ELIMIT: iokv_limit */
  uint32_t length;    /* tokens in the sequence after this */
  uint32_t view[2];   /* for iokv_logits and iokv_top_logprobs */
  uint64_t times;     /* for iokv_completion_times */
} iokv_completion;

/*
 * Copies up to `capacity` completions out, waiting up to timeout_ns (0: not at all; negative: without limit) for the
 * first. Returns how many (0 only with timeout 0), or ETIMEDOUT, EWOKEN, ECLOSED (the daemon is gone: nothing more will
 * come; outstanding operations are lost), EINVAL, EFORK. When it returns less than `capacity`, iokv_fd() is armed and
 * becomes readable at the next completion. Reaping thread.
 */
IOKV_API int iokv_reap(iokv_client* client, iokv_completion* completions, uint32_t capacity, int64_t timeout_ns);

/* A descriptor to poll for readability (epoll, libuv, asyncio ...): when readable, call iokv_reap with timeout 0 until
 * it returns less than asked for. Never read, write or close it. Reports the daemon's death as well. Any thread. */
IOKV_API int iokv_fd(const iokv_client* client);

/* Ends a present or the next wait of iokv_reap with IOKV_EWOKEN. Any thread. */
IOKV_API int iokv_wake(iokv_client* client);

enum iokv_dtype { IOKV_F32 = 0, IOKV_F16 = 1, IOKV_BF16 = 2 };

typedef struct iokv_logits_view {
  uint32_t struct_size;
  uint32_t dtype;      /* enum iokv_dtype */
  uint32_t count;      /* elements: the vocabulary */
  uint32_t reserved;
  const void* data;    /* in shared memory, read-only */
} iokv_logits_view;

/* The logits of a completion with IOKV_COMPLETION_LOGITS; valid until released. The space for logits is limited: while
 * it is full, steps that need it wait. Reaping thread. EINVAL, EFORK. */
IOKV_API int iokv_logits(iokv_client* client, const iokv_completion* completion, iokv_logits_view* view);

typedef struct iokv_token_logprob {
  int32_t token;
  float logprob; /* natural logarithm, of the unmodified distribution */
} iokv_token_logprob;

/* 1.1. The most probable tokens of a completion with IOKV_COMPLETION_TOP, the most probable first, the smaller id first
 * among equals: *count = min(top_logprobs, vocabulary) entries in shared memory, read-only and valid until released. The
 * space for them is that of logits. Reaping thread. EINVAL, EFORK. */
IOKV_API int iokv_top_logprobs(iokv_client* client, const iokv_completion* completion,
                               const iokv_token_logprob** entries, uint32_t* count);

/* Gives a completion's views back; in any order, once each. Must be called for every completion with
 * IOKV_COMPLETION_LOGITS or IOKV_COMPLETION_TOP, whether viewed or not. Reaping thread. EINVAL, EFORK. */
IOKV_API int iokv_release(iokv_client* client, const iokv_completion* completion);

/*
 * What the time of a step of the device went to: the step that a completion's token or prediction was drawn in, or that
 * computed the last token of an append. Durations in ns, exact below 4096, within 0.025 % above, at most 73 minutes.
 * The device works on many sequences in a step, and its times are those of the whole step; they overlap each other, and
 * the link works ahead of the step as well. What is greatest of link, recompute and dense is what bound the step.
 */
typedef struct iokv_times {
  uint32_t struct_size;  /* in: sizeof(iokv_times); out: bytes filled */
  uint32_t reserved;
  uint64_t queued_ns;    /* from when the sequence could be computed (the operation was taken, the step before had ended, or
                            the client had made room for completions) until this step began */
  uint64_t link_ns;      /* cached tokens were on their way to the device, or new ones back: the longer of the two */
  uint64_t recompute_ns; /* K,V were recomputed from activations */
  uint64_t dense_ns;     /* everything else was computed */
} iokv_times;

/* Errors: EINVAL; EUNSUPPORTED, the completion says nothing of it: it comes from no step, or from an older daemon. Any
 * thread. */
IOKV_API int iokv_completion_times(const iokv_completion* completion, iokv_times* times);

/* Operations whose final completion has not been reaped. Any thread. */
IOKV_API uint32_t iokv_outstanding(const iokv_client* client);

/* ---- conveniences ---------------------------------------------------------------------------------------------- */

/*
 * Blocking: one step, its sampled tokens into `tokens` (capacity >= options->max_tokens) and their number into *count.
 * Returns 0 or the call's or the operation's negative code; tokens sampled before a failure are delivered. EBUSY while
 * operations are outstanding. IOKV_STEP_EACH, IOKV_STEP_LOGITS and top_logprobs are EINVAL here. Both threads' role.
 */
IOKV_API int iokv_generate(iokv_client* client, iokv_sequence sequence, const iokv_step_options* options,
                           int32_t* tokens, uint32_t capacity, uint32_t* count);

/* ---- text ------------------------------------------------------------------------------------------------------ */

/* Bytes of a token's text (not NUL-terminated; may be part of a UTF-8 character); valid until iokv_disconnect. The first
 * call fetches the table from the daemon (blocking). Any thread after a first call has returned; else both threads'
 * role. ETOKEN, EUNSUPPORTED (the model came without a vocabulary), ECLOSED, EFORK. */
IOKV_API int iokv_token_bytes(iokv_client* client, int32_t token, const uint8_t** bytes, uint32_t* size);

enum iokv_text_file {
  IOKV_TEXT_TOKENIZER = 1,    /* tokenizer.json as HF `tokenizers` reads it */
  IOKV_TEXT_CHAT_TEMPLATE = 2 /* Jinja */
};

/* A file that turns text into tokens, as the daemon hands it out, read-only; valid until iokv_disconnect; *size 0 when
 * the model came without it. Threads and errors as iokv_token_bytes, and EINVAL. */
IOKV_API int iokv_text(iokv_client* client, int file, const uint8_t** bytes, uint64_t* size);

/* ---- the daemon's counters ------------------------------------------------------------------------------------- */

typedef struct iokv_counter {
  const char* name;    /* "steps", "pool_units_free" ...; static */
  const char* unit;    /* "1", "bytes", "ns", "tokens" ...; static */
  const char* meaning; /* one line; static */
  uint64_t value;
} iokv_counter;

/* Reads counter `index` (0, 1, ... until IOKV_EINVAL) from memory that the daemon shares; the first call fetches it.
 * Costs the daemon nothing. Threads and errors as iokv_token_bytes. */
IOKV_API int iokv_get_counter(iokv_client* client, uint32_t index, iokv_counter* counter);

#ifdef __cplusplus
}
#endif

#endif /* IOKV_IOKV_H */
