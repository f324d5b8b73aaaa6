"""What stands in a storage and is none of its files: nothing follows it, waits for it, or deletes what is behind it."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from catalog.errors import CatalogError
from functionfuse.errors import FunctionFuseError, SideFileMissing, StorageUnusable, TaskNotFound
from functionfuse.storage.filestorage import FileStorage
from seeds import seeds
from strange import KINDS, content, their_folder
from workshop import age, root_of

_PATIENCE = 60  # seconds after which something hangs


class Parts:
    """What a serializer writes to two side files, one in a folder."""

    def __init__(self, text: str) -> None:
        self.text = text


class PartsSerializer:
    """Writes its parts to side files."""

    name = "Parts"
    serializer_class = Parts

    @staticmethod
    def pickle(obj: Parts, protocols: Mapping[str, Any]) -> tuple[str, str]:
        """Write them."""
        for name in ("head", "more/tail"):
            with protocols["file_protocol"].open(name, "wb") as file:
                file.write(obj.text.encode())
        return "Parts", "head"

    @staticmethod
    def unpickle(pid: str, protocols: Mapping[str, Any]) -> Parts:
        """Read them."""
        files = protocols["file_protocol"]
        texts = []
        for name in (pid, "more/tail"):
            with files.open(name, "rb") as file:
                texts.append(file.read().decode())
        assert len(set(texts)) == 1
        return Parts(texts[0])

    @staticmethod
    def remove(pid: str, protocols: Mapping[str, Any]) -> None:
        """Delete them."""
        for name in (pid, "more"):
            protocols["file_protocol"].remove(name)


def opened(path: Path) -> FileStorage:
    """Return the storage in a folder."""
    storage = FileStorage(path)
    storage.register_persistent_serializers(PartsSerializer)  # type: ignore[arg-type]  # the least a serializer can be
    return storage


@contextmanager
def nothing_hangs() -> Iterator[None]:
    """Raise where a block takes so long that it waits for something that does not come."""

    def stop(_: int, frame: FrameType | None) -> None:
        raise AssertionError(f"it hangs at {frame}")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(_PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def side_folder(storage: FileStorage) -> Path:
    """Return the folder of the side files of the only result that has some."""
    (found,) = (root_of(storage) / "w" / "bigdata").iterdir()
    return found


DEEDS: dict[str, Callable[[FileStorage], object]] = {
    "remove": lambda storage: storage.remove_task("w", "parts"),
    "overwrite": lambda storage: storage.save("w", "parts", 1),
    "gc": lambda storage: storage.gc(keep_last=0, dry_run=False),
    "repair": lambda storage: storage.verify(repair=True),
    "remove_workflow": lambda storage: storage.remove_workflow("w"),
}
LINKED = {
    "the side folder": side_folder,
    "a folder in the side folder": lambda storage: side_folder(storage) / "more",
    "the folder of side folders": lambda storage: root_of(storage) / "w" / "bigdata",
    "the folder of temporaries": lambda storage: root_of(storage) / ".catalog" / "tmp",
    "the journal": lambda storage: root_of(storage) / ".catalog" / "journal",
    "the folder of the catalog": lambda storage: root_of(storage) / ".catalog",
}


@pytest.mark.slow
@pytest.mark.parametrize("deed", DEEDS)
@pytest.mark.parametrize("place", LINKED)
def test_what_is_behind_a_link_stays(tmp_path: Path, place: str, deed: str) -> None:
    """A link in the place of a folder of the storage's own leads nobody to what is behind it."""
    theirs = their_folder(tmp_path / "theirs")
    shutil.copytree(theirs, theirs / side_folder_name(tmp_path), ignore=shutil.ignore_patterns("pipe"))
    storage = opened(tmp_path / "storage")
    path = LINKED[place](storage)
    shutil.rmtree(path)
    path.symlink_to(theirs)
    before = content(theirs)
    with suppress(FunctionFuseError, CatalogError):
        DEEDS[deed](opened(tmp_path / "storage"))
    assert content(theirs) == before


def side_folder_name(tmp_path: Path) -> str:
    """Save a result with side files, and return the name of their folder."""
    storage = opened(tmp_path / "storage")
    storage.save("w", "parts", Parts("text"))
    storage.save("w", "plain", 1)
    return side_folder(storage).name


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_no_file_is_no_result(tmp_path: Path, kind: str) -> None:
    """What stands in the place of a result and is no file is not there, and a save puts a result there."""
    theirs = their_folder(tmp_path / "theirs")
    storage = opened(tmp_path / "storage")
    storage.save("w", "other", 2)
    KINDS[kind](tmp_path / "storage" / "w" / "a", theirs)
    before = content(theirs)
    with nothing_hangs():
        assert storage.list_tasks("w") == ["other"]
        if kind != "a file":
            assert not storage.file_exists("w", "a")
            with pytest.raises(TaskNotFound):
                storage.read_task("w", "a")
        if kind == "a folder":
            with pytest.raises(StorageUnusable, match="a folder lies where the result's file belongs: move it away"):
                storage.save("w", "a", 3)
        else:
            storage.save("w", "a", 3)
            assert storage.read_task("w", "a") == 3
            assert storage.list_tasks("w") == ["a", "other"]
    assert content(theirs) == before


