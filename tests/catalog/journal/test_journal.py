"""The journal: who writes where, in which order, and what is left when a write or a publication fails."""

from __future__ import annotations

import errno
import gc
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from catalog.journal.append import LocalJournal
from catalog.journal.base import Publication
from catalog.journal.open import journal_of
from catalog.store.local import LocalStore
from functionfuse.errors import StorageUnusable, UnpicklableResult
from functionfuse.storage.filestorage import FileStorage
from functionfuse.testing import Note, NoteSerializer, read_blob
from oracle import left_over, listed, lying
from processes import in_child, python

# Forking beside DuckDB's threads is what these tests are about.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return the folder of the storage."""
    return tmp_path / "storage"


@pytest.fixture
def storage(root: Path) -> FileStorage:
    """Return a storage with nothing in it."""
    return FileStorage(root)


def segments(root: Path) -> dict[str, list[bytes]]:
    """Return the lines of every segment, each with its end."""
    found = sorted((root / ".catalog" / "journal").iterdir())
    return {path.name: path.read_bytes().splitlines(keepends=True) for path in found}


def events(root: Path) -> list[dict[str, Any]]:
    """Return all events, parsed by hand."""
    return [json.loads(line) for lines in segments(root).values() for line in lines]


SAVE = "import sys; from functionfuse.storage.filestorage import FileStorage; s = FileStorage(sys.argv[1]);"


# What is in it


def test_a_save_is_one_line_that_says_what_the_footer_says(storage: FileStorage, root: Path) -> None:
    """The line of a save is ASCII, ends where it was written, and holds the blob's record with the size in front."""
    storage.save("w\u00e9", "t\ud800\n", {"a": 1})
    ((line,),) = segments(root).values()
    assert line.isascii()
    assert line.endswith(b"}\n")
    event = json.loads(line)
    (path,) = (path for path in root.glob("[!.]*/*") if path.is_file())
    record = read_blob(path.read_bytes()).record
    assert event == {"event": "save", "format": 3, "size": path.stat().st_size, **record}


def test_a_removal_is_one_line(storage: FileStorage, root: Path) -> None:
    """A removal names what was removed; removing a workflow writes one line a task."""
    for task in ("a", "b", "c"):
        storage.save("w", task, 1)
    saved = {event["task"]: event["blob_id"] for event in events(root)}
    storage.remove_task("w", "a")
    storage.remove_workflow("w")
    removed = events(root)[3:]
    assert [event["event"] for event in removed] == ["remove"] * 3
    assert {event["task"]: event["blob_id"] for event in removed} == saved
    assert all(event["event_id"] > event["blob_id"] for event in removed)


def test_what_fails_before_it_is_written_leaves_no_line(storage: FileStorage, root: Path) -> None:
    """A result that cannot be pickled, and a removal of nothing, leave the journal as it was."""
    storage.save("w", "t", 1)
    before = segments(root)
    with pytest.raises(UnpicklableResult):
        storage.save("w", "t", sys._getframe())
    with pytest.raises(FileNotFoundError):
        storage.remove_task("w", "no task")
    assert segments(root) == before


# One segment a process


def test_storage_objects_of_a_process_share_a_segment(root: Path) -> None:
    """However many storage objects a process opens, closes and opens again, it appends to one segment."""
    for number in range(5):
        storage = FileStorage(root)
        storage.save("w", f"{number} a", 1)
        FileStorage(root).save("w", f"{number} b", 1)
        del storage
        gc.collect()
    assert [len(lines) for lines in segments(root).values()] == [10]


def test_a_storage_that_is_gone_holds_no_file(root: Path) -> None:
    """The segment is closed when the last storage object of the process goes."""

    def held() -> list[str]:
        links = [os.path.join("/proc/self/fd", each) for each in os.listdir("/proc/self/fd")]
        return [target for link in links if os.path.lexists(link) and str(root) in (target := os.readlink(link))]

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("this system does not tell which files a process holds")
    first, second = FileStorage(root), FileStorage(root)
    first.save("w", "a", 1)
    second.save("w", "b", 1)
    assert len(held()) == 1
    del first, second
    gc.collect()
    assert held() == []


