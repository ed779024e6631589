# SPDX-License-Identifier: Apache-2.0
"""include/iokv/iokv.h as ctypes: structures, prototypes and the loaded library. Nothing here interprets anything.

Invariants
 1. Field for field the header's layout; tests/abi compares every offset with a C compiler's.
 2. Each structure's struct_size is set by its constructor helper `sized`.
"""

from __future__ import annotations

import ctypes
import os
from ctypes import (
    POINTER,
    Structure,
    c_char,
    c_char_p,
    c_float,
    c_int,
    c_int32,
    c_int64,
    c_uint8,
    c_uint32,
    c_uint64,
    c_void_p,
)
from pathlib import Path
from typing import TypeVar


class ErrorDetail(Structure):
    _fields_ = [("struct_size", c_uint32), ("code", c_int32), ("message", c_char * 504)]


class ConnectOptions(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("flags", c_uint32),
        ("socket_path", c_char_p),
        ("name", c_char_p),
        ("timeout_ns", c_int64),
        ("spin_ns", c_uint64),
        ("submission_entries", c_uint32),
        ("completion_entries", c_uint32),
        ("arena_bytes", c_uint32),
        ("result_bytes", c_uint32),
    ]


class Info(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("protocol_version", c_uint32),
        ("daemon_instance", c_uint64),
        ("client_id", c_uint64),
        ("vocabulary", c_uint32),
        ("max_context", c_uint32),
        ("layers", c_uint32),
        ("hidden", c_uint32),
        ("heads", c_uint32),
        ("kv_heads", c_uint32),
        ("head_dim", c_uint32),
        ("begin_token", c_int32),
        ("end_token_count", c_uint32),
        ("end_tokens", c_int32 * 8),
        ("max_sequences", c_uint32),
        ("max_operations", c_uint32),
        ("max_step_tokens", c_uint32),
        ("max_stop_tokens", c_uint32),
        ("submission_entries", c_uint32),
        ("completion_entries", c_uint32),
        ("pool_tokens", c_uint64),
        ("model_digest", c_uint8 * 32),
        ("tokenizer_digest", c_uint8 * 32),
        ("model_name", c_char * 64),
        ("daemon_version", c_char * 32),
        ("features", c_uint64),
    ]


class LogitBias(Structure):
    _fields_ = [("token", c_int32), ("bias", c_float)]


class TokenLogprob(Structure):
    _fields_ = [("token", c_int32), ("logprob", c_float)]


class Sampling(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("temperature", c_float),
        ("top_p", c_float),
        ("top_k", c_uint32),
        ("seed", c_uint64),
        ("min_p", c_float),
        ("typical_p", c_float),
        ("repetition_penalty", c_float),
        ("presence_penalty", c_float),
        ("frequency_penalty", c_float),
        ("repetition_from", c_uint32),
        ("frequency_from", c_uint32),
        ("logit_bias_count", c_uint32),
        ("logit_bias", POINTER(LogitBias)),
    ]


class OpenOptions(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("flags", c_uint32),
        ("user_data", c_uint64),
        ("sampling", POINTER(Sampling)),
        ("model", c_uint32),
        ("adapter", c_uint32),
        ("priority", c_int32),
        ("reserved", c_uint32),
    ]


class StepOptions(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("flags", c_uint32),
        ("user_data", c_uint64),
        ("tokens", POINTER(c_int32)),
        ("token_count", c_uint32),
        ("max_tokens", c_uint32),
        ("stop_tokens", POINTER(c_int32)),
        ("stop_token_count", c_uint32),
        ("priority", c_int32),
        ("sampling", POINTER(Sampling)),
        ("deadline_ns", c_uint64),
        ("stop_sequences", POINTER(c_int32)),
        ("stop_sequence_lengths", POINTER(c_uint32)),
        ("stop_sequence_count", c_uint32),
        ("top_logprobs", c_uint32),
        ("masks", POINTER(c_uint32)),
        ("mask_words", c_uint32),
        ("mask_count", c_uint32),
    ]


class Completion(Structure):
    _fields_ = [
        ("user_data", c_uint64),
        ("operation", c_uint64),
        ("sequence", c_uint64),
        ("result", c_int32),
        ("flags", c_uint32),
        ("token", c_int32),
        ("logprob", c_float),
        ("index", c_uint32),
        ("length", c_uint32),
        ("view", c_uint32 * 2),
        ("times", c_uint64),
    ]


class Times(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_uint32),
        ("queued_ns", c_uint64),
        ("link_ns", c_uint64),
        ("recompute_ns", c_uint64),
        ("dense_ns", c_uint64),
    ]


class LogitsView(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("dtype", c_uint32),
        ("count", c_uint32),
        ("reserved", c_uint32),
        ("data", c_void_p),
    ]


class Counter(Structure):
    _fields_ = [("name", c_char_p), ("unit", c_char_p), ("meaning", c_char_p), ("value", c_uint64)]


