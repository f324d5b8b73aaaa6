"""Exports as an auditor reads them: file by file, and the lines that each tells of against its rows."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from catalog.audit.destination import files_at
from catalog.audit.digest import hashes_of, kind_of, link
from catalog.audit.discrepancy import Discrepancy
from catalog.audit.manifest import Lines, Manifest, NoManifest, digest_of_export, read

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

_ROWS_AT_ONCE = 1 << 16
_NAMED = 3  # examples in a message


@dataclass(frozen=True)
class Seen:
    """A file that was read.

    Attributes
    ----------
    path : str
        Where.
    manifest : Manifest
        What it says of itself.
    rows : int
        How many it has.
    is_sound : bool
        Whether its digest is that of its rows and manifest.
    places : pyarrow.Table or None
        Of events: segment, position, event id and hash of each row.
    """

    path: str
    manifest: Manifest
    rows: int
    is_sound: bool
    places: pa.Table | None


@dataclass(frozen=True)
class SeenExport:
    """The files of one export."""

    files: list[Seen]

    @property
    def path(self) -> str:
        """The first file's path."""
        return self.files[0].path

    @property
    def manifest(self) -> Manifest:
        """What its first file says of the export."""
        return self.files[0].manifest

    @property
    def digest(self) -> str:
        """The digest of the whole export."""
        return digest_of_export(file.manifest for file in self.files)

    @property
    def segments(self) -> dict[str, Lines]:
        """The journal's lines that it holds, by segment."""
        return self.manifest.segments


# One file


def seen_at(
    path: str,
    storage_options: dict[str, Any] | None,
    connection: duckdb.DuckDBPyConnection,
    findings: list[Discrepancy],
) -> list[Seen]:
    """Read the files at a path; what cannot be read is a finding."""
    try:
        opened = files_at(path, storage_options)
    except FileNotFoundError as error:
        findings.append(Discrepancy(path, "missing", str(error)))
        return []
    except Exception as error:  # each file system has errors of its own
        findings.append(Discrepancy(path, "unreadable", f"it cannot be read: {error}"))
        return []
    seen = []
    for name, opener in opened.items():
        try:
            with opener() as file:
                each, found = _read(name, file, connection)
        except FileNotFoundError:
            findings.append(Discrepancy(name, "missing", f"there is no such file: {name}"))
        except NoManifest as error:
            findings.append(Discrepancy(name, "unreadable", str(error)))
        except Exception as error:  # a damaged file may upset Parquet's reader anywhere
            findings.append(Discrepancy(name, "unreadable", f"it is damaged, or no Parquet file: {error}"))
        else:
            seen.append(each)
            findings += found
    return seen


