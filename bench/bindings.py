# SPDX-License-Identifier: Apache-2.0
"""What a binding costs: 64 streams of one client, in C and in each language with what the language would use (a loop over
operations in C++, Rust and Python, a goroutine a stream in Go, a task a stream in C# and asyncio), in turn and in one run.

Tokens a second are of the model, where each step of the device wakes the client once for 64 tokens. Time a token is the CPU
time of the client's process, all of its threads, less that of the program in C, with the tests' small model, which draws
tokens about as fast as clients take them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from iokvd import BUILD, ROOT, Daemon
from measure import Load, arguments, median, program, report, run_together, start_daemon

STREAMS = 64
PROMPT = 16
SMALL_MODEL = str(ROOT / "tests" / "golden" / "llama_gqa")
DRIVERS = ROOT / "bindings" / "conformance" / "drivers"
OUTPUT = BUILD / "bindings"
LIBRARIES = {"LD_LIBRARY_PATH": str(BUILD / "libiokv")}


def cpu_ns(pid: int) -> int:
    """CPU time of a process, all threads: the clock that clock_getcpuclockid(3) names."""
    return time.clock_gettime_ns((~pid << 3) | 2)


def built(command: list[str | Path], **more: Any) -> bool:
    done = subprocess.run(command, capture_output=True, text=True, **more)
    if done.returncode != 0:
        print(f"{command[0]}: {(done.stderr or done.stdout).strip().splitlines()[-1:]}")
    return done.returncode == 0


def rust() -> list[str] | None:
    environment = {**os.environ, "IOKV_LIB_DIR": LIBRARIES["LD_LIBRARY_PATH"], "CARGO_TARGET_DIR": str(OUTPUT / "rust")}
    if shutil.which("cargo") is None or not built(
        ["cargo", "build", "--offline", "--locked", "--release"], cwd=ROOT / "bindings" / "rust", env=environment
    ):
        return None
    return [str(OUTPUT / "rust" / "release" / "iokv-conformance")]


def go() -> list[str] | None:
    output = OUTPUT / "go" / "conformance"
    environment = {**os.environ, "PKG_CONFIG_PATH": str(OUTPUT / "go" / "pkgconfig"), "GOFLAGS": "-mod=mod", "GOPROXY": "off"}
    if shutil.which("go") is None or not built(
        ["go", "build", "-o", output, "."], cwd=DRIVERS / "go", env=environment
    ):
        return None
    return [str(output)]


def csharp() -> list[str] | None:
    sources = [DRIVERS / "csharp" / name for name in ("Driver.cs", "Layout.cs")]
    build = ROOT / "bindings" / "csharp" / "mono" / "build"
    if shutil.which("mcs") is None or not built([build, OUTPUT / "csharp", "conformance.exe", *sources]):
        return None
    return ["mono", str(OUTPUT / "csharp" / "conformance.exe")]


# Language -> what starts its driver; None where there is no toolchain.
LANGUAGES: dict[str, Callable[[], list[str] | None]] = {
    "C++": lambda: [str(BUILD / "tests" / "conformance" / "conformance_cpp")],
    "Rust": rust,
    "Go": go,
    "C#": csharp,
    "Python": lambda: ["python3", "-B", str(DRIVERS / "python" / "driver.py")],
    "Python, asyncio": lambda: ["python3", "-B", str(DRIVERS / "python" / "driver.py")],
}


def measured(daemon: Daemon, commands: dict[str, list[str]], tokens: int, rounds: int) -> dict[str, dict[str, float]]:
    """Of each language the medians over the rounds: tokens_per_s and cpu_ns, a token."""
    rates: dict[str, list[float]] = {name: [] for name in commands}
    costs: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(rounds + 1):
        for name, command in commands.items():
            with Load(daemon, STREAMS, PROMPT, tokens, command=command, environment=LIBRARIES) as load:
                load.await_ready()
                run_together([load])  # whoever compiles while it runs has done so
                before = cpu_ns(load.process.pid)
                rate, results = run_together([load])
                cost = (cpu_ns(load.process.pid) - before) / sum(result["tokens"] for result in results)
            if turn > 0:  # the first warms the machine
                rates[name].append(rate)
                costs[name].append(cost)
    return {name: {"tokens_per_s": median(rates[name]), "cpu_ns": median(costs[name])} for name in commands}


def main() -> None:
    given = arguments(__doc__)
    rounds, tokens, small_tokens = (1, 4, 64) if given.quick else (5, 24, 400)
    commands: dict[str, list[str]] = {"C": program("load")}
    for name, command_of in LANGUAGES.items():
        command = command_of()
        if command is None:
            print(f"without {name}: no toolchain")
        else:
            commands[name] = [*command, "load_asyncio" if name == "Python, asyncio" else "load"]
    with start_daemon(given.model) as daemon:
        model = measured(daemon, commands, tokens, rounds)
    with start_daemon(SMALL_MODEL) as daemon:
        small = measured(daemon, commands, small_tokens, rounds)
    figures: dict[str, Any] = {}
    rows = []
    for name in commands:
        added = (small[name]["cpu_ns"] - small["C"]["cpu_ns"]) / 1e3
        figures[name] = {
            "tokens_per_s": round(model[name]["tokens_per_s"], 1),
            "ratio_vs_c": round(model[name]["tokens_per_s"] / model["C"]["tokens_per_s"], 4),
            "cpu_us_per_token": round(model[name]["cpu_ns"] / 1e3, 2),
            "small_model_tokens_per_s": round(small[name]["tokens_per_s"]),
            "small_model_added_us_per_token": round(added, 3),
        }
        one = figures[name]
        rows.append(
            [name, f"{one['tokens_per_s']:.1f}", f"{100 * (one['ratio_vs_c'] - 1):+.1f} %", f"{one['cpu_us_per_token']:.2f}",
             f"{one['small_model_tokens_per_s']}", f"{added:.2f}"]
        )  # fmt: skip
    head = ["language", "tokens/s", "beside C", "client's CPU us/token", "small model tokens/s", "CPU us/token over C"]
    report(f"bindings at {STREAMS} streams, {Path(given.model).name}", head, rows, figures, given.json)


if __name__ == "__main__":
    main()
