"""`Pool`: several providers as one that spreads requests and stays up while one of them is down."""

import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from time import monotonic
from types import TracebackType
from typing import Any, Final, Literal, Self, cast

from executionkit.core.checks import is_finite
from executionkit.core.failover import Cooldown, Standings
from executionkit.core.foreign import attribute
from executionkit.core.learning import Refusal, names_another_cause
from executionkit.core.usage import TokenUsage
from executionkit.errors import LLMError, PermanentError, ProviderClosedError, RateLimitError
from executionkit.provider import (
    LLMProvider,
    LLMResponse,
    Message,
    Piece,
    Pieces,
    StreamingProvider,
    ToolSpec,
    checked_provider,
)
from executionkit.runtime.frame import PASSED_ON

__all__ = ["Cooldown", "Member", "Pool"]

_OF_THE_ACCOUNT: Final = frozenset({401, 402, 403})


class Member:
    """One provider of a pool: asks it, and notes how that went. It says of itself what the provider says."""

    def __init__(
        self,
        provider: LLMProvider,
        number: int,
        standings: Standings,
        lock: threading.Lock,
        clock: Callable[[], float],
    ) -> None:
        self.provider: Final = provider
        self.number: Final = number
        self._standings = standings
        self._lock = lock
        self._clock = clock
        if callable(attribute(provider, "stream")):
            self.stream: Callable[..., Pieces] = self._stream

    async def complete(
        self,
        messages: list[Message],
        *,
        temperature: float | None = None,
        max_tokens: int | None = None,
        tools: list[ToolSpec] | None = None,
        **kwargs: Any,
    ) -> LLMResponse:
        """Make one attempt; arguments and errors are the provider's."""
        self.begin()
        try:
            response = await self.provider.complete(
                messages, temperature=temperature, max_tokens=max_tokens, tools=tools, **kwargs
            )
        except Exception as error:
            self.note(error)
            raise
        finally:
            self.end()
        self.note(None)
        return response

    def _stream(
        self,
        messages: list[Message],
        *,
        temperature: float | None = None,
        max_tokens: int | None = None,
        tools: list[ToolSpec] | None = None,
        **kwargs: Any,
    ) -> Pieces:
        provider = cast("StreamingProvider", self.provider)  # made sure of in `__init__`
        try:
            pieces = provider.stream(
                messages, temperature=temperature, max_tokens=max_tokens, tools=tools, **kwargs
            )
            return _Watched(pieces, self)
        except Exception as error:
            self.note(error)
            raise

    def begin(self) -> None:
        """Note that a request is under way."""
        with self._lock:
            self._standings.begin(self.number)

    def end(self) -> None:
        """Note that it is not any more."""
        with self._lock:
            self._standings.end(self.number)

    def note(self, error: Exception | None) -> None:
        """Note how an attempt went: an answer, a failure of the member, or a refusal of the request."""
        with self._lock:
            if error is None:
                self._standings.note_success(self.number)
            elif _is_of_member(error):
                self._standings.note_failure(self.number, self._clock(), self._pause(error))

    def _pause(self, error: Exception) -> float | None:
        """Return the seconds to leave a member alone for one failure; None where one alone says little."""
        if _is_of_account(error):
            return self._standings.cooldown.seconds
        asked: object = attribute(error, "retry_after") if isinstance(error, LLMError) else None
        return max(0.0, asked) if isinstance(asked, int | float) and is_finite(asked) else None

    def __getattr__(self, name: str) -> Any:
        if name not in PASSED_ON:
            raise AttributeError(name)
        return getattr(self.provider, name)

    def __repr__(self) -> str:
        return f"Member({self.provider!r})"


