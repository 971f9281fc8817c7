"""A single completion, as a stage."""

from typing_extensions import override

from executionkit.core.bounds import Given, Reach, of_calls
from executionkit.core.checks import check_completion, check_flag
from executionkit.core.dialect import Request
from executionkit.core.facade import makes_stage
from executionkit.core.refusals import noted_refusal
from executionkit.outcome import PatternResult
from executionkit.provider import DEFAULT_MAX_TOKENS, opening
from executionkit.runtime.context import Context
from executionkit.runtime.given import PROMPT_FRAME, told
from executionkit.stage import Stage
from executionkit.system import System, check_system, system_messages

__all__ = ["Complete", "complete"]


class Complete(Stage[str, str], frozen=True):
    """One completion; see `complete`."""

    temperature: float | None = None
    max_tokens: int = DEFAULT_MAX_TOKENS
    in_pieces: bool = False
    """The keyword `stream`: that name is a method's."""
    system: System[str] | None = None

    def __post_init__(self) -> None:
        check_completion(self.temperature, self.max_tokens)
        check_flag("stream", self.in_pieces)
        check_system(self.system)

    @override
    async def perform(self, value: str, context: Context) -> PatternResult[str]:
        messages = [*system_messages(self.system, value), *opening(value)]
        request = Request(messages, self.temperature, self.max_tokens)
        response = (await context.answer(request, stream=self.in_pieces, is_answer=True)).response
        metadata = {"finish_reason": response.finish_reason, **noted_refusal(response.refusal)}
        return PatternResult(response.content, metadata=metadata)

    @property
    @override
    def streams_text(self) -> bool:
        return True

    @property
    @override
    def text_is_final(self) -> bool:
        return True

    @override
    def reach(self, given: Given) -> Reach:
        given = told(given, self.system)
        return of_calls(given, given.value + PROMPT_FRAME, self.max_tokens, is_answer=True)


@makes_stage
def complete(
    *,
    temperature: float | None = None,
    max_tokens: int = DEFAULT_MAX_TOKENS,
    stream: bool = False,
    system: System[str] | None = None,
) -> Complete:
    """Ask once. The value is the text, the score None.

    Args:
        temperature: Sampling temperature, 0 to 2; None leaves it to the provider.
        max_tokens: Output tokens at most.
        stream: Have the answer streamed where the provider can; its pieces are sent as `TextDelta` to a trace
            that asked for content (`with_content`). Once text was sent, a failure is not retried.
        system: What the model is told before the prompt: text, or a function of the input.

    Metadata:
        finish_reason (str): Why the model stopped: `"stop"`, `"length"`, `"content_filter"`, ...
        refusal (str): Where the model refused, or a content filter cut in: the text of the refusal, or
            `"content_filter"`. The value is then no answer.

    Raises:
        TypeError: A setting is not a number.
        ValueError: A setting is out of range.
    """
    return Complete(temperature, max_tokens, stream, system)
