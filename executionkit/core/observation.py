"""What a model gets to see of a tool call."""

__all__ = ["failed", "shortened"]


def failed(kind: str, hint: str = "") -> str:
    """Return the observation of a call that gave no result.

    >>> failed("TimeoutError"), failed("UnknownTool", "there is no tool named 'f'")
    ('Error: TimeoutError', "Error: UnknownTool: there is no tool named 'f'")
    """
    return f"Error: {kind}: {hint}" if hint else f"Error: {kind}"


def shortened(text: str, most: int) -> str:
    r"""Cut a text at `most` characters, with a marker that says how much is missing.

    >>> shortened("abcdefgh", 4), shortened("abc", 4)
    ('abcd\n[4 more characters cut]', 'abc')
    """
    if len(text) <= most:
        return text
    return f"{text[:most]}\n[{len(text) - most} more characters cut]"
