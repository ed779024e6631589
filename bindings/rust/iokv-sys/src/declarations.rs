// SPDX-License-Identifier: Apache-2.0
// Written by bindings/abi/generate from include/iokv/iokv.h: edit neither this nor its order.

use core::ffi::{c_char, c_int, c_void};

/// See `iokv.h`.
pub const IOKV_VERSION_MAJOR: c_int = 1;
/// what is marked "1.1" below has come with it
pub const IOKV_VERSION_MINOR: c_int = 1;
/// See `iokv.h`.
pub const IOKV_OK: c_int = 0;
/// an argument is out of range; the detail or the function's comment says which
pub const IOKV_EINVAL: c_int = -1;
/// this process is out of memory, descriptors or address space
pub const IOKV_ENOMEM: c_int = -2;
/// the submission ring, the arena or the outstanding operations are full: reap, then retry
pub const IOKV_EAGAIN: c_int = -3;
/// no daemon listens on the socket
pub const IOKV_ENODAEMON: c_int = -4;
/// the socket's permissions: join its group (the detail names it)
pub const IOKV_EACCES: c_int = -5;
/// library and daemon have no protocol version in common
pub const IOKV_EVERSION: c_int = -6;
/// the time-out passed while the daemon was loading its model
pub const IOKV_ELOADING: c_int = -7;
/// the daemon is gone or ended the connection; iokv_end_reason says why
pub const IOKV_ECLOSED: c_int = -8;
/// the peer broke the protocol
pub const IOKV_EPROTOCOL: c_int = -9;
/// not possible while operations are outstanding
pub const IOKV_EBUSY: c_int = -10;
/// a handle of the parent process, used in a forked child
pub const IOKV_EFORK: c_int = -11;
/// the time-out passed
pub const IOKV_ETIMEDOUT: c_int = -12;
/// iokv_wake ended the wait
pub const IOKV_EWOKEN: c_int = -13;
/// the sequence would be longer than the model's context
pub const IOKV_ECONTEXT: c_int = -14;
/// the sequence could never fit the daemon's KV pool, or its user's share of it, even alone
pub const IOKV_EPOOL: c_int = -15;
/// a limit of this client or its user: see iokv_info, and enum iokv_limit
pub const IOKV_ELIMIT: c_int = -16;
/// no such sequence: never opened, closed, or of another generation
pub const IOKV_ESEQUENCE: c_int = -17;
/// a token is negative or not below the vocabulary
pub const IOKV_ETOKEN: c_int = -18;
/// cancelled by CANCEL or CLOSE, or an earlier operation of the sequence failed
pub const IOKV_ECANCELED: c_int = -19;
/// the operation's deadline passed before it was done
pub const IOKV_EDEADLINE: c_int = -20;
/// the daemon is stopping
pub const IOKV_ESHUTDOWN: c_int = -21;
/// the compute device failed
pub const IOKV_EDEVICE: c_int = -22;
/// this daemon does not offer that (model, adapter or feature)
pub const IOKV_EUNSUPPORTED: c_int = -23;
/// 1.1: a mask has another length than the vocabulary, or permits nothing, or there are not as many as the step draws
pub const IOKV_EMASK: c_int = -24;
/// 1.1: a step's stop tokens and stop sequences are too many or too long: iokv_info
pub const IOKV_ESTOP: c_int = -25;
/// 1.1: all that is marked 1.1 in iokv_sampling and iokv_step_options; without it EUNSUPPORTED
pub const IOKV_FEATURE_SAMPLING: c_int = 1;
/// 1.1: tokens with a bias
pub const IOKV_MAX_LOGIT_BIAS: c_int = 1024;
/// 1.1
pub const IOKV_MAX_TOP_LOGPROBS: c_int = 64;
/// 1.1
pub const IOKV_MAX_STOP_SEQUENCES: c_int = 64;
/// 1.1: of a step
pub const IOKV_MAX_MASKS: c_int = 64;
/// a completion also for each appended token but the last (with max_tokens 0: for the last as well), with the token that would be drawn after it (IOKV_COMPLETION_PREDICTED). Not with tokens beyond max_step_tokens. Verifies drafts.
pub const IOKV_STEP_EACH: c_int = 1;
/// each completion that carries a token also carries the model's logits there, before anything that iokv_sampling says
pub const IOKV_STEP_LOGITS: c_int = 2;
/// the operation goes on: not its final completion
pub const IOKV_COMPLETION_MORE: c_int = 1;
/// `token` was sampled and appended, `logprob` is its log-probability
pub const IOKV_COMPLETION_TOKEN: c_int = 2;
/// `token` is what would follow appended token `index`; it was not appended
pub const IOKV_COMPLETION_PREDICTED: c_int = 4;
/// iokv_logits gives a view, which must be released
pub const IOKV_COMPLETION_LOGITS: c_int = 8;
/// `token` is one of the step's stop tokens, or (1.1) ends one of its stop sequences
pub const IOKV_COMPLETION_STOPPED: c_int = 16;
/// 1.1: iokv_top_logprobs gives a view, which must be released
pub const IOKV_COMPLETION_TOP: c_int = 32;
/// none of these: what the daemon could not do
pub const IOKV_LIMIT_NONE: c_int = 0;
/// max_sequences of a client are open
pub const IOKV_LIMIT_SEQUENCES: c_int = 1;
/// more tokens would wait in operations of this client that have not started
pub const IOKV_LIMIT_QUEUED_TOKENS: c_int = 2;
/// user_sequences are open
pub const IOKV_LIMIT_USER_SEQUENCES: c_int = 3;
/// user_queued_tokens would wait in operations that have not started
pub const IOKV_LIMIT_USER_QUEUED_TOKENS: c_int = 4;
/// See `iokv.h`.
pub const IOKV_F32: c_int = 0;
/// See `iokv.h`.
pub const IOKV_F16: c_int = 1;
/// See `iokv.h`.
pub const IOKV_BF16: c_int = 2;
/// tokenizer.json as HF `tokenizers` reads it
pub const IOKV_TEXT_TOKENIZER: c_int = 1;
/// Jinja
pub const IOKV_TEXT_CHAT_TEMPLATE: c_int = 2;

