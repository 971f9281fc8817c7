"""A typed answer: the schema a model is given for a type, and the way back from its text."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import lru_cache
from itertools import islice
from typing import Any, Final, ForwardRef, Generic, TypeVar, cast

import msgspec

from executionkit.core.dialect import JsonForm
from executionkit.core.json_text import find_json
from executionkit.core.refusals import why_refused
from executionkit.core.schema.signature import inline_root
from executionkit.core.schema.validation import Rejected

__all__ = ["AnswerType", "Decoded", "answer_type", "asking", "complaint"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_MOST_CANDIDATES: Final = 32


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
        schema: The JSON Schema (draft 2020-12) to show to the model; objects in it are closed.
        text: The same as JSON text.
        is_strict: Whether it keeps OpenAI's rules for `strict`: every object closed, every key required.
        name: What to call it in a request, within OpenAI's alphabet.
    """

    __slots__ = ("_bare", "_wrapped", "is_strict", "name", "schema", "text")

    def __init__(self, kind: object) -> None:
        schema = inline_root(msgspec.json.schema(kind))
        is_object = schema.get("type") == "object"
        self.schema: dict[str, Any] = _closed(schema if is_object else _wrapped(schema))
        self.text: str = msgspec.json.encode(self.schema).decode()
        self.is_strict: bool = _is_strict(self.schema)
        self.name: str = _name(kind)
        # msgspec takes any type form here, its stubs know classes only
        self._bare: msgspec.json.Decoder[Any] = msgspec.json.Decoder(cast("type[Any]", kind))
        self._wrapped = None if is_object else msgspec.json.Decoder(_envelope(kind))

    @property
    def form(self) -> JsonForm:
        """The form that answers of this type have."""
        return JsonForm(self.name, self.schema, self.is_strict)

    def read(self, text: str, refusal: str | None = None) -> Decoded[T] | Rejected:
        """Return the first value of this type in `text`, or why there is none. Never raises.

        What was refused or filtered holds none, whatever the text says: its end may be missing.
        """
        if refusal is not None:
            return Rejected((why_refused(refusal),))
        reason, is_telling = "the answer holds no JSON", False
        for candidate in islice(find_json(text), _MOST_CANDIDATES):
            try:
                return Decoded(self._decode(candidate))
            except msgspec.ValidationError as error:
                if not is_telling:
                    reason, is_telling = str(error), True
            except (msgspec.DecodeError, ValueError, RecursionError) as error:
                if not is_telling and candidate[:1] in "{[":
                    reason = f"the JSON is malformed: {error}"
        return Rejected((reason,))

    def _decode(self, text: str) -> T:
        if self._wrapped is None or not text.startswith("{"):
            bare: T = self._bare.decode(text)
            return bare
        return self._decode_wrapped(self._wrapped, text)

    def _decode_wrapped(self, wrapped: msgspec.json.Decoder[Any], text: str) -> T:
        try:
            inner: T = wrapped.decode(text).answer
        except msgspec.ValidationError as error:
            with suppress(msgspec.ValidationError):
                bare: T = self._bare.decode(text)
                return bare
            raise error from None
        return inner


@lru_cache(maxsize=256)
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
    """
    if isinstance(kind, (str, ForwardRef)):
        raise TypeError(f"an output type is a class, not its name: pass the class itself, not {kind!r:.80}")
    return AnswerType(kind)


def _envelope(kind: object) -> Any:
    return msgspec.defstruct("Answer", [("answer", cast("type[Any]", kind))])


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
