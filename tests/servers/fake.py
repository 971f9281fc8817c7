"""A fake server: a small function over a parsed request, served in process or over HTTP on loopback."""

from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from decimal import Decimal
from functools import partial
from typing import Any, ClassVar, Final
from urllib.parse import parse_qsl

import anyio
import anyio.abc
import httpx
import msgspec

from executionkit.core.usage import NO_USAGE, TokenUsage
from tests.servers.model import THOUGHTS, Said, part, said_to, tokens

__all__ = ["KEY", "Asked", "Fake", "Refusal", "Rule", "Shape", "served"]

KEY: Final = "sk-servers-0123456789abcdef"


class Asked(msgspec.Struct, frozen=True):
    """A request as a server sees it."""

    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: dict[str, Any]


class Reply(msgspec.Struct, frozen=True):
    """An answer as it goes out."""

    status: int
    body: bytes
    headers: dict[str, str] = {}


class Refusal(msgspec.Struct, frozen=True):
    """What a server answers to what it does not take: the status, and its own body."""

    status: int
    body: object
    headers: dict[str, str] = {}


Rule = Callable[[Asked], Refusal | None]


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """How a server writes its answers, and what it ignores without a word.

    Args:
        reasoning: The field of the model's thoughts; None where it does not think aloud.
        forms: The forms of `response_format` that it holds an answer to; others are ignored.
        choice: Whether it minds `tool_choice`.
        takes_n: Whether it answers `n` times.
        takes_logprobs: Whether it sends log-probabilities.
        shows_schema: Whether the model is shown the schema that it is held to, and charged for it.
        usage: Whether a stream reports usage: `"asked"` where `stream_options` asks for it, `"always"`, or
            `"groq"`, in a field of Groq's own.
        before: Events of a stream before the first piece.
        usage_with_finish: Whether usage stands in the piece with the finish reason.
        call_extra: More fields of a tool call.
        call_id: The id of the tool call in an answer, by the number of the answer.
        usage_extra: More fields of the usage.
        comments: Whether a stream begins with a comment to keep the connection open.
    """

    reasoning: str | None = None
    forms: tuple[str, ...] = ("json_schema", "json_object")
    choice: bool = True
    takes_n: bool = True
    takes_logprobs: bool = True
    shows_schema: bool = False
    usage: str = "asked"
    usage_with_finish: bool = False
    before: tuple[dict[str, Any], ...] = ()
    call_extra: dict[str, Any] = {}
    call_id: Callable[[int], str] = "call_{:024d}".format
    usage_extra: dict[str, Any] = {}
    comments: bool = False


