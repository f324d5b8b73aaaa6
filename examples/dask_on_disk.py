"""Save a Dask array that is larger than the memory that the process may have, and read a slice of it back.

``python examples/dask_on_disk.py --gib 4 --limit-mib 1500`` writes 4 GiB with
1,500 MiB of address space (``ulimit -v``), most of which the libraries reserve.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
from pathlib import Path

import dask.array

from functionfuse.storage import storage_factory

CHUNK = 1024  # rows and columns: 8 MiB a chunk


def main() -> None:
    """Save, read a slice, and say what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=float, default=4, help="size of the array")
    parser.add_argument("--limit-mib", type=int, default=1500, help="most address space of this process")
    parser.add_argument("--folder", type=Path, help="where to keep the results; temporary by default")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        limit = arguments.limit_mib << 20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        show(folder, arguments.gib)


def show(folder: str, gib: float) -> None:
    """Save an array of that size into a folder, and read a slice."""
    columns = 16 * CHUNK
    rows = max(CHUNK, int(gib * 2**30 / 8 / columns) // CHUNK * CHUNK)
    noise = dask.array.random.default_rng(0).random((rows, columns), chunks=(CHUNK, CHUNK))
    print(f"The array has {noise.nbytes / 2**30:.2f} GiB in {noise.npartitions} chunks.")
    storage = storage_factory({"kind": "file", "options": {"path": folder}})
    storage.register_default_serializers()
    with dask.config.set(num_workers=2):
        storage.save("noise", "raw", noise)
        stored = storage.read_task("noise", "raw")
        part = stored[-5:, -5:].compute()
    # The highest mark of this program alone: that of `getrusage` begins with the process that started it.
    status = Path("/proc/self/status").read_text().splitlines()
    (peak,) = (int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))
    size = sum(file.size for file in storage.footer("noise", "raw").record.side_files)
    print(f"Saved {size / 2**30:.2f} GiB; at most {peak:.0f} MiB were in memory.")
    print(f"A slice of shape {part.shape} has the mean {part.mean():.3f}.")


if __name__ == "__main__":
    main()
