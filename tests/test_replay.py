"""A part of `benchmarks/replay.py` on the recorded votes that have a licence: real models, the real stage."""

import gzip
import re
from functools import cache
from pathlib import Path
from statistics import fmean

import anyio
import msgspec
import pytest

from benchmarks.plot import Line, scatter
from benchmarks.replay import (
    DATA,
    RULES,
    BadVotesError,
    Published,
    Row,
    decisions,
    described,
    main,
    one_order,
    parsed,
    play,
    published_rows,
    read_rows,
    report,
    rounds,
    shuffled,
    title_of,
    whole,
)
from executionkit.core.voting.stopping import beta, certain, standing_of
from executionkit.core.voting.tally import tally_of


@cache
def rows() -> list[Row]:
    return read_rows(DATA)


def some(every: int) -> list[Row]:
    """A part of the rows, spread over all cells."""
    return rows()[::every]


def test_the_data_is_whole() -> None:
    assert len(rows()) == 1879
    assert {len(row.votes) for row in rows()} == {40, 100}


def test_the_published_rows() -> None:
    figures = anyio.run(published_rows, rows())
    published = {name: round(figure, 2) for name, figure in figures.items() if "_beta" not in name}
    # On the half of the questions that is held; the full sets give the published figures, which
    # `benchmarks/replay.py` prints beside these.
    assert published == {
        "penguins_codex_vote": 84.02,
        "penguins_codex_plain": 84.02,
        "penguins_codex_plain_calls": 11.36,
        "penguins_vicuna_vote": 42.92,
        "penguins_vicuna_plain": 43.38,
        "penguins_vicuna_plain_calls": 22.42,
        "date_codex_vote": 81.25,
        "date_codex_plain": 79.92,
        "date_codex_plain_calls": 10.11,
        "date_vicuna_vote": 59.09,
        "date_vicuna_plain": 59.47,
        "date_vicuna_plain_calls": 17.66,
    }
    for name in ("penguins_codex", "penguins_vicuna", "date_codex", "date_vicuna"):
        assert figures[f"{name}_beta"] == figures[f"{name}_plain"]
        assert figures[f"{name}_beta_calls"] < figures[f"{name}_plain_calls"]


@pytest.mark.parametrize("seed", range(3))
def test_certain_never_changes_the_winner_and_beta_never_the_published_answer(seed: int) -> None:
    for row in one_order([row for row in some(12) if len(row.votes) == 40], seed):
        assert all(row[f"certain_disagreement_{n}"] == 0 for n in (5, 10, 40))
        assert all(row[f"beta_differs_{n}"] == 0 for n in (5, 10, 40))
        assert all(row[f"beta_calls_{n}"] <= row[f"plain_calls_{n}"] for n in (5, 10, 40))


def test_rounds_change_no_call_and_no_answer() -> None:
    figures = anyio.run(rounds, some(10))
    assert figures["rounds_calls_changed"] == 0
    assert figures["rounds_unlimited"] < figures["rounds_4"] < 5


def test_certain_is_exact_on_every_prefix_of_real_votes() -> None:
    for row in some(10):
        for n in (5, 10, 20):
            for votes in (row.votes[:n], shuffled([row], n)[0][:n]):
                keys = [parsed(vote) for vote in votes]
                winner = tally_of(keys).leader
                for drawn in range(1, n):
                    tally = tally_of(keys[:drawn])
                    if certain().more(standing_of(tally, n)) == 0:
                        assert tally.leader == winner


def test_the_published_rule_is_a_rule_of_one_s_own() -> None:
    row = rows()[0]

    async def both() -> tuple[int, int]:
        return (await play(row.votes, Published())).calls, (await play(row.votes, beta())).calls

    plain, joined = anyio.run(both)
    assert joined <= plain < 40


def test_decisions_are_timed_and_the_report_has_what_was_asked_for() -> None:
    figures = decisions(some(40), 1)
    assert all(figures[f"decision_microseconds_{name}"] > 0 for name in RULES if name != "plain")
    lines = report({**figures, "certain_calls_5": 3.5}).splitlines()
    assert lines[0].split() == ["certain_calls_5", "3.500", "<=", "3.52"]


def test_accuracy_knows_game24_s_several_right_answers() -> None:
    row = next(row for row in rows() if any(row.accept))
    right = next(vote for vote in row.accept if vote)
    assert row.is_right(right)
    assert not row.is_right("")


