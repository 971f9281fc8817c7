"""Watch a run: a live tree of its stages in a terminal, plain lines elsewhere. Feeds on trace events."""

import sys
import threading
from collections import Counter, deque
from collections.abc import Iterator
from decimal import Decimal
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, TextIO

import msgspec

from executionkit.core.bounds import Bounds
from executionkit.core.durations import Durations
from executionkit.core.money import money_text
from executionkit.core.past_runs import PastRuns
from executionkit.core.usage import NO_USAGE, TokenUsage
from executionkit.events import (
    AttemptFinished,
    CallFinished,
    CallStarted,
    Event,
    ItemFinished,
    ItemStarted,
    RunFinished,
    RunStarted,
    StageFinished,
    StageStarted,
    ToolStarted,
    WaitStarted,
)

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live
    from rich.tree import Tree

__all__ = ["Progress"]


_MANY: Final = 100
"""Inputs above which, or where nobody knows how many there are, they are counted and not told one by one."""
_EVERY: Final = 10.0
"""Seconds between two lines about them, where there is no tree."""
_ENDED: Final = 10
"""Runs that are over and stay in the tree: of many runs it would show the oldest, and hold all."""


class _Inputs(msgspec.Struct):
    """The many inputs of a stage as far as they are over."""

    began: float
    total: int | None = None
    done: int = 0
    failures: Counter[str] = msgspec.field(default_factory=Counter[str])
    durations: Durations = msgspec.field(default_factory=Durations)
    resumed: int = 0
    now: float = 0.0
    told: float = 0.0

    def describe(self) -> str:
        """Say how many are over, how fast, and how long the rest will take."""
        of = "" if self.total is None else f" of {self.total:,}"
        parts = [f"{self.done:,}{of} inputs"]
        failed = sum(self.failures.values())
        if failed:
            parts.append(f"{failed:,} failed")
        if self.resumed:
            parts.append(f"{self.resumed:,} done before")
        rate = self.done / (self.now - self.began) if self.now > self.began else 0.0
        if rate:
            parts.append(f"{rate:,.0f} a second" if rate >= 100 else f"{rate:.3g} a second")
        if rate and self.total is not None and self.done < self.total:
            parts.append(f"{_time((self.total - self.done) / rate)} to go")
        return ", ".join(parts)

    def ended(self) -> Iterator[str]:
        """Say, once all are over, how long one took and which failures there were."""
        durations = self.durations
        p50, p95 = durations.quantile(0.5), durations.quantile(0.95)
        yield f"an input took {p50:.3g} s (median), {p95:.3g} s (95th percentile)"
        for name, count in self.failures.most_common():
            yield f"{name}: {count:,}"


class _Row(msgspec.Struct):
    """A stage of a run as far as it got."""

    stage: str
    parent: int | None
    depth: int
    cost: TokenUsage = NO_USAGE
    in_flight: int = 0
    tools: int = 0
    items: str = ""
    """How many of its inputs are over, where it has many."""
    is_item: bool = False
    inputs: _Inputs | None = None
    """Its inputs, where they are many."""
    notes: tuple[str, ...] = ()
    done: bool = False
    failed: bool = False


class _Run(msgspec.Struct):
    """A run: its stages by id, in the order in which they began."""

    max_cost: TokenUsage | None = None
    rows: dict[int, _Row] = {}
    calls: dict[int, int | None] = {}
    """The stage that each call under way is in."""

    def lineage(self, number: int | None) -> "Iterator[_Row]":
        while number is not None and number in self.rows:
            row = self.rows[number]
            yield row
            number = row.parent


