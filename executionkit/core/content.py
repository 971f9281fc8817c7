"""What a model said, and its reasoning: a message's content, and reasoning wherever servers put it."""

import re
from collections.abc import Mapping
from typing import Any, Final, cast

import msgspec

__all__ = ["Said", "ThoughtFilter", "read_content", "read_reasoning", "split_thoughts"]

_FIELDS: Final = (
    "reasoning_content",
    "reasoning",
    "thinking",
    "reasoning_text",
    "thought",
    "reasoning_details",
)
"""Fields of a message that hold reasoning; where several do, they say the same."""

_TAGS: Final = ("think", "thinking", "thought", "seed:think")
_NAMES: Final = "|".join(sorted(_TAGS, key=len, reverse=True))
_OPENING: Final = re.compile(
    rf"\s*(?:<(?:{_NAMES})(?:\s[^<>]*)?>|\[THINK\]|\u25c1think\u25b7)", re.IGNORECASE
)
_CLOSING: Final = re.compile(rf"</(?:{_NAMES})\s*>|\[/THINK\]|\u25c1/think\u25b7", re.IGNORECASE)
_LONE_CLOSING: Final = re.compile(
    rf"^[ \t]*(?:</(?:{_NAMES})>|\[/THINK\]|\u25c1/think\u25b7)[ \t]*$", re.IGNORECASE | re.MULTILINE
)
_MARKS: Final = ("<", "[", "\u25c1")
"""How tags begin."""
_CHANNEL: Final = re.compile(r"\s*(?:<\|start\|>assistant)?<\|channel\|>")
_IN_CHANNEL: Final = re.compile(
    r"<\|channel\|>\s*(?P<channel>\w+)[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>"
    r"(?P<text>.*?)(?=<\|(?:end|return|call|start|channel)\|>|\Z)",
    re.DOTALL,
)
_LONGEST_TAG: Final = 64
_BRACKETED: Final = ("[think]", "[/think]", "\u25c1think\u25b7", "\u25c1/think\u25b7")


class Said(msgspec.Struct, frozen=True):
    """What a message's content holds.

    Args:
        text: What the model says.
        reasoning: Its reasoning.
        refusal: What it says in place of an answer.
    """

    text: str = ""
    reasoning: str = ""
    refusal: str = ""


def read_content(content: str | list[dict[str, Any] | str] | None) -> Said:
    """Read a content: a text, or parts of which each is a text, reasoning, a refusal or something else.

    >>> read_content([{"type": "thinking", "thinking": "4?"}, {"type": "text", "text": "5"}])
    Said(text='5', reasoning='4?', refusal='')
    """
    if not isinstance(content, list):
        return Said(content or "")
    texts: dict[str, list[str]] = {"text": [], "reasoning": [], "refusal": []}
    for given in content:
        part: Mapping[str, Any] = {"text": given} if isinstance(given, str) else given
        kind = _kind_of(part.get("type", "text"))
        if kind:
            texts[kind].append(_text_of(part.get(kind) or part.get("thinking") or part.get("text")))
    return Said(**{kind: "".join(found) for kind, found in texts.items()})


def _kind_of(stated: object) -> str:
    match stated:
        case "text" | "output_text" | None:
            return "text"
        case "thinking" | "reasoning" | "reasoning.text" | "reasoning.summary" | "thought" | "summary_text":
            return "reasoning"
        case "refusal":
            return "refusal"
        case _:
            return ""


def read_reasoning(message: Mapping[str, Any]) -> str:
    """Return the reasoning in the fields that a message has beside its content.

    >>> read_reasoning({"content": "5", "reasoning": "4?"})
    '4?'
    """
    for name in _FIELDS:
        given: object = message.get(name)
        if given is not None and (found := _text_of(given)):
            return found
    return ""


