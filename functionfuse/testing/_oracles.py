"""How a suite reaches the stored bytes, without the code under test."""

from __future__ import annotations

from functionfuse.storage.base import Storage
from functionfuse.testing._blob import StoredBlob, read_blob


class Oracles:
    """Reads and changes what a storage holds; a suite for one storage overrides it."""

    def blobs(self, storage: Storage) -> dict[str, bytes]:
        """Return the bytes of every stored result, each under its key: a path, say."""
        raise NotImplementedError

    def put(self, storage: Storage, key: str, data: bytes) -> None:
        """Write these bytes in place of those that `blobs` has under `key`."""
        raise NotImplementedError

    def side_files(self, storage: Storage) -> dict[str, bytes]:
        """Return the bytes of every side file."""
        raise NotImplementedError

    def lose_side_files(self, storage: Storage) -> None:
        """Delete every side file, and nothing else."""
        raise NotImplementedError

    def only_blob(self, storage: Storage) -> StoredBlob:
        """Return the one blob that is stored, taken apart."""
        (data,) = self.blobs(storage).values()
        return read_blob(data)
