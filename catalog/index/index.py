"""The index: a DuckDB file that is only a cache of journal and blobs.

It lies in the storage, where any DuckDB can open it, or in the user's cache
directory where the storage cannot be written. It is attached for the time of a
question, behind a lock between processes, and built anew when it is missing,
damaged, or another storage's.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVar

from catalog.errors import CatalogUnusable
from catalog.format.ids import new_id
from catalog.format.names import CATALOG_FOLDER
from catalog.index.damage import QueryFailed, is_damaged, may_tell_of_damage
from catalog.index.definitions import Identity, foreign, identity
from catalog.index.engine import INDEX, engine, instance, renew
from catalog.index.fold import Fold, Refreshed
from catalog.index.history import History
from catalog.index.lock import Held, Lock
from catalog.index.question import Question
from catalog.index.schema import CREATE, SCHEMA_VERSION
from catalog.journal.compaction import Compacted, Compaction
from catalog.journal.view import StorageView, known_identity
from catalog.store import cache, regular
from catalog.store.base import Store

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

T = TypeVar("T")

_FILE = "catalog.duckdb"
_META = "main.meta"
_PATIENCE = 5.0  # seconds to wait for other processes' questions, nearly all of which take milliseconds
_LOOK = 0.1  # seconds between two looks at whether there is something new that only waiting shows
# What DuckDB says where another program has the file open, or somebody in this one.
_FOREIGN_LOCKS = ("Could not set lock", "Unique file handle conflict")
_NO_SPACE = os.strerror(errno.ENOSPC)  # what is torn by that is found damaged by the next question
# A version that every supported DuckDB reads and writes; older ones compress more slowly.
_STORAGE_VERSION = "v1.3.0"

_RARELY = 50.0  # of the time that compacting some of the journal took: how long this process's questions leave it then
_compact_again: dict[str, float] = {}  # by storage: when, by the monotonic clock

_log = logging.getLogger("functionfuse.catalog")


# Tells of the index at a path, which nobody else uses then, whether it is to be built anew.
_Anew = Callable[[str], bool] | None


class _Use(Enum):
    """What is done with the index after it is brought up to date: who only reads need not be alone with it."""

    WRITING = 1
    READING = 2
    BOXED = 3  # read by another process


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
        with self._fresh() as (path, refreshed):
            yield instance(path), refreshed

    def shared(self, action: Callable[[str], T]) -> T:
        """Return what an action makes of the file of the index, which other processes may read meanwhile.

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
        return self._answered(action, _Use.BOXED)

    def ask(self, question: Question) -> pa.Table:
        """Return the rows of a question of our own; raises as `question` does."""
        (answer,) = self.ask_all([question])
        return answer

    def rows(self, question: Question) -> list[Any]:
        """Return the rows of a question of our own as tuples, without the time that importing Arrow takes."""
        return self._answered(
            lambda path: instance(path).execute(question.sql, question.parameters).fetchall(), _Use.READING
        )

    def ask_all(self, questions: list[Question]) -> list[pa.Table]:
        """Return the rows of several questions, asked of the same state; raises as `question` does."""

        def run(path: str) -> list[pa.Table]:
            return [instance(path).sql(each.sql, params=each.parameters).to_arrow_table() for each in questions]

        return self._answered(run, _Use.READING)

    def _answered(self, action: Callable[[str], T], use: _Use) -> T:
        """Return what `action` makes of the index; where that may be damaged, once more, and anew if it is."""
        import duckdb

        path = ""
        try:
            with self._fresh(use) as (path, _):
                return action(path)
        except (duckdb.Error, QueryFailed) as error:
            if not path or not _may_tell_of_damage(error):
                raise
            _log.debug("the catalog's index %s is examined: %s", path, str(error))
            renew(path)
        with self._fresh(use, anew=is_damaged) as (path, _):
            return action(path)

    @contextmanager
    def glance(self) -> Iterator[duckdb.DuckDBPyConnection | None]:
        """Hand out a private index as this process's last question left it, with nothing looked at.

        Yields
        ------
        duckdb.DuckDBPyConnection or None
            The connection, as in `question`; None if there is no such index.

        Raises
        ------
        Held
            If others fold meanwhile, and for long.
        """
        storage = known_identity(self._store)
        paths = _private_paths(self._store.address, storage) if storage else iter(())
        path = next(filter(regular.is_file, paths), None)
        if path is None:
            yield None
            return
        with engine(), Lock(f"{path}.lock", 0o600) as lock:
            began = time.monotonic()
            while not lock.share():
                lock.wait(began, _PATIENCE)
            connection = instance(path)
            try:
                _use(connection, path, reads_only=True)
                is_ours = _is_known(path) or not foreign(connection, INDEX)
                yield connection if is_ours else None
            finally:
                _detach(connection, path)

    def settle(self, names: Iterable[tuple[str, str]]) -> None:
        """Look at the blobs of names, whatever is known of them, and believe them; raises as `question` does."""
        with self.question() as (connection, _), _transaction(connection):
            Fold(connection, StorageView.of(self._store)).settle(names)

    def compact(self) -> Compacted:
        """Compact the journal; raises as `question` does, and `OSError` where it cannot be written."""
        with self._fresh() as (path, _):
            return Compaction(History(instance(path)), StorageView.of(self._store)).compact_all()

    def rebuild(self) -> Refreshed:
        """Build the index anew from the journal; raises as `question` does."""
        with self._fresh(anew=lambda _: True) as (_, refreshed):
            return refreshed

    @contextmanager
    def _fresh(self, use: _Use = _Use.WRITING, anew: _Anew = None) -> Iterator[tuple[str, Refreshed]]:
        """Lock, attach and refresh the storage's index; where that cannot be, a private one."""
        view = StorageView.of(self._store, scans_folders=anew is not None)
        if self._must_exist and not view.exists():
            raise CatalogUnusable(f"there is no storage at {view.root}")
        with ExitStack() as locked, ExitStack() as attached:
            yield self._find(locked, attached, view, use, anew)

    def _find(
        self, locked: ExitStack, attached: ExitStack, view: StorageView, use: _Use, anew: _Anew
    ) -> tuple[str, Refreshed]:
        root = view.root
        storage = view.identity()
        if not self._private:
            try:
                if not view.is_writable():
                    raise Held(f"{root} is not writable")
                path = os.path.join(root, CATALOG_FOLDER, _FILE)
                if not regular.is_folder(os.path.dirname(path)):
                    raise Held(f"{os.path.dirname(path)} cannot be made")
                return path, self._enter(locked, attached, path, storage, view, use, anew)
            except Held as reason:
                attached.close()
                locked.close()
                if os.path.isdir(root):
                    _report_once(root, str(reason))
        why = "neither the cache directory nor the temporary directory can be written"
        for path in _private_paths(view.store.address, storage):
            try:
                return path, self._enter(locked, attached, path, storage, view, use, anew)
            except Held as reason:
                attached.close()
                locked.close()
                why = str(reason)
        raise CatalogUnusable(f"the catalog of {root} cannot be asked: {why}")

    def _enter(
        self,
        locked: ExitStack,
        attached: ExitStack,
        path: str,
        storage: str,
        view: StorageView,
        use: _Use,
        anew: _Anew,
    ) -> Refreshed:
        attached.enter_context(engine())
        lock = locked.enter_context(Lock(f"{path}.lock", _mode_of(path)))
        refreshed = self._hold(lock, path, storage, view, use is not _Use.WRITING and anew is None)
        if refreshed is None:
            if anew is not None and anew(path):
                _log.info("the catalog's index %s is built anew", path)
                _delete(path)
            _make_way(path)
            refreshed = _attach_fresh(path, storage, view)
            for each in (path, f"{path}.lock"):
                cache.set_mode(each, _mode_of(path))
            attached.callback(lambda: _release(path))
            if view.is_writable():
                _compact_some(Compaction(History(instance(path)), view), view.root)
        else:
            attached.callback(lambda: _release(path))
        if use is _Use.BOXED:
            attached.close()  # other threads may ask meanwhile, and other processes
            began = time.monotonic()
            while not lock.share():
                lock.wait(began, _PATIENCE)
        return refreshed

    def _hold(self, lock: Lock, path: str, storage: str, view: StorageView, reads: bool) -> Refreshed | None:
        """Hold the lock alone; or, if others that read hold it and there is nothing new, with them.

        Returns
        -------
        Refreshed or None
            What an index tells that is attached already, since there is nothing to be folded; None if it is to be.
        """
        began = time.monotonic()
        look = began if reads else math.inf
        while not lock.take():
            if time.monotonic() >= look and lock.share():
                refreshed = _attach_as_it_is(path, storage, view)
                if refreshed:
                    return refreshed
                lock.free()  # two that wait for one another to let it go would wait forever
                look = time.monotonic() + _LOOK
            lock.wait(began, _PATIENCE)
        return None


