"""FileStorage: the contract of every storage, third-party serializers, side files, arrays, other processes."""

from __future__ import annotations

import gc
import json
import os
import pickle
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.errors import DamagedResult, SideFileMissing, TaskNotFound
from functionfuse.serializers import FILE_PROTOCOL, generate_name
from functionfuse.storage import Storage, storage_factory
from functionfuse.storage._side_files import side_files
from functionfuse.storage.filestorage import FileStorage
from functionfuse.testing import Buffer, Note, NoteSerializer, SerializerContract, StorageContract, read_blob
from oracle import files
from processes import in_child, python

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return the folder of the storage."""
    return tmp_path / "storage"


@pytest.fixture
def storage(root: Path) -> FileStorage:
    """Return a storage with nothing in it."""
    return FileStorage(root)


class TestFileStorage(StorageContract):
    """The contract, read by `pathlib`."""

    root: Path

    @pytest.fixture
    def open_storage(self, root: Path) -> Callable[[], Storage]:
        """Open the folder anew at each call, in one of the ways there are."""
        self.root = root
        ways = (lambda: FileStorage(root), lambda: storage_factory({"kind": "file", "options": {"path": str(root)}}))
        calls = iter(range(10_000))
        return lambda: ways[next(calls) % 2]()

    def blobs(self, storage: Storage) -> dict[str, bytes]:
        """Every file of a workflow's folder, and hidden and temporary ones: there must be none."""
        kept = (each for each in self.root.glob("*/*") if each.is_file() and each.parent.name != ".catalog")
        found = (*kept, *(each for each in self.root.glob(".catalog/tmp/**/*") if each.is_file()))
        return {str(each): each.read_bytes() for each in found}

    def put(self, storage: Storage, key: str, data: bytes) -> None:
        """Write the file in place, as a failing disk does."""
        Path(key).write_bytes(data)

    def side_files(self, storage: Storage) -> dict[str, bytes]:
        """Every file at any depth below ``bigdata``."""
        return {str(each): each.read_bytes() for each in self.root.glob("*/bigdata/**/*") if each.is_file()}

    def lose_side_files(self, storage: Storage) -> None:
        """Delete them."""
        for each in self.side_files(storage):
            os.unlink(each)


class TestNoteSerializer(SerializerContract):
    """The serializer that the contracts come with keeps the contract of serializers itself."""

    serializer = NoteSerializer

    def samples(self) -> list[Any]:
        """Return notes, an empty one too."""
        return [Note("one"), Note("two"), Note("")]


class Grid:
    """What third parties have: a class that plain pickle would take as well."""

    def __init__(self, rows: list[list[int]]) -> None:
        self.rows = rows


class GridSerializer:
    """Written as the page on compatibility says: the file protocol only, a pid that is a file name, text mode."""

    name = "Grid as JSON"
    serializer_class = Grid

    @classmethod
    def pickle(cls, obj: Grid, protocols: Mapping[str, Any]) -> tuple[str, str]:
        """Write one file."""
        pid = generate_name()
        with protocols[FILE_PROTOCOL].open(pid, "w") as file:
            json.dump(obj.rows, file)
        return cls.name, pid

    @classmethod
    def unpickle(cls, pid: str, protocols: Mapping[str, Any]) -> Grid:
        """Read it."""
        with protocols[FILE_PROTOCOL].open(pid, "r") as file:
            return Grid(json.load(file))

    @classmethod
    def remove(cls, pid: str, protocols: Mapping[str, Any]) -> None:
        """Delete it."""
        protocols[FILE_PROTOCOL].remove(pid)


class TestGridSerializer(SerializerContract):
    """A serializer of the older kind keeps the contract unchanged."""

    serializer = GridSerializer

    def samples(self) -> list[Any]:
        """Return grids."""
        return [Grid([[1, 2], [3]]), Grid([]), Grid([[]])]

    def equal(self, one: Any, other: Any) -> bool:
        """Compare what they hold: the class has no ``==``."""
        return bool(one.rows == other.rows)


class Remote:
    """What lies in a place of its own."""

    def __init__(self, text: str) -> None:
        self.text = text


