"""What a journal keeps of a pipeline, so that it can tell that and how it has changed."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import msgspec

from executionkit.core.canonical import canonical, canonical_text, fingerprint_of
from executionkit.core.differences import changes
from executionkit.core.journal import digest_of

__all__ = ["Pipelined", "changes_between", "described"]

_LONGEST: Final = 40
"""Characters of a text that is kept as it is: names and settings are short, prompts are not."""
_MOST: Final = 8
"""Changes that are told one by one."""


class Pipelined(msgspec.Struct, frozen=True):
    """A pipeline as a journal keeps it.

    Args:
        fingerprint: What stands for it.
        plan: What it can be compared by.
    """

    fingerprint: str
    plan: bytes


def described(stage: object, *, prompts: bool) -> Pipelined:
    """Return what a journal keeps of a pipeline.

    Args:
        stage: The pipeline.
        prompts: Whether texts in it are kept; else what stands for them, where they are long. Of texts that
            objects and functions of the caller's hold, which may be keys, only that is ever kept.
    """
    plan = canonical_text(_without_texts(canonical(stage), _LONGEST if not prompts else math.inf))
    return Pipelined(fingerprint_of(stage), plan.encode("utf-8", "surrogatepass"))


def changes_between(before: bytes, now: Pipelined) -> Sequence[str]:
    """Return what is different, a clause each."""
    try:
        was, is_now = (json.loads(each.decode("utf-8", "surrogatepass")) for each in (before, now.plan))
    except ValueError:
        return ["the pipeline is another one"]
    found = [str(change) for change in changes(was, is_now)]
    if len(found) > _MOST:
        found[_MOST:] = [f"and {len(found) - _MOST} more"]
    # The same data, another fingerprint: another scheme, or texts of which only the lengths are kept.
    return found or ["the pipeline is another one"]


_HELD: Final = frozenset({"state", "holds", "defaults", "keyword_defaults", "arguments", "keywords"})
"""What an object or a function of the caller's has in it, in its description."""


def _without_texts(data: Any, longest: float) -> Any:
    """Return what stands for the texts in a description that are longer, or have a space in them."""
    if isinstance(data, Mapping):
        given = cast("Mapping[str, Any]", data)
        is_described = "$" in given
        return {
            name: part
            if name == "$"
            else _without_texts(part, -1 if is_described and name in _HELD else longest)
            for name, part in given.items()
        }
    if isinstance(data, list):
        parts: list[Any] = data  # pyright: ignore[reportUnknownVariableType]
        return [_without_texts(part, longest) for part in parts]
    if isinstance(data, str) and (len(data) > longest or (" " in data and longest < math.inf)):
        return f"text of {len(data)} characters, {digest_of(data).hex()[:8]}"
    return data