def _compact_some(compaction: Compaction, root: str) -> None:
    began = time.monotonic()
    if began < _compact_again.get(root, 0.0):
        return
    try:
        if compaction.is_due():
            compaction.compact_some()
    except OSError as error:  # a full disk; the question can be answered all the same
        _log.warning("the journal was not compacted: %s", str(error))
    now = time.monotonic()
    _compact_again[root] = now + (now - began) * _RARELY


_reported: set[str] = set()


def _report_once(root: str, reason: str) -> None:
    if root not in _reported:
        _reported.add(root)
        _log.warning("the catalog of %s is answered from a private index: %s", root, reason)


def _private_paths(root: str, storage: str) -> Iterator[str]:
    """Yield where this user's own index of a storage may be, best first; a copy of a storage elsewhere has another."""
    key = hashlib.blake2b(os.fsencode(f"{storage}/{root}"), digest_size=16).hexdigest()
    for folder in cache.folders(key):
        yield os.path.join(folder, f"catalog-{SCHEMA_VERSION}.duckdb")  # other versions of this library have their own


def _mode_of(path: str) -> int:
    """Return who may do what with an index: read and write it whoever may look and write into its folder."""
    return os.stat(os.path.dirname(path)).st_mode & 0o666


def _make_way(path: str) -> None:
    """Remove a link or the like in the place of an index; `Held` for a folder."""
    for each in (path, f"{path}.wal"):
        if os.path.lexists(each) and not regular.is_file(each):
            if regular.is_folder(each):
                raise Held(f"{each} is a folder")
            _log.warning("%s was %s, and is removed", each, regular.kind_of(each))
            os.unlink(each)


