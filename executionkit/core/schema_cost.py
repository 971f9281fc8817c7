"""How often a validator may look at one place of a value: a bound, worked out from the schema alone.

`anyOf` of two references to a thing that is an `anyOf` of two references, thirty levels down, takes minutes
on a single number. Schemas can come from strangers, so the work is counted before it is done.
"""

from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any, Final, TypeAlias, cast

__all__ = ["MOST_LEVELS", "measure", "visits_by_depth"]

MOST_LEVELS: Final = 64
"""Levels of nesting that are told apart; deeper values count as endless."""

_ENDLESS: Final = 10**12
_REFERENCES: Final = frozenset({"$ref", "$dynamicRef", "$recursiveRef"})
_SAME: Final = ("allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas", "dependencies")
_BELOW: Final = ("additionalProperties", "unevaluatedProperties", "patternProperties", "propertyNames")
_BELOW_IN_LISTS: Final = ("items", "additionalItems", "unevaluatedItems", "contains")
_HOLDING_MANY: Final = frozenset({*_SAME, "properties", "patternProperties", "prefixItems"} - set(_SAME[3:7]))
_KINDS: Final = {
    **dict.fromkeys((*_REFERENCES, *_SAME), "same"),
    **dict.fromkeys(("properties", "prefixItems"), "alternatives"),
    **dict.fromkeys((*_BELOW, *_BELOW_IN_LISTS), "below"),
}
"""Whether the schemas under a keyword look at the same place, below it, or each at a child of its own."""

Node: TypeAlias = int


class _Edges:
    """Which schemas look at the same place as this one, and which at a place below."""

    __slots__ = ("alternatives", "below", "same")

    def __init__(self) -> None:
        self.same: list[Node] = []
        self.below: list[Node] = []
        self.alternatives: list[Node] = []


def visits_by_depth(schema: object) -> tuple[int, ...] | None:
    """Return how often, at most, one path through a value is looked at, for values of 0, 1, ... levels.

    None where a schema leads to itself in place, so that there is no bound.

    >>> visits_by_depth({"properties": {"a": {"type": "string"}}})[:3]
    (1, 2, 2)
    >>> visits_by_depth({"allOf": [{"$ref": "#"}]})
    """
    graph = _graph(schema)
    try:
        order = list(TopologicalSorter({node: edges.same for node, edges in graph.items()}).static_order())
    except CycleError:
        return None
    known: dict[Node, int] = {}
    found: list[int] = []
    for _ in range(MOST_LEVELS + 1):
        known = _one_level(graph, order, known)
        found.append(known[id(schema)])
    return tuple(found)


def _one_level(graph: Mapping[Node, _Edges], order: list[Node], below: Mapping[Node, int]) -> dict[Node, int]:
    visits: dict[Node, int] = {}
    for node in order:
        edges = graph[node]
        here = 1 + sum(visits[other] for other in edges.same)
        deeper = sum(below.get(other, 0) for other in edges.below)
        deeper += max((below.get(other, 0) for other in edges.alternatives), default=0)
        visits[node] = min(here + deeper, _ENDLESS)
    return visits


def _graph(schema: object) -> dict[Node, _Edges]:
    graph: dict[Node, _Edges] = {}
    pending = [schema]
    while pending:
        part = pending.pop()
        if id(part) in graph:
            continue
        edges = graph[id(part)] = _Edges()
        if isinstance(part, Mapping):
            pending += _fill(edges, cast("Mapping[str, Any]", part), schema)
        elif isinstance(part, list):  # `items` of draft 7 as a list: each for a child of its own
            pending += _fill(edges, {"prefixItems": part}, schema)
    return graph


def _fill(edges: _Edges, part: Mapping[str, Any], root: object) -> Iterator[object]:
    for kind, child in _children(part, root):
        kind_of: list[Node] = getattr(edges, kind)
        kind_of.append(id(child))
        yield child


def _children(part: Mapping[str, Any], root: object) -> Iterator[tuple[str, object]]:
    for key, value in part.items():
        if key in _REFERENCES:
            target = _resolved(root, value)
            found = [] if target is None else [target]
        else:
            found = _schemas_in(value) if key in _HOLDING_MANY else [value]
        kind = _KINDS.get(key)
        if kind is not None:
            yield from ((kind, child) for child in found)


def _schemas_in(value: object) -> list[object]:
    if isinstance(value, dict):
        return list(cast("dict[str, object]", value).values())
    return cast("list[object]", value) if isinstance(value, list) else []


def _resolved(root: object, reference: object) -> object | None:
    """Return what a local pointer names; None for whatever the validator itself has to find or refuse."""
    if not isinstance(reference, str) or not reference.startswith("#"):
        return None
    if reference.startswith("#/"):
        return _at(root, reference.removeprefix("#/"))
    return root if reference == "#" else _anchored(root, reference.removeprefix("#"))


def _at(root: object, pointer: str) -> object | None:
    found: object = root
    for step in pointer.split("/"):
        name = step.replace("~1", "/").replace("~0", "~").replace("%25", "%")
        if isinstance(found, Mapping):
            found = cast("Mapping[str, object]", found).get(name)
        elif isinstance(found, list) and name.isdigit():
            items = cast("list[object]", found)
            found = items[int(name)] if int(name) < len(items) else None
        else:
            return None
    return found


def _anchored(root: object, name: str) -> object | None:
    pending = [root]
    while pending:
        part = pending.pop()
        if isinstance(part, Mapping):
            mapping = cast("Mapping[str, object]", part)
            if (
                name in {mapping.get("$anchor"), mapping.get("$dynamicAnchor")}
                or mapping.get("$id") == f"#{name}"
            ):
                return mapping
            pending += mapping.values()
        elif isinstance(part, list):
            pending += cast("list[object]", part)
    return None


def measure(value: object) -> tuple[int, int]:
    """Return how many levels a value has, `MOST_LEVELS` at most, and how many parts.

    >>> measure({"a": [1, 2]}), measure("text")
    ((2, 4), (0, 1))
    """
    layer, parts, levels = [value], 1, 0
    while levels < MOST_LEVELS:
        layer = [child for item in layer for child in _parts(item)]
        if not layer:
            break
        parts += len(layer)
        levels += 1
    return levels, parts


def _parts(value: object) -> Iterator[object]:
    if isinstance(value, Mapping):
        yield from cast("Mapping[str, object]", value).values()
    elif isinstance(value, (list, tuple)):
        yield from cast("list[object]", value)
