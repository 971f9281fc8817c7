"""Tools from functions, an approval hook, and a typed answer at the end.

Runs without a model: the provider is scripted.
"""

import msgspec

from executionkit import Failure, ScriptedProvider, Success, ToolCall, react
from executionkit.approval import Approve, Decision, Deny, Proposal
from executionkit.tools import tool


class Receipt(msgspec.Struct):
    """What the loop answers with."""

    paid: float
    refused: int


@tool
async def pay(amount: float, to: str) -> str:
    """Pay somebody.

    Args:
        amount: How much, in euros.
        to: Whom.
    """
    return f"paid {amount} to {to}"


async def approve(proposal: Proposal) -> Decision:
    """Let small sums pass."""
    return Approve() if proposal.arguments["amount"] <= 100 else Deny("more than 100 euros")


def main() -> None:
    """Pay two bills, one of which is refused."""
    provider = ScriptedProvider(
        [
            ToolCall("1", "pay", {"amount": 40, "to": "Ann"}),
            ToolCall("2", "pay", {"amount": 4000, "to": "Bob"}),
            '{"paid": 40, "refused": 1}',
        ]
    )
    outcome = react([pay], output_type=Receipt, approve=approve).run_sync(provider, "Pay Ann and Bob.")
    match outcome:
        case Success(result):
            for message in result.metadata["transcript"]:
                if message["role"] == "tool":
                    print(message["content"])
            print(f"{result.value}, {result.cost.llm_calls} calls")
        case Failure(error):
            print(f"no receipt: {error}")


if __name__ == "__main__":
    main()
