"""What each key reads out of texts as models write them."""

from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executionkit.core.voting.keys import (
    Choice,
    FinalAnswer,
    Grouping,
    Key,
    LastNumber,
    Number,
    boxed,
    casefolded,
    json_value,
)
from executionkit.core.voting.tally import fold

KEYS: list[Key] = [fold, casefolded, Number(), LastNumber(), FinalAnswer(), Choice(), boxed, json_value]


@given(st.text(), st.sampled_from(KEYS))
def test_keys_are_total(text: str, key: Key) -> None:
    assert key(text) == key(text)
    hash(key(text))


@given(st.text(st.sampled_from('{}[]()"\\,.-+0123456789eEABan swer:`\n'), max_size=60), st.sampled_from(KEYS))
def test_keys_are_total_on_texts_that_nearly_parse(text: str, key: Key) -> None:
    hash(key(text))


@pytest.mark.parametrize("key", KEYS)
def test_keys_take_long_texts(key: Key) -> None:
    for text in (
        "9" * 100_000,
        "[" * 100_000,
        "{" * 100_000 + "}" * 100_000,
        "1," * 50_000,
        "\\boxed{" * 20_000,
        "answer" + " " * 100_000,
        "answer " * 20_000,
        "\\text{" * 20_000,
        "1/" * 50_000,
        "\\frac{1" * 20_000,
        "1 " * 50_000,
        "\\boxed{" + " " * 100_000 + "}",
        "\\boxed{" + "9" * 299 + "/" + "7" * 299 + "}",
        "\\boxed{1" + "0" * 299 + "\\times10^{999}}",
    ):
        key(text)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("540", "540"),
        (" 540. ", "540"),
        ("$1,250.50", "1250.5"),
        ("-$5", "-5"),
        ("\u22123", "-3"),
        ("**.5**", "0.5"),
        ("1e3", "1000"),
        ("25 %", "25"),
        (r"\$540", "540"),
        (r"540\%", "540"),
        ("1{,}000", "1000"),
        (r"540\text{ dollars}", "540"),
        ("1,25", None),
        ("five", None),
        ("5 apples", None),
        ("", None),
        ("NaN", None),
        ("1e999999999", None),
        ("5 000", "5000"),
        ("1\u202f234\u202f567", "1234567"),
        ("1'000", "1000"),
        ("1.250,50", "1250.5"),
        ("1 250,50", "1250.5"),
        ("1.234.567", "1234567"),
        ("1.234", "1.234"),
        ("10^5", "100000"),
        ("-10^{2}", "-100"),
        ("2^10", None),
        ("1,2,3", None),
        ("1.2.3", None),
    ],
)
def test_number(text: str, number: str | None) -> None:
    assert Number()(text) == (None if number is None else Decimal(number))


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("3 + 4 = 7", "7"),
        ("The total is $1,036.", "1036"),
        ("#### 1,000,000", "1000000"),
        ("it falls to -12.5 degrees.", "-12.5"),
        ("from 10-5", "5"),
        ("on 2024-05-06", "6"),
        ("on 3/4/2024", "2024"),
        ("x-1/2", "0.5"),
        ("none at all", None),
        ("it costs 5 000 francs", "5000"),
        (r"it costs 5\,000", "5000"),
        ("it costs 5{,}000", "5000"),
        ("it costs 5'000", "5000"),
        ("it costs 5.000,00 euros", "5000"),
        ("it costs 1.234.567 euros", "1234567"),
        ("about 1.5 x 10^3", "1500"),
        ("about 1.5 \u00d7 10\u00b3 of them", "1500"),
        (r"about $1.5 \times 10^{3}$", "1500"),
        ("about 10^5", "100000"),
        ("a loss of -$5", "-5"),
        ("3, 4, 5", "5"),
        ("it costs 12,50", None),
        ("version 1.2.3", None),
        ("it is 2^10", None),
        ("it is 5\u00b2", None),
        ('{"sum": 4}', "4"),
        ('{"sum": 4, "why": "3 and', None),
        ('{"user": {"sum": 4},}', None),
        ('```json\n[{"sum": 4}, {"su\n```', None),
        ("[1, 2) holds 1", "1"),
    ],
)
def test_last_number(text: str, number: str | None) -> None:
    assert LastNumber()(text) == (None if number is None else Decimal(number))


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"thus \boxed{1,024} and 7 more", Decimal(1024)),
        (r"\boxed{ \frac{1}{2} }", Decimal("0.5")),
        (r"\boxed{0.50}", Decimal("0.5")),
        (r"\boxed{\dfrac12}", Decimal("0.5")),
        (r"\boxed{\tfrac{2}4}", Decimal("0.5")),
        (r"\boxed{-\frac{1}{2}}", Decimal("-0.5")),
        (r"\boxed{\frac{-1}{2}}", Decimal("-0.5")),
        (r"\boxed{1\frac{1}{2}}", Decimal("1.5")),
        (r"\boxed{1 1/2}", Decimal("1.5")),
        (r"\boxed{\frac{1}{3}}", Fraction(1, 3)),
        (r"\boxed{2/6}", Fraction(1, 3)),
        (r"\boxed{1/0}", "1/0"),
        (r"\boxed{5 \times 10^{-1}}", Decimal("0.5")),
        (r"\boxed{3\cdot10^2}", Decimal(300)),
        (r"\boxed{\frac{1}{2}\text{ cm}}", Decimal("0.5")),
        (r"\boxed{5 cm}", "5cm"),
        (r"\boxed{\sqrt{2}}", r"\sqrt{2}"),
        (r"\boxed{12", None),
        (r"\boxed{}", None),
        (r"\boxed{ }", None),
        (r"\boxed{10^5}", Decimal(100_000)),
        (r"\boxed{5.000,00}", Decimal(5000)),
        (r"\boxed{1} or rather \boxed{2", None),
        ("the answer is 1/2.", Decimal("0.5")),
        (r"so $\frac{3}{4}$ of it", Decimal("0.75")),
        (r"\boxed{unfinished", None),
        (r"\boxed{\$540}", Decimal(540)),
        (r"\boxed{540\%}", Decimal(540)),
        (r"\boxed{1{,}000}", Decimal(1000)),
        (r"\boxed{1\,000}", Decimal(1000)),
        (r"\boxed{540\text{ dollars}}", Decimal(540)),
        (r"\boxed{\text{540}}", Decimal(540)),
        (r"\boxed{\text{no}}", r"\text{no}"),
        ("so 12", Decimal(12)),
        ("", None),
    ],
)
def test_final_answer(text: str, answer: object) -> None:
    assert FinalAnswer()(text) == answer


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("C", "C"),
        ("c.", "C"),
        ("(b)", "B"),
        ("**(D)**", "D"),
        ("The answer is (A).", "A"),
        ("Answer: B", "B"),
        ("answer is **C**, not (A)", "C"),
        (r"\boxed{D}", "D"),
        (r"\boxed{\text{D}}", "D"),
        ("B) because A is wrong", "B"),
        ("**Answer:** B. Options like (A) are wrong", "B"),
        ("**Answer**: B. Options like (A) are wrong", "B"),
        ("ANSWER: B\nA: no. C: no", "B"),
        ("Answer: b", "B"),
        ("Answer: (b)\nbecause (A) is wrong", "B"),
        ("Correct answer: d", "D"),
        ("The correct answer is option **c**.", "C"),
        ("The answer is a, in short, wrong question", None),
        ("Answer: a matter of taste", None),
        ("Let us see. (A) is out, so (C)", "C"),
        ("I would choose B", "B"),
        ("A dog barks", None),
        ("Not A", None),
        ("The answer is not A", None),
        ("It isn't A.", None),
        ("Neither A nor B", None),
        ("It is not (A) but (B)", "B"),
        ("B, not A", "B"),
        ("A or B", None),
        ("The answer is A or B", None),
        ("Answer: **A** and **C**", None),
        ("Answer: A/B", None),
        ("(A) or (B)", None),
        ("The answer is a matter of taste", None),
        ("Z", None),
        ("", None),
        ('{"answer": "B"}', "B"),
        ('{"answer": "B", "why": "it', None),
        ('{"worst": {"answer": "B"}, "be', None),
    ],
)
def test_choice(text: str, letter: str | None) -> None:
    assert Choice()(text) == letter


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": 1, "b": [1.0, null]}', '{"a":1,"b":[1,null]}'),
        ('```json\n{"b": 2,\n "a": 1}\n```', '{"a":1,"b":2}'),
        ('The invoice: {"a": 1}. Anything else?', '{"a":1}'),
        ('"text with {braces}"', '"text with {braces}"'),
        ("null", "null"),
        ("7.0", "7"),
        ("[1, 2]", "[1,2]"),
        ("no json here", None),
        ("{'a': 1}", None),
        ('{"a": {"b": 1}, "c', None),
        ("", None),
    ],
)
def test_json_value(text: str, value: str | None) -> None:
    assert json_value(text) == value


