"""The small table of a notebook."""

from hypothesis import given
from hypothesis import strategies as st

from executionkit.core.html import html_table


@given(st.text(), st.text())
def test_nothing_in_it_is_read_as_html(value: str, vote: str) -> None:
    table = html_table({"value": f"<script>{value}", "votes": {f"<b>{vote}": 1}})
    assert "<script>" not in table
    assert "<b>" not in table


def test_it_stays_small() -> None:
    table = html_table({"value": "x" * 1_000_000, "votes": {str(n): 1 for n in range(1000)}})
    assert len(table) < 4_000
    assert "1,000,000 characters" in table
    assert "980 more" in table


def test_half_a_character_can_be_sent() -> None:
    assert "1?2" in html_table({"value": "1\ud8002"})
    html_table({"value": "\ud800", "votes": {"\udfff": 1}}).encode()