class RemoteSerializer:
    """Keeps its data elsewhere, knows nothing of protocols, and has pids that cannot be hashed."""

    name = "Remote"
    serializer_class = Remote
    elsewhere: ClassVar[dict[str, str]] = {}
    removed: ClassVar[list[Any]] = []

    @classmethod
    def pickle(cls, obj: Remote, protocols: Mapping[str, Any]) -> tuple[str, Any]:
        """Put the text there."""
        key = generate_name()
        cls.elsewhere[key] = obj.text
        return cls.name, {"key": key, "path": ["a", "b"]}

    @classmethod
    def unpickle(cls, pid: Any, protocols: Mapping[str, Any]) -> Remote:
        """Get the text from there."""
        return Remote(cls.elsewhere[pid["key"]])

    @classmethod
    def remove(cls, pid: Any, protocols: Mapping[str, Any]) -> None:
        """Delete the text there."""
        cls.removed.append(pid)
        del cls.elsewhere[pid["key"]]


class FolderSerializer(GridSerializer):
    """Writes several files in a folder of its own for each object."""

    @classmethod
    def pickle(cls, obj: Grid, protocols: Mapping[str, Any]) -> tuple[str, str]:
        """Write a file a row."""
        pid = generate_name()
        for number, row in enumerate(obj.rows):
            with protocols[FILE_PROTOCOL].open(f"{pid}/rows/{number}", "wb") as file:
                file.write(bytes(row))
        return cls.name, pid

    @classmethod
    def unpickle(cls, pid: str, protocols: Mapping[str, Any]) -> Grid:
        """Read the first row."""
        with protocols[FILE_PROTOCOL].open(f"{pid}/rows/0") as file:
            return Grid([list(file.read())])


@pytest.fixture
def elsewhere() -> dict[str, str]:
    """Return where `RemoteSerializer` keeps its data, empty."""
    RemoteSerializer.elsewhere.clear()
    RemoteSerializer.removed.clear()
    return RemoteSerializer.elsewhere


class OfThisModule:
    """A class that pickle finds by name."""

    def __init__(self, content: Any) -> None:
        self.content = content


# Serializers


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(lambda remote: remote, id="alone"),
        pytest.param(lambda remote: [{"key": remote}, (remote, 1)], id="nested, twice"),
        pytest.param(lambda remote: [np.zeros(20_000), remote], id="behind a large array"),
        pytest.param(lambda remote: {frozenset({1}): OfThisModule(remote)}, id="in an object"),
        pytest.param(lambda remote: lambda: remote, id="in a closure, by cloudpickle"),
        pytest.param(lambda remote: [type("Local", (), {})(), remote], id="beside an object of a local class"),
    ],
)
@pytest.mark.parametrize("way", ["overwrite", "remove", "remove by pattern", "remove the workflow"])
def test_remove_is_called_for_each_pid(
    storage: FileStorage, elsewhere: dict[str, str], wrap: Callable[[Remote], Any], way: str
) -> None:
    """Overwriting and removing call `remove` once for each object, whatever it was in, so data elsewhere goes too."""
    storage.register_persistent_serializers(RemoteSerializer)
    storage.save("w", "t", wrap(Remote("text")))
    assert list(elsewhere.values()) == ["text"]
    {
        "overwrite": lambda: storage.save("w", "t", 1),
        "remove": lambda: storage.remove_task("w", "t"),
        "remove by pattern": lambda: storage.remove_task("w", pattern="*"),
        "remove the workflow": lambda: storage.remove_workflow("w"),
    }[way]()
    assert elsewhere == {}
    assert len(RemoteSerializer.removed) == 1


def test_nothing_is_executed_when_a_result_goes(
    storage: FileStorage, tmp_path: Path, elsewhere: dict[str, str]
) -> None:
    """To find the pids of a result that is removed, nothing that its pickle refers to is called."""
    trap = tmp_path / "sprung"

    class Trap:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(trap),)

    storage.register_persistent_serializers(RemoteSerializer)
    storage.save("w", "t", [Trap(), Remote("text")])
    assert not trap.exists()
    storage.remove_task("w", "t")
    assert elsewhere == {}
    assert not trap.exists()


