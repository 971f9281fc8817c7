"""What a journal keeps of a run: its calls, what they were charged, and what came of them. Pure.

A row stands for one logical call, or one call of a tool. It is found by its place, and taken only where its
fingerprint says that the same was asked.
"""

import json
import re
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final, Literal, TypeAlias, TypeVar, cast

import msgspec
from msgspec.structs import replace

from executionkit.core.dialect import Request
from executionkit.core.foreign import text_of
from executionkit.core.money import Matched, dollars
from executionkit.core.usage import NO_USAGE, TokenUsage

__all__ = [
    "ROWS_OF_A_BATCH",
    "BadRowError",
    "Body",
    "Charge",
    "Effects",
    "Key",
    "Kind",
    "Place",
    "Priced",
    "Reply",
    "Row",
    "State",
    "Taught",
    "as_bytes",
    "cost_of",
    "digest_of",
    "from_bytes",
    "packed",
    "plain_request",
    "sealed",
    "total_of",
    "unpacked",
]

T = TypeVar("T")

Place: TypeAlias = tuple[int | str, ...]
"""Where a stage or a call is in the pipeline."""

Kind: TypeAlias = Literal["call", "tool", "approval"]
Key: TypeAlias = tuple[Kind, Place, int]
"""What is known of a row beforehand: its kind, its path, and its ordinal there."""

Effects: TypeAlias = Literal["once", "idempotent", "none"]
"""What a call of a tool does to the world: something that must not happen twice, something that may since it
is recognised, or nothing."""

ROWS_OF_A_BATCH: Final = "executionkit: the rows of a batch, one after the other"
"""What stands for the input of a batch, which has no end to be compared by."""

State: TypeAlias = Literal["sent", "open", "done"]
"""`sent`: under way, its reservation held. `open`: paid so far, without an outcome. `done`: settled."""

_CHECK: Final = 8
"""Bytes of the checksum that a row begins with."""
_ARRAY: Final = b"\xdc"
"""What a list of MessagePack begins with; the number of what is in it follows, in two bytes."""
_ADDRESS: Final = re.compile(r" at 0x[0-9a-fA-F]+")


class BadRowError(ValueError):
    """What is stored is not what was written."""


