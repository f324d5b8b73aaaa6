"""Any non-empty text is a name: it becomes a safe file name, and comes back exactly."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from catalog.format.names import candidates, decode, encode, from_text, to_text
from functionfuse.errors import TaskNotFound
from functionfuse.storage.filestorage import FileStorage
from functionfuse.testing import ODD_NAMES, read_blob

ANY_CHARACTER = st.characters()  # lone surrogates and all other categories
AWKWARD = st.sampled_from(
    ["%", "%4", "%41", "%25", "%~", "/", ".", "..", "\0", "\x1f", "\x7f", "é", "\U0001f9ea", "bigdata"]
)
NAMES = st.one_of(
    st.text(ANY_CHARACTER, min_size=1, max_size=400),
    st.lists(st.one_of(AWKWARD, ANY_CHARACTER, st.sampled_from("0123456789ABCDEFabcdef~")), min_size=1).map("".join),
    st.sampled_from(
        [name * times for name in ("x", "é", "%", "\U0001f9ea", "\ud800") for times in (63, 64, 100, 255, 256)]
    ),
)

# What a file name may not hold, told without the code under test.
FORBIDDEN = {"/", "\\", "\0", *map(chr, range(32)), "\x7f"}


@given(NAMES)
@example("bigdata")
@example("%62igdata")
@example("x" * 255)
@example("x" * 256)
@example("%~" + "0" * 32)
def test_a_name_becomes_a_safe_file_name(name: str) -> None:
    """Every text is encoded to at most 255 bytes of UTF-8 that no file system and no S3 reads as anything else."""
    file_name = encode(name)
    assert 0 < len(file_name.encode("utf-8")) <= 255
    assert not FORBIDDEN & set(file_name)
    assert file_name[0] != "."
    assert file_name != "bigdata"


def escaped_size(name: str) -> int:
    """Return the bytes of a name in which each forbidden byte takes three."""
    sizes = (
        len(each.encode("utf-8", "surrogatepass"))
        * (3 if each in FORBIDDEN or each == "%" or "\ud800" <= each <= "\udfff" else 1)
        for each in name
    )
    return sum(sizes) + 2 * (name[0] == "." or name == "bigdata")


@given(NAMES)
@example("%41")
@example("a%")
def test_a_file_name_gives_its_name_back(name: str) -> None:
    """A file name decodes to exactly the name that it was made of, or, where that was cut, says so."""
    decoded = decode(encode(name))
    assert decoded == name or (decoded is None and escaped_size(name) > 255)


@given(NAMES, NAMES)
@example("%41", "A")
@example("%2541", "%41")
@example("\udcc3\udca9", "é")
@example("x" * 256, "x" * 257)
@example("x" * 256, encode("x" * 256))
@example("bigdata", "%62igdata")
def test_two_names_never_share_a_file(one: str, other: str) -> None:
    """Different names have different file names, and no candidate of one is the file of the other."""
    if one != other:
        assert encode(one) != encode(other)
        assert encode(one) not in candidates(other)


@given(NAMES)
@example("caf\udce9%")
def test_candidates_can_be_looked_up(name: str) -> None:
    """Each file name under which a name may be kept is one that the operating system takes."""
    first, *others = candidates(name)
    assert first == encode(name)
    assert others in ([], [name])
    for candidate in (first, *others):
        assert not os.path.exists(os.path.join("there is no such folder", candidate))


@given(st.text(st.characters(exclude_categories=("Cs",)), min_size=1))
@example("%41")
@example("%zz")
@example("a%C3")
def test_an_older_file_name_is_a_name(file_name: str) -> None:
    """A file name that `encode` did not make is its own name, unless it looks like one that it made."""
    name = decode(file_name)
    if name is not None:
        assert name == file_name or encode(name) == file_name


@given(st.text(ANY_CHARACTER))
@example("\U0010f8ff")
@example("\U0010f8ff00d800")
@example("\ud83d\ude00")
def test_text_for_the_catalog_is_valid_and_reversible(name: str) -> None:
    """What goes into JSON and DuckDB is valid Unicode, differs for different names, and gives the name back."""
    text = to_text(name)
    assert from_text(text) == name
    text.encode("utf-8")
    assert "\ufffd" not in text or "\ufffd" in name


@given(st.sets(NAMES, min_size=1, max_size=6), st.sets(NAMES, min_size=1, max_size=3))
@settings(max_examples=40)
def test_names_through_a_storage(tasks: set[str], workflows: set[str]) -> None:
    """Whatever the names, a storage saves, finds, reads, tells apart and removes by them, in its own folder."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "outer" / "storage"
        storage = FileStorage(root)
        expected = {(workflow, task): (workflow, task) for workflow in workflows for task in tasks}
        for workflow, task in expected:
            storage.save(workflow, task, (workflow, task))
        assert {path.name for path in (root.parent).iterdir()} == {"storage"}
        assert all(len(path.relative_to(root).parts) == 2 for path in root.glob("[!.]*/**/*"))
        for workflow in workflows:
            assert storage.stored(workflow) == tasks
            for task in tasks:
                assert storage.file_exists(workflow, task)
                assert storage.read_task(workflow, task) == (workflow, task)
        leaving = sorted(tasks)[0]
        for workflow in workflows:
            storage.remove_task(workflow, leaving)
            assert storage.stored(workflow) == tasks - {leaving}
            storage.remove_workflow(workflow)
            assert not any(storage.file_exists(workflow, task) for task in tasks)
        assert [path.name for path in root.iterdir()] == [".catalog"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ODD_NAMES, ids=lambda name: ascii(name)[1:-1][:20])
