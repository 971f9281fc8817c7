"""A document as a stage again. Nothing is imported, called or made but what is allowed."""

import dataclasses
from base64 import b64decode
from collections.abc import Callable, Collection, Mapping
from enum import Enum
from functools import partial
from typing import Annotated, Any, Final, Literal, Union, cast

import msgspec

from executionkit.core.transcript import Transcript, transcript_of
from executionkit.plan.references import ATOMS, TYPING, resolved
from executionkit.provider import LLMProvider

__all__ = ["Reader", "UnreadableError"]


class Reader:
    """Reads one document.

    Args:
        allow: Modules whose functions and classes it may name, all below them included.
        providers: The providers that it may name.
    """

    def __init__(self, allow: Collection[str], providers: Mapping[str, LLMProvider]) -> None:
        self._allow = allow
        self._providers = providers
        self._place: list[str] = []
        self._readers: Final[dict[str, Callable[[Any], Any]]] = {
            "annotated": lambda form: cast("Any", Annotated)[
                (self._part(form, "of"), *self._part(form, "with"))
            ],
            "bytes": lambda form: b64decode(form["value"], validate=True),
            "dict": lambda form: dict(self._part(form, "items")),
            "ellipsis": lambda _: ...,
            "float": lambda form: float(form["value"]),
            "frozenset": lambda form: frozenset(self._part(form, "items")),
            "generic": self._generic,
            "int": lambda form: int(form["value"]),
            "list": lambda form: list(self._part(form, "items")),
            "literal": lambda form: cast("Any", Literal)[self._part(form, "of")],
            "partial": self._partial,
            "provider": self._provider,
            "ref": lambda form: resolved(form["name"], self._allow),
            "set": lambda form: set(self._part(form, "items")),
            "text": lambda form: b64decode(form["value"], validate=True).decode("utf-8", "surrogatepass"),
            "union": lambda form: cast("Any", Union)[self._part(form, "of")],
        }

    def read(self, form: object) -> Any:
        """Return the value of a form.

        Raises:
            ValueError: It is not of a known form, or names what is not allowed; the message says where.
        """
        if isinstance(form, list):
            return tuple(
                [self._at(str(index), item) for index, item in enumerate(cast("list[object]", form))]
            )
        if not isinstance(form, dict):
            return form
        given = cast("dict[str, Any]", form)
        if "$" not in given:
            return {name: self._at(name, item) for name, item in given.items()}
        kind: object = given["$"]
        try:
            reader = self._readers.get(kind) if isinstance(kind, str) else None
            return self._object(kind, given) if reader is None else reader(given)
        except UnreadableError:
            raise
        except Exception as error:
            place = ".".join(self._place) or "the document"
            why = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
            raise UnreadableError(f"{place} cannot be read: {why}") from error

    def _at(self, name: str, form: object) -> Any:
        self._place.append(name)
        value = self.read(form)
        self._place.pop()
        return value

    def _part(self, form: Mapping[str, Any], name: str) -> Any:
        return self._at(name, form[name])

    def _object(self, name: object, form: Mapping[str, Any]) -> Any:
        """Read a value of a class that is known, or allowed."""
        kind: Any = resolved(name, self._allow)
        if not isinstance(kind, type):
            raise ValueError(f"{name!r:.80} is no class")
        if issubclass(kind, Enum):
            return kind[form["name"]]
        if kind in ATOMS:
            return msgspec.convert(form["value"], kind)
        fields = {name: self._at(name, item) for name, item in form.items() if name != "$"}
        if kind is Transcript:
            return transcript_of(fields["messages"])
        has_fields = _is_dataclass(kind)
        if not (has_fields or issubclass(kind, msgspec.Struct | msgspec.Meta)):
            raise ValueError(f"{name!r:.80} is neither a struct nor a dataclass")
        return kind(**fields)

    def _generic(self, form: Mapping[str, Any]) -> Any:
        of: object = form["of"]
        origin = TYPING[of] if isinstance(of, str) else self._part(form, "of")
        return origin[self._part(form, "with")]

    def _partial(self, form: Mapping[str, Any]) -> Any:
        function, arguments = self._part(form, "of"), self._part(form, "arguments")
        return partial(function, *arguments, **self._part(form, "keywords"))

    def _provider(self, form: Mapping[str, Any]) -> LLMProvider:
        name: object = form["name"]
        if name not in self._providers:
            raise ValueError(
                f"no provider is called {name!r:.80}: give loads(..., providers={{{name!r:.80}: ...}})"
            )
        return self._providers[cast("str", name)]


def _is_dataclass(kind: Any) -> bool:
    return dataclasses.is_dataclass(kind)


class UnreadableError(ValueError):
    """Says where."""
