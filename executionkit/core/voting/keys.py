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
from decimal import Context, Decimal, DivisionByZero, Inexact, InvalidOperation
from fractions import Fraction
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


_PART: Final = r"\d{1,300}(?:\.\d{1,300})?"
_LATEX_FRACTION: Final = (
    rf"(?:\d{{1,300}}\s{{0,9}})?\\[dtc]?frac\s{{0,9}}"
    rf"(?:\{{\s{{0,9}}-?{_PART}\s{{0,9}}\}}|\d)\s{{0,9}}(?:\{{\s{{0,9}}{_PART}\s{{0,9}}\}}|\d)"
)
_SLASHED: Final = rf"(?<![\d/.])(?:\d{{1,300}}\s{{1,9}})?{_PART}\s?/\s?{_PART}(?![\d/]|\.\d)"
_SIGN: Final = r"(?:(?<![\w.)\]])[-+\u2212]\s?)?"
_FRACTION: Final = re.compile(rf"{_SIGN}(?:{_LATEX_FRACTION}|{_SLASHED})")
_NUMBER_IN_TEXT: Final = re.compile(rf"{_FRACTION.pattern}|{_NUMBER.pattern}")
_FIGURES: Final = re.compile(_PART)
_SHORT_FRACTION: Final = re.compile(r"frac\s*(\d)")
_POWER_OF_TEN: Final = re.compile(
    r"\s*(?:\\times|\\cdot|\u00d7|\*)\s*10\s*\^\s*\{?\s*([-+\u2212]?\d{1,3})\s*\}?\Z"
)
_LONGEST_NUMBER: Final = 2_000
_BOX: Final = "\\boxed{"
_BRACE: Final = re.compile(r"[{}]")
_EXACT: Final = Context(prec=1_000, traps=[Inexact, InvalidOperation, DivisionByZero])


def _number(text: str) -> Decimal | Fraction | None:
    """Return the number that a text is; None where it is none."""
    text = text.strip()
    if len(text) > _LONGEST_NUMBER:
        return None
    text = _without_markup(text).strip("$ ").rstrip(".")
    power = _POWER_OF_TEN.search(text)
    text = (text[: power.start()] if power else text).translate(_UNITS).strip()
    if _NUMBER.fullmatch(text):
        number = _decimal(text)
        return _EXACT.scaleb(number, int(power[1].replace("\u2212", "-"))) if power else number
    return _fraction(text) if _FRACTION.fullmatch(text) and not power else None


def _fraction(text: str) -> Decimal | Fraction | None:
    """Return a fraction, mixed numbers included, as a decimal where it is one; None for one by zero."""
    is_negative = text[0] in "-\u2212" or "{-" in text.replace(" ", "")
    short = _SHORT_FRACTION.search(text)
    if short:  # \frac12: each figure is a part of its own
        text = f"{text[: short.start(1)]}{short[1]} {text[short.end(1) :]}"
    *whole, above, below = map(Decimal, _FIGURES.findall(text))
    if not below:
        return None
    found = sum(map(Fraction, whole)) + Fraction(above) / Fraction(below)
    found = Fraction(-found if is_negative else found)
    try:
        return _EXACT.divide(Decimal(found.numerator), Decimal(found.denominator))
    except ArithmeticError:
        return found


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
        if not (self.tolerance and isinstance(vote, (Decimal, Fraction))):
            return vote
        reach, place = Fraction(repr(self.tolerance)), Fraction(vote)
        near = (
            other
            for other in seen
            if isinstance(other, (Decimal, Fraction)) and abs(Fraction(other) - place) <= reach
        )
        return next(near, vote)


