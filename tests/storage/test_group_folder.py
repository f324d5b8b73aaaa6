"""A storage in a folder of a group is the group's: whatever the umask, all may write where one has written."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from functionfuse.storage.filestorage import FileStorage
from functionfuse.testing import Note, NoteSerializer


@pytest.fixture
def strict_umask() -> Iterator[None]:
    """Let new files and folders be writable for their owner alone."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def used(path: Path) -> FileStorage:
    """Return a storage in which all was done that makes folders."""
    storage = FileStorage(path)
    storage.register_persistent_serializers(NoteSerializer)
    for name in ("a", "b"):
        storage.save("w", name, Note(name))
    storage.save("w", "a", [Note("again"), bytes(100_000)])
    assert storage.list_tasks("w") == ["a", "b"]
    storage.catalog.compact()
    storage.remove_task("w", "b")
    assert storage.verify().ok
    return storage


def modes(path: Path) -> dict[str, int]:
    """Return the permissions of a folder and of all that is below it."""
    return {str(each.relative_to(path)): stat.S_IMODE(each.stat().st_mode) for each in (path, *path.rglob("*"))}


@pytest.mark.usefixtures("strict_umask")
def test_folders_in_a_groups_folder_are_the_groups(tmp_path: Path) -> None:
    """All folders can be written by the group, and what several processes write: the index and its lock."""
    tmp_path.chmod(0o2775)
    used(tmp_path / "above" / "results")
    found = modes(tmp_path / "above")
    folders = {name: mode for name, mode in found.items() if (tmp_path / "above" / name).is_dir()}
    assert {"results/w", "results/.catalog/journal", "results/.catalog/tmp"} <= set(folders)
    assert {name: oct(mode) for name, mode in folders.items() if mode != 0o2775} == {}
    for name in ("catalog.duckdb", "catalog.duckdb.lock"):
        assert found[f"results/.catalog/{name}"] & stat.S_IWGRP


@pytest.mark.slow
@pytest.mark.usefixtures("strict_umask")
@pytest.mark.parametrize("mode", [0o755, 0o775, 0o2755], ids=oct)
def test_folders_elsewhere_have_what_the_umask_says(tmp_path: Path, mode: int) -> None:
    """In a folder that no group shares, nothing is opened to a group."""
    tmp_path.chmod(mode)
    used(tmp_path / "results")
    found = modes(tmp_path / "results")
    assert {name: oct(mode) for name, mode in found.items() if mode & stat.S_IWGRP} == {}
