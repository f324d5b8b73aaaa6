"""A Dask array of 2 GiB (16384 x 16384 float64, 64 chunks): saved and read back beside `dask.array.to_hdf5`.

Both write the same HDF5 dataset. The floor writes the raw chunks, one `.npy` a
chunk, with as many threads. Memory is the peak of the resident set beyond what it
was before, in a process of its own; a chunk has 32 MiB.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import dask.array as da
import h5py
import numpy as np
from measuring import Times, clear, microseconds, show

from functionfuse.serializers.daskarray import DATASET, DaskArraySerializer
from functionfuse.storage.filestorage import FileStorage

SIDE = 16384
CHUNK = 2048


def chunk(block_info: Any = None) -> Any:
    """Compute a chunk, as cheaply as one can."""
    return np.full((CHUNK, CHUNK), float(block_info[None]["chunk-location"][0]))


def array(side: int = SIDE) -> Any:
    """Return the array, of which nothing is computed."""
    axis = (CHUNK,) * (side // CHUNK)
    return da.map_blocks(chunk, chunks=(axis, axis), dtype="f8", meta=np.empty((0, 0)))


def open_storage(folder: Path) -> FileStorage:
    """Return a storage with the serializer."""
    storage = FileStorage(folder)
    storage.register_persistent_serializers(DaskArraySerializer)
    return storage


def with_to_hdf5(path: Path) -> None:
    """Save as Dask does by itself."""
    da.to_hdf5(str(path), DATASET, array(), chunks=(CHUNK, CHUNK))


class Files:
    """Takes chunks, and writes each to a `.npy` file."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self.shape = (SIDE, SIDE)
        self.dtype = np.dtype("f8")

    def __setitem__(self, where: Any, block: Any) -> None:
        np.save(self._folder / f"{where[0].start}-{where[1].start}.npy", block)


def save_raw(folder: Path) -> None:
    """Write each chunk to a file of its own: the floor."""
    da.store(array(), Files(folder), lock=False)


def read_with_h5py(path: Path) -> None:
    """Sum over what `to_hdf5` wrote."""
    with h5py.File(path) as file:
        da.from_array(file[DATASET], chunks=(CHUNK, CHUNK)).sum().compute(scheduler="threads")


def run(folder: Path, rounds: int) -> None:
    """Measure and print: each system in its turn saves, reads and clears away; the first round only touches memory."""
    folder.mkdir()
    count = SIDE * SIDE * 8 // 2**20  # figures are µs a MiB
    saves: Times = defaultdict(list)
    reads: Times = defaultdict(list)
    for number in range(rounds + 1):
        place = folder / str(number)
        place.mkdir()
        path, storage = place / "array.h5", open_storage(place / "storage")
        systems: dict[str, tuple[Callable[[], Any], Callable[[], Any] | None]] = {
            "dask.array.to_hdf5": (partial(with_to_hdf5, path), partial(read_with_h5py, path)),
            "raw chunks, a file each": (partial(save_raw, place / "raw"), None),
            "functionfuse": (
                partial(storage.save, "w", "t", array()),
                lambda storage=storage: storage.read_task("w", "t").sum().compute(),
            ),
        }
        for name in sorted(systems, reverse=number % 2 == 1):
            save, read = systems[name]
            saves[name].append(microseconds(save, count))
            if read:
                reads[name].append(microseconds(read, count))
            clear(place)
    for times in (saves, reads):
        for values in times.values():
            del values[0]
    show("Dask array of 2 GiB, saved", saves, "dask.array.to_hdf5", "µs a MiB")
    show("Dask array of 2 GiB, read and summed over", reads, "dask.array.to_hdf5", "µs a MiB")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, __file__, str(folder / "memory")], env=environment, check=True)


def _memory(folder: Path) -> None:
    """Print the peak of memory of a save, beyond what the libraries take."""
    open_storage(folder).save("w", "small", array(CHUNK))
    before = _resident("VmRSS")
    open_storage(folder).save("w", "t", array())
    workers = os.cpu_count() or 1
    chunks = workers * CHUNK * CHUNK * 8 >> 20
    print(f"Peak beyond {before} MiB: {_resident('VmHWM') - before} MiB; {workers} chunks in flight are {chunks} MiB\n")


def _resident(field: str) -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(field)) >> 10


if __name__ == "__main__":
    _memory(Path(sys.argv[1]))
