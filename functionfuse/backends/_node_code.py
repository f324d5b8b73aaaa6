"""What the code of a node is: its closure, and what its author declared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from functionfuse._file import File
from functionfuse._task import NOTHING_DECLARED, Declared
from functionfuse.fingerprint import Closure, code_of, combine, comparable, of_value
from functionfuse.storage.base import CodeParts, Record, from_text, to_text

_OWN_CODE = "code"  # the name of the function's own part
_LONGEST_PARTS = 3_000  # characters of what a record says of the parts


class NodeCode:
    """The code of one function in one run.

    Parameters
    ----------
    code : object
        What is called.
    declared : Declared
        What its author says of it.
    closure : Closure
        What the run has reached until now.

    Attributes
    ----------
    fingerprint : str or None
        None if some part is unknown.
    known : str
        One fingerprint of all that is known.
    unknown, state : tuple of str
        Names of what has no fingerprint, and of what changes while code runs.
    parts : Mapping of str to str
        A short digest of each function and value by its name.
    name : str
        The function's full name, as text.
    recorded : CodeParts or None
        What a record says of the parts.
    names : tuple of str
        The positional parameters.
    only_by_position : int
        How many of them have to be given so.
    ignored : frozenset of str
        Arguments that do not count.
    """

    def __init__(self, code: Any, declared: Declared, closure: Closure) -> None:
        self.names, self.only_by_position = parameters(code)
        self.ignored = frozenset(declared.ignore)
        found = code_of(code, closure)
        unknown = ("code",) if found is None else found.unknown
        self.state = found.state if found else ()
        self.known = "?" if found is None else found.known
        self.parts: Mapping[str, str] = {} if found is None else found.parts
        if declared is not NOTHING_DECLARED:
            extra = dict(_declared_parts(declared, closure))
            unknown += tuple(name for name, token in extra.items() if token is None)
            # A change of what does not count, or of what is own, is none of the code.
            self.known = combine((self.known, *(each for pair in extra.items() for each in pair)))
            self.parts = {**self.parts, **{name: token for name, token in extra.items() if token is not None}}
        self.unknown = unknown
        self.fingerprint = None if unknown or self.state else self.known
        self.name = to_text(_full_name(code))
        if found is not None and (self.parts or self.fingerprint is None):
            self.parts = {_OWN_CODE: found.own, **self.parts}
        self.recorded = self._recorded(found.packages if found else {})

    def _recorded(self, packages: Mapping[str, str]) -> CodeParts | None:
        parts = {to_text(name): token for name, token in self.parts.items()}
        if sum(len(name) + len(token) for name, token in parts.items()) > _LONGEST_PARTS:
            parts = {}
        return CodeParts(parts=parts or None, packages=dict(packages) or None) if parts or packages else None

    def changes(self, record: Record) -> list[str]:
        """Return what is known to differ from the code that a record tells of, by name where that is known."""
        recorded = (record.code.parts if record.code else None) or {}
        before = {from_text(name): token for name, token in recorded.items()}
        differ = [name for name in self.parts if name in before and before[name] != self.parts[name]]
        told = [_said(name, before[name], self.parts[name]) for name in differ if name != _OWN_CODE]
        if _OWN_CODE in differ:
            return ["its function has changed"]
        known, now = record.code_fingerprint, None if self.unknown else self.known
        if told or not comparable(now, known) or now == known:
            return told
        return ["its function has changed" if not (before and self.parts) else "what its function uses has changed"]


def _said(name: str, before: str, now: str) -> str:
    if _is_digest(before) or _is_digest(now):
        return f"{name} has changed"
    return f"{name} was {before} and is {now}"


def _is_digest(text: str) -> bool:
    return (len(text) == 12 and not set(text) - set("0123456789abcdef")) or text.startswith(("xxh3:", "py3"))


def _declared_parts(declared: Declared, closure: Closure) -> Iterator[tuple[str, str | None]]:
    if declared.version is not None:
        yield "version", repr(declared.version)
    for number, each in enumerate(declared.depends):
        if isinstance(each, File):
            yield f"file {str(each)!r}", of_value(each)
        elif callable(each):
            found = code_of(each, closure)
            yield f"{getattr(each, '__qualname__', number)}", found.fingerprint if found else None
        else:
            yield f"depends[{number}]", of_value(each, closure=closure)


def _full_name(code: Any) -> str:
    return f"{getattr(code, '__module__', None)}.{getattr(code, '__qualname__', type(code).__qualname__)}"


def parameters(code: Any) -> tuple[tuple[str, ...], int]:
    """Return the names of the positional parameters, and how many of them are given by position only."""
    skipped = 0
    if isinstance(code, type):
        code = getattr(code, "__init__", None)
        skipped = 1
    plain = getattr(code, "__code__", None)
    if plain is None:
        return (), 0
    return tuple(plain.co_varnames[skipped : plain.co_argcount]), max(0, plain.co_posonlyargcount - skipped)
