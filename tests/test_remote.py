"""Storages that are reached over a network: the contract, on S3 and on other places of fsspec."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import fsspec
import pytest

from functionfuse.storage import storage_factory
from functionfuse.storage.base import Storage
from functionfuse.testing import StorageContract


class Remote(StorageContract):
    """The contract, on the objects that fsspec finds."""

    @pytest.fixture
    def config(self) -> dict[str, Any]:
        """Return the configuration of a storage of its own."""
        raise NotImplementedError

    @pytest.fixture
    def open_storage(self, config: dict[str, Any]) -> Callable[[], Storage]:
        """Return what opens the storage."""
        return lambda: storage_factory(config)

    @staticmethod
    def at(storage: Storage) -> tuple[Any, str]:
        """Return a file system of the test's own, and where the storage is in it."""
        bucket = storage._place._location.bucket()
        bucket.filesystem.invalidate_cache()
        return bucket.filesystem, bucket.root

    def found(self, storage: Storage) -> dict[str, str]:
        """Return the path of every object by its key, but the catalog's own."""
        fs, root = self.at(storage)
        found = {path[len(root.lstrip("/")) :].strip("/"): path for path in (p.lstrip("/") for p in fs.find(root))}
        return {key: f"/{path}" for key, path in found.items() if not key.startswith(".catalog/")}

    def blobs(self, storage: Storage) -> dict[str, bytes]:
        """Return the content of every blob by its key."""
        fs, _ = self.at(storage)
        return {key: fs.cat_file(path) for key, path in self.found(storage).items() if key.count("/") == 1}

    def put(self, storage: Storage, key: str, data: bytes) -> None:
        """Write an object."""
        fs, root = self.at(storage)
        fs.pipe_file(f"{root}/{key}", data)

    def side_files(self, storage: Storage) -> dict[str, bytes]:
        """Return the content of every side file by its key."""
        fs, _ = self.at(storage)
        return {key: fs.cat_file(path) for key, path in self.found(storage).items() if "/bigdata/" in key}

    def lose_side_files(self, storage: Storage) -> None:
        """Delete all side files."""
        fs, _ = self.at(storage)
        for key, path in self.found(storage).items():
            if "/bigdata/" in key:
                fs.rm_file(path)


class TestSeaweed(Remote):
    """S3 on SeaweedFS."""

    @pytest.fixture
    def config(self, s3server: Any) -> dict[str, Any]:
        """Return a fresh prefix."""
        return dict(s3server.endpoint.config(s3server.endpoint.prefix()))


class TestMoto(Remote):
    """S3 on moto."""

    @pytest.fixture
    def config(self, motoserver: Any) -> dict[str, Any]:
        """Return a fresh prefix."""
        return dict(motoserver.endpoint.config(motoserver.endpoint.prefix()))


class TestFiles(Remote):
    """A folder, by fsspec."""

    @pytest.fixture
    def config(self, tmp_path: Path) -> dict[str, Any]:
        """Return a folder."""
        return {"kind": "fsspec", "options": {"url": f"file://{tmp_path}/storage"}}


class TestMemory(Remote):
    """The memory of this process."""

    @pytest.fixture
    def config(self) -> Iterator[dict[str, Any]]:
        """Return a fresh prefix."""
        name = uuid.uuid4().hex
        yield {"kind": "fsspec", "options": {"url": f"memory://{name}/storage"}}
        with suppress(FileNotFoundError):  # nothing was saved
            fsspec.filesystem("memory").rm(f"/{name}", recursive=True)

    def test_a_storage_pickles(self, open_storage: Callable[[], Storage]) -> None:
        """It pickles, and is the same place in this process, but another one in every other."""
        storage = open_storage()
        storage.save("w", "t", 5)
        assert storage._place.__reduce__()[1] == (storage._place._location,)
