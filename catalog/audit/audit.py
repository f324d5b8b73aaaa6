"""Verification of exports: what they say of themselves, and that nothing is missing between them.

Only the files are read: an auditor needs neither the storage nor its catalog.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from catalog.audit.digest import NO_ROWS
from catalog.audit.discrepancy import Discrepancy
from catalog.audit.exported import SeenExport, exports_of, seen_at, some, within
from catalog.errors import InvalidQuestion
from catalog.index.engine import connect


@dataclass(frozen=True)
class AuditedFile:
    """One file of an export.

    Attributes
    ----------
    path : str
        As it was given, or where it lies in the folder that was.
    table : str or None
        Which table it has; None if it is no export.
    rows : int
        How many there are.
    digest : str or None
        What it says that its digest is.
    digest_ok : bool
        Whether it is.
    follows : str or None
        The path of the export that it continues, None if that is not among the files or it continues none.
    """

    path: str
    table: str | None
    rows: int
    digest: str | None
    digest_ok: bool
    follows: str | None


@dataclass(frozen=True)
class Audit:
    """The outcome of a verification.

    Attributes
    ----------
    files : tuple of AuditedFile
        All of them, by path.
    findings : tuple of Discrepancy
        All that is wrong.
    """

    files: tuple[AuditedFile, ...]
    findings: tuple[Discrepancy, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings


def verify_exports(*paths: str | os.PathLike[str], storage_options: dict[str, Any] | None = None) -> Audit:
    """Verify exports, each by itself and all together.

    Parameters
    ----------
    *paths : str or path-like
        Files, and folders of exports in parts, in any order: paths or URLs.
    storage_options : dict, optional
        Keyword arguments of the URLs' file system.

    Returns
    -------
    Audit
        Everything is computed again from the rows: digests and chains, that each export of events begins where the
        one before it ended, and that no line is left out in between.

    Raises
    ------
    InvalidQuestion
        If no file is given.

    Notes
    -----
    A digest finds what was changed by accident, or by somebody who did not care
    to compute it again. Who wants to be safe from the others keeps the last
    digest elsewhere: it stands for everything before it.
    """
    if not paths:
        raise InvalidQuestion("name at least one export to verify")
    findings: list[Discrepancy] = []
    seen = []
    with connect() as connection:
        for path in dict.fromkeys(os.fspath(path) for path in paths):
            seen += seen_at(path, storage_options, connection, findings)
    exports = exports_of(seen)
    for export in exports:
        findings += within(export)
    followed = {export.digest: export for export in exports}
    findings += _between(exports, followed)
    return Audit(tuple(_audited(exports, followed, findings)), tuple(findings))


def _audited(
    exports: list[SeenExport], followed: dict[str, SeenExport], findings: list[Discrepancy]
) -> list[AuditedFile]:
    unreadable = {finding.path for finding in findings if finding.kind in ("unreadable", "missing")}
    files = [AuditedFile(path, None, 0, None, False, None) for path in unreadable]
    for export in exports:
        before = followed.get(export.manifest.previous or "")
        follows = before.path if before else None
        for file in export.files:
            said = file.manifest
            files.append(AuditedFile(file.path, said.table, file.rows, said.digest, file.is_sound, follows))
    return sorted(files, key=lambda file: file.path)


# Between exports


def _between(exports: list[SeenExport], followed: dict[str, SeenExport]) -> Iterator[Discrepancy]:
    """Hold exports against each other: one storage, and of events one chain for each filter."""
    yield from _storages(exports)
    events = [export for export in exports if export.manifest.table == "events"]
    first_after: dict[tuple[str | None, ...], SeenExport] = {}
    for export in events:
        manifest = export.manifest
        key = (manifest.previous, manifest.storage, repr(sorted(manifest.filter.items())))
        if (other := first_after.setdefault(key, export)) is not export:
            begin = "begin with the first event" if manifest.previous is None else "continue the same export"
            yield Discrepancy(export.path, "overlap", f"this export and {other.path} both {begin}")
        if manifest.previous is None:
            yield from _first(export)
        elif manifest.previous not in followed:
            message = f"it continues an export that is not here, with the digest {manifest.previous}"
            yield Discrepancy(export.path, "previous", message)
        else:
            yield from _after(export, followed[manifest.previous])
    yield from _repeated(events)


def _storages(exports: list[SeenExport]) -> Iterator[Discrepancy]:
    first = exports[0] if exports else None
    for export in exports[1:]:
        if first is not None and export.manifest.storage != first.manifest.storage:
            message = f"it is of storage {export.manifest.storage}, {first.path} of {first.manifest.storage}"
            yield Discrepancy(export.path, "storage", message)


def _first(export: SeenExport) -> Iterator[Discrepancy]:
    for segment, lines in export.segments.items():
        if lines.begin != 0 or lines.hash_before != NO_ROWS.hex():
            message = f"segment {segment}: it continues nothing, and begins behind line {lines.begin}"
            yield Discrepancy(export.path, "gap", message)


def _after(export: SeenExport, before: SeenExport) -> Iterator[Discrepancy]:
    """Hold an export against the one that it continues."""
    if export.manifest.filter != before.manifest.filter:
        message = f"its filters are {export.manifest.filter}, those of {before.path} {before.manifest.filter}"
        yield Discrepancy(export.path, "previous", message)
    for segment in before.segments.keys() - export.segments.keys():
        yield Discrepancy(export.path, "gap", f"segment {segment}: {before.path} tells of it, and this export does not")
    for segment, lines in export.segments.items():
        last = before.segments.get(segment)
        end, hash_after = (last.end, last.hash_after) if last else (0, NO_ROWS.hex())
        if lines.begin > end:
            message = f"segment {segment}: lines {end + 1} to {lines.begin} are missing between {before.path} and this"
            yield Discrepancy(export.path, "gap", message)
        elif lines.begin < end:
            message = f"segment {segment}: lines {lines.begin + 1} to {end} are in {before.path} already"
            yield Discrepancy(export.path, "overlap", message)
        elif lines.hash_before != hash_after:
            yield Discrepancy(export.path, "chain", f"segment {segment}: its chain does not go on from {before.path}")


def _repeated(events: list[SeenExport]) -> Iterator[Discrepancy]:
    """Find events that are in several exports of one chain, or twice in one."""
    chains: defaultdict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for export in events:
        known = chains[export.manifest.storage, repr(sorted(export.manifest.filter.items()))]
        again: dict[str, list[str]] = defaultdict(list)
        for file in export.files:
            for event_id in file.places.column("event_id").to_pylist() if file.places is not None else ():
                if event_id in known:
                    again[known[event_id]].append(event_id)
                known.setdefault(event_id, file.path)
        for path, ids in again.items():
            yield Discrepancy(export.path, "overlap", f"events are in {path} too: {some(ids)}")
