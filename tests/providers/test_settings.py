"""What a provider may be told, and that what is refused is not quoted."""

import traceback
import warnings
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from executionkit.providers.http.address import parse_address
from executionkit.providers.openai import Provider

KEY = "sk-12345678-abcdef"
URL = "https://gateway.example.com/v1"


@pytest.mark.parametrize("key", ["sk-\n123456", "sk-12345\r\nX: y", " sk-123456", "sk-1234é", "sk-\x00123"])
def test_a_key_that_cannot_be_a_header_is_refused_without_being_quoted(key: str) -> None:
    given = [key]
    with pytest.raises(ValueError, match="key must") as caught:
        Provider("http://localhost/v1", "m", given[0])
    frames = traceback.TracebackException.from_exception(caught.value, capture_locals=True).stack[1:]
    assert repr(key)[1:-1] not in "".join(f"{frame.locals}" for frame in frames)


def test_a_key_of_another_type_is_refused() -> None:
    wrong: Any = b"sk-12345678"
    with pytest.raises(TypeError, match="not bytes"):
        Provider("http://localhost/v1", "m", wrong)


BAD_URLS = [
    *(
        "",
        "localhost/v1",
        "ftp://h/v1",
        "http://",
        "http://u:p@h/v1",
        "http://h:0/v1",
        "http://h:99999/v1",
        "http://h:x/",
    ),
    *(
        "http://h\n/v1",
        "http://h /v1",
        "http://h\\@evil/",
        "http://h/v1#x",
        "http://[::1/v1",
        "http://h..x/",
        "http://é/",
    ),
]


@pytest.mark.parametrize("url", BAD_URLS)
def test_a_bad_address_is_refused_without_being_quoted(url: str) -> None:
    with pytest.raises(ValueError, match="base_url") as caught:
        Provider(url, "m")
    assert "u:p" not in str(caught.value)


def with_no_key(url: Any) -> Provider:
    return Provider(url, "m")


def with_a_bad_key(url: Any) -> Provider:
    return Provider(url, "m", "\n")


@pytest.mark.parametrize("make", [parse_address, with_no_key, with_a_bad_key])
@pytest.mark.parametrize(
    "url",
    [
        "http://u:hunter2@h/v1",
        "ftp://u:hunter2@h",
        "http://u:hunter2@h:x",
        "http://u:hunter2@h/\n",
        b"hunter2",
    ],
)
def test_no_frame_shows_what_a_bad_address_holds(make: Callable[[Any], object], url: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="base_url") as caught:
        make(url)
    link: BaseException | None = caught.value
    while link is not None:
        stack = traceback.TracebackException.from_exception(link, capture_locals=True).stack
        ours = [frame for frame in stack if frame.filename != __file__]
        assert "hunter2" not in str(link) + "".join(f"{frame.locals}" for frame in ours)
        link = link.__cause__ or link.__context__


@pytest.mark.parametrize(
    "settings",
    [
        {"timeout": 0},
        {"timeout": float("nan")},
        {"max_connections": 0},
        {"default_max_tokens": 0},
        {"model": ""},
    ],
)
def test_settings_out_of_range(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        make({"base_url": "http://localhost/v1", "model": "m", **settings})


@pytest.mark.parametrize("name", ["max_connections", "default_max_tokens"])
def test_counts_are_whole_numbers(name: str) -> None:
    with pytest.raises(TypeError, match=f"{name} must be a whole number"):
        make({"base_url": "http://localhost/v1", "model": "m", name: 2.5})


def make(settings: dict[str, Any]) -> Provider:
    return Provider(**settings)


def test_a_key_over_plain_http_warns_once() -> None:
    with pytest.warns(UserWarning, match="unencrypted"):
        Provider("http://plain.example/v1", "m", KEY)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Provider("http://plain.example/v1", "m", KEY)
        Provider("http://127.0.0.1/v1", "m", KEY)
        Provider("http://[::ffff:127.0.0.1]/v1", "m", KEY)
        Provider("http://other.example/v1", "m")


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("executionkit.providers.settings.has_aiohttp", lambda: False)
    with pytest.raises(ModuleNotFoundError, match=r"pip install \"\.\[fast\]\""):
        Provider("http://localhost/v1", "m", transport="aiohttp")


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"transport": "fast"}, ValueError, '"auto", "httpx", "aiohttp".*not \'fast\''),
        ({"transport": None}, TypeError, "handle_async_request.*NoneType has none"),
        ({"transport": httpx.Client}, TypeError, "a client is given as client"),
        ({"client": "http://localhost"}, TypeError, "build_request and send.*str has not"),
        (
            {"client": object(), "transport": httpx.AsyncHTTPTransport(verify=False)},
            ValueError,
            "either client or transport",
        ),
    ],
)
def test_what_is_no_transport_is_refused(settings: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        Provider("http://localhost/v1", "m", **settings)


@pytest.mark.parametrize(
    ("settings", "kind", "complaint"),
    [
        ({"dialect": "openai"}, TypeError, "dialect must be a Dialect, not str"),
        ({"retry": 3}, TypeError, "retry must be a RetryConfig"),
        ({"headers": [("a", "b")]}, TypeError, "headers must be a mapping"),
        ({"headers": {"a": 1}}, TypeError, "headers must be a mapping of str to str"),
        ({"headers": {"a b": "c"}}, ValueError, "cannot be the name of a header"),
        ({"headers": {"X-A": "b\r\nX-B: c"}}, ValueError, "printable ASCII"),
        ({"headers": {"X-A": "ü"}}, ValueError, "printable ASCII"),
        ({"headers": {"Content-Length": "1"}}, ValueError, "set by Provider itself"),
        ({"headers": {"Authorization": "Bearer secret"}}, ValueError, "give the key as api_key"),
        ({"headers": {"api-key": "secret"}}, ValueError, "give the key as api_key"),
        ({"extra_body": [1]}, TypeError, "extra_body must be a mapping"),
        ({"extra_body": {"messages": []}}, ValueError, "extra_body may not hold messages"),
        ({"extra_body": {"n": 4}}, ValueError, "several answers"),
        ({"extra_body": {"generation_config": {"candidateCount": 2}}}, ValueError, "several answers"),
        ({"extra_body": {"best_of": "4"}}, TypeError, "best_of must be a whole number"),
        ({"extra_body": {"stream": True}}, ValueError, "extra_body may not hold stream"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_refused(settings: Any, kind: type[Exception], complaint: str) -> None:
    with pytest.raises(kind, match=complaint) as caught:
        Provider(URL, "m", **settings)
    assert "secret" not in str(caught.value)