class Pool:
    """Several providers as one: requests are spread over them, and a member that is down is left alone.

    It is asked whom to ask before each attempt of a run, so that a retry goes to another member at once. The
    run's retries are the only ones, and each attempt is counted, reserved and priced as that of the member
    that makes it; each member keeps its own rate limit, dialect and retry quota. The member with the fewest
    requests under way is asked. After 401, 402, 403, an exhausted quota or a wait that the server asks for it
    is left alone at once, after other failures of its own as `cooldown` says; then one request probes it.
    Refusals of the request itself (400, 404, 422, ...) say nothing of the member, and go back to the caller:
    an unknown model is a mistake, not an outage. Once text was handed out, no other member is asked.

    A pool among the members stands for its own members; its `cooldown` does not count then.

    What is known of the members is kept in this object: each process finds out for itself.

    Args:
        members: Providers, one at least; what each says of itself (`model`, `price`, ...) holds for its
        attempts.
        cooldown: When a member is left alone, and for how long.
        clock: The time in seconds, for tests; it must not go back.

    Raises:
        TypeError: A member is not a provider.
        ValueError: There are no members, or one of them is a `Cached`.

    >>> from executionkit.providers.openai import Provider
    >>> Pool([Provider("http://127.0.0.1:1/v1", "a"), Provider("http://127.0.0.1:2/v1", "b")])
    Pool([Provider('http://127.0.0.1:1/v1', 'a'), Provider('http://127.0.0.1:2/v1', 'b')])
    """

    def __init__(
        self,
        members: Iterable[LLMProvider],
        *,
        cooldown: Cooldown | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        providers = [each for member in members for each in _flat(checked_provider(member))]
        if not providers:
            raise ValueError("a pool needs at least one provider")
        if any(attribute(each, "caches_calls") is True for each in providers):
            raise ValueError(
                "a member that is a cache would be charged for what it holds; put the pool into the cache: "
                "Cached(Pool(...), journal)"
            )
        self._clock = clock
        self._lock = threading.Lock()
        self._standings = Standings(len(providers), cooldown or Cooldown())
        self.members: Final = tuple(
            [
                Member(each, number, self._standings, self._lock, clock)
                for number, each in enumerate(providers)
            ]
        )
        self._open: list[AsyncExitStack] = []
        if all(attribute(each, "supports_tools") is True for each in providers):
            self.supports_tools: Literal[True] = True
        if all(callable(attribute(each, "stream")) for each in providers):
            self.stream: Callable[..., Pieces] = self._stream

    @property
    def caches_prompts(self) -> bool:
        """Whether each member keeps what prompts begin with, so that a vote sends one sample ahead."""
        return all(attribute(member.provider, "caches_prompts") is True for member in self.members)

    def choose(self, last_error: Exception | None = None) -> Member:  # noqa: ARG002 - the runtime tells it
        """Return the member to ask next.

        Args:
            last_error: Why the attempt before failed, where there was one.
        """
        with self._lock:
            return self.members[self._standings.choose(self._clock())]

    def moves_on(self, member: object, error: Exception) -> bool:
        """Tell whether another member can be asked at once, where one of them failed so.

        Args:
            member: What `choose` had returned.
            error: How its attempt failed.
        """
        if not isinstance(member, Member) or not _is_of_member(error):
            return False
        with self._lock:
            return self._standings.has_other(member.number, self._clock())

    async def complete(
        self,
        messages: list[Message],
        *,
        temperature: float | None = None,
        max_tokens: int | None = None,
        tools: list[ToolSpec] | None = None,
        **kwargs: Any,
    ) -> LLMResponse:
        """Make one attempt at one member; arguments and errors are that member's."""
        return await self.choose().complete(
            messages, temperature=temperature, max_tokens=max_tokens, tools=tools, **kwargs
        )

    def _stream(
        self,
        messages: list[Message],
        *,
        temperature: float | None = None,
        max_tokens: int | None = None,
        tools: list[ToolSpec] | None = None,
        **kwargs: Any,
    ) -> Pieces:
        """Make one attempt at one member, piece by piece; arguments and errors are that member's."""
        return self.choose().stream(
            messages, temperature=temperature, max_tokens=max_tokens, tools=tools, **kwargs
        )

    async def aclose(self) -> None:
        """Close every member that can be closed."""
        async with AsyncExitStack() as stack:
            for member in self.members:
                close = attribute(member.provider, "aclose")
                if close is not None:
                    stack.push_async_callback(close)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            for member in self.members:
                if hasattr(type(member.provider), "__aenter__"):
                    await stack.enter_async_context(_entered(member.provider))
            self._open.append(stack.pop_all())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._open.pop().aclose()

    def __repr__(self) -> str:
        return f"Pool({[member.provider for member in self.members]!r})"


def _flat(provider: LLMProvider) -> list[LLMProvider]:
    """Return the members of a pool within a pool; any other provider is one."""
    return [member.provider for member in provider.members] if isinstance(provider, Pool) else [provider]


def _entered(provider: Any) -> Any:
    """Return a provider as the context manager that it is; its protocol does not say so."""
    return provider


def _is_of_account(error: Exception) -> bool:
    """Tell whether an account has no credit or no access: that lasts, and is no matter of the request."""
    if isinstance(error, RateLimitError):
        return error.retry_hint is False  # the quota is spent
    return isinstance(error, PermanentError) and _noted(error, "status") in _OF_THE_ACCOUNT


def _is_of_member(error: Exception) -> bool:
    """Tell whether a failure is the member's own, and another could do better with the same request."""
    if isinstance(error, ProviderClosedError):
        return True
    if isinstance(error, PermanentError):
        if not _is_of_account(error):
            return False
        code = _noted(error, "code")
        said = Refusal(_said(error), code=code if isinstance(code, str) else "")
        return not (
            _noted(error, "status") == 403 and names_another_cause(said) and "quota" not in said.text.lower()
        )
    return True


def _noted(error: Exception, name: str) -> object:
    """Return a number or a text of an error's metadata; None for all else that a foreign one may have."""
    metadata: object = attribute(error, "metadata")
    found = cast("Mapping[str, object]", metadata).get(name) if isinstance(metadata, Mapping) else None
    return found if isinstance(found, int | str) else None


def _said(error: Exception) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - whatever a foreign error's text raises
        return ""


class _Watched:
    """A streamed answer whose end is noted."""

    def __init__(self, pieces: Pieces, member: Member) -> None:
        self._pieces = pieces
        self._iterator = aiter(pieces)
        self._member = member

    async def __aenter__(self) -> Self:
        self._member.begin()
        try:
            self._pieces = await self._pieces.__aenter__()
        except BaseException as error:
            self._member.end()
            if isinstance(error, Exception):
                self._member.note(error)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self._pieces.__aexit__(kind, error, traceback)
        finally:
            self._member.end()

    def __aiter__(self) -> Self:
        self._iterator = aiter(self._pieces)
        return self

    async def __anext__(self) -> Piece:
        try:
            return await anext(self._iterator)
        except StopAsyncIteration:
            self._member.note(None)
            raise
        except Exception as error:
            self._member.note(error)
            raise

    @property
    def cost(self) -> TokenUsage:
        """What it has cost so far."""
        return self._pieces.cost

    @property
    def is_cost_final(self) -> bool:
        """Whether that is the member's figure of the whole, as far as it says so."""
        return getattr(self._pieces, "is_cost_final", False) is True

    @property
    def response(self) -> LLMResponse:
        """The whole, once all pieces are there."""
        return self._pieces.response
