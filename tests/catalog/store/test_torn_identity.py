"""A power cut may leave ``storage.json`` empty or torn: then it counts as absent."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from functionfuse.storage.filestorage import FileStorage
from workshop import root_of, task_names

TORN: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda whole: b"",
    "cut": lambda whole: whole[: len(whole) // 2],
    "zeros": lambda whole: bytes(len(whole)),
    "another value": lambda whole: b"[1]",
    "no format": lambda whole: b'{"uuid": "x"}',
    "deep": lambda whole: b"[" * 100_000,
}


@pytest.mark.slow
@pytest.mark.parametrize("how", TORN)
@pytest.mark.parametrize("asks_first", [True, False], ids=["a question first", "a save first"])
def test_a_torn_identity_is_as_if_absent(storage: FileStorage, how: str, asks_first: bool) -> None:
    """Saves and questions go on, with all results, and a whole one is there again."""
    storage.save("w", "a", 1)
    storage.list_tasks("w")
    path = root_of(storage) / ".catalog" / "storage.json"
    before = json.loads(path.read_bytes())
    path.write_bytes(TORN[how](path.read_bytes()))
    other = FileStorage(root_of(storage))
    if asks_first:
        assert task_names(other.catalog) == [("w", "a")]
    other.save("w", "b", 2)
    assert task_names(other.catalog) == [("w", "a"), ("w", "b")]
    assert (other.read_task("w", "a"), other.verify().ok) == (1, True)
    after = json.loads(path.read_bytes())
    assert after["format"] == before["format"]
    assert after["uuid"] != before["uuid"]


def test_a_folder_in_its_place(storage: FileStorage) -> None:
    """Questions are answered where it cannot be made."""
    storage.save("w", "a", 1)
    path = root_of(storage) / ".catalog" / "storage.json"
    path.unlink()
    path.mkdir()
    assert FileStorage(root_of(storage)).list_tasks("w") == ["a"]