def _text_of(value: object) -> str:
    """Return the text in what may be a text, an object that has one, or a list of those."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(_plain_text(item) for item in cast("list[object]", value))
    return _plain_text(value)


def _plain_text(value: object) -> str:
    if isinstance(value, str):
        return value
    given = cast("dict[str, object]", value) if isinstance(value, dict) else {}
    for name in ("text", "thinking", "summary", "value", "content"):
        found = given.get(name)
        if isinstance(found, str):
            return found
    return ""


def split_thoughts(text: str) -> tuple[str, str]:
    r"""Split a text into the reasoning that it begins with and the rest.

    Reasoning stands in `<think>` or `<thinking>`; without an end all of the text is one. The beginning may be
    missing, where a chat template has sent it: then the end stands on a line of its own. Of channels, as
    gpt-oss writes them, all but the final one are reasoning.

    >>> split_thoughts("<think>4? No.</think>\n\n5"), split_thoughts("4? No.\n</think>\n5")
    (('4? No.', '5'), ('4? No.', '5'))
    >>> split_thoughts("<think>so 4 is cut o"), split_thoughts('{"tag": "<think>"}')
    (('so 4 is cut o', ''), ('', '{"tag": "<think>"}'))
    """
    if not _is_marked(text):
        return "", text
    if _CHANNEL.match(text):
        return _by_channels(text)
    opening = _OPENING.match(text)
    if opening is None:
        end = _LONE_CLOSING.search(text) if "/THINK]" in text or "</" in text else None
        if end is None or _OPENING.search(text, 0, end.start()):
            return "", text
        return text[: end.start()].strip(), text[end.end() :].lstrip()
    thoughts: list[str] = []
    while opening is not None:
        closing = _CLOSING.search(text, opening.end())
        end_of_thought = len(text) if closing is None else closing.start()
        thoughts.append(text[opening.end() : end_of_thought].strip())
        text = "" if closing is None else text[closing.end() :].lstrip()
        while stray := _CLOSING.match(text):  # of reasoning inside reasoning
            text = text[stray.end() :].lstrip()
        opening = _OPENING.match(text)
    return "\n".join(filter(None, thoughts)), text


def _is_marked(text: str) -> bool:
    """Tell whether there may be reasoning in a text; most have none, and this is asked of every answer."""
    for mark in _MARKS:  # noqa: SIM110 - `any` takes four times as long
        if mark in text:
            return True
    return False


def _by_channels(text: str) -> tuple[str, str]:
    """Split what gpt-oss writes where its server does not: channels, of which the final one is the answer."""
    found = [(each["channel"].lower(), each["text"].strip()) for each in _IN_CHANNEL.finditer(text)]
    thoughts = [said for channel, said in found if channel != "final"]
    return "\n".join(filter(None, thoughts)), "\n".join(said for channel, said in found if channel == "final")


class ThoughtFilter:
    """Splits a text that comes in pieces, as far as what it begins with is known.

    >>> pieces = ThoughtFilter()
    >>> [pieces.feed(piece) for piece in ("<thi", "nk>4?</", "think>", "5")], pieces.flush()
    ([('', ''), ('4?', ''), ('', ''), ('', '5')], ('', ''))
    """

    def __init__(self) -> None:
        self._held = ""
        self._is_thinking = False
        self._has_thought = False
        self._is_done = False

    def feed(self, piece: str) -> tuple[str, str]:
        """Take a piece, and return the reasoning and the text that are known by now."""
        if self._is_done:
            return "", piece
        self._held += piece
        thoughts = ""
        while not self._is_done:
            if not self._is_thinking and not self._begin():
                break
            if self._is_thinking:
                thoughts += self._thought()
                if self._is_thinking:
                    break
        if not self._is_done:
            return thoughts, ""
        text, self._held = self._held, ""
        return thoughts, text

    def _begin(self) -> bool:
        """Find out what comes next; False where that is open yet."""
        if self._has_thought:
            self._held = self._held.lstrip()
            if stray := _CLOSING.match(self._held):
                self._held = self._held[stray.end() :]
                return True
        if opening := _OPENING.match(self._held):
            self._held = self._held[opening.end() :]
            self._is_thinking = self._has_thought = True
        elif _may_be_tag(self._held.lstrip()):
            return False
        else:
            self._is_done = True
        return True

    def _thought(self) -> str:
        if closing := _CLOSING.search(self._held):
            thought, self._held = self._held[: closing.start()], self._held[closing.end() :]
            self._is_thinking = False
            return thought
        end = max(map(self._held.rfind, _MARKS))
        if end < 0 or not _may_be_tag(self._held[end:]):
            end = len(self._held)
        thought, self._held = self._held[:end], self._held[end:]
        return thought

    def flush(self) -> tuple[str, str]:
        """Return what is held back, once nothing more comes."""
        held, self._held = self._held, ""
        return (held, "") if self._is_thinking else ("", held)


def _may_be_tag(text: str) -> bool:
    """Whether more of a text could make it begin with a tag of reasoning."""
    low = text.lower()
    if len(text) > _LONGEST_TAG or ">" in text:
        return False
    tags = [tag for name in _TAGS for tag in (f"<{name}", f"</{name}")]
    return any(
        tag.startswith(low) or (low.startswith(tag) and low[len(tag)].isspace()) for tag in tags
    ) or any(tag.startswith(low) for tag in _BRACKETED)
