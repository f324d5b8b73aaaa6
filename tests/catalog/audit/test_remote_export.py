"""Exports to buckets, and of catalogs of storages in buckets: chained, in parts, held against each other."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest

from catalog.audit.audit import verify_exports
from catalog.errors import CatalogUnusable, ExportRefused
from commands import program
from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.errors import StorageUnusable
from functionfuse.storage import storage_factory
from functionfuse.storage.base import Storage
from functionfuse.storage.filestorage import FileStorage
from tests.cli.test_cli_remote import credentials

if TYPE_CHECKING:
    from s3server import MotoServer, SeaweedServer

pytest.importorskip("s3fs", reason="remote storages are tested where s3fs is installed")


@workflow
def number(n: int) -> int:
    """Return a number."""
    return n


def run(storage: Storage, *names: str) -> None:
    """Save results within a run, which hands them over together."""
    local = LocalWorkflow(*[number(0).set_name(name) for name in names], workflow_name="w")
    local.set_storage(storage)
    local.run()


def saved(*paths: Path) -> list[str]:
    """Return the tasks of the saves in exports, one for each."""
    rows = [row for path in paths for row in pq.read_table(path).to_pylist()]
    return sorted(row["task"] for row in rows if row["event"] == "save")


def ids(*paths: Path) -> list[str]:
    """Return the ids of all events in exports."""
    return [event for path in paths for event in pq.read_table(path).column("event_id").to_pylist()]


class Elsewhere:
    """A reader on another machine, whose questions wait for nothing that this process saves."""

    def __init__(self, server: MotoServer, path: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        options = {"path": path, "s3fs": server.endpoint.s3fs(use_ssl=False)}
        self.catalog = storage_factory({"kind": "S3", "options": options}).catalog
        self._folder = folder
        self._patch = monkeypatch
        self._last: Path | None = None

    def export(self, name: str) -> Path:
        """Continue the last export."""
        path = self._folder / f"{name}.parquet"
        with self._patch.context() as patch:
            patch.setenv("XDG_CACHE_HOME", str(self._folder / "cache"))
            self.catalog.export(path, "events", after=self._last)
        self._last = path
        return path


@pytest.fixture
def path(motoserver: MotoServer) -> str:
    """Return a fresh prefix."""
    return motoserver.endpoint.prefix()


@pytest.fixture
def storage(motoserver: MotoServer, path: str) -> Storage:
    """Return a storage in which one thing happened."""
    storage = storage_factory(motoserver.endpoint.config(path))
    storage.save("w", "first", 0)
    return storage


@pytest.fixture
def reader(motoserver: MotoServer, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Elsewhere:
    """Return a reader on another machine."""
    return Elsewhere(motoserver, path, tmp_path, monkeypatch)


def test_what_is_under_way_comes_once(storage: Storage, reader: Elsewhere, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events of an open segment, some of which come true between two exports, are in the two together, each once."""
    bucket = storage._store
    put, others, exported = bucket.put, threading.Semaphore(0), threading.Event()

    def late(key: str, data: bytes) -> bool:
        if key == "w/b":
            assert exported.wait(240)
        again = put(key, data)
        if key in ("w/a", "w/c"):
            others.release()
        return again

    monkeypatch.setattr(bucket, "put", late)
    saving = threading.Thread(target=run, args=(storage, "a", "b", "c"))
    saving.start()
    assert others.acquire(timeout=240)
    assert others.acquire(timeout=240)
    one = reader.export("one")
    exported.set()
    saving.join()
    two = reader.export("two")
    storage.save("w", "last", 1)
    three = reader.export("three")
    assert "b" not in saved(one)
    assert saved(one, two, three) == ["a", "b", "c", "first", "last"]
    assert len(ids(one, two, three)) == len(set(ids(one, two, three)))
    assert verify_exports(one, two, three).ok


def test_what_failed_keeps_nothing_back(
    storage: Storage, reader: Elsewhere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A save that never came true, between others, keeps them back until its segment is compacted, and no longer."""
    bucket = storage._store
    put = bucket.put

    def refuse(key: str, data: bytes) -> bool:
        if key == "w/b":
            raise CatalogUnusable("the server is full")
        return put(key, data)

    with monkeypatch.context() as patch:
        patch.setattr(bucket, "put", refuse)
        with pytest.raises(StorageUnusable, match="full"):
            run(storage, "a", "b", "c")
    one = reader.export("one")
    monkeypatch.setattr("catalog.journal.retiring.GIVEN_UP", -10.0)
    assert storage.catalog.compact().segments > 1
    two = reader.export("two")
    storage.save("w", "b", 1)
    three = reader.export("three")
    assert saved(one, two, three) == ["a", "b", "c", "first"]
    assert len(ids(one, two, three)) == len(set(ids(one, two, three)))
    assert verify_exports(one, two, three).ok
    whole = tmp_path / "whole.parquet"
    storage.catalog.export(whole, "events")  # another machine's index, by which the save that failed was never seen
    assert sorted(ids(whole)) == sorted(ids(one, two, three))


def test_exports_in_a_bucket(s3server: SeaweedServer, tmp_path: Path) -> None:
    """Exports of a storage in a bucket go into a bucket, are continued there, and are audited by the command line."""
    endpoint = s3server.endpoint
    storage = storage_factory(endpoint.config(endpoint.prefix()))
    run(storage, "a", "b")
    place = f"s3:/{endpoint.prefix()}"
    options = endpoint.s3fs()
    first = storage.catalog.export(f"{place}/first.parquet", "events", storage_options=options)
    storage.remove_task("w", "a")
    second = storage.catalog.export(f"{place}/second.parquet", "events", after=first.paths[0], storage_options=options)
    assert second.rows == 1
    with pytest.raises(ExportRefused, match="is there already"):
        storage.catalog.export(f"{place}/first.parquet", storage_options=options)
    parts = storage.catalog.export(f"{place}/parts", "events", partition_by="workflow", storage_options=options)
    assert parts.rows == first.rows + 1
    keys = endpoint.objects(place[4:])
    assert {"first.parquet", "second.parquet"} < set(keys)
    assert [key for key in keys if key.startswith("parts/workflow=w/")]
    assert not [key for key in keys if key.endswith(".tmp")]
    for paths in ((*first.paths, *second.paths), (f"{place}/parts",)):
        audit = program("audit", "verify", *paths, **credentials(endpoint))
        assert (audit.returncode, audit.stderr) == (0, "ok\n")
    audit = program("audit", "verify", f"{place}/none.parquet", **credentials(endpoint))
    assert audit.returncode == 1


def test_a_storage_on_disk_exports_to_a_bucket(s3server: SeaweedServer, tmp_path: Path) -> None:
    """The command line exports a folder's catalog to a bucket, and continues it, with the environment of AWS."""
    storage = FileStorage(tmp_path / "results")
    storage.save("w", "a", 1)
    place, environment = f"s3:/{s3server.endpoint.prefix()}", credentials(s3server.endpoint)
    export = ("export", storage.catalog.path)
    done = program(*export, f"{place}/one.parquet", "--table", "events", **environment)
    assert done.stdout == f"{place}/one.parquet\n"
    storage.save("w", "b", 1)
    after = ("--after", f"{place}/one.parquet")
    done = program(*export, f"{place}/two.parquet", "--table", "events", *after, **environment)
    assert done.stderr.startswith("1 row"), done.stderr
    done = program(*export, "s3://no-such-bucket/one.parquet", **environment)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