class Fake:
    """A server of OpenAI's chat completions that refuses what the real one refuses.

    Args:
        name: Whose.
        base_url: Where the real one is.
        model: A model there.
        rules: What is not taken; the first that objects decides.
        shape: How answers are written.
        key_header: The header of the key; None where any is taken.
        no_key: What an absent or wrong key is answered.
    """

    key: ClassVar = KEY

    def __init__(
        self,
        name: str,
        base_url: str,
        model: str,
        rules: tuple[Rule, ...] = (),
        shape: Shape | None = None,
        *,
        key_header: str | None = "authorization",
        no_key: Refusal | None = None,
    ) -> None:
        self.name, self.base_url, self.model = name, base_url, model
        self.rules, self.shape = rules, shape or Shape()
        self.key_header, self._no_key = key_header, no_key or Refusal(401, _error("Incorrect API key"))
        self.asked: list[Asked] = []
        self.refused: list[Refusal] = []
        self.usage = NO_USAGE

    def __repr__(self) -> str:
        return self.name

    @property
    def cost(self) -> TokenUsage:
        """What the server would charge for."""
        return self.usage + TokenUsage(llm_calls=len(self.asked))

    def transport(self) -> httpx.MockTransport:
        """Return what reaches it without a network, under its real address."""
        return httpx.MockTransport(self._over_httpx)

    async def _over_httpx(self, request: httpx.Request) -> httpx.Response:
        path, _, query = request.url.raw_path.decode().partition("?")
        reply = self.answer(path, query, dict(request.headers), await request.aread())
        return httpx.Response(reply.status, headers=reply.headers, content=reply.body)

    def answer(self, path: str, query: str, headers: dict[str, str], body: bytes) -> Reply:
        """Answer a request."""
        asked = Asked(path, dict(parse_qsl(query)), headers, msgspec.json.decode(body))
        self.asked.append(asked)
        refusal = self._objection(asked)
        if refusal is not None:
            self.refused.append(refusal)
            return Reply(refusal.status, msgspec.json.encode(refusal.body), {**_JSON, **refusal.headers})
        return self._written(asked)

    def _objection(self, asked: Asked) -> Refusal | None:
        if self.key_header is not None:
            given = asked.headers.get(self.key_header, "").removeprefix("Bearer ")
            if given != KEY:
                return self._no_key
        objections = (rule(asked) for rule in self.rules)
        return next((objection for objection in objections if objection is not None), None)

    def _written(self, asked: Asked) -> Reply:
        shape, body = self.shape, asked.body
        form = str(part(body, "response_format").get("type", "text"))
        said = said_to(
            body,
            choice=_choice(body) if shape.choice else "auto",
            form=form if form in shape.forms else "text",
        )
        answers = int(body.get("n", 1)) if shape.takes_n else 1
        usage = self._charged(body, said, answers, form)
        writer = _Writer(shape, self.model, said, usage, len(self.asked))
        logprobs = bool(shape.takes_logprobs and body.get("logprobs"))
        if not body.get("stream"):
            return Reply(200, msgspec.json.encode(writer.whole(answers, logprobs=logprobs)), _JSON)
        wants_usage = bool(part(body, "stream_options").get("include_usage"))
        return Reply(200, b"".join(writer.events(reports=wants_usage or shape.usage != "asked")), _EVENTS)

    def _charged(self, body: dict[str, Any], said: Said, answers: int, form: str) -> dict[str, Any]:
        shown = body.get("response_format") if self.shape.shows_schema and form in self.shape.forms else None
        given = tokens(body["messages"]) + tokens(body.get("tools") or "") + tokens(shown or "")
        thoughts = tokens(THOUGHTS) if self.shape.reasoning else 0
        made = (thoughts + tokens(said.text if said.call is None else said.call)) * answers
        price = self.shape.usage_extra.get("cost")
        usd = None if price is None else Decimal(repr(price))
        self.usage += TokenUsage(given, made, reasoning_tokens=thoughts * answers, usd=usd)
        details = {"completion_tokens_details": {"reasoning_tokens": thoughts * answers}} if thoughts else {}
        totals = {"prompt_tokens": given, "completion_tokens": made, "total_tokens": given + made}
        return {**totals, **details, **self.shape.usage_extra}


def _choice(body: dict[str, Any]) -> object:
    choice: Any = body.get("tool_choice", "auto")
    if isinstance(choice, str):
        return "required" if choice == "any" else choice
    return choice["function"]["name"]


