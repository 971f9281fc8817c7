"""Conversations as values, and what is refused as one."""

import pickle
from typing import Any

import pytest

from executionkit.core.transcript import Transcript, transcript_of

ASK = {"role": "user", "content": "hello"}
CALL = {"role": "assistant", "content": "", "tool_calls": [{"id": "a"}, {"id": "b"}]}


def result(of: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": of, "content": "x"}


def test_it_is_a_value() -> None:
    talk = transcript_of([ASK, CALL, result("b"), result("a")])
    assert talk == transcript_of(list(talk)) == pickle.loads(pickle.dumps(talk))
    assert hash(talk) == hash(transcript_of(talk))
    assert talk != [ASK]
    assert list(talk[1:]) == [CALL, result("b"), result("a")]


def test_it_keeps_nothing_of_what_it_was_made_from_and_gives_nothing_away() -> None:
    given = {"role": "user", "content": [{"type": "text", "text": "hello"}]}
    talk = transcript_of([given])
    given["content"] = "changed"
    talk[0]["content"][0]["text"] = "changed"
    assert talk[0]["content"] == [{"type": "text", "text": "hello"}]


@pytest.mark.parametrize(
    ("messages", "kind"),
    [
        ("hello", TypeError),
        (None, TypeError),
        (iter([ASK]), TypeError),
        ([5], TypeError),
        ([{"content": "hello"}], TypeError),
        ([{"role": 5}], TypeError),
        ([{"role": "assistant", "tool_calls": 5}], TypeError),
        ([{"role": "assistant", "tool_calls": [5]}], TypeError),
        ([{"role": "assistant", "tool_calls": "ab"}], TypeError),
        ([CALL], ValueError),
        ([CALL, result("a")], ValueError),
        ([CALL, result("a"), result("b"), result("b")], ValueError),
        ([CALL, ASK, result("a"), result("b")], ValueError),
        ([result("a")], ValueError),
    ],
)
def test_what_is_no_conversation_is_refused(messages: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"transcript|tool"):
        transcript_of(messages)


def asks(identity: object, role: str = "assistant") -> dict[str, Any]:
    return {"role": role, "content": "", "tool_calls": [{"id": identity}]}


@pytest.mark.parametrize(
    "messages",
    [
        [asks("a"), result("a"), asks("a"), result("a")],
        [{**CALL, "tool_calls": [{"id": "a"}, {"id": "a"}]}, result("a"), result("a")],
        [asks(""), result("")],
        [asks(None), {"role": "tool", "content": "x"}],
        [asks(5), {"role": "tool", "tool_call_id": 5, "content": "x"}],
        [asks("a", "user"), result("a")],
        [{"role": "narrator", "content": "x"}],
    ],
)
def test_what_no_server_could_be_sent_is_refused(messages: list[dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match="transcript|assistant"):
        transcript_of(messages)
    with pytest.raises(ValueError, match="transcript|assistant"):
        transcript_of(Transcript(messages))


def test_a_transcript_with_a_call_without_its_result_is_refused_whoever_made_it() -> None:
    with pytest.raises(ValueError, match="needs its result"):
        transcript_of(Transcript([ASK, asks("a")]))


def test_what_is_handed_out_and_what_it_was_made_of_change_nothing() -> None:
    made_of: dict[str, Any] = {"role": "user", "content": [{"type": "text", "text": "hello"}]}
    talk = Transcript([made_of])
    made_of["content"][0]["text"] = "changed"
    talk[0]["content"][0]["text"] = "changed"
    assert talk[0]["content"] == [{"type": "text", "text": "hello"}]
