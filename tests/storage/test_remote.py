"""Storages that are reached over a network: the contract, on S3 and on other places of fsspec."""

from __future__ import annotations

import errno
import gc
import itertools
import os
import pickle
import random
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import numpy as np
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.spec import AbstractBufferedFile

from catalog.format.record import Origin
from catalog.journal import upload as journal
from catalog.journal import view
from catalog.store import fsspec as generic
from catalog.store import object_writer
from catalog.store.base import Changed, Store
from catalog.store.open import open_store
from functionfuse.errors import StorageUnusable, UnpicklableResult
from functionfuse.serializers.numpyarray import NumpySerializer
from functionfuse.storage import _blob, storage_factory
from functionfuse.storage.base import Storage
from functionfuse.testing import StorageContract


class Remote(StorageContract):
    """The contract, on the objects that fsspec finds."""

    @pytest.fixture
    def config(self) -> dict[str, Any]:
        """Return the configuration of a storage of its own."""
        raise NotImplementedError

    @pytest.fixture
    def open_storage(self, config: dict[str, Any]) -> Callable[[], Storage]:
        """Return what opens the storage."""
        return lambda: storage_factory(config)

    @staticmethod
    def at(storage: Storage) -> tuple[Any, str]:
        """Return a file system of the test's own, and where the storage is in it."""
        bucket = storage._store
        bucket.filesystem.invalidate_cache()
        return bucket.filesystem, bucket.prefix

    def found(self, storage: Storage) -> dict[str, str]:
        """Return the path of every object by its key, but the catalog's own."""
        fs, root = self.at(storage)
        found = {path[len(root.lstrip("/")) :].strip("/"): path for path in (p.lstrip("/") for p in fs.find(root))}
        return {key: f"/{path}" for key, path in found.items() if not key.startswith(".catalog/")}

    def blobs(self, storage: Storage) -> dict[str, bytes]:
        """Return the content of every blob by its key."""
        fs, _ = self.at(storage)
        return {key: fs.cat_file(path) for key, path in self.found(storage).items() if key.count("/") == 1}

    def put(self, storage: Storage, key: str, data: bytes) -> None:
        """Write an object."""
        fs, root = self.at(storage)
        fs.pipe_file(f"{root}/{key}", data)

    def side_files(self, storage: Storage) -> dict[str, bytes]:
        """Return the content of every side file by its key."""
        fs, _ = self.at(storage)
        return {key: fs.cat_file(path) for key, path in self.found(storage).items() if "/bigdata/" in key}

    def lose_side_files(self, storage: Storage) -> None:
        """Delete all side files."""
        fs, _ = self.at(storage)
        for key, path in self.found(storage).items():
            if "/bigdata/" in key:
                fs.rm_file(path)

    @pytest.mark.parametrize("size", [10, 12 << 10, 100_000])
    def test_an_array_can_be_written_to(self, open_storage: Callable[[], Storage], size: int) -> None:
        """An array that is read can be changed in place, whatever its size."""
        array = np.random.default_rng(0).random(size)
        storage = open_storage()
        storage.save("w", "t", array)
        found = storage.read_task("w", "t")
        found += 1
        assert np.array_equal(found, array + 1)


@pytest.mark.slow
class TestSeaweed(Remote):
    """S3 on SeaweedFS."""

    @pytest.fixture
    def config(self, s3server: Any) -> dict[str, Any]:
        """Return a fresh prefix."""
        return dict(s3server.endpoint.config(s3server.endpoint.prefix()))


@pytest.mark.slow
class TestMoto(Remote):
    """S3 on moto."""

    @pytest.fixture
    def config(self, motoserver: Any) -> dict[str, Any]:
        """Return a fresh prefix."""
        return dict(motoserver.endpoint.config(motoserver.endpoint.prefix()))


class TestFiles(Remote):
    """A folder, by fsspec."""

    @pytest.fixture
    def config(self, tmp_path: Path) -> dict[str, Any]:
        """Return a folder."""
        return {"kind": "fsspec", "options": {"url": f"file://{tmp_path}/storage"}}


