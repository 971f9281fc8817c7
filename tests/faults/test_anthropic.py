"""Every kind of fault against `Anthropic`: what its table says of `Provider` holds for it as well.

The answers of the fault server are chat completions, so that here a sound one is no message, and an error like
the others. What it does to the exchange itself, and the errors that it sends, are the same for both.
"""

import pytest

from executionkit import Anthropic
from executionkit.core.usage import TokenUsage
from executionkit.errors import LLMError, ProviderError
from executionkit.provider import user
from tests.faults.kinds import FAULTS, HEAVY
from tests.faults.script import Fault
from tests.faults.server import FaultServer

KEY = "sk-ant-Secret/1+2=3"
PROMPT = [user("What is the capital of France?")]
QUICK = [fault for fault in FAULTS if fault.name not in HEAVY]

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("fault", QUICK, ids=[fault.name for fault in QUICK])
@pytest.mark.parametrize("streams", [False, True], ids=["whole", "streamed"])
async def test_a_fault_is_typed(fault: Fault, streams: bool, server: FaultServer) -> None:
    timeout = 0.3 if fault.slow else 20.0
    async with Anthropic("m", KEY, base_url=server.url(fault.name), timeout=timeout) as provider:
        with pytest.raises(LLMError) as caught:
            if streams:
                async with provider.stream(PROMPT) as pieces:
                    async for _ in pieces:
                        pass
            else:
                await provider.complete(PROMPT)
    error = caught.value
    assert type(error) is (fault.error or ProviderError), error
    assert error.cost.llm_calls == 1
    assert error.cost in {fault.usage + TokenUsage(llm_calls=1), TokenUsage(llm_calls=1)}
    assert KEY not in repr(error) + repr(error.metadata)
    if fault.error is not None:
        assert error.retry_after == fault.retry_after or fault.retry_after is None
