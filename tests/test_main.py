"""The command line."""

import io
import os
import sqlite3
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import anyio
import pytest

from executionkit import LLMResponse, ScriptedProvider, ToolCall, complete, react, tool
from executionkit.__main__ import main
from executionkit.journal import Journal
from executionkit.providers.chat.servers import servers_table
from tests.servers.fake import KEY, Fake, served
from tests.servers.known import FAKES

NOBODY = "http://127.0.0.1:9/v1"


@contextmanager
def running(fake: Fake) -> Generator[str]:
    """Serve a fake in a thread of its own: a command runs an event loop of its own."""
    ready, done, urls = Event(), Event(), list[str]()

    async def serve() -> None:
        async with served(fake) as url:
            urls.append(url)
            ready.set()
            await anyio.to_thread.run_sync(done.wait, abandon_on_cancel=False)

    thread = Thread(target=anyio.run, args=(serve,))
    thread.start()
    try:
        assert ready.wait(10)
        yield urls[0]
    finally:
        done.set()
        thread.join(10)


def test_the_doctor_prints_what_can_be_pasted_and_what_it_cost(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", KEY)
    fake = FAKES["mistral"]()
    with running(fake) as url:
        assert main(["doctor", f"{url}/v1", fake.model, "--key-env", "SOME_KEY", "--yes"]) == 0
    shown = capsys.readouterr().out
    assert (
        "dialect = Dialect(takes_logprobs=False, tool_ids='nine', stream_usage=False, echo_reasoning=False)"
        in shown
    )
    assert f"spent: {fake.cost}" in shown
    assert KEY not in shown


@pytest.mark.parametrize("answer", ["", "n", "no", "anything else"])
def test_nothing_is_spent_without_a_yes(
    answer: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def answered(question: str) -> str:
        return answer

    monkeypatch.setattr("builtins.input", answered)
    assert main(["doctor", NOBODY, "m"]) == 1
    assert capsys.readouterr().err == "executionkit: nothing was sent\n"


def test_nobody_at_the_terminal_has_not_agreed() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "executionkit", "doctor", NOBODY, "m"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        check=False,
    )
    assert done.returncode == 1
    assert "at most 20 times for 16 tokens each?" in done.stdout
    assert "nothing was sent" in done.stderr


def test_a_failure_is_said_with_its_cost(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", "wrong")
    fake = FAKES["openai"]()
    with running(fake) as url:
        assert main(["doctor", f"{url}/v1", fake.model, "--key-env", "SOME_KEY", "--yes"]) == 1
    said = capsys.readouterr().err
    assert "401" in said
    assert "llm_calls=1" in said
    assert "wrong" not in said


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["doctor", "ftp://x", "m", "--yes"], "base_url"),
        (["doctor", NOBODY, "", "--yes"], "model must not be empty"),
        (["doctor", NOBODY, "m", "--timeout", "0", "--yes"], "timeout"),
        (["doctor", NOBODY, "m", "--key-env", "NO_SUCH_VARIABLE", "--yes"], "NO_SUCH_VARIABLE is not set"),
    ],
)
def test_what_cannot_be_is_said(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    assert complaint in capsys.readouterr().err


def test_without_a_command_the_commands_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert "doctor" in shown
    assert "servers" in shown


def test_an_unknown_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["docter"])
    assert ended.value.code == 2
    assert "invalid choice" in capsys.readouterr().err


def test_the_table_of_servers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["servers"]) == 0
    assert capsys.readouterr().out == f"{servers_table()}\n"


