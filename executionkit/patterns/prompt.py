"""A value as the next prompt: a stage that makes no call."""

from collections import Counter
from typing import cast

from typing_extensions import override

from executionkit.core.bounds import AS_JSON, Given, Reach
from executionkit.core.template import Place, filled, parts_of
from executionkit.errors import StageError
from executionkit.outcome import PatternResult
from executionkit.runtime.context import Context
from executionkit.runtime.given import text_size
from executionkit.stage import Stage
from executionkit.tools import as_text

__all__ = ["Prompt", "prompt"]


class Prompt(Stage[object, str], frozen=True):
    """A template filled with a value; see `prompt`.

    Args:
        template: The template.
    """

    template: str

    def __post_init__(self) -> None:
        if not isinstance(cast("object", self.template), str):
            raise TypeError(f"a template must be text, not {type(self.template).__name__}")
        if not self.template.strip():
            raise ValueError("the template is empty; {} stands for the value")
        parts_of(self.template)

    @override
    async def perform(self, value: object, context: Context) -> PatternResult[str]:
        try:
            return PatternResult(filled(parts_of(self.template), value, as_text))
        except LookupError as error:
            raise StageError(f"the template does not fit: {error.args[0]}") from error

    @override
    def reach(self, given: Given) -> Reach:
        parts = parts_of(self.template)
        places = Counter([part.key for part in parts if isinstance(part, Place)])
        if None in places and not given.is_text:
            return Reach(why_value=AS_JSON)
        # Items that differ are parts of the value: together they are no longer than that.
        times = places.pop(None, 0) + max(places.values(), default=0)
        text = sum([text_size(part) for part in parts if isinstance(part, str)])
        return Reach(value=text + (times * given.value if times else 0), why_value=given.why_value)


def prompt(template: str, /) -> Prompt:
    """Return a stage that turns a value into a prompt, without a call.

    `{}` is the value, `{0}` an item of a tuple, `{name}` a field of a struct, dataclass or mapping. A brace
    that is text is written twice. Text stands as it is, anything else as a tool's result would: as JSON. A
    value is never read as a template. Where words are not enough, `stage.map(function)` takes a function.

    Args:
        template: The text with its places.

    Returns (on `run`):
        StageError: The value has no such item or field.

    Raises:
        TypeError: The template is not text.
        ValueError: It is empty, has a brace that belongs to no place, or a place of another form.

    >>> from executionkit.providers.scripted import ScriptedProvider
    >>> prompt("Translate: {}").run_sync(ScriptedProvider([]), "tea").unwrap().value
    'Translate: tea'
    """
    return Prompt(template)
