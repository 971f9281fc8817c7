"""How a server wants a request said: what a stage asks for, in neutral words, and a server's spelling of it.

`executionkit.core.learning` changes a dialect by what a server says when it refuses. Both are pure.
"""

import hashlib
import re
from collections.abc import Hashable, Iterable, Mapping
from functools import cache, lru_cache
from typing import Any, Final, Literal, TypeAlias, cast, get_args, get_origin

import msgspec

from executionkit.core.checks import check_count

__all__ = [
    "OUTPUT_LIMITS",
    "PLAIN",
    "REASONING_FIELDS",
    "Dialect",
    "EchoReasoning",
    "JsonForm",
    "OutputLimit",
    "Request",
    "ResponseFormat",
    "Spelled",
    "answers_billed",
    "asked_as",
    "limited",
    "spell",
    "spelled_again",
]

Message: TypeAlias = dict[str, Any]
ToolSpec: TypeAlias = dict[str, Any]

OutputLimit: TypeAlias = Literal[
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "max_new_tokens",
    "max_tokens_to_sample",
    "max_gen_len",
    "max_length",
    "maxTokens",
    "maxOutputTokens",
    "max_token_count",
    "maxTokenCount",
    "num_predict",
    "n_predict",
]
"""What a server calls the limit on output tokens: every spelling that servers are known to read."""

ResponseFormat: TypeAlias = Literal["json_schema", "json_object", "prompt"]
"""Who holds an answer to its form: the server, by schema; the server, as JSON; the prompt alone."""

EchoReasoning: TypeAlias = bool | Literal["always"]
ToolIds: TypeAlias = Literal["any", "nine"]
"""Which ids of tool calls a server takes: any, or nine letters and digits."""

OUTPUT_LIMITS: Final[tuple[OutputLimit, ...]] = get_args(OutputLimit)

_MULTIPLIERS: Final = (
    "n",
    "n_cmpl",
    "best_of",
    "beam_width",
    "num_beams",
    "num_completions",
    "num_generations",
    "num_outputs",
    "num_results",
    "numResults",
    "num_return_sequences",
    "candidate_count",
    "candidateCount",
    "sampleCount",
)
"""Every name under which servers are known to generate, and bill, more than one answer to a request."""

_HOLDERS: Final = (
    "extra_body",
    "options",
    "parameters",
    "params",
    "config",
    "sampling_params",
    "model_kwargs",
    "generate_kwargs",
    "generation_kwargs",
    "generation_config",
    "generationConfig",
    "inferenceConfig",
    "textGenerationConfig",
    "additionalModelRequestFields",
)
"""Fields that hold others, in the request or on the way to it."""

REASONING_FIELDS: Final = ("reasoning_content", "reasoning")


class JsonForm(msgspec.Struct, frozen=True):
    """The form that an answer shall have.

    Args:
        name: What to call it, in OpenAI's alphabet.
        schema: A JSON Schema with an object at its root.
        is_strict: Whether the schema keeps OpenAI's rules for `strict`.
        instruction: How the messages state the schema, where they do.
    """

    name: str
    schema: dict[str, Any]
    is_strict: bool = False
    instruction: str = ""

    def __hash__(self) -> int:
        return hash((self.name, self.is_strict))


class Request(msgspec.Struct, frozen=True):
    """What a stage asks for, in neutral words.

    Args:
        messages: The conversation in OpenAI's format.
        temperature: Sampling temperature; None leaves it to the provider.
        max_tokens: Output tokens at most, an answer; None leaves it to the provider.
        tools: Tools the model may call, in OpenAI's format.
        n: Answers asked for at once; each may take `max_tokens`.
        form: The form that the answer shall have; None for any.
        logprobs: Whether to send the log-probabilities of the tokens along.
        options: Further request fields, sent as they are.
        limit_name: How the caller spelled the output limit; empty leaves it to the dialect.
        billed: Answers that the further fields have the server generate; see `answers_billed`.
    """

    messages: list[Message]
    temperature: float | None = None
    max_tokens: int | None = None
    tools: list[ToolSpec] | None = None
    n: int = 1
    form: JsonForm | None = None
    logprobs: bool = False
    options: Mapping[str, Any] = {}
    limit_name: str = ""
    billed: int = 1

    @property
    def answers(self) -> int:
        """How many answers the server may generate and bill: more than it sends, with `best_of`."""
        return max(self.n, self.billed)

    @property
    def asks_for_text_only(self) -> bool:
        """Whether nothing is asked for that servers spell or take differently."""
        has_optional = self.form is not None or self.logprobs or self.n > 1
        return not (has_optional or self.options or self.limit_name)


