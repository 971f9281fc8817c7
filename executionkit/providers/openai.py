"""`Provider`: any server that speaks OpenAI's chat completions over HTTP."""

from executionkit.core.dialect import Dialect, Spelled
from executionkit.providers.chat.servers import dialect_for, server_for
from executionkit.providers.format import CHAT, Format
from executionkit.providers.messages.request import CONTENT
from executionkit.providers.remote import Remote

__all__ = ["Provider"]


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
