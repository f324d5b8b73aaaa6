"""Verification and repair of storages in buckets, whose objects were damaged by hand."""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import fsspec
import pytest

from catalog.store.open import open_store
from catalog.verify.report import KINDS, Verification
from functionfuse.errors import TaskNotFound
from functionfuse.storage import storage_factory
from functionfuse.storage.base import Storage
from functionfuse.testing import Buffer, Note, NoteSerializer

pytest.importorskip("s3fs", reason="remote storages are tested where s3fs is installed")

ID = "01906d6e-0000-7000-8000-000000000000"


class Objects:
    """What is below a prefix, as somebody with a client of his own sees and changes it."""

    def __init__(self, storage: Storage) -> None:
        bucket = storage._store
        self._fs, self._root = bucket.filesystem, bucket.prefix

    def keys(self, begin: str = "") -> set[str]:
        """Return all keys that begin so, but the catalog's own."""
        self._fs.invalidate_cache()
        cut = len(self._root.strip("/")) + 1
        found = {path.strip("/")[cut:] for path in self._fs.find(self._root)}
        return {key for key in found if key.startswith(begin) and not key.startswith(".catalog/")}

    def __getitem__(self, key: str) -> bytes:
        return bytes(self._fs.cat_file(f"{self._root}/{key}"))

    def __setitem__(self, key: str, data: bytes) -> None:
        self._fs.pipe_file(f"{self._root}/{key}", data)

    def __delitem__(self, key: str) -> None:
        self._fs.rm_file(f"{self._root}/{key}")


@pytest.fixture(params=["moto", "memory"])
def storage(request: pytest.FixtureRequest) -> Iterator[Storage]:
    """Return a storage with results of several kinds: in S3, and in the memory of this process."""
    name = uuid.uuid4().hex
    config = {"kind": "fsspec", "options": {"url": f"memory://{name}/storage"}}
    if request.param == "moto":
        endpoint = request.getfixturevalue("motoserver").endpoint
        config = endpoint.config(endpoint.prefix())
    storage = storage_factory(config)
    storage.register_persistent_serializers(NoteSerializer)
    storage.save("w", "number", 1)
    storage.save("w", "large", Buffer(random.Random(5).randbytes(600_000)))
    storage.save("w", "a/b", "encoded")
    storage.save("v", "note", [Note("one"), Note("two")])
    yield storage
    with suppress(FileNotFoundError):
        fsspec.filesystem("memory").rm(f"/{name}", recursive=True)


@pytest.fixture
def objects(storage: Storage) -> Objects:
    """Return its objects."""
    return Objects(storage)


def found(report: Verification) -> dict[str, list[str]]:
    """Return the paths of all findings by kind."""
    return {kind: [each.path for each in getattr(report, kind)] for kind in KINDS if getattr(report, kind)}


def names(storage: Storage) -> set[str]:
    """Return what the catalog lists."""
    return {f"{workflow}/{task}" for workflow, task in storage.catalog.tasks().project("workflow, task").fetchall()}


def test_a_sound_storage(storage: Storage, objects: Objects) -> None:
    """Nothing is found, also after overwrites and removals, and repairing changes no object."""
    storage.save("w", "number", 2)
    storage.remove_task("w", "a/b")
    storage.save("v", "note", [Note("three")])
    before = objects.keys()
    size = sum(len(objects[key]) for key in before if "bigdata" not in key)
    report = storage.catalog.verify(repair=True)
    assert report == Verification(workflows=2, results=3, side_files=1, size=size, unhashed=1, repaired=True)
    assert objects.keys() == before


