"""The vote: rounds, rules, ballots, weights, judge, quorum, several providers, one-request rounds."""

import pickle
from collections.abc import Callable
from typing import Any, Literal, cast

import anyio
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from returns.result import Failure, Success

from executionkit import (
    BudgetExhaustedError,
    ConsensusFailedError,
    ExecutionKitError,
    LLMResponse,
    PatternResult,
    PermanentError,
    RetryConfig,
    TokenUsage,
    consensus,
)
from executionkit.core.voting.keys import Choice, LastNumber
from executionkit.core.voting.samples import ByProbability, Sample
from executionkit.core.voting.stopping import (
    Standing,
    StoppingRule,
    beta,
    certain,
    forecast,
    standing_of,
    unanimous_window,
)
from executionkit.core.voting.tally import tally_of
from executionkit.errors import EvaluationError
from executionkit.outcome import Outcome
from executionkit.patterns.consensus import Consensus
from executionkit.providers.scripted import ScriptedProvider, ScriptedRequest
from tests.doubles import UNTOLD_ASYNC, error_of, result_of
from tests.talking import Talking, cut

pytestmark = pytest.mark.anyio

NO_RETRY = RetryConfig(max_retries=0)
RULES: list[StoppingRule] = [certain(), beta(), forecast(), unanimous_window(3)]


class Invoice(msgspec.Struct):
    number: str
    total: float
    paid: bool = False


def won(outcome: Outcome[Any]) -> PatternResult[Any]:
    match outcome:
        case Success(result):
            return result
        case Failure(error):
            raise AssertionError(f"{error!r} {error.metadata}")


def lost(outcome: Outcome[Any]) -> ExecutionKitError:
    match outcome:
        case Success(result):
            raise AssertionError(result)
        case Failure(error):
            return error


def said(text: str, *others: str, logprob: float | None = None) -> LLMResponse:
    """A completion with several choices, as an endpoint sends it."""
    logprobs = None if logprob is None else {"content": [{"token": "x", "logprob": logprob}]}
    choices = [{"message": {"content": each}, "logprobs": logprobs} for each in (text, *others)]
    usage = {"prompt_tokens": 10, "completion_tokens": 5 * len(choices)}
    return LLMResponse(text, usage=usage, raw={"choices": choices})


# --- the plain vote ---


async def test_the_first_seen_original_text_of_the_most_votes_wins() -> None:
    double = ScriptedProvider(["Rome", " New\nYork ", "New York", "Rome", "New  York"])
    result = won(await consensus().run(double, "?"))
    assert result.value == " New\nYork "
    assert result.score == 0.6
    assert dict(result.metadata) == {
        "agreement_ratio": 0.6,
        "unique_responses": 2,
        "tie_count": 1,
        "vote_counts": {"Rome": 2, "New York": 3},
        "samples": 5,
        "saved": 0,
        "rounds": 1,
        "abstentions": 0,
        "stop_rule": "none",
        "stop_bound": 1.0,
    }
    assert {request.temperature for request in double.requests} == {0.9}
    assert {request.max_tokens for request in double.requests} == {4096}


async def test_what_was_cut_off_does_not_vote_and_is_told_of() -> None:
    result = result_of(await consensus(3).run(Talking(cut("Par"), cut("Par"), "Paris"), "?"))
    told = [result.metadata[name] for name in ("truncated_samples", "abstentions", "agreement_ratio")]
    assert (result.value, told) == ("Paris", [2, 2, 1 / 3])
    error = error_of(await consensus(2, max_tokens=9).run(Talking(cut("Par"), cut("Par")), "?"))
    assert isinstance(error, ConsensusFailedError)
    assert "2 of them were cut off at the limit of their length: raise max_tokens (9)" in str(error)