/// See `iokv.h`.
pub type iokv_sequence = u64;
/// See `iokv.h`.
pub type iokv_operation = u64;

/// A connection; only the library knows what is in it.
#[repr(C)]
pub struct iokv_client {
    _private: [u8; 0],
    _not_send_or_sync: core::marker::PhantomData<*mut u8>,
}

/// Caller-owned detail of a failed call: one line that says what, where and what to do.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct iokv_error_detail {
    /// See `iokv.h`.
    pub struct_size: u32,
    /// See `iokv.h`.
    pub code: i32,
    /// NUL-terminated
    pub message: [c_char; 504],
}

/// See `iokv.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct iokv_connect_options {
    /// See `iokv.h`.
    pub struct_size: u32,
    /// 0
    pub flags: u32,
    /// NULL: see the top of this file
    pub socket_path: *const c_char,
    /// shown to the administrator, up to 31 bytes; NULL: the program's name
    pub name: *const c_char,
    /// of the whole handshake, loading included; 0: 60 s; negative: no limit
    pub timeout_ns: i64,
    /// iokv_reap may busy-wait so long before it sleeps; 0: never
    pub spin_ns: u64,
    /// power of two, 0: 256
    pub submission_entries: u32,
    /// power of two, 0: 1024
    pub completion_entries: u32,
    /// for prompts on their way, power of two; 0: 1 MiB
    pub arena_bytes: u32,
    /// for logits on their way, power of two; 0: 8 MiB, or two rows of logits if that is more
    pub result_bytes: u32,
}

/// Facts and limits, constant for the life of a connection.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct iokv_info {
    /// in: sizeof(iokv_info); out: bytes filled
    pub struct_size: u32,
    /// See `iokv.h`.
    pub protocol_version: u32,
    /// random at each start of the daemon
    pub daemon_instance: u64,
    /// as in `iokv status`
    pub client_id: u64,
    /// tokens
    pub vocabulary: u32,
    /// tokens a sequence may hold
    pub max_context: u32,
    /// See `iokv.h`.
    pub layers: u32,
    /// See `iokv.h`.
    pub hidden: u32,
    /// See `iokv.h`.
    pub heads: u32,
    /// See `iokv.h`.
    pub kv_heads: u32,
    /// See `iokv.h`.
    pub head_dim: u32,
    /// to put before a prompt, or -1
    pub begin_token: i32,
    /// of end_tokens that are set
    pub end_token_count: u32,
    /// where generation usually stops
    pub end_tokens: [i32; 8],
    /// open at once by this client
    pub max_sequences: u32,
    /// outstanding at once: submitted and final completion not yet reaped
    pub max_operations: u32,
    /// appended by one iokv_step call
    pub max_step_tokens: u32,
    /// See `iokv.h`.
    pub max_stop_tokens: u32,
    /// See `iokv.h`.
    pub submission_entries: u32,
    /// See `iokv.h`.
    pub completion_entries: u32,
    /// tokens that the daemon's whole KV pool can hold
    pub pool_tokens: u64,
    /// See `iokv.h`.
    pub model_digest: [u8; 32],
    /// See `iokv.h`.
    pub tokenizer_digest: [u8; 32],
    /// See `iokv.h`.
    pub model_name: [c_char; 64],
    /// See `iokv.h`.
    pub daemon_version: [c_char; 32],
    /// 1.1: enum iokv_feature, what this daemon offers
    pub features: u64,
}

