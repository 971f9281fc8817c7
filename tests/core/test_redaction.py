"""A secret is found by its value, in every spelling that a server may give it."""

import base64
import html
import json
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executionkit.core.redaction import NOTHING_SECRET, Redactor

KEY = 'sk-pro"j\\/a+b=c&d <e>'
keys = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=8, max_size=60).map(
    lambda text: f"k{text.strip()}k"
)


SPELLINGS = [
    KEY,
    quote(KEY),
    quote(KEY, safe=""),
    quote(KEY, safe="").lower(),
    quote_plus(KEY),
    html.escape(KEY),
    json.dumps(KEY)[1:-1],
    base64.b64encode(KEY.encode()).decode(),
    base64.urlsafe_b64encode(KEY.encode()).decode(),
]


@pytest.mark.parametrize("spelled", SPELLINGS)
def test_no_spelling_survives(spelled: str) -> None:
    assert Redactor(KEY).text(f"before {spelled} after").startswith("before ***")
    assert spelled not in Redactor(KEY).text(f"before {spelled} after")


@pytest.mark.parametrize("around", ["{}", "user:{}", "Bearer {}.", "a{}bc"])
def test_base64_of_something_around_it_does_not_survive(around: str) -> None:
    spelled = base64.b64encode(around.format(KEY).encode()).decode()
    assert "***" in Redactor(KEY).text(spelled)


@given(keys, st.text(), st.text())
def test_the_key_is_never_in_what_comes_out(key: str, before: str, after: str) -> None:
    assert key not in Redactor(key).text(before + key + after).replace("***", "\0")


@given(keys, st.integers(min_value=4))
def test_a_cut_key_is_hidden_too(key: str, length: int) -> None:
    stump = key[: min(length, len(key))]
    assert not Redactor(key).text(f"echo: {stump}", was_cut=True).endswith(stump)


def test_a_tree_is_cleaned_in_keys_and_values() -> None:
    cleaned = Redactor("sk-12345678").tree({"a": ["x sk-12345678", {"sk-12345678": 1}], "b": None})
    assert cleaned == {"a": ["x ***", {"***": 1}], "b": None}


def test_a_placeholder_does_not_change_answers() -> None:
    assert not Redactor("ollama").may_touch(b"ask ollama")
    assert Redactor("ollama").text("bad key ollama") == "bad key ***"


@given(st.text())
def test_no_secret_changes_nothing(text: str) -> None:
    assert NOTHING_SECRET.text(text, was_cut=True) == text
