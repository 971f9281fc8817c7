"""What a model gets to see of a tool call is bounded and says so."""

import re

from hypothesis import example, given
from hypothesis import strategies as st

from executionkit.core.observation import shortened


@given(
    st.text(st.characters(exclude_characters="[")) | st.integers(0, 300).map("x".__mul__), st.integers(1, 150)
)
@example("\ud800", 1)
@example("\udc80" * 200, 50)
def test_a_cut_text_with_its_note_is_bounded_and_says_how_much_is_missing(text: str, most: int) -> None:
    seen = shortened(text, most)
    assert len(seen) <= most
    kept, note, _ = seen.partition("\n[")
    text = re.sub("[\ud800-\udfff]", "?", text)  # no request can hold half a surrogate
    if len(text) <= most:
        assert seen == text
    elif note:
        assert seen == f"{kept}\n[{len(text) - len(kept)} more characters cut]"
        assert text.startswith(kept)
    else:
        assert seen == text[:most]
