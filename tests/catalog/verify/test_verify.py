"""Verification: what is missing, unlisted, damaged, lost, orphaned or strange is found, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import duckdb
import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from catalog import Catalog
from catalog.errors import CatalogUnusable, InvalidQuestion
from catalog.index import reconcile as settle
from catalog.store.local import LocalStore
from catalog.verify.report import KINDS, Finding, Verification
from functionfuse.storage.filestorage import FileStorage
from functionfuse.testing import Buffer, Note, NoteSerializer
from workshop import blob_id, delete_catalog, index_of, root_of, run_python, save_event, task_names, write_segment

OLDER = Path(__file__).parents[2] / "fixtures" / "older-format"
ID = "01906d6e-0000-7000-8000-000000000000"


def noted(storage: FileStorage) -> FileStorage:
    """Return a storage with results of several kinds."""
    storage.register_persistent_serializers(NoteSerializer)
    storage.save("w", "number", 1)
    storage.save("w", "large", Buffer(bytes(200_000)))
    storage.save("w", "a/b", "encoded")
    storage.save("w", "x" * 300, "cut")
    storage.save("v", "note", [Note("one"), Note("two")])
    return storage


def found(report: Verification) -> dict[str, list[str]]:
    """Return the paths of all findings by kind."""
    return {kind: [each.path for each in getattr(report, kind)] for kind in KINDS if getattr(report, kind)}


def side_files(storage: FileStorage) -> list[Path]:
    """Return the side files of all results."""
    return sorted(path for path in root_of(storage).glob("*/bigdata/**/*") if path.is_file())


def relative(storage: FileStorage, path: Path) -> str:
    """Return a path as findings have it."""
    return path.relative_to(root_of(storage)).as_posix()


def newer(path: Path) -> bytes:
    """Return the blob in a file as a later version of the format would write it."""
    data = bytearray(path.read_bytes())
    footer = int.from_bytes(data[-24:-20], "little")
    data[-20:-18] = (9).to_bytes(2, "little")
    data[-16:-8] = struct.pack("<Q", xxhash.xxh3_64_intdigest(bytes(data[-40 - footer : -16])))
    return bytes(data)


def test_a_sound_storage(storage: FileStorage) -> None:
    """Nothing is found in a sound storage, also after overwrites and removals; what was looked at is counted."""
    noted(storage)
    storage.save("w", "number", 2)
    storage.remove_task("w", "large")
    storage.save("v", "note", [Note("three")])
    report = storage.catalog.verify()
    size = sum(path.stat().st_size for path in root_of(storage).glob("[!.]*/**/*") if path.is_file())
    assert report == Verification(workflows=2, results=4, side_files=1, size=size)
    assert report.ok
    assert str(report) == f"ok: 4 results in 2 workflows, 1 side file, {size} bytes read"


def test_an_empty_storage(storage: FileStorage, tmp_path: Path) -> None:
    """A storage in which nothing was saved is sound; no storage is an error."""
    assert storage.catalog.verify() == Verification(0, 0, 0, 0)
    with pytest.raises(CatalogUnusable, match="there is no storage"):
        Catalog(tmp_path / "none").verify()


def test_only_some_workflows(storage: FileStorage) -> None:
    """A glob says which workflows are verified; what is no string is refused."""
    noted(storage)
    (root_of(storage) / "w" / "number").unlink()
    assert storage.catalog.verify("v").ok
    assert found(storage.catalog.verify("[w]")) == {"missing": ["w/number"]}
    with pytest.raises(InvalidQuestion, match="a pattern for workflows is a string"):
        storage.catalog.verify(None)  # type: ignore[arg-type]


def test_the_report_is_frozen(storage: FileStorage) -> None:
    """Neither a report nor a finding can be changed."""
    noted(storage)
    (root_of(storage) / "w" / "number").unlink()
    report = storage.catalog.verify()
    with pytest.raises(FrozenInstanceError):
        report.results = 7  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        report.missing[0].done = "nothing"  # type: ignore[misc]


def test_missing(storage: FileStorage) -> None:
    """A file that was deleted by hand is missing, however often the catalog was asked since; a removed one is not."""
    noted(storage)
    storage.save("w", "gone", 1)
    storage.remove_task("w", "gone")
    (root_of(storage) / "w" / "a%2Fb").unlink()
    shutil.rmtree(root_of(storage) / "v")
    for _ in range(2):
        assert ("w", "a/b") not in task_names(storage.catalog)
        report = storage.catalog.verify()
        assert found(report) == {"missing": ["v/note", "w/a%2Fb"]}
    reason = "it was saved and never removed, and its file is gone"
    assert report.missing[1] == Finding("w", "a/b", "w/a%2Fb", reason)
    assert "  w/a%2Fb: it was saved and never removed" in str(report)


def test_missing_is_recorded(storage: FileStorage) -> None:
    """A repair records what is missing as removed, with the reason, and then all is well; also for a new index."""
    noted(storage)
    (root_of(storage) / "w" / "number").unlink()
    assert storage.catalog.verify(repair=True).missing[0].done == "its loss is recorded as a removal"
    assert storage.catalog.verify().ok
    index_of(storage).unlink()
    assert storage.catalog.verify().ok
    rows = storage.catalog.sql("SELECT task, details->>'reason' FROM events WHERE event = 'remove'").fetchall()
    assert rows == [("number", "missing")]


def test_a_save_that_never_came_true_is_not_missing(storage: FileStorage) -> None:
    """The last line of a killed writer, and one that another save replaced, miss nothing."""
    storage.save("w", "a", 1)
    write_segment(storage, [save_event("w", "never", ID)])
    write_segment(storage, [save_event("w", "a", "01906d6e-0000-7000-8000-000000000001")])
    assert storage.catalog.verify().ok


def test_unlisted_in_the_index(storage: FileStorage) -> None:
    """What somebody deleted from the index is unlisted, until a repair."""
    noted(storage)
    os.utime(root_of(storage) / "w", (0, 1000))  # long ago, so that no question looks through it again
    storage.catalog.refresh()
    with duckdb.connect(str(index_of(storage))) as connection:
        connection.execute("DELETE FROM latest WHERE task = 'number'").fetchall()
    for repair in (False, True):
        report = storage.catalog.verify(repair=repair)
        assert found(report) == {"unlisted": ["w/number"]}
        assert report.unlisted[0].task == "number"
    assert report.unlisted[0].done == "taken into the catalog"
    assert storage.catalog.verify().ok
    assert ("w", "number") in task_names(storage.catalog)


def test_an_older_copy_that_was_put_back(storage: FileStorage) -> None:
    """A blob over which its predecessor was copied is listed with another id; a repair lists what is there."""
    storage.save("w", "a", 1)
    before = (root_of(storage) / "w" / "a").read_bytes()
    storage.save("w", "a", 2)
    storage.save("w", "b", 3)
    storage.catalog.refresh()
    (root_of(storage) / "w" / "a").write_bytes(before)
    report = storage.catalog.verify(repair=True)
    assert found(report) == {"unlisted": ["w/a"]}
    assert "the catalog lists the blob" in report.unlisted[0].reason
    assert storage.catalog.verify().ok
    assert storage.catalog.tasks(task="a").project("value").fetchall() == [("1",)]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        pytest.param(lambda data: data[:100], "neither a blob nor", id="cut"),
        pytest.param(lambda data: b"", "neither a blob nor", id="empty"),
        pytest.param(lambda data: b"\x81" + data[1:], "the checksum of the body", id="changed"),
        pytest.param(lambda data: data[:-60] + b"?" + data[-59:], "the footer's checksum", id="footer"),
        pytest.param(lambda data: data[:10] + data[11:], "the checksum of the body", id="shorter"),
        pytest.param(lambda data: data + b"\n", "neither a blob nor", id="longer"),
    ],
)
def test_damaged(storage: FileStorage, damage: Callable[[bytes], bytes], reason: str) -> None:
    """A blob whose bytes are not those that were saved is damaged, and the reason says which."""
    noted(storage)
    path = root_of(storage) / "w" / "large"
    path.write_bytes(damage(path.read_bytes()))
    report = storage.catalog.verify()
    assert found(report) == {"damaged": ["w/large"]}
    assert reason in report.damaged[0].reason
    assert report.damaged[0].task == "large"


def flip(path: Path, position: int, bit: int) -> None:
    """Change one bit of a file, in place."""
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes((byte ^ 1 << bit,)))


def test_every_byte_of_a_blob(storage: FileStorage) -> None:
    """Whichever byte of a blob changes, it is damaged."""
    storage.save("w", "0000", 0)
    size = (root_of(storage) / "w" / "0000").stat().st_size
    names = [f"{position:04d}" for position in range(size)]
    for position, name in enumerate(names):
        storage.save("w", name, 0)
        flip(root_of(storage) / "w" / name, position, position % 8)
    assert found(storage.catalog.verify()) == {"damaged": [f"w/{name}" for name in names]}


@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)), min_size=20, max_size=20))
def test_any_bit_of_a_large_blob(storage: FileStorage, flips: list[tuple[float, int]]) -> None:
    """Whichever bit of a blob with buffers is flipped, it is damaged."""
    storage.save("w", "whole", 0)
    for number, (part, bit) in enumerate(flips):
        storage.save("w", f"{number:02d}", Buffer(bytes(70_000)))
        path = root_of(storage) / "w" / f"{number:02d}"
        flip(path, int(part * path.stat().st_size), bit)
    assert found(storage.catalog.verify()) == {"damaged": [f"w/{number:02d}" for number in range(len(flips))]}


def test_every_byte_of_the_older_format(storage: FileStorage) -> None:
    """Whichever byte of a listed older file changes, it is damaged; side files that only a pickle knows are left."""
    folder = root_of(storage) / "study"
    shutil.copytree(OLDER / "study", folder)
    shutil.copytree(next(OLDER.glob("*/bigdata")), folder / "bigdata")
    content = (folder / "fit_1").read_bytes()
    names = [f"{position:04d}" for position in range(len(content))]
    for name in names:
        (folder / name).write_bytes(content)
    assert storage.catalog.verify().ok
    for position, name in enumerate(names):
        flip(folder / name, position, 3)
    assert found(storage.catalog.verify()) == {"damaged": [f"study/{name}" for name in names]}


def test_another_blob_of_the_same_id(storage: FileStorage) -> None:
    """A sound blob that has the id of the listed one, and another checksum, is damaged: somebody changed it."""
    storage.save("w", "a", 1)
    storage.save("w", "b", 2)
    storage.catalog.refresh()
    path = root_of(storage) / "w" / "a"
    run_python(FORGING, path)
    for repair in (False, True):
        report = storage.catalog.verify(repair=repair)
        assert found(report) == {"damaged": ["w/a"]}
    assert "the catalog says" in report.damaged[0].reason
    assert report.damaged[0].done.startswith("moved to .catalog/quarantine/")
    assert task_names(storage.catalog) == [("w", "b")]


FORGING = """
import pickle, sys, xxhash
from pathlib import Path
from typing import Any
from msgspec.structs import replace
from catalog.format.footer import close_blob, read_footer
from catalog.format.json_text import to_json
path = Path(sys.argv[1])
data = path.read_bytes()
footer = read_footer(data, len(data))
body = pickle.dumps("forged", 5)
checksum = xxhash.xxh3_128_digest(body)
record = replace(footer.record, checksum=f"xxh3:{checksum.hex()}")
path.write_bytes(body + close_blob(to_json(record), checksum, True))
"""


def test_a_wrong_index_is_built_anew(storage: FileStorage) -> None:
    """Where the index is what is wrong, a repair builds it anew, and nothing is moved."""
    noted(storage)
    storage.catalog.refresh()
    with duckdb.connect(str(index_of(storage))) as connection:
        connection.execute("UPDATE latest SET size = 7 WHERE task = 'number'").fetchall()
    report = storage.catalog.verify(repair=True)
    assert found(report) == {"damaged": ["w/number"]}
    assert report.damaged[0].done == "the index was wrong, and is built anew"
    assert storage.catalog.verify().ok
    assert storage.read_task("w", "number") == 1


def test_lost(storage: FileStorage) -> None:
    """A side file that is gone or was cut is lost; a repair leaves the result listed."""
    noted(storage)
    storage.save("v", "whole", Note("whole"))
    one, two = side_files(storage)[:2]
    one.unlink()
    two.write_bytes(b"")
    for repair in (False, True):
        report = storage.catalog.verify(repair=repair)
        assert found(report) == {"lost": [relative(storage, one), relative(storage, two)]}
        assert {each.task for each in report.lost} == {"note"}
        assert [each.reason.partition(";")[0] for each in report.lost] == [
            "it is gone",
            "it has 0 bytes, declared are 3",
        ]
        assert not report.ok
    assert ("v", "note") in task_names(storage.catalog)


def test_orphans(storage: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Side files that no result declares are orphans: no fault, and left alone, until nothing changed for an hour."""
    noted(storage)
    folder = root_of(storage) / "v" / "bigdata"
    (folder / ID).mkdir()
    (folder / ID / "data").write_bytes(b"of a killed save")
    extra = side_files(storage)[-1].with_name("extra")
    extra.write_bytes(b"undeclared")
    expected = sorted([f"v/bigdata/{ID}", relative(storage, extra)])
    report = storage.catalog.verify(repair=True)
    assert found(report) == {"orphans": expected}
    assert report.ok
    assert {(each.perhaps_in_use, each.done) for each in report.orphans} == {(True, "left: it may be in use")}
    monkeypatch.setattr("catalog.verify.side_files.QUIET", -1.0)
    assert not storage.catalog.verify().ok
    report = storage.catalog.verify(repair=True)
    assert found(report) == {"orphans": expected}
    for each in report.orphans:
        assert not (root_of(storage) / each.path).exists()
        assert (root_of(storage) / each.done.removeprefix("moved to ")).exists()
    assert found(storage.catalog.verify()) == {}
    assert storage.read_task("v", "note") == [Note("one"), Note("two")]


