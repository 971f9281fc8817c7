"""Stages as the tools of a server, for a client that is not ours."""

from typing import Any

import pytest

from tests.conftest import BARE

if BARE:
    pytest.importorskip("mcp")

from mcp import Client

from executionkit.core.usage import TokenUsage
from executionkit.mcp import mcp_server, mcp_tools
from executionkit.patterns.complete import complete
from executionkit.patterns.react import react
from tests.talking import Talking, calls, results

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]


async def test_a_foreign_client_calls_our_stage() -> None:
    server = mcp_server(
        Talking("four", RuntimeError("down")), {"ask": complete()}, descriptions={"ask": "Ask."}
    )
    async with Client(server) as client:
        (tool,) = (await client.list_tools()).tools
        assert (tool.name, tool.description) == ("ask", "Ask.")
        assert tool.input_schema["required"] == ["prompt"]
        answer = await client.call_tool("ask", {"prompt": "2 + 2?"})
        assert (answer.content[0].type, answer.is_error) == ("text", False)
        assert "four" in str(answer.content)
        failed = await client.call_tool("ask", {"prompt": "again"})
        assert failed.is_error
        assert "ProviderError" in str(failed.content)


async def test_a_budget_bounds_each_call() -> None:
    server = mcp_server(
        Talking("a", "b"), {"ask": complete() >> complete()}, max_cost=TokenUsage(llm_calls=1)
    )
    async with mcp_tools(server) as tools:
        provider = Talking(calls(("ask", {"prompt": "x"})), "done")
        await react(tools).run(provider, "go")
    assert "BudgetExhaustedError" in results(provider.asked[1])[0]


async def test_stages_to_serve_have_names() -> None:
    stages: Any = [complete()]
    with pytest.raises(TypeError, match=r"stages are a mapping, as \{'vote': consensus\(\)\}, not list"):
        mcp_server(Talking(), stages)
