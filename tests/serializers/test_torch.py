"""PyTorch's tensors: `make test-torch` runs these in an environment that has PyTorch; elsewhere they are skipped."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checked import Checked
from functionfuse.errors import MissingDependency
from functionfuse.serializers.torchtensor import TorchSerializer, TorchStateSerializer
from functionfuse.storage.filestorage import FileStorage

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

# PyTorch warns of what it is about to change: nested tensors, sparse rows, quantized ones.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")


def is_same(one: Any, other: Any) -> bool:
    """Compare values, dtype and whether gradients are wanted."""
    same = (one.dtype, one.requires_grad) == (other.dtype, other.requires_grad)
    return same and bool(torch.equal(one, other))


def given(tensor: Any, **attributes: Any) -> Any:
    """Return a tensor that was given attributes."""
    vars(tensor).update(attributes)
    return tensor


def dict_with(attributes: dict[str, Any]) -> Any:
    """Return a state dict that was given attributes."""
    state = OrderedDict(a=torch.ones(1))
    vars(state).update(attributes)
    return state


TYPES = sorted(
    name
    for name, found in vars(torch).items()
    if isinstance(found, torch.dtype) and str(found) == f"torch.{name}" and not name.startswith(("qint", "quint"))
)

DECLINED: dict[str, Callable[[], Any]] = {
    "a part": lambda: torch.arange(6)[2:],
    "a view of another order": lambda: torch.arange(6).reshape(2, 3).T,
    "other strides of one element": lambda: torch.arange(3).reshape(3, 1).T,
    "channels last": lambda: torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "repeated": lambda: torch.ones(1).expand(3),
    "conjugate": lambda: torch.tensor([1 + 2j]).conj(),
    "negative": lambda: torch.tensor([1 + 2j]).conj().imag,
    "sparse": lambda: torch.eye(2).to_sparse(),
    "sparse rows": lambda: torch.eye(2).to_sparse_csr(),
    "nested": lambda: torch.nested.nested_tensor([torch.zeros(2), torch.ones(3)]),
    "quantized": lambda: torch.quantize_per_tensor(torch.tensor([0.5, 1.0]), 0.5, 0, torch.qint8),
    "without memory": lambda: torch.empty(2, device="meta"),
    "with an attribute": lambda: given(torch.zeros(2), unit="m"),
}

OTHER_DICTS: dict[str, Callable[[], Any]] = {
    "of numbers": lambda: OrderedDict(a=1),
    "empty": OrderedDict,
    "with keys that are no texts": lambda: OrderedDict({1: torch.ones(1)}),
    "with the key __metadata__": lambda: OrderedDict({"__metadata__": torch.ones(1), "a": torch.ones(1)}),
    "with a key that is no Unicode": lambda: OrderedDict({"\ud800": torch.ones(1)}),
    "of parameters": lambda: torch.nn.Linear(2, 2).state_dict(keep_vars=True),
    "of tensors that want gradients": lambda: OrderedDict(a=torch.ones(1, requires_grad=True)),
    "of a sparse tensor": lambda: OrderedDict(a=torch.eye(2).to_sparse()),
    "with an attribute": lambda: dict_with({"note": "mine"}),
    "with odd versions": lambda: dict_with({"_metadata": {"": {"version": 1}}}),
    "with objects as versions": lambda: dict_with({"_metadata": OrderedDict({"": {"version": (1, 2)}})}),
}


def traits(tensor: Any) -> Any:
    """Return what there is to a tensor beside its elements."""
    shape = None if tensor.is_nested else tensor.shape
    strides = tensor.stride() if tensor.layout is torch.strided and shape is not None else None
    flags = (tensor.is_conj(), tensor.is_neg(), tensor.is_quantized, tensor.requires_grad)
    return type(tensor), tensor.dtype, tensor.layout, tensor.device, shape, strides, flags, vars(tensor)


def elements(tensor: Any) -> Any:
    """Return the elements of a tensor as numbers."""
    if tensor.is_nested:
        return [each.tolist() for each in tensor.unbind()]
    return tensor.dequantize().tolist() if tensor.is_quantized else tensor.to_dense().tolist()


class TestTensor(Checked):
    """Tensors."""

    serializer = TorchSerializer

    def samples(self) -> list[Any]:
        """Return tensors of several shapes and dtypes."""
        return [torch.rand(30, 400), torch.ones(2, dtype=torch.bfloat16, requires_grad=True), torch.empty(0, 3)]

    def equal(self, one: Any, other: Any) -> bool:
        """Compare values, dtype and whether gradients are wanted."""
        return is_same(one, other)

    @pytest.mark.parametrize("shape", [(), (3, 2), (0, 2)], ids=str)
    @pytest.mark.parametrize("name", TYPES)
    def test_every_type_comes_back(self, name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
        """A tensor of any type that PyTorch has comes back with its type, shape and bytes, from a safetensors file."""
        tensor = torch.empty(shape, dtype=getattr(torch, name))
        tensor.untyped_storage().copy_(
            torch.arange(tensor.untyped_storage().nbytes(), dtype=torch.uint8).untyped_storage()
        )
        storage = self.open_storage(tmp_path)
        storage.save("w", "t", tensor)
        assert list(storage.footer("w", "t").record.serializers) == ["pickle", "TorchSerializer"]
        found = storage.read_task("w", "t")
        assert (type(found), found.dtype, found.shape) == (torch.Tensor, tensor.dtype, tensor.shape)
        assert bytes(found.untyped_storage()) == bytes(tensor.untyped_storage())

    @pytest.mark.parametrize("make", DECLINED.values(), ids=DECLINED)
    def test_what_the_format_does_not_hold_is_declined(self, make: Callable[[], Any], tmp_path: Path) -> None:
        """A tensor of which safetensors would lose something is pickled, and comes back as it was."""
        tensor = make()
        storage = self.open_storage(tmp_path)
        storage.save("w", "t", tensor)
        has_parts = tensor.is_nested or tensor.layout is not torch.strided  # which are tensors that the format holds
        assert has_parts or list(storage.footer("w", "t").record.serializers) == ["pickle"]
        found = storage.read_task("w", "t")
        assert traits(found) == traits(tensor)
        if tensor.device.type == "cpu":
            assert elements(found) == elements(tensor)

    def test_a_type_that_this_version_lacks_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A tensor of a type that only a newer PyTorch has is no damage; the type is named."""
        storage = self.open_storage(tmp_path)
        storage.save("w", "t", torch.zeros(2, dtype=torch.complex32))
        monkeypatch.delattr(torch, "complex32")
        with pytest.raises(MissingDependency, match="complex32"):
            storage.read_task("w", "t")


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

    @pytest.mark.parametrize("make", OTHER_DICTS.values(), ids=OTHER_DICTS)
    def test_other_dicts_are_declined(self, make: Callable[[], Any], tmp_path: Path) -> None:
        """An ordered dictionary that is no state dict, or has what the format does not hold, is pickled."""
        state = make()
        storage = self.open_storage(tmp_path)
        storage.save("w", "t", state)
        assert list(storage.footer("w", "t").record.serializers) == ["pickle"]
        found = storage.read_task("w", "t")
        assert list(found) == list(state)
        assert vars(found) == vars(state)
        assert [type(value) for value in found.values()] == [type(value) for value in state.values()]

    @pytest.mark.parametrize("key", ["", "a.b", "__metadata", "ä", "line\nbreak", "\0", "x" * 1_000])
    def test_odd_keys(self, key: str, tmp_path: Path) -> None:
        """Any other text may be a key."""
        storage = self.open_storage(tmp_path)
        storage.save("w", "t", OrderedDict({key: torch.ones(2), "other": torch.zeros(1)}))
        assert list(storage.footer("w", "t").record.serializers) == ["pickle", "TorchStateSerializer"]
        found = storage.read_task("w", "t")
        assert list(found) == [key, "other"]
        assert found[key].tolist() == [1, 1]

    def test_tied_weights_stay_tied(self, tmp_path: Path) -> None:
        """Weights over one memory are written once and share it again; one object is one object, others are not."""
        model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
        model[1].weight = model[0].weight
        state = model.state_dict()
        state["again"] = state["0.weight"]
        storage = self.open_storage(tmp_path)
        storage.save("w", "t", state)
        assert list(storage.footer("w", "t").record.serializers) == ["pickle", "TorchStateSerializer"]
        found = storage.read_task("w", "t")
        assert self.equal(found, state)
        assert found["again"] is found["0.weight"] is not found["1.weight"]
        found["0.weight"][0, 0] = 7
        assert found["1.weight"][0, 0] == 7
        assert found["0.bias"].data_ptr() != found["1.bias"].data_ptr()

    @pytest.mark.parametrize("metadata", [None, OrderedDict(), OrderedDict({"": {"version": 1}, "a": {}})], ids=str)
    def test_versions_of_modules(self, metadata: Any, tmp_path: Path) -> None:
        """What PyTorch keeps beside a state dict comes back, also where it is empty or not there."""
        state = OrderedDict(a=torch.ones(2))
        if metadata is not None:
            state._metadata = metadata  # type: ignore[attr-defined]  # as PyTorch does
        storage = self.open_storage(tmp_path)
        storage.save("w", "t", state)
        assert list(storage.footer("w", "t").record.serializers) == ["pickle", "TorchStateSerializer"]
        found = vars(storage.read_task("w", "t"))
        assert found == vars(state)
        assert {type(each) for each in found.values()} == {type(each) for each in vars(state).values()}

    def test_every_type_comes_back(self, tmp_path: Path) -> None:
        """A state dict may have tensors of all types."""
        state = OrderedDict((name, torch.empty(3, dtype=getattr(torch, name))) for name in TYPES)
        storage = self.open_storage(tmp_path)
        storage.save("w", "t", state)
        assert list(storage.footer("w", "t").record.serializers) == ["pickle", "TorchStateSerializer"]
        found = storage.read_task("w", "t")
        assert [(key, value.dtype) for key, value in found.items()] == [
            (key, value.dtype) for key, value in state.items()
        ]


def test_the_summary_of_a_tensor(tmp_path: Path) -> None:
    """The catalog knows the shape, type and bytes of a tensor without reading it."""
    storage = FileStorage(tmp_path)
    storage.save("w", "t", torch.zeros(2, 3))
    assert storage.footer("w", "t").record.summary == {"shape": [2, 3], "dtype": "torch.float32", "bytes": 24}
