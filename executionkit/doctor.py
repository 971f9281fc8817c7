"""What does a server take? A few small calls find out, one for each field of its `Dialect`.

On the command line: `executionkit doctor URL MODEL --key-env NAME`.
"""

import re
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any, Final, cast

import anyio
import msgspec

from executionkit.core.dialect import REASONING_FIELDS, Dialect, OutputLimit, ResponseFormat
from executionkit.core.encoding import json_text
from executionkit.core.usage import NO_USAGE, TokenUsage, read_usage
from executionkit.errors import LLMError, PermanentError
from executionkit.provider import LLMResponse, Message, ToolCall, user
from executionkit.providers.openai import Provider

__all__ = ["MOST_CALLS", "TOKENS_A_CALL", "Diagnosis", "Finding", "diagnose"]

MOST_CALLS: Final = 20
"""Requests at most."""

TOKENS_A_CALL: Final = 16
"""Output tokens of each at most."""

_PROMPT: Final = "JSON check: answer with the single word OK and nothing else."
_SCHEMA: Final = {
    "type": "object",
    "properties": {"confirmation": {"type": "string"}},
    "required": ["confirmation"],
    "additionalProperties": False,
}
_TOOL: Final = {
    "type": "function",
    "function": {
        "name": "note",
        "description": "Note a word.",
        "parameters": {
            "type": "object",
            "properties": {"word": {"type": "string"}},
            "required": ["word"],
            "additionalProperties": False,
        },
    },
}
_FORMS: Final[Mapping[ResponseFormat, dict[str, Any]]] = {
    "json_schema": {
        "type": "json_schema",
        "json_schema": {"name": "check", "schema": _SCHEMA, "strict": True},
    },
    "json_object": {"type": "json_object"},
}
_LONG_ID: Final = "call_doctor_0001"
_SHORT_ID: Final = "doctor001"
_REFUSALS: Final = frozenset({400, 404, 422})
_SHOWN_SCHEMA: Final = 8
"""Prompt tokens by which a request grows at least where the server shows the schema to the model."""
_PATIENCE: Final = 5
"""Attempts at a server that is busy or still loading its model."""
SHORTEST_WAIT: float = 2.0
"""Seconds to wait for it, where it does not say how long."""
_LONGEST_WAIT: Final = 30.0


class Finding(msgspec.Struct, frozen=True):
    """What was found out about one thing.

    Args:
        what: The thing.
        answer: What is so.
    """

    what: str
    answer: str


class Diagnosis(msgspec.Struct, frozen=True):
    """What a server takes.

    Args:
        dialect: How it wants requests said; `Provider(..., dialect=...)` takes it.
        findings: What was found out, in order.
        cost: What that has cost, refused calls included.
    """

    dialect: Dialect
    findings: tuple[Finding, ...]
    cost: TokenUsage


async def diagnose(provider: Provider) -> Diagnosis:
    """Find out what the server of a provider takes, in at most 20 calls of at most 16 output tokens.

    What cannot be told, such as whether an answer that was cut before its first word would have been JSON,
    counts as taken; what a server does only with other models or prompts is not seen. The provider's own
    dialect plays no part.

    Raises:
        LLMError: The server does not answer a plain request, and these are its words.
    """
    async with AsyncExitStack() as opened:
        patient = _Patient(provider, opened)
        await patient.examine()
    plain = Dialect()  # what does not differ is left out, so that it is not printed
    found = {name: value for name, value in patient.found.items() if value != getattr(plain, name)}
    return Diagnosis(Dialect(**found), tuple(patient.findings), patient.cost)