class Progress:
    """A trace that shows a run: its stages, calls, tokens and money, and what is left of the budget.

    The inputs of `each` and the rows of `over` are told one by one. Where they are more than a hundred, or
    nobody knows how many, they are counted: how many are over and how many failed, how fast, and how long the
    rest will take; where there is no tree every ten seconds. At the end it says how long one took, and which
    failures there were.

    Give it to `trace=` of any number of runs, one after the other or at once. Of those that are over, the
    tree shows the last ten.

    Args:
        file: Where to; standard error if None.
        live: Whether to redraw a tree, for which `rich` is needed; None to do so in a terminal. Otherwise a
            line is written for each stage that ends.
        bounds: What `stage.bounds` returns of the run, to be shown before it begins.
        past: What runs of the same pipeline took, as `journal.past_runs` returns it, to be shown beside that.

    Raises:
        ModuleNotFoundError: On entering: a tree is wanted and `rich` is not installed.

    >>> from executionkit import complete
    >>> from executionkit.providers.scripted import ScriptedProvider
    >>> with Progress(file=sys.stdout) as progress:
    ...     _ = complete().run_sync(ScriptedProvider("Paris"), "Capital of France?", trace=progress)
    Complete ...
    Complete: done, 1 call, 8 + 2 tokens, ... s
    """

    def __init__(
        self,
        *,
        file: TextIO | None = None,
        live: bool | None = None,
        bounds: Bounds | None = None,
        past: PastRuns | None = None,
    ) -> None:
        self._file = sys.stderr if file is None else file
        self._wants_tree = self._file.isatty() if live is None else live
        self._beforehand = [] if bounds is None else [f"bounds: {bounds}"]
        if past is not None and (past.answered or past.failed):
            self._beforehand.append(f"before: {past}")
        self._live: Live | None = None
        self._runs: dict[str, _Run] = {}
        self._ended: deque[str] = deque()
        self._forgotten = 0
        self._lock = threading.RLock()

    def __enter__(self) -> Self:
        if self._wants_tree:
            self._live = _open_live(self, self._file)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    def __call__(self, event: Event) -> None:
        """Take note of an event."""
        with self._lock:
            if isinstance(event, RunStarted):
                self._runs.setdefault(event.run, _Run())
            run = self._runs.get(event.run)
            if run is None:
                return  # over and forgotten; what it left behind goes on telling
            if isinstance(event, ItemStarted | ItemFinished):
                line = self._tell_of_item(run, event)
            else:
                line = self._apply(run, event)
            if isinstance(event, RunFinished):
                self._end(event.run)
        if line is not None and not self._wants_tree:
            print(line, file=self._file, flush=True)

    def _end(self, run: str) -> None:
        """Forget the oldest of the runs that are over, where they are many."""
        self._ended.append(run)
        if len(self._ended) > _ENDED:
            self._runs.pop(self._ended.popleft(), None)
            self._forgotten += 1

    def _tell_of_item(self, run: _Run, event: ItemStarted | ItemFinished) -> str | None:
        """Bring a run up to date about an input; return the line to write where there is no tree."""
        above = run.rows.get(event.parent or 0)
        if above is not None and (event.total is None or event.total > _MANY):
            if above.inputs is None:
                above.inputs = _Inputs(event.at, told=event.at)
            above.inputs.total = event.total
        if isinstance(event, ItemStarted):
            depth = 0 if above is None else above.depth + 1
            if above is not None:
                above.items = above.items or f"{event.done}/{event.total}"
            run.rows[event.id] = _Row(event.item, event.parent, depth, is_item=True)
            return None
        if above is None:
            return None
        _forget(run, event.id)
        if above.inputs is None:
            return _end_item(above, event)
        inputs = above.inputs
        inputs.done, inputs.now = event.done, event.at
        inputs.durations.add(event.duration)
        inputs.resumed += event.resumed
        if event.error is not None:
            inputs.failures[event.error] += 1
        if inputs.now - inputs.told < _EVERY:
            return None
        inputs.told = inputs.now
        return "  " * above.depth + self._describe(above, run.max_cost)

    def _apply(self, run: _Run, event: Event) -> str | None:
        """Bring a run up to date; return the line to write where there is no tree."""
        _count(run, event)
        match event:
            case RunStarted():
                run.max_cost = event.max_cost or run.max_cost
                return "\n".join([f"{event.stage} ...", *self._beforehand]) if event.parent is None else None
            case StageStarted():
                above = run.rows.get(event.parent or 0)
                run.rows[event.id] = _Row(event.stage, event.parent, 0 if above is None else above.depth + 1)
                return None
            case WaitStarted(reason="back_off"):
                return self._retry_line(run, event)
            case StageFinished():
                return self._finish(run, event)
            case RunFinished() if event.parent is None:
                return self._left(run) or None
            case _:
                return None

    def _finish(self, run: _Run, event: StageFinished) -> str | None:
        row = run.rows.get(event.id)
        if row is None:
            return None
        row.done, row.failed, row.cost, row.in_flight = True, event.error is not None, event.cost, 0
        score = () if event.score is None else (f"score {event.score:.2f}",)
        row.notes = (f"{event.duration:.1f} s", *score, *((event.error,) if event.error else ()))
        if any(above.is_item for above in run.lineage(row.parent)):
            return None  # the input that it is part of gets the line
        indent = "  " * row.depth
        lines = [self._describe(row, run.max_cost)]
        if row.inputs is not None:
            lines.extend(f"  {line}" for line in row.inputs.ended())
        return "\n".join([indent + line for line in lines])

    def _retry_line(self, run: _Run, event: WaitStarted) -> str:
        depth = max((row.depth + 1 for row in run.lineage(run.calls.get(event.parent or 0))), default=1)
        return f"{'  ' * depth}{event.error}, attempt {event.attempt + 1} in {event.delay or 0:.1f} s"

    def _describe(self, row: _Row, max_cost: TokenUsage | None) -> str:
        state = ("failed" if row.failed else "done") if row.done else "running"
        items = row.items if row.inputs is None else row.inputs.describe()
        parts = [state, *filter(None, [items]), _plural(row.cost.llm_calls, "call")]
        if row.in_flight:
            parts.append(f"{row.in_flight} in flight")
        if row.tools:
            parts.append(_plural(row.tools, "tool call"))
        parts.append(f"{row.cost.input_tokens:,} + {row.cost.output_tokens:,} tokens")
        if row.cost.usd is not None:
            limit = max_cost.usd if max_cost is not None and not row.depth else None
            parts.append(money_text(row.cost.usd) + (f" of {money_text(limit)}" if limit else ""))
        return f"{row.stage}: {', '.join([*parts, *row.notes])}"

    def _left(self, run: _Run) -> str:
        """Say what is left of the budget, of the fields that are limited."""
        spent = next(iter(run.rows.values())).cost if run.rows else NO_USAGE
        limit = run.max_cost or NO_USAGE
        fields = (
            ("calls", limit.llm_calls, spent.llm_calls),
            ("input tokens", limit.input_tokens, spent.input_tokens),
            ("output tokens", limit.output_tokens, spent.output_tokens),
        )
        left = [f"{max(0, most - used):,} of {most:,} {what}" for what, most, used in fields if most]
        if limit.usd:
            usd = max(Decimal(0), limit.usd - (spent.usd or 0))
            left.append(f"{money_text(usd)} of {money_text(limit.usd)}")
        return f"left of the budget: {', '.join(left)}" if left else ""

    def __rich__(self) -> "RenderableType":
        """Draw every run as a tree."""
        from rich.console import Group

        with self._lock:
            trees = [tree for run in self._runs.values() if (tree := self._tree(run)) is not None]
            before = _plural(self._forgotten, "earlier run")
            return Group(*([_styled(before, "dim")] if self._forgotten else []), *trees)

    def _tree(self, run: _Run) -> "Tree | None":
        from rich.tree import Tree

        nodes: dict[int, Tree] = {}
        for number, row in run.rows.items():
            if any(above.inputs is not None for above in run.lineage(row.parent)):
                continue  # counted, not drawn
            style = ("red" if row.failed else "green") if row.done else "bold"
            above = nodes.get(row.parent or 0)
            label = _styled(self._describe(row, run.max_cost), style)
            nodes[number] = Tree(label) if above is None else above.add(label)
        root = next(iter(nodes.values()), None)
        if root is not None:
            for line in filter(None, (*self._beforehand, self._left(run))):
                root.add(_styled(line, "dim"))
        return root


