"""What a model gets to see of a tool call is bounded and says so."""

from hypothesis import given
from hypothesis import strategies as st

from executionkit.core.observation import shortened


@given(st.text(), st.integers(1, 50))
def test_a_cut_text_says_how_much_is_missing(text: str, most: int) -> None:
    seen = shortened(text, most)
    if len(text) <= most:
        assert seen == text
    else:
        assert seen == f"{text[:most]}\n[{len(text) - most} more characters cut]"
