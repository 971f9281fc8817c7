"""Server-sent events, against the standard's own examples; any split of the bytes gives the same events."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executionkit.providers.chat.sse import EventParser, ServerEvent

SEPARATORS = ["\n", "\r", "\r\n"]
lines = st.sampled_from(
    [
        "",
        "data",
        "data:",
        "data: a",
        "data:b",
        "data:  c",
        "event: e",
        "id: 1",
        "id: \0",
        "id",
        ": comment",
        "retry: 5",
    ]
)


def parse(*pieces: bytes) -> list[ServerEvent]:
    parser = EventParser()
    return [event for piece in pieces for event in parser.feed(piece)]


@given(st.lists(st.tuples(lines, st.sampled_from(SEPARATORS))), st.data())
def test_any_split_gives_the_same_events(parts: list[tuple[str, str]], data: st.DataObject) -> None:
    whole = "".join(line + end for line, end in parts).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert parse(*pieces) == parse(whole) == parse(*(bytes([byte]) for byte in whole))


@pytest.mark.parametrize("end", SEPARATORS)
def test_the_examples_of_the_standard(end: str) -> None:
    def check(text: str, *expected: ServerEvent) -> None:
        assert parse(text.replace("\n", end).encode()) == list(expected)

    check("data: YHOO\ndata: +2\ndata: 10\n\n", ServerEvent("YHOO\n+2\n10"))
    check(
        ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n",
        ServerEvent("first event", id="1"),
        ServerEvent("second event"),
    )
    check("data\n\ndata\ndata\n\ndata:", ServerEvent(""), ServerEvent("\n"))
    check("data:test\n\ndata: test\n\n", ServerEvent("test"), ServerEvent("test"))


def test_odd_bytes() -> None:
    assert parse(b"\xef\xbb\xbfdata: a\n\n") == [ServerEvent("a")]
    assert parse(b"data: \xff\n\n") == [ServerEvent("\ufffd")]
    assert parse("data: a\u2028b\n\n".encode()) == [ServerEvent("a\u2028b")]
    assert parse(b"event: x\n\ndata: a\n\n") == [ServerEvent("a")]


@given(st.lists(st.binary()))
def test_nothing_breaks_it(pieces: list[bytes]) -> None:
    assert parse(*pieces) == parse(b"".join(pieces))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("event: add\ndata: 1\n\ndata: 2\n\n", [ServerEvent("1", "add"), ServerEvent("2")]),
        ("event:add\nevent\ndata: 1\n\n", [ServerEvent("1")]),
        ("id: 7\ndata: 1\n\ndata: 2\n\n", [ServerEvent("1", id="7"), ServerEvent("2", id="7")]),
        ("id: 7\nid: 8\0\ndata: 1\n\n", [ServerEvent("1", id="7")]),
        ("id: 7\n\ndata: 1\n\n", [ServerEvent("1", id="7")]),
        ("data: a: b\n\n", [ServerEvent("a: b")]),
        ("data:  a \n\n", [ServerEvent(" a ")]),
        ("Data: a\nDATA: b\n data: c\ndata : d\n\n", []),
        ("retry: 5\ndata: a\n\n", [ServerEvent("a")]),
        ("data: a\n\ufeffdata: b\n\n", [ServerEvent("a")]),
        ("\ufeff\ufeffdata: a\n\n", []),
        ("data: a\r\r\ndata: b\n\r", [ServerEvent("a"), ServerEvent("b")]),
        ("data: a\n", []),
    ],
)
def test_events_by_hand(text: str, expected: list[ServerEvent]) -> None:
    assert parse(text.encode()) == expected
    assert parse(*(bytes([byte]) for byte in text.encode())) == expected


def test_a_line_feed_after_a_carriage_return_ends_no_line_of_its_own() -> None:
    parser = EventParser()
    assert parser.feed(b"data: a\r") == []
    assert parser.feed(b"") == []
    assert parser.feed(b"\n") == []
    assert parser.feed(b"\r") == [ServerEvent("a")]
    assert parser.feed(b"data: b\r") == []
    assert parser.feed(b"\r") == [ServerEvent("b")]
