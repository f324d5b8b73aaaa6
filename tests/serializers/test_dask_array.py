"""Dask arrays on disk: exact, lazy, a few chunks in memory at a time, and nothing of a save that failed."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from functionfuse.errors import InvalidPickle, SideFileMissing, UnpicklableResult
from functionfuse.serializers._held import Held
from functionfuse.serializers.base import FILE_PROTOCOL
from functionfuse.serializers.daskarray import DaskArraySerializer, DaskZarrSerializer
from functionfuse.storage import storage_factory
from functionfuse.storage.filestorage import FileStorage
from tests.serializers.test_serializers import Checked

da = pytest.importorskip("dask.array")
h5py = pytest.importorskip("h5py")
np = pytest.importorskip("numpy")


class Small(DaskArraySerializer):
    """With HDF5's compression."""

    compression = 4


class SmallZarr(DaskZarrSerializer):
    """With Zarr's compression."""

    compression = 3


def samples() -> list[Any]:
    """Return arrays whose chunks fit and do not fit, of every kind of shape and of dtypes that Zarr has too."""
    return [
        da.from_array(np.arange(7000.0).reshape(100, 70), chunks=(30, 20)),
        da.ones((5,), chunks=((2, 1, 2),), dtype=">i2"),
        da.from_array(np.array(["2020-02-29", "NaT"], "M8[s]"), chunks=1),
        da.zeros((0, 3)),
        da.ones(()),
        da.ones((4, 4), chunks=2) > 0,
        da.ones((3, 4), chunks=(2, 3), dtype="c16").T,
        da.zeros((200, 200), chunks=(100, 50)),
    ]


class DaskArrays(Checked):
    """The suite for serializers, with arrays that are computed to be compared."""

    def samples(self) -> list[Any]:
        """Return arrays of all kinds."""
        return samples()

    def equal(self, one: Any, other: Any) -> bool:
        """Compare values, dtype and chunks."""
        same = type(one) is type(other) and one.dtype == other.dtype and one.chunks == other.chunks
        return bool(same) and one.compute().tobytes() == other.compute().tobytes()


class TestHDF5(DaskArrays):
    """HDF5."""

    serializer = DaskArraySerializer

    def samples(self) -> list[Any]:
        """Return what Zarr has no dtype for, too."""
        mixed = np.zeros(7, [("a", "i4"), ("b", "f8")])
        return [*samples(), da.from_array(np.array(["a", "bb"])), da.from_array(mixed, chunks=3)]

    def test_it_works_over_a_remote_file_system(self) -> None:
        """Over the S3 protocol it is Zarr, which has its own test."""
        assert self.serializer.name == "HDFSerializer"


class TestCompressedHDF5(TestHDF5):
    """HDF5, compressed."""

    serializer = Small


@pytest.mark.slow
class TestZarr(DaskArrays):
    """Zarr, over files and behind fsspec."""

    serializer = DaskZarrSerializer

    @pytest.fixture(autouse=True)
    def _loop(self, zarr_loop: None) -> None:
        pass


@pytest.mark.slow
class TestCompressedZarr(TestZarr):
    """Zarr, compressed."""

    serializer = SmallZarr


@pytest.fixture
def storage(tmp_path: Path) -> FileStorage:
    """Return a storage with the serializer."""
    storage = FileStorage(tmp_path)
    storage.register_persistent_serializers(DaskArraySerializer)
    return storage


def h5_file(folder: Path) -> Path:
    """Return the one side file."""
    (path,) = folder.glob("w/bigdata/*/*")
    return path


@pytest.mark.parametrize("serializer", [DaskArraySerializer, Small])
def test_the_file_is_any_hdf5(serializer: Any, tmp_path: Path) -> None:
    """h5py reads the dataset `dask_arrays`, edges included, chunked as the array and compressed if it was to be."""
    storage = FileStorage(tmp_path)
    storage.register_persistent_serializers(serializer)
    array = samples()[0]
    storage.save("w", "t", array)
    with h5py.File(h5_file(tmp_path)) as file:
        dataset = file["dask_arrays"]
        assert dataset.chunks == (30, 20)
        assert dataset.compression == ("gzip" if serializer.compression else None)
        assert np.array_equal(dataset[...], array.compute())


