"""What can be sent as a prompt."""

__all__ = ["prompt_problem"]


def prompt_problem(prompt: object) -> str | None:
    """Say what keeps a value from being a prompt; None where nothing does.

    >>> prompt_problem("   ")
    'the prompt is empty; give the model something to answer'
    >>> prompt_problem(7)
    'a prompt must be text, not int; put .map(str) or prompt(...) before the stage'
    """
    if not isinstance(prompt, str):
        kind = type(prompt).__name__
        return f"a prompt must be text, not {kind}; put .map(str) or prompt(...) before the stage"
    if not prompt.strip():
        return "the prompt is empty; give the model something to answer"
    return None
