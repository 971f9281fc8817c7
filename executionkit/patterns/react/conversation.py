"""The conversation of one run of the loop: what is sent, what comes back, and what is dropped of it."""

from itertools import chain
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

from returns.result import Failure, Success

from executionkit.core.encoding import json_text
from executionkit.core.history import trim_rounds
from executionkit.core.limits import is_last_call
from executionkit.core.refusals import noted_refusal
from executionkit.core.schema.answer import AnswerType, Decoded, answer_type, asking, complaint
from executionkit.core.schema.validation import Rejected
from executionkit.core.transcript import Rounds, Transcript, call_ids, parted
from executionkit.core.usage import NO_USAGE
from executionkit.errors import BudgetExhaustedError, InvalidOutputError, MaxIterationsError, StoppedError
from executionkit.outcome import PatternResult
from executionkit.patterns.react.protocols import Reply, ReplySettings, choose_protocol
from executionkit.patterns.react.toolbox import CallRules, Toolbox
from executionkit.provider import Message, ToolCall, user
from executionkit.runtime.context import Context
from executionkit.runtime.rules import broken
from executionkit.system import system_messages

if TYPE_CHECKING:
    from executionkit.patterns.react.loop import React

__all__ = ["Conversation"]

T = TypeVar("T")

_LAST_WORDS: Final = "No tool can be called any more. Answer now, with what you know."
_SUMMARISE: Final = "Summarise this part of a conversation: the facts found, and what is still to be done."
_SUMMARY: Final = "Summary of the conversation so far:"
_TEXT: Final = {"type": "string"}