async def test_samples_vote_in_the_order_they_were_asked_for_not_in_which_they_came() -> None:
    async def slow_first(request: ScriptedRequest) -> str:
        await anyio.sleep(0.02 if request.index == 0 else 0)
        return "first" if request.index == 0 else "second"

    result = won(await consensus(2).run(ScriptedProvider(slow_first), "?"))
    assert (result.value, result.metadata["tie_count"]) == ("first", 2)


@pytest.mark.parametrize(("answers", "wins"), [(["a", " a "], True), (["a", "b"], False)])
async def test_unanimous(answers: list[str], wins: bool) -> None:
    outcome = await consensus(2, strategy="unanimous").run(ScriptedProvider(answers), "?")
    if wins:
        assert won(outcome).score == 1.0
    else:
        error = lost(outcome)
        assert isinstance(error, ConsensusFailedError)
        assert error.metadata["votes"] == ("a", "b")
        assert error.metadata["vote_counts"] == {"a": 1, "b": 1}
        assert error.cost.llm_calls == 2


async def test_the_first_failure_ends_the_vote_with_the_votes_so_far() -> None:
    double = ScriptedProvider(["a", "b", PermanentError("no"), "c"])
    error = lost(await consensus(4, max_concurrency=1).run(double, "?"))
    assert isinstance(error, PermanentError)
    assert error.metadata["votes"] == ("a", "b")
    assert error.cost.llm_calls == 3
    assert len(double.requests) == 3


# --- rules and rounds ---


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("limit", [2, 4, 40])
@settings(max_examples=25, deadline=None)
@given(answers=st.lists(st.sampled_from(["a", "a", "a", "b", "c", ""]), min_size=12, max_size=12))
async def test_rounds_make_the_calls_and_give_the_answer_of_one_at_a_time(
    rule: StoppingRule, limit: int, answers: list[str]
) -> None:
    def vote(concurrency: int) -> Consensus[str]:
        return consensus(12, stop=rule, key=lambda text: text or None, max_concurrency=concurrency)

    one, many = ScriptedProvider(answers), ScriptedProvider(answers)
    alone, together = await vote(1).run(one, "?"), await vote(limit).run(many, "?")
    assert len(one.requests) == len(many.requests)
    if isinstance(alone, Success):
        assert won(together).value == won(alone).value
        assert won(together).metadata["rounds"] <= won(alone).metadata["rounds"]
    else:
        assert lost(together).metadata["votes"] == lost(alone).metadata["votes"]


@pytest.mark.parametrize("rule", RULES, ids=repr)
async def test_a_vote_stops_at_the_first_standing_that_its_rule_accepts(rule: StoppingRule) -> None:
    answers = ["a", "b", "a", "a", "a", "a", "b", "a", "a", "a", "a", "a", "a", "a", "a"]
    double = ScriptedProvider(answers)
    result = won(await consensus(len(answers), stop=rule).run(double, "?"))
    drawn = next(
        count
        for count in range(1, len(answers) + 1)
        if rule.more(standing_of(tally_of(answers[:count]), len(answers))) == 0
    )
    assert result.metadata["samples"] == len(double.requests) == drawn
    assert result.metadata["saved"] == len(answers) - drawn
    assert result.metadata["stop_rule"] == repr(rule)
    assert result.metadata["stop_bound"] == rule.bound(standing_of(tally_of(answers[:drawn]), len(answers)))


async def test_a_round_is_as_large_as_the_rule_needs_at_the_least_and_nothing_is_in_flight_at_the_stop() -> (
    None
):
    in_flight, most = 0, 0

    async def counted(request: ScriptedRequest) -> str:
        nonlocal in_flight, most
        in_flight += 1
        most = max(most, in_flight)
        await anyio.sleep(0.005)
        in_flight -= 1
        return "a"

    result = won(await consensus(40, stop=beta(), max_concurrency=40).run(ScriptedProvider(counted), "?"))
    assert (result.metadata["samples"], result.metadata["rounds"], most, in_flight) == (4, 1, 4, 0)


