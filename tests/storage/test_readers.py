"""Who began to read before an overwrite or a removal finishes, or is told to read again; never is a result lost."""

from __future__ import annotations

import itertools
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from functionfuse.errors import SideFileMissing, TaskNotFound
from functionfuse.serializers._held import Held
from functionfuse.serializers.daskarray import DaskArraySerializer, DaskZarrSerializer
from functionfuse.serializers.numpyarray import NumpySerializer
from functionfuse.storage.filestorage import FileStorage

np = pytest.importorskip("numpy")
pd = pytest.importorskip("pandas")
da = pytest.importorskip("dask.array")
dd = pytest.importorskip("dask.dataframe")
pytest.importorskip("h5py")
pytest.importorskip("zarr")
xr = pytest.importorskip("xarray")

SIZE = 40_000  # elements; each result of number n holds n so often
READS = 12  # by each reader, while there are overwrites
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("zarr_loop")]


def lazy_array(number: int) -> Any:
    """Return a Dask array."""
    return da.full(SIZE, number, chunks=SIZE // 8)


def lazy_frame(number: int) -> Any:
    """Return a Dask data frame."""
    return dd.from_pandas(pd.DataFrame({"x": np.full(SIZE, number)}), npartitions=4)


def lazy_dataset(number: int) -> Any:
    """Return a dataset of Xarray over a Dask array, with a coordinate in memory."""
    return xr.Dataset({"x": ("t", lazy_array(number))}, coords={"t": np.arange(SIZE)})


KINDS: dict[str, tuple[Callable[[int], Any], Any, Callable[[Any], Any]]] = {
    "HDF5": (lazy_array, DaskArraySerializer, lambda found: found.sum().compute(scheduler="threads")),
    "Zarr": (lazy_array, DaskZarrSerializer, lambda found: found.sum().compute(scheduler="threads")),
    "Dask data frame": (lazy_frame, None, lambda found: found.x.sum().compute(scheduler="threads")),
    "Xarray": (lazy_dataset, None, lambda found: int(found.x.sum().compute(scheduler="threads"))),
    "NumPy": (lambda number: np.full(SIZE, number), NumpySerializer, lambda found: found.sum()),
    "array in the blob": (lambda number: {"a": [np.full(SIZE, number)]}, None, lambda found: found["a"][0].sum()),
    "pandas": (lambda number: [pd.DataFrame({"x": np.full(SIZE, number)})] * 2, None, lambda found: found[1].x.sum()),
}
LAZY = ["HDF5", "Zarr", "Dask data frame", "Xarray"]


def open_storage(path: Path, kind: str) -> FileStorage:
    """Return a storage that saves arrays as the kind tells."""
    storage = FileStorage(path)
    storage.register_default_serializers()
    if KINDS[kind][1] is not None:
        storage.register_persistent_serializers(KINDS[kind][1])
    return storage


@pytest.mark.parametrize("kind", LAZY)
def test_what_is_lazy_outlives_its_result(tmp_path: Path, kind: str) -> None:
    """What was read and not computed is computed from the files that it was read from, overwritten or removed."""
    storage = open_storage(tmp_path, kind)
    make, _, compute = KINDS[kind]
    storage.save("w", "t", make(1))
    first = storage.read_task("w", "t")
    storage.save("w", "t", make(2))
    second = storage.read_task("w", "t")
    storage.remove_workflow("w")
    assert not list(tmp_path.glob("w/**/*"))
    assert (compute(first), compute(second), compute(first)) == (SIZE, 2 * SIZE, SIZE)


@pytest.mark.parametrize("kind", LAZY)
def test_what_is_saved_from_itself(tmp_path: Path, kind: str) -> None:
    """A lazy result can be read, changed, and saved under its own name."""
    storage = open_storage(tmp_path, kind)
    make, _, compute = KINDS[kind]
    storage.save("w", "t", make(1))
    for _ in range(3):
        storage.save("w", "t", storage.read_task("w", "t") + 1)
    assert compute(storage.read_task("w", "t")) == 4 * SIZE


@pytest.mark.parametrize("kind", LAZY)
def test_by_path_it_is_told_to_be_read_again(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With too many files open, and where it was sent, a file that is gone is an error that says what to do."""
    storage = open_storage(tmp_path, kind)
    make, _, compute = KINDS[kind]
    storage.save("w", "t", make(1))
    monkeypatch.setattr(Held, "_free", 0)
    here = storage.read_task("w", "t")
    sent = pickle.loads(pickle.dumps(here))
    assert (compute(here), compute(sent)) == (SIZE, SIZE)
    storage.save("w", "t", make(2))
    for each in (here, sent):
        with pytest.raises(SideFileMissing, match="overwritten or removed since it was read; read it again"):
            compute(each)
    assert compute(storage.read_task("w", "t")) == 2 * SIZE


def read_and_compute(storage: FileStorage, kind: str) -> None:
    """Read and compute again and again; each time it is one result, whole."""
    _, _, compute = KINDS[kind]
    for _ in range(READS):
        found = storage.read_task("w", "t")
        total = compute(found)
        assert total % SIZE == 0
        assert total > 0


def overwrite_while_read(storage: FileStorage, kind: str, readers: Executor) -> None:
    """Save one result over the other for as long as two readers read."""
    make, _, _ = KINDS[kind]
    reading = [readers.submit(read_and_compute, storage, kind) for _ in range(2)]
    for number in itertools.count():
        storage.save("w", "t", make(1 + number % 7))
        if number and all(each.done() for each in reading):
            break
    for each in reading:
        each.result()


@pytest.mark.parametrize("kind", KINDS)
def test_threads_read_while_it_is_overwritten(tmp_path: Path, kind: str) -> None:
    """Threads that read and compute while another overwrites always have one result, whole, and none is lost."""
    storage = open_storage(tmp_path, kind)
    storage.save("w", "t", KINDS[kind][0](1))
    with ThreadPoolExecutor(2) as pool:
        overwrite_while_read(storage, kind, pool)
    assert storage.list_tasks("w") == ["t"]


def ready(_: int) -> None:
    """Take so long that each process has one, and so has imported this module."""
    time.sleep(1)


@pytest.fixture(scope="module")
def readers() -> Iterator[ProcessPoolExecutor]:
    """Give two processes that have imported all libraries."""
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        list(pool.map(ready, range(2)))
        yield pool


@pytest.mark.parametrize("kind", KINDS)
def test_processes_read_while_it_is_overwritten(tmp_path: Path, kind: str, readers: ProcessPoolExecutor) -> None:
    """So do processes."""
    storage = open_storage(tmp_path, kind)
    storage.save("w", "t", KINDS[kind][0](1))
    overwrite_while_read(storage, kind, readers)


def test_a_removal_is_a_miss(tmp_path: Path) -> None:
    """Who reads while the result is removed and saved again has it, or a miss; never damage."""
    kind = "pandas"
    storage = open_storage(tmp_path, kind)
    make, _, compute = KINDS[kind]
    found = missed = 0
    enough = threading.Event()

    def replace() -> None:
        while not enough.is_set():
            storage.save("w", "t", make(3))
            storage.remove_task("w", "t")

    with ThreadPoolExecutor(1) as pool:
        writer = pool.submit(replace)
        try:
            while min(found, missed) < READS:
                try:
                    assert compute(storage.read_task("w", "t")) == 3 * SIZE
                    found += 1
                except TaskNotFound:
                    missed += 1
        finally:
            enough.set()
        writer.result()
