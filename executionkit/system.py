"""System prompts: the words that go in front of everything that a stage asks for."""

from collections.abc import Callable
from inspect import iscoroutinefunction
from typing import TypeAlias, TypeVar

from executionkit.core.foreign import is_kind, returned_at_once
from executionkit.errors import StageError
from executionkit.errors.handling import wrapping
from executionkit.provider import Message

__all__ = ["System", "check_system", "system_messages"]

A = TypeVar("A")

System: TypeAlias = str | Callable[[A], str]
"""A text, or a function of the stage's input that returns one."""


def check_system(system: object) -> None:
    """Check a system prompt as it is set.

    Raises:
        TypeError: It is neither text nor a plain function.
        ValueError: It is an empty text.
    """
    if system is None:
        return
    if isinstance(system, str):
        if not system.strip():
            raise ValueError("system is an empty text; leave it out where there is nothing to say")
    elif isinstance(system, type) or not callable(system):
        raise TypeError(f"system must be text or a function of the input, not {_kind_of(system)}")
    elif is_kind(system, iscoroutinefunction):
        raise TypeError("system must be a plain function: what an async one returns cannot be awaited here")


def system_messages(system: System[A] | None, value: A) -> list[Message]:
    """Return the messages that a conversation about `value` begins with: one, or none where nothing is said.

    Raises:
        StageError: The function raised, or returned something else than text.

    >>> system_messages("Be brief.", "hello")
    [{'role': 'system', 'content': 'Be brief.'}]
    >>> system_messages(lambda question: f"It is about {question}.", "tea")
    [{'role': 'system', 'content': 'It is about tea.'}]
    """
    if system is None:
        return []
    if isinstance(system, str):
        return [_message(system)]
    with wrapping(StageError, "the function given as system"):
        text: object = returned_at_once(system(value))
    checked = _checked_text(text)
    return [_message(checked)] if checked.strip() else []


def _checked_text(given: object) -> str:
    if isinstance(given, str):
        return given
    raise StageError(f"the function given as system returned {type(given).__name__} instead of text")


def _message(text: str) -> Message:
    return {"role": "system", "content": text}


def _kind_of(system: object) -> str:
    return f"the class {system.__name__}" if isinstance(system, type) else type(system).__name__
