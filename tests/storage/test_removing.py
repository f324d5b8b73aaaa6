"""What goes by a pattern or with a workflow, and what stays since it is no result."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from functionfuse.storage.base import Storage
from functionfuse.storage.filestorage import FileStorage
from functionfuse.storage.fsspecstorage import FsspecStorage

STRANGERS = {
    "README.md": b"notes of a person.",
    "plot.png": b"\x89PNG\r\n\x1a\n" + bytes(40),
    "empty.txt": b"",
    "by pickle": pickle.dumps([1, 2]),
    "of a blob's end": b"\x89FFb\r\n\x1a\n",
}
WAYS: dict[str, Callable[[Storage], None]] = {
    "pattern": lambda storage: storage.remove_task("w", pattern="*"),
    "workflow": lambda storage: storage.remove_workflow("w"),
    "gc": lambda storage: storage.gc(keep_last=0, dry_run=False) and None,
}


@pytest.fixture(params=["folder", "fsspec"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """Return a storage in a folder, reached as one or by a URL, with two results."""
    made: Storage = FileStorage(tmp_path / "s") if request.param == "folder" else FsspecStorage(f"file://{tmp_path}/s")
    made.save("w", "a", 1)
    made.save("w", "b", list(range(9)))
    return made


def left(folder: Path) -> list[str]:
    """Return the names of the files in a folder."""
    return sorted(path.name for path in folder.iterdir() if path.is_file())


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_what_is_no_result_stays(storage: Storage, tmp_path: Path, way: str) -> None:
    """Notes and figures beside results stay, byte for byte, and events tell of results alone."""
    for name, content in STRANGERS.items():
        (tmp_path / "s" / "w" / name).write_bytes(content)
    WAYS[way](storage)
    assert {name: (tmp_path / "s" / "w" / name).read_bytes() for name in left(tmp_path / "s" / "w")} == STRANGERS
    removed = storage.catalog.sql("SELECT task FROM events WHERE event = 'remove' ORDER BY task").fetchall()
    assert removed == [("a",), ("b",)]
    assert storage.list_tasks("w") == []


@pytest.mark.parametrize("way", ["pattern", "workflow"])
def test_a_damaged_result_goes_where_the_catalog_knows_it(storage: Storage, tmp_path: Path, way: str) -> None:
    """The journal has its save, so that it is a result whatever its bytes are by now."""
    path = tmp_path / "s" / "w" / "a"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    (tmp_path / "s" / "w" / "README.md").write_bytes(b"notes")
    WAYS[way](storage)
    assert left(tmp_path / "s" / "w") == ["README.md"]


def test_results_of_the_older_format_go(storage: Storage, tmp_path: Path) -> None:
    """A pickle with its SHA-1 is a result, though no line of the journal tells of it."""
    content = pickle.dumps("older")
    (tmp_path / "s" / "w" / "older").write_bytes(content + hashlib.sha1(content).digest())
    (tmp_path / "s" / "w" / "README.md").write_bytes(b"notes")
    storage.remove_task("w", pattern="*")
    assert left(tmp_path / "s" / "w") == ["README.md"]


def test_by_its_exact_name_any_file_goes(storage: Storage, tmp_path: Path) -> None:
    """Whoever names a file means it."""
    (tmp_path / "s" / "w" / "README.md").write_bytes(b"notes")
    storage.remove_task("w", "README.md")
    assert left(tmp_path / "s" / "w") == ["a", "b"]


def test_a_pattern_asks_the_catalog_of_strangers_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every file says that it is a result, nothing is folded and no database is opened."""
    storage = FileStorage(tmp_path / "s")
    storage.save("w", "a", 1)
    monkeypatch.setattr(FileStorage, "catalog", property(lambda _: pytest.fail("the catalog was asked")))
    storage.remove_task("w", pattern="*")
    assert not (tmp_path / "s" / "w" / "a").exists()
