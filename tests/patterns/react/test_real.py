"""The embedded model, told of a tool in JSON, does a sum with it."""

from typing import Any

import pytest

from executionkit import LLMResponse, LocalProvider, Message, react
from executionkit.tools import tool
from tests.conftest import needs

pytestmark = [pytest.mark.real, pytest.mark.timeout(180), needs("xllamacpp")]


class TextOnly:
    """A provider without tool calls, whatever its model can do."""

    def __init__(self, provider: LocalProvider) -> None:
        self.provider = provider

    async def complete(self, messages: list[Message], **options: Any) -> LLMResponse:
        return await self.provider.complete(messages, **options)


def test_a_sum_with_a_tool_on_the_embedded_model() -> None:
    seen: list[tuple[int, int]] = []

    @tool
    def add(left: int, right: int) -> int:
        """Add two whole numbers."""
        seen.append((left, right))
        return left + right

    loop = react([add], output_type=int, max_rounds=1, on_limit="answer", temperature=0.0, max_tokens=80)
    with LocalProvider(seed=1) as provider:
        result = loop.run_sync(TextOnly(provider), "What is 19 + 23? Use the tool add.").unwrap()
    assert seen == [(19, 23)]
    assert result.value == 42
    assert result.metadata["limit"] == "rounds"
    assert result.cost.llm_calls == 2
