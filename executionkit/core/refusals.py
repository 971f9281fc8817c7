"""Is a completion an answer, or did the model refuse, or a content filter cut in?"""

from typing import Final

from executionkit.core.encoding import json_text
from executionkit.core.endings import FILTERED, is_filtered

__all__ = ["noted_refusal", "refusal_in", "why_refused"]

_LONGEST_QUOTE: Final = 200


def refusal_in(finish_reason: object, said: object) -> str | None:
    """Return what a model or its content filter says in place of an answer; None where there is an answer.

    Args:
        finish_reason: Why the model stopped, under whatever name.
        said: The `refusal` of its message, as it came.

    Returns:
        The refusal's text, or `"content_filter"` where the filter cut in and nothing else is said.

    >>> refusal_in("stop", "I cannot help with that."), refusal_in("content_filter", None)
    ('I cannot help with that.', 'content_filter')
    >>> refusal_in("stop", None)
    """
    if said:
        return said if isinstance(said, str) else json_text(said)
    return FILTERED if is_filtered(finish_reason) else None


def noted_refusal(refusal: str | None, key: str = "refusal") -> dict[str, str]:
    """Return the metadata that tells of a refusal; empty where there is none.

    >>> noted_refusal("content_filter"), noted_refusal(None)
    ({'refusal': 'content_filter'}, {})
    """
    return {} if refusal is None else {key: refusal}


def why_refused(refusal: str) -> str:
    """Return why an answer is none, a clause about it; a long refusal is cut.

    >>> why_refused("I cannot help with that."), why_refused("content_filter")
    ("it is a refusal ('I cannot help with that.')", 'a content filter cut it off')
    """
    if refusal == FILTERED:
        return "a content filter cut it off"
    return f"it is a refusal ({refusal[:_LONGEST_QUOTE]!r})"
