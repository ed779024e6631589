# SPDX-License-Identifier: Apache-2.0
"""The other side's processes, for bench/gpu.py: what they are asked, how long they may take, what came of it.

Invariants
 1. Whatever a peer does (fails, hangs, dies), its answer is a dict: figures, or {"failed": why}.
 2. A process that is asked nothing more has ended; one that did not answer in time is killed.
 3. What a peer prints goes to a log of its own.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import select
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from gpu_floor import Rates
from model_shape import Shape

WORKERS = Path(__file__).with_name("gpu_peers")
Answer = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Request:
    """One measurement of one peer; equal ones are made once."""

    peer: str  # a key of PEERS
    shape: Shape
    batch: int
    context: int


# Of each peer: its worker, its other arguments, and the seconds that one answer may take.
PEERS: dict[str, tuple[str, dict[str, object], float]] = {
    "transformers_offloaded": ("transformers_worker.py", {"kind": "offloaded"}, 150),
    "transformers_resident": ("transformers_worker.py", {"kind": "resident"}, 120),
    "transformers_graphs": ("transformers_worker.py", {"kind": "graphs"}, 240),
    "flexgen": ("flexgen_worker.py", {"compress_cache": False, "weights_percent": 100}, 180),
    "flexgen_4bit": ("flexgen_worker.py", {"compress_cache": True, "weights_percent": 100}, 180),
    # It pins 2.4 GiB a second.
    "flexgen_weights": ("flexgen_worker.py", {"compress_cache": False, "weights_percent": 0}, 300),
    "flexgen_weights_30": ("flexgen_worker.py", {"compress_cache": False, "weights_percent": 30}, 300),
}


class Worker:
    """A process that answers a line of JSON with a line of JSON."""

    def __init__(self, python: str, script: str, shape: Shape, log: Path, environment: Mapping[str, str]) -> None:
        self._log = log.open("a")
        self._process = subprocess.Popen(
            [python, "-B", str(WORKERS / script), json.dumps(dataclasses.asdict(shape))], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=self._log, env={**os.environ, **environment}, bufsize=0,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._log.close()

    def ask(self, request: Mapping[str, object], timeout_s: float) -> Answer:
        assert self._process.stdin is not None and self._process.stdout is not None
        deadline = time.monotonic() + timeout_s
        received = b""
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            while not received.endswith(b"\n"):
                left = deadline - time.monotonic()
                if left <= 0 or not select.select([self._process.stdout], [], [], left)[0]:
                    return {"failed": f"no answer within {timeout_s:.0f} s"}
                piece = os.read(self._process.stdout.fileno(), 1 << 16)
                if not piece:
                    return {"failed": f"ended with status {self._process.wait()}; its log says why"}
                received += piece
            answer: Answer = json.loads(received)
            return answer
        except (OSError, ValueError) as failure:
            return {"failed": str(failure)}


class Peers:
    """Asks for each request once. python: one that has torch and transformers; flexgen: a folder that has the package or
    its wheels, None: it is not asked."""

    def __init__(self, python: str | None, flexgen: Path | None, logs: Path, steps: int) -> None:
        self._python, self._flexgen, self._logs, self._steps = python, flexgen, logs, steps

    def ask(self, requests: list[Request]) -> Iterator[tuple[Request, Answer]]:
        """Each answer as it comes. One process for all requests of a worker and a shape, one for each that is compiled; a
        new one after a failure."""
        groups: dict[tuple[str, Shape, bool], list[Request]] = {}
        for request in dict.fromkeys(requests):
            compiled = request.peer == "transformers_graphs"
            groups.setdefault((PEERS[request.peer][0], request.shape, compiled), []).append(request)
        for (script, shape, _), group in groups.items():
            missing = self._missing(script)
            if missing:
                yield from ((request, {"failed": missing}) for request in group)
                continue
            left = iter(group)
            while (first := next(left, None)) is not None:
                yield from self._ask_one_process(script, shape, itertools.chain([first], left))

    def _ask_one_process(
        self, script: str, shape: Shape, requests: Iterator[Request]
    ) -> Iterator[tuple[Request, Answer]]:
        """Up to the first failure."""
        assert self._python is not None
        environment = {"PYTHONPATH": os.pathsep.join(self._flexgen_path())} if script.startswith("flexgen") else {}
        log = self._logs / f"{script.removesuffix('_worker.py')}.log"
        with Worker(self._python, script, shape, log, environment) as worker:
            for request in requests:
                _, arguments, timeout_s = PEERS[request.peer]
                begun = time.monotonic()
                answer = worker.ask(
                    {**arguments, "batch": request.batch, "context": request.context, "steps": self._steps}, timeout_s)
                what = (f"failed: {answer['failed']}" if "failed" in answer
                        else f"{answer['step_ms']:.1f} ms a step, {answer['prefill_ms']:.0f} ms the prompts")
                print(f"  {request.peer}, {shape.name}, {request.batch} x {request.context}: {what} "
                      f"({time.monotonic() - begun:.0f} s)", flush=True)
                yield request, answer
                if "failed" in answer:
                    return

    def _missing(self, script: str) -> str:
        if self._python is None:
            return "no Python with torch: --python names one"
        if script.startswith("flexgen") and self._flexgen is None:
            return "FlexGen is not there: --flexgen DIRECTORY names a folder that has its wheel"
        return ""

    def _flexgen_path(self) -> list[str]:
        """The folder, and every wheel in it: Python imports from wheels of Python files."""
        assert self._flexgen is not None
        inherited = os.environ.get("PYTHONPATH", "")
        return [str(self._flexgen), *map(str, sorted(self._flexgen.glob("*.whl"))), *([inherited] if inherited else [])]


def measure_rates(python: str, log: Path) -> tuple[Rates, Answer]:
    """Through torch. RuntimeError where it cannot."""
    with log.open("a") as file:
        done = subprocess.run([python, "-B", str(WORKERS / "rates_worker.py")], stdout=subprocess.PIPE, stderr=file, text=True,
                              timeout=180, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{python} cannot measure the GPU: {log.read_text().strip().splitlines()[-1:]}")
    found: Answer = json.loads(done.stdout)
    return Rates(found["link"], found["memory"], found["product"]), found
