"""Why a model stopped, under the names that servers give it.

A name that is not known is taken by its words: what says that it failed is no answer, whoever made it up.
"""

import re
from functools import lru_cache
from typing import Final, Literal, TypeAlias

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


_Kind: TypeAlias = Literal["cut", "filtered", "failed", ""]
_WORDS: Final[tuple[tuple[_Kind, re.Pattern[str]], ...]] = (
    (
        "failed",
        re.compile(
            r"error|fail|time_?d?_?out|abort|cancel|overload|unavailable|interrupt|malformed|unexpected|quota|rate_limit"
        ),
    ),
    (
        "filtered",
        re.compile(r"filter|safety|block|moderat|guardrail|prohibit|refus|sensitive|policy|language"),
    ),
    ("cut", re.compile(r"length|limit|max_|truncat|incomplete|exceed|pause_turn")),
)
"""What names that are not known are told by, in this order."""


def is_cut(finish_reason: object) -> bool:
    """Whether a text ended at the limit of its length, or of the context.

    >>> is_cut("length"), is_cut("MAX_TOKENS"), is_cut("stop"), is_cut(None)
    (True, True, False, False)
    """
    return isinstance(finish_reason, str) and _kind(finish_reason) == "cut"


def is_filtered(finish_reason: object) -> bool:
    """Whether a content filter cut in, or the model refused.

    >>> is_filtered("content_filter"), is_filtered("SAFETY"), is_filtered("stop")
    (True, True, False)
    """
    return isinstance(finish_reason, str) and _kind(finish_reason) == "filtered"


def is_failed(finish_reason: object) -> bool:
    """Whether the server gave up in the middle: what is there then is a fragment.

    >>> is_failed("error"), is_failed("stop")
    (True, False)
    """
    return isinstance(finish_reason, str) and _kind(finish_reason) == "failed"


@lru_cache(maxsize=256)
def _kind(finish_reason: str) -> _Kind:
    """Tell a reason by its name: in small letters, without the prefix that Google's enumerations have."""
    name = re.sub(r"[\s-]+", "_", finish_reason.strip().lower()).removeprefix("finish_reason_")
    known: tuple[tuple[_Kind, frozenset[str]], ...] = (
        ("cut", _CUT),
        ("filtered", _FILTERED),
        ("failed", _FAILED),
    )
    for kind, names in known:
        if name in names:
            return kind
    for kind, words in _WORDS:
        if words.search(name):
            return kind
    return ""
