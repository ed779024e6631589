// SPDX-License-Identifier: Apache-2.0
//! What goes into calls and comes out of them: plain values, nothing that points into shared memory.

use std::time::Duration;

use iokv_sys as sys;

use crate::error::{Error, Result};

/// How tokens are drawn. The default takes the most probable one; what each does is in `iokv_sampling`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sampling<'a> {
    /// 0 is greedy; otherwise logits are divided by it.
    pub temperature: f32,
    /// The smallest set of tokens whose probability reaches this is drawn from; 0 or 1: all.
    pub top_p: f32,
    /// So many most probable tokens are drawn from; 0: all.
    pub top_k: u32,
    /// The same seed gives the same text, alone or under load.
    pub seed: u64,
    /// What is less probable than this share of the most probable is not drawn; 0: all.
    pub min_p: f32,
    /// Of the tokens whose -log p is nearest to the entropy, as many as have this probability; 0 or 1: all.
    pub typical_p: f32,
    /// Divides the logits of tokens that the sequence holds, from `repetition_from` on; 0 or 1: none.
    pub repetition_penalty: f32,
    /// Taken from the logits of tokens that the sequence holds, from `frequency_from` on.
    pub presence_penalty: f32,
    /// Taken as often as the sequence holds the token, from `frequency_from` on.
    pub frequency_penalty: f32,
    /// Position of the first token that `repetition_penalty` is about.
    pub repetition_from: u32,
    /// Position of the first token that the other two penalties count.
    pub frequency_from: u32,
    /// Added to the logits of these tokens, each of which comes once.
    pub logit_bias: &'a [LogitBias],
}

/// What is added to the logit of one token.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct LogitBias {
    /// The token.
    pub token: i32,
    /// -10000 to 10000.
    pub bias: f32,
}

/// One of the most probable tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenLogprob {
    /// The token.
    pub token: i32,
    /// Natural logarithm, of the unmodified distribution.
    pub logprob: f32,
}

/// Options of a connection. The default finds the socket as `iokv.h` says and waits a minute for a daemon that loads.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// `None`: `$IOKV_SOCKET`, `$XDG_RUNTIME_DIR/iokv.sock`, `/run/iokv/iokv.sock`.
    pub socket_path: Option<std::path::PathBuf>,
    /// Shown to the administrator, up to 31 bytes; `None`: the program's name.
    pub name: Option<String>,
    /// Of the whole handshake, loading included; `None`: no limit.
    pub timeout: Option<Duration>,
    /// A wait may busy-wait so long before it sleeps.
    pub spin: Duration,
    /// Power of two; 0: 256.
    pub submission_entries: u32,
    /// Power of two; 0: 1024.
    pub completion_entries: u32,
    /// For prompts on their way, power of two; 0: 1 MiB.
    pub arena_bytes: u32,
    /// For logits on their way, power of two; 0: 8 MiB, or two rows of logits if that is more.
    pub result_bytes: u32,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            socket_path: None,
            name: None,
            timeout: Some(Duration::from_secs(60)),
            spin: Duration::ZERO,
            submission_entries: 0,
            completion_entries: 0,
            arena_bytes: 0,
            result_bytes: 0,
        }
    }
}

/// Options of a new sequence.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenOptions<'a> {
    /// For every step of the sequence; `None`: greedy.
    pub sampling: Option<Sampling<'a>>,
    /// -100 to 100, higher first among this client's sequences.
    pub priority: i32,
    /// 0.
    pub model: u32,
    /// 0.
    pub adapter: u32,
}

/// Options of a step. What they borrow is copied by the call.
#[derive(Clone, Copy, Debug, Default)]
pub struct StepOptions<'a> {
    /// To append.
    pub tokens: &'a [i32],
    /// To sample at the most; 0: append only.
    pub max_tokens: u32,
    /// Sampling one of these ends the step; it is appended and reported.
    pub stop_tokens: &'a [i32],
    /// When the tokens that this step has sampled end with one of these, it ends as with a stop token.
    pub stop_sequences: &'a [&'a [i32]],
    /// For this step only; `None`: the sequence's.
    pub sampling: Option<Sampling<'a>>,
    /// So many most probable tokens come with each token.
    pub top_logprobs: u32,
    /// One for each draw: token t may be drawn where bit t % 32 of word t / 32 is set.
    pub masks: &'a [&'a [u32]],
    /// A prediction also for each appended token but the last: verifies drafts.
    pub each: bool,
    /// Each token comes with the logits that it was drawn from.
    pub logits: bool,
    /// Added to the sequence's.
    pub priority: i32,
    /// `CLOCK_MONOTONIC`; past it the step ends with [`Error::DeadlinePassed`]; 0: none.
    pub deadline_ns: u64,
}

/// Facts about the model and limits of this client, constant for the life of a connection.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // the names are iokv_info's
pub struct Info {
    pub protocol_version: u32,
    pub daemon_instance: u64,
    pub client_id: u64,
    pub vocabulary: u32,
    pub max_context: u32,
    pub layers: u32,
    pub hidden: u32,
    pub heads: u32,
    pub kv_heads: u32,
    pub head_dim: u32,
    /// To put before a prompt.
    pub begin_token: Option<i32>,
    /// Where generation usually stops.
    pub end_tokens: Vec<i32>,
    pub max_sequences: u32,
    pub max_operations: u32,
    pub max_step_tokens: u32,
    pub max_stop_tokens: u32,
    pub submission_entries: u32,
    pub completion_entries: u32,
    pub pool_tokens: u64,
    pub model_digest: [u8; 32],
    pub tokenizer_digest: [u8; 32],
    pub model_name: String,
    pub daemon_version: String,
    /// `iokv_feature`: what this daemon offers.
    pub features: u64,
}

