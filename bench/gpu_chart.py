# SPDX-License-Identifier: Apache-2.0
"""The rows of bench/gpu.py as a drawing that stands alone: a bar each for iokv and its peers on a logarithmic scale, the
floor as a line across them."""

from __future__ import annotations

import math
from xml.sax.saxutils import escape

from measure import Figures

LEFT, RIGHT, WIDTH, BAR, GAP, TOP = 190, 150, 560, 15, 12, 64
COLOURS = {"iokv": "#1f5fa8", "iokv_off": "#6f9bcc", "flexgen": "#7a7a7a", "flexgen_4bit": "#a8a8a8",
           "flexgen_weights": "#7a7a7a", "flexgen_weights_30": "#7a7a7a"}
TRANSFORMERS = "#b5651d"
LABELS = {"iokv_off": "iokv, cpu_attention = off", "flexgen_weights": "flexgen, weights on the host",
          "flexgen_weights_30": "flexgen, 30 % of the weights on the GPU"}


def label_of(peer: str) -> str:
    return LABELS.get(peer) or peer.replace("_", " ").replace("transformers", "HF")


def bars_of(row: Figures) -> list[tuple[str, float]]:
    peers = [(name, peer["ms"]) for name, peer in row.get("peers", {}).items() if "ms" in peer]
    off = [("iokv_off", row["off"]["measured_ms"])] if "measured_ms" in row.get("off", {}) else []
    return [("iokv", row["measured_ms"]), *off, *peers]


def chart(rows: list[Figures], title: str) -> str:
    rows = [row for row in rows if row.get("measured_ms")]
    values = [value for row in rows for _, value in bars_of(row)] + [row["floor_ms"] for row in rows]
    least, most = math.floor(math.log10(min(values) * 0.7)), math.log10(max(values) * 1.1)

    def x(value: float) -> float:
        return LEFT + WIDTH * (math.log10(value) - least) / (most - least)

    body, y = [], float(TOP)
    for row in rows:
        bars = bars_of(row)
        bottom = y + BAR * len(bars)
        body.append(f'<text x="{LEFT - 8}" y="{y + 12}" text-anchor="end">{escape(row["case"])}</text>')
        for i, (name, value) in enumerate(bars):
            colour = COLOURS.get(name, TRANSFORMERS)
            top = y + BAR * i
            body.append(f'<rect x="{LEFT}" y="{top:.0f}" width="{x(value) - LEFT:.1f}" height="{BAR - 2}" fill="{colour}"/>')
            body.append(f'<text x="{x(value) + 4:.1f}" y="{top + 11:.0f}" font-size="11">{value:.4g} ms '
                        f'{escape(label_of(name))}</text>')
        floor = x(row["floor_ms"])
        body.append(f'<path d="M{floor:.1f} {y - 3:.0f}V{bottom + 1:.0f}" stroke="#c00" stroke-width="2"/>')
        y = bottom + GAP
    axis = []
    for power in range(least, math.floor(most) + 1):
        at = x(10.0**power)
        axis.append(f'<path d="M{at:.1f} {TOP - 8}V{y:.0f}" stroke="#ddd"/>')
        axis.append(f'<text x="{at:.1f}" y="{TOP - 12}" text-anchor="middle">{10.0**power:g} ms</text>')
    head = (f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + RIGHT}" height="{y + 10:.0f}" '
            f'font-family="sans-serif" font-size="12">\n<rect width="100%" height="100%" fill="#fff"/>')
    caption = f'<text x="10" y="20" font-size="14">{escape(title)}</text>'
    key = '<text x="10" y="36" fill="#c00">| what link, memory or products need at the least, at rates of the same run</text>'
    return "\n".join([head, caption, key, *axis, *body, "</svg>"]) + "\n"
