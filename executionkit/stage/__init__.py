"""Stages, and what combines them: `>>`, `|`, `&`, `.map`, `.each`, `.checked`, `.within`, `.using`, ...

`Stage` is the base class. Each combinator has a module of its own, which loads with the first stage of it.
"""

from typing import TYPE_CHECKING

from executionkit.runtime.rules import Rule
from executionkit.stage.base import BatchSettings, OnError, Stage

if TYPE_CHECKING:
    from executionkit.stage.both import Both
    from executionkit.stage.checked import Checked
    from executionkit.stage.each import Each
    from executionkit.stage.fallback import Fallback
    from executionkit.stage.mapped import Mapped
    from executionkit.stage.named import Named
    from executionkit.stage.pipeline import Pipeline, identity
    from executionkit.stage.using import Using
    from executionkit.stage.with_input import WithInput
    from executionkit.stage.within import Within

__all__ = [
    "BatchSettings",
    "Both",
    "Checked",
    "Each",
    "Fallback",
    "Mapped",
    "Named",
    "OnError",
    "Pipeline",
    "Rule",
    "Stage",
    "Using",
    "WithInput",
    "Within",
    "identity",
]

_HOMES = {
    "Both": "both",
    "Checked": "checked",
    "Each": "each",
    "Fallback": "fallback",
    "Mapped": "mapped",
    "Named": "named",
    "Pipeline": "pipeline",
    "Using": "using",
    "WithInput": "with_input",
    "Within": "within",
    "identity": "pipeline",
}
"""Which module each name comes from, of those that load when they are asked for."""

if not TYPE_CHECKING:  # the checkers see the imports above, and refuse names that are not there

    def __getattr__(name: str) -> object:
        """Load a combinator when it is asked for: a program pays for those that it uses."""
        from importlib import import_module

        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        """List the public names, loaded or not."""
        return sorted({*globals(), *__all__})
