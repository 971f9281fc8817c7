"""Which keywords a function takes, for every kind of callable."""

from functools import partial
from typing import Any

from executionkit.core.foreign import function_name
from executionkit.core.keywords import bound_keywords, names, takes


def plain(provider: object, prompt: str, *, n: int = 1) -> int:
    return n


def open_to_all(provider: object, prompt: str, **rest: Any) -> Any:
    return rest


def positional_only(n: int, /) -> int:
    return n


def starred(*n: int) -> tuple[int, ...]:
    return n


class Instance:
    def __call__(self, provider: object, n: int) -> int:
        return n


def test_a_keyword_is_named_or_swallowed() -> None:
    assert (names(plain, "n"), takes(plain, "n")) == (True, True)
    assert (names(open_to_all, "n"), takes(open_to_all, "n")) == (False, True)
    assert (names(positional_only, "n"), takes(positional_only, "n")) == (False, False)
    assert (names(starred, "n"), takes(starred, "n")) == (False, False)
    assert (names(Instance(), "n"), takes(Instance(), "m")) == (True, False)
    assert not takes(plain, "m")


def test_a_partial_still_takes_what_it_binds() -> None:
    bound = partial(plain, n=3)
    assert names(bound, "n")
    assert bound_keywords(bound) == {"n": 3}
    assert bound_keywords(plain) == {}


def test_a_function_without_a_signature_takes_nothing() -> None:
    assert not takes(type, "n")
    assert not names(iter, "n")


def test_names_of_callables() -> None:
    assert function_name(partial(partial(plain), n=2)) == "plain"
    assert function_name(Instance()) == "Instance"
    assert function_name(lambda: None) == "<lambda>"
