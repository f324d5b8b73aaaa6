"""The ``python`` blocks of a Markdown page, as a program that keeps their line numbers; its ``console`` blocks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"^\$ (.*\n(?:> .*\n)*)((?:(?!\$ ).*\n)*)", re.MULTILINE)


def blocks(page: str) -> Iterator[tuple[int, str]]:
    """Yield the number of its first line, and the code, of each block."""
    for match in _BLOCK.finditer(page):
        yield page.count("\n", 0, match.start(1)) + 1, match[1]


def program(page: str) -> str:
    """Return all blocks as one program, each on the lines that it has in the page."""
    lines: list[str] = []
    for first, code in blocks(page):
        lines += [""] * (first - 1 - len(lines)) + code.splitlines()
    return "\n".join(lines) + "\n" if lines else ""


def first_below(page: str, heading: str) -> str:
    """Return the first block below a heading.

    Parameters
    ----------
    page : str
        The Markdown text.
    heading : str
        The heading's words, without the ``#``.

    Returns
    -------
    str
        The code of the block.
    """
    match = re.search(rf"^#+ {re.escape(heading)}$", page, re.MULTILINE)
    assert match, f"there is no heading {heading!r}"
    _, code = next(blocks(page[match.end() :]))
    return code


@dataclass(frozen=True)
class Command:
    """A command of a ``console`` block.

    Attributes
    ----------
    text : str
        What stands behind ``$``, with the lines behind ``>`` that go on with it.
    output : str
        What it prints, where ``...`` stands for anything.
    """

    text: str
    output: str


def commands(page: str) -> list[Command]:
    """Return the commands of all ``console`` blocks."""
    found = [match for block in _CONSOLE.finditer(page) for match in _COMMAND.finditer(block[1])]
    return [Command(match[1].replace("\n> ", "\n").rstrip("\n"), match[2]) for match in found]
