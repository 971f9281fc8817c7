"""Records of the standard `logging` about retries, failovers, lessons and waits: levels, fields, nothing secret."""

import logging
from typing import Any

import pytest

from executionkit import TokenUsage, complete, consensus
from executionkit.errors import PermanentError, ProviderError, RateLimitError
from executionkit.providers.pool import Pool
from executionkit.runtime.calls import logs
from tests.doubles import AT_ONCE, Model, each, reply, result_of

pytestmark = pytest.mark.anyio
SECRET = "zebra"


class Named(Model):
    model = "gpt-x"
    server = "api.example.com"


def fields(record: logging.LogRecord) -> dict[str, Any]:
    standard = vars(logging.makeLogRecord({})).keys() | {"message", "taskName"}
    return {name: value for name, value in vars(record).items() if name not in standard}


def told(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == "executionkit.calls"]


async def test_a_retry_is_told(caplog: pytest.LogCaptureFixture) -> None:
    failure = RateLimitError(SECRET, metadata={"status": 429, "request_id": "r1"}, retry_after=0.0)
    with caplog.at_level(logging.INFO, "executionkit"):
        await complete().run(Named(each(failure, reply(SECRET))), SECRET, retry=AT_ONCE)
    [record] = told(caplog)
    assert record.levelno == logging.INFO
    assert record.getMessage() == (
        "attempt 1 at gpt-x at api.example.com failed with RateLimitError; the next follows in 0.00 s"
    )
    assert fields(record) == {
        "event": "retry",
        "path": "",
        "ordinal": 0,
        "attempt": 1,
        "delay": 0.0,
        "model": "gpt-x",
        "server": "api.example.com",
        "error": "RateLimitError",
        "status": 429,
        "request_id": "r1",
    }
    assert SECRET not in str(vars(record))


async def test_a_failover_is_told(caplog: pytest.LogCaptureFixture) -> None:
    pool = Pool([Named(each(ProviderError(SECRET, metadata={"status": 401}))), Named(each(reply(SECRET)))])
    with caplog.at_level(logging.INFO, "executionkit"):
        await complete().run(pool, SECRET, retry=AT_ONCE)
    [record] = told(caplog)
    assert record.getMessage() == (
        "attempt 1 at gpt-x at api.example.com failed with ProviderError; another provider is asked at once"
    )
    assert (fields(record)["event"], fields(record)["error"]) == ("failover", "ProviderError")


async def test_a_lesson_is_told_for_those_who_look_closely(caplog: pytest.LogCaptureFixture) -> None:
    refusal = PermanentError(
        "unsupported parameter: temperature", metadata={"status": 400, "param": "temperature"}
    )
    with caplog.at_level(logging.DEBUG, "executionkit"):
        await complete(temperature=0.5).run(Named(each(refusal, reply(SECRET))), SECRET, retry=AT_ONCE)
    [record] = told(caplog)
    assert record.levelno == logging.DEBUG
    assert (fields(record)["event"], fields(record)["learned"]) == ("lesson", ("takes_temperature",))


async def test_a_wait_for_the_budget_is_told(caplog: pytest.LogCaptureFixture) -> None:
    limit = TokenUsage(output_tokens=60)
    with caplog.at_level(logging.DEBUG, "executionkit"):
        await consensus(n=3, max_tokens=50).run(Named(), SECRET, max_cost=limit)
    waits = told(caplog)
    assert waits
    assert {fields(record)["reason"] for record in waits} == {"budget"}
    assert {record.levelno for record in waits} == {logging.DEBUG}


async def test_nothing_is_built_that_nobody_reads(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> dict[str, object]:
        raise AssertionError

    monkeypatch.setattr(logs, "_failed", never)
    monkeypatch.setattr(logs, "_at", never)
    with caplog.at_level(logging.WARNING, "executionkit"):
        outcome = await complete().run(
            Named(each(ProviderError(SECRET), reply(SECRET))), SECRET, retry=AT_ONCE
        )
    assert result_of(outcome).cost.llm_calls == 2
    assert not told(caplog)


async def test_without_logging_in_the_process_nothing_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.delitem(sys.modules, "logging")
    outcome = await complete().run(Named(each(ProviderError(SECRET), reply(SECRET))), SECRET, retry=AT_ONCE)
    assert result_of(outcome).cost.llm_calls == 2
    assert "logging" not in sys.modules