def test_an_odd_name(tmp_path: Path, name: str) -> None:
    """An odd name of a task and of its workflow goes through saving, listing, reading, the catalog and removing."""
    root = tmp_path / "outer" / "storage"
    storage = FileStorage(root)
    storage.save(name, name, "odd")
    storage.save(name, "plain", "plain")
    (blob,) = (path for path in root.glob("[!.]*/*") if path.name != "plain")
    record = read_blob(blob.read_bytes()).record
    assert from_text(record["workflow"]) == from_text(record["task"]) == name
    assert sorted(os.listdir(tmp_path)) == ["outer"]
    assert os.listdir(root.parent) == ["storage"]
    both = {name, "plain"}
    assert storage.list_tasks(name) == sorted(both)
    assert storage.stored(name) == both
    assert {row[:2] for row in storage.catalog.tasks().fetchall()} == {(to_text(name), to_text(each)) for each in both}
    storage.save(name, name, "odd again")
    assert FileStorage(root).read_task(name, name) == "odd again"
    storage.remove_task(name, name)
    with pytest.raises(TaskNotFound):
        storage.read_task(name, name)
    assert storage.list_tasks(name) == ["plain"]
    storage.remove_workflow(name)
    assert storage.list_tasks(name) == []
    assert os.listdir(root) == [".catalog"]


@pytest.mark.parametrize("name", ["x" * 300, "é" * 200, "%" * 120, "\ud800" * 60])
def test_a_long_name_comes_back_when_only_the_blobs_are_left(tmp_path: Path, name: str) -> None:
    """A name that was cut is read from the blob's footer: listed, matched and removed, without any catalog."""
    storage = FileStorage(tmp_path)
    storage.save("w", name, 1)
    storage.save("w", name + "!", 2)
    for path in sorted((tmp_path / ".catalog").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    again = FileStorage(tmp_path)
    assert again.stored("w") == {name, name + "!"}
    assert again.list_tasks("w") == [name, name + "!"]
    again.remove_task("w", pattern="*!")
    assert again.stored("w") == {name}
    assert again.read_task("w", name) == 1


@pytest.mark.parametrize("workflow", ["x" * 300, "..", "w/v"])
def test_a_workflow_comes_back_when_only_the_blobs_are_left(tmp_path: Path, workflow: str) -> None:
    """An encoded workflow name, cut or not, is read from the blobs' footers by a catalog that is built anew."""
    FileStorage(tmp_path).save(workflow, "t", 1)
    for path in sorted((tmp_path / ".catalog").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    storage = FileStorage(tmp_path)
    assert [row[:2] for row in storage.catalog.tasks().fetchall()] == [(workflow, "t")]
    assert storage.list_tasks(workflow) == ["t"]


def test_a_pattern_is_matched_with_the_name_itself(tmp_path: Path) -> None:
    """Globs see the names as they were given, not their file names, in listing and in removing."""
    storage = FileStorage(tmp_path)
    for name in ("a/b", "a/c", "a%2Fb", "\ud800x"):
        storage.save("w", name, 1)
    assert storage.list_tasks("w", "a/?") == ["a/b", "a/c"]
    assert storage.list_tasks("w", "*%*") == ["a%2Fb"]
    storage.remove_task("w", pattern="a/*")
    assert storage.list_tasks("w") == ["a%2Fb", "\ud800x"]
    storage.remove_task("w", pattern="?x")
    assert storage.list_tasks("w") == ["a%2Fb"]
