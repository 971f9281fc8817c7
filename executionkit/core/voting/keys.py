r"""What is voted on: keys, which turn an answer into what it says, so that equal answers count together.

A key is any function of the answer that returns something hashable; `None` abstains, and so does a key that
raises. These here take text:

============== ======================================================================
`fold`         white space folded (`executionkit.core.voting.tally`); what a plain vote uses
`casefolded`   that, and upper and lower case alike
`Number`       the text as one number, numbers within a tolerance alike
`Choice`       the letter of a multiple-choice answer
`json_value`   the JSON value in the text: order of fields, spacing and 1 or 1.0 alike
`LastNumber`   the last number in the text, numbers within a tolerance alike
`boxed`        what the last `\boxed{...}` holds
`FinalAnswer`  the boxed answer, or else the last number
============== ======================================================================
"""

import re
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping
from contextlib import suppress
from decimal import Decimal
from itertools import islice
from typing import Final, Protocol, TypeAlias, cast, runtime_checkable

import msgspec

from executionkit.core.checks import as_float
from executionkit.core.json_text import find_json
from executionkit.core.voting.tally import fold

__all__ = [
    "Choice",
    "FinalAnswer",
    "Grouping",
    "Key",
    "LastNumber",
    "Number",
    "boxed",
    "casefolded",
    "json_value",
]

_MOST_CANDIDATES: Final = 32

Key: TypeAlias = Callable[[str], Hashable | None]
"""What a text says; None abstains."""


@runtime_checkable
class Grouping(Protocol):
    """A key whose votes may count together without being equal, such as numbers within a tolerance."""

    def group(self, vote: Hashable, seen: Iterable[Hashable]) -> Hashable:
        """Return the vote of `seen`, in the order of their first samples, that this one counts for."""
        ...


def casefolded(text: str) -> str:
    """Return the text with white space folded, and upper and lower case alike.

    >>> casefolded(" New  YORK")
    'new york'
    """
    return fold(text).casefold()


_NUMBER: Final = re.compile(
    r"(?:(?<![\w.)\]])[-+\u2212])?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d{1,300})(?:\.\d{1,300})?(?:[eE][-+]?\d{1,3}\b)?"
    r"|(?:(?<![\w.)\]])[-+\u2212])?\.\d{1,300}"
)
_MARKUP: Final = re.compile(r"\\[$%,!;: ]|\\(?:text|textbf|mathrm|mbox)\{([^{}]{0,80})\}|\{,\}")
_UNITS: Final = str.maketrans("", "", "$\u20ac\u00a3\u00a5%*_`\"'")


def _decimal(text: str) -> Decimal:
    return Decimal(text.replace(",", "").replace("\u2212", "-"))


def _without_markup(text: str) -> str:
    """Leave out what LaTeX puts into a number, and a unit in words."""

    def kept(found: re.Match[str]) -> str:
        words = found[1] or ""
        return words if any(map(str.isdigit, words)) else "," if found[0] == "{,}" else ""

    return _MARKUP.sub(kept, text) if "\\" in text or "{,}" in text else text


class _Near(msgspec.Struct, frozen=True):
    tolerance: float = 0

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "tolerance", as_float("a tolerance", self.tolerance))
        if not 0 <= self.tolerance < float("inf"):
            raise ValueError(f"a tolerance must be 0 or more, and finite, not {self.tolerance}")

    def group(self, vote: Hashable, seen: Iterable[Hashable]) -> Hashable:
        """Return the first seen number within the tolerance, or this one."""
        if not (self.tolerance and isinstance(vote, Decimal)):
            return vote
        reach = Decimal(repr(self.tolerance))
        near = (other for other in seen if isinstance(other, Decimal) and abs(other - vote) <= reach)
        return next(near, vote)


class Number(_Near, frozen=True):
    """The text as one number; currency, per cent, thousands marks and LaTeX are left out, others abstain.

    A number counts for the first seen number that is within the tolerance, so that answers near each other
    do not fall apart at the edge of a raster.

    Args:
        tolerance: How far two numbers may be apart, at least 0.

    >>> Number()(" $1,250.00 "), Number()("about five")
    (Decimal('1250.00'), None)
    >>> Number(tolerance=0.01).group(Decimal("3.14"), [Decimal("2.7"), Decimal("3.1416")])
    Decimal('3.1416')
    """

    def __call__(self, text: str) -> Decimal | None:
        """Return the number that the text is."""
        found = _NUMBER.fullmatch(_without_markup(text).translate(_UNITS).strip().rstrip("."))
        return None if found is None else _decimal(found.group())


