"""Plays recorded votes of real models through the real `consensus` stage and prints what the rules save.

    python -m benchmarks.replay [--votes FILE] [--orders 40] [--json] [--plot FILE.svg]

The bounds beside the figures are those asked for on the project's shared file of recorded votes: 2,904 rows
of 40 samples, 24 cells. The cells in `tests/data`, which have a licence, are a part of them; on these, and on
any other file, the bounds are for orientation only, and the report says so.

A provider hands out the recorded answers in order; everything else is the stage as users run it. Beside each
figure stands what was published, or what the project asks for. Accuracies are in per cent.
"""

import argparse
import gzip
import json
import os
import random
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib import import_module
from pathlib import Path
from statistics import fmean
from typing import Any, Final, TypeVar

import anyio
import msgspec
from returns.result import Failure, Success

from benchmarks.plot import Line, scatter
from executionkit import LLMResponse, Message, ToolSpec, consensus
from executionkit.core.voting.stopping import (
    Standing,
    StoppingRule,
    beta,
    certain,
    forecast,
    standing_of,
    unanimous_window,
)
from executionkit.core.voting.tally import Tally, tally_of

T = TypeVar("T")

DATA: Final = Path(__file__).parent.parent / "tests" / "data" / "votes.jsonl.gz"
ONE_BY_ONE: Final = 1
GZIP: Final = b"\x1f\x8b"
SHARED_ROWS: Final = 2904
"""Rows of 40 samples in the file that the bounds belong to."""


class Row(msgspec.Struct, frozen=True):
    """One question asked of one model; see the README beside the data."""

    cell: str
    q: str
    votes: tuple[str, ...]
    gold: str = ""
    accept: tuple[str | None, ...] = ()
    tok: tuple[int, ...] = ()

    @property
    def group(self) -> str:
        """The cell without its seed."""
        head, _, last = self.cell.rpartition("/")
        return head if last[:1] == "s" and last[1:].isdigit() else self.cell

    def is_right(self, answer: str | None) -> bool:
        return answer in self.accept if self.accept else answer == self.gold


class Played(msgspec.Struct, frozen=True):
    """What became of one vote."""

    winner: str | None
    calls: int
    rounds: int


class Published(msgspec.Struct, frozen=True):
    """Adaptive-Consistency as published, without `certain`: also the example of a rule of one's own."""

    confidence: float = 0.95

    def more(self, standing: Standing) -> int:
        return int(self.bound(standing) < self.confidence)

    def bound(self, standing: Standing) -> float:
        return beta().bound(standing) if standing.leader else 0.0


class Recorded:
    """A provider that hands out one row's answers; with latencies, each takes as long as it had tokens."""

    def __init__(self, votes: Iterable[str], latencies: Sequence[float] = ()) -> None:
        self.pending = iter(votes)
        self.latencies = iter(latencies)

    async def complete(
        self,
        messages: list[Message],
        *,
        temperature: float | None = None,
        max_tokens: int | None = None,
        tools: list[ToolSpec] | None = None,
        **kwargs: Any,
    ) -> LLMResponse:
        vote = next(self.pending)
        latency = next(self.latencies, None)
        if latency is not None:
            await anyio.sleep(latency)
        return LLMResponse(vote, usage=_USAGE)


_USAGE: Final = {"prompt_tokens": 1, "completion_tokens": 1}


def parsed(text: str) -> str | None:
    """The key of recorded votes: empty ones could not be parsed at the source, and abstain."""
    return text or None


async def play(
    votes: Sequence[str],
    stop: StoppingRule | None,
    *,
    limit: int = ONE_BY_ONE,
    latencies: Sequence[float] = (),
) -> Played:
    """Play one vote of all these samples through the stage."""
    stage = consensus(len(votes), key=parsed, stop=stop, max_concurrency=limit)
    outcome = await stage.run(Recorded(votes, latencies), "?")
    match outcome:
        case Success(result):
            return Played(result.value, result.metadata["samples"], result.metadata["rounds"])
        case Failure(error):  # no sample at all could be parsed
            return Played(None, error.metadata["samples"], error.metadata["rounds"])


