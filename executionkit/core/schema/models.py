"""Types that bring a JSON Schema and a reader of their own, as Pydantic's models do.

They are known by their shape (`model_json_schema`, `model_validate_json`, `model_dump_json`), wherever they
stand within a type. Pydantic is imported only for the schema of one of its dataclasses, whose validator it
brought already.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from importlib import import_module
from types import UnionType
from typing import Annotated, Any, Final, Union, cast, get_args, get_origin

import msgspec
from typing_extensions import override

__all__ = [
    "UnfitError",
    "fields_of_model",
    "is_model",
    "kept_model",
    "options_of",
    "plain_model",
    "read_kept",
    "read_model",
    "schema_of",
    "told_by_model",
    "with_fields",
    "with_models",
]

_MOST_REASONS: Final = 5
_OWN_CHECKS: Final = frozenset({"value_error", "assertion_error"})
"""What Pydantic calls a problem that a validator of the user's found."""
_DEFS: Final = "#/$defs/"
_CONTAINERS: Final[tuple[Any, ...]] = (list, dict, tuple, set, frozenset)
_NO_KEYS: Final = (
    msgspec.inspect.NoneType,
    msgspec.inspect.BoolType,
    msgspec.inspect.DictType,
    msgspec.inspect.ListType,
    msgspec.inspect.SetType,
    msgspec.inspect.FrozenSetType,
    msgspec.inspect.TupleType,
    msgspec.inspect.VarTupleType,
    msgspec.inspect.NamedTupleType,
    msgspec.inspect.StructType,
    msgspec.inspect.DataclassType,
    msgspec.inspect.TypedDictType,
)
"""What no text can be read as."""


class UnfitError(ValueError):
    """A value that a model refuses.

    Args:
        told: Why, for the model that wrote it.
        safe: The same without what the type's own checks say, whose texts may hold a secret.
    """

    def __init__(self, told: str, safe: str) -> None:
        super().__init__(told)
        self.safe: Final = safe


class _Chosen(type):
    """Has whatever was chosen pass for an instance: msgspec looks whether a hook kept its word."""

    @override
    def __instancecheck__(cls, instance: object) -> bool:
        return True


class _Choice(metaclass=_Chosen):
    """A union with a model in it, which msgspec does not take: read by trying its members in turn."""

    options: tuple[Any, ...] = ()


class _Validated(metaclass=_Chosen):
    """A dataclass of Pydantic's, which msgspec would make without its validator."""

    kind: Any = None


def is_model(kind: object) -> bool:
    """Tell whether a class brings its own schema and reader."""
    return isinstance(kind, type) and all(
        callable(getattr(kind, name, None)) for name in ("model_json_schema", "model_validate_json")
    )


def _has_validator(kind: object) -> bool:
    return isinstance(kind, type) and hasattr(kind, "__pydantic_validator__") and not is_model(kind)


def with_models(kind: Any) -> Any:
    """Return a type as msgspec takes it.

    A union that holds a model becomes a type of its own, and so does a dataclass with a validator.

    >>> with_models(list[int])
    list[int]
    """
    if _has_validator(kind):
        return _Chosen(kind.__name__, (_Validated,), {"kind": kind})
    arguments = get_args(kind)
    if not arguments or not any(is_model(part) or _has_validator(part) for part in _within(kind)):
        return kind
    origin: Any = get_origin(kind)
    if origin in {Union, UnionType}:
        options = tuple([with_models(each) for each in arguments])
        return _Chosen("Choice", (_Choice,), {"options": options})
    if origin is Annotated:
        annotated: Any = Annotated
        return annotated[(with_models(arguments[0]), *kind.__metadata__)]
    if origin in _CONTAINERS:
        return origin[tuple([each if each is Ellipsis else with_models(each) for each in arguments])]
    return kind


def options_of(kind: type) -> tuple[Any, ...]:
    """Return the members of a union that `with_models` has made a type of its own; none for another type."""
    return kind.options if issubclass(kind, _Choice) else ()


def _within(kind: Any) -> Iterator[Any]:
    yield kind
    for argument in get_args(kind):
        yield from _within(argument)


def schema_of(kind: Any) -> dict[str, Any]:
    """Return the JSON Schema of a type, models included; what they define stands at the root.

    Raises:
        TypeError: A part of it is known neither to msgspec nor by its shape, or has keys that no text can be.
    """
    taken = with_models(kind)
    _check_parts(msgspec.inspect.type_info(taken), set())
    schema = msgspec.json.schema(taken, schema_hook=_own_schema)
    definitions: dict[str, Any] = dict(schema.pop("$defs", {}))
    lifted = cast("dict[str, Any]", _lifted(schema, definitions))
    definitions |= {name: _lifted(part, definitions) for name, part in [*definitions.items()]}
    return {**lifted, "$defs": definitions} if definitions else lifted


