"""Server-sent events, against the standard's own examples; any split of the bytes gives the same events."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executionkit.core.sse import EventParser, ServerEvent

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