class _Patient:
    """A server under examination.

    Args:
        provider: How to reach it.
        opened: What closes the connections.
    """

    def __init__(self, provider: Provider, opened: AsyncExitStack) -> None:
        self._opened = opened
        self._provider = msgspec.structs.replace(
            provider, dialect=Dialect(), default_temperature=None, default_max_tokens=None
        )
        opened.push_async_callback(self._provider.aclose)
        self._limit: OutputLimit = "max_tokens"
        self._plain = LLMResponse("")
        self.found: dict[str, Any] = {}
        self.findings: list[Finding] = []
        self.cost: TokenUsage = NO_USAGE

    async def examine(self) -> None:
        """Ask for one thing after the other."""
        await self._find_limit()
        await self._find_sampling()
        await self._find_forms()
        await self._find_system_messages()
        self._find_reasoning()
        await self._find_tools()
        await self._find_stream_usage()

    @property
    def _bound(self) -> dict[str, Any]:
        return {self._limit: TOKENS_A_CALL}

    async def _find_limit(self) -> None:
        for name in ("max_tokens", "max_completion_tokens"):
            self._limit = name
            outcome = await self._ask([user(_PROMPT)])
            if isinstance(outcome, LLMResponse):
                self._plain = outcome
                return self._note("output_limit", name, f"`{name}`")
            if name == "max_completion_tokens" or outcome.metadata.get("status") == 404:
                raise outcome.stamped(self.cost)
        return None

    async def _find_sampling(self) -> None:
        tepid = await self._ask([user(_PROMPT)], temperature=0.5)
        takes_temperature = isinstance(tepid, LLMResponse)
        self._note("takes_temperature", takes_temperature, _yes(takes_temperature))
        several = await self._ask([user(_PROMPT)], n=2)
        takes_n = isinstance(several, LLMResponse) and len(_choices(several)) == 2
        self._note("takes_n", takes_n, _yes(takes_n))
        likely = await self._ask([user(_PROMPT)], logprobs=True)
        takes_logprobs = isinstance(likely, LLMResponse) and bool(_choices(likely)[0].get("logprobs"))
        self._note("takes_logprobs", takes_logprobs, _yes(takes_logprobs))

    async def _find_forms(self) -> None:
        forms: list[ResponseFormat] = []
        for form, asked in _FORMS.items():
            answer = await self._ask([user(_PROMPT)], response_format=asked)
            if not isinstance(answer, LLMResponse) or not _may_be_json(answer):
                continue
            forms.append(form)
            if form == "json_schema":
                grown = answer.input_tokens - self._plain.input_tokens
                self._note("schema_in_prompt", grown < _SHOWN_SCHEMA, _yes(grown < _SHOWN_SCHEMA))
        self._note("response_formats", tuple(forms), ", ".join(forms) or "none")

    async def _find_system_messages(self) -> None:
        two = [{"role": "system", "content": text} for text in ("Be brief.", "Be polite.")]
        answer = await self._ask([*two, user(_PROMPT)])
        is_strict = isinstance(answer, PermanentError)
        self._note("one_system_message", is_strict, _yes(is_strict))

    def _find_reasoning(self) -> None:
        thoughts = _thoughts(self._plain)
        field = next(iter(thoughts), REASONING_FIELDS[0])
        self._provider = self._speaking(Dialect(reasoning_field=field))
        self._note("reasoning_field", field, f"`{field}`" if thoughts else "none seen")

    async def _find_tools(self) -> None:
        forced = await self._ask([user("Say hello.")], tools=[_TOOL], tool_choice="required")
        is_forced = isinstance(forced, LLMResponse) and (forced.has_tool_calls or not forced.content)
        self._note("forced_tools", is_forced, _yes(is_forced))
        asked = user('Use the tool `note` to note the word "ok".')
        called = forced
        if not (isinstance(called, LLMResponse) and called.has_tool_calls):
            called = await self._ask([asked], tools=[_TOOL])
        if not isinstance(called, LLMResponse):
            self.findings.append(Finding("tools", f"refused: {called}"))
        elif not called.has_tool_calls:
            self.findings.append(Finding("tools", "taken, but not called when asked to"))
        else:
            self.findings.append(Finding("tools", "yes"))
            await self._find_history(asked, called)

    async def _find_history(self, asked: Message, called: LLMResponse) -> None:
        """Find out what a conversation with a tool call in it may hold."""
        field = self.found["reasoning_field"]
        thoughts = _thoughts(called)
        call = called.tool_calls[0]
        outcome = await self._ask(_history(asked, call, _LONG_ID, thoughts), tools=[_TOOL])
        identity = _LONG_ID
        if isinstance(outcome, PermanentError) and re.search(r"\bid\b", str(outcome), re.IGNORECASE):
            identity = _SHORT_ID
            outcome = await self._ask(_history(asked, call, identity, thoughts), tools=[_TOOL])
        self._note("tool_ids", "any" if identity == _LONG_ID else "nine", identity)
        echoes = isinstance(outcome, LLMResponse)
        if echoes and not thoughts:  # would it take some?
            foreign = _history(asked, call, identity, {field: "I note it."})
            echoes = isinstance(await self._ask(foreign, tools=[_TOOL]), LLMResponse)
        self._note("echo_reasoning", echoes, _yes(echoes))

    async def _find_stream_usage(self) -> None:
        said = self._speaking(Dialect(reasoning_field=self.found["reasoning_field"]))
        outcome = await self._streamed(said)
        is_taken = isinstance(outcome, LLMResponse)
        if not is_taken:
            outcome = await self._streamed(self._speaking(Dialect(stream_usage=False)))
        if isinstance(outcome, LLMResponse):
            self._note("stream_usage", is_taken, _yes(is_taken))
            self.findings.append(Finding("usage in a stream", _yes(bool(outcome.usage))))
        else:
            self.findings.append(Finding("streams", f"refused: {outcome}"))

    def _speaking(self, dialect: Dialect) -> Provider:
        provider = msgspec.structs.replace(self._provider, dialect=dialect)
        self._opened.push_async_callback(provider.aclose)
        return provider

    async def _streamed(self, provider: Provider) -> LLMResponse | LLMError:
        self._check_calls()
        pieces = provider.stream([user(_PROMPT)], **self._bound)
        try:
            async with pieces:
                async for _ in pieces:
                    pass
        except PermanentError as error:
            self.cost += error.cost
            return error
        self.cost += pieces.cost
        return pieces.response

    async def _ask(self, messages: list[Message], **options: Any) -> LLMResponse | LLMError:
        """Make a call; what is refused comes back as the refusal, and what passes is waited for."""
        for attempt in range(1, _PATIENCE + 1):
            self._check_calls()
            try:
                response = await self._provider.complete(messages, **self._bound, **options)
            except LLMError as error:
                self.cost += error.cost
                if isinstance(error, PermanentError) and error.metadata.get("status") in _REFUSALS:
                    return error
                if not error.retryable or attempt == _PATIENCE:
                    raise error.stamped(self.cost) from error.__cause__
                await anyio.sleep(min(error.requested_delay or SHORTEST_WAIT, _LONGEST_WAIT))
            else:
                self.cost += _charged(response)
                return response
        raise RuntimeError("unreachable: the last attempt returns or raises")

    def _check_calls(self) -> None:
        if self.cost.llm_calls >= MOST_CALLS:
            raise PermanentError(f"not found out within {MOST_CALLS} calls", cost=self.cost)

    def _note(self, field: str, value: object, answer: str) -> None:
        self.found[field] = value
        self.findings.append(Finding(field, answer))


