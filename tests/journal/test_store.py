"""The file: who may have it, and what happens where it cannot be used. Typed errors, never a wrong answer."""

import errno
import json
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Annotated, Any

import anyio
import msgspec
import pytest
from msgspec import structs
from msgspec.structs import replace

from executionkit import (
    Failure,
    LLMResponse,
    PatternResult,
    Secret,
    Stage,
    complete,
    consensus,
    prompt,
    react,
    refine,
    structured,
    tool,
)
from executionkit.core.journal import Body, Charge, Row, as_bytes, packed
from executionkit.errors import ExecutionKitError, JournalError, RunBusyError
from executionkit.journal import Journal
from executionkit.journal.ownership import LEASE, Owner, is_gone, network_mount, this_process
from executionkit.journal.sqlite import SQLiteStore
from executionkit.outcome import Outcome
from executionkit.runtime.context import Context
from tests.doubles import Asked, Model, error_of, reply, result_of
from tests.journaling import row_of

pytestmark = pytest.mark.anyio

ROW = Row(0, 0, "call", (0,), 0, "done", b"f" * 16, Body([Charge()]))


async def ask(path: Path, run: str = "a", model: Model | None = None, **settings: Any) -> Outcome[str]:
    with Journal(path, **settings) as journal:
        return await consensus(3).run(model or Model(), "question", journal=journal.run(run))


def opening(path: Path) -> JournalError:
    with pytest.raises(JournalError) as caught, Journal(path):
        pass
    return caught.value