def _attach_fresh(path: str, storage: str, view: StorageView) -> Refreshed:
    """Attach the index and fold in what is new; an index that cannot be used is built anew."""
    import duckdb

    is_new = not os.path.exists(path)
    try:
        return _attach(instance(path), path, storage, view)
    except _Unfit as reason:
        _log.info("building the catalog's index %s anew: %s", path, str(reason))
    except duckdb.InterruptException:
        raise
    except duckdb.Error as error:
        if any(words in str(error) for words in _FOREIGN_LOCKS):
            raise Held(f"another program has {path} open") from error
        renew(path)
        if is_new:
            _delete(path)
        if is_new or _NO_SPACE in str(error) or not is_damaged(path):
            raise Held(f"{path} cannot be used: {error}") from error
        _log.warning("the catalog's index %s is damaged and built anew: %s", path, str(error))
    _delete(path)
    try:
        return _attach(instance(path), path, storage, view)
    except duckdb.Error as error:  # a full disk, say
        raise Held(f"{path} cannot be built: {error}") from error


def _attach_as_it_is(path: str, storage: str, view: StorageView) -> Refreshed | None:
    """Attach the index beside others that read it, if there is nothing new: if a fold writes nothing."""
    import duckdb

    if not regular.is_file(path):
        return None
    try:
        return _attach(instance(path), path, storage, view, reads_only=True)
    except (duckdb.Error, _Unfit):
        return None


