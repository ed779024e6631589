# SPDX-License-Identifier: Apache-2.0
"""What a step costs the conductor: from sequences that have each gained a token to an executable Plan, for 80 layers.

And how far what the scheduler chooses is from the best that brute force finds, for some of the steps of bench/optimum.h.
Contexts are prompts of 64 to 32768 tokens, drawn log-uniformly, and answers of up to 512 tokens in progress.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from measure import arguments, output_of, program, report

SETTINGS = [
    ("1,000 sequences, K,V on the host", "1k_x_80"),
    ("2,000", "2k_x_80"),
    ("5,000", "5k_x_80"),
    ("10,000", "10k_x_80"),
    ("20,000", "20k_x_80"),
    ("10,000 prompts, nothing decoded", "fresh"),
    ("10,000, half of each prompt as X", "as_both"),
    ("10,000, each eight with a common prefix", "shared"),
    ("10,000, read in place", "in_place"),
    ("10,000, the host attends to a part", "divided"),
]


def optimum(instances: int) -> Any:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "figures.json")
        command = program("optimum", "--instances", instances, "--json", path)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return json.loads(path.read_text())


def main() -> None:
    given = arguments(__doc__, model=False)
    figures = json.loads(output_of("plan", 20 if given.quick else 500))
    searched = optimum(40 if given.quick else 500)
    figures["worst_over_optimum"] = searched["worst_over_optimum"]
    rows = [
        [
            what,
            f"{figures[f'plan_ms_{name}']:.3f} ms",
            f"{figures[f'build_ms_{name}']:.3f} ms",
            f"{figures[f'runs_{name}']:.1f}",
            f"{figures[f'rounds_{name}']}",
            f"plan_ms_{name}",
        ]
        for what, name in SETTINGS
    ]
    head = ["a step of", "to a Plan", "of it the program", "runs a sequence", "rounds a layer", "name"]
    report("planning", head, rows, figures, given.json)
    print(
        f"\ntime grows as sequences to the power of {figures['growth_exponent']:.2f}; "
        f"{figures['allocations']} allocations in all Plans\n"
        f"the slowest of {searched['instances']} chosen steps takes {figures['worst_over_optimum']:.4f} times the fastest of "
        f"{searched['executions']} executed ones (`worst_over_optimum`)"
    )


if __name__ == "__main__":
    main()
