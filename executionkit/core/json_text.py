"""Where the JSON is in what a model wrote, and what of the text is reasoning. Pure, in linear time.

Only what is whole counts. A value that was begun and does not parse ends the search: what stands in it is a
fragment of an answer, and no answer. `docs/typed_answers.md` has the grammar in words.
"""

import json
import re
from collections import deque
from typing import Final, NoReturn, TypeAlias

import msgspec

__all__ = ["JsonInText", "begins_broken", "find_json", "whole_json", "without_thoughts"]

_LONGEST_TEXT: Final = 1_000_000
_MOST_GROUPS: Final = 64
"""Brackets in prose that may stay open."""
_REACH: Final = 10_000
"""Characters within which the other end of one is looked for."""

_THOUGHT: Final = r"(?:(?:seed:)?think(?:ing)?|thoughts?|reasoning)"
_OPENS: Final = rf"<[ ]?{_THOUGHT}[ ]?>|\[THINK\]|\u25c1think\u25b7"
_CLOSES: Final = rf"<[ ]?/[ ]?{_THOUGHT}[ ]?>|\[/THINK\]|\u25c1/think\u25b7"
_OPENING_TAG: Final = re.compile(_OPENS, re.IGNORECASE)
_CLOSING_TAG: Final = re.compile(_CLOSES, re.IGNORECASE)
_TAG_OR_BRACKET: Final = re.compile(rf"(?P<tag>{_OPENS})|[{{\[]", re.IGNORECASE)
_VALUE_BEGINS: Final = ("{", "[", '"', "```")

_FENCE_OR_BRACKET: Final = re.compile(r"```|[{}\[\]]")
_FENCE: Final = re.compile(r"```[ \t]*(?:([\w+.-]+)[ \t]*(?=[\r\n\[{\"]|\Z))?")
_JSON_BEGINS: Final = re.compile(r"\s*(?:```[ \t]*\w*\s*)?[{\[]")
_FENCE_ENDS: Final = re.compile(r"\s*```")
_JSON_TAGS: Final = frozenset({"", "json", "jsonc", "json5", "jsonl"})
_FLAT: Final = re.compile(
    r"\[[^\[\](){}\"`]{0,10000}+[\])]"  # a footnote, an interval, a list of numbers
    r"|\{\s*+\}"  # the empty object; a bracket behind it is none of its own
    r"|\{\{?[^\[\](){}\"':`]{0,10000}+\}\}?"  # a set, a placeholder, an argument in LaTeX
)
"""Brackets that hold no others and no strings: prose if they are no JSON."""
_BEGINS_VALUE: Final = re.compile(
    r"\[\s*(?:[\[{\]\"'\d-]|[+.]\d|//|/\*|(?:true|false|null|None|True|False|NaN|Infinity|undefined)\b|\Z)"
    r"|\{\s*(?:[{\[}\"'\u201c]|//|/\*|[\w$-]{1,200}\s*(?:[:,}]|\Z)|\Z)"
)
_AFTER_OTHERS: Final = re.compile(
    r"(?:[\"'\u201d]\s{0,20}:|\A[:,]|\A(?:(?:-?\d[\w.+-]{0,30}|true|false|null)\s{0,20},\s{0,20}){1,25})\s{0,20}\Z"
)
"""A value stands behind a name, or the text begins within a list, or with what stands between two."""
_LIST_GOES_ON: Final = re.compile(r"\s*,\s*[\"'\u201c{\[]")
_IN_GROUP: Final = re.compile(r'"(?:[^"\\\n]|\\.){0,10000}"|[{}\[\]]')
_NOTHING_MORE: Final = re.compile(r"[\s`.!)]*\Z")
_SCALAR_AT_END: Final = re.compile(r"[\w.+-]\Z")

_WORD: Final = re.compile(r"\S")
_MAY_BE_JSON: Final = frozenset('{["-0123456789tfn')

_Span: TypeAlias = tuple[int, int]


class JsonInText(msgspec.Struct, frozen=True):
    """The whole JSON values in a text.

    Args:
        values: Their texts, best guess first.
        problem: Why there are none, a clause.
        was_begun: Where there are none: whether JSON was begun, and is broken, cut off or a part of some.
    """

    values: tuple[str, ...] = ()
    problem: str = ""
    was_begun: bool = False


