"""Plain tools in threads: their results and failures come back, and they hold up nothing."""

import subprocess
import sys
from contextvars import ContextVar

import anyio.from_thread
import pytest

from executionkit import LLMResponse, ScriptedProvider, react, tool
from executionkit.provider import ToolCall
from tests.conftest import needs
from tests.doubles import result_of

ENDLESS = """
import time, anyio
from executionkit import LLMResponse, ScriptedProvider, react, tool
from executionkit.provider import ToolCall

@tool(timeout=0.05)
def stuck() -> str:
    "Never return."
    time.sleep(600)
    return "late"

calls = LLMResponse("", (ToolCall("id", "stuck", {{}}),))
async def main() -> None:
    print(await react([stuck]).run(ScriptedProvider([calls, "done"]), "q"))

anyio.run(main, backend="{library}")
"""


@pytest.mark.parametrize("library", ["asyncio", pytest.param("trio", marks=needs("trio"))])
def test_a_plain_tool_past_its_time_out_does_not_keep_the_process(library: str) -> None:
    script = ENDLESS.format(library=library)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "Success" in done.stdout


@pytest.mark.anyio
async def test_a_plain_tool_may_ask_the_event_loop_it_came_from() -> None:
    variable: ContextVar[str] = ContextVar("variable", default="")
    variable.set("seen")

    async def answer() -> str:
        return variable.get()

    @tool
    def asks() -> str:
        """Ask."""
        return anyio.from_thread.run(answer)

    model = ScriptedProvider([LLMResponse("", (ToolCall("id", "asks", {}),)), "done"])
    result_of(await react([asks]).run(model, "q"))
    assert model.requests[1].messages[-1]["content"] == "seen"


@pytest.mark.anyio
@pytest.mark.parametrize("kind", [ValueError, StopIteration])
async def test_what_a_plain_tool_raises_is_an_observation(kind: type[Exception]) -> None:
    @tool
    def fails() -> str:
        """Fail."""
        raise kind

    model = ScriptedProvider([LLMResponse("", (ToolCall("id", "fails", {}),)), "done"])
    assert result_of(await react([fails]).run(model, "q")).value == "done"
    assert "Error" in model.requests[1].messages[-1]["content"]
