"""A typed answer, and a tool loop that hands over to one.

Runs without a model: the provider is scripted.
"""

import msgspec

from executionkit import Failure, ScriptedProvider, Success, ToolCall, react, structured, tool


class Invoice(msgspec.Struct):
    """What is read from a page."""

    number: str
    total: float


@tool
def scan(page: int) -> str:
    """Read a page."""
    return f"Page {page}: invoice 2026-7, total 12.50 EUR"


def main() -> None:
    """Scan with a tool, then decode; the first answer is wrong and is repaired."""
    provider = ScriptedProvider(
        [
            ToolCall("1", "scan", {"page": 1}),
            "Invoice 2026-7 over 12.50 EUR.",
            'Here it is: {"number": 20267, "total": 12.5}',
            '{"number": "2026-7", "total": 12.5}',
        ]
    )
    outcome = (react([scan]) >> structured(Invoice)).run_sync(provider, "What is on page 1?")
    match outcome:
        case Success(result):
            print(f"{result.value}, {result.cost.llm_calls} calls")
            print(f"repaired: {result.metadata['reasons'][0]}")
        case Failure(error):
            print(f"no invoice: {error}")


if __name__ == "__main__":
    main()
