"""Hands the records of a run to its trace."""

import itertools
import os
import time
from collections.abc import Callable

from executionkit.events import Event, Path, Trace, WithContent

__all__ = ["Span", "Tracer"]


class Tracer:
    """Numbers and times the records of one run; a trace that raises is logged once and dropped."""

    __slots__ = ("_dropped", "_ids", "_origin", "_trace", "content", "run")

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._ids = itertools.count(1)
        self._origin = time.perf_counter()
        self._dropped = False
        self.run: str = os.urandom(8).hex()
        self.content: bool = isinstance(trace, WithContent)

    def span(self, parent: "Span | None" = None, path: Path = ()) -> "Span":
        """Number something that is about to begin."""
        return Span(self, next(self._ids), None if parent is None else parent.id, path)

    def send(self, kind: Callable[..., Event], span: "Span", fields: dict[str, object]) -> None:
        """Build a record and hand it over."""
        if self._dropped:
            return
        at = time.perf_counter() - self._origin
        try:
            self._trace(kind(run=self.run, id=span.id, parent=span.parent, path=span.path, at=at, **fields))
        except Exception as error:
            self._dropped = True
            _log_dropped(self.run, error)


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

    def below(self, path: Path | None = None) -> "Span":
        """Number something that begins within this, at the same path or at one below it."""
        return self._tracer.span(self, self.path if path is None else path)

    def send(self, kind: Callable[..., Event], **fields: object) -> None:
        """Send a record about this."""
        self._tracer.send(kind, self, fields)


def _log_dropped(run: str, error: Exception) -> None:
    import logging  # costs more to import than all of tracing, and is needed once if ever

    logger = logging.getLogger("executionkit")
    logger.error("the trace raised and is not called again in run %s", run, exc_info=error)