def test_a_remove_that_fails_does_not_undo_the_removal(
    storage: FileStorage, elsewhere: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """A serializer that cannot remove its data is named in the log; the result is gone, and the other data too."""
    storage.register_persistent_serializers(RemoteSerializer, NoteSerializer)
    storage.save("w", "t", [Remote("lost"), Note("beside"), Remote("found")])
    elsewhere.pop(next(iter(elsewhere)))
    storage.remove_task("w", "t")
    assert elsewhere == {}
    assert files(Path(storage._store.root)) == {}
    assert "the serializer 'Remote' did not remove" in caplog.text
    caplog.clear()  # the traceback in the record keeps the storage, and so its segment, open


def test_folders_of_side_files(storage: FileStorage, root: Path) -> None:
    """Side files in folders of their own are declared with these folders, and go with them."""
    storage.register_persistent_serializers(FolderSerializer)
    storage.save("w", "t", Grid([[1, 2], [3]]))
    record = read_blob((root / "w" / "t").read_bytes()).record
    assert sorted(file["name"].partition("/")[2] for file in record["side_files"]) == ["rows/0", "rows/1"]
    assert storage.read_task("w", "t").rows == [[1, 2]]
    storage.remove_task("w", "t")
    assert [
        each for each in root.rglob("*") if each.name not in ("w", "bigdata") and ".catalog" not in each.parts
    ] == []


@pytest.mark.parametrize("name", ["../../outside", "/etc/functionfuse-outside", "..", "a/../../b", ""])
@pytest.mark.parametrize("mode", ["wb", "rb", "remove"])
def test_side_files_stay_inside(storage: FileStorage, name: str, mode: str) -> None:
    """The file protocol refuses a name that leads out of the side folder, by its value."""
    folder = side_files(storage._store, "w", "id").protocols[FILE_PROTOCOL]
    with pytest.raises(ValueError, match="leads out of"):
        folder.remove(name) if mode == "remove" else folder.open(name, mode)


def test_only_the_exact_type_is_taken_over(storage: FileStorage, root: Path) -> None:
    """A subclass of a serializer's class is pickled as it is."""
    storage.register_persistent_serializers(NoteSerializer)
    storage.save("w", "t", [SubNote("sub")])
    assert files(root).keys() == {"w/t"}
    assert type(storage.read_task("w", "t")[0]) is SubNote


class SubNote(Note):
    """A subclass that no serializer knows."""


def test_a_serializer_that_is_none_is_refused(storage: FileStorage) -> None:
    """Registering a class without the parts of a serializer names the class and what it lacks."""
    with pytest.raises(TypeError, match=r"OfThisModule.*lacks name, serializer_class, pickle, unpickle, remove"):
        storage.register_persistent_serializers(OfThisModule)  # type: ignore[arg-type]  # that is the point
    assert not storage.have_serializers()


def test_the_message_about_a_serializer_lists_those_there_are(storage: FileStorage) -> None:
    """What lacks one serializer is told which others are registered."""
    writer = FileStorage(storage._store.root)
    writer.register_persistent_serializers(GridSerializer, NoteSerializer)
    writer.save("w", "t", [Grid([]), Note("x")])
    storage.register_persistent_serializers(NoteSerializer)
    with pytest.raises(LookupError, match=r"'Grid as JSON' \(registered: NoteSerializer\)"):
        storage.read_task("w", "t")


def test_a_serializer_that_looks_for_itself_and_finds_nothing(storage: FileStorage) -> None:
    """A `FileNotFoundError` from within a serializer does not pass for a miss either."""

    class Forgetful(GridSerializer):
        @classmethod
        def unpickle(cls, pid: str, protocols: Mapping[str, Any]) -> Grid:
            raise FileNotFoundError(2, "No such file", pid)

    storage.register_persistent_serializers(Forgetful)
    storage.save("w", "t", Grid([]))
    with pytest.raises(SideFileMissing, match="'Grid as JSON'") as caught:
        storage.read_task("w", "t")
    assert isinstance(caught.value, DamagedResult)
    assert not isinstance(caught.value, FileNotFoundError)


def test_an_overwrite_while_another_reads(storage: FileStorage) -> None:
    """A reader whose side file vanishes because the task is overwritten under it reads the new result instead."""
    writer = FileStorage(storage._store.root)
    writer.register_persistent_serializers(NoteSerializer)
    reads: list[str] = []

    class Slow(NoteSerializer):
        @classmethod
        def unpickle(cls, pid: str, protocols: Mapping[str, Any]) -> Note:
            reads.append(pid)
            if len(reads) <= 2:  # between the blob and the side file, twice
                writer.save("w", "t", Note(f"new {len(reads)}"))
            return super().unpickle(pid, protocols)

    writer.save("w", "t", Note("old"))
    storage.register_persistent_serializers(Slow)
    assert storage.read_task("w", "t") == Note("new 2")
    assert len(reads) == 3


def test_a_removal_while_another_reads(storage: FileStorage) -> None:
    """A reader whose task is removed under it is told that there is none."""

    class Slow(NoteSerializer):
        @classmethod
        def unpickle(cls, pid: str, protocols: Mapping[str, Any]) -> Note:
            storage.remove_task("w", "t")
            return super().unpickle(pid, protocols)

    storage.register_persistent_serializers(Slow)
    storage.save("w", "t", Note("old"))
    with pytest.raises(TaskNotFound):
        storage.read_task("w", "t")


def test_always_read_hands_on_what_is_stored(storage: FileStorage) -> None:
    """With `always_read` a workflow returns the result as it is read back, otherwise the one that was computed."""

    @workflow
    def make() -> Note:
        return made

    made = Note("computed")
    storage.register_persistent_serializers(NoteSerializer)
    for number, always_read in enumerate((False, True)):
        storage.always_read = always_read
        run = LocalWorkflow(make(), workflow_name=f"w{number}")
        run.set_storage(storage)
        result = run.run()
        assert result == made
        assert (result is made) is not always_read


# Arrays


def test_large_arrays_are_mapped(storage: FileStorage, root: Path) -> None:
    """A large array is stored uncopied beside the stream, and lies over the file when it is read."""
    array = np.random.default_rng(0).random(200_000)
    storage.save("w", "t", {"array": array})
    blob = read_blob((root / "w" / "t").read_bytes())
    assert not blob.plain
    assert blob.buffers == [array.tobytes()]
    assert len(blob.stream) < 1_000
    found = storage.read_task("w", "t")["array"]
    assert not found.flags.owndata
    assert found.ctypes.data % 64 == 0
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("way", ["overwrite", "remove", "remove the workflow"])
def test_arrays_outlive_their_file(storage: FileStorage, way: str) -> None:
    """An array that was read stays as it was when its task is overwritten or removed, and when nothing else is left."""
    array = np.random.default_rng(0).random(100_000)  # not compressed, and so mapped
    storage.save("w", "t", array)
    found = storage.read_task("w", "t")
    {
        "overwrite": lambda: storage.save("w", "t", np.zeros(100_000, int)),
        "remove": lambda: storage.remove_task("w", "t"),
        "remove the workflow": lambda: storage.remove_workflow("w"),
    }[way]()
    gc.collect()
    np.testing.assert_array_equal(found, array)


def test_writing_to_an_array_changes_no_file(storage: FileStorage, root: Path) -> None:
    """An array that was read may be written to: the file, and what others read, stay as they were."""
    storage.save("w", "t", np.zeros(100_000))
    before = (root / "w" / "t").read_bytes()
    first, second = storage.read_task("w", "t"), storage.read_task("w", "t")
    first += 1
    assert second.sum() == 0
    assert storage.read_task("w", "t").sum() == 0
    assert (root / "w" / "t").read_bytes() == before


@pytest.mark.parametrize(
    "array",
    [
        pytest.param(np.asfortranarray(np.arange(90_000.0).reshape(300, 300)), id="Fortran order"),
        pytest.param(np.arange(200_000.0)[::2], id="strided"),
        pytest.param(np.zeros((0, 5)), id="empty"),
        pytest.param(np.array(["a", None, 3], dtype=object), id="objects"),
        pytest.param(np.zeros(30_000, dtype=[("a", "i4"), ("b", "f8")]), id="records"),
        pytest.param(np.broadcast_to(np.float64(1), (300, 300)), id="broadcast"),
        pytest.param(np.ma.masked_array(np.arange(50_000), mask=np.arange(50_000) % 2 == 0), id="masked"),
    ],
)
def test_arrays_of_every_kind(storage: FileStorage, array: Any) -> None:
    """Arrays come back equal, with dtype, whatever their order in memory."""
    storage.save("w", "t", array)
    found = storage.read_task("w", "t")
    assert type(found) is type(array)
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


def test_a_read_only_array_stays_read_only(storage: FileStorage) -> None:
    """An array that could not be written to when it was saved cannot be when it is read."""
    array = np.zeros(100_000)
    array.flags.writeable = False
    storage.save("w", "t", array)
    assert not storage.read_task("w", "t").flags.writeable


# Files


def test_a_small_result_opens_without_the_library(storage: FileStorage, root: Path) -> None:
    """A process that has nothing but the standard library reads a small result with `pickle.load` on the file."""
    storage.save("w", "t", {"scores": [1.5, 2.5]})
    code = "import pickle; print(pickle.load(open({!r}, 'rb')))".format(str(root / "w" / "t"))
    answer = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "{'scores': [1.5, 2.5]}"


def test_no_file_is_left_over(storage: FileStorage, root: Path) -> None:
    """After saves, overwrites and removals of all kinds there is one file a result, and nothing hidden beside it."""
    storage.register_persistent_serializers(NoteSerializer)
    for obj in (1, Buffer(bytearray(100_000)), Note("x"), lambda: 1, "end"):
        for task in ("a", "b"):
            storage.save("w", task, obj)
    storage.remove_task("w", "b")
    assert files(root).keys() == {"w/a"}
    storage.remove_workflow("w")
    assert [each.name for each in root.iterdir()] == [".catalog"]


def test_a_folder_like_a_glob(tmp_path: Path) -> None:
    """The storage's own folder may have a name that is a pattern, or that needs quoting in SQL."""
    storage = FileStorage(tmp_path / 'it\'s [a] * ; %41 "storage" é')
    storage.save("w", "t", 1)
    assert storage.list_tasks("w") == ["t"]
    assert storage.read_task("w", "t") == 1


def test_a_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path, or one with ``~``, is where it was when the storage was opened, wherever the process goes."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    relative, home = FileStorage("relative"), FileStorage("~/home")
    monkeypatch.chdir("/")
    relative.save("w", "t", 1)
    home.save("w", "t", 2)
    assert files(tmp_path).keys() == {"relative/w/t", "home/w/t"}


def test_opening_makes_nothing(root: Path) -> None:
    """A storage that is only opened, or asked for what is not there, leaves no folder behind."""
    storage = FileStorage(root)
    assert not storage.file_exists("w", "t")
    with pytest.raises(TaskNotFound):
        storage.read_task("w", "t")
    assert not root.exists()


# Processes


def test_saving_loads_no_database(root: Path) -> None:
    """Neither ``import functionfuse`` nor saving, reading and removing loads duckdb, pyarrow or numpy."""
    loaded = python(
        """
        import sys, functionfuse
        from functionfuse.storage import storage_factory
        storage = storage_factory({"kind": "file", "options": {"path": sys.argv[1]}})
        storage.save("w", "t", {"a": [1]})
        storage.save("w", "t", 2)
        assert storage.read_task("w", "t") == 2
        storage.remove_task("w", "t")
        storage.save("w", "u", lambda: 1)
        print(*sys.modules)
        """,
        str(root),
    )
    assert "functionfuse.storage.base" in loaded.split()
    assert {name.partition(".")[0] for name in loaded.split()} & {"duckdb", "pyarrow", "numpy", "pandas"} == set()


def test_what_belongs_to_main_is_stored_by_value(root: Path) -> None:
    """A class or function of a script's ``__main__``, alone or inside a result, is read in a process without it."""
    python(
        """
        import sys
        from dataclasses import dataclass
        from functionfuse.storage.filestorage import FileStorage
        from functionfuse.testing import Note, NoteSerializer

        @dataclass
        class Point:
            x: int
            def double(self):
                return Point(2 * self.x)

        def area(side):
            return side * side

        storage = FileStorage(sys.argv[1])
        storage.save("w", "instance", Point(1))
        storage.save("w", "inside", {"deep": [Point(2), "text"]})
        storage.save("w", "function", area)
        storage.save("w", "class", Point)
        storage.save("w", "text", "__main__ is only a word here")
        storage.register_persistent_serializers(NoteSerializer)
        storage.save("w", "with a note", [Note("kept"), Point(3)])
        """,
        str(root),
    )
    storage = FileStorage(root)
    storage.register_persistent_serializers(NoteSerializer)
    assert storage.read_task("w", "instance").double().x == 2
    assert storage.read_task("w", "inside")["deep"][0].x == 2
    assert storage.read_task("w", "function")(3) == 9
    assert storage.read_task("w", "class")(4).x == 4
    assert storage.read_task("w", "text") == "__main__ is only a word here"
    note, point = storage.read_task("w", "with a note")
    assert (note, point.x) == (Note("kept"), 3)
    assert len([name for name in files(root) if "bigdata" in name]) == 1
    assert read_blob((root / "w" / "inside").read_bytes()).record["serializers"] == ["cloudpickle"]
    storage.remove_task("w", "with a note")
    assert [name for name in files(root) if "bigdata" in name] == []


def test_what_belongs_to_a_spawned_main_is_stored_by_value(root: Path, tmp_path: Path) -> None:
    """In a process that `multiprocessing` spawns, a script's classes have another module; they can be read, too."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import multiprocessing, sys
            from functionfuse.storage.filestorage import FileStorage

            class Model:
                weights = [1, 2]

            def work(root):
                FileStorage(root).save("w", "model", [Model(), Model])

            if __name__ == "__main__":
                child = multiprocessing.get_context("spawn").Process(target=work, args=sys.argv[1:])
                child.start()
                child.join()
            """
        )
    )
    subprocess.run([sys.executable, script, root], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    instance, cls = FileStorage(root).read_task("w", "model")
    assert instance.weights == cls().weights == [1, 2]


def test_a_copied_file_shares_the_side_files(storage: FileStorage, root: Path) -> None:
    """A copy of a result's file goes without the side files, which are those of the original."""
    storage.register_persistent_serializers(NoteSerializer)
    for how in (lambda: storage.remove_task("w", "copy"), lambda: storage.save("w", "copy", 2)):
        storage.save("w", "t", Note("beside"))
        shutil.copy(root / "w" / "t", root / "w" / "copy")
        assert storage.read_task("w", "copy") == Note("beside")
        how()
        assert storage.read_task("w", "t") == Note("beside")
    storage.remove_task("w", "t")
    assert [name for name in files(root) if "bigdata" in name] == []


def test_a_forked_child_is_safe(storage: FileStorage) -> None:
    """After a fork, parent and child both go on saving, reading and asking, and see each other's results."""
    storage.save("w", "before", 0)
    assert storage.list_tasks("w") == ["before"]

    def work() -> None:
        assert storage.list_tasks("w") == ["before"]
        storage.save("w", "child", np.arange(20_000))
        assert storage.list_tasks("w") == ["before", "child"]
        storage.remove_task("w", "before")

    in_child(work)
    assert storage.list_tasks("w") == ["child"]
    storage.save("w", "parent", 1)
    assert storage.read_task("w", "child")[-1] == 19_999
    assert storage.list_tasks("w") == ["child", "parent"]


def test_grandchildren_are_safe(storage: FileStorage) -> None:
    """A child of a child has a segment, ids and hidden names of its own as well."""
    storage.save("w", "0", 0)

    def generation(number: int) -> None:
        for each in range(10):
            storage.save("w", f"{number} {each}", each)
        if number < 3:
            in_child(lambda: generation(number + 1))
        for each in range(10):
            storage.save("w", f"{number} {each}", -each)

    generation(1)
    tasks = storage.catalog.tasks().fetchall()
    assert len(tasks) == 31
    assert len({row[5] for row in tasks}) == 31
    assert all(storage.read_task("w", f"{number} 9") == -9 for number in (1, 2, 3))


def test_a_pickled_storage_is_independent(storage: FileStorage) -> None:
    """A copy has serializers of its own: what is registered with one is not registered with the other."""
    storage.register_persistent_serializers(NoteSerializer)
    copy = pickle.loads(pickle.dumps(storage))
    copy.register_persistent_serializers(GridSerializer)
    copy.save("w", "t", [Grid([[1]]), Note("x")])
    with pytest.raises(LookupError, match="Grid as JSON"):
        storage.read_task("w", "t")