def test_what_function_fuse_wrote_is_read(tmp_path: Path, storage: FileStorage) -> None:
    """A pid that is a file's name, as Function Fuse has them, is its HDF5 file, lazy and in its chunks."""
    values = np.arange(12.0).reshape(3, 4)
    with h5py.File(tmp_path / "old", "w") as file:
        file.create_dataset("dask_arrays", data=values, chunks=(2, 2))

    class Folder:
        def open(self, name: str, mode: str) -> Any:
            return open(tmp_path / name, mode)

    array = DaskArraySerializer.unpickle("old", {FILE_PROTOCOL: Folder()})
    assert array.chunksize == (2, 2)
    assert np.array_equal(array[1:].compute(), values[1:])


def test_a_slice_reads_its_chunks_alone(tmp_path: Path, storage: FileStorage) -> None:
    """Of a file in which one chunk is damaged, all that does not need it can be read, and it is named where it is."""
    storage.save("w", "t", da.from_array(np.arange(4000), chunks=1000))
    with h5py.File(h5_file(tmp_path)) as file:
        offset = file["dask_arrays"].id.get_chunk_info_by_coord((2000,)).byte_offset
    with open(h5_file(tmp_path), "r+b") as file:
        file.seek(offset)
        file.write(b"\xff")
    array = storage.read_task("w", "t")
    assert array[:2000].sum().compute() == sum(range(2000))
    with pytest.raises(InvalidPickle, match=r"\.h5 is damaged: chunk \(2,\)"):
        array.compute()


def test_it_outlives_its_result(storage: FileStorage) -> None:
    """An array that was read can be computed after its task was saved again, from itself too, and removed."""
    storage.save("w", "t", da.ones(10, chunks=3))
    first = storage.read_task("w", "t")
    storage.save("w", "t", first + 1)
    second = storage.read_task("w", "t")
    storage.remove_task("w", "t")
    assert (first.sum().compute(), second.sum().compute()) == (10, 20)


@pytest.mark.slow
def test_other_processes_read_it(storage: FileStorage) -> None:
    """It computes in worker processes, which open the file by its path, and says so where it is gone for them."""
    storage.save("w", "t", da.ones(10, chunks=3))
    array = storage.read_task("w", "t")
    assert array.sum().compute(scheduler="processes", num_workers=2) == 10
    storage.remove_task("w", "t")
    with pytest.raises(SideFileMissing, match="overwritten or removed since"):
        array.sum().compute(scheduler="processes", num_workers=2)


def test_beyond_many_arrays_files_are_not_kept_open(storage: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many arrays are read, no more files are open than the process can spare; others are opened when read."""
    monkeypatch.setattr(Held, "_free", 2)
    for number in range(4):
        storage.save("w", f"t{number}", da.full(10, number, chunks=3))
    arrays = [storage.read_task("w", f"t{number}") for number in range(4)]
    assert [int(array.sum().compute()) for array in arrays] == [0, 10, 20, 30]
    assert Held._free == 0
    del arrays


def counting(threads: Callable[[int], None], shape: tuple[int, ...] = (64,)) -> Any:
    """Return an array of 64 chunks whose computation calls a function with the number of the chunk."""

    def block(block_info: Any = None) -> Any:
        number = block_info[None]["chunk-location"][0]
        threads(number)
        return np.full(1000, number)

    return da.map_blocks(block, chunks=((1000,) * 64,), dtype="i8", meta=np.empty(0, "i8"))


@pytest.mark.parametrize("serializer", [DaskArraySerializer, DaskZarrSerializer])
def test_a_failure_half_way_leaves_nothing(serializer: Any, tmp_path: Path) -> None:
    """An error in a chunk comes out as itself; the file is gone, and what was stored before is as it was."""
    if serializer is DaskZarrSerializer:
        pytest.importorskip("zarr")
    storage = FileStorage(tmp_path)
    storage.register_persistent_serializers(serializer)
    storage.save("w", "t", "before")

    def fail(number: int) -> None:
        if number == 40:
            raise ValueError("chunk 40")

    array = counting(fail)
    with pytest.raises(ValueError, match="chunk 40") as caught:
        storage.save("w", "t", array)
    assert any("task 't' of workflow 'w'" in note for note in caught.value.__notes__)
    assert list(tmp_path.glob("w/bigdata/*")) == []
    assert storage.read_task("w", "t") == "before"


def test_a_few_chunks_are_in_memory(storage: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more chunks are computed than written, but for one a thread; each is computed once."""
    from functionfuse.serializers import daskarray

    lock = threading.Lock()
    computed: list[int] = []
    written: list[int] = []
    most = [0]

    def compute(number: int) -> None:
        with lock:
            computed.append(number)
            most[0] = max(most[0], len(computed) - len(written))

    write = daskarray._Writer.write

    def watched(self: Any, block: Any, number: int) -> None:
        write(self, block, number)
        with lock:
            written.append(number)

    monkeypatch.setattr(daskarray._Writer, "write", watched)
    array = counting(compute)
    computed.clear()
    import dask

    with dask.config.set(num_workers=3):
        storage.save("w", "t", array)
    assert sorted(computed) == sorted(written) == list(range(64))
    assert most[0] <= 4
    assert np.array_equal(storage.read_task("w", "t").compute(), np.repeat(np.arange(64), 1000))


def returning(found: str, promised: str) -> Any:
    """Return an array that promises one dtype and whose chunks have another."""
    return da.map_blocks(lambda: np.ones(2, found), chunks=((2, 2),), dtype=promised, meta=np.empty(0, promised))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (lambda: da.arange(10, chunks=5)[da.arange(10, chunks=5) > 3], r"compute_chunk_sizes\(\)"),
        (lambda: da.from_array(np.array([{}, None], object), chunks=1), "Python objects"),
        (lambda: da.ma.masked_array(da.ones(3, chunks=2), [True, False, True]), "MaskedArray"),
        (lambda: da.ones(4, chunks=2).map_blocks(lambda block: block[:1], dtype="f8"), "promised was"),
        (lambda: returning("f8", "i8"), r"float64, promised was \(2,\) and int64"),
        (lambda: returning("U5", "U1"), "promised was"),
        (lambda: da.zeros(4, chunks=2, dtype="V0"), "of no bytes"),
    ],
    ids=["unknown sizes", "objects", "masked", "other shapes", "floats", "longer texts", "no bytes"],
)
def test_what_does_not_fit_is_refused(array: Callable[[], Any], message: str, storage: FileStorage) -> None:
    """What a file of arrays cannot hold is refused, with the remedy; nothing is left of it."""
    with pytest.raises(UnpicklableResult, match=message):
        storage.save("w", "t", [array()])
    assert not storage.file_exists("w", "t")