class _BrokenError(Exception):
    """A value was begun, and is not JSON."""


def find_json(text: str, *, was_cut: bool = False) -> JsonInText:
    """Find the whole JSON values in a text, without looking into one that is broken.

    Reasoning is left out. Then the whole text is the value, if it is one; else the values that fill a fenced
    block, the last one first; else those in prose, the last one first.

    Args:
        text: What the model wrote.
        was_cut: Whether its end is missing (finish reason `"length"`): a value counts only if it ends by
            itself and nothing was begun after it.

    >>> find_json('Not {"x": 1} but {"x": 3}.').values
    ('{"x": 3}', '{"x": 1}')
    >>> find_json('{"name": "root", "children": [{"name": "kid"}, {"na').problem
    'the JSON is malformed or cut off: Unterminated string starting at: line 1 column 49 (char 48)'
    """
    if len(text) > _LONGEST_TEXT:
        return JsonInText((), f"the answer has more than {_LONGEST_TEXT} characters", True)
    text = without_thoughts(text).strip()
    try:
        fenced, plain = ([(0, len(text))], []) if _is_json(text) else _values(text, was_cut=was_cut)
    except _BrokenError as broken:
        return JsonInText((), f"the JSON is malformed or cut off: {broken}", True)
    found = fenced or plain
    if not found:
        return JsonInText((), "the answer holds no JSON")
    end = found[-1][1]
    may_go_on = end == len(text) and _SCALAR_AT_END.search(text)
    if was_cut and (may_go_on or not _NOTHING_MORE.match(text, end)):
        return JsonInText((), "the answer was cut off, and its JSON is not the last thing in it", True)
    return JsonInText(tuple(dict.fromkeys([text[start:end] for start, end in reversed(found)])))


def whole_json(text: str, *, was_cut: bool = False) -> str | None:
    r"""Return the JSON value that a text is, reasoning and a fence around it aside; None where it is no such.

    >>> whole_json('```json\n{"a": 1}\n```'), whole_json('Here: {"a": 1}')
    ('{"a": 1}', None)
    """
    found = find_json(text, was_cut=was_cut).values
    text = without_thoughts(text).strip()
    if opening := _FENCE.match(text):
        text = text[opening.end() :].removesuffix("```").strip()
    return text if found == (text,) else None


def begins_broken(text: str) -> bool:
    """Tell whether a text without reasoning begins with JSON, in a fence or not, that is broken or cut off.

    >>> begins_broken('{"score": 9, "why": "it'), begins_broken('{"score": 9}'), begins_broken("[see] 9")
    (True, False, False)
    """
    opening = _JSON_BEGINS.match(text)
    if opening is None:
        return False
    try:
        _bracketed(text, opening.end() - 1)
    except _BrokenError:
        return True
    return False


def without_thoughts(text: str) -> str:
    """Return a text without the reasoning that a model wrote between tags, such as `<think>`.

    Reasoning ends with the text where it was not closed, and begins with it where it was not opened (some
    chat templates open them in the prompt). Tags within JSON are content.

    >>> without_thoughts("<think>3? No.</think>Four."), without_thoughts('{"html": "<think>a</think>"}')
    ('Four.', '{"html": "<think>a</think>"}')
    >>> without_thoughts("<thinking>I would")
    ''
    """
    if "<" not in text and "[" not in text and "\u25c1" not in text:
        return text
    if not (_OPENING_TAG.search(text) or _CLOSING_TAG.search(text)):
        return text
    rest = text.lstrip()
    while opening := _OPENING_TAG.match(rest):
        closing = _CLOSING_TAG.search(rest, opening.end())
        rest = rest[closing.end() :].lstrip() if closing else ""
    if not rest.startswith(_VALUE_BEGINS):
        rest = _without_unopened(rest)
    return _without_later(rest)


def _without_unopened(text: str) -> str:
    """Leave out reasoning whose opening tag is missing: all before a closing one."""
    opening = _OPENING_TAG.search(text)
    unopened = _CLOSING_TAG.finditer(text, 0, opening.start() if opening else len(text))
    last = deque(unopened, maxlen=1)
    return text[last[0].end() :].lstrip() if last else text


