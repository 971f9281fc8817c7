"""Ballots and polls: how texts become values, votes and an assembled answer."""

import datetime as dt
import itertools
import math
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple, TypedDict, TypeVar

import attrs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from executionkit.core.voting import keys
from executionkit.core.voting.ballots import Ballot, Cast, FieldBallot, TextBallot, ValueBallot
from executionkit.core.voting.polls import Poll
from executionkit.core.voting.samples import ByProbability, Choice, Sample, checked_weight, read_choices
from executionkit.core.voting.tally import fold
from executionkit.patterns.consensus.selection import parse_selection, selection_prompt


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class AStruct(msgspec.Struct, rename="camel", omit_defaults=True):
    first_name: str
    age: int = 0


@dataclass
class AClass:
    name: str
    tags: list[str]


class ADict(TypedDict, total=False):
    name: str
    age: int


class ATuple(NamedTuple):
    x: int


class WithMapping(msgspec.Struct):
    by_number: dict[int, int]


@pytest.mark.parametrize(
    ("output_type", "text", "value"),
    [
        (AStruct, 'So: {"firstName": "Ann", "age": 3}.', AStruct("Ann", 3)),
        (AClass, '```json\n{"name": "n", "tags": ["a"]}\n```', AClass("n", ["a"])),
        (ADict, '{"name": "n"}', {"name": "n"}),
        (int, " 42 ", 42),
        (Colour, "red", Colour.RED),
        (Colour, '"blue"', Colour.BLUE),
        (list, "[1, 2]", [1, 2]),
    ],
)
def test_values_are_read(output_type: type[object], text: str, value: object) -> None:
    cast = ValueBallot(output_type).cast(text)
    assert cast is not None
    assert cast.value == value


@pytest.mark.parametrize("text", ["", "no", '{"first_name": 1}', "[" * 100_000, "\ud800", '{"age": 3}'])
def test_what_can_not_be_read_abstains(text: str) -> None:
    assert ValueBallot(AStruct).cast(text) is None
    assert FieldBallot(AStruct).cast(text) is None


@given(st.text())
def test_casting_is_total(text: str) -> None:
    for ballot in (TextBallot(), TextBallot(len), TextBallot(int), ValueBallot(AStruct), FieldBallot(ADict)):
        cast: object = ballot.cast(text)
        assert cast is None or isinstance(cast, Cast)


def test_equal_values_vote_alike_however_they_are_written() -> None:
    ballot = ValueBallot(AStruct)
    one, other = ballot.cast('{"firstName": "Ann"}'), ballot.cast('{"age": 0, "firstName": "Ann"}')
    assert one == other


@dataclass
class WithDefaults:
    name: str
    age: int = 0
    tags: list[str] = field(default_factory=list[str])


@attrs.define(slots=False)
class InADict:
    name: str
    age: int = 0


class Holding(msgspec.Struct):
    held: list[WithDefaults | None]


@dataclass
class Above(WithDefaults):
    below: WithDefaults | None = None


@pytest.mark.parametrize(
    ("output_type", "texts"),
    [
        (WithDefaults, ['{"name": "a"}', '{"name": "a", "age": 0}', '{"tags": [], "age": 0.0, "name": "a"}']),
        (InADict, ['{"name": "a"}', '{"name": "a", "age": 0}', '{"age": 0, "name": "a"}']),
        (Above, ['{"name": "a", "below": {"name": "b"}}', '{"below": {"age": 0, "name": "b"}, "name": "a"}']),
        (Holding, ['{"held": [{"name": "a"}, null]}', '{"held": [{"age": 0, "name": "a"}, null]}']),
        (dict[str, tuple[InADict, ...]], ['{"x": [{"name": "a"}]}', '{"x": [{"age": 0, "name": "a"}]}']),
    ],
)
def test_a_default_that_was_left_out_votes_as_one_that_was_written(
    output_type: Any, texts: list[str]
) -> None:
    ballots: list[Ballot[Any]] = [ValueBallot(output_type)]
    if output_type in {WithDefaults, InADict}:
        ballots.append(FieldBallot(output_type))
    for ballot in ballots:
        poll = polled(ballot, texts)
        assert {verdict.votes for verdict in poll.verdicts()} == {len(texts)}
        assert poll.answer(poll.verdicts()) == ballot.read(texts[0])


@pytest.mark.parametrize(
    ("ballot", "one", "other"),
    [
        (ValueBallot(dict[int, str]), '{"1": "a", "2": "b"}', '{"2": "b", "1": "a"}'),
        (ValueBallot(dict[Colour, int]), '{"red": 1}', '{ "red": 1.0 }'),
        (ValueBallot(list[dict[dt.date, set[int]]]), '[{"2026-01-01": [2, 1]}]', '[{"2026-01-01": [1, 2]}]'),
        (ValueBallot(WithMapping), '{"by_number": {"1": 1, "2": 2}}', '{"by_number": {"2": 2, "1": 1}}'),
        (FieldBallot(WithMapping), '{"by_number": {"1": 1, "2": 2}}', '{"by_number": {"2": 2, "1": 1}}'),
    ],
)
def test_mappings_vote_whatever_their_keys_are(ballot: Ballot[Any], one: str, other: str) -> None:
    poll = polled(ballot, [one, other])
    assert [verdict.votes for verdict in poll.verdicts()] == [2]
    assert poll.answer(poll.verdicts()) == ballot.read(one)


