"""Carrying out a plan of retention."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from catalog.format.names import from_text
from functionfuse._progress import shown
from functionfuse.errors import TaskNotFound

#: What has to be known of each result of a plan, as SQL.
COLUMNS = "workflow, task, blob_id::VARCHAR"

#: Removes the result of a workflow and task if it still is the blob of an id, and tells whether it was.
Remove = Callable[[str, str, str], bool]

#: Does the same with many numbers, several at once where that is worth while.
Map = Callable[[Callable[[int], bool], Iterable[int]], Iterator[bool]]


def carry_out(planned: list[tuple[str, str, str]], remove: Remove, map_all: Map) -> list[bool]:
    """Remove what is planned, on a terminal with a bar, and tell of each whether it was removed."""
    numbers = shown(list(range(len(planned))), None, "removing")
    return list(map_all(lambda number: _carry_out(*planned[number], remove), numbers))


def _carry_out(workflow: str, task: str, blob_id: str, remove: Remove) -> bool:
    try:
        return remove(from_text(workflow), from_text(task), blob_id)
    except TaskNotFound:  # another process was quicker
        return False


def reason(**conditions: object) -> Mapping[str, str]:
    """Return what the event of a removal says: by which conditions it went."""
    return {"reason": "gc"} | {name: str(value) for name, value in conditions.items() if value is not None}
