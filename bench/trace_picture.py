# SPDX-License-Identifier: Apache-2.0
"""Draws a step of what `iokv trace` prints as an SVG: a lane for each queue, measured and predicted, on a scale of ms.

    iokv trace > trace.json; python3 bench/trace_picture.py trace.json trace.svg [--step ID] [--layers FIRST-LAST]

What weights take of the link has colours of its own. With --layers only the time of some layers is drawn, without
predictions, which are of whole steps.
"""

from __future__ import annotations

import argparse
import html
import json
from pathlib import Path
from typing import Any

LANES = (("h2d", "#2b6cb0"), ("recompute", "#b7791f"), ("dense", "#2f855a"), ("d2h", "#805ad5"), ("host", "#38a169"))
# Of what a lane carries besides the usual.
KINDS = {"fetch W_K, W_V": "#c53030", "fetch weights": "#dd8b3f", "fetch K,V": "#63b3ed"}
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


def time_of(layers: range, step: Event, lanes: dict[str, list[Event]]) -> tuple[float, float]:
    """From the first operation of these layers to the last."""
    events = [e for name, _ in LANES for e in lanes.get(name, ())
              if e["args"]["step"] == step["args"]["step"] and e["args"]["layer"] in layers]
    if not events:
        raise SystemExit(f"{step['name']} has no layers {layers[0]} to {layers[-1]}")
    return min(e["ts"] for e in events), max(e["ts"] + e["dur"] for e in events)


def by_colour(events: list[Event], usual: str) -> dict[str, list[Event]]:
    found: dict[str, list[Event]] = {}
    for event in events:
        found.setdefault(KINDS.get(event["name"], usual), []).append(event)
    return found


def legend(events: list[Event], y: float) -> list[str]:
    """Of the kinds that have a colour of their own, and X beside them."""
    names = {event["name"] for event in events}
    kinds = [(name, colour) for name, colour in (*KINDS.items(), ("fetch X", dict(LANES)["h2d"])) if name in names]
    if len(kinds) < 2:
        return []
    parts, x = [], LEFT
    for name, colour in kinds:
        parts.append(f'<rect x="{x}" y="{y:.0f}" width="12" height="12" fill="{colour}"/>')
        parts.append(f'<text x="{x + 17}" y="{y + 11:.0f}" font-size="12">{html.escape(name)}</text>')
        x += 40 + 7 * len(name)
    return parts


def picture(trace: dict[str, Any], wanted: int | None, layers: range | None = None) -> str:
    lanes = lanes_of(trace)
    step = chosen(lanes["step"], wanted)
    begin, end = step["ts"], step["ts"] + step["dur"]
    what = ""
    if layers is not None:
        begin, end = time_of(layers, step, lanes)
        what = f", layers {layers[0]} to {layers[-1]}" if len(layers) > 1 else f", layer {layers[0]}"
    scale = (WIDTH - LEFT - RIGHT) / (end - begin)
    shown = [(name, colour) for name, colour in LANES if lanes.get(name)]
    key = legend([event for name, _ in shown for event in lanes[name]], TOP + len(shown) * (LANE + PREDICTED + GAP) + 32)
    height = TOP + len(shown) * (LANE + PREDICTED + GAP) + 40 + (18 if key else 0)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{LEFT}" y="22" font-size="15">{html.escape(str(step["name"]) + what)}: {step["dur"] / 1000:.2f} ms, predicted '
        f'{step["args"]["predicted_us"] / 1000:.2f} ms; {step["args"]["sequences"]} sequences</text>',
    ]
    y = TOP
    for name, colour in shown:
        spans = merged(lanes[name], begin, end, 0)
        busy = sum(last - first for first, last in spans) / (end - begin)
        parts.append(f'<text x="{LEFT - 8}" y="{y + LANE * 0.65:.0f}" text-anchor="end">{name} {busy:.1%}</text>')
        for fill, events in by_colour(lanes[name], colour).items():
            for first, last in merged(events, begin, end, 0.4 / scale):
                parts.append(f'<rect x="{LEFT + (first - begin) * scale:.1f}" y="{y}" '
                             f'width="{max(0.3, (last - first) * scale):.1f}" height="{LANE}" fill="{fill}"/>')
        predicted = [e for e in lanes.get("predicted " + name, []) if e["args"]["step"] == step["args"]["step"]]
        for first, last in merged(predicted if layers is None else [], begin, end, 0):
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
    parts += key
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", type=Path)
    parser.add_argument("svg", type=Path)
    parser.add_argument("--step", type=int, help="its id; otherwise the latest but one")
    parser.add_argument("--layers", metavar="FIRST-LAST", help="only these, counted from 0")
    values = parser.parse_args()
    layers = None
    if values.layers:
        first, _, last = values.layers.partition("-")
        layers = range(int(first), int(last or first) + 1)
    values.svg.write_text(picture(json.loads(values.trace.read_text()), values.step, layers))


if __name__ == "__main__":
    main()