def _charged(response: LLMResponse) -> TokenUsage:
    return read_usage(response.usage).or_else(0, 0)


def _yes(is_so: bool) -> str:
    return "yes" if is_so else "no"


def _choices(response: LLMResponse) -> list[dict[str, Any]]:
    choices: list[dict[str, Any]] = cast("dict[str, Any]", response.raw)["choices"]
    return choices


def _sent(response: LLMResponse) -> dict[str, Any]:
    """Return the message as the server sent it."""
    message: dict[str, Any] = _choices(response)[0]["message"]
    return message


def _thoughts(response: LLMResponse) -> dict[str, Any]:
    """Return the reasoning that a server sent, by the name of its field."""
    sent = _sent(response).items()
    return {name: value for name, value in sent if name in REASONING_FIELDS and value}


def _may_be_json(response: LLMResponse) -> bool:
    """Tell whether an answer was held to be JSON; one that was cut before its first word may have been."""
    text = response.content.strip()
    return text.startswith("{") or (not text and response.was_truncated)


def _history(asked: Message, call: ToolCall, identity: str, thoughts: Mapping[str, object]) -> list[Message]:
    function = {"name": call.name, "arguments": json_text(call.arguments)}
    request = {**call.extra, "id": identity, "type": "function", "function": function}
    said = {"role": "assistant", "content": "", **thoughts, "tool_calls": [request]}
    return [asked, said, {"role": "tool", "tool_call_id": identity, "content": "noted"}]
