"""A stage's function that is called in the specification's shape says where the function is that takes it."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from executionkit import (
    ScriptedProvider,
    complete,
    consensus,
    react,
    refine,
    structured,
)

PROVIDER = ScriptedProvider(["Paris"])

untyped: dict[str, Callable[..., Any]] = {
    "complete": complete,
    "consensus": consensus,
    "react": react,
    "refine": refine,
    "structured": structured,
}

CALLS: list[tuple[str, tuple[object, ...], dict[str, object]]] = [
    ("consensus", (PROVIDER, "?"), {"num_samples": 5}),
    ("consensus", (PROVIDER, "?"), {}),
    ("consensus", (), {"provider": PROVIDER, "prompt": "?"}),
    ("consensus", (), {"num_samples": 3}),
    ("refine", (PROVIDER, "?"), {}),
    ("refine", (PROVIDER,), {}),
    ("react", (PROVIDER, "?", []), {}),
    ("react", (PROVIDER, "?"), {"tools": []}),
    ("structured", (PROVIDER, "?", int), {}),
    ("structured", (PROVIDER, "?"), {"output_type": int}),
    ("complete", (PROVIDER, "?"), {}),
]


@pytest.mark.parametrize(("name", "arguments", "keywords"), CALLS)
def test_a_call_with_a_provider_says_in_one_line_what_takes_one(
    name: str, arguments: tuple[object, ...], keywords: dict[str, object]
) -> None:
    with pytest.raises(TypeError) as caught:
        untyped[name](*arguments, **keywords)
    message = str(caught.value)
    assert "\n" not in message
    assert f"{name}(...).run(provider, prompt)" in message
    facade = {"consensus": "consensus", "refine": "refine_loop", "react": "react_loop"}
    if name != "complete":
        assert f"executionkit.compat.{facade.get(name, name)}" in message


class Judge:
    """An evaluator that can also complete: it may be handed to `refine`, as it always could."""

    def __call__(self, text: str) -> float:
        return 1.0

    async def complete(self, *_: object, **__: object) -> object:
        raise NotImplementedError


class Errand(msgspec.Struct):
    """A type of answers whose field is called as a provider's method is."""

    complete: bool

    def __call__(self) -> None:
        raise NotImplementedError


class Broken:
    """Has no attribute, and says so in a way of its own."""

    def __getattr__(self, name: str) -> object:
        raise KeyError(name)


def test_what_is_no_provider_is_taken_as_before() -> None:
    assert refine(Judge())
    assert structured(Errand)
    assert complete(max_tokens=3)
    assert react([])
    with pytest.raises(TypeError, match="positional argument"):
        untyped["consensus"](5, "majority")
    with pytest.raises(TypeError, match="unexpected keyword argument 'samples'"):
        untyped["consensus"](samples=5)
    with pytest.raises(TypeError, match="n must be"):
        untyped["consensus"](Broken())
