"""PyTorch's tensors and state dicts through safetensors, whose files hold no code."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from functools import cache
from typing import Any, cast

from functionfuse.errors import MissingDependency
from functionfuse.serializers._needed import TypeOf, needed
from functionfuse.serializers._sides import Sides, damage
from functionfuse.serializers.base import generate_name


class TorchSerializer:
    """Writes a `torch.Tensor` to a safetensors file.

    Notes
    -----
    Of types that the format does not know, the bytes are written. What it does
    not hold exactly is left to pickle: tensors that are sparse, quantized, nested, named, on another
    device than the processor, views of a part, of other strides than the usual
    ones, or results of a graph; and those that were given attributes. Their
    gradients (`grad`) are not saved, nor does pickle keep them.
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
    """Writes a state dict, as `torch.nn.Module.state_dict` returns it, to one safetensors file.

    Weights that are tied, which pickle would part, stay tied.
    """

    name = "TorchStateSerializer"
    serializer_class: type = OrderedDict

    @classmethod
    def pickle(cls, obj: Any, protocols: Mapping[str, Any]) -> tuple[str, Any] | None:
        """Write the state dict; decline other dictionaries."""
        torch = needed("torch", "torch")
        if not obj or not all(_is_key(key) and type(value) is torch.Tensor for key, value in obj.items()):
            return None
        if not _has_usual_attributes(obj) or not all(
            _is_plain(value) and not value.requires_grad for value in obj.values()
        ):
            return None
        ties = _ties(obj)
        if ties is None:
            return None
        metadata = getattr(obj, "_metadata", None)
        pid = _write({key: value for key, value in obj.items() if key not in ties}, Sides(protocols))
        pid |= {"keys": list(obj), "ties": ties, "metadata": None if metadata is None else dict(metadata)}
        return cls.name, pid

    @classmethod
    def unpickle(cls, pid: Any, protocols: Mapping[str, Any]) -> Any:
        """Read the state dict; all its bytes are checked first."""
        found = _read(pid, Sides(protocols))
        for key, (first, is_same) in pid.get("ties", {}).items():  # earlier versions declined what is tied
            found[key] = found[first] if is_same else found[first].detach()
        state = OrderedDict((key, found[key]) for key in pid["keys"])
        if pid["metadata"] is not None and ("ties" in pid or pid["metadata"]):  # {} was none for earlier versions
            state._metadata = OrderedDict(pid["metadata"])  # type: ignore[attr-defined]  # as PyTorch does
        return state


def _is_key(key: Any) -> bool:
    return type(key) is str and key != "__metadata__" and _is_unicode(key)  # the format has an entry of that name


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _has_usual_attributes(state: Any) -> bool:
    """Tell whether a state dict has no other attributes than PyTorch gives it: the versions of its modules."""
    if vars(state).keys() - {"_metadata"}:
        return False
    metadata = getattr(state, "_metadata", OrderedDict())
    return type(metadata) is OrderedDict and all(
        type(name) is str
        and type(versions) is dict
        and all(_is_scalar(each) for each in (*versions, *versions.values()))
        for name, versions in metadata.items()
    )


def _is_scalar(value: Any) -> bool:
    return value is None or type(value) in (bool, int, float, str)


def _ties(state: Mapping[str, Any]) -> dict[str, tuple[str, bool]] | None:
    """Return the tensors over the memory of an earlier one, with its key, and whether they are the same object.

    None where they share memory in any other way. All are plain: each takes up all of its memory.
    """
    firsts: dict[int, str] = {}
    ties: dict[str, tuple[str, bool]] = {}
    for key, tensor in state.items():
        # What is empty has no memory to share, but may be one object all the same.
        place = tensor.untyped_storage().data_ptr() if tensor.numel() else id(tensor)
        first = firsts.setdefault(place, key)
        if first != key:
            other = state[first]
            if (tensor.dtype, tensor.shape) != (other.dtype, other.shape):
                return None
            ties[key] = (first, tensor is other)
    return ties


def _is_plain(tensor: Any) -> bool:
    torch = needed("torch", "torch")
    if tensor.is_nested or tensor.layout is not torch.strided or tensor.device.type != "cpu":
        return False
    if (
        tensor.is_quantized
        or tensor.is_conj()
        or tensor.is_neg()
        or any(getattr(tensor, "names", ()))
        or not tensor.is_leaf
    ):
        return False
    if vars(tensor) or tensor._backward_hooks or _form(tensor.dtype) is None:
        return False
    is_whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    # Contiguous ones may have other strides, too, where a dimension has one element.
    return bool(is_whole and tensor.stride() == torch.empty(tensor.shape, device="meta").stride())


@cache
def _form(dtype: Any) -> str | None:
    """Return how tensors of a type come back from a safetensors file: "own", as "bytes", or None if they do not.

    It is tried: the format's versions know different types, and write some that they cannot read. Pickle loses more.
    """
    torch = needed("torch", "torch")
    safetensors = needed("safetensors.torch", "torch")
    for form in ("own", "bytes"):
        try:
            tensor = torch.empty(2, dtype=dtype)
            found = safetensors.load(safetensors.save({"tensor": tensor if form == "own" else _to_bytes(tensor)}))[
                "tensor"
            ]
            if form == "bytes":
                found = _from_bytes(found, dtype, tensor.shape)
        except Exception:  # KeyError, RuntimeError, its own: whatever it says of a type
            continue
        if found.dtype == dtype and found.shape == tensor.shape:
            return form
    return None


def _to_bytes(tensor: Any) -> Any:
    return tensor.reshape(-1).view(needed("torch", "torch").uint8)


def _from_bytes(data: Any, dtype: Any, shape: Any) -> Any:
    return data.view(dtype).reshape(shape)


def _write(tensors: Mapping[str, Any], sides: Sides) -> dict[str, Any]:
    save = needed("safetensors.torch", "torch").save
    name = generate_name() + ".safetensors"
    as_bytes = {key: tensor for key, tensor in tensors.items() if _form(tensor.dtype) == "bytes"}
    written = {
        key: _to_bytes(tensor.detach()) if key in as_bytes else tensor.detach() for key, tensor in tensors.items()
    }
    with sides.written(name) as file:
        file.write(save(written))
    types = {key: (_type_name(tensor.dtype), tuple(tensor.shape)) for key, tensor in as_bytes.items()}
    return {"file": name, "checksum": file.checksum(), **({"as_bytes": types} if types else {})}


def _type_name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def _read(pid: Mapping[str, Any], sides: Sides) -> dict[str, Any]:
    load = needed("safetensors.torch", "torch").load
    data = sides.checked(pid["file"], pid["checksum"])
    with damage(pid["file"], Exception):
        found: dict[str, Any] = load(bytes(data))
    for key, (name, shape) in pid.get("as_bytes", {}).items():
        dtype = getattr(needed("torch", "torch"), name, None)
        if dtype is None:
            raise MissingDependency(
                f"the tensor {key!r} is of type {name}, which this version of PyTorch does not have"
            )
        found[key] = _from_bytes(found[key], dtype, shape)
    return found
