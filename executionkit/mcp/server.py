"""Stages as the tools of a server."""

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, cast

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError as ServedToolError
from returns.result import Failure, Success

from executionkit.core.usage import TokenUsage
from executionkit.provider import LLMProvider
from executionkit.stage import Stage
from executionkit.tools import ToolError, as_text

__all__ = ["mcp_server"]


def mcp_server(
    provider: LLMProvider,
    stages: Mapping[str, Stage[str, Any]],
    *,
    descriptions: Mapping[str, str] | None = None,
    name: str = "executionkit",
    max_cost: TokenUsage | None = None,
) -> Any:  # an `MCPServer`, which no checker knows where the SDK is not installed
    """Return an `MCPServer` with a tool for each stage, which takes a `prompt` and returns the value as text.

    `server.run()` serves standard input and output, `server.run("streamable-http")` HTTP. A failure is the
    tool's error, with its class and message.

    Args:
        provider: The model that the stages ask.
        stages: The stages by the name of their tool.
        descriptions: What to tell clients of each tool, by name.
        name: The server's name.
        max_cost: The budget of each call.

    Raises:
        TypeError: `stages` is no mapping.
    """
    if not isinstance(cast("object", stages), Mapping):
        raise TypeError(f"stages are a mapping, as {{'vote': consensus()}}, not {type(stages).__name__}")
    server: MCPServer = MCPServer(name)
    for tool_name, stage in stages.items():
        about = (descriptions or {}).get(tool_name, f"Run the stage {stage.name} on a prompt.")
        server.add_tool(
            _running(stage, provider, max_cost), name=tool_name, description=about, structured_output=False
        )
    return server


def _running(
    stage: Stage[str, Any], provider: LLMProvider, max_cost: TokenUsage | None
) -> Callable[[str], Coroutine[Any, Any, str]]:
    async def run(prompt: str) -> str:
        outcome = await stage.run(provider, prompt, max_cost=max_cost)
        match outcome:
            case Success(result):
                try:
                    return as_text(result.value)
                except ToolError as error:
                    raise ServedToolError(str(error)) from None
            case Failure(error):
                raise ServedToolError(f"{type(error).__name__}: {error}")

    return run
