"""A person has the last word: every call is approved, denied, edited, or ends the loop.

Runs without a model or a person: the provider and the answers are scripted. Replace `ask` by a real question.
"""

from executionkit import Failure, ScriptedProvider, Success, ToolCall, react
from executionkit.approval import Approve, Decision, Deny, Edit, Proposal, Stop
from executionkit.tools import tool


@tool
async def send(to: str, text: str) -> str:
    """Send a letter.

    Args:
        to: Whom.
        text: What it says.
    """
    return f"sent to {to}: {text}"


ANSWERS = {"Ann": "yes", "Bob": "no", "Cleo": "Dear Cleo, we are sorry.", "everybody": "stop"}


async def ask(question: str, name: str) -> str:
    """Ask the person at the desk, who may take any time."""
    print(question)
    return ANSWERS[name]


async def approve(proposal: Proposal) -> Decision:
    """Turn what the person says into a decision; whatever goes wrong in here denies the call."""
    to, text = proposal.arguments["to"], proposal.arguments["text"]
    answer = await ask(f"{proposal.name} {text!r} to {to}, after {proposal.cost.llm_calls} calls?", to)
    if answer == "yes":
        return Approve()
    if answer == "no":
        return Deny("not without a lawyer")
    if answer == "stop":
        return Stop("nobody writes to everybody")
    return Edit({"to": to, "text": answer})


def main() -> None:
    """Send three letters, and try to send a fourth."""
    names = list(ANSWERS)
    provider = ScriptedProvider(
        [ToolCall(name, "send", {"to": name, "text": f"Dear {name}, go away."}) for name in names]
    )
    outcome = react([send], approve=approve).run_sync(provider, "Answer the letters.")
    match outcome:
        case Success(result):
            print(result.value)
        case Failure(error):
            for message in error.metadata["transcript"]:
                if message["role"] == "tool":
                    print(message["content"])
            print(f"{type(error).__name__} after {error.cost.llm_calls} calls: {error}")


if __name__ == "__main__":
    main()
