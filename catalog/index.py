"""The index: a DuckDB file that is only a cache of journal and blobs.

It lies in the storage, where any DuckDB can open it, or in the user's cache
directory where the storage cannot be written. It is attached for the time of a
question, behind a lock between processes, and built anew when it is missing,
damaged, or another storage's.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

from catalog import box, results
from catalog.box import Limits
from catalog.compact import Compacted, Compaction
from catalog.engine import INDEX, engine, instance, renew
from catalog.errors import CatalogUnusable, InvalidQuestion
from catalog.fold import Fold, Refreshed
from catalog.folder import Folder
from catalog.identity import ensure_identity, read_identity
from catalog.ids import new_id
from catalog.names import CATALOG_FOLDER
from catalog.query import Parameters
from catalog.questions import Question
from catalog.schema import CREATE, SCHEMA_VERSION

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

T = TypeVar("T")

_FILE = "catalog.duckdb"
_PATIENCE = 5.0  # seconds to wait for other processes' questions, nearly all of which take milliseconds
# What DuckDB says where another program has the file open, or somebody in this one.
_FOREIGN_LOCKS = ("Could not set lock", "Unique file handle conflict")
# A version that every supported DuckDB reads and writes; older ones compress more slowly.
_STORAGE_VERSION = "v1.3.0"

_log = logging.getLogger("functionfuse.catalog")


class Index:
    """The index of one storage.

    Parameters
    ----------
    root : str
        The storage's folder, absolute.
    must_exist : bool
        Whether a folder that is not there is an error, or a storage in which nothing was saved yet.
    private : bool
        Whether it lies in the user's cache directory, even where the storage can be written.
    """

    def __init__(self, root: str, must_exist: bool, private: bool) -> None:
        self._folder = Folder(root)
        self._must_exist = must_exist
        self._private = private

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
        with self._fresh() as (_, refreshed):
            yield instance(), refreshed

    def answer(self, query: str, parameters: Parameters, limits: Limits) -> pa.Table:
        """Return the answer to anybody's SQL, which runs in a box.

        Parameters
        ----------
        query : str
            One or more reading statements.
        parameters : list, tuple or mapping, optional
            The query's parameters.
        limits : Limits
            What it may take.

        Returns
        -------
        pyarrow.Table
            The rows of the last statement.

        Raises
        ------
        CatalogUnusable
            As `question` does.
        InvalidQuestion
            If it is no reading query, or takes too much.
        """
        box.check(query)
        query, tables = results.resolved(query, self._folder.root)
        box.check(query)

        def run(path: str) -> pa.Table:
            _detach(instance())
            return box.run(path, query, parameters, limits, tables)

        return self._answered(run)

    def ask(self, question: Question) -> pa.Table:
        """Return the rows of a question of our own; raises as `question` does."""
        (answer,) = self.ask_all([question])
        return answer

    def ask_all(self, questions: list[Question]) -> list[pa.Table]:
        """Return the rows of several questions, asked of the same state; raises as `question` does."""

        def run(_: str) -> list[pa.Table]:
            return [instance().sql(each.sql, params=each.parameters).to_arrow_table() for each in questions]

        return self._answered(run)

    def _answered(self, action: Callable[[str], T]) -> T:
        """Return what `action` makes of the index; where it turns out to be damaged, of one that is built anew."""
        import duckdb

        path = ""
        try:
            with self._fresh() as (path, _):
                return action(path)
        except (duckdb.Error, InvalidQuestion) as error:
            if not path or path not in str(error.__cause__ or error):  # DuckDB names the file that it cannot read
                raise
            _log.warning("the catalog's index %s is damaged and built anew: %s", path, error)
            renew()
        with self._fresh(anew=True) as (path, _):
            return action(path)

    def settle(self, names: Iterable[tuple[str, str]]) -> None:
        """Look at the blobs of names, whatever is known of them, and believe them; raises as `question` does."""
        with self.question() as (connection, _), _transaction(connection):
            Fold(connection, self._folder).settle(names)

    def compact(self) -> Compacted:
        """Compact the journal; raises as `question` does, and `OSError` where it cannot be written."""
        with self._fresh():
            return Compaction(instance(), self._folder).all()

    def rebuild(self) -> Refreshed:
        """Build the index anew from the journal; raises as `question` does."""
        with self._fresh(anew=True) as (_, refreshed):
            return refreshed

    @contextmanager
    def _fresh(self, anew: bool = False) -> Iterator[tuple[str, Refreshed]]:
        """Lock, attach and refresh the storage's index; where that cannot be, a private one."""
        root = self._folder.root
        if self._must_exist and not os.path.isdir(root):
            raise CatalogUnusable(f"there is no storage at {root}")
        with engine(), ExitStack() as stack:
            storage = _identity_of(self._folder)
            if not self._private:
                try:
                    if not self._folder.is_writable():
                        raise _Held(f"{root} is not writable")
                    yield self._enter(stack, os.path.join(root, CATALOG_FOLDER, _FILE), storage, anew)
                    return
                except _Held as reason:
                    stack.close()
                    if os.path.isdir(root):
                        _report_once(root, str(reason))
            try:
                yield self._enter(stack, _private_path(root, storage), storage, anew)
            except _Held as reason:
                raise CatalogUnusable(f"the catalog of {root} cannot be asked: {reason}") from reason

    def _enter(self, stack: ExitStack, path: str, storage: str, anew: bool) -> tuple[str, Refreshed]:
        stack.enter_context(_alone(f"{path}.lock"))
        if anew:
            _delete(path)
        refreshed = _attach_fresh(path, storage, self._folder)
        stack.callback(lambda: _detach(instance()))
        if self._folder.is_writable():
            _compact_some(Compaction(instance(), self._folder))
        return path, refreshed