class TestMemory(Remote):
    """The memory of this process."""

    @pytest.fixture
    def config(self) -> Iterator[dict[str, Any]]:
        """Return a fresh prefix."""
        name = uuid.uuid4().hex
        yield {"kind": "fsspec", "options": {"url": f"memory://{name}/storage"}}
        with suppress(FileNotFoundError):  # nothing was saved
            fsspec.filesystem("memory").rm(f"/{name}", recursive=True)

    @pytest.mark.slow
    def test_a_storage_pickles(self, open_storage: Callable[[], Storage]) -> None:
        """It pickles, and is the same place in this process, but another one in every other."""
        storage = open_storage()
        storage.save("w", "t", 5)
        assert pickle.loads(pickle.dumps(storage._store)) is storage._store


# Large results, which are sent in parts


class Buffered(AbstractBufferedFile):
    """A file that appears when it is closed, and is closed when it is collected."""

    def _upload_chunk(self, final: bool = False) -> bool:
        if final:
            self.fs.pipe_file(self.path, self.buffer.getvalue())
        return final


class Azure(MemoryFileSystem):
    """Objects in memory whose files are those of most places in a network."""

    protocol = "abfs"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.removeprefix("abfs://")))

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if mode == "wb" and "data" not in options:
            return Buffered(self, path, mode)
        return super()._open(path, mode, **options)


class Unpicklable:
    """What cannot be saved."""

    def __reduce__(self) -> str:
        raise KeyError("no")


def url(kind: str, folder: Path) -> str:
    """Return where a fresh storage is."""
    return f"file://{folder}/storage" if kind == "file" else f"{kind}://{uuid.uuid4().hex}/[a]"


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send what is larger than 1,000 bytes in parts of as many."""
    for name in ("LARGEST_PUT", "_PART"):
        monkeypatch.setattr(object_writer, name, 1000)
    for name in ("GATHERED", "_AT_ONCE"):
        monkeypatch.setattr(_blob, name, 1000)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("kind", ["file", "memory", "abfs"])
def test_a_large_save_that_fails_leaves_the_old_result(kind: str, tmp_path: Path) -> None:
    """A save that fails when parts of it are sent tells its own error, and leaves the old result and nothing else."""
    fsspec.register_implementation("abfs", Azure, clobber=True)
    storage = storage_factory({"kind": "fsspec", "options": {"url": url(kind, tmp_path), "compression": None}})
    storage.save("w", "t", "old")
    with pytest.raises(UnpicklableResult, match="cannot be pickled: 'no'"):
        storage.save("w", "t", [os.urandom(100_000), Unpicklable()])
    gc.collect()
    assert storage.read_task("w", "t") == "old"
    new = os.urandom(100_000)
    storage.save("w", "t", new)
    assert storage.read_task("w", "t") == new
    assert storage._store.ls(".catalog/tmp/").entries == []


def test_a_part_that_fails_holds_up_nobody() -> None:
    """A process in which one part of a result could not be written says so, and ends."""
    code = """
        import os, time
        from unittest import mock
        from fsspec.implementations.memory import MemoryFile
        from catalog.store import object_writer
        from functionfuse.storage import storage_factory

        def fail(file, data):
            time.sleep(0.2)  # until others wait for it
            raise OSError(28, "No space left on device")

        object_writer.LARGEST_PUT = object_writer._PART = 1 << 16
        storage = storage_factory({"kind": "fsspec", "options": {"url": "memory://full", "compression": None}})
        storage.save("w", "t", 1)
        with mock.patch.object(MemoryFile, "write", fail):
            try:
                storage.save("w", "t", os.urandom(500_000))
            except Exception as error:
                print(error)
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "No space left on device" in answer.stdout


@pytest.mark.usefixtures("small_parts")
def test_an_answer_is_lost_after_a_short_last_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """That an object is there is seen by its end, even if its last part is shorter than that."""
    storage = storage_factory({"kind": "fsspec", "options": {"url": f"memory://{uuid.uuid4().hex}"}})
    complete = generic._Stream.complete

    def lost(upload: generic._Stream) -> bool:
        complete(upload)
        raise FileNotFoundError("there is no such upload")

    monkeypatch.setattr(generic._Stream, "complete", lost)
    data = random.Random(0).randbytes(2010)
    temporary = storage._store.writer("w/t")
    temporary.write([data])
    temporary.close()
    assert temporary.publish()
    assert bytes(storage._store.load("w/t")) == data


