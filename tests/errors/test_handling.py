"""What is done about failures, whatever they are and do."""

import pytest

from executionkit.core.foreign import described
from executionkit.core.usage import TokenUsage
from executionkit.errors import BudgetExhaustedError, EvaluationError, PermanentError, RateLimitError
from executionkit.errors.handling import unwrapped, wrapping
from tests.errors.awkward import AwkwardError

REFUSED = PermanentError("the server answered 401; check the key", metadata={"status": 401})


def test_an_exception_is_described_whatever_it_does() -> None:
    assert described(AwkwardError(1, 2)) == "AwkwardError"
    assert described(KeyError("x")) == "KeyError: 'x'"


def test_wrapping_keeps_ours_and_wraps_the_rest() -> None:
    ours = BudgetExhaustedError("spent")
    with pytest.raises(BudgetExhaustedError) as raised, wrapping(EvaluationError, "the evaluator"):
        raise ours
    assert raised.value is ours
    for foreign in (KeyError("x"), StopIteration(), ExceptionGroup("g", [ValueError()])):
        with (
            pytest.raises(EvaluationError, match="the evaluator raised") as wrapped,
            wrapping(EvaluationError, "the evaluator"),
        ):
            raise foreign
        assert wrapped.value.__cause__ is foreign
    with pytest.raises(KeyboardInterrupt), wrapping(EvaluationError, "the evaluator"):
        raise KeyboardInterrupt


def test_a_group_is_the_failure_of_ours_in_it() -> None:
    limited = RateLimitError("slow down", cost=TokenUsage(llm_calls=1), metadata={"other_failures": ("a",)})
    group = ExceptionGroup("g", [ValueError("x"), ExceptionGroup("h", [limited, REFUSED])])
    error = unwrapped(group)
    assert isinstance(error, RateLimitError)
    assert error.cost.llm_calls == 1
    refused = "PermanentError: the server answered 401; check the key"
    assert error.metadata["other_failures"] == ("a", "ValueError: x", refused)
    assert limited.metadata["other_failures"] == ("a",)
    assert unwrapped(ExceptionGroup("g", [REFUSED])) == REFUSED
    for foreign in ([KeyError("no such table")], [KeyError("no such table"), ValueError("x")]):
        theirs = ExceptionGroup("g", foreign)
        assert unwrapped(theirs) is theirs
