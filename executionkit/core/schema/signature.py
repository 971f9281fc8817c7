"""From a function's signature and docstring to a name, a description, a JSON Schema and a decoder."""

import inspect
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from functools import partial
from types import UnionType
from typing import Annotated, Any, Final, Union, cast, get_args, get_origin, get_type_hints

import msgspec
from msgspec import UNSET

from executionkit.core.foreign import function_name, signature_of
from executionkit.core.schema.docstring import parse_docstring
from executionkit.core.schema.models import plain_model, schema_of, with_models
from executionkit.core.schema.reading import as_kind, why_refused_argument
from executionkit.core.schema.validation import Rejected

__all__ = ["IdempotencyKey", "Signature", "inline_root", "read_signature"]

_ROOT: Final = "#/$defs/"
_BY_NAME: Final = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class IdempotencyKey:
    """Marks the argument of a tool that takes a key of the call: `key: Annotated[str, IdempotencyKey]`.

    The model neither sees nor gives it. The key is 32 hexadecimal digits: the same in every life of a run
    with a journal, another for each call. Hand it to whoever is asked to do something, so that it is done
    once.
    """


class Signature(msgspec.Struct, frozen=True):
    """A function as a model sees it.

    Args:
        name: The function's name.
        description: Its docstring up to the first section.
        schema: A JSON Schema of its arguments (draft 2020-12).
        arguments: A struct with a field for each argument the model gives.
        injected: Name of the argument that takes the injected type, where there is one.
        keyed: Name of the argument that takes an idempotency key, where there is one.
    """

    name: str
    description: str
    schema: Mapping[str, Any]
    arguments: type[msgspec.Struct]
    injected: str | None = None
    keyed: str | None = None

    def decode(self, arguments: Mapping[str, Any]) -> dict[str, Any] | Rejected:
        """Return the arguments as the annotated types, without those left out; or why they are refused."""
        try:
            decoded = as_kind(arguments, self.arguments)
        except Exception as error:  # noqa: BLE001 - the types' own checks may raise anything
            return Rejected((why_refused_argument(error),))
        found = msgspec.structs.asdict(decoded)
        return {name: value for name, value in found.items() if value is not UNSET}


def read_signature(function: Callable[..., object], injected: type | None = None) -> Signature:
    """Read how to call `function` by JSON.

    Args:
        function: A function, method, partial or callable object, each argument that no partial has bound with
            an annotation that msgspec can decode.
        injected: An argument of this type (or an optional one) is left out of the schema.

    Raises:
        TypeError: An argument that has no annotation, cannot be given by name, or is of a type that
            msgspec cannot decode.

    >>> def add(left: int, right: int = 1) -> int:
    ...     "Add two numbers."
    ...     return left + right
    >>> signature = read_signature(add)
    >>> signature.schema["properties"]["right"], signature.schema["required"]
    ({'type': 'integer', 'default': 1}, ['left'])
    >>> signature.decode({"left": "2"})
    Rejected(reasons=('Expected `int`, got `str` - at `$.left`',))
    """
    target = _unwrapped(function)
    docstring = parse_docstring(_docstring(target))
    parameters = _typed_parameters(function, target)
    hidden = [name for name, (_, hint) in parameters.items() if injected and _takes(hint, injected)]
    if len(hidden) > 1:
        raise TypeError(
            f"{function_name(target)}() has {len(hidden)} arguments for the context: {', '.join(hidden)}"
        )
    keyed = [name for name, (_, hint) in parameters.items() if _is_keyed(hint)]
    if len(keyed) > 1:
        raise TypeError(
            f"{function_name(target)}() has {len(keyed)} arguments for the key: {', '.join(keyed)}"
        )
    shown = {name: pair for name, pair in parameters.items() if name not in (*hidden, *keyed)}
    struct = _as_struct(target, shown, docstring.arguments)
    return Signature(
        name=function_name(target),
        description=docstring.description,
        schema=_schema_of(target, struct, shown),
        arguments=struct,
        injected=hidden[0] if hidden else None,
        keyed=keyed[0] if keyed else None,
    )


def _docstring(target: Callable[..., object]) -> str | None:
    with suppress(Exception):  # a foreign object, which may raise where it is looked at
        return inspect.getdoc(target)
    return None


_Parameters = dict[str, tuple[inspect.Parameter, Any]]


def _unwrapped(function: Callable[..., object]) -> Callable[..., object]:
    while isinstance(function, partial):
        function = cast("partial[object]", function).func
    return function