class LastNumber(_Near, frozen=True):
    """The last number in the text; a text without one abstains.

    Args:
        tolerance: How far two numbers may be apart, at least 0.

    >>> LastNumber()("3 boxes of 12 make 1,036.")
    Decimal('1036')
    """

    def __call__(self, text: str) -> Decimal | None:
        """Return the last number in the text."""
        last = deque(_NUMBER.finditer(text), maxlen=1)
        return _decimal(last[0].group()) if last else None


def boxed(text: str) -> str | None:
    r"""Return what the last `\boxed{...}` in the text holds, braces balanced, white space removed.

    >>> boxed(r"so \boxed{1} or rather \boxed{\frac{1}{2}}.")
    '\\frac{1}{2}'
    """
    _, found, rest = text.rpartition("\\boxed{")
    depth = 1
    for index, character in enumerate(rest):
        depth += (character == "{") - (character == "}")
        if found and not depth:
            return "".join(rest[:index].split())
    return None


class FinalAnswer(_Near, frozen=True):
    r"""The last boxed answer as a number if it is one, as text if not; without a box the last number.

    Args:
        tolerance: How far two numbers may be apart, at least 0.

    >>> FinalAnswer()(r"\boxed{540}"), FinalAnswer()("#### 540"), FinalAnswer()(r"\boxed{x+1}")
    (Decimal('540'), Decimal('540'), 'x+1')
    """

    def __call__(self, text: str) -> Hashable | None:
        """Return the final answer that the text gives."""
        answer = boxed(text)
        if answer is None:
            return LastNumber()(text)
        number = Number()(answer)
        return answer if number is None else number


class Choice(msgspec.Struct, frozen=True):
    """The letter of a multiple-choice answer, in upper case; a text that names none abstains.

    Looked for in this order, the last one found counting: after "answer is" or "answer:" (a small letter
    where a line or sentence ends with it), in a box or in round brackets, at the start before a dot, bracket
    or colon, and as a capital standing alone.

    Args:
        letters: The letters that there are to choose from.

    >>> [Choice("ABCD")(text) for text in ("(c)", "The answer is **B**.", "A. Paris", "I do not know")]
    ['C', 'B', 'A', None]
    """

    letters: str = "ABCDE"

    def __post_init__(self) -> None:
        letters: object = self.letters
        if type(letters) is not str:
            raise TypeError(f"letters must be a string, not {type(letters).__name__}")
        if not (self.letters.isalpha() and self.letters.isascii()):
            raise ValueError(f"letters must be letters from A to Z, not {self.letters!r}")

    def __call__(self, text: str) -> str | None:
        """Return the letter that the text chooses."""
        upper = self.letters.upper()
        either = upper + upper.lower()
        alone = text.strip(" \t\r\n.*_`()[]\"'")
        if len(alone) == 1 and alone in either:
            return alone.upper()
        for pattern in _choice_patterns(upper, either):
            found = re.findall(pattern, text)
            if found:
                return cast("str", found[-1]).upper()
        return None


def _choice_patterns(upper: str, either: str) -> tuple[str, ...]:
    lead = (  # bounded throughout: time must not depend on runs of white space
        r"\b(?i:answer)[*_]{0,3}(?:\s{1,9}is)?[*_]{0,3}\s{0,9}[:=]?[*_]{0,3}\s{0,9}"
        r"(?i:(?:option|choice)\s{1,9})?[*_(\[`\"$]{0,4}"
    )
    ends = r"[*_)\]`\"$]{0,4}(?:\.|\s{0,9}(?:\n|\Z))"
    return (
        rf"{lead}([{upper}](?![\w'])|[{upper.lower()}](?={ends}))",
        rf"(?:\\boxed\{{\s*(?:\\text\{{)?|\()\s*\(?([{either}])\s*[)}}]",
        rf"^\s*[*_]{{0,2}}([{upper}])[*_]{{0,2}}[.):]",
        rf"(?<![\w'])([{upper}])(?![\w']|\s+[a-z])",
    )


def json_value(text: str) -> str | None:
    """Return the JSON value in a text, written in one way; a text without one abstains.

    >>> json_value('Here: {"b": 1.0, "a": [true]}')
    '{"a":[true],"b":1}'
    """
    for candidate in islice(find_json(text), _MOST_CANDIDATES):
        with suppress(msgspec.MsgspecError, ValueError, RecursionError):
            value: object = msgspec.json.decode(candidate)
            return msgspec.json.encode(_plain(value), order="deterministic").decode()
    return None


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in cast("Mapping[str, object]", value).items()}
    if isinstance(value, list):
        return [_plain(item) for item in cast("list[object]", value)]
    return int(value) if isinstance(value, float) and value.is_integer() else value