class Conversation(Generic[T]):
    """The state of one run of the loop: what was said, and what goes to the model next.

    Args:
        settings: The stage.
        prompt: What it is asked.
        context: Its context.
    """

    def __init__(self, settings: "React[T]", prompt: str, context: Context) -> None:
        self._settings = settings
        self._context = context
        output_type = settings.output_type
        self._kind: AnswerType[T] | None = None if output_type is None else answer_type(output_type)
        how = ReplySettings(
            settings.temperature,
            settings.max_tokens,
            settings.delimit_results,
            self._kind.schema if self._kind else _TEXT,
            self._kind is not None,
            call_ids(settings.transcript),
        )
        self._protocol = choose_protocol(context, settings.tools, how)
        self._toolbox = Toolbox(settings.tools, _rules(settings))
        # A protocol with a head has said there what an answer looks like.
        is_told = self._kind is None or bool(self._protocol.head)
        self._prompt = user(prompt if is_told or self._kind is None else asking(prompt, self._kind))
        system, earlier = parted(settings.transcript)
        if settings.system is not None:
            system = system_messages(settings.system, prompt)
        self._earlier = list(map(self._protocol.earlier, earlier))
        self._head = [*self._protocol.head, *system]
        self._later: Rounds = []
        self._talk: list[Message] = [*system, *chain(*earlier), self._prompt]
        self._summary: list[Message] = []
        self._reasons: list[str] = []
        self._rounds = 0
        self._truncated_responses = 0
        self._messages_trimmed = 0
        self._last_cost = NO_USAGE
        self._calls: tuple[ToolCall, ...] = ()
        self._limit: str | None = None
        self._refusal: str | None = None

    def metadata(self) -> dict[str, object]:
        """Return the metadata of the result, or of an error, as they are now."""
        found: dict[str, object] = {
            "rounds": self._rounds,
            "tool_calls_made": self._toolbox.calls_made,
            "truncated_responses": self._truncated_responses,
            "truncated_observations": self._toolbox.truncated,
            "messages_trimmed": self._messages_trimmed,
            "transcript": Transcript([*self._talk, *self._unfinished()]),
            **noted_refusal(self._refusal),
        }
        if self._reasons:
            found["reasons"] = tuple(self._reasons)
        if self._limit is not None:
            found["limit"] = self._limit
        return found

    def _unfinished(self) -> list[Message]:
        """Return the results of the calls under way, so that a conversation that ends here can be sent."""
        calls = self._calls
        return self._protocol.results(calls, self._toolbox.texts(len(calls))) if calls else []

    async def next_reply(self) -> Reply | None:
        """Ask the model to go on; None where the budget leaves room for the last call only."""
        if self._settings.on_limit == "fail":
            return self._noted(await self._protocol.ask(self._context, await self._messages()))
        if self._rounds and is_last_call(self._context.left, self._last_cost):
            return None
        before = self._context.cost
        messages = await self._messages()
        outcome = await self._context.attempt(lambda below: self._protocol.ask(below, messages))
        match outcome:
            case Success(reply):
                self._last_cost = self._context.cost - before
                return self._noted(reply)
            case Failure(error):
                if self._rounds and isinstance(error, BudgetExhaustedError):
                    return None
                raise error

    def _noted(self, reply: Reply) -> Reply:
        self._rounds += 1
        self._truncated_responses += reply.was_truncated
        self._refusal = reply.refusal
        self.add([reply.message])
        return reply

    def add(self, messages: list[Message]) -> None:
        """Go on with these messages; they are dropped together."""
        self._later.append(messages)
        self._talk.extend(messages)

    async def observe(self, reply: Reply) -> None:
        """Make the calls of a reply; their results join its message, so that they are dropped together."""
        self._calls = reply.calls
        await self._toolbox.observe(reply.calls, self._context, has_open_end=reply.has_open_end)
        results = self._unfinished()
        self._calls = ()
        self._later[-1].extend(results)
        self._talk.extend(results)
        if self._toolbox.stopped is not None:
            raise StoppedError(self._toolbox.stopped)

    async def read(self, reply: Reply) -> Decoded[Any] | None:
        """Return the answer, or None where the model has to try again."""
        answer: Decoded[Any] | Rejected = Decoded(reply.text)
        if self._kind is not None:
            answer = self._kind.read(reply.text, reply.refusal, was_cut=reply.was_truncated)
        elif reply.has_open_end and reply.refusal is None:  # which is told as it is
            answer = Rejected(("its end is missing",))
        if isinstance(answer, Decoded):
            reason = await broken(self._settings.check, answer.value)
            if reason is None:
                return answer
            answer = Rejected((reason,))
        self._reasons.append(complaint(answer, was_truncated=reply.was_truncated))
        if len(self._reasons) > self._settings.output_retries:
            what = "text" if self._kind is None else self._kind.name
            raise InvalidOutputError(
                f"no {what} in {len(self._reasons)} answers: {self._reasons[-1]}",
                metadata={"last_text": reply.text},
            )
        self._context.void("repair")
        self.add([user(f"{self._reasons[-1]}\nSend it again, corrected.")])
        return None

    async def conclude(self, limit: str) -> PatternResult[T]:
        """Ask once more, without tools, and take that for the answer."""
        self._limit = limit
        self.add([user(_LAST_WORDS)])
        reply = self._noted(await self._last_reply())
        if reply.complaint is not None and self._kind is not None:
            raise InvalidOutputError(reply.complaint, metadata={"last_text": reply.text})
        if reply.complaint is not None or not (reply.text or self._kind):
            raise MaxIterationsError(f"no answer when the {limit} ran out, nor in a last call without tools")
        answer = await self.read(reply)
        if answer is None:
            raise InvalidOutputError(self._reasons[-1], metadata={"last_text": reply.text})
        return PatternResult(cast("T", answer.value), metadata=self.metadata())

    async def _last_reply(self) -> Reply:
        """Ask without tools; where the budget has no room for all the messages, without the oldest rounds."""
        while True:
            outcome = await self._context.attempt(self._ask_for_last_words)
            match outcome:
                case Success(reply):
                    return reply
                case Failure(BudgetExhaustedError()) if self._drop_oldest():
                    continue
                case Failure(error):
                    raise error

    async def _ask_for_last_words(self, context: Context) -> Reply:
        return await self._protocol.ask(context, await self._messages(), with_tools=False)

    def _drop_oldest(self) -> bool:
        """Drop the oldest round that is left; the last one stays, and the request for last words."""
        rounds, keep = (self._earlier, 0) if self._earlier else (self._later, 2)
        if len(rounds) <= keep:
            return False
        self._messages_trimmed += len(rounds.pop(0))
        return True

    async def _messages(self) -> list[Message]:
        """Return what to send, the oldest rounds dropped where there are too many."""
        most = self._settings.max_history_messages
        if most is not None:
            await self._trim(most)
        later = [message for messages in self._later for message in messages]
        if not (self._earlier or self._summary):
            return [*self._head, self._prompt, *later]
        earlier = [message for messages in self._earlier for message in messages]
        return [*self._head, *self._summary, *earlier, self._prompt, *later]

    async def _trim(self, most: int) -> None:
        summarise = self._settings.summarise
        room = most - len(self._head) - 1 - (summarise is not None)
        dropped = _drop(self._earlier, room - sum(map(len, self._later)), 0)
        dropped += _drop(self._later, room - sum(map(len, self._earlier)), 1)
        self._messages_trimmed += len(dropped)
        if dropped and summarise is not None:
            text = "\n".join(map(json_text, [*self._summary, *dropped]))
            summary = await self._context.run(summarise, f"{_SUMMARISE}\n{text}")
            self._summary = [user(f"{_SUMMARY}\n{summary.value}")]


def _drop(rounds: Rounds, most: int, keep: int) -> list[Message]:
    """Drop the oldest rounds until `most` messages are left, or `keep` rounds, and return those."""
    count = trim_rounds(rounds, most, keep)
    dropped = [message for messages in rounds[:count] for message in messages]
    del rounds[:count]
    return dropped


def _rules(settings: "React[Any]") -> CallRules:
    return CallRules(
        settings.tool_timeout,
        settings.max_observation_chars,
        settings.max_concurrency,
        settings.max_tool_calls,
        settings.approve,
    )
