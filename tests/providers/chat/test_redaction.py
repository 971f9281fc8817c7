"""A secret is found by its value, in every spelling that a server may give it."""

import base64
import html
import json
from collections.abc import Callable
from functools import partial
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executionkit.providers.chat.redaction import NOTHING_SECRET, Redactor

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


Form = Callable[[str], str]


def json_form(character: str) -> str:
    return json.dumps(character)[1:-1]


def slash_form(character: str) -> str:
    return "\\/" if character == "/" else json_form(character)


def code_form(template: str) -> Form:
    return lambda character: template.format(ord(character))


FORMS: list[Form] = [
    str,
    str.upper,
    html.escape,
    partial(quote, safe=""),
    quote_plus,
    json_form,
    slash_form,
    *map(code_form, ["%{:02X}", "%{:02x}", "\\u{:04X}", "&#{};", "&#{:03};", "&#x{:x};", "&#X{:04X};"]),
]
JSON_FORMS = [json_form, slash_form, code_form("\\u{:04x}")]


@st.composite
def mixtures(draw: st.DrawFn, forms: list[Form]) -> tuple[str, str]:
    """A key, and a text in which each of its characters is spelled in a way of its own."""
    key = draw(
        keys | st.sampled_from([KEY, "sk-a/b/c-12345678", "k%25&amp;\\\\u005c\\\\/k", "k" + "\\" * 9 + "k"])
    )
    return key, "".join(draw(st.sampled_from(forms))(character) for character in key)


@given(mixtures(FORMS))
def test_no_mixture_of_spellings_survives(mixture: tuple[str, str]) -> None:
    key, spelled = mixture
    redactor = Redactor(key)
    assert redactor.text(f"it is {spelled}, I think") == "it is ***, I think"
    assert redactor.may_touch(json.dumps({"text": spelled}).encode())
    assert redactor.may_touch(json.dumps({"text": spelled}).replace("/", "\\/").encode())


@given(mixtures(JSON_FORMS))
def test_no_mixture_of_escapes_hides_the_key_in_an_answer(mixture: tuple[str, str]) -> None:
    key, spelled = mixture
    body = f'{{"text": "it is {spelled}, I think"}}'
    assert Redactor(key).may_touch(body.encode())
    assert Redactor(key).text(json.loads(body)["text"]) == "it is ***, I think"


@given(mixtures(FORMS), st.lists(st.integers(min_value=1, max_value=6), min_size=1))
def test_no_mixture_shows_in_pieces_however_it_is_cut(mixture: tuple[str, str], lengths: list[int]) -> None:
    redactor, text = Redactor(mixture[0]), f"it is {mixture[1]}, I think"
    shown, held = "", ""
    for length in [*lengths, len(text)]:
        released, held = redactor.released(held + text[:length])
        text = text[length:]
        shown += released
        assert "it is ***, I think".startswith(shown)
    assert shown + held == "it is ***, I think"


@given(mixtures(FORMS), st.integers(min_value=1))
def test_the_beginning_of_a_mixture_is_held(mixture: tuple[str, str], length: int) -> None:
    key, spelled = mixture
    stump = spelled[: min(length, len(spelled) - 1)]
    assert Redactor(key).released(f"it is {stump}") == ("it is ", stump)


@pytest.mark.parametrize("spelled", [r"sk-a\/b/c-12345678", r"sk-a/b\/c-12345678"])
def test_one_escaped_slash_does_not_hide_the_key(spelled: str) -> None:
    redactor = Redactor("sk-a/b/c-12345678")
    assert redactor.may_touch(f'{{"text": "{spelled}"}}'.encode())
    assert redactor.text(spelled, was_cut=True) == "***"


def test_escapes_in_base64_do_not_hide_it() -> None:
    key = "sk->>>???>>>"
    spelled = base64.b64encode(key.encode()).decode()
    assert "/" in spelled
    assert "+" in spelled
    for form in (spelled.replace("/", "\\/"), quote(spelled, safe=""), spelled.replace("+", "%2b")):
        assert Redactor(key).text(f"it is {form}!") == "it is ***!"
        assert Redactor(key).may_touch(f'"it is {form}!"'.encode())


def test_no_run_of_backslashes_takes_long() -> None:
    key = "k" + "\\" * 60 + "k"
    assert Redactor(key).text("k" + "\\" * 90 + "!") == "k" + "\\" * 90 + "!"
    assert Redactor(key).released("k" + "\\" * 90) == ("", "k" + "\\" * 90)


@pytest.mark.parametrize("body", [b"sk & 50 %", b'{"text": "a\\n\\"b\\""}', "\u00e9 & sk-".encode()])
def test_an_answer_that_can_not_hold_the_key_is_left_alone(body: bytes) -> None:
    assert not Redactor("sk-12345678").may_touch(body)


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
