"""Line charts as plain SVG, for reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

import numpy as np

_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM, _KEY = 560, 240, 64, 34, 40, 250  # px; _KEY: room for the names of the lines
_COLOURS = ("#b4233f", "#1f5f8b", "#2f6f4f", "#b88a35", "#6b3fa0", "#c8573b", "#2a8f8f", "#7a4a24")


@dataclass(frozen=True)
class Panel:
    """One chart: lines by name, over x = 0, 1, 2, ... or over the given `x`; `bold` ones stand out from grey others."""

    title: str
    x_label: str
    lines: Mapping[str, Sequence[float]]
    bold: Sequence[str] | None = None
    x: Sequence[float] | None = None


def draw_charts(panels: Sequence[Panel]) -> str:
    """Panels, one above the other, as the text of an SVG file."""
    width, height = _LEFT + _WIDTH + _KEY, _TOP + _HEIGHT + _BOTTOM
    drawn = "".join(
        f'<g transform="translate(0 {number * height})">{_draw(panel)}</g>' for number, panel in enumerate(panels)
    )
    total = height * len(panels)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {total}" width="{width}" height="{total}" '
        f'font-family="sans-serif" font-size="11"><rect width="{width}" height="{total}" fill="white"/>{drawn}</svg>\n'
    )


def smooth(values: Sequence[float], window: int) -> list[float]:
    """Mean of the last `window` values at each place (of fewer at the start)."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    last = np.arange(1, len(sums))
    first = np.maximum(last - window, 0)
    return ((sums[last] - sums[first]) / (last - first)).tolist()


def _draw(panel: Panel) -> str:
    lines = {name: np.asarray(values, np.float64) for name, values in panel.lines.items() if len(values)}
    parts = [f'<text x="{_LEFT}" y="20" font-size="14">{escape(panel.title)}</text>']
    if not lines:
        return parts[0]
    longest = max(len(values) for values in lines.values())
    x = np.asarray(panel.x if panel.x is not None else range(longest), np.float64)
    everything = np.concatenate(list(lines.values()))
    low, high = float(everything.min()), float(everything.max())
    low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
    across = _WIDTH / max(x[-1] - x[0], 1e-9)

    def place(values: np.ndarray) -> str:
        px = _LEFT + (x[: len(values)] - x[0]) * across
        py = _TOP + _HEIGHT * (high - values) / (high - low)
        return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(px, py, strict=True))

    for share in np.linspace(0, 1, 5):
        y = _TOP + _HEIGHT * (1 - share)
        parts.append(f'<path d="M{_LEFT} {y:.1f}h{_WIDTH}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{low + share * (high - low):.3g}</text>')
    bottom = _TOP + _HEIGHT + 16
    parts.append(f'<text x="{_LEFT}" y="{bottom}">{x[0]:g}</text>')
    parts.append(f'<text x="{_LEFT + _WIDTH}" y="{bottom}" text-anchor="end">{x[-1]:g}</text>')
    parts.append(f'<text x="{_LEFT + _WIDTH / 2}" y="{bottom}" text-anchor="middle">{escape(panel.x_label)}</text>')
    bold = list(lines) if panel.bold is None else list(panel.bold)
    for number, name in enumerate(sorted(lines, key=lambda name: name not in bold)):
        strong = name in bold
        colour = _COLOURS[bold.index(name) % len(_COLOURS)] if strong else "#aaa"
        weight = 2 if strong else 1
        dots = place(lines[name])
        parts.append(f'<polyline points="{dots}" fill="none" stroke="{colour}" stroke-width="{weight}"/>')
        y = _TOP + 8 + 17 * number
        parts.append(f'<path d="M{_LEFT + _WIDTH + 14} {y}h18" stroke="{colour}" stroke-width="{weight}"/>')
        parts.append(f'<text x="{_LEFT + _WIDTH + 38}" y="{y + 4}" fill="{colour}">{escape(name)}</text>')
    return "".join(parts)
