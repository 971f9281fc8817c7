"""Tests of a pipeline without a model or a network: `python -m pytest examples/test_without_network.py`."""

import pytest

from executionkit import (
    ConsensusFailedError,
    PermanentError,
    ProviderError,
    RetryConfig,
    ScriptedProvider,
    TokenUsage,
    complete,
    consensus,
    prompt,
)

vote = consensus(n=3, strategy="unanimous").with_input()
reply = prompt("Ticket: {0}\nQueue: {1}\nWrite the reply.") >> complete(system="You are the support team.")
pipeline = vote >> reply
"""What is tested."""


@pytest.mark.anyio
async def test_the_reply_is_told_the_queue() -> None:
    double = ScriptedProvider(["billing", "billing", "billing", "You get it back."])
    result = (await pipeline.run(double, "I paid twice.")).unwrap()
    assert result.value == "You get it back."
    assert double.requests[3].prompt == "Ticket: I paid twice.\nQueue: billing\nWrite the reply."


def test_it_takes_four_calls() -> None:
    result = pipeline.run_sync(ScriptedProvider("billing"), "I paid twice.", max_cost=TokenUsage(llm_calls=4))
    assert result.unwrap().cost.llm_calls == 4


def test_a_split_vote_writes_no_reply() -> None:
    double = ScriptedProvider(["billing", "sales", "billing"])
    error = pipeline.run_sync(double, "I paid twice.").failure()
    assert isinstance(error, ConsensusFailedError)
    assert error.metadata["failed_step"] == "Consensus"
    assert len(double.requests) == error.cost.llm_calls == 3


def test_a_busy_server_is_asked_again_without_a_pause() -> None:
    double = ScriptedProvider([ProviderError("503"), "billing", "billing", "billing", "Sorry."])
    outcome = pipeline.run_sync(double, "I paid twice.", retry=RetryConfig(base_delay=0.0))
    assert outcome.unwrap().cost.llm_calls == 5


def test_a_wrong_key_is_a_value() -> None:
    outcome = pipeline.run_sync(ScriptedProvider([PermanentError("no such key")]), "I paid twice.")
    assert outcome.failure().message == "no such key"