async def test_a_unanimous_vote_with_certain_ends_at_the_first_difference() -> None:
    double = ScriptedProvider(["a", "a", "b", "a", "a", "a"])
    error = lost(await consensus(6, strategy="unanimous", stop=certain()).run(double, "?"))
    assert isinstance(error, ConsensusFailedError)
    assert (len(double.requests), error.metadata["saved"]) == (3, 3)
    agreed = consensus(6, strategy="unanimous", stop=certain())
    assert won(await agreed.run(ScriptedProvider("a"), "?")).metadata["samples"] == 6


class Hasty(msgspec.Struct, frozen=True):
    """A rule of a user's own: the first two votes that agree."""

    def more(self, standing: Standing) -> int:
        return 0 if standing.leader >= 2 else 1

    def bound(self, standing: Standing) -> float:
        return min(1.0, standing.leader / 2)


async def test_a_rule_of_one_s_own() -> None:
    result = won(await consensus(9, stop=Hasty()).run(ScriptedProvider(["a", "b", "b", "c"]), "?"))
    assert (result.value, result.metadata["samples"]) == ("b", 3)


class Foolish(msgspec.Struct, frozen=True):
    """A rule that asks for nonsense."""

    answer: int

    def more(self, standing: Standing) -> int:
        return self.answer

    def bound(self, standing: Standing) -> float:
        return 0.0


@pytest.mark.parametrize(("answer", "samples"), [(-7, 1), (0, 1), (10**9, 5)])
async def test_a_rule_s_nonsense_is_bounded(answer: int, samples: int) -> None:
    result = won(await consensus(5, stop=Foolish(answer)).run(ScriptedProvider("a"), "?"))
    assert result.metadata["samples"] == samples


class Broken(msgspec.Struct, frozen=True):
    """A rule whose methods raise, or give what is no number of samples."""

    wanted: Callable[[int], Any]
    figure: Any = 0.0

    def more(self, standing: Standing) -> int:
        return cast("int", self.wanted(standing.samples))

    def bound(self, standing: Standing) -> float:
        return float(self.figure)


@pytest.mark.parametrize(
    ("rule", "said", "calls"),
    [
        (Broken({0: 1}.__getitem__), "the stopping rule raised KeyError: 1", 1),
        (Broken(lambda _: 1.5), "the stopping rule raised TypeError", 0),
        (Broken(lambda _: 0, "x"), "the stopping rule raised ValueError", 1),
    ],
)
async def test_an_error_of_a_rule_says_whose_it_is(rule: StoppingRule, said: str, calls: int) -> None:
    error = lost(await consensus(5, stop=rule).run(ScriptedProvider("a"), "?"))
    assert isinstance(error, EvaluationError)
    assert said in error.message
    assert error.cost.llm_calls == calls
    assert error.metadata["samples"] == calls


# --- keys and values ---


async def test_a_key_that_fails_or_says_nothing_abstains() -> None:
    def key(text: str) -> int | None:
        return None if text == "-" else int(text)

    double = ScriptedProvider(["x", "7", "-", "07", "8"])
    result = won(await consensus(key=key).run(double, "?"))
    assert (result.value, result.score) == ("7", 0.4)
    assert result.metadata["abstentions"] == 2
    assert result.metadata["vote_counts"] == {"7": 2, "8": 1}


async def test_nobody_votes() -> None:
    error = lost(await consensus(3, key=int, stop=beta()).run(ScriptedProvider("x"), "?"))
    assert isinstance(error, ConsensusFailedError)
    assert (error.metadata["abstentions"], error.cost.llm_calls) == (3, 3)
    assert "key" in str(error)


@pytest.mark.parametrize("key", UNTOLD_ASYNC)
@pytest.mark.parametrize("output_type", [None, int])
async def test_what_would_have_to_be_awaited_is_no_key(key: Any, output_type: Any) -> None:
    error = lost(await consensus(3, key=key, output_type=output_type).run(ScriptedProvider("4"), "?"))
    assert isinstance(error, ConsensusFailedError)
    assert error.metadata["abstentions"] == 3


