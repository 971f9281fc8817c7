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
from executionkit.core.json_text import begins_broken, find_json
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


_MINUS: Final = r"(?:(?<![\w.)\]])[-+\u2212][$\u20ac\u00a3]?)?"
_POWER: Final = r"(?:[eE][-+]?\d{1,3}\b)?"
_SPACE: Final = r"[ \u00a0\u2009\u202f]"
_NUMBER: Final = re.compile(
    rf"{_MINUS}(?:"
    rf"(?:\d{{1,3}}(?:,\d{{3}}){{1,100}}(?!\d)|\d{{1,3}}(?:{_SPACE}\d{{3}}){{1,100}}(?!\d)|\d{{1,300}})"
    rf"(?:\.\d{{1,300}})?{_POWER}|\.\d{{1,300}}"
    rf"|\d{{1,3}}(?:\.\d{{3}}){{2,100}}|(?P<comma>\d{{1,3}}(?:(?:\.|{_SPACE})\d{{3}}){{1,100}},\d{{1,300}}))"
)
"""A number as it is written: a comma marks decimals where other marks have set off the thousands."""
_RUN: Final = (
    rf"{_MINUS}(?:\d{{1,300}}|\.\d{{1,300}})"
    rf"(?:[.,'\u2019_]\d{{1,300}}|(?:\\,|\{{,\}}|{_SPACE})\d{{3}}(?!\d)){{0,100}}{_POWER}"
    r"(?:\s?(?:\\times|\\cdot|\u00d7|x|\*)\s?10(?=\s?\^|[\u00b2\u00b3\u00b9\u2070-\u207b]))?"
    r"(?:\s?\^\s?\{?\s?[-+\u2212]?\d{1,3}\s?\}?|[\u00b2\u00b3\u00b9\u2070-\u207b]{1,4})?"
)
"""All that belongs to a number in a text, whether it can be read or not: a part of one is none."""
_MARKUP: Final = re.compile(r"\\[$%,!;: ]|\\(?:text|textbf|mathrm|mbox)\{([^{}]{0,80})\}|\{,\}")
_UNITS: Final = str.maketrans("", "", "$\u20ac\u00a3\u00a5%*_`\"'\u2019")
_RAISED: Final = re.compile(r"[\u00b2\u00b3\u00b9\u2070-\u207b]{1,4}\Z")
_SIGNS_RAISED: Final = str.maketrans(
    "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207b\u207a", "0123456789-+"
)