/// 1.1: what is added to the logit of one token.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct iokv_logit_bias {
    /// See `iokv.h`.
    pub token: i32,
    /// -10000..10000; OpenAI's -100 all but forbids a token, 100 all but forces it
    pub bias: f32,
}

/// How tokens are drawn. temperature 0 takes the most probable token (the smallest id among equals). Otherwise logits are divided by temperature, cut to the top_k most probable (0: all) and then to the smallest set whose probability reaches top_p (0 or 1: all), and one is drawn by a counter-based generator from (seed, position): the same seed gives the same text, alone or under load. 1.1: before that, in this order: logit_bias is added; the logit of a token that the sequence holds from position repetition_from on is divided by repetition_penalty if it is positive, else multiplied; from the logit of one that it holds n > 0 times from position frequency_from on presence_penalty + n * frequency_penalty is taken; the step's mask forbids tokens. Temperature 0 then takes the largest. After top_p, min_p drops what is less probable than min_p times the most probable, and typical_p keeps those whose -log p is nearest to the entropy, until they have that probability. Each is what the logits processor of that name in Hugging Face transformers computes; presence and frequency are OpenAI's (with frequency_from the length of the prompt, as there). Values out of range: IOKV_EINVAL, and iokv_last_failure names them.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct iokv_sampling {
    /// See `iokv.h`.
    pub struct_size: u32,
    /// >= 0, finite
    pub temperature: f32,
    /// 0..1
    pub top_p: f32,
    /// See `iokv.h`.
    pub top_k: u32,
    /// See `iokv.h`.
    pub seed: u64,
    /// 0..1; 0: all
    pub min_p: f32,
    /// 0..1; 0 or 1: all
    pub typical_p: f32,
    /// 0.01..100; 0 or 1: none
    pub repetition_penalty: f32,
    /// -100..100
    pub presence_penalty: f32,
    /// -100..100
    pub frequency_penalty: f32,
    /// position of the first token that repetition_penalty is about
    pub repetition_from: u32,
    /// position of the first token that presence_penalty and frequency_penalty count
    pub frequency_from: u32,
    /// 0..IOKV_MAX_LOGIT_BIAS
    pub logit_bias_count: u32,
    /// each token once; copied before the call returns
    pub logit_bias: *const iokv_logit_bias,
}

/// See `iokv.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct iokv_open_options {
    /// See `iokv.h`.
    pub struct_size: u32,
    /// 0
    pub flags: u32,
    /// comes back in the completion
    pub user_data: u64,
    /// for every step of the sequence; NULL: greedy
    pub sampling: *const iokv_sampling,
    /// 0
    pub model: u32,
    /// 0
    pub adapter: u32,
    /// -100..100, higher first among the sequences of this client; 0
    pub priority: i32,
    /// See `iokv.h`.
    pub reserved: u32,
}

/// See `iokv.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct iokv_step_options {
    /// See `iokv.h`.
    pub struct_size: u32,
    /// iokv_step_flags
    pub flags: u32,
    /// comes back in every completion of the step
    pub user_data: u64,
    /// to append; copied before the call returns
    pub tokens: *const i32,
    /// 0..max_step_tokens
    pub token_count: u32,
    /// to sample at the most; 0: append only
    pub max_tokens: u32,
    /// sampling one of these ends the step; it is appended and reported. Copied.
    pub stop_tokens: *const i32,
    /// See `iokv.h`.
    pub stop_token_count: u32,
    /// added to the sequence's, the sum clamped to -100..100
    pub priority: i32,
    /// for this step only; NULL: the sequence's
    pub sampling: *const iokv_sampling,
    /// CLOCK_MONOTONIC; past it the step ends with IOKV_EDEADLINE; 0: none
    pub deadline_ns: u64,
    /// tokens of all stop sequences, one behind the other: when the tokens that this step has sampled end with one of them, the step ends as with a stop token
    pub stop_sequences: *const i32,
    /// tokens of each, 1 at least; their sum and stop_token_count together are at most max_stop_tokens (IOKV_ESTOP)
    pub stop_sequence_lengths: *const u32,
    /// 0..IOKV_MAX_STOP_SEQUENCES
    pub stop_sequence_count: u32,
    /// 0..IOKV_MAX_TOP_LOGPROBS: so many most probable tokens come with each completion that carries a token: IOKV_COMPLETION_TOP
    pub top_logprobs: u32,
    /// \[mask_count\]\[mask_words\]: which tokens may be drawn, token t is bit t % 32 of word t / 32; bits beyond the vocabulary mean nothing
    pub masks: *const u32,
    /// (vocabulary + 31) / 32, or 0 without masks; else IOKV_EMASK
    pub mask_words: u32,
    /// 0, or as many as the step draws: max_tokens, and with IOKV_STEP_EACH as many more as it predicts; at most IOKV_MAX_MASKS. Else IOKV_EMASK. A mask that permits nothing: IOKV_EMASK
    pub mask_count: u32,
}

