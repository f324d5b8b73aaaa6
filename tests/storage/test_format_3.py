"""Blob format 3: digests of side files in two forms, room for what is to come, and older versions that keep out."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import xxhash

from catalog.format import ids, names
from catalog.format import side_files as declared
from catalog.format.events import Kind
from catalog.store.local_writer import LocalWriter
from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.storage import storage_factory
from functionfuse.storage.base import Storage
from functionfuse.storage.filestorage import FileStorage
from functionfuse.testing import Buffer, Note, NoteSerializer
from oracle import listed, lying
from tests.fixtures.make_format_1 import FOLDER as FORMAT_1
from tests.fixtures.make_format_3 import FOLDER, PACKED, RESULTS
from tests.storage.test_second_reader import ask

pytestmark = pytest.mark.usefixtures("zarr_loop")

OLD = Path(__file__).parents[1] / "fixtures" / "functionfuse-0.1.0-py3-none-any.whl"


def notes(count: int) -> list[Note]:
    """Return objects, each of which becomes a side file."""
    return [Note(f"note {number}") for number in range(count)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return the folder of the storage."""
    return tmp_path / "storage"


@pytest.fixture
def storage(root: Path) -> FileStorage:
    """Return an empty storage."""
    storage = FileStorage(root)
    storage.register_persistent_serializers(NoteSerializer)
    return storage


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> int:
    """Have the list of side files apart from three on, so that a test need not write a thousand."""
    monkeypatch.setattr(declared, "MOST_INLINE", 3)
    return 3


@pytest.fixture(params=["disk", "moto"])
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    """Return an empty storage: on a disk and in a bucket of S3."""
    config: dict[str, Any] = {"kind": "file", "options": {"path": tmp_path / "storage"}}
    if request.param == "moto":
        pytest.importorskip("s3fs")
        endpoint = request.getfixturevalue("motoserver").endpoint
        config = endpoint.config(endpoint.prefix())
    storage = storage_factory(config)
    storage.register_persistent_serializers(NoteSerializer)
    return storage


class Bytes:
    """The objects or files of a storage, changed by hand."""

    def __init__(self, storage: Storage) -> None:
        if storage._store.options is None and "://" not in storage._store.root:
            self._root: Any = Path(storage._store.root)
            self._fs: Any = None
        else:
            bucket = storage._store
            self._fs, self._root = bucket.filesystem, bucket.prefix

    def side_files(self) -> list[str]:
        """Return the keys of all side files."""
        if self._fs is None:
            found = [path.relative_to(self._root).as_posix() for path in self._root.rglob("*") if path.is_file()]
        else:
            self._fs.invalidate_cache()
            cut = len(self._root.strip("/")) + 1
            found = [path.strip("/")[cut:] for path in self._fs.find(self._root)]
        return sorted(key for key in found if "/bigdata/" in key)

    def __getitem__(self, key: str) -> bytes:
        return (self._root / key).read_bytes() if self._fs is None else bytes(self._fs.cat_file(f"{self._root}/{key}"))

    def __setitem__(self, key: str, data: bytes) -> None:
        if self._fs is None:
            (self._root / key).write_bytes(data)
        else:
            self._fs.pipe_file(f"{self._root}/{key}", data)

    def __delitem__(self, key: str) -> None:
        (self._root / key).unlink() if self._fs is None else self._fs.rm_file(f"{self._root}/{key}")


def digest_of(data: bytes) -> str:
    """Return the digest of bytes, as the page on formats says."""
    return f"xxh3:{xxhash.xxh3_128_hexdigest(data)}"


def told(storage: Storage, task: str) -> tuple[dict[str, Any], list[dict[str, Any]], bytes]:
    """Return the record of a result, its side files, and their list, all taken by hand as the page says."""
    record = json.loads(storage.footer("w", task).text)
    if "side_list" not in record:
        sides = record["side_files"]
        lines = [json.dumps(each, separators=(",", ":")) + "\n" for each in sides]
        return record, sides, "".join(lines).encode()
    content = Bytes(storage)[f"w/bigdata/{record['blob_id']}/{record['side_list']['name']}"]
    return record, [json.loads(line) for line in content.splitlines()], content


