"""What the checkers must infer of tools, loops and typed answers."""

# pyright: reportUnknownMemberType=false, reportUnusedExpression=false

import dataclasses
from collections.abc import Callable
from typing import Annotated, Literal, assert_type

import msgspec

from executionkit import Outcome, Provider, Stage, complete, react
from executionkit.approval import Approve, Decision, Proposal
from executionkit.patterns.react import React
from executionkit.patterns.structured import Structured, structured
from executionkit.tools import Tool, tool


class Invoice(msgspec.Struct):
    """A struct."""

    total: float


@dataclasses.dataclass
class Point:
    """A dataclass."""

    x: int


@tool
def add(left: int, right: int) -> int:
    """Add."""
    return left + right


@tool(timeout=3, max_calls=2)
async def later(text: str) -> Point:
    """Answer later."""
    return Point(len(text))


async def approve(proposal: Proposal) -> Decision:
    """Say yes."""
    return Approve()


def plain(city: str) -> str:
    """Not a coroutine function."""
    return city


async def inferred(provider: Provider) -> None:
    """Pin what is inferred."""
    assert_type(add, Tool)
    assert_type(later, Tool)
    assert_type(tool(plain), Tool)
    assert_type(tool(name="x"), Callable[[Callable[..., object]], Tool])
    assert_type(structured(Invoice), Structured[Invoice])
    assert_type(structured(Point), Structured[Point])
    assert_type(structured(list[int]), Structured[list[int]])
    assert_type(structured(int | str), Structured[int | str])
    assert_type(structured(Literal["yes", "no"]), Structured[Literal["yes", "no"]])
    assert_type(structured(Annotated[int, msgspec.Meta(ge=1)]), Structured[int])
    assert_type(react([add]), React[str])
    assert_type(react([add], output_type=Invoice, max_rounds=3), React[Invoice])
    assert_type(react([add], output_type=list[Point]), React[list[Point]])
    assert_type(react([add], output_type=Point | Invoice), React[Point | Invoice])
    assert_type(await structured(Invoice).run(provider, "go"), Outcome[Invoice])
    assert_type(await react([add], output_type=Point).run(provider, "go"), Outcome[Point])
    assert_type(react([add]) >> structured(Invoice), Stage[str, Invoice])
    assert_type((react([add]) >> structured(Invoice)).map(lambda invoice: invoice.total), Stage[str, float])
    react([add], approve=approve, summarise=complete(), on_limit="answer")
