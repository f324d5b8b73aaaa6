"""An index's file, attached to this process's DuckDB and brought up to date; what cannot be used is rebuilt."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from catalog.format.ids import new_id
from catalog.index.damage import is_damaged
from catalog.index.definitions import Identity, foreign, identity
from catalog.index.engine import INDEX, instance, renew
from catalog.index.fold import Fold, Refreshed
from catalog.index.lock import IndexUnavailable, Lock
from catalog.index.schema import CREATE, SCHEMA_VERSION
from catalog.index.small_tables import SmallTables
from catalog.journal.view import StorageView
from catalog.store import regular_files

if TYPE_CHECKING:
    import duckdb

_META = "main.meta"
# What DuckDB says where another program has the file open, or somebody in this one.
_FOREIGN_LOCKS = ("Could not set lock", "Unique file handle conflict")
_NO_SPACE = os.strerror(errno.ENOSPC)  # what is torn by that is found damaged by the next question
# A version that every supported DuckDB reads and writes; older ones compress more slowly.
_STORAGE_VERSION = "v1.3.0"

_KEPT = 8  # indexes of which this process remembers how it left them
_left: dict[str, tuple[Identity, bytes, SmallTables]] = {}  # by their paths; the last that was asked is the last to go

_log = logging.getLogger("functionfuse.catalog")


class _Unfit(Exception):
    """The index is of another storage or version of the schema, or defines what this library does not."""


def attach(path: str, lock: Lock, view: StorageView, storage: str) -> tuple[Attached, Refreshed]:
    """Attach an index that nobody else uses, and fold in what is new; one that cannot be used is rebuilt.

    Parameters
    ----------
    path : str
        The index; it is made if it is missing.
    lock : Lock
        Its lock, held alone.
    view : StorageView
        The storage.
    storage : str
        The storage's identity.

    Returns
    -------
    tuple of (Attached, Refreshed)
        The index, and what was new.

    Raises
    ------
    IndexUnavailable
        If it can be neither used nor rebuilt.
    """
    import duckdb

    is_new = not os.path.exists(path)
    try:
        return _attach(path, lock, view, storage)
    except _Unfit as reason:
        _log.info("the catalog's index %s is rebuilt: %s", path, str(reason))
    except duckdb.InterruptException:
        raise
    except duckdb.Error as error:
        if any(words in str(error) for words in _FOREIGN_LOCKS):
            raise IndexUnavailable(f"another program has {path} open") from error
        renew(path)
        if is_new:
            delete(path)
        if is_new or _NO_SPACE in str(error) or not is_damaged(path):
            raise IndexUnavailable(f"{path} cannot be used: {error}") from error
        _log.warning("the catalog's index %s is damaged and rebuilt: %s", path, str(error))
    delete(path)
    try:
        return _attach(path, lock, view, storage)
    except duckdb.Error as error:  # a full disk, say
        raise IndexUnavailable(f"{path} cannot be built: {error}") from error


def attach_for_reading(path: str, lock: Lock, view: StorageView, storage: str) -> tuple[Attached, Refreshed] | None:
    """Attach an index beside others that read it; None if it cannot be used, or a fold would write to it."""
    import duckdb

    if not regular_files.is_file(path):
        return None
    try:
        return _attach(path, lock, view, storage, reads_only=True)
    except (duckdb.Error, _Unfit):
        return None


class Attached:
    """An index that is attached to this process's DuckDB.

    Parameters
    ----------
    path : str
        The index.
    lock : Lock
        Its lock, which is held.

    Attributes
    ----------
    connection : duckdb.DuckDBPyConnection
        The instance, in which its tables have their plain names.
    tables : SmallTables
        What is known of its small tables: all that was when this process left it, if nobody wrote it since.
    is_known : bool
        Whether nobody did; then its definitions need no second look.
    """

    def __init__(self, path: str, lock: Lock) -> None:
        self._path = path
        self._lock = lock
        self.connection = instance(path)
        left = _left.pop(path, None)
        self.is_known = left is not None and left[:2] == (identity(path), lock.mark())
        self.tables = left[2] if left and self.is_known else SmallTables()

    def use(self, reads_only: bool) -> None:
        """Attach it."""
        quoted = self._path.replace("'", "''")
        how = "READ_ONLY" if reads_only else f"STORAGE_VERSION '{_STORAGE_VERSION}'"
        _run(self.connection, f"ATTACH '{quoted}' AS {INDEX} (TYPE duckdb, {how})")
        _run(self.connection, f"USE {INDEX}")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit what is done in the block, or nothing of it."""
        import duckdb

        _run(self.connection, "BEGIN")
        try:
            yield
            if self.tables.are_written:
                self._lock.leave_mark()
            _run(self.connection, "COMMIT")
        except BaseException:
            self.tables.forget_all()
            with suppress(duckdb.Error):  # a full disk has ended it already, and is the error to be told
                _run(self.connection, "ROLLBACK")
            raise

    def detach(self) -> None:
        """Detach it."""
        import duckdb

        try:
            _run(self.connection, "USE memory")
            _run(self.connection, f"DETACH DATABASE IF EXISTS {INDEX}")
        except duckdb.Error as error:
            _log.debug("the DuckDB connection is given up: %s", str(error))
            renew(self._path)

    def leave(self) -> None:
        """Detach it, checked and refreshed as it is, and remember what it is like."""
        self.detach()
        self.tables.keep_few()
        self.tables.are_written = False
        _left[self._path] = identity(self._path), self._lock.mark(), self.tables
        while len(_left) > _KEPT:
            del _left[next(iter(_left))]


