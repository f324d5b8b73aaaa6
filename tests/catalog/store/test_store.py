"""One contract for all stores: a disk, a bucket of S3, and two of the other places of fsspec."""

from __future__ import annotations

import pickle
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from catalog.store.base import Changed, Store
from catalog.store.identity import IDENTITY_FILE, claim_identity, ensure_identity, read_identity
from catalog.store.open import open_store

LARGE = bytes(range(256)) * (70 << 10)  # bytes: more than one request sends or reads


@pytest.fixture(params=["disk", "s3", "file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """Return an empty store of each kind."""
    if request.param == "disk":
        yield open_store(tmp_path / "storage")
        return
    fsspec = pytest.importorskip("fsspec")
    if request.param == "s3":
        pytest.importorskip("s3fs", reason="buckets are tested where s3fs is installed")
        endpoint = request.getfixturevalue("motoserver").endpoint
        config: dict[str, Any] = endpoint.config(endpoint.prefix())
        yield open_store(f"s3:/{config['options']['path']}", config["options"]["s3fs"])
    elif request.param == "file":
        yield open_store(f"file://{tmp_path}/storage")
    else:
        name = uuid.uuid4().hex
        yield open_store(f"memory://{name}/storage")
        fsspec.filesystem("memory").store.clear()


def keys(store: Store, prefix: str, deep: bool = True) -> list[str]:
    """Return the keys that are listed."""
    return [entry.key for entry in store.ls(prefix, deep).entries]


def tag_of(store: Store, key: str) -> str:
    """Return the tag of a file that is there."""
    entry = store.stat(key)
    assert entry is not None
    return entry.tag


def write(store: Store, key: str, data: bytes) -> None:
    """Write a file as a result is written."""
    writer = store.writer(key)
    writer.open()
    for begin in range(0, len(data), 5 << 20):
        writer.write([data[begin : begin + (5 << 20)]])
    writer.sync()
    writer.close()
    assert writer.publish() is False
    assert writer.discard() is False


@pytest.mark.parametrize("data", [b"", b"small", LARGE], ids=["empty", "small", "large"])
def test_what_is_written_is_read(store: Store, data: bytes) -> None:
    """Every way to read gives the bytes that every way to write got, over what was there before."""
    for put in (store.put, lambda key, data: write(store, key, data)):
        put("w/t", b"before")
        put("w/t", data)
        assert store.get("w/t") == data
        for is_mapped in (True, False):
            assert bytes(store.load("w/t", is_mapped)) == data
        entry = store.stat("w/t")
        assert entry is not None
        tail = store.tail("w/t", 100)
        assert (tail.data, tail.size, tail.tag) == (data[-100:], len(data), entry.tag)
        assert (entry.key, entry.size) == ("w/t", len(data))
        assert abs(tail.modified - entry.modified) < 1
        with store.open("w/t") as file:
            assert (file.size, file.tag) == (len(data), entry.tag)
            assert file.tail(5_000) == data[-5_000:]
            assert file.tail(0) == b"" or not data
            assert file.read(0, 10) == data[:10]
            assert file.read(len(data), 10) == b""
        with store.local_files(["w/t", "w/t"]) as paths:
            assert [Path(path).read_bytes() for path in paths] == [data, data]
        if data:
            assert store.span("w/t", 1, 4, entry.tag) == data[1:4]


def test_what_is_not_there(store: Store) -> None:
    """A file that is not there is `FileNotFoundError` for whoever reads it, and None, or nothing, for who looks."""
    store.put("w/other", b"1")
    for ask in (
        store.get,
        store.load,
        store.open,
        lambda key: store.tail(key, 1),
        lambda key: store.span(key, 0, 1, ""),
    ):
        with pytest.raises(FileNotFoundError):
            ask("w/t")  # type: ignore[operator]
    with pytest.raises(FileNotFoundError), store.local_files(["w/other", "w/t"]):
        pass
    assert store.stat("w/t") is None
    assert (store.ls("none/").entries, store.names("none"), store.has_folder("none")) == ([], [], False)
    store.move_all("w/t", "w/elsewhere")
    assert store.names("w") == ["other"]


def test_nothing_is_seen_before_it_is_published(store: Store) -> None:
    """A file that is being written, or was given up, is not there, and leaves nothing behind."""
    store.prepare("w")
    for data in (b"small", LARGE):
        writer = store.writer("w/t")
        writer.open()
        writer.write([data, memoryview(data)])
        assert store.stat("w/t") is None
        assert store.names("w") == []
        writer.sync()
        writer.close()
        assert writer.discard() is True
        assert store.stat("w/t") is None
    assert keys(store, "") == [IDENTITY_FILE]


def test_listings(store: Store) -> None:
    """A prefix lists what begins with it, in order; not deep, what lies deeper is a folder."""
    for key in ("a/1", "a/2", "a/deep/3", "a/.hidden", "ab/4", ".catalog/journal/5"):
        store.put(key, key.encode())
    assert keys(store, "a/") == ["a/.hidden", "a/1", "a/2", "a/deep/3"]
    assert keys(store, "a/deep/") == ["a/deep/3"]
    assert keys(store, "a/", deep=False) == ["a/.hidden", "a/1", "a/2"]
    assert store.ls("a/", deep=False).folders == ["a/deep"]
    assert keys(store, ".catalog/") == [".catalog/journal/5"]
    assert keys(store, "a/1") == ["a/1"]
    assert sorted(store.names("a")) == ["1", "2"]
    assert sorted(name for name, _ in store.folders()) == ["a", "ab"]
    assert [store.has_folder(name) for name in ("", "a", "ab", "b", ".catalog")] == [True, True, True, False, True]
    for entry in store.ls("a/").entries:
        assert (entry.size, entry.tag) == (len(entry.key), tag_of(store, entry.key))


def test_a_tag_tells_of_an_overwrite(store: Store) -> None:
    """Whoever read the old file gets nothing of the new one, and does not delete, copy or move it."""
    store.put("w/t", b"old" * 1000)
    old = tag_of(store, "w/t")
    store.put("w/t", b"other" * 1000)
    assert tag_of(store, "w/t") != old
    if store.tells_changes:
        with pytest.raises(Changed):
            store.span("w/t", 0, 10, old)
    for act in (
        lambda: store.delete("w/t", old),
        lambda: store.copy("w/t", "w/copy", old),
        lambda: store.move("w/t", "w/moved", old),
    ):
        with pytest.raises(Changed):
            act()
    assert store.names("w") == ["t"]
    assert store.get("w/t") == b"other" * 1000


def test_copies_moves_and_removals(store: Store) -> None:
    """A file is there under its new key, whether that has a folder yet or not, and gone under the old one."""
    store.put("w/t", b"1")
    store.copy("w/t", "copies/deep/t", tag_of(store, "w/t"))
    assert (store.get("w/t"), store.get("copies/deep/t")) == (b"1", b"1")
    store.move("w/t", "moved/t", tag_of(store, "w/t"))
    assert store.names("w") == []
    assert store.get("moved/t") == b"1"
    store.move_all("copies", "others")
    store.move_all("moved/t", "others/u")
    assert keys(store, "others/") == ["others/deep/t", "others/u"]
    assert store.delete("others/u") is False
    assert store.delete("others/deep/t", tag_of(store, "others/deep/t")) is False
    assert keys(store, "others/") == []
    store.remove_folder("w")
    assert store.names("w") == []
    if store.is_local:
        assert not store.has_folder("w")


def test_a_folder_with_something_in_it_stays(store: Store) -> None:
    """Another process may be saving there."""
    store.put("w/t", b"1")
    store.remove_folder("w")
    assert store.get("w/t") == b"1"


def test_of_two_who_create_one_does(store: Store) -> None:
    """What is there is not replaced."""
    store.create("w/t", b"first")
    with pytest.raises(FileExistsError):
        store.create("w/t", b"second")
    assert store.get("w/t") == b"first"


def test_ages(store: Store) -> None:
    """A file that was just written is hardly older than nothing, by the clock that dates it."""
    store.prepare("w")
    store.put("w/t", b"1")
    assert -2 < store.unchanged_for("w/t") < 60
    assert -2 < store.unchanged_for("w") < 60
    entry = store.stat("w/t")
    assert entry is not None
    assert abs(store.now() - entry.modified) < 60


def test_map_keeps_the_order(store: Store) -> None:
    """Several are asked at once if it pays, and each answer has its place; an error comes through."""
    for number in range(20):
        store.put(f"w/{number}", str(number).encode())
    assert list(store.map(lambda number: store.get(f"w/{number}"), range(20))) == [b"%d" % each for each in range(20)]
    with pytest.raises(FileNotFoundError):
        list(store.map(store.get, ["w/1", "w/none"]))


def test_prefetching(store: Store) -> None:
    """What is fetched before it is needed is what is there, also if it was written anew or deleted meanwhile."""
    for number in range(20):
        write(store, f"w/{number}", b"old")
    with store.prefetch([f"w/{number}" for number in range(20)]):
        write(store, "w/7", b"new")
        store.delete("w/8")
        with pytest.raises(FileNotFoundError):
            store.load("w/8")
        found = [bytes(store.load(f"w/{number}")) for number in range(20) if number != 8]
    assert found == [b"new" if number == 7 else b"old" for number in range(20) if number != 8]


def test_it_pickles(store: Store) -> None:
    """A store is the same place after a journey; of a URL, a process has one."""
    store.put("w/t", b"1")
    again = pickle.loads(pickle.dumps(store))
    assert again.get("w/t") == b"1"
    assert (again is store) is not store.is_local
    assert open_store(store.root, store.options).address == store.address


def test_an_identity_is_given_once(store: Store) -> None:
    """A place has none before, one afterwards, and keeps it; one of an older layout is lifted by who writes."""
    assert read_identity(store) is None
    identity = ensure_identity(store)
    assert ensure_identity(store) == claim_identity(store) == read_identity(store) == identity
    store.put(IDENTITY_FILE, store.get(IDENTITY_FILE).replace(b'"format": 2', b'"format": 1'))
    assert ensure_identity(store).format == 1
    assert claim_identity(store) == read_identity(store) == identity
    store.put(IDENTITY_FILE, b"torn")
    assert read_identity(store) is None
    assert ensure_identity(store).uuid != identity.uuid
