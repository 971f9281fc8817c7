"""Asking for JSON under a schema, in the strongest form that a provider takes."""

from typing import Any, Final, Literal, TypeAlias
from weakref import WeakKeyDictionary

import msgspec
from returns.result import Failure, Success
from typing_extensions import override

from executionkit.core.schema.answer import AnswerType
from executionkit.errors import ExecutionKitError, PermanentError
from executionkit.outcome import PatternResult
from executionkit.provider import LLMResponse, Message
from executionkit.runtime.context import Context
from executionkit.stage import Stage

__all__ = [
    "AskedAs",
    "JsonForm",
    "ResponseFormat",
    "complete_json",
    "form_of",
    "is_refusal",
    "knows_form",
    "strongest_options",
]

ResponseFormat: TypeAlias = Literal["json_schema", "json_object", "prompt"]
"""Who holds an answer to its form: the server, by schema; the server, as JSON; the prompt alone."""

_FORMATS: Final[tuple[ResponseFormat, ...]] = ("json_schema", "json_object", "prompt")
_REFUSALS: Final = frozenset({400, 422, None})
_NAMES: Final = (tuple, list, frozenset, set)
"""What a provider's `response_formats` may be."""


class JsonForm(msgspec.Struct, frozen=True):
    """The form that an answer shall have.

    Args:
        name: What to call it, in OpenAI's alphabet.
        schema: A JSON Schema with an object at its root.
        is_strict: Whether the schema keeps OpenAI's rules for `strict`.
    """

    name: str
    schema: dict[str, Any]
    is_strict: bool = False

    def options(self, asked: ResponseFormat) -> dict[str, Any]:
        """Return the request fields that ask for this form."""
        if asked == "prompt":
            return {}
        if asked == "json_object":
            return {"response_format": {"type": "json_object"}}
        named = {"name": self.name, "schema": self.schema, "strict": self.is_strict}
        return {"response_format": {"type": "json_schema", "json_schema": named}}


def form_of(kind: AnswerType[Any]) -> JsonForm:
    """Return the form that answers of a type have."""
    return JsonForm(kind.name, kind.schema, kind.is_strict)


class AskedAs(msgspec.Struct, frozen=True):
    """An answer, and how its form was asked for."""

    response: LLMResponse
    response_format: ResponseFormat


async def complete_json(
    context: Context,
    messages: list[Message],
    form: JsonForm,
    *,
    temperature: float | None,
    max_tokens: int,
    **options: Any,
) -> AskedAs:
    """Ask for an answer of a form; where the server refuses to hold it to that (400, 422), ask for less.

    What a provider took is remembered for as long as it lives. `options` are further request fields.

    Raises:
        ExecutionKitError: The call failed, or was refused in every form.
    """
    refusals: list[ExecutionKitError] = []
    for asked in _formats(context.endpoint):
        call = _JsonCall(messages, temperature, max_tokens, {**options, **form.options(asked)})
        outcome = await context.attempt(call, None)
        match outcome:
            case Success(result):
                _note(context.endpoint, asked)
                return AskedAs(result.value, asked)
            case Failure(error):
                refusals.append(error)
                if not is_refusal(error):
                    break
    raise refusals[-1]


def strongest_options(context: Context, form: JsonForm) -> dict[str, Any]:
    """Return the request fields of the strongest form that the provider is not known to refuse."""
    return form.options(_formats(context.endpoint)[0])


def knows_form(context: Context) -> bool:
    """Tell whether it is known which forms the provider takes: it says so, or was asked before."""
    said: object = getattr(context.endpoint, "response_formats", None)
    if isinstance(said, _NAMES):
        return True
    try:
        return context.endpoint in _taken
    except TypeError:
        return False


def is_refusal(error: ExecutionKitError) -> bool:
    """Tell whether a server says that it does not take the request as it is (400, 422, or no status)."""
    return isinstance(error, PermanentError) and error.metadata.get("status") in _REFUSALS


class _JsonCall(Stage[None, LLMResponse], frozen=True):
    """One completion, as a stage: so its failure can be had as a value."""

    messages: list[Message]
    temperature: float | None
    max_tokens: int
    options: dict[str, Any]

    @override
    async def perform(self, value: None, context: Context) -> PatternResult[LLMResponse]:
        response = await context.complete(
            self.messages, temperature=self.temperature, max_tokens=self.max_tokens, **self.options
        )
        return PatternResult(response)


_taken: Final["WeakKeyDictionary[object, ResponseFormat]"] = WeakKeyDictionary()


def _formats(provider: object) -> tuple[ResponseFormat, ...]:
    said: object = getattr(provider, "response_formats", None)
    if isinstance(said, _NAMES):
        return tuple([asked for asked in _FORMATS if asked in said or asked == "prompt"])
    try:
        return _FORMATS[_FORMATS.index(_taken.get(provider, _FORMATS[0])) :]
    except TypeError:  # neither hashed nor weakly referenced: nothing is remembered of it
        return _FORMATS


def _note(provider: object, asked: ResponseFormat) -> None:
    try:
        _taken[provider] = asked
    except TypeError:
        return
