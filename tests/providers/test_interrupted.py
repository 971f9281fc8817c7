"""Ctrl-C at any instant while a key is in use: no frame of ours that the traceback has shows it."""

import sys
import traceback
from collections.abc import Callable
from functools import partial

import pytest

from executionkit.providers.anthropic import Anthropic
from executionkit.providers.chat.redaction import Redactor
from executionkit.providers.openai import Provider
from executionkit.providers.secret import Secret

pytestmark = [
    pytest.mark.usefixtures("no_collection"),
    # Python itself swallows an interrupt that strikes in a generator as it is dropped, and says so.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

KEY = "sk-1234/ab"
INSTANTS = 60


def interrupted_at(instant: int, work: Callable[[], object]) -> tuple[int, str]:
    """Raise Ctrl-C when so many functions were called; return how many were, and what the frames hold."""
    calls, shown = 0, ""

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event.endswith("call")
        if calls == instant:
            sys.setprofile(None)
            raise KeyboardInterrupt

    try:
        sys.setprofile(count)
        work()
        sys.setprofile(None)
    except KeyboardInterrupt as error:
        stack = traceback.TracebackException.from_exception(error, capture_locals=True).stack
        shown = "".join(f"{frame.locals}" for frame in stack if frame.filename != __file__)
    return calls, shown


def all_shown(work: Callable[[int], Callable[[], object]]) -> list[str]:
    """Interrupt some work at instants all over it; return what was shown each time."""
    interrupted_at(0, work(0))  # imports, and what is made once for all
    whole, _ = interrupted_at(0, work(1))
    instants = range(1, whole, max(1, whole // INSTANTS))
    return [interrupted_at(instant, work(instant + 1))[1] for instant in instants]


@pytest.mark.parametrize("source", ["literal", "environment"])
@pytest.mark.parametrize("kind", ["chat", "messages"])
def test_while_a_request_is_made(kind: str, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(number: int) -> Callable[[], object]:
        key = f"{KEY}{number}"  # another each time: what cleans texts of a key is made once
        monkeypatch.setenv("SOME_KEY", key)
        secret = Secret(key) if source == "literal" else Secret.from_env("SOME_KEY")
        if kind == "messages":
            return lambda: Anthropic("m", secret).stream([], max_tokens=5)
        return lambda: Provider("https://example.com/v1", "m", secret).stream([], max_tokens=5)

    found = all_shown(work)
    assert len(found) > INSTANTS // 2
    assert any(found)
    assert [shown for shown in found if KEY in shown or KEY.replace("/", "%2f") in shown] == []


def text(redactor: Redactor) -> object:
    return redactor.text(f"{KEY} and {KEY[:-1]}", was_cut=True)


def may_touch(redactor: Redactor) -> object:
    return redactor.may_touch(f"no {KEY[:-1]}".encode())


def released(redactor: Redactor) -> object:
    return redactor.released(f"a {KEY[:-1]}")


def tree(redactor: Redactor) -> object:
    return redactor.tree([{"a": KEY}])


@pytest.mark.parametrize("clean", [text, may_touch, released, tree])
def test_while_a_text_is_cleaned(clean: Callable[[Redactor], object]) -> None:
    found = all_shown(lambda _: partial(clean, Redactor(KEY)))
    assert len(found) > 2
    assert [shown for shown in found if "'spelling'" in shown or "'plain'" in shown] == []
