"""Arrays, tables and what holds them come back as they went in: value, type, dtype, memory order, identity."""

from __future__ import annotations

import os
import pickle
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from functionfuse.errors import InvalidPickle
from functionfuse.serializers.numpyarray import NumpySerializer
from functionfuse.storage.filestorage import FileStorage
from functionfuse.testing import read_blob
from tests.storage.test_blob import by_hand, record

LARGE = 40_000  # elements whose buffer leaves the stream, whatever their type has of bytes but one
NUMBERS = np.random.default_rng(0)
SETTINGS = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

OPTIONS: list[dict[str, Any]] = [
    {},
    {"mmap": False, "compression": None},
    {"verify": "never", "fsync": True},
    {"compression": {"codec": "zstd", "level": 5}, "mmap": False},
]


@pytest.fixture(params=OPTIONS, ids=str)
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> FileStorage:
    """Return an empty storage, with one choice of options after the other."""
    return FileStorage(tmp_path / "storage", **request.param)


def back(storage: FileStorage, obj: Any) -> Any:
    """Save an object and return what is read."""
    storage.save("w", "t", obj)
    return storage.read_task("w", "t")


def assert_same(found: Any, saved: Any) -> None:
    """Hold two arrays against each other in all that makes them what they are."""
    assert type(found) is type(saved)
    assert (found.dtype, found.shape) == (saved.dtype, saved.shape)
    assert found.flags.writeable
    if saved.flags.forc:
        flags = [found.flags.c_contiguous, found.flags.f_contiguous]
        assert flags == [saved.flags.c_contiguous, saved.flags.f_contiguous]
    if saved.dtype.hasobject:
        assert found.tolist() == saved.tolist()
    else:
        assert found.tobytes() == saved.tobytes()


# Arrays

DTYPES = (
    npst.scalar_dtypes()
    | npst.array_dtypes()
    | st.sampled_from([np.dtype([("a", "i4"), ("b", "f8", (2,)), ("when", "M8[s]")]), np.dtype("O"), np.dtype("V7")])
)


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    """Draw arrays small and large, of every dtype, in every memory order, of no elements and of no dimensions."""
    dtype = draw(DTYPES)
    shape = draw(npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
    if dtype.hasobject:
        array = np.array(draw(st.lists(st.none() | st.integers() | st.text(), max_size=5)) or [None], dtype)
        shape = array.shape
    else:
        count = int(np.prod(shape))
        noise = random.Random(draw(st.integers(0, 9))).randbytes(count * dtype.itemsize)
        array = (
            np.frombuffer(noise, dtype).reshape(shape).copy() if count and dtype.itemsize else np.zeros(shape, dtype)
        )
    if draw(st.booleans()) and array.size:
        array = np.resize(array, (LARGE // array.size + 1, *shape))
    if draw(st.booleans()):
        array = np.asfortranarray(array)
    if draw(st.booleans()) and array.ndim:
        array = array[:: draw(st.sampled_from([2, -1]))]
    return array


@SETTINGS
@given(array=arrays())
def test_any_array(storage: FileStorage, array: np.ndarray) -> None:
    """Every array comes back with its bytes, dtype, shape and memory order, and can be written to."""
    assert_same(back(storage, array), array)


class Tagged(np.ndarray):
    """A subclass that adds nothing."""


@pytest.mark.parametrize("size", [10, LARGE])
def test_subclasses(storage: FileStorage, tmp_path: Path, size: int) -> None:
    """Masked arrays, record arrays, matrices, subclasses and memory maps come back as what they were."""
    masked = np.ma.masked_array(np.arange(size), np.arange(size) % 3 == 0, fill_value=7)
    found = back(storage, masked)
    assert type(found) is np.ma.MaskedArray
    np.testing.assert_array_equal(found.mask, masked.mask)
    np.testing.assert_array_equal(found.data, masked.data)
    assert found.fill_value == 7
    records = np.rec.fromarrays([np.arange(size), np.ones(size)], names="number,one")
    np.testing.assert_array_equal(back(storage, records).number, np.arange(size))
    mapped = np.memmap(tmp_path / "mapped", dtype="f8", mode="w+", shape=(size,))
    mapped[:] = np.arange(size)
    for array in (np.arange(size).view(Tagged), mapped):
        found = back(storage, array)
        assert type(found) is type(array)
        np.testing.assert_array_equal(found, array)


def test_identity_within_a_result(storage: FileStorage) -> None:
    """One array that occurs twice is one array twice."""
    array, other = NUMBERS.random(LARGE), np.zeros(LARGE)
    found = back(storage, {"a": array, "again": [array, (other, other)]})
    assert found["a"] is found["again"][0]
    assert found["again"][1][0] is found["again"][1][1]
    found["a"][0] = 5.0
    assert found["again"][0][0] == 5.0


def test_what_cannot_be_written_to(storage: FileStorage) -> None:
    """An array that is read-only comes back equal and read-only."""
    for size in (10, LARGE):
        array = np.arange(size)
        array.flags.writeable = False
        found = back(storage, array)
        np.testing.assert_array_equal(found, array)
        assert not found.flags.writeable


# Containers and tables

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.sampled_from([b"x" * 70_000, bytearray(1_200_000), "y" * 2_000_000, frozenset({1, 2})])
)
CONTAINERS = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4) | st.tuples(inner, inner)
    ),
    max_leaves=8,
)