def test_a_link_in_the_place_of_a_side_folder_is_an_orphan(storage: FileStorage, tmp_path: Path) -> None:
    """A link that is called as a side folder is told, and what it leads to is not looked at."""
    noted(storage)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "own").write_bytes(b"nobody's business")
    (root_of(storage) / "v" / "bigdata" / ID).symlink_to(tmp_path / "elsewhere")
    assert found(storage.catalog.verify()) == {"orphans": [f"v/bigdata/{ID}"]}


def test_a_side_folder_that_may_not_be_read_is_unchecked(storage: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Side files of which this user may not even know the names are neither lost nor damaged."""
    noted(storage)
    declared = sorted(relative(storage, path) for path in side_files(storage))
    listed = LocalStore.ls

    def refused(self: LocalStore, prefix: str, deep: bool = True) -> Any:
        if deep and "/bigdata/" in prefix:
            raise PermissionError(13, "Permission denied", prefix)
        return listed(self, prefix, deep)

    monkeypatch.setattr(LocalStore, "ls", refused)
    assert found(storage.catalog.verify()) == {"unchecked": declared}


def test_other_side_files_are_left_alone(storage: FileStorage) -> None:
    """What may belong to the older format, whose pickles alone know it, is no orphan."""
    noted(storage)
    folder = root_of(storage) / "v" / "bigdata"
    (folder / "00000000-0000-4000-8000-00000000000b").write_bytes(b"x")
    (folder / "00000000-0000-4000-8000-00000000000c").mkdir()
    assert found(storage.catalog.verify()) == {}


def test_strangers(storage: FileStorage) -> None:
    """Files that are no results are told of, are no fault, and are never touched; hidden ones are not looked at."""
    noted(storage)
    stranger = root_of(storage) / "w" / "notes.txt"
    stranger.write_text("not a result")
    (root_of(storage) / "w" / ".hidden").write_text("hidden")
    (root_of(storage) / "w" / "folder").mkdir()
    report = storage.catalog.verify(repair=True)
    assert found(report) == {"strangers": ["w/notes.txt"]}
    assert report.ok
    assert report.strangers[0].task is None
    assert stranger.read_text() == "not a result"


def test_a_file_that_another_hides(storage: FileStorage) -> None:
    """A file of the older format under the raw form of a name is hidden by the newer one: no result, no fault."""
    folder = root_of(storage) / "w"
    shutil.copytree(OLDER / "study", folder)
    (folder / "fit_1").rename(folder / "a%b")
    storage.save("w", "other", 1)
    shutil.copy(folder / "other", folder / "a%25b")
    report = storage.catalog.verify()
    assert found(report) == {"strangers": ["w/a%b"]}
    assert "hides it" in report.strangers[0].reason


def test_newer(storage: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a newer version wrote is told of and never touched, nor are side folders that may belong to it."""
    monkeypatch.setattr("catalog.verify.side_files.QUIET", -1.0)
    noted(storage)
    listed, unlisted = root_of(storage) / "w" / "number", root_of(storage) / "w" / "later"
    unlisted.write_bytes(newer(listed))
    listed.write_bytes(newer(listed))
    (root_of(storage) / "w" / "bigdata" / ID).mkdir(parents=True)
    before = listed.read_bytes(), unlisted.read_bytes()
    report = storage.catalog.verify(repair=True)
    assert found(report) == {"unchecked": ["w/later", "w/number"]}
    assert "install a newer" in report.unchecked[0].reason
    assert not report.ok
    assert (listed.read_bytes(), unlisted.read_bytes()) == before


def test_a_newer_blob_leaves_the_rest_answered(storage: FileStorage) -> None:
    """A blob of a newer format is not listed, and does not stop questions about the others."""
    storage.save("w", "a", 1)
    (root_of(storage) / "w" / "later").write_bytes(newer(root_of(storage) / "w" / "a"))
    assert storage.list_tasks("w") == ["a"]


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
def test_what_may_not_be_read(storage: FileStorage) -> None:
    """A file that this user may not read is neither sound nor damaged."""
    storage.save("w", "a", 1)
    path = root_of(storage) / "w" / "a"
    path.chmod(0)
    report = storage.catalog.verify(repair=True)
    assert found(report) == {"unchecked": ["w/a"]}
    assert path.exists()


def test_after_everything_beside_the_blobs_is_lost(storage: FileStorage) -> None:
    """Without journal and index, the blobs are all sound."""
    noted(storage)
    delete_catalog(storage)
    assert found(storage.catalog.verify()) == {}


def test_in_large_folders(storage: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """In folders that questions look through only now and then, missing and unlisted are found and mended as well."""
    noted(storage)
    storage.save("w", "other", 1)
    storage.catalog.refresh()
    storage.save("w", "number", 5)
    storage.catalog.refresh()
    monkeypatch.setattr(settle, "_SMALL_FOLDER", 0)
    storage.save("w", "one more", 1)
    storage.catalog.refresh()
    storage.save("w", "and one more", 1)
    (root_of(storage) / "w" / "number").unlink()
    shutil.copy(root_of(storage) / "w" / "other", root_of(storage) / "w" / "copy")
    report = storage.catalog.verify(repair=True)
    assert found(report)["missing"] == ["w/number"]
    assert storage.catalog.verify().ok
    assert {("w", "copy"), ("w", "other")} < set(task_names(storage.catalog))


# Quarantine


def test_quarantine(storage: FileStorage) -> None:
    """What is damaged is moved with its side folder, a note tells of it, and so does the history; nothing is lost."""
    noted(storage)
    path = root_of(storage) / "v" / "note"
    data = path.read_bytes()[:-1]
    path.write_bytes(data)
    its = blob_id_of(storage, "v", "note")
    names = {side.name for side in side_files(storage)}
    report = storage.catalog.verify(repair=True)
    (finding,) = report.damaged
    moved = root_of(storage) / finding.done.removeprefix("moved to ")
    assert moved.read_bytes() == data
    assert {side.name for side in (moved.parent / "bigdata" / its).iterdir()} == names
    about = json.loads((moved.parents[1] / "about.json").read_text())
    assert about["path"] == "v/note"
    assert about["blob_id"] == its
    assert about["reason"] == finding.reason
    (row,) = storage.catalog.sql(
        "SELECT task, blob_id::VARCHAR, details->>'reason', details->>'to' FROM events WHERE event = 'remove'"
    ).fetchall()
    assert row == ("note", its, "quarantined", finding.done.removeprefix("moved to "))
    assert storage.catalog.verify().ok
    assert not storage.file_exists("v", "note")
    storage.save("v", "note", 3)
    assert storage.catalog.verify().ok


def blob_id_of(storage: FileStorage, workflow: str, task: str) -> str:
    """Return the id that the catalog lists."""
    rows = storage.catalog.tasks(workflow, task).project("blob_id::VARCHAR").fetchall()
    return str(rows[0][0])


def test_side_files_that_a_copy_needs(storage: FileStorage) -> None:
    """Where a sound copy of a damaged blob is listed, the side files that both declare stay."""
    noted(storage)
    path = root_of(storage) / "v" / "note"
    shutil.copy(path, path.with_name("copy"))
    path.write_bytes(b"damaged")
    assert storage.catalog.verify(repair=True).damaged[0].done.startswith("moved to")
    assert storage.catalog.verify().ok
    assert storage.read_task("v", "copy") == [Note("one"), Note("two")]


def test_an_overwrite_in_the_last_moment(storage: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the damaged file was saved anew just before it is moved, the new result is given back."""
    noted(storage)
    path = root_of(storage) / "w" / "number"
    path.write_bytes(b"damaged")
    rename = os.rename

    def late(source: str, target: str) -> None:
        if source == str(path):
            monkeypatch.setattr(os, "rename", rename)
            run_python(SAVING, root_of(storage))
        rename(source, target)

    monkeypatch.setattr(os, "rename", late)
    report = storage.catalog.verify(repair=True)
    assert [each.done for each in report.damaged] == ["left: it was saved anew"]
    assert storage.read_task("w", "number") == "anew"
    assert storage.catalog.verify().ok
    assert ("w", "number") in task_names(storage.catalog)


SAVING = """
import sys
from functionfuse.storage.filestorage import FileStorage
FileStorage(sys.argv[1]).save("w", "number", "anew")
"""


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """Return a folder on another file system."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system")
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


def test_a_workflow_on_another_file_system(storage: FileStorage, elsewhere: Path) -> None:
    """What cannot be moved by a rename is left where it is, and nothing is recorded."""
    storage.save("v", "a", 1)
    (root_of(storage) / "w").symlink_to(elsewhere)
    storage.save("w", "b", 1)
    (elsewhere / "b").write_bytes(b"damaged")
    report = storage.catalog.verify(repair=True)
    assert "another file system" in report.damaged[0].done
    assert (elsewhere / "b").read_bytes() == b"damaged"
    assert storage.catalog.sql("SELECT count(*) FROM events WHERE event = 'remove'").fetchall() == [(0,)]


def test_twice(storage: FileStorage) -> None:
    """A second repair finds nothing that the first one mended."""
    noted(storage)
    (root_of(storage) / "w" / "number").write_bytes(b"damaged")
    (root_of(storage) / "w" / "large").unlink()
    assert not storage.catalog.verify(repair=True).ok
    assert storage.catalog.verify(repair=True).ok


def test_moved_and_copied_blobs(storage: FileStorage) -> None:
    """A blob that was copied to another name is a result there, with the first one's side files missing elsewhere."""
    noted(storage)
    shutil.copy(root_of(storage) / "w" / "number", root_of(storage) / "w" / "copy")
    assert storage.catalog.verify().ok
    shutil.copy(root_of(storage) / "v" / "note", root_of(storage) / "w" / "note")
    report = storage.catalog.verify()
    assert set(found(report)) == {"lost"}
    assert {each.path.split("/")[:3][2] for each in report.lost} == {blob_id(storage, "v", "note")}
