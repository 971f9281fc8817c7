"""Ballots: how the text of a sample becomes a value and the keys it votes with.

A `TextBallot` votes with a key of the text, a `ValueBallot` with a decoded structure as a whole, a
`FieldBallot` with each of its fields. All are pure; a text that cannot be read abstains.
"""

from abc import abstractmethod
from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from math import isfinite
from typing import Any, Generic, TypeVar, cast
from unicodedata import category

import msgspec
from typing_extensions import TypeForm, override

from executionkit.core.foreign import fits, returned_at_once
from executionkit.core.json_text import find_json, without_thoughts
from executionkit.core.schema.answer import AnswerType, Decoded, answer_type, asking
from executionkit.core.schema.models import (
    fields_of_model,
    plain_model,
    read_model,
    schema_of,
    told_by_model,
    with_fields,
    with_models,
)
from executionkit.core.schema.reading import as_kind
from executionkit.core.schema.signature import inline_root
from executionkit.core.voting.keys import Grouping
from executionkit.core.voting.tally import fold

__all__ = ["Ballot", "Cast", "FieldBallot", "TextBallot", "ValueBallot"]

T = TypeVar("T")


class Cast(msgspec.Struct, Generic[T], frozen=True):
    """A sample that was read.

    Args:
        value: What it says.
        keys: What it votes for, an entry for each question of the ballot; None abstains there.
    """

    value: T
    keys: tuple[Hashable | None, ...]


class Ballot(msgspec.Struct, Generic[T], frozen=True, repr_omit_defaults=True):
    """How the text of a sample becomes a value and the keys it votes with."""

    @property
    def questions(self) -> tuple[str, ...]:
        """What is voted on: the names of the fields, or one empty name for the whole answer."""
        return ("",)

    def ask(self, prompt: str) -> str:
        """Return the prompt, with what answers must look like to be read."""
        return prompt

    @property
    def kind(self) -> AnswerType[T] | None:
        """The type that samples are decoded into, where they are."""
        return None

    @property
    def grouping(self) -> Grouping | None:
        """What lets votes count together without being equal, if anything does."""
        return None

    def cast(self, text: str, *, was_cut: bool = False) -> Cast[T] | None:
        """Read a sample; None where it cannot be read, its key fails, or it says nothing but reasoning.

        Args:
            text: What the model wrote.
            was_cut: Whether its end is missing: then no value is read that might go on.
        """
        spoken = without_thoughts(text).strip()
        if not spoken or not (spoken.isascii() or any(map(_is_visible, spoken))):
            return None
        try:
            value = self.read(text, was_cut=was_cut)
            keys = self.keys(value)
            hash(keys)
        except Exception:  # noqa: BLE001 - a key is foreign code
            return None
        return Cast(value, keys) if any(key is not None for key in keys) else None

    @abstractmethod
    def read(self, text: str, *, was_cut: bool = False) -> T:
        """Return the value of a text; raise where it has none."""
        raise NotImplementedError

    @abstractmethod
    def keys(self, value: T) -> tuple[Hashable | None, ...]:
        """Return what a value votes for, an entry for each question."""
        raise NotImplementedError

    def named(self, key: Hashable) -> str:
        """Return what the metadata of a vote calls an answer."""
        return str(key)

    def assemble(self, winners: Sequence[T]) -> T:
        """Return the answer, given for each question a value that says what won there."""
        return winners[0]


class TextBallot(Ballot[str], frozen=True):
    """Votes with a key of the text, reasoning left out; the answer is the original text.

    A text that was cut off abstains: nobody knows what it would have said.

    Args:
        key: What a text says.

    >>> TextBallot().cast(" two  words ")
    Cast(value=' two  words ', keys=('two words',))
    """

    key: Callable[[str], Hashable | None] = fold

    @property
    @override
    def grouping(self) -> Grouping | None:
        key: object = self.key
        return key if fits(key, Grouping) else None

    @override
    def read(self, text: str, *, was_cut: bool = False) -> str:
        if was_cut:
            raise ValueError("its end is missing")
        return text

    @override
    def keys(self, value: str) -> tuple[Hashable | None, ...]:
        return (returned_at_once(self.key(without_thoughts(value))),)