@SETTINGS
@given(obj=CONTAINERS)
def test_any_nest_of_containers(storage: FileStorage, obj: Any) -> None:
    """Containers within containers come back equal, their parts of the types that they had."""
    found = back(storage, obj)
    assert found == obj
    assert pickle.dumps(found, 5) == pickle.dumps(pickle.loads(pickle.dumps(obj, 5)), 5)


@pytest.mark.parametrize("size", [5, 10_000])
def test_pandas(storage: FileStorage, size: int) -> None:
    """Tables of any column, duplicate names and mixed objects too, come back equal, recorded as pickles."""
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(
        {
            "number": NUMBERS.random(size),
            "when": pd.date_range("2026-01-01", periods=size, freq="s", tz="Europe/Berlin"),
            "kind": pd.Categorical(["a", "b", "c", "d", "e"] * (size // 5)),
            "mixed": [1, "two", None, 4.0, b"five"] * (size // 5),
            "text": ["some"] * size,
            "maybe": pd.array([1, None, 3, 4, 5] * (size // 5), dtype="Int64"),
        }
    )
    twice = frame[["number", "number"]]
    for table in (frame, twice, frame["mixed"], frame.set_index(["kind", "when"]), frame.T if size == 5 else frame):
        found = back(storage, table)
        (pd.testing.assert_series_equal if isinstance(table, pd.Series) else pd.testing.assert_frame_equal)(
            found, table
        )
    assert list(storage.footer("w", "t").record.serializers) == ["pickle"]


# Damage


@pytest.mark.parametrize("compression", ["auto", None])
@pytest.mark.parametrize("mmap", [True, False])
def test_damage_is_never_returned(tmp_path: Path, compression: Any, mmap: bool) -> None:
    """Whatever bit of a large blob is flipped, in frames, buffers, padding, stream or footer, it is damaged."""
    storage = FileStorage(tmp_path, compression=compression, mmap=mmap)
    storage.save("w", "t", [np.arange(LARGE), NUMBERS.random(20_000), "between", np.zeros(3_000_000, "u1")])
    file = tmp_path / "w" / "t"
    good = file.read_bytes()
    edges = [0, len(good) - 1]
    for offset, size, *more in read_blob(good).record["buffers"]:
        edges += [offset - 1, offset, offset + 9, offset + size // 2, offset + size - 1, offset + size]
        edges += [offset + sum(more[2][:1])] if more else []
    with open(file, "r+b", buffering=0) as handle:
        for position in [*edges, *random.Random(1).sample(range(len(good)), 60)]:
            bit = 1 << position % 8
            os.pwrite(handle.fileno(), bytes([good[position] ^ bit]), position)
            with pytest.raises(InvalidPickle):
                storage.read_task("w", "t")
            os.pwrite(handle.fileno(), good[position : position + 1], position)
    assert len(storage.read_task("w", "t")) == 4


def test_without_verification_the_footer_is_checked_all_the_same(tmp_path: Path) -> None:
    """With verify="never", a changed array comes back as data; a changed footer or frame does not."""
    storage = FileStorage(tmp_path, verify="never")
    array = NUMBERS.random(LARGE)
    storage.save("w", "t", [array, np.zeros(LARGE)])
    file = tmp_path / "w" / "t"
    good = file.read_bytes()
    (begin, _), (frame, *_) = read_blob(good).record["buffers"]
    file.write_bytes(good[:begin] + bytes(8) + good[begin + 8 :])
    found, zeros = storage.read_task("w", "t")
    assert (found[0], zeros.sum()) == (0, 0)
    np.testing.assert_array_equal(found[1:], array[1:])
    for position in (len(good) - 100, frame, frame + 4):
        file.write_bytes(good[:position] + bytes([good[position] ^ 8]) + good[position + 1 :])
        with pytest.raises(InvalidPickle):
            storage.read_task("w", "t")
    (tmp_path / "w" / "older").write_bytes(b"\x80" * 90)
    with pytest.raises(InvalidPickle):
        storage.read_task("w", "older")


def test_an_array_that_was_read_survives_an_overwrite(storage: FileStorage) -> None:
    """Who reads while the result is overwritten keeps, or gets, one of the two, whole."""
    versions = [NUMBERS.random(LARGE) for _ in range(5)]
    kept = []
    for version in versions:
        storage.save("w", "t", version)
        kept.append(storage.read_task("w", "t"))
    storage.remove_task("w", "t")
    for found, version in zip(kept, versions, strict=True):
        np.testing.assert_array_equal(found, version)


# Compression


def layout(storage: FileStorage) -> list[bool]:
    """Return of every buffer whether it is compressed."""
    return [len(place) > 2 for place in storage.footer("w", "t").record.buffers]


def test_what_shrinks_is_compressed(tmp_path: Path) -> None:
    """By default, what shrinks is compressed and the rest stays as it is; None compresses nothing."""
    times = np.datetime64("2026-01-01", "ns") + np.cumsum(NUMBERS.integers(0, 1_000_000, 500_000)).astype("m8[ns]")
    obj = [
        NUMBERS.random(LARGE),
        NUMBERS.integers(0, 1000, 2_000_000),
        times,
        NUMBERS.random(1_500_000),
        np.ones(9_000),
    ]
    storage = FileStorage(tmp_path)
    storage.save("w", "t", obj)
    assert layout(storage) == [False, True, True, False, True]
    ((size, logical),) = storage.catalog.sql("SELECT size, logical_size FROM tasks").fetchall()
    raw = FileStorage(tmp_path, compression=None)
    raw.save("w", "t", obj)
    assert layout(raw) == [False] * 5
    ((whole, same),) = raw.catalog.sql("SELECT size, logical_size FROM tasks").fetchall()
    assert whole == same
    assert size < 0.6 * logical
    assert abs(logical - whole) < 1_000  # the footers differ


def test_few_among_many(tmp_path: Path) -> None:
    """After a long row of small buffers that do not shrink, one that does is found soon, and a large one at once."""
    storage = FileStorage(tmp_path)
    noise = [NUMBERS.random(10_000) for _ in range(200)]
    storage.save("w", "t", [*noise, np.zeros(2_000_000), *(np.ones(10_000) for _ in range(40))])
    found = layout(storage)
    assert found[:201] == [False] * 200 + [True]
    assert sum(found[201:]) >= 24


def test_frames(tmp_path: Path) -> None:
    """A large buffer is a row of frames of a megabyte each, and the frames have no gaps."""
    storage = FileStorage(tmp_path, compression={"codec": "zstd", "level": 1})
    array = NUMBERS.integers(0, 9, 1_300_000)
    np.testing.assert_array_equal(back(storage, array), array)
    ((_, size, logical, codec, frames, width),) = storage.footer("w", "t").record.buffers
    assert (logical, codec, len(frames), width) == (10_400_000, "zstd", 10, 8)
    assert sum(frames) == size


def test_the_catalog_knows_both_sizes_from_the_blob_too(tmp_path: Path) -> None:
    """Stored and logical size are the same whether the journal tells them or the blobs; a removal tells them too."""
    storage = FileStorage(tmp_path)
    storage.save("w", "t", [np.zeros(LARGE)])
    storage.save("w", "small", 1)
    query = "SELECT task, size, logical_size, format FROM tasks ORDER BY task"
    told = storage.catalog.sql(query).fetchall()
    assert [row[3] for row in told] == [3, 3]
    (tmp_path / ".catalog").rename(tmp_path / ".put away")
    fresh = FileStorage(tmp_path)
    assert fresh.catalog.sql(query).fetchall() == told
    assert fresh.catalog.task("w", "t").logical_size == told[1][2]
    fresh.remove_task("w", "t")
    removal = fresh.catalog.sql("SELECT size, logical_size FROM events WHERE event = 'remove'").fetchall()
    assert removal == [told[1][1:3]]


def test_damaged_frames_that_the_checksum_does_not_show(tmp_path: Path) -> None:
    """A blob whose frames hold another number of bytes than its footer says, as only a forger writes, is damaged."""
    storage = FileStorage(tmp_path)
    storage.save("w", "t", [np.zeros(LARGE)])
    file = tmp_path / "w" / "t"
    blob = read_blob(file.read_bytes())
    place = blob.record["buffers"][0]
    for change in ({2: place[2] + 8}, {4: [place[4][0] - 1]}):
        changed = [change.get(index, part) for index, part in enumerate(place)]
        fields = record(stream=blob.record["stream"], buffers=[changed])
        file.write_bytes(by_hand(blob.body, fields, version=2, flags=0))
        with pytest.raises(InvalidPickle, match="buffer"):
            storage.read_task("w", "t")


# Size


def test_a_save_copies_nothing(tmp_path: Path) -> None:
    """Saving 256 MiB, in an array, in bytes and in many arrays, takes less than 64 MiB beside them."""
    script = f"""
import resource, sys
import numpy as np
from functionfuse.storage.filestorage import FileStorage

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

storage = FileStorage({str(tmp_path)!r})
storage.save("w", "warm", [np.zeros(20_000), np.random.default_rng(0).random(20_000)])
for make in (lambda: np.random.default_rng(0).random(1 << 25), lambda: bytes(1 << 28), lambda: np.ones(1 << 25),
             lambda: [np.random.default_rng(n).random(1 << 15) for n in range(1 << 10)]):
    obj = make()
    before = peak()
    storage.save("w", "t", obj)
    print((peak() - before) >> 20)
    del obj
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert max(map(int, run.stdout.split())) < 64, run.stdout


class Whole:
    """Pickles as the call that makes an array over all of a buffer."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Return the call."""
        return np.frombuffer, (pickle.PickleBuffer(bytearray(8)),)


def test_a_result_larger_than_the_memory_is_mapped(tmp_path: Path) -> None:
    """A blob of twice the machine's memory, sparse on the disk, is opened, and changed where it is written to."""
    storage = FileStorage(tmp_path, verify="never")
    size = 2 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    stream = pickle.dumps(Whole(), protocol=5, buffer_callback=[].append)
    (tmp_path / "w").mkdir()
    with open(tmp_path / "w" / "t", "wb") as file:
        file.write(stream)
        file.truncate(4096 + size)
        file.seek(0, os.SEEK_END)
        file.write(by_hand(b"", record(stream=len(stream), buffers=[[4096, size]]), flags=0))
    found = storage.read_task("w", "t")
    assert (found.nbytes, found[0], found[-1]) == (size, 0, 0)
    found[-1] = 3
    assert (storage.read_task("w", "t")[-1], found[-1]) == (0, 3)


@pytest.mark.slow
def test_more_than_four_gibibytes(tmp_path: Path) -> None:
    """A result of 5 GiB, more than one call writes, comes back whole, compressed, from few bytes on the disk."""
    if os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") < 12 << 30:
        pytest.skip("it takes 12 GiB of free memory")
    array = np.zeros(5 << 27)
    array[:: 1 << 20] = 1.0
    array[-1] = 2.0
    for compression in ("auto", None):
        storage = FileStorage(tmp_path, compression=compression)
        storage.save("w", "t", [array, b"behind"])
        found, behind = storage.read_task("w", "t")
        assert (found.nbytes, found[-1], found.sum(), behind) == (5 << 30, 2.0, array.sum(), b"behind")
        del found


FIELDS = {"letters": ["Ā"], "many": [f"field {number:09}" for number in range(5_000)]}


@pytest.mark.parametrize("names", FIELDS.values(), ids=FIELDS)
def test_a_file_of_any_fields_is_written_without_a_warning(tmp_path: Path, names: list[str]) -> None:
    """Field names that need a newer version of the `.npy` format are no reason for a warning."""
    storage = FileStorage(tmp_path)
    storage.register_persistent_serializers(NumpySerializer)
    array = np.array([(True,) * len(names)], dtype=[(name, "?") for name in names])
    storage.save("w", "t", array)
    (file,) = (tmp_path / "w" / "bigdata").rglob("*.npy")
    assert np.load(file, max_header_size=1 << 20).tolist() == array.tolist()
    assert storage.read_task("w", "t").dtype == array.dtype
