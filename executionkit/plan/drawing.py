"""The bounds of every stage in a pipeline, and its tree for a terminal."""

from typing import TYPE_CHECKING, Any

from typing_extensions import override

from executionkit.core.bounds import Given, Reach
from executionkit.core.drawing import Told, on_one_line
from executionkit.outcome import PatternResult
from executionkit.runtime.context import Context
from executionkit.stage import Stage

if TYPE_CHECKING:
    from rich.text import Text
    from rich.tree import Tree

__all__ = ["probed", "tree_of"]


class _Probe(Stage[Any, Any], frozen=True):
    """Stands for a stage while bounds are asked for, and notes those of each. It is never run."""

    stage: Stage[Any, Any]
    place: str
    found: dict[str, Reach]

    @property
    @override
    def name(self) -> str:
        return self.stage.name

    @override
    async def perform(self, value: Any, context: Context) -> PatternResult[Any]:
        raise NotImplementedError

    @override
    def reach(self, given: Given) -> Reach:
        reach = self.stage.reach(given)
        before = self.found.get(self.place, reach)
        self.found[self.place] = reach if reach.calls >= before.calls else before
        return reach


def probed(stage: Stage[Any, Any], place: str, found: dict[str, Reach]) -> Stage[Any, Any]:
    """Return a stage of the same bounds that notes those of all stages within, by their places."""
    parts = {
        name: probed(part, f"{place}.{name}" if place else name, found)
        for name, part in stage.parts().items()
    }
    same = type(stage).rebuilt(stage.settings(), parts) if parts else stage
    return _Probe(same, place, found)


def tree_of(stage: Stage[Any, Any], told: Told) -> "Tree":
    """Return the stages as a tree.

    Raises:
        ModuleNotFoundError: `rich` is not installed.
    """
    try:
        from rich.tree import Tree
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'a tree needs rich; in the clone, run: pip install ".[progress]", or take mermaid()', name="rich"
        ) from error
    root = Tree(_line(stage, "", "", told))
    _grow(root, stage, "", told)
    return root


def _grow(node: "Tree", stage: Stage[Any, Any], place: str, told: Told) -> None:
    for name, part in stage.parts().items():
        below = f"{place}.{name}" if place else name
        _grow(node.add(_line(part, name, below, told)), part, below, told)


def _line(stage: Stage[Any, Any], field: str, place: str, told: Told) -> "Text":
    """Return what stands for a stage: which part it is, its name, its settings, its bounds."""
    from rich.text import Text

    sketch = stage.sketch()
    kind, _, index = field.partition(".")
    part = f"{int(index) + 1}. " if index else "" if kind in {"", "stage"} else f"{kind}: "
    line = Text(part, "dim").append(on_one_line(sketch.label or type(stage).__name__), "bold")
    for more in (sketch.notes, *[f"then {each}" for each in sketch.then]):
        if more:
            line.append(f" {on_one_line(more)}")
    bounds = ", ".join(map(on_one_line, told(place)))
    return line.append(f"  ({bounds})" if bounds else "", "dim")
