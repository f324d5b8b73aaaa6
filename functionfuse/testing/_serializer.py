"""The suite for serializers."""

from __future__ import annotations

import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from functionfuse.errors import SerializerNotRegistered, SideFileMissing, UnpicklableResult
from functionfuse.serializers import FILE_PROTOCOL, Serializer
from functionfuse.storage.base import Storage
from functionfuse.storage.filestorage import FileStorage
from functionfuse.testing._blob import read_blob
from functionfuse.testing._samples import generator, raises


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
        with raises(SerializerNotRegistered, repr(self.serializer.name)):
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
            with raises(SideFileMissing):
                storage.read_task("w", "t")

    def test_a_failed_save_leaves_nothing(self, tmp_path: Path) -> None:
        """What was written for a result that then cannot be pickled is gone, and what was stored before is not."""
        storage = self.open_storage(tmp_path)
        first, second, *_ = self.samples()
        storage.save("w", "t", first)
        before = self.side_files(tmp_path)
        with raises(UnpicklableResult):
            storage.save("w", "t", [second, generator()])
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
