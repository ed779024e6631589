# SPDX-License-Identifier: Apache-2.0
"""Decoding on a GPU with the cache in host memory, beside what the link, the memory and the GPU's products allow, and
beside transformers and FlexGen: the real daemon with real clients, models of known shapes with random fp16 weights.

Rates of the link, of device memory and of a large product are measured in the same run (through torch, or where that is
missing from the daemon's profile), the link's again beside each row, and every floor is computed from them. Peers run
after the daemon, each in a process of its own; one that fails says why and ends nothing.

--rehearse runs every row with tiny shapes on the CPU behind a slow link: it shows that this program runs, nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import gpu_rows
import iokvd
from gpu_cases import (LLAMA_STEPS, MOST_POSITIONS, PROCESSES, REHEARSAL_EFFORT, REHEARSAL_GBPS, REHEARSED, ROWS,
                       SERVING_LEAST, STEPS, USUAL_RATES, Row, Settings, case_of, place_of, rehearsed, settings_of)
from gpu_chart import chart
from gpu_floor import Rates
from gpu_link import Link
from gpu_machine import RatesNow, busy, commit, device_used_bytes, knows_cpu_attention, nvidia, rates_of_profile, with_host
from gpu_report import HEAD, beside_off, cells_of, judged, line_of, merge_parts, print_notes
from gpu_rows import Effort, Place
from gpu_workers import PEERS, Answer, Peers, Request, measure_rates
from iokvd import ROOT, Daemon
from measure import Figures, machine, report
from model_shape import SHAPES, Shape, parse_shape, write_config

GIB = 1 << 30
RESULTS = Path(__file__).with_name("results")


class Run:
    """Directories, the machine's rates, and what has been measured so far."""

    def __init__(self, given: argparse.Namespace, work: Path, rows: list[Row]) -> None:
        self.given, self.work, self.rows = given, work, rows
        self.effort = self._effort()
        self.rates: Rates | None = None
        self.measured_rates: Answer = {}
        self.link: Link | None = None
        self.results: list[Figures] = []
        self.earlier: list[Figures] = []
        self.begun = datetime.datetime.now(datetime.UTC)
        self.cpu_attention = knows_cpu_attention()

    def _effort(self) -> Effort:
        effort = REHEARSAL_EFFORT if self.given.rehearse else Effort()
        changes = {name: getattr(self.given, name) for name in ("rounds", "steps", "lives", "serving_s")}
        return dataclasses.replace(effort, **{name: value for name, value in changes.items() if value is not None})

    def measure_rates(self) -> None:
        if not self.given.rehearse:
            try:
                self.link = Link()
            except OSError as failure:
                print(f"floors are computed from one measurement of the link, not from one beside each row: {failure}")
        if self.given.python and not self.given.rehearse:
            begun = time.monotonic()
            self.rates, self.measured_rates = measure_rates(self.given.python, self.work / "rates.log")
            self.measured_rates["from"] = "torch"
            self.rates = with_host(self.rates, self.measured_rates)
            print(f"{self.measured_rates['device']}: link {self.rates.link / 1e9:.1f} GB/s, memory "
                  f"{self.rates.memory / 1e9:.0f} GB/s, fp16 product {self.rates.product / 1e12:.0f} TFLOP/s "
                  f"(torch, {time.monotonic() - begun:.0f} s)", flush=True)

    def model(self, shape: Shape) -> Path:
        directory = self.work / f"iokv-{shape.name}"
        write_config(directory, shape)
        return directory

    def effort_of(self, row: Row) -> Effort:
        """`--steps` is for all rows."""
        few = row.steps is not None and self.given.steps is None
        return dataclasses.replace(self.effort, steps=min(row.steps or 0, self.effort.steps)) if few else self.effort

    def state_of(self, settings: Settings) -> Path:
        """Profiles with and without the CPU's attention are kept apart, so that each has been measured as it is used."""
        return self.work / f"state-{settings.shape.name}-{settings.cpu_attention}-{settings.batch_invariant}"

    def options(self, settings: Settings) -> list[str]:
        options = ["--recompute", settings.recompute, "--pool-bytes", str(settings.pool_bytes), "--log-level", "info",
                   "--random-weights", "1", "--weights", settings.weights, "--batch-invariant", settings.batch_invariant,
                   "--max-clients", "128", "--state-directory", str(self.state_of(settings))]
        if settings.budget_bytes:
            options += ["--device-kv-budget", str(settings.budget_bytes)]
        if self.cpu_attention:
            options += ["--cpu-attention", settings.cpu_attention]
        if settings.weights_bytes:
            options += ["--device-weights-budget", str(settings.weights_bytes)]
        if self.given.rehearse:
            options += ["--link-gbps", f"{self.given.link_gbps:g}", "--dtype", "bf16", "--threads", "1"]
        else:
            options += ["--backend", "cuda", "--dtype", "f16"]
        return [*options, *str(self.given.daemon_options).split()]

    def earlier_rows(self) -> list[Figures]:
        """With --add: what the file has besides the rows of this run."""
        if not self.given.add or not self.given.json.exists():
            return []
        found: list[Figures] = json.loads(self.given.json.read_text())["rows"]
        return [row for row in found if row["case"] not in {case_of(row.case) for row in self.rows}]

    def save(self) -> None:
        every = sorted(self.earlier + self.results, key=lambda found: place_of(found["case"]))
        text = json.dumps({
            "date": self.begun.isoformat(timespec="seconds"), "commit": commit(),
            "device": self.measured_rates.get("device", ""), "driver": nvidia("driver_version"),
            "host": machine(), "rehearsal": self.given.rehearse, "rates": self.measured_rates,
            "effort": dataclasses.asdict(self.effort), "rows": every,
        }, indent=2, default=str)
        self.given.json.write_text(text + "\n")
        if any("measured_ms" in row for row in every):
            self.given.json.with_suffix(".svg").write_text(chart(every, self.title()))

    def title(self) -> str:
        return (f"{self.measured_rates.get('device', 'no GPU')}, link {self.rates.link / 1e9:.1f} GB/s, "
                f"{self.begun:%Y-%m-%d}, {commit()}" if self.rates else "")


