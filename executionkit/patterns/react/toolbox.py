"""Making the tool calls of a round: looked up, checked, approved, bounded, and told to the model."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, cast

import msgspec
from typing_extensions import TypeIs

from executionkit.approval import Approval, Approve, Decision, Deny, Edit, Proposal
from executionkit.approval import Stop as StopDecision
from executionkit.core.encoding import json_text
from executionkit.core.frozen import freeze_mapping, thaw
from executionkit.core.observation import failed, shortened
from executionkit.core.schema.validation import Rejected, parse_arguments
from executionkit.errors import JournalError
from executionkit.errors.handling import unwrapped
from executionkit.events import ToolFinished, ToolStarted
from executionkit.provider import ToolCall
from executionkit.runtime.context import Context, journaled_call, replay_within, span_below
from executionkit.runtime.tasks.cancellation import name_of_end
from executionkit.runtime.tasks.timeouts import finish_within
from executionkit.tools import Tool, ToolError

__all__ = ["CallRules", "Toolbox"]

_CUT: Final = "the reply was cut off in it, so that it was not made; call it again, and be shorter"
_UNFINISHED: Final = failed("Cancelled", "the run ended before this call did; it may have had an effect")


class CallRules(msgspec.Struct, frozen=True):
    """What holds for every call of a loop.

    Args:
        timeout: Seconds a call may take, in place of each tool's own.
        max_observation_chars: Characters of a result that the model gets to see.
        max_concurrency: Calls of one round under way at once.
        max_calls: Calls of the whole loop.
        approve: Asked before each call.
    """

    timeout: float | None
    max_observation_chars: int
    max_concurrency: int
    max_calls: int | None
    approve: Approval | None


class _Ready(msgspec.Struct, frozen=True):
    tool: Tool
    given: Mapping[str, Any]
    arguments: Mapping[str, Any]


class _Refused(msgspec.Struct, frozen=True):
    error: str
    hint: str


class Toolbox:
    """The tools of one run, and what has been made of them."""

    __slots__ = (
        "_admitted",
        "_per_tool",
        "_rounds",
        "_rules",
        "_shown_texts",
        "_tools",
        "calls_made",
        "stopped",
        "truncated",
    )

    def __init__(self, tools: Sequence[Tool], rules: CallRules) -> None:
        self._tools = {tool.name: tool for tool in tools}
        self._rules = rules
        self._per_tool: Counter[str] = Counter()
        self._admitted = 0
        self._rounds = 0
        self._shown_texts: dict[int, str] = {}
        self.calls_made: int = 0
        self.stopped: str | None = None
        self.truncated: int = 0

    async def observe(
        self, calls: Sequence[ToolCall], context: Context, *, has_open_end: bool = False
    ) -> None:
        """Make the calls of one round; `texts` then has what the model gets to see.

        Where the approval hook ends the loop no call of the round is made, and `stopped` says why.

        Args:
            calls: The calls.
            context: The stage's context.
            has_open_end: Whether the last call may have gone on: arguments that are whole by chance, or made
                whole by the server, are not what the model asked for. It is not made.
        """
        self._shown_texts = {}
        self.calls_made += len(calls)
        self._rounds += 1
        number = self._rounds
        whole = calls[:-1] if has_open_end else calls
        admitted = [self._admit(call) for call in whole]
        admitted += [_Refused("CutOff", _CUT)] * (len(calls) - len(whole))
        if self._rules.approve is not None:
            admitted = await self._all_approved(self._rules.approve, admitted, context, number)

        async def make(index: int) -> None:
            self._shown_texts[index] = await self._observed(
                calls[index], admitted[index], context.part(number, index)
            )

        await context.gather(make, len(calls), self._rules.max_concurrency)

    def texts(self, count: int) -> list[str]:
        """Return what the model gets to see of the round's calls, in order; of those not ended, that."""
        return [self._shown_texts.get(index, _UNFINISHED) for index in range(count)]

    async def _all_approved(
        self, approve: Approval, admitted: list[_Ready | _Refused], context: Context, number: int
    ) -> list[_Ready | _Refused]:
        decided: list[_Ready | _Refused] = []
        for index, call in enumerate(admitted):
            if isinstance(call, _Ready):
                decided.append(await self._approved(approve, call, context, (number, index)))
            else:
                decided.append(call)
            if self.stopped is not None:
                return [_Refused("Stopped", self.stopped)] * len(admitted)
        return decided

    def _admit(self, call: ToolCall) -> _Ready | _Refused:
        tool = self._tools.get(call.name)
        if tool is None:
            names = ", ".join(self._tools) or "none"
            return _Refused("UnknownTool", f"there is no tool named {call.name[:80]!r}; there are: {names}")
        given = parse_arguments(cast("Mapping[str, Any] | str", thaw(call.arguments)))
        ready = _checked(tool, given)
        return self._counted(ready) if isinstance(ready, _Ready) else ready

    def _counted(self, ready: _Ready) -> _Ready | _Refused:
        """Count a call against the ceilings."""
        tool, most = ready.tool, self._rules.max_calls
        if most is not None and self._admitted >= most:
            return _Refused("CallLimit", f"all {most} calls are made; answer with what you know")
        if tool.max_calls is not None and self._per_tool[tool.name] >= tool.max_calls:
            return _Refused("CallLimit", f"all {tool.max_calls} calls of {tool.name} are made")
        self._admitted += 1
        self._per_tool[tool.name] += 1
        return ready

    async def _approved(
        self, approve: Approval, ready: _Ready, context: Context, at: tuple[int, int]
    ) -> _Ready | _Refused:
        proposal = Proposal(ready.tool.name, freeze_mapping(ready.given), context.cost)
        entry = journaled_call(context.part(*at), "approval", ready.tool.name, ready.given)
        kept = None if entry is None else entry.result
        if kept is not None:
            decision = msgspec.json.decode(kept[0], type=_Kept).decision()
        else:
            decision = await _decision(approve, proposal)
            if entry is not None and not isinstance(decision, StopDecision):  # a stop may be thought over
                entry.ended(_kept(decision), None)
        match decision:
            case Approve():
                return ready
            case Edit(arguments):
                return _checked(ready.tool, parse_arguments(_plain(arguments)))
            case Deny(reason):
                return _Refused("Denied", reason)
            case StopDecision(reason):
                self.stopped = str(reason)
                return _Refused("Stopped", self.stopped)

    async def _observed(self, call: ToolCall, admitted: _Ready | _Refused, context: Context) -> str:
        span = span_below(context)
        if span is None:
            return self._shown((await self._result(admitted, context))[0])
        arguments = json_text(call.arguments) if span.content else None
        known = self._tools.get(call.name)
        span.send(
            ToolStarted,
            tool=call.name,
            call_id=call.id,
            description=None if known is None else known.description,
            arguments=arguments,
        )
        leave = span.enter()
        try:
            text, error = await self._result(admitted, context)
        except BaseException as ended:
            span.send(ToolFinished, tool=call.name, duration=span.duration, error=name_of_end(ended))
            raise
        finally:
            if leave is not None:
                leave()
        span.send(
            ToolFinished,
            tool=call.name,
            duration=span.duration,
            error=error,
            text=text if span.content else None,
        )
        return self._shown(text)

    async def _result(self, admitted: _Ready | _Refused, context: Context) -> tuple[str, str | None]:
        """Return what came of a call, and the name of the error where there was one."""
        if isinstance(admitted, _Refused):
            return failed(admitted.error, admitted.hint), admitted.error
        tool = admitted.tool
        entry = journaled_call(context, "tool", tool.name, admitted.given, tool.effects)
        if entry is None:
            return await self._called(admitted, context)
        if entry.result is not None:
            replay_within(context)
            return entry.result
        await entry.begin(may_repeat=tool.may_repeat)
        context.frame.key = entry.key
        text, fault = await self._called(admitted, context)
        entry.ended(text, fault)
        return text, fault

    async def _called(self, ready: _Ready, context: Context) -> tuple[str, str | None]:
        tool, arguments = ready.tool, ready.arguments
        try:
            seconds = self._rules.timeout or tool.timeout
            text = await finish_within(
                lambda: tool.call(arguments, context), seconds, name=f"the tool {tool.name}"
            )
        except ToolError as error:
            return failed("ToolError", _text_of(error)), "ToolError"
        except Exception as error:
            cause = unwrapped(error)
            if isinstance(cause, JournalError):  # of what the tool ran: nothing is to go around that
                raise cause from error.__cause__
            kind = type(cause).__name__
            return failed(kind), kind
        return text, None

    def _shown(self, text: str) -> str:
        most = self._rules.max_observation_chars
        self.truncated += len(text) > most
        return shortened(text, most)


