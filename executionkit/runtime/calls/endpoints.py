"""What is remembered of each server: its dialect, and which optional fields it is known to take."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, cast
from weakref import WeakKeyDictionary

import msgspec
from msgspec.structs import asdict, replace

from executionkit.core.dialect import PLAIN, Dialect, Request, ResponseFormat
from executionkit.core.foreign import attribute, method
from executionkit.core.journal import Taught
from executionkit.core.learning import optional_fields
from executionkit.core.retry_quota import RetryQuota
from executionkit.errors import ExecutionKitError
from executionkit.provider import LLMProvider
from executionkit.retry import DEFAULT_RETRY, RetryConfig
from executionkit.runtime.frame import Frame
from executionkit.runtime.journal.given import CallCache
from executionkit.runtime.ledger.accounts import Account
from executionkit.runtime.ledger.terms import Terms, terms_of

__all__ = [
    "Endpoint",
    "Memory",
    "endpoint_of",
    "identity_of",
    "learn_again",
    "lesson_of",
    "memory_of",
    "place_of",
]

_FORMATS: Final[tuple[ResponseFormat, ...]] = ("json_schema", "json_object")
_COLLECTIONS: Final = (tuple, list, frozenset, set)


class Memory:
    """What is known of one server.

    Args:
        dialect: How it wants requests said, to begin with.
        is_certain: Whether that was said by somebody who knows, and need not be found out.
    """

    __slots__ = ("__weakref__", "_proven", "dialect", "is_certain")

    def __init__(self, dialect: Dialect, *, is_certain: bool) -> None:
        self.dialect: Dialect = dialect
        self.is_certain: bool = is_certain
        self._proven: frozenset[str] = frozenset()

    def has_proven(self, request: Request) -> bool:
        """Tell whether it is known of all optional fields of a request that the server takes them, or not."""
        if self.is_certain or (request.form is None and not request.logprobs):
            return True
        return optional_fields(request, self.dialect) - {"n"} <= self._proven

    def note_taken(self, request: Request, dialect: Dialect) -> frozenset[str]:
        """Remember that the server answered a request that was said so; return the optional fields in it."""
        if request.form is None and not request.logprobs and request.n == 1:
            return frozenset()
        taken = optional_fields(request, dialect)
        self._proven |= taken
        return taken

    def note_proven(self, fields: Iterable[str]) -> None:
        """Remember optional fields that the server took, as an earlier life of a run has noted them."""
        self._proven |= frozenset(fields)

    @property
    def has_proven_n(self) -> bool:
        """Whether the server has answered a request for several answers at once."""
        return "n" in self._proven

    def learn(self, lesson: Mapping[str, Any]) -> None:
        """Remember the fields that a refusal changed, beside what other calls have learned."""
        self.dialect = replace(self.dialect, **lesson)


def lesson_of(before: Dialect, after: Dialect) -> dict[str, Any]:
    """Return the fields of a dialect that a refusal changed."""
    old, new = asdict(before), asdict(after)
    return {name: value for name, value in new.items() if value != old[name]}


def _learned_from(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a dialect that refusals changed, as a journal has kept them."""
    known = {name: value for name, value in plain.items() if name in Dialect.__struct_fields__}
    try:
        return {name: getattr(msgspec.convert(known, Dialect), name) for name in known}
    except msgspec.ValidationError:
        return {}


_memories: Final["WeakKeyDictionary[object, Memory]"] = WeakKeyDictionary()


def memory_of(provider: object) -> Memory:
    """Return what is known of the server behind a provider; equal providers share it.

    A provider may know better and say so: in `known_dialect` (a `Dialect`), or in `response_formats`, the
    names of the forms that it takes. Of one that neither hashes nor can be referred to, nothing is kept.
    """
    try:
        memory = _memories.get(provider)
        if memory is None:
            memory = _memories[provider] = _first_memory(provider)
    except Exception:  # noqa: BLE001 - foreign `__hash__` and `__eq__` may raise anything
        return _first_memory(provider)
    return memory