def check_declared(storage: Storage, task: str, unhashed: int = 0) -> dict[str, Any]:
    """Check what a result declares against what lies there; return its record."""
    record, sides, content = told(storage, task)
    there = Bytes(storage)
    folder = f"w/bigdata/{record['blob_id']}/"
    lying = {key[len(folder) :]: there[key] for key in there.side_files() if key.startswith(folder)}
    if "side_list" in record:
        about = record["side_list"]
        assert about["name"] == f"{record['blob_id']}.ndjson"
        assert lying.pop(about["name"]) == content
        assert (about["files"], about["bytes"]) == (len(lying), sum(map(len, lying.values())))
        assert about["size"] == len(content)
    assert [names.from_text(side["name"]) for side in sides] == sorted(lying)
    assert [side["size"] for side in sides] == [len(lying[name]) for name in sorted(lying)]
    wanted = [digest_of(lying[name]) for name in sorted(lying)]
    assert sum(side["digest"] is None for side in sides) == unhashed
    assert all(side["digest"] in (None, digest) for side, digest in zip(sides, wanted, strict=True))
    assert record["side_digest"] == digest_of(content)
    return record


# What is written


def test_every_blob_has_format_3(storage: FileStorage, root: Path) -> None:
    """The trailer says 3 whatever is in the blob, and a small result's footer has no member that says nothing."""
    storage.save("w", "number", 1)
    storage.save("w", "buffer", Buffer(os.urandom(100_000)))
    storage.save("w", "packed", numpy.arange(100_000))
    storage.save("w", "notes", notes(2))
    for task in ("number", "buffer", "packed", "notes"):
        assert int.from_bytes((root / "w" / task).read_bytes()[-20:-18], "little") == 3
    assert {row[0] for row in storage.catalog.sql("SELECT format FROM tasks").fetchall()} == {3}
    usual = {"blob_id", "workflow", "task", "type", "summary", "value", "packages", "saved_at", "checksum"}
    assert json.loads(storage.footer("w", "number").text).keys() == usual | {
        "serializers",
        "host",
        "user",
        "pid",
        "python",
    }


def test_times_carry_their_zone(storage: FileStorage) -> None:
    """All times of a blob and of the journal are UTC and say so."""
    storage.save("w", "t", 1)
    storage.pin("w", "t")
    moment = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z").fullmatch
    assert moment(storage.footer("w", "t").record.saved_at)
    (segment,) = Path(storage._store.root, ".catalog", "journal").iterdir()
    lines = [json.loads(line) for line in segment.read_text().splitlines()]
    assert all(moment(line.get("time") or line["saved_at"]) for line in lines)


def test_fingerprints_name_their_scheme(storage: FileStorage) -> None:
    """What a run computed says how its fingerprints were made; what was saved by hand has none."""
    local = LocalWorkflow(workflow(len)([1, 2]).set_name("t"), workflow_name="run")
    local.set_storage(storage)
    local.run()
    storage.save("w", "t", 1)
    assert storage.footer("run", "t").record.scheme == "closure-1"
    assert b"scheme" not in storage.footer("w", "t").text


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3, 4, 9])
def test_side_files_are_declared(anywhere: Storage, few: int, count: int) -> None:
    """Names, sizes and digests are those of what lies there, in the footer up to a bound and beyond it beside it."""
    anywhere.save("w", "t", notes(count))
    remote = anywhere._store.options is not None or "://" in anywhere._store.root
    record = check_declared(anywhere, "t", unhashed=count if remote else 0)  # the suite's serializer uses the client
    assert ("side_list" in record) == (count > few)
    report = anywhere.verify()
    assert (report.ok, report.side_files, report.unhashed) == (
        True,
        count + (count > few),
        count if remote else 0,
    )
    assert f"{count} without a digest" in str(report) or not remote