impl Info {
    pub(crate) fn from_raw(raw: &sys::iokv_info) -> Self {
        let ends = (raw.end_token_count as usize).min(raw.end_tokens.len());
        Self {
            protocol_version: raw.protocol_version,
            daemon_instance: raw.daemon_instance,
            client_id: raw.client_id,
            vocabulary: raw.vocabulary,
            max_context: raw.max_context,
            layers: raw.layers,
            hidden: raw.hidden,
            heads: raw.heads,
            kv_heads: raw.kv_heads,
            head_dim: raw.head_dim,
            begin_token: (raw.begin_token >= 0).then_some(raw.begin_token),
            end_tokens: raw.end_tokens[..ends].to_vec(),
            max_sequences: raw.max_sequences,
            max_operations: raw.max_operations,
            max_step_tokens: raw.max_step_tokens,
            max_stop_tokens: raw.max_stop_tokens,
            submission_entries: raw.submission_entries,
            completion_entries: raw.completion_entries,
            pool_tokens: raw.pool_tokens,
            model_digest: raw.model_digest,
            tokenizer_digest: raw.tokenizer_digest,
            model_name: text_of(&raw.model_name),
            daemon_version: text_of(&raw.daemon_version),
            features: raw.features,
        }
    }
}

/// A NUL-terminated field as text.
pub(crate) fn text_of(field: &[std::ffi::c_char]) -> String {
    let bytes: Vec<u8> = field.iter().take_while(|c| **c != 0).map(|c| *c as u8).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What the time of a completion's step went to; see `iokv_times`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names are iokv_times'
pub struct Times {
    pub queued: Duration,
    pub link: Duration,
    pub recompute: Duration,
    pub dense: Duration,
}

/// One completion: an operation's token, prediction or end.
#[derive(Clone, Debug)]
pub struct Completion {
    /// As given when the operation was placed.
    pub user_data: u64,
    /// The operation that it is about.
    pub operation: u64,
    /// The operation's sequence.
    pub sequence: u64,
    /// 0, a count (of a cancellation) or a negative code; [`Completion::outcome`] tells them apart.
    pub result: i32,
    /// The token, where there is one: see [`sampled`](Self::sampled) and [`predicted`](Self::predicted).
    pub token: i32,
    /// Natural logarithm of the token's probability in the unmodified distribution.
    pub logprob: f32,
    /// Of the sampled token in its step, or of the appended token that a prediction follows.
    pub index: u32,
    /// Tokens in the sequence after this.
    pub length: u32,
    /// `iokv_completion_flags`.
    pub flags: u32,
    /// A copy of the logits that the token was drawn from, if the step asked for them.
    pub logits: Option<Box<[f32]>>,
    /// The most probable tokens, the most probable first, as many as the step asked for.
    pub top: Option<Box<[TokenLogprob]>>,
    pub(crate) times: u64,
}

impl Completion {
    fn has(&self, flag: i32) -> bool {
        self.flags & flag as u32 != 0
    }
    /// The operation has ended with this.
    pub fn is_final(&self) -> bool {
        !self.has(sys::IOKV_COMPLETION_MORE)
    }
    /// `token` was drawn and appended.
    pub fn sampled(&self) -> bool {
        self.has(sys::IOKV_COMPLETION_TOKEN)
    }
    /// `token` is what would follow appended token `index`; it was not appended.
    pub fn predicted(&self) -> bool {
        self.has(sys::IOKV_COMPLETION_PREDICTED)
    }
    /// `token` is one of the step's stop tokens, or ends one of its stop sequences.
    pub fn stopped(&self) -> bool {
        self.has(sys::IOKV_COMPLETION_STOPPED)
    }
    /// The result: a count (of a cancellation, else 0), or the operation's failure.
    pub fn outcome(&self) -> Result<u32> {
        crate::error::check(self.result)
    }
    /// What the time of its step went to; `None` when it comes from no step, or the daemon does not say.
    pub fn times(&self) -> Option<Times> {
        crate::connection::times_of(self.times)
    }
}

/// One of the daemon's counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter {
    /// `"steps"`, `"pool_units_free"` ...
    pub name: &'static str,
    /// `"1"`, `"bytes"`, `"ns"`, `"tokens"` ...
    pub unit: &'static str,
    /// One line.
    pub meaning: &'static str,
    /// Now.
    pub value: u64,
}

/// A time-out as the C ABI takes it: `None` is no limit.
pub(crate) fn timeout_ns(timeout: Option<Duration>) -> i64 {
    timeout.map_or(-1, |limit| i64::try_from(limit.as_nanos()).unwrap_or(i64::MAX))
}

/// A length as the C ABI takes it.
pub(crate) fn length<T>(slice: &[T]) -> Result<u32> {
    u32::try_from(slice.len()).map_err(|_| Error::InvalidArgument)
}