@pytest.mark.parametrize(
    "array",
    [
        lambda: da.ones(4, chunks=2).map_blocks(lambda block: block[:1], dtype="f8"),
        lambda: returning("f8", "i8"),
        lambda: returning("M8[ns]", "M8[s]"),
    ],
    ids=["other shapes", "floats", "times"],
)
def test_zarr_refuses_what_was_not_promised(array: Callable[[], Any], tmp_path: Path) -> None:
    """A chunk that is not what its array says is refused, not cast or spread over its place; nothing is left of it."""
    pytest.importorskip("zarr")
    storage = FileStorage(tmp_path)
    storage.register_persistent_serializers(DaskZarrSerializer)
    with pytest.raises(UnpicklableResult, match="promised was"):
        storage.save("w", "t", array())
    assert list(tmp_path.glob("w/bigdata/*")) == []


ALIGNED = np.dtype([("a", "i1"), ("b", "f8")], align=True)
DTYPES = {
    "records": [("a", "i4"), ("b", "f8")],
    "records with times": [("t", "M8[s]"), ("v", "f8")],
    "records with text": [("t", "U3")],
    "records of the other order": [("a", ">i4"), ("b", ">M8[ms]")],
    "records in records": [("a", "i4", (2,)), ("b", ALIGNED), ("c", [("d", "m8[D]")])],
    "aligned": ALIGNED,
    "out of order": np.dtype({"names": ["a", "b"], "formats": ["i4", "i4"], "offsets": [4, 0]}),
    "overlapping": np.dtype({"names": ["a", "b"], "formats": ["i4", "i4"], "offsets": [0, 2]}),
    "gaps": np.dtype({"names": ["a"], "formats": ["i2"], "offsets": [3], "itemsize": 9}),
    "metadata": np.dtype("i4", metadata={"unit": "m"}),
    "steps of two seconds": "M8[2s]",
    "other order": ">m8[D]",
    "text": "U3",
    "text of the other order": ">U3",
    "bytes": "S3",
    "void": "V5",
    "half": "f2",
}


def held(array: Any) -> list[bytes]:
    """Return the bytes of an array, of records those of their fields: what lies between these is copied or not."""
    if array.dtype.fields is None:
        return [array.tobytes()]
    return [part for name in array.dtype.names for part in held(array[name])]


