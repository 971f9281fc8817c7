"""A scatter plot with lines as SVG text; no dependencies."""

from collections.abc import Sequence
from html import escape
from itertools import pairwise
from typing import Final, TypeAlias

import msgspec

__all__ = ["Line", "scatter"]

COLOURS: Final = ("#777777", "#1b6ca8", "#c8553d", "#2a9d5c", "#8e5ea2")
FONT: Final = 'font-family="sans-serif" font-size="12"'
WIDTH, HEIGHT, MARGIN = 860, 520, 60
SIZE, LETTER = 10, 6
"""Height and width of a letter of a label."""
BESIDE: Final = [(side, row) for row in (-5, 12, -16, 23, 3, -27, 34, -38, 45) for side in (6, -6, 20, -20)]
"""Where a label may stand beside its point, the best first: across (right or left of it) and down."""

Box: TypeAlias = tuple[float, float, float, float]
"""Left, top, right and bottom."""


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
    places = [[at(x, y) for x, y, _ in line.points] for line in lines]
    top = HEIGHT - MARGIN - 40 - 18 * len(lines)
    taken: list[Box] = [(WIDTH - 206, top, WIDTH, HEIGHT - MARGIN)]
    taken += [(x - 4, y - 4, x + 4, y + 4) for row in places for x, y in row]
    taken += [(x - 1, y - 1, x + 1, y + 1) for row in places for x, y in _along(row)]
    for number, line in enumerate(lines):
        parts += _drawn(line, COLOURS[number % len(COLOURS)], places[number], taken)
        key = HEIGHT - MARGIN - 20 - 18 * (len(lines) - number)
        parts.append(f'<circle cx="{WIDTH - 200}" cy="{key}" r="4" fill="{COLOURS[number % len(COLOURS)]}"/>')
        parts.append(f'<text x="{WIDTH - 190}" y="{key + 4}">{escape(line.name)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _drawn(line: Line, colour: str, places: Sequence[tuple[float, float]], taken: list[Box]) -> list[str]:
    path = " ".join(f"{x},{y}" for x, y in places)
    parts = [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>']
    for (x, y), (_, _, label) in zip(places, line.points, strict=True):
        parts.append(f'<circle cx="{x}" cy="{y}" r="3.5" fill="{colour}"/>')
        left, bottom = _free_place(x, y, label, taken)
        text = f'<text x="{left:.1f}" y="{bottom:.1f}" fill="{colour}" font-size="{SIZE}">'
        parts.append(f"{text}{escape(label)}</text>")
    return parts


def _along(row: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Points on the line through a row of points, a few units from one to the next."""
    return [
        (x + (u - x) * step / 100, y + (v - y) * step / 100)
        for (x, y), (u, v) in pairwise(row)
        for step in range(100)
    ]


def _free_place(x: float, y: float, label: str, taken: list[Box]) -> tuple[float, float]:
    """The first place beside a point where a label covers neither a point nor a line nor another label."""
    wide = LETTER * len(label)
    boxes = [_box(x + side - (wide if side < 0 else 0), y + down, wide) for side, down in BESIDE]
    free = next((box for box in boxes if not any(_overlap(box, other) for other in taken)), boxes[0])
    taken.append(free)
    return free[0], free[3]


def _box(left: float, bottom: float, wide: float) -> Box:
    return left, bottom - SIZE, left + wide, bottom


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