/// See `iokv.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct iokv_completion {
    /// See `iokv.h`.
    pub user_data: u64,
    /// See `iokv.h`.
    pub operation: iokv_operation,
    /// See `iokv.h`.
    pub sequence: iokv_sequence,
    /// 0, a count (CANCEL) or a negative code
    pub result: i32,
    /// iokv_completion_flags
    pub flags: u32,
    /// See `iokv.h`.
    pub token: i32,
    /// natural logarithm, of the unmodified distribution
    pub logprob: f32,
    /// TOKEN: of the sampled token in its step; PREDICTED: of the appended one; ELIMIT: iokv_limit
    pub index: u32,
    /// tokens in the sequence after this
    pub length: u32,
    /// for iokv_logits and iokv_top_logprobs
    pub view: [u32; 2],
    /// for iokv_completion_times
    pub times: u64,
}

/// See `iokv.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct iokv_logits_view {
    /// See `iokv.h`.
    pub struct_size: u32,
    /// enum iokv_dtype
    pub dtype: u32,
    /// elements: the vocabulary
    pub count: u32,
    /// See `iokv.h`.
    pub reserved: u32,
    /// in shared memory, read-only
    pub data: *const c_void,
}

/// See `iokv.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct iokv_token_logprob {
    /// See `iokv.h`.
    pub token: i32,
    /// natural logarithm, of the unmodified distribution
    pub logprob: f32,
}

/// What the time of a step of the device went to: the step that a completion's token or prediction was drawn in, or that computed the last token of an append. Durations in ns, exact below 4096, within 0.025 % above, at most 73 minutes. The device works on many sequences in a step, and its times are those of the whole step; they overlap each other, and the link works ahead of the step as well. What is greatest of link, recompute and dense is what bound the step.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct iokv_times {
    /// in: sizeof(iokv_times); out: bytes filled
    pub struct_size: u32,
    /// See `iokv.h`.
    pub reserved: u32,
    /// from when the sequence could be computed (the operation was taken, the step before had ended, or the client had made room for completions) until this step began
    pub queued_ns: u64,
    /// cached tokens were on their way to the device, or new ones back: the longer of the two
    pub link_ns: u64,
    /// K,V were recomputed from activations
    pub recompute_ns: u64,
    /// everything else was computed
    pub dense_ns: u64,
}

/// ---- the daemon's counters -------------------------------------------------------------------------------------
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct iokv_counter {
    /// "steps", "pool_units_free" ...; static
    pub name: *const c_char,
    /// "1", "bytes", "ns", "tokens" ...; static
    pub unit: *const c_char,
    /// one line; static
    pub meaning: *const c_char,
    /// See `iokv.h`.
    pub value: u64,
}

