"""A streamed completion: every piece by hand, and what becomes of pieces that are none."""

import json
from typing import Any

import pytest

from executionkit.core.usage import TokenUsage
from executionkit.provider import LLMResponse, ToolCall
from executionkit.providers.chat.deltas import Assembly, StreamChunk
from executionkit.providers.chat.redaction import NOTHING_SECRET, Redactor
from executionkit.providers.chat.wire import Unusable

KEY = "sk-12345678-abcdefgh"
USAGE = {"prompt_tokens": 3, "completion_tokens": 2}


def piece(delta: object = None, *, finish: str | None = None, **fields: object) -> str:
    return json.dumps({"choices": [{"delta": delta, "finish_reason": finish}], **fields})


def assembled(
    *pieces: str, redactor: Redactor = NOTHING_SECRET
) -> tuple[Assembly, list[StreamChunk | Unusable]]:
    assembly = Assembly(redactor)
    return assembly, [assembly.take(data) for data in pieces]


def test_a_text_comes_in_pieces() -> None:
    assembly, chunks = assembled(
        piece({"role": "assistant"}),
        piece({"content": ""}),
        piece({"content": "Par"}),
        piece({"content": "is"}, finish="length"),
        json.dumps({"choices": [], "usage": USAGE}),
        json.dumps({"usage": None}),
        json.dumps({}),
    )
    assert chunks == [
        StreamChunk(),
        StreamChunk(),
        StreamChunk("Par"),
        StreamChunk("is", "length"),
        StreamChunk(usage=USAGE),
        StreamChunk(),
        StreamChunk(),
    ]
    assert assembly.text == "Paris"
    assert (assembly.pieces, assembly.usage, assembly.finish_reason) == (2, USAGE, "length")
    assert assembly.finished() == LLMResponse("Paris", finish_reason="length", usage=USAGE)


def test_nothing_at_all_is_an_empty_answer() -> None:
    assembly, _ = assembled()
    assert assembly.finish_reason is None
    assert assembly.finished() == LLMResponse("")
    assert (assembly.text, assembly.pieces, assembly.flush(is_sound=True)) == ("", 0, "")


def test_the_last_usage_and_finish_reason_count() -> None:
    assembly, chunks = assembled(
        piece({"content": "a"}, usage={"prompt_tokens": 9}),
        piece(None, finish="stop", usage=USAGE),
        piece(None, usage="many"),
    )
    assert (assembly.usage, assembly.finish_reason) == (USAGE, "stop")
    assert chunks[0] == StreamChunk("a", None, {"prompt_tokens": 9})
    assert chunks[1] == StreamChunk("", "stop", USAGE)
    assert chunks[2] == StreamChunk()


def call(**fields: object) -> str:
    return piece({"tool_calls": [fields]})


def function(name: object = None, arguments: object = None) -> dict[str, Any]:
    return {"function": {"name": name, "arguments": arguments}}


@pytest.mark.parametrize(
    ("pieces", "calls"),
    [
        ([call(index=0, id="a", **function("f", "{}"))], (ToolCall("a", "f", {}),)),
        (
            [call(id="a", **function("f")), call(id="b", **function("g"))],
            (ToolCall("a", "f", {}), ToolCall("b", "g", {})),
        ),
        ([call(index=1, id="b"), call(index=0, id="a")], (ToolCall("a", "", {}), ToolCall("b", "", {}))),
        ([call(index=0, id="a"), call(index=0, id="a")], (ToolCall("a", "", {}),)),
        (
            [call(index=0, id="a", **function("f", "{}")), call(index=0, id="b", **function("g", "{}"))],
            (ToolCall("a", "f", {}), ToolCall("b", "g", {})),
        ),
        (
            [
                call(id="a", **function("f", '{"x"')),
                call(**function(None, ": 1}")),
                call(id="a", **function("", " ")),
            ],
            (ToolCall("a", "f", {"x": 1}),),
        ),
        (
            [call(**function("f", "{}")), call(**function("g", "{}"))],
            (ToolCall("call_1", "f", {}), ToolCall("call_2", "g", {})),
        ),
        (
            [call(index=0, id=7, **function("f", "{")), call(index=0, id=7, **function(None, "}"))],
            (ToolCall("7", "f", {}),),
        ),
        (
            [call(index=0, id="a", extra_content={"signature": "x"}), call(index=0, type="function", more=1)],
            (ToolCall("a", "", {}, {"extra_content": {"signature": "x"}, "more": 1}),),
        ),
        ([call(index=0), call(index=0, id="b")], (ToolCall("b", "", {}),)),
        (
            [call(index=0, **function("ge", '{"a"')), call(index=0, **function("t", ": 1}"))],
            (ToolCall("call_1", "get", {"a": 1}),),
        ),
        (
            [call(index=0, **function("f", {"a": 1})), call(index=0, **function(None, " "))],
            (ToolCall("call_1", "f", {"a": 1}),),
        ),
        ([call(index=0, **function("f", '{"a": 1')), call(index=0)], (ToolCall("call_1", "f", '{"a": 1'),)),
        ([call(index=0, id="a"), call(index=1, id="a")], (ToolCall("a", "", {}), ToolCall("a_1", "", {}))),
        ([call(index=7)], (ToolCall("call_1", "", {}),)),
    ],
)
def test_calls_are_put_together_by_their_index(pieces: list[str], calls: tuple[ToolCall, ...]) -> None:
    assembly, _ = assembled(*pieces)
    assert assembly.finished().tool_calls == calls
    assert assembly.pieces == len(pieces)


