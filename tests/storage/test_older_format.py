"""Storages that IBM Function Fuse wrote: read, listed, overwritten, removed, and taken into the catalog.

The files below ``fixtures/older-format`` are made by this module, from the description of the format alone:
``python tests/storage/test_older_format.py`` writes them anew.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import shutil
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.errors import InvalidPickle, SerializerNotRegistered, SideFileMissing, TaskNotFound
from functionfuse.storage.filestorage import FileStorage
from functionfuse.testing import Note, NoteSerializer, read_blob

FIXTURES = Path(__file__).parents[1] / "fixtures" / "older-format"
PROTOCOL = 4  # what pickle took by default when it was in use
HDF_FILE = "00000000-0000-4000-8000-00000000000a"
NOTE_FILE = "00000000-0000-4000-8000-00000000000b"
STUDY = {
    "load": {"rows": [[5.1, 3.5], [4.9, 3.0]], "target": ["a", "b"]},
    "fit_1": 0.93,
    "fit_2": 0.95,
    "report": "the second is better",
}


class Sided:
    """An object in whose place a persistent id is pickled."""

    def __init__(self, name: str, pid: Any) -> None:
        self.pid = (name, pid)


class Pickler(pickle.Pickler):
    """Pickles ``(name, pid)`` in place of what a serializer took over."""

    def persistent_id(self, obj: Any) -> Any:
        """Return what stands for `obj`."""
        return obj.pid if type(obj) is Sided else None


def older(obj: Any, protocol: int = PROTOCOL) -> bytes:
    """Return a file of the older format: a pickle, then the 20 raw bytes of its SHA-1."""
    file = io.BytesIO()
    Pickler(file, protocol).dump(obj)
    return file.getvalue() + hashlib.sha1(file.getvalue()).digest()


def write(folder: Path, tasks: dict[str, Any], side: dict[str, bytes] | None = None) -> None:
    """Write a workflow's folder of the older format."""
    folder.mkdir(parents=True)
    for name, obj in tasks.items():
        (folder / name).write_bytes(older(obj))
    if side is not None:
        (folder / "bigdata").mkdir()
        for name, data in side.items():
            (folder / "bigdata" / name).write_bytes(data)