class BadVotesError(ValueError):
    """A file that does not hold recorded votes; the message says where and why."""


def read_rows(path: Path) -> list[Row]:
    """Read recorded votes: JSON lines, gzipped or plain.

    Raises:
        BadVotesError: The file cannot be read, holds no rows, or a row of another form.
    """
    try:
        packed = path.read_bytes()
        content = gzip.decompress(packed) if packed.startswith(GZIP) else packed
    except (OSError, EOFError, zlib.error) as error:
        raise BadVotesError(f"{path} cannot be read: {error}") from error
    rows = [read_row(path, at, line) for at, line in enumerate(content.splitlines(), 1) if line.strip()]
    if not rows:
        raise BadVotesError(f"{path} holds no rows")
    return rows


def read_row(path: Path, at: int, line: bytes) -> Row:
    try:
        row = msgspec.json.decode(line, type=Row)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadVotesError(f"{path}, line {at}: {error}") from error
    if not row.votes:
        raise BadVotesError(f"{path}, line {at}: no votes")
    return row


def whole(rows: Sequence[Row]) -> list[Row]:
    """The rows of the 40-sample cells."""
    return [row for row in rows if len(row.votes) == max(SIZES)]


def shuffled(rows: Sequence[Row], seed: int) -> list[tuple[str, ...]]:
    """Each row's votes in an order of their own, the same for every rule and n."""
    source = random.Random(seed)
    return [tuple(source.sample(row.votes, len(row.votes))) for row in rows]


# --- the tables ---------------------------------------------------------------------------------------

PUBLISHED: Final = {
    "penguins/code-davinci-002/cot": ("penguins_codex", 83.79, 84.02, 10.96),
    "penguins/vicuna-13b/cot": ("penguins_vicuna", 46.80, 47.26, 22.94),
    "date/code-davinci-002/pal": ("date_codex", 80.31, 79.49, 10.74),
    "date/vicuna-13b/pal": ("date_vicuna", 59.80, 60.16, 17.28),
}

RULES: Final[dict[str, StoppingRule]] = {
    "certain": certain(),
    "plain": Published(),
    "beta": beta(),
    "forecast": forecast(),
}

SIZES: Final = (5, 10, 40)

ASKED: Final = {
    "certain_calls_5": "<= 3.52",
    "certain_calls_10": "<= 6.33",
    "certain_calls_40": "<= 25.1",
    "certain_agreement": "100.00",
    "plain_calls_5": "published 4.41",
    "plain_calls_10": "published 6.16",
    "plain_calls_40": "published 11.48",
    "beta_calls_5": "<= 3.52",
    "beta_calls_10": "<= 5.7",
    "beta_calls_40": "<= 11.2",
    "beta_equals_plain": "100.00",
    "forecast_calls_10": "<= 4.9",
    "forecast_calls_40": "<= 10.9",
    "forecast_disagreement_10": "<= 0.5",
    "forecast_disagreement_40": "<= 0.5",
    "rounds_unlimited": "<= 3.2",
    "rounds_4": "<= 3.5",
    "rounds_calls_changed": "0",
    "concurrency_difference": "within 0.2",
    "decision_microseconds": "<= 1",
    "decision_ratio_to_integral": "<= 0.2",
} | {
    f"{name}_{what}": f"published {figure}"
    for name, *figures in PUBLISHED.values()
    for what, figure in zip(("vote", "plain", "plain_calls"), figures, strict=True)
}

Figures = dict[str, float]


async def published_rows(rows: Sequence[Row]) -> Figures:
    """Accuracy of the full vote and of Adaptive-Consistency, in recorded order, over all seeds."""
    figures: Figures = {}
    for group, (name, *_) in PUBLISHED.items():
        chosen = [row for row in rows if row.group == group]
        if not chosen:
            continue
        for what, rule in (("vote", None), ("plain", Published()), ("beta", beta())):
            played = [await play(row.votes, rule) for row in chosen]
            figures[f"{name}_{what}"] = accuracy(chosen, played)
            if rule is not None:
                figures[f"{name}_{what}_calls"] = fmean(each.calls for each in played)
    return figures


