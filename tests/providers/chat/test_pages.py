"""What a page says is its words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executionkit.errors import PermanentError, ProviderError
from executionkit.providers.chat.failures import refused, unusable
from executionkit.providers.chat.pages import is_page, page_words
from executionkit.providers.chat.redaction import NOTHING_SECRET, Redactor
from executionkit.providers.chat.wire import Unusable, decode_completion
from executionkit.providers.http.exchange import Head

SQUID = (
    b"<!DOCTYPE html PUBLIC '-//W3C//DTD HTML 4.01//EN'>\n<html><head><title>ERROR: Access denied</title>"
    b"<style type='text/css'><!--\n" + b"body { font: verdana; }\n" * 200 + b"--></style></head>"
    b"<body id=ERR_ACCESS_DENIED><h1>ERROR</h1><p>Access Denied by&nbsp;proxy &amp; rules.</p>"
    b"<script>var x = '<p>no</p>';</script><!-- <p>hidden</p> --></body></html>"
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (SQUID.decode(), "ERROR: Access denied ERROR Access Denied by proxy & rules."),
        (
            "<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Reduce</Message></Error>",
            "SlowDown Reduce",
        ),
        ("<html>a < b<br/>c", "a < b c"),
        ("<style>never closed", ""),
        ("<html><script>never closed <p>x", ""),
        ("<p>cut in a <tag", "cut in a"),
    ],
)
def test_the_words_of_a_page(text: str, words: str) -> None:
    assert is_page(text)
    assert page_words(text) == words


@pytest.mark.parametrize("text", ["", "busy", '{"a": "<b>"}', "<3", "< b", "a <b>c</b>"])
def test_what_is_no_page(text: str) -> None:
    assert not is_page(text)


@given(
    st.lists(
        st.sampled_from(["<", "<!--", "-->", "<p ", ">", "</style>", "<style>", "&", "x", "<![", "<?"])
    ).map("".join)
)
def test_any_text_is_taken(text: str) -> None:
    assert isinstance(page_words(text), str)


def test_no_page_takes_long() -> None:
    for piece in ("<style>", "<!--", "<p", "<", "<!", "&", "<script "):
        page_words(piece * 20_000)  # the suite's time-out is the bound


def test_a_proxys_page_is_quoted_by_its_words() -> None:
    error = refused(Head(502, {"content-type": "text/html"}), SQUID, NOTHING_SECRET)
    assert str(error) == "the server answered 502: ERROR: Access denied ERROR Access Denied by proxy & rules."


def test_a_sign_in_page_says_what_to_check() -> None:
    page = b"<!doctype html><html><title>Sign in - Example</title><body>Use your account</body>"
    answer = decode_completion(page, NOTHING_SECRET)
    assert isinstance(answer, Unusable)
    error = unusable(Head(200, {"content-type": "text/html; charset=utf-8"}), answer, NOTHING_SECRET)
    assert str(error) == (
        "the answer is a page (text/html; charset=utf-8) that begins 'Sign in - Example Use your account',"
        " and not JSON; check base_url"
    )
    assert type(error) is ProviderError


def test_what_is_neither_json_nor_a_page_is_quoted() -> None:
    answer = decode_completion(b"upstream connect error", NOTHING_SECRET)
    assert isinstance(answer, Unusable)
    error = unusable(Head(200, {}), answer, NOTHING_SECRET)
    assert "(without a content type); it begins 'upstream connect error'" in str(error)


def test_a_key_between_tags_is_hidden() -> None:
    error = refused(Head(500, {}), b"<p>sk-1234<b>5678</b>9 &#115;k-123456789</p>", Redactor("sk-123456789"))
    assert "***" in str(error)
    assert "sk-123456789" not in str(error)


@pytest.mark.parametrize(
    ("status", "advice", "kind"),
    [
        (
            403,
            "the proxy may not connect to this server, check its rules or go around it with NO_PROXY",
            PermanentError,
        ),
        (407, "check the user name and password of the proxy", ProviderError),
        (502, "check the proxy, or go around it with NO_PROXY", ProviderError),
        (404, "check the proxy, or go around it with NO_PROXY", PermanentError),
    ],
)
def test_a_proxy_that_refuses_is_told_of_as_one(status: int, advice: str, kind: type[Exception]) -> None:
    error = refused(Head(status, {}, "the proxy"), SQUID, NOTHING_SECRET)
    assert str(error).startswith(f"the proxy answered {status}; {advice}: ERROR: Access denied")
    assert type(error) is kind