def _without_later(text: str) -> str:
    """Leave out reasoning in the middle of a text; within JSON, whole or begun, there is none."""
    kept: list[str] = []
    done = position = 0
    while found := _TAG_OR_BRACKET.search(text, position):
        start = found.start()
        if not found["tag"]:
            try:
                position = _bracketed(text, start)[1]
            except _BrokenError:
                break
            continue
        closing = _CLOSING_TAG.search(text, found.end())
        if closing is None and text[max(0, start - 80) : start].rpartition("\n")[2].strip():
            break  # a tag that is spoken of
        kept.append(text[done:start])
        done = position = closing.end() if closing else len(text)
    return "".join([*kept, text[done:]])


def _values(text: str, *, was_cut: bool) -> tuple[list[_Span], list[_Span]]:
    """Return where the whole values are: those that fill a fenced block, and the others.

    Raises:
        _BrokenError: A value was begun and is broken, or is a part of one.
    """
    fenced: list[_Span] = []
    plain: list[_Span] = []
    groups = position = 0
    while found := _FENCE_OR_BRACKET.search(text, position):
        start, sign = found.start(), found[0]
        if sign == "```":
            block, position = _fenced(text, start)
            fenced.extend(block)
            continue
        if sign in "}]":
            raise _BrokenError(f"{sign!r} without its other end")
        is_value, position = _bracketed(text, start)
        if is_value:
            _check_is_no_part(text, start, position)
            plain.append((start, position))
        elif position == start + 1:
            groups += 1
            position = _end_of_group(text, start, groups)
            if was_cut and position == start + 1:
                raise _BrokenError("it was cut off within brackets")
    return fenced, plain


def _fenced(text: str, start: int) -> tuple[list[_Span], int]:
    """Return the value that fills a fenced block, if one does, and where to go on.

    Raises:
        _BrokenError: The block holds a value that was begun and is broken.
    """
    opening = _FENCE.match(text, start)
    tag, body = ((opening[1] or "").lower(), opening.end()) if opening else ("", start + 3)
    body = len(text) if (word := _WORD.search(text, body)) is None else word.start()
    closes = text.find("```", body)
    closes = len(text) if closes < 0 else closes
    if tag in _JSON_TAGS and text[body : body + 1] in {"{", "["}:
        is_value, end = _bracketed(text, body)
        closing = _FENCE_ENDS.match(text, end)
        if is_value and (closing or not text[end:].strip()):
            return [(body, end)], closing.end() if closing else len(text)
        return [], body
    content = text[body:closes].rstrip()
    if _is_json(content):
        return [(body, body + len(content))], closes + 3
    return [], body if tag in _JSON_TAGS else closes + 3


def _bracketed(text: str, start: int) -> tuple[bool, int]:
    """Return whether a JSON value begins with this bracket, and where it ends, or the prose in brackets.

    Raises:
        _BrokenError: A value was begun, and is broken or cut off.
    """
    flat = _FLAT.match(text, start)
    if flat:
        return _is_json(flat[0]), flat.end()
    if not _BEGINS_VALUE.match(text, start):
        return False, start + 1
    try:
        return True, _decoder.raw_decode(text, start)[1]
    except ValueError as error:
        raise _BrokenError(str(error)) from None
    except RecursionError:
        raise _BrokenError("it is nested too deeply") from None


def _is_json(text: str) -> bool:
    try:
        return text[:1] in _MAY_BE_JSON and _decoder.raw_decode(text)[1] == len(text)
    except (ValueError, RecursionError):
        return False


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_decoder: Final = json.JSONDecoder(parse_constant=_no_constant)


def _check_is_no_part(text: str, start: int, end: int) -> None:
    """Check that a value in prose is no member of an object or list whose brackets are missing."""
    if _AFTER_OTHERS.search(text[max(0, start - 50) : start]) or _LIST_GOES_ON.match(text, end):
        raise _BrokenError("it is a part of an object or list without its brackets")


def _end_of_group(text: str, start: int, groups: int) -> int:
    """Return where a bracket in prose is closed; just behind it where it never is.

    Raises:
        _BrokenError: It is not closed within reach.
    """
    depth = 0
    for found in _IN_GROUP.finditer(text, start, start + _REACH):
        depth += (found[0] in {"{", "["}) - (found[0] in {"}", "]"})
        if not depth:
            return found.end()
    if len(text) > start + _REACH or groups > _MOST_GROUPS:
        raise _BrokenError("a bracket is not closed")
    return start + 1