unsafe extern "C" {
    /// A fixed sentence for a code ("no daemon listens on the socket"); never NULL, static. Any thread.
    pub fn iokv_strerror(code: c_int) -> *const c_char;
    /// Connects to a daemon and waits until it is ready. options and detail may be NULL. On success *client is owned by the caller, who ends it with iokv_disconnect. Errors: EINVAL, ENOMEM, ENODAEMON, EACCES, EVERSION, ELOADING (the detail says how far), ELIMIT (the daemon's client limit), EPROTOCOL, ETIMEDOUT, ESHUTDOWN. Any thread; blocks.
    pub fn iokv_connect(
        options: *const iokv_connect_options,
        client: *mut *mut iokv_client,
        detail: *mut iokv_error_detail,
    ) -> c_int;
    /// Ends the connection: everything outstanding is cancelled, every sequence closed, all views become invalid. NULL is fine. Alone on the client.
    pub fn iokv_disconnect(client: *mut iokv_client);
    /// Any thread. EINVAL, EFORK.
    pub fn iokv_get_info(client: *const iokv_client, info: *mut iokv_info) -> c_int;
    /// Why the connection ended, after a call has returned IOKV_ECLOSED: fills the detail. Any thread.
    pub fn iokv_end_reason(client: *const iokv_client, detail: *mut iokv_error_detail) -> c_int;
    /// 1.1. Why the latest iokv_open or iokv_step of this client returned what it returned: the code and one line that names the argument and its range ("top_p is 1.5: it must be 0 to 1"); code 0 and an empty line when it has not failed. EINVAL, EFORK.
    pub fn iokv_last_failure(client: *const iokv_client, detail: *mut iokv_error_detail) -> c_int;
    /// Opens an empty sequence. options may be NULL. Also ELIMIT: max_sequences are open already. Completion result: 0, ELIMIT, EUNSUPPORTED.
    pub fn iokv_open(
        client: *mut iokv_client,
        options: *const iokv_open_options,
        sequence: *mut iokv_sequence,
        operation: *mut iokv_operation,
    ) -> c_int;
    /// Appends token_count tokens, then samples up to max_tokens. One completion a sampled token, with IOKV_COMPLETION_MORE on all but the last; with max_tokens 0 one completion in all. With token_count 0 sampling goes on from where the sequence is (it must not be empty: EINVAL). A prompt larger than the arena is passed on in parts, which the caller does not see. Also ESTOP, EMASK, ELIMIT and EUNSUPPORTED, as iokv_step_options says. Completion result: 0, ECONTEXT, EPOOL, ESEQUENCE, ETOKEN, EINVAL, ECANCELED, EDEADLINE, ELIMIT, EDEVICE, ESHUTDOWN, EMASK. After a failure the sequence holds `length` tokens, as the final completion says.
    pub fn iokv_step(
        client: *mut iokv_client,
        sequence: iokv_sequence,
        options: *const iokv_step_options,
        operation: *mut iokv_operation,
    ) -> c_int;
    /// Opens a new sequence that begins with the first `tokens` tokens of `parent` (UINT32_MAX: all) and its sampling. Runs in the order of the parent's operations. Also ELIMIT, as iokv_open. Completion (sequence: the child) result: 0, ESEQUENCE, EINVAL (tokens beyond the parent's length), ELIMIT.
    pub fn iokv_fork(
        client: *mut iokv_client,
        parent: iokv_sequence,
        tokens: u32,
        user_data: u64,
        child: *mut iokv_sequence,
        operation: *mut iokv_operation,
    ) -> c_int;
    /// Drops every token from position `length` on. Completion result: 0, ESEQUENCE, EINVAL (longer than the sequence).
    pub fn iokv_truncate(
        client: *mut iokv_client,
        sequence: iokv_sequence,
        length: u32,
        user_data: u64,
        operation: *mut iokv_operation,
    ) -> c_int;
    /// Cancels one outstanding operation, or with target 0 all of the sequence's. Overtakes. Completion result: how many were cancelled (0: it had ended), or ESEQUENCE. The cancelled ones complete with ECANCELED; the sequence stays usable.
    pub fn iokv_cancel(
        client: *mut iokv_client,
        sequence: iokv_sequence,
        target: iokv_operation,
        user_data: u64,
        operation: *mut iokv_operation,
    ) -> c_int;
    /// Cancels what is outstanding and frees the sequence. Completion result: 0, ESEQUENCE.
    pub fn iokv_close(
        client: *mut iokv_client,
        sequence: iokv_sequence,
        user_data: u64,
        operation: *mut iokv_operation,
    ) -> c_int;
    /// Goes the way of a step through the daemon and does nothing. Completion result: 0.
    pub fn iokv_nop(
        client: *mut iokv_client,
        user_data: u64,
        operation: *mut iokv_operation,
    ) -> c_int;
    /// Makes placed entries visible; a system call only if the daemon sleeps. Returns how many. Submitting thread.
    pub fn iokv_submit(client: *mut iokv_client) -> c_int;
    /// Copies up to `capacity` completions out, waiting up to timeout_ns (0: not at all; negative: without limit) for the first. Returns how many (0 only with timeout 0), or ETIMEDOUT, EWOKEN, ECLOSED (the daemon is gone: nothing more will come; outstanding operations are lost), EINVAL, EFORK. When it returns less than `capacity`, iokv_fd() is armed and becomes readable at the next completion. Reaping thread.
    pub fn iokv_reap(
        client: *mut iokv_client,
        completions: *mut iokv_completion,
        capacity: u32,
        timeout_ns: i64,
    ) -> c_int;
    /// A descriptor to poll for readability (epoll, libuv, asyncio ...): when readable, call iokv_reap with timeout 0 until it returns less than asked for. Never read, write or close it. Reports the daemon's death as well. Any thread.
    pub fn iokv_fd(client: *const iokv_client) -> c_int;
    /// Ends a present or the next wait of iokv_reap with IOKV_EWOKEN. Any thread.
    pub fn iokv_wake(client: *mut iokv_client) -> c_int;
    /// The logits of a completion with IOKV_COMPLETION_LOGITS; valid until released. The space for logits is limited: while it is full, steps that need it wait. Reaping thread. EINVAL, EFORK.
    pub fn iokv_logits(
        client: *mut iokv_client,
        completion: *const iokv_completion,
        view: *mut iokv_logits_view,
    ) -> c_int;
    /// 1.1. The most probable tokens of a completion with IOKV_COMPLETION_TOP, the most probable first, the smaller id first among equals: *count = min(top_logprobs, vocabulary) entries in shared memory, read-only and valid until released. The space for them is that of logits. Reaping thread. EINVAL, EFORK.
    pub fn iokv_top_logprobs(
        client: *mut iokv_client,
        completion: *const iokv_completion,
        entries: *mut *const iokv_token_logprob,
        count: *mut u32,
    ) -> c_int;
    /// Gives a completion's views back; in any order, once each. Must be called for every completion with IOKV_COMPLETION_LOGITS or IOKV_COMPLETION_TOP, whether viewed or not. Reaping thread. EINVAL, EFORK.
    pub fn iokv_release(client: *mut iokv_client, completion: *const iokv_completion) -> c_int;
    /// Errors: EINVAL; EUNSUPPORTED, the completion says nothing of it: it comes from no step, or from an older daemon. Any thread.
    pub fn iokv_completion_times(
        completion: *const iokv_completion,
        times: *mut iokv_times,
    ) -> c_int;
    /// Operations whose final completion has not been reaped. Any thread.
    pub fn iokv_outstanding(client: *const iokv_client) -> u32;
    /// Blocking: one step, its sampled tokens into `tokens` (capacity >= options->max_tokens) and their number into *count. Returns 0 or the call's or the operation's negative code; tokens sampled before a failure are delivered. EBUSY while operations are outstanding. IOKV_STEP_EACH, IOKV_STEP_LOGITS and top_logprobs are EINVAL here. Both threads' role.
    pub fn iokv_generate(
        client: *mut iokv_client,
        sequence: iokv_sequence,
        options: *const iokv_step_options,
        tokens: *mut i32,
        capacity: u32,
        count: *mut u32,
    ) -> c_int;
    /// Bytes of a token's text (not NUL-terminated; may be part of a UTF-8 character); valid until iokv_disconnect. The first call fetches the table from the daemon (blocking). Any thread after a first call has returned; else both threads' role. ETOKEN, EUNSUPPORTED (the model came without a vocabulary), ECLOSED, EFORK.
    pub fn iokv_token_bytes(
        client: *mut iokv_client,
        token: i32,
        bytes: *mut *const u8,
        size: *mut u32,
    ) -> c_int;
    /// A file that turns text into tokens, as the daemon hands it out, read-only; valid until iokv_disconnect; *size 0 when the model came without it. Threads and errors as iokv_token_bytes, and EINVAL.
    pub fn iokv_text(
        client: *mut iokv_client,
        file: c_int,
        bytes: *mut *const u8,
        size: *mut u64,
    ) -> c_int;
    /// Reads counter `index` (0, 1, ... until IOKV_EINVAL) from memory that the daemon shares; the first call fetches it. Costs the daemon nothing. Threads and errors as iokv_token_bytes.
    pub fn iokv_get_counter(
        client: *mut iokv_client,
        index: u32,
        counter: *mut iokv_counter,
    ) -> c_int;
}

