"""What stages may be put together: stages, and not too deeply within each other."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, TypeVar, cast

import msgspec

from executionkit.stage.base import Stage

__all__ = ["check_nesting", "check_stage", "check_stages", "extended"]

_S = TypeVar("_S", bound=Stage[Any, Any])

MOST_NESTED: Final = 210
"""Levels of stages within stages; each takes up to four of the thousand frames that Python allows a task."""


def check_stage(stage: object) -> None:
    """Check that this is a stage.

    Raises:
        TypeError: It is something else.
    """
    if not isinstance(stage, Stage):
        raise TypeError(f"a stage is wanted, not {type(stage).__name__}")


def check_stages(stages: object) -> None:
    """Check that these are stages that one more may be put around.

    Raises:
        TypeError: They are no tuple, or something in it is no stage.
        ValueError: They are nested too deeply.
    """
    if not isinstance(stages, tuple):
        raise TypeError(f"stages come as a tuple, not {type(stages).__name__}")
    for stage in cast("tuple[object, ...]", stages):
        check_stage(stage)
    check_nesting(*cast("tuple[Stage[Any, Any], ...]", stages))


def check_nesting(*stages: Stage[Any, Any]) -> None:
    """Check that one more stage may be put around these.

    Raises:
        ValueError: They are nested too deeply to be run, hashed or pickled.
    """
    level: Iterable[Stage[Any, Any]] = stages
    for _ in range(MOST_NESTED):
        # Each once, however often it is used: `a & a` would double it from level to level.
        level = {id(part): part for stage in level for part in _stages_in(stage)}.values()
        if not level:
            return
    raise ValueError(
        f"stages are nested more than {MOST_NESTED} levels deep; put them side by side with >> or |, "
        "or make one function of several"
    )


def _stages_in(stage: Stage[Any, Any]) -> Iterator[Stage[Any, Any]]:
    """Return the stages that are fields of a stage, or stand in a tuple or list that is one."""
    for name in stage.__struct_fields__:
        field: object = getattr(stage, name)
        if isinstance(field, Stage):
            yield field
        elif isinstance(field, tuple | list):
            yield from [part for part in cast("Sequence[object]", field) if isinstance(part, Stage)]


def extended(stage: _S, field: str, value: tuple[object, ...]) -> _S:
    """Set a field in place, to what was checked before, and return the stage.

    To check all again with each part that is added would take time in the square of their number.
    """
    msgspec.structs.force_setattr(stage, field, value)
    return stage
