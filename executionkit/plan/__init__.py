"""A pipeline as data: written down and read again, its fingerprint, what differs, and drawings."""

from collections.abc import Collection, Mapping
from functools import partial
from inspect import isroutine
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import msgspec

from executionkit.core.bounds import Amount, Bounds, Reach
from executionkit.core.canonical import canonical, fingerprint_of
from executionkit.core.differences import Change, changes
from executionkit.core.drawing import mermaid_text
from executionkit.core.usage import TokenUsage
from executionkit.provider import LLMProvider
from executionkit.retry import RetryConfig
from executionkit.stage import Stage

if TYPE_CHECKING:
    from rich.tree import Tree

__all__ = [
    "Amount",
    "Bounds",
    "Change",
    "bounds_by_part",
    "diff",
    "dumps",
    "fingerprint",
    "loads",
    "mermaid",
    "tree",
]

A = TypeVar("A")

_VERSION: Final = 1
_KEY: Final = "executionkit.plan"
_NONE: Final[Mapping[str, LLMProvider]] = MappingProxyType({})


def dumps(stage: Stage[Any, Any], *, providers: Mapping[str, LLMProvider] = _NONE) -> bytes:
    """Write a stage down as JSON, to be read by `loads`. Equal stages of equal fields are equal bytes.

    Functions and classes are written as `module:qualname`, providers by the names that they are given here.

    Args:
        stage: The stage, most often a whole pipeline.
        providers: A name for each provider that the stage holds.

    Raises:
        TypeError: Part of it cannot be written: a lambda, a function within a function, an object that is no
            struct and no dataclass, a provider without a name, a key. The message says where, and what to do.

    >>> from executionkit import complete
    >>> loads(dumps(complete(max_tokens=9)))
    Complete(max_tokens=9)
    """
    from executionkit.plan.writing import Writer

    _check_stage(stage)
    written = Writer(providers).written(stage)
    return msgspec.json.format(msgspec.json.encode({_KEY: _VERSION, "stage": written}), indent=2)


def loads(
    data: bytes | str,
    *,
    allow: Collection[str] = (),
    providers: Mapping[str, LLMProvider] = _NONE,
) -> Stage[Any, Any]:
    """Return the stage that a document of `dumps` describes. No code runs but what is allowed.

    A document may name this package's own stages and settings, and types of the standard library that hold
    values. Whatever else it names must be in a module that is allowed, or in one below it: that module is
    imported, its structs and dataclasses are made, and its functions are called when the stage is run. So
    allow no module whose functions a stranger must not choose from.

    Args:
        data: The document.
        allow: Modules, such as `["myapp.steps"]`.
        providers: The providers, by the names that `dumps` was given.

    Raises:
        TypeError: `allow` is one text, and not several.
        ValueError: It is no such document, or written by a later version; it names what is not allowed; or a
            setting is refused. The message says where.
    """
    from executionkit.plan.reading import Reader, UnreadableError

    if isinstance(allow, str):
        raise TypeError(f"allow takes several modules: allow=[{allow!r}]")
    try:
        document: object = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"not a document of dumps: {error}") from None
    if not isinstance(document, dict) or _KEY not in document:
        raise ValueError(f"not a document of dumps: it has no {_KEY!r}")
    given = cast("dict[str, Any]", document)
    if given[_KEY] != _VERSION:
        raise ValueError(f"written as version {given[_KEY]!r:.20}; this package reads version {_VERSION}")
    try:
        stage: Any = Reader(allow, providers).read(given.get("stage"))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except UnreadableError as error:
        raise ValueError(str(error)) from error.__cause__
    if not isinstance(cast("object", stage), Stage):
        raise ValueError(f"the document holds no stage but {type(stage).__name__}")
    return cast("Stage[Any, Any]", stage)