# Several writers


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """Return a storage in which one result was saved, with an index of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    storage = storage_factory({"kind": "fsspec", "options": {"url": f"memory://{uuid.uuid4().hex}"}})
    storage.save("w", "first", 1)
    return storage


def late_save(remote: Storage, monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, journal.ObjectJournal]:
    """Have another machine's journal tell of a save whose object waits for the event; return both."""
    gate = threading.Event()
    put = generic.FsspecStore.put
    monkeypatch.setattr(
        generic.FsspecStore,
        "put",
        lambda store, key, data: (key != "w/late" or gate.wait(240)) and put(store, key, data),
    )
    other = journal.ObjectJournal(remote._store)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remote, "_journal", other)
        remote.keep("w", "late", 2, waits=False)
    assert remote.list_tasks("w") == ["first"]
    return gate, other


def test_a_save_that_comes_true_during_a_compaction(
    remote: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What another machine's save made true between the fold and the compaction is listed by every machine."""
    gate, other = late_save(remote, monkeypatch)
    listed = view._listed
    calls = itertools.count()

    def list_late(store: Store) -> Any:
        if next(calls) == 1:
            gate.set()
            other.wait()
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(remote, "_journal", other)
                remote.save("w", "third", 3)
                remote.save("w", "fourth", 4)
        return listed(store)

    monkeypatch.setattr(view, "_listed", list_late)
    remote.catalog.compact()
    assert gate.is_set()
    expected = ["first", "fourth", "late", "third"]
    assert remote.list_tasks("w") == expected
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    assert remote.list_tasks("w") == expected
    assert "damaged" not in caplog.text


def test_side_files_of_a_save_on_a_full_disk_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the place says that a result was not written, its side files take no room any more."""
    storage = storage_factory({"kind": "fsspec", "options": {"url": f"file://{tmp_path}/storage"}})
    storage.register_persistent_serializers(NumpySerializer)

    move = LocalFileSystem.mv

    def full(system: LocalFileSystem, path: str, to: str, **more: Any) -> None:
        if to.endswith("/w/t"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), to)
        move(system, path, to, **more)

    monkeypatch.setattr(LocalFileSystem, "mv", full)
    with pytest.raises(StorageUnusable, match="No space"):
        storage.save("w", "t", np.arange(1000))
    assert [path for path in tmp_path.rglob("bigdata/**/*") if path.is_file()] == []


def test_a_first_try_that_came_true_before_a_refusal(remote: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials that expire between two tries, of which the first came true unanswered, cost no side files."""
    remote.register_persistent_serializers(NumpySerializer)
    errors = iter([ConnectionError("lost"), PermissionError("expired")])
    write = MemoryFileSystem.pipe_file

    def expiring(system: MemoryFileSystem, path: str, value: bytes, **more: Any) -> None:
        error = next(errors) if path.endswith("/w/t") else None
        if not isinstance(error, PermissionError):
            write(system, path, value, **more)
        if error is not None:
            raise error

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", expiring)
    with pytest.raises(StorageUnusable, match="expired"):
        remote.save("w", "t", np.arange(1000))
    assert np.array_equal(remote.read_task("w", "t"), np.arange(1000))


def test_a_compactor_whose_clock_is_ahead(remote: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A save that is under way is not given up by a machine whose clock is ahead of the place's."""
    gate, other = late_save(remote, monkeypatch)
    with pytest.MonkeyPatch.context() as patch:
        now = time.time
        patch.setattr(time, "time", lambda: now() + 10_000)
        remote.catalog.compact()
    gate.set()
    other.wait()
    for cache in ("cache", "elsewhere"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / cache))
        assert remote.list_tasks("w") == ["first", "late"]


def test_what_killed_writers_left_is_cleared_away(remote: Storage) -> None:
    """A compaction deletes what was left half written a day before, and nothing that is being written."""
    bucket = remote._store
    fs, folder = bucket.filesystem, f"{bucket.prefix}/.catalog/tmp"
    for name in ("old", "new"):
        fs.pipe_file(f"{folder}/{name}", b"half")
    fs.store[f"{folder}/old"].created -= timedelta(days=2)
    remote.catalog.compact()
    assert fs.ls(folder, detail=False) == [f"{folder}/new"]


def test_one_url_with_other_options() -> None:
    """What lies at one URL with other options, such as an account, is not taken for one storage."""

    def found(**options: Any) -> str:
        return open_store("memory://container", options).address

    assert found(account_name="mine", token="1", args={1: b"2"}) == found(account_name="mine", token="3", args={"4": 5})
    assert found(account_name="mine") != found(account_name="theirs")


def test_a_foreign_name_in_the_journal(remote: Storage) -> None:
    """What somebody copied into the journal's folder stops no compaction."""
    bucket = remote._store
    (segment,) = (each.key for each in bucket.ls(".catalog/journal/").entries)
    bucket.put(".catalog/journal/zz copy of it.ndjson", bucket.get(segment))
    remote.save("w", "second", 2)
    remote.catalog.compact()
    assert remote.list_tasks("w") == ["first", "second"]


@pytest.mark.slow
def test_a_question_waits_for_no_later_save(remote: Storage) -> None:
    """While another thread saves one result after another, a question is answered."""
    is_over = threading.Event()

    def save() -> None:
        deadline = time.monotonic() + 240
        for number in itertools.count():
            if is_over.is_set() or time.monotonic() > deadline:
                return
            remote.keep("w", f"t{number % 50}", number, waits=False)
            time.sleep(0.001)

    writer = threading.Thread(target=save)
    writer.start()
    try:
        assert "first" in remote.list_tasks("w")
        assert writer.is_alive()
    finally:
        is_over.set()
        writer.join()


def test_saves_while_the_interpreter_ends(tmp_path: Path) -> None:
    """A thread that saves beyond the end of the program saves all, and the process ends."""
    code = """
        import sys, threading
        from functionfuse.storage import storage_factory

        storage = storage_factory({"kind": "fsspec", "options": {"url": sys.argv[1]}})

        def work():
            threading.main_thread().join()
            for number in range(5):
                storage.save("w", f"t{number}", number)

        storage.save("w", "first", 0)
        threading.Thread(target=work).start()
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    url = f"file://{tmp_path}/storage"
    subprocess.run([sys.executable, "-c", textwrap.dedent(code), url], env=environment, check=True)
    storage = storage_factory({"kind": "fsspec", "options": {"url": url}})
    assert storage.list_tasks("w") == ["first", *(f"t{number}" for number in range(5))]


def test_a_folder_that_cannot_be_read_is_not_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is cut while folders are listed is tried again."""
    storage = storage_factory({"kind": "fsspec", "options": {"url": f"file://{tmp_path}/storage"}})
    storage.save("w", "t", 1)
    listed = LocalFileSystem.ls
    cut = iter([True, True])

    def ls(fs: LocalFileSystem, path: str, detail: bool = False, **options: Any) -> Any:
        if path.endswith("journal") and next(cut, False):
            raise ConnectionResetError("by the peer")
        return listed(fs, path, detail, **options)

    monkeypatch.setattr(LocalFileSystem, "ls", ls)
    assert storage.list_tasks("w") == ["t"]
    assert next(cut, None) is None


def test_a_result_that_shrinks_while_it_is_read(remote: Storage) -> None:
    """A range that an object no longer has is a change, not an answer."""
    bucket = remote._store
    bucket.put("w/other", b"short")
    with pytest.raises(Changed):
        bucket.span("w/other", 0, 10, "")


@pytest.mark.parametrize("goes", [True, False], ids=["removed", "overwritten"])
def test_another_result_between_two_requests(remote: Storage, monkeypatch: pytest.MonkeyPatch, goes: bool) -> None:
    """A result whose record takes two requests may be removed or overwritten between them."""
    bucket = remote._store
    tail = generic.FsspecStore.tail
    origin = Origin(details={"text": "x" * 5000})

    def tail_late(self: generic.FsspecStore, key: str, most: int) -> Any:
        if key == "w/t" and most != 4096 and next(calls) == 0:
            if goes:
                bucket.delete(key)
            else:
                bucket.put(key, bucket.get("w/first"))
        return tail(self, key, most)

    monkeypatch.setattr(generic.FsspecStore, "tail", tail_late)
    for ask in (
        lambda: remote.save("w", "t", "new"),
        lambda: remote.footers("w", ["t"]),
    ):
        calls = itertools.count(1)
        remote.keep("w", "t", "old", origin)
        calls = itertools.count()
        ask()
        assert next(calls) > 0
    assert remote.file_exists("w", "t") is not goes