async def test_numbers_within_a_tolerance_vote_together() -> None:
    double = ScriptedProvider(["It is 3.14.", "about 2", "3.1416", "3.149"])
    result = won(await consensus(4, key=LastNumber(tolerance=0.01)).run(double, "?"))
    assert (result.value, result.metadata["vote_counts"]) == ("It is 3.14.", {"3.14": 3, "2": 1})


async def test_into_votes_on_a_value() -> None:
    double = ScriptedProvider(
        [
            '{"number": "A1", "total": 12.5}',
            "not json",
            'Here:\n```json\n{"total": 12.50, "number": "A1", "paid": false}\n```',
            '{"number": "A2", "total": 12.5}',
            '{"number": "A1", "total": "a lot"}',
        ]
    )
    result = won(await consensus(output_type=Invoice).run(double, "Read this."))
    assert result.value == Invoice("A1", 12.5)
    assert (result.score, result.metadata["abstentions"]) == (0.4, 2)
    assert double.requests[0].prompt.startswith("Read this.\n\n")
    assert '"total"' in double.requests[0].prompt


async def test_into_with_a_key_of_the_value() -> None:
    double = ScriptedProvider(['{"number": "a1", "total": 1}', '{"number": "A1", "total": 2}'])
    vote = consensus(2, output_type=Invoice, key=lambda invoice: invoice.number.upper())
    assert won(await vote.run(double, "?")).score == 1.0


async def test_fields_vote_each_for_itself_and_the_winner_is_assembled() -> None:
    double = ScriptedProvider(
        [
            '{"number": "A1", "total": 10, "paid": true}',
            '{"number": "A1", "total": 12, "paid": false}',
            '{"number": "B7", "total": 12, "paid": true}',
            "nothing",
        ]
    )
    result = won(await consensus(4, output_type=Invoice, by_field=True).run(double, "?"))
    assert result.value == Invoice("A1", 12.0, True)
    assert result.metadata["field_agreement"] == {"number": 0.5, "total": 0.5, "paid": 0.5}
    assert result.metadata["vote_counts"]["total"] == {"10.0": 1, "12.0": 2}
    assert result.metadata["vote_counts"]["number"] == {"A1": 2, "B7": 1}
    assert (result.score, result.metadata["unique_responses"]) == (0.5, 3)


async def test_an_answer_of_a_type_is_called_by_its_text() -> None:
    queues = ScriptedProvider(["billing", '"billing"', "delivery"])
    result = won(await consensus(3, output_type=Literal["billing", "delivery"]).run(queues, "?"))
    assert result.metadata["vote_counts"] == {"billing": 2, "delivery": 1}

    mixed = ScriptedProvider(['{"answer": 1}', '{"answer": "1"}', '{"answer": 1}', '{"answer": [1]}'])
    either = consensus(4, output_type=int | str | list[int])
    counts = won(await either.run(mixed, "?")).metadata["vote_counts"]
    assert counts == {"str '1'": 2, "str '\"1\"'": 1, "[1]": 1}  # two of one text are told apart


async def test_a_vote_by_field_stops_when_every_field_may_stop() -> None:
    answers = ['{"number": "A1", "total": 1}'] * 2 + ['{"number": "A1", "total": 2}'] * 3
    result = won(
        await consensus(5, output_type=Invoice, by_field=True, stop=certain()).run(
            ScriptedProvider(answers), "?"
        )
    )
    assert (result.value, result.metadata["samples"]) == (Invoice("A1", 2), 5)
    agreed = ScriptedProvider(answers[:1] * 5)
    assert (
        won(await consensus(5, output_type=Invoice, by_field=True, stop=certain()).run(agreed, "?")).metadata[
            "samples"
        ]
        == 3
    )


class Range(msgspec.Struct):
    low: int
    high: int

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError("low must not be above high")


