"""When a refinement stops, against the rule told by hand."""

import math

from hypothesis import given
from hypothesis import strategies as st

from executionkit.core.convergence import Convergence, Refinement

SCORES = st.lists(st.integers(0, 20).map(lambda twentieths: twentieths / 20), min_size=1, max_size=15)
RULES = st.builds(
    Convergence, st.sampled_from([0.5, 0.9, 1.0]), st.integers(1, 4), st.sampled_from([0.0, 0.01, 0.1])
)


def judged(scores: list[float], rule: Convergence) -> Refinement:
    state = Refinement()
    for index, score in enumerate(scores):
        state = state.judged(f"draft {index}", score, f"critique {index}", rule)
    return state


@given(SCORES, RULES)
def test_the_best_draft_ever_seen_is_kept(scores: list[float], rule: Convergence) -> None:
    state = judged(scores, rule)
    first_best = scores.index(max(scores))
    assert (state.best, state.score) == (f"draft {first_best}", max(scores))
    assert state.critique == f"critique {first_best}"
    assert state.history == tuple(scores)
    assert state.iterations == len(scores) - 1


@given(SCORES, RULES)
def test_rounds_without_a_gain_are_counted_in_a_row(scores: list[float], rule: Convergence) -> None:
    stale, best = 0, -math.inf
    for score in scores:
        stale = 0 if score - best > rule.delta_threshold else stale + 1
        best = max(best, score)
    state = judged(scores, rule)
    assert state.stale == stale
    assert state.has_converged(rule) == (best >= rule.target_score or stale >= rule.patience)


def test_a_falling_score_is_no_gain() -> None:
    rule = Convergence(0.9, 3, 0.01)
    assert judged([0.5, 0.4, 0.3], rule).stale == 2
    assert judged([0.5, 0.4, 0.45, 0.3], rule).has_converged(rule)


def test_nothing_has_converged_before_a_draft() -> None:
    rule = Convergence(0.0, 1, 0.0)
    assert not Refinement().has_converged(rule)
    assert Refinement().iterations == -1
    assert Refinement().judged("", 0.0, "", rule).has_converged(rule)
