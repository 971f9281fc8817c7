"""Structured: an answer of a given type, asked for by JSON Schema, decoded, repaired where it is wrong."""

from typing import Any, Generic, TypeVar, overload

from typing_extensions import TypeForm, override

from executionkit.core.bounds import Given, Reach
from executionkit.core.checks import check_completion, check_count
from executionkit.core.facade import makes_stage
from executionkit.core.schema.answer import AnswerType, answer_type, asking
from executionkit.outcome import PatternResult
from executionkit.provider import DEFAULT_MAX_TOKENS, opening, user
from executionkit.runtime.answers import TypedAnswers, typed_reach
from executionkit.runtime.context import Context
from executionkit.runtime.given import PROMPT_FRAME, told
from executionkit.runtime.rules import Rule, check_rule
from executionkit.stage import Stage
from executionkit.system import System, check_system, system_messages

__all__ = ["Structured", "structured"]

T = TypeVar("T")


class Structured(Stage[str, T], Generic[T], frozen=True):
    """Ask for an answer of a type. `structured(output_type)` makes one.

    The form is asked for by `response_format` json_schema; where the server refuses that (400 or 422) by
    json_object, then by the prompt alone, which states the schema in any case. What a provider took is
    remembered for as long as it lives. A provider that knows better says so in an attribute
    `response_formats`, the names it takes: `()` for none.

    JSON is found bare, in a fence or in prose, and decoded by msgspec. An answer that does not decode goes
    back to the model with the reason, at most `output_retries` times; so does one that is a refusal, or that
    a content filter cut in on, whatever it holds.

    Args:
        output_type: Any type that msgspec decodes: a struct, dataclass, attrs class, TypedDict, union,
            literal, list...
        output_retries: Answers asked for after the first (default 2).
        temperature: Sampling temperature (default 0); None leaves it to the provider.
        max_tokens: Output tokens of each answer at most (default 4096).
        check: Looks at a value, plain or async, and returns None, or the reason why it will not do: the
            reason goes back to the model as one that does not decode would, within `output_retries`.
        system: What the model is told before the prompt, with every answer: text, or a function of the input.

    Metadata (also on an error):
        attempts (int): Answers read.
        reasons (tuple of str): Why each answer before the last was refused; on an error the last one's too.
        response_format (str): The form that was asked for last: `"json_schema"`, `"json_object"` or
            `"prompt"`. On success only.
        last_text (str): The last answer. On an error only, and only if there was an answer.
        refusal (str): On an error whose last answer the model refused, or a content filter cut in on: the
            text of the refusal, or `"content_filter"`.

    Returns (on `run`):
        InvalidOutputError: No answer decoded and passed `check`, the first and `output_retries` more; its
            message ends in the last reason.
        EvaluationError: `check` raised, or returned neither None nor text.
        BudgetExhaustedError: The next answer would not fit the budget.
        PermanentError: The server refused the request in every form, or for another reason than its form.

    Raises:
        TypeError: msgspec cannot decode `output_type`, or a setting is of the wrong type.
        ValueError: A setting is out of range.
    """

    output_type: Any
    output_retries: int = 2
    temperature: float | None = 0.0
    max_tokens: int = DEFAULT_MAX_TOKENS
    check: Rule[T] | None = None
    system: System[str] | None = None

    def __post_init__(self) -> None:
        answer_type(self.output_type)
        check_count("output_retries", self.output_retries, 0)
        check_completion(self.temperature, self.max_tokens)
        check_rule(self.check)
        check_system(self.system)

    @override
    async def perform(self, value: str, context: Context) -> PatternResult[T]:
        kind: AnswerType[T] = answer_type(self.output_type)
        answers = TypedAnswers(kind, self.output_retries, self.check, self.temperature, self.max_tokens)
        context.report(answers.noted)
        prompt = user(asking(opening(value)[0]["content"], kind))
        answer = await answers.ask([*system_messages(self.system, value), prompt], context)
        metadata = {**answers.noted(), "response_format": answers.response_format}
        return PatternResult(answer, metadata=metadata)

    @property
    @override
    def streams_text(self) -> bool:
        return True

    @property
    @override
    def text_is_final(self) -> bool:
        return self.output_retries == 0

    @override
    def reach(self, given: Given) -> Reach:
        kind: AnswerType[T] = answer_type(self.output_type)
        given = told(given, self.system)
        return typed_reach(kind, given, given.value + PROMPT_FRAME, self.max_tokens, self.output_retries)


@overload
def structured(
    output_type: type[T],
    *,
    output_retries: int = 2,
    temperature: float | None = 0.0,
    max_tokens: int = DEFAULT_MAX_TOKENS,
    check: Rule[T] | None = None,
    system: System[str] | None = None,
) -> Structured[T]: ...
@overload
def structured(
    output_type: TypeForm[T],
    *,
    output_retries: int = 2,
    temperature: float | None = 0.0,
    max_tokens: int = DEFAULT_MAX_TOKENS,
    check: Rule[T] | None = None,
    system: System[str] | None = None,
) -> Structured[T]: ...
@makes_stage
def structured(
    output_type: object,
    *,
    output_retries: int = 2,
    temperature: float | None = 0.0,
    max_tokens: int = DEFAULT_MAX_TOKENS,
    check: Rule[Any] | None = None,
    system: System[str] | None = None,
) -> Structured[Any]:
    """Return a stage that answers with a value of type `output_type`; see `Structured`.

    Args:
        output_type: Any type that msgspec decodes.
        output_retries: Answers asked for after the first.
        temperature: Sampling temperature; None leaves it to the provider.
        max_tokens: Output tokens of each answer at most.
        check: None for a value that will do, or the reason why it will not.
        system: What the model is told before the prompt.

    Raises:
        TypeError: msgspec cannot decode `output_type`.
        ValueError: A setting is out of range.

    >>> structured(list[int], output_retries=1)
    Structured(output_type=list[int], output_retries=1)
    """
    return Structured(output_type, output_retries, temperature, max_tokens, check, system)
