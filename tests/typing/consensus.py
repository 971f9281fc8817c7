"""What `consensus` gives, by its `output_type`, `key`, `weigh` and `providers`. Read by both checkers, never run."""

from collections.abc import Hashable, Sequence
from typing import Any, Literal, TypeVar, assert_type

import msgspec
from returns.result import Failure, Success
from typing_extensions import TypeForm

from executionkit import ExecutionKitError, LLMProvider, Stage, complete, consensus, identity
from executionkit.core.voting.keys import Choice, FinalAnswer, Key, LastNumber, json_value
from executionkit.core.voting.samples import ByProbability, Sample
from executionkit.core.voting.stopping import (
    Beta,
    Certain,
    Standing,
    StoppingRule,
    beta,
    certain,
    forecast,
    unanimous_window,
)
from executionkit.core.voting.tally import Tally, Verdict, fold, tally_of
from executionkit.patterns.consensus import Consensus
from executionkit.patterns.structured import Structured, structured

T = TypeVar("T")


class Invoice(msgspec.Struct):
    """What is voted on."""

    number: str
    total: float


def number_of(invoice: Invoice) -> str | None:
    """Name what counts."""
    return invoice.number or None


def trust(sample: Sample[Invoice]) -> float:
    """Weigh by the value."""
    return 1.0 if assert_type(sample.value, Invoice).total else 0.5


class Always(msgspec.Struct, frozen=True):
    """A rule without inheritance."""

    def more(self, standing: Standing) -> int:
        """Stop at once."""
        return 0 if standing.leader else 1

    def bound(self, standing: Standing) -> float:
        """Be sure."""
        return 1.0


async def votes(provider: LLMProvider, others: Sequence[LLMProvider]) -> None:
    """Check what comes out."""
    assert_type(consensus(), Consensus[str])
    assert_type(consensus(40, stop=beta()), Consensus[str])
    assert_type(consensus(output_type=Invoice), Consensus[Invoice])
    assert_type(consensus(output_type=Invoice, by_field=True, stop=certain()), Consensus[Invoice])
    assert_type(consensus(output_type=int, key=abs), Consensus[int])
    assert_type(consensus(output_type=Invoice, key=number_of, weigh=trust), Consensus[Invoice])
    assert_type(consensus(output_type=Invoice, weigh=ByProbability(), providers=others), Consensus[Invoice])
    assert_type(consensus(weigh=ByProbability(), quorum=3, providers=(provider, *others)), Consensus[str])
    assert_type(consensus(weigh=lambda sample: len(sample.value) / 100), Consensus[str])
    stage: Stage[str, Invoice] = consensus(output_type=Invoice)
    assert_type(stage.map(number_of), Stage[str, str | None])
    assert_type(complete() >> consensus(output_type=Invoice), Stage[str, Invoice])
    assert_type(
        consensus(output_type=Invoice | int, key=lambda answer: str(answer)), Consensus[Invoice | int]
    )
    assert_type(consensus(output_type=Literal["a", "b"]), Consensus[Literal["a", "b"]])
    assert_type(
        consensus(output_type=Literal["a", "b"] | Invoice | None),
        Consensus[Literal["a", "b"] | Invoice | None],
    )
    assert_type(consensus(output_type=Invoice, key=lambda invoice: invoice.number), Consensus[Invoice])
    assert_type(
        consensus(output_type=list[Invoice], weigh=lambda sample: len(sample.value)), Consensus[list[Invoice]]
    )
    assert_type(complete() >> consensus(output_type=Invoice | None), Stage[str, Invoice | None])
    outcome = await consensus(output_type=Invoice).run(provider, "?")
    match outcome:
        case Success(result):
            assert_type(result.value, Invoice)
        case Failure(error):
            assert_type(error, ExecutionKitError)


def of_any_type(kind: type[T], form: TypeForm[T], unknown: type[Any]) -> None:
    """Hand a type on."""
    assert_type(consensus(output_type=kind), Consensus[T])
    assert_type(consensus(output_type=form), Consensus[T])
    assert_type(structured(kind), Structured[T])
    assert_type(structured(form), Structured[T])
    assert_type(consensus(output_type=unknown), Consensus[Any])
    assert_type(identity(kind), Stage[T, T])
    assert_type(identity(form), Stage[T, T])


def keys() -> list[Key]:
    """Collect keys of every kind."""
    own: Key = str.casefold
    assert_type(json_value("1"), str | None)
    assert_type(Choice()("A"), str | None)
    assert_type(FinalAnswer()("1"), Hashable | None)
    assert_type(consensus(key=LastNumber(tolerance=0.1)), Consensus[str])
    assert_type(consensus(key=lambda text: len(text)), Consensus[str])
    return [own, fold, Choice(), json_value]


def rules() -> list[StoppingRule]:
    """Collect rules of every kind."""
    assert_type(certain(), Certain)
    assert_type(beta(0.9), Beta)
    assert_type(tally_of(["a", None]), Tally[str])
    assert_type(tally_of([1, None]).verdict(), Verdict[int] | None)
    return [certain(), beta(), forecast(), unanimous_window(), Always()]
