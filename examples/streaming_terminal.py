"""Watch a pipeline in a terminal: the answer as it comes, tools as they are called, text that is taken back.

Here a scripted model; give a `Provider` in its place.
"""

import asyncio

from executionkit import Failure, LLMResponse, Provider, ScriptedProvider, Success, ToolCall, react, tool
from executionkit.events import Answered, TextDelta, TextVoided, ToolFinished, ToolStarted

MODEL: Provider | ScriptedProvider = ScriptedProvider(
    [
        LLMResponse("Let me look.", (ToolCall("c1", "weather", {"city": "Paris"}),), "tool_calls"),
        "Take an umbrella: it rains in Paris.",
    ]
)


@tool
async def weather(city: str) -> str:
    """Say how the weather is in a city."""
    return f"rain in {city}"


async def main() -> None:
    """Print each event that a person would want to see."""
    async with react([weather]).stream(MODEL, "Umbrella today?", deadline=60) as run:
        async for event in run:
            match event:
                case TextDelta(text=text, is_answer=True, kind="text"):
                    print(text, end="", flush=True)
                case TextVoided(reason=reason):
                    print(f"  [not the answer: {reason}]")
                case ToolStarted(tool=name, arguments=arguments):
                    print(f"> {name} {arguments}")
                case ToolFinished(text=text):
                    print(f"< {text}")
                case Answered(Success(result)):
                    print(f"\n{result.cost.llm_calls} calls, {result.cost.output_tokens} tokens written")
                case Answered(Failure(error)):
                    print(f"\n{type(error).__name__}: {error}")
                case _:
                    pass


if __name__ == "__main__":
    asyncio.run(main())
