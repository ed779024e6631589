# SPDX-License-Identifier: Apache-2.0
"""How long a daemon takes from exec to READY=1, beside what reading the weights takes: with the profile stored, and at the
first start, which measures it."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import iokv
from measure import arguments, report
from supervisor_test import Supervised

POOLS = ("64MiB", "1GiB", "8GiB")


def start(directory: Path, model: Path, pool: str, profile: str) -> dict[str, float]:
    """Seconds: of the whole, and of its parts by the daemon's own account."""
    path = str(directory / "iokv.sock")
    begun = time.monotonic()
    with Supervised(directory, None, "--socket", path, "--pool-bytes", pool, model=model, profile=profile) as daemon:
        daemon.until("READY")
        took = time.monotonic() - begun
        with iokv.Client(path) as client:
            counters = client.counters()
        parts = {name: counters[name].value / 1e9 for name in ("pool_prepared_ns", "weights_loaded_ns", "profiled_ns")}
        daemon.end()
    return {"ready_s": took, "pool_s": parts["pool_prepared_ns"], "weights_s": parts["weights_loaded_ns"],
            "profile_s": parts["profiled_ns"]}


def main() -> None:
    given = arguments(__doc__)
    rounds = 2 if given.quick else 7
    figures: dict[str, float] = {}
    rows = []
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        cases = [("first start, 1GiB", "1GiB", "measure", 1), *((f"pool of {pool}", pool, "auto", rounds) for pool in POOLS)]
        for what, pool, profile, count in cases:
            taken = [start(directory, Path(given.model), pool, profile) for _ in range(count)]
            middle = {name: statistics.median(one[name] for one in taken) for name in taken[0]}
            beyond = statistics.median(one["ready_s"] - one["weights_s"] for one in taken)
            figures |= {f"{what}: {name}": round(value, 4) for name, value in {**middle, "beyond_weights_s": beyond}.items()}
            rows.append([what, *(f"{middle[name]:.3f}" for name in middle), f"{beyond:.3f}"])
    report("start", ["start", "to READY s", "pool s", "weights s", "profile s", "beyond weights s"], rows, figures, given.json)


if __name__ == "__main__":
    main()
