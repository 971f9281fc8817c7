"""Conversations as values, and what is refused as one."""

import pickle
from typing import Any

import pytest

from executionkit.core.transcript import Transcript, transcript_of

ASK = {"role": "user", "content": "hello"}
LOOK = {"name": "look", "arguments": "{}"}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"id": "a", "function": LOOK}, {"id": "b", "function": LOOK}],
}


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
    return {"role": role, "content": "", "tool_calls": [{"id": identity, "function": LOOK}]}


def answered(call: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "assistant", "tool_calls": [{"id": "a", **call}]}, result("a")]


@pytest.mark.parametrize(
    "messages",
    [
        [asks("a"), result("a"), asks("a"), result("a")],
        [{**CALL, "tool_calls": [*asks("a")["tool_calls"]] * 2}, result("a"), result("a")],
        [asks(""), result("")],
        [asks(None), {"role": "tool", "content": "x"}],
        [asks(5), {"role": "tool", "tool_call_id": 5, "content": "x"}],
        [asks("a", "user"), result("a")],
        [{"role": "narrator", "content": "x"}],
        [{"role": "user"}],
        [{"role": "user", "content": None}],
        [{"role": "user", "content": 5}],
        [{"role": "user", "content": b"x"}],
        [{"role": "user", "content": object()}],
        [{"role": "user", "content": {"type": "text", "text": "x"}}],
        [{"role": "user", "content": [5]}],
        [{"role": "system", "content": None}],
        [ASK, {"role": "assistant"}],
        [ASK, {"role": "assistant", "content": None, "tool_calls": []}],
        [asks("a"), {"role": "tool", "tool_call_id": "a"}],
        [asks("a"), {"role": "tool", "tool_call_id": "a", "content": {"x": 1}}],
        answered({}),
        answered({"function": "look"}),
        answered({"function": {"arguments": "{}"}}),
        answered({"function": {"name": "", "arguments": "{}"}}),
        answered({"type": "function", "function": {"name": 5}}),
    ],
)
def test_what_no_server_could_be_sent_is_refused(messages: list[dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match="transcript|assistant"):
        transcript_of(messages)
    with pytest.raises(ValueError, match="transcript|assistant"):
        transcript_of(Transcript(messages))


@pytest.mark.parametrize(
    "messages",
    [
        answered({"function": {"name": "look"}}),
        answered({"type": "custom", "custom": {"name": "look", "input": "x"}}),
        [ASK, {"role": "assistant", "content": None, "refusal": "no"}],
        [ASK, {"role": "assistant", "content": [{"type": "text", "text": "x"}]}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
        [{"role": "user", "content": ""}, {"role": "assistant", "content": ""}],
    ],
)
def test_what_servers_take_is_taken(messages: list[dict[str, Any]]) -> None:
    assert list(transcript_of(messages)) == messages


def test_a_transcript_with_a_call_without_its_result_is_refused_whoever_made_it() -> None:
    with pytest.raises(ValueError, match="needs its result"):
        transcript_of(Transcript([ASK, asks("a")]))


def test_what_is_handed_out_and_what_it_was_made_of_change_nothing() -> None:
    made_of: dict[str, Any] = {"role": "user", "content": [{"type": "text", "text": "hello"}]}
    talk = Transcript([made_of])
    made_of["content"][0]["text"] = "changed"
    talk[0]["content"][0]["text"] = "changed"
    assert talk[0]["content"] == [{"type": "text", "text": "hello"}]