class ValueBallot(Ballot[T], frozen=True):
    """Votes with a decoded value: as a whole, by its JSON form, or by a key of it.

    Args:
        output_type: The type that texts are decoded into: JSON, possibly inside other text.
        key: What a value says; None for its JSON form.

    >>> ValueBallot(int).cast("seven"), ValueBallot(int).cast("7")
    (None, Cast(value=7, keys=('7',)))
    """

    output_type: TypeForm[T]
    key: Callable[[T], Hashable | None] | None = None

    def __post_init__(self) -> None:
        _kind_of(self.output_type)

    @property
    @override
    def kind(self) -> AnswerType[T]:
        return _kind_of(self.output_type)

    @override
    def ask(self, prompt: str) -> str:
        return asking(prompt, self.kind)

    @property
    @override
    def grouping(self) -> Grouping | None:
        key: object = self.key
        return key if fits(key, Grouping) else None

    @override
    def read(self, text: str, *, was_cut: bool = False) -> T:
        return _decoded(text, self.output_type, was_cut)

    @override
    def keys(self, value: T) -> tuple[Hashable | None, ...]:
        return (_written(value) if self.key is None else returned_at_once(self.key(value)),)

    @override
    def named(self, key: Hashable) -> str:
        return _text_of(key) if self.key is None else str(key)


class FieldBallot(Ballot[T], frozen=True):
    """Votes with each field of a decoded structure; the answer is assembled of the values that won.

    Args:
        output_type: A type with fields: a struct, dataclass, `TypedDict`, attrs class or Pydantic model.
    """

    output_type: TypeForm[T]

    def __post_init__(self) -> None:
        _kind_of(self.output_type)
        if not _fields_of(self.output_type):
            raise TypeError(f"a vote field by field needs a type with fields, not {self.output_type!r}")

    @property
    @override
    def questions(self) -> tuple[str, ...]:
        return _fields_of(self.output_type)

    @property
    @override
    def kind(self) -> AnswerType[T]:
        return _kind_of(self.output_type)

    @override
    def ask(self, prompt: str) -> str:
        return asking(prompt, self.kind)

    @override
    def read(self, text: str, *, was_cut: bool = False) -> T:
        return _decoded(text, self.output_type, was_cut)

    @override
    def keys(self, value: T) -> tuple[Hashable | None, ...]:
        told = told_by_model(value) if fields_of_model(self.output_type) else _plain_fields(value)
        return tuple([_written(told[name]) if name in told else "" for name in self.questions])

    @override
    def named(self, key: Hashable) -> str:
        return _text_of(key)

    @override
    def assemble(self, winners: Sequence[T]) -> T:
        said = [self.keys(winner) for winner in winners]
        won = tuple([keys[place] for place, keys in enumerate(said)])
        whole = [winner for winner, keys in zip(winners, said, strict=True) if keys == won]
        if whole:
            return whole[0]
        if fields_of_model(self.output_type):
            values = {
                name: getattr(winner, name) for name, winner in zip(self.questions, winners, strict=True)
            }
            made: T = with_fields(winners[0], values)
            return made
        parts: dict[str, object] = {}
        for name, winner in zip(self.questions, map(_plain_fields, winners), strict=True):
            if name in winner:
                parts[name] = winner[name]
        answer: T = as_kind(parts, self.output_type)
        return answer


def _decoded(text: str, output_type: TypeForm[T], was_cut: bool) -> T:
    """Decode the JSON in a text; a text that holds none may still be a number, or the value of an enum.

    Raises:
        ValueError: It holds no such value, or JSON that is broken or cut off.
    """
    kind: AnswerType[T] = _kind_of(output_type)
    found = kind.read(text, was_cut=was_cut)
    if isinstance(found, Decoded):
        return found.value
    if was_cut or find_json(text).was_begun:
        raise ValueError(str(found))
    value: T = msgspec.convert(
        without_thoughts(text).strip(), with_models(output_type), strict=False, dec_hook=read_model
    )
    if isinstance(value, float) and not isfinite(value):  # no JSON, and written alike whichever it is
        raise ValueError(f"{value} is no number to vote for")
    return value


def _is_visible(character: str) -> bool:
    """Whether a character shows: no white space, and none of no width."""
    return not character.isspace() and category(character) != "Cf"


def _kind_of(output_type: object) -> AnswerType[Any]:
    return answer_type(output_type)


def _written(value: object) -> str:
    try:
        return msgspec.json.encode(value, order="deterministic", enc_hook=plain_model).decode()
    except TypeError:  # a mapping in it has keys that are not text
        plain: object = msgspec.to_builtins(value, order="deterministic", str_keys=True, enc_hook=plain_model)
        return msgspec.json.encode(plain).decode()


def _text_of(written: Hashable) -> str:
    """Return a value as text: a text as it is, anything else as the JSON that it was written as."""
    text = str(written)
    return msgspec.json.decode(text, type=str) if text.startswith('"') else text


def _plain_fields(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", msgspec.to_builtins(value, str_keys=True, enc_hook=plain_model))


def _fields_of(output_type: object) -> tuple[str, ...]:
    return _fields(output_type)


@lru_cache(maxsize=256)
def _fields(output_type: Hashable) -> tuple[str, ...]:
    """Return the names of a type's fields, of other types than models as JSON has them, if it has any."""
    return fields_of_model(output_type) or tuple(inline_root(schema_of(output_type)).get("properties", ()))
