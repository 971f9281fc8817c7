"""What can be sent as a prompt."""

__all__ = ["prompt_problem"]


def prompt_problem(prompt: object) -> str | None:
    """Say what keeps a value from being a prompt; None where nothing does.

    >>> prompt_problem("   ")
    'the prompt is empty; give the model something to answer'
    >>> prompt_problem(7)
    'a prompt must be text, not int; convert it with .map(str)'
    """
    if not isinstance(prompt, str):
        return f"a prompt must be text, not {type(prompt).__name__}; convert it with .map(str)"
    if not prompt.strip():
        return "the prompt is empty; give the model something to answer"
    return None
