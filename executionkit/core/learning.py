"""What a server's refusal says of it: a dialect learned from the words of a 400 or 422. Pure."""

import re
from collections.abc import Iterable
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from executionkit.core.dialect import OUTPUT_LIMITS, REASONING_FIELDS, Dialect, OutputLimit, Request

__all__ = ["Refusal", "learn", "names_another_cause", "optional_fields", "without_last_option"]


class Refusal(msgspec.Struct, frozen=True):
    """What a server said when it did not take a request.

    Args:
        text: Its words.
        field: The field that it named in a place of its own (`param`), where it did.
        code: The code that it gave, where it did.
    """

    text: str
    field: str = ""
    code: str = ""

    def names(self, *fields: str) -> bool:
        """Tell whether it says that one of these fields (regular expressions) is not taken."""
        # `body.temperature` is the field itself, `messages.0.temperature` is none of ours.
        pattern = rf"(?:(?<![\w.])|(?<=\bbody\.))({'|'.join(fields)})(?!\w)"
        if self.field and re.search(pattern, self.field, re.IGNORECASE):
            return True
        if re.search(rf"\bno {pattern}", self.text, re.IGNORECASE):
            return True
        return bool(re.search(pattern, self.text, re.IGNORECASE) and _NOT_TAKEN.search(self.text))


_NOT_TAKEN: Final = re.compile(
    r"unsupported|unavailable|unrecogni[sz]ed|unknown|unexpected|invalid|extra (inputs|fields)|forbidden"
    r"|deprecated|no endpoints"
    r"|(not|n't) (\w+ )?(support|allow|permit|implement|recogni[sz]|availab|enabled|valid|compatible)"
    r"|must be 1\b|only .{0,24}(support|allow|accept|default)|instead|incompatible|no such"
    r"|can ?not (use|be)|required|missing|must be (one of|passed|a string|json|')|disabled|ignored",
    re.IGNORECASE,
)
_ANOTHER_CAUSE: Final = re.compile(
    r"context.{0,12}(length|window|size)|maximum context|too many (input )?tokens"
    r"|too (large|big|high|small|low|many|long|short)|at most|at least|exceed|greater than|less than"
    r"|out of range|between \S+ and|content.?(filter|policy|management)|safety|moderation"
    r"|quota|billing|balance|budget",
    re.IGNORECASE,
)
_CODE_OF_ANOTHER_CAUSE: Final = re.compile(
    r"context_length|content_filter|content_policy|quota|billing|too_long|budget", re.IGNORECASE
)
_ONE_ANSWER_ONLY: Final = re.compile(
    r"['\"`]?\bn\b['\"`]?.{0,24}(at most|must be|less than or equal to|equal to|only) 1\b", re.IGNORECASE
)
_N: Final = re.compile(
    r"['\"`]n['\"`]|\bbody\.n\b|\bn\s*(=|>|must|is|should|other|greater|parameter)"
    r"|(?i:(multiple|several|number of) (choices|completions|candidates))"
    r"|(?i:(more than|only) one (choice|completion|candidate))"
)

_CALL_ID: Final = re.compile(r"tool.?call.?id|tool_calls\S{0,20}\bid\b", re.IGNORECASE)
_REASONING: Final = re.compile(r"(?<!\w)reasoning(_content)?(?!\w)", re.IGNORECASE)
_WANTED: Final = re.compile(
    r"pass(ed)? back|missing|(is|are) required|must be (passed|sent|provided)", re.IGNORECASE
)
_SYSTEM_MESSAGE: Final = re.compile(r"system (message|role|prompt)|roles must alternate", re.IGNORECASE)


def names_another_cause(refusal: Refusal) -> bool:
    """Tell whether a refusal is about the request's size, its content, a value or the account.

    >>> names_another_cause(Refusal("max_tokens is too large: 50000. This model supports at most 16384."))
    True
    """
    if _CODE_OF_ANOTHER_CAUSE.search(refusal.code):
        return True
    return bool(_ANOTHER_CAUSE.search(refusal.text)) and not _ONE_ANSWER_ONLY.search(refusal.text)


