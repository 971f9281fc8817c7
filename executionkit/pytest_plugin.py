"""For pytest: `recorded(provider)` records the runs of a test once and replays them from then on, offline.

Each test has a text of its own, `recordings/<module>/<test>.json` beside its file; that of a test in a class
is called `<class>.<test>.json`, and one whose parameters have signs that no file should have gets a few
letters that tell it from others. `pytest --record=once` records where there is none, `new` what is not there
yet, `all` everything again; `none`, the default, asks nobody: what is not recorded, or asks something else
than what is, fails with the difference.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from executionkit.provider import LLMProvider

__all__ = ["pytest_addoption", "recorded"]

_MODES: Final = ("none", "once", "new", "all")
_NOT_IN_NAMES: Final = re.compile(r"[^\w.\[\]-]+")
_LONGEST_NAME: Final = 120
"""Bytes of a file's name; most file systems take 255."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--record`, and `executionkit_record` for the configuration."""
    about = "what to record of runs: none (the default), once, new or all"
    group = parser.getgroup("executionkit")
    group.addoption("--record", choices=_MODES, default=None, help=about)
    parser.addini("executionkit_record", about, default="none")


@pytest.fixture
def recorded(request: pytest.FixtureRequest) -> "Iterator[Callable[[LLMProvider], LLMProvider]]":
    """Return a function that makes a provider one whose runs are recorded, or replayed.

    All providers that one test gives to it share the test's text; their runs are told apart by their order.
    """
    from executionkit.journal.recording import Mode, Recorded, Recording

    mode = request.config.getoption("--record") or request.config.getini("executionkit_record")
    if mode not in _MODES:
        raise pytest.UsageError(f"executionkit_record must be one of {', '.join(_MODES)}, not {mode!r}")
    chosen: Mode = mode
    folder = request.path.parent / "recordings" / request.path.stem
    recording = Recording(folder / f"{_file_name(request.node)}.json", chosen)
    yield lambda provider: Recorded(provider, recording)
    recording.save()
    if recording.problems:
        pytest.fail(recording.problems[0], pytrace=False)


def _file_name(test: pytest.Item) -> str:
    """Return what the text of a test is called: its name in its module, which no other test there has."""
    classes = [each.name for each in test.listchain() if isinstance(each, pytest.Class)]
    whole = ".".join([*classes, test.name])
    name = _NOT_IN_NAMES.sub("_", whole).encode()[:_LONGEST_NAME].decode(errors="ignore")
    if name == whole:
        return name
    return f"{name}-{hashlib.blake2b(whole.encode('utf-8', 'replace'), digest_size=4).hexdigest()}"