def _typed_parameters(function: Callable[..., object], target: Callable[..., object]) -> _Parameters:
    hints, bound = _hints(target), _bound(function)
    found: _Parameters = {}
    for name, parameter in _parameters(function, target).items():
        if name in bound:
            continue
        if parameter.kind not in _BY_NAME:
            raise TypeError(
                f"argument {name!r} of {function_name(target)}() cannot be given by name, as a tool's must"
            )
        if name not in hints:
            raise TypeError(f"argument {name!r} of {function_name(target)}() has no annotation")
        found[name] = parameter, Any if hints[name] is object else hints[name]
    return found


def _parameters(
    function: Callable[..., object], target: Callable[..., object]
) -> Mapping[str, inspect.Parameter]:
    try:
        return signature_of(function).parameters
    except ValueError as error:
        raise TypeError(
            f"{function_name(target)} does not say what arguments it takes; wrap it in a function"
        ) from error


def _bound(function: Callable[..., object]) -> Collection[str]:
    """Return the names of the arguments that a partial has bound: no model may see or change them."""
    return cast("partial[object]", function).keywords if isinstance(function, partial) else ()


def _hints(target: Callable[..., object]) -> dict[str, Any]:
    is_plain = inspect.isroutine(target) or inspect.isclass(target)
    try:
        return get_type_hints(target if is_plain else type(target).__call__, include_extras=True)
    except NameError as error:
        raise TypeError(
            f"an annotation of {function_name(target)}() names {error.name!r}, which is not known where the "
            "function is defined; import it there at run time"
        ) from error


def _takes(hint: object, injected: type) -> bool:
    if get_origin(hint) in {Union, UnionType, Annotated}:
        return any(_takes(part, injected) for part in get_args(hint))
    return isinstance(hint, type) and issubclass(hint, injected)


def _is_keyed(hint: object) -> bool:
    notes: tuple[object, ...] = getattr(hint, "__metadata__", ())
    return any(note is IdempotencyKey or isinstance(note, IdempotencyKey) for note in notes)


def _as_struct(
    target: Callable[..., object], parameters: _Parameters, described: Mapping[str, str]
) -> type[msgspec.Struct]:
    fields = [
        (name, _described(with_models(hint), described.get(name)), _default(parameter))
        for name, (parameter, hint) in parameters.items()
    ]
    return msgspec.defstruct(
        f"{function_name(target)}_arguments", fields, forbid_unknown_fields=True, kw_only=True
    )


def _default(parameter: inspect.Parameter) -> Any:
    return msgspec.field() if parameter.default is parameter.empty else msgspec.field(default=UNSET)


def _described(hint: Any, text: str | None) -> Any:
    notes = getattr(hint, "__metadata__", ())
    if any(isinstance(note, msgspec.Meta) and note.description for note in notes):
        return hint
    text = next((note for note in notes if isinstance(note, str)), text)
    return Annotated[hint, msgspec.Meta(description=text)] if text else hint


def _schema_of(
    target: Callable[..., object], struct: type[msgspec.Struct], parameters: _Parameters
) -> dict[str, Any]:
    try:
        schema = inline_root(schema_of(struct))
    except TypeError as error:
        reason = str(error).splitlines()[-1]
        raise TypeError(
            f"{function_name(target)}() has an argument that JSON cannot give: {reason}"
        ) from error
    schema.pop("title", None)
    for name, (parameter, _) in parameters.items():
        if parameter.default is not parameter.empty:
            _note_default(schema["properties"][name], parameter.default)
    return schema


def _note_default(schema: dict[str, Any], default: object) -> None:
    try:
        schema["default"] = msgspec.to_builtins(default, str_keys=True, enc_hook=plain_model)
    except (NotImplementedError, TypeError, ValueError, RecursionError):
        return  # a default that JSON cannot show is still the default


def inline_root(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema whose root is no reference: servers want an object there.

    >>> inline_root({"$ref": "#/$defs/A", "$defs": {"A": {"type": "object"}}})
    {'type': 'object'}
    """
    reference = schema.get("$ref", "")
    definitions = dict(schema.get("$defs", {}))
    name = reference.removeprefix(_ROOT)
    if not reference.startswith(_ROOT) or name not in definitions:
        return schema
    root = definitions[name]
    if not _refers(root, reference) and not _refers(list(definitions.values()), reference):
        del definitions[name]
    return {**root, "$defs": definitions} if definitions else dict(root)


def _refers(part: object, reference: str) -> bool:
    return f'"{reference}"'.encode() in msgspec.json.encode(part)