def test_numbers_within_the_tolerance_count_for_the_first_seen() -> None:
    key = LastNumber(tolerance=0.01)
    assert isinstance(key, Grouping)
    seen = [Decimal("1.00"), Decimal("1.015")]
    assert key.group(Decimal("1.01"), seen) == Decimal("1.00")
    assert key.group(Decimal("1.02"), seen) == Decimal("1.015")
    assert key.group(Decimal(2), seen) == Decimal(2)
    assert LastNumber().group(Decimal("1.0001"), seen) == Decimal("1.0001")
    assert key.group(Fraction(1, 3), [Decimal("0.33")]) == Decimal("0.33")
    assert key.group(Decimal("0.33"), [Fraction(1, 3)]) == Fraction(1, 3)


@pytest.mark.parametrize(
    "build",
    [
        lambda: Number(-1),
        lambda: Number(float("nan")),
        lambda: LastNumber(float("inf")),
        lambda: Choice(""),
        lambda: Choice("A-E"),
    ],
)
def test_settings_out_of_range_are_refused(build: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="must be"):
        build()


untyped_number: Any = LastNumber


@pytest.mark.parametrize("tolerance", [Decimal("0.01"), Fraction(1, 100), 0.01])
def test_a_tolerance_may_be_a_number_of_any_kind(tolerance: object) -> None:
    key = untyped_number(tolerance=tolerance)
    assert key.group(Decimal("1.005"), [Decimal(2), Decimal(1)]) == Decimal(1)


@pytest.mark.parametrize("tolerance", ["0.01", None, True])
def test_a_tolerance_of_another_type_is_refused(tolerance: object) -> None:
    with pytest.raises(TypeError, match="must be a number"):
        untyped_number(tolerance=tolerance)
