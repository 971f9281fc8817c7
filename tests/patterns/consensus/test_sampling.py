"""Drawing samples: what servers refuse, what a budget leaves undone, what an error says was drawn."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from executionkit import (
    ConsensusFailedError,
    LLMResponse,
    PermanentError,
    ProviderError,
    RateLimitError,
    RetryConfig,
    TokenUsage,
    consensus,
)
from executionkit.core.voting.samples import ByProbability
from executionkit.core.voting.stopping import beta, certain, unanimous_window
from executionkit.errors import EvaluationError
from executionkit.providers.scripted import ScriptedProvider, ScriptedRequest
from tests.doubles import AT_ONCE, UNTOLD_ASYNC, Model, error_of, reply, result_of

pytestmark = pytest.mark.anyio


class Invoice(msgspec.Struct):
    number: str
    total: float


INVOICE = '{"number": "a", "total": 1}'


def choices(*texts: str) -> LLMResponse:
    raw = {"choices": [{"message": {"content": text}} for text in texts]}
    return LLMResponse(texts[0], usage={"prompt_tokens": 7, "completion_tokens": 3}, raw=raw)


def refusing(field: str, error: Exception, text: str = "a") -> Callable[[ScriptedRequest], LLMResponse]:
    """A server that sends `error` where a request has this field, and all that is asked for where not."""

    def answer(request: ScriptedRequest) -> LLMResponse:
        options = dict(request.options)
        if field in options:
            raise error
        return choices(*[text] * options.get("n", 1))

    return answer


# --- a quorum and a rule ---


@pytest.mark.parametrize("stop", [beta(), certain(), unanimous_window(3)])
async def test_a_rule_does_not_stop_before_the_quorum_is_there(stop: Any) -> None:
    model = ScriptedProvider(lambda asked: "a" if asked.index else PermanentError("gone"))
    result = result_of(await consensus(40, quorum=25, stop=stop).run(model, "?"))
    assert (result.value, result.metadata["samples"]) == ("a", 25)
    assert result.metadata["failures"] == ("PermanentError: gone",)


async def test_a_rule_stops_where_nothing_failed_and_the_quorum_is_there() -> None:
    result = result_of(await consensus(40, quorum=3, stop=beta()).run(ScriptedProvider("a"), "?"))
    assert result.metadata["samples"] == 4


# --- what is said of an error, and of what was not sent ---


@pytest.mark.parametrize("limit", [1, 2, 5])
async def test_an_error_counts_the_samples_of_its_own_round(limit: int) -> None:
    model = ScriptedProvider(["a", "b", "a", PermanentError("no"), "c"])
    error = error_of(await consensus(5, max_concurrency=limit).run(model, "?"))
    told = error.metadata
    assert sum(told["vote_counts"].values()) == len(told["votes"]) == told["samples"] >= 3
    assert told["saved"] == 5 - len(model.requests)


async def test_an_error_of_weigh_counts_all_that_was_drawn() -> None:
    def weigh(sample: object) -> float:
        raise KeyError("no weight")

    error = error_of(await consensus(3, weigh=weigh).run(ScriptedProvider(["a", "b", "a"]), "?"))
    assert isinstance(error, EvaluationError)
    assert error.metadata["vote_counts"] == {"a": 2, "b": 1}


@pytest.mark.parametrize("weigh", UNTOLD_ASYNC)
async def test_what_would_have_to_be_awaited_is_no_weight(weigh: Any) -> None:
    error = error_of(await consensus(3, weigh=weigh).run(ScriptedProvider("a"), "?"))
    assert isinstance(error, EvaluationError)
    assert "awaited" in str(error)


@pytest.mark.parametrize("quorum", [None, 3])
@pytest.mark.parametrize("limit", [1, 3, 9])
async def test_saved_are_the_samples_that_no_request_was_sent_for(quorum: int | None, limit: int) -> None:
    model = ScriptedProvider("a")
    vote = consensus(9, quorum=quorum, max_concurrency=limit)
    outcome = await vote.run(model, "?", max_cost=TokenUsage(llm_calls=4))
    told = error_of(outcome).metadata if quorum is None else result_of(outcome).metadata
    assert (told["samples"], told["saved"], len(model.requests)) == (4, 5, 4)


async def test_a_sample_cancelled_while_it_waits_for_room_was_not_sent() -> None:
    model = Model(lambda asked: PermanentError("no"), ticks=lambda asked: 5)
    outcome = await consensus(5, max_tokens=100).run(model, "?", max_cost=TokenUsage(output_tokens=200))
    assert error_of(outcome).metadata["saved"] == 5 - model.calls


async def test_retries_are_not_samples() -> None:
    model = Model(lambda asked: ProviderError("down") if asked.number % 2 else reply("a"))
    outcome = await consensus(9, quorum=2, max_concurrency=1).run(
        model, "?", retry=AT_ONCE, max_cost=TokenUsage(llm_calls=6)
    )
    assert result_of(outcome).metadata["saved"] == 6


# --- fields that a server refuses ---


@pytest.mark.parametrize("quorum", [None, 1])
async def test_one_sample_finds_out_which_form_a_server_takes(quorum: int | None) -> None:
    refusal = PermanentError("response_format is not supported", metadata={"status": 400})
    model = Model(
        lambda asked: refusal if "response_format" in asked.options else reply(INVOICE),
        ticks=lambda asked: 5,
    )
    result = result_of(await consensus(5, output_type=Invoice, quorum=quorum).run(model, "?"))
    assert (result.value, result.cost.llm_calls) == (Invoice("a", 1), 7)
    again = result_of(await consensus(5, output_type=Invoice).run(model, "?"))
    assert again.cost.llm_calls == 5


async def test_each_provider_s_form_is_found_out() -> None:
    refuser = Model(
        lambda asked: (
            PermanentError("unknown field response_format")
            if "response_format" in asked.options
            else reply(INVOICE)
        ),
        ticks=lambda asked: 5,
    )
    taker = Model(lambda asked: reply(INVOICE))
    vote = consensus(6, output_type=Invoice, providers=(refuser, taker))
    result_of(await vote.run(refuser, "?"))
    assert (refuser.calls, taker.calls) == (5, 3)


async def test_a_provider_that_says_what_it_takes_is_asked_for_all_at_once() -> None:
    class Declared(Model):
        response_formats = ("json_schema",)

    model = Declared(lambda asked: reply(INVOICE), ticks=lambda asked: 5)
    result_of(await consensus(4, output_type=Invoice).run(model, "?"))
    assert (model.calls, model.most_in_flight) == (4, 4)


async def test_one_request_finds_out_form_and_n_one_after_the_other() -> None:
    def answer(request: ScriptedRequest) -> LLMResponse:
        options = dict(request.options)
        if options.get("response_format", {}).get("type") == "json_schema":
            raise PermanentError("json_schema is not supported", metadata={"status": 400})
        if "n" in options:
            raise PermanentError("'n' must be 1", metadata={"status": 400})
        return choices(INVOICE)

    model = ScriptedProvider(answer)
    result_of(await consensus(5, output_type=Invoice, one_request=True).run(model, "?"))
    asked = [dict(request.options) for request in model.requests]
    assert [options.get("n") for options in asked] == [5, 5, None, None, None, None, None]
    assert {options["response_format"]["type"] for options in asked[1:]} == {"json_object"}


async def test_typed_samples_in_one_request() -> None:
    model = ScriptedProvider(lambda request: choices(*[INVOICE] * dict(request.options).get("n", 1)))
    result = result_of(await consensus(5, output_type=Invoice, one_request=True).run(model, "?"))
    assert (result.metadata["samples"], result.cost.llm_calls) == (5, 1)


@pytest.mark.parametrize("status", [400, 422, None])
async def test_log_probabilities_that_are_refused_are_done_without(status: int | None) -> None:
    refusal = PermanentError("no logprobs", metadata={} if status is None else {"status": status})
    model = ScriptedProvider(refusing("logprobs", refusal))
    vote = consensus(4, weigh=ByProbability())
    result = result_of(await vote.run(model, "?"))
    assert (result.metadata["weights"], result.cost.llm_calls) == ({"a": 4.0}, 5)
    assert result_of(await vote.run(model, "?")).cost.llm_calls == 4


async def test_another_failure_with_log_probabilities_is_one() -> None:
    model = ScriptedProvider(lambda request: PermanentError("key", metadata={"status": 401}))
    error = error_of(await consensus(4, weigh=ByProbability()).run(model, "?"))
    assert (str(error), error.cost.llm_calls) == ("key", 1)


@pytest.mark.parametrize("quorum", [None, 2])
async def test_a_server_that_refuses_n_with_a_5xx_is_asked_one_by_one(quorum: int | None) -> None:
    model = ScriptedProvider(refusing("n", ProviderError("one choice only", metadata={"status": 500})))
    vote = consensus(3, one_request=True, quorum=quorum)
    result = result_of(await vote.run(model, "?", retry=AT_ONCE))
    assert (result.value, result.cost.llm_calls) == ("a", 4)


@pytest.mark.parametrize("passing", [ProviderError("no answer"), RateLimitError("busy", retry_after=0.0)])
async def test_a_passing_failure_of_one_request_is_retried(passing: Exception) -> None:
    model = ScriptedProvider([passing, choices("a", "a", "b")])
    result = result_of(await consensus(3, one_request=True).run(model, "?", retry=AT_ONCE))
    assert (result.value, result.cost.llm_calls) == ("a", 2)


async def test_where_n_is_proven_a_5xx_is_a_passing_failure() -> None:
    broken = ProviderError("down", metadata={"status": 503})
    model = ScriptedProvider([choices(*"abcd"), broken, choices(*"aaaa")])
    vote = consensus(8, one_request=True, stop=unanimous_window(4), max_concurrency=4)
    result = result_of(await vote.run(model, "?", retry=RetryConfig(base_delay=0.0)))
    assert [dict(request.options).get("n") for request in model.requests] == [4, 2, 2]
    assert result.value == "a"


# --- weights ---


async def test_samples_that_all_weigh_nothing_have_a_message_of_their_own() -> None:
    error = error_of(await consensus(2, weigh=lambda sample: 0).run(ScriptedProvider("a"), "?"))
    assert isinstance(error, ConsensusFailedError)
    assert "weigh nothing" in str(error)
