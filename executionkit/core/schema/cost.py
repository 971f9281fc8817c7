"""How often a validator may look at one place of a value: a bound, worked out from the schema alone.

`anyOf` of two references to a thing that is an `anyOf` of two references, thirty levels down, takes minutes
on a single number; so do twenty `unevaluatedProperties` within each other, an enum of 25000 lists for each
item of a list, a pattern that looks ahead from every character of a long text. Schemas can come from
strangers, so the work is counted before it is done.
"""

from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any, Final, TypeAlias, cast

import msgspec

__all__ = ["MOST_LEVELS", "Costs", "Size", "costs_by_depth", "measure"]

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

_UNEVALUATED: Final = ("unevaluatedProperties", "unevaluatedItems")
_TIMES: Final = 3
"""How often a schema in place is looked at where its parent asks what it leaves unevaluated; measured."""

_COMPARED: Final = 8
"""What it takes to compare a value with a part of an `enum`, in checks; measured."""

Node: TypeAlias = int


class Costs(msgspec.Struct, frozen=True):
    """What one path through a value of 0, 1, ... levels takes at most, in checks.

    Args:
        visits: How many checks there are.
        work: What they take, where a check that goes through a list counts for more than one.
    """

    visits: tuple[int, ...]
    work: tuple[int, ...]


class _Edges:
    """Which schemas look at the same place as this one, and which at a place below."""

    __slots__ = ("alternatives", "below", "own", "same")

    def __init__(self) -> None:
        self.own = 1
        self.same: list[Node] = []
        self.below: list[Node] = []
        self.alternatives: list[Node] = []


_Graph: TypeAlias = Mapping[Node, _Edges]


def costs_by_depth(schema: object) -> Costs | None:
    """Return what a schema takes to check; None where it leads to itself in place, so that there is no bound.

    >>> costs_by_depth({"properties": {"a": {"type": "string"}}}).visits[:3]
    (1, 2, 2)
    >>> costs_by_depth({"allOf": [{"$ref": "#"}]})
    """
    graph = _graph(schema)
    try:
        order = list(TopologicalSorter({node: edges.same for node, edges in graph.items()}).static_order())
    except CycleError:
        return None
    visits = _by_depth(graph, order, id(schema), dict.fromkeys(graph, 1))
    own = {node: edges.own for node, edges in graph.items()}
    is_plain = max(own.values()) == 1
    return Costs(visits, visits if is_plain else _by_depth(graph, order, id(schema), own))


def _by_depth(graph: _Graph, order: list[Node], root: Node, own: Mapping[Node, int]) -> tuple[int, ...]:
    known: dict[Node, int] = {}
    found: list[int] = []
    for _ in range(MOST_LEVELS + 1):
        known = _one_level(graph, order, own, known)
        found.append(known[root])
    return tuple(found)


def _one_level(
    graph: _Graph, order: list[Node], own: Mapping[Node, int], below: Mapping[Node, int]
) -> dict[Node, int]:
    visits: dict[Node, int] = {}
    for node in order:
        edges = graph[node]
        here = own[node] + sum(visits[other] for other in edges.same)
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
            edges.own = _own(cast("Mapping[str, Any]", part))
            pending += _fill(edges, cast("Mapping[str, Any]", part), schema)
        elif isinstance(part, list):  # `items` of draft 7 as a list: each for a child of its own
            pending += _fill(edges, {"prefixItems": part}, schema)
    return graph


def _own(part: Mapping[str, Any]) -> int:
    """Return what the keywords of a schema take that go through a list for each value."""
    names = measure(part.get("dependentRequired")).parts  # 1 where there are none: the visit itself
    values, constant = _schemas_in(part.get("enum")), measure(part.get("const")).parts
    # An enum of one kind of these is looked up, any other is gone through.
    compared = 0 if {*map(type, values)} in ({str}, {int}) else measure(values).parts - 1
    return names + _COMPARED * (compared + (constant if constant > 1 else 0))


def _fill(edges: _Edges, part: Mapping[str, Any], root: object) -> Iterator[object]:
    for kind, child in _children(part, root):
        kind_of: list[Node] = getattr(edges, kind)
        kind_of.append(id(child))
        yield child


def _children(part: Mapping[str, Any], root: object) -> Iterator[tuple[str, object]]:
    times = _TIMES if any(key in part for key in _UNEVALUATED) else 1
    for key, value in part.items():
        if key in _REFERENCES:
            target = _resolved(root, value)
            found = [] if target is None else [target]
        else:
            found = _schemas_in(value) if key in _HOLDING_MANY else [value]
        kind = _KINDS.get(key)
        if kind is not None:
            yield from ((kind, child) for child in found * (times if kind == "same" else 1))


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


class Size(msgspec.Struct, frozen=True):
    """How large a value is.

    Args:
        levels: Levels of nesting, `MOST_LEVELS` at most.
        parts: Values in it, itself included.
        characters: Characters of all texts and keys.
    """

    levels: int
    parts: int
    characters: int


def measure(value: object) -> Size:
    """Measure a value.

    >>> measure({"a": [1, 2]}), measure("text")
    (Size(levels=2, parts=4, characters=1), Size(levels=0, parts=1, characters=4))
    """
    layer, parts, levels, characters = [value], 1, 0, 0
    while True:
        characters += sum(map(_characters, layer))
        layer = [child for item in layer for child in _parts(item)]
        if not layer or levels == MOST_LEVELS:
            return Size(levels, parts, characters)
        parts += len(layer)
        levels += 1


def _characters(value: object) -> int:
    if isinstance(value, str):
        return len(value)
    keys = cast("dict[object, object]", value) if isinstance(value, dict) else ()
    return sum(len(key) for key in keys if isinstance(key, str))


def _parts(value: object) -> Iterator[object]:
    if isinstance(value, Mapping):
        yield from cast("Mapping[str, object]", value).values()
    elif isinstance(value, (list, tuple)):
        yield from cast("list[object]", value)
