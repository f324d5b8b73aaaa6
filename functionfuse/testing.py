"""Contract suites: what every storage and every serializer has to do, yours too.

A suite is a class of pytest tests. Derive from it, say how your storage is opened
and how its bytes are read without it, and pytest runs every test of the contract::

    class TestMyStorage(StorageContract):
        @pytest.fixture
        def open_storage(self, tmp_path):
            return lambda: MyStorage(tmp_path)

        def blobs(self, storage): ...

The oracles read the stored bytes by hand (`read_blob`), so that a mistake in the
library cannot hide itself. Call ``pytest.register_assert_rewrite("functionfuse.testing")``
before the import to see the values in a failed assertion. Nothing here is
needed at run time; pytest is imported when a test runs.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from functionfuse.errors import (
    DamagedResult,
    InvalidName,
    InvalidPickle,
    SerializerNotRegistered,
    SideFileMissing,
    TaskNotFound,
    UnpicklableResult,
)
from functionfuse.serializers import FILE_PROTOCOL, S3_PROTOCOL, Serializer, generate_name
from functionfuse.storage.base import Storage
from functionfuse.storage.filestorage import FileStorage

if TYPE_CHECKING:
    import pytest

__all__ = [
    "Buffer",
    "Note",
    "NoteSerializer",
    "ODD_NAMES",
    "SerializerContract",
    "StorageContract",
    "StoredBlob",
    "read_blob",
]

#: Names that a file system or S3 cannot hold as they are, or that would lead out of a folder.
ODD_NAMES = (
    "a/b",
    "/etc/passwd",
    "..",
    ".",
    "../../up",
    "a\0b",
    "line\nbreak\x7f",
    "x" * 300,
    "é" * 200,
    "\U0001f9ea experiment",
    "bigdata",
    ".catalog",
    ".hidden",
    "%41",
    "%2541",
    "100%",
    "A",
    "a",
    "caf\udce9",
    "\ud800",
    " ",
    "*",
    "[x]",
)

_TRAILER = struct.Struct("<16sIHHQ8s")
_MAGIC = bytes.fromhex("894646620D0A1A0A")
_READ = "import pickle, sys; storage, names = pickle.load(sys.stdin.buffer); print(repr(storage.read_task(*names)))"


@dataclass(frozen=True)
class StoredBlob:
    """A blob, taken apart by hand.

    Attributes
    ----------
    body : bytes
        The pickle stream, and the buffers behind it.
    record : dict
        The footer's JSON object.
    version : int
        Of the blob's format.
    plain : bool
        Whether the body is a pickle stream and nothing else.
    """

    body: bytes
    record: dict[str, Any]
    version: int
    plain: bool

    @property
    def stream(self) -> bytes:
        """The pickle stream."""
        return self.body[: self.record.get("stream", len(self.body))]

    @property
    def buffers(self) -> list[bytes]:
        """The buffers that the stream refers to."""
        return [self.body[offset : offset + size] for offset, size in self.record.get("buffers", ())]


def read_blob(data: bytes) -> StoredBlob:
    """Take a blob apart, with `struct` and `json` alone, and check it.

    Parameters
    ----------
    data : bytes
        All of it.

    Returns
    -------
    StoredBlob
        Its parts.

    Raises
    ------
    ValueError
        If a checksum, the magic or a length is wrong.
    """
    if len(data) < _TRAILER.size:
        raise ValueError(f"{len(data)} bytes are no blob")
    checksum, length, version, flags, seal, magic = _TRAILER.unpack(data[-_TRAILER.size :])
    end = len(data) - _TRAILER.size
    body, footer = data[: end - length], data[end - length : end]
    expected = (_MAGIC, xxhash.xxh3_64_intdigest(footer + data[end : end + 24]), xxhash.xxh3_128_digest(body))
    if (magic, seal, checksum) != expected:
        raise ValueError("magic or checksum is wrong")
    return StoredBlob(body, json.loads(footer), version, bool(flags & 1))


class Buffer:
    """Holds bytes that pickle hands on out of band, as arrays do.

    Parameters
    ----------
    data : bytes-like
        What it holds.
    """

    def __init__(self, data: Any) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return Buffer, (pickle.PickleBuffer(self.data),)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Buffer) and bytes(self.data) == bytes(other.data)

    __hash__ = None  # type: ignore[assignment]  # it may change

    def __repr__(self) -> str:
        return f"Buffer({bytes(self.data[:8])!r}..., {len(self.data)} bytes)"


@dataclass
class Note:
    """A text that `NoteSerializer` takes over."""

    text: str


class NoteSerializer:
    """A serializer as third parties write them: one side file a note, over either protocol."""

    name = "NoteSerializer"
    serializer_class: type = Note

    @classmethod
    def pickle(cls, obj: Note, protocols: Mapping[str, Any]) -> tuple[str, str]:
        """Write the note to a side file and return name and file name."""
        pid = generate_name()
        with _open_note(protocols, pid, "wb") as file:
            file.write(obj.text.encode())
        return cls.name, pid

    @classmethod
    def unpickle(cls, pid: str, protocols: Mapping[str, Any]) -> Note:
        """Read a note."""
        with _open_note(protocols, pid, "rb") as file:
            return Note(file.read().decode())

    @classmethod
    def remove(cls, pid: str, protocols: Mapping[str, Any]) -> None:
        """Delete a note's side file."""
        if FILE_PROTOCOL in protocols:
            protocols[FILE_PROTOCOL].remove(pid)
        else:
            remote = protocols[S3_PROTOCOL]
            remote["client"].rm(f"{remote['folder']}/{pid}")


