# SPDX-License-Identifier: Apache-2.0
"""What bench/gpu.py measures of a running daemon: decode steps, prompts, a fragmented pool, serving, several processes.
Every function opens its own sequences and closes them.

Times are the daemon's, by the device's clock, where a row is of steps (`measured_ns` of its counters), and the clients'
where it is of requests. Each floor is of the contexts that were measured.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import iokv
from gpu_floor import Floor, Rates, Work, best_division, host_floor, prefill_floor, prefill_operations, step_floor
from iokvd import Daemon
from measure import Figures, Load, run_together
from model_shape import Shape

APPEND = 4096   # tokens of a prompt in one operation
WARM_UP = 4     # steps
LIVES_AT_ONCE = 32


@dataclasses.dataclass(frozen=True)
class Effort:
    """How much is measured."""

    rounds: int = 5
    steps: int = 16  # a round
    lives: int = 10_000
    life_tokens: int = 1024  # at most
    serving_warm_s: float = 20.0
    serving_s: float = 60.0
    serving_pause_s: float = 2.0
    answer_tokens: float = 64.0


@dataclasses.dataclass(frozen=True)
class Place:
    """What a row runs on."""

    daemon: Daemon
    shape: Shape
    rates: Callable[[], Rates]  # at the moment; asked for once a row has been measured
    recompute: str
    budget_bytes: int
    effort: Effort
    streamed_layers: int = 0  # whose weights cross the link
    host_attends: bool = False
    device_bytes: int = 0     # for weights and cached tokens together, if that is what is given


def counters_since(daemon: Daemon, before: dict[str, int]) -> dict[str, int]:
    now = daemon.status()
    return {name: now[name] - before[name] for name in now}


def prompt(sequence: int, length: int, vocabulary: int) -> list[int]:
    numbers = random.Random(sequence)
    return [numbers.randrange(vocabulary) for _ in range(length)]


@contextlib.contextmanager
def open_sequences(place: Place, client: iokv.Client, batch: int, length: int) -> Iterator[list[iokv.Sequence]]:
    """With `length` tokens each."""
    sequences = [client.open() for _ in range(batch)]
    try:
        prompts = [prompt(i, length, place.shape.vocab) for i in range(batch)]
        operations = []
        for at in range(0, length, APPEND):
            with client.batch():
                operations += [sequence.step(tokens[at : at + APPEND]) for sequence, tokens in zip(sequences, prompts)]
        for operation in operations:
            operation.result()
        yield sequences
    finally:
        for sequence in sequences:
            sequence.close()


def decode(place: Place, client: iokv.Client, sequences: list[iokv.Sequence], steps: int) -> Figures:
    """The counters of some steps of all sequences together, each as a difference; wall_ns, as the client sees it."""
    before = place.daemon.status()
    begun_ns = time.monotonic_ns()
    with client.batch():
        operations = [sequence.step(max_tokens=steps) for sequence in sequences]
    for operation in operations:
        operation.result()
    wall_ns = time.monotonic_ns() - begun_ns
    return {**counters_since(place.daemon, before), "wall_ns": wall_ns}


def host_work(one: Figures, now: Figures, steps: int) -> Figures:
    """What the host has attended to: of each counter the difference a step, of a number of threads the number."""
    found = {name: now[name] if name.endswith("threads") else one[name] / steps for name in one if name.startswith("host_")}
    return {"host": found} if found else {}


def _steps(place: Place, client: iokv.Client, batch: int, context: int) -> Figures:
    """The median round of decode steps at about that context."""
    effort = place.effort
    length = max(1, context - WARM_UP - effort.rounds * effort.steps // 2)
    with open_sequences(place, client, batch, length) as sequences:
        decode(place, client, sequences, WARM_UP)
        found = [(decode(place, client, sequences, effort.steps), i) for i in range(effort.rounds)]
        now = place.daemon.status()
    found.sort(key=lambda one: one[0]["measured_ns"] / one[0]["steps"])
    one, i = found[len(found) // 2]
    steps = one["steps"]
    rows = one["sampled_tokens"] / steps
    if rows < 0.9 * batch or one["preemptions"] > 0:
        raise RuntimeError(f"steps had {rows:.1f} of {batch} sequences, {one['preemptions']} of which lost their cache")
    times = [other["measured_ns"] / other["steps"] / 1e6 for other, _ in found]
    return {
        "batch": batch, "rows": rows, "context": length + WARM_UP + i * effort.steps + (effort.steps + 1) / 2,
        "measured_ms": one["measured_ns"] / steps / 1e6, "least_ms": times[0], "most_ms": times[-1],
        "wall_ms": one["wall_ns"] / effort.steps / 1e6, "predicted_ms": one["predicted_ns"] / steps / 1e6,
        "link_bytes": round(one["h2d_bytes"] / steps), "planned_link_bytes": round(one["planned_h2d_bytes"] / steps),
        "busy_ms": {queue: one[f"{queue}_busy_ns"] / steps / 1e6 for queue in ("h2d", "d2h", "recompute", "dense")},
        "x_share": now["x_blocks"] / max(1, now["x_blocks"] + now["kv_blocks"]), "profile_fits": now["profile_fits"],
        **host_work(one, now, steps),
    }


def _with_floor(figures: Figures, floor: Floor) -> Figures:
    return {**figures, "floor_ms": floor.seconds * 1e3, "floor_bound": floor.bound, "floor_link_bytes": round(floor.link_bytes),
            "floor_x_share": floor.x_share, "floor_x_device_share": floor.x_device_share,
            "ratio": figures["measured_ms"] / (floor.seconds * 1e3)}


def measure_decode(place: Place, batch: int, context: int) -> Figures:
    with iokv.Client(place.daemon.socket) as client:
        figures = _steps(place, client, batch, context)
    context, rates = figures["context"], place.rates()
    if place.device_bytes:
        floor = best_division(place.shape, batch, context, place.recompute, place.device_bytes, rates).floor
    else:
        work = Work.decode(place.shape, batch, context, place.streamed_layers)
        floor = step_floor(place.shape, work, place.recompute, place.budget_bytes, rates)
        if place.host_attends and rates.host > 0:
            figures["floor_with_host_ms"] = 1e3 * host_floor(place.shape, work, place.recompute, rates).seconds
    return _with_floor(figures, floor)


def measure_prefill(place: Place, batch: int, context: int) -> Figures:
    """From submitting all prompts to the last one's first token, by the client's clock."""
    rounds = []
    with iokv.Client(place.daemon.socket) as client:
        for i in range(place.effort.rounds + 1):
            prompts = [prompt(i * batch + j, context, place.shape.vocab) for j in range(batch)]
            sequences = [client.open() for _ in prompts]
            before = place.daemon.status()
            begun_ns = time.monotonic_ns()
            with client.batch():
                operations = [sequence.step(tokens, 1) for sequence, tokens in zip(sequences, prompts)]
            for operation in operations:
                operation.result()
            wall_ns = time.monotonic_ns() - begun_ns
            rounds.append({**counters_since(place.daemon, before), "wall_ns": wall_ns})
            for sequence in sequences:
                sequence.close()
    rounds = sorted(rounds[1:], key=lambda one: one["wall_ns"])
    one = rounds[len(rounds) // 2]
    figures = {
        "batch": batch, "context": context, "measured_ms": one["wall_ns"] / 1e6, "least_ms": rounds[0]["wall_ns"] / 1e6,
        "most_ms": rounds[-1]["wall_ns"] / 1e6, "device_ms": one["measured_ns"] / 1e6,
        "predicted_ms": one["predicted_ns"] / 1e6, "predicted_of_ms": one["measured_ns"] / 1e6, "steps": one["steps"],
        "link_bytes": one["h2d_bytes"], "planned_link_bytes": one["planned_h2d_bytes"],
        "written_back_bytes": one["d2h_bytes"],
        "busy_ms": {queue: one[f"{queue}_busy_ns"] / 1e6 for queue in ("h2d", "d2h", "recompute", "dense")},
    }
    return _with_floor(figures, prefill_floor(place.shape, batch, context, place.rates()))


# ---- a fragmented pool ----------------------------------------------------------------------------------------------


class Lives:
    """Sequences of random lengths that come and go at random, so that the pool stays 70 to 90 % full; a quarter of the
    pool stays taken by what is left of them."""

    def __init__(self, place: Place, client: iokv.Client, seed: int = 1) -> None:
        self._place, self._client, self._numbers = place, client, random.Random(seed)
        self._open: list[iokv.Sequence] = []

    def _used(self) -> float:
        status = self._place.daemon.status()
        return 1 - status["pool_units_free"] / status["pool_units"]

    def _close_until(self, used: float) -> None:
        while self._open and self._used() > used:
            for _ in range(1 + len(self._open) // 16):
                self._open.pop(self._numbers.randrange(len(self._open))).close()

    def run(self, count: int) -> None:
        vocabulary, most = self._place.shape.vocab, self._place.effort.life_tokens
        for _ in range(0, count, LIVES_AT_ONCE):
            self._close_until(0.7 + 0.1 * self._numbers.random())
            born = [self._client.open() for _ in range(LIVES_AT_ONCE)]
            lengths = [round(math.exp(self._numbers.uniform(math.log(8), math.log(most)))) for _ in born]
            with self._client.batch():
                operations = [sequence.step(prompt(length, length, vocabulary)) for sequence, length in zip(born, lengths)]
            for operation in operations:
                operation.result()
            self._open += born
        self._close_until(0.25)


def measure_fragmented(place: Place, batch: int, context: int) -> Figures:
    """The floor is the same steps in the fresh pool of the same daemon."""
    with iokv.Client(place.daemon.socket) as client:
        fresh = _steps(place, client, batch, context)
        lives = Lives(place, client)
        begun = time.monotonic()
        lives.run(place.effort.lives)
        took_s = time.monotonic() - begun
        figures = _steps(place, client, batch, context)
    return {**figures, "floor_ms": fresh["measured_ms"], "ratio": figures["measured_ms"] / fresh["measured_ms"],
            "fresh": fresh, "lives": place.effort.lives, "lives_s": took_s}


# ---- serving --------------------------------------------------------------------------------------------------------


def _percentile(values: list[float], percent: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] if ordered else math.nan


@dataclasses.dataclass
class Window:
    """What a span of serving has done, by the clients' logs."""

    begin: float
    end: float
    first_s: list[float] = dataclasses.field(default_factory=list)  # from submission to the first token
    gaps_s: list[float] = dataclasses.field(default_factory=list)
    prompts: list[int] = dataclasses.field(default_factory=list)
    contexts: int = 0   # of all decoded tokens, added up
    decoded: int = 0

    def add(self, request: dict[str, Any]) -> None:
        times = request["tokens"]
        for i, moment in enumerate(times):
            if not self.begin <= moment < self.end:
                continue
            if i == 0:
                self.first_s.append(moment - request["submitted"])
                self.prompts.append(request["prompt"])
            else:
                self.gaps_s.append(moment - times[i - 1])
                self.contexts += request["prompt"] + i
                self.decoded += 1

    @property
    def tokens(self) -> int:
        return len(self.prompts) + self.decoded

    def work(self, shape: Shape, clients: int) -> Work:
        """Weights are read once for all clients' tokens: no step has more."""
        operations = (2.0 * self.decoded * shape.weights_read + 4.0 * self.contexts * shape.layers * shape.hidden
                      + sum(prefill_operations(shape, length) for length in self.prompts))
        return Work(self.contexts, self.contexts, operations, 2.0 * shape.weights_read * self.decoded / clients)