def accuracy(rows: Sequence[Row], played: Sequence[Played]) -> float:
    return 100 * fmean(row.is_right(each.winner) for row, each in zip(rows, played, strict=True))


def one_order(rows: Sequence[Row], seed: int) -> list[dict[str, float]]:
    """Play every rule at every size on one random order; a dict of figures for each row."""
    return anyio.run(_one_order, rows, seed)


async def _one_order(rows: Sequence[Row], seed: int) -> list[dict[str, float]]:
    return [await _one_row(votes) for votes in shuffled(rows, seed)]


async def _one_row(votes: Sequence[str]) -> dict[str, float]:
    figures: dict[str, float] = {}
    for n in SIZES:
        full = tally_of(map(parsed, votes[:n])).leader
        played = {name: await play(votes[:n], rule) for name, rule in RULES.items()}
        for name, each in played.items():
            figures[f"{name}_calls_{n}"] = each.calls
            figures[f"{name}_disagreement_{n}"] = 100 * (each.winner != full)
        figures[f"beta_differs_{n}"] = 100 * (played["beta"].winner != played["plain"].winner)
    return figures


def random_orders(rows: Sequence[Row], orders: int) -> Figures:
    """Calls and agreement, mean over the rows of the 40-sample cells and over random orders.

    The mean over rows weighs cells by their size; `..._by_cell` is the mean of the cells' means.
    """
    chosen = whole(rows)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        played = list(pool.map(partial(one_order, chosen), range(orders)))
    names = list(played[0][0])
    by_row = [
        {name: fmean(order[at][name] for order in played) for name in names} for at in range(len(chosen))
    ]
    figures = {name: fmean(row[name] for row in by_row) for name in names}
    cells = grouped(by_row, [row.cell for row in chosen])
    by_cell = {
        f"{name}_by_cell": fmean(fmean(row[name] for row in cell) for cell in cells.values())
        for name in names
        if "_calls_" in name
    }
    exact = {
        "certain_agreement": 100 - max(figures[f"certain_disagreement_{n}"] for n in SIZES),
        "beta_equals_plain": 100 - max(figures[f"beta_differs_{n}"] for n in SIZES),
    }
    return {**figures, **by_cell, **exact}


def grouped(items: Sequence[T], keys: Sequence[str]) -> dict[str, list[T]]:
    groups: defaultdict[str, list[T]] = defaultdict(list)
    for item, key in zip(items, keys, strict=True):
        groups[key].append(item)
    return groups


async def rounds(rows: Sequence[Row]) -> Figures:
    """How many rounds `beta` takes at n = 40, and on how many rows they change calls or answer."""
    chosen = whole(rows)
    figures: Figures = {"rounds_calls_changed": 0}
    alone = [await play(row.votes, beta()) for row in chosen]
    for name, limit in (("rounds_unlimited", 40), ("rounds_4", 4)):
        played = [await play(row.votes, beta(), limit=limit) for row in chosen]
        figures[name] = fmean(each.rounds for each in played)
        figures["rounds_calls_changed"] += sum(
            (one.winner, one.calls) != (other.winner, other.calls)
            for one, other in zip(alone, played, strict=True)
        )
    return figures


LATENCY_UNIT: Final = 2e-5
"""Seconds of waiting for each recorded token."""


async def concurrency(rows: Sequence[Row]) -> Figures:
    """Accuracy of rounds whose samples come back when their recorded length says, against one by one.

    Beside it, what stopping on the answers completed first would do: the bias to short answers.
    """
    chosen = [row for row in rows if row.cell.startswith("gsm8k/gpt-4o-mini") and row.tok]
    if not chosen:
        return {}
    alone = [await play(row.votes, beta()) for row in chosen]
    played = [
        await play(row.votes, beta(), limit=40, latencies=[LATENCY_UNIT * tokens for tokens in row.tok])
        for row in chosen
    ]
    hasty = [await play(by_completion(row), beta()) for row in chosen]
    one_by_one = accuracy(chosen, alone)
    return {
        "concurrency_one_by_one": one_by_one,
        "concurrency_rounds": accuracy(chosen, played),
        "concurrency_difference": accuracy(chosen, played) - one_by_one,
        "concurrency_first_completed_difference": accuracy(chosen, hasty) - one_by_one,
    }


