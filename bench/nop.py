# SPDX-License-Identifier: Apache-2.0
"""What the boundary costs: NOP through the rings beside 64 bytes over a Unix socket, and a step's time outside the
backend's work while that work uses every core."""

from __future__ import annotations

import json

from measure import arguments, output_of, report, start_daemon

ROWS = [
    ("NOP through the rings, client spinning", "p50_ns", "p99_ns"),
    ("NOP through the rings, client blocking", "blocking_p50_ns", "blocking_p99_ns"),
    ("64 bytes over a Unix socket, both spinning", "uds_spinning_ns", "uds_spinning_p99_ns"),
    ("64 bytes over a Unix socket, both blocking", "uds_blocking_ns", "uds_blocking_p99_ns"),
]


def main() -> None:
    given = arguments(__doc__)
    rounds, trips, steps = (2, 500, 20) if given.quick else (10, 5000, 500)
    with start_daemon(given.model) as daemon:
        figures = json.loads(output_of("nop", daemon.socket, rounds, trips, steps))
    # Submit to first work is at most a whole round trip to the sleeping daemon and what it takes from there.
    figures["overhead_ns"] = figures["blocking_p50_ns"] + figures["first_work_ns"]
    figures["overhead_share"] = round(figures["overhead_ns"] / figures["step_ns"], 5)
    rows = [[what, f"{figures[p50] / 1e3:.2f} us", f"{figures[p99] / 1e3:.2f} us"] for what, p50, p99 in ROWS]
    report("round trips", ["round trip", "median", "99th percentile"], rows, figures, given.json)
    print(
        f"\na step of one token: {figures['step_ns'] / 1e6:.2f} ms in the backend on all cores; beside it\n"
        f"  submit to first work, at most {figures['overhead_ns'] / 1e3:.1f} us = "
        f"{100 * figures['overhead_share']:.2f} % of the step\n"
        f"  submit to reap, less the step {figures['outside_ns'] / 1e3:.1f} us = {100 * figures['outside_share']:.2f} %"
    )


if __name__ == "__main__":
    main()