@pytest.mark.parametrize(
    ("key", "damage"),
    [
        pytest.param("w/large", lambda data: data[:300_000] + b"!" + data[300_001:], id="a byte of a buffer"),
        pytest.param("w/large", lambda data: data[:1000], id="cut"),
        pytest.param("w/number", lambda data: data[:-60] + b"?" + data[-59:], id="footer"),
        pytest.param("w/a%2Fb", lambda data: b"", id="empty"),
        pytest.param("v/note", lambda data: b"!" + data[1:], id="with side files"),
    ],
)
def test_damaged(storage: Storage, objects: Objects, key: str, damage: Any) -> None:
    """A damaged object is found; a repair moves it and its side files into quarantine, with a note, and records it."""
    objects[key] = damage(objects[key])
    data, before = objects[key], objects.keys()
    report = storage.verify()
    assert found(report) == {"damaged": [key]}
    assert objects.keys() == before
    sides = {side.rpartition("/")[2] for side in objects.keys("v/bigdata/")} if key == "v/note" else set()
    (finding,) = storage.verify(repair=True).damaged
    to = finding.done.removeprefix("moved to ")
    assert objects[to] == data
    assert json.loads(objects["/".join(to.split("/")[:2]) + "/about.json"])["path"] == key
    moved = objects.keys(to.rpartition("/")[0] + "/bigdata/")
    assert {side.rpartition("/")[2] for side in moved} == sides
    if sides:
        assert objects.keys("v/bigdata/") == set()
    assert storage.verify().ok
    task = finding.task
    with pytest.raises(TaskNotFound):
        storage.read_task(finding.workflow, task)
    rows = storage.catalog.sql("SELECT task, details->>'reason' FROM events WHERE event = 'remove'").fetchall()
    assert rows == [(task, "quarantined")]
    storage.save(finding.workflow, task, "anew")
    assert storage.verify().ok


def test_missing(storage: Storage, objects: Objects) -> None:
    """An object that was deleted by hand is missing; a repair records the loss, which is known to a new index, too."""
    del objects["w/number"]
    for _ in range(2):
        assert found(storage.verify()) == {"missing": ["w/number"]}
    assert storage.verify(repair=True).missing[0].done == "its loss is recorded as a removal"
    assert storage.verify().ok
    storage.catalog.rebuild()
    assert storage.verify().ok
    assert names(storage) == {"w/large", "w/a/b", "v/note"}


def test_unlisted(storage: Storage, objects: Objects) -> None:
    """An object that was copied in by hand is unlisted until a repair; an older one that was put back, too."""
    before = objects["w/number"]
    storage.save("w", "number", 2)
    assert storage.catalog.tasks(task="number").project("value").fetchall() == [("2",)]
    objects["w/number"] = before
    objects["u/copy"] = objects["w/a%2Fb"]
    assert found(storage.verify()) == {"unlisted": ["u/copy", "w/number"]}
    report = storage.verify(repair=True)
    assert {each.done for each in report.unlisted} == {"taken into the catalog"}
    assert storage.verify().ok
    assert names(storage) == {"w/number", "w/large", "w/a/b", "v/note", "u/copy"}
    assert storage.catalog.tasks(task="number").project("value").fetchall() == [("1",)]
    assert storage.read_task("u", "copy") == "encoded"


