"""Storages in S3: who may, what a run hands over, processes, and errors that say what is wrong."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_older_format import older

from catalog import Catalog
from catalog.errors import CatalogUnusable
from catalog.journal import upload as journal
from catalog.store import objects
from catalog.store import retry as patience
from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.errors import InvalidConfiguration, StorageUnusable, TaskNotFound
from functionfuse.serializers.numpyarray import NumpySerializer
from functionfuse.storage import storage_factory
from functionfuse.storage.base import Storage
from processes import at_once
from s3faults import Fault, Lose, Refuse, Request

pytest.importorskip("s3fs", reason="S3 is tested where s3fs is installed")

# Forking beside DuckDB's threads is what one of these tests is about.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.fixture
def storage(motoserver: Any) -> Storage:
    """Return a storage under a fresh prefix of a light server."""
    return storage_factory(motoserver.endpoint.config(motoserver.endpoint.prefix()))


@pytest.mark.parametrize("form", ["/{}", "{}", "s3://{}", "s3://{}/"])
def test_ways_to_write_a_path(motoserver: Any, form: str) -> None:
    """A path means the same with and without slash and scheme."""
    path = motoserver.endpoint.prefix().strip("/")
    storage_factory(motoserver.endpoint.config(path)).save("w", "t", 1)
    found = storage_factory(motoserver.endpoint.config(form.format(path)))
    assert found.read_task("w", "t") == 1
    assert found.list_tasks("w") == ["t"]


@pytest.mark.parametrize("options", [{"path": ""}, {"path": "/"}, {"path": 3}, {"path": "/b", "s3fs": "key"}])
def test_options_that_mean_nothing(options: dict[str, Any]) -> None:
    """A path without a bucket, and arguments that are no dictionary, are refused by name."""
    with pytest.raises(InvalidConfiguration, match=r"path|s3fs"):
        storage_factory({"kind": "S3", "options": options})


@pytest.mark.parametrize("url", ["results", "memory://", 5])
def test_urls_that_are_none(url: Any) -> None:
    """What is no URL is refused."""
    with pytest.raises(InvalidConfiguration, match="url"):
        storage_factory({"kind": "fsspec", "options": {"url": url}})


# Refused, missing, unreachable


def test_wrong_credentials(s3server: Any) -> None:
    """A wrong secret is told as such, at once, by every call."""
    config = s3server.endpoint.config(s3server.endpoint.prefix())
    config["options"]["s3fs"]["secret"] = "wrong"
    expect_at_once(storage_factory(config), "access is refused")


def test_no_credentials(s3server: Any) -> None:
    """Without credentials the error says where they come from."""
    config = s3server.endpoint.config(s3server.endpoint.prefix())
    del config["options"]["s3fs"]["key"], config["options"]["s3fs"]["secret"]
    expect_at_once(storage_factory(config), "no credentials")


def test_no_bucket(s3server: Any) -> None:
    """A bucket that is not there is no task that is not there."""
    expect_at_once(storage_factory(s3server.endpoint.config("/no-such-bucket/prefix")), "there is no bucket")


def test_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address at which nobody listens is told as soon as the patience with one that never answered is over."""
    monkeypatch.setattr(patience, "FIRST_PATIENCE", 0.0)
    options = {"endpoint_url": "http://127.0.0.1:9", "key": "k", "secret": "s"}
    storage = storage_factory({"kind": "S3", "options": {"path": "/bucket/prefix", "s3fs": options}})
    with pytest.raises(StorageUnusable, match="cannot be reached"):
        storage.save("w", "t", 1)


def expect_at_once(storage: Storage, message: str) -> None:
    """Check that whatever is asked of a storage, it tells what is wrong, and tries nothing again."""
    for ask in (
        lambda: storage.save("w", "t", 1),
        lambda: storage.read_task("w", "t"),
        lambda: storage.list_tasks("w"),
    ):
        with pytest.raises(StorageUnusable, match=message) as caught:
            ask()
        assert isinstance(caught.value.__cause__, CatalogUnusable)
        assert caught.value.__cause__.tries == 1


def test_who_may_read_only(s3server: Any) -> None:
    """Credentials for reading are enough to read, list and ask; a save is refused, and says so."""
    path = s3server.endpoint.prefix()
    storage_factory(s3server.endpoint.config(path)).save("w", "t", {"loss": 1})
    reader = storage_factory(s3server.reader.config(path))
    assert reader.read_task("w", "t") == {"loss": 1}
    assert reader.list_tasks("w") == ["t"]
    assert reader.catalog.sql("SELECT value->>'loss' FROM tasks").fetchall() == [("1",)]
    with pytest.raises(StorageUnusable, match="refused"):
        reader.save("w", "t", 2)
    assert reader.read_task("w", "t") == {"loss": 1}


