"""PyTorch's tensors: `make test-torch` runs these in an environment that has PyTorch; elsewhere they are skipped."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
from checked import Checked

from functionfuse.serializers.torchtensor import TorchSerializer, TorchStateSerializer
from functionfuse.storage.filestorage import FileStorage

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")


def is_same(one: Any, other: Any) -> bool:
    """Compare values, dtype and whether gradients are wanted."""
    same = (one.dtype, one.requires_grad) == (other.dtype, other.requires_grad)
    return same and bool(torch.equal(one, other))


class TestTensor(Checked):
    """Tensors."""

    serializer = TorchSerializer

    def samples(self) -> list[Any]:
        """Return tensors of several shapes and dtypes."""
        return [torch.rand(30, 400), torch.ones(2, dtype=torch.bfloat16, requires_grad=True), torch.empty(0, 3)]

    def equal(self, one: Any, other: Any) -> bool:
        """Compare values, dtype and whether gradients are wanted."""
        return is_same(one, other)

    def test_views_are_declined(self, tmp_path: Path) -> None:
        """A view of a part of a tensor is pickled."""
        storage = self.open_storage(tmp_path)
        storage.save("w", "t", torch.arange(6)[2:])
        assert storage.footer("w", "t").record["serializers"] == ["pickle"]
        assert storage.read_task("w", "t").tolist() == [2, 3, 4, 5]


class TestState(Checked):
    """State dicts."""

    serializer = TorchStateSerializer

    def samples(self) -> list[Any]:
        """Return the state of two layers."""
        return [torch.nn.Linear(30, 40).state_dict(), torch.nn.BatchNorm1d(4).state_dict()]

    def equal(self, one: Any, other: Any) -> bool:
        """Compare names, tensors and versions."""
        same = list(one) == list(other) and one._metadata == other._metadata
        return same and all(is_same(tensor, other[key]) for key, tensor in one.items())

    def test_other_dicts_are_declined(self, tmp_path: Path) -> None:
        """Ordered dictionaries of anything else are pickled."""
        storage = self.open_storage(tmp_path)
        storage.save("w", "t", OrderedDict(a=1))
        assert storage.footer("w", "t").record["serializers"] == ["pickle"]


def test_the_summary_of_a_tensor(tmp_path: Path) -> None:
    """The catalog knows the shape, type and bytes of a tensor without reading it."""
    storage = FileStorage(tmp_path)
    storage.save("w", "t", torch.zeros(2, 3))
    assert storage.footer("w", "t").record["summary"] == {"shape": [2, 3], "dtype": "torch.float32", "bytes": 24}
