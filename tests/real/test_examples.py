"""Three of the examples on the embedded model: it is not clever, so shapes and costs are looked at."""

import csv
import io
import runpy
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from executionkit.providers.local import LocalProvider

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


def of(name: str) -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name=name)


def test_tickets_are_sorted(model: LocalProvider) -> None:
    example = of("tickets")
    file = io.StringIO()
    example["classify"](model, example["TICKETS"][-2:], file)
    rows = [*csv.DictReader(io.StringIO(file.getvalue()))]
    assert [row["ticket"] for row in rows] == example["TICKETS"][-2:]
    queue: type[Enum] = example["Queue"]
    assert {row["queue"] for row in rows[:-1]} <= {one.value for one in queue} | {""}
    assert [row["failure"] for row in rows if not row["queue"]][-1] == "InvalidPromptError"
    assert 0 < sum(int(row["calls"]) for row in rows) <= 3


def test_an_invoice_is_read_or_refused(model: LocalProvider, capsys: pytest.CaptureFixture[str]) -> None:
    example = of("pydantic_types")
    invoice = example["read"](model, "1 tea 4.00, total 4.00")
    printed = capsys.readouterr().out
    if invoice is None:
        assert printed.startswith("InvalidOutputError: ")
    else:
        assert sum(line.price for line in invoice.lines) == invoice.total


def test_a_reply_is_written(model: LocalProvider) -> None:
    example = of("system_prompt")
    outcome = example["pipeline"].run_sync(model, "I was charged twice.")
    assert outcome.unwrap().value
    assert 4 <= outcome.unwrap().cost.llm_calls <= 5
