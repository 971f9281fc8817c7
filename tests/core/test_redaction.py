"""A secret is found by its value, in every spelling that a server may give it."""

import base64
import html
import json
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executionkit.core.redaction import NOTHING_SECRET, Redactor

KEY = 'sk-pro"j\\/a+b=c&d <e>'
keys = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=8, max_size=60).map(
    lambda text: f"k{text.strip()}k"
)


@pytest.mark.parametrize(
    "spell",
    [
        str,
        quote,
        lambda key: quote(key, safe=""),
        lambda key: quote(key, safe="").lower(),
        quote_plus,
        html.escape,
        lambda key: json.dumps(key)[1:-1],
        lambda key: base64.b64encode(key.encode()).decode(),
        lambda key: base64.urlsafe_b64encode(key.encode()).decode(),
        lambda key: base64.b64encode(f"user:{key}".encode()).decode(),
        lambda key: base64.b64encode(f"Bearer {key}.".encode()).decode(),
    ],
)
def test_no_spelling_survives(spell: Callable[[str], str]) -> None:
    spelled = spell(KEY)
    cleaned = Redactor(KEY).text(f"before {spelled} after")
    assert spelled not in cleaned
    assert "***" in cleaned
    assert cleaned.startswith("before ")


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
