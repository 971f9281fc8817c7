"""Runs and their calls as lines of text, for the terminal."""

import time
from collections.abc import Iterator, Sequence

from executionkit.core.journal import Row, total_of
from executionkit.core.money import dollars
from executionkit.journal.store import RunInfo

__all__ = ["calls_shown", "runs_shown"]

_WIDTH = 72
_NAME_WIDTH = 40


def runs_shown(runs: Sequence[RunInfo]) -> Iterator[str]:
    """Yield a line for each run."""
    names = [_plain(info.name) for info in runs]
    width = min(max(map(len, names), default=0), _NAME_WIDTH)
    for name, info in zip(names, runs, strict=True):
        lives = "1 life" if info.lives == 1 else f"{info.lives} lives"
        how = f"{info.ended} ({info.error})" if info.error else info.ended
        yield f"{name:{width}}  {_when(info.changed)}  {lives}, {how}"


def calls_shown(info: RunInfo, rows: Sequence[Row], *, prompts: bool = False) -> Iterator[str]:
    """Yield a line for each call of a run, and what they cost.

    Args:
        info: The run.
        rows: Its calls.
        prompts: Whether to show what was asked, where the journal has kept it.
    """
    yield from runs_shown([info])
    for row in rows:
        place = _plain("/".join(map(str, row.path)) or ".")
        number = f"#{row.ordinal}" if row.ordinal else ""
        cost, _ = total_of(row.body.charges)
        tokens = f"{cost.input_tokens}+{cost.output_tokens}" if row.kind == "call" else _plain(row.body.tool)
        kept = "" if row.generation == info.generation else " (asked no more)"
        yield f"{place + number:14} {row.kind:8} {row.state:5} {tokens:>12}  {_what(row)}{kept}"
        if prompts and row.prompt is not None:
            yield f"{'':14} {_plain(row.prompt)}"
    cost, usd = total_of([charge for row in rows for charge in row.body.charges])
    money = "" if usd is None else f", ${dollars(usd)}"
    lost = sum(row.body.lost for row in rows)
    unsettled = f"; {lost} attempts were under way when a process ended" if lost else ""
    yield f"{cost.llm_calls} calls, {cost.input_tokens} + {cost.output_tokens} tokens{money}{unsettled}"


def _what(row: Row) -> str:
    body = row.body
    if row.state == "sent":
        return "under way, or its process ended"
    if row.kind == "tool" and row.state == "open" and body.attempts:
        return f"under way, or its process ended; its key is {body.key}"
    if body.error is not None:
        return _line(f"{body.error.get('error')}: {body.error.get('message')}")
    if body.reply is not None:
        calls = ", ".join([str(call.get("name")) for call in body.reply.tool_calls])
        return _line(body.reply.content or (f"calls {calls}" if calls else "(no text)"))
    return _line(body.text) if body.text is not None else "no outcome yet"


def _line(text: str) -> str:
    whole = _plain(" ".join(text.split()))
    return whole if len(whole) <= _WIDTH else f"{whole[: _WIDTH - 3]}..."


def _plain(text: str) -> str:
    """Return a text that does nothing to a terminal: what cannot be printed is written out."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text
    )


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
