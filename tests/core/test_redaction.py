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


@given(keys, st.text(), st.integers(min_value=1))
def test_a_beginning_at_the_end_is_held_and_joined_to_what_comes(key: str, before: str, length: int) -> None:
    redactor = Redactor(key)
    stump = key[: min(length, len(key) - 1)]
    released, held = redactor.released(before + stump)
    assert stump not in (released + "\0").replace(before, "")
    assert key not in redactor.released(held + key[len(stump) :])[0].replace("***", "\0")


@given(
    keys,
    st.lists(st.integers(min_value=1, max_value=6), min_size=1),
    st.sampled_from([str, quote, str.upper]),
)
def test_a_key_in_pieces_is_hidden_however_it_is_cut(
    key: str, lengths: list[int], spell: Callable[[str], str]
) -> None:
    redactor, spelled = Redactor(key), f"it is {spell(key)} I think"
    shown, held = "", ""
    for length in [*lengths, len(spelled)]:
        released, held = redactor.released(held + spelled[:length])
        spelled = spelled[length:]
        shown += released
    assert spell(key) not in shown + held
    assert (shown + held).endswith("*** I think")


@pytest.mark.parametrize("text", ["", "Paris ", "K\u212a", "\U0001f600" * 3])
def test_text_without_the_key_is_released_as_it_is(text: str) -> None:
    assert Redactor("sk-12345678").released(text) == (text, "")


def test_the_longest_beginning_is_held() -> None:
    assert Redactor("aaaab-12").released("aaaaaaa") == ("aaa", "aaaa")
    assert Redactor("sk-a/b+cdef").released("x SK-A%2") == ("x ", "SK-A%2")


def test_nothing_is_held_for_a_placeholder() -> None:
    assert Redactor("ollama").released("ask oll") == ("ask oll", "")
    assert NOTHING_SECRET.released("ask") == ("ask", "")


@pytest.mark.parametrize(
    "body", [b"x SK-12345678", b"\\u0073k-12345678", base64.b64encode(b"sk-12345678").lower()]
)
def test_an_answer_that_may_hold_the_key_is_looked_at(body: bytes) -> None:
    assert Redactor("sk-12345678").may_touch(body)
