"""What went wrong, as servers say it: the words, the codes and a wish for a pause, wherever they put them."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, cast

import msgspec

from executionkit.core.encoding import json_text
from executionkit.core.json import decode_json
from executionkit.core.rate_limit import read_duration

__all__ = ["LONGEST_CODE", "Complaint", "complaint_in_answer", "read_complaint"]

_WORDS: Final = (
    *("message", "msg", "status_msg", "error_msg", "error_message", "errorMessage", "faultstring"),
    *("error_description", "Message", "detail", "description"),
)
_HOLDERS: Final = (
    "error",
    "errors",
    "base_resp",
    "fault",
    "details",
    "err",
    "exception",
    "Error",
    "response",
    "ResponseMetadata",
)
_LAST_WORDS: Final = ("reason", "title", "text")
_CODES: Final = (
    *("code", "type", "status", "error_code", "errorCode", "status_code", "statusCode", "errorcode"),
    *("reason", "__type", "Code", "error"),
)
_IDS: Final = ("request_id", "requestId", "RequestId", "request-id")
_WAITS: Final = {
    "retryDelay": 1.0,
    "retry_after": 1.0,
    "retryAfter": 1.0,
    "retry_after_seconds": 1.0,
    "retry_after_ms": 0.001,
}
_DEEPEST: Final = 8
_MOST: Final = 8
LONGEST_CODE: Final = 200
"""Characters of what a server calls an error; the rest is cut off."""
_LONGEST: Final = 4096

_UNIT: Final = r"(?:milliseconds?|minutes?|seconds?|hours?|mins?|secs?|hrs?|ms|s|m|h)"
_STEP: Final = rf"\d{{1,9}}(?:\.\d{{1,9}})?\s?{_UNIT}(?![a-z])"
_AGAIN: Final = re.compile(
    rf"\b(?:try again|retry|retrying|wait)\b[^\d\n]{{0,40}}({_STEP}(?:\s?{_STEP}){{0,3}})", re.IGNORECASE
)
_AMOUNT: Final = re.compile(rf"(\d{{1,9}}(?:\.\d{{1,9}})?)\s?({_UNIT})", re.IGNORECASE)


class Complaint(msgspec.Struct, frozen=True):
    """What a server says went wrong.

    Args:
        words: Its own words; empty where it has none.
        codes: What it calls the error.
        status: The HTTP status that it names; None where it names none.
        wait: Seconds that it asks to wait; None where it does not say.
        request_id: What it calls the request; empty where it does not say.
    """

    words: str = ""
    codes: tuple[str, ...] = ()
    status: int | None = None
    wait: float | None = None
    request_id: str = ""


def read_complaint(body: object) -> Complaint:
    """Read decoded JSON in which a server says what went wrong; total, whatever it is.

    >>> read_complaint({"detail": {"error": {"message": "no such model", "code": "404"}}})
    Complaint(words='no such model', codes=('404',), status=404, wait=None, request_id='')
    >>> read_complaint({"base_resp": {"status_code": 2049, "status_msg": "invalid api key"}}).words
    'invalid api key'
    >>> read_complaint({"detail": [{"loc": ["body", "n"], "msg": "not an integer", "type": "int"}]}).words
    'body.n: not an integer'
    """
    words = _words(body)
    objects = [*_objects(body)]
    codes = [*dict.fromkeys(_codes(objects))]
    statuses = [int(code) for code in codes if re.fullmatch(r"[1-5]\d\d", code, re.ASCII)]
    waits = [
        wait
        for each in objects
        for name, scale in _WAITS.items()
        if (wait := _wait(each.get(name), scale)) is not None
    ]
    if not waits and (stated := _AGAIN.search(words[:_LONGEST])):
        waits = [sum(float(number) * _seconds(unit) for number, unit in _AMOUNT.findall(stated[1]))]
    ids = [found for each in objects for name in _IDS if isinstance(found := each.get(name), str) and found]
    return Complaint(
        words,
        tuple(codes),
        statuses[0] if statuses else None,
        waits[0] if waits else None,
        ids[0] if ids else "",
    )


def complaint_in_answer(raw: Mapping[str, object]) -> Mapping[str, object] | None:
    """Return the object in which a success says that it is none; None where it does not.

    >>> complaint_in_answer({"choices": None, "base_resp": {"status_code": 1004, "status_msg": "no"}})
    {'status_code': 1004, 'status_msg': 'no'}
    >>> complaint_in_answer({"choices": [{"message": {}}], "base_resp": {"status_code": 0}})
    """
    choices = raw.get("choices")
    first = cast("list[object]", choices)[0] if isinstance(choices, list) and choices else None
    for holder in (raw, first, _fields(first).get("message"), raw.get("x_groq")):
        error = _fields(holder).get("error")
        if error and (not choices or _is_bad(error)):
            return _fields(error) or {"message": _as_words(error)}
    base = _fields(raw.get("base_resp"))
    if base and not _is_fine(base.get("status_code")):
        return base
    if choices:
        return None
    rest = {
        name: value
        for name, value in raw.items()
        if name not in {"choices", "usage", "id", "model", "base_resp"}
    }
    return rest if _words(rest) else None


def _is_fine(code: object) -> bool:
    return code is None or (isinstance(code, str | int) and code in _FINE)


_FINE: Final = frozenset({0, "0", 200, "200", "success", "ok", ""})


def _is_bad(error: object) -> bool:
    """Whether an error beside an answer says something, and not that all is well."""
    code = _fields(error).get("code")
    return (code is None or not _is_fine(code)) and bool(_words(error))


def _fields(value: object) -> dict[str, object]:
    """Return an object's fields; none where it is no object."""
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}