def write_fixtures() -> None:
    """Write the files that are kept in the repository."""
    shutil.rmtree(FIXTURES, ignore_errors=True)
    write(FIXTURES / "study", STUDY)
    tasks = {
        "array": {"x": Sided("HDFSerializer", HDF_FILE)},
        "note": [Sided("NoteSerializer", NOTE_FILE), "text"],
        "plain": (1, 2),
    }
    write(FIXTURES / "with side files", tasks, {HDF_FILE: b"\x89HDF\r\n\x1a\n" + bytes(24), NOTE_FILE: b"a note"})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a copy of the fixtures."""
    return Path(shutil.copytree(FIXTURES, tmp_path / "storage"))


@pytest.fixture
def storage(root: Path) -> FileStorage:
    """Return a storage over them."""
    return FileStorage(root)


def files(root: Path) -> set[str]:
    """Return every file of the workflows."""
    return {str(path.relative_to(root)) for path in root.glob("[!.]*/**/*") if path.is_file()}


def test_the_fixtures_are_what_the_description_says() -> None:
    """The committed files are pickles with their SHA-1, as this module makes them: no tool has changed a byte."""
    found = {}
    for path in sorted((FIXTURES / "study").iterdir()):
        data = path.read_bytes()
        assert hashlib.sha1(data[:-20]).digest() == data[-20:]
        found[path.name] = pickle.loads(data)
    assert found == STUDY
    assert (FIXTURES / "with side files" / "bigdata" / NOTE_FILE).read_bytes() == b"a note"
    assert read_is_refused((FIXTURES / "study" / "load").read_bytes())


def read_is_refused(data: bytes) -> bool:
    """Tell whether bytes are no blob of this library."""
    with pytest.raises(ValueError, match="wrong"):
        read_blob(data)
    return True


def test_it_is_read(storage: FileStorage) -> None:
    """Every result comes back, and a miss is still a miss."""
    assert {name: storage.read_task("study", name) for name in STUDY} == STUDY
    assert storage.read_task("with side files", "plain") == (1, 2)
    assert storage.file_exists("study", "fit_1")
    assert storage.footer("study", "fit_1") is None
    with pytest.raises(TaskNotFound):
        storage.read_task("study", "fit_3")


@pytest.mark.slow
@pytest.mark.parametrize("protocol", range(2, 6))
def test_every_protocol_of_pickle(storage: FileStorage, root: Path, protocol: int) -> None:
    """Whatever protocol of pickle wrote a file, it is read and listed."""
    (root / "study" / "p").write_bytes(older([1, "text", None], protocol))
    assert storage.read_task("study", "p") == [1, "text", None]
    assert "p" in storage.list_tasks("study")


def test_it_is_listed(storage: FileStorage) -> None:
    """`list_tasks` has the tasks, by glob and by the date of the file, and no side folder among them."""
    assert storage.list_tasks("study") == sorted(STUDY)
    assert storage.list_tasks("study", "fit_?") == ["fit_1", "fit_2"]
    assert storage.list_tasks("with side files") == ["array", "note", "plain"]
    assert storage.list_tasks("study", until="2001-01-01") == []
    assert storage.stored("with side files") == {"array", "note", "plain"}


def test_it_is_catalogued(storage: FileStorage, root: Path) -> None:
    """The catalog has each file with its size, its date, the SHA-1 that it holds, and format 0."""
    rows = storage.catalog.sql("SELECT task, size, saved_at, checksum, format, serializers FROM tasks").fetchall()
    expected = {}
    for path in root.glob("*/*"):
        if path.is_file() and path.parent.name != ".catalog":
            status = path.stat()
            saved_at = datetime.fromtimestamp(status.st_mtime, timezone.utc)
            expected[path.name] = (status.st_size, saved_at, f"sha1:{path.read_bytes()[-20:].hex()}", 0, ["pickle"])
    assert len(rows) == 7
    for task, size, saved_at, *rest in rows:
        assert abs((saved_at - expected[task][1]).total_seconds()) < 1e-5
        assert (size, *rest) == (expected[task][0], *expected[task][2:])


def test_its_catalog_is_the_same_when_it_is_built_anew(storage: FileStorage, root: Path) -> None:
    """A deleted catalog comes back with the same ids, so that nothing looks saved again."""
    before = storage.catalog.tasks().fetchall()
    shutil.rmtree(root / ".catalog")
    assert FileStorage(root).catalog.tasks().fetchall() == before
    assert len(storage.catalog.sql("SELECT * FROM events").fetchall()) == len(before)


def test_asking_writes_nothing_into_the_workflows(storage: FileStorage, root: Path) -> None:
    """Listing and reading leave the older files as they are."""
    before = {path: path.stat().st_mtime_ns for path in root.glob("[!.]*/**/*")}
    storage.list_tasks("study")
    storage.read_task("study", "load")
    assert {path: path.stat().st_mtime_ns for path in root.glob("[!.]*/**/*")} == before


# Arriving and leaving


def test_files_that_arrive_later(storage: FileStorage, root: Path) -> None:
    """Older files that arrive after questions were asked, in a new or a known workflow, are in the next answer."""
    assert storage.list_tasks("later") == []
    write(root / "later", {"a": 1, "b": 2})
    assert storage.list_tasks("later") == ["a", "b"]
    (root / "later" / "c").write_bytes(older(3))
    (root / "study" / "fit_3").write_bytes(older(0.97))
    assert storage.list_tasks("later") == ["a", "b", "c"]
    assert storage.list_tasks("study", "fit*") == ["fit_1", "fit_2", "fit_3"]
    assert len(storage.catalog.tasks().fetchall()) == 7 + 4


def test_files_that_leave(storage: FileStorage, root: Path) -> None:
    """Older files, or whole workflows, that are deleted by hand are gone from the next answer."""
    assert len(storage.catalog.tasks().fetchall()) == 7
    (root / "study" / "fit_1").unlink()
    assert storage.list_tasks("study", "fit*") == ["fit_2"]
    shutil.rmtree(root / "with side files")
    assert {row[0] for row in storage.catalog.tasks().fetchall()} == {"study"}


def test_a_file_that_is_written_again_by_the_older_library(storage: FileStorage, root: Path) -> None:
    """A file that was replaced by another of the older format counts with its new content."""
    (old,) = storage.catalog.sql("SELECT checksum FROM tasks WHERE task = 'fit_1'").fetchall()
    time.sleep(0.01)
    new = root / "study" / "new"
    new.write_bytes(older("better"))
    new.rename(root / "study" / "fit_1")
    assert storage.read_task("study", "fit_1") == "better"
    storage.save("study", "fit_2", 0.5)
    assert len(storage.list_tasks("study")) == 4
    assert old == (f"sha1:{hashlib.sha1(pickle.dumps(0.93, PROTOCOL)).hexdigest()}",)


# Side files


def test_side_files_are_read(storage: FileStorage, root: Path) -> None:
    """With its serializer a result with side files comes back; without, the serializer is asked for by name."""
    with pytest.raises(SerializerNotRegistered, match=r"'note' of workflow 'with side files'.*'NoteSerializer'"):
        storage.read_task("with side files", "note")
    storage.register_persistent_serializers(NoteSerializer)
    assert storage.read_task("with side files", "note") == [Note("a note"), "text"]
    with pytest.raises(SerializerNotRegistered, match="'HDFSerializer'"):
        storage.read_task("with side files", "array")
    (root / "with side files" / "bigdata" / NOTE_FILE).unlink()
    with pytest.raises(SideFileMissing, match="'note'"):
        storage.read_task("with side files", "note")


@pytest.mark.parametrize("registered", [True, False])
@pytest.mark.parametrize("way", ["remove", "pattern", "overwrite"])
def test_side_files_go_too(storage: FileStorage, root: Path, registered: bool, way: str) -> None:
    """Removing and overwriting take the side files of just that result along, its serializer registered or not."""
    if registered:
        storage.register_persistent_serializers(NoteSerializer)
    actions: dict[str, Callable[[], None]] = {
        "remove": lambda: storage.remove_task("with side files", "note"),
        "pattern": lambda: storage.remove_task("with side files", pattern="no*"),
        "overwrite": lambda: storage.save("with side files", "note", "new"),
    }
    actions[way]()
    left = {"array", "plain", f"bigdata/{HDF_FILE}"} | ({"note"} if way == "overwrite" else set())
    assert {name.partition("/")[2] for name in files(root) if name.startswith("with")} == left


def test_a_workflow_goes_with_all_it_has(storage: FileStorage, root: Path) -> None:
    """`remove_workflow` leaves no folder, though no serializer is registered."""
    storage.remove_workflow("with side files")
    assert sorted(path.name for path in root.iterdir()) == [".catalog", "study"]
    assert storage.list_tasks("with side files") == []
    assert storage.list_tasks("study") == sorted(STUDY)


def test_a_pid_that_leads_out_of_the_folder_deletes_nothing(
    storage: FileStorage, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A pid is not trusted: the file that it names outside the side folder stays."""
    outside = root.parent / "outside"
    outside.write_text("precious")
    pids = [str(outside), "../../../outside", "../plain", "", ".", "..", {"not": "a name"}]
    (root / "with side files" / "evil").write_bytes(older([Sided("Unknown", pid) for pid in pids]))
    storage.remove_task("with side files", "evil")
    assert outside.read_text() == "precious"
    assert storage.list_tasks("with side files") == ["array", "note", "plain"]
    assert (root / "with side files" / "bigdata" / HDF_FILE).exists()
    assert "leads out of" in caplog.text
    caplog.clear()  # the tracebacks in the records keep the storage, and so its segment, open


