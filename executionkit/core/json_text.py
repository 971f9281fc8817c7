"""Finding JSON in what a model wrote: bare, in a fence, or in the middle of prose."""

import json
import re
from collections.abc import Iterator
from itertools import islice
from typing import Final

__all__ = ["find_json"]

_FENCE: Final = re.compile(r"```[\w+-]*[ \t]*\n(.*?)```", re.DOTALL)
_OPENING: Final = re.compile(r"[{\[]")
_END_OF_THOUGHT: Final = "</think>"
_LONGEST_TEXT: Final = 1_000_000
_MOST_OPENINGS: Final = 64
_MOST_FENCES: Final = 16
_decoder: Final = json.JSONDecoder()


def find_json(text: str) -> Iterator[str]:
    """Yield what may be the JSON meant, best guess first: the whole text, fenced blocks, values in prose.

    A `<think>` block before the answer is left out. Looks at the first million characters, 16 fences and 64
    opening brackets, so that no text takes long.

    >>> list(find_json('Sure! Here it is: {"city": "Bonn"} Anything else?'))
    ['Sure! Here it is: {"city": "Bonn"} Anything else?', '{"city": "Bonn"}']
    """
    text = text[:_LONGEST_TEXT].rpartition(_END_OF_THOUGHT)[2].strip()
    seen: set[str] = set()
    for candidate in _candidates(text):
        if candidate and candidate not in seen:
            seen.add(candidate)
            yield candidate


def _candidates(text: str) -> Iterator[str]:
    yield text
    for fence in islice(_FENCE.finditer(text), _MOST_FENCES):
        yield fence[1].strip()
    yield from _values_in_prose(text)


def _values_in_prose(text: str) -> Iterator[str]:
    position = 0
    for _ in range(_MOST_OPENINGS):
        opening = _OPENING.search(text, position)
        if opening is None:
            return
        end = _end_of_value(text, opening.start())
        if end is not None:
            yield text[opening.start() : end]
        position = end or opening.end()


def _end_of_value(text: str, start: int) -> int | None:
    try:
        return _decoder.raw_decode(text, start)[1]
    except (ValueError, RecursionError):
        return None
