"""A typed answer: the schema a model is given for a type, and the way back from its text."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from functools import lru_cache
from types import UnionType
from typing import Any, Final, ForwardRef, Generic, Literal, TypeVar, Union, cast, get_args, get_origin

import msgspec

from executionkit.core.dialect import JsonForm
from executionkit.core.json_text import find_json, without_thoughts
from executionkit.core.refusals import why_refused
from executionkit.core.schema.models import schema_of, with_models
from executionkit.core.schema.reading import JsonDecoder, why_rejected
from executionkit.core.schema.signature import inline_root
from executionkit.core.schema.validation import Rejected

__all__ = ["AnswerType", "Decoded", "answer_type", "asking", "complaint"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_MOST_VALUES: Final = 32
_LISTS: Final = frozenset({list, Sequence})


class Decoded(msgspec.Struct, Generic[T_co], frozen=True):
    """A value read from a model's text.

    Args:
        value: The value, of the asked type.
    """

    value: T_co


class AnswerType(Generic[T]):
    """A type as a model is asked for it.

    Servers take only an object at the root, so any other type travels as `{"answer": ...}`.

    Attributes:
        text: The JSON Schema (draft 2020-12) to show to the model, as JSON text.
        is_strict: Whether it keeps OpenAI's rules for `strict`: every object closed, every key required.
        name: What to call it in a request, within OpenAI's alphabet.
    """

    __slots__ = ("_bare", "_kind", "_wrapped", "is_strict", "name", "text")

    def __init__(self, kind: object) -> None:
        schema = inline_root(schema_of(kind))
        is_object = schema.get("type") == "object"
        schema = _closed(schema if is_object else _wrapped(schema))
        self.text: str = msgspec.json.encode(schema).decode()
        self.is_strict: bool = _is_strict(schema)
        self.name: str = _name(kind)
        self._kind: Any = kind
        self._bare = JsonDecoder(kind)
        self._wrapped = None if is_object else JsonDecoder(_envelope(kind))

    @property
    def is_wrapped(self) -> bool:
        """Whether it travels as `{"answer": ...}`."""
        return self._wrapped is not None

    @property
    def element(self) -> JsonDecoder | None:
        """The way to read one element of a list, or of a tuple of any length; None for another type."""
        origin, arguments = get_origin(self._kind), get_args(self._kind)
        if origin is tuple and arguments[1:] == (...,):
            arguments = arguments[:1]
        elif origin not in _LISTS or len(arguments) != 1:
            return None
        return JsonDecoder(arguments[0])

    @property
    def form(self) -> JsonForm:
        """The form that answers of this type have."""
        return JsonForm(self.name, self.schema, self.is_strict)

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON Schema (draft 2020-12) to show to the model, a new dict each time; objects are closed."""
        schema: dict[str, Any] = msgspec.json.decode(self.text)
        return schema

    def read(self, text: str, refusal: str | None = None, *, was_cut: bool = False) -> Decoded[T] | Rejected:
        """Return the value of this type in `text`, or why there is none. Never raises.

        Of several JSON values the one that `find_json` puts first and that is of this type. What was refused
        or filtered holds none, whatever the text says, nor does a value that is a fragment of another. Of an
        enum or a literal, a text that is the bare word and nothing else will do.

        Args:
            text: What the model wrote.
            refusal: What it or its content filter said in place of an answer.
            was_cut: Whether its end is missing.
        """
        if refusal is not None:
            return Rejected((why_refused(refusal),))
        found = find_json(text, was_cut=was_cut)
        reasons: list[str] = []
        for value in found.values[:_MOST_VALUES]:
            try:
                return Decoded(self._decode(value))
            except Exception as error:  # noqa: BLE001 - a type's own checks may raise anything
                reasons.append(why_rejected(error))
        if _is_choice(self._kind) and not (found.was_begun or was_cut):
            with suppress(Exception):  # an enum's `_missing_` may raise anything
                return Decoded(msgspec.convert(without_thoughts(text).strip(), self._kind))
        return Rejected((reasons[0] if reasons else found.problem,))

    def _decode(self, text: str) -> T:
        if self._wrapped is None or not text.startswith("{"):
            bare: T = self._bare.decode(text)
            return bare
        try:
            inner: T = self._wrapped.decode(text).answer
        except msgspec.ValidationError:
            with suppress(msgspec.ValidationError):
                unframed: T = self._bare.decode(text)
                return unframed
            raise
        return inner


