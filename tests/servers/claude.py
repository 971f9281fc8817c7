"""A fake of Anthropic's Messages API: what it refuses, how it streams, and what its prompt cache charges."""

from collections.abc import Iterator
from typing import Any, Final

import anyio.lowlevel
import httpx
import msgspec

from executionkit.core.usage import NO_USAGE, TokenUsage
from tests.servers.fake import KEY, Asked, Refusal
from tests.servers.model import THOUGHTS, Said, part, said_to, tokens

__all__ = ["Claude"]

_SMALLEST_CACHED: Final = 1024
"""https://platform.claude.com/docs/en/build-with-claude/prompt-caching: tokens of a prefix, by model."""
_FIELDS: Final = frozenset(
    {
        "model", "max_tokens", "messages", "system", "temperature", "tools", "tool_choice", "stream", "thinking",
        "stop_sequences", "output_config", "top_p", "top_k", "metadata",
    }
)  # fmt: skip
_BLOCKS: Final = frozenset({"text", "image", "tool_use", "tool_result", "thinking", "redacted_thinking"})


class Claude:
    """The server.

    Args:
        thinks: Whether it thinks before it answers, as `thinking` asks for.
        reports: Headers of each answer.
    """

    def __init__(self, *, reports: dict[str, str] | None = None) -> None:
        self.asked: list[Asked] = []
        self.refused: list[Refusal] = []
        self.reports = reports or {}
        self.usage = NO_USAGE
        self.writes = self.reads = 0
        self.next: list[httpx.Response] = []
        self._cache: set[str] = set()

    @property
    def cost(self) -> TokenUsage:
        """What the server would charge for."""
        return self.usage + TokenUsage(llm_calls=len(self.asked))

    def transport(self) -> httpx.MockTransport:
        """Return what reaches it without a network, under its real address."""
        return httpx.MockTransport(self._answer)

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        body = msgspec.json.decode(await request.aread())
        asked = Asked(request.url.path, {}, dict(request.headers), body)
        self.asked.append(asked)
        if self.next:
            return self.next.pop(0)
        refusal = _objection(asked)
        if refusal is not None:
            self.refused.append(refusal)
            return httpx.Response(refusal.status, json=refusal.body, headers=self.reports)
        cached = self._cached(body)
        await anyio.lowlevel.checkpoint()  # the prefix is there for others once the answer begins
        await anyio.lowlevel.checkpoint()
        self._cache.update(cached)
        said = said_to(_in_chat_words(body), choice=_choice(body), form=_form(body))
        blocks = _blocks(said, len(self.asked), thinks=_thinks(body))
        made = sum(tokens(block) for block in blocks)
        counts = {**self._charged(body, cached), "output_tokens": made}
        self.usage += TokenUsage(0, made)
        reason = "end_turn" if said.call is None else "tool_use"
        if body.get("stream"):
            content = b"".join(_events(blocks, counts, reason))
            return httpx.Response(200, content=content, headers={"content-type": "text/event-stream"})
        message = {"type": "message", "role": "assistant", "content": blocks, "stop_reason": reason}
        return httpx.Response(200, json={"id": "msg_1", **message, "usage": counts}, headers=self.reports)

    def _cached(self, body: dict[str, Any]) -> dict[str, int]:
        """Return the prefixes that end in a mark, and their tokens; what is too short is not cached."""
        prefixes: dict[str, int] = {}
        so_far = ""
        for block in [*(body.get("tools") or ()), *(body.get("system") or ()), *_content(body)]:
            plain = {name: value for name, value in block.items() if name != "cache_control"}
            so_far += msgspec.json.encode(plain).decode()
            if "cache_control" in block and tokens(so_far) >= _SMALLEST_CACHED:
                prefixes[so_far] = tokens(so_far)
        self._found = max((size for prefix, size in prefixes.items() if prefix in self._cache), default=0)
        return prefixes

    def _charged(self, body: dict[str, Any], prefixes: dict[str, int]) -> dict[str, int]:
        whole = tokens("".join(msgspec.json.encode(_plain(block)).decode() for block in _all(body)))
        read = self._found
        written = max((size for size in prefixes.values()), default=0) - read
        self.reads += read
        self.writes += written
        self.usage += TokenUsage(whole, 0, cache_read_tokens=read, cache_write_tokens=written)
        counts = {"cache_read_input_tokens": read, "cache_creation_input_tokens": written}
        return {"input_tokens": whole - read - written, **counts}