class Dialect(msgspec.Struct, frozen=True, repr_omit_defaults=True, kw_only=True):
    """How a server wants a request said, and what it does not take.

    Args:
        output_limit: What it calls the limit on output tokens.
        takes_temperature: Whether it takes a temperature.
        takes_n: Whether it gives several answers to one request.
        takes_logprobs: Whether it sends log-probabilities.
        response_formats: Which forms it holds an answer to, the strongest first; the prompt states the form
            in any case.
        schema_in_prompt: Whether the prompt has to state the schema although the server enforces it.
        forced_tools: Whether it can be told that a tool must be called.
        tool_ids: Which ids of tool calls it takes.
        one_system_message: Whether it takes one system message only, at the beginning.
        stream_usage: Whether it can be asked for the usage of a stream.
        reasoning_field: The field of a message that its reasoning comes in and goes back in.
        echo_reasoning: Whether reasoning goes back to it with the conversation; `"always"` for a server that
            wants some with every tool call, also with those of a model that had none.

    Raises:
        TypeError: A field is a list or another value that can be changed.
        ValueError: A field is of the wrong type, or says what no server is known to want.

    >>> Dialect(output_limit="max_completion_tokens", takes_temperature=False)
    Dialect(output_limit='max_completion_tokens', takes_temperature=False)
    """

    output_limit: OutputLimit = "max_tokens"
    takes_temperature: bool = True
    takes_n: bool = True
    takes_logprobs: bool = True
    response_formats: tuple[ResponseFormat, ...] = ("json_schema", "json_object")
    schema_in_prompt: bool = True
    forced_tools: bool = True
    tool_ids: ToolIds = "any"
    one_system_message: bool = False
    stream_usage: bool = True
    reasoning_field: str = "reasoning_content"
    echo_reasoning: EchoReasoning = True

    def __post_init__(self) -> None:
        # A dialect is made for many a call: what was not said is not looked at.
        for name, default in _defaults():
            given: object = getattr(self, name)
            if given is not default:
                _check(name, given)

    @property
    def takes_messages_as_they_are(self) -> bool:
        """Whether messages need no other spelling."""
        has_own_reasoning = self.echo_reasoning is not True or self.reasoning_field != "reasoning_content"
        return not (self.one_system_message or self.tool_ids != "any" or has_own_reasoning)


@cache
def _defaults() -> tuple[tuple[str, object], ...]:
    return tuple([(field.name, field.default) for field in msgspec.structs.fields(Dialect)])


def _check(name: str, given: object) -> None:
    if not isinstance(given, Hashable):
        raise TypeError(f"{name} of a dialect must not be a {type(given).__name__}")
    _check_once(name, given)


@lru_cache(maxsize=256, typed=True)
def _check_once(name: str, given: object) -> None:
    (kind,) = [field.type for field in msgspec.structs.fields(Dialect) if field.name == name]
    try:
        msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        choices = f"; there are {', '.join(get_args(kind))}" if get_origin(kind) is Literal else ""
        raise ValueError(f"{name} of a dialect: {error}{choices}") from None


PLAIN: Final = Dialect()
"""OpenAI's own, as most servers speak it."""


