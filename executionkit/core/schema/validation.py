"""Checking arguments against a JSON Schema: drafts 7 and 2020-12, local `$ref`s only, no format checks.

Schemas may come from strangers (an MCP server), arguments always do (a model). So nothing is ever fetched,
sizes are bounded, and patterns run on an engine that gives up instead of backtracking without end.
"""

from collections.abc import Mapping
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

import msgspec

from executionkit.core.json import MAX_DEPTH, is_deeper_than
from executionkit.core.schema.cost import Costs, costs_by_depth, measure

if TYPE_CHECKING:
    import jsonschema_rs

__all__ = ["CompiledSchema", "Rejected", "SchemaText", "compile_schema", "parse_arguments", "schema_text"]

SchemaText: TypeAlias = bytes
"""A schema as JSON text: immutable, hashable, and what a validator is cached by."""

LARGEST_SCHEMA: Final = 262_144
"""Bytes of JSON a schema may have."""

LARGEST_ARGUMENTS: Final = 1_048_576
"""Characters of JSON a tool call's arguments may have."""

_MOST_REASONS: Final = 8
_LONGEST_REASON: Final = 300
_BACKTRACKS: Final = 1_000
_REGEX_BYTES: Final = 1_000_000
_FEW_CHECKS: Final = 100
_MOST_CHECKS: Final = 20_000_000
"""Some 25 to 100 ns each."""

_CHECKS_A_CHARACTER: Final = 16
"""What a pattern takes for a character: more than most do, and less than the worst."""

_CHECKS_LOOKING_AROUND: Final = 300
"""The same where it looks around or back, which is a search of its own from each character."""

_MOST_EXPLAINED: Final = 4_000
"""Where each check that fails is written down it takes some 50 us."""

_MOST_WRITTEN: Final = 20_000_000
"""Each failure is written down with a copy of what was checked: failures times characters."""


class Rejected(msgspec.Struct, frozen=True):
    """Why a value was refused, in words meant for the model.

    Args:
        reasons: One line each: where, and what was wrong.
    """

    reasons: tuple[str, ...]

    def __str__(self) -> str:
        return "; ".join(self.reasons)


class CompiledSchema:
    """A schema made ready; `check` takes about half a microsecond where a value is valid.

    Args:
        validator: What checks values.
        costs: What that takes, but for the patterns.
        for_character: What the patterns take for each character, in checks.
    """

    __slots__ = ("_costs", "_for_character", "_is_cheap", "_is_valid", "_validator")

    def __init__(self, validator: "jsonschema_rs.Validator", costs: Costs, for_character: int) -> None:
        self._validator = validator
        self._is_valid = validator.is_valid
        self._costs = costs
        self._for_character = for_character
        self._is_cheap = costs.work[-1] <= _FEW_CHECKS and not for_character

    def check(self, value: object) -> Rejected | None:
        """Return why `value` is refused, or None where it is valid. Never raises."""
        try:
            if not self._is_cheap and self._is_too_much(value):
                return Rejected(("the arguments are too large, or nested too deeply, for this schema",))
            return None if self._is_valid(value) else self._explain(value)
        except (ValueError, TypeError, OverflowError, RecursionError):
            return Rejected(("the arguments are not plain JSON, or nested too deeply",))

    def _is_too_much(self, value: object) -> bool:
        size = measure(value)
        checked = size.parts + size.characters * self._for_character
        return checked * self._costs.work[size.levels] > _MOST_CHECKS

    def _explain(self, value: object) -> Rejected:
        size = measure(value)
        failures = size.parts * self._costs.visits[size.levels]
        if failures > _MOST_EXPLAINED or failures * size.characters > _MOST_WRITTEN:
            return Rejected(("the arguments do not fit the schema, and are too large to say where",))
        errors = islice(self._validator.iter_errors(value), _MOST_REASONS)
        return Rejected(tuple([_describe(error) for error in errors]))


def _describe(error: "jsonschema_rs.ValidationError") -> str:
    where = ".".join(str(part) for part in error.instance_path) or "arguments"
    text = f"{where}: {error.message}"
    return text if len(text) <= _LONGEST_REASON else text[:_LONGEST_REASON] + "..."


