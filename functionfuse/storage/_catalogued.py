"""What a storage knows by its catalog: what is there, whether it is sound, and what may go."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from catalog.format import names
from catalog.format.events import Kind, event_line
from catalog.journal.base import Journal
from catalog.store.base import Store
from functionfuse.errors import TaskNotFound
from functionfuse.storage import _retention
from functionfuse.storage._lookup import checked
from functionfuse.storage._options import Options
from functionfuse.storage._translate import at_the_edge

if TYPE_CHECKING:
    from datetime import date, datetime

    import duckdb

    from catalog import Catalog
    from catalog.retention.plan import Age
    from catalog.verify.report import Verification


class Catalogued(ABC):
    """The questions to a storage's catalog, and the deeds that follow from their answers."""

    _store: Store
    _journal: Journal
    _options: Options

    def __init__(self, index: Literal["storage", "private"]) -> None:
        self._index = index
        self._catalog: Catalog | None = None

    @property
    def catalog(self) -> Catalog:
        """The catalog of all results of this storage."""
        if self._catalog is None:
            from catalog import Catalog  # on use: saving and reading need none of it

            self._catalog = Catalog(
                self._store.root,
                must_exist=False,
                index=self._index,
                storage_options=self._store.options,
                verify="always" if self._options.verify else "never",
            )
        return self._catalog

    @at_the_edge
    def list_tasks(
        self,
        workflow_name: str,
        pattern: str = "*",
        *,
        since: datetime | date | str | None = None,
        until: datetime | date | str | None = None,
        as_of: datetime | date | str | None = None,
    ) -> list[str]:
        """Return the names of a workflow's results, sorted.

        Parameters
        ----------
        workflow_name : str
            The workflow, by its exact name.
        pattern : str
            A glob as in `fnmatch`, case-sensitive: ``*``, ``?``, ``[abc]``, ``[!a-c]``.
        since, until : datetime, date or str, optional
            Only what was saved at or after `since` and before `until`. Strings are ISO 8601; times without a
            zone are local.
        as_of : datetime, date or str, optional
            Those that were stored at that moment, instead of now.

        Returns
        -------
        list of str
            The names as they were given.

        Raises
        ------
        catalog.errors.InvalidQuestion
            If a date cannot be read, or `since` is after `until`.
        """
        checked("workflow", workflow_name)
        return self.catalog.names(workflow_name, pattern, since=since, until=until, as_of=as_of)

    # Keeping house

    @at_the_edge
    def verify(self, workflow_name: str = "*", *, repair: bool = False) -> Verification:
        """Hold all results and side files against the catalog, and the catalog against them, as `Catalog.verify` does.

        Parameters
        ----------
        workflow_name : str
            A glob on the names of the workflows that are verified.
        repair : bool
            Whether to mend the index and to move what is damaged into quarantine. Nothing is deleted.

        Returns
        -------
        Verification
            What was found, and what was done about it.
        """
        return self.catalog.verify(workflow_name, repair=repair)

    @at_the_edge
    def gc(
        self,
        *,
        keep_last: int | None = None,
        older_than: Age | None = None,
        larger_than: int | str | None = None,
        workflow: str = "*",
        dry_run: bool = True,
    ) -> duckdb.DuckDBPyRelation:
        """Remove the results that meet all conditions and are not pinned; by default, only tell which.

        Parameters
        ----------
        keep_last : int, optional
            How many of each workflow stay whatever else: the last that were saved.
        older_than : timedelta, datetime, date or str, optional
            Saved longer ago than that (``"30d"``, ``"12h"``, ``"2w"``), or before that moment (ISO 8601).
        larger_than : int or str, optional
            Bytes with side files: a number, or such as ``"500MB"`` or ``"2GiB"``.
        workflow : str
            A glob on the names of the workflows.
        dry_run : bool
            Whether to remove nothing.

        Returns
        -------
        duckdb.DuckDBPyRelation
            The plan, ordered by name: ``workflow``, ``task``, ``size``, ``saved_at``, ``blob_id``, ``removed``. What
            was saved anew meanwhile is not removed.

        Raises
        ------
        catalog.errors.InvalidQuestion
            If there is no condition, or one that cannot be understood.
        """
        plan = self.catalog.expired(workflow, keep_last=keep_last, older_than=older_than, larger_than=larger_than)
        why = _retention.reason(keep_last=keep_last, older_than=older_than, larger_than=larger_than)
        return plan if dry_run else self._collect(plan, why)

    def _collect(self, plan: duckdb.DuckDBPyRelation, why: Mapping[str, str]) -> duckdb.DuckDBPyRelation:
        """Remove what a plan lists, and nothing else, and return it with what became of it."""
        from catalog.retention.plan import marked
        from catalog.store.blobs import blob_id_at
        from catalog.store.open import open_store

        store = open_store(self._store.root, self._store.options)

        def remove(workflow_name: str, task_name: str, blob_id: str) -> bool:
            at = self._find(workflow_name, task_name)
            if blob_id_at(store, *at) != blob_id:  # saved anew since it was planned
                return False
            self._remove(workflow_name, task_name, at, why, planned=blob_id, waits=False)
            return True

        planned = plan.project(_retention.COLUMNS).fetchall()
        with self._journal.batch():
            removed = _retention.carry_out(planned, remove, self._store.map)
        self.flush()
        return marked(plan, removed)

    @at_the_edge
    def pin(self, workflow_name: str, task_name: str) -> None:
        """Protect a result from `gc`, and whatever is saved under its name later, until it is unpinned.

        Raises
        ------
        TaskNotFound
            If there is no such result.
        """
        if not self.file_exists(workflow_name, task_name):
            raise TaskNotFound(
                f"task {task_name!r} of workflow {workflow_name!r}: nothing is stored there to be pinned"
            )
        self._set_pin(workflow_name, task_name, Kind.PIN)

    @at_the_edge
    def unpin(self, workflow_name: str, task_name: str) -> None:
        """End the protection of a name; one that is not pinned stays as it is."""
        self._set_pin(checked("workflow", workflow_name), checked("task", task_name), Kind.UNPIN)

    def _set_pin(self, workflow_name: str, task_name: str, event: Kind) -> None:
        name = [names.to_text(workflow_name), names.to_text(task_name)]
        ((last, last_id),) = self.catalog.sql(_LAST_PIN, name).fetchall()
        if event != (last or Kind.UNPIN):
            self._record(event, event_line(event, (workflow_name, task_name), after=last_id))

    @abstractmethod
    def file_exists(self, workflow_name: str, task_name: str) -> bool:
        """Tell whether a result is stored under these names."""

    @abstractmethod
    def flush(self) -> None:
        """Return when all that was left to threads is durable."""

    @abstractmethod
    def _find(self, workflow_name: str, task_name: str) -> tuple[str, str]:
        """Return folder and file of a result."""

    @abstractmethod
    def _remove(
        self,
        workflow_name: str,
        task_name: str,
        at: tuple[str, str],
        why: Mapping[str, Any] | None = None,
        planned: str | None = None,
        *,
        waits: bool = True,
    ) -> None:
        """Remove a result, if it still is the planned blob, and record that, and why; `TaskNotFound` otherwise."""

    @abstractmethod
    def _record(self, event: Kind, line: str, *, waits: bool = True) -> None:
        """Record an event by its line."""


# An event of a pin has a greater id than the one before it, whatever the clocks say.
_LAST_PIN = """
    SELECT max_by(event, event_id), max(event_id)::VARCHAR FROM events
    WHERE event IN ('pin', 'unpin') AND workflow = ? AND task = ?
"""