def test_the_journal_is_listed_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "runs.db"
    with Journal(file, prompts=True) as journal:
        pay = tool(lambda: "paid", name="pay", description="Pay.", in_thread=False)
        calls = [
            LLMResponse(
                "", (ToolCall("1", "pay", {}),), "tool_calls", {"prompt_tokens": 3, "completion_tokens": 2}
            ),
            LLMResponse("It is paid.", usage={"prompt_tokens": 4, "completion_tokens": 3}),
        ]
        provider = ScriptedProvider(calls)
        react([pay]).run_sync(provider, "Pay it.", journal=journal.run("invoice 7")).unwrap()
    assert main(["journal", "ls", str(file)]) == 0
    assert "1 life, answered" in capsys.readouterr().out
    assert main(["journal", "show", str(file), "invoice 7", "--prompts"]) == 0
    shown = capsys.readouterr().out
    for part in (
        "calls pay",
        "It is paid.",
        "tool     done",
        "2 calls, 7 + 5 tokens",
        "runs of this pipeline: 1 run took 2 calls, 5 output tokens",
        '"content":"Pay it."',
    ):
        assert part in shown, shown
    assert main(["journal", "show", str(file), "invoice 8"]) == 1
    assert "no run 'invoice 8'" in capsys.readouterr().err
    assert main(["journal", "ls", str(tmp_path / "none.db")]) == 1
    assert not (tmp_path / "none.db").exists()


def test_a_run_is_shown_where_another_one_is_damaged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "runs.db"
    with Journal(file) as journal:
        for name in ("a", "b"):
            complete().run_sync(ScriptedProvider("Paris"), "q", journal=journal.run(name)).unwrap()
    with sqlite3.connect(file) as database:
        database.execute(
            "UPDATE note SET rows = x'00' WHERE number < (SELECT number FROM run WHERE name = 'b') << 32"
        )
    database.close()
    assert main(["journal", "show", str(file), "a"]) == 1
    assert "damaged" in capsys.readouterr().err
    assert main(["journal", "show", str(file), "b"]) == 0
    shown = capsys.readouterr().out
    assert "Paris" in shown
    assert "runs of this pipeline: unknown: the journal" in shown


def test_what_a_person_has_to_resolve_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> str:
        raise KeyboardInterrupt

    file = tmp_path / "runs.db"
    pay = tool(interrupted, name="pay", description="Pay.")
    provider = ScriptedProvider([ToolCall("1", "pay", {})])
    with Journal(file) as journal, pytest.raises(KeyboardInterrupt):
        react([pay]).run_sync(provider, "Pay it.", journal=journal.run("invoice 7"))
    assert main(["journal", "show", str(file), "invoice 7"]) == 0
    key = capsys.readouterr().out.partition("its key is ")[2].split()[0]
    with Journal(file) as journal:
        journal.resolve("invoice 7", key, "paid")


@pytest.mark.skipif(sys.platform == "win32", reason="a pipe that was closed is told in another way")
def test_who_has_read_enough_is_left_in_peace() -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "executionkit", "servers"]
    done = subprocess.run(command, check=False, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_journal_does_nothing_to_the_terminal_it_is_shown_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "runs.db"
    odd = "\x1b[2J\x07 half \ud83d a pair, \u202eback, café"
    with Journal(file, prompts=True) as journal:
        for name in ("\x1b[31mred\nline", "x" * 500):
            provider = ScriptedProvider(
                [LLMResponse(odd, usage={"prompt_tokens": 3, "completion_tokens": 2})]
            )
            complete().run_sync(provider, odd, journal=journal.run(name)).unwrap()
    assert main(["journal", "ls", str(file)]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(r"\x1b[31mred\nline  ")
    assert len(first) < 120
    assert second.startswith("x" * 500)
    assert main(["journal", "show", str(file), "\x1b[31mred\nline", "--prompts"]) == 0
    shown = capsys.readouterr().out
    assert r"\x1b[2J\x07 half \ud83d a pair, \u202eback, café" in shown
    assert all(line.isprintable() for line in shown.splitlines())
    plain = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", plain)
    assert main(["journal", "show", str(file), "\x1b[31mred\nline"]) == 0
    plain.seek(0)
    assert r"back, caf\xe9" in plain.read()


def test_an_empty_file_is_left_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "notes.txt"
    file.touch()
    assert main(["journal", "ls", str(file)]) == 1
    assert "there is nothing in" in capsys.readouterr().err
    assert not file.stat().st_size
