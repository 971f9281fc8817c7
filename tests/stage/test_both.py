"""Two stages at once: what each did."""

import pytest

from executionkit.core.usage import TokenUsage
from executionkit.patterns.complete import complete
from executionkit.patterns.consensus import consensus
from tests.doubles import Model, result_of


@pytest.mark.anyio
async def test_both_say_what_each_did() -> None:
    result = result_of(await (consensus(n=2) & complete()).run(Model(), "x"))
    assert result.value == ("ok", "ok")
    assert result.metadata["branch_scores"] == (1.0, None)
    assert result.metadata["branch_costs"] == (TokenUsage(6, 4, 2), TokenUsage(3, 2, 1))