def test_threads_share_a_segment(storage: FileStorage, root: Path) -> None:
    """Lines of several threads stand in one segment, none torn, none lost."""
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: storage.save("w", f"t{number}", "x" * number), range(200)))
    assert [len(lines) for lines in segments(root).values()] == [200]
    assert {event["task"] for event in events(root)} == {f"t{number}" for number in range(200)}


def test_processes_have_segments_of_their_own(storage: FileStorage, root: Path) -> None:
    """Each process writes its own segment, and one that ended is left alone."""
    storage.save("w", "here", 1)
    for number in range(2):
        python(SAVE + f"s.save('w', 'there {number}', 1); s.save('w', 'again', 1)", str(root))
    assert sorted(len(lines) for lines in segments(root).values()) == [1, 2, 2]
    assert len({event["pid"] for event in events(root)}) == 3


def test_a_forked_child_has_a_segment_of_its_own(storage: FileStorage, root: Path) -> None:
    """A child begins its own segment and closes the parent's, which the parent goes on with."""
    storage.save("w", "before", 1)
    (parents,) = segments(root)

    def work() -> None:
        links = [f"/proc/self/fd/{each}" for each in os.listdir("/proc/self/fd")]
        assert not [link for link in links if os.path.lexists(link) and os.readlink(link).endswith(parents)]
        storage.save("w", "child", 1)
        FileStorage(root).save("w", "child again", 1)

    in_child(work)
    storage.save("w", "after", 1)
    lines = segments(root)
    assert len(lines.pop(parents)) == 2
    assert [len(each) for each in lines.values()] == [2]
    assert listed(storage) == lying(root)


