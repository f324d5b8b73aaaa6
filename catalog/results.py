"""Results as tables: ``result('workflow', 'task')`` in a query is the Parquet that the result was saved as.

The names are found in the query before it runs, and become those of tables that
are handed to the box: Arrow datasets over files that were opened before it was
closed. So nothing that the box shuts out has to be let in, a table can only be
read, and of a large one only the columns and row groups that are asked for are.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from catalog.errors import CatalogError, InvalidQuestion
from catalog.names import candidates, from_text
from catalog.record import footer_from
from catalog.sides import declared, side_path

if TYPE_CHECKING:
    import duckdb
    import pyarrow.dataset as ds

#: The files of each table, by the name that it has in the query.
Tables = Mapping[str, "list[str]"]

_TEXT = rb"'((?:[^']|'')*)'"
_CALL = re.compile(rb"result\s*\(\s*" + _TEXT + rb"\s*,\s*" + _TEXT + rb"\s*\)", re.IGNORECASE)
_CALLED = re.compile(rb"result\s*\(", re.IGNORECASE)
_SUFFIX = ".parquet"
_READ = os.O_RDONLY | os.O_CLOEXEC


def resolved(query: str, root: str) -> tuple[str, Tables]:
    """Return a query with the names of tables in place of the results, and the files of each.

    Parameters
    ----------
    query : str
        Statements that `statements.check` let pass.
    root : str
        The storage's folder.

    Returns
    -------
    tuple of (str, mapping)
        The query and, by the name of each table, the paths of its Parquet files.

    Raises
    ------
    InvalidQuestion
        If a result is not named by two texts, is no table, or is none of this storage.
    """
    if "result" not in query.lower():  # as nearly always
        return query, {}
    import duckdb

    raw = query.encode()
    tables: dict[str, list[str]] = {}
    parts = []
    end = 0
    for start, kind in duckdb.tokenize(query):
        if start < end or kind.name not in ("identifier", "keyword") or not _CALLED.match(raw, start):
            continue
        call = _CALL.match(raw, start)
        if call is None:
            raise InvalidQuestion("result takes two names as texts: write it as result('workflow', 'task')")
        workflow, task = (text.decode().replace("''", "'") for text in call.groups())
        name = f"result({workflow!r}, {task!r})"
        tables[name] = files(root, workflow, task)
        quoted = name.replace('"', '""')
        parts += [raw[end:start], f'"{quoted}"'.encode()]
        end = call.end()
    return b"".join([*parts, raw[end:]]).decode(), tables


def files(root: str, workflow: str, task: str) -> list[str]:
    """Return the paths of the Parquet files of one result, which holds one table.

    Parameters
    ----------
    root : str
        The storage's folder.
    workflow, task : str
        The result's names, as the catalog shows them.

    Returns
    -------
    list of str
        In the order of the table's parts.

    Raises
    ------
    InvalidQuestion
        If there is no such result, it is no table, it holds several, or a file does not lie where it has to.
    """
    name = f"result({workflow!r}, {task!r})"
    folder, record = _record(root, from_text(workflow), from_text(task), name)
    parts = sorted(part for part in declared(record) if part.endswith(_SUFFIX))
    if not parts:
        written = ", ".join(record["serializers"])
        raise InvalidQuestion(
            f"{name} is no table, it was saved by {written}: call storage.register_default_serializers() and save a "
            "data frame of pandas, Polars or Dask, or an Arrow table"
        )
    if len({part.partition(".")[0] for part in parts}) > 1:
        raise InvalidQuestion(f"{name} holds several tables: save each as a task of its own")
    side = f"{root}/{side_path(folder, record['blob_id'])}"
    return [_inside(side, part, name) for part in parts]


def _record(root: str, workflow: str, task: str, name: str) -> tuple[str, Mapping[str, Any]]:
    if workflow and task:
        for folder in candidates(workflow):
            for file in candidates(task):
                try:
                    return folder, _footer(f"{root}/{folder}/{file}")
                except (FileNotFoundError, NotADirectoryError):
                    continue
                except (OSError, CatalogError) as error:
                    raise InvalidQuestion(f"{name} cannot be read: {error}") from error
    raise InvalidQuestion(f"{name}: nothing is stored under these names")


def _footer(path: str) -> Mapping[str, Any]:
    handle = os.open(path, _READ)
    try:
        size = os.fstat(handle).st_size
        return footer_from(lambda count: os.pread(handle, count, max(0, size - count)), size).record
    finally:
        os.close(handle)


def _inside(side: str, part: str, name: str) -> str:
    """Return the path of a side file, which has to lie in its result's folder and be no link."""
    path = os.path.normpath(f"{side}/{part}")
    if not path.startswith(f"{side}/") or os.path.realpath(path) != f"{os.path.realpath(side)}{path[len(side) :]}":
        raise InvalidQuestion(f"{name}: its file {part} does not lie in the result's folder")
    if not os.path.isfile(path):
        raise InvalidQuestion(f"{name}: its file {path} is gone; remove the task and run it again")
    return path


def hand_in(connection: duckdb.DuckDBPyConnection, tables: Tables) -> None:
    """Give a connection the tables, whose files are opened now.

    Parameters
    ----------
    connection : duckdb.DuckDBPyConnection
        Before it is closed in.
    tables : mapping
        From `resolved`.

    Raises
    ------
    InvalidQuestion
        If a file is no Parquet, or cannot be opened.
    """
    for name, paths in tables.items():
        try:
            connection.register(name, _dataset(paths))
        except (OSError, ValueError) as error:
            raise InvalidQuestion(f"{name} cannot be read: {error}") from error


def _dataset(paths: list[str]) -> ds.Dataset:
    import pyarrow as pa
    import pyarrow.dataset as ds

    form = ds.ParquetFileFormat()
    fragments = [form.make_fragment(pa.OSFile(path)) for path in paths]
    return ds.FileSystemDataset(fragments, fragments[0].physical_schema, form)
