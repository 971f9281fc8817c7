"""Samples as a vote sees them: the texts and log-probabilities in an answer, and how much a vote weighs."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final, Generic, TypeVar, cast

import msgspec

from executionkit.core.content import read_content, split_thoughts
from executionkit.core.endings import is_cut, is_failed
from executionkit.core.refusals import refusal_in

__all__ = ["ByProbability", "Choice", "Sample", "checked_weight", "read_choices"]

T_co = TypeVar("T_co", covariant=True)

_STEPS: Final = 2**20
_LEAST_LOGPROB: Final = -20.0


class Sample(msgspec.Struct, Generic[T_co], frozen=True):
    """One sample, for a function that weighs it.

    Args:
        text: What the model wrote.
        value: What the text was read as.
        logprobs: The log-probability of each token where the endpoint gives them, else empty.
        provider: Which of `providers` it is from, from 0.
    """

    text: str
    value: T_co
    logprobs: tuple[float, ...] = ()
    provider: int = 0


class ByProbability(msgspec.Struct, frozen=True):
    """Weighs a sample by the model's own confidence: the geometric mean of its tokens' probabilities.

    This is the length-normalised weighting of Wang et al. 2022 ("Self-Consistency", section 3.1). A sample
    without log-probabilities weighs 1. A consensus that weighs so asks the endpoint for `logprobs`.

    A token counts from -20 to 0: endpoints send -9999.0 for one that is not among the most likely, and now
    and then a figure above 0 by a rounding. No sample weighs less than 2**-20, so that each one votes.

    >>> round(ByProbability()(Sample("yes", "yes", logprobs=(-0.1, -0.3))), 4)
    0.8187
    """

    def __call__(self, sample: Sample[object]) -> float:
        """Return the weight, from 2**-20 to 1."""
        if not sample.logprobs:
            return 1.0
        bounded = [min(0.0, max(_LEAST_LOGPROB, logprob)) for logprob in sample.logprobs]
        return max(1 / _STEPS, math.exp(math.fsum(bounded) / len(bounded)))


def checked_weight(weight: object) -> float | None:
    """Return a weight, rounded so that sums of weights are exact; None where it is none.

    A weight is a number from 0 to 1. It is rounded to a multiple of 2**-20: whatever the order in which such
    weights are added, the sum is the same.

    >>> checked_weight(0.5), checked_weight(1.5), checked_weight("heavy")
    (0.5, None, None)
    """
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight <= 1:
        return None
    return round(weight * _STEPS) / _STEPS


class Choice(msgspec.Struct, frozen=True):
    """One of the answers in a completion.

    Args:
        text: What it says, without its reasoning; empty where the server broke it off.
        logprobs: The log-probability of each token, or empty.
        was_refused: Whether the model refused, or a content filter cut in: it costs a call and does not vote.
        was_cut: Whether its end is missing, at the token limit.
    """

    text: str
    logprobs: tuple[float, ...] = ()
    was_refused: bool = False
    was_cut: bool = False


class _Token(msgspec.Struct):
    logprob: float


class _Logprobs(msgspec.Struct):
    content: list[_Token] | None = None


class _Message(msgspec.Struct):
    content: str | list[dict[str, Any] | str] | None = None
    refusal: Any = None


class _Choice(msgspec.Struct):
    message: _Message
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None

    def read(self) -> Choice:
        said = read_content(self.message.content)
        refusal = refusal_in(self.finish_reason, self.message.refusal or said.refusal)
        text = "" if is_failed(self.finish_reason) else split_thoughts(said.text)[1]
        was_cut = bool(text) and is_cut(self.finish_reason)
        return Choice(text, _logprobs_of(self), refusal is not None, was_cut)


class _Completion(msgspec.Struct):
    choices: list[_Choice]


def read_choices(first: Choice, raw: object) -> tuple[Choice, ...]:
    """Return every answer in a completion; the first says what `first` says, whatever is in `raw`.

    Args:
        first: The answer that the provider read out of the completion.
        raw: The completion as it came, in OpenAI's format; of anything else, only `first` counts.

    >>> raw = {"choices": [{"message": {"content": "a"}}, {"message": {"content": "b"}}]}
    >>> [choice.text for choice in read_choices(Choice("a"), raw)]
    ['a', 'b']
    """
    choices = _raw_choices(raw)
    if not choices:
        return (first,)
    with_logprobs = msgspec.structs.replace(first, logprobs=_logprobs_of(choices[0]))
    return with_logprobs, *[choice.read() for choice in choices[1:]]


def _raw_choices(raw: object) -> list[_Choice]:
    if not isinstance(raw, Mapping) or "choices" not in raw:
        return []
    try:
        choices = cast("Mapping[str, Any]", raw)["choices"]
        return msgspec.convert({"choices": choices}, _Completion).choices
    except (msgspec.ValidationError, RecursionError):
        return []


def _logprobs_of(choice: _Choice) -> tuple[float, ...]:
    tokens: Iterable[_Token] = (choice.logprobs and choice.logprobs.content) or ()
    return tuple([token.logprob for token in tokens])