def test_pieces_of_two_calls_are_told_apart_where_a_server_counts_both_as_the_first() -> None:
    pieces = (
        call(index=0, id="a", **function("f", '{"x": ')),
        call(index=0, id="a", **function(None, "1}")),
        call(index=0, id="b", **function("f", "{}")),
        call(index=1, id="c", **function("g", "{}")),
        call(index=2, id="d", **function("g", "{}")),
    )
    assembly, chunks = assembled(*pieces)
    shown = [part.index for chunk in chunks if isinstance(chunk, StreamChunk) for part in chunk.calls]
    assert shown == [0, 0, 1, 2, 3]
    assert [found.id for found in assembly.finished().tool_calls] == ["a", "b", "c", "d"]


def test_unknown_fields_are_joined_where_they_are_texts_or_lists() -> None:
    assembly, _ = assembled(
        piece({"reasoning_content": "hm", "role": "assistant", "refusal": None}),
        piece({"reasoning_content": ", well", "signature": {"a": 1}, "number": 1}),
        piece({"signature": {"b": 2}, "number": "two", "reasoning_content": None, "details": [{"a": 1}]}),
        piece({"details": [{"b": 2}]}),
    )
    details = [{"a": 1}, {"b": 2}]
    extra = {"reasoning_content": "hm, well", "signature": {"b": 2}, "number": "two", "details": details}
    assert assembly.finished().extra == extra


@pytest.mark.parametrize(
    ("data", "unusable"),
    [
        ("", Unusable("a piece of the answer is not JSON: it is empty")),
        ("[]", Unusable("a piece of the answer is not a JSON object but a list")),
        ("null", Unusable("a piece of the answer is not a JSON object but a NoneType")),
        (
            '{"error": {"message": "no"}, "usage": {"prompt_tokens": 3, "completion_tokens": 2}}',
            Unusable("the server broke off with an error", TokenUsage(3, 2, 1), {"message": "no"}),
        ),
        (
            '{"error": "no", "choices": [{"delta": {"content": "a"}}]}',
            Unusable("the server broke off with an error", error={"message": "no"}),
        ),
        (
            '{"choices": 1}',
            Unusable(
                "a piece of the answer is not a completion: Expected `array | null`, got `int` - at `$.choices`"
            ),
        ),
    ],
)
def test_what_is_no_piece_says_why(data: str, unusable: Unusable) -> None:
    assembly, chunks = assembled(piece({"content": "a"}), data)
    assert chunks[1] == unusable
    assert assembly.text == "a"


@pytest.mark.parametrize("error", [None, "", {}, [], 0, False])
def test_an_empty_error_is_none(error: object) -> None:
    _, chunks = assembled(piece({"content": "a"}, error=error))
    assert chunks == [StreamChunk("a")]


def test_what_may_begin_the_key_is_held_back() -> None:
    assembly, chunks = assembled(
        piece({"content": "is sk-1"}), piece({"content": "2 or"}), redactor=Redactor(KEY)
    )
    assert chunks == [StreamChunk("is "), StreamChunk("sk-12 or")]
    assert assembly.text == "is sk-12 or"
    assert assembly.flush(is_sound=True) == ""