class Spelled(msgspec.Struct, frozen=True):
    """A request as a provider is asked: the arguments of its `complete`."""

    messages: list[Message]
    temperature: float | None
    max_tokens: int | None
    tools: list[ToolSpec] | None
    options: dict[str, Any]


def limited(options: dict[str, Any], max_tokens: int | None) -> tuple[int | None, str, dict[str, Any]]:
    """Find the output limit among request fields, whatever it is called there.

    Args:
        options: Request fields as a caller gave them.
        max_tokens: The limit that was given under its usual name; None for none.

    Returns:
        The tightest limit given, the name it was given under (empty for the usual one, and for one that stood
        within another field), and the other fields.

    >>> limited({"max_completion_tokens": 50_000, "seed": 1}, None)
    (50000, 'max_completion_tokens', {'seed': 1})
    >>> limited({"options": {"num_predict": 50_000, "top_k": 5}}, 100)
    (100, '', {'options': {'top_k': 5}})
    """
    for holder in _HOLDERS:
        within = options.get(holder)
        if isinstance(within, Mapping):
            max_tokens, _, rest = limited(dict(cast("Mapping[str, Any]", within)), max_tokens)
            options = {**options, holder: rest}
    name = next((name for name in OUTPUT_LIMITS if name in options), "")
    if not name:
        return max_tokens, "", options
    given = [options[other] for other in OUTPUT_LIMITS if isinstance(options.get(other), int)]
    bounds = [bound for bound in (max_tokens, *given) if bound is not None]
    others = {key: value for key, value in options.items() if key not in OUTPUT_LIMITS}
    return min(bounds, default=None), name if name != "max_tokens" else "", others


def answers_billed(options: Mapping[str, Any]) -> int:
    """Return how many answers request fields have a server generate, whatever that is called there.

    Raises:
        TypeError: A field that says so is no whole number.
        ValueError: It is below 1.

    >>> answers_billed({"best_of": 4, "extra_body": {"n": 2}})
    4
    """
    most = 1
    for name in _MULTIPLIERS:
        if options.get(name) is not None:
            check_count(name, options[name])
            most = max(most, options[name])
    for holder in _HOLDERS:
        within = options.get(holder)
        if isinstance(within, Mapping):
            most = max(most, answers_billed(cast("Mapping[str, Any]", within)))
    return most


def asked_as(request: Request, dialect: Dialect) -> ResponseFormat:
    """Return which form the server is asked to hold the answer to."""
    return dialect.response_formats[0] if request.form and dialect.response_formats else "prompt"


def spell(request: Request, dialect: Dialect, max_tokens: int | None) -> Spelled:
    """Return a request as this server wants it said. Spelling again what is spelled changes nothing.

    Args:
        request: What is asked for.
        dialect: How the server wants it said.
        max_tokens: The output tokens granted, an answer; None where nobody sets a bound.

    >>> spell(Request([], 0.7), Dialect(output_limit="max_completion_tokens"), 100).options
    {'max_completion_tokens': 100}
    """
    if dialect is PLAIN and request.asks_for_text_only:
        return Spelled(request.messages, request.temperature, max_tokens, request.tools, {})
    options = dict(request.options)
    if request.n > 1 and dialect.takes_n:
        options["n"] = request.n
    if request.logprobs and dialect.takes_logprobs:
        options["logprobs"] = True
    form = asked_as(request, dialect)
    if request.form is not None and form != "prompt":
        options["response_format"] = _response_format(request.form, form)
    if max_tokens is not None and request.limit_name:
        options[request.limit_name], max_tokens = max_tokens, None
    return spelled_again(
        Spelled(
            _without_instruction(request, dialect, form),
            request.temperature,
            max_tokens,
            request.tools,
            options,
        ),
        dialect,
    )


