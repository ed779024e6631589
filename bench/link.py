# SPDX-License-Identifier: Apache-2.0
"""The paper's effect, and whether it is predicted: decode steps of a model with as many KV heads as heads, on the CPU
behind a link of a chosen rate, with cached tokens sent as K,V (never), as X (always), and as the planner says (auto).

The profile of each rate is measured first and kept as it is (--refit off); its hash is printed, and again at the end.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import iokv
import random_model
from iokvd import TOOL, Daemon
from measure import Figures, arguments, median, report

MODES = ("never", "always", "auto")
LAYERS, HIDDEN, HEADS, FFN = 6, 768, 12, 2048
# One core computes, the others carry the link.
OPTIONS = ("--dtype", "bf16", "--threads", str(max(1, (os.cpu_count() or 2) - 1)), "--max-context", "8192",
           "--refit", "off", "--log-level", "warning")


@dataclasses.dataclass
class Case:
    """Of one rate, mode, batch and context: means of a step, in ms, of the median round."""

    gbps: float
    mode: str
    batch: int
    context: int
    measured_ms: float
    predicted_ms: float
    link_ms: float  # by the executor's count
    x_share: float
    link_bound: bool  # predicted to be

    @property
    def error(self) -> float:
        return self.measured_ms / self.predicted_ms - 1

    @property
    def link_idle(self) -> float:
        return 1 - self.link_ms / self.measured_ms


@contextlib.contextmanager
def daemon_of(model: Path, gbps: float, mode: str, *more: str) -> Iterator[Daemon]:
    with Daemon(*OPTIONS, "--link-gbps", f"{gbps:g}", "--recompute", mode, "--pool-bytes", "6GiB", "--state-directory",
                str(state_directory(model, gbps)), *more, model=model) as daemon:
        yield daemon


def state_directory(model: Path, gbps: float) -> Path:
    """One for each rate, so that each keeps its profile."""
    return model.parent / f"state-{gbps:g}"


def profile_of(model: Path, gbps: float) -> Figures:
    """The stored profile of the rate."""
    command = [str(TOOL), "profile", "--json", "--state-directory", str(state_directory(model, gbps))]
    (profile,) = json.loads(subprocess.check_output(command, text=True))
    return profile


def decode(daemon: Daemon, sequences: list[iokv.Sequence], client: iokv.Client, tokens: int) -> Figures:
    """The counters of some steps of all sequences together, each as a difference."""
    before = daemon.status()
    with client.batch():
        operations = [sequence.step(max_tokens=tokens) for sequence in sequences]
    for operation in operations:
        operation.result()
    after = daemon.status()
    return {name: after[name] - before[name] for name in after}


def measure(model: Path, gbps: float, mode: str, batch: int, contexts: list[int], rounds: int, steps: int,
            *more: str) -> list[Case]:
    cases = []
    with daemon_of(model, gbps, mode, *more) as daemon, iokv.Client(daemon.socket) as client:
        sequences = [client.open() for _ in range(batch)]
        length = 0
        for context in contexts:
            with client.batch():
                operations = [
                    sequence.step([(7 * i + 11 * t) % random_model.VOCABULARY for t in range(context - length)])
                    for i, sequence in enumerate(sequences)
                ]
            for operation in operations:
                operation.result()
            decode(daemon, sequences, client, 2)
            found = [decode(daemon, sequences, client, steps) for _ in range(rounds)]
            length = context + 2 + rounds * steps
            found.sort(key=lambda one: one["measured_ns"] / one["steps"])
            one = found[len(found) // 2]
            now = daemon.status()
            link_ns = one["planned_h2d_bytes"] / (gbps * 1e9) * 1e9
            cases.append(Case(
                gbps, mode, batch, context, one["measured_ns"] / one["steps"] / 1e6, one["predicted_ns"] / one["steps"] / 1e6,
                one["h2d_busy_ns"] / one["steps"] / 1e6, now["x_blocks"] / (now["x_blocks"] + now["kv_blocks"]),
                link_ns > 0.97 * one["predicted_ns"],
            ))
            assert one["h2d_bytes"] == one["planned_h2d_bytes"], "the executor has copied what no Plan says"
    return cases


def crossing_gbps(model: Path) -> float:
    """The rate at which a long step takes as long with K,V sent as with all of it recomputed: K,V's bytes over the time
    that the device needs for the same tokens. Of a profile that is measured on a link of some rate."""
    with daemon_of(model, 1, "never", "--profile", "measure"):
        pass
    curves = profile_of(model, 1)["curves"]
    ns_a_token = curves["recompute"]["each_ns"] + curves["attend"]["each_ns"]
    return float(f"{4 * HIDDEN / ns_a_token:.2g}")


HEAD = ["GB/s", "batch", "context"] + [f"{mode}, ms" for mode in MODES] + ["predicted, ms", "from X", "link busy"]


def rows_of(cases: list[Case]) -> list[list[str]]:
    """A row for each place, the modes side by side."""
    rows = []
    for place in dict.fromkeys((case.gbps, case.batch, case.context) for case in cases):
        row = [case for mode in MODES for case in cases
               if (case.gbps, case.batch, case.context, case.mode) == (*place, mode)]
        rows.append([f"{place[0]:g}", str(place[1]), str(place[2])] + [f"{one.measured_ms:.1f}" for one in row] + [
            " / ".join(f"{one.predicted_ms:.1f}" for one in row), " / ".join(f"{one.x_share:.0%}" for one in row),
            " / ".join(f"{1 - one.link_idle:.1%}" for one in row)])
    return rows


def figures_of(cases: list[Case]) -> Figures:
    by_place: dict[tuple[float, int, int], dict[str, float]] = {}
    for case in cases:
        by_place.setdefault((case.gbps, case.batch, case.context), {})[case.mode] = case.measured_ms
    ratios = [times["auto"] / min(times["never"], times["always"]) for times in by_place.values()]
    return {
        "worst_prediction": max(abs(case.error) for case in cases),
        "median_prediction": median([abs(case.error) for case in cases]),
        "predicted_within_10_percent": sum(abs(case.error) <= 0.1 for case in cases) / len(cases),
        "auto_over_better_worst": max(ratios),
        "auto_speedup_best": 1 / min(ratios),
        "link_idle_when_bound_worst": max((case.link_idle for case in cases if case.link_bound), default=math.nan),
    }


def search(model: Path, crossing: float, json_file: Path | None) -> None:
    """auto beside every tenth share as X, each an executed Plan of its own, in some places."""
    places = [(crossing, 4, 1024), (crossing, 16, 256), (crossing, 1, 1024), (2.0, 4, 1024), (2.0, 16, 256)]
    shares = ["never", *(f"{tenth / 10:g}" for tenth in range(1, 10)), "always"]
    rows, cases = [], []
    for gbps, batch, context in places:
        if not state_directory(model, gbps).exists():
            with daemon_of(model, gbps, "never", "--profile", "measure"):
                pass
        # auto once before and once after the others: a machine that changes meanwhile shows.
        found = [measure(model, gbps, mode, batch, [context], 3, 6)[0] for mode in ["auto", *shares, "auto"]]
        autos, fixed = [found[0], found[-1]], found[1:-1]
        best = min(fixed, key=lambda case: case.measured_ms)
        auto_ms = sum(case.measured_ms for case in autos) / 2
        rows.append([f"{gbps:g}", str(batch), str(context), f"{autos[0].measured_ms:.1f}, {autos[1].measured_ms:.1f}",
                     f"{autos[0].x_share:.0%}", f"{best.measured_ms:.1f}", best.mode, f"{auto_ms / best.measured_ms:.3f}"])
        print("  " + " | ".join(rows[-1]), flush=True)
        cases += found
    figures: Figures = {"plans": len(cases), "auto_over_best_worst": max(float(row[-1]) for row in rows)}
    report("A step as planned, and with every tenth share as X",
           ["GB/s", "batch", "context", "auto, ms (twice)", "from X", "best share, ms", "share", "auto over best"], rows,
           figures | {"cases": [dataclasses.asdict(case) for case in cases]}, json_file)


def weights(model: Path, crossing: float, quick: bool, json_file: Path | None) -> None:
    """Decode steps with the weights of no layer, of half of them and of all on the link."""
    layer = 2 * (4 * HIDDEN * HIDDEN + 3 * HIDDEN * FFN)
    fixed = 2 * random_model.VOCABULARY * HIDDEN
    # Half a layer less than all need: with two slots, as many stay as stream.
    half = fixed + LAYERS * layer - layer // 2
    places = {"device": ("--weights", "device"), "half": ("--device-weights-budget", str(half)), "host": ("--weights", "host")}
    grid = [(2.0, 4, 256)] if quick else [(gbps, batch, context) for gbps in (crossing, 2.0) for batch in (1, 16)
                                          for context in (256, 1024)]
    rows, cases = [], []
    for gbps, batch, context in grid:
        if not state_directory(model, gbps).exists():
            with daemon_of(model, gbps, "never", "--profile", "measure"):
                pass
        for place, options in places.items():
            (case,) = measure(model, gbps, "auto", batch, [context], 1 if quick else 3, 3 if quick else 6, *options)
            streamed = {"device": 0, "half": LAYERS // 2, "host": LAYERS}[place]
            weights_ms = streamed * layer / (gbps * 1e9) * 1e3
            rows.append([f"{gbps:g}", str(batch), str(context), place, f"{case.measured_ms:.1f}", f"{case.predicted_ms:.1f}",
                         f"{weights_ms:.1f}", f"{case.x_share:.0%}", f"{1 - case.link_idle:.1%}"])
            print("  " + " | ".join(rows[-1]), flush=True)
            cases.append(case)
    figures: Figures = {
        "worst_prediction": max(abs(case.error) for case in cases),
        "median_prediction": median([abs(case.error) for case in cases]),
        "link_idle_when_bound_worst": max((case.link_idle for case in cases if case.link_bound), default=math.nan),
    }
    report("A step with weights on the link", ["GB/s", "batch", "context", "weights", "measured, ms", "predicted, ms",
           "of them weights on the link", "from X", "link busy"], rows,
           figures | {"cases": [dataclasses.asdict(case) for case in cases]}, json_file)


def main() -> None:
    values = arguments(__doc__, model=False)
    with tempfile.TemporaryDirectory(prefix="iokv-link-") as work:
        model = Path(work, "model")
        random_model.make(model, LAYERS, HIDDEN, HEADS, FFN)
        crossing = crossing_gbps(model)
        print(f"a model of {LAYERS} layers, {HIDDEN} wide, {HEADS} heads and KV heads; a step with K,V sent takes as long as "
              f"one with all recomputed at about {crossing:g} GB/s", flush=True)
        if values.search:
            return search(model, crossing, values.json)
        if values.weights:
            return weights(model, crossing, values.quick, values.json)
        rates, batches, contexts, rounds, steps = [crossing, 0.5, 2.0, 8.0], [1, 4, 16], [256, 1024, 4096], 3, 6
        if values.demo:
            rates, batches, contexts = [crossing], [4], [1024]
        if values.quick:
            rates, batches, contexts, rounds, steps = [crossing], [4], [256], 1, 3
        hashes = {}
        for gbps in dict.fromkeys(rates):
            with daemon_of(model, gbps, "never", "--profile", "measure"):
                hashes[gbps] = profile_of(model, gbps)["hash"]
            print(f"profile of the link at {gbps:g} GB/s: {hashes[gbps]}", flush=True)
        cases = []
        for gbps, batch, mode in itertools.product(hashes, batches, MODES):
            found = measure(model, gbps, mode, batch, contexts, rounds, steps)
            for one in found:
                print(f"  {gbps:g} GB/s, {batch} x {one.context}, {mode}: {one.measured_ms:.1f} ms, predicted "
                      f"{one.predicted_ms:.1f}, link {one.link_ms:.1f}", flush=True)
            cases += found
        assert hashes == {gbps: profile_of(model, gbps)["hash"] for gbps in hashes}, "a profile has changed meanwhile"
        figures = figures_of(cases)
        report("A step by recompute never / always / auto", HEAD, rows_of(cases), figures |
               {"cases": [dataclasses.asdict(case) for case in cases]}, values.json)
        print(f"\nauto is {figures['auto_speedup_best']:.2f} times as fast as the better of the other two where it gains "
              f"most, and takes {figures['auto_over_better_worst']:.3f} of its time where it gains least")
        if not values.demo:
            print(f"predictions are {figures['median_prediction']:.1%} off in the median and {figures['worst_prediction']:.1%} "
                  f"at the most; {figures['predicted_within_10_percent']:.0%} are within 10 %")
            print(f"the link of a step that it binds is idle for {figures['link_idle_when_bound_worst']:.1%} at the most")


if __name__ == "__main__":
    main()