def _compact_some(compaction: Compaction) -> None:
    try:
        if compaction.pays():
            compaction.some()
    except OSError as error:  # a full disk; the question can be answered all the same
        _log.warning("the journal was not compacted: %s", error)


class _Held(Exception):
    """An index that cannot be used here and now, through no fault of its own."""


_reported: set[str] = set()


def _report_once(root: str, reason: str) -> None:
    if root not in _reported:
        _reported.add(root)
        _log.warning("the catalog of %s is answered from a private index: %s", root, reason)


def _identity_of(folder: Folder) -> str:
    if folder.is_writable():
        return ensure_identity(folder.root).uuid
    identity = read_identity(folder.root)
    return identity.uuid if identity else os.path.realpath(folder.root)


def _private_path(root: str, storage: str) -> str:
    """Return where this user's own index of a storage is: a copy of a storage, elsewhere, has another."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    key = hashlib.blake2b(os.fsencode(f"{storage}/{os.path.realpath(root)}"), digest_size=16).hexdigest()
    folder = os.path.join(base, "functionfuse", key)
    os.makedirs(folder, exist_ok=True)
    return os.path.join(folder, f"catalog-{SCHEMA_VERSION}.duckdb")  # other versions of this library have their own


@contextmanager
def _alone(path: str) -> Iterator[None]:
    """Hold the lock between the processes that ask questions."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        _lock(handle, path)
        try:
            yield
        finally:
            fcntl.flock(handle, fcntl.LOCK_UN)  # closing is not enough: a child forked meanwhile has the file open too
    finally:
        os.close(handle)


def _lock(handle: int, path: str) -> None:
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise _Held(f"another process has held {path} for {_PATIENCE:.0f} s") from None
            time.sleep(0.001)
        except OSError as error:  # NFS without a lock service, some FUSE file systems
            raise _Held(f"{path} cannot be locked there: {error}") from error


def _attach_fresh(path: str, storage: str, folder: Folder) -> Refreshed:
    """Attach the index and fold in what is new; an index that cannot be used is built anew."""
    import duckdb

    try:
        return _attach(instance(), path, storage, folder)
    except _Unfit as reason:
        _log.info("building the catalog's index %s anew: %s", path, reason)
    except duckdb.Error as error:
        if any(words in str(error) for words in _FOREIGN_LOCKS):
            raise _Held(f"another program has {path} open") from error
        _log.warning("the catalog's index %s is damaged and built anew: %s", path, error)
        renew()
    _delete(path)
    try:
        return _attach(instance(), path, storage, folder)
    except duckdb.Error as error:  # a full disk, say
        raise _Held(f"{path} cannot be built: {error}") from error


class _Unfit(Exception):
    """The index is of another storage, or of another version of the schema."""


def _attach(connection: duckdb.DuckDBPyConnection, path: str, storage: str, folder: Folder) -> Refreshed:
    is_new = not os.path.exists(path)
    quoted = path.replace("'", "''")
    _run(connection, f"ATTACH '{quoted}' AS {INDEX} (TYPE duckdb, STORAGE_VERSION '{_STORAGE_VERSION}')")
    try:
        _run(connection, f"USE {INDEX}")
        if is_new:
            _create(connection, storage)
        _check(connection, storage)
        return _refresh(connection, folder)
    except BaseException:
        _detach(connection)
        raise


def _create(connection: duckdb.DuckDBPyConnection, storage: str) -> None:
    with _transaction(connection):
        for statement in CREATE:
            _run(connection, statement)
        connection.execute("INSERT INTO meta VALUES (?, ?, ?)", [SCHEMA_VERSION, storage, new_id()]).fetchall()


def _check(connection: duckdb.DuckDBPyConnection, storage: str) -> None:
    import duckdb

    try:
        row = connection.execute("SELECT schema_version, storage FROM meta").fetchall()
    except duckdb.CatalogException:
        raise _Unfit("its making was cut short") from None
    if row and row[0][0] > SCHEMA_VERSION and row[0][1] == storage:
        raise _Held(f"its index has version {row[0][0]}, of a newer functionfuse; this one knows {SCHEMA_VERSION}")
    if row != [(SCHEMA_VERSION, storage)]:
        raise _Unfit(f"it has version and storage {row}, wanted is {(SCHEMA_VERSION, storage)}")


def _refresh(connection: duckdb.DuckDBPyConnection, folder: Folder) -> Refreshed:
    with _transaction(connection):
        return Fold(connection, folder).refresh()


@contextmanager
def _transaction(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    _run(connection, "BEGIN")
    try:
        yield
        _run(connection, "COMMIT")
    except BaseException:
        _run(connection, "ROLLBACK")
        raise


def _detach(connection: duckdb.DuckDBPyConnection) -> None:
    import duckdb

    try:
        _run(connection, "USE memory")
        _run(connection, f"DETACH DATABASE IF EXISTS {INDEX}")  # a boxed query has detached it already
    except duckdb.Error as error:
        _log.debug("the DuckDB connection is given up: %s", error)
        renew()


def _run(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    connection.execute(sql).fetchall()


def _delete(path: str) -> None:
    for each in (path, f"{path}.wal"):
        with suppress(FileNotFoundError):
            os.unlink(each)
