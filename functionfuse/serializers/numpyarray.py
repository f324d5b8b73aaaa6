"""NumPy arrays as `.npy` files, for other programs to open; mapped when they are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from functionfuse.serializers._chunks import described, dtype_from, is_described
from functionfuse.serializers._needed import TypeOf
from functionfuse.serializers._sides import Sides
from functionfuse.serializers.base import generate_name

_ROOM = 60_000  # characters of a type's description that version 1.0 has room for, beside the shape


class NumpySerializer:
    """Writes each array to a `.npy` file; arrays of Python objects are left to pickle.

    Notes
    -----
    Without it arrays lie in the blob, where they are mapped and checked as well,
    and a result with a thousand of them is one file: register it for other
    programs' sake. An array that is read is a copy-on-write map of its file, and
    outlives it.
    """

    name = "NumpySerializer"
    serializer_class: type = cast(type, TypeOf("numpy", "ndarray", "dask"))

    @classmethod
    def pickle(cls, obj: Any, protocols: Mapping[str, Any]) -> tuple[str, Any] | None:
        """Write the array; decline what the format cannot hold."""
        import numpy as np

        if obj.dtype.hasobject or obj.dtype.metadata or obj.dtype.kind == "T" or not is_described(obj.dtype):
            return None
        name = generate_name() + ".npy"
        with Sides(protocols).written(name) as file:
            np.lib.format.write_array(file, obj, _version(obj.dtype), allow_pickle=False)
        order = "C" if obj.flags.c_contiguous or not obj.flags.f_contiguous else "F"
        pid = {"file": name, "checksum": file.checksum(), "dtype": described(obj.dtype), "shape": obj.shape}
        return cls.name, {**pid, "order": order, "offset": file.tell() - obj.nbytes}

    @classmethod
    def unpickle(cls, pid: Any, protocols: Mapping[str, Any]) -> Any:
        """Return the array over its mapped file."""
        import numpy as np

        data = Sides(protocols).checked(pid["file"], pid["checksum"])
        return np.ndarray(pid["shape"], dtype_from(pid["dtype"]), data, pid["offset"], order=pid["order"])

    @classmethod
    def remove(cls, pid: Any, protocols: Mapping[str, Any]) -> None:
        """Delete the file."""
        Sides(protocols).remove(pid["file"])


def _version(dtype: Any) -> tuple[int, int]:
    """Return the oldest version of the format that holds a type: left to itself, NumPy warns of the newer ones."""
    import numpy as np

    header = repr(np.lib.format.dtype_to_descr(dtype))
    if not header.isascii():
        return 3, 0
    return (1, 0) if len(header) < _ROOM else (2, 0)
