"""The part of a JSON Schema that Anthropic's structured outputs can hold an answer to."""

from collections.abc import Mapping
from typing import Any, Final, cast

__all__ = ["expressible"]

_KEPT: Final = frozenset({"type", "enum", "const", "required", "description", "title", "default", "$ref"})
_FORMATS: Final = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"}
)


class _OutOfReachError(Exception):
    """The schema allows what cannot be said there, such as objects with other properties."""


def expressible(schema: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a schema without the bounds that the server does not take; None where it cannot be said there.

    What is left out (`minimum`, `maxLength`, `pattern`, ...) the prompt still states, and decoding still
    checks.

    >>> expressible({"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}})
    {'type': 'object', 'properties': {'n': {'type': 'integer'}}, 'additionalProperties': False}
    >>> expressible({"type": "object", "additionalProperties": {"type": "integer"}}) is None
    True
    """
    defined = cast("Mapping[str, Any]", schema.get("$defs", {}))
    if any(_leads_back(name, part, defined, ()) for name, part in defined.items()):
        return None
    try:
        kept = _kept(schema)
        definitions = {name: _kept(part) for name, part in defined.items()}
    except _OutOfReachError:
        return None
    return {**kept, "$defs": definitions} if definitions else kept


def _kept(schema: object) -> dict[str, Any]:
    if not isinstance(schema, Mapping):
        raise _OutOfReachError
    given = cast("Mapping[str, Any]", schema)
    if not given:  # anything at all
        raise _OutOfReachError
    kept = {name: value for name, value in given.items() if name in _KEPT}
    for name in ("anyOf", "allOf"):
        if name in given:
            kept[name] = [_kept(part) for part in given[name]]
    if "oneOf" in given:
        kept["anyOf"] = [_kept(part) for part in given["oneOf"]]
    if given.get("format") in _FORMATS:
        kept["format"] = given["format"]
    if "items" in given:
        kept["items"] = _kept(given["items"])
    if given.get("minItems") in {0, 1}:
        kept["minItems"] = given["minItems"]
    if "prefixItems" in given:
        raise _OutOfReachError
    return {**kept, **_object_in(given)} if given.get("type") == "object" else kept


def _object_in(given: Mapping[str, Any]) -> dict[str, Any]:
    properties: Mapping[str, Any] = given.get("properties", {})
    others: object = given.get("additionalProperties", False)
    if isinstance(others, Mapping) or (others and not properties):
        raise _OutOfReachError
    held = {name: _kept(part) for name, part in properties.items()}
    return {"properties": held, "additionalProperties": False}


def _leads_back(name: str, schema: object, defined: Mapping[str, Any], seen: tuple[str, ...]) -> bool:
    """Tell whether a definition refers to itself, by way of others or not."""
    if isinstance(schema, list):
        return any(_leads_back(name, part, defined, seen) for part in cast("list[object]", schema))
    if not isinstance(schema, Mapping):
        return False
    parts = cast("Mapping[str, object]", schema)
    target = str(parts.get("$ref", "")).rpartition("/")[2]
    if target == name:
        return True
    if (
        target in defined
        and target not in seen
        and _leads_back(name, defined[target], defined, (*seen, target))
    ):
        return True
    return any(_leads_back(name, part, defined, seen) for part in parts.values())