# The header's names, for the test that compares the layouts.
STRUCTURES: dict[str, type[Structure]] = {
    "iokv_error_detail": ErrorDetail,
    "iokv_connect_options": ConnectOptions,
    "iokv_info": Info,
    "iokv_logit_bias": LogitBias,
    "iokv_token_logprob": TokenLogprob,
    "iokv_sampling": Sampling,
    "iokv_open_options": OpenOptions,
    "iokv_step_options": StepOptions,
    "iokv_completion": Completion,
    "iokv_times": Times,
    "iokv_logits_view": LogitsView,
    "iokv_counter": Counter,
}

STEP_EACH, STEP_LOGITS = 1, 2
MORE, TOKEN, PREDICTED, LOGITS, STOPPED, TOP = 1, 2, 4, 8, 16, 32
TEXT_TOKENIZER, TEXT_CHAT_TEMPLATE = 1, 2
F32 = 0
WHOLE_SEQUENCE = 0xFFFFFFFF

Sized = TypeVar("Sized", bound=Structure)


def sized(structure: type[Sized]) -> Sized:
    """A zeroed structure with its struct_size set."""
    value = structure()
    value.struct_size = ctypes.sizeof(structure)
    return value


_client = c_void_p
_sequence = c_uint64
_operation = POINTER(c_uint64)

# name -> (result, arguments)
PROTOTYPES: dict[str, tuple[object, list[object]]] = {
    "iokv_strerror": (c_char_p, [c_int]),
    "iokv_connect": (c_int, [POINTER(ConnectOptions), POINTER(_client), POINTER(ErrorDetail)]),
    "iokv_disconnect": (None, [_client]),
    "iokv_get_info": (c_int, [_client, POINTER(Info)]),
    "iokv_end_reason": (c_int, [_client, POINTER(ErrorDetail)]),
    "iokv_last_failure": (c_int, [_client, POINTER(ErrorDetail)]),
    "iokv_open": (c_int, [_client, POINTER(OpenOptions), POINTER(_sequence), _operation]),
    "iokv_step": (c_int, [_client, _sequence, POINTER(StepOptions), _operation]),
    "iokv_fork": (c_int, [_client, _sequence, c_uint32, c_uint64, POINTER(_sequence), _operation]),
    "iokv_truncate": (c_int, [_client, _sequence, c_uint32, c_uint64, _operation]),
    "iokv_cancel": (c_int, [_client, _sequence, c_uint64, c_uint64, _operation]),
    "iokv_close": (c_int, [_client, _sequence, c_uint64, _operation]),
    "iokv_nop": (c_int, [_client, c_uint64, _operation]),
    "iokv_submit": (c_int, [_client]),
    "iokv_reap": (c_int, [_client, POINTER(Completion), c_uint32, c_int64]),
    "iokv_fd": (c_int, [_client]),
    "iokv_wake": (c_int, [_client]),
    "iokv_logits": (c_int, [_client, POINTER(Completion), POINTER(LogitsView)]),
    "iokv_top_logprobs": (
        c_int,
        [_client, POINTER(Completion), POINTER(POINTER(TokenLogprob)), POINTER(c_uint32)],
    ),
    "iokv_release": (c_int, [_client, POINTER(Completion)]),
    "iokv_completion_times": (c_int, [POINTER(Completion), POINTER(Times)]),
    "iokv_outstanding": (c_uint32, [_client]),
    "iokv_generate": (
        c_int,
        [_client, _sequence, POINTER(StepOptions), POINTER(c_int32), c_uint32, POINTER(c_uint32)],
    ),
    "iokv_token_bytes": (c_int, [_client, c_int32, POINTER(c_void_p), POINTER(c_uint32)]),
    "iokv_text": (c_int, [_client, c_int, POINTER(c_void_p), POINTER(c_uint64)]),
    "iokv_get_counter": (c_int, [_client, c_uint32, POINTER(Counter)]),
}


def _candidates() -> list[str]:
    """Where libiokv.so.1 may be: $IOKV_LIBRARY alone where set, else the system's, else a checkout's build tree."""
    explicit = os.environ.get("IOKV_LIBRARY")
    if explicit:
        return [explicit]
    found = ["libiokv.so.1"]
    parents = Path(__file__).resolve().parents
    if len(parents) > 4 and (parents[4] / "include" / "iokv" / "iokv.h").exists():
        build = parents[4] / "build"
        found += [str(build / preset / "libiokv" / "libiokv.so.1") for preset in ("release", "debug")]
    return found


def load() -> ctypes.CDLL:
    """Loads libiokv and declares its functions. OSError with one line that names every place tried."""
    failures = []
    for candidate in _candidates():
        try:
            library = ctypes.CDLL(candidate, use_errno=False)
        except OSError as failure:
            failures.append(str(failure))
            continue
        for name, (result, arguments) in PROTOTYPES.items():
            function = getattr(library, name)
            function.restype = result
            function.argtypes = arguments
        return library
    raise OSError("cannot load libiokv (set IOKV_LIBRARY to its path): " + "; ".join(failures))