def test_a_public_bucket(s3server: Any) -> None:
    """A public bucket is read and asked without credentials."""
    path = s3server.endpoint.prefix("public")
    storage_factory(s3server.endpoint.config(path)).save("w", "t", 1)
    public = storage_factory(s3server.anonymous.config(path))
    assert public.read_task("w", "t") == 1
    assert public.list_tasks("w") == ["t"]


def test_a_catalog_by_its_url(storage: Storage, motoserver: Any) -> None:
    """The catalog is opened by URL; where nothing was ever saved it says so."""
    storage.save("w", "t", 1)
    opened = Catalog.open(storage.catalog.path, storage_options=motoserver.endpoint.s3fs())
    assert opened.names("w") == ["t"]
    with pytest.raises(CatalogUnusable, match="there is no storage"):
        Catalog.open("s3://results/nothing-here", storage_options=motoserver.endpoint.s3fs()).names("w")


# Runs


@workflow
def noise(size: int) -> np.ndarray[Any, Any]:
    """Return an array that cannot be compressed."""
    return np.random.default_rng(0).random(size)


@workflow
def spoiled(array: np.ndarray[Any, Any]) -> float:
    """Change the argument in place."""
    array += 1
    return float(array[0])


@pytest.mark.parametrize("size", [10, 10_000, 4_000_000])
def test_what_a_node_changes_is_stored_as_it_was(storage: Storage, size: int) -> None:
    """A result that the next node changes in place is stored as its own node returned it, whatever its size."""
    array = noise(size).set_name("array")
    local = LocalWorkflow(spoiled(array).set_name("after"), workflow_name="w")
    local.set_storage(storage)
    assert local.run() > 1
    assert np.array_equal(storage.read_task("w", "array"), np.random.default_rng(0).random(size))


