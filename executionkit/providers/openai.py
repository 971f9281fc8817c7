"""`Provider`: any server that speaks OpenAI's chat completions over HTTP."""

import re
import ssl
import warnings
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from hashlib import blake2b
from importlib.util import find_spec
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar, cast

import anyio
import msgspec
import sniffio

from executionkit.core.budget import estimate_input
from executionkit.core.checks import check_count, is_finite
from executionkit.core.dialect import OUTPUT_LIMITS, Dialect, Spelled, answers_billed, limited, spelled_again
from executionkit.core.frozen import freeze, hash_frozen
from executionkit.core.rate_limit import Pace, RateLimit
from executionkit.core.retry_quota import RetryQuota
from executionkit.errors import LLMError, PermanentError
from executionkit.prices import Price, Prices
from executionkit.provider import DEFAULT_MAX_TOKENS, LLMResponse, Message, ToolSpec
from executionkit.providers.chat.failures import broken_exchange, headed, refused, timed_out, unusable
from executionkit.providers.chat.redaction import Redactor
from executionkit.providers.chat.servers import dialect_for, server_for
from executionkit.providers.chat.streaming import Stream, read_events
from executionkit.providers.chat.wire import Unusable, encode_request
from executionkit.providers.format import CHAT, Format
from executionkit.providers.http.address import Address, parse_address
from executionkit.providers.http.body import read_body, read_error_body
from executionkit.providers.http.certificates import shared_tls_context
from executionkit.providers.http.clients import Identity, LoopClient, client_of
from executionkit.providers.http.exchange import (
    Exchange,
    ExchangeError,
    Head,
    HTTPClient,
    HTTPTransport,
    Request,
    Transport,
)
from executionkit.providers.http.proxies import proxy_for
from executionkit.providers.messages.request import CONTENT
from executionkit.providers.pacing import SharedTurn, Turn
from executionkit.providers.secret import Secret
from executionkit.retry import RetryConfig, checked_retry
from executionkit.runtime.calls.endpoints import memory_of
from executionkit.runtime.calls.shared_limits import shared_limits
from executionkit.runtime.ledger.terms import checked_terms

__all__ = ["Provider", "Remote"]

T = TypeVar("T")

_USER_AGENT: Final = "executionkit"
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_OWN_HEADERS: Final = frozenset(
    {"host", "accept", "accept-encoding", "content-type", "content-length", "transfer-encoding", "connection"}
)
_KEY_HEADERS: Final = frozenset({"authorization", "api-key", "x-api-key", "x-goog-api-key"})
_STREAMED: Final = {"stream": True, "stream_options": {"include_usage": True}}


class _Endpoint(msgspec.Struct, frozen=True):
    base_url: str
    model: str
    api_key: Secret | str = ""
    default_temperature: float | None = 0.7
    default_max_tokens: int | None = DEFAULT_MAX_TOKENS
    timeout: float = 120.0


class Remote(_Endpoint, frozen=True, kw_only=True, dict=True, weakref=True):
    """A model behind an API over HTTP: what `Provider` and `Anthropic` share.

    An API says how its requests are made (`_body`), what stands in their head (`_credentials`), and how its
    answers are written (`_written`).
    """

    max_connections: int = 1000
    tls: ssl.SSLContext | None = None
    transport: HTTPTransport | Literal["auto", "httpx", "aiohttp"] = "auto"
    client: HTTPClient | None = None
    trust_env: bool = False
    rate_limit: RateLimit | None = None
    dialect: Dialect | None = None
    retry: RetryConfig | None = None
    headers: Mapping[str, str] = {}
    extra_body: Mapping[str, Any] = {}
    price: Price | Prices | None = None
    count_tokens: Callable[[list[Message], list[ToolSpec] | None], int] | Literal["bytes"] | None = None

    def __post_init__(self) -> None:
        address = _checked_address(self)
        if not isinstance(self.api_key, Secret):
            # No local name for the literal: a traceback may show them.
            msgspec.structs.force_setattr(self, "api_key", Secret(self.api_key))
        _check(self)
        for name in ("headers", "extra_body"):
            msgspec.structs.force_setattr(self, name, dict(getattr(self, name)))
        if self.api_key and not address.tls and not address.is_loopback:
            _warn_of_plain_http(address.authority)

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
        if self.transport != "httpx" and proxy is None and is_asyncio and _has_aiohttp():
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


