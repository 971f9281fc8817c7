"""Readers of a stranger's bytes, each with what must hold of its result; for the suite and for `just fuzz`."""

import gzip
import json
import random
from collections.abc import Callable

from executionkit.core.json_text import find_json
from executionkit.core.rate_limit import read_duration
from executionkit.core.usage import TokenUsage
from executionkit.errors import LLMError
from executionkit.provider import LLMResponse
from executionkit.providers.chat.deltas import Assembly, StreamChunk
from executionkit.providers.chat.failures import refused, unusable
from executionkit.providers.chat.redaction import Redactor
from executionkit.providers.chat.retry_after import read_retry_after
from executionkit.providers.chat.sse import EventParser, ServerEvent
from executionkit.providers.chat.wire import Unusable, decode_completion
from executionkit.providers.http.body import _Gunzip  # pyright: ignore[reportPrivateUsage]
from executionkit.providers.http.exchange import ExchangeError, Head
from tests.providers.chat.test_wire import any_body

KEY = "sk-fuzz/1+2=3"
REDACTOR = Redactor(KEY)


def check_cost(cost: TokenUsage) -> None:
    assert cost.llm_calls == 1
    assert 0 <= cost.input_tokens <= 10**9
    assert 0 <= cost.output_tokens <= 10**9


def read_answer(data: bytes) -> None:
    """A body that came with a 200."""
    answer = decode_completion(data, REDACTOR)
    assert isinstance(answer, LLMResponse | Unusable)
    if isinstance(answer, LLMResponse):
        identities = [call.id for call in answer.tool_calls]
        assert len({*identities, ""}) == len(identities) + 1
        assert answer.total_tokens >= 0
    else:
        check_cost(answer.usage)
        error = unusable(Head(200, {}), answer, REDACTOR)
        assert KEY not in str(error)


def read_error(data: bytes) -> None:
    """A body that came with another status, and its headers."""
    status, header, body = 300 + data[0] % 300 if data else 500, data[1:9].decode("latin-1"), data[9:]
    head = Head(status, {"x-should-retry": header, "x-request-id": header, "retry-after": header})
    error = refused(head, body, REDACTOR)
    assert isinstance(error, LLMError)
    check_cost(error.cost)
    assert len(str(error)) < 1000
    assert KEY not in str(error)


def read_stream(data: bytes) -> None:
    """A stream: however it is cut, the same events; each a chunk or a reason."""
    cut = data[0] if data else 0
    body = data[1:]
    whole, pieces = EventParser(), EventParser()
    events = whole.feed(body)
    found: list[ServerEvent] = []
    for start in range(0, len(body), cut + 1):
        found += pieces.feed(body[start : start + cut + 1])
    assert found == events
    assembly = Assembly(REDACTOR)
    texts: list[str] = []
    for event in events:
        chunk = assembly.take(event.data)
        assert isinstance(chunk, StreamChunk | Unusable)
        texts += [chunk.text] if isinstance(chunk, StreamChunk) else []
    texts.append(assembly.flush(is_sound=True))
    response = assembly.finished()
    assert response.content == "".join(texts)
    assert KEY not in response.content


def read_deltas(data: bytes) -> None:
    """The data of events, a line each."""
    read_stream(b"\xff" + b"".join(b"data: " + line + b"\n\n" for line in data.splitlines()))


def read_waits(data: bytes) -> None:
    """Headers that say how long to wait."""
    text = data.decode("utf-8", "replace")
    for name in ("retry-after", "retry-after-ms"):
        wait = read_retry_after({name: text}, 1_700_000_000.0)
        assert wait is None or 0 <= wait < float("inf")
    duration = read_duration(text)
    assert duration is None or 0 <= duration < float("inf")


def read_prose(data: bytes) -> None:
    """What a model wrote, with JSON in it."""
    text = data.decode("utf-8", "replace")
    for was_cut in (False, True):
        assert all(piece in text for piece in find_json(text, was_cut=was_cut).values)


def read_compressed(data: bytes) -> None:
    """A body compressed with gzip, however broken."""
    unzip, limit = _Gunzip(), 100_000
    try:
        assert len(unzip.feed(data, limit)) <= limit + 1
        unzip.check_end()
    except ExchangeError:
        pass


READERS: list[Callable[[bytes], None]] = [
    read_answer,
    read_error,
    read_stream,
    read_deltas,
    read_waits,
    read_prose,
    read_compressed,
]


def one_input(data: bytes) -> None:
    """Hand an input to the reader that its first byte picks."""
    if data:
        READERS[data[0] % len(READERS)](data[1:])


def seeds() -> list[bytes]:
    """Return inputs to begin with: shapes that the suite tries, and a few by hand."""
    shapes = [json.dumps(any_body(random.Random(seed))).encode() for seed in range(150)]
    prose = [b'Sure: {"a": [1]} or ```json\n[2]\n``` <think>x</think> {"b": 3}']
    waits = [b"2.5", b"Thu, 01 Jan 2170 00:00:10 GMT", b"1m30s", b"-1"]
    zipped = [gzip.compress(b"hello")]
    streams = [b"\x03data: " + shape + b"\r\n\r\nevent: x\rid: 1\rdata: [DONE]\n\n" for shape in shapes]
    errors = [b"\x01retry-it" + shape for shape in shapes]
    kinds = [shapes, errors, streams, shapes, waits, prose, zipped]
    return [bytes([number]) + data for number, kind in enumerate(kinds) for data in kind]
