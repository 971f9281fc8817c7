"""Hands the records of a run to its traces."""

import itertools
import os
import time
from collections.abc import Callable
from functools import partial
from types import BuiltinMethodType, MethodType
from typing import TypeAlias

from typing_extensions import TypeIs

from executionkit.core.foreign import attribute, method
from executionkit.errors.handling import unwrapped
from executionkit.events import Event, Path, TextVoided, Trace, VoidReason, WithContent, without_content
from executionkit.runtime.backlog import Backlog
from executionkit.runtime.tasks.cancellation import taken_as

__all__ = ["Leave", "Span", "Tracer", "Traces", "install", "installed", "traces_in", "uninstall"]

Traces: TypeAlias = Trace | tuple[Trace, ...]
"""One trace, or several."""

Leave: TypeAlias = Callable[[], None]
"""Sets context variables back."""

_installed: list[Trace] = []


def install(trace: Trace) -> None:
    """Have a trace be told of every run of this process, beside those that a run is given."""
    _installed.append(trace)


def uninstall(trace: Trace) -> None:
    """Tell a trace of no further run."""
    _installed[:] = [each for each in _installed if _identity(each) != _identity(trace)]


def installed() -> tuple[Trace, ...]:
    """Return the traces that are told of every run."""
    return tuple(_installed)


def traces_in(given: Traces | None, *, with_installed: bool = False) -> tuple[Trace, ...]:
    """Return who is to be told, each once: but for those that say that nobody listens to them.

    Args:
        given: What a run was given.
        with_installed: Whether those that are told of every run are added.
    """
    if given is None and not (with_installed and _installed):
        return ()
    several: tuple[Trace, ...] = () if given is None else given if _are_several(given) else (given,)
    if with_installed:
        several = (*_installed, *several)
    return tuple({_identity(trace): trace for trace in several if not _is_idle(trace)}.values())


def _identity(trace: Trace) -> tuple[object, ...]:
    """Return what tells one trace from others; a method is another object each time that it is looked up."""
    if isinstance(trace, WithContent):
        return WithContent, *_identity(trace.trace)
    if isinstance(trace, MethodType):
        return id(trace.__self__), id(trace.__func__)
    if isinstance(trace, BuiltinMethodType):
        return id(trace.__self__), trace.__name__
    return (id(trace),)


def _is_idle(trace: Trace) -> bool:
    return attribute(trace.trace if isinstance(trace, WithContent) else trace, "is_idle") is True


def _are_several(given: object) -> TypeIs[tuple[Trace, ...]]:
    return isinstance(given, tuple)


class _Listener:
    """One of the traces of a run, and whether it is still called."""

    __slots__ = ("enter", "is_dropped", "trace", "waited", "wants_content")

    def __init__(self, trace: Trace) -> None:
        inner: object = trace.trace if isinstance(trace, WithContent) else trace
        self.trace: Trace = trace
        self.wants_content: bool = inner is not trace or attribute(trace, "wants_content") is True
        self.enter: Callable[[str, int], Leave | None] | None = method(inner, "enter")
        self.waited: Callable[[str, int, float], None] | None = method(inner, "waited")
        self.is_dropped: bool = False