def by_completion(row: Row) -> tuple[str, ...]:
    """The votes in the order in which they would complete if all were asked for at once."""
    order = sorted(range(len(row.votes)), key=lambda at: (row.tok[at], at))
    return tuple(row.votes[at] for at in order)


def decisions(rows: Sequence[Row], orders: int) -> Figures:
    """Processor time of a stop decision at n = 40, mean over the decisions of votes drawn one by one.

    Everything a rule works out and remembers on the way is counted; `..._first_order` is the mean over the
    first order alone, where most of that falls.
    """
    chosen = whole(rows)
    rules = {name: rule for name, rule in RULES.items() if name != "plain"}
    rules["unanimous_window"] = unanimous_window()
    passes: dict[str, list[float]] = {name: [] for name in rules}
    for order in range(orders):
        votes = list(map(standings_of, shuffled(chosen, order)))
        for name, rule in rules.items():
            passes[name].append(timed(rule.more, votes))
    means = {f"decision_microseconds_{name}": fmean(each) for name, each in passes.items()}
    first = {f"decision_microseconds_{name}_first_order": each[0] for name, each in passes.items()}
    slowest = max(means.values())
    return {**means, **first, "decision_microseconds": slowest, **beside_the_integral(chosen, slowest)}


def beside_the_integral(rows: Sequence[Row], slowest: float) -> Figures:
    integral = published_integral()
    if integral is None:
        return {}
    took = timed(integral, [standings_of(row.votes) for row in rows[::50]])
    return {"decision_microseconds_integral": took, "decision_ratio_to_integral": slowest / took}


def standings_of(votes: Sequence[str]) -> list[Standing]:
    """The standing after each sample of a vote."""
    tally: Tally[str] = Tally()
    standings: list[Standing] = []
    for vote in votes:
        tally.add(parsed(vote))
        standings.append(standing_of(tally, len(votes)))
    return standings


def timed(decide: Callable[[Standing], int], votes: Sequence[Sequence[Standing]]) -> float:
    """Microseconds of processor time for a decision, asked after each sample until it says stop."""
    start = time.process_time()
    for standings in votes:
        for standing in standings:
            if decide(standing) == 0:
                break
    took = time.process_time() - start
    asked = sum(1 + next(at for at, each in enumerate(standings) if decide(each) == 0) for standings in votes)
    return 1e6 * took / asked


def published_integral() -> Callable[[Standing], int] | None:
    """The published stop decision, which integrates numerically, if SciPy is there."""
    try:
        quad: Any = import_module("scipy.integrate").quad
    except ImportError:
        return None

    def decide(standing: Standing) -> int:
        def mass(x: float) -> float:
            return float(x**standing.leader * (1 - x) ** standing.runner_up)

        sure: bool = quad(mass, 0.5, 1)[0] >= 0.95 * quad(mass, 0, 1)[0]
        return 0 if sure or not standing.remaining else 1

    return decide


# --- the plot -----------------------------------------------------------------------------------------

SWEEPS: Final[dict[str, dict[str, StoppingRule | None]]] = {
    "none, n = 1 to 40": {},
    "certain": {"n 40": certain()},
    "beta": {f"{c}": beta(c) for c in (0.7, 0.8, 0.9, 0.95, 0.99)},
    "forecast": {f"{r}": forecast(r) for r in (0.2, 0.1, 0.05, 0.01, 0.001)},
    "unanimous_window": {f"{w}": unanimous_window(w) for w in (2, 3, 4, 5, 8)},
}


