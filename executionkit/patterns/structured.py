"""Structured: an answer of a given type, asked for by JSON Schema, decoded, and repaired where it is wrong."""

from typing import Any, Final, Generic, Literal, TypeAlias, TypeVar, overload
from weakref import WeakKeyDictionary

from returns.result import Failure, Success
from typing_extensions import override

from executionkit.context import Context
from executionkit.core.answer import AnswerType, Decoded, answer_type
from executionkit.core.schema import Rejected
from executionkit.errors import ExecutionKitError, InvalidOutputError, PermanentError
from executionkit.outcome import PatternResult
from executionkit.provider import DEFAULT_MAX_TOKENS, LLMResponse, Message, user
from executionkit.stage import Stage

__all__ = ["ResponseFormat", "Structured", "structured"]

T = TypeVar("T")

ResponseFormat: TypeAlias = Literal["json_schema", "json_object", "prompt"]
"""How an answer's form is asked for: the server keeps the schema, keeps to JSON, or is told in the prompt alone."""

_FORMATS: Final[tuple[ResponseFormat, ...]] = ("json_schema", "json_object", "prompt")
_REFUSALS: Final = frozenset({400, 422, None})
_LONGEST_ECHO: Final = 8_000


class Structured(Stage[str, T], Generic[T], frozen=True):
    """Ask for an answer of a type. `structured(kind)` makes one.

    The form is asked for by `response_format` json_schema; where the server refuses that (400 or 422) by
    json_object, then by the prompt alone, which states the schema in any case. What a provider took is
    remembered for as long as it lives. A provider that knows better says so in an attribute
    `response_formats`, the names it takes: `()` for none.

    JSON is found bare, in a fence or in prose, and decoded by msgspec. An answer that does not decode goes back
    to the model with the reason, at most `max_retries` times.

    Metadata: `attempts` (int), answers read; `response_format` (str), the form that was asked for last;
    `reasons` (tuple of str), why each answer before was refused; `last_text` (str), on an error only.

    Args:
        kind: Any type that msgspec decodes: a struct, dataclass, attrs class, TypedDict, union, literal, list...
        max_retries: Answers asked for after the first.
        temperature: Sampling temperature; None leaves it to the provider.
        max_tokens: Output tokens of each answer at most.
    """

    kind: Any
    max_retries: int = 2
    temperature: float | None = 0.0
    max_tokens: int = DEFAULT_MAX_TOKENS

    def __post_init__(self) -> None:
        answer_type(self.kind)
        if self.max_retries < 0:
            raise ValueError(f"max_retries must be 0 or more, not {self.max_retries}")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be positive, not {self.max_tokens}")

    @override
    async def perform(self, value: str, context: Context) -> PatternResult[T]:
        kind: AnswerType[T] = answer_type(self.kind)
        talk = [user(_ask(value, kind))]
        texts: list[str] = []
        reasons: list[str] = []
        context.report(lambda: {"attempts": len(texts), "reasons": tuple(reasons), "last_text": texts[-1:]})
        while len(texts) <= self.max_retries:
            response, form = await self._completed(kind, talk, context)
            texts.append(response.content)
            answer = kind.read(response.content)
            if isinstance(answer, Decoded):
                metadata = {"attempts": len(texts), "reasons": tuple(reasons), "response_format": form}
                return PatternResult(answer.value, metadata=metadata)
            reasons.append(_reason(answer, response))
            talk = [talk[0], *_repair(response.content, reasons[-1])]
        raise InvalidOutputError(
            f"no answer of type {kind.name} after {len(texts)} attempts: {reasons[-1]}",
            metadata={"last_text": texts[-1]},
        )

    async def _completed(
        self, kind: AnswerType[T], talk: list[Message], context: Context
    ) -> tuple[LLMResponse, ResponseFormat]:
        """Ask in the strongest form that the provider does not refuse."""
        refusals: list[ExecutionKitError] = []
        for form in _forms(context.endpoint):
            asking = _Asking(talk, self.temperature, self.max_tokens, _options(form, kind))
            outcome = await context.attempt(asking, None)
            match outcome:
                case Success(result):
                    _taken.note(context.endpoint, form)
                    return result.value, form
                case Failure(error):
                    refusals.append(error)
                    if not _is_refusal(error):
                        break
        raise refusals[-1]


class _Asking(Stage[None, LLMResponse], frozen=True):
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


class _Taken:
    """The form that each provider took last, kept for as long as the provider is."""

    def __init__(self) -> None:
        self._forms: WeakKeyDictionary[object, ResponseFormat] = WeakKeyDictionary()

    def form(self, provider: object) -> ResponseFormat:
        try:
            return self._forms.get(provider, _FORMATS[0])
        except TypeError:  # neither weakly referenced nor hashed: nothing can be remembered
            return _FORMATS[0]

    def note(self, provider: object, form: ResponseFormat) -> None:
        try:
            self._forms[provider] = form
        except TypeError:
            return


_taken: Final = _Taken()


def _forms(provider: object) -> tuple[ResponseFormat, ...]:
    said: object = getattr(provider, "response_formats", None)
    if isinstance(said, (tuple, list, frozenset, set)):
        return tuple([form for form in _FORMATS if form in said or form == "prompt"])
    return _FORMATS[_FORMATS.index(_taken.form(provider)) :]


def _is_refusal(error: ExecutionKitError) -> bool:
    return isinstance(error, PermanentError) and error.metadata.get("status") in _REFUSALS


def _options(form: ResponseFormat, kind: AnswerType[Any]) -> dict[str, Any]:
    if form == "prompt":
        return {}
    if form == "json_object":
        return {"response_format": {"type": "json_object"}}
    named = {"name": kind.name, "schema": kind.schema, "strict": kind.is_strict}
    return {"response_format": {"type": "json_schema", "json_schema": named}}


def _ask(prompt: str, kind: AnswerType[Any]) -> str:
    return (
        f"{prompt}\n\nAnswer with one JSON value that is valid under this JSON Schema, and nothing else:\n{kind.text}"
    )


def _repair(text: str, reason: str) -> list[Message]:
    request = f"That cannot be used: {reason}\nSend the whole JSON again, corrected, and nothing else."
    return [{"role": "assistant", "content": text[:_LONGEST_ECHO]}, user(request)]


def _reason(rejected: Rejected, response: LLMResponse) -> str:
    cut = "the answer was cut off at the token limit; be shorter. " if response.was_truncated else ""
    return f"{cut}{rejected}"


@overload
def structured(
    kind: type[T], *, max_retries: int = 2, temperature: float | None = 0.0, max_tokens: int = DEFAULT_MAX_TOKENS
) -> Structured[T]: ...
@overload
def structured(
    kind: object, *, max_retries: int = 2, temperature: float | None = 0.0, max_tokens: int = DEFAULT_MAX_TOKENS
) -> Structured[Any]: ...
def structured(
    kind: object, *, max_retries: int = 2, temperature: float | None = 0.0, max_tokens: int = DEFAULT_MAX_TOKENS
) -> Structured[Any]:
    """Return a stage that answers with a value of type `kind`; see `Structured`.

    Args:
        kind: Any type that msgspec decodes. Unions and literals are inferred as `Any`: annotate the stage.
        max_retries: Answers asked for after the first.
        temperature: Sampling temperature; None leaves it to the provider.
        max_tokens: Output tokens of each answer at most.

    Raises:
        TypeError: msgspec cannot decode `kind`.
        ValueError: A setting is out of range.

    >>> structured(list[int], max_retries=1)
    Structured(kind=list[int], max_retries=1)
    """
    return Structured(kind, max_retries, temperature, max_tokens)