def _check_parts(part: object, seen: set[int]) -> None:
    """Check that no part of a type can never be read, or not as it asks to be.

    Those are mappings whose keys no text can be, and dataclasses whose validator msgspec would leave out.
    """
    if isinstance(part, (tuple, list)):
        for item in cast("tuple[object, ...]", part):
            _check_parts(item, seen)
    elif isinstance(part, (msgspec.inspect.Type, msgspec.inspect.Field)) and id(part) not in seen:
        seen.add(id(part))
        if isinstance(part, msgspec.inspect.DataclassType) and _has_validator(part.cls):
            raise TypeError(
                f"{part.cls.__name__} is a dataclass of Pydantic's in a field of another kind of type, where "
                "it would not be validated; make the outer type one of Pydantic's too"
            )
        if isinstance(part, msgspec.inspect.DictType) and not _is_key(part.key_type):
            raise TypeError(
                "the keys of an object in JSON are text, and those of a mapping here cannot be read from it; "
                "use a list of pairs in its place"
            )
        for field in part.__struct_fields__:
            if field != "default":
                _check_parts(getattr(part, field), seen)


def _is_key(part: msgspec.inspect.Type) -> bool:
    """Tell whether text may be read as a type."""
    if isinstance(part, msgspec.inspect.UnionType):
        return any(map(_is_key, part.types))
    return not isinstance(part, _NO_KEYS)


def _own_schema(kind: Any) -> dict[str, Any]:
    if is_model(kind):
        return dict(kind.model_json_schema())
    if isinstance(kind, type) and issubclass(kind, _Validated):
        schema: dict[str, Any] = import_module("pydantic").TypeAdapter(kind.kind).json_schema()
        return schema
    if isinstance(kind, type) and issubclass(kind, _Choice):
        return {"anyOf": [schema_of(option) for option in kind.options]}
    name: str = getattr(cast("object", kind), "__qualname__", "a part of it")
    raise TypeError(f"{name} has no form in JSON: use a struct, a dataclass or a Pydantic model in its place")


def _lifted(part: Any, definitions: dict[str, Any]) -> Any:
    """Return a part of a schema without definitions of its own; they are added to the others."""
    if isinstance(part, list):
        return [_lifted(item, definitions) for item in cast("list[object]", part)]
    if not isinstance(part, dict):
        return part
    given = cast("dict[str, Any]", part)
    own: dict[str, Any] = given.get("$defs", {})
    if not own:
        return {key: _lifted(value, definitions) for key, value in given.items()}
    names = {name: _free_name(name, own[name], definitions) for name in own}
    for name, definition in own.items():
        definitions[names[name]] = _lifted(_repointed(definition, names), definitions)
    rest = {key: value for key, value in given.items() if key != "$defs"}
    return _lifted(_repointed(rest, names), definitions)


def _free_name(name: str, definition: Any, definitions: Mapping[str, Any]) -> str:
    """Return a name that no other definition has."""
    free, number = name, 1
    while free in definitions and definitions[free] != definition:
        number += 1
        free = f"{name}_{number}"
    return free


def _repointed(part: Any, names: Mapping[str, str]) -> Any:
    if isinstance(part, list):
        return [_repointed(item, names) for item in cast("list[object]", part)]
    if not isinstance(part, dict):
        return part
    given = cast("dict[str, Any]", part)
    return {
        key: _target(value, names) if key == "$ref" else _repointed(value, names)
        for key, value in given.items()
    }


def _target(reference: Any, names: Mapping[str, str]) -> Any:
    name = reference.removeprefix(_DEFS) if isinstance(reference, str) else ""
    return _DEFS + names[name] if name in names else reference


def read_model(kind: Any, value: Any) -> Any:
    """Read plain data as a type that msgspec does not know; its `dec_hook`.

    Raises:
        UnfitError: The model refuses it.
        NotImplementedError: The type is no model.
    """
    if issubclass(kind, _Choice):
        return _chosen(kind.options, value, read_model)
    try:
        return _reader(kind)(msgspec.json.encode(value))
    except ValueError as error:
        raise _unfit(error) from None


def _reader(kind: Any) -> Callable[..., Any]:
    """Return what reads JSON text as a model.

    Raises:
        NotImplementedError: The type is no model.
    """
    is_validated = issubclass(kind, _Validated)
    if not (is_validated or is_model(kind)):
        raise NotImplementedError
    read: Callable[..., Any] = (
        kind.kind.__pydantic_validator__.validate_json if is_validated else kind.model_validate_json
    )
    return read