async def test_fields_that_do_not_fit_together_are_no_answer() -> None:
    answers = [
        '{"low": 5, "high": 6}',
        '{"low": 5, "high": 9}',
        '{"low": 1, "high": 2}',
        '{"low": 0, "high": 2}',
    ]
    error = lost(await consensus(4, output_type=Range, by_field=True).run(ScriptedProvider(answers), "?"))
    assert isinstance(error, ConsensusFailedError)
    assert error.metadata["votes"] == tuple(answers)
    assert error.cost.llm_calls == 4


# --- weights and the judge ---


async def test_weights() -> None:
    def weigh(sample: Sample[str]) -> float:
        return {"a": 0.25, "b": 1.0, "c": 0.0}[sample.text]

    double = ScriptedProvider(["a", "b", "a", "a", "c"])
    result = won(await consensus(weigh=weigh).run(double, "?"))
    assert (result.value, result.score) == ("b", 0.2)
    assert result.metadata["weights"] == {"a": 0.75, "b": 1.0}
    assert result.metadata["vote_counts"] == {"a": 3, "b": 1}
    assert result.metadata["abstentions"] == 1


async def test_weights_by_log_probabilities_are_asked_for() -> None:
    double = ScriptedProvider([said("a", logprob=-2.0), said("a", logprob=-2.0), said("b", logprob=-0.1)])
    result = won(await consensus(3, weigh=ByProbability()).run(double, "?"))
    assert result.value == "b"
    assert all(request.options == {"logprobs": True} for request in double.requests)


@pytest.mark.parametrize("weight", [1.5, -0.1, float("nan"), None, "1", True])
async def test_a_weight_that_is_none_ends_the_vote(weight: Any) -> None:
    error = lost(await consensus(2, weigh=lambda _: weight).run(ScriptedProvider("a"), "?"))
    assert isinstance(error, EvaluationError)
    assert (error.cost.llm_calls, error.metadata["votes"]) == (2, ("a", "a"))


async def test_weigh_that_raises_is_wrapped() -> None:
    def weigh(sample: Sample[str]) -> float:
        raise KeyError(sample.text)

    error = lost(await consensus(2, weigh=weigh).run(ScriptedProvider("a"), "?"))
    assert isinstance(error, EvaluationError)
    assert isinstance(error.__cause__, KeyError)


# --- quorum, providers, one request ---


async def test_a_quorum_answers_without_the_samples_that_failed() -> None:
    double = ScriptedProvider(["a", PermanentError("gone"), "a", PermanentError("gone"), "b"])
    result = won(await consensus(quorum=3).run(double, "?"))
    assert (result.value, result.score) == ("a", 2 / 3)
    assert result.metadata["failures"] == ("PermanentError: gone", "PermanentError: gone")
    assert (result.metadata["samples"], result.cost.llm_calls) == (3, 5)


async def test_a_quorum_that_can_not_be_had_ends_the_vote() -> None:
    double = ScriptedProvider(lambda request: PermanentError("gone") if request.index else "a")
    error = lost(await consensus(10, quorum=8, max_concurrency=1).run(double, "?"))
    assert isinstance(error, PermanentError)
    assert len(double.requests) == 4
    assert error.cost.llm_calls == 4
    assert (error.metadata["votes"], len(error.metadata["failures"])) == (("a",), 3)


@pytest.mark.parametrize("stop", [None, certain()])
async def test_a_budget_that_ends_with_a_quorum_in_hand_is_an_answer(stop: StoppingRule | None) -> None:
    double = ScriptedProvider(["a", "b", "a", "a"])
    outcome = await consensus(9, quorum=3, stop=stop).run(double, "?", max_cost=TokenUsage(llm_calls=4))
    result = won(outcome)
    assert (result.value, result.metadata["samples"], result.cost.llm_calls) == ("a", 4, 4)
    assert all("BudgetExhausted" in failure for failure in result.metadata["failures"])


