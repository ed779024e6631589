# SPDX-License-Identifier: Apache-2.0
"""Runs a binding's own tests beside a daemon with the small golden model, whose tokens have texts: $IOKV_SOCKET names it.

usage: PYTHONPATH=bindings/python/src:tests/e2e with_daemon.py COMMAND [ARGUMENT...]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

from iokvd import MODEL, Daemon, ModelCopy


def tokenizer() -> dict[str, object]:
    """Every token of the model's vocabulary is a word: `<7> `."""
    vocabulary = json.loads((MODEL / "config.json").read_text())["vocab_size"]
    return {
        "model": {"type": "BPE", "vocab": {f"<{token}>Ġ": token for token in range(vocabulary)}, "merges": []},
        "decoder": {"type": "ByteLevel"},
    }


def main() -> int:
    with ModelCopy() as model:
        (model.path / "tokenizer.json").write_text(json.dumps(tokenizer()))
        with Daemon(model=model.path) as daemon:
            return subprocess.run(sys.argv[1:], env={**os.environ, "IOKV_SOCKET": daemon.socket}).returncode


if __name__ == "__main__":
    sys.exit(main())