def _read(path: str, file: Any, connection: duckdb.DuckDBPyConnection) -> tuple[Seen, list[Discrepancy]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    parquet = pq.ParquetFile(file)
    manifest = read(parquet.metadata.metadata)
    columns = [[field.name, kind_of(field.type)] for field in parquet.schema_arrow]
    if columns != manifest.columns:
        message = f"its columns are not those that it describes: {_examples(columns, manifest.columns)}"
        return Seen(path, manifest, 0, False, None), [Discrepancy(path, "columns", message)]
    hashes: list[bytes] = []
    places = []
    # Older versions of pyarrow raise where there is no row group.
    for batch in parquet.iter_batches(_ROWS_AT_ONCE) if parquet.metadata.num_row_groups else ():
        table = pa.Table.from_batches([batch])
        hashes += (new := hashes_of(connection, table))
        if manifest.table == "events":
            kept = table.select(["segment", "position", "event_id"])
            places.append(kept.append_column("hash", pa.array(new, pa.binary())))
    is_sound = manifest.digest == manifest.digest_over(hashes)
    findings = []
    if len(hashes) != manifest.rows:
        message = f"it has {len(hashes)} rows and says that it has {manifest.rows}"
        findings.append(Discrepancy(path, "rows", message))
    if not is_sound:
        message = "its digest is not that of its rows and description: one of them was changed"
        findings.append(Discrepancy(path, "digest", message))
    return Seen(path, manifest, len(hashes), is_sound, pa.concat_tables(places) if places else None), findings


# One export


def exports_of(seen: Iterable[Seen]) -> list[SeenExport]:
    """Put the files of each export together."""
    whole = [SeenExport([file]) for file in seen if file.manifest.part is None]
    parts: defaultdict[bytes, list[Seen]] = defaultdict(list)
    for file in seen:
        if file.manifest.part is not None:
            parts[file.manifest.of_the_export()].append(file)
    return whole + [SeenExport(files) for files in parts.values()]


def within(export: SeenExport) -> Iterator[Discrepancy]:
    """Hold an export's files against each other, and its rows against the lines that it tells of."""
    part = export.manifest.part
    wanted = 1 if part is None else part.files
    values = {file.manifest.part.value for file in export.files if file.manifest.part is not None}
    if len(export.files) != wanted or len(values or (None,)) != wanted:
        message = f"{len(export.files)} of the {wanted} files of its export are here, of {len(values) or 1} parts"
        yield Discrepancy(export.path, "parts", message)
        return
    if export.manifest.table == "events":
        yield from _lines_of(export)


def _lines_of(export: SeenExport) -> Iterator[Discrepancy]:
    for file in export.files:
        if file.places is not None and not _is_ordered(file.places):
            yield Discrepancy(file.path, "order", "its rows are not in the order of segments and positions")
    rows = _rows_by_segment(export)
    for segment in sorted(rows.keys() - export.segments.keys()):
        yield Discrepancy(export.path, "lines", f"it has rows of segment {segment}, of which it does not tell")
    for segment, lines in export.segments.items():
        positions, hashes = rows.get(segment, ([], []))
        for kind, message in _wrong_in(lines, positions, hashes, is_whole=not export.manifest.filter):
            yield Discrepancy(export.path, kind, f"segment {segment}: {message}")


def _is_ordered(places: pa.Table) -> bool:
    found = [place for place in _pairs(places) if None not in place]
    return all(one < other for one, other in itertools.pairwise(found))


def _pairs(places: pa.Table) -> list[tuple[Any, Any]]:
    return list(zip(places.column("segment").to_pylist(), places.column("position").to_pylist(), strict=True))


def _rows_by_segment(export: SeenExport) -> dict[str, tuple[list[int], list[bytes]]]:
    """Return positions and hashes by segment, in the order of positions; what has no place is left out."""
    rows: dict[str, tuple[list[int], list[bytes]]] = {}
    for places in (file.places for file in export.files if file.places is not None):
        for (segment, position), row in zip(_pairs(places), places.column("hash").to_pylist(), strict=True):
            if segment is not None and position is not None:
                positions, hashes = rows.setdefault(segment, ([], []))
                positions.append(position)
                hashes.append(row)
    return {segment: _sorted(*both) for segment, both in rows.items()}


def _sorted(positions: list[int], hashes: list[bytes]) -> tuple[list[int], list[bytes]]:
    order = sorted(range(len(positions)), key=positions.__getitem__)
    return [positions[index] for index in order], [hashes[index] for index in order]


def _wrong_in(lines: Lines, positions: list[int], hashes: list[bytes], *, is_whole: bool) -> Iterator[tuple[str, str]]:
    """Yield kind and message of what is wrong in one segment of one export."""
    span = f"lines {lines.begin + 1} to {lines.end}"
    outside = [line for line in positions if not lines.begin < line <= lines.end]
    if outside or len(set(positions)) != len(positions):
        yield "lines", f"it tells of {span}, and has rows of others, or several of one: {some(outside)}"
    elif is_whole and (gaps := _gaps(lines, positions)) != lines.missing:
        different = [gap for gap in gaps if gap not in lines.missing] or lines.missing
        yield "lines", f"of {span}, it has no rows for {some(different)}, and says so of {some(lines.missing)}"
    elif not is_whole and any(_holds(positions, *gap) for gap in lines.missing):
        yield "lines", f"of {span}, it has rows for lines that it says have none: {some(lines.missing)}"
    after = bytes.fromhex(lines.hash_before)
    for row in hashes:
        after = link(after, row)
    if after.hex() != lines.hash_after or len(hashes) != lines.rows:
        yield "chain", f"the chain over its {len(hashes)} rows does not end as it says, after {lines.rows}"


def _gaps(lines: Lines, positions: list[int]) -> list[list[int]]:
    """Return the first and last of each stretch of lines without rows."""
    ends = itertools.pairwise([lines.begin, *positions, lines.end + 1])
    return [[before + 1, behind - 1] for before, behind in ends if behind - before > 1]


def _holds(positions: list[int], first: int, last: int) -> bool:
    at = bisect_left(positions, first)
    return at < len(positions) and positions[at] <= last


def some(items: list[Any]) -> str:
    """Return a few of them as text."""
    more = f" and {len(items) - _NAMED} more" if len(items) > _NAMED else ""
    return (", ".join(str(item) for item in items[:_NAMED]) or "none") + more


def _examples(found: list[list[str]], wanted: list[list[str]]) -> str:
    different = [each for each in found if each not in wanted] or [each for each in wanted if each not in found]
    return some([" ".join(each) for each in different or found])
