"""Which objects are lazy: pickled, they are recipes, which may give something else whenever they are computed.

No library is imported here: who has such an object has imported its library.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

from functionfuse.errors import LazyResultWarning

_REGISTERED = "call storage.register_default_serializers() first (with the extra functionfuse[{}]), or {}"
_COMPUTED = "return what its compute() gives"
_IN_MEMORY = "return what it holds, in memory"

#: By module: classes, and what to do instead. Of Xarray and Zarr it is what opens files: arrays in memory are none.
LAZY = {
    "dask.array": {"Array": _REGISTERED.format("dask", _COMPUTED)},
    "dask.bag": {"Bag": _COMPUTED, "Item": _COMPUTED},
    "dask.dataframe": {
        "DataFrame": _REGISTERED.format("dataframe", _COMPUTED),
        "Series": _COMPUTED,
        "Index": _COMPUTED,
        "Scalar": _COMPUTED,
    },
    "dask.delayed": {"Delayed": _COMPUTED, "DelayedAttr": _COMPUTED, "DelayedLeaf": _COMPUTED},
    "polars": {"LazyFrame": "return what its collect() gives"},
    "pyarrow.dataset": {
        "FileSystemDataset": "return what its to_table() gives",
        "UnionDataset": "return what its to_table() gives",
    },
    "xarray.backends.file_manager": {
        "CachingFileManager": _REGISTERED.format("xarray", "return what load() of the dataset gives")
    },
    "zarr.storage": {"FsspecStore": _IN_MEMORY, "LocalStore": _IN_MEMORY, "ZipStore": _IN_MEMORY},
}

Reducer = Callable[[Any], Any]


def lazy_reducers(found: dict[type, str]) -> dict[type, Reducer]:
    """Return reducers of the lazy classes that can be there, which pickle as ever.

    Parameters
    ----------
    found : dict
        Takes the classes of the objects that come by, with what to do instead.
    """
    reducers: dict[type, Reducer] = {}
    for module in LAZY.keys() & sys.modules.keys():
        for name, remedy in LAZY[module].items():
            cls = getattr(sys.modules[module], name, None)  # None in other versions, and while it is being imported
            if isinstance(cls, type):
                reducers[cls] = partial(_reduce, found, remedy)
    return reducers


def _reduce(found: dict[type, str], remedy: str, obj: Any) -> Any:
    found[type(obj)] = remedy
    return obj.__reduce_ex__(5)


def warn(found: dict[type, str], workflow_name: str, task_name: str) -> None:
    """Warn of a result that holds objects of lazy classes."""
    told = "; ".join(f"{cls.__module__}.{cls.__qualname__}: {remedy}" for cls, remedy in found.items())
    warnings.warn(
        f"task {task_name!r} of workflow {workflow_name!r} holds what is lazy: stored is how to compute it, from files "
        f"or sources that may change, not what it gives now ({told})",
        LazyResultWarning,
        stacklevel=2,
    )
