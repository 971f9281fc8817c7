"""Credentials of others that a server echoes are hidden; plain words are not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executionkit.providers.chat.credentials import hide_credentials
from executionkit.providers.chat.failures import describe, refused
from executionkit.providers.chat.redaction import NOTHING_SECRET
from executionkit.providers.http.exchange import Head

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
SECRETS = [
    "ghp_0123456789abcdefghijABCDEFGHIJ012345",
    "gho_0123456789abcdefghijABCDEFGHIJ012345",
    "github_pat_11ABCDEFG0123456789_abcdefghijklmnop",
    "glpat-0123456789abcdefghij",
    "AIzaSyA0123456789abcdefghijklmnopqrstuv",
    "xoxb-123456789012-abcdefghijkl",
    "xoxp-123456789012-abcdefghijkl",
    "sk-0123456789abcdefghijklmnop",
    "sk-abcdefghijklmnopqrstuvwxyz",
    "sk-proj-abcdefghij_klmnop",
    "sk-ant-api03-abcdefghij-klmnop",
    "sk-or-v1-0123456789abcdef",
    "AKIAIOSFODNN7EXAMPLE",
    "ASIAIOSFODNN7EXAMPLE",
    "hf_abcdefghijklmnopqrstuvwxyz",
    "gsk_abcdefghijklmnop0123456789",
    "xai-abcdefghij0123456789",
    "nvapi-abcdefghij0123456789",
    JWT,
    JWT.rpartition(".")[0],
]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("around", ["{}", "key {} is wrong", "'{}'", '{{"key": "{}"}}', "({}).", "x={}&y=1"])
def test_known_shapes_are_hidden(secret: str, around: str) -> None:
    hidden = hide_credentials(around.format(secret))
    assert secret not in hidden
    assert secret[6:] not in hidden
    assert "***" in hidden


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("Authorization: Bearer abc.def-123 was refused", "Authorization: Bearer *** was refused"),
        ("bearer%20abcdef123456", "bearer%20***"),
        ("Basic dXNlcjpwYXNz", "Basic ***"),
        ("api_key=hunter2hunter2&x=1", "api_key=***&x=1"),
        ("?key=abcdefgh&alt=sse", "?key=***&alt=sse"),
        ("x-api-key: abcdef0123456789", "x-api-key: ***"),
        ('{"api_key": "abcdef0123456789"}', '{"api_key": "***"}'),
        ("client_secret=abcdefgh", "client_secret=***"),
        ("password=opensesame,", "password=***,"),
        ("https://bob:s3cret@proxy.local:8080/x", "https://***@proxy.local:8080/x"),
        ("https://t0ken@host/x", "https://***@host/x"),
        ("-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY----- after", "*** after"),
    ],
)
def test_what_stands_in_its_place_is_hidden(text: str, hidden: str) -> None:
    assert hide_credentials(text) == hidden


@pytest.mark.parametrize(
    "text",
    [
        "Bearer authentication is required; basic authentication is not allowed",
        "Incorrect API key provided: check the key",
        "unknown key: max_completion_tokens, token: expected",
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
        "This model's maximum context length is 8192 tokens (8000 in the messages, 4096 in the completion).",
        "api_key=None",
        "see https://platform.openai.com/account/api-keys, mail a@b.example",
        "risk-averse-and-task-based models, sk-learn",
        "messages[0].content: Input should be a valid string",
    ],
)
def test_plain_words_are_shown(text: str) -> None:
    assert hide_credentials(text) == text


@given(st.text())
def test_any_text_is_taken(text: str) -> None:
    assert isinstance(hide_credentials(text), str)


def test_no_text_takes_long() -> None:
    for hostile in (
        "a-" * 4000,
        "api-" * 2000,
        "https://" * 1000,
        "Bearer " * 1000,
        "eyJ" * 2500,
        "x" * 8000,
    ):
        hide_credentials(hostile)  # the suite's time-out is the bound


def test_a_message_and_a_request_id_show_no_credential() -> None:
    body = b'{"error": {"message": "upstream refused Bearer ghp_0123456789abcdefghij"}}'
    error = refused(Head(500, {"x-request-id": "AKIAIOSFODNN7EXAMPLE"}), body, NOTHING_SECRET)
    assert str(error) == "the server answered 500: upstream refused Bearer ***"
    assert error.metadata["request_id"] == "***"
    assert describe(Head(200, {}), NOTHING_SECRET, f"r {JWT}")["request_id"] == "r ***"