def _open_note(protocols: Mapping[str, Any], pid: str, mode: str) -> Any:
    if FILE_PROTOCOL in protocols:
        return protocols[FILE_PROTOCOL].open(pid, mode)
    remote = protocols[S3_PROTOCOL]
    return remote["client"].open(f"{remote['folder']}/{pid}", mode)


def _samples() -> list[Any]:
    return [
        None,
        0,
        2**80,
        float("inf"),
        True,
        "",
        "text \ud800",
        b"bytes",
        (),
        [1, [2, {"three": 4}]],
        {"a": {1, 2}, 3: (None,)},
        datetime(2024, 2, 29, tzinfo=timezone.utc),
        {"x": "y" * 100_000},
        Buffer(bytearray(b"small")),
        Buffer(bytearray(range(256)) * 4_000),
        [Buffer(bytearray(70_000)), Buffer(b"\1" * 70_001)],
    ]


def _generator() -> Iterator[int]:
    yield 0


def _raises(error: type[BaseException], match: str | None = None) -> pytest.RaisesExc[BaseException]:
    import pytest

    return pytest.raises(error, match=match)


class StorageContract:
    """What every storage has to do.

    A subclass gives the fixture ``open_storage``: a function that returns a storage
    object, each time a new one, all of one place, which is empty at first. It also
    overrides the oracles, which reach the stored bytes without the code under test:
    `blobs`, `put`, `side_files` and `lose_side_files`.
    """

    # Oracles

    def blobs(self, storage: Storage) -> dict[str, bytes]:
        """Return the bytes of every stored result, each under its key: a path, say."""
        raise NotImplementedError

    def put(self, storage: Storage, key: str, data: bytes) -> None:
        """Write these bytes in place of those that `blobs` has under `key`."""
        raise NotImplementedError

    def side_files(self, storage: Storage) -> dict[str, bytes]:
        """Return the bytes of every side file."""
        raise NotImplementedError

    def lose_side_files(self, storage: Storage) -> None:
        """Delete every side file, and nothing else."""
        raise NotImplementedError

    def only_blob(self, storage: Storage) -> StoredBlob:
        """Return the one blob that is stored, taken apart."""
        (data,) = self.blobs(storage).values()
        return read_blob(data)

    # Saving and reading

    def test_what_is_saved_is_read(self, open_storage: Callable[[], Storage]) -> None:
        """Every kind of object comes back equal, and of the same type, through another storage object."""
        for number, obj in enumerate(_samples()):
            open_storage().save("w", f"t{number}", obj)
        for number, obj in enumerate(_samples()):
            found = open_storage().read_task("w", f"t{number}")
            assert found == obj
            assert type(found) is type(obj)

    def test_a_small_result_is_a_plain_pickle(self, open_storage: Callable[[], Storage]) -> None:
        """A small result opens with `pickle.loads` on the stored bytes, without this library."""
        storage = open_storage()
        storage.save("w", "t", {"answer": [42]})
        (data,) = self.blobs(storage).values()
        assert pickle.loads(data) == {"answer": [42]}
        assert self.only_blob(storage).plain

    def test_large_buffers_stand_behind_the_stream(self, open_storage: Callable[[], Storage]) -> None:
        """Large buffers are stored once, aligned to 64 bytes, and the footer says where."""
        storage = open_storage()
        storage.save("w", "t", [Buffer(b"\1" * 100_000), Buffer(b"\2" * 70_001)])
        blob = self.only_blob(storage)
        assert blob.buffers == [b"\1" * 100_000, b"\2" * 70_001]
        assert [offset % 64 for offset, _ in blob.record["buffers"]] == [0, 0]
        assert pickle.loads(blob.stream, buffers=blob.buffers) == storage.read_task("w", "t")
        assert len(blob.body) < 171_000

    def test_the_footer_says_what_it_is(self, open_storage: Callable[[], Storage]) -> None:
        """The footer names workflow, task, time, serializers and checksum of the result."""
        storage = open_storage()
        before = datetime.now(timezone.utc).replace(tzinfo=None)
        storage.save("the workflow", "the/task", 1.5)
        blob = self.only_blob(storage)
        assert blob.version == 1
        assert (blob.record["workflow"], blob.record["task"]) == ("the workflow", "the/task")
        assert blob.record["serializers"] == ["pickle"]
        assert blob.record["checksum"] == f"xxh3:{xxhash.xxh3_128_hexdigest(blob.body)}"
        saved_at = datetime.fromisoformat(blob.record["saved_at"].removesuffix("Z"))
        assert timedelta(milliseconds=-1) <= saved_at - before < timedelta(minutes=1)

    def test_an_overwrite_replaces(self, open_storage: Callable[[], Storage]) -> None:
        """Saving again leaves the new result alone under the name, with a greater id, and the neighbour untouched."""
        storage = open_storage()
        storage.save("w", "t", "old")
        old = self.only_blob(storage).record
        storage.save("w", "neighbour", "same")
        (neighbour,) = (each for each in self.blobs(storage).values() if read_blob(each).record["task"] == "neighbour")
        open_storage().save("w", "t", "new")
        assert storage.read_task("w", "t") == "new"
        assert len(self.blobs(storage)) == 2
        (new,) = (read_blob(each).record for each in self.blobs(storage).values() if each != neighbour)
        assert new["blob_id"] > old["blob_id"]
        assert new["replaces"] == old["blob_id"]

    def test_a_miss_is_a_miss(self, open_storage: Callable[[], Storage]) -> None:
        """What is not stored is `TaskNotFound`, a `FileNotFoundError` that names task and workflow, and no damage."""
        storage = open_storage()
        for make_room in (False, True):
            if make_room:
                storage.new_workflow("the workflow")
            assert not storage.file_exists("the workflow", "no task")
            for ask in (storage.read_task, storage.remove_task):
                with _raises(TaskNotFound, "'no task' of workflow 'the workflow'") as caught:
                    ask("the workflow", "no task")
                assert isinstance(caught.value, FileNotFoundError)
                assert not isinstance(caught.value, DamagedResult)

    def test_what_cannot_be_pickled_changes_nothing(self, open_storage: Callable[[], Storage]) -> None:
        """A result that cannot become bytes is refused with its name, and what was stored before stays as it was."""
        storage = open_storage()
        storage.save("w", "t", "before")
        before = self.blobs(storage)
        for obj in (_generator(), {"deep": [sys._getframe()]}):
            with _raises(UnpicklableResult, r"task 't' of workflow 'w'.*before is intact"):
                storage.save("w", "t", obj)
            with _raises(UnpicklableResult):
                storage.save("w", "new", obj)
        assert self.blobs(storage) == before
        assert storage.list_tasks("w") == ["t"]

    def test_names_have_to_be_strings(self, open_storage: Callable[[], Storage]) -> None:
        """An empty name, or one that is no string, is refused with its value, and nothing is stored."""
        storage = open_storage()
        for name in ("", None, 3, b"bytes", ("t",)):
            bad: Any = name
            with _raises(InvalidName, "workflow name"):
                storage.save(bad, "t", 1)
            with _raises(InvalidName, "task name"):
                storage.save("w", bad, 1)
        assert self.blobs(storage) == {}

    def test_odd_names_come_back(self, open_storage: Callable[[], Storage]) -> None:
        """Names that cannot be file names are saved, found, read, told apart and removed like any other."""
        storage = open_storage()
        for number, name in enumerate(ODD_NAMES):
            storage.save("w", name, number)
            storage.save(name, "t", -number)
        assert storage.list_tasks("w") == sorted(ODD_NAMES)
        assert len(self.blobs(storage)) == 2 * len(ODD_NAMES)
        for number, name in enumerate(ODD_NAMES):
            assert storage.read_task("w", name) == number
            assert storage.read_task(name, "t") == -number
            assert storage.list_tasks(name) == ["t"]
        for name in ODD_NAMES:
            storage.remove_task("w", name)
            storage.remove_workflow(name)
            assert not storage.file_exists("w", name)
        assert self.blobs(storage) == {}

    # Damage

    def test_damage_is_no_miss_and_no_data(self, open_storage: Callable[[], Storage]) -> None:
        """Changed, cut or emptied bytes are `InvalidPickle`, a `ValueError`; overwriting and removing still work."""
        storage = open_storage()
        storage.save("w", "t", ["some", "data"])
        ((key, good),) = self.blobs(storage).items()
        middle = len(good) // 2
        for bad in (b"", good[:middle], good[:-1], bytes([good[0] ^ 1]) + good[1:], b"\x80\x05K\x01." + bytes(20)):
            self.put(storage, key, bad)
            with _raises(InvalidPickle, "task 't' of workflow 'w'.*remove the task") as caught:
                open_storage().read_task("w", "t")
            assert isinstance(caught.value, ValueError)
            assert not isinstance(caught.value, FileNotFoundError)
            assert storage.file_exists("w", "t")
        storage.save("w", "t", "mended")
        assert storage.read_task("w", "t") == "mended"
        self.put(storage, key, b"damaged again")
        storage.remove_task("w", "t")
        assert self.blobs(storage) == {}

    # Listing

    def test_listing_is_by_glob(self, open_storage: Callable[[], Storage]) -> None:
        """`list_tasks` sorts, and matches as `fnmatch` does: case-sensitive, with ``?`` and ``[...]``."""
        storage = open_storage()
        for name in ("fit_2", "fit_10", "Fit_1", "load", "fit"):
            storage.save("w", name, 0)
        assert storage.list_tasks("w") == ["Fit_1", "fit", "fit_10", "fit_2", "load"]
        assert storage.list_tasks("w", "fit*") == ["fit", "fit_10", "fit_2"]
        assert storage.list_tasks("w", "fit_?") == ["fit_2"]
        assert storage.list_tasks("w", "[!f]*") == ["Fit_1", "load"]
        assert storage.list_tasks("w", "load") == ["load"]
        assert storage.list_tasks("w", "Load") == []
        assert storage.list_tasks("no such workflow") == []

    def test_listing_is_by_date(self, open_storage: Callable[[], Storage]) -> None:
        """`since` is included and `until` is not, and both take times with a zone."""
        storage = open_storage()
        storage.save("w", "t", 0)
        text = self.only_blob(storage).record["saved_at"].removesuffix("Z")
        saved_at = datetime.fromisoformat(text).replace(tzinfo=timezone.utc)
        moment = timedelta(microseconds=1)
        assert storage.list_tasks("w", since=saved_at, until=saved_at + moment) == ["t"]
        assert storage.list_tasks("w", since=saved_at + moment) == []
        assert storage.list_tasks("w", until=saved_at) == []

    def test_the_catalog_agrees_with_the_bytes(self, open_storage: Callable[[], Storage]) -> None:
        """The catalog's names, sizes, ids, times and checksums are those of the stored blobs."""
        storage = open_storage()
        storage.register_persistent_serializers(NoteSerializer)
        for number, obj in enumerate([*_samples(), [Note("one"), Note("two")]]):
            storage.save(f"w{number % 2}", f"t{number}", obj)
        storage.save("w0", "t0", "again")
        storage.remove_task("w1", "t1")
        expected = []
        for data in self.blobs(storage).values():
            record = read_blob(data).record
            size = len(data) + sum(side["size"] for side in record.get("side_files", ()))
            columns = ("workflow", "task", "blob_id", "checksum")
            expected.append((*(record[name] for name in columns), record["saved_at"].removesuffix("Z"), size))
        query = """SELECT workflow, task, blob_id::VARCHAR, checksum,
            strftime(saved_at, '%Y-%m-%dT%H:%M:%S.%f'), size FROM tasks ORDER BY workflow, task"""
        rows = open_storage().catalog.sql(query).fetchall()
        assert rows == sorted(expected)

    # Removing

    def test_remove_one(self, open_storage: Callable[[], Storage]) -> None:
        """`remove_task` takes one result away, by its exact name, and says so when it is gone already."""
        storage = open_storage()
        for name in ("t", "t*", "t1"):
            storage.save("w", name, 0)
        storage.remove_task("w", "t*")
        assert open_storage().list_tasks("w") == ["t", "t1"]
        assert len(self.blobs(storage)) == 2
        with _raises(TaskNotFound):
            storage.remove_task("w", "t*")

    def test_remove_by_pattern(self, open_storage: Callable[[], Storage]) -> None:
        """A pattern removes all that match, wins over a name, and may match nothing; one of both is needed."""
        storage = open_storage()
        for name in ("fit_1", "fit_2", "Fit_3", "load"):
            storage.save("w", name, 0)
        storage.remove_task("w", task_name="load", pattern="fit_*")
        assert storage.list_tasks("w") == ["Fit_3", "load"]
        storage.remove_task("w", pattern="nothing*")
        assert len(self.blobs(storage)) == 2
        with _raises(TypeError, "task_name or a pattern"):
            storage.remove_task("w")

    def test_remove_workflow(self, open_storage: Callable[[], Storage]) -> None:
        """`remove_workflow` takes one workflow away by its exact name; one that is not there is `TaskNotFound`."""
        storage = open_storage()
        for workflow in ("w*", "w1"):
            storage.save(workflow, "a", 0)
            storage.save(workflow, "b", 0)
        storage.remove_workflow("w*")
        assert storage.list_tasks("w*") == []
        assert storage.list_tasks("w1") == ["a", "b"]
        with _raises(TaskNotFound, r"no workflow 'w\*'"):
            storage.remove_workflow("w*")
        storage.save("w*", "again", 1)
        assert storage.list_tasks("w*") == ["again"]

    def test_new_workflow_stores_nothing(self, open_storage: Callable[[], Storage]) -> None:
        """`new_workflow` may be called any number of times, and lists as empty."""
        storage = open_storage()
        storage.new_workflow("w")
        assert storage.list_tasks("w") == []
        storage.save("w", "t", 1)
        storage.new_workflow("w")
        assert storage.list_tasks("w") == ["t"]

    # Side files

    def test_side_files_are_declared(self, open_storage: Callable[[], Storage]) -> None:
        """What a serializer writes comes back, is stored beside the blob, and stands in the footer with its size."""
        storage = open_storage()
        assert not storage.have_serializers()
        storage.register_persistent_serializers(NoteSerializer)
        assert storage.have_serializers()
        storage.save("w", "t", {"notes": [Note("one"), Note("three")]})
        assert sorted(self.side_files(storage).values()) == [b"one", b"three"]
        record = self.only_blob(storage).record
        assert sorted(side["size"] for side in record["side_files"]) == [3, 5]
        assert record["serializers"] == ["pickle", "NoteSerializer"]
        reader = open_storage()
        reader.register_persistent_serializers(NoteSerializer)
        assert reader.read_task("w", "t") == {"notes": [Note("one"), Note("three")]}

    def test_one_object_stays_one(self, open_storage: Callable[[], Storage]) -> None:
        """An object that a result holds twice is written once, and is one object again."""
        storage = open_storage()
        storage.register_persistent_serializers(NoteSerializer)
        note = Note("shared")
        storage.save("w", "t", (note, [note], Note("shared")))
        assert len(self.side_files(storage)) == 2
        first, (second,), other = storage.read_task("w", "t")
        assert first is second
        assert first is not other

    def test_side_files_go_with_their_blob(self, open_storage: Callable[[], Storage]) -> None:
        """Overwriting and removing leave no side file behind, also where the serializer is not registered."""
        writer = open_storage()
        writer.register_persistent_serializers(NoteSerializer)
        for storage in (writer, open_storage()):
            writer.save("w", "t", Note("old"))
            writer.save("w", "t", Note("new"))
            assert list(self.side_files(writer).values()) == [b"new"]
            storage.save("w", "t", "no note")
            assert self.side_files(writer) == {}
            writer.save("w", "t", [Note("a"), Buffer(bytearray(100_000)), Note("b")])
            storage.remove_task("w", "t")
            assert self.side_files(writer) == {}
            writer.save("w", "t", Note("a"))
            storage.remove_workflow("w")
            assert self.side_files(writer) == {}

    def test_a_failed_save_leaves_no_side_file(self, open_storage: Callable[[], Storage]) -> None:
        """Side files of a result that could not be pickled are gone; those of the result before it are not."""
        storage = open_storage()
        storage.register_persistent_serializers(NoteSerializer)
        storage.save("w", "t", Note("kept"))
        with _raises(UnpicklableResult):
            storage.save("w", "t", [Note("lost"), _generator()])
        assert list(self.side_files(storage).values()) == [b"kept"]
        assert storage.read_task("w", "t") == Note("kept")

    def test_a_serializer_is_missed_by_name(self, open_storage: Callable[[], Storage]) -> None:
        """Without its serializer a result is refused, with the serializer's name and how to register it."""
        writer = open_storage()
        writer.register_persistent_serializers(NoteSerializer)
        writer.save("w", "t", Note("x"))
        with _raises(SerializerNotRegistered, "'w'.*'NoteSerializer'.*register_persistent_serializers") as caught:
            open_storage().read_task("w", "t")
        assert not isinstance(caught.value, (DamagedResult, FileNotFoundError))

    def test_a_lost_side_file_is_no_miss(self, open_storage: Callable[[], Storage]) -> None:
        """A side file that is gone is `SideFileMissing`, which does not pass for a miss; the task can be removed."""
        storage = open_storage()
        storage.register_persistent_serializers(NoteSerializer)
        storage.save("w", "t", Note("x"))
        self.lose_side_files(storage)
        with _raises(SideFileMissing, "task 't' of workflow 'w'.*remove the task") as caught:
            storage.read_task("w", "t")
        assert not isinstance(caught.value, FileNotFoundError)
        storage.remove_task("w", "t")
        assert self.blobs(storage) == {}

    # Processes and threads

    def test_another_object_sees_a_save_at_once(self, open_storage: Callable[[], Storage]) -> None:
        """What one storage object saved or removed, another one lists, finds and reads without delay."""
        first, second = open_storage(), open_storage()
        for number in range(3):
            first.save("w", f"t{number}", number)
            assert second.list_tasks("w") == [f"t{index}" for index in range(number + 1)]
            assert second.read_task("w", f"t{number}") == number
        second.remove_task("w", "t1")
        assert first.list_tasks("w") == ["t0", "t2"]
        assert not first.file_exists("w", "t1")

    def test_a_storage_pickles(self, open_storage: Callable[[], Storage]) -> None:
        """A storage object that was used can be pickled with its serializers, and reads in another process."""
        storage = open_storage()
        storage.register_persistent_serializers(NoteSerializer)
        storage.always_read = True
        storage.save("w", "t", Note("from afar"))
        assert storage.list_tasks("w") == ["t"]
        copy = pickle.loads(pickle.dumps(storage))
        assert copy.always_read
        assert copy.have_serializers()
        assert copy.list_tasks("w") == ["t"]
        message = pickle.dumps((storage, ("w", "t")))
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", _READ]
        answer = subprocess.run(command, input=message, capture_output=True, env=environment, check=True)
        assert answer.stdout.decode().strip() == "Note(text='from afar')"

    def test_threads_share_a_storage(self, open_storage: Callable[[], Storage]) -> None:
        """Threads that save, overwrite and read in one storage object at once lose nothing and mix nothing up."""
        storage = open_storage()

        def work(worker: int) -> None:
            for number in range(20):
                storage.save("w", f"own_{worker}_{number}", (worker, number))
                storage.save("w", "shared", (worker, number))
                assert storage.read_task("w", f"own_{worker}_{number}") == (worker, number)
                assert len(storage.read_task("w", "shared")) == 2

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
        assert len(self.blobs(storage)) == 81
        assert len(storage.list_tasks("w", "own_*")) == 80
        assert storage.always_read is False