class Endpoint:
    """What a run knows of a provider; read once, for a look-up on a foreign object may be dear, or raise.

    Args:
        provider: The provider.
    """

    __slots__ = (
        "_identity",
        "cache",
        "choose",
        "kind",
        "memory",
        "model",
        "moves_on",
        "port",
        "provider",
        "retry",
        "retry_quota",
        "server",
        "terms",
    )

    def __init__(self, provider: LLMProvider) -> None:
        self.cache: CallCache | None = None
        if attribute(provider, "caches_calls") is True:
            self.cache = cast("CallCache", provider)
        if self.cache is not None:
            provider = self.cache.provider
        self.provider: LLMProvider = provider
        self.memory: Memory = memory_of(provider)
        self.choose: Callable[[ExecutionKitError | None], LLMProvider] | None = method(provider, "choose")
        self.moves_on: Callable[[object, ExecutionKitError], bool] | None = method(provider, "moves_on")
        retry, quota = attribute(provider, "retry"), attribute(provider, "retry_quota")
        self.retry: RetryConfig = retry if isinstance(retry, RetryConfig) else DEFAULT_RETRY
        self.retry_quota: RetryQuota | None = quota if isinstance(quota, RetryQuota) else None
        model, server = attribute(provider, "model"), attribute(provider, "server")
        self.kind: str = _kind_of(provider)
        self.model: str | None = model if isinstance(model, str) else None
        self.server: str | None = server if isinstance(server, str) else None
        port = attribute(provider, "port")
        self.port: int | None = port if type(port) is int else None
        self.terms: Terms = terms_of(provider, attribute)
        self._identity: Mapping[str, Any] | None = None

    @property
    def identity(self) -> Mapping[str, Any]:
        """Whom a request goes to, and what is added to it on the way, as JSON's shapes; no key."""
        if self._identity is None:
            self._identity = identity_of(self.provider)
        return self._identity


def _kind_of(provider: object) -> str:
    """Name the class of a provider: of the one behind, where it is a running stage's."""
    while isinstance(frame := attribute(provider, "frame"), Frame):
        provider = frame.provider
    return type(provider).__name__


_ASKED_BESIDE: Final = ("model", "default_temperature", "default_max_tokens", "extra_body")


def identity_of(provider: object) -> dict[str, Any]:
    """Return whom a request goes to, and what is added to it on the way; no key."""
    while isinstance(frame := attribute(provider, "frame"), Frame):
        provider = frame.provider
    members = _members_of(provider)
    if members is not None:
        behind = [attribute(member, "provider") or member for member in members]
        return {"members": [identity_of(each) for each in behind]}
    found = {name: attribute(provider, name) for name in _ASKED_BESIDE}
    base_url = attribute(provider, "base_url")
    if isinstance(base_url, str):  # neither a query nor a user stands for a key
        scheme, slashes, rest = base_url.partition("?")[0].rpartition("://")
        authority, slash, path = rest.partition("/")
        found["base_url"] = f"{scheme}{slashes}{authority.rpartition('@')[2]}{slash}{path}"
    return {name: value for name, value in found.items() if value not in (None, "", {})}


def endpoint_of(provider: LLMProvider, account: Account) -> Endpoint:
    """Return what the run that an account belongs to knows of a provider."""
    found: Endpoint | None = account.ledger.endpoints.get(id(provider))
    if found is None:
        found = account.ledger.endpoints[id(provider)] = Endpoint(provider)
    return found


def _members_of(provider: object) -> tuple[LLMProvider, ...] | None:
    """Return the members of a pool; None for any other provider."""
    members: object = attribute(provider, "members")
    is_pool = attribute(provider, "choose") is not None and isinstance(members, tuple)
    return cast("tuple[LLMProvider, ...]", members) if is_pool else None


def place_of(member: Endpoint, endpoint: Endpoint) -> int | None:
    """Return which member of a pool was asked; 0 for a provider alone, None where nobody can tell."""
    if endpoint.choose is None:
        return 0
    members = _members_of(endpoint.provider) or ()
    return next((place for place, each in enumerate(members) if each is member.provider), None)


def learn_again(provider: LLMProvider, account: Account, taught: Mapping[int, Taught]) -> None:
    """Remember what an earlier life of a run has learned of a server, or of each member of a pool."""
    endpoint = endpoint_of(provider, account)
    members = _members_of(endpoint.provider)
    for place, each in taught.items():
        if endpoint.choose is None:
            memory = endpoint.memory
        elif members is not None and place < len(members):
            memory = endpoint_of(members[place], account).memory
        else:
            continue
        memory.learn(_learned_from(each.lessons))
        memory.note_proven(each.proven)


def _first_memory(provider: object) -> Memory:
    known = attribute(provider, "known_dialect")
    if isinstance(known, Dialect):
        return Memory(known, is_certain=True)
    said = attribute(provider, "response_formats")
    if isinstance(said, _COLLECTIONS):
        formats: tuple[ResponseFormat, ...] = tuple([form for form in _FORMATS if form in said])
        return Memory(Dialect(response_formats=formats), is_certain=True)
    return Memory(PLAIN, is_certain=False)
