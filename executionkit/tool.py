"""What a model may call: a name, a description, a JSON Schema, and a coroutine that does it."""

import math
import re
from collections.abc import Awaitable, Callable, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any, Final

import msgspec

from executionkit.core.schema import CompiledSchema, SchemaText, compile_schema, schema_text
from executionkit.provider import ToolSpec

__all__ = ["Tool", "ToolError"]

_NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")


class ToolError(Exception):
    """Raised by a tool to tell the model something: its text becomes the observation.

    Of any other exception the model sees the class only, since its text may hold a secret.

    >>> raise ToolError("no such city; ask the user to spell it")
    Traceback (most recent call last):
    executionkit.tool.ToolError: no such city; ask the user to spell it
    """


class Tool(msgspec.Struct, frozen=True, dict=True):
    """A tool: a value that compares and hashes, and pickles where `execute` does.

    Args:
        name: 1 to 64 letters, digits, `_` or `-`, as OpenAI asks.
        description: What it does and when to use it, for the model.
        parameters: A JSON Schema of the arguments (draft 2020-12, or 7 where `$schema` says so; `$ref` within
            it only). Copied.
        execute: Called with the arguments as keywords, once they are valid. Returns text, or anything that
            encodes as JSON.
        timeout: Seconds a call may take.

    Raises:
        TypeError: A field of the wrong type.
        ValueError: A name that OpenAI would refuse, a schema that is none, a time-out that is not positive.

    >>> async def execute(city: str) -> str:
    ...     return f"sunny in {city}"
    >>> weather = Tool("weather", "Today's weather.", {"properties": {"city": {"type": "string"}}}, execute)
    >>> weather.spec["function"]["name"], weather.timeout
    ('weather', 30.0)
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    execute: Callable[..., Awaitable[Any]]
    timeout: float = 30.0

    def __post_init__(self) -> None:
        _check_name(self.name)
        _check_timeout(self.timeout)
        if not isinstance(self.description, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"a tool's description must be text, not {type(self.description).__name__}")
        if not callable(self.execute):
            raise TypeError(f"a tool's execute must be callable, not {type(self.execute).__name__}")
        text = schema_text(self.parameters)
        msgspec.structs.force_setattr(self, "parameters", MappingProxyType(msgspec.json.decode(text)))
        compile_schema(text)

    @property
    def spec(self) -> ToolSpec:
        """The tool as an OpenAI function schema, a new dict each time."""
        function = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": function}

    @property
    def schema(self) -> CompiledSchema:
        """The parameters, ready to check arguments."""
        return compile_schema(self._text)

    @cached_property
    def _text(self) -> SchemaText:
        return schema_text(self.parameters)

    def __hash__(self) -> int:
        return hash((self.name, self.description, self.timeout))

    def __reduce__(self) -> tuple[object, ...]:
        return Tool, (self.name, self.description, dict(self.parameters), self.execute, self.timeout)


def _check_name(name: object) -> None:
    if not isinstance(name, str):
        raise TypeError(f"a tool's name must be text, not {type(name).__name__}")
    if not _NAME.fullmatch(name):
        raise ValueError(f"a tool's name must be 1 to 64 letters, digits, '_' or '-', not {name[:80]!r}")


def _check_timeout(timeout: object) -> None:
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise TypeError(f"a tool's timeout must be a number of seconds, not {type(timeout).__name__}")
    if not (math.isfinite(timeout) and timeout > 0):
        raise ValueError(f"a tool's timeout must be positive and finite, not {timeout}")