class SerializerContract:
    """What every serializer has to do, over the file protocol.

    A subclass sets `serializer` and overrides `samples`; `equal` too, where ``==``
    does not tell whether two objects are the same.
    """

    #: The class under test.
    serializer: type[Serializer]

    def samples(self) -> list[Any]:
        """Return objects that the serializer takes over, at least two, no two alike."""
        raise NotImplementedError

    def equal(self, one: Any, other: Any) -> bool:
        """Tell whether two objects are the same for those who read them."""
        return bool(one == other)

    def open_storage(self, path: Path) -> Storage:
        """Return a storage over a folder, with the serializer registered."""
        storage = FileStorage(path)
        storage.register_persistent_serializers(self.serializer)
        return storage

    def side_files(self, path: Path) -> dict[str, int]:
        """Return the size in bytes of every side file below a storage's folder, by its path."""
        found = [each for each in path.glob("*/bigdata/**/*") if each.is_file()]
        return {str(each.relative_to(path)): each.stat().st_size for each in found}

    def test_it_is_a_serializer(self) -> None:
        """It has a name, one exact type, and the three methods."""
        assert isinstance(self.serializer, Serializer)
        assert isinstance(self.serializer.name, str)
        assert self.serializer.name
        samples = self.samples()
        assert len(samples) >= 2
        assert {type(sample) for sample in samples} == {self.serializer.serializer_class}

    def test_pickle_returns_name_and_pid(self, tmp_path: Path) -> None:
        """`pickle` returns its own name and a pid that plain pickle takes, and `unpickle` takes that pid."""
        (tmp_path / "side").mkdir()
        protocols = {FILE_PROTOCOL: _Folder(tmp_path / "side")}
        for sample in self.samples():
            taken = self.serializer.pickle(sample, protocols)
            assert taken is not None
            name, pid = taken
            assert name == self.serializer.name
            assert self.equal(self.serializer.unpickle(pickle.loads(pickle.dumps(pid)), protocols), sample)
            self.serializer.remove(pid, protocols)
        assert list((tmp_path / "side").rglob("*")) == []

    def test_samples_come_back(self, tmp_path: Path) -> None:
        """Each sample comes back the same, alone and inside a result, from another storage object."""
        for sample in self.samples():
            self.open_storage(tmp_path).save("w", "alone", sample)
            self.open_storage(tmp_path).save("w", "inside", {"list": [sample, 1]})
            assert self.equal(self.open_storage(tmp_path).read_task("w", "alone"), sample)
            assert self.equal(self.open_storage(tmp_path).read_task("w", "inside")["list"][0], sample)

    def test_one_object_stays_one(self, tmp_path: Path) -> None:
        """An object that a result holds twice is one object again."""
        sample = self.samples()[0]
        storage = self.open_storage(tmp_path)
        storage.save("w", "t", [sample, sample])
        first, second = storage.read_task("w", "t")
        assert first is second

    def test_side_files_are_declared(self, tmp_path: Path) -> None:
        """The blob's footer names the serializer, and every side file with its size."""
        self.open_storage(tmp_path).save("w", "t", self.samples())
        record = read_blob((tmp_path / "w" / "t").read_bytes()).record
        assert self.serializer.name in record["serializers"]
        side = f"w/bigdata/{record['blob_id']}"
        declared = {f"{side}/{file['name']}": file["size"] for file in record["side_files"]}
        assert declared == self.side_files(tmp_path)

    def test_nothing_is_left_behind(self, tmp_path: Path) -> None:
        """After an overwrite only the new side files are there, after a removal none."""
        storage = self.open_storage(tmp_path)
        first, second, *_ = self.samples()
        storage.save("w", "t", first)
        before = set(self.side_files(tmp_path))
        storage.save("w", "t", second)
        assert before & set(self.side_files(tmp_path)) == set()
        assert self.equal(storage.read_task("w", "t"), second)
        storage.remove_task("w", "t")
        assert self.side_files(tmp_path) == {}

    def test_it_may_be_unknown_when_a_task_is_removed(self, tmp_path: Path) -> None:
        """A storage without the serializer refuses to read, by the serializer's name, and still removes all of it."""
        self.open_storage(tmp_path).save("w", "t", self.samples()[0])
        storage = FileStorage(tmp_path)
        with _raises(SerializerNotRegistered, repr(self.serializer.name)):
            storage.read_task("w", "t")
        storage.remove_task("w", "t")
        assert self.side_files(tmp_path) == {}

    def test_a_lost_side_file_is_no_miss(self, tmp_path: Path) -> None:
        """When its side files are gone, an object that needs them is `SideFileMissing`, not a miss."""
        storage = self.open_storage(tmp_path)
        storage.save("w", "t", self.samples()[0])
        lost = self.side_files(tmp_path)
        for each in lost:
            (tmp_path / each).unlink()
        if lost:
            with _raises(SideFileMissing):
                storage.read_task("w", "t")

    def test_a_failed_save_leaves_nothing(self, tmp_path: Path) -> None:
        """What was written for a result that then cannot be pickled is gone, and what was stored before is not."""
        storage = self.open_storage(tmp_path)
        first, second, *_ = self.samples()
        storage.save("w", "t", first)
        before = self.side_files(tmp_path)
        with _raises(UnpicklableResult):
            storage.save("w", "t", [second, _generator()])
        assert self.side_files(tmp_path) == before
        assert self.equal(storage.read_task("w", "t"), first)

    def test_saves_at_once_do_not_meet(self, tmp_path: Path) -> None:
        """Threads that save under one name at once do not lose each other's side files: one result is read, whole."""
        storage = self.open_storage(tmp_path)
        samples = self.samples()[:2]

        def save(sample: Any) -> None:
            for _ in range(3):
                storage.save("w", "t", sample)

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(save, samples))
        found = storage.read_task("w", "t")
        assert any(self.equal(found, sample) for sample in samples)


class _Folder:
    """The file protocol as the page on compatibility has it, and nothing more."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def open(self, filename: str, mode: str) -> Any:
        """Open a file of the folder."""
        return open(self._path / filename, mode)

    def remove(self, filename: str) -> None:
        """Delete a file of the folder, or a folder of files."""
        path = self._path / filename
        shutil.rmtree(path) if path.is_dir() else path.unlink()