def read_kept(kind: Any, value: Any) -> Any:
    """Read what `kept_model` wrote: a model's fields may have their own names in place of others.

    Raises:
        UnfitError: The model refuses it.
        NotImplementedError: The type is no model.
    """
    if issubclass(kind, _Choice):
        return _chosen(kind.options, value, read_kept)
    with suppress(UnfitError):
        return read_model(kind, value)
    with suppress(TypeError, ValueError):  # Pydantic before 2.11 knows no such names
        return _reader(kind)(msgspec.json.encode(value), by_alias=True, by_name=True)
    return read_model(kind, value)


def _chosen(options: tuple[Any, ...], value: Any, read: Callable[[Any, Any], Any]) -> Any:
    told: list[str] = []
    safe: list[str] = []
    for option in options:
        try:
            return msgspec.convert(value, option, str_keys=True, dec_hook=read)
        except Exception as error:  # noqa: BLE001 - a model of somebody else may raise anything
            cause = error.__cause__
            told.append(str(error) if isinstance(error, msgspec.ValidationError) else _named(error))
            safe.append(cause.safe if isinstance(cause, UnfitError) else told[-1])
    raise UnfitError("; or ".join(told), "; or ".join(safe))


def _named(error: Exception) -> str:
    return f"a check of its type raised {type(error).__name__}"


def _unfit(error: ValueError) -> UnfitError:
    """Return what a model says of a value, on one line: of each problem its place and what is wrong."""
    problems: object = getattr(error, "errors", None)
    found: object = problems() if callable(problems) else None
    if not isinstance(found, list) or not found:
        return UnfitError(str(error) or type(error).__name__, _named(error))
    told: list[str] = []
    safe: list[str] = []
    for problem in cast("list[dict[str, Any]]", found)[:_MOST_REASONS]:
        where = ".".join(map(str, problem.get("loc", ())))
        place = f"{where}: " if where else ""
        told.append(f"{place}{problem.get('msg', 'not valid')}")
        is_own = problem.get("type") in _OWN_CHECKS
        safe.append(f"{place}a check of its own refused it" if is_own else told[-1])
    return UnfitError("; ".join(told), "; ".join(safe))


def plain_model(value: object) -> Any:
    """Return a model's value as plain data, under the names of its schema; an `enc_hook` of msgspec.

    Raises:
        NotImplementedError: It is no model.
    """
    write = getattr(value, "model_dump_json", None)
    if isinstance(value, type) or not callable(write):
        raise NotImplementedError
    return msgspec.json.decode(cast("str | bytes", write(by_alias=True)))


def kept_model(value: object) -> Any:
    """Return a model's value as plain data out of which `read_kept` makes it again; an `enc_hook` of msgspec.

    That is `plain_model`, unless the model does not read it: what is computed is left out then, and where
    names are read that are not those written, a field has its own.

    Raises:
        NotImplementedError: It is no model.
    """
    plain = plain_model(value)
    write: Any = getattr(value, "model_dump_json", None)
    if _is_kept(plain, value) or not hasattr(value, "__pydantic_validator__"):
        return plain
    for by_alias in (True, False):
        kept = msgspec.json.decode(cast("str | bytes", write(by_alias=by_alias, round_trip=True)))
        if _is_kept(kept, value):
            return kept
    return plain


def _is_kept(plain: Any, value: object) -> bool:
    try:
        return bool(read_kept(type(value), plain) == value)
    except Exception:  # noqa: BLE001 - a model of somebody else may raise anything
        return False


def fields_of_model(kind: object) -> tuple[str, ...]:
    """Return the names of the fields of a model of Pydantic's; none for any other type."""
    named: object = getattr(kind, "model_fields", None) if is_model(kind) else None
    return tuple(cast("Mapping[str, object]", named)) if isinstance(named, Mapping) else ()


def told_by_model(value: Any) -> dict[str, Any]:
    """Return what each field of a model of Pydantic's says, by its name: plain data where it is written."""
    plain: object = msgspec.json.decode(value.model_dump_json(by_alias=False))
    # A serializer of the model's own may write the whole as a text.
    written: Mapping[str, Any] = cast("Mapping[str, Any]", plain) if isinstance(plain, Mapping) else {}
    return {
        name: written.get(name, getattr(value, name)) for name in fields_of_model(cast("object", type(value)))
    }


def with_fields(value: Any, fields: Mapping[str, object]) -> Any:
    """Return a model of Pydantic's with other values in its fields, which its validators take together.

    The values stay as they are: not all can be written and read again, nor would each be the same.

    Raises:
        UnfitError: They refuse them.
    """
    made = value.model_copy(update=fields)
    refused = _refusal(made)
    if refused is not None and _refusal(value) is None:  # else such a value cannot be read again at all
        raise refused
    return made


def _refusal(value: Any) -> UnfitError | None:
    """Return what the validators of a model say against a value that was made without them."""
    try:
        read_kept(type(value), kept_model(value))
    except UnfitError as error:
        return error
    return None
