"""The export that a new one continues: where it ended in each journal segment."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from catalog.audit.destination import files_at
from catalog.audit.digest import NO_ROWS
from catalog.audit.manifest import Lines, Manifest, digest_of_export, read
from catalog.errors import ExportRefused


@dataclass(frozen=True)
class Previous:
    """What a new export of events continues.

    Attributes
    ----------
    place : str
        Where it is; empty if nothing is continued.
    digest : str or None
        Its digest, None if nothing is continued.
    storage : str or None
        The storage that it is of.
    segments : dict of str to Lines
        Its lines, by segment.
    """

    place: str = ""
    digest: str | None = None
    storage: str | None = None
    segments: dict[str, Lines] = field(default_factory=dict)

    def end(self, segment: str) -> int:
        """Return the last line of a segment that it is about, 0 if of none."""
        return self.segments[segment].end if segment in self.segments else 0

    def link(self, segment: str) -> bytes:
        """Return the link at which it left the segment's chain."""
        return bytes.fromhex(self.segments[segment].hash_after) if segment in self.segments else NO_ROWS

    def check(self, storage: str, ends: dict[str, int], unplaced: int) -> None:
        """Refuse to continue it in a storage that does not go on from there.

        Parameters
        ----------
        storage : str
            The UUID of the storage.
        ends : dict of str to int
            The last line of each segment.
        unplaced : int
            How many events no line tells.

        Raises
        ------
        ExportRefused
            If it is of another storage, or of a history that has been lost since.
        """
        if self.digest is None:
            return
        if storage != self.storage:
            raise ExportRefused(f"after={self.place} is of storage {self.storage}, this one is {storage}")
        for segment, lines in self.segments.items():
            if ends.get(segment, 0) < lines.end:
                raise ExportRefused(
                    f"after={self.place} ends at line {lines.end} of the journal's segment {segment}, which now has "
                    f"{ends.get(segment, 0)}: part of it is lost; begin a new chain by an export without after"
                )
        if unplaced:
            raise ExportRefused(
                f"after={self.place} cannot be continued: of {unplaced} events no line of the journal tells, "
                "as the storage cannot be written here; export all, without after"
            )


def previous(
    place: str | os.PathLike[str], filters: dict[str, Any], storage_options: dict[str, Any] | None
) -> Previous:
    """Return the export of events at a place.

    Parameters
    ----------
    place : str or path-like
        Its file, or the folder of its parts: a path or a URL.
    filters : dict
        Those of the new export (`catalog.query.filters.given`).
    storage_options : dict or None
        Keyword arguments of the URL's file system.

    Returns
    -------
    Previous
        As it says of itself; its rows are not read.

    Raises
    ------
    ExportRefused
        If there is no export, or one that cannot be continued with these filters.
    """
    after = os.fspath(place)
    manifests = _manifests(after, storage_options)
    first = manifests[0]
    if len({manifest.of_the_export() for manifest in manifests}) > 1:
        raise ExportRefused(f"after={after} holds several exports: name the last one")
    if first.table != "events":
        raise ExportRefused(f"after={after} is an export of {first.table}: only those of events are continued")
    if first.filter != filters:
        raise ExportRefused(f"after={after} has the filters {first.filter}, this export {filters}: they must be equal")
    if first.part is not None and first.part.files != len(manifests):
        raise ExportRefused(f"after={after} has {len(manifests)} of the {first.part.files} files of its export")
    if sum(manifest.rows for manifest in manifests) != sum(lines.rows for lines in first.segments.values()):
        raise ExportRefused(
            f"after={after} holds events of which no line of the journal told: begin a new chain, without after"
        )
    return Previous(after, digest_of_export(manifests), first.storage, first.segments)


def _manifests(after: str, storage_options: dict[str, Any] | None) -> list[Manifest]:
    import pyarrow.parquet as pq

    found = []
    try:
        for opened in files_at(after, storage_options).values():
            with opened() as file:
                found.append(read(pq.read_metadata(file).metadata))
    except ExportRefused:
        raise
    except Exception as error:  # each file system has errors of its own
        raise ExportRefused(f"after={after} is no export that can be continued: {error}") from error
    return found
