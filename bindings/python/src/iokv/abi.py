# SPDX-License-Identifier: Apache-2.0
"""The loaded library, with the prototypes of declarations.py, which bindings/abi/generate writes from iokv.h.

Invariants
 1. Field for field the header's layout: the conformance case "layout" compares every offset with a C compiler's.
 2. Each structure's struct_size is set by its constructor helper `sized`.
"""

from __future__ import annotations

import ctypes
import os
from ctypes import Structure
from pathlib import Path
from typing import TypeVar

from iokv import declarations
from iokv.declarations import (
    F32,
    PROTOTYPES,
    TEXT_CHAT_TEMPLATE,
    TEXT_TOKENIZER,
    Completion,
    ConnectOptions,
    Counter,
    ErrorDetail,
    Info,
    LogitBias,
    LogitsView,
    OpenOptions,
    Sampling,
    StepOptions,
    Times,
    TokenLogprob,
)


STEP_EACH, STEP_LOGITS = declarations.STEP_EACH, declarations.STEP_LOGITS
MORE, TOKEN, PREDICTED = declarations.COMPLETION_MORE, declarations.COMPLETION_TOKEN, declarations.COMPLETION_PREDICTED
LOGITS, STOPPED, TOP = declarations.COMPLETION_LOGITS, declarations.COMPLETION_STOPPED, declarations.COMPLETION_TOP
WHOLE_SEQUENCE = 0xFFFFFFFF

Sized = TypeVar("Sized", bound=Structure)


def sized(structure: type[Sized]) -> Sized:
    """A zeroed structure with its struct_size set."""
    value = structure()
    value.struct_size = ctypes.sizeof(structure)
    return value


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
