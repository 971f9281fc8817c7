"""A pipeline drawn as text: what each stage says of itself, put together."""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Final, Literal, Protocol, TypeAlias, cast

import msgspec

from executionkit.core.foreign import attribute

__all__ = ["Drawable", "Sketch", "mermaid_text", "notes_of", "on_one_line"]

How: TypeAlias = Literal["one", "chain", "either", "beside", "around"]
"""How the parts of a stage stand to each other: used by it, one after the other, tried in turn, at once, or
one part with something put around it."""


class Sketch(msgspec.Struct, frozen=True):
    """What a stage says of itself in a drawing.

    Args:
        how: How its parts stand to each other.
        label: What it is called; of a chain, options and branches nothing.
        notes: Its settings, in short.
        then: What is done with the value at the end, each in a box of its own.
    """

    how: How = "one"
    label: str = ""
    notes: str = ""
    then: tuple[str, ...] = ()


class Drawable(Protocol):
    """A stage, as far as it is drawn."""

    def sketch(self) -> Sketch:
        """Return what it says of itself."""
        ...

    def parts(self) -> "Mapping[str, Drawable]":
        """Return the stages within it, by name."""
        ...


Told: TypeAlias = Callable[[str], Sequence[str]]
"""Returns further lines for the stage at a place, such as its bounds."""

_LONGEST: Final = 72
_OUTSIDE: Final = re.compile(r"[^\w .,:=()\[\]{}+*/'!?$|-]")
"""What stands in a label as an entity: it would end it, or begin a directive, a link or a word in bold."""
_READ_TOGETHER: Final = re.compile(r"\$(?=\$)|\\(?=n)")
"""What Mermaid reads together with the next letter, as an entity too: a formula begins, or a line ends."""
_NOTHING_SEEN: Final = "\u200b"


def _nothing(_place: str) -> Sequence[str]:
    return ()


def mermaid_text(stage: Drawable, told: Told = _nothing) -> str:
    """Return a flowchart in Mermaid's words.

    Args:
        stage: The stage.
        told: Further lines for the stage at a place.
    """
    chart = _Chart(told)
    chart.draw(stage, "", 1)
    return "\n".join(["flowchart TD", *chart.boxes, *chart.arrows, ""])


class _Ends(msgspec.Struct, frozen=True):
    """Where arrows lead into what was drawn, and out of it."""

    first: tuple[str, ...]
    last: tuple[str, ...]


