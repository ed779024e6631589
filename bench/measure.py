# SPDX-License-Identifier: Apache-2.0
"""What each benchmark stands on: the programs of the build, a daemon with the model, load processes that decode on
command, and the report: a table for people, figures by name for programs.

Invariants
 1. scripts/bench sets IOKV_BUILD, IOKV_LIBRARY, PYTHONPATH and the model; nothing here builds or downloads.
 2. A process that a benchmark has started has ended when its `with` block has.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
from pathlib import Path
from typing import Any, Self

from iokvd import BUILD, Daemon

Figures = dict[str, Any]


def arguments(description: str | None, *, model: bool = True) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if model:
        parser.add_argument("--model", required=True, help="GGUF file or directory")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures by name")
    parser.add_argument("--demo", action="store_true", help="what scripts/demo shows, where there is such a thing")
    parser.add_argument("--search", action="store_true", help="of link: auto beside every tenth share as X")
    parser.add_argument("--weights", action="store_true", help="of link: with the weights of some layers and of all on it")
    parser.add_argument("--quick", action="store_true", help="few and short rounds: shows that it runs, not how fast")
    return parser.parse_args()


def program(name: str, *values: object) -> list[str]:
    return [str(BUILD / "bench" / f"bench_{name}"), *map(str, values)]


def output_of(name: str, *values: object) -> str:
    return subprocess.run(program(name, *values), check=True, stdout=subprocess.PIPE, text=True).stdout


def start_daemon(model: str, *options: str) -> Daemon:
    return Daemon("--log-level", "warning", *options, model=model)


class Load:
    """A bench_load process, or another command that does the same, ready to run."""

    def __init__(
        self,
        daemon: Daemon,
        sequences: int,
        prompt: int,
        tokens: int,
        seed: int = 1,
        command: list[str] | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.process = subprocess.Popen(
            [*(command or program("load")), *map(str, (daemon.socket, sequences, prompt, tokens, seed))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("bench_load ended")
        return line.strip()

    def await_ready(self) -> None:
        assert self._line() == "ready"

    def begin(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def result(self) -> dict[str, int]:
        found: dict[str, int] = json.loads(self._line())
        return found


def run_together(loads: list[Load]) -> tuple[float, list[dict[str, int]]]:
    """Lets all of them decode at once; returns tokens per second of all together, and each one's result."""
    for load in loads:
        load.begin()
    results = [load.result() for load in loads]
    seconds = (max(r["end_ns"] for r in results) - min(r["start_ns"] for r in results)) / 1e9
    return sum(r["tokens"] for r in results) / seconds, results


def median(values: list[float]) -> float:
    return statistics.median(values)


def machine() -> str:
    cpu = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.split(":", 1)[1].strip()
            break
    return f"{cpu}, {len(os.sched_getaffinity(0))} cores"


def report(title: str, head: list[str], rows: list[list[str]], figures: Figures, json_path: Path | None) -> None:
    """Prints the table in Markdown, as bench/README.md keeps it; writes the figures with the machine beside them."""
    print(f"{title}, on {machine()}\n")
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    print("| " + " | ".join(cell.ljust(width) for cell, width in zip(head, widths)) + " |")
    print("|" + "|".join("-" * (width + 2) for width in widths) + "|")
    for row in rows:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |")
    if json_path is not None:
        json_path.write_text(json.dumps({"machine": machine(), **figures}, indent=2) + "\n")
