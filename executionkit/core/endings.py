"""Why a model stopped, under the names that servers give it."""

from functools import lru_cache
from typing import Final

__all__ = ["FILTERED", "is_cut", "is_failed", "is_filtered"]

FILTERED: Final = "content_filter"
"""OpenAI's name for a content filter that cut in."""

_CUT: Final = frozenset(
    {"length", "max_tokens", "max_output_tokens", "max_completion_tokens", "max_length", "token_limit"}
    | {"model_length", "model_context_window_exceeded", "context_length", "context_length_exceeded"}
)
_FILTERED: Final = frozenset(
    {FILTERED, "content_filtered", "contentfilter", "guardrail_intervened", "moderation", "sensitive"}
    | {
        "safety",
        "image_safety",
        "blocked",
        "blocklist",
        "prohibited_content",
        "recitation",
        "spii",
        "refusal",
    }
)
_FAILED: Final = frozenset(
    {
        "error",
        "network_error",
        "server_error",
        "internal_error",
        "malformed_function_call",
        "abort",
        "aborted",
    }
    | {"insufficient_system_resource"}
)


def is_cut(finish_reason: object) -> bool:
    """Whether a text ended at the limit of its length, or of the context.

    >>> is_cut("length"), is_cut("MAX_TOKENS"), is_cut("stop"), is_cut(None)
    (True, True, False, False)
    """
    return _plain(finish_reason) in _CUT


def is_filtered(finish_reason: object) -> bool:
    """Whether a content filter cut in, or the model refused.

    >>> is_filtered("content_filter"), is_filtered("SAFETY"), is_filtered("stop")
    (True, True, False)
    """
    return _plain(finish_reason) in _FILTERED


def is_failed(finish_reason: object) -> bool:
    """Whether the server gave up in the middle: what is there then is a fragment.

    >>> is_failed("error"), is_failed("stop")
    (True, False)
    """
    return _plain(finish_reason) in _FAILED


def _plain(finish_reason: object) -> str:
    """Return a reason in small letters, without the prefix that Google's enumerations have."""
    return _folded(finish_reason) if isinstance(finish_reason, str) else ""


@lru_cache(maxsize=256)
def _folded(finish_reason: str) -> str:
    return finish_reason.strip().lower().replace("-", "_").removeprefix("finish_reason_")
