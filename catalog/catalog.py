"""The catalog: questions about what is stored, answered by DuckDB."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from catalog._translate import at_the_edge
from catalog.errors import InvalidQuestion, NoSuchTask
from catalog.format.names import from_text
from catalog.index.engine import relation
from catalog.index.fold import Refreshed
from catalog.index.index import Index
from catalog.journal.compaction import Compacted
from catalog.query import questions
from catalog.query.conditions import Parameters
from catalog.query.filters import EventFilters, ExportFilters, RunFilters, TaskFilters, takes
from catalog.query.times import Moment
from catalog.sandbox.limits import Limits
from catalog.sandbox.sandbox import Sandbox
from catalog.store.open import open_store
from catalog.task import Task, task_of

if TYPE_CHECKING:
    import duckdb
    from typing_extensions import Unpack

    from catalog.audit.export import Export
    from catalog.retention.plan import Age
    from catalog.verify.report import Verification

IndexPlace = Literal["storage", "private"]


class Catalog:
    """Knows every result of a storage.

    Parameters
    ----------
    path : str or path-like
        The storage's folder, or the URL of one that fsspec reaches, such as ``s3://bucket/prefix``.
    must_exist : bool
        Whether a folder that is not there is an error, or a storage in which nothing was saved yet.
    index : {"storage", "private"}
        Where the index lies: in the storage, for all to share, or in the user's cache directory. Where the storage
        cannot be written, or its file system has no locks, it is the latter in any case, and a warning is logged. The
        index of a remote storage is always in the cache directory.
    storage_options : mapping, optional
        Keyword arguments of the URL's file system.
    verify : {"always", "never"}
        Whether the files of results that SQL reads as tables are held against their digests.

    Raises
    ------
    ValueError
        If `index` or `verify` is none of the two.

    Notes
    -----
    Every question first folds in what was saved since the last one, from
    whatever process, and leaves nothing locked: answers are materialised.
    Safe to use from several threads; survives `fork` and pickling.

    Examples
    --------
    >>> catalog = Catalog.open("results")
    >>> catalog.names("weather", "m*")
    ['mean']
    >>> catalog.sql("SELECT task, value FROM tasks WHERE size < $most", {"most": 10_000}).fetchall()
    [('mean', '12.9')]
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        must_exist: bool = True,
        index: IndexPlace = "storage",
        storage_options: Mapping[str, Any] | None = None,
        verify: Literal["always", "never"] = "always",
    ) -> None:
        if index not in ("storage", "private"):
            raise InvalidQuestion(f"index is 'storage' or 'private', not {index!r}")
        if verify not in ("always", "never"):
            raise InvalidQuestion(f"verify is 'always' or 'never', not {verify!r}")
        self._store = open_store(path, storage_options)
        self.path = self._store.root
        self._index = Index(self._store, must_exist, private=index == "private")
        self._sandbox = Sandbox(self._index, self._store, verifies=verify == "always")

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        index: IndexPlace = "storage",
        storage_options: Mapping[str, Any] | None = None,
    ) -> Catalog:
        """Open the catalog of the storage in folder `path`.

        Parameters
        ----------
        path, index, storage_options
            As for the class.

        Returns
        -------
        Catalog
            Nothing is read before the first question.

        Raises
        ------
        CatalogUnusable
            When it is first asked, if there is no such folder.
        """
        return cls(path, index=index, storage_options=storage_options)

    @at_the_edge
    def exists(self) -> bool:
        """Tell whether there is a storage; makes nothing.

        Returns
        -------
        bool
            Whether there is a catalog, or results without one.

        Raises
        ------
        CatalogUnusable
            If the place cannot be reached.
        """
        from catalog.verify.presence import is_storage

        return is_storage(self._store)

    @at_the_edge
    def refresh(self) -> Refreshed:
        """Fold in what is new, as every question does, and tell what it was."""
        with self._index.question() as (_, refreshed):
            return refreshed

    @takes(TaskFilters)
    @at_the_edge
    def tasks(self, workflow: str = "*", task: str = "*", **filters: Unpack[TaskFilters]) -> duckdb.DuckDBPyRelation:
        """Return the results that are stored now, or were at a moment, and meet all filters.

        Parameters
        ----------
        workflow, task : str
            Globs as in `fnmatch`, case-sensitive.
        **filters
            ``since``, ``until``, ``as_of``, ``serializer``, ``type``, ``min_size``, ``max_size``, ``order_by``,
            ``limit``: see `catalog.query.filters.TaskFilters`.

        Returns
        -------
        duckdb.DuckDBPyRelation
            One row a result, over a materialised Arrow table: ``.df()``, ``.pl()``, ``.arrow()``, ``.show()``,
            ``.filter(...)`` and ``.fetchall()`` work at any later time. Times are aware, in UTC.

        Raises
        ------
        InvalidQuestion
            If a filter, a date, a column or a limit cannot be understood.
        """
        return relation(self._index.ask(questions.tasks({"workflow": workflow, "task": task, **filters})))

    @takes(EventFilters)
    @at_the_edge
    def events(self, workflow: str = "*", task: str = "*", **filters: Unpack[EventFilters]) -> duckdb.DuckDBPyRelation:
        """Return what happened: saves, overwrites, removals, failures and runs that meet all filters.

        Parameters
        ----------
        workflow, task : str
            Globs as in `fnmatch`. A `task` other than ``"*"`` leaves out what concerns a whole workflow.
        **filters
            ``event``, ``since``, ``until``, ``serializer``, ``type``, ``min_size``, ``max_size``, ``order_by``,
            ``limit``: see `catalog.query.filters.EventFilters`.

        Returns
        -------
        duckdb.DuckDBPyRelation
            One row an event, as `tasks` returns its rows.

        Raises
        ------
        InvalidQuestion
            If a filter, a date, a column or a limit cannot be understood.
        """
        return relation(self._index.ask(questions.events({"workflow": workflow, "task": task, **filters})))

    @takes(RunFilters)
    @at_the_edge
    def runs(self, workflow: str = "*", **filters: Unpack[RunFilters]) -> duckdb.DuckDBPyRelation:
        """Return the runs of workflows that meet all filters.

        Parameters
        ----------
        workflow : str
            A glob as in `fnmatch`.
        **filters
            ``since``, ``until``, ``status``, ``backend``, ``order_by``, ``limit``: see
            `catalog.query.filters.RunFilters`.

        Returns
        -------
        duckdb.DuckDBPyRelation
            One row a run, as `tasks` returns its rows.

        Raises
        ------
        InvalidQuestion
            If a filter, a date, a column or a limit cannot be understood.
        """
        return relation(self._index.ask(questions.runs({"workflow": workflow, **filters})))

    @at_the_edge
    def task(self, workflow: str, task: str) -> Task:
        """Return one result with all that is known of it.

        Parameters
        ----------
        workflow, task : str
            Its exact names.

        Returns
        -------
        Task
            The columns of ``tasks`` as Python values, and what happened under this name.

        Raises
        ------
        NoSuchTask
            If nothing is stored under these names now.
        """
        asked = [questions.one(workflow, task, table) for table in ("tasks", "events")]
        row, events = (answer.to_pylist() for answer in self._index.ask_all(asked))
        if not row:
            before = "; it was there once: events() tells of it" if events else ""
            raise NoSuchTask(f"there is no task {task!r} of workflow {workflow!r} in {self.path}{before}")
        return task_of(row[0], events)

    @at_the_edge
    def names(
        self,
        workflow: str,
        pattern: str = "*",
        *,
        since: Moment | None = None,
        until: Moment | None = None,
        as_of: Moment | None = None,
    ) -> list[str]:
        """Return the names of one workflow's results, sorted.

        Parameters
        ----------
        workflow : str
            Its exact name.
        pattern, since, until, as_of
            As in `tasks`.

        Returns
        -------
        list of str
            The names as they were given when the results were saved.
        """
        rows = self._index.rows(questions.names(workflow, pattern, since, until, as_of))
        return sorted(from_text(name) for (name,) in rows)

    @at_the_edge
    def sql(
        self, query: str, params: Parameters = None, *, memory_limit: str = "1GB", time_limit: float = 60.0
    ) -> duckdb.DuckDBPyRelation:
        """Return the answer to a query over the tables ``tasks``, ``events`` and ``runs``.

        Parameters
        ----------
        query : str
            One or more reading statements in DuckDB's SQL: SELECT, FROM, WITH, DESCRIBE, SUMMARIZE, SHOW, EXPLAIN,
            PIVOT. The answer is the last one's. ``result('workflow', 'task')`` in it is the table that a result was
            saved as, in Parquet.
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
        The query may come from anybody: it reads these tables and results, and nothing else
        is possible: no writing, no files, no network, no settings, no secrets.
        """
        return relation(self._sandbox.answer(query, params, Limits(memory_limit, time_limit)))

    @takes(ExportFilters)
    @at_the_edge
    def export(
        self,
        destination: str | os.PathLike[str],
        table: str = "tasks",
        *,
        partition_by: str | None = None,
        after: str | os.PathLike[str] | None = None,
        overwrite: bool = False,
        storage_options: dict[str, Any] | None = None,
        **filters: Unpack[ExportFilters],
    ) -> Export:
        """Write a table as Parquet, with what an auditor needs to verify it (`catalog.audit.audit`).

        Parameters
        ----------
        destination : str or path-like
            A path, or a URL that fsspec knows, such as ``s3://bucket/name.parquet``.
        table : str
            ``tasks``, ``events`` or ``runs``.
        partition_by : str, optional
            ``workflow`` or ``day``: the destination is then a folder, with a file for each.
        after : str or path-like, optional
            An earlier export of events with the same filters. This one begins just behind it, in every journal segment.
        overwrite : bool
            Whether an export that is there is replaced, once the new one is complete.
        storage_options : dict, optional
            Keyword arguments of the URL's file system.
        **filters
            ``workflow``, ``task``, ``event``, ``since``, ``until``, ``serializer``, ``type``, ``min_size``,
            ``max_size``, ``status``, ``backend``, as far as the question of the table's name takes them: see
            `catalog.query.filters.ExportFilters`.

        Returns
        -------
        Export
            Its files, number of rows and digest.

        Raises
        ------
        InvalidQuestion
            If there is no such table, or a filter cannot be understood.
        ExportRefused
            If there is no such folder, something is there already, `after` cannot be continued, or writing fails.
        """
        from catalog.audit.export import Request, export

        request = Request(table, dict(filters), partition_by, after, overwrite, storage_options)
        return export(self._index, self.path, destination, request)

    @at_the_edge
    def compact(self) -> Compacted:
        """Turn the journal's lines into a Parquet file, a tenth of their size.

        Questions do this by themselves, a little at a time, when there is much of it. Lines of the last two minutes
        are left: their writers may go on.

        Returns
        -------
        Compacted
            What was done, in segments, events and bytes.
        """
        return self._index.compact()

    @at_the_edge
    def rebuild(self) -> Refreshed:
        """Rebuild the index from the journal; nothing that the journal or the blobs know is lost."""
        return self._index.rebuild()

    @at_the_edge
    def expired(
        self,
        workflow: str = "*",
        *,
        keep_last: int | None = None,
        older_than: Age | None = None,
        larger_than: int | str | None = None,
    ) -> duckdb.DuckDBPyRelation:
        """Return what `Storage.gc` would remove under the same conditions, with its columns; removes nothing."""
        from catalog.retention.plan import plan

        return relation(self._index.ask(plan(workflow, keep_last, older_than, larger_than)))

    @at_the_edge
    def verify(self, workflow: str = "*", *, repair: bool = False) -> Verification:
        """Hold every blob and side file against the catalog, and the catalog against them.

        Parameters
        ----------
        workflow : str
            A glob on the names of the workflows that are verified.
        repair : bool
            Whether to mend: the index believes what is there, damaged files and side files that nobody declares are
            moved to ``.catalog/quarantine``, in a remote storage ``.quarantine``. Nothing is deleted.

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
        from catalog.verify.check import verify

        return verify(self._store, self._index, workflow, repair)

    def __repr__(self) -> str:
        return f"Catalog({self.path!r})"

    def _repr_html_(self) -> str | None:
        return self._overview("Catalog")

    @at_the_edge
    def _overview(self, title: str) -> str | None:
        from catalog.show.overview import overview  # on use: only notebooks ask

        return overview(title, self._store, self._index)

    def __dir__(self) -> list[str]:
        return [name for name in super().__dir__() if name[0] != "_"]
