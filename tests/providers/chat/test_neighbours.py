"""What servers send that is near to what is known: in other names, other places, other forms."""

import json
from typing import Any, cast

import httpx
import pytest

from executionkit import (
    Outcome,
    Provider,
    RetryConfig,
    Stage,
    complete,
    consensus,
    react,
    refine,
    structured,
    tool,
)
from executionkit.errors import EvaluationError, LLMError

pytestmark = pytest.mark.anyio

NO_RETRY = RetryConfig(max_retries=0)
PLAIN: dict[str, str] = {}
"""No header beside those that there are always."""
USAGE: dict[str, Any] = {"prompt_tokens": 3, "completion_tokens": 2}


class Server:
    """Answers one request after the other, and the last for ever."""

    def __init__(self, *answers: object) -> None:
        self.answers = answers
        self.asked: list[dict[str, Any]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(json.loads(request.content))
        answer = self.answers[min(len(self.asked), len(self.answers)) - 1]
        if isinstance(answer, tuple):
            status, content, headers = cast("tuple[int, object, dict[str, str]]", answer)
            content = content if isinstance(content, bytes) else json.dumps(content).encode()
            return httpx.Response(status, content=content, headers=headers)
        return httpx.Response(200, json=answer)

    @property
    def provider(self) -> Provider:
        return Provider("https://h.example/v1", "m", "sk-test-1234", transport=httpx.MockTransport(self))

    async def run(self, stage: Stage[str, Any]) -> Outcome[Any]:
        return await stage.run(self.provider, "q", retry=NO_RETRY)


def said(content: object, **more: object) -> dict[str, Any]:
    message = {"role": "assistant", "content": content, **more}
    return {"choices": [{"finish_reason": "stop", "message": message}], "usage": USAGE}


async def test_thoughts_between_triangles_do_not_score() -> None:
    server = Server(said("draft"), said("\u25c1think\u25b7Score: 3? No.\u25c1/think\u25b7\nScore: 9"))
    assert (await server.run(refine(max_iterations=0))).unwrap().score == 0.9
    server = Server(said("\u25c1think\u25b7so it is cut o"))
    answer = (await server.run(complete())).unwrap()
    assert answer.value == ""
    server = Server(said("draft"), said("\u25c1think\u25b7Score: 3"))
    assert isinstance((await server.run(refine(max_iterations=0))).failure(), EvaluationError)


@pytest.mark.parametrize("blank", ["\u200b", "\ufeff \u200b", "\u2060\n"])
async def test_what_does_not_show_does_not_vote(blank: str) -> None:
    server = Server(*map(said, [blank, "42", blank, "42", blank]))
    result = (await server.run(consensus(5, max_concurrency=1))).unwrap()
    assert (result.value, result.metadata["abstentions"]) == ("42", 3)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ([{"error": {"code": 400, "message": "API key not valid"}}], "API key not valid"),
        ({"ResponseMetadata": {"Error": {"Code": "X", "Message": "no such endpoint"}}}, "no such endpoint"),
    ],
)
async def test_the_servers_words_wherever_it_puts_them(answer: object, words: str) -> None:
    assert words in str((await Server(answer).run(complete())).failure())


@pytest.mark.parametrize("code", ["context_length_exceeded", "content_filter"])
async def test_a_code_alone_tells_that_it_is_not_the_form(code: str) -> None:
    server = Server((400, {"error": {"message": "Request refused.", "code": code}}, PLAIN))
    error = (await server.run(structured(int))).failure()
    assert len(server.asked) == 1
    assert isinstance(error, LLMError)
    assert error.metadata["code"] == code


PIECES: list[dict[str, Any]] = [
    {"choices": [{"index": 0, "delta": {"content": "Pa"}}]},
    {"choices": [{"index": 0, "delta": {"content": "ris"}, "finish_reason": "stop"}], "usage": USAGE},
]


def events(*pieces: object, end: str = "data: [DONE]\n\n") -> bytes:
    return ("".join(f"data: {json.dumps(piece)}\n\n" for piece in pieces) + end).encode()


