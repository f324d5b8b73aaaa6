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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from catalog.engine import INDEX, engine, instance, renew
from catalog.errors import CatalogUnusable
from catalog.fold import Fold, Refreshed
from catalog.folder import Folder
from catalog.identity import ensure_identity, read_identity
from catalog.names import CATALOG_FOLDER
from catalog.schema import CREATE, SCHEMA_VERSION

if TYPE_CHECKING:
    import duckdb

_FILE = "catalog.duckdb"
_PATIENCE = 30.0  # seconds to wait for other processes' questions, each of which takes milliseconds
# A version that every supported DuckDB reads and writes.
_STORAGE_VERSION = "v1.0.0"

_log = logging.getLogger("functionfuse.catalog")


class Index:
    """The index of one storage.

    Parameters
    ----------
    root : str
        The storage's folder, absolute.
    """

    def __init__(self, root: str) -> None:
        self._folder = Folder(root)

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
            If there is no storage, or another process holds the index too long.
        """
        if not os.path.isdir(self._folder.root):
            raise CatalogUnusable(f"there is no storage at {self._folder.root}")
        with engine():
            storage, path = self._place()
            with _alone(f"{path}.lock"):
                refreshed = _attach_fresh(path, storage, self._folder)
                try:
                    yield instance(), refreshed
                finally:
                    _detach(instance())

    def _place(self) -> tuple[str, str]:
        """Return the storage's identity and where its index is."""
        root = self._folder.root
        if _writable(root):
            return ensure_identity(root).uuid, os.path.join(root, CATALOG_FOLDER, _FILE)
        identity = read_identity(root)
        key = f"{identity.uuid if identity else ''}{os.path.realpath(root)}"
        private = os.path.join(_cache_folder(), hashlib.blake2b(os.fsencode(key), digest_size=16).hexdigest())
        os.makedirs(private, exist_ok=True)
        return key, os.path.join(private, _FILE)


def _writable(root: str) -> bool:
    folder = os.path.join(root, CATALOG_FOLDER)
    return os.access(folder if os.path.isdir(folder) else root, os.W_OK | os.X_OK)


def _cache_folder() -> str:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "functionfuse")


@contextmanager
def _alone(path: str) -> Iterator[None]:
    """Hold the lock between the processes that ask questions."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        _lock(handle, path)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, path: str) -> None:
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise CatalogUnusable(f"another process has held {path} for {_PATIENCE:.0f} s") from None
            time.sleep(0.001)


def _attach_fresh(path: str, storage: str, folder: Folder) -> Refreshed:
    """Attach the index and fold in what is new; an index that cannot be used is built anew."""
    import duckdb

    try:
        return _attach(instance(), path, storage, folder)
    except _Unfit as reason:
        _log.info("building the catalog's index %s anew: %s", path, reason)
    except duckdb.Error as error:
        if "lock" in str(error):
            raise CatalogUnusable(f"{path} is open in another program: {error}") from error
        _log.warning("the catalog's index %s is damaged and built anew: %s", path, error)
        renew()
    _delete(path)
    return _attach(instance(), path, storage, folder)


class _Unfit(Exception):
    """The index is of another storage, or of another version of the schema."""


def _attach(connection: duckdb.DuckDBPyConnection, path: str, storage: str, folder: Folder) -> Refreshed:
    is_new = not os.path.exists(path)
    quoted = path.replace("'", "''")
    _run(connection, f"ATTACH '{quoted}' AS {INDEX} (STORAGE_VERSION '{_STORAGE_VERSION}')")
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
        connection.execute("INSERT INTO meta VALUES (?, ?)", [SCHEMA_VERSION, storage]).fetchall()


def _check(connection: duckdb.DuckDBPyConnection, storage: str) -> None:
    tables = connection.execute("SELECT count(*) FROM duckdb_tables() WHERE database_name = ?", [INDEX]).fetchall()
    if tables == [(0,)]:
        raise _Unfit("its making was cut short")
    row = connection.execute("SELECT schema_version, storage FROM meta").fetchall()
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
        _run(connection, f"DETACH {INDEX}")
    except duckdb.Error as error:
        _log.debug("the DuckDB connection is given up: %s", error)
        renew()


def _run(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    connection.execute(sql).fetchall()


def _delete(path: str) -> None:
    for each in (path, f"{path}.wal"):
        with suppress(FileNotFoundError):
            os.unlink(each)