def test_a_run_that_cannot_store(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A result that cannot be uploaded fails the run and is named; what was uploaded is there."""
    bucket = storage._store
    put = bucket.put

    def refuse(key: str, data: bytes) -> bool:
        if key.endswith("/w/n3") or key == "w/n3":
            raise CatalogUnusable("the server is full")
        return put(key, data)

    local = LocalWorkflow(*[noise(n).set_name(f"n{n}") for n in range(6)], workflow_name="w")
    local.set_storage(storage)
    with monkeypatch.context() as patch:
        patch.setattr(bucket, "put", refuse)
        with pytest.raises(StorageUnusable, match=r"task 'n3' of workflow 'w'.*full"):
            local.run()
    assert storage.list_tasks("w") == ["n0", "n1", "n2", "n4", "n5"]
    assert storage.catalog.runs().project("status").fetchall() == [("failed",)]
    assert len(local.run()) == 6
    assert storage.list_tasks("w") == [f"n{n}" for n in range(6)]


def test_a_question_waits_for_what_was_handed_over(storage: Storage) -> None:
    """A question of the process that runs knows all that the run has handed over until then."""
    found: list[int] = []

    @workflow
    def count(n: int) -> int:
        found.append(len(storage.list_tasks("w")))
        return n

    nodes = [count(n).set_name(f"n{n}") for n in range(5)]
    local = LocalWorkflow(*nodes, workflow_name="w")
    local.set_storage(storage)
    local.run()
    assert found == [0, 1, 2, 3, 4]


# Processes


@pytest.mark.slow
def test_forked_children(storage: Storage, tmp_path: Path) -> None:
    """Children that are forked from a process that used the storage save, read and ask by themselves."""
    storage.save("w", "parent", 0)

    def work(number: int) -> Callable[[], None]:
        def run() -> None:
            storage.save("w", f"child {number}", number)
            assert storage.read_task("w", "parent") == 0
            assert f"child {number}" in storage.list_tasks("w")
            (tmp_path / str(number)).touch()

        return run

    at_once(*(work(number) for number in range(3)))
    assert sorted(os.listdir(tmp_path)) == ["0", "1", "2"]
    assert storage.list_tasks("w") == ["child 0", "child 1", "child 2", "parent"]


def test_threads_that_overwrite_one_task(storage: Storage) -> None:
    """Of threads that save under one name the last in the journal is the one that is there."""
    barrier = threading.Barrier(6)

    def save(number: int) -> None:
        barrier.wait()
        storage.save("w", "t", number)

    for _ in range(3):
        threads = [threading.Thread(target=save, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        ((blob_id,),) = storage.catalog.tasks("w").project("blob_id").fetchall()
        footer = storage.footer("w", "t")
        assert footer is not None
        assert str(blob_id) == footer.blob_id


@pytest.mark.slow
def test_compaction_keeps_everything(storage: Storage) -> None:
    """The journal becomes one object; a new reader, and one that knew it before, have the same history."""
    for number in range(30):
        storage.save("w", f"t{number % 10}", number)
    storage.remove_task("w", "t0")
    history = storage.catalog.events(order_by="event_id").fetchall()
    done = storage.catalog.compact()
    assert done.segments >= 30
    assert storage.catalog.events(order_by="event_id").fetchall() == history
    storage.catalog.rebuild()
    assert storage.catalog.events(order_by="event_id").fetchall() == history
    with pytest.raises(TaskNotFound):
        storage.read_task("w", "t0")


def segments(storage: Storage) -> list[str]:
    """Return the names of the journal's segments, and of nothing else."""
    entries = storage._store.ls(".catalog/journal/").entries
    return [entry.key for entry in entries if entry.key.endswith(".ndjson")]


def test_a_backslash_in_a_name(s3server: Any) -> None:
    """Some servers take a backslash for a slash: names with one are as all others."""
    config = s3server.endpoint.config(s3server.endpoint.prefix())
    storage = storage_factory(config)
    storage.save("a\\b", "c\\d", 1)
    storage.save("a\\b", "x", 3)
    storage.save("a\\b", "\\x", 2)
    storage.save("a\\b", "\\", 4)
    assert storage.stored("a\\b") == {"c\\d", "x", "\\", "\\x"}
    storage.catalog.rebuild()
    assert storage.list_tasks("a\\b") == ["\\", "\\x", "c\\d", "x"]
    assert [storage.read_task("a\\b", name) for name in ("x", "\\x", "\\")] == [3, 2, 4]
    assert storage_factory(config).read_task("a\\b", "c\\d") == 1
    assert storage.verify().ok
    storage.remove_task("a\\b", pattern="*")
    assert storage.list_tasks("a\\b") == []


@pytest.mark.parametrize("server", ["s3server", "motoserver"])
def test_raw_backslashes_of_earlier_versions(server: str, request: pytest.FixtureRequest) -> None:
    """A name with a backslash that was kept raw is read, overwritten where it is, and removed."""
    endpoint = request.getfixturevalue(server).endpoint
    path = endpoint.prefix()
    storage = storage_factory(endpoint.config(path))
    storage.save("w", "c\\d", 1)
    bucket, _, prefix = path.strip("/").partition("/")
    with closing(endpoint.client()) as client:
        client.put_object(Bucket=bucket, Key=f"{prefix}/w/c\\d", Body=endpoint.get(path, "w/c%5Cd"))
        client.delete_object(Bucket=bucket, Key=f"{prefix}/w/c%5Cd")
    assert storage.read_task("w", "c\\d") == 1
    storage.save("w", "c\\d", 2)
    assert storage.read_task("w", "c\\d") == 2
    assert not [key for key in endpoint.objects(path) if "%5C" in key]
    storage.remove_task("w", "c\\d")
    assert not storage.file_exists("w", "c\\d")
    assert storage.list_tasks("w") == []


@pytest.mark.slow
def test_a_folder_that_was_copied_up(s3server: Any, proxy: Any, tmp_path: Path) -> None:
    """The index of a folder and its lock, which were copied with it, are neither listed as results nor read."""
    folder = storage_factory({"kind": "file", "options": {"path": str(tmp_path / "results")}})
    folder.save("w", "a\\b", 1)
    assert folder.list_tasks("w") == ["a\\b"]
    endpoint = s3server.endpoint.at(proxy.url)
    path = endpoint.prefix()
    with closing(s3server.endpoint.client()) as client:
        for file in sorted(each for each in (tmp_path / "results").rglob("*") if each.is_file()):
            bucket, _, prefix = path.strip("/").partition("/")
            client.upload_file(str(file), bucket, f"{prefix}/{file.relative_to(tmp_path / 'results').as_posix()}")
    assert any(key.endswith("catalog.duckdb") for key in s3server.endpoint.objects(path))
    storage = storage_factory(endpoint.config(path))
    with proxy.watching() as requests:
        assert storage.list_tasks("w") == ["a\\b"]
        assert storage.read_task("w", "a\\b") == 1
        assert storage.verify(repair=True).ok
        storage.save("w", "new", 2)
        storage.gc(keep_last=1, older_than=timedelta(0), dry_run=False)
        storage.catalog.compact()
        storage.catalog.rebuild()
        assert storage.list_tasks("w") == ["new"]
    assert not [each for each in requests if "catalog.duckdb" in each.key]


@pytest.mark.slow
@pytest.mark.parametrize("by", ["pattern", "gc"])
def test_many_removals_share_segments(storage: Storage, by: str) -> None:
    """Removing many takes a segment or two, not one for each, and every removal is an event of its own."""
    with storage.batch():
        for number in range(40):
            storage.keep("w", f"n{number}", number, waits=False)
    storage.save("w", "other", 0)
    before = set(segments(storage))
    if by == "pattern":
        storage.remove_task("w", pattern="n*")
    else:
        storage.gc(keep_last=1, older_than=timedelta(0), dry_run=False)
    assert len(set(segments(storage)) - before) <= 3
    assert storage.list_tasks("w") == ["other"]
    removals = storage.catalog.sql("SELECT count(DISTINCT task) FROM events WHERE event = 'remove'")
    assert removals.fetchall() == [(40,)]


def test_who_waits_ends_the_gathering(storage: Storage) -> None:
    """Within a block that gathers lines, a save that waits and a question come through, and find what was gathered."""
    with storage.batch():
        storage.keep("w", "a", 1, waits=False)
        storage.save("w", "b", 2)
        assert storage.list_tasks("w") == ["a", "b"]
        storage.keep("w", "c", 3, waits=False)
        storage.keep("w", "c", 4, waits=False)
        assert storage.list_tasks("w") == ["a", "b", "c"]
    assert storage.read_task("w", "c") == 4


def test_more_than_is_gathered(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is handed over within such a block is bounded all the same: too much is written before the block ends."""
    monkeypatch.setattr(journal, "MOST_SAVES", 5)
    with storage.batch():
        for number in range(23):
            storage.keep("w", f"{number:02}", number, waits=False)
    storage.flush()
    assert len(storage.list_tasks("w")) == 23


@pytest.mark.slow
def test_a_writer_that_never_asks_is_compacted() -> None:
    """A run of a thousand nodes leaves a short journal, though nobody asked anything."""

    @workflow
    def give(value: int) -> int:
        return value

    storage = storage_factory({"kind": "fsspec", "options": {"url": f"memory://{uuid.uuid4().hex}"}})
    for name in ("first", "second"):
        graph = LocalWorkflow(*[give(number) for number in range(1_000)], workflow_name=name)
        graph.set_storage(storage)
        graph.run()
    assert len(segments(storage)) < 10
    assert storage.catalog.sql("SELECT workflow, count(*) FROM tasks GROUP BY ALL ORDER BY ALL").fetchall() == [
        ("first", 1_000),
        ("second", 1_000),
    ]


def test_a_segment_that_is_compacted_before_a_doubt_is_settled(
    motoserver: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who saw a line before its object, and asks again when the line is compacted, knows the object."""
    path = motoserver.endpoint.prefix()
    writer = storage_factory(motoserver.endpoint.config(path))
    writer.save("w", "first", 0)
    # Another way to write the same place: what this one asks does not wait for what that one saves.
    reader = storage_factory({"kind": "S3", "options": {"path": path, "s3fs": motoserver.endpoint.s3fs(use_ssl=False)}})
    bucket = writer._store
    put, asked = bucket.put, threading.Event()

    def late(key: str, data: bytes) -> bool:
        if key == "w/late":
            assert asked.wait(240)
        return put(key, data)

    monkeypatch.setattr(bucket, "put", late)
    saving = threading.Thread(target=writer.save, args=("w", "late", 1))
    saving.start()
    wait_for(lambda: len(motoserver.endpoint.objects(f"{path}/.catalog/journal")) == 2)
    assert elsewhere(reader, tmp_path, monkeypatch) == ["first"]
    asked.set()
    saving.join()
    writer.save("w", "last", 2)
    assert writer.catalog.compact().segments >= 2
    assert elsewhere(reader, tmp_path, monkeypatch) == ["first", "last", "late"]


def test_a_second_try_that_overwrites_a_newer_result(
    motoserver: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer to a save is lost, another machine overwrites it, the second try does so in turn: all agree on it."""
    path = motoserver.endpoint.prefix()
    first = storage_factory(motoserver.endpoint.config(path))
    second = storage_factory({"kind": "S3", "options": {"path": path, "s3fs": motoserver.endpoint.s3fs(use_ssl=False)}})
    second.save("w", "other", 0)
    bucket = first._store
    put = bucket.put

    def twice(key: str, data: bytes) -> bool:
        again = put(key, data)
        if key != "w/t":
            return again
        second.save("w", "t", "second")
        assert elsewhere(second, tmp_path, monkeypatch) == ["other", "t"]
        put(key, data)
        return True

    with monkeypatch.context() as patch:
        patch.setattr(bucket, "put", twice)
        first.save("w", "t", "first")
    footer = first.footer("w", "t")
    assert footer is not None
    assert first.read_task("w", "t") == "first"
    for cache in (tmp_path, tmp_path / "new"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
        assert first.catalog.tasks("w", "t").project("blob_id::VARCHAR").fetchall() == [(footer.blob_id,)]


def elsewhere(storage: Storage, cache: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ask as another machine does, which has an index of its own."""
    with monkeypatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        return storage.list_tasks("w")


@pytest.mark.parametrize(("fault", "is_there"), [(Lose(), True), (Refuse(403, "AccessDenied"), False)])
def test_a_save_whose_answers_are_lost(
    s3server: Any, proxy: Any, monkeypatch: pytest.MonkeyPatch, fault: Fault, is_there: bool
) -> None:
    """A save that fails since no answer came may have come true: then it is whole, with its side files."""
    monkeypatch.setattr(patience, "PATIENCE", 1.0)
    path = s3server.endpoint.prefix()
    storage = storage_factory(s3server.endpoint.at(proxy.url).config(path))
    storage.register_persistent_serializers(NumpySerializer)
    storage.save("w", "before", 1)

    def rule(request: Request) -> Fault | None:
        return fault if request.kind == "PUT" and request.key.endswith("/w/t") else None

    with proxy.harming(rule), pytest.raises(StorageUnusable):
        storage.save("w", "t", np.arange(1000))
    assert storage.list_tasks("w") == ["before", "t"][: 1 + is_there]
    assert any(key.startswith("w/bigdata/") for key in s3server.endpoint.objects(path)) == is_there
    if is_there:
        assert np.array_equal(storage.read_task("w", "t"), np.arange(1000))


def test_a_service_without_conditional_requests(s3server: Any, proxy: Any) -> None:
    """Where writing or deleting on a condition is not known, all works that works elsewhere."""
    path = s3server.endpoint.prefix()
    storage = storage_factory(s3server.endpoint.at(proxy.url).config(path))

    def rule(request: Request) -> Fault | None:
        is_unknown = request.is_conditional and request.kind in ("PUT", "DELETE")
        return Refuse(501, "NotImplemented") if is_unknown else None

    with proxy.harming(rule):
        for task in ("a", "b", "c"):
            storage.save("w", task, task)
        storage.remove_task("w", "a")
        bucket, _, prefix = path.strip("/").partition("/")
        with closing(s3server.endpoint.client()) as client:
            client.put_object(Bucket=bucket, Key=f"{prefix}/w/b", Body=b"torn")
        found = storage.verify(repair=True)
        assert [each.path for each in found.damaged] == ["w/b"]
        assert storage.list_tasks("w") == ["c"]
        assert storage.read_task("w", "c") == "c"
    assert {request.kind for request in proxy.requests if request.status == 501} == {"PUT", "DELETE"}
    objects = s3server.endpoint.objects(path)
    assert "w/b" not in objects
    assert any(key.startswith(".quarantine/") and key.endswith("w/b") for key in objects)


def test_one_url_at_two_services(s3server: Any, motoserver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies at one URL of two services, which the environment tells apart, is not taken for one storage."""
    path = s3server.endpoint.prefix()
    bucket, _, prefix = path.strip("/").partition("/")
    monkeypatch.setattr(objects, "_stores", [])
    for name, server in (("here", s3server), ("there", motoserver)):
        with closing(server.endpoint.client()) as client:
            client.put_object(Bucket=bucket, Key=f"{prefix}/w/{name}", Body=older(name))
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint.endpoint_url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", server.endpoint.key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", server.endpoint.secret)
        objects._stores.clear()
        storage = storage_factory({"kind": "S3", "options": {"path": path}})
        assert storage.list_tasks("w") == [name]


def wait_for(condition: Callable[[], bool]) -> None:
    """Return when a condition holds, within minutes."""
    end = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