def _as_words(error: object) -> str:
    return error if isinstance(error, str) else _words(error) or json_text(error)


def _words(value: object, depth: int = 0) -> str:
    """Return the first words in what may be a text, JSON in a text, an object, or a list of those."""
    if depth > _DEEPEST:
        return ""
    if isinstance(value, str):
        text = value.strip()
        inner = decode_json(text) if text[:1] in {"{", "["} and len(text) <= _LONGEST else None
        return _words(inner, depth + 1) or text
    if isinstance(value, list):
        return _joined(cast("list[object]", value), depth)
    return _words_of_object(cast("dict[str, object]", value), depth) if isinstance(value, dict) else ""


def _words_of_object(given: Mapping[str, object], depth: int) -> str:
    if "msg" in given and isinstance(place := given.get("loc"), list):
        where = ".".join(
            str(step) for step in cast("list[object]", place)[:_MOST] if isinstance(step, str | int)
        )
        return f"{where}: {_words(given['msg'], depth + 1)}"
    for name in (*_WORDS, *_HOLDERS, *_LAST_WORDS):
        found = _words(given.get(name), depth + 1)
        if found:
            return found + _upstream(given, found, depth)
    return ""


def _joined(items: list[object], depth: int) -> str:
    found = [_words(item, depth + 1) for item in items[:_MOST]]
    if not any(found):
        return ""
    if not any(isinstance(item, dict) for item in items):  # numbers belong to the words that they stand among
        found = [
            words or (str(item) if isinstance(item, int | float) else "")
            for words, item in zip(found, items, strict=False)
        ]
    return "; ".join(dict.fromkeys(filter(None, found)))


def _upstream(given: Mapping[str, object], found: str, depth: int) -> str:
    """Return what the server behind a gateway said (OpenRouter's `metadata.raw`), where that says more."""
    words = _words(_fields(given.get("metadata")).get("raw"), depth + 1)
    return f": {words}" if words and words not in found else ""


def _objects(value: object, depth: int = 0) -> Iterator[Mapping[str, object]]:
    """Yield the objects that speak of the error, the outer ones first."""
    if depth > _DEEPEST:
        return
    if isinstance(value, list):
        for item in cast("list[object]", value)[:_MOST]:
            if isinstance(item, dict):
                yield from _objects(cast("object", item), depth + 1)
    elif isinstance(value, dict):
        given = cast("dict[str, object]", value)
        yield given
        for name in (
            "error",
            "errors",
            "base_resp",
            "fault",
            "detail",
            "details",
            "err",
            "exception",
            "Error",
            "metadata",
        ):
            inner = given.get(name)
            if isinstance(inner, dict | list):
                yield from _objects(cast("object", inner), depth + 1)


def _codes(objects: Iterable[Mapping[str, object]]) -> Iterator[str]:
    for given in objects:
        for name in _CODES:
            code = given.get(name)
            if isinstance(code, str) or type(code) is int:
                yield str(code)[:LONGEST_CODE]


def _wait(value: object, scale: float) -> float | None:
    text = str(value) if type(value) is int or isinstance(value, str | float) else ""
    seconds = read_duration(text)
    return None if seconds is None else seconds * (scale if text[-1:].isdigit() else 1.0)


def _seconds(unit: str) -> float:
    low = unit.lower()
    if low.startswith(("ms", "milli")):
        return 0.001
    return {"s": 1.0, "m": 60.0, "h": 3600.0}[low[0]]