def _end_item(above: _Row, event: ItemFinished) -> str:
    """Count an input that is over, and say so."""
    failed = f", {event.failed} failed" if event.failed else ""
    above.items = f"{event.done}/{event.total}{failed}"
    end = event.error or "done"
    calls = _plural(event.cost.llm_calls, "call")
    indent = "  " * (above.depth + 1)
    return f"{indent}{event.done}/{event.total} {event.item}: {end}, {calls}, {event.duration:.1f} s"


def _forget(run: _Run, item: int) -> None:
    """Forget an input that is over, and all below it: of a million inputs they would be held to the end."""
    below = {item}
    for number, row in run.rows.items():
        if row.parent in below:
            below.add(number)
    for number in below & run.rows.keys():
        del run.rows[number]


def _time(seconds: float) -> str:
    """Say how long something takes, as a person would."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _count(run: _Run, event: Event) -> None:
    """Add calls and tools to the stage they are in and to all stages above."""
    match event:
        case CallStarted():
            run.calls[event.id] = event.parent
            for row in run.lineage(event.parent):
                row.in_flight += 1
        case AttemptFinished():
            for row in run.lineage(run.calls.get(event.parent or 0)):
                row.cost += event.cost
        case CallFinished():
            run.calls.pop(event.id, None)
            for row in run.lineage(event.parent):
                row.in_flight -= 1
        case ToolStarted():
            for row in run.lineage(event.parent):
                row.tools += 1
        case _:
            return


def _styled(text: str, style: str) -> "RenderableType":
    from rich.text import Text

    return Text(text, style=style)


def _open_live(progress: Progress, file: TextIO) -> "Live":
    try:
        from rich.console import Console
        from rich.live import Live
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'the live view needs rich; in the clone, run: pip install ".[progress]", or ask for live=False',
            name="rich",
        ) from error
    console = Console(file=file)
    return Live(console=console, get_renderable=progress.__rich__, refresh_per_second=8)


def _plural(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
