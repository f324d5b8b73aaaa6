"""Filters as SQL conditions, with their values as parameters."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from catalog.errors import InvalidQuestion
from catalog.format.columns import Column
from catalog.format.names import to_text
from catalog.query.times import Moment, span

_GLOB_CHARACTERS = re.compile(r"[*?\[]").search
_CHARACTER = "(?:\U0010f8ff[0-9a-f]{6}|[^\U0010f8ff])"  # one character of a name, or the escape of one (`to_text`)


@dataclass
class Conditions:
    """SQL conditions that all have to hold, and their parameters."""

    clauses: list[str] = field(default_factory=list)
    parameters: list[Any] = field(default_factory=list)

    def add(self, clause: str, *parameters: Any) -> None:
        """Add one condition."""
        self.clauses.append(clause)
        self.parameters.extend(parameters)

    def contains(self, column: str, value: str) -> None:
        """Want a list to contain a string."""
        if not isinstance(value, str):
            raise InvalidQuestion(f"what {column} are to contain is a string, not {value!r}")
        self.add(f'list_contains("{column}", ?)', to_text(value))

    def within(self, column: str, least: int | None, most: int | None) -> None:
        """Want a number that is neither below `least` nor above `most`."""
        for sign, bound in ((">=", least), ("<=", most)):
            if bound is not None:
                if not isinstance(bound, (int, float)):
                    raise InvalidQuestion(f"a bound for {column} is a number, not {bound!r}")
                self.add(f'"{column}" {sign} ?', bound)

    def glob(self, column: str, pattern: str) -> None:
        """Want a column to match a glob as `fnmatch` reads it: case-sensitive, ``[!...]`` for "none of".

        DuckDB's GLOB reads ``[!...]`` otherwise and takes a backslash for an
        escape, so the pattern goes to RE2 as the expression that `fnmatch` makes
        of it; a plain one to ``=``, a prefix to ``starts_with``.
        """
        if not isinstance(pattern, str):
            raise InvalidQuestion(f"a pattern for {column} is a string such as 'task_*', not {pattern!r}")
        text = to_text(pattern)
        if pattern == "*":
            return
        if not _GLOB_CHARACTERS(text):
            self.add(f'"{column}" = ?', text)
        elif text.endswith("*") and not _GLOB_CHARACTERS(text[:-1]):
            self.add(f'starts_with("{column}", ?)', text[:-1])
        else:
            self.add(f'regexp_full_match("{column}", ?)', _expression(text))

    def between(self, column: str, since: Moment | None, until: Moment | None) -> None:
        """Want a time at or after `since` and before `until`."""
        first, last = span(since, until)
        if first is not None:
            self.add(f'"{column}" >= ?', first)
        if last is not None:
            self.add(f'"{column}" < ?', last)

    def where(self) -> str:
        """Return the SQL clause, empty without conditions."""
        return f" WHERE {' AND '.join(self.clauses)}" if self.clauses else ""


def _expression(pattern: str) -> str:
    r"""Return a glob as an expression of RE2, which knows no atomic groups and writes the end of text ``\\z``."""
    pieces = []
    at = 0
    while at < len(pattern):
        character = pattern[at]
        end = _class_end(pattern, at) if character == "[" else 0
        if end:
            pieces.append(_class(pattern[at + 1 : end]))
            at = end
        else:
            pieces.append({"*": ".*", "?": _CHARACTER}.get(character) or re.escape(character))
        at += 1
    return f"(?s){''.join(pieces)}"


def _class_end(pattern: str, at: int) -> int:
    start = at + 2 if pattern[at + 1 : at + 2] == "!" else at + 1
    return max(0, pattern.find("]", start + 1))  # a "]" that comes first is one of the characters


def _class(inside: str) -> str:
    # fnmatch knows the awkward cases, such as ranges that are empty.
    translated = fnmatch.translate(f"[{inside}]")
    found = re.search(r"\(\?s:(.*)\)\\[Zz]$", translated, re.DOTALL)
    expression = found[1] if found else re.escape(f"[{inside}]")
    # RE2 would take "[:alpha:]" inside a class for all letters; to `fnmatch` those are seven characters.
    return {"(?!)": r"[^\x00-\x{10FFFF}]"}.get(expression, expression.replace("[:", r"[\:"))


def order(order_by: str | None, columns: tuple[Column, ...], default: str) -> str:
    """Return the SQL clause that orders by columns.

    Parameters
    ----------
    order_by : str or None
        Column names separated by commas, each with ``DESC`` or ``ASC`` if wanted.
    columns : tuple of Column
        Those that there are.
    default : str
        The order if none is given.

    Returns
    -------
    str
        The clause, with a blank in front.

    Raises
    ------
    InvalidQuestion
        If a column is unknown.
    """
    known = {column.name for column in columns}
    if not isinstance(order_by, (str, type(None))):
        raise InvalidQuestion(f"order_by is a string such as 'saved_at DESC, task', not {order_by!r}")
    parts = []
    for part in (order_by or default).split(","):
        name, _, direction = part.strip().partition(" ")
        if name not in known or direction.strip().upper() not in ("", "ASC", "DESC"):
            listed = ", ".join(sorted(known))
            raise InvalidQuestion(f"order_by={order_by!r}: unknown {part.strip()!r}; columns: {listed}")
        parts.append(f'"{name}" {direction}'.strip())
    return f" ORDER BY {', '.join(parts)}"


def limited(limit: int | None) -> str:
    """Return the SQL clause that limits the number of rows; `InvalidQuestion` if it is negative or no number."""
    if limit is None:
        return ""
    if not isinstance(limit, int) or isinstance(limit, bool) or not 0 <= limit < 1 << 63:
        raise InvalidQuestion(f"limit={limit!r}: a limit is a number of rows, 0 or more")
    return f" LIMIT {limit}"


Parameters = Mapping[str, Any] | list[Any] | tuple[Any, ...] | None