MEASURED = {
    # On a quarter of the copied cells, in one random order; what is measured on all recorded votes stands in
    # `docs/consensus.md`.
    "certain_calls_5": 3.671,
    "certain_calls_10": 6.86,
    "certain_calls_40": 26.727,
    "beta_calls_5": 3.671,
    "beta_calls_10": 6.376,
    "beta_calls_40": 13.572,
    "forecast_calls_10": 5.541,
    "forecast_calls_40": 13.453,
    "forecast_disagreement_10": 0.45,
    "forecast_disagreement_40": 0.45,
    "certain_disagreement_40": 0.0,
    "beta_differs_40": 0.0,
}


def test_calls_and_disagreement_on_the_copied_cells() -> None:
    played = one_order(whole(rows())[::4], 0)
    assert {name: round(fmean(row[name] for row in played), 3) for name in MEASURED} == MEASURED


@pytest.mark.parametrize("packed", [True, False])
def test_votes_are_read_gzipped_and_plain(tmp_path: Path, packed: bool) -> None:
    content = b"\n".join(msgspec.json.encode(row) for row in some(300)) + b"\n\n"
    path = tmp_path / "votes.jsonl"
    path.write_bytes(gzip.compress(content) if packed else content)
    assert read_rows(path) == some(300)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no rows"),
        (b"{", "line 1"),
        (b'{"cell": "a", "q": "1"}', "line 1.*votes"),
        (b'{"cell": "a", "q": "1", "votes": []}', "line 1: no votes"),
        (b'{"cell": "a", "q": "1", "votes": ["x"]}\n[1]', "line 2"),
        (gzip.compress(b"[]", mtime=0)[:-3], "cannot be read"),
        (b"\x1f\x8bnot gzip at all", "cannot be read"),
        (b"\xff\xfe", "line 1"),
    ],
)
def test_a_file_without_votes_is_refused_with_a_reason(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "votes"
    path.write_bytes(content)
    with pytest.raises(BadVotesError, match=message):
        read_rows(path)


def test_the_command_says_what_is_wrong_with_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["--votes", str(tmp_path / "missing")])
    assert "cannot be read" in capsys.readouterr().err


def test_the_command_takes_a_file_without_rows_of_40(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "votes.jsonl"
    path.write_bytes(b'{"cell": "a", "q": "1", "gold": "x", "votes": ["x", "y"]}')
    main(["--votes", str(path), "--json"])
    assert msgspec.json.decode(capsys.readouterr().out) == {"rows": 1, "rows_of_40": 0}
    with pytest.raises(SystemExit):
        main(["--votes", str(path), "--plot", str(tmp_path / "plot.svg")])


def test_the_command_draws_and_reports_which_file_was_played(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, plot = tmp_path / "votes.jsonl", tmp_path / "plot.svg"
    path.write_bytes(b"\n".join(msgspec.json.encode(row) for row in whole(rows())[::500]))
    main(["--votes", str(path), "--plot", str(plot)])
    assert re.search(
        r"^none, n = 1 to 40 +40 +40\.00 calls +[\d.]+ % right$", capsys.readouterr().out, re.MULTILINE
    )
    assert title_of(read_rows(path)) in plot.read_text()
    main(["--votes", str(path), "--orders", "1"])
    assert "not to this one" in capsys.readouterr().out
    assert "belong to this file" in described(path, whole(rows())[:1] * 2904)


def test_the_picture_in_the_docs_is_of_this_data() -> None:
    picture = (DATA.parents[2] / "docs" / "consensus.svg").read_text()
    assert title_of(rows()) in picture


def test_labels_of_a_plot_stand_apart() -> None:
    crowd = Line("crowd", tuple((10 + step / 4, 50 + step / 40, f"0.{step}") for step in range(8)))
    picture = scatter("a", "b", "c", [crowd, Line("far", ((40.0, 60.0, "n 40"), (1.0, 45.0, "1")))])
    found = re.findall(r'<text x="([\d.]+)" y="([\d.]+)" [^>]*font-size="10">([^<]+)<', picture)
    boxes = [(float(x), float(y), float(x) + 6 * len(label)) for x, y, label in found]
    assert len(boxes) == 10
    for at, (left, bottom, right) in enumerate(boxes):
        for other_left, other_bottom, other_right in boxes[at + 1 :]:
            apart = left >= other_right or other_left >= right or abs(bottom - other_bottom) >= 10
            assert apart
