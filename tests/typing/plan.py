"""What the functions of `executionkit.plan` take and return."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, assert_type

from executionkit import LLMProvider, Stage, complete, consensus
from executionkit.core.bounds import Bounds
from executionkit.plan import Change, bounds_by_part, diff, dumps, fingerprint, loads, mermaid, tree

if TYPE_CHECKING:
    from rich.tree import Tree


def data(provider: LLMProvider) -> None:
    """A stage of any type is written, read, compared and drawn."""
    pipeline = complete() >> consensus(3).map(len)
    assert_type(dumps(pipeline), bytes)
    assert_type(dumps(pipeline, providers={"a": provider}), bytes)
    assert_type(loads(b"{}", allow=["myapp"], providers={"a": provider}), Stage[Any, Any])
    assert_type(fingerprint(pipeline), str)
    assert_type(diff(pipeline, complete()), tuple[Change, ...])
    assert_type(bounds_by_part(pipeline, "text", provider=provider), Mapping[str, Bounds])
    assert_type(mermaid(pipeline, bounds=bounds_by_part(pipeline)), str)


def printed(pipeline: Stage[str, str]) -> "Tree":
    """A tree is that of rich."""
    return tree(pipeline)