@pytest.mark.parametrize(
    ("end", "shown"), [("s", "s"), ("sk-", "sk-"), ("sk-1", "***"), ("sk-12345678", "***")]
)
def test_at_the_end_a_longer_beginning_of_the_key_stays_hidden(end: str, shown: str) -> None:
    assembly, chunks = assembled(piece({"content": f"is {end}"}), redactor=Redactor(KEY))
    assert chunks == [StreamChunk("is ")]
    assert assembly.flush(is_sound=False) == shown
    assert assembly.text == f"is {shown}"
    assert assembly.flush(is_sound=False) == ""


@pytest.mark.parametrize(
    ("end", "shown"), [("s", "s"), ("sk-12345678", "sk-12345678"), (KEY[:12], "***"), (KEY[:-1], "***")]
)
def test_a_sound_text_may_end_in_what_keys_share(end: str, shown: str) -> None:
    assembly, chunks = assembled(piece({"content": f"is {end}"}, finish="stop"), redactor=Redactor(KEY))
    assert chunks == [StreamChunk("is ", "stop")]
    assert assembly.flush(is_sound=True) == shown
    assert assembly.text == f"is {shown}"


def test_what_comes_behind_the_finish_reason_counts() -> None:
    assembly, chunks = assembled(
        piece({"content": f"is {KEY[:-3]}"}, finish="stop"),
        piece({"content": f"{KEY[-3:]}, s"}),
        redactor=Redactor(KEY),
    )
    assert chunks == [StreamChunk("is ", "stop"), StreamChunk("***, ")]
    assert (assembly.flush(is_sound=True), assembly.text) == ("s", "is ***, s")


def test_the_key_is_kept_out_of_every_field() -> None:
    escaped = KEY.replace("s", "\\u0073")
    data = f'{{"choices": [{{"delta": {{"content": "a", "x": ["{KEY}", "{escaped}"]}}}}]}}'
    assembly, _ = assembled(data, redactor=Redactor(KEY))
    assert assembly.finished().extra == {"x": ["***", "***"]}


def test_a_key_in_pieces_is_kept_out_of_what_is_joined() -> None:
    first, last = KEY[:9], KEY[9:]
    assembly, _ = assembled(
        piece({"reasoning_content": f"use {first}"}),
        piece({"reasoning_content": last}),
        call(index=0, id="1", **function(f"f_{first}", f'{{"key": "{first}')),
        call(index=0, **function(last, f'{last}"}}')),
        piece({}, finish="tool_calls"),
        redactor=Redactor(KEY),
    )
    whole = assembly.finished()
    assert whole.extra == {"reasoning_content": "use ***"}
    assert whole.tool_calls == (ToolCall("1", "f_***", {"key": "***"}),)


def test_what_stands_before_and_behind_the_usage_is_cleaned_too() -> None:
    _, chunks = assembled(
        piece({"content": f"a {KEY}"}, finish=KEY, usage={"note": KEY}), redactor=Redactor(KEY)
    )
    assert chunks == [StreamChunk("a ***", "***", {"note": "***"})]


def test_the_choice_that_comes_first_is_followed() -> None:
    def of(index: object, content: str, finish: str | None = None) -> str:
        choice = {"index": index, "delta": {"content": content}, "finish_reason": finish}
        return json.dumps({"choices": [choice]})

    assembly, chunks = assembled(of(1, "a"), of(0, "x", "length"), of(1, "b", "stop"))
    assert chunks == [StreamChunk("a"), StreamChunk(), StreamChunk("b", "stop")]
    assert (assembly.text, assembly.finish_reason, assembly.pieces) == ("ab", "stop", 3)
    assembly, _ = assembled(of(None, "a"), of(0, "b"))
    assert assembly.text == "ab"


def test_content_may_come_in_parts() -> None:
    assembly, chunks = assembled(piece({"content": [{"type": "text", "text": "a"}, {"type": "thinking"}]}))
    assert chunks == [StreamChunk("a")]
    assert assembly.text == "a"


@pytest.mark.parametrize(
    "delta", [{"content": 5}, {"content": [5]}, {"tool_calls": "f"}, {"tool_calls": [5]}]
)
def test_a_delta_of_the_wrong_kind_is_unusable(delta: dict[str, object]) -> None:
    _, chunks = assembled(piece(delta))
    assert isinstance(chunks[0], Unusable)
    assert chunks[0].reason.startswith("a piece of the answer is not a completion: Expected")
    assert chunks[0].usage == TokenUsage(llm_calls=1)


