"""Typed answers: asked for, decoded, checked, and sent back with the reason where they will not do."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final, Generic, TypeVar, cast

from msgspec.structs import replace

from executionkit.core.bounds import Given, Reach, of_calls
from executionkit.core.combined_bounds import in_turn
from executionkit.core.dialect import Request, ResponseFormat
from executionkit.core.refusals import noted_refusal
from executionkit.core.schema.answer import AnswerType, Decoded, asking, complaint
from executionkit.core.schema.partial import PartialAnswer, begins_with
from executionkit.core.schema.validation import Rejected
from executionkit.errors import InvalidOutputError
from executionkit.events import Element, PartialValue
from executionkit.provider import LLMResponse, Message, user
from executionkit.runtime.calls.delivery import TextReader
from executionkit.runtime.context import Context
from executionkit.runtime.given import size_of, text_size
from executionkit.runtime.rules import Rule, broken

__all__ = ["TypedAnswers", "typed_reach"]

T = TypeVar("T")

_LONGEST_ECHO: Final = 8_000


class TypedAnswers(Generic[T]):
    """The answers to one request for a value of a type.

    Args:
        kind: The type.
        retries: Answers asked for after the first.
        check: What a value must be like beyond its type; it shares the retries.
        temperature: Sampling temperature.
        max_tokens: Output tokens at most, an answer.
    """

    def __init__(
        self,
        kind: AnswerType[T],
        retries: int,
        check: Rule[T] | None,
        temperature: float | None,
        max_tokens: int,
    ) -> None:
        self._kind = kind
        self._retries = retries
        self._check = check
        self._temperature = temperature
        self._max_tokens = max_tokens
        self._answers: list[LLMResponse] = []
        self._reasons: list[str] = []
        self._elements: list[object] = []
        self.response_format: ResponseFormat | None = None
        """The form that was asked for last."""

    async def ask(self, messages: list[Message], context: Context) -> T:
        """Ask until an answer will do.

        Raises:
            InvalidOutputError: None did.
            EvaluationError: The rule raised.
            BudgetExhaustedError: The next answer would not fit the budget.
            LLMError: The last attempt failed.
        """
        talk = messages
        while len(self._answers) <= self._retries:
            asked = await context.answer(
                Request(talk, self._temperature, self._max_tokens, form=self._kind.form),
                is_answer=True,
                on_text=self._partial,
            )
            self._answers.append(asked.response)
            self.response_format = asked.response_format
            answer = self._kind.read(
                asked.response.content, asked.response.refusal, was_cut=asked.response.was_truncated
            )
            if isinstance(answer, Decoded):
                reason = await broken(self._check, answer.value)
                if reason is None:
                    if not self._stands(answer.value):
                        context.void("repair")
                    return answer.value
                answer = Rejected((reason,))
            self._reasons.append(complaint(answer, was_truncated=asked.response.was_truncated))
            context.void("repair")
            talk = [*messages, *_repair(asked.response.content, self._reasons[-1])]
        raise InvalidOutputError(
            f"no {self._kind.name} in {len(self._answers)} answers: {self._reasons[-1]}",
            metadata=self.noted(),
        )

    def _partial(self) -> TextReader:
        """Begin to read an answer that comes in pieces."""
        answer = PartialAnswer(self._kind)
        self._elements = []

        def read(piece: str) -> Iterator[tuple[type[PartialValue | Element], dict[str, object]]]:
            for whole in answer.elements(piece):
                self._elements.append(whole.value)
                yield Element, {"value": whole.value, "index": whole.index}
            value = answer.value(is_end=not piece)
            if value is not None:
                yield PartialValue, {"value": value}

        return read

    def _stands(self, value: T) -> bool:
        """Whether the elements that were handed out begin the value; a text may hold several of them."""
        return not self._elements or begins_with(cast("Sequence[object]", value), self._elements)

    def noted(self) -> dict[str, object]:
        """Return what is told of the answers: of the last one only where it would not do."""
        noted: dict[str, object] = {"attempts": len(self._answers), "reasons": tuple(self._reasons)}
        if len(self._reasons) == len(self._answers) > 0:
            last = self._answers[-1]
            noted |= {"last_text": last.content, **noted_refusal(last.refusal)}
        return noted


def _repair(text: str, reason: str) -> list[Message]:
    request = f"{reason}\nSend the whole JSON again, corrected, and nothing else."
    return [{"role": "assistant", "content": text[:_LONGEST_ECHO]}, user(request)]


def typed_reach(
    kind: AnswerType[Any], given: Given, prompt: float, max_tokens: int, output_retries: int, why: str = ""
) -> Reach:
    """Return what an answer of a type takes at the least and at the most.

    Args:
        kind: The type.
        given: What it depends on.
        prompt: Tokens of the prompt at the most, without what is said of the type.
        max_tokens: Output tokens of each answer at the most.
        output_retries: Answers asked for after the first.
        why: Why nothing bounds the prompt.
    """
    prompt += text_size(asking("", kind)) + size_of(kind.form.schema)
    once = of_calls(given, prompt, max_tokens, has_form=True, why_prompt=why).answering()
    reasons = f"the reasons that an answer of type {kind.name} is asked for again for"
    if output_retries:
        again = of_calls(
            given, math.inf, max_tokens, least=0, most=output_retries, has_form=True, why_prompt=reasons
        )
        once = in_turn([once, again])
    return replace(once, value=math.inf, why_value=f"a value of type {kind.name} as text")