def test_no_file_is_no_side_file(tmp_path: Path) -> None:
    """A link in the place of a side file counts as its loss, even if the same bytes are behind it."""
    storage = opened(tmp_path / "storage")
    storage.save("w", "parts", Parts("text"))
    path = side_folder(storage) / "more" / "tail"
    path.rename(tmp_path / "tail")
    path.symlink_to(tmp_path / "tail")
    with pytest.raises(SideFileMissing, match="a symbolic link, and no regular file"):
        storage.read_task("w", "parts")
    assert [finding.path.rpartition("/")[2] for finding in storage.verify().lost] == ["tail"]


@pytest.mark.parametrize("name", [".catalog", ".catalog/tmp", ".catalog/journal"])
def test_a_link_in_the_place_of_a_folder_is_named(tmp_path: Path, name: str) -> None:
    """A save that would go through a link says which one it is and what to do."""
    (tmp_path / "theirs").mkdir()
    storage = tmp_path / "storage"
    (storage / name).parent.mkdir(parents=True)
    (storage / name).symlink_to(tmp_path / "theirs")
    with pytest.raises(StorageUnusable, match=rf"{name} is a symbolic link where a folder is needed: move it away"):
        opened(storage).save("w", "a", 1)
    assert not list((tmp_path / "theirs").iterdir())


def test_folders_that_may_be_links(tmp_path: Path) -> None:
    """The storage's folder and a workflow's may be links that their owner made."""
    for name in ("disk", "scratch"):
        (tmp_path / name).mkdir()
    (tmp_path / "storage").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "w").symlink_to(tmp_path / "scratch")
    storage = opened(tmp_path / "storage")
    storage.save("w", "parts", Parts("text"))
    assert storage.read_task("w", "parts").text == "text"
    assert storage.list_tasks("w") == ["parts"]
    assert storage.verify().ok
    storage.remove_workflow("w")
    assert not list((tmp_path / "scratch").iterdir())
    assert (tmp_path / "disk" / "w").is_symlink()


def _populated(path: Path) -> FileStorage:
    """Return a storage with results, side files, segments that are old, and a compacted one."""
    storage = opened(path)
    storage.save("w", "a", 1)
    storage.catalog.tasks().fetchall()
    age(storage)
    storage.catalog.compact()
    opened(path).save("w", "b", 2)
    storage.save("w", "parts", Parts("text"))
    storage.save("v", "c", 3)
    storage.catalog.tasks().fetchall()
    return storage


_DEEDS: tuple[Callable[[FileStorage], object], ...] = (
    lambda storage: storage.save("w", "new", 5),
    lambda storage: storage.save("w", "parts", Parts("more")),
    lambda storage: storage.save("w", "a", 1),
    lambda storage: storage.read_task("w", "parts"),
    lambda storage: storage.read_task("w", "a"),
    lambda storage: storage.list_tasks("w"),
    lambda storage: storage.catalog.tasks().fetchall(),
    lambda storage: storage.verify(),
    lambda storage: storage.verify(repair=True),
    lambda storage: storage.catalog.rebuild(),
    lambda storage: storage.gc(keep_last=1, dry_run=False),
    lambda storage: storage.remove_task("w", "parts"),
    lambda storage: storage.remove_task("w", pattern="*"),
    lambda storage: storage.remove_workflow("w"),
    lambda storage: repr(storage) + str(storage._repr_html_()),
)


@pytest.mark.slow
@pytest.mark.parametrize("seed", seeds(1, *range(2, 20)))
def test_random_trees(tmp_path: Path, seed: int) -> None:
    """Whatever stands wherever: nothing hangs, nothing of others changes, and results elsewhere are read."""
    chance = random.Random(seed)
    whole = tmp_path / "whole"
    _populated(whole)
    for trial in range(12):
        theirs = their_folder(tmp_path / f"theirs {trial}")
        place = tmp_path / f"storage {trial}"
        shutil.copytree(whole, place)
        places = [path for path in place.rglob("*") if path.name != "v" and path.parent.name != "v"]
        for path in chance.sample(sorted(places), chance.choice((1, 1, 1, 2, 3))):
            kind = chance.choice(sorted(KINDS.keys() - {"a file"}))  # what is damaged is another matter
            if path.parent == place and kind == "a link to a folder":
                continue  # the folder of a workflow may be one, which its owner made
            if path.parent.is_dir() and path.parent.resolve().is_relative_to(place):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
                KINDS[kind](path, theirs)
                age_of = chance.choice((None, 1e9))
                if age_of and not path.is_symlink():
                    os.utime(path, (age_of, age_of))
        before = content(theirs)
        with nothing_hangs():
            storage = opened(place)
            for deed in chance.sample(_DEEDS, 5):
                with suppress(FunctionFuseError, CatalogError):  # what else is raised fails the test
                    deed(storage)
            assert storage.read_task("v", "c") == 3
            assert storage.list_tasks("v") == ["c"]
        assert content(theirs) == before
        shutil.rmtree(place)
        shutil.rmtree(theirs)