class _Chart:
    def __init__(self, told: Told) -> None:
        self._told = told
        self._count = 0
        self.boxes: list[str] = []
        self.arrows: list[str] = []

    def draw(self, stage: Drawable, place: str, level: int) -> _Ends:
        """Draw a stage and all within it."""
        sketch, parts = stage.sketch(), stage.parts()
        lines = [line for line in (sketch.label, sketch.notes) if line]
        told = self._told(place) if lines or not place else ()
        if sketch.how == "around":
            told = self._unless_told_within(told, place, parts)
        if sketch.how == "one" and not parts:
            return self._followed(self._box([*lines, *told], level), sketch, level)
        frame = self._framed(lines, told, level) if lines or told else None
        inner = level + (frame is not None)
        ends = [self.draw(part, _below(place, name), inner) for name, part in parts.items()]
        drawn = self._joined(sketch, [*parts], ends, inner)
        if frame is not None:
            self.boxes.append(f"{_indent(level)}end")
            drawn = _Ends((frame,), (frame,))
        return self._followed(drawn, sketch, level)

    def _unless_told_within(
        self, told: Sequence[str], place: str, parts: Mapping[str, Drawable]
    ) -> Sequence[str]:
        """Return further lines of a stage around another one, but those that stand there as well."""
        for name, part in parts.items():
            sketch = part.sketch()
            if (sketch.label or sketch.notes) and self._told(_below(place, name)) == told:
                return ()
        return told

    def _framed(self, lines: Sequence[str], told: Sequence[str], level: int) -> str:
        """Begin a frame and return its name.

        Its title is one line: Mermaid draws what is inside over a second one. Arrows lead to the frame, never
        to what is inside: else they run through the title, and what is inside is laid out together with what
        is around it, at a width that does not count the title.
        """
        name = self._next()
        title = ": ".join([*map(_text, lines), *([", ".join(map(_text, told))] if told else [])])
        self.boxes += [f'{_indent(level)}subgraph {name}["{title}"]', f"{_indent(level + 1)}direction TB"]
        return name

    def _joined(self, sketch: Sketch, names: list[str], ends: list[_Ends], level: int) -> _Ends:
        match sketch.how:
            case "one":
                own = self._box([sketch.label], level)
                for name, each in zip(names, ends, strict=True):
                    self._arrow(own.last, each.first, f"-. {_quoted([name])} .->")
                return own
            case "either":
                for one, other in pairwise(ends):
                    self._arrow(one.last, other.first, '-. "or else" .->')
                return _Ends(ends[0].first, _all(each.last for each in ends))
            case "beside":
                return _Ends(_all(each.first for each in ends), _all(each.last for each in ends))
            case _:
                for one, other in pairwise(ends):
                    self._arrow(one.last, other.first, "-->")
                if not ends:
                    return self._box(["the value as it is"], level)
                return _Ends(ends[0].first, ends[-1].last)

    def _followed(self, drawn: _Ends, sketch: Sketch, level: int) -> _Ends:
        for what in sketch.then:
            box = self._box([what], level)
            self._arrow(drawn.last, box.first, "-->")
            drawn = _Ends(drawn.first, box.last)
        return drawn

    def _box(self, lines: Sequence[str], level: int) -> _Ends:
        name = self._next()
        self.boxes.append(f"{_indent(level)}{name}[{_quoted(lines)}]")
        return _Ends((name,), (name,))

    def _arrow(self, sources: Sequence[str], targets: Sequence[str], arrow: str) -> None:
        self.arrows += [f"    {source} {arrow} {target}" for source in sources for target in targets]

    def _next(self) -> str:
        self._count += 1
        return f"s{self._count}"


def _all(names: Iterator[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for each in names for name in each))


def _below(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def _indent(level: int) -> str:
    return "    " * level


def _quoted(lines: Sequence[str]) -> str:
    """Return lines as a label.

    >>> _quoted(['say "#1"', 'end'])
    '"say #34;#35;1#34;<br/>end"'
    """
    return f'"{"<br/>".join(map(_text, lines))}"'


def _text(line: str) -> str:
    """Return a line that is nothing but text in a label, whatever stands in it."""
    parted = _READ_TOGETHER.sub(lambda found: found[0] + _NOTHING_SEEN, on_one_line(line))
    return _OUTSIDE.sub(lambda found: f"#{ord(found[0])};", parted) or "?"


def on_one_line(line: str) -> str:
    """Return a text without line ends and controls, and not longer than one can read."""
    folded = " ".join("".join(each if each.isprintable() else " " for each in line).split())
    return folded if len(folded) <= _LONGEST else f"{folded[: _LONGEST - 3]}..."


def notes_of(settings: msgspec.Struct, without: Collection[str] = ()) -> str:
    """Return the settings of a struct that are not the default ones, those of structs within included.

    Args:
        settings: The struct.
        without: Fields to leave out.

    >>> class Size(msgspec.Struct, frozen=True):
    ...     n: int = 5
    ...     of: type = int
    >>> notes_of(Size(3, str))
    'n=3, of=str'
    """
    return ", ".join(_notes(settings, without))


def _notes(settings: msgspec.Struct, without: Collection[str] = ()) -> Iterator[str]:
    fields, defaults = settings.__struct_fields__, settings.__struct_defaults__
    given = dict(zip(fields[len(fields) - len(defaults) :], defaults, strict=True))
    for field in fields:
        held: object = getattr(settings, field)
        if field in without or (field in given and held == given[field]):
            continue
        if isinstance(held, str | int | float):
            yield f"{field}={held!r}"
        elif isinstance(held, tuple):
            named = [attribute(item, "name") for item in cast("tuple[object, ...]", held)]
            yield f"{field}: {', '.join([name for name in named if isinstance(name, str)])}"
        elif isinstance(name := attribute(held, "__name__") or attribute(held, "name"), str):
            yield f"{field}={name}"
        elif isinstance(held, msgspec.Struct):
            yield from _notes(held)
