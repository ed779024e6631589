# SPDX-License-Identifier: Apache-2.0
"""Written by bindings/abi/generate from include/iokv/iokv.h: edit neither this nor its order."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure

VERSION_MAJOR = 1
VERSION_MINOR = 1  # what is marked "1.1" below has come with it
OK = 0
EINVAL = -1  # an argument is out of range; the detail or the function's comment says which
ENOMEM = -2  # this process is out of memory, descriptors or address space
EAGAIN = -3  # the submission ring, the arena or the outstanding operations are full: reap, then retry
ENODAEMON = -4  # no daemon listens on the socket
EACCES = -5  # the socket's permissions: join its group (the detail names it)
EVERSION = -6  # library and daemon have no protocol version in common
ELOADING = -7  # the time-out passed while the daemon was loading its model
ECLOSED = -8  # the daemon is gone or ended the connection; iokv_end_reason says why
EPROTOCOL = -9  # the peer broke the protocol
EBUSY = -10  # not possible while operations are outstanding
EFORK = -11  # a handle of the parent process, used in a forked child
ETIMEDOUT = -12  # the time-out passed
EWOKEN = -13  # iokv_wake ended the wait
ECONTEXT = -14  # the sequence would be longer than the model's context
EPOOL = -15  # the sequence could never fit the daemon's KV pool, or its user's share of it, even alone
ELIMIT = -16  # a limit of this client or its user: see iokv_info, and enum iokv_limit
ESEQUENCE = -17  # no such sequence: never opened, closed, or of another generation
ETOKEN = -18  # a token is negative or not below the vocabulary
ECANCELED = -19  # cancelled by CANCEL or CLOSE, or an earlier operation of the sequence failed
EDEADLINE = -20  # the operation's deadline passed before it was done
ESHUTDOWN = -21  # the daemon is stopping
EDEVICE = -22  # the compute device failed
EUNSUPPORTED = -23  # this daemon does not offer that (model, adapter or feature)
EMASK = -24  # 1.1: a mask has another length than the vocabulary, or permits nothing, or there are not as many as the step draws
ESTOP = -25  # 1.1: a step's stop tokens and stop sequences are too many or too long: iokv_info
FEATURE_SAMPLING = 1  # 1.1: all that is marked 1.1 in iokv_sampling and iokv_step_options; without it EUNSUPPORTED
MAX_LOGIT_BIAS = 1024  # 1.1: tokens with a bias
MAX_TOP_LOGPROBS = 64  # 1.1
MAX_STOP_SEQUENCES = 64  # 1.1
MAX_MASKS = 64  # 1.1: of a step
STEP_EACH = 1  # a completion also for each appended token but the last (with max_tokens 0: for the last as well), with the token that would be drawn after it (IOKV_COMPLETION_PREDICTED). Not with tokens beyond max_step_tokens. Verifies drafts.
STEP_LOGITS = 2  # each completion that carries a token also carries the model's logits there, before anything that iokv_sampling says
COMPLETION_MORE = 1  # the operation goes on: not its final completion
COMPLETION_TOKEN = 2  # `token` was sampled and appended, `logprob` is its log-probability
COMPLETION_PREDICTED = 4  # `token` is what would follow appended token `index`; it was not appended
COMPLETION_LOGITS = 8  # iokv_logits gives a view, which must be released
COMPLETION_STOPPED = 16  # `token` is one of the step's stop tokens, or (1.1) ends one of its stop sequences
COMPLETION_TOP = 32  # 1.1: iokv_top_logprobs gives a view, which must be released
LIMIT_NONE = 0  # none of these: what the daemon could not do
LIMIT_SEQUENCES = 1  # max_sequences of a client are open
LIMIT_QUEUED_TOKENS = 2  # more tokens would wait in operations of this client that have not started
LIMIT_USER_SEQUENCES = 3  # user_sequences are open
LIMIT_USER_QUEUED_TOKENS = 4  # user_queued_tokens would wait in operations that have not started
F32 = 0
F16 = 1
BF16 = 2
TEXT_TOKENIZER = 1  # tokenizer.json as HF `tokenizers` reads it
TEXT_CHAT_TEMPLATE = 2  # Jinja


class ErrorDetail(Structure):
    _fields_ = [
        ("struct_size", ctypes.c_uint32),
        ("code", ctypes.c_int32),
        ("message", ctypes.c_char * 504),  # NUL-terminated
    ]


class ConnectOptions(Structure):
    _fields_ = [
        ("struct_size", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),  # 0
        ("socket_path", ctypes.c_char_p),  # NULL: see the top of this file
        ("name", ctypes.c_char_p),  # shown to the administrator, up to 31 bytes; NULL: the program's name
        ("timeout_ns", ctypes.c_int64),  # of the whole handshake, loading included; 0: 60 s; negative: no limit
        ("spin_ns", ctypes.c_uint64),  # iokv_reap may busy-wait so long before it sleeps; 0: never
        ("submission_entries", ctypes.c_uint32),  # power of two, 0: 256
        ("completion_entries", ctypes.c_uint32),  # power of two, 0: 1024
        ("arena_bytes", ctypes.c_uint32),  # for prompts on their way, power of two; 0: 1 MiB
        ("result_bytes", ctypes.c_uint32),  # for logits on their way, power of two; 0: 8 MiB, or two rows of logits if that is more
    ]


class Info(Structure):
    _fields_ = [
        ("struct_size", ctypes.c_uint32),  # in: sizeof(iokv_info); out: bytes filled
        ("protocol_version", ctypes.c_uint32),
        ("daemon_instance", ctypes.c_uint64),  # random at each start of the daemon
        ("client_id", ctypes.c_uint64),  # as in `iokv status`
        ("vocabulary", ctypes.c_uint32),  # tokens
        ("max_context", ctypes.c_uint32),  # tokens a sequence may hold
        ("layers", ctypes.c_uint32),
        ("hidden", ctypes.c_uint32),
        ("heads", ctypes.c_uint32),
        ("kv_heads", ctypes.c_uint32),
        ("head_dim", ctypes.c_uint32),
        ("begin_token", ctypes.c_int32),  # to put before a prompt, or -1
        ("end_token_count", ctypes.c_uint32),  # of end_tokens that are set
        ("end_tokens", ctypes.c_int32 * 8),  # where generation usually stops
        ("max_sequences", ctypes.c_uint32),  # open at once by this client
        ("max_operations", ctypes.c_uint32),  # outstanding at once: submitted and final completion not yet reaped
        ("max_step_tokens", ctypes.c_uint32),  # appended by one iokv_step call
        ("max_stop_tokens", ctypes.c_uint32),
        ("submission_entries", ctypes.c_uint32),
        ("completion_entries", ctypes.c_uint32),
        ("pool_tokens", ctypes.c_uint64),  # tokens that the daemon's whole KV pool can hold
        ("model_digest", ctypes.c_uint8 * 32),
        ("tokenizer_digest", ctypes.c_uint8 * 32),
        ("model_name", ctypes.c_char * 64),
        ("daemon_version", ctypes.c_char * 32),
        ("features", ctypes.c_uint64),  # 1.1: enum iokv_feature, what this daemon offers
    ]


class LogitBias(Structure):
    _fields_ = [
        ("token", ctypes.c_int32),
        ("bias", ctypes.c_float),  # -10000..10000; OpenAI's -100 all but forbids a token, 100 all but forces it
    ]


class Sampling(Structure):
    _fields_ = [
        ("struct_size", ctypes.c_uint32),
        ("temperature", ctypes.c_float),  # >= 0, finite
        ("top_p", ctypes.c_float),  # 0..1
        ("top_k", ctypes.c_uint32),
        ("seed", ctypes.c_uint64),
        ("min_p", ctypes.c_float),  # 0..1; 0: all
        ("typical_p", ctypes.c_float),  # 0..1; 0 or 1: all
        ("repetition_penalty", ctypes.c_float),  # 0.01..100; 0 or 1: none
        ("presence_penalty", ctypes.c_float),  # -100..100
        ("frequency_penalty", ctypes.c_float),  # -100..100
        ("repetition_from", ctypes.c_uint32),  # position of the first token that repetition_penalty is about
        ("frequency_from", ctypes.c_uint32),  # position of the first token that presence_penalty and frequency_penalty count
        ("logit_bias_count", ctypes.c_uint32),  # 0..IOKV_MAX_LOGIT_BIAS
        ("logit_bias", POINTER(LogitBias)),  # each token once; copied before the call returns
    ]


class OpenOptions(Structure):
    _fields_ = [
        ("struct_size", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),  # 0
        ("user_data", ctypes.c_uint64),  # comes back in the completion
        ("sampling", POINTER(Sampling)),  # for every step of the sequence; NULL: greedy
        ("model", ctypes.c_uint32),  # 0
        ("adapter", ctypes.c_uint32),  # 0
        ("priority", ctypes.c_int32),  # -100..100, higher first among the sequences of this client; 0
        ("reserved", ctypes.c_uint32),
    ]


class StepOptions(Structure):
    _fields_ = [
        ("struct_size", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),  # iokv_step_flags
        ("user_data", ctypes.c_uint64),  # comes back in every completion of the step
        ("tokens", POINTER(ctypes.c_int32)),  # to append; copied before the call returns
        ("token_count", ctypes.c_uint32),  # 0..max_step_tokens
        ("max_tokens", ctypes.c_uint32),  # to sample at the most; 0: append only
        ("stop_tokens", POINTER(ctypes.c_int32)),  # sampling one of these ends the step; it is appended and reported. Copied.
        ("stop_token_count", ctypes.c_uint32),
        ("priority", ctypes.c_int32),  # added to the sequence's, the sum clamped to -100..100
        ("sampling", POINTER(Sampling)),  # for this step only; NULL: the sequence's
        ("deadline_ns", ctypes.c_uint64),  # CLOCK_MONOTONIC; past it the step ends with IOKV_EDEADLINE; 0: none
        ("stop_sequences", POINTER(ctypes.c_int32)),  # tokens of all stop sequences, one behind the other: when the tokens that this step has sampled end with one of them, the step ends as with a stop token
        ("stop_sequence_lengths", POINTER(ctypes.c_uint32)),  # tokens of each, 1 at least; their sum and stop_token_count together are at most max_stop_tokens (IOKV_ESTOP)
        ("stop_sequence_count", ctypes.c_uint32),  # 0..IOKV_MAX_STOP_SEQUENCES
        ("top_logprobs", ctypes.c_uint32),  # 0..IOKV_MAX_TOP_LOGPROBS: so many most probable tokens come with each completion that carries a token: IOKV_COMPLETION_TOP
        ("masks", POINTER(ctypes.c_uint32)),  # [mask_count][mask_words]: which tokens may be drawn, token t is bit t % 32 of word t / 32; bits beyond the vocabulary mean nothing
        ("mask_words", ctypes.c_uint32),  # (vocabulary + 31) / 32, or 0 without masks; else IOKV_EMASK
        ("mask_count", ctypes.c_uint32),  # 0, or as many as the step draws: max_tokens, and with IOKV_STEP_EACH as many more as it predicts; at most IOKV_MAX_MASKS. Else IOKV_EMASK. A mask that permits nothing: IOKV_EMASK
    ]


class Completion(Structure):
    _fields_ = [
        ("user_data", ctypes.c_uint64),
        ("operation", ctypes.c_uint64),
        ("sequence", ctypes.c_uint64),
        ("result", ctypes.c_int32),  # 0, a count (CANCEL) or a negative code
        ("flags", ctypes.c_uint32),  # iokv_completion_flags
        ("token", ctypes.c_int32),
        ("logprob", ctypes.c_float),  # natural logarithm, of the unmodified distribution
        ("index", ctypes.c_uint32),  # TOKEN: of the sampled token in its step; PREDICTED: of the appended one; ELIMIT: iokv_limit
        ("length", ctypes.c_uint32),  # tokens in the sequence after this
        ("view", ctypes.c_uint32 * 2),  # for iokv_logits and iokv_top_logprobs
        ("times", ctypes.c_uint64),  # for iokv_completion_times
    ]


class LogitsView(Structure):
    _fields_ = [
        ("struct_size", ctypes.c_uint32),
        ("dtype", ctypes.c_uint32),  # enum iokv_dtype
        ("count", ctypes.c_uint32),  # elements: the vocabulary
        ("reserved", ctypes.c_uint32),
        ("data", ctypes.c_void_p),  # in shared memory, read-only
    ]


class TokenLogprob(Structure):
    _fields_ = [
        ("token", ctypes.c_int32),
        ("logprob", ctypes.c_float),  # natural logarithm, of the unmodified distribution
    ]


class Times(Structure):
    _fields_ = [
        ("struct_size", ctypes.c_uint32),  # in: sizeof(iokv_times); out: bytes filled
        ("reserved", ctypes.c_uint32),
        ("queued_ns", ctypes.c_uint64),  # from when the sequence could be computed (the operation was taken, the step before had ended, or the client had made room for completions) until this step began
        ("link_ns", ctypes.c_uint64),  # cached tokens were on their way to the device, or new ones back: the longer of the two
        ("recompute_ns", ctypes.c_uint64),  # K,V were recomputed from activations
        ("dense_ns", ctypes.c_uint64),  # everything else was computed
    ]


class Counter(Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),  # "steps", "pool_units_free" ...; static
        ("unit", ctypes.c_char_p),  # "1", "bytes", "ns", "tokens" ...; static
        ("meaning", ctypes.c_char_p),  # one line; static
        ("value", ctypes.c_uint64),
    ]


# The header's name -> the structure
STRUCTURES: dict[str, type[Structure]] = {
    "iokv_error_detail": ErrorDetail,
    "iokv_connect_options": ConnectOptions,
    "iokv_info": Info,
    "iokv_logit_bias": LogitBias,
    "iokv_sampling": Sampling,
    "iokv_open_options": OpenOptions,
    "iokv_step_options": StepOptions,
    "iokv_completion": Completion,
    "iokv_logits_view": LogitsView,
    "iokv_token_logprob": TokenLogprob,
    "iokv_times": Times,
    "iokv_counter": Counter,
}

CONSTANTS: dict[str, int] = {
    "IOKV_VERSION_MAJOR": VERSION_MAJOR,
    "IOKV_VERSION_MINOR": VERSION_MINOR,
    "IOKV_OK": OK,
    "IOKV_EINVAL": EINVAL,
    "IOKV_ENOMEM": ENOMEM,
    "IOKV_EAGAIN": EAGAIN,
    "IOKV_ENODAEMON": ENODAEMON,
    "IOKV_EACCES": EACCES,
    "IOKV_EVERSION": EVERSION,
    "IOKV_ELOADING": ELOADING,
    "IOKV_ECLOSED": ECLOSED,
    "IOKV_EPROTOCOL": EPROTOCOL,
    "IOKV_EBUSY": EBUSY,
    "IOKV_EFORK": EFORK,
    "IOKV_ETIMEDOUT": ETIMEDOUT,
    "IOKV_EWOKEN": EWOKEN,
    "IOKV_ECONTEXT": ECONTEXT,
    "IOKV_EPOOL": EPOOL,
    "IOKV_ELIMIT": ELIMIT,
    "IOKV_ESEQUENCE": ESEQUENCE,
    "IOKV_ETOKEN": ETOKEN,
    "IOKV_ECANCELED": ECANCELED,
    "IOKV_EDEADLINE": EDEADLINE,
    "IOKV_ESHUTDOWN": ESHUTDOWN,
    "IOKV_EDEVICE": EDEVICE,
    "IOKV_EUNSUPPORTED": EUNSUPPORTED,
    "IOKV_EMASK": EMASK,
    "IOKV_ESTOP": ESTOP,
    "IOKV_FEATURE_SAMPLING": FEATURE_SAMPLING,
    "IOKV_MAX_LOGIT_BIAS": MAX_LOGIT_BIAS,
    "IOKV_MAX_TOP_LOGPROBS": MAX_TOP_LOGPROBS,
    "IOKV_MAX_STOP_SEQUENCES": MAX_STOP_SEQUENCES,
    "IOKV_MAX_MASKS": MAX_MASKS,
    "IOKV_STEP_EACH": STEP_EACH,
    "IOKV_STEP_LOGITS": STEP_LOGITS,
    "IOKV_COMPLETION_MORE": COMPLETION_MORE,
    "IOKV_COMPLETION_TOKEN": COMPLETION_TOKEN,
    "IOKV_COMPLETION_PREDICTED": COMPLETION_PREDICTED,
    "IOKV_COMPLETION_LOGITS": COMPLETION_LOGITS,
    "IOKV_COMPLETION_STOPPED": COMPLETION_STOPPED,
    "IOKV_COMPLETION_TOP": COMPLETION_TOP,
    "IOKV_LIMIT_NONE": LIMIT_NONE,
    "IOKV_LIMIT_SEQUENCES": LIMIT_SEQUENCES,
    "IOKV_LIMIT_QUEUED_TOKENS": LIMIT_QUEUED_TOKENS,
    "IOKV_LIMIT_USER_SEQUENCES": LIMIT_USER_SEQUENCES,
    "IOKV_LIMIT_USER_QUEUED_TOKENS": LIMIT_USER_QUEUED_TOKENS,
    "IOKV_F32": F32,
    "IOKV_F16": F16,
    "IOKV_BF16": BF16,
    "IOKV_TEXT_TOKENIZER": TEXT_TOKENIZER,
    "IOKV_TEXT_CHAT_TEMPLATE": TEXT_CHAT_TEMPLATE,
}

# name -> (result, arguments)
PROTOTYPES: dict[str, tuple[object, list[object]]] = {
    "iokv_strerror": (ctypes.c_char_p, [ctypes.c_int]),
    "iokv_connect": (ctypes.c_int, [POINTER(ConnectOptions), POINTER(ctypes.c_void_p), POINTER(ErrorDetail)]),
    "iokv_disconnect": (None, [ctypes.c_void_p]),
    "iokv_get_info": (ctypes.c_int, [ctypes.c_void_p, POINTER(Info)]),
    "iokv_end_reason": (ctypes.c_int, [ctypes.c_void_p, POINTER(ErrorDetail)]),
    "iokv_last_failure": (ctypes.c_int, [ctypes.c_void_p, POINTER(ErrorDetail)]),
    "iokv_open": (ctypes.c_int, [ctypes.c_void_p, POINTER(OpenOptions), POINTER(ctypes.c_uint64), POINTER(ctypes.c_uint64)]),
    "iokv_step": (ctypes.c_int, [ctypes.c_void_p, ctypes.c_uint64, POINTER(StepOptions), POINTER(ctypes.c_uint64)]),
    "iokv_fork": (ctypes.c_int, [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_uint64, POINTER(ctypes.c_uint64), POINTER(ctypes.c_uint64)]),
    "iokv_truncate": (ctypes.c_int, [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_uint64, POINTER(ctypes.c_uint64)]),
    "iokv_cancel": (ctypes.c_int, [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64, POINTER(ctypes.c_uint64)]),
    "iokv_close": (ctypes.c_int, [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64, POINTER(ctypes.c_uint64)]),
    "iokv_nop": (ctypes.c_int, [ctypes.c_void_p, ctypes.c_uint64, POINTER(ctypes.c_uint64)]),
    "iokv_submit": (ctypes.c_int, [ctypes.c_void_p]),
    "iokv_reap": (ctypes.c_int, [ctypes.c_void_p, POINTER(Completion), ctypes.c_uint32, ctypes.c_int64]),
    "iokv_fd": (ctypes.c_int, [ctypes.c_void_p]),
    "iokv_wake": (ctypes.c_int, [ctypes.c_void_p]),
    "iokv_logits": (ctypes.c_int, [ctypes.c_void_p, POINTER(Completion), POINTER(LogitsView)]),
    "iokv_top_logprobs": (ctypes.c_int, [ctypes.c_void_p, POINTER(Completion), POINTER(POINTER(TokenLogprob)), POINTER(ctypes.c_uint32)]),
    "iokv_release": (ctypes.c_int, [ctypes.c_void_p, POINTER(Completion)]),
    "iokv_completion_times": (ctypes.c_int, [POINTER(Completion), POINTER(Times)]),
    "iokv_outstanding": (ctypes.c_uint32, [ctypes.c_void_p]),
    "iokv_generate": (ctypes.c_int, [ctypes.c_void_p, ctypes.c_uint64, POINTER(StepOptions), POINTER(ctypes.c_int32), ctypes.c_uint32, POINTER(ctypes.c_uint32)]),
    "iokv_token_bytes": (ctypes.c_int, [ctypes.c_void_p, ctypes.c_int32, POINTER(ctypes.c_void_p), POINTER(ctypes.c_uint32)]),
    "iokv_text": (ctypes.c_int, [ctypes.c_void_p, ctypes.c_int, POINTER(ctypes.c_void_p), POINTER(ctypes.c_uint64)]),
    "iokv_get_counter": (ctypes.c_int, [ctypes.c_void_p, ctypes.c_uint32, POINTER(Counter)]),
}
