"""What may be the type of an answer, of a draft, of a tool's argument. Read by the checkers, never run."""

from dataclasses import dataclass
from typing import Literal, TypedDict, assert_type

import attrs
import msgspec
import pydantic
from pydantic.dataclasses import dataclass as validated

from executionkit import LLMProvider, Outcome, Stage, Tool, consensus, react, refine, structured, tool
from executionkit.patterns.consensus import Consensus
from executionkit.patterns.react import React
from executionkit.patterns.refine import Refine
from executionkit.patterns.structured import Structured


class Model(pydantic.BaseModel):
    """A model of Pydantic's."""

    name: str


@validated
class Validated:
    """A dataclass of Pydantic's."""

    name: str


@attrs.define
class Attrs:
    """A class of attrs'."""

    name: str


@dataclass
class Data:
    """A plain dataclass."""

    name: str


class Struct(msgspec.Struct):
    """A struct."""

    name: str


class Typed(TypedDict):
    """A dict with names."""

    name: str


Size = Literal["small", "large"]


async def answers(provider: LLMProvider) -> None:
    """Each kind of type, and unions of them, in what asks for one."""
    assert_type(structured(Model), Structured[Model])
    assert_type(structured(Validated), Structured[Validated])
    assert_type(structured(Attrs), Structured[Attrs])
    assert_type(structured(Data), Structured[Data])
    assert_type(structured(Typed), Structured[Typed])
    assert_type(structured(Model | None), Structured[Model | None])
    assert_type(structured(list[Model]), Structured[list[Model]])
    assert_type(structured(Size), Structured[Literal["small", "large"]])
    assert_type(await structured(Model | Struct).run(provider, "?"), Outcome[Model | Struct])
    assert_type(consensus(3, output_type=Model), Consensus[Model])
    assert_type(consensus(3, output_type=Validated), Consensus[Validated])
    assert_type(consensus(3, output_type=Attrs, key=lambda answer: answer.name), Consensus[Attrs])
    assert_type(consensus(3, output_type=Typed), Consensus[Typed])
    assert_type(consensus(3, output_type=Size), Consensus[Literal["small", "large"]])
    assert_type(consensus(3, output_type=Model | Data), Consensus[Model | Data])
    assert_type(refine(lambda draft: len(draft.name) / 9, output_type=Model), Refine[str, Model])
    assert_type(refine(lambda draft: len(draft.name) / 9, output_type=Validated), Refine[str, Validated])
    assert_type(react([], output_type=Model), React[Model])
    assert_type(react([], output_type=Model | None), React[Model | None])
    named: Stage[str, str] = structured(Model).map(lambda answer: answer.name)
    assert_type(named, Stage[str, str])


@tool
async def book(invoice: Model, size: Size = "small") -> Validated:
    """A tool that takes and gives what Pydantic made."""
    return Validated(f"{invoice.name} {size}")


assert_type(book, Tool)
