"""The spans of a run that are open."""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final

from opentelemetry import context as contexts
from opentelemetry import trace

from executionkit.telemetry.metrics import Endpoint

__all__ = ["INSIDE", "Counts", "Opened", "Run"]

INSIDE: Final[ContextVar["Opened | None"]] = ContextVar("executionkit_span", default=None)
"""The innermost of our spans within which this code runs."""


class Counts:
    """What an agent has asked for."""

    __slots__ = ("calls", "provider", "tools")

    def __init__(self) -> None:
        self.calls: int = 0
        self.tools: int = 0
        self.provider: str | None = None


class Run:
    """A run under way: when it began, and what of it has a span that is open, by number."""

    __slots__ = ("began", "is_over", "opened")

    def __init__(self, began: int) -> None:
        self.began: int = began
        """Nanoseconds since 1970."""
        self.opened: dict[int, Opened] = {}
        self.is_over: bool = False

    @property
    def open(self) -> "list[Opened]":
        """What has not ended, each once: a call and its attempts share a span."""
        return [each for each in dict.fromkeys(self.opened.values()) if each.ended is None]

    def time(self, at: float) -> int:
        """Return the wall clock at so many seconds after the run's beginning."""
        return self.began + int(at * 1e9)


class Opened:
    """A span that is open."""

    __slots__ = (
        "_around",
        "_context",
        "above",
        "agent",
        "asked",
        "attributes",
        "began",
        "ended",
        "endpoint",
        "kind",
        "name",
        "run",
        "span",
    )

    def __init__(
        self, run: Run, span: trace.Span, began: int, around: contexts.Context, above: "Opened | None"
    ) -> None:
        self.run: Run = run
        self.span: trace.Span = span
        self.began: int = began
        self.above: Opened | None = above
        self.agent: Counts | None = None if above is None else above.agent
        self.attributes: dict[str, Any] | None = None
        """What a call says of itself, set at its end; None where nothing is recorded."""
        self.asked: Endpoint | None = None
        """Whom a call asks, as it was begun."""
        self.endpoint: Endpoint | None = None
        """Whom it has asked last."""
        self.name: str = ""
        self.kind: str = ""
        self.ended: int | None = None
        self._around = around
        self._context: contexts.Context | None = None

    @property
    def context(self) -> contexts.Context:
        """The context in which this is the current span."""
        if self._context is None:
            self._context = trace.set_span_in_context(self.span, self._around)
        return self._context

    def enter(self) -> Callable[[], None]:
        """Make it the current span, and return what makes the one before so again."""
        inside, attached = INSIDE.set(self), contexts.attach(self.context)

        def leave() -> None:
            contexts.detach(attached)
            INSIDE.reset(inside)

        return leave

    def within(self, at: int) -> int:
        """Return a moment, or the end of this or of what it is part of, where that came before."""
        above: Opened | None = self
        while above is not None and above.ended is None:
            above = above.above
        return at if above is None or above.ended is None else min(at, above.ended)

    def end(self, at: int) -> float:
        """End it, not after what it is part of, and return how many seconds it took."""
        if self.above is not None:
            at = self.above.within(at)
        self.ended = max(at, self.began)
        self.span.end(self.ended)
        return (self.ended - self.began) / 1e9
