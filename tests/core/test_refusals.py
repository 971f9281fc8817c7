"""What is no answer: decided in one place, whatever the fields hold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executionkit.core.refusals import noted_refusal, refusal_in, why_refused
from executionkit.core.voting.samples import Choice, read_choices
from executionkit.provider import LLMResponse

_JUNK = (
    st.none()
    | st.text()
    | st.booleans()
    | st.integers()
    | st.lists(st.text())
    | st.dictionaries(st.text(), st.text())
)


@pytest.mark.parametrize(
    ("finish_reason", "said", "refusal"),
    [
        ("stop", None, None),
        ("stop", "", None),
        ("length", {}, None),
        (None, None, None),
        ("stop", "No.", "No."),
        ("content_filter", None, "content_filter"),
        ("content_filter", "", "content_filter"),
        ("content_filter", "No.", "No."),
        ("stop", {"code": 7}, '{"code":7}'),
        ("stop", True, "true"),
    ],
)
def test_the_text_of_a_refusal_goes_before_the_filter(
    finish_reason: object, said: object, refusal: str | None
) -> None:
    assert refusal_in(finish_reason, said) == refusal


@given(st.sampled_from(["stop", "content_filter", "length"]), _JUNK)
def test_every_reader_decides_alike(finish_reason: str, said: object) -> None:
    refusal = refusal_in(finish_reason, said)
    response = LLMResponse("text", finish_reason=finish_reason, extra={"refusal": said})
    assert (response.refusal, response.was_refused) == (refusal, refusal is not None)
    choice = {"message": {"content": "text", "refusal": said}, "finish_reason": finish_reason}
    _, second = read_choices(Choice("first"), {"choices": [choice, choice]})
    assert second.was_refused is response.was_refused


def test_metadata_has_a_key_only_where_there_was_a_refusal() -> None:
    assert (noted_refusal(None), noted_refusal("No.")) == ({}, {"refusal": "No."})


def test_a_reason_is_bounded() -> None:
    assert len(why_refused("no " * 10**6)) < 300