class Trap:
    """Makes a folder when it is unpickled."""

    path = ""

    def __reduce__(self) -> Any:
        """Return the call."""
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("way", ["remove", "overwrite", "remove the workflow"])
def test_nothing_is_executed_to_remove_it(storage: FileStorage, root: Path, way: str) -> None:
    """Of a result that goes, nothing is executed and no class imported; its side files are found nevertheless."""
    trap = Trap()
    trap.path = str(root.parent / "sprung")
    data = older([trap, Sided("Unknown", "0001"), {"deep": (trap, Sided("Unknown", "0002"))}])
    data = data[:-20].replace(b"posix", b"xisop")  # a module that there is not
    folder = root / "trapped"
    write(folder, {}, {"0001": b"", "0002": b"", "0003": b"another result's"})
    (folder / "t").write_bytes(data + hashlib.sha1(data).digest())
    actions: dict[str, Callable[[], None]] = {
        "remove": lambda: storage.remove_task("trapped", "t"),
        "overwrite": lambda: storage.save("trapped", "t", 1),
        "remove the workflow": lambda: storage.remove_workflow("trapped"),
    }
    actions[way]()
    assert [path.name for path in (folder / "bigdata").iterdir()] == ["0003"]
    assert not os.path.exists(trap.path)


# Overwriting


def test_it_is_overwritten(storage: FileStorage, root: Path) -> None:
    """A result that is saved over an older one is a blob of this library, alone under its name, and newer by its id."""
    columns = "blob_id::VARCHAR, format"
    query = f"SELECT {columns} FROM tasks WHERE task = 'fit_1'"
    ((older_id, older_format),) = storage.catalog.sql(query).fetchall()
    storage.save("study", "fit_1", 0.5)
    record = read_blob((root / "study" / "fit_1").read_bytes()).record
    assert storage.read_task("study", "fit_1") == 0.5
    assert storage.list_tasks("study") == sorted(STUDY)
    ((new_id, new_format),) = storage.catalog.sql(query).fetchall()
    assert (older_format, new_format, new_id) == (0, 3, record["blob_id"])
    assert new_id > older_id
    storage.remove_task("study", "fit_1")
    assert storage.list_tasks("study", "fit*") == ["fit_2"]


