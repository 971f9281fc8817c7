"""The model behind every fake server: what it says depends on the request alone."""

import re
from typing import Any, Final, cast

import msgspec

__all__ = ["Said", "example", "part", "prompt_of", "said_to", "tokens"]

DRAFT: Final = "Paris"
BETTER: Final = "Paris, on the Seine"
THOUGHTS: Final = "France is a country. Score: 1 out of 10?"
"""What a model that reasons thinks: whoever takes it for the answer, a vote or a score is found out."""

_CHARACTERS_A_TOKEN: Final = 4
_NAMES_A_SCHEMA: Final = "JSON Schema"


class Said(msgspec.Struct, frozen=True):
    """What the model says.

    Args:
        text: Its answer.
        call: The tool it calls instead, and the arguments.
    """

    text: str = ""
    call: tuple[str, dict[str, Any]] | None = None


def said_to(body: dict[str, Any], *, choice: object, form: str) -> Said:
    """Return what the model says to a request.

    Args:
        body: The request.
        choice: What its server makes of `tool_choice`: a name, `"required"`, `"auto"` or `"none"`.
        form: What its server makes of `response_format`: `"json_schema"`, `"json_object"` or `"text"`.
    """
    prompt = prompt_of(body)
    tools = [tool["function"] for tool in body.get("tools") or ()]
    for tool in tools if choice != "none" and body["messages"][-1]["role"] != "tool" else ():
        # A model calls a tool that the prompt names; one that is forced to calls it in any case.
        if choice in {"required", tool["name"]} or f"`{tool['name']}`" in prompt:
            return Said(call=(tool["name"], cast("dict[str, Any]", example(tool["parameters"]))))
    if form == "json_schema":
        return Said(_json(example(body["response_format"]["json_schema"]["schema"])))
    stated = [text for text in map(_text, body["messages"]) if _NAMES_A_SCHEMA in text]
    if stated:
        schema = stated[0][stated[0].index("{", stated[0].index(_NAMES_A_SCHEMA)) :]
        return Said(_json(example(msgspec.json.decode(schema))))
    if form == "json_object":
        return Said(_json({"answer": DRAFT}))
    return Said(_prose(prompt))


def prompt_of(body: dict[str, Any]) -> str:
    """Return the text that the user wrote last."""
    return next(_text(message) for message in reversed(body["messages"]) if message["role"] == "user")


def _text(message: dict[str, Any]) -> str:
    content = message["content"] or ""
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def _prose(prompt: str) -> str:
    rated = re.search(r"<response_to_rate>\n(.*)\n</response_to_rate>", prompt, re.DOTALL)
    if rated is not None:
        return f"Score: {10 if rated[1] == BETTER else 5}\nSay more of where it lies."
    return BETTER if "Write a better answer" in prompt else DRAFT


def example(schema: dict[str, Any]) -> object:
    """Return a value that is valid under a schema, as far as the tests' schemas go."""
    return _example(schema, cast("dict[str, Any]", schema.get("$defs", {})))


def _example(schema: dict[str, Any], defined: dict[str, Any]) -> object:
    if "$ref" in schema:
        return _example(defined[schema["$ref"].rpartition("/")[2]], defined)
    if "anyOf" in schema:
        return _example(schema["anyOf"][0], defined)
    if "enum" in schema:
        return schema["enum"][0]
    match schema.get("type"):
        case "object":
            properties: dict[str, Any] = schema.get("properties", {})
            return {name: _example(part, defined) for name, part in properties.items()}
        case "array":
            return [_example(schema["items"], defined)]
        case "integer" | "number":
            return 2
        case "boolean":
            return True
        case _:
            return DRAFT


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def part(whole: dict[str, Any], name: str) -> dict[str, Any]:
    """Return an object within a request; an empty one where it is not there, or null."""
    value: dict[str, Any] | None = whole.get(name)
    return value or {}


def tokens(value: object) -> int:
    """Return how many tokens a text, or anything else as JSON, is counted as."""
    text = value if isinstance(value, str) else _json(value)
    return -(-len(text) // _CHARACTERS_A_TOKEN)
