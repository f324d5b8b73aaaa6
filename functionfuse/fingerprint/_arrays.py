"""Fingerprints of numpy arrays, scalars and dtypes, and of torch tensors.

No library is imported here: who has an array to show has imported numpy.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import xxhash

from functionfuse.fingerprint._digest import content, digest
from functionfuse.fingerprint._walk import Walk, family, short_name

_STRINGS = "T"  # `dtype.kind` of numpy.dtypes.StringDType, whose str is not the same in all versions
_CHUNK = 1 << 16  # elements
_PLAIN_KINDS = frozenset("biufcSUVmM")  # of dtypes whose bytes are the values
_LONG_DOUBLES = frozenset("gG")  # 80 bits in 16 bytes: the rest is whatever was in memory

_REGISTERED = 2  # `dtype.isbuiltin` of those that other packages add


def content_of_chunks(chunks: Iterable[Any]) -> str:
    """Return the digest of buffers laid end to end."""
    stream = xxhash.xxh3_128()
    for chunk in chunks:
        stream.update(chunk)
    return stream.hexdigest()


def items_token(walk: Walk, items: Iterable[Any]) -> str:
    """Return the token of elements that are Python objects."""
    return digest("items", map(walk.token, items))


def array_token(walk: Walk, dtype: Any, shape: tuple[int, ...], elements: str) -> str:
    """Return the token of an array from that of its elements."""
    return digest("numpy.ndarray", (walk.token(dtype), ascii(shape), elements))


@family("numpy", "ndarray")
def _array(walk: Walk, value: Any) -> str:
    plain = value.view(sys.modules["numpy"].ndarray)
    token = array_token(walk, value.dtype, value.shape, _elements(walk, plain))
    kind = short_name(type(value))
    if kind in ("numpy.ndarray", "numpy.memmap"):  # where the memory comes from is no part of the value
        return token
    return digest(kind, (token, walk.token(getattr(value, "__dict__", None))))


def _elements(walk: Walk, array: Any) -> str:
    dtype = array.dtype
    if dtype.names is not None:  # field by field: there may be anything in the gaps between them
        return digest("fields", (_elements(walk, array[name]) for name in dtype.names))
    if dtype.char in _LONG_DOUBLES:
        return items_token(walk, map(str, array.ravel().tolist()))
    if dtype.kind not in _PLAIN_KINDS:
        return items_token(walk, array.ravel().tolist())
    return bytes_of(array)


def bytes_of(array: Any) -> str:
    """Return the digest of an array's elements in C order: in place, or else by chunks of 65,536 elements."""
    if array.nbytes == 0:
        return content(b"")
    if array.flags.c_contiguous:
        return content(array.reshape(-1).view("u1"))  # datetimes refuse to give their buffer, bytes do not
    return content_of_chunks(array.flat[at : at + _CHUNK].view("u1") for at in range(0, array.size, _CHUNK))


@family("numpy", "ma.MaskedArray", "MaskedArray")
def _masked_array(walk: Walk, value: Any) -> str:
    # Filled, because what lies under the mask is no part of the value.
    mask = sys.modules["numpy"].ma.getmaskarray(value)
    return digest(short_name(type(value)), map(walk.token, (value.filled(), mask, value.fill_value)))


@family("numpy", "generic")
def _scalar(walk: Walk, value: Any) -> str:
    array = sys.modules["numpy"].asarray(value)
    return digest("numpy.generic", (walk.token(array.dtype), _elements(walk, array)))


@family("numpy", "dtype")
def _dtype(walk: Walk, value: Any) -> str:
    if value.subdtype is not None:
        return digest("numpy.dtype", map(walk.token, value.subdtype))
    if value.names is not None:
        fields = [(name, *value.fields[name]) for name in value.names]
        return digest("numpy.dtype", map(walk.token, (value.itemsize, fields)))
    if value.kind == _STRINGS:
        return digest("numpy.dtype", (_STRINGS, walk.token(getattr(value, "na_object", None))))
    name = value.name if value.isbuiltin == _REGISTERED else None  # their str tells no more than a size
    return digest("numpy.dtype", map(walk.token, (value.str, name)))


@family("torch", "Tensor")
def _tensor(walk: Walk, value: Any) -> str:
    # By its elements; its reduce names the storage after its address.
    elements = value.detach().cpu().numpy()
    return digest(short_name(type(value)), map(walk.token, (elements, bool(value.requires_grad))))