def learn(  # noqa: PLR0911 - a line for each thing that can be learned
    dialect: Dialect, request: Request, refusal: Refusal
) -> Dialect | None:
    """Return the dialect after a refusal that names a field; None where it names none, or another cause.

    Args:
        dialect: How the request was spelled.
        request: What was asked for.
        refusal: What the server said.

    >>> refusal = Refusal("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
    >>> learn(Dialect(), Request([], max_tokens=5), refusal)
    Dialect(output_limit='max_completion_tokens')
    """
    if names_another_cause(refusal):
        return None
    sent = optional_fields(request, dialect)
    if "form" in sent and refusal.names(
        "response_format", "response format", "json_schema", "json_object", "json.(mode|output)",
        "output_(config|format)", "structured.outputs?", "schema",
        "guided_json", "additionalProperties",
    ):  # fmt: skip
        return replace(dialect, response_formats=dialect.response_formats[1:])
    if "logprobs" in sent and refusal.names("logprobs", "top_logprobs", "log.probabilities"):
        return replace(dialect, takes_logprobs=False)
    if "n" in sent and (refusal.field == "n" or _N.search(refusal.text)):
        return replace(dialect, takes_n=False)
    if request.max_tokens is not None and not request.limit_name and refusal.names(dialect.output_limit):
        return replace(dialect, output_limit=_limit_wanted(refusal.text, in_place_of=dialect.output_limit))
    if dialect.takes_temperature and refusal.names("temperature", "top_p"):
        return replace(dialect, takes_temperature=False)
    if "tool_choice" in request.options and dialect.forced_tools and refusal.names("tool_choice"):
        return replace(dialect, forced_tools=False)
    if dialect.stream_usage and refusal.names("stream_options", "include_usage"):
        return replace(dialect, stream_usage=False)
    return _of_messages(dialect, request.messages, refusal)


def _limit_wanted(text: str, in_place_of: OutputLimit) -> OutputLimit:
    """Return the name of the output limit that a refusal asks for, or else the more usual other one."""
    for found in re.finditer(r"\w+", text):
        for name in OUTPUT_LIMITS:
            if found[0] == name != in_place_of:
                return name
    return "max_completion_tokens" if in_place_of == "max_tokens" else "max_tokens"


def _of_messages(dialect: Dialect, messages: list[dict[str, Any]], refusal: Refusal) -> Dialect | None:
    """Learn from a refusal of something within the messages."""
    has_calls = any(message.get("tool_calls") for message in messages)
    if _REASONING.search(refusal.text) and _NOT_TAKEN.search(refusal.text):
        has_some = any(name in message for message in messages for name in REASONING_FIELDS)
        echo = dialect.echo_reasoning
        if not _WANTED.search(refusal.text):
            if has_some and echo:
                return replace(dialect, echo_reasoning=False)
        elif has_some and not echo:
            return replace(dialect, echo_reasoning=True)
        elif has_calls and echo != "always":
            return replace(dialect, echo_reasoning="always")
    if has_calls and dialect.tool_ids == "any" and _CALL_ID.search(refusal.text):
        return replace(dialect, tool_ids="nine")
    has_several = _has_several_systems(message.get("role") for message in messages)
    if has_several and not dialect.one_system_message and _SYSTEM_MESSAGE.search(refusal.text):
        return replace(dialect, one_system_message=True)
    return None


def _has_several_systems(roles: Iterable[object]) -> bool:
    return "system" in [*roles][1:]


def optional_fields(request: Request, dialect: Dialect) -> frozenset[str]:
    """Name the fields of a request that it can do without: `form`, `logprobs`, `n`."""
    sent = {
        "form": request.form is not None and bool(dialect.response_formats),
        "logprobs": request.logprobs and dialect.takes_logprobs,
        "n": request.n > 1 and dialect.takes_n,
    }
    return frozenset(name for name, is_sent in sent.items() if is_sent)


def without_last_option(dialect: Dialect, request: Request) -> Dialect | None:
    """Return the dialect for one more try after a refusal that names nothing; None where nothing is optional.

    What is left out is the form, or else the log-probabilities, or else `n`. It is not to be remembered.

    >>> without_last_option(Dialect(), Request([], n=3))
    Dialect(takes_n=False)
    """
    sent = optional_fields(request, dialect)
    if "form" in sent:
        return replace(dialect, response_formats=())
    if "logprobs" in sent:
        return replace(dialect, takes_logprobs=False)
    return replace(dialect, takes_n=False) if "n" in sent else None
