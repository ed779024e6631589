# SPDX-License-Identifier: Apache-2.0
"""How fast the host attends to K,V in its memory, beside the rate at which as many threads read it, by one thread and by all.

And how long a layer of almost nothing takes from the device's word to the host's, with the lane awake.
"""

from __future__ import annotations

import json
import os
from typing import Any

from measure import arguments, output_of, report

# Sequences of 1,024 tokens: what, name, arguments of bench_host_attend.
CASES = [
    ("f16, 32 heads of 128", "f16_mha", ["--type", "f16"]),
    ("bf16, 32 heads of 128", "bf16_mha", ["--type", "bf16"]),
    ("bf16, 32 heads of 128 on 8", "bf16_gqa4", ["--type", "bf16", "--kv-heads", "8"]),
    ("f16, 32 heads of 128 on 8", "f16_gqa4", ["--type", "f16", "--kv-heads", "8"]),
    ("bf16, 64 heads of 128 on 8", "bf16_gqa8", ["--type", "bf16", "--heads", "64", "--kv-heads", "8"]),
    ("bf16, 16 heads of 256", "bf16_mha_256", ["--type", "bf16", "--heads", "16", "--kv-heads", "16", "--head-dim", "256"]),
    ("f16, 32 heads of 64", "f16_mha_64", ["--type", "f16", "--head-dim", "64"]),
]


def main() -> None:
    given = arguments(__doc__, model=False)
    cores = len(os.sched_getaffinity(0))
    figures: dict[str, Any] = {}
    rows = []
    for what, name, options in CASES[: 3 if given.quick else None]:
        for threads in dict.fromkeys([1] if given.quick else [1, cores]):
            measured = json.loads(output_of("host_attend", *options, "--threads", threads))
            key = f"{name}_{threads}t"
            figures[key] = measured
            rows.append(
                [
                    what,
                    measured["isa"],
                    str(threads),
                    f"{measured['attend_gb_per_s']:.1f} GB/s",
                    f"{measured['read_gb_per_s']:.1f} GB/s",
                    f"{measured['share']:.2f}",
                    f"{measured['round_trip_us']:.1f} us",
                    key,
                ]
            )
    head = ["K,V", "kernels", "threads", "attends", "reads", "share", "word to word", "name"]
    report("attention on the host", head, rows, figures, given.json)


if __name__ == "__main__":
    main()
