"""What a model may call: a name, a description, a JSON Schema, and a coroutine that does it."""

import os
import re
import sys
from collections.abc import Awaitable, Callable, Mapping
from functools import cached_property, partial
from importlib import import_module
from inspect import isasyncgenfunction, isawaitable, iscoroutinefunction, isgeneratorfunction
from types import MappingProxyType
from typing import Any, Final, Protocol, cast, overload, runtime_checkable

import msgspec
from returns.result import Result

from executionkit.core.checks import check_count, check_number
from executionkit.core.encoding import plain_or_text
from executionkit.core.foreign import fits, is_kind
from executionkit.core.journal import Effects
from executionkit.core.schema.signature import IdempotencyKey, Signature, read_signature
from executionkit.core.schema.validation import Rejected, SchemaText, compile_schema, schema_text
from executionkit.provider import ToolSpec
from executionkit.runtime.context import Context, call_key
from executionkit.runtime.tasks.threads import in_thread

__all__ = ["Effects", "IdempotencyKey", "Tool", "ToolError", "TypedExecute", "tool"]

_ADDRESS: Final = re.compile(r"<[^<>]* at 0x[0-9a-fA-F]+")
_NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")
DEFAULT_TIMEOUT: Final = 30.0
_EFFECTS: Final = ("once", "idempotent", "none")


class ToolError(Exception):
    """Raised by a tool to tell the model something: its text becomes the observation.

    Of any other exception the model sees the class only, since its text may hold a secret.

    >>> raise ToolError("no such city; ask the user to spell it")
    Traceback (most recent call last):
    executionkit.tools.ToolError: no such city; ask the user to spell it
    """


@runtime_checkable
class TypedExecute(Protocol):
    """An `execute` that decodes its own arguments and may want to know where it runs."""

    def decode(self, arguments: Mapping[str, Any]) -> dict[str, Any] | Rejected:
        """Return the arguments as the types the function asks for, or why they are refused."""
        ...

    async def call(self, arguments: Mapping[str, Any], context: Context) -> object:
        """Call the function with decoded arguments."""
        ...


