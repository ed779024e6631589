# SPDX-License-Identifier: Apache-2.0
"""Sharing: eight processes with four sequences each beside one process with all 32, in turn; and what a client that
floods the daemon with long prompts does to the gaps between the tokens of three others."""

from __future__ import annotations

import contextlib
import subprocess

from iokvd import Daemon
from measure import Load, arguments, median, program, report, run_together, start_daemon

PROMPT = 64
FLOOD_SEQUENCES, FLOOD_PROMPT = 64, 1024
# K,V of SmolLM2 in fp32 takes 46 kB a token: the flood's and the others' sequences fit, so that nobody is preempted.
POOL = "4GiB"


def measure_sharing(daemon: Daemon, rounds: int, tokens: int) -> tuple[float, float]:
    """Median tokens/s of (eight processes x 4 sequences, one process x 32)."""
    with contextlib.ExitStack() as stack:
        eight = [stack.enter_context(Load(daemon, 4, PROMPT, tokens, 4 * i)) for i in range(8)]
        one = [stack.enter_context(Load(daemon, 32, PROMPT, tokens))]
        for load in eight + one:
            load.await_ready()
        run_together(eight)
        run_together(one)
        rates: tuple[list[float], list[float]] = ([], [])
        for _ in range(rounds):
            rates[0].append(run_together(eight)[0])
            rates[1].append(run_together(one)[0])
    return median(rates[0]), median(rates[1])


def measure_flood(daemon: Daemon, rounds: int, tokens: int) -> tuple[float, float]:
    """Median over rounds of the worst client's 99th percentile of token gaps, in ns: (alone, beside a flood)."""
    with contextlib.ExitStack() as stack:
        others = [stack.enter_context(Load(daemon, 4, PROMPT, tokens, 100 + 4 * i)) for i in range(3)]
        for load in others:
            load.await_ready()
        run_together(others)

        def p99() -> float:
            return float(max(result["gap_p99_ns"] for result in run_together(others)[1]))

        alone, beside = [], []
        for _ in range(rounds):
            alone.append(p99())
            flood = subprocess.Popen(
                program("flood", daemon.socket, FLOOD_SEQUENCES, FLOOD_PROMPT), stdout=subprocess.PIPE, text=True
            )
            try:
                assert flood.stdout is not None and flood.stdout.readline() == "running\n"
                beside.append(p99())
            finally:
                flood.kill()
                flood.communicate()
    return median(alone), median(beside)


def main() -> None:
    given = arguments(__doc__)
    rounds, tokens = (1, 8) if given.quick else (5, 64)
    with start_daemon(given.model, "--pool-bytes", POOL) as daemon:
        eight, one = measure_sharing(daemon, rounds, tokens)
        alone, beside = measure_flood(daemon, rounds, 2 * tokens)
    figures = {
        "eight_clients_tokens_per_s": round(eight, 1),
        "one_client_tokens_per_s": round(one, 1),
        "eight_over_one": round(eight / one, 3),
        "p99_gap_alone_ns": round(alone),
        "p99_gap_beside_flood_ns": round(beside),
        "flood_p99_ratio": round(beside / alone, 3),
    }
    rows = [
        ["one process, 32 sequences", f"{one:.1f} tokens/s", ""],
        ["eight processes, 4 sequences each", f"{eight:.1f} tokens/s", f"{eight / one:.2f} x one process"],
        ["three processes, 4 sequences each: p99 token gap", f"{alone / 1e6:.1f} ms", ""],
        [
            f"the same beside a flood of {FLOOD_SEQUENCES} prompts of {FLOOD_PROMPT} tokens",
            f"{beside / 1e6:.1f} ms",
            f"{beside / alone:.2f} x alone",
        ],
    ]
    report("clients that share one daemon", ["who", "measured", "ratio"], rows, figures, given.json)


if __name__ == "__main__":
    main()
