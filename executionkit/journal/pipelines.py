"""What a journal keeps of a pipeline, so that it can tell that and how it has changed."""

import json
import math
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any, Final, cast

import msgspec

from executionkit.core.canonical import canonical_text, identified
from executionkit.core.differences import Change, changes
from executionkit.core.journal import digest_of

__all__ = ["Pipelined", "changes_between", "pipelined"]

_LONGEST: Final = 40
"""Characters of a text that is kept as it is: names and settings are short, prompts are not."""
_MOST: Final = 8
"""Changes that are told one by one."""
_TOLD: Final = 400
"""Characters that are told of each side of a change."""


class Pipelined(msgspec.Struct, frozen=True):
    """A pipeline as a journal keeps it.

    Args:
        fingerprint: What stands for it.
        plan: What it can be compared by.
    """

    fingerprint: str
    plan: bytes


def pipelined(stage: object, *, prompts: bool) -> Pipelined:
    """Return what a journal keeps of a pipeline.

    Args:
        stage: The pipeline.
        prompts: Whether prompts in it are kept; else what stands for them. Of texts that objects and
            functions of the caller's hold, which may be keys, only that is ever kept.
    """
    longest = _LONGEST if not prompts else math.inf
    data, fingerprint = identified(stage)
    plan = canonical_text(_without_texts(data, longest, longest))
    return Pipelined(fingerprint, plan.encode("utf-8", "surrogatepass"))


def changes_between(before: bytes, now: Pipelined) -> Sequence[str]:
    """Return what is different, a clause each."""
    try:
        was, is_now = (json.loads(each.decode("utf-8", "surrogatepass")) for each in (before, now.plan))
    except ValueError:
        return ["the pipeline is another one"]
    found = [str(_shortened(change)) for change in changes(was, is_now)]
    if len(found) > _MOST:
        found[_MOST:] = [f"and {len(found) - _MOST} more"]
    # The same data, another fingerprint: another scheme, or texts of which only the lengths are kept.
    return found or ["the pipeline is another one"]


def _shortened(change: Change) -> Change:
    """Return a change as it can be read in a message: of long texts the part where they differ."""
    pairs = zip(change.before or "", change.after or "", strict=False)
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return Change(change.place, _around(change.before, same), _around(change.after, same))


def _around(text: str | None, place: int) -> str | None:
    if text is None or len(text) <= _TOLD:
        return text
    start = max(0, min(place - _TOLD // 4, len(text) - _TOLD))
    end = start + _TOLD
    return f"{'...' if start else ''}{text[start:end]}{'...' if end < len(text) else ''}"


_HELD: Final = frozenset(
    {"state", "holds", "defaults", "keyword_defaults", "arguments", "keywords", "constants"}
)
"""What an object or a function of the caller's has in it, in its description."""
_SAID: Final = frozenset(
    {"system", "template", "messages", "description", "default", "examples", "extra_body"}
)
"""What the model is told, in the description of a stage, a tool, a type or a provider."""
_VALUES: Final = frozenset({"bytes", "path", "decimal", "float", "map", "set"})
"""Kinds of values that belong to what they are found in."""
_NOTHING: Final = -1
"""No text is kept, here and below."""
_EMPTY: Final = 0
"""None is kept but the empty one, here and below, up to a stage of ours."""


def _without_texts(data: Any, longest: float, of_ours: float) -> Any:
    """Return what stands for the texts in a description that are longer, or have a space in them.

    Args:
        data: The description.
        longest: Characters of a text that is kept.
        of_ours: The same, in the settings of stages.
    """
    if isinstance(data, Mapping):
        given = cast("Mapping[str, Any]", data)
        kind: str | None = given.get("$")
        return {
            name: part
            if name == "$"
            else _without_texts(part, _longest_in(kind, name, longest, of_ours), of_ours)
            for name, part in given.items()
        }
    if isinstance(data, list):
        parts: list[Any] = data  # pyright: ignore[reportUnknownVariableType]
        return [_without_texts(part, longest, of_ours) for part in parts]
    if isinstance(data, str) and (len(data) > longest or (" " in data and longest < math.inf)):
        return f"text of {len(data)} characters, {digest_of(data).hex()[:8]}"
    return data


def _longest_in(kind: str | None, name: str, longest: float, of_ours: float) -> float:
    """Return how long a text is that is kept, in a part of what is of a kind; None for plain data."""
    if longest == _NOTHING or (kind is not None and name in _HELD):
        return _NOTHING
    is_the_callers = kind is not None and ":" in kind and not kind.startswith("executionkit:")
    if is_the_callers or (name in _SAID and of_ours < math.inf):
        return _EMPTY
    return longest if kind is None or kind in _VALUES else of_ours