def test_side_files(storage: Storage, objects: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    """Side files that are gone are lost; those that nobody declares are orphans, and moved after an hour of quiet."""
    lost, cut = sorted(objects.keys("v/bigdata/"))
    del objects[lost]
    objects[cut] = b""
    folder = lost.rpartition("/")[0]
    objects[f"{folder}/extra"] = b"undeclared"
    objects[f"v/bigdata/{ID}/zarr/0.0"] = b"of a killed save"
    objects["v/bigdata/older"] = b"of the older format, perhaps"
    expected = sorted([f"v/bigdata/{ID}", f"{folder}/extra"])
    report = storage.verify(repair=True)
    assert found(report) == {"lost": [lost, cut], "orphans": expected}
    assert [each.reason.partition(";")[0] for each in report.lost] == ["it is gone", "it has 0 bytes, declared are 3"]
    assert {(each.perhaps_in_use, each.done) for each in report.orphans} == {(True, "left: it may be in use")}
    monkeypatch.setattr("catalog.verify.side_files.QUIET", -10.0)  # the server's clock has whole seconds
    report = storage.verify(repair=True)
    for each in report.orphans:
        assert not objects.keys(each.path)
        assert objects.keys(each.done.removeprefix("moved to "))
    assert found(storage.verify()) == {"lost": [lost, cut]}
    assert objects["v/bigdata/older"]
    assert "v/note" in names(storage)


def test_strangers(storage: Storage, objects: Objects) -> None:
    """Objects that are no results are told of and never touched."""
    objects["w/notes.txt"] = b"not a result"
    report = storage.verify(repair=True)
    assert found(report) == {"strangers": ["w/notes.txt"]}
    assert report.ok
    assert objects["w/notes.txt"] == b"not a result"


@pytest.mark.parametrize("when", ["before", "between"])
def test_an_overwrite_in_the_last_moment(
    storage: Storage, objects: Objects, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """What is saved anew just before the damaged object is copied, or before that is deleted, stays."""
    objects["w/number"] = b"damaged"
    other = storage_factory(storage_config(storage))
    bucket = open_store(storage._store.root, storage._store.options)
    copy = bucket.copy

    def late(key: str, to: str, tag: str) -> None:
        if when == "between":
            copy(key, to, tag)
        save_elsewhere(other)
        if when == "before":
            copy(key, to, tag)

    monkeypatch.setattr(bucket, "copy", late)
    assert [each.done for each in storage.verify(repair=True).damaged] == ["left: it was saved anew"]
    assert storage.read_task("w", "number") == "anew"
    assert storage.verify().ok
    assert "w/number" in names(storage)


def storage_config(storage: Storage) -> dict[str, Any]:
    """Return the configuration of a storage at the same place."""
    store = storage._store
    return {"kind": "fsspec", "options": {"url": store.root, "storage_options": dict(store.options or {})}}


def save_elsewhere(storage: Storage) -> None:
    """Save as another process does: this one's journal does one deed of a name after another."""
    from catalog.journal.upload import ObjectJournal

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "_journal", ObjectJournal(storage._store))
        storage.save("w", "number", "anew")


def test_a_large_object_is_moved_in_parts(storage: Storage, objects: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is too large for one request that copies comes into quarantine all the same."""
    monkeypatch.setattr("catalog.store.s3._LARGEST_COPY", 100_000)
    data = objects["w/large"][:500_000]
    objects["w/large"] = data
    (finding,) = storage.verify(repair=True).damaged
    assert objects[finding.done.removeprefix("moved to ")] == data
    assert storage.verify().ok


def test_who_may_read_only(s3server: Any) -> None:
    """Who may only read finds what is wrong; the repair is refused, finding by finding, and changes nothing."""
    path = s3server.endpoint.prefix()
    owner = storage_factory(s3server.endpoint.config(path))
    for name in ("gone", "damaged", "sound"):  # of the last one only its object tells that it came true
        owner.save("w", name, name)
    objects = Objects(owner)
    objects["w/damaged"] = b"damaged"
    objects["w/copy"] = objects["w/sound"]
    del objects["w/gone"]
    before = s3server.endpoint.objects(path)
    reader = storage_factory(s3server.reader.config(path))
    expected = {"missing": ["w/gone"], "unlisted": ["w/copy"], "damaged": ["w/damaged"]}
    assert found(reader.verify()) == expected
    report = reader.verify(repair=True)
    assert found(report) == expected
    for finding in (*report.missing, *report.damaged):
        assert "access is refused" in finding.done
    assert s3server.endpoint.objects(path) == before
    assert {name.partition("/")[2] for name in names(reader)} >= {"sound", "copy"}
    del expected["unlisted"]  # the index, which is the same for both here, knows it now
    assert found(owner.verify()) == expected