@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf", b": hello\n\n", b"event: message\n"])
@pytest.mark.parametrize("label", ["text/event-stream", "application/json"])
async def test_a_stream_that_nobody_asked_for_is_an_answer(before: bytes, label: str) -> None:
    server = Server((200, before + events(*PIECES), {"content-type": label}))
    result = (await server.run(complete())).unwrap()
    assert (result.value, result.cost.input_tokens, result.cost.output_tokens) == ("Paris", 3, 2)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (events(PIECES[0]), "without a finish reason"),
        (events(PIECES[0], {"error": {"message": "gone"}}), "gone"),
        (events(PIECES[0], end=""), "without a finish reason"),
    ],
)
async def test_one_that_is_not_whole_is_none(body: bytes, words: str) -> None:
    assert words in str((await Server((200, body, PLAIN)).run(complete())).failure())


def call(arguments: object) -> dict[str, Any]:
    return {"id": "a", "type": "function", "function": {"name": "read", "arguments": arguments}}


@pytest.mark.parametrize("arguments", [5, [1], True, 1.5])
async def test_arguments_of_another_type_are_an_observation(arguments: object) -> None:
    @tool
    def read(path: str) -> str:
        """Read."""
        return path

    server = Server(said(None, tool_calls=[call(arguments)]), said("done"))
    assert (await server.run(react([read]))).unwrap().value == "done"
    sent, observed = server.asked[1]["messages"][-2:]
    assert isinstance(json.loads(sent["tool_calls"][0]["function"]["arguments"]), dict)
    assert "InvalidArguments" in observed["content"]


async def test_a_streamed_call_in_the_old_place_is_made() -> None:
    seen: list[str] = []

    @tool
    def read(path: str) -> str:
        """Read."""
        seen.append(path)
        return path

    parts: list[dict[str, Any]] = [
        {"function_call": {"name": "read", "arguments": '{"pa'}},
        {"function_call": {"arguments": 'th": "x"}'}},
    ]
    pieces: list[dict[str, Any]] = [{"choices": [{"index": 0, "delta": part}]} for part in parts]
    end: dict[str, Any] = {
        "choices": [{"index": 0, "delta": {}, "finish_reason": "function_call"}],
        "usage": USAGE,
    }
    server = Server((200, events(*pieces, end), PLAIN), (200, events(*PIECES), PLAIN))
    async with react([read]).stream(server.provider, "q", retry=NO_RETRY) as run:
        assert "".join([text async for text in run.text()]) == "Paris"
    assert seen == ["x"]


@pytest.mark.parametrize("header", ["x-trace-id", "x-generation-id", "x-vercel-id"])
async def test_the_request_is_named_in_other_headers(header: str) -> None:
    error = (await Server((500, b"down", {header: "id-1"})).run(complete())).failure()
    assert error.metadata["request_id"] == "id-1"


@pytest.mark.parametrize(
    ("text", "is_shown"),
    [("token: abcdef0123456789abcd", False), ("token=abcdef0123456789abcd", False), ("token: 4096", True)],
)
async def test_a_token_that_is_echoed_is_hidden(text: str, is_shown: bool) -> None:
    error = (await Server((400, {"error": {"message": f"got {text}"}}, PLAIN)).run(complete())).failure()
    assert (text.rsplit(maxsplit=1)[-1] in str(error)) is is_shown


@pytest.mark.parametrize(
    "end",
    [b"", b'data: {"error": {"message": "overloaded", "code": 503}}\n\n', b"data: {\n\n"],
    ids=["no end", "an error", "no JSON"],
)
async def test_a_stream_unasked_for_that_breaks_off_costs_what_it_reported(end: bytes) -> None:
    piece = {"choices": [{"delta": {"content": "4"}}], "usage": {"prompt_tokens": 30, "completion_tokens": 7}}
    server = Server((200, b"data: " + json.dumps(piece).encode() + b"\n\n" + end, PLAIN))
    error = (await server.run(complete())).failure()
    assert (error.cost.input_tokens, error.cost.output_tokens, error.cost.llm_calls) == (30, 7, 1)


@pytest.mark.parametrize("beside", [186, 190, 193])
async def test_a_code_that_is_cut_within_the_key_shows_none_of_it(beside: int) -> None:
    code = "x" * beside + "-sk-test-1234"
    server = Server((400, {"error": {"message": "no", "code": code}}, PLAIN))
    error = (await server.run(complete())).failure()
    assert "sk-te" not in str(error.metadata["code"])
