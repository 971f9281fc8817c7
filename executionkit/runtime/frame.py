"""What the runtime knows of a running stage, beside the small `Context` that the stage sees."""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final, TypeAlias

import msgspec
from anyio.lowlevel import EventLoopToken

from executionkit.errors import ExecutionKitError
from executionkit.events import Path
from executionkit.provider import LLMProvider
from executionkit.retry import RetryConfig
from executionkit.runtime.backlog import Backlog
from executionkit.runtime.calls.windows import Windows
from executionkit.runtime.journal.recorder import Recorder
from executionkit.runtime.ledger.accounts import Account
from executionkit.runtime.tracing import Span, Tracer

__all__ = ["PASSED_ON", "Frame", "Report", "Settings"]

Report: TypeAlias = Callable[[], Mapping[str, object]]
"""Says what a stage has achieved so far."""

PASSED_ON: Final = frozenset(
    {
        "base_url",
        "caches_prompts",
        "count_tokens",
        "extra_body",
        "known_dialect",
        "model",
        "port",
        "price",
        "response_formats",
        "retry",
        "retry_quota",
        "server",
    }
)
"""What a provider that stands before another says of itself as that one does."""


def _new_nonce() -> str:
    return os.urandom(16).hex()


class Settings(msgspec.Struct, frozen=True):
    """What all stages of a run share.

    Args:
        retry: How transient failures are retried; None leaves it to the provider.
        tracer: Who is told; None for nobody.
        ends_at: The event loop's time by which the run must be over; None where there is no deadline.
        loop: The event loop that the run belongs to.
        windows: How many calls each provider may have under way; None where that is fixed.
        recorder: The run's journal; None where it has none.
        nonce: Tells the run from all others.
    """

    retry: RetryConfig | None
    tracer: Tracer | None
    ends_at: float | None
    loop: EventLoopToken | None = None
    windows: Windows | None = None
    recorder: Recorder | None = None
    nonce: str = msgspec.field(default_factory=_new_nonce)


class Counts(msgspec.Struct, eq=False, gc=False):
    """How many calls and stages without a name of their own have begun at a path."""

    calls: int = 0
    stages: int = 0


class Frame(msgspec.Struct, eq=False):
    """A running stage, or a part of one.

    Args:
        provider: Whom it asks.
        account: Who pays.
        settings: The run's.
        path: Where it is in the pipeline.
        span: What it is in the trace; None where nobody traces.
        above: The frame of the stage that runs it.
        reports: What it can say of what it has achieved.
        counts: How many calls and stages have begun at its path.
        first: The position of the first of its parts: those of a named group are counted with others.
        key: The idempotency key of a tool's call, where a journal has kept one.
        is_answer: Whether what it answers is the run's answer, by its place in the pipeline.
    """

    provider: LLMProvider
    account: Account
    settings: Settings
    path: Path
    span: Span | None
    above: "Frame | None" = None
    reports: list[Report] = []
    counts: Counts = msgspec.field(default_factory=Counts)
    first: int = 0
    key: str = ""
    is_answer: bool = False
    _handed_up: Report | None = None

    @property
    def backlog(self) -> Backlog | None:
        """What the reader of the run's stream has yet to read; None where nobody reads one."""
        tracer = self.settings.tracer
        return None if tracer is None else tracer.backlog

    def next_call(self) -> int:
        """Return how many calls came before the next one at this path."""
        self.counts.calls += 1
        return self.counts.calls - 1

    def path_of(self, at: Path) -> Path:
        """Return the path of a stage run below this one: at a place of its own, or the next by number."""
        if at:
            return (*self.path, *at)
        self.counts.stages += 1
        return (*self.path, self.counts.stages - 1)

    def below(self, path: Path, *, is_stage: bool) -> "Frame":
        """Return the frame of a stage below this one, or of a part of it, with an account of its own."""
        span = self.span
        if span is not None and is_stage:
            span = span.below(path)
        return Frame(self.provider, Account(self.account), self.settings, path, span, self)

    def twin(self, provider: LLMProvider | None = None, *, is_answer: bool) -> "Frame":
        """Return a frame of the same stage that asks another provider, or whose answer is not the run's."""
        return Frame(
            self.provider if provider is None else provider,
            self.account,
            self.settings,
            self.path,
            self.span,
            self.above,
            self.reports,
            self.counts,
            self.first,
            is_answer=is_answer,
        )

    def stamped(self, error: ExecutionKitError) -> ExecutionKitError:
        """Return a copy of an error with this stage's cost and what the stage has achieved."""
        return error.stamped(self.account.cost, self.achieved(), self.account.told())

    def achieved(self) -> Mapping[str, object]:
        """Return what the stage has reported."""
        achieved: dict[str, object] = {}
        for report in self.reports:
            with suppress(Exception):  # a report that fails must not hide the failure it belongs to
                achieved.update(report())
        return achieved

    def hand_up(self) -> None:
        """Leave what a cancelled stage achieved to the one above: an error may come back from there."""
        if self.above is not None:
            achieved = self.achieved()
            self._handed_up = lambda: achieved
            self.above.reports.insert(0, self._handed_up)

    def keep_to_itself(self) -> None:
        """Take back what `hand_up` left above: the run ended by itself, and its error says it all."""
        if self.above is not None and self._handed_up is not None:
            self.above.reports.remove(self._handed_up)