def spelled_again(given: Spelled, dialect: Dialect) -> Spelled:
    """Spell what is already in a provider's own words: its defaults, or fields that a caller named."""
    options, max_tokens = given.options, given.max_tokens
    if max_tokens is not None and dialect.output_limit != "max_tokens":
        options = {**options, dialect.output_limit: max_tokens}
        max_tokens = None
    if any(_is_refused(name, value, dialect) for name, value in options.items()):
        options = {name: value for name, value in options.items() if not _is_refused(name, value, dialect)}
    return Spelled(
        _spelled_messages(given.messages, dialect),
        given.temperature if dialect.takes_temperature else None,
        max_tokens,
        given.tools,
        options,
    )


def _response_format(form: JsonForm, asked: ResponseFormat) -> dict[str, Any]:
    if asked == "json_object":
        return {"type": "json_object"}
    named = {"name": form.name, "schema": form.schema, "strict": form.is_strict}
    return {"type": "json_schema", "json_schema": named}


def _without_instruction(request: Request, dialect: Dialect, form: ResponseFormat) -> list[Message]:
    """Leave the schema out of the prompt where the server shows it to the model by itself."""
    stated = "" if request.form is None else request.form.instruction
    if not stated or form != "json_schema" or dialect.schema_in_prompt:
        return request.messages
    return [
        {**message, "content": content.replace(stated, "").rstrip()}
        if isinstance(content := message.get("content"), str) and stated in content
        else message
        for message in request.messages
    ]


def _is_refused(name: str, value: object, dialect: Dialect) -> bool:
    """Tell whether a server does not take a field."""
    match name:
        case "n":
            return value != 1 and not dialect.takes_n
        case "logprobs" | "top_logprobs":
            return not dialect.takes_logprobs
        case "temperature" | "top_p":
            return not dialect.takes_temperature
        case "tool_choice":
            return value not in ("auto", "none") and not dialect.forced_tools
        case "stream_options":
            return not dialect.stream_usage
        case _:
            return False


def _spelled_messages(messages: list[Message], dialect: Dialect) -> list[Message]:
    if dialect.takes_messages_as_they_are:
        return messages
    if dialect.one_system_message:
        messages = _one_system_message(messages)
    if dialect.tool_ids == "nine":
        messages = [_with_short_ids(message) for message in messages]
    if dialect.echo_reasoning == "always" or _speaks(messages):
        return [_with_reasoning(message, dialect) for message in messages]
    return messages


def _one_system_message(messages: list[Message]) -> list[Message]:
    system = [message for message in messages if message.get("role") == "system"]
    if len(system) < 2 and messages[: len(system)] == system:
        return messages
    texts = [str(message.get("content") or "") for message in system]
    others = [message for message in messages if message.get("role") != "system"]
    return [{**system[0], "content": "\n\n".join(filter(None, texts))}, *others]


def _with_short_ids(message: Message) -> Message:
    if message.get("role") == "tool":
        return {**message, "tool_call_id": _short(message.get("tool_call_id"))}
    if calls := message.get("tool_calls"):
        return {**message, "tool_calls": [{**call, "id": _short(call.get("id"))} for call in calls]}
    return message


def _short(given: object) -> str:
    """Return nine letters and digits that stand for an id; one that is so already stays."""
    text = str(given)
    if re.fullmatch("[a-zA-Z0-9]{9}", text):
        return text
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()[:9]


def _speaks(messages: Iterable[Message]) -> bool:
    return any(name in message for message in messages for name in REASONING_FIELDS)


_NO_THOUGHT: Final = " "
"""Stands for the reasoning of a model that had none: an empty text counts as missing."""


def _with_reasoning(message: Message, dialect: Dialect) -> Message:
    """Send reasoning back under the server's own name, or not at all."""
    if message.get("role") != "assistant":
        return message
    found = [message[name] for name in REASONING_FIELDS if name in message]
    if dialect.echo_reasoning == "always" and message.get("tool_calls") and not any(found):
        found = [_NO_THOUGHT]
    if not found:
        return message
    others = {name: value for name, value in message.items() if name not in REASONING_FIELDS}
    return {**others, dialect.reasoning_field: found[0]} if dialect.echo_reasoning else others
