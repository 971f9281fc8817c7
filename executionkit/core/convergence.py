"""Has a refinement converged? Pure: a state in, the next state out."""

import math
from typing import Any, Generic, cast

import msgspec
from typing_extensions import TypeVar

__all__ = ["Convergence", "Refinement"]

T = TypeVar("T", default=str)


class Convergence(msgspec.Struct, frozen=True):
    """When to stop.

    Args:
        target_score: Good enough.
        patience: Rounds in a row without a gain after which to stop.
        delta_threshold: What a score must exceed the best one by to be a gain.
    """

    target_score: float
    patience: int
    delta_threshold: float


class Refinement(msgspec.Struct, Generic[T], frozen=True):
    """How far a refinement has come.

    Args:
        best: The best draft: one that was cut off only where none was whole. An empty text before any draft
            is judged.
        is_whole: Whether it has its end.
        score: Its score; minus infinity before any draft is judged.
        critique: What its evaluator said of it.
        history: Every score, the first draft's first.
        stale: Rounds in a row without a gain.
        refusal: What the model or its content filter said in place of the best draft; None where it is one.
    """

    best: T = cast("Any", "")
    score: float = -math.inf
    critique: str = ""
    history: tuple[float, ...] = ()
    stale: int = 0
    refusal: str | None = None
    is_whole: bool = False

    @property
    def iterations(self) -> int:
        """Rounds after the first draft; -1 before it."""
        return len(self.history) - 1

    def judged(
        self,
        draft: T,
        score: float,
        critique: str,
        rule: Convergence,
        refusal: str | None = None,
        *,
        is_whole: bool = True,
    ) -> "Refinement[T]":
        """Return the state after one more draft; the best one stays unless it is beaten.

        Any draft that is whole beats one that was cut off, whatever its score.

        >>> rule = Convergence(target_score=0.9, patience=3, delta_threshold=0.01)
        >>> state = Refinement().judged("a", 0.5, "", rule).judged("b", 0.4, "", rule)
        >>> state.best, state.history, state.stale
        ('a', (0.5, 0.4), 1)
        """
        history = (*self.history, score)
        is_alike = is_whole == self.is_whole
        is_gain = score - self.score > rule.delta_threshold if is_alike else is_whole
        stale = 0 if is_gain else self.stale + 1
        if (is_whole, score) > (self.is_whole, self.score):
            return msgspec.structs.replace(
                self,
                best=draft,
                score=score,
                critique=critique,
                history=history,
                stale=stale,
                refusal=refusal,
                is_whole=is_whole,
            )
        return msgspec.structs.replace(self, history=history, stale=stale)

    def has_converged(self, rule: Convergence) -> bool:
        """Tell whether nothing is to gain: a whole draft reached the target, or patience ran out."""
        return (self.is_whole and self.score >= rule.target_score) or self.stale >= rule.patience