def _may_tell_of_damage(error: BaseException) -> bool:
    kind = error.kind if isinstance(error, QueryFailed) else type(error).__name__
    return may_tell_of_damage(kind, str(error))


class _Unfit(Exception):
    """The index is of another storage or version of the schema, or defines what this library does not."""


def _attach(
    connection: duckdb.DuckDBPyConnection, path: str, storage: str, view: StorageView, reads_only: bool = False
) -> Refreshed:
    is_new = not os.path.exists(path)
    if is_new:
        _delete(path)  # a log without an index would be replayed
    is_known = _is_known(path)
    try:
        _use(connection, path, reads_only)
        if is_new:
            _create(connection, storage)
        _check(connection, storage, [] if is_known or is_new else foreign(connection, INDEX))
        with _transaction(connection):
            return Fold(connection, view, reads_only).refresh()
    except BaseException:
        _detach(connection, path)
        raise


_known: dict[str, Identity] = {}  # as this process left indexes, by their paths


def _is_known(path: str) -> bool:
    """Tell whether an index is as this process left it, and need not be looked at again."""
    return _known.get(path) == identity(path)


def _release(path: str) -> None:
    """Detach an index that was checked."""
    _detach(instance(path), path)
    _known[path] = identity(path)


def _use(connection: duckdb.DuckDBPyConnection, path: str, reads_only: bool) -> None:
    quoted = path.replace("'", "''")
    how = "READ_ONLY" if reads_only else f"STORAGE_VERSION '{_STORAGE_VERSION}'"
    _run(connection, f"ATTACH '{quoted}' AS {INDEX} (TYPE duckdb, {how})")
    _run(connection, f"USE {INDEX}")


def _create(connection: duckdb.DuckDBPyConnection, storage: str) -> None:
    with _transaction(connection):
        for statement in CREATE:
            _run(connection, statement)
        connection.execute("INSERT INTO meta VALUES (?, ?, ?)", [SCHEMA_VERSION, storage, new_id()]).fetchall()


def _check(connection: duckdb.DuckDBPyConnection, storage: str, foreign: list[str]) -> None:
    row: list[tuple[int, str]] = []
    if f"table {_META}" not in foreign:
        row = connection.execute(f"SELECT coalesce(schema_version, 0), storage FROM {INDEX}.{_META}").fetchall()
    if row and row[0][0] > SCHEMA_VERSION and row[0][1] == storage:
        raise Held(f"its index has version {row[0][0]}, of a newer functionfuse; this one knows {SCHEMA_VERSION}")
    if foreign:
        raise _Unfit(f"its making was cut short, or it defines what is not ours: {', '.join(foreign)}")
    if row != [(SCHEMA_VERSION, storage)]:
        raise _Unfit(f"it has version and storage {row}, wanted is {(SCHEMA_VERSION, storage)}")


@contextmanager
def _transaction(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    import duckdb

    _run(connection, "BEGIN")
    try:
        yield
        _run(connection, "COMMIT")
    except BaseException:
        with suppress(duckdb.Error):  # a full disk has ended it already, and is the error to be told
            _run(connection, "ROLLBACK")
        raise


def _detach(connection: duckdb.DuckDBPyConnection, path: str) -> None:
    import duckdb

    try:
        _run(connection, "USE memory")
        _run(connection, f"DETACH DATABASE IF EXISTS {INDEX}")
    except duckdb.Error as error:
        _log.debug("the DuckDB connection is given up: %s", str(error))
        renew(path)


def _run(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    connection.execute(sql).fetchall()


def _delete(path: str) -> None:
    for each in (path, f"{path}.wal"):
        with suppress(FileNotFoundError):
            os.unlink(each)