@pytest.mark.parametrize("serializer", [DaskArraySerializer, Small, DaskZarrSerializer, SmallZarr])
def test_dtypes_that_the_formats_lack(serializer: Any, tmp_path: Path) -> None:
    """Whatever has a fixed size comes back with its exact dtype, in chunks that fit and do not, empty ones, scalars."""
    pytest.importorskip("zarr")
    storage = FileStorage(tmp_path)
    storage.register_persistent_serializers(serializer)
    arrays = {}
    for name, each in DTYPES.items():
        dtype = np.dtype(each)
        for shape, chunks in (((3, 5), 2), ((0, 3), 3), ((), ())):
            size = int(np.prod(shape))
            digits = np.random.default_rng(0).integers(1, 100, size * dtype.itemsize, dtype="u1")
            texts = np.array(["ab", "", "abc", "\u00e9"]).astype("U3")[np.arange(size) % 4]
            values = texts.astype(dtype) if dtype.kind == "U" else digits.view(dtype)
            if dtype.fields and any(field[0].kind == "U" for field in dtype.fields.values()):
                values = np.zeros(size, dtype)
                values["t"] = texts
            arrays[f"{name} {shape}"] = da.from_array(values.reshape(shape), chunks=chunks)
    storage.save("w", "t", arrays)
    for name, found in storage.read_task("w", "t").items():
        saved = arrays[name]
        assert (repr(found.dtype), found.chunks) == (repr(saved.dtype), saved.chunks), name
        assert found.dtype.metadata == saved.dtype.metadata, name
        one, other = (np.asarray(each.compute(), saved.dtype) for each in (found, saved))
        assert held(one) == held(other), name


@pytest.mark.slow
def test_a_lost_chunk_of_zarr_is_not_zero(tmp_path: Path, zarr_loop: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zarr takes a chunk that is gone for zeros; here it is an error when it is read, or when it is computed."""
    storage = FileStorage(tmp_path)
    storage.register_persistent_serializers(DaskZarrSerializer)
    storage.save("w", "t", da.zeros(10, chunks=5))
    held = storage.read_task("w", "t")
    monkeypatch.setattr(Held, "_free", 0)
    array = storage.read_task("w", "t")
    assert array.compute().tolist() == [0] * 10
    (chunk,) = tmp_path.glob("w/bigdata/*/*/dask_arrays/c/1")
    chunk.unlink()
    with pytest.raises(SideFileMissing, match="c/1"):
        array.compute()
    assert held.compute().tolist() == [0] * 10
    monkeypatch.setattr(Held, "_free", 9)
    with pytest.raises(SideFileMissing, match="1 are gone"):
        storage.read_task("w", "t")


def test_the_catalog_knows_shape_and_chunks(storage: FileStorage) -> None:
    """Shape, dtype and chunks are in the summary, the file's bytes in the size."""
    storage.save("w", "t", da.zeros((100, 70), chunks=(30, 20), dtype="f4"))
    sql = "SELECT summary->>'shape', summary->>'dtype', summary->'chunks'->>1, size > 28000 FROM tasks"
    assert storage.catalog.sql(sql).fetchall() == [("[100,70]", "float32", "[20,20,20,10]", True)]


# In a bucket


@pytest.mark.parametrize("serializer", [DaskArraySerializer, Small], ids=["plain", "compressed"])
def test_a_folder_that_was_copied_into_a_bucket(
    tmp_path: Path, motoserver: Any, serializer: type[DaskArraySerializer]
) -> None:
    """An HDF5 file that was copied with its result is read there, chunk by chunk, checked, and in other processes."""
    pytest.importorskip("s3fs")
    array = da.arange(1_000, chunks=300).reshape(20, 50)
    folder = FileStorage(str(tmp_path / "results"))
    folder.register_persistent_serializers(serializer)
    folder.save("w", "array", array)
    folder.save("w", "empty", da.zeros((0, 3)))
    path = motoserver.endpoint.prefix()
    storage = storage_factory(motoserver.endpoint.config(path))
    storage.register_persistent_serializers(serializer)
    client = storage._store.filesystem
    client.put(f"{tmp_path}/results/w", f"{path[1:]}/w", recursive=True)
    found = storage.read_task("w", "array")
    np.testing.assert_array_equal(found.compute(), array.compute())
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(found)).compute(), array.compute())
    assert found.chunks == array.chunks
    assert storage.read_task("w", "empty").compute().shape == (0, 3)
    assert storage.verify().ok
    client.invalidate_cache()
    file = max(client.find(f"{path[1:]}/w/bigdata"), key=client.size)
    whole = client.cat_file(file)
    client.pipe_file(file, whole[:2_048] + bytes(len(whole) - 2_048))
    with pytest.raises(InvalidPickle, match="damaged"):
        found.compute()
    client.rm_file(file)
    with pytest.raises(SideFileMissing, match="gone"):
        storage.read_task("w", "array")