def answer_type(kind: Any) -> AnswerType[Any]:
    """Return the ways to ask for a type and to read it, made once.

    Raises:
        TypeError: msgspec cannot decode this type, or not into JSON's shapes.

    >>> answer_type(list[int]).text
    '{"type":"object","properties":{"answer":{"type":"array","items":{"type":"integer"}}},...}'
    >>> answer_type(list[int]).read('The primes are [2, 3, 5].')
    Decoded(value=[2, 3, 5])
    >>> answer_type(list[int]).read('{"answer": [2, "three"]}')
    Rejected(reasons=('Expected `int`, got `str` - at `$.answer[1]`',))
    >>> answer_type(Literal["yes", "no"]).read("yes")
    Decoded(value='yes')
    """
    if isinstance(kind, (str, ForwardRef)):
        raise TypeError(f"an output type is a class, not its name: pass the class itself, not {kind!r:.80}")
    return _remembered(kind) if _hashes(kind) else AnswerType(kind)


@lru_cache(maxsize=256)
def _remembered(kind: Any) -> AnswerType[Any]:
    return AnswerType(kind)


def _hashes(kind: object) -> bool:
    try:
        hash(kind)
    except TypeError:  # a value in place of a type, or what annotates one
        return False
    return True


def _envelope(kind: object) -> Any:
    return msgspec.defstruct("Answer", [("answer", cast("type[Any]", with_models(kind)))])


def _wrapped(schema: Mapping[str, Any]) -> dict[str, Any]:
    inner = {key: value for key, value in schema.items() if key != "$defs"}
    outer = {"type": "object", "properties": {"answer": inner}, "required": ["answer"]}
    return {**outer, "$defs": schema["$defs"]} if "$defs" in schema else outer


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    """Say of every object with named properties that it has no others; models invent keys otherwise."""
    closed = {key: _closed_within(key, value) for key, value in schema.items()}
    if "properties" in closed and "type" in closed:
        closed.setdefault("additionalProperties", False)
    return closed


def _closed_within(key: str, value: Any) -> Any:
    if key in {"properties", "$defs"}:
        return {name: _closed(part) for name, part in value.items()}
    if key in {"anyOf", "prefixItems"}:
        return [_closed(part) for part in value]
    if key in {"items", "additionalProperties"} and isinstance(value, dict):
        return _closed(cast("dict[str, Any]", value))
    return value


def _is_strict(schema: Mapping[str, Any]) -> bool:
    parts: Iterable[Mapping[str, Any]] = _objects(schema)
    return all(
        part.get("additionalProperties") is False
        and set(part.get("required", ())) == set(part.get("properties", ()))
        for part in parts
    )


def _objects(part: object) -> list[Mapping[str, Any]]:
    if isinstance(part, list):
        return [found for item in cast("list[object]", part) for found in _objects(item)]
    if not isinstance(part, Mapping):
        return []
    mapping = cast("Mapping[str, Any]", part)
    below = [found for item in mapping.values() for found in _objects(item)]
    return [mapping, *below] if mapping.get("type") == "object" else below


def _is_choice(kind: object) -> bool:
    """Tell whether a type has but a few values, which a model can say as words."""
    if get_origin(kind) in {Union, UnionType}:
        return all(part is type(None) or _is_choice(part) for part in get_args(kind))
    return get_origin(kind) is Literal or (isinstance(kind, type) and issubclass(kind, Enum))


def _name(kind: object) -> str:
    given = getattr(kind, "__name__", "answer")
    return given if given.isidentifier() and given.isascii() else "answer"


def asking(prompt: str, kind: AnswerType[Any]) -> str:
    """Return a prompt that asks for an answer of a type."""
    return (
        f"{prompt}\n\n"
        f"Answer with one JSON value that is valid under this JSON Schema, and nothing else:\n{kind.text}"
    )


def complaint(rejected: Rejected, *, was_truncated: bool) -> str:
    """Return what to tell a model whose answer could not be used.

    >>> complaint(Rejected(("Expected `int`, got `str` - at `$.total`",)), was_truncated=False)
    'That answer cannot be used: Expected `int`, got `str` - at `$.total`.'
    """
    cut = "it was cut off at the token limit, so be shorter; " if was_truncated else ""
    return f"That answer cannot be used: {cut}{rejected}."
