"""What a docstring says of a function and of its arguments, in Google's, NumPy's or Sphinx's form.

Own code, not a library: the smallest parser on PyPI takes 46 ms to import, for the one section read here.
"""

import re
from collections.abc import Iterator
from inspect import cleandoc
from itertools import takewhile
from typing import Final

import msgspec

__all__ = ["Docstring", "parse_docstring"]

_GOOGLE_HEADER: Final = re.compile(
    r"(Args|Arguments|Parameters|Params|Keyword Args|Keyword Arguments|Other Parameters|Attributes|Returns?"
    r"|Raises|Yields?|Examples?|Notes?|Warnings?|Warns|See Also|References|Todo):"
)
_ARGUMENT_HEADERS: Final = frozenset(
    {"Args", "Arguments", "Parameters", "Params", "Keyword Args", "Keyword Arguments", "Other Parameters"}
)
_UNDERLINE: Final = re.compile(r"-{3,}|={3,}")
_SPHINX_FIELD: Final = re.compile(r":(\w+)(?: +([^:]+))?: *(.*)")
_SPHINX_ARGUMENT: Final = frozenset({"param", "parameter", "arg", "argument", "key", "keyword"})
_GOOGLE_ENTRY: Final = re.compile(r"\*{0,2}(\w+) *(?:\([^:]*\))? *: *(.*)")
_NUMPY_ENTRY: Final = re.compile(r"\*{0,2}(\w+(?: *, *\*{0,2}\w+)*) *(?::.*)?")


class Docstring(msgspec.Struct, frozen=True):
    """The parts of a docstring that a model is shown.

    Args:
        description: The text before the first section, paragraphs kept.
        arguments: What it says of each argument, on one line.
    """

    description: str
    arguments: dict[str, str]


def parse_docstring(text: str | None) -> Docstring:
    """Read a docstring; anything unknown in it is left out, nothing is an error.

    >>> parse_docstring('''Add two numbers.
    ...
    ...     Args:
    ...         left: The first.
    ...         right (int): The second,
    ...             as a whole number.
    ... ''')
    Docstring(description='Add two numbers.',
              arguments={'left': 'The first.', 'right': 'The second, as a whole number.'})
    """
    lines = cleandoc(text or "").splitlines()
    starts = [index for index in range(len(lines)) if _starts_section(lines, index)]
    description = "\n".join(lines[: starts[0]] if starts else lines).strip()
    arguments: dict[str, str] = {}
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=False):
        arguments.update(_read_section(lines[start:end]))
    return Docstring(description, arguments)


def _starts_section(lines: list[str], index: int) -> bool:
    line = lines[index]
    if _SPHINX_FIELD.fullmatch(line) or _GOOGLE_HEADER.fullmatch(line):
        return True
    return (
        index + 1 < len(lines)
        and line.strip() != ""
        and bool(_UNDERLINE.fullmatch(lines[index + 1].rstrip()))
    )


def _read_section(lines: list[str]) -> Iterator[tuple[str, str]]:
    field = _SPHINX_FIELD.fullmatch(lines[0])
    if field is not None:
        return _read_sphinx(field, lines[1:])
    if lines[0].rstrip(":") not in _ARGUMENT_HEADERS:
        return iter(())
    if len(lines) > 1 and _UNDERLINE.fullmatch(lines[1].rstrip()):
        return _read_numpy(lines[2:])
    return _read_google(lines[1:])


def _read_sphinx(field: re.Match[str], more: list[str]) -> Iterator[tuple[str, str]]:
    kind, names, first = field[1], field[2], field[3]
    if kind in _SPHINX_ARGUMENT and names:
        yield names.split()[-1].lstrip("*"), _joined([first, *takewhile(_is_indented, more)])


def _read_google(lines: list[str]) -> Iterator[tuple[str, str]]:
    for head, body in _entries([line for line in lines if not line or _is_indented(line)]):
        entry = _GOOGLE_ENTRY.fullmatch(head)
        if entry is not None:
            yield entry[1], _joined([entry[2], *body])


def _read_numpy(lines: list[str]) -> Iterator[tuple[str, str]]:
    for head, body in _entries(lines):
        entry = _NUMPY_ENTRY.fullmatch(head)
        for name in entry[1].split(",") if entry is not None else ():
            yield name.strip().lstrip("*"), _joined(body)


def _entries(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Split lines into heads, at the first line's indent, and what is indented further below each."""
    lines = [line.expandtabs() for line in lines if line.strip()]
    depth = min((_indent(line) for line in lines), default=0)
    heads = [index for index, line in enumerate(lines) if _indent(line) == depth]
    for start, end in zip(heads, [*heads[1:], len(lines)], strict=False):
        yield lines[start].strip(), lines[start + 1 : end]


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _is_indented(line: str) -> bool:
    return line[:1].isspace()


def _joined(lines: list[str]) -> str:
    return " ".join(line.strip() for line in lines if line.strip())