class Number(_Near, frozen=True):
    """The text as one number; currency, per cent, thousands marks and LaTeX are left out, others abstain.

    Exact: fractions are numbers too, and so is one times a power of ten. A `Fraction` where no decimal is
    equal.

    A number counts for the first seen number that is within the tolerance, so that answers near each other
    do not fall apart at the edge of a raster.

    Args:
        tolerance: How far two numbers may be apart, at least 0.

    >>> Number()(" $1,250.00 "), Number()("about five")
    (Decimal('1250.00'), None)
    >>> Number(tolerance=0.01).group(Decimal("3.14"), [Decimal("2.7"), Decimal("3.1416")])
    Decimal('3.1416')
    """

    def __call__(self, text: str) -> Decimal | Fraction | None:
        """Return the number that the text is."""
        return _number(text)


class LastNumber(_Near, frozen=True):
    """The last number in the text, a fraction (`1/2`) as a whole; a text without one abstains.

    Args:
        tolerance: How far two numbers may be apart, at least 0.

    >>> LastNumber()("3 boxes of 12 make 1,036.")
    Decimal('1036')
    """

    def __call__(self, text: str) -> Decimal | Fraction | None:
        """Return the last number in the text."""
        last = deque(_NUMBER_IN_TEXT.finditer(text), maxlen=1)
        return _number(last[0].group()) if last else None


def boxed(text: str) -> str | None:
    r"""Return what the last `\boxed{...}` in the text holds, braces balanced, white space removed.

    None where there is none, or the last one is not closed.

    >>> boxed(r"so \boxed{1} or rather \boxed{\frac{1}{2}}.")
    '\\frac{1}{2}'
    """
    content = _in_box(text)
    return None if content is None else "".join(content.split())


def _in_box(text: str) -> str | None:
    _, found, rest = text.rpartition(_BOX)
    depth = 1
    for brace in _BRACE.finditer(rest if found else ""):
        depth += 1 if brace[0] == "{" else -1
        if not depth:
            return rest[: brace.start()]
    return None


class FinalAnswer(_Near, frozen=True):
    r"""The last boxed answer as a number if it is one, as text if not; without a box the last number.

    Numbers are exact: `\frac{1}{2}`, `1/2`, `0.5` and `5 \times 10^{-1}` are one. Units and per cent signs
    are left out, not converted. A box that is not closed abstains: the answer in it was cut off.

    Args:
        tolerance: How far two numbers may be apart, at least 0.

    >>> FinalAnswer()(r"\boxed{540}"), FinalAnswer()("#### 540"), FinalAnswer()(r"\boxed{x+1}")
    (Decimal('540'), Decimal('540'), 'x+1')
    >>> FinalAnswer()(r"\boxed{\frac{1}{2}}"), FinalAnswer()(r"\boxed{\dfrac13}")
    (Decimal('0.5'), Fraction(1, 3))
    """

    def __call__(self, text: str) -> Hashable | None:
        """Return the final answer that the text gives."""
        if _BOX not in text:
            return LastNumber()(text)
        content = _in_box(text)
        number = None if content is None else Number()(content)
        return boxed(text) if number is None else number


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
        rf"(?:\\boxed\{{\s{{0,9}}(?:\\text\{{)?|\()\s{{0,9}}\(?([{either}])\s{{0,9}}[)}}]",
        rf"^\s{{0,99}}[*_]{{0,2}}([{upper}])[*_]{{0,2}}[.):]",
        rf"(?<![\w'])([{upper}])(?![\w']|\s+[a-z])",
    )


def json_value(text: str) -> str | None:
    """Return the JSON value in a text, written in one way; without one, or with a broken one, it abstains.

    >>> json_value('Here: {"b": 1.0, "a": [true]}')
    '{"a":[true],"b":1}'
    """
    with suppress(msgspec.MsgspecError, ValueError, RecursionError):
        for found in find_json(text).values[:1]:
            value: object = msgspec.json.decode(found)
            return msgspec.json.encode(_plain(value), order="deterministic").decode()
    return None


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in cast("Mapping[str, object]", value).items()}
    if isinstance(value, list):
        return [_plain(item) for item in cast("list[object]", value)]
    return int(value) if isinstance(value, float) and value.is_integer() else value