class Tracer:
    """Numbers and times the records of one run; a trace that raises is logged once and dropped.

    Args:
        traces: Who is told.
        outer: The tracer of the run that this one is within, whose traces are told as well.
        backlog: Receives the records too, with their texts, for the reader of a stream.
    """

    __slots__ = (
        "_entering",
        "_ids",
        "_is_mixed",
        "_listeners",
        "_offset",
        "_origin",
        "_said",
        "_timing",
        "backlog",
        "content",
        "has_context",
        "run",
        "times_pieces",
    )

    def __init__(self, traces: Traces, outer: "Tracer | None" = None, backlog: Backlog | None = None) -> None:
        above = [] if outer is None else outer._listeners
        known = {_identity(listener.trace) for listener in above}
        new = [trace for trace in traces_in(traces) if _identity(trace) not in known]
        self._listeners: list[_Listener] = [*above, *map(_Listener, new)]
        self._entering = [each for each in self._listeners if each.enter is not None]
        self._timing = [each for each in self._listeners if each.waited is not None]
        wants = {each.wants_content for each in self._listeners}
        self._said: list[Span] = []
        self.backlog: Backlog | None = backlog
        self.content: bool = True in wants or backlog is not None
        self._is_mixed = self.content and False in wants
        self.has_context: bool = bool(self._entering)
        """Whether a trace wants context variables set."""
        self.times_pieces: bool = bool(self._timing)
        """Whether a trace wants to know how long each piece of an answer took."""
        self._ids = itertools.count(1)
        self._origin = time.perf_counter()
        # One clock for a run and those within it, so that none seems to end after the one that it is part of.
        self._offset: float = time.time() - self._origin if outer is None else outer._offset
        self.run: str = os.urandom(8).hex()

    @property
    def started(self) -> float:
        """The wall clock at the start of the run, in seconds since 1970."""
        return self._offset + self._origin

    def span(self, parent: "Span | None" = None, path: Path = ()) -> "Span":
        """Number something that is about to begin."""
        return Span(self, next(self._ids), None if parent is None else parent.id, path)

    def send(self, kind: Callable[..., Event], span: "Span", fields: dict[str, object]) -> None:
        """Build a record and hand it over."""
        at = time.perf_counter() - self._origin
        event = kind(run=self.run, id=span.id, parent=span.parent, path=span.path, at=at, **fields)
        if self.backlog is not None:
            self.backlog.add(event)
        plain = without_content(event) if self._is_mixed else event
        for listener in self._listeners:
            told = event if listener.wants_content else plain
            if told is None or listener.is_dropped:
                continue
            try:
                listener.trace(told)
            except BaseException as raised:
                self._drop(listener, raised)

    def enter(self, span: "Span") -> Leave | None:
        """Set the context variables that traces want set while this goes on."""
        leaves: list[tuple[_Listener, Leave]] = []
        for listener in self._entering:
            if listener.enter is not None and not listener.is_dropped:
                try:
                    leave = listener.enter(self.run, span.id)
                except BaseException as raised:
                    self._drop(listener, raised)
                else:
                    leaves += [] if leave is None else [(listener, leave)]

        def leave_all() -> None:
            for listener, leave in reversed(leaves):
                try:
                    leave()
                except BaseException as raised:
                    self._drop(listener, raised)

        return leave_all if leaves else None

    def waited(self, span: "Span", seconds: float) -> None:
        """Tell how long a server took for a piece of an answer."""
        for listener in self._timing:
            if listener.waited is not None and not listener.is_dropped:
                try:
                    listener.waited(self.run, span.id, seconds)
                except BaseException as raised:
                    self._drop(listener, raised)

    def _drop(self, listener: _Listener, raised: BaseException) -> None:
        """Go on without a trace that has raised; only call it while that is handled."""
        error = taken_as(raised)
        if not isinstance(error, Exception):
            raise error
        listener.is_dropped = True
        _log_dropped(self.run, unwrapped(error))

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
        """Whether a trace wants texts."""
        return self._tracer.content

    @property
    def started(self) -> float:
        """The wall clock at the start of the run, in seconds since 1970."""
        return self._tracer.started

    @property
    def duration(self) -> float:
        """Seconds since the beginning."""
        return time.perf_counter() - self._began

    @property
    def tracer(self) -> Tracer:
        """Who is told of it."""
        return self._tracer

    def seconds_to(self, moment: float | None) -> float | None:
        """Return the seconds from the beginning to a moment of `time.perf_counter`."""
        return None if moment is None else max(0.0, moment - self._began)

    def below(self, path: Path | None = None) -> "Span":
        """Number something that begins within this, at the same path or at one below it."""
        return self._tracer.span(self, self.path if path is None else path)

    def send(self, record: Callable[..., Event], /, **fields: object) -> None:
        """Send a record about this."""
        self._tracer.send(record, self, fields)

    @property
    def waited(self) -> Callable[[float], None] | None:
        """What to tell how long a server took for a piece; None where no trace wants to know."""
        return partial(self._tracer.waited, self) if self._tracer.times_pieces else None

    def enter(self) -> Leave | None:
        """Set the context variables that traces want set while this goes on; what is returned sets them back.

        To be called in the task that does the work, after the record of the start.
        """
        return self._tracer.enter(self) if self._tracer.has_context else None


def _log_dropped(run: str, error: Exception) -> None:
    import logging  # costs more to import than all of tracing, and is needed once if ever

    logger = logging.getLogger("executionkit")
    try:
        logger.error("the trace raised and is not called again in run %s", run, exc_info=error)
    except Exception:  # it cannot be shown; a handler may have written the line without it
        kind = type(error).__name__
        logger.error("the trace raised %s and is not called again in run %s", kind, run)