def test_a_key_that_is_not_hashable_abstains() -> None:
    assert TextBallot(lambda text: [text]).cast("a") is None  # type: ignore[arg-type,return-value]  # pyright: ignore[reportArgumentType]


T = TypeVar("T")


def polled(ballot: Ballot[T], texts: Iterable[str]) -> Poll[T]:
    poll = Poll(ballot)
    for text in texts:
        poll.add(ballot.cast(text))
    return poll


def test_fields_are_named_as_json_has_them_and_may_be_absent() -> None:
    assert FieldBallot(AStruct).questions == ("firstName", "age")
    texts = ['{"firstName": "Ann"}', '{"firstName": "Bea", "age": 3}', '{"firstName": "Bea"}']
    poll = polled(FieldBallot(AStruct), texts)
    assert poll.answer(poll.verdicts()) == AStruct("Bea")
    assert poll.counts() == {"firstName": {"Ann": 1, "Bea": 2}, "age": {"": 2, "3": 1}}


def test_an_absent_key_of_a_typed_dict_can_win() -> None:
    poll = polled(FieldBallot(ADict), ['{"name": "a"}', '{"name": "a", "age": 1}', "{}"])
    assert poll.answer(poll.verdicts()) == {"name": "a"}


@pytest.mark.parametrize("output_type", [int, list, Colour])
def test_a_type_without_fields_can_not_vote_by_field(output_type: type[object]) -> None:
    with pytest.raises(TypeError, match="fields"):
        FieldBallot(output_type)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 2)), min_size=1, max_size=12))
def test_each_field_is_decided_as_if_it_were_voted_on_alone(answers: list[tuple[str, int]]) -> None:
    texts = [f'{{"firstName": "{name}", "age": {age}}}' for name, age in answers]
    poll = polled(FieldBallot(AStruct), texts)
    names = polled(TextBallot(), [name for name, _ in answers])
    ages = polled(TextBallot(), [str(age) for _, age in answers])
    winner = poll.answer(poll.verdicts())
    assert winner == AStruct(names.answer(names.verdicts()), int(ages.answer(ages.verdicts())))


class Nearby(msgspec.Struct, frozen=True):
    """Numbers one apart count together."""

    def __call__(self, text: str) -> int:
        return int(text)

    def group(self, vote: Hashable, seen: Iterable[Hashable]) -> Hashable:
        return next(
            (each for each in seen if isinstance(each, int) and abs(each - int(str(vote))) <= 1), vote
        )


def test_grouping_counts_votes_for_the_first_seen() -> None:
    poll = polled(TextBallot(Nearby()), ["5", "9", "6", "10", "4"])
    assert poll.counts() == {"5": 3, "9": 2}


# --- samples ---


@pytest.mark.parametrize(
    "key",
    [fold, keys.FinalAnswer(), keys.LastNumber(), keys.Choice("ABCD")],
    ids=["fold", "final", "last", "choice"],
)
def test_a_text_that_was_cut_off_abstains(key: Callable[[str], Hashable]) -> None:
    ballot = TextBallot(key)
    assert ballot.cast("The answer is 4") == ballot.cast("The answer is 4", was_cut=False)
    assert ballot.cast("The answer is 4", was_cut=True) is None


def test_choices_are_read_out_of_a_completion() -> None:
    raw = {
        "choices": [
            {"message": {"content": "ignored"}, "logprobs": {"content": [{"logprob": -0.5, "token": "a"}]}},
            {"message": {"content": None}, "finish_reason": "length"},
            {"message": {"content": "c", "role": "assistant"}, "logprobs": {"content": None}},
        ]
    }
    assert read_choices(Choice("a"), raw) == (Choice("a", (-0.5,)), Choice(""), Choice("c"))


ODD: list[object] = [
    None,
    "text",
    {},
    {"choices": None},
    {"choices": []},
    {"choices": [3]},
    {"choices": [{}]},
]


@pytest.mark.parametrize("raw", ODD)
def test_a_completion_of_another_shape_has_one_choice(raw: object) -> None:
    assert read_choices(Choice("a"), raw) == (Choice("a"),)


def test_weighing_by_probability() -> None:
    assert ByProbability()(Sample("a", "a")) == 1.0
    assert ByProbability()(Sample("a", "a", (0.0, 0.0))) == 1.0
    assert ByProbability()(Sample("a", "a", (-3.0, -700.0))) == pytest.approx(math.exp(-11.5))


@given(st.lists(st.floats(0, 1), max_size=12), st.randoms(use_true_random=False))
def test_sums_of_weights_do_not_depend_on_the_order(weights: list[float], random: object) -> None:
    checked = [checked_weight(weight) or 0.0 for weight in weights]
    assert sum(checked) == sum(reversed(checked)) == sum(sorted(checked))


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "Infinity", "1e999"])
def test_what_is_no_finite_number_abstains(text: str) -> None:
    assert ValueBallot(float).cast(text) is None