def delete(path: str) -> None:
    """Delete an index, and its log of writes."""
    for each in (path, f"{path}.wal"):
        with suppress(FileNotFoundError):
            os.unlink(each)


@contextmanager
def attached_as_it_is(path: str, lock: Lock) -> Iterator[duckdb.DuckDBPyConnection | None]:
    """Hand out an index to which nothing is folded; None if it defines what is not ours."""
    attached = Attached(path, lock)
    try:
        attached.use(reads_only=True)
        yield attached.connection if attached.is_known or not foreign(attached.connection, INDEX) else None
    finally:
        attached.detach()


def _attach(
    path: str, lock: Lock, view: StorageView, storage: str, reads_only: bool = False
) -> tuple[Attached, Refreshed]:
    is_new = not os.path.exists(path)
    if is_new:
        delete(path)  # a log without an index would be replayed
    attached = Attached(path, lock)
    try:
        attached.use(reads_only)
        if is_new:
            _create(attached, storage)
        _check(attached, storage, [] if attached.is_known or is_new else foreign(attached.connection, INDEX))
        with attached.transaction():
            return attached, Fold(attached.connection, attached.tables, view, reads_only).refresh()
    except BaseException:
        attached.detach()
        raise


def _create(attached: Attached, storage: str) -> None:
    with attached.transaction():
        for statement in CREATE:
            _run(attached.connection, statement)
        row = [SCHEMA_VERSION, storage, new_id()]
        attached.connection.execute("INSERT INTO meta VALUES (?, ?, ?)", row).fetchall()


def _check(attached: Attached, storage: str, foreign: list[str]) -> None:
    row: list[tuple[int, str]] = []
    if f"table {_META}" not in foreign:
        rows = attached.tables.rows("meta", lambda sql: attached.connection.execute(sql).fetchall())
        row = [(version or 0, of) for version, of, *_ in rows]
    if row and row[0][0] > SCHEMA_VERSION and row[0][1] == storage:
        raise IndexUnavailable(
            f"its index has version {row[0][0]}, of a newer functionfuse; this one knows {SCHEMA_VERSION}"
        )
    if foreign:
        raise _Unfit(f"its making was cut short, or it defines what is not ours: {', '.join(foreign)}")
    if row != [(SCHEMA_VERSION, storage)]:
        raise _Unfit(f"it has version and storage {row}, wanted is {(SCHEMA_VERSION, storage)}")


def _run(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    connection.execute(sql).fetchall()