class Tool(msgspec.Struct, frozen=True, dict=True):
    """A tool: a value that compares and hashes, and pickles where `execute` does.

    `tool(function)` makes one from a function's signature.

    Args:
        name: 1 to 64 letters, digits, `_` or `-`, as OpenAI asks.
        description: What it does and when to use it, for the model.
        parameters: A JSON Schema of the arguments (draft 2020-12, or 7 where `$schema` says so; `$ref` within
            it only). Copied.
        execute: Called with the arguments as keywords, once they are valid. Returns text, or anything that
            encodes as JSON. One that is not async is taken too, and blocks the event loop while it computes;
            `tool` gives such a function a thread.
        timeout: Seconds a call may take.
        max_calls: Calls that one loop may make; None for any number.
        effects: What a call does to the world, for a run with a journal. A call that was under way when the
            process ended is made again with `"none"` and `"idempotent"`; with `"once"` only where the tool
            takes an `IdempotencyKey`, else the run fails with an `UnsettledToolError`. One that has ended is
            never made again. Without a journal it changes nothing.

    Raises:
        TypeError: A field of the wrong type.
        ValueError: A name that OpenAI would refuse, an invalid schema, a setting that is out of range.

    >>> async def execute(city: str) -> str:
    ...     return f"sunny in {city}"
    >>> weather = Tool("weather", "Today's weather.", {"properties": {"city": {"type": "string"}}}, execute)
    >>> weather.spec["function"]["name"], weather.timeout
    ('weather', 30.0)
    >>> weather.prepare({"city": 7})
    Rejected(reasons=('city: 7 is not of type "string"',))
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    execute: Callable[..., Awaitable[Any]]
    timeout: float = DEFAULT_TIMEOUT
    max_calls: int | None = None
    effects: Effects = "once"

    def __post_init__(self) -> None:
        _check_name(self.name)
        check_timeout("a tool's timeout", self.timeout)
        if self.max_calls is not None:
            check_count("a tool's max_calls", self.max_calls)
        if self.effects not in _EFFECTS:
            raise ValueError(
                f'a tool\'s effects must be "once", "idempotent" or "none", not {self.effects!r:.80}'
            )
        if not isinstance(cast("object", self.description), str):
            raise TypeError(f"a tool's description must be text, not {type(self.description).__name__}")
        if not callable(cast("object", self.execute)):
            raise TypeError(f"a tool's execute must be callable, not {type(self.execute).__name__}")
        text = schema_text(self.parameters)
        msgspec.structs.force_setattr(self, "parameters", MappingProxyType(msgspec.json.decode(text)))
        self._text  # noqa: B018  # read before anyone can change what stands in `parameters`
        if self._typed is None:
            compile_schema(text)

    @property
    def spec(self) -> ToolSpec:
        """The tool as an OpenAI function schema, a new one each time, all the way down."""
        parameters = msgspec.json.decode(self._text)
        function = {"name": self.name, "description": self.description, "parameters": parameters}
        return {"type": "function", "function": function}

    @property
    def may_ask(self) -> bool:
        """Whether it is given the context of the running stage, so that it may ask the model itself."""
        execute = self._typed
        return execute is not None and not (isinstance(execute, ToolFunction) and not execute.wants_context)

    @property
    def may_repeat(self) -> bool:
        """Whether a call may be made again where nobody knows whether it was made."""
        execute = self._typed
        is_keyed = isinstance(execute, ToolFunction) and execute.signature.keyed is not None
        return self.effects != "once" or is_keyed

    def prepare(self, arguments: Mapping[str, Any]) -> Mapping[str, Any] | Rejected:
        """Return the arguments as `call` takes them, or why they are refused. Never raises."""
        if self._typed is not None:
            return self._typed.decode(arguments)
        return compile_schema(self._text).check(arguments) or arguments

    async def call(self, arguments: Mapping[str, Any], context: Context) -> str:
        """Call the tool with prepared arguments and return its result as text.

        Raises:
            Exception: Whatever the tool raised.
        """
        if self._typed is not None:
            return as_text(await self._typed.call(arguments, context))
        result: object = self.execute(**arguments)
        return as_text(await result if isawaitable(result) else result)

    @cached_property
    def _typed(self) -> TypedExecute | None:
        execute: object = self.execute
        return execute if fits(execute, TypedExecute) else None

    @cached_property
    def _text(self) -> SchemaText:
        return schema_text(self.parameters)

    def __hash__(self) -> int:
        return hash((self.name, self.description, self.timeout))

    def __reduce__(self) -> tuple[object, ...]:
        fields = (
            self.name,
            self.description,
            dict(self.parameters),
            self.execute,
            self.timeout,
            self.max_calls,
            self.effects,
        )
        return Tool, fields


def as_text(result: object) -> str:
    """Return what a tool returned as the text a model gets to see.

    A value that JSON has no form for, such as a path, is shown as its `str`. Of the outcome of a run it is
    the result, and a failure is raised.

    Raises:
        ToolError: It has no JSON form, and is an exception, or its `str` says where it lies in memory.
        UnwrapFailedError: It is a failure, or holds one.
    """
    if isinstance(result, str):
        return str.__str__(result)  # of a class derived from it, what it holds
    if isinstance(result, Result):
        return as_text(cast("Result[object, object]", result).unwrap())
    try:
        return msgspec.json.encode(result, enc_hook=_plain_or_text).decode()
    except (UnicodeEncodeError, TypeError, ValueError, RecursionError):
        return _lenient_text(result)


def _lenient_text(result: object) -> str:
    """Encode what msgspec refuses: lone surrogates, keys that are not text."""
    import json

    try:
        return json.dumps(result, default=_plain_or_text, skipkeys=True)
    except (TypeError, ValueError, RecursionError):
        raise ToolError(f"the tool's result, of type {type(result).__name__}, has no JSON form") from None


def _plain_or_text(value: object) -> object:
    if isinstance(value, Result):
        return cast("Result[object, object]", value).unwrap()
    return plain_or_text(value, _stable_text)


def _stable_text(value: object) -> str:
    # The text of an exception may hold a secret, returned as well as raised.
    if isinstance(value, BaseException) or _ADDRESS.search(text := str(value)):
        raise ToolError(f"the tool's result holds {type(value).__name__!r}, which has no JSON form")
    return text


class ToolFunction(msgspec.Struct, frozen=True, dict=True):
    """The `execute` of a tool made from a function. Pickles by the name of its function, as functions do."""

    function: Callable[..., object]
    in_thread: bool = True

    async def __call__(self, **arguments: Any) -> object:
        """Call the function with arguments of its own types; outside a loop a key is made for this call."""
        keyed = self.signature.keyed
        return await self._run(arguments if keyed is None else {keyed: os.urandom(16).hex(), **arguments})

    def decode(self, arguments: Mapping[str, Any]) -> dict[str, Any] | Rejected:
        return self.signature.decode(arguments)

    @property
    def wants_context(self) -> bool:
        return self.signature.injected is not None

    async def call(self, arguments: Mapping[str, Any], context: Context) -> object:
        given, signature = dict(arguments), self.signature
        if signature.injected is not None:
            given[signature.injected] = context
        if signature.keyed is not None:
            given[signature.keyed] = call_key(context)
        return await self._run(given)

    async def _run(self, arguments: Mapping[str, Any]) -> object:
        result: object
        if self._blocks:
            result = await in_thread(partial(self.function, **arguments))
        else:
            result = self.function(**arguments)
        return await result if isawaitable(result) else result

    @cached_property
    def signature(self) -> Signature:
        return read_signature(self.function, Context)

    @cached_property
    def _blocks(self) -> bool:
        return self.in_thread and not is_kind(self.function, iscoroutinefunction)

    def __reduce__(self) -> tuple[object, ...]:
        module, name = getattr(self.function, "__module__", ""), getattr(self.function, "__qualname__", "")
        found = _lookup(module, name)
        if isinstance(found, Tool) and found.execute == self:  # `@tool` took the function's name
            return _execute_of, (module, name)
        return ToolFunction, (self.function, self.in_thread)


def _execute_of(module: str, name: str) -> object:
    import_module(module)  # another process may not have it yet
    found = _lookup(module, name)
    if not isinstance(found, Tool):
        raise TypeError(f"{module}.{name} is not a tool any more")
    return found.execute


def _lookup(module: str, name: str) -> object:
    found: object = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


@overload
def tool(
    function: Callable[..., object],
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    max_calls: int | None = None,
    in_thread: bool = True,
    effects: Effects = "once",
) -> Tool: ...
@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    max_calls: int | None = None,
    in_thread: bool = True,
    effects: Effects = "once",
) -> Callable[[Callable[..., object]], Tool]: ...
def tool(
    function: Callable[..., object] | None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    max_calls: int | None = None,
    in_thread: bool = True,
    effects: Effects = "once",
) -> Tool | Callable[[Callable[..., object]], Tool]:
    """Make a tool from a function: `tool(function)`, `@tool` or `@tool(timeout=5)`.

    Name, description and JSON Schema come from the function's name, docstring (Google's, NumPy's or Sphinx's
    form) and annotations; `Annotated[str, "what it is"]` and `msgspec.Meta` describe and narrow an argument.
    Arguments are decoded to the annotated types by msgspec before the call, what comes back is encoded as
    JSON unless it is text. An argument annotated `Context` is given the context of the running stage and is
    hidden from the model: ask the model through it, and its cost is counted. So is `Annotated[str,
    IdempotencyKey]`, which is given a key of the call.

    Args:
        function: A function, method, partial or callable object; async, or plain. What a partial binds is
            bound: the model neither sees nor gives it.
        name: Used instead of the function's.
        description: Used instead of the docstring's.
        timeout: Seconds a call may take.
        max_calls: Calls that one loop may make; None for any number.
        in_thread: Whether a plain function runs in a thread of its own, so that it cannot block the event
            loop. A thread cannot be killed: one that outlives its time-out runs on, unobserved, until the
            process ends; it does not keep it from ending. False for functions that compute quickly.
        effects: What a call does to the world: something that must happen once (the default), something that
            is recognised when it is asked for again, or nothing. See `Tool`.

    Raises:
        TypeError: An argument has no annotation, cannot be given by name, or is of a type msgspec cannot
            decode; or the function is a generator.
        ValueError: A name that OpenAI would refuse, or a setting that is out of range.

    >>> @tool
    ... def add(left: int, right: int) -> int:
    ...     '''Add two numbers.
    ...
    ...     Args:
    ...         left: The first.
    ...         right: The second.
    ...     '''
    ...     return left + right
    >>> add.name, add.description, add.parameters["properties"]["left"]
    ('add', 'Add two numbers.', {'description': 'The first.', 'type': 'integer'})
    """
    if function is None:
        return partial(
            tool,
            name=name,
            description=description,
            timeout=timeout,
            max_calls=max_calls,
            in_thread=in_thread,
            effects=effects,
        )
    if not callable(function):
        raise TypeError(f"a tool must be made from a function, not {type(function).__name__}")
    execute = ToolFunction(function, in_thread)
    signature = execute.signature
    if is_kind(function, isgeneratorfunction, isasyncgenfunction):
        raise TypeError(f"{signature.name}() is a generator; a tool returns its result at once")
    return Tool(
        signature.name if name is None else name,
        signature.description if description is None else description,
        signature.schema,
        execute,
        timeout,
        max_calls,
        effects,
    )


def _check_name(name: object) -> None:
    if not isinstance(name, str):
        raise TypeError(f"a tool's name must be text, not {type(name).__name__}")
    if not _NAME.fullmatch(name):
        raise ValueError(f"a tool's name must be 1 to 64 letters, digits, '_' or '-', not {name[:80]!r}")


def check_timeout(what: str, timeout: object) -> None:
    """Check a number of seconds.

    Raises:
        TypeError: It is not a number.
        ValueError: It is not positive and finite.
    """
    check_number(what, timeout, 0)
    if timeout == 0:
        raise ValueError(f"{what} must be positive, not 0")
