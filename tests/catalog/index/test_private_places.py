"""Questions are answered where the storage's folder is no place for the index, nor the cache directory."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import tempfile
from pathlib import Path
from typing import Any

import pytest

from catalog import Catalog
from catalog.errors import CatalogUnusable
from functionfuse.storage.filestorage import FileStorage
from workshop import index_of, root_of, run_python, task_names

ASKED = """
import sys, tempfile
from pathlib import Path
from functionfuse.storage.filestorage import FileStorage
storage = FileStorage(sys.argv[1], index="private")
storage.save("w", "b", 2)
print(*storage.list_tasks("w"))
print(*storage.catalog.sql("SELECT task FROM tasks ORDER BY task").to_arrow_table()["task"].to_pylist())
print(*Path(tempfile.gettempdir()).glob("functionfuse-*/*/catalog-*.duckdb"))
"""


@pytest.fixture
def locks_fail(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what makes locks below a folder fail, as on a network file system that has none."""

    def fail(folder: Path, number: int) -> None:
        real = fcntl.flock

        def flock(handle: int, how: int) -> None:
            if os.readlink(f"/proc/self/fd/{handle}").startswith(str(folder)):
                raise OSError(number, os.strerror(number))
            real(handle, how)

        monkeypatch.setattr(fcntl, "flock", flock)

    return fail


@pytest.mark.slow
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
@pytest.mark.parametrize("cached", [True, False], ids=["in the cache directory", "in a temporary folder"])
def test_a_file_system_without_locks(
    storage: FileStorage, locks_fail: Any, monkeypatch: pytest.MonkeyPatch, number: int, cached: bool
) -> None:
    """Where the storage's file system has no locks, a private index answers; home may lie on the same one."""
    storage.save("w", "a", 1)
    locks_fail(root_of(storage), number)
    home = Path(os.environ["XDG_CACHE_HOME"])
    if not cached:
        monkeypatch.setenv("XDG_CACHE_HOME", str(root_of(storage) / "cache"))
    assert task_names(storage.catalog) == [("w", "a")]
    storage.save("w", "b", 1)
    assert storage.list_tasks("w") == ["a", "b"]
    assert storage.catalog.sql("SELECT count(*) FROM tasks").fetchall() == [(2,)]
    assert storage.verify().ok
    assert not index_of(storage).exists()
    assert len(list(home.glob("functionfuse/*/catalog-*.duckdb"))) == cached


@pytest.mark.slow
@pytest.mark.parametrize(
    "home",
    [
        {"XDG_CACHE_HOME": "/proc/nothing"},
        {"HOME": "/proc/nothing", "XDG_CACHE_HOME": ""},
        {"XDG_CACHE_HOME": "not/absolute"},
    ],
    ids=["a cache that cannot be made", "a home that is not there", "a relative path"],
)
def test_no_cache_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: dict[str, str]) -> None:
    """Without a cache directory the index is in a folder of the process's own, and goes with it."""
    for name, value in home.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    FileStorage(tmp_path / "results").save("w", "a", 1)
    listed, queried, index = run_python(ASKED, tmp_path / "results").splitlines()
    assert (listed, queried) == ("a b", "a b")
    assert index.startswith(str(tmp_path))
    assert not list((tmp_path / "temporary").iterdir())


def test_a_forked_child_has_its_own_folder(
    storage: FileStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child neither uses nor deletes the temporary folder of its parent, which only this user may enter."""
    from catalog.store import cache

    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nothing")
    (mine,) = cache.folders("name")
    assert stat.S_IMODE(os.stat(mine).st_mode) == 0o700
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        (own,) = cache.folders("name")
        os.write(write, own.encode())
        cache._remove(os.getppid(), mine)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    os.close(write)
    with os.fdopen(read) as said:
        own = said.read()
    assert own != mine
    assert os.path.isdir(mine)
    cache._remove(os.getpid(), os.path.dirname(own))


def test_no_place_at_all(storage: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be written, the error names the places that were tried."""
    storage.save("w", "a", 1)
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nothing")
    monkeypatch.setattr("catalog.store.cache._temporary", {})
    monkeypatch.setattr(tempfile, "tempdir", "/proc/nothing")
    with pytest.raises(CatalogUnusable, match="neither the cache directory nor the temporary directory"):
        Catalog.open(root_of(storage), index="private").tasks()
    assert storage.read_task("w", "a") == 1


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077], ids=oct)
def test_a_private_index_is_this_users_alone(tmp_path: Path, umask: int) -> None:
    """Nobody else may read a private index, its lock, the memory of what is intact, or look into their folders."""
    storage = FileStorage(tmp_path / "storage", index="private")
    storage.save("w", "a", "a secret")
    folder = Path(os.environ["XDG_CACHE_HOME"]) / "functionfuse"
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)  # as earlier versions made it
    before = os.umask(umask)
    try:
        assert storage.list_tasks("w") == ["a"]
    finally:
        os.umask(before)
    found = {str(path.relative_to(folder)): stat.S_IMODE(path.stat().st_mode) for path in [folder, *folder.rglob("*")]}
    assert any(name.endswith(".duckdb") for name in found)
    assert {name: oct(mode) for name, mode in found.items() if mode & 0o077} == {}


@pytest.mark.parametrize("mode", [0o700, 0o770, 0o755], ids=oct)
def test_an_index_in_a_storage_has_the_mode_of_its_folder(storage: FileStorage, mode: int) -> None:
    """Who may write into a storage's folder may write its index, who may look into it may read it."""
    storage.save("w", "a", 1)
    index_of(storage).parent.chmod(mode)
    storage.list_tasks("w")
    assert oct(stat.S_IMODE(index_of(storage).stat().st_mode)) == oct(mode & 0o666)
