"""What an MCP server says of its tools and their results, as far as it can be used.

The SDK takes a list of tools, or a result, as a whole or not at all. Here one odd tool is left out, and what
nobody reads refuses nothing.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeAlias, cast

from executionkit.core.encoding import json_text
from executionkit.core.schema.validation import compile_schema, schema_text

__all__ = ["text_of_result", "usable_result", "usable_tools"]

Json: TypeAlias = Mapping[str, object]

_HINTS: Final = ("readOnlyHint", "idempotentHint")
_LONGEST_KIND: Final = 64


def usable_tools(described: Iterable[object]) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Return what is read of each tool that can be used, and why the others cannot, by their names.

    >>> fine, odd = {"name": "now", "inputSchema": {}, "outputSchema": 7}, {"name": "odd", "inputSchema": 1}
    >>> usable_tools([fine, odd])
    ([{'name': 'now', 'inputSchema': {'type': 'object'}}], {'odd': 'a schema must be a mapping, not int'})
    """
    usable: list[dict[str, Any]] = []
    left_out: dict[str, str] = {}
    for tool in described:
        given: Json = cast("Json", tool) if isinstance(tool, Mapping) else {}
        name = given.get("name")
        try:
            usable.append(_usable_tool(given))
        except (ValueError, TypeError) as error:
            left_out[name if isinstance(name, str) else "?"] = str(error)
    return usable, left_out


def _usable_tool(given: Json) -> dict[str, Any]:
    """Return name, description, input schema and hints of a tool: what is read.

    A schema that does not say what it is of is one of an object, for nothing else is ever sent. How results
    are to look is left away: one that looks different is read all the same.
    """
    name, schema, hints = given.get("name"), given.get("inputSchema"), given.get("annotations")
    if not isinstance(name, str):
        raise TypeError("it has no name")
    if not isinstance(schema, Mapping):
        raise TypeError(f"a schema must be a mapping, not {type(schema).__name__}")
    schema = dict(cast("Json", schema))
    kinds = schema.get("type", "object")
    if kinds != "object" and not (isinstance(kinds, list) and "object" in kinds):
        raise ValueError("its schema is not one of an object, as arguments are")
    schema["type"] = "object"
    compile_schema(schema_text(schema))
    usable: dict[str, Any] = {"name": name, "inputSchema": schema}
    if isinstance(given.get("description"), str):
        usable["description"] = given["description"]
    if isinstance(hints, Mapping):
        told = cast("Json", hints)
        usable["annotations"] = {hint: told[hint] for hint in _HINTS if isinstance(told.get(hint), bool)}
    return usable


def usable_result(result: Json) -> dict[str, Any]:
    r"""Return the result of a tool's call as one text, any other answer as it is.

    >>> usable_result({"content": [{"type": "hologram"}, {"type": "text", "text": "hi", "annotations": 7}]})
    {'content': [{'type': 'text', 'text': '[hologram]\nhi'}]}
    >>> usable_result({"structuredContent": {"a": 1}, "isError": None})
    {'content': [{'type': 'text', 'text': '{"a":1}'}]}
    """
    if not isinstance(result.get("content"), list) and result.get("structuredContent") is None:
        return dict(result)
    usable = {key: value for key, value in result.items() if value is not None}
    usable["content"] = [{"type": "text", "text": text_of_result(result)}]
    for key in ("structuredContent", "_meta"):  # the text says it already, and nobody reads the other
        usable.pop(key, None)
    return usable


def text_of_result(result: Json) -> str:
    r"""Return the text of a result; of other content only the kind, since a text model cannot see it.

    >>> text_of_result({"content": [{"type": "image"}, {"type": "resource_link", "uri": "x://more"}]})
    '[image]\n[resource_link: x://more]'
    >>> text_of_result({"content": [], "structuredContent": [1]})
    '[1]'
    """
    parts = cast("list[object]", result.get("content") or [])
    if not parts and result.get("structuredContent") is not None:
        return json_text(result["structuredContent"])
    return "\n".join([_text_of_part(part) for part in parts])


def _text_of_part(part: object) -> str:
    given: Json = cast("Json", part) if isinstance(part, Mapping) else {}
    kind, resource = given.get("type"), given.get("resource")
    text, address = given.get("text"), given.get("uri")
    if kind == "resource" and isinstance(resource, Mapping):
        text = cast("Json", resource).get("text")
    if kind in {"text", "resource"} and isinstance(text, str):
        return text
    if kind == "resource_link" and isinstance(address, str):
        return f"[resource_link: {address}]"
    return f"[{kind[:_LONGEST_KIND]}]" if isinstance(kind, str) else "[unknown]"