def _all(body: dict[str, Any]) -> list[dict[str, Any]]:
    return [*(body.get("tools") or ()), *(body.get("system") or ()), *_content(body)]


def _content(body: dict[str, Any]) -> list[dict[str, Any]]:
    return [block for message in body["messages"] for block in message["content"]]


def _plain(block: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in block.items() if name != "cache_control"}


def _thinks(body: dict[str, Any]) -> bool:
    return part(body, "thinking").get("type") in {"enabled", "adaptive"}


def _refusal(message: str, status: int = 400, kind: str = "invalid_request_error") -> Refusal:
    return Refusal(
        status, {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_01"}
    )


def _objection(asked: Asked) -> Refusal | None:
    body = asked.body
    if asked.headers.get("x-api-key") != KEY:
        return _refusal("invalid x-api-key", 401, "authentication_error")
    if "anthropic-version" not in asked.headers:
        return _refusal("anthropic-version: header is required")
    if "max_tokens" not in body:
        return _refusal("max_tokens: Field required")
    if extra := sorted(body.keys() - _FIELDS):
        return _refusal(f"{extra[0]}: Extra inputs are not permitted")
    if not 0 <= body.get("temperature", 1) <= 1:
        return _refusal("temperature: range: 0..1")
    if _thinks(body) and body.get("temperature", 1) != 1:
        # https://github.com/mnfst/modelparams.dev/issues/214
        return _refusal("`temperature` may only be set to 1 when thinking is enabled or in adaptive mode.")
    if "temperature" in body and body["model"].startswith("claude-opus-4-7"):
        # https://github.com/UKGovernmentBEIS/inspect_ai/issues/3721
        return _refusal("`temperature` is deprecated for this model.")
    if sum("cache_control" in block for block in _all(body)) > 4:
        return _refusal("A maximum of 4 blocks with cache_control may be provided. Found 5.")
    return _objection_to_schema(body) or _objection_to_messages(body)


def _objection_to_schema(body: dict[str, Any]) -> Refusal | None:
    # https://platform.claude.com/docs/en/build-with-claude/structured-outputs: "JSON Schema limitations"
    shown = msgspec.json.encode(part(body, "output_config").get("format", {})).decode()
    for word in ("minimum", "maximum", "minLength", "maxLength", "pattern", "maxItems"):
        if f'"{word}":' in shown:
            return _refusal(
                f"output_config.format.schema: For 'integer' type, properties {word} are not supported"
            )
    return None


def _objection_to_messages(body: dict[str, Any]) -> Refusal | None:
    offered: set[str] = set()
    before = ""
    for place, message in enumerate(body["messages"]):
        if (
            message["role"] == before
            or message["role"] not in {"user", "assistant"}
            or not message["content"]
        ):
            return _refusal(f"messages.{place}: roles must alternate, and messages must not be empty")
        before = message["role"]
        problem = _problem_in(message, offered)
        if problem:
            return _refusal(f"messages.{place}.{problem}")
        offered = {block["id"] for block in message["content"] if block["type"] == "tool_use"}
        starts_well = message["content"][0]["type"] in {"thinking", "redacted_thinking"}
        if offered and _thinks(body) and not starts_well:
            return _refusal(
                f"messages.{place}.content.0.type: Expected `thinking` or `redacted_thinking`, but found `tool_use`. "
                "When `thinking` is enabled, a final `assistant` message must start with a thinking block."
            )
        if offered and not body.get("tools"):
            return _refusal("Requests which include `tool_use` or `tool_result` blocks must define tools")
    return None if before == "user" else _refusal("This model does not support assistant message prefill.")


def _problem_in(message: dict[str, Any], offered: set[str]) -> str:
    answered = {block["tool_use_id"] for block in message["content"] if block["type"] == "tool_result"}
    if answered != offered:
        return "content: `tool_use` ids were found without `tool_result` blocks immediately after"
    for place, block in enumerate(message["content"]):
        if block["type"] not in _BLOCKS:
            return f"content.{place}: Input tag '{block['type']}' does not match any of the expected tags"
        if block["type"] == "text" and not block["text"].strip():
            return f"content.{place}: text content blocks must be non-empty"
        if block["type"] == "thinking" and block.get("signature") != _signature(block["thinking"]):
            return f"content.{place}: Invalid `signature` in `thinking` block"
    return ""


def _signature(thoughts: str) -> str:
    return f"signed({len(thoughts)})"


def _in_chat_words(body: dict[str, Any]) -> dict[str, Any]:
    """Return a request as the model behind all fakes reads it."""
    last = body["messages"][-1]
    has_result = any(block["type"] == "tool_result" for block in last["content"])
    messages = [
        {"role": "user", "content": _texts(message)} for message in body["messages"] if _texts(message)
    ]
    tools = [
        {"function": {"name": tool["name"], "parameters": tool["input_schema"]}}
        for tool in body.get("tools") or ()
    ]
    schema: object = part(part(body, "output_config"), "format").get("schema")
    return {
        "messages": [*messages, *([{"role": "tool", "content": ""}] if has_result else [])],
        "tools": tools,
        "response_format": {"json_schema": {"schema": schema}},
    }


def _texts(message: dict[str, Any]) -> str:
    texts = [block["text"] for block in message["content"] if block["type"] == "text"]
    return "".join(texts) if message["role"] == "user" else ""


def _choice(body: dict[str, Any]) -> object:
    choice = part(body, "tool_choice")
    kind = str(choice.get("type", "auto"))
    return choice["name"] if kind == "tool" else "required" if kind == "any" else kind


def _form(body: dict[str, Any]) -> str:
    return "json_schema" if part(body, "output_config").get("format") else "text"


def _blocks(said: Said, number: int, *, thinks: bool) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if thinks:
        blocks.append({"type": "thinking", "thinking": THOUGHTS, "signature": _signature(THOUGHTS)})
        blocks.append({"type": "redacted_thinking", "data": "EmwKAhgBEgy3va3pzix"})
    if said.text:
        blocks.append({"type": "text", "text": said.text})
    if said.call is not None:
        name, given = said.call
        blocks.append({"type": "text", "text": "Let me see."})
        blocks.append({"type": "tool_use", "id": f"toolu_{number:04d}", "name": name, "input": given})
    return blocks


def _events(blocks: list[dict[str, Any]], counts: dict[str, int], reason: str) -> Iterator[bytes]:
    start: dict[str, Any] = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "content": [],
        "usage": {**counts, "output_tokens": 1},
    }
    yield _event("message_start", message=start)
    yield _event("ping")
    for index, block in enumerate(blocks):
        first, deltas = _in_pieces(block)
        yield _event("content_block_start", index=index, content_block=first)
        for delta in deltas:
            yield _event("content_block_delta", index=index, delta=delta)
        yield _event("content_block_stop", index=index)
    usage = {"output_tokens": counts["output_tokens"]}
    yield _event("message_delta", delta={"stop_reason": reason, "stop_sequence": None}, usage=usage)
    yield _event("message_stop")


def _in_pieces(block: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    match block["type"]:
        case "text":
            parts = [{"type": "text_delta", "text": part} for part in _halves(block["text"])]
            return {"type": "text", "text": ""}, parts
        case "thinking":
            parts = [{"type": "thinking_delta", "thinking": part} for part in _halves(block["thinking"])]
            signed = {"type": "signature_delta", "signature": block["signature"]}
            return {"type": "thinking", "thinking": "", "signature": ""}, [*parts, signed]
        case "tool_use":
            given = msgspec.json.encode(block["input"]).decode()
            parts = [{"type": "input_json_delta", "partial_json": part} for part in ["", *_halves(given)]]
            return {**block, "input": {}}, parts
        case _:
            return block, []


def _halves(text: str) -> list[str]:
    return [text[: len(text) // 2], text[len(text) // 2 :]]


def _event(kind: str, **fields: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), msgspec.json.encode({"type": kind, **fields}))
