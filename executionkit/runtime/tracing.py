"""Hands the records of a run to its trace."""

import itertools
import os
import time
from collections.abc import Callable

from executionkit.events import Event, Path, TextVoided, Trace, VoidReason, WithContent, without_content
from executionkit.runtime.backlog import Backlog

__all__ = ["Span", "Tracer"]


class Tracer:
    """Numbers and times the records of one run; a trace that raises is logged once and dropped.

    Args:
        trace: Receives the records; None for nobody.
        backlog: Receives them too, with their texts, for the reader of a stream.
    """

    __slots__ = ("_ids", "_is_told_texts", "_origin", "_said", "_trace", "backlog", "content", "run")

    def __init__(self, trace: Trace | None, backlog: Backlog | None = None) -> None:
        self._trace = trace
        self._ids = itertools.count(1)
        self._origin = time.perf_counter()
        self._is_told_texts = isinstance(trace, WithContent)
        self._said: list[Span] = []
        self.backlog: Backlog | None = backlog
        self.run: str = os.urandom(8).hex()
        self.content: bool = self._is_told_texts or backlog is not None

    def span(self, parent: "Span | None" = None, path: Path = ()) -> "Span":
        """Number something that is about to begin."""
        return Span(self, next(self._ids), None if parent is None else parent.id, path)

    def send(self, kind: Callable[..., Event], span: "Span", fields: dict[str, object]) -> None:
        """Build a record and hand it over."""
        if self._trace is None and self.backlog is None:
            return
        at = time.perf_counter() - self._origin
        record = kind(run=self.run, id=span.id, parent=span.parent, path=span.path, at=at, **fields)
        if self.backlog is not None:
            self.backlog.add(record)
        told = record if self._is_told_texts == self.content else without_content(record)
        if self._trace is None or told is None:
            return
        try:
            self._trace(told)
        except Exception as error:
            self._trace = None
            _log_dropped(self.run, error)

    def note_said(self, call: "Span") -> None:
        """Note that a call has handed out text of the run's answer."""
        if call not in self._said:
            self._said.append(call)

    def void(self, reason: VoidReason, call: "Span | None" = None) -> None:
        """Take back the text of the answer that was handed out so far; or all that one call has said."""
        for each in self._said if call is None else [call]:
            each.send(TextVoided, reason=reason)
        self._said = [] if call is None else [each for each in self._said if each is not call]


class Span:
    """Something that begins and ends: a run, a stage, a call, an attempt, a wait, a tool."""

    __slots__ = ("_began", "_tracer", "id", "parent", "path")

    def __init__(self, tracer: Tracer, number: int, parent: int | None, path: Path) -> None:
        self._tracer = tracer
        self._began = time.perf_counter()
        self.id: int = number
        self.parent: int | None = parent
        self.path: Path = path

    @property
    def content(self) -> bool:
        """Whether the trace wants texts."""
        return self._tracer.content

    @property
    def duration(self) -> float:
        """Seconds since the beginning."""
        return time.perf_counter() - self._began

    @property
    def tracer(self) -> Tracer:
        """Who is told of it."""
        return self._tracer

    def below(self, path: Path | None = None) -> "Span":
        """Number something that begins within this, at the same path or at one below it."""
        return self._tracer.span(self, self.path if path is None else path)

    def send(self, record: Callable[..., Event], /, **fields: object) -> None:
        """Send a record about this."""
        self._tracer.send(record, self, fields)


def _log_dropped(run: str, error: Exception) -> None:
    import logging  # costs more to import than all of tracing, and is needed once if ever

    logger = logging.getLogger("executionkit")
    logger.error("the trace raised and is not called again in run %s", run, exc_info=error)