def fingerprint(stage: Stage[Any, Any]) -> str:
    """Return a text that is the same for all stages that ask the same and answer the same.

    128 bits over every field, the names of `named` and of `each` aside: equal in every process, whatever the
    hash seed, and in every version of Python. What counts:

    - a function by its module and name, not by what it does: after a change there, give it another name;
    - a lambda, or a function within a function, by its code, its defaults and what it holds of its
      surroundings. Code is the same in one version of Python only, so the fingerprint then names that
      version: `ek1-cpython-311:` in place of `ek1:`;
    - a type by its name and JSON Schema;
    - a provider by its class, model, address and what it adds to requests; never by its key;
    - any other object by what it would be pickled as; by its class alone where it refuses.

    Args:
        stage: The stage, most often a whole pipeline.

    >>> from executionkit import complete, consensus
    >>> fingerprint(complete())
    'ek1:...'
    >>> fingerprint(consensus(3).named("vote")) == fingerprint(consensus(3)) != fingerprint(consensus(4))
    True
    """
    _check_stage(stage)
    return fingerprint_of(stage)


def diff(a: Stage[Any, Any], b: Stage[Any, Any]) -> tuple[Change, ...]:
    """Return what differs between two stages, names included; nothing where they are the same.

    Args:
        a: The stage before.
        b: The stage after.

    >>> from executionkit import complete, consensus
    >>> [str(change) for change in diff(complete() >> consensus(3), complete() >> consensus(4))]
    ['stages.1.sampling.n: 3 -> 4']
    """
    _check_stage(a)
    _check_stage(b)
    return changes(canonical(a, with_names=True), canonical(b, with_names=True))


def bounds_by_part(
    stage: Stage[A, Any],
    value: A | None = None,
    *,
    provider: LLMProvider | None = None,
    retry: RetryConfig | None = None,
    max_cost: TokenUsage | None = None,
) -> Mapping[str, Bounds]:
    """Return what each stage in a pipeline takes at the least and at the most, each time that it is run.

    The arguments are those of `Stage.bounds`, and so is what it raises.

    Returns:
        The bounds by place, such as `stages.1`; that of the whole is empty.

    >>> from executionkit import complete, consensus
    >>> {place: str(bounds) for place, bounds in bounds_by_part(complete() >> consensus(3), "tea").items()}
    {'': '4 to 26 calls, ...', 'stages.0': '1 to 7 calls, ...', 'stages.1': '3 to 21 calls, ...'}
    """
    from executionkit.plan.drawing import probed

    _check_stage(stage)
    found: dict[str, Reach] = {}
    whole = probed(stage, "", found).bounds(value, provider=provider, retry=retry, max_cost=max_cost)
    places = sorted(found)
    return MappingProxyType({place: found[place].bounds() if place else whole for place in places})


def mermaid(stage: Stage[Any, Any], *, bounds: Mapping[str, Bounds] | None = None) -> str:
    """Return a flowchart of a stage in the words of Mermaid, which GitHub and notebooks draw.

    Args:
        stage: The stage, most often a whole pipeline.
        bounds: What `bounds_by_part` returns of it, to stand at each stage.

    >>> from executionkit import complete, consensus
    >>> print(mermaid(complete() >> consensus(3)))
    flowchart TD
        s1["Complete"]
        s2["Consensus<br/>n=3"]
        s1 --> s2
    """
    _check_stage(stage)
    return mermaid_text(stage, partial(_told, bounds or {}))


def tree(stage: Stage[Any, Any], *, bounds: Mapping[str, Bounds] | None = None) -> "Tree":
    """Return the stages as a tree to be printed by `rich` (extra `progress`).

    Args:
        stage: The stage, most often a whole pipeline.
        bounds: What `bounds_by_part` returns of it, to stand at each stage.

    Raises:
        ModuleNotFoundError: `rich` is not installed.
    """
    from executionkit.plan.drawing import tree_of

    _check_stage(stage)
    return tree_of(stage, partial(_told, bounds or {}))


def _check_stage(stage: object) -> None:
    if isinstance(stage, Stage):
        return
    name = getattr(stage, "__name__", "")
    hint = f"; call {name}(...) if it makes one" if isroutine(stage) else ""
    raise TypeError(f"a stage is wanted, not {type(stage).__name__}{hint}")


def _told(bounds: Mapping[str, Bounds], place: str) -> tuple[str, ...]:
    return bounds[place].said if place in bounds else ()
