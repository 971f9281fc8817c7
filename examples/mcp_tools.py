"""MCP both ways: a pipeline served as a tool, and a server's tools in a loop.

Needs the extra `mcp`. Runs without a model, and with a server in the same process; give `mcp_tools` an
address or `StdioServerParameters` instead to speak to one outside.
"""

import anyio
from mcp import Client

from executionkit import Failure, ScriptedProvider, Success, TokenUsage, ToolCall, consensus, react
from executionkit.mcp import mcp_server, mcp_tools


async def main() -> None:
    """Serve a vote, call it with the official client, then let a model call it."""
    voters = ScriptedProvider("Paris")
    server = mcp_server(
        voters,
        {"vote": consensus(n=3)},
        descriptions={"vote": "Ask three times and return the answer given most often."},
        max_cost=TokenUsage(llm_calls=3),
    )
    async with Client(server) as client:
        answer = await client.call_tool("vote", {"prompt": "What is the capital of France?"})
        print(f"client: {answer.content[0].model_dump()['text']}, {len(voters.requests)} calls")

    model = ScriptedProvider(
        [ToolCall("1", "vote", {"prompt": "What is the capital of France?"}), "It is Paris."]
    )
    async with mcp_tools(server) as tools:
        print(f"tools:  {', '.join(tool.name for tool in tools)}")
        outcome = await react(tools).run(model, "Have the capital of France voted on.")
    match outcome:
        case Success(result):
            print(f"model:  {result.value} It saw {model.requests[1].prompt!r}.")
        case Failure(error):
            print(f"no answer: {error}")


if __name__ == "__main__":
    anyio.run(main)
