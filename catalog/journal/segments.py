"""The names of segments in a remote journal.

A segment is an immutable object, ``<writer>.<n>.<m>.ndjson``: the n-th of a
writer, who had made all events of its segments up to the m-th true by then. What
came true before it was told is in ``<UUIDv7>.ndjson``.
"""

from __future__ import annotations

from catalog.journal.base import SEGMENT_SUFFIX


def parts_of(name: str) -> tuple[str, int, int]:
    """Return writer, number and last settled number of a segment; of one that is settled itself, 1 and 1."""
    parts = name.removesuffix(SEGMENT_SUFFIX).split(".")
    if len(parts) == 3 and parts[1].isdigit() and parts[2].isdigit():
        return parts[0], int(parts[1]), int(parts[2])
    return name, 1, 1


def segment_name(writer: str, number: int, settled: int) -> str:
    """Return the name of a writer's segment."""
    return f"{writer}.{number:06d}.{settled:06d}{SEGMENT_SUFFIX}"
