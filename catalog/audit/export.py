"""The catalog as Parquet, for any other tool, with digests for an auditor.

An export is made in two steps. Within a question DuckDB copies the rows, in
their order and with their hashes, into a working file: nothing has to fit into
memory, and other questions wait no longer than that. Then the files are
written from it, each with its manifest, and published.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from catalog.audit.destination import destination, is_same
from catalog.audit.manifest import FORMAT, Lines, Manifest, digest_of_export
from catalog.audit.parts import write_parts
from catalog.audit.previous import Previous, previous
from catalog.audit.working_file import ARROW, COLUMNS, PARTS, write_working_file
from catalog.errors import CatalogError, ExportRefused, InvalidQuestion
from catalog.format.author import utc_text
from catalog.format.columns import TABLES
from catalog.index.schema import SCHEMA_VERSION
from catalog.query.filters import conditions, given

if TYPE_CHECKING:
    from catalog.index.index import Index


@dataclass(frozen=True)
class Export:
    """What was exported.

    Attributes
    ----------
    paths : tuple of str
        The files, as paths or URLs.
    rows : int
        In all of them.
    digest : str
        SHA-256 over rows and manifests, the same for the same content.
    """

    paths: tuple[str, ...]
    rows: int
    digest: str


@dataclass(frozen=True)
class Request:
    """What is to be exported, and how.

    Attributes
    ----------
    table : str
        ``tasks``, ``events`` or ``runs``.
    filters : dict
        As the table's question takes them.
    partition_by : str or None
        ``workflow`` or ``day``.
    after : str, path-like or None
        The export of events to be continued.
    overwrite : bool
        Whether an export that is there is replaced.
    storage_options : dict or None
        Keyword arguments of the file system of a URL.
    """

    table: str
    filters: dict[str, Any]
    partition_by: str | None = None
    after: str | os.PathLike[str] | None = None
    overwrite: bool = False
    storage_options: dict[str, Any] | None = None


def export(index: Index, root: str, place: str | os.PathLike[str], request: Request) -> Export:
    """Write a table, or the part of it that filters leave, as Parquet.

    Parameters
    ----------
    index : Index
        The storage's.
    root : str
        The storage's folder.
    place : str or path-like
        A path or a URL.
    request : Request
        What and how.

    Returns
    -------
    Export
        What is there now.

    Raises
    ------
    InvalidQuestion
        If the request cannot be understood.
    ExportRefused
        If it cannot be carried out there; then whatever was there is as it was.
    """
    is_folder = _check(place, request)
    wanted = conditions(request.table, request.filters)
    filters = given(request.table, request.filters)
    target = destination(place, request.storage_options)
    target.check(is_folder=is_folder, overwrite=request.overwrite)
    before = Previous()
    if request.after is not None:
        before = previous(request.after, filters, request.storage_options)
    with _translated(place), target.workshop() as folder:
        rows = os.path.join(folder, "rows.parquet")
        storage, segments = write_working_file(index, rows, request.table, request.partition_by, wanted, before)
        manifest = _manifest(request.table, filters, storage, root, before.digest, segments)
        made = os.path.join(folder, "made")
        written = write_parts(rows, made, manifest, request.partition_by)
        target.publish(made, overwrite=request.overwrite)
    paths = tuple(os.path.join(os.fspath(place), name) if name else os.fspath(place) for name in written)
    return Export(paths, sum(each.rows for each in written.values()), digest_of_export(written.values()))


_OTHER_FORMATS = re.compile(
    r"\.(arrow|avro|csv|db|duckdb|feather|hdf5?|html?|ipc|jsonl?|ndjson|orc|pickle|pkl|sqlite|tsv|txt|xlsx?|ya?ml)"
    r"(\.(bz2|gz|xz|zip|zst))?$",
    re.IGNORECASE,
)


def _check(place: str | os.PathLike[str], request: Request) -> bool:
    """Refuse what cannot be understood; tell whether the export is a folder."""
    if request.table not in TABLES:
        raise InvalidQuestion(f"there is no table {request.table!r} to export; there are {', '.join(TABLES)}")
    if request.partition_by is None and (other := _OTHER_FORMATS.search(str(place))):
        name = f"{other.string[: other.start()]}.parquet"
        raise InvalidQuestion(
            f"{place}: an export is Parquet and not {other[1]}: call it {name}. "
            "For CSV, write what catalog.tasks(), events() or runs() return, or what functionfuse ls --csv prints"
        )
    if request.partition_by not in (None, *PARTS):
        raise InvalidQuestion(f"partition_by={request.partition_by!r}: it is None, 'workflow' or 'day'")
    if request.after is not None and request.table != "events":
        what = f"only exports of events continue others, {request.table} are exported as a whole"
        raise InvalidQuestion(f"after={request.after}: {what}")
    if request.after is not None and is_same(request.after, place):
        raise InvalidQuestion(f"after={place}: an export cannot take the place of the one that it continues")
    return request.partition_by is not None


@contextmanager
def _translated(place: str | os.PathLike[str]) -> Iterator[None]:
    import duckdb
    import pyarrow as pa

    try:
        yield
    except CatalogError:
        raise
    except (OSError, pa.ArrowException, duckdb.IOException) as error:
        raise ExportRefused(f"{os.fspath(place)} cannot be written: {error}") from error


def _manifest(
    table: str, filters: dict[str, Any], storage: str, root: str, continued: str | None, segments: dict[str, Lines]
) -> Manifest:
    return Manifest(
        format=FORMAT,
        schema_version=SCHEMA_VERSION,
        library=_library(),
        exported_at=utc_text(time.time()),
        table=table,
        rows=0,
        columns=[[column.name, ARROW[column.type]] for column in COLUMNS[table]],
        storage=storage,
        path=root,
        filter=filters,
        part=None,
        previous=continued,
        segments=segments,
    )


def _library() -> str:
    try:
        return f"functionfuse {importlib.metadata.version('functionfuse')}"
    except importlib.metadata.PackageNotFoundError:  # run from a checkout
        return "functionfuse"