def test_a_fork_in_the_middle_of_a_save(storage: FileStorage, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that is forked while another thread holds the journal's lock saves without waiting for it."""
    inside, go_on = threading.Event(), threading.Event()
    replace = os.replace

    def slow(source: str, target: str) -> None:
        if threading.current_thread().name == "saver":
            inside.set()
            assert go_on.wait(240)
        replace(source, target)

    monkeypatch.setattr(os, "replace", slow)
    storage.save("w", "before", 1)
    saver = threading.Thread(target=storage.save, args=("w", "parent", 1), name="saver")
    saver.start()
    assert inside.wait(240)
    try:
        in_child(lambda: storage.save("w", "child", 1))
    finally:
        go_on.set()
        saver.join()
    assert [row[1] for row in lying(root)] == ["before", "child", "parent"]
    assert listed(storage) == lying(root)


# Order


class Calls:
    """The system calls that change something, in their order, as ``(name, path)``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[tuple[str, str]] = []
        self.paths: dict[int, str] = {}
        real = {name: getattr(os, name) for name in ("open", "write", "writev", "close", "replace", "unlink", "rmdir")}

        def opened(path: Any, *arguments: Any, **options: Any) -> int:
            handle: int = real["open"](path, *arguments, **options)
            self.paths[handle] = str(path)
            return handle

        def by_handle(name: str) -> Callable[..., Any]:
            def call(handle: int, *arguments: Any) -> Any:
                self.made.append((name.removesuffix("v"), self.paths.get(handle, "")))
                return real[name](handle, *arguments)

            return call

        def by_path(name: str) -> Callable[..., Any]:
            def call(path: Any, *arguments: Any, **options: Any) -> Any:
                self.made.append((name, os.fspath(arguments[0] if name == "replace" else path)))
                return real[name](path, *arguments, **options)

            return call

        monkeypatch.setattr(os, "open", opened)
        for name in ("write", "writev", "close"):
            monkeypatch.setattr(os, name, by_handle(name))
        for name in ("replace", "unlink", "rmdir"):
            monkeypatch.setattr(os, name, by_path(name))

    def kinds(self) -> list[str]:
        """Return what was done to what, and forget it."""
        made, self.made = self.made, []
        return [f"{name} {kind}" for name, path in made if (kind := kind_of(path))]


def kind_of(path: str) -> str:
    """Tell journal, hidden file, side file and blob apart."""
    if path.endswith(".ndjson"):
        return "journal"
    if "/.catalog/tmp/" in path or os.path.basename(path).startswith("."):
        return "hidden"
    if ".catalog" in path:
        return ""
    return "side" if "bigdata" in path or re.fullmatch(r"[0-9a-f-]{36}", path) else "blob" if path else ""


def test_the_record_comes_before_the_rename(storage: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A save writes and closes the hidden file, then the journal's line, then renames: in this order, once each."""
    calls = Calls(monkeypatch)
    storage.save("w", "first", 1)
    calls.kinds()
    storage.save("w", "t", 1)
    assert calls.kinds() == ["write hidden", "close hidden", "write journal", "replace blob"]


def test_what_was_replaced_goes_last(storage: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """An overwrite deletes the old side files after the rename; a removal writes its line first, then deletes."""
    calls = Calls(monkeypatch)
    storage.register_persistent_serializers(NoteSerializer)
    storage.save("w", "t", Note("old"))
    calls.kinds()
    storage.save("w", "t", 1)
    made = calls.kinds()
    assert made.index("write journal") < made.index("replace blob") < made.index("unlink side")
    storage.save("w", "t", Note("new"))
    calls.kinds()
    storage.remove_task("w", "t")
    made = calls.kinds()
    assert made.index("write journal") < made.index("unlink blob") < made.index("unlink side")


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_the_order_of_real_system_calls(root: Path, tmp_path: Path) -> None:
    """The kernel sees the journal's line before the rename, and the line in one write."""
    storage = FileStorage(root)
    storage.save("w", "before", 1)
    trace = tmp_path / "trace"
    command = [
        "strace",
        "-f",
        "-y",
        "-s",
        "100000",
        "-e",
        "trace=write,writev,rename,renameat,renameat2",
        "-o",
        str(trace),
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command += [sys.executable, "-c", SAVE + "s.save('w', 't', 'traced')", str(root)]
    if subprocess.run(command, env=environment, capture_output=True, check=False).returncode:
        pytest.skip("this process may not trace others")
    lines = [line for line in trace.read_text().splitlines() if str(root) in line]
    kinds = ["rename" if " rename" in line else "journal" if ".ndjson" in line else "blob" for line in lines]
    assert [kind for kind, line in zip(kinds, lines, strict=True) if "storage.json" not in line] == [
        "blob",
        "journal",
        "rename",
    ]
    assert '"task\\":\\"t\\"' in lines[kinds.index("journal")]
    assert lines[kinds.index("journal")].rstrip().endswith(str(len(segments(root).popitem()[1][0])))


def test_no_event_comes_between_a_line_and_its_truth(
    storage: FileStorage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With several threads saving, each line is followed by its own rename before the next line is written."""
    order: list[tuple[str, str]] = []
    write, replace = os.write, os.replace

    def written(handle: int, data: Any) -> int:
        if bytes(data[:9]) == b'{"event":':
            order.append(("line", json.loads(bytes(data))["task"]))
        return write(handle, data)

    def replaced(source: str, target: str) -> None:
        order.append(("rename", os.path.basename(target)))
        threading.Event().wait(0.002)
        replace(source, target)

    monkeypatch.setattr(os, "write", written)
    monkeypatch.setattr(os, "replace", replaced)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: storage.save("w", f"t{number}", number), range(40)))
    assert [kind for kind, _ in order] == ["line", "rename"] * 40
    assert [task for kind, task in order if kind == "line"] == [task for kind, task in order if kind == "rename"]
    assert len(lying(root)) == 40


# Failures


@pytest.fixture
def journal_write(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Callable[[int, bytes], int]]]:
    """Let a test say what happens in the next write to the journal."""
    plan: dict[str, Callable[[int, bytes], int]] = {}
    write = os.write

    def written(handle: int, data: Any) -> int:
        if plan and bytes(data[:9]) == b'{"event":':
            return plan.pop("next")(handle, bytes(data))
        return write(handle, data)

    monkeypatch.setattr(os, "write", written)
    yield plan
    assert not plan, "there was no write to the journal"


def test_a_torn_line(storage: FileStorage, root: Path, journal_write: dict[str, Any]) -> None:
    """A line of which only a part could be written publishes nothing, and the next event begins a new segment."""
    storage.save("w", "t", "old")
    before = lying(root)
    journal_write["next"] = lambda handle, data: os.writev(handle, [data[:30]])
    with pytest.raises(StorageUnusable, match=r"task 't' of workflow 'w'.*free some space"):
        storage.save("w", "t", "new")
    assert storage.read_task("w", "t") == "old"
    assert lying(root) == before
    assert listed(storage) == before
    storage.save("w", "u", 1)
    torn, whole = segments(root).values()
    assert torn[-1] == b'{"event":"save","format":3,"si'
    assert len(whole) == 1
    assert listed(storage) == lying(root)
    assert left_over(root) == []


def test_a_torn_line_in_the_middle(storage: FileStorage, root: Path) -> None:
    """A line that a crash of the machine left half written is skipped and counted, and those around it are not."""
    storage.save("w", "a", 1)
    (segment,) = (root / ".catalog" / "journal").iterdir()
    with open(segment, "ab") as file:
        file.write(b'{"event":"save","blob_id":"018e0000-0000\n\0\0\0\0\n\xff\xfe{"event":"save"}\n[]\n42\n')
    storage.save("w", "b", 1)
    assert storage.list_tasks("w") == ["a", "b"]
    assert listed(storage) == lying(root)
    assert storage.catalog.refresh().torn == 5
    assert storage.catalog.sql("SELECT count(*) FROM events").fetchall() == [(2,)]


@pytest.mark.slow
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_line_that_cannot_be_written(
    storage: FileStorage, root: Path, journal_write: dict[str, Any], number: int
) -> None:
    """Where the journal cannot be written nothing is published, and the next event finds its way.

    Nor is anything removed, unless the disk is full: then what is removed makes room for its event.
    """
    storage.save("w", "t", "old")
    before = lying(root)

    def fail(handle: int, data: bytes) -> int:
        raise OSError(number, os.strerror(number))

    is_full = number != errno.EIO
    asks = [lambda: storage.save("w", "t", "new"), lambda: storage.remove_task("w", "t")]
    for ask in asks[:1] if is_full else asks:
        journal_write["next"] = fail
        with pytest.raises(StorageUnusable, match=f"task 't' of workflow 'w': {os.strerror(number)}") as caught:
            ask()
        assert caught.value.errno == number
        assert lying(root) == listed(storage) == before
    if is_full:
        journal_write["next"] = fail
        storage.remove_task("w", "t")
        assert lying(root) == listed(storage) == []
        assert storage.catalog.sql("SELECT event FROM events ORDER BY event_id").fetchall() == [("save",), ("remove",)]
    storage.save("w", "t", "newer")
    assert storage.read_task("w", "t") == "newer"
    assert listed(storage) == lying(root)


def interrupt() -> None:
    """Do as Ctrl-C does."""
    raise KeyboardInterrupt


def test_an_interrupt_between_line_and_rename(storage: FileStorage, root: Path, journal_write: dict[str, Any]) -> None:
    """A Ctrl-C just after the line was written publishes nothing, and no later line makes the catalog believe it."""
    storage.save("w", "t", "old")
    before = lying(root)

    def strike(handle: int, data: bytes) -> int:
        os.writev(handle, [data])
        raise KeyboardInterrupt

    journal_write["next"] = strike
    with pytest.raises(KeyboardInterrupt):
        storage.save("w", "t", "new")
    assert storage.read_task("w", "t") == "old"
    assert lying(root) == listed(storage) == before
    storage.save("w", "u", 1)
    assert lying(root) == listed(storage)
    (root / ".catalog" / "catalog.duckdb").unlink()
    assert lying(root) == listed(FileStorage(root))


@pytest.mark.slow
@pytest.mark.parametrize("ask", ["save", "overwrite", "remove"])
def test_a_publication_that_fails_abandons_its_segment(
    storage: FileStorage, root: Path, monkeypatch: pytest.MonkeyPatch, ask: str
) -> None:
    """A rename or removal that fails leaves its line the last of its segment, so that it is not believed."""
    storage.save("w", "t", "old")
    before = lying(root)

    def fail(*_: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", fail)
        patched.setattr("catalog.store.local.LocalStore.delete", fail)
        actions: dict[str, Callable[[], None]] = {
            "save": lambda: storage.save("w", "u", 1),
            "overwrite": lambda: storage.save("w", "t", "new"),
            "remove": lambda: storage.remove_task("w", "t"),
        }
        with pytest.raises(StorageUnusable, match="workflow 'w': Input/output error"):
            actions[ask]()
    assert lying(root) == listed(storage) == before
    storage.save("w", "v", 2)
    assert [len(lines) for lines in segments(root).values()] == [2, 1]
    assert lying(root) == listed(storage)
    for index in (root / ".catalog").glob("catalog.duckdb*"):
        index.unlink()
    assert lying(root) == listed(FileStorage(root))
    assert left_over(root) == []


# A folder that goes away


def test_a_catalog_that_is_deleted_under_a_writer(storage: FileStorage, root: Path) -> None:
    """A process whose `.catalog` was deleted begins a new segment, and the catalog comes back complete."""
    storage.save("w", "a", 1)
    assert len(listed(storage)) == 1
    shutil.rmtree(root / ".catalog")
    storage.save("w", "b", 2)
    assert [len(lines) for lines in segments(root).values()] == [1]
    assert len(listed(storage)) == 2
    assert listed(storage) == lying(root)


def test_a_segment_that_is_deleted_under_a_writer(storage: FileStorage, root: Path) -> None:
    """A process whose segment was deleted begins a new one."""
    storage.save("w", "a", 1)
    for path in (root / ".catalog" / "journal").iterdir():
        path.unlink()
    storage.save("w", "b", 2)
    assert [event["task"] for event in events(root)] == ["b"]
    assert listed(storage) == lying(root)


def test_a_storage_that_is_deleted_under_a_writer(storage: FileStorage, root: Path) -> None:
    """A storage that was deleted and is written to again is a new one, with nothing of the old one in its catalog."""
    storage.save("w", "a", 1)
    assert len(listed(storage)) == 1
    identity = (root / ".catalog" / "storage.json").read_text()
    shutil.rmtree(root)
    storage.save("w", "b", 2)
    assert storage.list_tasks("w") == ["b"]
    assert listed(storage) == lying(root)
    assert (root / ".catalog" / "storage.json").read_text() != identity


def test_a_copied_segment_is_harmless(storage: FileStorage, root: Path) -> None:
    """A segment that is there twice, or in parts, changes no answer."""
    storage.save("w", "a", 1)
    storage.save("w", "a", 2)
    storage.save("w", "b", 1)
    storage.remove_task("w", "b")
    (segment,) = (root / ".catalog" / "journal").iterdir()
    lines = segment.read_bytes().splitlines(keepends=True)
    segment.with_name("copy.ndjson").write_bytes(b"".join(lines))
    segment.with_name("0-part.ndjson").write_bytes(b"".join(lines[1:3]))
    assert listed(storage) == lying(root)
    assert storage.catalog.sql("SELECT count(*) FROM events").fetchall() == [(4,)]


# The journal on its own


def test_there_is_one_journal_a_folder(tmp_path: Path) -> None:
    """All callers of a process get the same journal of a folder, and folders have different ones."""
    one, same, other = (journal_of(LocalStore(f"{tmp_path}/{name}")) for name in "aab")
    assert one is same
    assert one is not other
    one.append(Publication('{"event":"a"}'))
    other.append(Publication('{"event":"b"}'))
    assert events(tmp_path / "a") == [{"event": "a"}]
    assert events(tmp_path / "b") == [{"event": "b"}]


def test_an_event_is_made_true_after_it_was_written(tmp_path: Path) -> None:
    """`append` calls what it is given once, after the line can be read by others, and hands its error on."""
    journal = LocalJournal(LocalStore(str(tmp_path)))
    seen: list[list[dict[str, Any]]] = []
    journal.append(Publication('{"number":1}', publish=lambda: bool(seen.append(events(tmp_path)))))
    assert seen == [[{"number": 1}]]
    with pytest.raises(KeyboardInterrupt):
        journal.append(Publication('{"number":2}', publish=interrupt))
    journal.append(Publication('{"number":3}'))
    assert [len(lines) for lines in segments(tmp_path).values()] == [2, 1]
