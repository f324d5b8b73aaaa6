"""Segments of the journal: their names, and how much of what they tell is confirmed.

On a disk a segment is ``<UUIDv7>.ndjson``, to which its writer appends. In a bucket it is an immutable object,
``<writer>.<n>.<m>.ndjson``: the n-th of a writer, all events of whose segments up to the m-th were published by then.
What was published before its line was written is in ``<UUIDv7>.ndjson``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from catalog.journal.base import SEGMENT_SUFFIX
from catalog.store.base import Entry

#: What a compacted part of the journal ends in.
COMPACTED_SUFFIX = ".parquet"


class State(Enum):
    """How much of what a segment tells is confirmed by its writer."""

    GROWING = 1  # all but the last event
    OPEN = 2  # perhaps nothing
    CLOSED = 3  # all


@dataclass(frozen=True)
class Segment:
    """A segment that is not compacted, as it was listed.

    Attributes
    ----------
    name : str
        Its file's name.
    key : str
        Where it is, in the storage.
    size : int
        Bytes.
    modified : float
        When it was last written to, by the clock of the place; seconds since 1970, 0 where nothing tells.
    state : State
        How much is confirmed.
    """

    name: str
    key: str
    size: int
    modified: float
    state: State = State.GROWING


def appended(entries: Iterable[Entry]) -> list[Segment]:
    """Return the segments among the files of a disk, oldest first; of two files of one name, the later one."""
    found = {name_of(each): each for each in entries if is_segment(each)}
    return [Segment(name, found[name].key, found[name].size, found[name].modified) for name in sorted(found)]


def uploaded(entries: Iterable[Entry]) -> list[Segment]:
    """Return the segments among the objects of a bucket, oldest first."""
    segments = [each for each in entries if is_segment(each)]
    confirmed: dict[str, int] = {}
    for each in segments:
        writer, _, until = parts_of(name_of(each))
        confirmed[writer] = max(until, confirmed.get(writer, 0))
    return [_uploaded(each, confirmed) for each in segments]


def _uploaded(entry: Entry, confirmed: dict[str, int]) -> Segment:
    name = name_of(entry)
    writer, number, _ = parts_of(name)
    state = State.CLOSED if number <= confirmed[writer] else State.OPEN
    return Segment(name, entry.key, entry.size, entry.modified, state)


def name_of(entry: Entry) -> str:
    """Return the name of a file."""
    return entry.key.rpartition("/")[2]


def is_segment(entry: Entry) -> bool:
    """Tell whether a file of the journal's folder is a segment."""
    return entry.key.endswith(SEGMENT_SUFFIX) and name_of(entry)[0] != "."


def is_compacted(name: str) -> bool:
    """Tell whether a file of the journal's folder is a compacted part of it."""
    return name.endswith(COMPACTED_SUFFIX) and name[0] != "."


def parts_of(name: str) -> tuple[str, int, int]:
    """Return writer, number and last confirmed number of a segment; of one that is confirmed itself, 1 and 1."""
    parts = name.removesuffix(SEGMENT_SUFFIX).split(".")
    if len(parts) == 3 and parts[1].isdigit() and parts[2].isdigit():
        return parts[0], int(parts[1]), int(parts[2])
    return name, 1, 1


def segment_name(writer: str, number: int, confirmed: int) -> str:
    """Return the name of a writer's segment in a bucket."""
    return f"{writer}.{number:06d}.{confirmed:06d}{SEGMENT_SUFFIX}"
