"""What goes to the workers of an engine, as bytes: it is pickled, and no key goes with it."""

from importlib import import_module
from io import BytesIO
from typing import Any

import msgspec

from executionkit.tools import ToolFunction

__all__ = ["pickled"]


def pickled(value: object, what: str) -> bytes:
    """Return a value as bytes.

    Args:
        value: The value.
        what: What to call it.

    Raises:
        TypeError: It cannot be pickled, or not be read again elsewhere.
    """
    cloudpickle: Any = import_module("cloudpickle")

    def checked(pickler: Any, part: object) -> Any:
        if isinstance(part, type) and issubclass(part, msgspec.Struct) and _is_of_program(part):
            raise TypeError(
                f"the struct {part.__name__} is defined in the program itself, where no worker finds it; put "
                "it into a module that the workers import too, or make it a dataclass"
            )
        if isinstance(part, type) and "__msgspec_cache__" in vars(part) and _is_of_program(part):
            delattr(part, "__msgspec_cache__")  # of a dataclass that was read; made again where it is missed
        if isinstance(part, ToolFunction) and part.function.__module__ == "__main__":
            return ToolFunction, (part.function, part.in_thread)  # by value: no worker finds the name
        return cloudpickle.CloudPickler.reducer_override(pickler, part)

    pickler = type("Pickler", (cloudpickle.CloudPickler,), {"reducer_override": checked})
    file = BytesIO()
    try:
        pickler(file).dump(value)
    except Exception as error:
        raise TypeError(f"{what} cannot be pickled for the workers: {error}") from error
    return file.getvalue()


def _is_of_program(kind: type) -> bool:
    return kind.__module__ == "__main__" or "<locals>" in kind.__qualname__
