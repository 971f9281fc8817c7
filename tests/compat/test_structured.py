"""The facade's typed answer: the native stage's, raised instead of returned."""

import msgspec
import pytest

from executionkit import compat, structured_sync
from executionkit.compat import TokenUsage
from executionkit.errors import BudgetExhaustedError, InvalidOutputError
from tests.talking import Talking, filtered, refuses

pytestmark = pytest.mark.anyio


class Invoice(msgspec.Struct):
    number: str
    total: float


GOOD = '{"number": "2026-7", "total": 12.5}'
BAD = '{"number": 7, "total": 12.5}'
REASON = "Expected `str`, got `int` - at `$.number`"


async def test_an_answer_is_decoded() -> None:
    result = await compat.structured(Talking(GOOD), "Read this.", Invoice)
    assert (result.value, result.score) == (Invoice("2026-7", 12.5), None)
    assert result.cost == TokenUsage(10, 2, 1)
    assert (result.metadata["attempts"], result.metadata["reasons"]) == (1, ())


async def test_a_wrong_answer_is_repaired_within_max_retries() -> None:
    provider = Talking(BAD, GOOD)
    result = await compat.structured(provider, "Read this.", Invoice, output_retries=1)
    assert (result.value.number, result.cost.llm_calls) == ("2026-7", 2)
    assert REASON in provider.asked[1][-1]["content"]


async def test_an_answer_that_never_decodes_is_raised_with_its_cost() -> None:
    with pytest.raises(InvalidOutputError) as caught:
        await compat.structured(Talking(*[BAD] * 3), "Read this.", Invoice)
    error = caught.value
    assert error.cost == TokenUsage(30, 6, 3)
    assert (error.metadata["attempts"], error.metadata["last_text"]) == (3, BAD)
    assert [REASON in reason for reason in error.metadata["reasons"]] == [True] * 3


async def test_a_budget_ends_it_with_its_cost() -> None:
    with pytest.raises(BudgetExhaustedError) as caught:
        await compat.structured(Talking(BAD, GOOD), "?", Invoice, max_cost=TokenUsage(llm_calls=1))
    assert caught.value.cost.llm_calls == 1
    assert caught.value.metadata["last_text"] == BAD


async def test_a_type_that_cannot_be_decoded_is_refused_before_any_call() -> None:
    provider = Talking(GOOD)
    with pytest.raises(TypeError):
        await compat.structured(provider, "?", complex)
    with pytest.raises(ValueError, match="output_retries"):
        await compat.structured(provider, "?", Invoice, output_retries=-1)
    assert provider.asked == []


def test_the_twin_raises_too() -> None:
    assert structured_sync(Talking(GOOD), "?", Invoice).value == Invoice("2026-7", 12.5)
    with pytest.raises(InvalidOutputError) as caught:
        structured_sync(Talking(BAD), "?", Invoice, output_retries=0)
    assert caught.value.cost.llm_calls == 1


async def test_the_twin_refuses_a_running_event_loop() -> None:
    provider = Talking(GOOD)
    with pytest.raises(RuntimeError, match="structured_sync"):
        structured_sync(provider, "?", Invoice)
    assert provider.asked == []


async def test_a_refusal_is_raised_as_one() -> None:
    with pytest.raises(InvalidOutputError, match="content filter") as caught:
        await compat.structured(Talking(refuses(), filtered(GOOD)), "?", Invoice, output_retries=1)
    assert caught.value.metadata["refusal"] == "content_filter"
