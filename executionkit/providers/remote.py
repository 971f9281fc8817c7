"""`Remote`: a model behind an API over HTTP, whatever the API."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from hashlib import blake2b
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar, cast

import anyio
import sniffio

from executionkit.core.budget import estimate_input
from executionkit.core.dialect import OUTPUT_LIMITS, Dialect, Spelled, answers_billed, limited, spelled_again
from executionkit.core.frozen import freeze, hash_frozen
from executionkit.core.rate_limit import Pace
from executionkit.core.retry_quota import RetryQuota
from executionkit.errors import LLMError, PermanentError
from executionkit.provider import LLMResponse, Message, ToolSpec
from executionkit.providers.chat.failures import broken_exchange, headed, refused, timed_out, unusable
from executionkit.providers.chat.redaction import Redactor
from executionkit.providers.chat.streaming import Stream, read_events
from executionkit.providers.chat.wire import Unusable, encode_request
from executionkit.providers.format import Format
from executionkit.providers.http.address import Address, parse_address
from executionkit.providers.http.body import read_body, read_error_body
from executionkit.providers.http.certificates import shared_tls_context
from executionkit.providers.http.clients import Identity, LoopClient, client_of
from executionkit.providers.http.exchange import (
    Exchange,
    ExchangeError,
    Head,
    Request,
    Transport,
)
from executionkit.providers.http.proxies import proxy_for
from executionkit.providers.pacing import SharedTurn, Turn
from executionkit.providers.secret import Secret
from executionkit.providers.settings import RemoteSettings, has_aiohttp
from executionkit.runtime.calls.endpoints import memory_of
from executionkit.runtime.calls.shared_limits import shared_limits

__all__ = ["Remote"]

T = TypeVar("T")

_USER_AGENT: Final = "executionkit"
_STREAMED: Final = {"stream": True, "stream_options": {"include_usage": True}}


class Remote(RemoteSettings, frozen=True, kw_only=True, dict=True, weakref=True):
    """A model behind an API over HTTP: what `Provider` and `Anthropic` share.

    An API says how its requests are made (`_payload`), what stands in their head (`_credentials`), and how
    its answers are written (`_written`).
    """

    @property
    def known_dialect(self) -> Dialect | None:
        """How the server is known to want requests said; None where that is to be found out."""
        return self.dialect

    @property
    def server(self) -> str:
        """The host, and the port where it is not the usual one."""
        return self._address.authority

    @property
    def port(self) -> int:
        """The port, the usual one included."""
        return self._address.port

    @property
    def supports_tools(self) -> Literal[True]:
        """The models behind it may call tools."""
        return True

    async def complete(
        self,
        messages: list[Message],
        *,
        temperature: float | None = None,
        max_tokens: int | None = None,
        tools: list[ToolSpec] | None = None,
        **kwargs: Any,
    ) -> LLMResponse:
        """Make one attempt to complete a chat.

        Args:
            messages: The conversation in OpenAI's format.
            temperature: Sampling temperature; None for the default.
            max_tokens: Output tokens at most; None for the default.
            tools: Tools the model may call, in OpenAI's format.
            **kwargs: Further request fields, sent as they are; what the server is known not to take is left
                out.

        Raises:
            PermanentError: 400, 401, 403, 404, 405, 413 or 422, or a request that has no JSON form.
            RateLimitError: 429; `retry_after` says how long the server asks to wait.
            ProviderError: Any other failure: no answer in time, or one that cannot be used.
            ProviderClosedError: The provider is closed in this event loop.

        Each has `cost` (one call, and the tokens that the server reported) and, where a server answered,
        `metadata["status"]` (int), `metadata["request_id"]` (str) and `metadata["code"]` (str), what it
        calls the error.
        """
        if kwargs.get("stream"):
            raise PermanentError("complete() returns a whole answer; for one in pieces call stream()")
        payload = self._spelled(messages, temperature, max_tokens, tools, kwargs)
        request = self._request(encode_request(payload))
        turn = self._turn(payload)
        if turn is None:
            return await self._attempt(request)
        return await self._paced(request, turn)

    def stream(
        self,
        messages: list[Message],
        *,
        temperature: float | None = None,
        max_tokens: int | None = None,
        tools: list[ToolSpec] | None = None,
        **kwargs: Any,
    ) -> Stream:
        """Make one attempt to complete a chat, piece by piece.

        Args:
            messages: The conversation in OpenAI's format.
            temperature: Sampling temperature; None for the default.
            max_tokens: Output tokens at most; None for the default.
            tools: Tools the model may call, in OpenAI's format.
            **kwargs: Further request fields, sent as they are.

        Raises:
            PermanentError: The request has no JSON form. What else can go wrong is raised by the iteration.
        """
        payload = self._spelled(messages, temperature, max_tokens, tools, {**_STREAMED, **kwargs})
        request = self._request(encode_request(payload))
        estimate = estimate_input(messages, tools)
        return Stream(
            lambda: self._client.transport(self._open),
            request,
            self.timeout,
            self._redactor,
            estimate,
            self._turn(payload),
            self._written,
        )

    async def _paced(self, request: Request, turn: Turn) -> LLMResponse:
        """Make an attempt when the rate limit allows it."""
        await turn.wait()
        try:
            response = await self._attempt(request, turn)
        except LLMError as error:
            turn.settle(error.cost.total_tokens)
            raise
        turn.settle(response.total_tokens or turn.tokens)  # nothing reported: all that it may have taken
        return response

    async def _attempt(self, request: Request, turn: Turn | None = None) -> LLMResponse:
        transport = self._client.transport(self._open)
        redactor = self._redactor
        head: Head | None = None
        failure: LLMError | None = None
        with anyio.move_on_after(self.timeout):
            try:
                exchange = await transport.send(request)
                try:
                    head = exchange.head
                    if turn is not None:
                        turn.learn(head)
                    return await _read_answer(exchange, redactor, self._written)
                finally:
                    await exchange.finish()
            except ExchangeError as error:
                failure = broken_exchange(error, redactor, head)
        raise failure or timed_out(self.timeout, head, redactor)

    def _spelled(
        self,
        messages: list[Message],
        temperature: float | None,
        max_tokens: int | None,
        tools: list[ToolSpec] | None,
        options: dict[str, Any],
    ) -> dict[str, object]:
        """Return a request with the defaults in it, said as the server is known to want it."""
        if self.extra_body:
            bound, name, fixed = limited(dict(self.extra_body), None)
            is_named = limited(options, None)[0] is not None
            options = {**fixed, **options}
            granted = bound if max_tokens is None else max_tokens  # a call's own limit goes before
            if name and not is_named:
                options[name], max_tokens = granted, None
            elif not is_named:
                max_tokens = granted
        if max_tokens is None and not limited(options, None)[1]:
            max_tokens = self.default_max_tokens
        if temperature is None:
            temperature = self.default_temperature
        given = Spelled(messages, temperature, max_tokens, tools or None, options)
        return self._payload(spelled_again(given, memory_of(self).dialect))

    def _payload(self, asked: Spelled) -> dict[str, object]:
        """Return a request as this API writes it."""
        raise NotImplementedError

    @property
    def _written(self) -> Format:
        """How this API writes its answers."""
        raise NotImplementedError

    def _credentials(self) -> list[tuple[str, str]]:
        """Return the headers that go with the key, the key's own among them."""
        raise NotImplementedError

    def _request(self, body: bytes) -> Request:
        return Request(
            [
                ("Host", self._address.authority),
                ("User-Agent", _USER_AGENT),
                ("Accept", "application/json"),
                ("Accept-Encoding", "gzip"),
                ("Content-Type", "application/json"),
                ("Content-Length", str(len(body))),
                *self._credentials(),
                *self.headers.items(),
            ],
            body,
        )

    @property
    def _key(self) -> str:
        try:
            return cast("Secret", self.api_key).reveal()  # so since __post_init__
        except (LookupError, ValueError) as error:
            raise PermanentError(str(error.args[0])) from None
        except BaseException as error:  # noqa: BLE001 - an interrupt, say: the frames below show the key
            raise error.with_traceback(None) from error.__cause__

    @property
    def _redactor(self) -> Redactor:
        """What keeps the key out of what a server writes."""
        try:
            return _made_redactor(self._key)
        except BaseException as error:  # noqa: BLE001 - an interrupt, say: the frames below show the key
            raise error.with_traceback(None) from error.__cause__

    @property
    def _address(self) -> Address:
        return _parsed(self.base_url, self._written.path)

    @property
    def _client(self) -> LoopClient:
        return client_of(self._own(Identity, Identity))

    @property
    def retry_quota(self) -> RetryQuota:
        """What retries of calls to this provider draw on, from whatever run they come."""
        return self._own(RetryQuota, RetryQuota)

    def _turn(self, payload: Mapping[str, object]) -> Turn | None:
        if self.rate_limit is None:
            return None
        limit = self.rate_limit
        pace, tokens = self._own(Pace, lambda: Pace(limit)), _worst_case(payload)
        shared = shared_limits.get()
        if shared is None:
            return Turn(pace, tokens)
        return SharedTurn(pace, tokens, shared.limit_of(self._digest(shared.salt), limit))

    def _digest(self, salt: bytes) -> str:
        """Return what tells this provider from others in all processes, and does not give its key away."""
        digest = blake2b(f"{self.base_url}\n{self.model}\n".encode("utf-8", "surrogatepass"), key=salt)
        digest.update(self._key.encode())  # no local name for it: a traceback may show that
        return digest.hexdigest()

    def _own(self, kind: type[T], make: Callable[[], T]) -> T:
        """Return the one object of this kind that belongs to this provider, and to no copy of it."""
        owned = vars(self)
        if kind.__name__ not in owned:
            owned.setdefault(kind.__name__, make())
        value: T = owned[kind.__name__]
        return value

    def _open(self) -> Transport:
        address = self._address
        if self.client is not None:
            from executionkit.providers.http.foreign import ForeignClient

            return ForeignClient(self.client, address.url, self.timeout)
        if not isinstance(self.transport, str):
            from executionkit.providers.http.foreign import ForeignTransport

            return ForeignTransport(self.transport, address.url, self.timeout)
        tls = (self.tls or shared_tls_context(self.trust_env)) if address.tls else None
        proxy = proxy_for(address) if self.trust_env else None
        is_asyncio = sniffio.current_async_library() == "asyncio"
        if self.transport != "httpx" and proxy is None and is_asyncio and has_aiohttp():
            from executionkit.providers.http.aiohttp_transport import AiohttpTransport

            return AiohttpTransport(address, tls, self.max_connections)
        from executionkit.providers.http.httpx_transport import HttpxTransport

        return HttpxTransport(address, tls, self.max_connections, proxy, self.trust_env)

    async def aclose(self) -> None:
        """Close the connections of this event loop; later calls in it raise `ProviderClosedError`."""
        await self._client.close()

    async def __aenter__(self) -> Self:
        self._client.enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._client.leave()

    def __hash__(self) -> int:
        owned = vars(self)  # each call asks for it
        if "hash" not in owned:
            fields = [getattr(self, name) for name in self.__struct_fields__]
            owned["hash"] = hash((type(self), hash_frozen(freeze(fields))))
        found: int = owned["hash"]
        return found

    def __repr__(self) -> str:
        key = ", api_key=***" if self.api_key else ""
        return f"{type(self).__name__}({self.base_url.partition('?')[0]!r}, {self.model!r}{key})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("base_url", self.base_url.partition("?")[0]), ("model", self.model)]


def _worst_case(payload: Mapping[str, object]) -> int:
    """Return the tokens that a request may take, by an estimate of its input."""
    output = next((payload[name] for name in OUTPUT_LIMITS if name in payload), None)
    given = estimate_input(payload["messages"], payload.get("tools"))
    return given + (output * answers_billed(payload) if isinstance(output, int) else 0)


async def _read_answer(exchange: Exchange, redactor: Redactor, written: Format) -> LLMResponse:
    head = exchange.head
    if not head.is_success:
        raise refused(head, await read_error_body(exchange), redactor)
    answer = _decoded(await read_body(exchange), redactor, written)
    if isinstance(answer, Unusable):
        raise unusable(head, answer, redactor)
    return headed(answer, head, redactor)


def _decoded(body: bytes, redactor: Redactor, written: Format) -> LLMResponse | Unusable:
    """Read an answer, whether it came in one piece or in many; the frame that raises does not hold it."""
    return read_events(body, redactor, written) or written.decode(body, redactor)


_parsed = lru_cache(maxsize=256)(parse_address)
_made_redactor = lru_cache(maxsize=256)(Redactor)
