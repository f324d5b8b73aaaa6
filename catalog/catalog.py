"""The catalog: questions about what is stored, answered by DuckDB."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from catalog.box import Limits
from catalog.engine import relation
from catalog.errors import InvalidQuestion
from catalog.fold import Refreshed
from catalog.index import Index
from catalog.names import from_text, to_text
from catalog.query import Conditions, Parameters, limited, order
from catalog.schema import TABLES, TASKS, names_of
from catalog.times import Moment

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from catalog.retention import Age
    from catalog.verification import Verification


class Catalog:
    """Knows every result of a storage.

    Parameters
    ----------
    path : str or path-like
        The storage's folder.
    must_exist : bool
        Whether a folder that is not there is an error, or a storage in which nothing was saved yet.

    Notes
    -----
    Every question first folds in what was saved since the last one, from
    whatever process, and leaves nothing locked: answers are materialised.
    Safe to use from several threads; survives `fork` and pickling.
    """

    def __init__(self, path: str | os.PathLike[str], *, must_exist: bool = True) -> None:
        self.path = os.path.abspath(os.path.expanduser(os.fspath(path)))
        self._index = Index(self.path, must_exist)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Catalog:
        """Open the catalog of the storage in folder `path`.

        Returns
        -------
        Catalog
            Nothing is read before the first question.

        Raises
        ------
        CatalogUnusable
            When it is first asked, if there is no such folder.
        """
        return cls(path)

    def refresh(self) -> Refreshed:
        """Fold in what is new, as every question does, and tell what it was."""
        with self._index.question() as (_, refreshed):
            return refreshed

    def tasks(
        self,
        workflow: str = "*",
        task: str = "*",
        *,
        since: Moment | None = None,
        until: Moment | None = None,
        serializer: str | None = None,
        type: str | None = None,
        min_size: int | None = None,
        max_size: int | None = None,
        order_by: str | None = None,
        limit: int | None = None,
    ) -> duckdb.DuckDBPyRelation:
        """Return the results that are stored now and meet all filters.

        Parameters
        ----------
        workflow, task : str
            Globs as in `fnmatch`, case-sensitive.
        since, until : datetime, date or str, optional
            Saved at or after `since` and before `until`. Strings are ISO 8601; times without a zone are local.
        serializer : str, optional
            The name of a serializer that took part.
        type : str, optional
            A glob on the type of the result, such as ``"numpy.*"``.
        min_size, max_size : int, optional
            Bytes, both included.
        order_by : str, optional
            Columns separated by commas, with ``DESC`` where wanted; by default workflow and task.
        limit : int, optional
            The most rows.

        Returns
        -------
        duckdb.DuckDBPyRelation
            One row a result, over a materialised Arrow table: ``.df()``, ``.pl()``, ``.arrow()``, ``.show()``,
            ``.filter(...)`` and ``.fetchall()`` work at any later time. Times are UTC.

        Raises
        ------
        InvalidQuestion
            If a filter, a date, a column or a limit cannot be understood.
        """
        conditions = Conditions()
        conditions.glob("workflow", workflow)
        conditions.glob("task", task)
        conditions.between("saved_at", since, until)
        if serializer is not None:
            conditions.contains("serializers", serializer)
        if type is not None:
            conditions.glob("type", type)
        conditions.within("size", min_size, max_size)
        rest = order(order_by, TASKS, "workflow, task") + limited(limit)
        sql = f"SELECT {names_of(TASKS)} FROM tasks{conditions.where()}{rest}"
        return relation(self._ask(sql, conditions.parameters))

    def names(
        self, workflow: str, pattern: str = "*", *, since: Moment | None = None, until: Moment | None = None
    ) -> list[str]:
        """Return the names of one workflow's results, sorted.

        Parameters
        ----------
        workflow : str
            Its exact name.
        pattern, since, until
            As in `tasks`.

        Returns
        -------
        list of str
            The names as they were given when the results were saved.
        """
        conditions = Conditions()
        conditions.add("workflow = ?", to_text(workflow))
        conditions.glob("task", pattern)
        conditions.between("saved_at", since, until)
        table = self._ask(f"SELECT task FROM tasks{conditions.where()}", conditions.parameters)
        return sorted(from_text(name) for name in table.column("task").to_pylist())

    def sql(
        self, query: str, params: Parameters = None, *, memory_limit: str = "1GB", time_limit: float = 60.0
    ) -> duckdb.DuckDBPyRelation:
        """Return the answer to a query over the tables ``tasks``, ``events`` and ``runs``.

        Parameters
        ----------
        query : str
            One or more reading statements in DuckDB's SQL: SELECT, FROM, WITH, DESCRIBE, SUMMARIZE, SHOW, EXPLAIN,
            PIVOT. The answer is the last one's.
        params : list, tuple or mapping, optional
            For ``?`` and ``$1``, or by name for ``$name``.
        memory_limit : str
            The most memory that it may take, as DuckDB writes it.
        time_limit : float
            Seconds after which it is stopped.

        Returns
        -------
        duckdb.DuckDBPyRelation
            The rows, over a materialised Arrow table.

        Raises
        ------
        InvalidQuestion
            If it is no reading query, DuckDB cannot answer it, or it takes more than its limits.

        Notes
        -----
        The query may come from anybody: it reads these tables, and nothing else
        is possible: no writing, no files, no network, no settings, no secrets.
        """
        return relation(self._index.answer(query, params, Limits(memory_limit, time_limit)))

    def export(self, destination: str | os.PathLike[str], table: str = "tasks") -> None:
        """Write a table to a Parquet file.

        Parameters
        ----------
        destination : str or path-like
            The file; it appears when it is complete.
        table : str
            ``tasks``, ``events`` or ``runs``.

        Raises
        ------
        InvalidQuestion
            If there is no such table.
        """
        from catalog.export import write_parquet

        if table not in TABLES:
            raise InvalidQuestion(f"there is no table {table!r} to export; there are {', '.join(TABLES)}")
        columns = names_of(TABLES[table])
        write_parquet(self._ask(f"SELECT {columns} FROM {table} ORDER BY ALL", None), os.fspath(destination))

    def expired(
        self,
        workflow: str = "*",
        *,
        keep_last: int | None = None,
        older_than: Age | None = None,
        larger_than: int | str | None = None,
    ) -> duckdb.DuckDBPyRelation:
        """Return what `Storage.gc` would remove under the same conditions, with its columns; removes nothing."""
        from catalog.retention import plan

        return relation(self._ask(*plan(workflow, keep_last, older_than, larger_than)))

    def verify(self, workflow: str = "*", *, repair: bool = False) -> Verification:
        """Hold every blob and side file against the catalog, and the catalog against them.

        Parameters
        ----------
        workflow : str
            A glob on the names of the workflows that are verified.
        repair : bool
            Whether to mend: the index believes what is there, damaged files and side files that nobody declares are
            moved to ``.catalog/quarantine``. Nothing is deleted.

        Returns
        -------
        Verification
            What was found, with what was done about it. ``print`` shows it.

        Raises
        ------
        CatalogUnusable
            If there is no storage.

        Notes
        -----
        All bytes of all blobs are read, a piece at a time. Nothing is locked
        meanwhile: others save and remove, and nothing is unpickled.
        """
        from catalog.check import verify

        return verify(self.path, self._index, workflow, repair)

    def _ask(self, sql: str, parameters: Parameters) -> pa.Table:
        with self._index.question() as (connection, _):
            return connection.sql(sql, params=parameters).to_arrow_table()

    def __repr__(self) -> str:
        return f"Catalog({self.path!r})"
