"""The index: a DuckDB file that is only a cache of journal and blobs.

It lies in the storage, where any DuckDB can open it, or is a private one where that cannot be
(`catalog.index.location`). It is attached for the time of a question, behind a lock between processes
(`catalog.index.lock`), and rebuilt when it is missing, damaged, or another storage's (`catalog.index.attach`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from catalog.errors import CatalogUnusable
from catalog.index.attach import Attached, attached_as_it_is
from catalog.index.damage import QueryFailed, is_damaged, may_tell_of_damage
from catalog.index.engine import engine, instance, renew
from catalog.index.fold import Fold, Refreshed
from catalog.index.history import History
from catalog.index.location import private_paths, report_once, shared_path
from catalog.index.lock import IndexUnavailable, Lock
from catalog.index.opening import Access, Opening
from catalog.index.question import Question
from catalog.journal.compaction import Compacted, Compaction
from catalog.journal.view import StorageView, known_identity
from catalog.store import regular_files
from catalog.store.base import Store

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

T = TypeVar("T")

_log = logging.getLogger("functionfuse.catalog")


class Index:
    """The index of one storage.

    Parameters
    ----------
    store : Store
        The storage.
    must_exist : bool
        Whether a folder that is not there is an error, or a storage in which nothing was saved yet.
    private : bool
        Whether it lies in the user's cache directory, even where the storage can be written.
    """

    def __init__(self, store: Store, must_exist: bool, private: bool) -> None:
        self._store = store
        self._must_exist = must_exist
        self._private = private or not store.is_local

    # Questions

    @contextmanager
    def question(self) -> Iterator[tuple[duckdb.DuckDBPyConnection, Refreshed]]:
        """Bring the index up to date and hand out a connection on which its tables have their plain names.

        Yields
        ------
        tuple of (duckdb.DuckDBPyConnection, Refreshed)
            The connection, to be used within the block only, and what was new.

        Raises
        ------
        CatalogUnusable
            If there is no storage, or neither its index nor a private one can be used.
        """
        with self._opened() as (_, attached, refreshed):
            yield attached.connection, refreshed

    def ask(self, question: Question) -> pa.Table:
        """Return the rows of a question of our own; raises as `question` does."""
        (answer,) = self.ask_all([question])
        return answer

    def ask_all(self, questions: list[Question]) -> list[pa.Table]:
        """Return the rows of several questions, asked of the same state; raises as `question` does."""

        def run(path: str) -> list[pa.Table]:
            return [instance(path).sql(each.sql, params=each.parameters).to_arrow_table() for each in questions]

        return self._answered(run, Access.READ)

    def rows(self, question: Question) -> list[Any]:
        """Return the rows of a question of our own as tuples, without the time that importing Arrow takes."""
        return self._answered(
            lambda path: instance(path).execute(question.sql, question.parameters).fetchall(), Access.READ
        )

    def shared(self, action: Callable[[str], T]) -> T:
        """Return what an action makes of the index's file, which other processes may read meanwhile.

        Parameters
        ----------
        action : callable
            Takes the path. It is called again if it fails and the index is found damaged, once that is rebuilt.

        Returns
        -------
        object
            What the action returns.

        Raises
        ------
        CatalogUnusable
            As `question` does; and whatever the action raises.
        """
        return self._answered(action, Access.READ_ELSEWHERE)

    @contextmanager
    def as_last_asked(self) -> Iterator[duckdb.DuckDBPyConnection | None]:
        """Hand out a private index as this user's last question left it: the storage is not looked at.

        Yields
        ------
        duckdb.DuckDBPyConnection or None
            The connection, as in `question`; None if there is no such index.

        Raises
        ------
        IndexUnavailable
            If others fold meanwhile, and for long.
        """
        storage = known_identity(self._store)
        paths = private_paths(self._store.address, storage) if storage else iter(())
        path = next(filter(regular_files.is_file, paths), None)
        if path is None:
            yield None
            return
        with engine(), Lock(f"{path}.lock", 0o600) as lock:
            lock.wait_for(lock.share)
            with attached_as_it_is(path, lock) as connection:
                yield connection

    # Changes

    def reconcile(self, names: Iterable[tuple[str, str]]) -> None:
        """Read the footers of the blobs of names, and believe them; raises as `question` does."""
        with self._opened() as (_, attached, _), attached.transaction():
            Fold(attached.connection, attached.tables, StorageView.of(self._store)).reconcile(names)

    def compact(self) -> Compacted:
        """Compact the journal; raises as `question` does, and `OSError` where it cannot be written."""
        with self._opened() as (_, attached, _):
            history = History(attached.connection, attached.tables)
            return Compaction(history, StorageView.of(self._store)).compact_all()

    def rebuild(self) -> Refreshed:
        """Build the index from the journal once more; raises as `question` does."""
        with self._opened(rebuild=lambda _: True) as (_, _, refreshed):
            return refreshed

    # The way in

    def _answered(self, action: Callable[[str], T], access: Access) -> T:
        """Return what `action` makes of the index; where that is found damaged, of one that was rebuilt."""
        import duckdb

        path = ""
        try:
            with self._opened(access) as (path, _, _):
                return action(path)
        except (duckdb.Error, QueryFailed) as error:
            kind = error.kind if isinstance(error, QueryFailed) else type(error).__name__
            if not path or not may_tell_of_damage(kind, str(error)):
                raise
            _log.debug("the catalog's index %s is examined: %s", path, str(error))
            renew(path)
        with self._opened(access, rebuild=is_damaged) as (path, _, _):
            return action(path)

    @contextmanager
    def _opened(
        self, access: Access = Access.WRITE, rebuild: Callable[[str], bool] | None = None
    ) -> Iterator[tuple[str, Attached, Refreshed]]:
        """Lock, attach and refresh the first index that can be used: the storage's, else a private one."""
        view = StorageView.of(self._store, scans_folders=rebuild is not None)
        if self._must_exist and not view.exists():
            raise CatalogUnusable(f"there is no storage at {view.root}")
        with ExitStack() as stack:
            yield self._first_of(stack, Opening(view, access, rebuild))

    def _first_of(self, stack: ExitStack, opening: Opening) -> tuple[str, Attached, Refreshed]:
        view = opening.view
        if not self._private:
            try:
                path = shared_path(view)
                return path, *stack.enter_context(opening.at(path))
            except IndexUnavailable as reason:
                report_once(view.root, str(reason))
        why = "neither the cache directory nor the temporary directory can be written"
        for path in private_paths(view.store.address, opening.storage):
            try:
                return path, *stack.enter_context(opening.at(path))
            except IndexUnavailable as reason:
                why = str(reason)
        raise CatalogUnusable(f"the catalog of {view.root} cannot be asked: {why}")
