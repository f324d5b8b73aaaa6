"""Results as tables: ``result('workflow', 'task')`` in a query is the Parquet that the result was saved as.

The names are found in the query before it runs, by the sandbox, which alone reads
queries. They become those of tables that are handed to it: Arrow datasets over
files that were opened before it was closed. So nothing that the sandbox shuts out has to be let in, a table can only be
read, and of a large one only the columns and row groups that are asked for are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from operator import attrgetter
from typing import TYPE_CHECKING

from catalog.errors import InvalidQuestion
from catalog.format.names import candidates, from_text, side_path
from catalog.format.record import Record, SideFile
from catalog.format.side_files import DamagedList, declared
from catalog.store.base import Store, Unreadable
from catalog.store.blobs import blob_at
from catalog.store.reading import content_of
from catalog.store.regular_files import open_file
from catalog.store.verified import fault_of

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa
    import pyarrow.dataset as ds

#: The files of each table, by the name that it has in the query.
Tables = Mapping[str, "list[str]"]
#: Workflow and task of each table.
Named = Mapping[str, "tuple[str, str]"]

_TEXT = rb"'((?:[^']|'')*)'"
_CALL = re.compile(rb"result\s*\(\s*" + _TEXT + rb"\s*,\s*" + _TEXT + rb"\s*\)", re.IGNORECASE)
_CALLED = re.compile(rb"result\s*\(", re.IGNORECASE)
_SUFFIX = ".parquet"


@contextmanager
def fetched(named: Named, store: Store, verifies: bool = True) -> Iterator[Tables]:
    """Have the files of results that a query names.

    Parameters
    ----------
    named : mapping
        The workflow and task of each table, from `named_in`.
    store : Store
        The storage. The files of a remote one are fetched for the time of the block.
    verifies : bool
        Whether files are held against their digests.

    Yields
    ------
    mapping
        By the name of each table, the paths of its Parquet files.

    Raises
    ------
    InvalidQuestion
        If a result is no table, is damaged, or is none of this storage.
    """
    with ExitStack() as stack:
        yield {table: _Result(store, *names, verifies).fetched(stack) for table, names in named.items()}


def named_in(query: str) -> tuple[str, Named]:
    """Return a query in which results are tables, and the workflow and task of each.

    Parameters
    ----------
    query : str
        Statements that `statements.check` let pass.

    Returns
    -------
    tuple of (str, mapping)
        The query, and the names by those of the tables in it.

    Raises
    ------
    InvalidQuestion
        If a result is not named by two texts.
    """
    import duckdb

    raw = query.encode()
    named: dict[tuple[str, str], str] = {}
    parts = []
    end = 0
    for start, kind in duckdb.tokenize(query):
        if start < end or kind.name not in ("identifier", "keyword") or not _CALLED.match(raw, start):
            continue
        call = _CALL.match(raw, start)
        if call is None:
            raise InvalidQuestion("result takes two names as texts: write it as result('workflow', 'task')")
        workflow, task = (text.decode().replace("''", "'") for text in call.groups())
        if (workflow, task) not in named:
            name = _table_name(workflow, task)
            alike = sum(_table_name(*other).lower() == name.lower() for other in named)  # the same to DuckDB
            named[workflow, task] = f"{name} {alike + 1}" if alike else name
        name = named[workflow, task]
        quoted = name.replace('"', '""')
        parts += [raw[end:start], f'"{quoted}"'.encode()]
        end = call.end()
    return b"".join([*parts, raw[end:]]).decode(), {name: names for names, name in named.items()}


def _table_name(workflow: str, task: str) -> str:
    return f"result({workflow!r}, {task!r})"


class _Result:
    """A result that holds one table; its names are as the catalog shows them."""

    def __init__(self, store: Store, workflow: str, task: str, verifies: bool) -> None:
        self._store = store
        self._verifies = verifies
        self._names = from_text(workflow), from_text(task)
        self._table = _table_name(workflow, task)

    def fetched(self, stack: ExitStack) -> list[str]:
        """Return the paths of the Parquet files, in the order of the table's parts, until the stack is closed."""
        folder, record = self._record()
        while True:
            side = side_path(folder, record.blob_id)
            try:
                parts = self._parts(record, side)
                paths = stack.enter_context(self._store.local_files([f"{side}/{part.name}" for part in parts]))
                self._check(parts, paths)
                return paths
            except Unreadable:
                raise self._elsewhere() from None
            except FileNotFoundError as error:
                before, (folder, record) = record, self._record()
                if record.blob_id == before.blob_id:  # it was not overwritten meanwhile
                    what = f"its file {error} is gone; remove the task and run it again"
                    raise InvalidQuestion(f"{self._table}: {what}") from None

    def _check(self, parts: Sequence[SideFile], paths: Sequence[str]) -> None:
        """Hold the files against their digests, those of formats 1 and 2 have none."""
        for part, path in zip(parts, paths, strict=True) if self._verifies else ():
            with open(path, "rb", buffering=0, opener=open_file) as file:
                reason = fault_of(file.fileno(), part.digest) if part.digest is not None else ""
            if reason:
                raise self._damaged(f"its side file {part.name} is damaged: {reason}")

    def _damaged(self, what: str) -> InvalidQuestion:
        return InvalidQuestion(f"{self._table}: {what}; remove the task and run it again")

    def _record(self) -> tuple[str, Record]:
        """Return the workflow's folder, and what the result says of itself."""
        workflow, task = self._names
        for folder in candidates(workflow) if workflow and task else ():
            for file in candidates(task):
                try:
                    found = blob_at(self._store, folder, file)
                except Unreadable as error:
                    raise InvalidQuestion(f"{self._table} cannot be read: {error.__cause__ or error}") from error
                if found is not None:
                    return folder, found.record
        raise InvalidQuestion(f"{self._table}: nothing is stored under these names")

    def _parts(self, record: Record, side: str) -> Sequence[SideFile]:
        try:
            files = declared(record, lambda name: content_of(self._store, f"{side}/{name}"))
        except (DamagedList, Unreadable) as error:
            raise self._damaged(str(error)) from error
        parts = sorted((file for file in files if file.name.endswith(_SUFFIX)), key=attrgetter("name"))
        if not parts:
            written = ", ".join(record.serializers)
            raise InvalidQuestion(
                f"{self._table} is no table, it was saved by {written}: call storage.register_default_serializers() "
                "and save a data frame of pandas, Polars or Dask, or an Arrow table"
            )
        named = {part.name.partition(".")[0] for part in parts}
        if any(file.name.endswith(".pickle") and file.name.partition(".")[0] in named for file in files):
            what = "some of its partitions hold what Parquet cannot, and are pickles: give the columns other types"
            raise InvalidQuestion(f"{self._table}: {what}")
        if len(named) > 1:
            raise InvalidQuestion(f"{self._table} holds several tables: save each as a task of its own")
        return parts

    def _elsewhere(self) -> InvalidQuestion:
        return InvalidQuestion(f"{self._table}: one of its files does not lie in the result's folder")