def test_only_its_owner_may_read_the_file(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    before = os.umask(0)
    try:
        with Journal(path) as journal:
            complete().run_sync(Model(), "question", journal=journal.run("a"))
            modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert len(modes) == 3
    assert set(modes.values()) == {0o600}


async def test_prompts_are_kept_only_where_that_is_asked_for(tmp_path: Path) -> None:
    for prompts in (False, True):
        path = tmp_path / f"{prompts}.db"
        with Journal(path, prompts=prompts) as journal:
            await complete(system="be brief").run(Model(), "a secret plan", journal=journal.run("a"))
            (row,) = journal.rows("a")
        assert (b"a secret plan" in path.read_bytes()) is prompts
        assert ("a secret plan" in str(row.prompt)) is prompts


class Authorised(Stage[str, str], frozen=True):
    """A stage as users write them."""

    token: str
    then: Stage[str, str]

    async def perform(self, value: str, context: Context) -> PatternResult[str]:
        return await context.run(self.then, value)


class Judging(msgspec.Struct, frozen=True):
    token: str
    salt: bytes = b""

    def __call__(self, text: str) -> float:
        return 1.0


class Bodied(Model):
    extra_body = MappingProxyType({"user": "geheim"})


@tool
def looked_up(word: str, language: str = "geheim") -> str:
    """geheim"""
    return word


@pytest.mark.parametrize("prompts", [False, True])
@pytest.mark.parametrize(
    "stage",
    [
        complete(system="geheim"),
        prompt("geheim{}") >> complete(),
        react([looked_up]),
        structured(Annotated[int, msgspec.Meta(description="geheim")]),
        complete().using(Bodied()),
    ],
    ids=["system", "template", "tool", "type", "body"],
)
async def test_a_prompt_of_one_word_is_a_prompt(
    stage: Stage[str, Any], prompts: bool, tmp_path: Path
) -> None:
    path = tmp_path / "runs.db"
    with Journal(path, prompts=prompts) as journal:
        await stage.run(Model(), "q", journal=journal.run("a"))
    assert (b"geheim" in path.read_bytes()) is prompts


async def test_the_key_is_not_kept(tmp_path: Path) -> None:
    class Keyed(Model):
        api_key = Secret("sk-very-secret")
        base_url = "https://me:sk-very-secret@api.example.com/v1?key=sk-very-secret"
        model = "m"

    await ask(tmp_path / "runs.db", model=Keyed(), prompts=True)
    assert b"sk-very-secret" not in (tmp_path / "runs.db").read_bytes()
    assert b"api.example.com/v1" in (tmp_path / "runs.db").read_bytes()


@pytest.mark.parametrize("prompts", [False, True])
async def test_no_text_that_the_callers_code_holds_is_kept(prompts: bool, tmp_path: Path) -> None:
    key = "sk-of-another-service"

    class Client:
        def __init__(self) -> None:
            self.headers = {"x-api-key": key}

    client = Client()

    def joined(left: str, right: str) -> str:
        return left + right

    def judged(text: str, token: str = key + "2") -> float:
        return 1.0 if client and token else 0.0

    stages = [
        refine(judged),
        refine(lambda text: judged(text, key + "3")),
        complete().map(partial(joined, key)),
        refine(lambda text: judged(text, "sk-of-another-service")),
        refine(Judging(key, key.encode())),
        Authorised(key, complete()),
    ]
    with Journal(tmp_path / "runs.db", prompts=prompts) as journal:
        for number, stage in enumerate(stages):
            await stage.run(Model(), "q", journal=journal.run(str(number)))
    kept = (tmp_path / "runs.db").read_bytes()
    assert key.encode() not in kept
    assert key.encode().hex().encode() not in kept
    assert b'"executionkit:Complete"' in kept


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    path.write_text("not a database, but long enough to be taken for one" * 100)
    assert "damaged" in str(opening(path))
    assert path.read_text().startswith("not a database")
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as database:
        database.execute("CREATE TABLE mine (a)")
    database.close()
    assert "something else" in str(opening(other))


async def test_a_newer_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    await ask(path)
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version=5")
    database.close()
    assert "newer executionkit" in str(opening(path))


def test_a_file_that_a_newer_version_has_taken_over_meanwhile_is_told(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    store = SQLiteStore(path)
    opened = store.open_run("a", this_process())
    with sqlite3.connect(path) as database:
        database.execute("ALTER TABLE note RENAME TO note_of_version_4")
        database.execute("PRAGMA user_version=5")
    database.close()
    with pytest.raises(JournalError, match=r"newer executionkit .*upgrade"):
        store.rows(opened.info.number)
    for write in (store.write, store.write_at_once):
        with pytest.raises(JournalError, match=r"newer executionkit .*upgrade"):
            write([(opened.info.number, opened.token, packed(ROW))])
    store.close()


OLDER_COLUMNS = """
    generation INTEGER NOT NULL, kind TEXT NOT NULL, path TEXT NOT NULL, ordinal INTEGER NOT NULL,
    state TEXT NOT NULL, fingerprint BLOB NOT NULL, body BLOB NOT NULL, prompt TEXT
"""
# What files of older versions had in place of the table of today, each made of the one after it.
OLDER = {
    3: f"""
    DROP TABLE note;
    CREATE TABLE flight (number INTEGER PRIMARY KEY, {OLDER_COLUMNS});
    CREATE TABLE call (number INTEGER PRIMARY KEY, seq INTEGER, {OLDER_COLUMNS});
    PRAGMA user_version=3;
    """,
    2: f"""
    ALTER TABLE call RENAME TO new_call;
    CREATE TABLE call (number INTEGER PRIMARY KEY, {OLDER_COLUMNS});
    INSERT INTO call SELECT number / 4294967296 * 4294967296 + seq,
        generation, kind, path, ordinal, state, fingerprint, body, prompt FROM new_call;
    DROP TABLE new_call;
    PRAGMA user_version=2;
    """,
    1: f"""
    ALTER TABLE flight RENAME TO new_flight;
    ALTER TABLE call RENAME TO new_call;
    CREATE TABLE flight (run INTEGER, seq INTEGER, {OLDER_COLUMNS}, PRIMARY KEY (run, seq)) WITHOUT ROWID;
    CREATE TABLE call (
        number INTEGER PRIMARY KEY, run INTEGER NOT NULL, seq INTEGER NOT NULL, {OLDER_COLUMNS}, UNIQUE (run, seq)
    );
    INSERT INTO flight SELECT number / 4294967296, number % 4294967296,
        generation, kind, path, ordinal, state, fingerprint, body, prompt FROM new_flight;
    INSERT INTO call SELECT NULL, number / 4294967296, number % 4294967296,
        generation, kind, path, ordinal, state, fingerprint, body, prompt FROM new_call;
    DROP TABLE new_flight;
    DROP TABLE new_call;
    PRAGMA user_version=1;
    """,
}


def write_older(path: Path, version: int, rows: Sequence[tuple[int, Row]]) -> None:
    """Make a file one of an older version, with these rows in place of its own, each with its run's number."""
    database = sqlite3.connect(path)
    database.executescript(OLDER[3])
    for at, (run, row) in enumerate(rows):
        place = json.dumps(list(row.path))
        names = f'"{row.kind}", {json.dumps(place)}, {row.ordinal}, "{row.state}", "{row.fingerprint.hex()}"'
        body = as_bytes(row.body, f"[{run}, {row.seq}, {row.generation}, {names}]".encode())
        told = (row.generation, row.kind, place, row.ordinal, row.state, row.fingerprint, body, row.prompt)
        first = run << 32
        if row.state == "sent":
            marks = "?, ?, ?, ?, ?, ?, ?, ?, ?"
            database.execute(f"INSERT INTO flight VALUES ({marks})", (first + row.seq, *told))
        else:  # one behind the other, so that the row's own number is beside it
            marks = "?, ?, ?, ?, ?, ?, ?, ?, ?, ?"
            database.execute(f"INSERT INTO call VALUES ({marks})", (first + at, row.seq, *told))
    database.commit()
    for older in range(2, version - 1, -1):
        database.executescript(OLDER[older])
    database.close()


@pytest.mark.parametrize("version", OLDER)
def test_a_file_of_an_older_version_is_brought_up_to_this_one(version: int, tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    store = SQLiteStore(path)
    for name in ("a", "b"):
        opened = store.open_run(name, Owner("elsewhere", 1, "1"))
        store.close_run(opened.info.number, opened.token, "stopped", "", asks_again=False)
    store.close()
    later = replace(ROW, seq=7, path=(7, "x"))
    sent = Row(1, 0, "call", (1,), 0, "sent", b"g" * 16, Body(held=Charge()), "a prompt")
    tried = replace(ROW, seq=2, path=(2,), state="open")
    tried_again = replace(tried, state="sent", body=Body([Charge()], held=Charge()))
    rows = [later, ROW, tried, sent, tried_again]
    write_older(path, version, [(run, row) for run in (1, 2) for row in rows])
    expected = [*map(structs.astuple, (ROW, sent, tried_again, later))]
    for _ in range(2):
        store = SQLiteStore(path)
        assert [[*map(structs.astuple, store.rows(number))] for number in (1, 2)] == [expected, expected]
        store.close()
    store = SQLiteStore(path)
    opened = store.open_run("a", Owner("elsewhere", 1, "1"))
    changed, new = replace(ROW, ordinal=5), replace(ROW, seq=3, path=(3,))
    store.write([(opened.info.number, opened.token, packed(row)) for row in (new, changed, changed)])
    assert [(row.seq, row.ordinal) for row in store.rows(1)] == [(0, 5), (1, 0), (2, 0), (3, 0), (7, 0)]
    assert [row.seq for row in store.rows(2)] == [0, 1, 2, 7]
    store.close()


@pytest.mark.parametrize("version", OLDER)
def test_a_damaged_row_of_an_older_version_fails_its_own_run_alone(version: int, tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    store = SQLiteStore(path)
    for name in ("a", "b"):
        opened = store.open_run(name, this_process())
        store.close_run(opened.info.number, opened.token, "stopped", "", asks_again=False)
    store.close()
    write_older(path, version, [(1, ROW), (2, replace(ROW, seq=5))])
    with sqlite3.connect(path) as database:
        database.execute("UPDATE call SET ordinal = 1 WHERE number = (SELECT min(number) FROM call)")
        database.execute("UPDATE run SET token = 'x', owner = '{' WHERE name = 'a'")
    database.close()
    with Journal(path) as journal:
        assert [info.name for info in journal.runs()] == ["a", "b"]
        assert [row.seq for row in journal.rows("b")] == [5]
        with pytest.raises(JournalError, match="damaged"):
            journal.rows("a")


@pytest.mark.parametrize("version", OLDER)
def test_a_file_of_an_older_version_is_left_to_who_is_at_work_on_it(version: int, tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    store = SQLiteStore(path)
    opened = store.open_run("a", this_process())
    write_older(path, version, [(1, ROW)])
    for _ in range(2):
        with (
            pytest.raises(RunBusyError, match="its run 'a' is under way in process") as caught,
            Journal(path),
        ):
            pass
        assert str(os.getpid()) in caught.value.metadata["owner"]
    store.close_run(opened.info.number, opened.token, "stopped", "", asks_again=False)
    store.close()
    with Journal(path) as journal:
        assert [row.seq for row in journal.rows("a")] == [0]


@pytest.mark.parametrize("version", OLDER)
def test_who_knows_only_an_older_version_writes_to_its_tables_no_more(version: int, tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    with Journal(path):
        pass
    write_older(path, version, [(1, ROW)])
    older = sqlite3.connect(path)
    assert older.execute("SELECT count(*) FROM call").fetchone() == (1,)
    with Journal(path):
        pass
    for table in ("call", "flight"):
        with pytest.raises(sqlite3.OperationalError, match="no such table"):
            older.execute(f"DELETE FROM {table}")
    older.close()


@pytest.mark.parametrize("statement", range(7))
def test_two_processes_may_open_a_new_file_at_the_same_moment(
    statement: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "runs.db"
    before: list[str] = []

    class Overtaken(sqlite3.Connection):
        """Another process opens the file just before one of the statements."""

        def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
            before.append(sql)
            if len(before) == statement + 1:
                with monkeypatch.context() as patch:
                    patch.setattr(sqlite3, "connect", connect)
                    SQLiteStore(path).close()
            return super().execute(sql, *arguments)

    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", partial(connect, factory=Overtaken))
    store = SQLiteStore(path)
    opened = store.open_run("a", this_process())
    store.write([(opened.info.number, opened.token, packed(ROW))])
    store.close()
    assert len(before) > 7


def test_who_opens_a_new_file_waits_for_who_makes_its_tables(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    later = threading.Timer(0.2, other.execute, ["COMMIT"])
    later.start()
    SQLiteStore(path).close()
    later.join()
    other.close()


def test_a_number_of_a_run_that_is_none_is_told(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    store = SQLiteStore(path)
    opened = store.open_run("a", this_process())
    store.close_run(opened.info.number, opened.token, "stopped", "", asks_again=False)
    store.close()
    with sqlite3.connect(path) as database:
        database.execute("UPDATE run SET number = 1 << 40")
    database.close()
    assert says_what_to_do(journal_error_of(anyio.run(ask, path)))


@pytest.mark.parametrize("version", [*OLDER, 4])
def test_notes_that_are_lost_are_missed(version: int, tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    store = SQLiteStore(path)
    opened = store.open_run("a", this_process())
    if version < 4:
        store.close_run(opened.info.number, opened.token, "stopped", "", asks_again=False)
        store.close()
        write_older(path, version, [(1, ROW)])
        store = SQLiteStore(path)
        opened = store.open_run("a", this_process())
    for seq in range(1, 5):
        store.write([(1, opened.token, packed(replace(ROW, seq=seq)))])
    with sqlite3.connect(path) as database:
        database.execute("DELETE FROM note WHERE number = (SELECT min(number) + 1 FROM note)")
    database.close()
    with pytest.raises(JournalError, match=r"lacks rows .*damaged"):
        store.rows(1)
    store.close()


def test_a_write_that_fails_is_no_gap(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    store = SQLiteStore(path)
    tokens = [store.open_run(name, this_process()).token for name in ("a", "b")]
    other = sqlite3.connect(path, isolation_level=None)
    for seq in range(4):
        store.write([(1, tokens[0], packed(replace(ROW, seq=seq)))])
        other.execute("BEGIN IMMEDIATE")
        assert not store.write_at_once([(1, tokens[0], packed(replace(ROW, seq=10)))])
        other.execute("COMMIT")
        with pytest.raises(RunBusyError):
            store.write([(1, "another", packed(replace(ROW, seq=11)))])
        with pytest.raises(RunBusyError):
            store.write([(1, tokens[0], packed(replace(ROW, seq=12))), (2, "another", packed(ROW))])
        store.write(
            [(2, tokens[1], packed(replace(ROW, seq=seq))), (1, tokens[0], packed(replace(ROW, seq=20)))]
        )
    assert [row.seq for row in store.rows(1)] == [0, 1, 2, 3, 20]
    assert [row.seq for row in store.rows(2)] == [0, 1, 2, 3]
    other.close()
    store.close()


def test_a_note_where_there_is_one_is_told(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    store = SQLiteStore(path)
    opened = store.open_run("a", this_process())
    store.write([(opened.info.number, opened.token, packed(ROW))])
    with sqlite3.connect(path) as database:  # as where the tree of a table is damaged
        database.execute("INSERT INTO note SELECT number + 1, rows FROM note")
    database.close()
    with pytest.raises(JournalError) as caught:
        store.write([(opened.info.number, opened.token, packed(replace(ROW, seq=1)))])
    assert says_what_to_do(caught.value)
    store.close()


def test_a_run_that_was_given_up_can_be_taken_up_though_the_file_does_not_say_so(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    store = SQLiteStore(path)
    opened = store.open_run("a", this_process())
    with pytest.raises(RunBusyError):
        store.open_run("a", this_process())
    store._database.execute("PRAGMA query_only=1")  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(JournalError):
        store.close_run(opened.info.number, opened.token, "failed", "", asks_again=False)
    store.close()
    store = SQLiteStore(path)
    assert store.open_run("a", this_process()).token != opened.token
    with pytest.raises(RunBusyError):
        store.open_run("a", this_process())
    store.close()


@pytest.mark.parametrize("version", [*OLDER, 4])
@pytest.mark.parametrize("breaks_off", [False, True])
def test_while_the_rows_of_a_run_are_noted_anew_others_write(
    version: int, breaks_off: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("executionkit.journal.sqlite._PART", 2**13)
    path = tmp_path / "runs.db"
    other = SQLiteStore(path)
    rows = [replace(ROW, seq=seq, ordinal=seq, body=Body(text=f"{seq}" * 500)) for seq in range(60)]
    changed = [replace(row, generation=7) for row in rows[::3]]
    opened = other.open_run("a", this_process())
    other.close_run(opened.info.number, opened.token, "stopped", "", asks_again=False)
    if version < 4:
        other.close()
        write_older(path, version, [(1, row) for row in rows])
        other = SQLiteStore(path)
    others = other.open_run("b", this_process())
    written: list[bool] = []

    class Watched(SQLiteStore):
        def tidy(self) -> None:
            super().tidy()
            note = (others.info.number, others.token, packed(replace(ROW, seq=len(written))))
            written.append(other.write_at_once([note]))
            if breaks_off and len(written) == 3:
                raise JournalError("broken off")

    store = Watched(path)
    opened = store.open_run("a", this_process())
    if version == 4:
        store.write([(1, opened.token, packed(row)) for row in rows])
    for each in changed:
        store.write([(1, opened.token, packed(each))])
    expected = [*map(structs.astuple, store.rows(1))]
    if breaks_off:
        with pytest.raises(JournalError, match="broken off"):
            store.begin_life(1, opened.token, "pipeline", b"", b"", 1)
    else:
        store.begin_life(1, opened.token, "pipeline", b"", b"", 1)
    assert len(written) >= 3
    assert all(written)
    assert [*map(structs.astuple, store.rows(1))] == expected
    store.write([(1, opened.token, packed(replace(ROW, seq=60)))])
    store.close()
    other.close()
    again = SQLiteStore(path)
    assert [*map(structs.astuple, again.rows(1))] == [*expected, structs.astuple(replace(ROW, seq=60))]
    assert [row.seq for row in again.rows(others.info.number)] == [*range(len(written))]
    again.close()


def test_who_has_lost_a_run_changes_none_of_its_notes(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "runs.db")
    opened = store.open_run("a", Owner("elsewhere", 1, "1"))
    number = opened.info.number
    store.write([(number, opened.token, packed(ROW))])
    with pytest.raises(RunBusyError, match="taken the run over"):
        store.begin_life(number, "another", "pipeline", b"", b"", 1)
    store.write([(number, opened.token, packed(replace(ROW, seq=1)))])
    assert [row.seq for row in store.rows(number)] == [0, 1]
    assert store.runs("a")[0].generation == -1
    store.close()


async def test_the_file_does_not_grow_each_time_that_the_pipeline_changes(tmp_path: Path) -> None:
    path, size, lives = tmp_path / "runs.db", 1_000, 20
    model = Model(lambda asked: reply("x" * size))
    with Journal(path) as journal:
        for life in range(lives):
            run = journal.run("a", on_change="reuse")
            result_of(await consensus(50 + life).run(model, "question", journal=run))
    assert model.calls == 49 + lives
    assert path.stat().st_size <= 2 * (1.3 * size + 300) * model.calls + 20_000  # noted now, and before it


def test_to_note_the_rows_of_a_run_anew_takes_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("executionkit.journal.sqlite._LOG_BYTES", 0)
    path, rows = tmp_path / "runs.db", 4_000
    store = SQLiteStore(path)
    opened = store.open_run("a", this_process())
    for first in range(0, rows, 20):
        some = [replace(ROW, seq=seq, body=Body(text="x" * 500)) for seq in range(first, first + 20)]
        store.write([(1, opened.token, packed(row)) for row in some])
    store.tidy()
    size = path.stat().st_size
    for generation in range(3):
        store.begin_life(1, opened.token, "pipeline", b"", b"", generation)
        store.tidy()
    assert path.stat().st_size <= 1.1 * size
    store.close()


async def test_a_damaged_file_is_told_and_never_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("executionkit.journal.sqlite._PATIENCE", 0.05)
    path = tmp_path / "runs.db"
    whole = result_of(await ask(path, model=Model(lambda asked: reply("the answer is forty-two"))))
    good = path.read_bytes()
    told = 0
    for at in range(0, len(good), 211):
        path.write_bytes(good[:at] + bytes([good[at] ^ 0xFF]) + good[at + 1 :])
        for beside in ("-wal", "-shm"):
            (tmp_path / f"runs.db{beside}").unlink(missing_ok=True)
        try:
            outcome = await ask(path, model=Model(lambda asked: reply("asked again")))
        except JournalError as error:
            outcome = Failure(error)
        if type(outcome).__name__ == "Failure":
            assert says_what_to_do(journal_error_of(outcome)), outcome
            told += 1
        else:  # a byte that nobody reads, or the rows were lost: then they are asked again
            assert result_of(outcome).value in {whole.value, "asked again"}
    assert told


def says_what_to_do(error: JournalError) -> bool:
    advice = ("take another", "a file of its own", "is there room on the disk?")
    return any(told in str(error) for told in advice)


async def test_a_full_disk_is_told_and_nothing_is_sent_that_cannot_be_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Small(SQLiteStore):
        def _prepare(self) -> None:
            super()._prepare()
            self._database.execute("PRAGMA max_page_count=12")

    monkeypatch.setattr("executionkit.journal.sqlite.SQLiteStore", Small)
    model = Model(lambda asked: reply("x" * 5000))
    path = tmp_path / "runs.db"
    with Journal(path) as journal:
        outcome = await consensus(40, max_concurrency=1).run(model, "question", journal=journal.run("a"))
        error = error_of(outcome)
        assert isinstance(error, JournalError)
        assert "room on the disk" in str(error)
        assert error.cost.llm_calls == model.calls < 40
        again = error_of(await complete().run(model, "question", journal=journal.run("b")))
        assert isinstance(again, JournalError)


async def test_an_answer_that_cannot_be_noted_is_handed_over_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Breaking(SQLiteStore):
        def write(self, rows: Any) -> None:
            if any(row_of(data).state == "done" for _, _, data in rows):
                raise JournalError("the disk is gone")
            super().write(rows)

        def write_at_once(self, rows: Any) -> bool:
            self.write(rows)
            return True

    monkeypatch.setattr("executionkit.journal.sqlite.SQLiteStore", Breaking)
    with Journal(tmp_path / "runs.db") as journal:
        result = result_of(await complete().run(Model(), "question", journal=journal.run("a")))
    assert (result.value, result.metadata["journal_error"]) == ("ok", "the disk is gone")


UNSTORABLE = LLMResponse(
    "ok", usage={"prompt_tokens": 3, "completion_tokens": 2}, extra={"figure": 10**5_000}
)
"""An answer with a number that has no form in JSON."""


async def test_an_answer_that_has_no_form_in_the_file_is_handed_over_all_the_same(tmp_path: Path) -> None:
    model = Model(lambda asked: UNSTORABLE)
    with Journal(tmp_path / "runs.db") as journal:
        for life in range(2):
            result = result_of(await complete().run(model, "question", journal=journal.run("a")))
            assert (result.value, model.calls) == ("ok", life + 1)
            assert "the call at path [] cannot be stored" in str(result.metadata["journal_error"])
            assert result.metadata["unsettled_calls"] == life
            assert result.cost.llm_calls == life + 1
        other = result_of(await complete().run(Model(), "question", journal=journal.run("b")))
        assert "journal_error" not in other.metadata
        assert [info.ended for info in journal.runs()] == ["stopped", "answered"]


async def test_after_an_answer_that_has_no_form_in_the_file_nothing_is_sent(tmp_path: Path) -> None:
    model = Model(lambda asked: UNSTORABLE)
    with Journal(tmp_path / "runs.db") as journal:
        error = error_of(await (complete() >> complete()).run(model, "question", journal=journal.run("a")))
    assert isinstance(error, JournalError)
    assert "cannot be stored" in str(error)
    assert (model.calls, error.cost.llm_calls) == (1, 1)


@pytest.mark.parametrize("how", ["deleted", "moved", "replaced"])
@pytest.mark.skipif(os.name == "nt", reason="a file that is open stays where it is")
async def test_a_file_that_is_gone_is_told_and_nothing_is_sent_that_nobody_would_find(
    how: str, tmp_path: Path
) -> None:
    path = tmp_path / "runs.db"

    def answer(asked: Asked) -> object:
        if asked.number == 2:
            lose(path, how)
        return reply()

    model = Model(answer)
    with Journal(path) as journal:
        outcome = await consensus(5, max_concurrency=1).run(model, "question", journal=journal.run("a"))
        assert "deleted, moved or replaced" in str(journal_error_of(outcome))
        assert (model.calls, error_of(outcome).cost.llm_calls) == (2, 2)
        assert "deleted, moved or replaced" in str(
            journal_error_of(await complete().run(model, "question", journal=journal.run("b")))
        )
    assert model.calls == 2


@pytest.mark.parametrize("how", ["deleted", "moved", "replaced"])
@pytest.mark.skipif(os.name == "nt", reason="a file that is open stays where it is")
async def test_a_run_tells_at_its_end_that_the_file_was_lost_in_its_last_moment(
    how: str, tmp_path: Path
) -> None:
    path = tmp_path / "runs.db"

    def answer(asked: Asked) -> object:
        if asked.number == 5:
            lose(path, how)
        return reply()

    with Journal(path) as journal:
        result = result_of(
            await consensus(5, max_concurrency=1).run(Model(answer), "question", journal=journal.run("a"))
        )
    assert "deleted, moved or replaced" in str(result.metadata["journal_error"])


def lose(path: Path, how: str) -> None:
    """Take a file away from where it is."""
    if how == "deleted":
        for each in path.parent.glob(f"{path.name}*"):
            each.unlink()
    elif how == "moved":
        path.rename(path.with_name("moved.db"))
    else:
        with Journal(path.with_name("another.db")):
            pass
        path.with_name("another.db").replace(path)


def journal_error_of(outcome: Outcome[Any]) -> JournalError:
    error = error_of(outcome)
    assert isinstance(error, JournalError)
    return error


def test_a_file_may_have_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (":memory:", "file:a?mode=memory", " "):
        with Journal(name) as journal:
            complete().run_sync(Model(), "question", journal=journal.run("a"))
            monkeypatch.chdir("/")
            complete().run_sync(Model(), "question", journal=journal.run("b"))
        monkeypatch.chdir(tmp_path)
        with Journal(name) as journal:
            assert [info.name for info in journal.runs()] == ["a", "b"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anything")
def test_a_read_only_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    path.touch(0o400)
    assert "may this user write" in str(opening(path))


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    assert "make its folder first" in str(opening(tmp_path / "nowhere" / "runs.db"))


def test_a_folder_in_place_of_a_file_is_told(tmp_path: Path) -> None:
    assert "name a file" in str(opening(tmp_path))


def test_a_disk_that_may_only_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr("executionkit.journal.sqlite._make_private", refused)
    assert "may this user write" in str(opening(tmp_path / "runs.db"))


def test_a_store_that_turns_read_only_is_told(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "runs.db")
    store._database.execute("PRAGMA query_only=1")  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(JournalError, match="may this user write"):
        store.open_run("a", this_process())
    store.close()


MOUNTS = """\
22 28 0:21 / /proc rw,relatime shared:13 - proc proc rw
28 1 259:1 / / rw,relatime shared:1 - ext4 /dev/root rw
40 28 0:40 / /home/me rw - nfs4 server:/home rw
41 40 0:41 / /home/me/local\\040disk rw - xfs /dev/sdb rw
42 28 0:42 / /mnt rw - fuse.sshfs me@host:/ rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/runs.db", None),
        ("/home/me/runs.db", "nfs4"),
        ("/home/me/local disk/runs.db", None),
        ("/mnt/deep/er/runs.db", "fuse.sshfs"),
        ("/mntother/runs.db", None),
    ],
)
def test_network_file_systems_are_known(path: str, kind: str | None) -> None:
    assert network_mount(Path(path), MOUNTS) == kind


def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mount(path: Path) -> str:
        return "nfs4"

    monkeypatch.setattr("executionkit.journal.sqlite.network_mount", mount)
    assert "network file system (nfs4)" in str(opening(tmp_path / "runs.db"))


HELD = """
import sys
from executionkit.journal.ownership import this_process
from executionkit.journal.sqlite import SQLiteStore
from pathlib import Path
store = SQLiteStore(Path(sys.argv[1]))
store.open_run("a", this_process())
print("held", flush=True)
sys.stdin.read()
"""


def test_a_run_of_another_process_is_busy_until_that_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    with subprocess.Popen(
        [sys.executable, "-c", HELD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        error = error_of(anyio.run(ask, path))
        assert isinstance(error, RunBusyError)
        assert str(process.pid) in error.metadata["owner"]
        process.kill()
        process.wait()
    assert result_of(anyio.run(ask, path)).value == "ok"


def test_an_owner_elsewhere_is_gone_once_it_is_silent() -> None:
    here, elsewhere = this_process(), Owner("another machine", 1, "1")
    assert not is_gone(here, 0.0, 1e9)
    assert not is_gone(elsewhere, 100.0, 100.0 + LEASE)
    assert not is_gone(elsewhere, 100.0, 50.0), "a clock that goes back takes nobody's run away"
    assert is_gone(elsewhere, 100.0, 101.0 + LEASE)
    assert is_gone(replace(here, started="long ago"), 0.0, 0.0), "the number belongs to another process now"


def test_who_was_taken_over_writes_no_more(tmp_path: Path) -> None:
    now = [100.0]
    store = SQLiteStore(tmp_path / "runs.db", clock=lambda: now[0])
    first = store.open_run("a", Owner("elsewhere", 1, "1"))
    now[0] += LEASE + 1
    second = store.open_run("a", this_process())
    with pytest.raises(RunBusyError, match="taken the run over"):
        store.write([(first.info.number, first.token, packed(ROW))])
    store.write([(second.info.number, second.token, packed(ROW))])
    assert len([*store.rows(second.info.number)]) == 1
    store.close()


def test_a_lease_is_renewed(tmp_path: Path) -> None:
    now = [100.0]
    store = SQLiteStore(tmp_path / "runs.db", clock=lambda: now[0])
    opened = store.open_run("a", Owner("elsewhere", 1, "1"))
    now[0] += LEASE
    store.renew([opened.token])
    now[0] += LEASE
    with pytest.raises(RunBusyError):
        store.open_run("a", this_process())
    store.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_is_told(tmp_path: Path) -> None:
    script = f"""
import os, sys, warnings
warnings.simplefilter("ignore")
from executionkit import complete, ScriptedProvider
from executionkit.journal import Journal
with Journal({str(tmp_path / "runs.db")!r}) as journal:
    if os.fork() == 0:
        outcome = complete().run_sync(ScriptedProvider(["a"]), "question", journal=journal.run("a"))
        os.write(1, str(outcome.failure()).encode())
        os._exit(0)
    os.wait()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert "before this process was forked" in done.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_waits_for_who_writes_so_that_the_child_can_open_the_file(tmp_path: Path) -> None:
    script = f"""
import os, threading, time, warnings
warnings.simplefilter("ignore")
from executionkit.journal import Journal
path, inside = {str(tmp_path / "runs.db")!r}, threading.Event()

def write_slowly(store):
    store._database.execute("BEGIN IMMEDIATE")
    inside.set()
    time.sleep(0.5)
    store._database.execute("COMMIT")

with Journal(path) as journal:
    journal.worker.call_soon(write_slowly)
    inside.wait()
    if os.fork() == 0:
        with Journal(path) as mine:
            os.write(1, repr(mine.runs()).encode())
        os._exit(0)
    os.wait()
    journal.runs()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]", done.stderr


async def test_a_journal_that_is_closed_meanwhile_is_told(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "runs.db")

    def answer(asked: Asked) -> object:
        if asked.number == 2:
            journal.__exit__(None, None, None)
        return reply()

    with journal:
        outcome = await consensus(3, max_concurrency=1).run(Model(answer), "q", journal=journal.run("a"))
        error = error_of(outcome)
        assert isinstance(error, JournalError)
        assert "closed" in str(error)
        assert error.cost.llm_calls == 2


async def test_a_run_whose_journal_is_closed_meanwhile_can_be_taken_up(tmp_path: Path) -> None:
    path, model = tmp_path / "runs.db", Model(ticks=lambda asked: 3)
    journal = Journal(path)
    with anyio.fail_after(30):
        with journal:
            async with anyio.create_task_group() as group:
                group.start_soon(
                    lambda: consensus(40, max_concurrency=2).run(model, "question", journal=journal.run("a"))
                )
                while model.calls < 10:  # noqa: ASYNC110 - nothing tells of it
                    await anyio.sleep(0)
                journal.__exit__(None, None, None)
        before = model.calls
        with Journal(path) as again:
            result = result_of(
                await consensus(40, max_concurrency=2).run(model, "question", journal=again.run("a"))
            )
    assert result.metadata["unsettled_calls"] <= 2
    assert model.calls - before == 40 - (before - result.metadata["unsettled_calls"])


async def test_a_run_that_could_not_be_noted_to_its_end_can_be_taken_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(SQLiteStore):
        def write(self, rows: Any) -> None:
            raise JournalError("the disk is full")

        def write_at_once(self, rows: Any) -> bool:
            self.write(rows)
            return True

    with monkeypatch.context() as patch:
        patch.setattr("executionkit.journal.sqlite.SQLiteStore", Full)
        assert "is full" in str(error_of(await ask(tmp_path / "runs.db")))
    assert result_of(await ask(tmp_path / "runs.db")).value == "ok"


async def test_a_run_that_is_cancelled_as_it_is_opened_can_be_opened_again(tmp_path: Path) -> None:
    model = Model(lambda _: reply("yes"))
    with Journal(tmp_path / "runs.db") as journal:
        for turns in range(5):
            async with anyio.create_task_group() as group:
                group.start_soon(ask_in, journal, model)
                for _ in range(turns):
                    await anyio.lowlevel.checkpoint()
                group.cancel_scope.cancel()
            assert result_of(await ask_in(journal, model)).value == "yes"


async def ask_in(journal: Journal, model: Model) -> Outcome[str]:
    return await complete().run(model, "question", journal=journal.run("a"))


async def test_several_runs_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    for name in ("a", "b"):
        await ask(path, name, Model(lambda asked, name=name: reply(name)))  # type: ignore[misc]
    with Journal(path) as journal:
        assert [(info.name, info.ended, info.lives) for info in journal.runs()] == [
            ("a", "answered", 1),
            ("b", "answered", 1),
        ]
        with pytest.raises(JournalError, match="open already"):
            journal.__enter__()
        with pytest.raises(JournalError, match="no run 'c'"):
            journal.rows("c")


@pytest.mark.parametrize("size", [1, 20, 100, 900])
@pytest.mark.parametrize("how", ["each", "over"])
async def test_the_file_is_hardly_larger_than_the_answers(tmp_path: Path, how: str, size: int) -> None:
    path, rows = tmp_path / "runs.db", 400
    chance = Random(7)  # answers come in any order
    model = Model(
        lambda asked: reply("x" * size, 250, 40),
        ticks=lambda asked: chance.randrange(50),
    )
    questions = [f"question {number}" for number in range(rows)]
    with Journal(path) as journal:
        if how == "each":
            await complete().each(max_concurrency=50).run(model, questions, journal=journal.run("a"))
        else:
            given = journal.run("a")
            async with complete().over(questions, model, key=str, max_concurrency=50, journal=given) as batch:
                assert len([row async for row in batch]) == rows
    assert (
        path.stat().st_size <= 1.3 * size * rows + 300 * rows + 20_000
    )  # a file with nothing in it has 20 kB


MISUSES: dict[str, Callable[[Path], object]] = {
    "prompts": lambda path: Journal(path, prompts="yes"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    "power": lambda path: Journal(path, power=1),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    "most_bytes": lambda path: Journal(path, most_bytes=0),
}


@pytest.mark.parametrize("name", MISUSES)
def test_settings_are_checked(name: str, tmp_path: Path) -> None:
    with pytest.raises((TypeError, ValueError), match=name):
        MISUSES[name](tmp_path / "runs.db")


def test_errors_are_values() -> None:
    error = RunBusyError("busy", metadata={"owner": "process 1"})
    assert ExecutionKitError.from_dict(error.to_dict()) == error
