"""The options of a storage: what each does, and what is said of a value that means nothing."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from functionfuse.errors import InvalidConfiguration
from functionfuse.storage import open_storage, storage_factory
from functionfuse.storage.filestorage import FileStorage
from functionfuse.storage.fsspecstorage import FsspecStorage


def factory(path: Path, **options: Any) -> Any:
    """Return a storage by its configuration."""
    return storage_factory({"kind": "file", "options": {"path": str(path), **options}})


@pytest.mark.parametrize(
    ("option", "value", "remedy"),
    [
        ("mmap", "yes", "True or False"),
        ("fsync", 1, "True or False"),
        ("verify", False, "'always' or 'never'"),
        ("compression", "gzip", "'auto', None or"),
        ("compression", {"codec": "lz4", "level": 1}, "'codec': 'zstd'"),
        ("compression", {"codec": "zstd", "level": 23}, "from -100 to 22"),
        ("compression", {"codec": "zstd", "level": True}, "from -100 to 22"),
        ("compression", {"level": 3}, "'codec': 'zstd'"),
        ("compression", {"codec": "zstd", "threads": 2}, "'auto', None or"),
        ("compression", False, "'auto', None or"),
    ],
)
def test_values_that_mean_nothing(tmp_path: Path, option: str, value: Any, remedy: str) -> None:
    """A wrong value is named, with what it may be, by constructor and factory."""
    for make in (FileStorage, factory):
        with pytest.raises(InvalidConfiguration, match=f"{option!r}.*{remedy}") as caught:
            make(tmp_path, **{option: value})
        assert str(caught.value).endswith(f"not {value!r}")


def test_a_pickled_storage_keeps_its_options(tmp_path: Path) -> None:
    """What another process gets of a storage reads and writes as it was told to."""
    storage = pickle.loads(pickle.dumps(factory(tmp_path, compression=None, verify="never")))
    storage.save("w", "t", [np.zeros(20_000)])
    assert storage.footer("w", "t").record.buffers[0][1] == 160_000


def owner_of(array: np.ndarray) -> Any:
    """Return what holds the memory of an array."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array.base


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="what is mapped is told by Linux")
def test_mmap(tmp_path: Path) -> None:
    """An array lies over its file by default, and in memory of its own with mmap=False; both can be written to."""
    array = np.random.default_rng(0).random(20_000)
    for mmap in (True, False):
        storage = factory(tmp_path, mmap=mmap)
        storage.save("w", "t", [array])
        (found,) = storage.read_task("w", "t")
        maps = Path("/proc/self/maps").read_text(encoding="utf-8")
        assert (str(tmp_path / "w" / "t") in maps) is mmap
        found[0] = 7
        np.testing.assert_array_equal(storage.read_task("w", "t")[0], array)
        del found


CALLS = """
import os, sys
from functionfuse.storage.filestorage import FileStorage
from functionfuse.storage.fsspecstorage import FsspecStorage
from functionfuse.testing import Note, NoteSerializer

calls, order = [], os.fsync
def told(handle):
    calls.append(os.readlink(f"/proc/self/fd/{handle}"))
    return order(handle)
os.fsync, rename = told, os.replace
def renamed(source, target):
    calls.append("rename")
    return rename(source, target)
os.replace = renamed
storage = FileStorage(sys.argv[1], fsync=sys.argv[2] == "True")
storage.register_persistent_serializers(NoteSerializer)
storage.save("w", "t", [Note("a note")])
print("\\n".join(calls))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="what a descriptor is of is told by Linux")
def test_fsync(tmp_path: Path) -> None:
    """With fsync=True, the file and its side files are synced before the rename, what has got a new name after it.

    The storage's identity is synced in any case, with every folder that was made for it.
    """
    kept = tmp_path / "deep" / "kept"
    found = {}
    for fsync in (True, False):
        run = subprocess.run(
            [sys.executable, "-c", CALLS, str(kept), str(fsync)], capture_output=True, check=True, text=True
        )
        found[fsync] = [line.removeprefix(str(tmp_path)) for line in run.stdout.split("\n")[:-1]]
        shutil.rmtree(tmp_path / "deep")
    at = len(found[True]) - 1 - found[True][::-1].index("rename")
    before, after = found[True][:at], found[True][at + 1 :]
    assert any(path.startswith("/deep/kept/.catalog/tmp/") for path in before)
    assert any(path.startswith("/deep/kept/w/bigdata/") and path.count("/") == 6 for path in before)
    assert after == ["/deep/kept/w", "/deep/kept", "/deep/kept/.catalog", "/deep/kept/.catalog/journal"]
    identity = ["/deep/kept/.catalog/storage.json", "/deep/kept/.catalog", "/deep/kept"]
    made = ["", "/deep", "/deep/kept", *identity]  # first the folder of the workflow, for the side files
    assert before[: len(made)] == made
    assert found[False] == [*made, "rename"]


def test_a_storage_is_opened_by_where_it_is(tmp_path: Path) -> None:
    """A path, a URL, a configuration and a storage each lead to a storage; options go with a path or URL."""
    storage = open_storage(tmp_path, compression=None)
    assert type(storage) is FileStorage
    storage.save("w", "t", 1)
    assert open_storage(str(tmp_path)).read_task("w", "t") == 1
    assert open_storage({"kind": "file", "options": {"path": tmp_path}}).read_task("w", "t") == 1
    assert open_storage(storage) is storage
    remote = open_storage(f"file://{tmp_path}", verify="never")
    assert type(remote) is FsspecStorage
    assert remote.read_task("w", "t") == 1


@pytest.mark.parametrize("place", [None, 3, "", ["results"]], ids=["None", "number", "empty", "list"])
def test_what_is_no_place_is_named(place: Any) -> None:
    """What is neither path, URL, configuration nor storage is an InvalidConfiguration that shows it."""
    with pytest.raises(InvalidConfiguration, match=f"not {place!r}".replace("[", r"\[").replace("]", r"\]")):
        open_storage(place)


def test_options_of_an_open_storage_are_refused(tmp_path: Path) -> None:
    """Options beside a storage or a configuration would be passed over: they are an error."""
    storage = open_storage(tmp_path)
    for place in (storage, {"kind": "file", "options": {"path": tmp_path}}):
        with pytest.raises(InvalidConfiguration, match="'fsync' go with a path or URL"):
            open_storage(place, fsync=True)
