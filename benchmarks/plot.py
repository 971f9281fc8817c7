"""A scatter plot with lines as SVG text; no dependencies."""

from collections.abc import Sequence
from html import escape
from typing import Final

import msgspec

__all__ = ["Line", "scatter"]

COLOURS: Final = ("#777777", "#1b6ca8", "#c8553d", "#2a9d5c", "#8e5ea2")
FONT: Final = 'font-family="sans-serif" font-size="12"'
WIDTH, HEIGHT, MARGIN = 760, 460, 60


class Line(msgspec.Struct, frozen=True):
    """A named row of points: x, y and a label each."""

    name: str
    points: tuple[tuple[float, float, str], ...]


def scatter(title: str, across: str, up: str, lines: Sequence[Line]) -> str:
    """Draw the lines into one picture, axes fitted to them."""
    xs = [x for line in lines for x, _, _ in line.points]
    ys = [y for line in lines for _, y, _ in line.points]
    left, right, low, high = 0.0, max(xs) * 1.08, min(ys) - 0.5, max(ys) + 0.5

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            round(MARGIN + (x - left) / (right - left) * (WIDTH - 2 * MARGIN), 1),
            round(HEIGHT - MARGIN - (y - low) / (high - low) * (HEIGHT - 2 * MARGIN), 1),
        )

    upright = f'transform="rotate(-90 16 {HEIGHT / 2})"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" {FONT}>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{WIDTH / 2}" y="28" text-anchor="middle" font-size="15">{escape(title)}</text>',
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 14}" text-anchor="middle">{escape(across)}</text>',
        f'<text x="16" y="{HEIGHT / 2}" text-anchor="middle" {upright}>{escape(up)}</text>',
    ]
    for step in range(0, int(right) + 1, 5):
        x, y = at(step, low)
        parts.append(f'<line x1="{x}" y1="{MARGIN}" x2="{x}" y2="{y}" stroke="#eeeeee"/>')
        parts.append(f'<text x="{x}" y="{y + 18}" text-anchor="middle">{step}</text>')
    for step in range(int(low) + 1, int(high) + 1):
        x, y = at(left, step)
        parts.append(f'<line x1="{x}" y1="{y}" x2="{WIDTH - MARGIN}" y2="{y}" stroke="#eeeeee"/>')
        parts.append(f'<text x="{x - 8}" y="{y + 4}" text-anchor="end">{step}</text>')
    for number, line in enumerate(lines):
        parts += _drawn(line, COLOURS[number % len(COLOURS)], [at(x, y) for x, y, _ in line.points])
        key = HEIGHT - MARGIN - 20 - 18 * (len(lines) - number)
        parts.append(f'<circle cx="{WIDTH - 200}" cy="{key}" r="4" fill="{COLOURS[number % len(COLOURS)]}"/>')
        parts.append(f'<text x="{WIDTH - 190}" y="{key + 4}">{escape(line.name)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _drawn(line: Line, colour: str, places: Sequence[tuple[float, float]]) -> list[str]:
    path = " ".join(f"{x},{y}" for x, y in places)
    parts = [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>']
    for (x, y), (_, _, label) in zip(places, line.points, strict=True):
        parts.append(f'<circle cx="{x}" cy="{y}" r="3.5" fill="{colour}"/>')
        parts.append(f'<text x="{x + 5}" y="{y - 5}" fill="{colour}" font-size="10">{escape(label)}</text>')
    return parts
