"""What the checkers must infer of `each`, `or_else`, rules, names, templates and refinements of values."""

from collections.abc import Sequence
from typing import Literal, assert_type

import msgspec

from executionkit import (
    Evaluation,
    LLMError,
    LLMProvider,
    Outcome,
    Stage,
    complete,
    consensus,
    identity,
    prompt,
    react,
    refine,
    structured,
)
from executionkit.datasets import (
    Adaptive,
    Batch,
    Dask,
    Engine,
    Local,
    Ray,
    Row,
    Summary,
    SyncBatch,
    map_dataset,
    read_rows,
)
from executionkit.patterns.prompt import Prompt
from executionkit.patterns.refine import Draft, Refine
from executionkit.stage import Rule
from tests.typing.stages import City, Count, Spell


class Invoice(msgspec.Struct):
    """What is refined."""

    total: float


def adds_up(invoice: Invoice) -> str | None:
    """A plain rule."""
    return None if invoice.total > 0 else "the total must be positive"


async def is_known(city: City) -> str | None:
    """A rule that looks something up."""
    return None


def short(text: str) -> str | None:
    """A rule of texts."""
    return None


def inputs(provider: LLMProvider) -> None:
    """Many inputs: outcomes, or values."""
    assert_type(complete().each(), Stage[Sequence[str], tuple[Outcome[str], ...]])
    assert_type(Count().each(max_concurrency=3), Stage[Sequence[str], tuple[Outcome[int], ...]])
    assert_type(Spell().each(on_error="fail"), Stage[Sequence[int], tuple[str, ...]])
    assert_type(Spell().each(on_error="fail") >> prompt("{}"), Stage[Sequence[int], str])
    assert_type(Spell().each(name=lambda n: f"{n + 1}"), Stage[Sequence[int], tuple[Outcome[str], ...]])
    outcomes = complete().each().run_sync(provider, ["a", "b"])
    assert_type(outcomes, Outcome[tuple[Outcome[str], ...]])


async def rows(provider: LLMProvider, invoices: list[Invoice]) -> None:
    """Many rows: what went in, and what came out of it."""
    assert_type(complete().over(["a"], provider, key=str), Batch[str, str])
    assert_type(Spell().over(range(9), provider, key=lambda n: n), Batch[int, str])
    by_total = prompt("{total}") >> Count()
    assert_type(
        complete().over((f"{n}" for n in range(9)), provider, key=hash, max_concurrency=Adaptive(most=9)),
        Batch[str, str],
    )
    async with Count().over(["a"], provider, key=lambda text: text.upper()) as batch:
        async for row in batch:
            assert_type(row, Row[str, int])
            assert_type(row.outcome, Outcome[int])
    read = by_total.over(invoices, provider, key=lambda invoice: str(invoice.total))  # takes any object
    assert_type(read, Batch[Invoice, int])
    assert_type(by_total.over(invoices, provider, key=hash, ordered=True), Batch[Invoice, int])
    assert_type(by_total.over_sync(invoices, provider, key=hash), SyncBatch[Invoice, int])
    async for each in read:
        assert_type(each.outcome, Outcome[int])
    said = identity(Invoice) >> by_total  # says what goes in, for the template takes anything
    assert_type(said, Stage[Invoice, int])
    assert_type(said.over(invoices, provider, key=lambda invoice: f"{invoice.total}"), Batch[Invoice, int])
    many = said.each(name=lambda invoice: f"{invoice.total}")
    assert_type(many, Stage[Sequence[Invoice], tuple[Outcome[int], ...]])
    with Count().over_sync(["a"], provider, key=str) as here:
        assert_type(here, SyncBatch[str, int])
        assert_type(next(here).value, str)
    engines: list[Engine] = [Local(), Dask(provider), Ray(rows=100)]
    for engine in engines:
        done = map_dataset(
            read_rows("in.csv", Invoice),
            "out.csv",
            by_total,
            lambda: provider,
            key=lambda row: str(row.total),
            engine=engine,
        )
        assert_type(done, Summary)


def fallbacks() -> None:
    """Another where one fails."""
    assert_type(complete().or_else(Count()), Stage[str, str | int])
    assert_type(complete().or_else(consensus(), on=(LLMError,)), Stage[str, str])
    assert_type(prompt("{}").or_else(Spell()), Stage[int, str])


def names_and_inputs() -> None:
    """A name changes no type; the input stands in front."""
    assert_type(Count().named("length"), Stage[str, int])
    assert_type(Count().with_input(), Stage[str, tuple[str, int]])
    assert_type(Count().with_input().map(lambda pair: pair[1] / 2), Stage[str, float])
    assert_type(prompt("{0} {1}"), Prompt)
    assert_type(Count().with_input() >> prompt("{0} {1}") >> refine(), Stage[str, str])


def rules(mine: Rule[Invoice]) -> None:
    """Rules see values of the stage's type."""
    assert_type(structured(Invoice, check=adds_up) >> prompt("{total}"), Stage[str, str])
    structured(Invoice, check=mine)
    structured(Invoice, check=lambda invoice: None if invoice.total else "no total")
    assert_type(consensus(output_type=City, check=is_known).map(lambda city: city.name), Stage[str, str])
    consensus(check=short)
    react([], output_type=City, check=is_known)
    react([], check=short)
    assert_type(complete().checked(short), Stage[str, str])
    assert_type(Count().checked(lambda n: None if n % 2 else "even"), Stage[str, int])
    structured(Literal["a", "b"], check=lambda letter: None if letter == "a" else "not a")


def systems() -> None:
    """Words in front: text, or a function of the input."""
    complete(system="Be brief.")
    consensus(system=lambda question: f"It is about {question.upper()}.")
    refine(system=str.upper)
    react([], system="Use the tools.")
    structured(City, system="Name a city.")


async def judged(invoice: Invoice, provider: LLMProvider) -> Evaluation:
    """An evaluator of values that asks."""
    return Evaluation(1.0)


def refinements(
    first: Stage[str, Invoice], of_number: Stage[int, Invoice], better: Stage[Draft[int, Invoice], Invoice]
) -> None:
    """Values of any type."""
    assert_type(refine(judged, output_type=Invoice), Refine[str, Invoice])
    assert_type(refine(lambda invoice: invoice.total / 9, output_type=Invoice), Refine[str, Invoice])
    assert_type(refine(judged, output_type=Invoice, draft=first), Refine[str, Invoice])
    assert_type(refine(judged, draft=of_number, improve=better), Refine[int, Invoice])
    improving = prompt("{task} {value} {score} {critique}") >> structured(Invoice)
    assert_type(refine(judged, draft=of_number, improve=improving), Refine[int, Invoice])
    assert_type(refine(len, draft=react([])), Refine)
    wider: Stage[int, Invoice] = refine(judged, draft=of_number, improve=better)
    assert_type(wider >> prompt("{total}"), Stage[int, str])
