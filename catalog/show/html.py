"""HTML for notebooks: no scripts, no colours of its own, so that it reads on light and dark pages; all text is escaped.

It stands in the catalog because both packages show themselves, and this is the lower of the two.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

#: The most rows that a table shows.
MOST_ROWS = 10
_LONGEST = 48  # characters of a text in a cell
_LONGEST_LINE = 400
_UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB")

# Inline: notebooks drop style sheets of outputs that they do not trust, and align cells in ways of their own.
_PAGE = "line-height:1.4;overflow-x:auto"
_TABLE = "border-collapse:collapse;border:0;margin:0.4em 0"
_HEAD = "font-weight:600;border:0;border-bottom:1px solid rgba(128,128,128,0.5)"
_CELL = "padding:0.1em 1.4em 0.1em 0;text-align:left;vertical-align:top;background:none"
_SHORT = "white-space:nowrap"
_FAINT = "opacity:0.7"

Cell = str | int | None


def page(title: str, name: str, line: str, *parts: str) -> str:
    """Return what a notebook shows of an object.

    Parameters
    ----------
    title : str
        What it is.
    name : str
        Which one it is.
    line : str
        What there is to say of it in a line.
    *parts : str
        HTML that stands below.

    Returns
    -------
    str
        HTML.
    """
    head = f"<b>{text(title)}</b> <code>{text(name, _LONGEST_LINE)}</code>"
    below = f'<span style="{_FAINT}">{text(line, _LONGEST_LINE)}</span>{"".join(parts)}'
    return f'<div style="{_PAGE}">{head}<br>{below}</div>'


def table(columns: Sequence[str], rows: Iterable[Sequence[Cell]], hidden: int = 0) -> str:
    """Return a table.

    Parameters
    ----------
    columns : sequence of str
        Their headings.
    rows : iterable of sequences
        Texts and numbers, the latter aligned at the right.
    hidden : int
        How many more rows there are.

    Returns
    -------
    str
        HTML; empty without rows.
    """
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    if not body:
        return ""
    head = "".join(f'<th style="{_CELL};{_SHORT};{_HEAD}">{text(column)}</th>' for column in columns)
    more = f'<span style="{_FAINT}">and {hidden:,} more</span>' if hidden > 0 else ""
    return f'<table style="{_TABLE}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}'


def facts(rows: Iterable[tuple[str, str]]) -> str:
    """Return a table of what something has, and what that is."""
    body = "".join(
        f'<tr><th style="{_CELL};{_SHORT};font-weight:600">{text(name)}</th>'
        f'<td style="{_CELL}">{text(value, _LONGEST_LINE)}</td></tr>'
        for name, value in rows
    )
    return f'<table style="{_TABLE}"><tbody>{body}</tbody></table>' if body else ""


def text(content: str, longest: int = _LONGEST) -> str:
    """Return a text as HTML: cut, escaped, and what cannot be printed (lone surrogates too) written as Python does."""
    cut = content if len(content) <= longest else f"{content[: longest - 1]}\u2026"
    return html.escape("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut))


def counted(count: int, one: str, many: str = "") -> str:
    """Return a number of things in words."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def size(count: int) -> str:
    """Return a number of bytes in a unit that a person reads, such as ``1.2 MB`` (powers of 1,000)."""
    number = float(count)
    units = list(_UNITS)
    while number >= 999.5 and len(units) > 1:
        number /= 1_000
        units.pop(0)
    return f"{number:.{1 if units[0] != 'bytes' and number < 99.5 else 0}f} {units[0]}"


def _cell(content: Cell) -> str:
    if isinstance(content, int):
        return f'<td style="{_CELL};{_SHORT};text-align:right">{content:,}</td>'
    return f'<td style="{_CELL};{_SHORT}">{text(content or "")}</td>'
