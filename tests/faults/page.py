"""The table in docs/failures.md, made from the catalogue that the tests play.

`python -m tests.faults.page` from the root of a checkout writes it anew.
"""

from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

from tests.faults.kinds import FAULTS, NOT_KEPT
from tests.faults.script import Fault
from tests.faults.streams import STREAMS

__all__ = ["PAGE", "rewritten"]

PAGE = Path(__file__).parents[2] / "docs" / "failures.md"
_BEGIN, _END = "<!-- table: begin -->\n", "<!-- table: end -->\n"


def _outcome(fault: Fault) -> tuple[str, str]:
    if fault.error is None:
        return "an answer", "-"
    retried = "yes" if fault.retryable else "no"
    return f"`{fault.error.__name__}`", retried


def _table(faults: Iterable[Fault]) -> str:
    rows = ["| what comes of it | retried | kinds of fault |", "| --- | --- | --- |"]
    for (outcome, retried), group in groupby(sorted(faults, key=_outcome), key=_outcome):
        names = ", ".join(fault.name.removeprefix("stream-") for fault in group)
        rows.append(f"| {outcome} | {retried} | {names} |")
    return "\n".join(rows)


def _not_kept() -> str:
    rows = ["| way to the server | kinds of fault | what becomes of them |", "| --- | --- | --- |"]
    by_reason: dict[tuple[str, ...], list[str]] = {}
    for way, faults in NOT_KEPT.items():
        for name, reason in faults.items():
            by_reason.setdefault((reason, way), []).append(name)
    rows += [f"| {way} | {', '.join(names)} | {reason} |" for (reason, way), names in by_reason.items()]
    return "\n".join(rows)


def rewritten(page: str) -> str:
    """Return the page with its tables made anew."""
    before, _, rest = page.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    made = (
        f"### Whole answers\n\n{_table(FAULTS)}\n\n### Streams\n\n{_table(STREAMS)}\n\n"
        f"### What a transport does not keep\n\n{_not_kept()}\n"
    )
    return f"{before}{_BEGIN}\n{made}\n{_END}{after}"


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
