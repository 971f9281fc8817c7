"""What differs between two values, place by place."""

from collections.abc import Iterator, Mapping
from difflib import SequenceMatcher
from typing import Final, cast

import msgspec

from executionkit.core.canonical import canonical_text

__all__ = ["Change", "changes"]

_NONE: Final = object()
"""Stands where one of them has nothing."""


class Change(msgspec.Struct, frozen=True):
    """One difference between two pipelines.

    Args:
        place: Where it is, such as `stages.1.sampling.n`; empty for the whole.
        before: What the first has there, as JSON; None where it has nothing.
        after: What the second has there, as JSON; None where it has nothing.
    """

    place: str
    before: str | None
    after: str | None

    def __str__(self) -> str:
        """Return it on one line."""
        place = self.place or "all of it"
        if self.before is None:
            return f"{place}: added {self.after}"
        if self.after is None:
            return f"{place}: removed {self.before}"
        return f"{place}: {self.before} -> {self.after}"


def changes(before: object, after: object) -> tuple[Change, ...]:
    """Return the differences between two canonical data, in the order of their places.

    >>> [str(each) for each in changes({"n": 3, "of": ["a", "b"]}, {"n": 5, "of": ["b"]})]
    ['n: 3 -> 5', 'of.0: removed "a"']
    """
    return tuple(_changes((), before, after))


def _changes(place: tuple[str, ...], before: object, after: object) -> Iterator[Change]:
    was, is_now = _text(before), _text(after)
    if was == is_now:
        return
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        one, other = cast("Mapping[str, object]", before), cast("Mapping[str, object]", after)
        if one.get("$") == other.get("$"):
            for name in sorted({**one, **other}):
                yield from _changes((*place, name), one.get(name, _NONE), other.get(name, _NONE))
            return
    if isinstance(before, list) and isinstance(after, list):
        yield from _in_lists(place, cast("list[object]", before), cast("list[object]", after))
    else:
        yield Change(".".join(place), was, is_now)


def _in_lists(place: tuple[str, ...], before: list[object], after: list[object]) -> Iterator[Change]:
    """Compare lists so that an item more at the front does not make all the others different."""
    matcher = SequenceMatcher(
        None, [*map(canonical_text, before)], [*map(canonical_text, after)], autojunk=False
    )
    for kind, low, high, from_, to in matcher.get_opcodes():
        if kind == "equal":
            continue
        for index in range(max(high - low, to - from_)):
            one = before[low + index] if low + index < high else _NONE
            other = after[from_ + index] if from_ + index < to else _NONE
            at = (low if other is _NONE else from_) + index
            yield from _changes((*place, str(at)), one, other)


def _text(data: object) -> str | None:
    return None if data is _NONE else canonical_text(data)
