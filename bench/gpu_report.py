# SPDX-License-Identifier: Apache-2.0
"""What bench/gpu.py says of its rows: whether each reaches what it must, the table, the lines."""

from __future__ import annotations

import math
from collections.abc import Mapping

from gpu_chart import label_of
from measure import Figures

def judged(found: Figures, limit: float | None, h200_ms: float | None, device: str, predicted_within: float) -> Figures:
    """Whether a row reaches what it must, and whether its prediction holds. limit: of the ratio to the floor; h200_ms: the
    time that the goal is, on an H200."""
    if "failed" in found:
        return {"met": False}
    verdict: Figures = {"limit_ratio": limit, "limit_h200_ms": h200_ms}
    if limit is not None:
        on_h200 = h200_ms is not None and "H200" in device
        met = found["measured_ms"] <= h200_ms if on_h200 and h200_ms else found["ratio"] <= limit
        budget = found.get("settings", {}).get("device_weights_budget") or math.inf
        verdict["met"] = met and found.get("jain", 1.0) >= 0.99 and found.get("device_weights_bytes", 0) <= budget
    of_ms = found.get("predicted_of_ms", found["measured_ms"])
    verdict["predicted_over_measured"] = found["predicted_ms"] / of_ms if of_ms else math.nan
    verdict["predicted_met"] = abs(verdict["predicted_over_measured"] - 1) <= predicted_within
    verdict["counted_as_planned"] = found.get("link_bytes") == found.get("planned_link_bytes")
    return verdict


def merge_parts(results: list[Figures], part_of: Mapping[str, str]) -> list[Figures]:
    """A case of several settings: the worse one, with all of them in `parts`."""
    merged: dict[str, Figures] = {}
    for found in results:
        case = part_of.get(found["case"], found["case"])
        if case not in merged:
            merged[case] = {**found, "case": case}
            continue
        parts = [*merged[case].get("parts", [merged[case]]), found]
        worst = max(parts, key=lambda part: part.get("ratio", math.inf))
        merged[case] = {**worst, "case": case, "met": all(part.get("met") for part in parts), "parts": parts}
    return list(merged.values())


def beside_off(results: list[Figures], beside: Mapping[str, str], busy: set[str]) -> list[Figures]:
    """Each row that was measured without the CPU's attention goes into the one that it stands beside, by `off`. Where the
    host was busy that is the floor: the CPU's attention must not make it worse."""
    found = {row["case"]: row for row in results if row["case"] not in beside}
    for off in results:
        row = found.get(beside.get(off["case"], ""))
        if row is None:
            continue
        row["off"] = off
        if "failed" in off or "failed" in row:
            row["met"] = False
            continue
        row["over_off"] = row["measured_ms"] / off["measured_ms"]
        if row["case"] in busy:
            row |= {"floor_ms": off["measured_ms"], "floor_bound": "as off", "ratio": row["over_off"],
                    "met": row["over_off"] <= row["limit_ratio"]}
    return list(found.values())


def ms(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:.1f}"


def line_of(found: Figures) -> str:
    if "failed" in found:
        return f"failed: {found['failed']}"
    more = ""
    if "first_token_p50_s" in found:
        more = (f"; first token {found['first_token_p50_s']:.2f} s (p99 {found['first_token_p99_s']:.2f}), between tokens "
                f"{found['between_tokens_p50_ms']:.0f} ms (p99 {found['between_tokens_p99_ms']:.0f}), "
                f"{found['tokens_per_s']:.1f} of {found['bound_tokens_per_s']:.1f} tokens/s")
    if "jain" in found:
        more = f"; {found['share']:.3f} of one process, Jain {found['jain']:.4f}"
    if "floor_with_host_ms" in found:
        more += f"; with the host's reading as well {ms(found['floor_with_host_ms'])} at the least"
    if "host" in found:
        more += "; " + ", ".join(f"{name} {value:,.0f}" for name, value in found["host"].items())
    if "device_memory_beyond_bytes" in found:
        more += (f"; device memory beyond weights and budget {found['device_memory_beyond_bytes'] >> 20} MiB, of which an "
                 f"empty context is {found['of_which_context_bytes'] >> 20}")
    return (f"{ms(found['measured_ms'])} ms, {found['ratio']:.3f} x floor of {ms(found['floor_ms'])}, predicted "
            f"{found['predicted_over_measured']:.3f} of measured, link {(found['link_bytes'] or 0) / 1e9:.2f} GB{more}")


def peer_cells(found: Figures) -> list[str]:
    cells = [f"off {ms(found['off']['measured_ms'])}"] if "measured_ms" in found.get("off", {}) else []
    return cells + [f"{label_of(name)} {ms(peer['ms']) if 'ms' in peer else 'failed'}"
                    for name, peer in found.get("peers", {}).items()]


HEAD = ["case", "floor, ms", "bound by", "measured, ms", "ratio", "must reach", "met", "predicted / measured", "link, GB",
        "link, recompute, dense busy, ms", "peers, ms"]


def cells_of(found: Figures) -> list[str]:
    if "failed" in found:
        return [found["case"], "", "", "failed", "", "", "no", "", "", "", ""]
    limit, at_h200 = found.get("limit_ratio"), found.get("limit_h200_ms")
    must = "" if limit is None else f"{limit:.3g} x" + (f" ({at_h200:g} ms on an H200)" if at_h200 else "")
    busy = found.get("busy_ms")
    return [
        found["case"], ms(found["floor_ms"]), found.get("floor_bound", ""), ms(found["measured_ms"]),
        f"{found['ratio']:.3f}", must,
        {True: "yes", False: "no"}.get(found.get("met"), ""),  # type: ignore[arg-type]
        f"{found['predicted_over_measured']:.3f}{'' if found['predicted_met'] else ' (!)'}",
        f"{(found['link_bytes'] or 0) / 1e9:.2f}",
        " / ".join(ms(busy[queue]) for queue in ("h2d", "recompute", "dense")) if busy else "",
        ", ".join(peer_cells(found)),
    ]


def rates_text(rates: Figures) -> str:
    host = f", host's cores {rates['host'] / 1e9:.0f} GB/s" if rates.get("host") else ""
    return (f"link {rates.get('link', 0) / 1e9:.2f} GB/s, memory {rates.get('memory', 0) / 1e9:.0f} GB/s, product "
            f"{rates.get('product', 0) / 1e12:.1f} TFLOP/s{host}")


def print_notes(results: list[Figures], rates: Figures) -> None:
    """Below the table. Of a case of several settings each counts."""
    results = [part for found in results for part in found.get("parts", [found])]
    print(f"\nrates of {rates.get('from')}: {rates_text(rates)}")
    if "again" in rates:
        print(f"and at the end: {rates_text(rates['again'])}")
    memory = [found for found in results if "device_memory_beyond_bytes" in found]
    if memory:
        most = max(memory, key=lambda found: found["device_memory_beyond_bytes"])
        print(f"device memory beyond weights and budget: at most {most['device_memory_beyond_bytes'] >> 20} MiB "
              f"({most['case']}), of which an empty CUDA context is {most['of_which_context_bytes'] >> 20} MiB")
    off = [found["case"] for found in results if not found.get("predicted_met", True)]
    print(f"predicted more than 7 % off (8 % with the CPU's attention): {', '.join(off) or 'none'}")