def _checked(tool: Tool, given: dict[str, Any] | Rejected) -> _Ready | _Refused:
    if isinstance(given, Rejected):
        return _Refused("InvalidArguments", str(given))
    arguments = tool.prepare(given)
    if isinstance(arguments, Rejected):
        return _Refused("InvalidArguments", str(arguments))
    return _Ready(tool, given, arguments)


def _text_of(error: ToolError) -> str:
    with suppress(Exception):  # foreign code: a text that cannot be made must not end the loop
        return str(error)
    return ""


class _Kept(msgspec.Struct, frozen=True, omit_defaults=True):
    """A decision as a journal keeps it."""

    is_approved: bool = False
    arguments: dict[str, Any] | None = None
    reason: str = ""

    def decision(self) -> Decision:
        if self.arguments is not None:
            return Edit(self.arguments)
        return Approve() if self.is_approved else Deny(self.reason)


def _kept(decision: Decision) -> str:
    match decision:
        case Edit(arguments):
            return json_text(_Kept(arguments=dict(_plain(arguments))))
        case Deny(reason):
            return json_text(_Kept(reason=reason))
        case _:
            return json_text(_Kept(is_approved=True))


def _plain(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", thaw(arguments))


async def _decision(approve: Approval, proposal: Proposal) -> Decision:
    """Ask the hook, who may take any time; whatever goes wrong with it counts as a no."""

    async def ask() -> Decision:
        return await approve(proposal)

    try:
        decision = await finish_within(ask, name="an approval hook")
    except Exception as error:
        return Deny(f"the approval hook raised {type(unwrapped(error)).__name__}")
    answered: object = decision
    return answered if _is_decision(answered) else Deny("the approval hook gave no decision")


def _is_decision(value: object) -> TypeIs[Decision]:
    return isinstance(value, (Approve, Deny, Edit, StopDecision))