class Priced(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """How a call was priced, where there is something to say of that.

    Args:
        is_unpriced: Whether the provider names prices, but none for its model.
        is_reported: Whether the server gave the figure.
        matched_by: How the price was found.
        counted_by: What the reservation under a budget in money rested on; None without such a budget.
    """

    is_unpriced: bool = False
    is_reported: bool = False
    matched_by: Matched = "name"
    counted_by: Literal["estimate", "bytes", "count_tokens"] | None = None


class Charge(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What one attempt is charged.

    Args:
        cost: Calls and tokens; money is in `usd`.
        usd: Picodollars; None where no price is known.
        is_estimated: Whether the tokens are those reserved, for the server gave no figure.
        estimate: Tokens of the prompt as estimated, where the server's count is to correct that; else 0.
        priced: How it was priced.
    """

    cost: TokenUsage = NO_USAGE
    usd: int | None = None
    is_estimated: bool = False
    estimate: int = 0
    priced: Priced | None = None


class Reply(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """An answer as it is kept: the fields of an `LLMResponse` as JSON's shapes.

    `raw` is kept only of a call for several answers or for log-probabilities, which are read out of it.
    """

    content: str
    tool_calls: list[dict[str, Any]] = []
    finish_reason: str = "stop"
    usage: Any = {}
    extra: Any = {}
    reasoning: str = ""
    raw: Any = None
    id: str = ""
    model: str = ""
    request_id: str = ""
    status: int | None = None


class Taught(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a call has taught of a server.

    Args:
        lessons: The fields of its dialect that refusals changed.
        proven: Optional fields that it is known to take since.
    """

    lessons: dict[str, Any] = {}
    proven: list[str] = []


class Body(msgspec.Struct, gc=False, omit_defaults=True):
    """What a row holds.

    Args:
        charges: What each attempt was charged, those of earlier lives included.
        held: The reservation of the attempt under way.
        lost: Attempts that were under way when a process ended; each is charged at its reservation.
        attempts: Attempts sent.
        retries: How many of them were retries.
        left_out: Whether an optional field was left out of the last one, since a refusal named none.
        taught: What it has taught of the server; of a pool of each member, by its place.
        form: Who was to hold the answer to its form.
        reply: The answer.
        error: The failure, as `ExecutionKitError.to_dict` writes it.
        text: What came of a tool, as the model gets to see it; or the decision on it.
        fault: The class of what went wrong with a tool.
        tool: The tool's name.
        effects: What calling the tool again would do.
        key: The idempotency key of a tool's call.
        cached: Whether the answer came out of a cache.
    """

    charges: list[Charge] = []
    held: Charge | None = None
    lost: int = 0
    attempts: int = 0
    retries: int = 0
    left_out: bool = False
    taught: dict[int, Taught] = {}
    form: Literal["json_schema", "json_object", "prompt"] = "prompt"
    reply: Reply | None = None
    error: dict[str, Any] | None = None
    text: str | None = None
    fault: str | None = None
    tool: str = ""
    effects: Effects = "none"
    key: str = ""
    cached: bool = False


class Row(msgspec.Struct, eq=False, gc=False, omit_defaults=True):
    """One logical call, or one call of a tool, as a journal knows it.

    Args:
        seq: Its number in the run, in the order in which rows were begun.
        generation: Which version of the pipeline it belongs to; -1 where it is asked no more.
        kind: What it is.
        path: Where it is in the pipeline.
        ordinal: How many calls came before it there.
        state: How far it got.
        fingerprint: What was asked.
        body: What it holds.
        prompt: What was asked, in plain text, where the journal keeps that.
    """

    seq: int
    generation: int
    kind: Kind
    path: Place
    ordinal: int
    state: State
    fingerprint: bytes
    body: Body
    prompt: str | None = None

    @property
    def key(self) -> Key:
        """What it is found by."""
        return self.kind, self.path, self.ordinal

    def copy(self) -> "Row":
        """Return it as it is now; no part of a body is changed in place."""
        return replace(self, body=replace(self.body))

    def lose(self) -> None:
        """Take an attempt that was under way for lost, and charge it at its reservation."""
        if self.state == "sent":
            held = self.body.held
            if held is not None:
                self.body.charges = [*self.body.charges, held]
                self.body.lost += 1
            self.body.held = None
            self.state = "open"


def total_of(charges: Sequence[Charge]) -> tuple[TokenUsage, int | None]:
    """Add charges up: tokens, and picodollars where any price was known."""
    cost, usd = NO_USAGE, None
    for charge in charges:
        cost += charge.cost
        if charge.usd is not None:
            usd = (usd or 0) + charge.usd
    return cost, usd


def cost_of(charges: Sequence[Charge]) -> TokenUsage:
    """Return what charges come to, in money too where any price was known."""
    cost, usd = total_of(charges)
    return cost if usd is None else cost + TokenUsage(usd=dollars(usd))


class _Paid(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A charge as it is packed: without names; its money is in `usd`, for its cost has none."""

    input_tokens: int
    output_tokens: int
    llm_calls: int
    cache_read_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    usd: int | None
    is_estimated: bool
    estimate: int
    priced: Priced | None


class _Packed(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A row as it is packed: what most rows have is without names, and the rest in `body`."""

    seq: int
    generation: int
    kind: Kind
    path: Place
    ordinal: int
    state: State
    fingerprint: bytes
    charges: list[_Paid]
    held: _Paid | None
    body: Body
    prompt: str | None


def packed(row: Row) -> bytes:
    """Return a row as bytes, for `sealed`; `unpacked` reads what any number of rows were sealed as."""
    body = row.body
    try:
        return _PACKER.encode(
            _Packed(
                row.seq,
                row.generation,
                row.kind,
                row.path,
                row.ordinal,
                row.state,
                row.fingerprint,
                [*map(_paid, body.charges)],
                None if body.held is None else _paid(body.held),
                replace(body, charges=[], held=None),
                row.prompt,
            )
        )
    except (UnicodeEncodeError, OverflowError, TypeError, ValueError):
        text = json.dumps(msgspec.to_builtins(row), default=str)  # lone surrogates, large numbers
        return _PACKER.encode(text)


def _paid(charge: Charge) -> _Paid:
    cost = charge.cost
    return _Paid(
        cost.input_tokens,
        cost.output_tokens,
        cost.llm_calls,
        cost.cache_read_tokens,
        cost.cache_write_tokens,
        cost.reasoning_tokens,
        charge.usd,
        charge.is_estimated,
        charge.estimate,
        charge.priced,
    )


def sealed(rows: Sequence[bytes], salt: bytes) -> bytes:
    """Return rows, each as `packed` made it, as bytes that tell if they were changed.

    Args:
        rows: The rows, at most 65,535.
        salt: What they belong to, so that nothing can be put in their place.
    """
    return _with_checksum(b"".join([_ARRAY, len(rows).to_bytes(2, "big"), *rows]), salt)


def unpacked(data: bytes, salt: bytes) -> list[Row]:
    """Return the rows that were packed and sealed.

    Raises:
        BadRowError: They were changed since.
    """
    try:
        rows = _UNPACKER.decode(_unsealed(data, salt))
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise BadRowError(f"a row is of another form: {error}") from None
    return [_converted(each, Row) if isinstance(each, str) else _row(each) for each in rows]


def _row(given: _Packed) -> Row:
    body = given.body
    body.charges = [_charge(paid) for paid in given.charges]
    body.held = None if given.held is None else _charge(given.held)
    return Row(
        given.seq,
        given.generation,
        given.kind,
        given.path,
        given.ordinal,
        given.state,
        given.fingerprint,
        body,
        given.prompt,
    )


def _charge(paid: _Paid) -> Charge:
    cost = TokenUsage(
        paid.input_tokens,
        paid.output_tokens,
        paid.llm_calls,
        cache_read_tokens=paid.cache_read_tokens,
        cache_write_tokens=paid.cache_write_tokens,
        reasoning_tokens=paid.reasoning_tokens,
    )
    return Charge(cost, paid.usd, paid.is_estimated, paid.estimate, paid.priced)


def _unsealed(data: bytes, salt: bytes) -> bytes:
    text = data[_CHECK:]
    if data != _with_checksum(text, salt):
        raise BadRowError("a row is not as it was written")
    return text


def _converted(text: str | bytes, kind: type[T]) -> T:
    """Return what was written by `json`, which takes what msgspec does not."""
    try:
        return msgspec.convert(json.loads(text), kind, str_keys=True)
    except (ValueError, msgspec.ValidationError) as error:
        raise BadRowError(f"a row is of another form: {error}") from None


def as_bytes(body: Body, salt: bytes) -> bytes:
    """Return what a row holds, on its own, as bytes that tell if they were changed; see `sealed`."""
    try:
        text = _BODIES.encode(body)
    except (UnicodeEncodeError, OverflowError, TypeError, ValueError):
        text = json.dumps(msgspec.to_builtins(body), default=str).encode()  # lone surrogates, large numbers
    return _with_checksum(text, salt)


def from_bytes(data: bytes, salt: bytes) -> Body:
    """Return what `as_bytes` wrote.

    Raises:
        BadRowError: It was changed since.
    """
    text = _unsealed(data, salt)
    try:
        return _BODY.decode(text)
    except (msgspec.DecodeError, msgspec.ValidationError):
        return _converted(text, Body)


def _with_checksum(text: bytes, salt: bytes) -> bytes:
    return blake2b(salt + text, digest_size=_CHECK).digest() + text


def plain_request(request: Request, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is asked, and whom, as JSON's shapes. The key is no part of it.

    The output limit is the one asked for: what a budget grants of it depends on timing.
    """
    asked: dict[str, Any] = {"messages": request.messages}
    if request.temperature is not None:
        asked["temperature"] = _whole(request.temperature)
    if request.max_tokens is not None:
        asked["max_tokens"] = request.max_tokens
    if request.tools is not None:
        asked["tools"] = request.tools
    asked["n"] = request.n
    if request.form is not None:
        form = request.form
        asked["form"] = [form.name, form.schema, form.is_strict, form.instruction]
    if request.logprobs:
        asked["logprobs"] = True
    if request.limit_name:
        asked["limit_name"] = request.limit_name
    if request.options:
        asked["options"] = {name: _whole(value) for name, value in request.options.items()}
    asked.update(identity)
    return asked


def _whole(value: object) -> object:
    """Return a number without a fraction as an integer: 1 and 1.0 ask the same."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def digest_of(value: object) -> bytes:
    """Return 16 bytes that stand for a value: the same ones in every process.

    >>> digest_of({"a": 1, "b": [2]}) == digest_of({"b": (2,), "a": 1})
    True
    """
    return blake2b(_canonical(value), digest_size=16).digest()


def _canonical(value: object) -> bytes:
    try:
        return _ENCODER.encode(value)
    except (UnicodeEncodeError, OverflowError, TypeError, ValueError, RecursionError):
        return json.dumps(value, default=_stable, sort_keys=True, skipkeys=True).encode()


def _stable(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(cast("Mapping[object, object]", value))
    return _ADDRESS.sub("", f"{type(value).__name__}:{text_of(value)}")


_PACKER: Final = msgspec.msgpack.Encoder()
_UNPACKER: Final = msgspec.msgpack.Decoder(list[_Packed | str])
_BODIES: Final = msgspec.json.Encoder()
_BODY: Final = msgspec.json.Decoder(Body)
_ENCODER: Final = msgspec.json.Encoder(order="sorted", enc_hook=_stable)
