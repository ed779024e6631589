# SPDX-License-Identifier: Apache-2.0
"""Draws a step of what `iokv trace` prints as an SVG: a lane for each queue, measured and predicted, on a scale of ms.

    iokv trace > trace.json; python3 bench/trace_picture.py trace.json trace.svg [--step ID]
"""

from __future__ import annotations

import argparse
import html
import json
from pathlib import Path
from typing import Any

LANES = (("h2d", "#2b6cb0"), ("recompute", "#b7791f"), ("dense", "#2f855a"), ("d2h", "#805ad5"))
WIDTH, LEFT, RIGHT, TOP, LANE, PREDICTED, GAP = 1200, 140, 20, 46, 30, 8, 14

Event = dict[str, Any]


def lanes_of(trace: dict[str, Any]) -> dict[str, list[Event]]:
    names = {e["tid"]: e["args"]["name"] for e in trace["traceEvents"] if e["ph"] == "M" and e["name"] == "thread_name"}
    lanes: dict[str, list[Event]] = {}
    for event in trace["traceEvents"]:
        if event["ph"] == "X":
            lanes.setdefault(names[event["tid"]], []).append(event)
    return lanes


def chosen(steps: list[Event], wanted: int | None) -> Event:
    """The step with this id, or the latest one that has another one before it and behind it."""
    if wanted is not None:
        return next(step for step in steps if step["args"]["step"] == wanted)
    steps = sorted(steps, key=lambda step: step["ts"])
    return steps[-2] if len(steps) > 2 else steps[-1]


def merged(events: list[Event], begin: float, end: float, least: float) -> list[tuple[float, float]]:
    """What of the events lies within [begin, end], gaps below `least` closed."""
    spans: list[tuple[float, float]] = []
    for event in sorted(events, key=lambda e: e["ts"]):
        first, last = max(begin, event["ts"]), min(end, event["ts"] + event["dur"])
        if last <= first:
            continue
        if spans and first - spans[-1][1] < least:
            spans[-1] = (spans[-1][0], max(last, spans[-1][1]))
        else:
            spans.append((first, last))
    return spans


def picture(trace: dict[str, Any], wanted: int | None) -> str:
    lanes = lanes_of(trace)
    step = chosen(lanes["step"], wanted)
    begin, end = step["ts"], step["ts"] + step["dur"]
    scale = (WIDTH - LEFT - RIGHT) / (end - begin)
    shown = [(name, colour) for name, colour in LANES if lanes.get(name)]
    height = TOP + len(shown) * (LANE + PREDICTED + GAP) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{LEFT}" y="22" font-size="15">{html.escape(str(step["name"]))}: {step["dur"] / 1000:.2f} ms, predicted '
        f'{step["args"]["predicted_us"] / 1000:.2f} ms; {step["args"]["sequences"]} sequences</text>',
    ]
    y = TOP
    for name, colour in shown:
        spans = merged(lanes[name], begin, end, 0)
        busy = sum(last - first for first, last in spans) / (end - begin)
        parts.append(f'<text x="{LEFT - 8}" y="{y + LANE * 0.65:.0f}" text-anchor="end">{name} {busy:.1%}</text>')
        for first, last in merged(lanes[name], begin, end, 0.4 / scale):
            parts.append(f'<rect x="{LEFT + (first - begin) * scale:.1f}" y="{y}" width="{max(0.3, (last - first) * scale):.1f}" '
                         f'height="{LANE}" fill="{colour}"/>')
        for first, last in merged([e for e in lanes.get("predicted " + name, []) if e["args"]["step"] == step["args"]["step"]],
                                  begin, end, 0):
            parts.append(f'<rect x="{LEFT + (first - begin) * scale:.1f}" y="{y + LANE + 2}" '
                         f'width="{max(0.3, (last - first) * scale):.1f}" height="{PREDICTED}" fill="{colour}" opacity="0.35"/>')
        y += LANE + PREDICTED + GAP
    tick = next(t for t in (1e2, 2e2, 5e2, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6, 1e7) if (end - begin) / t <= 12)
    at = 0.0
    while at <= end - begin:
        x = LEFT + at * scale
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 6}" y2="{y}" stroke="#000" stroke-opacity="0.12"/>')
        parts.append(f'<text x="{x:.1f}" y="{y + 16}" text-anchor="middle" font-size="11">{at / 1000:g} ms</text>')
        at += tick
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", type=Path)
    parser.add_argument("svg", type=Path)
    parser.add_argument("--step", type=int, help="its id; otherwise the latest but one")
    values = parser.parse_args()
    values.svg.write_text(picture(json.loads(values.trace.read_text()), values.step))


if __name__ == "__main__":
    main()