class Provider(Remote, frozen=True, kw_only=True, dict=True, weakref=True):
    """A model behind `POST {base_url}/chat/completions`.

    A frozen description: equal by value, hashable, its key hidden. Connections are opened by the first
    call in an event loop and closed by `aclose()` or at the end of `async with`; one provider serves any
    number of event loops, one after the other or at once. `complete` makes one attempt; retries are up to
    the run.

    Args:
        base_url: `http` or `https`, with the path before `/chat/completions`; a query is kept.
        model: The model's name there.
        api_key: Sent as bearer token if it is not empty; kept as a `Secret`.
        default_temperature: Used where a call names none; None leaves it out of the request.
        default_max_tokens: Output tokens a call may take where it names none; None leaves it out.
        timeout: Seconds for one whole attempt, from connecting to the body's last byte.
        max_connections: Connections at most, for each event loop; calls beyond that wait.
        tls: What to speak TLS with; None for httpx's default certificates.
        transport: `"auto"` sends through aiohttp on asyncio where it is installed (extra `fast`), and through
            httpx elsewhere; `"httpx"` always through httpx; `"aiohttp"` is `"auto"` that requires aiohttp. On
            trio and through a proxy it is httpx in any case. Or a transport of httpx's shape (httpx2's, too):
            it stays yours, you bound its connections and you close it.
        client: The same for a client of httpx's shape.
        trust_env: Whether the environment may name a proxy (`HTTPS_PROXY`, ...) and certificates
            (`SSL_CERT_FILE`).
        rate_limit: What may be sent in a minute by all that use this very object; on an engine of a data set,
            by all workers. Calls and streams beyond that wait, and so do those that the server says it would
            refuse. None for no limit.
        dialect: How the server wants requests said; None to know it by host and model (docs/servers.md), or
            else to learn it from what the server refuses. `executionkit doctor` finds it out.
        retry: How runs retry where they are not told themselves; None for `DEFAULT_RETRY`.
        headers: Further headers. A key is given as `api_key`, for these are not hidden.
        extra_body: Further fields of every request; what a call names itself goes before.
        price: What its calls cost: a `Price`, or `Prices` such as a `PriceTable` or `genai_prices()`. None:
            costs say nothing of money, and a budget in money is refused.
        count_tokens: How a budget in money, or of input tokens, counts a prompt before it is sent. None
            estimates: four bytes a token, corrected by what servers counted in this run. `"bytes"` takes a
            token a byte, which is a bound for texts. A function of messages and tools returns the count, or
            a bound of it.

    Raises:
        TypeError: A setting is of the wrong type.
        ValueError: A setting is out of range, or both a client and a transport are given.
        ModuleNotFoundError: `transport="aiohttp"`, and it is not installed; the message says how to.

    >>> Provider("http://localhost:8080/v1", "smollm2", api_key="sk-123")
    Provider('http://localhost:8080/v1', 'smollm2', api_key=***)
    """

    @property
    def known_dialect(self) -> Dialect | None:
        """The `dialect` that was given, or that of a server in the table; None where it is to be learned."""
        return self.dialect or dialect_for(self.base_url, self.model)

    @property
    def _written(self) -> Format:
        return CHAT

    def _payload(self, asked: Spelled) -> dict[str, object]:
        chosen = {"temperature": asked.temperature, "max_tokens": asked.max_tokens, "tools": asked.tools}
        given = {name: value for name, value in chosen.items() if value is not None}
        messages = asked.messages
        if any(CONTENT in message for message in messages):  # a transcript of `Anthropic`
            messages = [{name: value for name, value in each.items() if name != CONTENT} for each in messages]
        return {"model": self.model, "messages": messages, **given, **asked.options}

    def _credentials(self) -> list[tuple[str, str]]:
        if not self.api_key:
            return []
        known = server_for(self.base_url, self.model)
        if known is not None and known.key_header:
            return [(known.key_header, self._key)]
        return [("Authorization", f"Bearer {self._key}")]


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


def _checked_address(provider: Remote) -> Address:
    try:
        return parse_address(provider.base_url)
    except (TypeError, ValueError):
        # Frames show the provider by its repr, and what is refused may hold a password.
        msgspec.structs.force_setattr(provider, "base_url", "")
        raise