def measure_serving(place: Place, clients: int, least: int, most: int) -> Figures:
    """The bound is what link, memory and products need for the tokens that came in a span and the prompts before them,
    all overlapped and shared as well as can be; it is compared with the span."""
    effort = place.effort
    arguments = [effort.serving_pause_s, least, most, effort.answer_tokens]
    script = Path(__file__).with_name("gpu_client.py")
    with contextlib.ExitStack() as stack:
        processes = []
        for i in range(clients):
            process = subprocess.Popen([sys.executable, "-B", str(script), place.daemon.socket, str(i), *map(str, arguments)],
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            stack.callback(_end, process)
            processes.append(process)
        for process in processes:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
        begin = time.monotonic() + effort.serving_warm_s
        end = begin + effort.serving_s
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(f"{end + 0.5}\n")
            process.stdin.flush()
        time.sleep(max(0.0, begin - time.monotonic()))
        before, begin = place.daemon.status(), time.monotonic()
        time.sleep(max(0.0, end - time.monotonic()))
        after, end = place.daemon.status(), time.monotonic()
        since = {name: after[name] - before[name] for name in after}
        window = Window(begin, end)
        for process in processes:
            for request in _answer(process):
                window.add(request)
    floor = step_floor(place.shape, window.work(place.shape, clients), place.recompute, place.budget_bytes, place.rates())
    tokens = max(1, window.tokens)
    span_ms = 1e3 * (end - begin)
    per_s = tokens / (span_ms / 1e3)
    return {
        "clients": clients, "measured_ms": span_ms / tokens, "floor_ms": 1e3 * floor.seconds / tokens,
        "ratio": span_ms / (1e3 * floor.seconds) if floor.seconds else math.nan, "floor_bound": floor.bound,
        "predicted_ms": since["predicted_ns"] / 1e6 / tokens, "predicted_of_ms": since["measured_ns"] / 1e6 / tokens,
        "device_busy_share": since["measured_ns"] / 1e6 / span_ms, "tokens_per_s": per_s,
        "bound_tokens_per_s": tokens / floor.seconds if floor.seconds else math.nan, "prompts": len(window.prompts),
        "prompt_tokens": sum(window.prompts), "mean_context": window.contexts / max(1, window.decoded),
        "first_token_p50_s": _percentile(window.first_s, 50), "first_token_p99_s": _percentile(window.first_s, 99),
        "between_tokens_p50_ms": 1e3 * _percentile(window.gaps_s, 50),
        "between_tokens_p99_ms": 1e3 * _percentile(window.gaps_s, 99), "steps": since["steps"],
        "prefill_rows": since["prefill_tokens"], "decode_rows": since["decode_tokens"],
        "x_share": after["x_blocks"] / max(1, after["x_blocks"] + after["kv_blocks"]),
        "link_bytes": since["h2d_bytes"], "planned_link_bytes": since["planned_h2d_bytes"],
        "floor_link_bytes": round(floor.link_bytes), "preemptions": since["preemptions"],
    }


def _answer(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    output, _ = process.communicate(timeout=120)
    found: list[dict[str, Any]] = json.loads(output)
    return found


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


# ---- processes ------------------------------------------------------------------------------------------------------


def jain(values: list[float]) -> float:
    """1 where all are equal, 1/n where one has all."""
    return sum(values) ** 2 / (len(values) * sum(value * value for value in values))


def measure_processes(place: Place, processes: int, batch: int, context: int) -> Figures:
    """Eight processes beside one with all sequences, in turn, with bench_load."""
    each = batch // processes
    with contextlib.ExitStack() as stack:
        many = [stack.enter_context(Load(place.daemon, each, context, place.effort.steps, each * i)) for i in range(processes)]
        one = [stack.enter_context(Load(place.daemon, batch, context, place.effort.steps))]
        for load in many + one:
            load.await_ready()
        run_together(many)
        run_together(one)
        rates: tuple[list[float], list[float]] = ([], [])
        fairness = []
        steps: dict[str, int] = {}
        for _ in range(place.effort.rounds):
            before = place.daemon.status()
            rate, results = run_together(many)
            since = counters_since(place.daemon, before)
            steps = {name: steps.get(name, 0) + since[name] for name in since}
            rates[0].append(rate)
            fairness.append(jain([result["tokens"] / (result["end_ns"] - result["start_ns"]) for result in results]))
            rates[1].append(run_together(one)[0])
    eight, alone = statistics.median(rates[0]), statistics.median(rates[1])
    return {
        "batch": batch, "context": context, "processes": processes, "measured_ms": 1e3 * batch / eight,
        "floor_ms": 1e3 * batch / alone, "ratio": alone / eight, "share": eight / alone, "jain": min(fairness),
        "predicted_ms": steps["predicted_ns"] / steps["steps"] / 1e6,
        "predicted_of_ms": steps["measured_ns"] / steps["steps"] / 1e6,
        "tokens_per_s": eight, "one_process_tokens_per_s": alone, "link_bytes": round(steps["h2d_bytes"] / steps["steps"]),
        "planned_link_bytes": round(steps["planned_h2d_bytes"] / steps["steps"]),
    }