def groups_of(rows: list[Row], run: Run, shape_of: Callable[[Row], Shape]) -> list[tuple[Settings, list[Row]]]:
    """Rows by daemon, those of a model together: its pool and its budget for all are those of the row that needs most."""
    groups: dict[tuple[object, ...], tuple[Settings, list[Row]]] = {}
    models = list(dict.fromkeys(row.model for row in rows))
    for row in sorted(rows, key=lambda row: models.index(row.model)):
        settings = settings_of(row, shape_of(row), run.effort_of(row), run.rates or USUAL_RATES)
        key = (settings.shape, settings.recompute, row.budget, settings.apart, settings.weights, settings.weights_bytes,
               settings.cpu_attention, settings.batch_invariant)
        if key in groups:
            before, members = groups[key]
            larger = {name: max(getattr(before, name), getattr(settings, name)) for name in ("pool_bytes", "budget_bytes")}
            groups[key] = dataclasses.replace(settings, **larger), [*members, row]
        else:
            groups[key] = settings, [row]
    return list(groups.values())


def measure_row(row: Row, place: Place) -> Figures:
    if row.kind == "prefill":
        return gpu_rows.measure_prefill(place, row.batch, row.context)
    if row.kind == "fragmented":
        return gpu_rows.measure_fragmented(place, row.batch, row.context)
    if row.kind == "serving":
        return gpu_rows.measure_serving(place, row.batch, min(SERVING_LEAST, row.context // 4), row.context)
    if row.kind == "processes":
        return gpu_rows.measure_processes(place, min(PROCESSES, row.batch), row.batch, row.context)
    return gpu_rows.measure_decode(place, row.batch, row.context)


def keep_trace(file: Path, daemon: Daemon) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as out:
        subprocess.run([str(iokvd.TOOL), "trace", "--socket", daemon.socket], stdout=out, check=False, timeout=60)


def start_of(daemon: Daemon) -> Figures:
    """What its start has taken, in seconds: all of it, the pool's memory, making or reading weights and pinning them, the
    profile."""
    status = daemon.status()
    names = {"ready_s": "ready_after_ns", "pool_s": "pool_prepared_ns", "weights_s": "weights_loaded_ns", "profile_s": "profiled_ns"}
    return {name: status[counter] / 1e9 for name, counter in names.items()}


def run_group(run: Run, settings: Settings, rows: list[Row]) -> None:
    model = run.model(settings.shape)
    used_before = device_used_bytes()
    begun = time.monotonic()
    try:
        daemon = Daemon(*run.options(settings), model=model)
    except iokvd.DaemonFailed as failure:
        for row in rows:
            run.results.append({"case": row.case, "failed": str(failure)[-1500:]})
        print(f"iokvd did not start for {', '.join(row.case for row in rows)}: {failure}", flush=True)
        return
    with daemon:
        print(f"iokvd with {settings.shape.name}, recompute {settings.recompute}, {settings.budget_bytes / GIB:.1f} GiB of the "
              f"device, weights of {settings.streamed_layers} layers on the link, pool of {settings.pool_bytes / GIB:.1f} GiB: "
              f"ready in {time.monotonic() - begun:.1f} s", flush=True)
        start = start_of(daemon)
        print(f"  of which the pool took {start['pool_s']:.1f}, the weights {start['weights_s']:.1f} and the profile "
              f"{start['profile_s']:.1f} s", flush=True)
        if run.rates is None:
            if run.given.python and not run.given.rehearse:
                raise SystemExit("the rates must have been measured before")
            of_profile, run.measured_rates = rates_of_profile(run.state_of(settings))
            run.rates = with_host(of_profile, run.measured_rates)
        for row in rows:
            begun = time.monotonic()
            rates = RatesNow(run.rates, run.link)
            place = Place(daemon, settings.shape, rates, settings.recompute, settings.budget_bytes, run.effort_of(row),
                          settings.streamed_layers, settings.cpu_attention != "off", row.device_bytes)
            found: Figures = {"case": row.case}
            try:
                with busy(row.busy_threads):
                    found |= measure_row(row, place)
            except Exception as failure:  # the others are still of interest
                found["failed"] = f"{type(failure).__name__}: {failure}"
                found["daemon"] = daemon.output[-8:]
            if run.given.traces and "failed" not in found:
                keep_trace(run.given.traces / f"{row.case}.json", daemon)
            weights = daemon.status()["weights_bytes"] if "failed" not in found else 0
            found["device_weights_bytes"] = weights
            if used_before and "failed" not in found:
                used = device_used_bytes() - used_before
                found |= {"device_memory_bytes": used, "device_memory_beyond_bytes": used - weights - settings.budget_bytes,
                          "of_which_context_bytes": run.measured_rates.get("context_bytes", 0)}
            found["start"] = start
            found["settings"] = {"recompute": settings.recompute, "device_kv_budget": settings.budget_bytes,
                                 "weights": settings.weights, "device_weights_budget": settings.weights_bytes,
                                 "streamed_layers": settings.streamed_layers, "pool_bytes": settings.pool_bytes,
                                 "cpu_attention": settings.cpu_attention, "batch_invariant": settings.batch_invariant,
                                 "busy_threads": row.busy_threads}
            found["run"] = {"date": run.begun.isoformat(timespec="seconds"), "commit": commit(),
                            **dataclasses.asdict(run.rates), "link_beside": rates.seen}
            found |= judged(found, row.limit, row.h200_ms, str(run.measured_rates.get("device")), row.predicted_within)
            run.results.append(found)
            print(f"  {row.case}: {line_of(found)} ({time.monotonic() - begun:.1f} s)", flush=True)
            run.save()
            if daemon.process.poll() is not None:
                print(f"iokvd has ended: {daemon.output[-3:]}", flush=True)
                break


# ---- peers ----------------------------------------------------------------------------------------------------------


def ask_peers(run: Run, rows: list[Row], shape_of: Callable[[Row], Shape]) -> None:
    """Adds to each result what its row's peers took."""
    given = run.given
    wanted = set(given.peers.split(",")) if given.peers not in ("all", "none") else None
    requests: dict[tuple[str, str], Request] = {}
    for row in rows:
        for peer, _ in row.peers:
            if wanted is None or peer in wanted:
                requests[row.case, peer] = Request(peer, shape_of(row), row.batch, row.context)
    figures = {(row.case, peer): figure for row in rows for peer, figure in row.peers}
    peers = Peers(given.python, given.flexgen, run.work, given.peer_steps)
    # What compiles comes last: it takes longest.
    for request, answer in peers.ask(sorted(requests.values(), key=lambda one: one.peer == "transformers_graphs")):
        for found in run.results:
            case = found["case"], request.peer
            if requests.get(case) == request:
                figure = {"ms": answer[figures[case]]} if figures[case] in answer else {}
                found.setdefault("peers", {})[request.peer] = {**answer, **figure}
        run.save()


# ---- the command line -----------------------------------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench gpu", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [row.case for row in ROWS if not row.part_of and not row.beside]
    parser.add_argument("--rows", default="all", help=f"some of: {', '.join(names)} (all)")
    parser.add_argument("--shape", metavar="L,H,HEADS,KV,FFN,VOCAB", help="one row of any shape instead")
    parser.add_argument("--family", choices=("opt", "llama"), default="llama", help="of --shape (llama)")
    parser.add_argument("--batch", type=int, default=32, help="of --shape (32)")
    parser.add_argument("--context", type=int, default=1024, help="of --shape (1024)")
    parser.add_argument("--device-kv-budget", default="none", help="of --shape: bytes, half, all or none (none)")
    parser.add_argument("--recompute", default="auto", help="of --shape: never, always, auto or a share (auto)")
    parser.add_argument("--weights", choices=("auto", "device", "host"), default="auto",
                        help="of --shape: where they live (auto)")
    parser.add_argument("--cpu-attention", default="off", help="of --shape: auto, off or a number of threads (off)")
    parser.add_argument("--device-memory", type=int, default=0, metavar="BYTES",
                        help="of --shape: for weights and cached tokens together (what there is, and --device-kv-budget)")
    parser.add_argument("--peers", default="all", help=f"all, none, or some of {', '.join(PEERS)} (all)")
    parser.add_argument("--peer-steps", type=int, default=10, help="decode steps of a peer (10)")
    parser.add_argument("--python", default=os.environ.get("IOKV_TRANSFORMERS"),
                        help="a Python with torch and transformers ($IOKV_TRANSFORMERS)")
    parser.add_argument("--flexgen", type=Path, default=os.environ.get("IOKV_FLEXGEN"),
                        help="a folder with the package flexgen or its wheel ($IOKV_FLEXGEN)")
    parser.add_argument("--rounds", type=int, help="of each row, of which the median counts (5)")
    parser.add_argument("--steps", type=int, help="of a round (16)")
    parser.add_argument("--lives", type=int, help="of sequences in the pool that is to be fragmented (10000)")
    parser.add_argument("--serving-s", type=float, help="that serving is measured for (60)")
    parser.add_argument("--daemon-options", default="", help="more options of iokvd")
    parser.add_argument("--json", type=Path, metavar="FILE",
                        help="the figures; the chart goes beside it (bench/results/DATE-GPU.json)")
    parser.add_argument("--add", action="store_true",
                        help="keep what the file has of other rows; each row names the rates of its own run")
    parser.add_argument("--traces", type=Path, metavar="FOLDER",
                        help="keep what `iokv trace` says after each row there; bench/trace_picture.py draws it")
    parser.add_argument("--rehearse", "--quick", action="store_true", help="tiny shapes on the CPU: shows that it runs")
    parser.add_argument("--link-gbps", type=float, default=REHEARSAL_GBPS, help=f"of a rehearsal ({REHEARSAL_GBPS:g})")
    return parser.parse_args()


def chosen_rows(given: argparse.Namespace) -> list[Row]:
    if given.shape:
        return [Row("custom", "custom", "decode", given.batch, given.context, recompute=given.recompute,
                    cpu_attention=given.cpu_attention,
                    budget=given.device_kv_budget, weights=given.weights, device_bytes=given.device_memory,
                    peers=STEPS if given.family == "opt" else LLAMA_STEPS)]
    if given.rows == "all":
        return ROWS
    wanted = set(given.rows.split(","))
    unknown = wanted - {row.case for row in ROWS}
    if unknown:
        raise SystemExit(f"scripts/bench gpu: no row {', '.join(sorted(unknown))}")
    return [row for row in ROWS if {row.case, row.part_of, row.beside} & wanted]


def shapes(given: argparse.Namespace) -> Callable[[Row], Shape]:
    if given.shape:
        custom = parse_shape(given.shape, given.family, given.context + 2048)
        return lambda row: custom
    if given.rehearse:
        return lambda row: REHEARSED[row.model]
    return lambda row: dataclasses.replace(SHAPES[row.model], positions=MOST_POSITIONS[row.model])


def output_path(given: argparse.Namespace, device: str) -> Path:
    if given.json is not None:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        return Path(given.json)
    if given.rehearse:
        return ROOT / "build" / "gpu-rehearsal.json"
    name = "-".join(device.lower().replace("nvidia", "").split()[:1]) or "gpu"
    RESULTS.mkdir(exist_ok=True)
    return RESULTS / f"{datetime.date.today()}-{name}.json"


@contextlib.contextmanager
def work_directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="iokv-gpu-") as directory:
        yield Path(directory)


def main() -> None:
    given = arguments()
    iokvd.LIMIT_S = 300.0  # loading and pinning take longer than what the tests start
    with work_directory() as work:
        rows = [rehearsed(row) if given.rehearse and not given.shape else row for row in chosen_rows(given)]
        if not knows_cpu_attention():
            print("this iokvd has no --cpu-attention: rows of it are left out", flush=True)
            rows = [row for row in rows if row.cpu_attention == "off" and not row.beside]
        run = Run(given, work, rows)
        shape_of = shapes(given)
        try:
            run.measure_rates()
            given.json = output_path(given, str(run.measured_rates.get("device", nvidia("name"))))
            run.earlier = run.earlier_rows()
            for settings, members in groups_of(rows, run, shape_of):
                run_group(run, settings, members)
            if given.peers != "none" and not given.rehearse:
                ask_peers(run, rows, shape_of)
            if given.python and not given.rehearse:
                _, again = measure_rates(given.python, work / "rates.log")
                run.measured_rates["again"] = again
        finally:
            run.results.sort(key=lambda found: place_of(found["case"]))
            run.results = merge_parts(run.results, {row.case: row.part_of for row in rows if row.part_of})
            run.results = beside_off(run.results, {row.case: row.beside for row in rows if row.beside},
                                     {row.case for row in rows if row.busy_threads})
            run.save()
            keep_logs(work, given)
        report(f"scripts/bench gpu: {run.title()}", HEAD, [cells_of(found) for found in run.results], {}, None)
        print_notes(run.results, run.measured_rates)
        print(f"figures and chart: {given.json}")
        for found in run.results:
            for name, peer in found.get("peers", {}).items():
                if "failed" in peer:
                    print(f"{found['case']}, {name}: {peer['failed']}")
        if any("failed" in found for found in run.results):
            sys.exit(1)


def keep_logs(work: Path, given: argparse.Namespace) -> None:
    """What the peers printed, beside the figures."""
    if given.rehearse:
        return
    for log in work.glob("*.log"):
        if log.stat().st_size:
            shutil.copy(log, given.json.with_name(f"{given.json.stem}-{log.name}"))


if __name__ == "__main__":
    main()