async def test_a_budget_that_ends_without_a_quorum_is_an_error() -> None:
    outcome = await consensus(9, quorum=5).run(ScriptedProvider("a"), "?", max_cost=TokenUsage(llm_calls=4))
    error = lost(outcome)
    assert isinstance(error, BudgetExhaustedError)
    assert error.metadata["votes"] == ("a",) * 4
    without = await consensus(9).run(ScriptedProvider("a"), "?", max_cost=TokenUsage(llm_calls=4))
    assert isinstance(lost(without), BudgetExhaustedError)


async def test_failures_count_for_the_rule_as_samples_that_can_not_come() -> None:
    double = ScriptedProvider([PermanentError("gone"), "a", "a", "b", "b"])
    vote = consensus(5, quorum=2, stop=certain(), max_concurrency=1)
    result = won(await vote.run(double, "?"))
    assert (result.value, result.metadata["samples"]) == ("a", 2)  # two of four at the most, and seen first


async def test_samples_are_spread_over_providers_and_each_has_its_cost() -> None:
    doubles = tuple(ScriptedProvider(name) for name in "abc")
    run_s = ScriptedProvider("never asked")
    result = won(await consensus(7, providers=doubles).run(run_s, "?"))
    assert [len(double.requests) for double in doubles] == [3, 2, 2]
    assert not run_s.requests
    costs = result.metadata["provider_costs"]
    assert [cost.llm_calls for cost in costs] == [3, 2, 2]
    assert sum(costs, TokenUsage()) == result.cost
    assert result.value == "a"


async def test_one_request_a_round() -> None:
    double = ScriptedProvider([said("a", "b", "a", "a"), said("a", "a", "a")])
    result = won(await consensus(40, stop=beta(), one_request=True).run(double, "?"))
    assert [request.options for request in double.requests] == [{"n": 4}, {"n": 3}]
    assert result.metadata["vote_counts"] == {"a": 6, "b": 1}
    assert result.cost == TokenUsage(20, 35, 2)


async def test_a_server_that_ignores_n_is_asked_one_by_one() -> None:
    double = ScriptedProvider(lambda request: said("a"))
    result = won(await consensus(6, one_request=True, stop=certain()).run(double, "?"))
    assert [request.options.get("n") for request in double.requests] == [3, None, None]
    assert (result.metadata["samples"], result.cost.llm_calls) == (3, 3)


async def test_a_server_that_refuses_n_is_asked_one_by_one() -> None:
    def refusing(request: ScriptedRequest) -> LLMResponse | Exception:
        return PermanentError("n must be 1") if "n" in request.options else said("a")

    double = ScriptedProvider(refusing)
    result = won(
        await consensus(8, one_request=True, stop=unanimous_window(2), max_concurrency=2).run(double, "?")
    )
    assert [request.options.get("n") for request in double.requests] == [2, None, None]
    assert (result.metadata["samples"], result.cost.llm_calls) == (2, 3)


async def test_one_request_a_round_is_not_made_where_a_budget_bounds_output() -> None:
    double = ScriptedProvider("a")
    budget = TokenUsage(output_tokens=1000)
    won(await consensus(3, one_request=True, max_tokens=100).run(double, "?", max_cost=budget))
    assert all("n" not in request.options for request in double.requests)


async def test_other_failures_of_one_request_end_the_vote() -> None:
    double = ScriptedProvider([TimeoutError("slow")])
    error = lost(await consensus(3, one_request=True).run(double, "?", retry=NO_RETRY))
    assert "slow" in str(error)


async def test_one_request_a_round_and_provider() -> None:
    doubles = tuple(
        ScriptedProvider(lambda request: said(*"ab"[: request.options.get("n", 1)])) for _ in "xy"
    )
    result = won(await consensus(4, providers=doubles, one_request=True).run(doubles[0], "?"))
    assert result.metadata["vote_counts"] == {"a": 2, "b": 2}
    assert result.cost.llm_calls == 2


# --- values and settings ---


