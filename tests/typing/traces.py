"""What is a trace, alone and with others, and what OpenTelemetry's makes of the checkers."""

from collections.abc import Callable
from typing import assert_type

from executionkit import LLMProvider, Outcome, Stage, TokenUsage
from executionkit.events import Event, StageFinished, Trace, TracingContext, with_content
from executionkit.otel import Otel, install, uninstall
from executionkit.progress import Progress


class Entering:
    """A trace that sets context variables."""

    wants_content = True

    def __call__(self, event: Event) -> None:
        """Take note."""

    def enter(self, run: str, id: int) -> Callable[[], None] | None:  # noqa: A002
        """Set nothing."""
        return None


async def traced(stage: Stage[str, int], provider: LLMProvider, events: list[Event]) -> None:
    """One trace, several, and one with content."""
    assert_type(await stage.run(provider, "a", trace=Otel()), Outcome[int])
    assert_type(
        await stage.run(provider, "a", trace=(Otel(content=True), Progress(), events.append)), Outcome[int]
    )
    assert_type(stage.run_sync(provider, "a", trace=(with_content(events.append), Entering())), Outcome[int])
    entering: TracingContext = Entering()
    also: TracingContext = Otel()
    plain: Trace = also
    await stage.run(provider, "a", trace=(entering, plain))


def installed() -> None:
    """The process's own."""
    assert_type(install(names="both"), Otel)
    assert_type(install().wants_content, bool)
    uninstall()


def figures(event: StageFinished) -> None:
    """What a stage tells."""
    assert_type(event.figures, dict[str, float | int | bool])
    assert_type(event.cost, TokenUsage)
