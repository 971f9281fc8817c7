"""A conversation with tools: what goes back to the model, what is dropped first, what a run hands on."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any, Final, TypeAlias, cast, overload

from typing_extensions import override

from executionkit.core.encoding import json_text
from executionkit.core.frozen import json_copy, thaw
from executionkit.core.json import MAX_DEPTH, is_deeper_than

__all__ = ["Rounds", "Transcript", "call_ids", "in_rounds", "parted", "transcript_of"]

_ROLES: Final = ("system", "developer", "user", "assistant", "tool", "function")

_SYSTEM: Final = frozenset({"system", "developer"})
"""The roles that say how to behave: the second is OpenAI's newer name."""

Message: TypeAlias = dict[str, Any]
Rounds: TypeAlias = list[list[Message]]
"""Messages that stand or fall together: a request for tools with its results, or a message alone."""


class Transcript(Sequence[Message]):
    """The messages of a conversation, as a value: equal and hashable by content, picklable, never changing.

    `metadata["transcript"]` of a tool loop is one; give it to the next loop to go on from there.

    >>> talk = Transcript([{"role": "user", "content": "hello"}])
    >>> talk[0]["content"], len(talk), talk
    ('hello', 1, Transcript(<1 message>))
    """

    __slots__ = ("_messages",)

    def __init__(self, messages: Iterable[Mapping[str, Any]] = ()) -> None:
        self._messages = tuple(json_copy([*cast("Iterable[Message]", messages)]))

    @overload
    def __getitem__(self, index: int) -> Message: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Message]: ...
    @override
    def __getitem__(self, index: int | slice) -> Message | Sequence[Message]:
        return json_copy(self._messages[index])

    @override
    def __len__(self) -> int:
        return len(self._messages)

    @override
    def __eq__(self, other: object) -> bool:
        return self._messages == other._messages if isinstance(other, Transcript) else NotImplemented

    @override
    def __hash__(self) -> int:
        return hash(json_text(self._messages))

    @override
    def __repr__(self) -> str:
        count = len(self._messages)
        return f"Transcript(<{count} message{'' if count == 1 else 's'}>)"

    @override
    def __reduce__(self) -> tuple[object, ...]:
        return Transcript, (list(self._messages),)


def transcript_of(messages: Sequence[Mapping[str, Any]]) -> Transcript:
    """Return messages as a transcript of its own.

    Raises:
        TypeError: They are not a sequence of mappings that each have a `role`.
        ValueError: No server could be sent them: a request for tools stands there without its results, or a
            result without its request; two calls have the same id, or one has none, or does not say what it
            calls; a role is unknown; a message says nothing, or what is neither text nor parts; or it is
            nested too deeply.
    """
    given: object = messages
    if not isinstance(given, (list, tuple, Transcript)):
        raise TypeError(f"a transcript must be a sequence of messages, not {type(messages).__name__}")
    for message in cast("Sequence[object]", given):
        if not (isinstance(message, Mapping) and isinstance(cast("Message", message).get("role"), str)):
            raise TypeError('each message of a transcript must be a mapping with a "role"')
        if not _are_mappings(cast("Message", message).get("tool_calls") or ()):
            raise TypeError('the "tool_calls" of a message must be a list of mappings')
    transcript = messages if isinstance(messages, Transcript) else Transcript(_copied(messages))
    _check_can_be_sent(transcript)
    return transcript


def _check_can_be_sent(transcript: Transcript) -> None:
    known: set[str] = set()
    for messages in in_rounds(transcript):
        first = messages[0]
        if first["role"] not in _ROLES:
            raise ValueError(
                f"a transcript has no role {first['role'][:40]!r}; there are: {', '.join(_ROLES)}"
            )
        for message in messages:
            if not _says_something(message):
                raise ValueError(
                    f"each message of a transcript needs content, text or a list of mappings; one of role "
                    f"{message['role']!r} has {type(message.get('content')).__name__}"
                )
        asked = [call.get("id") for call in first.get("tool_calls") or ()]
        answered = [message.get("tool_call_id") for message in messages[1:]]
        is_whole = sorted(map(str, asked)) == sorted(map(str, answered))
        if first["role"] == "tool" or not is_whole:
            raise ValueError(
                "each tool call of a transcript needs its result after it, and each result its call"
            )
        if asked and first["role"] != "assistant":
            raise ValueError(
                f"only an assistant's message can hold tool calls, not one of role {first['role']!r}"
            )
        for identity in asked:
            if not (isinstance(identity, str) and identity) or identity in known:
                raise ValueError(
                    f"each tool call of a transcript needs an id of its own, not {identity!r:.80}"
                )
            known.add(identity)
        if not all(map(_says_what, first.get("tool_calls") or ())):
            raise ValueError('each tool call of a transcript needs a "function" with a "name"')


def _says_something(message: Message) -> bool:
    """Tell whether a message has a content; an assistant's may be all in other fields, such as calls."""
    content = message.get("content")
    if content is None and message["role"] == "assistant":
        return any(message[name] for name in message.keys() - {"role", "name", "content"})
    return isinstance(content, str) or _are_mappings(content)


def _says_what(call: Message) -> bool:
    """Tell whether a call names its function; a call of another kind is left to the server."""
    if call.get("type", "function") != "function":
        return True
    function: object = call.get("function")
    name = cast("Message", function).get("name") if isinstance(function, Mapping) else None
    return isinstance(name, str) and name != ""


def _copied(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    try:
        copied = [cast("Message", thaw(message)) for message in messages]
    except RecursionError:
        copied = None
    if copied is None or any(is_deeper_than(message, MAX_DEPTH) for message in copied):
        raise ValueError(f"a message of the transcript is nested more than {MAX_DEPTH} levels deep")
    return copied


def in_rounds(messages: Iterable[Message]) -> Rounds:
    """Group messages so that no request for tools is parted from its results.

    >>> in_rounds([{"role": "user"}, {"role": "assistant", "tool_calls": [{"id": "a"}]}, {"role": "tool"}])
    [[{'role': 'user'}], [{'role': 'assistant', 'tool_calls': [{'id': 'a'}]}, {'role': 'tool'}]]
    """
    rounds: Rounds = []
    for message in messages:
        if message.get("role") == "tool" and rounds:
            rounds[-1].append(message)
        else:
            rounds.append([message])
    return rounds


def call_ids(transcript: Transcript) -> frozenset[str]:
    """Return the ids of the tool calls of a transcript."""
    return frozenset(
        str(call.get("id")) for message in transcript for call in message.get("tool_calls") or ()
    )


def parted(transcript: Transcript) -> tuple[list[Message], Rounds]:
    """Part a transcript into the system messages it begins with, which always stay, and its rounds.

    >>> parted(Transcript([{"role": "system"}, {"role": "user"}]))
    ([{'role': 'system'}], [[{'role': 'user'}]])
    """
    if not transcript:
        return [], []
    system = list(takewhile(lambda message: message.get("role") in _SYSTEM, transcript))
    return system, in_rounds(transcript[len(system) :])


def _are_mappings(items: object) -> bool:
    if not isinstance(items, (list, tuple)):
        return False
    return all(isinstance(item, Mapping) for item in cast("Sequence[object]", items))