def _check(provider: Remote) -> None:
    _check_name("model", provider.model)
    checked_terms(provider.price, provider.count_tokens)
    _check_number("timeout", provider.timeout, above=0)
    check_count("max_connections", provider.max_connections)
    _check_transport(provider.transport, provider.client)
    _check_tls(provider.tls)
    if provider.default_max_tokens is not None:
        check_count("default_max_tokens", provider.default_max_tokens)
    if provider.default_temperature is not None:
        _check_number("default_temperature", provider.default_temperature, above=-1)
    if provider.dialect is not None and not _is_a(provider.dialect, Dialect):
        raise TypeError(f"dialect must be a Dialect, not {type(provider.dialect).__name__}")
    checked_retry(provider.retry)
    _check_headers(provider.headers, type(provider).__name__)
    _check_body(provider.extra_body)


def _is_a(value: object, kind: type) -> bool:
    return isinstance(value, kind)


def _check_headers(headers: object, owner: str) -> None:
    """Refuse headers that could not be sent, or that are ours; what they hold is never quoted."""
    if not isinstance(headers, Mapping):
        raise TypeError(f"headers must be a mapping of str to str, not {type(headers).__name__}")
    for name, value in cast("Mapping[object, object]", headers).items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError("headers must be a mapping of str to str")
        if not _HEADER_NAME.fullmatch(name):
            raise ValueError(f"{name!r} cannot be the name of a header")
        if name.lower() in _OWN_HEADERS:
            raise ValueError(f"the header {name} is set by {owner} itself")
        if name.lower() in _KEY_HEADERS:
            raise ValueError(f"give the key as api_key, not in the header {name}: there it stays hidden")
        if not (value.isascii() and value.isprintable() and value == value.strip()):
            raise ValueError(f"the header {name} must be printable ASCII without spaces at its ends")


def _check_body(extra_body: object) -> None:
    if not isinstance(extra_body, Mapping):
        raise TypeError(f"extra_body must be a mapping, not {type(extra_body).__name__}")
    given = cast("Mapping[object, object]", extra_body)
    for name in ("model", "messages", "stream"):
        if name in given:
            raise ValueError(f"extra_body may not hold {name}, which each request has of its own")
    if answers_billed(cast("Mapping[str, Any]", extra_body)) > 1:
        raise ValueError(
            "extra_body may not have the server generate several answers to each request: all would be "
            "billed, and one be read; ask for several with consensus, or where the request is made"
        )


def _check_name(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    if not value:
        raise ValueError(f"{name} must not be empty")


def _check_number(name: str, value: object, above: int) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")
    if not (is_finite(value) and value > above):
        raise ValueError(f"{name} must be a finite number above {above}, not {value}")


def _check_transport(transport: object, client: object) -> None:
    if isinstance(transport, str):
        if transport not in {"auto", "httpx", "aiohttp"}:
            raise ValueError(
                'transport must be "auto", "httpx", "aiohttp", or a transport of httpx\'s shape, '
                f"not {transport!r}"
            )
        if transport == "aiohttp" and not _has_aiohttp():
            raise ModuleNotFoundError(
                'aiohttp is not installed; in the clone, run: pip install ".[fast]"', name="aiohttp"
            )
    elif client is not None:
        raise ValueError("a client has a transport of its own; give either client or transport")
    elif not hasattr(transport, "handle_async_request"):
        raise TypeError(
            f"transport must have handle_async_request, as an httpx.AsyncBaseTransport has, and "
            f"{type(transport).__name__} has none; a client is given as client"
        )
    if client is not None and not (hasattr(client, "build_request") and hasattr(client, "send")):
        raise TypeError(
            "client must have build_request and send, as an httpx.AsyncClient has, "
            f"and {type(client).__name__} has not"
        )


def _check_tls(tls: object) -> None:
    if tls is None:
        return
    if not isinstance(tls, ssl.SSLContext):
        raise TypeError(f"tls must be an ssl.SSLContext, not {type(tls).__name__}")
    if tls.protocol is ssl.PROTOCOL_TLS_SERVER:
        raise ValueError("tls must be a context for clients: ssl.create_default_context() makes one")


@cache
def _has_aiohttp() -> bool:
    return find_spec("aiohttp") is not None


@cache
def _warn_of_plain_http(authority: str) -> None:
    """Warn once for each server: the cache remembers."""
    warnings.warn(f"the key goes to {authority} unencrypted; use https", stacklevel=4)