async def lines(rows: Sequence[Row]) -> list[Line]:
    """Accuracy against mean calls for each rule, over the 40-sample cells, in recorded order."""
    chosen = whole(rows)
    drawn: list[Line] = []
    for name, sweep in SWEEPS.items():
        points = [(label, [await play(row.votes, rule) for row in chosen]) for label, rule in sweep.items()]
        for n in () if sweep else (1, 3, 5, 7, 10, 15, 20, 30, 40):
            points += [(f"{n}", [await play(row.votes[:n], None, limit=n) for row in chosen])]
        drawn.append(
            Line(
                name,
                tuple(
                    (fmean(each.calls for each in played), accuracy(chosen, played), label)
                    for label, played in points
                ),
            )
        )
    return drawn


# --- the command --------------------------------------------------------------------------------------


def measure(rows: Sequence[Row], orders: int) -> Figures:
    """Measure everything that the given rows allow."""
    figures: Figures = {"rows": len(rows), "rows_of_40": len(whole(rows))}
    if whole(rows):
        figures |= decisions(rows, orders)
        figures |= anyio.run(published_rows, rows)
        figures |= anyio.run(rounds, rows)
        figures |= anyio.run(concurrency, rows)
        figures |= random_orders(rows, orders)
    return figures


def described(path: Path, rows: Sequence[Row]) -> str:
    """What was played, and whether the bounds are for it."""
    chosen = whole(rows)
    lines = [f"{path}: {len(rows):,} rows, of which {len(chosen):,} have 40 samples and are played"]
    if len(chosen) == SHARED_ROWS:
        lines.append("the bounds belong to this file: 2,904 rows of 40 samples")
    else:
        lines.append("the bounds belong to the shared file of 2,904 rows of 40 samples, not to this one")
    return "\n".join(lines)


def title_of(rows: Sequence[Row]) -> str:
    chosen = whole(rows)
    names = ", ".join(sorted({row.cell.partition("/")[0] for row in chosen}))
    return f"Right answers against calls: votes of at most 40, {len(chosen):,} questions of {names}"


def report(figures: Figures) -> str:
    """The figures with what was asked for or published first, then all others."""
    named = [name for name in ASKED if name in figures]
    others = sorted(set(figures) - set(named))
    table = [f"{name:45} {figures[name]:10.3f}   {ASKED.get(name, '')}" for name in (*named, *others)]
    return "\n".join(line.rstrip() for line in table)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="replay", description="Play recorded votes through `consensus`.")
    parser.add_argument(
        "--votes", type=Path, default=DATA, help="recorded votes: JSON lines, plain or gzipped"
    )
    parser.add_argument("--orders", type=int, default=40, help="random orders of each row")
    parser.add_argument("--json", action="store_true", help="print one JSON object of named figures")
    parser.add_argument(
        "--plot",
        type=Path,
        help="write accuracy against calls to this SVG file; measures only with --json",
        metavar="FILE.svg",
    )
    given = parser.parse_args(arguments)
    if given.orders < 1:
        parser.error("--orders must be at least 1")
    try:
        rows = read_rows(given.votes)
    except BadVotesError as error:
        parser.error(str(error))
    if given.plot:
        drawn = draw(rows, given.plot, parser)
        if not given.json:
            print(points(drawn))
            return
    figures = measure(rows, given.orders)
    if given.json:
        print(json.dumps(figures, indent=1))
    else:
        print(described(given.votes, rows), report(figures), sep="\n\n")


def draw(rows: Sequence[Row], path: Path, parser: argparse.ArgumentParser) -> list[Line]:
    """Write the plot to a file, and return what is in it."""
    if not whole(rows):
        parser.error("the plot needs rows of 40 samples, and the file has none")
    across = "samples a question, mean"
    drawn = anyio.run(lines, rows)
    path.write_text(scatter(title_of(rows), across, "right, per cent", drawn))
    return drawn


def points(drawn: Sequence[Line]) -> str:
    """The points of the plot as text: the rule and its setting, the mean calls, what is right in per cent."""
    return "\n".join(
        f"{line.name:20} {label:6} {calls:6.2f} calls {right:6.1f} % right"
        for line in drawn
        for calls, right, label in line.points
    )


if __name__ == "__main__":
    main()