class _Writer:
    """Writes one answer."""

    def __init__(self, shape: Shape, model: str, said: Said, usage: dict[str, Any], number: int) -> None:
        self._shape, self._said, self._usage = shape, said, usage
        self._id = f"chatcmpl-{number}"
        self._model = model
        self._call_id = shape.call_id(number)
        self._reason = "stop" if said.call is None else "tool_calls"

    def whole(self, answers: int, *, logprobs: bool) -> dict[str, Any]:
        """Return the answer in one piece."""
        message: dict[str, Any] = {"role": "assistant", "content": self._said.text or None}
        if self._shape.reasoning:
            message[self._shape.reasoning] = THOUGHTS
        if self._said.call is not None:
            message["tool_calls"] = [self._call()]
        likely: dict[str, Any] = {
            "logprobs": {"content": [{"token": "P", "logprob": -0.1, "top_logprobs": []}]}
        }
        choice: dict[str, Any] = {
            "message": message,
            "finish_reason": self._reason,
            **(likely if logprobs else {}),
        }
        choices = [{"index": index, **choice} for index in range(answers)]
        return {**self._head("chat.completion"), "choices": choices, "usage": self._usage}

    def events(self, *, reports: bool) -> Iterator[bytes]:
        """Yield the answer in pieces."""
        if self._shape.comments:
            yield b": OPENROUTER PROCESSING\n\n"
        for event in self._shape.before:
            yield _event({**self._head("chat.completion.chunk"), **event})
        for delta in self._deltas():
            yield self._piece(delta, None)
        last = self._usage_piece() if reports else {}
        if self._shape.usage_with_finish or "x_groq" in last:
            yield self._piece({}, self._reason, **last)
        else:
            yield self._piece({}, self._reason)
            if last:
                yield _event({**self._head("chat.completion.chunk"), "choices": [], **last})
        yield b"data: [DONE]\n\n"

    def _usage_piece(self) -> dict[str, Any]:
        return {"x_groq": {"usage": self._usage}} if self._shape.usage == "groq" else {"usage": self._usage}

    def _deltas(self) -> Iterator[dict[str, Any]]:
        yield {"role": "assistant", "content": ""}
        if self._shape.reasoning:
            for word in _halves(THOUGHTS):
                yield {self._shape.reasoning: word}
        for piece in _halves(self._said.text):
            yield {"content": piece}
        if self._said.call is not None:
            call = self._call()
            first, *others = _halves(call["function"]["arguments"])
            yield {"tool_calls": [{"index": 0, **call, "function": {**call["function"], "arguments": first}}]}
            for rest in others:
                yield {"tool_calls": [{"index": 0, "function": {"arguments": rest}}]}

    def _call(self) -> dict[str, Any]:
        assert self._said.call is not None
        name, given = self._said.call
        function = {"name": name, "arguments": msgspec.json.encode(given).decode()}
        return {"id": self._call_id, "type": "function", "function": function, **self._shape.call_extra}

    def _piece(self, delta: dict[str, Any], reason: str | None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return _event({**self._head("chat.completion.chunk"), "choices": [choice], **more})

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": 1764500000, "model": self._model}


_JSON: Final = {"content-type": "application/json"}
_EVENTS: Final = {"content-type": "text/event-stream"}


def _halves(text: str) -> list[str]:
    middle = -(-len(text) // 2)
    return [part for part in (text[:middle], text[middle:]) if part]


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


def _error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}


@asynccontextmanager
async def served(fake: Fake) -> AsyncGenerator[str]:
    """Serve a fake over HTTP on loopback; yields its `http://127.0.0.1:PORT`."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, partial(_serve, fake))
        yield f"http://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}"
        tasks.cancel_scope.cancel()


async def _serve(fake: Fake, stream: anyio.abc.SocketStream) -> None:
    async with stream:
        data = b""
        while True:
            while b"\r\n\r\n" not in data or len(data) < _length(data):
                try:
                    data += await stream.receive()
                except (anyio.EndOfStream, anyio.BrokenResourceError):
                    return
            head, _, rest = data.partition(b"\r\n\r\n")
            size = _length(data) - len(head) - 4
            data = rest[size:]
            reply = _reply(fake, head.decode("latin-1"), rest[:size])
            await stream.send(_raw(reply))


def _length(data: bytes) -> int:
    head, _, _ = data.partition(b"\r\n\r\n")
    return len(head) + 4 + int(_headers(head.decode("latin-1")).get("content-length", "0"))


def _headers(head: str) -> dict[str, str]:
    lines = [line.partition(":") for line in head.split("\r\n")[1:]]
    return {name.strip().lower(): value.strip() for name, _, value in lines}


def _reply(fake: Fake, head: str, body: bytes) -> Reply:
    path, _, query = head.split(" ")[1].partition("?")
    return fake.answer(path, query, _headers(head), body)


def _raw(reply: Reply) -> bytes:
    lines = [f"HTTP/1.1 {reply.status} -", *(f"{name}: {value}" for name, value in reply.headers.items())]
    return "\r\n".join([*lines, f"content-length: {len(reply.body)}", "", ""]).encode() + reply.body