def test_pieces_of_thought_count_as_paid_for() -> None:
    assembly, _ = assembled(
        piece({"role": "assistant", "refusal": None, "x": ""}), piece({"reasoning_content": "hm"})
    )
    assert assembly.pieces == 1


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a": ', "}")])
def test_what_is_nested_too_deep_says_so(opening: str, closing: str) -> None:
    _, chunks = assembled(f'{{"choices": [{{"delta": {{"x": {opening * 100}0{closing * 100}}}}}]}}')
    assert chunks == [Unusable("a piece of the answer is not JSON: it is nested more than 100 levels deep")]


def test_what_is_wide_is_not_deep() -> None:
    many: dict[str, Any] = {"content": "a", "x": [[]] * 150}
    assert assembled(piece(many))[1] == [StreamChunk("a")]


def test_an_empty_finish_reason_is_none() -> None:
    assembly, chunks = assembled(piece({"content": "a"}, finish=""))
    assert chunks == [StreamChunk("a")]
    assert assembly.finish_reason is None


def test_several_choices_in_one_event_are_all_paid_for() -> None:
    choices = [{"index": index, "delta": {"content": "a"}} for index in (0, 1, 2)]
    assembly, chunks = assembled(json.dumps({"choices": choices}))
    assert chunks == [StreamChunk("a")]
    assert assembly.pieces == 3


def test_thoughts_come_apart_from_the_text() -> None:
    assembly, chunks = assembled(
        piece({"content": "<think>3 of"}),
        piece({"content": " 10</think>\n\nSco"}),
        piece({"content": "re: 9"}, finish="stop"),
    )
    assert chunks == [
        StreamChunk(reasoning="3 of"),
        StreamChunk("Sco", reasoning=" 10"),
        StreamChunk("re: 9", "stop"),
    ]
    assert (assembly.flush(is_sound=True), assembly.text, assembly.reasoning) == ("", "Score: 9", "3 of 10")
    assert assembly.finished() == LLMResponse("Score: 9", reasoning="3 of 10")


def test_thoughts_in_fields_and_parts_are_joined() -> None:
    part = {"type": "thinking", "thinking": [{"type": "text", "text": "well"}]}
    assembly, chunks = assembled(
        piece({"reasoning_content": "hm, ", "reasoning": "hm, "}),
        piece({"content": [part]}),
        piece({"content": "9"}),
    )
    assert chunks == [StreamChunk(reasoning="hm, "), StreamChunk(reasoning="well"), StreamChunk("9")]
    assert assembly.finished().reasoning == "hm, well"
    assert assembly.pieces == 3


def test_thoughts_that_were_cut_are_no_text() -> None:
    assembly, _ = assembled(piece({"content": "<think>3 of</"}, finish="length"))
    assert assembly.flush(is_sound=True) == ""
    response = assembly.finished()
    assert (response.content, response.reasoning, response.why_empty is not None) == ("", "3 of</", True)


def test_the_key_is_kept_out_of_thoughts_in_pieces() -> None:
    first, last = KEY[:9], KEY[9:]
    assembly, chunks = assembled(
        piece({"reasoning_content": f"use {first}"}),
        piece({"reasoning_content": f"{last}."}),
        redactor=Redactor(KEY),
    )
    assert chunks == [StreamChunk(reasoning="use "), StreamChunk(reasoning="***.")]
    assembly, _ = assembled(piece({"content": f"<think>use {KEY[:-2]}"}), redactor=Redactor(KEY))
    assembly.flush(is_sound=False)
    assert assembly.finished().reasoning == "use ***"


def test_a_refusal_among_the_parts_is_one() -> None:
    assembly, _ = assembled(
        piece({"content": [{"type": "refusal", "refusal": "I can"}]}),
        piece({"content": [{"type": "refusal", "refusal": "not."}]}, finish="stop"),
    )
    assert assembly.finished().refusal == "I cannot."


@pytest.mark.parametrize("beside", [{}, {"index": 0}, {"id": "a"}, {"index": 0, "id": "a"}])
def test_a_name_in_every_piece_is_said_once(beside: dict[str, Any]) -> None:
    pieces = [call(**beside, **function("read_file", part)) for part in ("", '{"path"', ': "a"}')]
    assembly, _ = assembled(*pieces)
    (found,) = assembly.finished().tool_calls
    assert (found.name, found.arguments) == ("read_file", {"path": "a"})