# --- selection ---


@pytest.mark.parametrize(
    ("reply", "picked"),
    [
        ("The most consistent response is Response 2", 1),
        ("response #3.", 2),
        ("**Response 1**", 0),
        ("2", 1),
        ("Response 4", None),
        ("Response 0", None),
        ("Response 1, not Response 2", None),
        ("all are fine", None),
        ("not 1", None),
        ("It isn't Response 2", None),
        ("The answer is not response 3", None),
        ("", None),
    ],
)
def test_a_selection_is_read(reply: str, picked: int | None) -> None:
    assert parse_selection(reply, 3) == picked


def test_a_selection_that_was_cut_in_its_number_is_none() -> None:
    assert parse_selection("Response 1", 12, was_cut=True) is None
    assert parse_selection("Response 1 says", 12, was_cut=True) == 0


@given(st.text(st.sampled_from("<>/ _response12"), max_size=60))
def test_no_answer_can_close_its_tags(text: str) -> None:
    prompt = selection_prompt("task", [text, "b"])
    assert prompt.count("<response_") == prompt.count("</response_") == 2


# --- what is whole ---


@pytest.mark.parametrize("text", ["", " \n", "<think>42", "<think>42</think>", "<thinking>4</thinking> "])
def test_a_sample_that_says_nothing_abstains(text: str) -> None:
    assert TextBallot().cast(text) is None
    assert TextBallot(lambda text: "all alike").cast(text) is None
    assert ValueBallot(str).cast(text) is None


def test_thoughts_do_not_vote() -> None:
    one, other = TextBallot().cast("<think>3? 4?</think>42"), TextBallot().cast(" 42")
    assert one is not None
    assert other is not None
    assert one.keys == other.keys
    assert one.value == "<think>3? 4?</think>42"


class Tree(msgspec.Struct):
    name: str
    children: "list[Tree]" = []


@pytest.mark.parametrize(
    "text",
    [
        '{"name":"root","children":[{"name":"kid"},{"na',
        '{"root":{"name":"kid"},"ok":true,}',
        '{"name":"a"} or',
    ],
)
def test_a_fragment_does_not_vote(text: str) -> None:
    for ballot in (ValueBallot(Tree), FieldBallot(Tree)):
        assert ballot.cast(text, was_cut=True) is None
    assert ValueBallot(str).cast(text, was_cut=True) is None
    assert ValueBallot(int).cast("42", was_cut=True) is None


class Odd:
    """A vote that raises where it is compared, hashed, named, or compared with None."""

    def __init__(self, raises: str) -> None:
        self.raises = raises

    def _may(self, what: str) -> None:
        if what in self.raises:
            raise RuntimeError(what)

    def __eq__(self, other: object) -> bool:
        self._may("eq")
        if other is None:
            self._may("none")
        return isinstance(other, Odd)

    def __hash__(self) -> int:
        self._may("hash")
        return 1

    def __str__(self) -> str:
        self._may("str")
        return "odd"

    def __repr__(self) -> str:
        self._may("repr")
        return "odd"


class Unstable(Odd):
    """A vote whose hash is another one each time it is asked, or raises after some times."""

    def __init__(self, hashes: Iterable[int]) -> None:
        super().__init__("")
        self.hashes = iter(hashes)

    def __hash__(self) -> int:
        return next(self.hashes)


@pytest.mark.parametrize(
    ("hashes", "votes"),
    [
        ([1] * 100, 3),
        (itertools.count(1), 2),
        ([1, 2] * 50, 2),
        ([1, 1, 2, 1] * 50, 2),
        ([1, 1, 1, 1, 1, 2, 3, 4], 3),
        ([2] * 100, 2),
        ([1], 2),
        ([1, 1], 2),
        ([1, 1, 1], 3),
    ],
    ids=lambda value: str(value)[:24],
)
def test_a_vote_whose_hash_changes_abstains_or_keeps_its_first(hashes: Iterable[int], votes: int) -> None:
    made: list[Hashable] = [Odd(""), Unstable(hashes), Odd("")]
    poll = polled(TextBallot(lambda text: made[int(text)]), ["0", "1", "2"])
    assert poll.counts() == {"odd": votes}
    assert poll.abstentions == 3 - votes
    assert poll.verdicts()[0].votes == votes
    assert poll.verdict_for(2) is not None


@pytest.mark.parametrize("raises", ["eq", "none", "hash", "str", "repr"])
def test_a_vote_that_raises_abstains_and_the_others_count(raises: str) -> None:
    votes: list[Hashable] = [Odd(""), Odd(raises), Odd(""), "a"]
    poll = polled(TextBallot(lambda text: votes[int(text)]), ["0", "1", "2", "3", "1"])
    assert poll.abstentions == 2
    assert poll.counts() == {"odd": 2, "a": 1}
    assert poll.answer(poll.verdicts()) == "0"