def test_votes_are_values() -> None:
    vote = consensus(40, stop=beta(), key=Choice(), quorum=3)
    assert vote == consensus(40, stop=beta(), key=Choice(), quorum=3)
    assert hash(vote) == hash(pickle.loads(pickle.dumps(vote)))
    assert "stop=Beta(confidence=0.95)" in repr(vote)
    assert consensus(output_type=Invoice) != consensus(output_type=Invoice, by_field=True)


untyped: Any = consensus


async def async_key(text: str) -> str:
    return text


class AsyncKey:
    async def __call__(self, text: str) -> str:
        return text


WRONG: list[tuple[Callable[[], object], type[Exception]]] = [
    (lambda: consensus(0), ValueError),
    (lambda: consensus(True), TypeError),
    (lambda: consensus(max_concurrency=0), ValueError),
    (lambda: untyped(strategy="plurality"), ValueError),
    (lambda: consensus(quorum=6), ValueError),
    (lambda: consensus(quorum=0), ValueError),
    (lambda: untyped(stop=certain), TypeError),
    (lambda: consensus(strategy="unanimous", stop=beta()), ValueError),
    (lambda: consensus(weigh=ByProbability(), stop=beta()), ValueError),
    (lambda: consensus(output_type=int, by_field=True), TypeError),
    (lambda: consensus(output_type=Invoice, by_field=True, key=str), ValueError),
    (lambda: untyped(key="text"), TypeError),
    (lambda: untyped(providers=(object(),)), TypeError),
    (lambda: consensus(output_type=object), TypeError),
    (lambda: untyped(output_type=Invoice, by_field=1), TypeError),
    (lambda: untyped(weigh=3), TypeError),
    (lambda: untyped(one_request="yes"), TypeError),
    (lambda: untyped(key=async_key), TypeError),
    (lambda: untyped(key=AsyncKey()), TypeError),
    (lambda: untyped(weigh=async_key), TypeError),
]


@pytest.mark.parametrize(("build", "error"), WRONG)
def test_wrong_settings_fail_when_the_stage_is_built(
    build: Callable[[], object], error: type[Exception]
) -> None:
    with pytest.raises(error):
        build()


async def test_a_refusal_costs_a_call_and_does_not_vote() -> None:
    refused = LLMResponse("", finish_reason="stop", extra={"refusal": "I cannot help with that."})
    filtered = LLMResponse("I", finish_reason="content_filter")
    model = ScriptedProvider([refused, filtered, "yes", refused, filtered])
    result = won(await consensus(5).run(model, "Is it?"))
    assert (result.value, result.metadata["abstentions"], result.cost.llm_calls) == ("yes", 4, 5)


async def test_a_refusal_among_the_choices_of_one_request_does_not_vote() -> None:
    choices = [
        {"message": {"content": "no"}, "finish_reason": "stop"},
        {"message": {"content": None, "refusal": "No."}, "finish_reason": "stop"},
        {"message": {"content": "yes"}, "finish_reason": "content_filter"},
    ]
    model = ScriptedProvider([LLMResponse("no", raw={"choices": choices})])
    result = won(await consensus(3, one_request=True).run(model, "Is it?"))
    assert (result.value, result.metadata["abstentions"], result.cost.llm_calls) == ("no", 2, 1)


async def test_typed_samples_are_asked_for_in_the_strongest_form_that_the_server_takes() -> None:
    def answer(request: ScriptedRequest) -> str:
        asked = dict(request.options).get("response_format", {})
        if asked.get("type") == "json_schema":
            raise PermanentError("no json_schema here", metadata={"status": 400})
        return '{"number": "7", "total": 3.5}'

    model = ScriptedProvider(answer)
    result = won(await consensus(3, output_type=Invoice, max_concurrency=1).run(model, "Read it."))
    forms = [dict(request.options)["response_format"]["type"] for request in model.requests]
    assert result.value == Invoice("7", 3.5)
    assert forms == ["json_schema", "json_object", "json_object", "json_object"]
    assert result.cost.llm_calls == 4