def test_a_name_said_again_behind_whole_arguments_is_another_call() -> None:
    assembly, _ = assembled(call(**function("f", '{"a": 1}')), call(**function("f", '{"a": 2}')))
    assert [each.arguments for each in assembly.finished().tool_calls] == [{"a": 1}, {"a": 2}]


def test_halves_of_a_pair_are_joined_wherever_they_are() -> None:
    assembly, chunks = assembled(
        '{"choices": [{"delta": {"content": "a\\ud83d", "reasoning_content": "\\ud83d", "x": "\\ud83d"}}]}',
        '{"choices": [{"delta": {"content": "\\ude00b", "reasoning_content": "\\ude00", "x": "\\ude00"}}]}',
        call(index=0, id="\ud83d", **function("f", '{"a": "\ud83d')),
        call(index=0, **function(None, '\ude00\ud83d"}')),
        '{"choices": [{"delta": {"content": "\\ud83d"}, "finish_reason": "stop"}]}',
    )
    assert chunks[:2] == [StreamChunk("a"), StreamChunk("\U0001f600b", reasoning="\U0001f600")]
    assert assembly.flush(is_sound=True) == "\ufffd"
    whole = assembly.finished()
    assert (whole.content, whole.reasoning) == ("a\U0001f600b\ufffd", "\U0001f600")
    assert whole.extra == {"reasoning_content": "\U0001f600", "x": "\U0001f600"}
    assert whole.tool_calls == (ToolCall("\ufffd", "f", {"a": "\U0001f600\ufffd"}),)


@pytest.mark.parametrize(
    ("data", "kind", "error"),
    [
        ('{"message": "full"}', "error", {"message": "full"}),
        ("full", "error", {"message": "full"}),
        ("[1]", "error", {"message": "[1]"}),
        ('{"error": {"message": "full"}}', "error", {"message": "full"}),
        ('{"detail": "full"}', "message", {"detail": "full"}),
        ('{"choices": [], "error": "full"}', "message", {"message": "full"}),
        ('{"choices": [{"delta": {}, "error": {"message": "full"}}]}', "message", {"message": "full"}),
        ('{"x_groq": {"error": "full"}}', "message", {"message": "full"}),
        (
            '{"base_resp": {"status_code": 1, "status_msg": "full"}}',
            "message",
            {"status_code": 1, "status_msg": "full"},
        ),
    ],
)
def test_an_error_in_a_stream_is_heard(data: str, kind: str, error: dict[str, Any]) -> None:
    unusable = Assembly(NOTHING_SECRET).take(data, kind)
    assert unusable == Unusable("the server broke off with an error", error=error)


@pytest.mark.parametrize(
    "data",
    [
        "{}",
        '{"choices": []}',
        '{"type": "ping"}',
        '{"x_groq": {"id": "x"}}',
        '{"choices": null, "usage": null}',
    ],
)
def test_a_piece_that_says_nothing_is_no_error(data: str) -> None:
    assert Assembly(NOTHING_SECRET).take(data) == StreamChunk()


@pytest.mark.parametrize(
    "fields", [{"usage": USAGE}, {"x_groq": {"usage": USAGE}}, {"choices": [{"delta": None, "usage": USAGE}]}]
)
def test_usage_is_found_wherever_it_stands(fields: dict[str, Any]) -> None:
    assembly = Assembly(NOTHING_SECRET)
    assert assembly.take(json.dumps(fields)) == StreamChunk(usage=USAGE)
    assert assembly.usage == USAGE


def test_an_answer_that_ends_in_an_error_is_none() -> None:
    _, chunks = assembled(piece({"content": "half"}), piece({}, finish="error", usage=USAGE))
    assert chunks[1] == Unusable(
        "the server broke off with an error (finish reason 'error')", TokenUsage(3, 2, 1)
    )


def test_a_whole_message_in_one_piece_is_read() -> None:
    assembly, chunks = assembled('{"choices": [{"message": {"content": "Paris"}, "finish_reason": "stop"}]}')
    assert chunks == [StreamChunk("Paris", "stop")]
    again, _ = assembled(piece({"content": "Paris"}), '{"choices": [{"message": {"content": "Paris"}}]}')
    assert (assembly.text, again.text) == ("Paris", "Paris")