_PART: Final = r"\d{1,300}(?:\.\d{1,300})?"
_LATEX_FRACTION: Final = (
    rf"(?:\d{{1,300}}\s{{0,9}})?\\[dtc]?frac\s{{0,9}}"
    rf"(?:\{{\s{{0,9}}-?{_PART}\s{{0,9}}\}}|\d)\s{{0,9}}(?:\{{\s{{0,9}}{_PART}\s{{0,9}}\}}|\d)"
)
_SLASHED: Final = rf"(?<![\d/.])(?:\d{{1,300}}\s{{1,9}})?{_PART}\s?/\s?{_PART}(?![\d/]|\.\d)"
_SIGN: Final = r"(?:(?<![\w.)\]])[-+\u2212]\s?)?"
_FRACTION: Final = re.compile(rf"{_SIGN}(?:{_LATEX_FRACTION}|{_SLASHED})")
_NUMBER_IN_TEXT: Final = re.compile(rf"{_FRACTION.pattern}|{_RUN}")
_FIGURES: Final = re.compile(_PART)
_SHORT_FRACTION: Final = re.compile(r"frac\s*(\d)")
_POWER_OF_TEN: Final = re.compile(
    r"(?:(?<=\d)\s*(?:\\times|\\cdot|\u00d7|x|\*)\s*|(?<![\d.,]))10\s*\^\s*\{?\s*([-+\u2212]?\d{1,3})\s*\}?\Z"
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
    if raised := _RAISED.search(text):
        text = f"{text[: raised.start()]}^{raised[0].translate(_SIGNS_RAISED)}"
    power = _POWER_OF_TEN.search(text)
    text = (text[: power.start()] if power else text).translate(_UNITS).strip()
    if power and text in {"", "-", "+", "\u2212"}:  # the power alone
        text += "1"
    if found := _NUMBER.fullmatch(text):
        number = _decimal(text, has_comma=found["comma"] is not None)
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


def _decimal(text: str, *, has_comma: bool) -> Decimal:
    """Return a number whose decimals stand behind a comma, or else a point if it is the only one."""
    text = "".join(text.split()).replace("\u2212", "-")
    if has_comma:
        return Decimal(text.replace(".", "").replace(",", "."))
    text = text.replace(",", "")
    return Decimal(text.replace(".", "") if text.count(".") > 1 else text)


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
    """The last number in the text, a fraction (`1/2`) or a power (`2 x 10^3`) as a whole.

    A text without one abstains, and so does one whose last number cannot be read: `12,5` may be one number or
    two, and a part of it is none. JSON that is broken or cut off abstains too.

    Args:
        tolerance: How far two numbers may be apart, at least 0.

    >>> LastNumber()("3 boxes of 12 make 1,036.")
    Decimal('1036')
    """

    def __call__(self, text: str) -> Decimal | Fraction | None:
        """Return the last number in the text."""
        if begins_broken(text):
            return None
        last = deque(_NUMBER_IN_TEXT.finditer(text), maxlen=1)
        return _number(last[0].group()) if last else None


def boxed(text: str) -> str | None:
    r"""Return what the last `\boxed{...}` in the text holds, braces balanced, white space removed.

    None where there is none, or the last one is empty or not closed.

    >>> boxed(r"so \boxed{1} or rather \boxed{\frac{1}{2}}.")
    '\\frac{1}{2}'
    """
    content = _in_box(text)
    return "".join(content.split()) or None if content else None


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

    So does JSON that is broken or cut off. A letter that the text says no to (`not A`) is not chosen, and of
    two at once (`A or B`) none is. Looked for in this order, the last one found counting: after "answer is"
    or "answer:" (a small letter where a line or sentence ends with it), in a box or in round brackets, at the
    start before a dot, bracket or colon, and as a capital standing alone.

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
        if begins_broken(text):
            return None
        upper = self.letters.upper()
        either = upper + upper.lower()
        alone = text.strip(" \t\r\n.*_`()[]\"'")
        if len(alone) == 1 and alone in either:
            return alone.upper()
        for pattern in _choice_patterns(upper, either):
            found = [each for each in re.finditer(pattern, text) if not _is_denied(text, each.start(1))]
            if found:
                return None if _is_one_of_two(text, found[-1], either) else found[-1][1].upper()
        return None


_DENIAL: Final = re.compile(
    r"(?:\b(?:not|nor|neither|never|except|than)|n['\u2019]t)\s{1,9}(?:be\s{1,9})?(?:(?:option|choice)\s{1,9})?[*_(\[`\"]{0,4}\Z",
    re.IGNORECASE,
)


def _is_denied(text: str, start: int) -> bool:
    return bool(_DENIAL.search(text[max(0, start - 40) : start]))


def _is_one_of_two(text: str, letter: re.Match[str], letters: str) -> bool:
    """Whether another letter stands beside the one that was found, as in "A or B"."""
    either, mark = r"\s{0,3}(?:\bor\b|\band\b|/|&)\s{0,3}", r"[*_()\[\]`\"]{0,4}"
    before, after = (
        text[max(0, letter.start(1) - 20) : letter.start(1)],
        text[letter.end(1) : letter.end(1) + 20],
    )
    return bool(
        re.search(rf"(?<!\w)[{letters}]{mark}{either}{mark}\Z", before)
        or re.match(rf"{mark}{either}{mark}[{letters}](?![\w'])", after)
    )


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