@pytest.mark.slow
@pytest.mark.parametrize("count", [0, 3])
def test_serializers_of_this_package_know_all_digests(
    anywhere: Storage, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Tables, arrays and groups have a digest for each file, on a disk and in a bucket."""
    pandas, array = pytest.importorskip("pandas"), pytest.importorskip("dask.array")
    monkeypatch.setattr(declared, "MOST_INLINE", count)
    anywhere.register_default_serializers()
    frame = pandas.DataFrame({"a": [1.5, 2.5], "b": ["x", "y"]})
    anywhere.save("w", "frame", frame)
    check_declared(anywhere, "frame")
    anywhere.save("w", "dask", array.arange(40, chunks=10))
    check_declared(anywhere, "dask")
    frames = pytest.importorskip("dask.dataframe")
    anywhere.save("w", "partitions", frames.from_pandas(frame, npartitions=2))
    check_declared(anywhere, "partitions")
    assert anywhere.verify().unhashed == 0
    assert anywhere.read_task("w", "dask").sum().compute() == 780
    pandas.testing.assert_frame_equal(anywhere.read_task("w", "frame"), frame)


def test_zarr_and_xarray_know_all_digests(anywhere: Storage) -> None:
    """Every chunk and every file of metadata of a Zarr group has its digest."""
    pytest.importorskip("zarr")
    array, xarray = pytest.importorskip("dask.array"), pytest.importorskip("xarray")
    from functionfuse.serializers.daskarray import DaskZarrSerializer

    anywhere.register_default_serializers()
    anywhere.register_persistent_serializers(DaskZarrSerializer)
    anywhere.save("w", "zarr", array.arange(40, chunks=10))
    check_declared(anywhere, "zarr")
    anywhere.save("w", "dataset", xarray.Dataset({"a": ("x", [1.0, 2.0])}, {"x": [1, 2]}))
    check_declared(anywhere, "dataset")
    assert anywhere.verify().unhashed == 0


class Rewriting(NoteSerializer):
    """Writes its file twice, the second time by appending: what was hashed first is not what is there."""

    @classmethod
    def pickle(cls, obj: Note, protocols: Any) -> Any:
        """Write through the file protocol, and past it."""
        name, pid = NoteSerializer.pickle(obj, protocols)
        files = protocols["file_protocol"]
        files.note_digest(str(pid), len(obj.text), digest_of(b"something else"))
        with files.open(str(pid), "ab") as file:
            file.write(b"")
        return name, pid


def test_what_is_opened_again_is_read_again(storage: FileStorage) -> None:
    """A digest that was noted does not outlive a second opening for writing."""
    storage.register_persistent_serializers(Rewriting)
    storage.save("w", "t", Note("one"))
    check_declared(storage, "t")


@pytest.mark.slow
def test_more_than_a_thousand(storage: FileStorage, root: Path) -> None:
    """With 1,001 side files the footer and its line stay small, and all that is asked of the result is as with few."""
    for count in (1_000, 1_001):
        storage.save("w", f"{count}", notes(count))
        check_declared(storage, f"{count}")
    sizes = {task: (root / "w" / task).stat().st_size for task in ("1000", "1001")}
    assert sizes["1000"] > sizes["1001"] + 50_000
    (segment,) = (root / ".catalog" / "journal").iterdir()
    assert len(segment.read_bytes().splitlines()[1]) < 2_000
    whole = sum(path.stat().st_size for path in (root / "w").rglob("*") if path.is_file())
    assert storage.catalog.sql("SELECT sum(size) FROM tasks").fetchall() == [(whole,)]
    assert storage.read_task("w", "1001") == notes(1_001)
    shutil.rmtree(root / ".catalog")
    again = FileStorage(root)
    again.register_persistent_serializers(NoteSerializer)
    assert again.catalog.sql("SELECT sum(size) FROM tasks").fetchall() == [(whole,)]
    report = again.verify()
    assert (report.ok, report.side_files) == (True, 2_002)
    again.remove_task("w", "1001")
    again.save("w", "1000", 1)
    assert Bytes(again).side_files() == []
    ((removed,),) = again.catalog.sql("SELECT size FROM events WHERE event = 'remove'").fetchall()
    assert 150_000 < removed < whole


def test_a_failed_save_leaves_no_list(storage: FileStorage, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the blob cannot be published, its side files and their list go."""
    storage.save("w", "t", notes(5))
    before = Bytes(storage).side_files()

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(LocalWriter, "publish", fail)
    with pytest.raises(OSError, match="No space"):
        storage.save("w", "t", notes(6))
    assert Bytes(storage).side_files() == before


# What verification finds


def damage(data: bytes) -> bytes:
    """Return bytes of which one is another."""
    return bytes([data[0] ^ 1]) + data[1:]


@pytest.mark.slow
@pytest.mark.parametrize("count", [3, 5])
def test_a_damaged_side_file_is_found(storage: FileStorage, few: int, count: int) -> None:
    """One changed byte is told with the task, and a repair moves the result and all that belongs to it."""
    storage.save("w", "t", notes(count))
    storage.save("w", "other", notes(1))
    there = Bytes(storage)
    owner = storage.footer("w", "t").blob_id
    key = next(key for key in there.side_files() if owner in key and not key.endswith(".ndjson"))
    there[key] = damage(there[key])
    report = storage.verify()
    assert [finding.path for finding in report.damaged] == [key]
    assert "'t'" in str(report)
    assert "checksum" in str(report)
    mended = storage.verify(repair=True)
    assert mended.damaged[0].done.startswith("moved to .catalog/quarantine/")
    assert storage.list_tasks("w") == ["other"]
    assert not any(owner in key for key in there.side_files() if ".catalog" not in key)
    assert storage.verify().ok
    (blob,) = Path(storage._store.root).glob(".catalog/quarantine/*/w/t")
    assert len(list(blob.parent.glob(f"bigdata/{owner}/*"))) == count + (count > few)


def test_files_that_changed_places_are_found(storage: FileStorage, few: int) -> None:
    """Two side files of equal size that stand in each other's place are both damaged."""
    storage.save("w", "t", notes(5))
    there = Bytes(storage)
    first, second = [key for key in there.side_files() if not key.endswith(".ndjson")][:2]
    assert len(there[first]) == len(there[second])
    there[first], there[second] = there[second], there[first]
    assert [finding.path for finding in storage.verify().damaged] == sorted([first, second])


@pytest.mark.slow
@pytest.mark.parametrize("change", ["damaged", "lost", "cut"])
def test_the_list_is_protected(anywhere: Storage, few: int, change: str) -> None:
    """A list that is damaged, gone or cut is found as such, and nothing else is."""
    anywhere.save("w", "t", notes(5))
    there = Bytes(anywhere)
    (key,) = [key for key in there.side_files() if key.endswith(".ndjson")]
    if change == "lost":
        del there[key]
    else:
        there[key] = there[key][: len(there[key]) // 2] if change == "cut" else damage(there[key])
    report = anywhere.verify()
    found = report.lost if change == "lost" else report.damaged
    assert [finding.path for finding in found] == [key]
    assert len([*report.lost, *report.damaged, *report.orphans]) == 1
    assert anywhere.list_tasks("w") == ["t"]
    anywhere.remove_task("w", "t")
    assert there.side_files() == []


def test_an_undeclared_file_beside_a_list_is_an_orphan(storage: FileStorage, few: int) -> None:
    """What is too many is found with a list, too."""
    storage.save("w", "t", notes(5))
    there = Bytes(storage)
    stray = f"{there.side_files()[0].rpartition('/')[0]}/stray"
    there[stray] = b"x"
    assert [finding.path for finding in storage.verify().orphans] == [stray]


def test_a_digest_of_another_algorithm_is_unchecked(
    storage: FileStorage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What this version cannot compute it does not call damaged."""
    with monkeypatch.context() as later:
        later.setattr("functionfuse.storage._digests.digest_of_file", lambda path: (5, "sha512:00"))
        storage.save("w", "t", Note("five!"))
    report = storage.verify()
    assert [finding.reason.partition(",")[0] for finding in report.unchecked] == ["its digest is sha512"]
    assert not report.ok


# Fixtures


def test_the_fixture(root: Path, tmp_path: Path) -> None:
    """The storage of format 3 that is kept as bytes is read, listed and verified, by the page's reader, too."""
    shutil.copytree(FOLDER, root)
    storage = FileStorage(root)
    storage.register_persistent_serializers(NoteSerializer)
    assert {task: storage.read_task("values", task) for task in RESULTS} == RESULTS
    numpy.testing.assert_array_equal(storage.read_task("values", "packed"), PACKED)
    assert storage.read_task("run", "total") == 3
    report = storage.verify()
    assert (report.ok, report.side_files, report.unhashed) == (True, 8, 0)
    answers = ask(root, tmp_path)
    sides = {task: sides for _, task, _, _, sides in answers["results"]}
    assert sum(map(len, sides.values())) == 8
    assert {str(path.relative_to(root)): path.stat().st_size for path in root.rglob("values/bigdata/*/*")} == {
        name: size for each in sides.values() for name, size in each.items()
    }
    shutil.rmtree(root / ".catalog")
    assert storage.list_tasks("values") == sorted([*RESULTS, "packed"])
    assert storage.verify().ok


# Names and events


@pytest.mark.parametrize("name", [".versions", "bigdata", ".catalog", "%2Eversions"])
def test_reserved_names_collide_with_nothing(storage: FileStorage, root: Path, name: str) -> None:
    """A workflow or a task of a reserved name lies elsewhere than what the name is reserved for."""
    storage.save(name, name, notes(1))
    storage.save("w", name, 1)
    storage.save(name, "t", 2)
    assert storage.list_tasks(name) == sorted([name, "t"])
    assert storage.read_task("w", name) == 1
    assert storage.read_task(name, name) == notes(1)
    assert not (root / "w" / ".versions").exists()
    assert not (root / ".versions").exists()
    assert not (root / "w" / "bigdata").exists()
    assert storage.verify().ok


def test_what_lies_in_a_reserved_place_is_left_alone(storage: FileStorage, root: Path) -> None:
    """What a later version keeps in `.versions` is neither listed nor repaired nor removed with a task."""
    storage.save("w", "t", notes(2))
    version = root / "w" / ".versions" / "0123456789abcdef~lineage~id"
    version.parent.mkdir()
    shutil.copy(root / "w" / "t", version)
    storage.catalog.rebuild()
    assert storage.list_tasks("w") == ["t"]
    assert listed(storage) == lying(root)
    report = storage.verify(repair=True)
    assert (report.ok, report.results, report.strangers) == (True, 1, ())
    storage.remove_task("w", "t")
    assert version.exists()


def test_the_kinds_are_the_pages() -> None:
    """The enumeration, the page on formats and the columns' documentation have the same kinds."""
    page = (Path(__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
    table = page.partition("| event | members beside `event` |")[2].partition("\n\n")[0]
    named = {name for line in table.splitlines()[2:] for name in re.findall(r"`([^`]+)`", line.split("|")[1])}
    assert named == {kind.value for kind in Kind}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["restore", "expire", "code", "something-else"])
def test_kinds_that_are_not_acted_on(storage: FileStorage, root: Path, kind: str) -> None:
    """An event that only a later version acts on is kept as an event, changes no answer, and survives compaction."""
    storage.save("w", "t", 1)
    storage.save("w", "gone", 1)
    storage.remove_task("w", "gone")
    record = json.loads(storage.footer("w", "t").text)
    line = {**record, "event": kind, "event_id": ids.new_id(), "time": record["saved_at"], "task": "gone"}
    if kind in ("expire", "code"):
        line = {"event": kind, "event_id": line["event_id"], "time": record["saved_at"], "details": {"ids": ["x"]}}
    segment = root / ".catalog" / "journal" / f"{ids.new_id()}.ndjson"
    segment.write_text(json.dumps(line) + "\n", encoding="ascii")
    os.utime(segment, (1, 1))
    for _ in range(2):
        assert storage.list_tasks("w") == ["t"]
        rows = storage.catalog.sql("SELECT event_id::VARCHAR FROM events WHERE event = ?", [kind]).fetchall()
        assert rows == [(line["event_id"],)]
        assert storage.catalog.sql("SELECT count(*) FROM tasks").fetchall() == [(1,)]
        assert storage.verify().ok
        storage.catalog.compact()
        storage.catalog.rebuild()


def test_a_result_that_a_later_version_restored(storage: FileStorage, root: Path, tmp_path: Path) -> None:
    """What this version does not act on it does not call damaged: the blob is read, and verification takes it in."""
    storage.save("w", "t", 1)
    kept = tmp_path / "version"
    shutil.copy(root / "w" / "t", kept)
    first = storage.footer("w", "t")
    storage.save("w", "t", 2)
    assert storage.list_tasks("w") == ["t"]
    second = storage.footer("w", "t").blob_id
    line = {
        **json.loads(first.text),
        "event": "restore",
        "event_id": ids.new_id(),
        "replaces": second,
        "format": 3,
        "size": 1,
    }
    line["time"] = line["saved_at"]
    segment = root / ".catalog" / "journal" / f"{ids.new_id()}.ndjson"
    segment.write_text(json.dumps(line) + "\n", encoding="ascii")
    shutil.copy(kept, root / "w" / ".moved")
    os.replace(root / "w" / ".moved", root / "w" / "t")
    assert storage.read_task("w", "t") == 1
    report = storage.verify(repair=True)
    assert [finding.path for finding in report.unlisted] == ["w/t"]
    assert not report.damaged
    assert storage.catalog.sql("SELECT blob_id::VARCHAR, value FROM tasks").fetchall() == [(first.blob_id, "1")]
    assert storage.verify().ok


# Older versions


def by_old(root: Path, program: str) -> str:
    """Run a program with the version before this one; return what it printed."""
    head = f"import sys; sys.path.insert(0, {str(OLD)!r})\nfrom pathlib import Path\n"
    head += f"import functionfuse; assert {OLD.name!r} in functionfuse.__file__\n"
    head += "from functionfuse.storage.filestorage import FileStorage\nfrom functionfuse.testing import *\n"
    head += f"storage = FileStorage({str(root)!r})\nstorage.register_persistent_serializers(NoteSerializer)\n"
    run = subprocess.run([sys.executable, "-c", head + program], capture_output=True, text=True, cwd=root.parent)
    assert run.returncode == 0, run.stderr
    return run.stdout


REFUSALS = """
def attempt(work):
    try:
        return f"did {work()}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


for work in (
    lambda: storage.save("w", "mine", 1),
    lambda: storage.list_tasks("w"),
    lambda: storage.catalog.sql("FROM tasks").fetchall(),
    lambda: storage.verify(repair=True),
    lambda: storage.catalog.compact(),
    lambda: storage.read_task("w", "new"),
):
    print(attempt(work))
"""


def state(root: Path) -> dict[str, str]:
    """Return a hash of every file by its path, but those of the index."""
    kept = [path for path in root.rglob("*") if path.is_file() and not path.name.startswith("catalog.duckdb")]
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}


@pytest.mark.slow
def test_the_version_before_refuses_what_this_one_saved_to(storage: FileStorage, root: Path) -> None:
    """After one save by this version the one before neither saves nor asks nor repairs, and says what to do."""
    by_old(root, 'storage.save("w", "old", [Note("kept"), 1]); storage.list_tasks("w")')
    before = json.loads((root / ".catalog" / "storage.json").read_text())
    assert before["format"] == 1
    storage.save("w", "new", notes(2))
    assert json.loads((root / ".catalog" / "storage.json").read_text()) == {**before, "format": 2}
    there = state(root)
    said = by_old(root, REFUSALS).splitlines()
    assert len(said) == 6
    assert all(re.match(r"(UnsupportedFormat|NewerFormat): .*(format [23]).*install a newer", line) for line in said)
    assert state(root) == there
    assert storage.read_task("w", "old") == [Note("kept"), 1]
    assert storage.list_tasks("w") == ["new", "old"]
    assert storage.verify().ok


@pytest.mark.slow
def test_looking_does_not_lock_out_the_version_before(storage: FileStorage, root: Path) -> None:
    """Reading, asking and verifying leave a storage of layout 1 as it was: the version before goes on with it."""
    by_old(root, 'storage.save("w", "old", [Note("kept"), 1]); storage.list_tasks("w")')
    there = state(root)
    assert storage.read_task("w", "old") == [Note("kept"), 1]
    assert storage.list_tasks("w") == ["old"]
    report = storage.verify()
    assert (report.ok, report.side_files, report.unhashed) == (True, 1, 1)
    assert storage.footer("w", "old") is not None
    assert state(root) == there
    assert by_old(root, 'storage.save("w", "more", 2); print(storage.list_tasks("w"))') == "['more', 'old']\n"


def test_a_storage_of_format_1_goes_on(root: Path) -> None:
    """A save into the fixture of format 1 gives it layout 2 and the same identity; its index is kept."""
    shutil.copytree(FORMAT_1, root)
    before = json.loads((root / ".catalog" / "storage.json").read_text())
    storage = FileStorage(root)
    storage.register_persistent_serializers(NoteSerializer)
    assert storage.list_tasks("values")
    assert json.loads((root / ".catalog" / "storage.json").read_text()) == before
    storage.save("values", "new", 1)
    assert json.loads((root / ".catalog" / "storage.json").read_text()) == {**before, "format": 2}
    assert "new" in storage.list_tasks("values")
    assert listed(storage) == lying(root)
    assert [path.name for path in (root / ".catalog").iterdir() if path.suffix == ".tmp"] == []


@pytest.mark.parametrize("place", ["memory", "moto"])
def test_a_bucket_of_layout_1(request: pytest.FixtureRequest, place: str) -> None:
    """In a bucket the first save does the same, and looking does not."""
    pytest.importorskip("s3fs")
    config: dict[str, Any] = {"kind": "fsspec", "options": {"url": f"memory://{uuid.uuid4().hex}/storage"}}
    if place == "moto":
        endpoint = request.getfixturevalue("motoserver").endpoint
        config = endpoint.config(endpoint.prefix())
    bucket = storage_factory(config)._store
    old = {"uuid": ids.new_id(), "format": 1}
    bucket.put(".catalog/storage.json", json.dumps(old).encode())
    storage = storage_factory(config)
    assert storage.list_tasks("w") == []
    assert json.loads(bucket.get(".catalog/storage.json")) == old
    storage.save("w", "t", 1)
    assert json.loads(bucket.get(".catalog/storage.json")) == {**old, "format": 2}
    assert storage.list_tasks("w") == ["t"]