def schema_text(schema: Mapping[str, Any]) -> SchemaText:
    """Return a schema as JSON text.

    Raises:
        TypeError: It is not a mapping, or holds something JSON does not know.
        ValueError: It is larger than 256 KiB or nested too deeply.

    >>> schema_text({"type": "object"})
    b'{"type":"object"}'
    """
    if not isinstance(cast("object", schema), Mapping):
        raise TypeError(f"a schema must be a mapping, not {type(schema).__name__}")
    try:
        text = msgspec.json.encode(schema, enc_hook=_as_plain)
        # Not every Python stops recursion here: 3.13 encodes what would overflow the validator's stack.
        is_too_deep = len(text) <= LARGEST_SCHEMA and is_deeper_than(msgspec.json.decode(text), MAX_DEPTH)
    except RecursionError:
        is_too_deep, text = True, b""
    if is_too_deep:
        raise ValueError("the schema is nested too deeply")
    if len(text) > LARGEST_SCHEMA:
        raise ValueError(f"the schema has {len(text)} bytes, at most {LARGEST_SCHEMA} are taken")
    return text


def _as_plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(cast("Mapping[object, object]", value))
    raise TypeError(f"a schema must be plain JSON, not hold a {type(value).__name__}")


@lru_cache(maxsize=512)
def compile_schema(text: SchemaText) -> CompiledSchema:
    """Make a validator, draft 2020-12 unless `$schema` names another; cached by the text.

    Raises:
        ValueError: It is not a valid schema, refers to another document, or holds too large a pattern.

    >>> city = compile_schema(b'{"properties": {"city": {"type": "string"}}, "required": ["city"]}')
    >>> city.check({"city": "Bonn"}) is None
    True
    >>> print(city.check({"city": 7}))
    city: 7 is not of type "string"
    """
    import jsonschema_rs  # 60 ms to import, and only tools built by hand need it

    linear = jsonschema_rs.RegexOptions(_REGEX_BYTES, _REGEX_BYTES)
    looking_around = jsonschema_rs.FancyRegexOptions(_BACKTRACKS, _REGEX_BYTES, _REGEX_BYTES)

    def made(engine: jsonschema_rs.RegexOptions | jsonschema_rs.FancyRegexOptions) -> jsonschema_rs.Validator:
        return jsonschema_rs.validator_for(
            text.decode(), offline=True, validate_formats=False, pattern_options=engine
        )

    for_character = _CHECKS_A_CHARACTER if b'"pattern' in text else 0
    try:
        try:
            validator = made(linear)
        except ValueError:  # it does not say what for; only a pattern can be to the other engine's liking
            validator, for_character = made(looking_around), _CHECKS_LOOKING_AROUND
    except (ValueError, jsonschema_rs.ReferencingError) as error:
        raise ValueError(f"not a usable JSON Schema: {str(error).splitlines()[0]}") from None
    costs = costs_by_depth(msgspec.json.decode(text))
    if costs is None or costs.work[0] > _MOST_CHECKS:
        raise ValueError("not a usable JSON Schema: it leads to too many checks of the same place")
    return CompiledSchema(validator, costs, for_character)


def parse_arguments(arguments: Mapping[str, Any] | str) -> dict[str, Any] | Rejected:
    """Return a tool call's arguments as a dict, or why they are none. Never raises.

    Empty text stands for no arguments: that is what several servers send for a tool without any.

    >>> parse_arguments('{"city": "Bonn"}')
    {'city': 'Bonn'}
    >>> parse_arguments("[1]")
    Rejected(reasons=('the arguments must be one JSON object, not an array',))
    """
    if not isinstance(arguments, str):
        return _as_arguments(arguments, may_be_deep=True)
    if len(arguments) > LARGEST_ARGUMENTS:
        return Rejected(
            (f"the arguments have {len(arguments)} characters, at most {LARGEST_ARGUMENTS} are taken",)
        )
    if not arguments.strip():
        return {}
    try:
        value = msgspec.json.decode(arguments)
    except RecursionError:
        return Rejected(("the arguments are nested too deeply",))
    except (msgspec.DecodeError, ValueError) as error:
        return Rejected((f"the arguments are not valid JSON: {error}",))
    return _as_arguments(value, may_be_deep=arguments.count("[") + arguments.count("{") > MAX_DEPTH)


_JSON_NAMES: Final[dict[type, str]] = {
    list: "an array",
    str: "a string",
    bool: "a boolean",
    type(None): "null",
}


def _as_arguments(value: object, *, may_be_deep: bool) -> dict[str, Any] | Rejected:
    if isinstance(value, Mapping):
        given = dict(cast("Mapping[str, Any]", value))
        if may_be_deep and is_deeper_than(given, MAX_DEPTH):
            return Rejected((f"the arguments are nested more than {MAX_DEPTH} levels deep",))
        return given
    kind = _JSON_NAMES.get(type(value), "a number")
    return Rejected((f"the arguments must be one JSON object, not {kind}",))
