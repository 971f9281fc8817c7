"""A small table for notebooks."""

from collections.abc import Mapping
from html import escape
from typing import Final, cast

__all__ = ["html_table"]

_LONGEST: Final = 2_000
_MOST_ROWS: Final = 20


def html_table(rows: Mapping[str, object]) -> str:
    """Return a table of two columns; what is None has no row, a mapping stands as a list of its own.

    >>> html_table({"value": "1 < 2", "score": None})
    '<table><tr><th style="text-align:left">value</th><td><pre ...>1 &lt; 2</pre></td></tr></table>'
    """
    written = [_row(name, value) for name, value in rows.items() if value is not None]
    return f"<table>{''.join(written)}</table>"


def _row(name: str, value: object) -> str:
    return f'<tr><th style="text-align:left">{escape(name)}</th><td>{_cell(value)}</td></tr>'


def _cell(value: object) -> str:
    if isinstance(value, Mapping):
        items = list(cast("Mapping[object, object]", value).items())
        lines = [f"{_shown(key)}: {_shown(count)}" for key, count in items[:_MOST_ROWS]]
        rest = [f"{len(items) - _MOST_ROWS} more"] if len(items) > _MOST_ROWS else []
        return "<br>".join([*lines, *rest])
    return f'<pre style="text-align:left;white-space:pre-wrap;margin:0">{_shown(value)}</pre>'


def _shown(value: object) -> str:
    text = str(value).encode(errors="replace").decode()  # half a character, which a notebook cannot send
    return escape(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}... ({len(text):,} characters)")
