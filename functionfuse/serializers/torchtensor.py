"""PyTorch's tensors and state dicts through safetensors, whose files hold no code."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, cast

from functionfuse.serializers._needed import TypeOf, needed
from functionfuse.serializers._sides import Sides, damage
from functionfuse.serializers.base import generate_name


class TorchSerializer:
    """Writes a `torch.Tensor` to a safetensors file; read back, it is on the CPU.

    Notes
    -----
    Tensors that are not dense, contiguous and whole (views of a part, sparse ones,
    results of a graph) are left to pickle. Two tensors over one memory come back
    as two.
    """

    name = "TorchSerializer"
    serializer_class: type = cast(type, TypeOf("torch", "Tensor", "torch"))

    @classmethod
    def pickle(cls, obj: Any, protocols: Mapping[str, Any]) -> tuple[str, Any] | None:
        """Write the tensor, or decline."""
        if not _is_plain(obj):
            return None
        return cls.name, {**_write({"tensor": obj}, Sides(protocols)), "requires_grad": obj.requires_grad}

    @classmethod
    def unpickle(cls, pid: Any, protocols: Mapping[str, Any]) -> Any:
        """Read the tensor; all its bytes are checked first."""
        return _read(pid, Sides(protocols))["tensor"].requires_grad_(pid["requires_grad"])

    @classmethod
    def remove(cls, pid: Any, protocols: Mapping[str, Any]) -> None:
        """Delete the file."""
        Sides(protocols).remove(pid["file"])


class TorchStateSerializer(TorchSerializer):
    """Writes a state dict, as `torch.nn.Module.state_dict` returns it, to one safetensors file."""

    name = "TorchStateSerializer"
    serializer_class: type = OrderedDict

    @classmethod
    def pickle(cls, obj: Any, protocols: Mapping[str, Any]) -> tuple[str, Any] | None:
        """Write the state dict; decline other dictionaries, and tensors that share memory."""
        torch = needed("torch", "torch")
        is_state = bool(obj) and all(type(key) is str and type(value) is torch.Tensor for key, value in obj.items())
        if not is_state or not all(_is_plain(value) and not value.requires_grad for value in obj.values()):
            return None
        if len({value.data_ptr() for value in obj.values() if value.numel()}) < sum(map(_is_filled, obj.values())):
            return None
        versions = {key: dict(value) for key, value in getattr(obj, "_metadata", {}).items()}
        return cls.name, {**_write(obj, Sides(protocols)), "keys": list(obj), "metadata": versions}

    @classmethod
    def unpickle(cls, pid: Any, protocols: Mapping[str, Any]) -> Any:
        """Read the state dict; all its bytes are checked first."""
        found = _read(pid, Sides(protocols))
        state = OrderedDict((key, found[key]) for key in pid["keys"])
        if pid["metadata"]:
            state._metadata = OrderedDict(pid["metadata"])  # type: ignore[attr-defined]  # as PyTorch does
        return state


def _is_filled(tensor: Any) -> bool:
    return bool(tensor.numel())


def _is_plain(tensor: Any) -> bool:
    torch = needed("torch", "torch")
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.device.type == "meta":
        return False
    is_whole = tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return bool(is_whole and tensor.is_leaf and not tensor.is_conj() and not tensor.is_neg())


def _write(tensors: Mapping[str, Any], sides: Sides) -> dict[str, Any]:
    save = needed("safetensors.torch", "torch").save
    name = generate_name() + ".safetensors"
    with sides.written(name) as file:
        file.write(save({key: tensor.detach() for key, tensor in tensors.items()}))
    return {"file": name, "checksum": file.checksum()}


def _read(pid: Mapping[str, Any], sides: Sides) -> Any:
    load = needed("safetensors.torch", "torch").load
    data = sides.checked(pid["file"], pid["checksum"])
    with damage(pid["file"], Exception):
        return load(bytes(data))
