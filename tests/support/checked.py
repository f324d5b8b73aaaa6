"""The suite for serializers, with what this package's own do beyond it."""

from __future__ import annotations

from pathlib import Path

import pytest

from functionfuse.errors import DamagedResult
from functionfuse.serializers.base import S3_PROTOCOL, generate_name
from functionfuse.testing import SerializerContract


class Checked(SerializerContract):
    """The suite, and that no byte can change unnoticed: the serializers of this package check what they read."""

    def test_a_changed_byte_is_never_data(self, tmp_path: Path) -> None:
        """With any byte of a side file changed, the object is refused as damaged, or it is the same all the same."""
        storage = self.open_storage(tmp_path)
        sample = self.samples()[0]
        storage.save("w", "t", sample)
        refused = 0
        for name, size in self.side_files(tmp_path).items():
            original = (tmp_path / name).read_bytes()
            for position in {0, size // 3, size // 2, size - 1}:
                changed = bytearray(original)
                changed[position] ^= 4
                (tmp_path / name).write_bytes(changed)
                try:
                    assert self.equal(storage.read_task("w", "t"), sample)
                except DamagedResult:
                    refused += 1
            (tmp_path / name).write_bytes(original)
        assert refused

    @pytest.mark.parametrize("workflow", ["fit", "fit[1]"])
    def test_it_works_over_a_remote_file_system(self, workflow: str) -> None:
        """Over the S3 protocol, with memory in place of S3, samples come back and are removed in any folder."""
        fsspec = pytest.importorskip("fsspec")
        client = fsspec.filesystem("memory")
        folder = f"/{generate_name()}/{workflow}"
        client.makedirs(folder)
        protocols = {S3_PROTOCOL: {"client": client, "folder": f"memory://{folder}"}}
        for sample in self.samples():
            taken = self.serializer.pickle(sample, protocols)
            assert taken is not None
            assert self.equal(self.serializer.unpickle(taken[1], protocols), sample)
            self.serializer.remove(taken[1], protocols)
        assert client.find(folder) == []