#[cfg(target_pointer_width = "64")]
const _: () = {
    assert!(core::mem::size_of::<iokv_error_detail>() == 512);
    assert!(core::mem::offset_of!(iokv_error_detail, struct_size) == 0);
    assert!(core::mem::offset_of!(iokv_error_detail, code) == 4);
    assert!(core::mem::offset_of!(iokv_error_detail, message) == 8);
    assert!(core::mem::size_of::<iokv_connect_options>() == 56);
    assert!(core::mem::offset_of!(iokv_connect_options, struct_size) == 0);
    assert!(core::mem::offset_of!(iokv_connect_options, flags) == 4);
    assert!(core::mem::offset_of!(iokv_connect_options, socket_path) == 8);
    assert!(core::mem::offset_of!(iokv_connect_options, name) == 16);
    assert!(core::mem::offset_of!(iokv_connect_options, timeout_ns) == 24);
    assert!(core::mem::offset_of!(iokv_connect_options, spin_ns) == 32);
    assert!(core::mem::offset_of!(iokv_connect_options, submission_entries) == 40);
    assert!(core::mem::offset_of!(iokv_connect_options, completion_entries) == 44);
    assert!(core::mem::offset_of!(iokv_connect_options, arena_bytes) == 48);
    assert!(core::mem::offset_of!(iokv_connect_options, result_bytes) == 52);
    assert!(core::mem::size_of::<iokv_info>() == 296);
    assert!(core::mem::offset_of!(iokv_info, struct_size) == 0);
    assert!(core::mem::offset_of!(iokv_info, protocol_version) == 4);
    assert!(core::mem::offset_of!(iokv_info, daemon_instance) == 8);
    assert!(core::mem::offset_of!(iokv_info, client_id) == 16);
    assert!(core::mem::offset_of!(iokv_info, vocabulary) == 24);
    assert!(core::mem::offset_of!(iokv_info, max_context) == 28);
    assert!(core::mem::offset_of!(iokv_info, layers) == 32);
    assert!(core::mem::offset_of!(iokv_info, hidden) == 36);
    assert!(core::mem::offset_of!(iokv_info, heads) == 40);
    assert!(core::mem::offset_of!(iokv_info, kv_heads) == 44);
    assert!(core::mem::offset_of!(iokv_info, head_dim) == 48);
    assert!(core::mem::offset_of!(iokv_info, begin_token) == 52);
    assert!(core::mem::offset_of!(iokv_info, end_token_count) == 56);
    assert!(core::mem::offset_of!(iokv_info, end_tokens) == 60);
    assert!(core::mem::offset_of!(iokv_info, max_sequences) == 92);
    assert!(core::mem::offset_of!(iokv_info, max_operations) == 96);
    assert!(core::mem::offset_of!(iokv_info, max_step_tokens) == 100);
    assert!(core::mem::offset_of!(iokv_info, max_stop_tokens) == 104);
    assert!(core::mem::offset_of!(iokv_info, submission_entries) == 108);
    assert!(core::mem::offset_of!(iokv_info, completion_entries) == 112);
    assert!(core::mem::offset_of!(iokv_info, pool_tokens) == 120);
    assert!(core::mem::offset_of!(iokv_info, model_digest) == 128);
    assert!(core::mem::offset_of!(iokv_info, tokenizer_digest) == 160);
    assert!(core::mem::offset_of!(iokv_info, model_name) == 192);
    assert!(core::mem::offset_of!(iokv_info, daemon_version) == 256);
    assert!(core::mem::offset_of!(iokv_info, features) == 288);
    assert!(core::mem::size_of::<iokv_logit_bias>() == 8);
    assert!(core::mem::offset_of!(iokv_logit_bias, token) == 0);
    assert!(core::mem::offset_of!(iokv_logit_bias, bias) == 4);
    assert!(core::mem::size_of::<iokv_sampling>() == 64);
    assert!(core::mem::offset_of!(iokv_sampling, struct_size) == 0);
    assert!(core::mem::offset_of!(iokv_sampling, temperature) == 4);
    assert!(core::mem::offset_of!(iokv_sampling, top_p) == 8);
    assert!(core::mem::offset_of!(iokv_sampling, top_k) == 12);
    assert!(core::mem::offset_of!(iokv_sampling, seed) == 16);
    assert!(core::mem::offset_of!(iokv_sampling, min_p) == 24);
    assert!(core::mem::offset_of!(iokv_sampling, typical_p) == 28);
    assert!(core::mem::offset_of!(iokv_sampling, repetition_penalty) == 32);
    assert!(core::mem::offset_of!(iokv_sampling, presence_penalty) == 36);
    assert!(core::mem::offset_of!(iokv_sampling, frequency_penalty) == 40);
    assert!(core::mem::offset_of!(iokv_sampling, repetition_from) == 44);
    assert!(core::mem::offset_of!(iokv_sampling, frequency_from) == 48);
    assert!(core::mem::offset_of!(iokv_sampling, logit_bias_count) == 52);
    assert!(core::mem::offset_of!(iokv_sampling, logit_bias) == 56);
    assert!(core::mem::size_of::<iokv_open_options>() == 40);
    assert!(core::mem::offset_of!(iokv_open_options, struct_size) == 0);
    assert!(core::mem::offset_of!(iokv_open_options, flags) == 4);
    assert!(core::mem::offset_of!(iokv_open_options, user_data) == 8);
    assert!(core::mem::offset_of!(iokv_open_options, sampling) == 16);
    assert!(core::mem::offset_of!(iokv_open_options, model) == 24);
    assert!(core::mem::offset_of!(iokv_open_options, adapter) == 28);
    assert!(core::mem::offset_of!(iokv_open_options, priority) == 32);
    assert!(core::mem::offset_of!(iokv_open_options, reserved) == 36);
    assert!(core::mem::size_of::<iokv_step_options>() == 104);
    assert!(core::mem::offset_of!(iokv_step_options, struct_size) == 0);
    assert!(core::mem::offset_of!(iokv_step_options, flags) == 4);
    assert!(core::mem::offset_of!(iokv_step_options, user_data) == 8);
    assert!(core::mem::offset_of!(iokv_step_options, tokens) == 16);
    assert!(core::mem::offset_of!(iokv_step_options, token_count) == 24);
    assert!(core::mem::offset_of!(iokv_step_options, max_tokens) == 28);
    assert!(core::mem::offset_of!(iokv_step_options, stop_tokens) == 32);
    assert!(core::mem::offset_of!(iokv_step_options, stop_token_count) == 40);
    assert!(core::mem::offset_of!(iokv_step_options, priority) == 44);
    assert!(core::mem::offset_of!(iokv_step_options, sampling) == 48);
    assert!(core::mem::offset_of!(iokv_step_options, deadline_ns) == 56);
    assert!(core::mem::offset_of!(iokv_step_options, stop_sequences) == 64);
    assert!(core::mem::offset_of!(iokv_step_options, stop_sequence_lengths) == 72);
    assert!(core::mem::offset_of!(iokv_step_options, stop_sequence_count) == 80);
    assert!(core::mem::offset_of!(iokv_step_options, top_logprobs) == 84);
    assert!(core::mem::offset_of!(iokv_step_options, masks) == 88);
    assert!(core::mem::offset_of!(iokv_step_options, mask_words) == 96);
    assert!(core::mem::offset_of!(iokv_step_options, mask_count) == 100);
    assert!(core::mem::size_of::<iokv_completion>() == 64);
    assert!(core::mem::offset_of!(iokv_completion, user_data) == 0);
    assert!(core::mem::offset_of!(iokv_completion, operation) == 8);
    assert!(core::mem::offset_of!(iokv_completion, sequence) == 16);
    assert!(core::mem::offset_of!(iokv_completion, result) == 24);
    assert!(core::mem::offset_of!(iokv_completion, flags) == 28);
    assert!(core::mem::offset_of!(iokv_completion, token) == 32);
    assert!(core::mem::offset_of!(iokv_completion, logprob) == 36);
    assert!(core::mem::offset_of!(iokv_completion, index) == 40);
    assert!(core::mem::offset_of!(iokv_completion, length) == 44);
    assert!(core::mem::offset_of!(iokv_completion, view) == 48);
    assert!(core::mem::offset_of!(iokv_completion, times) == 56);
    assert!(core::mem::size_of::<iokv_logits_view>() == 24);
    assert!(core::mem::offset_of!(iokv_logits_view, struct_size) == 0);
    assert!(core::mem::offset_of!(iokv_logits_view, dtype) == 4);
    assert!(core::mem::offset_of!(iokv_logits_view, count) == 8);
    assert!(core::mem::offset_of!(iokv_logits_view, reserved) == 12);
    assert!(core::mem::offset_of!(iokv_logits_view, data) == 16);
    assert!(core::mem::size_of::<iokv_token_logprob>() == 8);
    assert!(core::mem::offset_of!(iokv_token_logprob, token) == 0);
    assert!(core::mem::offset_of!(iokv_token_logprob, logprob) == 4);
    assert!(core::mem::size_of::<iokv_times>() == 40);
    assert!(core::mem::offset_of!(iokv_times, struct_size) == 0);
    assert!(core::mem::offset_of!(iokv_times, reserved) == 4);
    assert!(core::mem::offset_of!(iokv_times, queued_ns) == 8);
    assert!(core::mem::offset_of!(iokv_times, link_ns) == 16);
    assert!(core::mem::offset_of!(iokv_times, recompute_ns) == 24);
    assert!(core::mem::offset_of!(iokv_times, dense_ns) == 32);
    assert!(core::mem::size_of::<iokv_counter>() == 32);
    assert!(core::mem::offset_of!(iokv_counter, name) == 0);
    assert!(core::mem::offset_of!(iokv_counter, unit) == 8);
    assert!(core::mem::offset_of!(iokv_counter, meaning) == 16);
    assert!(core::mem::offset_of!(iokv_counter, value) == 24);
};
