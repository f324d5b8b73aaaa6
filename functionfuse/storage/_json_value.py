"""A result as JSON: the scalar and small members of it, and the names of those that are left out.

Bounded in members, characters, depth and work, whatever the size of the result. What is short goes first, so that a
long member leaves out nothing but itself. A list is kept whole, with null in place of what JSON has nothing for, or
not at all: a part of it would have another length, sum and mean.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter
from typing import Any

from catalog.format.json_text import quote
from functionfuse.storage import _static
from functionfuse.storage._json_readers import LONGEST, Found, Items, Members, Reason, key_text, read

_MOST_MEMBERS = 500  # of all containers together, these included
_MOST_READ = 2_000  # also what is left out again
_DEEPEST = 32
_MOST_NAMED = 50
_LONGEST_NAME = 100
_LONGEST_NAMES = LONGEST // 4

_PLAIN_PART = re.compile(r"[^\W\d][\w-]*").fullmatch

Path = tuple[str | int | None, ...]


@dataclass(frozen=True)
class JsonValue:
    """What is kept of a result.

    Attributes
    ----------
    text : str
        JSON of at most `LONGEST` characters, all ASCII; null where nothing is kept.
    omitted : dict
        Of members that are left out, the path and the reason: of the first ones, as many as there is room for.
    omitted_count : int
        How many members are left out.
    """

    text: str
    omitted: dict[str, str]
    omitted_count: int


class _LeftOut(Exception):
    """Something is left out."""

    def __init__(self, reason: Reason) -> None:
        self.reason = reason


def json_value(obj: Any) -> JsonValue:
    """Return what is kept of a result."""
    writing = _Writing()
    found = read(obj)
    try:
        text = writing.write(obj, found, ())
    except _LeftOut:
        text = "null"
        if type(found) is not Members:  # only an object is without all of its members and still has their names
            writing.forget()
    return JsonValue(text, writing.names(), writing.count)


class _Writing:
    """Writes one value.

    Attributes
    ----------
    count : int
        How many members were left out.
    """

    def __init__(self) -> None:
        self.count = 0
        self._members = _MOST_MEMBERS
        self._room = LONGEST
        self._reads = _MOST_READ
        self._omitted: list[tuple[Path, Reason]] = []
        self._open: set[int] = set()  # ids of the containers that are being written

    def write(self, obj: Any, found: Found, path: Path) -> str:
        """Return the JSON of an object, or raise `_LeftOut`."""
        if type(found) is str:
            self._take(1, len(found))
            return found
        if type(found) is Reason:
            raise _LeftOut(found)
        if len(path) > _DEEPEST:
            raise _LeftOut(Reason.DEEP)
        if id(obj) in self._open:
            raise _LeftOut(Reason.RECURSIVE)
        self._take(1, 2)
        self._open.add(id(obj))
        try:
            return self._object(found, path) if type(found) is Members else self._list(found, path)  # type: ignore[arg-type]  # a list else
        finally:
            self._open.remove(id(obj))

    def forget(self) -> None:
        """Forget what was left out."""
        self.count = 0
        self._omitted.clear()

    def names(self) -> dict[str, str]:
        """Return the paths of the first members that were left out, with the reasons."""
        found: dict[str, str] = {}
        room = _LONGEST_NAMES
        for path, reason in self._omitted[:_MOST_NAMED]:
            name = _path_text(path)
            room -= len(quote(name)) + len(quote(reason.value)) + 2
            if room < 0:
                break
            found[name] = reason.value
        return found

    def _object(self, members: Members, path: Path) -> str:
        before = len(self._omitted)
        texts: dict[str, str] = {}
        for _, name, value, found in sorted(self._read_members(members, path, texts), key=itemgetter(0)):
            key = quote(name)
            text = self._try(value, found, path, name, len(key) + 2)
            texts[name] = f"{key}:{text}" if text else ""
        kept = [text for text in texts.values() if text]
        if members.length and not kept:
            self._give_up(before)
        return f"{{{','.join(kept)}}}"

    def _read_members(self, members: Members, path: Path, texts: dict[str, str]) -> list[tuple[int, str, Any, Found]]:
        """Return size, name, value and kind of the members; `texts` gets their names, in order."""
        waiting = []
        looked_at = 0
        for key, value in islice(members.pairs, max(0, min(_MOST_MEMBERS, self._reads))):
            looked_at += 1
            name = key_text(key)
            if isinstance(name, Reason):
                self._omit((*path, f"<{_static.qualname(type(key))}>"), name)
            elif name in texts:
                self._omit((*path, name), Reason.SAME_KEY)
            else:
                texts[name] = ""
                found = self._read(value)
                waiting.append((_size(found), name, value, found))
        self.count += members.length - looked_at
        return waiting

    def _list(self, items: Items, path: Path) -> str:
        if items.length > _MOST_MEMBERS:
            raise _LeftOut(Reason.LONG)
        if items.length > self._members or 2 * items.length > self._room:
            raise _LeftOut(Reason.NO_ROOM)
        before = len(self._omitted)
        texts = [self._item(item, path, index if items.is_ordered else None) for index, item in enumerate(items.items)]
        if texts and not any(texts):
            self._give_up(before)
        texts = [text or "null" for text in texts]
        return f"[{','.join(texts if items.is_ordered else sorted(texts))}]"

    def _item(self, item: Any, path: Path, index: int | None) -> str:
        """Return the JSON of a member of a list; empty where it is left out, and null takes its place."""
        found = self._read(item)
        text = self._try(item, found, path, index, 1, True)
        if text is None:
            self._take(1, 5)
        return text or ""

    def _give_up(self, before: int) -> None:
        """Leave a container out of which nothing is kept, for the reason why its first member is not."""
        raise _LeftOut(self._omitted[before][1] if len(self._omitted) > before else Reason.NO_ROOM)

    def _try(
        self, obj: Any, found: Found, path: Path, part: str | int | None, extra: int, is_whole: bool = False
    ) -> str | None:
        """Return the JSON of a member, or leave it out, with all that was written of it.

        Parameters
        ----------
        obj : object
            The member.
        found : str, Items, Members or Reason
            What it is to JSON.
        path : tuple
            Where its container is.
        part : str, int or None
            What it is called there.
        extra : int
            Characters that it takes beside its own.
        is_whole : bool
            Whether its container is left out with it if there is no room.
        """
        if type(found) is str and self._members > 0 and len(found) + extra <= self._room:  # nearly always
            self._members -= 1
            self._room -= len(found) + extra
            return found
        before = self._members, self._room, len(self._omitted), self.count
        try:
            self._take(0, extra)
            return self.write(obj, found, (*path, part))
        except _LeftOut as left_out:
            if is_whole and left_out.reason is Reason.NO_ROOM:
                raise
            self._members, self._room, omitted, self.count = before
            del self._omitted[omitted:]
            self._omit((*path, part), left_out.reason)
            return None

    def _read(self, obj: Any) -> Found:
        self._reads -= 1
        return read(obj) if self._reads >= 0 else Reason.NO_ROOM

    def _take(self, members: int, characters: int) -> None:
        if members > self._members or characters > self._room:
            raise _LeftOut(Reason.NO_ROOM)
        self._members -= members
        self._room -= characters

    def _omit(self, path: Path, reason: Reason) -> None:
        self.count += 1
        self._omitted.append((path, reason))


def _size(found: Found) -> int:
    if type(found) is str:
        return len(found)
    return 0 if type(found) is Reason else LONGEST + found.length  # type: ignore[union-attr]  # a container else


def _path_text(path: Path) -> str:
    """Return a path as users write it: ``fit.models[3]."odd name"``; the members of sets have no index."""
    text = "".join(_part_text(part) for part in path).removeprefix(".")
    return text if len(text) <= _LONGEST_NAME else f"{text[:_LONGEST_NAME]}..."


def _part_text(part: str | int | None) -> str:
    if not isinstance(part, str):
        return "[]" if part is None else f"[{part}]"
    part = part[:_LONGEST_NAME]
    if not (_PLAIN_PART(part) or part.startswith("<")):
        part = '"' + part.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f".{part}"
