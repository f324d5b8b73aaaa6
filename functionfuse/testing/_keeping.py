"""What is saved is read, whole or not at all."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import xxhash

from functionfuse.errors import DamagedResult, InvalidName, InvalidPickle, TaskNotFound, UnpicklableResult
from functionfuse.storage.base import Storage
from functionfuse.testing._blob import read_blob
from functionfuse.testing._oracles import Oracles
from functionfuse.testing._samples import ODD_NAMES, Buffer, generator, raises, samples


class KeepingTests(Oracles):
    """Of saving and reading, and of damage."""

    def test_what_is_saved_is_read(self, open_storage: Callable[[], Storage]) -> None:
        """Every kind of object comes back equal, and of the same type, through another storage object."""
        for number, obj in enumerate(samples()):
            open_storage().save("w", f"t{number}", obj)
        for number, obj in enumerate(samples()):
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
        assert [offset % 64 for offset, *_ in blob.record["buffers"]] == [0, 0]
        assert pickle.loads(blob.stream, buffers=blob.buffers) == storage.read_task("w", "t")
        assert len(blob.body) < 171_000

    def test_the_footer_says_what_it_is(self, open_storage: Callable[[], Storage]) -> None:
        """The footer names workflow, task, time, serializers and checksum of the result."""
        storage = open_storage()
        before = datetime.now(timezone.utc).replace(tzinfo=None)
        storage.save("the workflow", "the/task", 1.5)
        blob = self.only_blob(storage)
        assert blob.version == 3
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
                with raises(TaskNotFound, "'no task' of workflow 'the workflow'") as caught:
                    ask("the workflow", "no task")
                assert isinstance(caught.value, FileNotFoundError)
                assert not isinstance(caught.value, DamagedResult)

    def test_what_cannot_be_pickled_changes_nothing(self, open_storage: Callable[[], Storage]) -> None:
        """A result that cannot become bytes is refused with its name, and what was stored before stays as it was."""
        storage = open_storage()
        storage.save("w", "t", "before")
        before = self.blobs(storage)
        for obj in (generator(), {"deep": [sys._getframe()]}):
            with raises(UnpicklableResult, r"task 't' of workflow 'w'.*before is intact"):
                storage.save("w", "t", obj)
            with raises(UnpicklableResult):
                storage.save("w", "new", obj)
        assert self.blobs(storage) == before
        assert storage.list_tasks("w") == ["t"]

    def test_names_have_to_be_strings(self, open_storage: Callable[[], Storage]) -> None:
        """An empty name, or one that is no string, is refused with its value, and nothing is stored."""
        storage = open_storage()
        for name in ("", None, 3, b"bytes", ("t",)):
            bad: Any = name
            with raises(InvalidName, "workflow name"):
                storage.save(bad, "t", 1)
            with raises(InvalidName, "task name"):
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
            with raises(InvalidPickle, "task 't' of workflow 'w'.*remove the task") as caught:
                open_storage().read_task("w", "t")
            assert isinstance(caught.value, ValueError)
            assert not isinstance(caught.value, FileNotFoundError)
            assert storage.file_exists("w", "t")
        storage.save("w", "t", "mended")
        assert storage.read_task("w", "t") == "mended"
        self.put(storage, key, b"damaged again")
        storage.remove_task("w", "t")
        assert self.blobs(storage) == {}