def test_a_workflow_goes_on_with_it(storage: FileStorage) -> None:
    """A workflow whose result is stored in the older format restores it instead of computing it."""
    calls: list[int] = []

    @workflow
    def load() -> dict[str, Any]:
        calls.append(1)
        return {}

    @workflow
    def count(data: dict[str, Any]) -> int:
        return len(data["rows"])

    loaded = load().set_name("load")
    run = LocalWorkflow(count(loaded).set_name("count"), workflow_name="study", on_stale="ignore")
    run.set_storage(storage)
    assert run.run() == 2
    assert calls == []
    assert storage.read_task("study", "count") == 2


# Names


ODD = [
    *("100% sure", "50%~", "%41", "%4", "line\nbreak", "tab\t", "\u00fcn\u00efcode \U0001f9ea", "x" * 255, "%" * 200),
    "caf\udce9",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", ODD, ids=lambda name: ascii(name)[1:-1][:12])
def test_odd_names(tmp_path: Path, name: str) -> None:
    """A workflow and a task of a name that is encoded today are found under the name as it was kept, and all works."""
    write(tmp_path / name, {name: "odd", "plain": "plain"})
    storage = FileStorage(tmp_path)
    assert storage.list_tasks(name) == sorted([name, "plain"])
    assert storage.stored(name) == {name, "plain"}
    assert storage.file_exists(name, name)
    assert storage.read_task(name, name) == "odd"
    assert storage.read_task(name, "plain") == "plain"
    storage.save(name, name, "overwritten")
    assert storage.read_task(name, name) == "overwritten"
    assert storage.list_tasks(name) == sorted([name, "plain"])
    storage.save(name, "fresh", 1)
    assert storage.list_tasks(name, "fresh") == ["fresh"]
    storage.remove_task(name, name)
    assert not storage.file_exists(name, name)
    assert storage.list_tasks(name) == ["fresh", "plain"]
    storage.remove_workflow(name)
    assert storage.list_tasks(name) == []
    assert [path.name for path in tmp_path.iterdir()] == [".catalog"]


def test_a_file_name_that_is_no_utf_8(storage: FileStorage, root: Path) -> None:
    """A task whose file name is no UTF-8 is listed, read, overwritten and removed like any other."""
    (root / "study" / "caf\udce9").write_bytes(older("odd"))
    assert storage.list_tasks("study", "caf*") == ["caf\udce9"]
    assert storage.read_task("study", "caf\udce9") == "odd"
    storage.save("study", "caf\udce9", "new")
    assert storage.list_tasks("study", "caf*") == ["caf\udce9"]
    storage.remove_task("study", "caf\udce9")
    assert storage.list_tasks("study") == sorted(STUDY)


def test_a_file_name_that_means_another_name(storage: FileStorage, root: Path) -> None:
    """A file name that is the encoding of another name cannot be told from it, and goes by that name everywhere."""
    (root / "study" / "a%2Fb").write_bytes(older("odd"))
    assert storage.list_tasks("study", "a*") == ["a/b"]
    assert storage.stored("study") == {*STUDY, "a/b"}
    assert storage.read_task("study", "a/b") == "odd"
    storage.remove_task("study", "a/b")
    assert files(root / "study") | set(os.listdir(root / "study")) == set(STUDY)


# Damage


def test_damage(storage: FileStorage, root: Path) -> None:
    """A flipped bit anywhere, a cut, a lost or foreign SHA-1 is `InvalidPickle`, and the task can be removed."""
    path = root / "study" / "report"
    good = path.read_bytes()
    bads = [good[:at] + bytes([good[at] ^ 1 << bit]) + good[at + 1 :] for at in range(len(good)) for bit in range(8)]
    bads += [good[:length] for length in range(len(good))]
    bads += [good[:-20], good[:-20] + bytes(20), good + b"\0", good[:-20] + hashlib.sha1(good).digest()]
    for bad in bads:
        path.write_bytes(bad)
        with pytest.raises(InvalidPickle, match="'report' of workflow 'study'"):
            storage.read_task("study", "report")
    storage.remove_task("study", "report")
    assert storage.list_tasks("study") == ["fit_1", "fit_2", "load"]
    for bad in (b"", good[:30]):
        path.write_bytes(bad)
        storage.save("study", "report", "mended")
        assert storage.read_task("study", "report") == "mended"


def test_what_is_no_result_is_not_listed(storage: FileStorage, root: Path) -> None:
    """Files that lie in a workflow's folder and are no results, and folders, stay out of the catalog and of the way."""
    (root / "study" / "README.txt").write_text("notes of the researcher")
    (root / "study" / "empty").touch()
    (root / "study" / ".torn-by-a-crash").write_bytes(b"\x80\x04")
    (root / "study" / "subfolder").mkdir()
    (root / "loose").write_bytes(older(1))
    assert storage.list_tasks("study") == sorted(STUDY)
    assert {row[0] for row in storage.catalog.tasks().fetchall()} == {"study", "with side files"}


if __name__ == "__main__":
    write_fixtures()