def hand_in(connection: duckdb.DuckDBPyConnection, tables: Tables) -> None:
    """Give a connection the tables, whose files are opened now.

    Parameters
    ----------
    connection : duckdb.DuckDBPyConnection
        Before it is closed in.
    tables : mapping
        From `fetched`.

    Raises
    ------
    InvalidQuestion
        If a file is no Parquet, or cannot be opened.
    """
    for name, paths in tables.items():
        try:
            connection.register(name, _dataset(paths))
        except (OSError, ValueError, NotImplementedError) as error:
            raise InvalidQuestion(f"{name} cannot be read: {error}") from error


def _dataset(paths: list[str]) -> ds.Dataset:
    import pyarrow as pa
    import pyarrow.dataset as ds

    form = ds.ParquetFileFormat()
    fragments = [form.make_fragment(pa.OSFile(path)) for path in paths]
    schema = fragments[0].physical_schema
    known = pa.schema([field.with_type(_known(field.type)) for field in schema], schema.metadata)
    return ds.FileSystemDataset(fragments, known, form)  # casts as it reads, what is asked for


def _known(kind: pa.DataType) -> pa.DataType:
    """Return the type in which DuckDB gets a column, itself where DuckDB has it.

    Not as Arrow's are its numbers of 16 bits, which fit into those of 32, and decimals
    of 256: up to 38 digits they fit into those of 128, longer ones become DOUBLE, as
    DuckDB's own reader of Parquet has them. One column that it does not know, or has
    such a one inside, would make it refuse the whole table.
    """
    import pyarrow as pa

    if pa.types.is_float16(kind):
        return pa.float32()
    if pa.types.is_decimal256(kind):
        return pa.decimal128(kind.precision, kind.scale) if kind.precision <= 38 else pa.float64()
    inner = _known_inside(kind)
    return kind if inner is None or inner == kind else inner


def _known_inside(kind: pa.DataType) -> pa.DataType | None:
    """Return a nested type with known ones inside, an extension as its storage; None for one that is not nested."""
    import pyarrow as pa

    is_a = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        storage = _known(kind.storage_type)
        return None if storage == kind.storage_type else storage
    if is_a.is_struct(kind):
        return pa.struct([field.with_type(_known(field.type)) for field in kind])
    if is_a.is_map(kind):
        return pa.map_(_known(kind.key_type), _known(kind.item_type))
    if not is_a.is_nested(kind) or is_a.is_union(kind) or _known(kind.value_type) == kind.value_type:
        return None
    value = kind.value_field.with_type(_known(kind.value_type))
    if is_a.is_fixed_size_list(kind):
        return pa.list_(value, kind.list_size)
    is_large = is_a.is_large_list(kind) or is_a.is_large_list_view(kind)
    return pa.large_list(value) if is_large else pa.list_(value)  # Arrow casts no views of lists
