# SPDX-License-Identifier: Apache-2.0
"""The machine that bench/gpu.py runs on: what its GPU says, its rates, and what keeps its CPU busy."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import iokvd
from gpu_floor import Rates
from gpu_link import Link
from gpu_workers import Answer
from iokvd import ROOT, TOOL
from measure import output_of


def nvidia(query: str) -> str:
    """Of the first GPU; empty where there is none."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits"]
        return subprocess.check_output(command, text=True, stderr=subprocess.DEVNULL).splitlines()[0].strip()
    return ""


def device_used_bytes() -> int:
    used = nvidia("memory.used")
    return int(used) << 20 if used else 0


def commit() -> str:
    """$IOKV_COMMIT, for a build that was brought along and need not be the checkout's."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
        return os.environ.get("IOKV_COMMIT") or subprocess.check_output(command, text=True, stderr=subprocess.DEVNULL).strip()
    return "unknown"


def knows_cpu_attention() -> bool:
    return "--cpu-attention" in subprocess.check_output([str(iokvd.IOKVD), "--help"], text=True)


@contextlib.contextmanager
def busy(threads: int) -> Iterator[None]:
    """Processes that compute and touch no memory."""
    with contextlib.ExitStack() as stack:
        for _ in range(threads):
            process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield


def rates_of_profile(state: Path) -> tuple[Rates, Answer]:
    """What `iokv profile` has measured: copies, attention over large contexts, recomputation of many tokens."""
    command = [str(TOOL), "profile", "--json", "--state-directory", str(state)]
    profile = json.loads(subprocess.check_output(command, text=True))[0]
    curves, model = profile["curves"], profile["model"]
    kv_width = model["kv_heads"] * model["head_dim"]
    rates = Rates(1e9 / curves["h2d"]["each_ns"], 4e9 * kv_width / curves["attend"]["each_ns"],
                  4e9 * model["hidden"] * kv_width / curves["recompute"]["each_ns"])
    return rates, {**dataclasses.asdict(rates), "from": f"iokv profile {profile['hash']}", "device": profile["device"]}


def with_host(rates: Rates, measured: Answer) -> Rates:
    """And the rate at which all cores read memory, where the program that measures it is there."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        measured["host"] = float(output_of("read_bandwidth"))
    return dataclasses.replace(rates, host=measured.get("host", 0.0))


class RatesNow:
    """The machine's rates, with the link's as it was right before a row and is when asked: the higher one."""

    def __init__(self, rates: Rates, link: Link | None) -> None:
        self._rates, self._link = rates, link
        self.seen = [link.rate()] if link else [rates.link]

    def __call__(self) -> Rates:
        if self._link:
            self.seen.append(self._link.rate())
        return dataclasses.replace(self._rates, link=max(self.seen))
