"""A stage that is run again while a rule refuses its value: `a.checked(rule)`."""

import math
from typing import Any, TypeVar

import msgspec
from typing_extensions import override

from executionkit.core.bounds import Given, Reach
from executionkit.core.checks import check_count
from executionkit.core.combined_bounds import in_turn
from executionkit.core.drawing import Sketch
from executionkit.core.foreign import function_name
from executionkit.errors import InvalidOutputError
from executionkit.outcome import PatternResult
from executionkit.provider import opening
from executionkit.runtime.context import Context
from executionkit.runtime.rules import Rule, broken, check_rule
from executionkit.stage.base import Stage
from executionkit.stage.nesting import check_stages

__all__ = ["Checked"]

B = TypeVar("B")


class Checked(Stage[str, B], frozen=True):
    """A stage that is run again while a rule refuses its value. `a.checked(rule)` makes one.

    The prompt of the next run has the reason below it. All runs share the ledger.

    Metadata: that of the run that will do, with `attempts` (int), how many runs there were, and `reasons`
    (tuple of str), why the values before the last were refused. On an error also why the last one was, and
    `last_value`, that value.

    Args:
        stage: The stage.
        rule: Looks at the value, plain or async, and returns None, or the reason why it will not do.
        output_retries: Runs after the first.

    Returns (on `run`):
        InvalidOutputError: No value will do, the first and `output_retries` more.
        EvaluationError: The rule raised, or returned neither None nor text.
    """

    stage: Stage[str, B]
    rule: Rule[B]
    output_retries: int = 2

    def __post_init__(self) -> None:
        check_stages((self.stage,))
        if self.rule is None:
            raise TypeError("checked takes a rule, a function of the value")
        check_rule(self.rule)
        check_count("output_retries", self.output_retries, 0)

    @property
    @override
    def name(self) -> str:
        return self.stage.name

    @override
    def sketch(self) -> Sketch:
        return Sketch(
            "around", f"checked by {function_name(self.rule)}, at most {1 + self.output_retries} runs"
        )

    @override
    async def perform(self, value: str, context: Context) -> PatternResult[B]:
        opening(value)  # refuses what is not a prompt
        reasons: list[str] = []
        values: list[B] = []
        context.report(lambda: _refused(values, reasons))
        prompt = value
        while len(values) <= self.output_retries:
            result = await context.run(self.stage, prompt, at=len(values), is_answer=True)
            values.append(result.value)
            reason = await broken(self.rule, result.value)
            if reason is None:
                noted = {"attempts": len(values), "reasons": tuple(reasons)}
                return PatternResult(result.value, result.score, metadata={**result.metadata, **noted})
            reasons.append(reason)
            context.void("repair")
            prompt = f"{value}\n\nAn earlier answer could not be used: {reason}"
        raise InvalidOutputError(f"no acceptable value in {len(values)} runs: {reasons[-1]}")

    @property
    @override
    def streams_text(self) -> bool:
        return self.stage.streams_text

    @override
    def reach(self, given: Given) -> Reach:
        first = self.stage.reach(given)
        longer = msgspec.structs.replace(
            given, value=math.inf, why_value=f"the reasons that {self.name} is run again for"
        )
        again = self.stage.reach(longer).if_at_all
        whole = in_turn([first, *[again] * self.output_retries])
        return msgspec.structs.replace(
            whole,
            least_said=first.least_said,
            needs_text=True,
            value=max(first.value, whole.value),
            why_value=first.why_value or whole.why_value,
        )


def _refused(values: list[Any], reasons: list[str]) -> dict[str, object]:
    noted: dict[str, object] = {"attempts": len(values), "reasons": tuple(reasons)}
    return {**noted, "last_value": values[-1]} if values else noted
