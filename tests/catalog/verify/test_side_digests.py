"""No way in skips the digests of side files: reading at once and lazily, SQL, verification; on disks and in buckets."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from catalog.errors import InvalidQuestion
from catalog.format import side_files as declared
from catalog.store import verified as intact
from functionfuse.errors import DamagedResult, InvalidPickle, SideFileMissing
from functionfuse.storage import storage_factory
from functionfuse.storage.base import Storage
from functionfuse.storage.filestorage import FileStorage
from functionfuse.testing import Note, NoteSerializer
from tests.storage.test_format_3 import Bytes

np = pytest.importorskip("numpy")
pd = pytest.importorskip("pandas")
pytest.importorskip("pyarrow")

pytestmark = pytest.mark.usefixtures("zarr_loop")

ROWS = 64  # of a table: small ones often have files of one size
SUM = "SELECT sum(a) FROM result('w', 't')"


def frame(seed: int) -> Any:
    """Return a table whose file has the same size whatever the seed."""
    return pd.DataFrame({"a": np.random.default_rng(seed).random(ROWS)})


def dask_array(seed: int) -> Any:
    """Return a lazy array in several chunks."""
    array = pytest.importorskip("dask.array")
    return array.from_array(np.random.default_rng(seed).random(4_000), chunks=1_000)


def dask_frame(seed: int) -> Any:
    """Return a lazy table in several partitions."""
    return pytest.importorskip("dask.dataframe").from_pandas(frame(seed), npartitions=2)


def dataset(seed: int) -> Any:
    """Return arrays with coordinates."""
    return pytest.importorskip("xarray").Dataset({"v": ("x", np.random.default_rng(seed).random(ROWS))})


def with_zarr(storage: Storage) -> None:
    """Have Dask arrays go to Zarr."""
    pytest.importorskip("zarr")
    from functionfuse.serializers.daskarray import DaskZarrSerializer

    storage.register_persistent_serializers(DaskZarrSerializer)


def with_numpy(storage: Storage) -> None:
    """Have arrays go to `.npy` files."""
    from functionfuse.serializers.numpyarray import NumpySerializer

    storage.register_persistent_serializers(NumpySerializer)


def nothing(storage: Storage) -> None:
    """Register nothing more."""


#: How an object is made, what is registered for it, and how its values are computed, by format.
FORMATS: dict[str, tuple[Callable[[int], Any], Callable[[Storage], None], Callable[[Any], Any]]] = {
    "parquet": (frame, nothing, lambda found: found["a"].to_numpy()),
    "partitions": (dask_frame, nothing, lambda found: found["a"].compute().to_numpy()),
    "hdf5": (dask_array, nothing, lambda found: found.compute()),
    "zarr": (dask_array, with_zarr, lambda found: found.compute()),
    "xarray": (dataset, nothing, lambda found: found["v"].to_numpy()),
    "npy": (lambda seed: np.random.default_rng(seed).random(500), with_numpy, np.asarray),
}


@pytest.fixture(params=["disk", "moto"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Storage]:
    """Return what opens one storage, on a disk and in a bucket."""
    config: dict[str, Any] = {"kind": "file", "options": {"path": tmp_path / "storage"}}
    if request.param == "moto":
        pytest.importorskip("s3fs")
        endpoint = request.getfixturevalue("motoserver").endpoint
        config = endpoint.config(endpoint.prefix())

    def open_it(register: Callable[[Storage], None] = nothing, **options: Any) -> Storage:
        storage = storage_factory({**config, "options": {**config["options"], **options}})
        storage.register_default_serializers()
        register(storage)
        return storage

    return open_it


def flip(position: float, data: bytes) -> bytes:
    """Return bytes of which one, at a part of their length, is another."""
    at = min(int(len(data) * position), len(data) - 1)
    return data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :]


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "data": partial(flip, 0.5),
    "begin": partial(flip, 0),
    "end": partial(flip, 1),
    "cut": lambda data: data[:-7],
}


def outcome(read: Callable[[], Any], wanted: Any) -> str:
    """Return what came of reading: "same", "damaged" or what is neither."""
    try:
        return "same" if np.array_equal(read(), wanted) else "another value"
    except DamagedResult:
        return "damaged"


@pytest.mark.parametrize("form", FORMATS)
def test_damage_of_every_format(opened: Callable[..., Storage], form: str) -> None:
    """However a side file changes, reading refuses it or gives what was saved, and verification names it."""
    make, register, values = FORMATS[form]
    storage = opened(register)
    storage.save("w", "t", make(0))
    wanted = values(make(0))
    there = Bytes(storage)
    refused = set()
    keys = there.side_files()
    for key in (keys[0], keys[-1]):
        whole = there[key]
        for change, changed in CHANGES.items():
            there[key] = changed(whole)
            result = outcome(lambda: values(opened(register).read_task("w", "t")), wanted)
            assert result in ("same", "damaged"), (key, change)
            refused |= {change} if result == "damaged" else set()
            if change == "data":
                report = storage.verify()
                assert [finding.path for finding in report.damaged] == [key]
        there[key] = whole
    assert "data" in refused
    assert np.array_equal(values(storage.read_task("w", "t")), wanted)
    assert storage.verify().ok


@pytest.mark.parametrize("form", FORMATS)
def test_files_that_changed_places(opened: Callable[..., Storage], form: str) -> None:
    """A file in the place of another of equal size, each whole in itself, is not taken for it."""
    make, register, values = FORMATS[form]
    storage = opened(register)
    storage.save("w", "t", make(0))
    for seed in range(1, 13):  # what is compressed has now one byte more, now one less
        storage.save("w", f"other {seed}", make(seed))
    there = Bytes(storage)
    owner = storage.footer("w", "t").blob_id
    own = [key for key in there.side_files() if owner in key]
    others = {len(there[key]): there[key] for key in there.side_files() if owner not in key}
    (key, *_) = [key for key in own if len(there[key]) in others and there[key] != others[len(there[key])]]
    there[key] = others[len(there[key])]
    assert outcome(lambda: values(storage.read_task("w", "t")), values(make(0))) == "damaged"
    assert [finding.path for finding in storage.verify().damaged] == [key]


def test_chunks_of_one_array_that_changed_places(opened: Callable[..., Storage]) -> None:
    """Two chunks of a Zarr array in each other's place have right CRCs, and are damage all the same; lazily, too."""
    pytest.importorskip("dask.array")
    storage = opened(with_zarr)
    storage.save("w", "t", dask_array(0))
    lazy = storage.read_task("w", "t")
    there = Bytes(storage)
    first, second = [key for key in there.side_files() if "/c/" in key][:2]
    for key, data in ((first, there[second]), (second, there[first])):
        there[key] = data
    for found in (lazy, storage.read_task("w", "t")):
        with pytest.raises(InvalidPickle, match="is damaged"):
            found.compute()
    assert np.array_equal(lazy[3_000:].compute(), dask_array(0)[3_000:].compute())


def test_other_processes_check_chunks(opened: Callable[..., Storage]) -> None:
    """A lazy array that was sent to another process checks its chunks there, with their list in a file, too."""
    pickle = pytest.importorskip("cloudpickle")
    pytest.importorskip("dask.array")
    usual, declared.MOST_INLINE = declared.MOST_INLINE, 2
    try:
        storage = opened(with_zarr)
        storage.save("w", "t", dask_array(0))
    finally:
        declared.MOST_INLINE = usual
    assert storage.footer("w", "t").record.side_list is not None
    sent = pickle.dumps(storage.read_task("w", "t"))
    assert np.array_equal(pickle.loads(sent).compute(), dask_array(0).compute())
    there = Bytes(storage)
    first, second = [key for key in there.side_files() if "/c/" in key][:2]
    there[first] = there[second]
    with pytest.raises(InvalidPickle, match="is damaged"):
        pickle.loads(sent).compute()


# SQL


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("change", ["data", "cut", "swapped"])
def test_sql_over_a_damaged_table(opened: Callable[..., Storage], change: str, many: bool) -> None:
    """A question reads no damaged file: it says which task and which file, also where the list is in a file."""
    usual, declared.MOST_INLINE = declared.MOST_INLINE, 0 if many else declared.MOST_INLINE
    try:
        storage = opened()
        storage.save("w", "t", frame(0))
        storage.save("w", "other", frame(1))
    finally:
        declared.MOST_INLINE = usual
    ((total,),) = storage.catalog.sql(SUM).fetchall()
    assert total == pytest.approx(frame(0)["a"].sum())
    there = Bytes(storage)
    mine, other = sorted(
        (key for key in there.side_files() if key.endswith(".parquet")),
        key=lambda key: storage.footer("w", "t").blob_id not in key,
    )
    whole = there[mine]
    there[mine] = there[other] if change == "swapped" else CHANGES[change](whole)
    for catalog in (storage.catalog, opened().catalog):
        with pytest.raises(InvalidQuestion, match=r"result\('w', 't'\): its side file .*\.parquet is damaged"):
            catalog.sql(SUM)
    there[mine] = whole
    assert storage.catalog.sql(SUM).fetchall() == [(total,)]


@pytest.mark.parametrize("lost", [False, True])
def test_sql_without_the_list(opened: Callable[..., Storage], lost: bool) -> None:
    """Where the list of files is damaged or gone, a question says so."""
    usual, declared.MOST_INLINE = declared.MOST_INLINE, 0
    try:
        storage = opened()
        storage.save("w", "t", frame(0))
    finally:
        declared.MOST_INLINE = usual
    there = Bytes(storage)
    (key,) = [key for key in there.side_files() if key.endswith(".ndjson")]
    if lost:
        del there[key]
    else:
        there[key] = flip(0.5, there[key])
    with pytest.raises(InvalidQuestion, match="is gone" if lost else "list of its side files is damaged"):
        storage.catalog.sql(SUM)


def test_tables_of_older_formats_have_no_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has no digest is answered as ever, and verification counts it."""
    storage = FileStorage(tmp_path / "storage")
    storage.register_default_serializers()
    with monkeypatch.context() as before:
        before.setattr(
            "functionfuse.storage._side_files.hashed", lambda _, files, __: [declared.SideFile(*f) for f in files]
        )
        storage.save("w", "t", frame(0))
    assert storage.catalog.sql("SELECT count(*) FROM result('w', 't')").fetchall() == [(ROWS,)]
    assert (storage.verify().ok, storage.verify().unhashed) == (True, 1)


# Serializers of others


@pytest.mark.parametrize("change", [*CHANGES, "swapped", "gone"])
def test_a_serializer_of_others(tmp_path: Path, change: str) -> None:
    """What is read through the file protocol is checked before a byte is handed on."""
    storage = FileStorage(tmp_path)
    storage.register_persistent_serializers(NoteSerializer)
    storage.save("w", "t", [Note("the first one"), Note("another  one")])
    there = Bytes(storage)
    key, other = there.side_files()
    if change == "gone":
        del there[key]
    else:
        there[key] = there[other] if change == "swapped" else CHANGES[change](there[key])
    with pytest.raises(SideFileMissing if change == "gone" else InvalidPickle, match="the side file"):
        storage.read_task("w", "t")
    if change in ("data", "swapped"):
        unchecked = FileStorage(tmp_path, verify="never")
        unchecked.register_persistent_serializers(NoteSerializer)
        assert isinstance(unchecked.read_task("w", "t")[0], Note)


# The one way around


@pytest.mark.parametrize("form", ["parquet", "hdf5", "npy"])
def test_never_verify(opened: Callable[..., Storage], form: str) -> None:
    """With `verify="never"` damage comes back as data, from reading and from SQL, and only then."""
    make, register, values = FORMATS[form]
    storage = opened(register)
    storage.save("w", "t", make(0))
    storage.save("w", "other", make(1))
    there = Bytes(storage)
    mine, other = sorted(
        (key for key in there.side_files() if not key.endswith("json")),
        key=lambda key: storage.footer("w", "t").blob_id not in key,
    )[:2]
    there[mine] = flip(0.9, there[mine]) if form == "hdf5" else there[other]
    assert outcome(lambda: values(storage.read_task("w", "t")), None) == "damaged"
    unchecked = opened(register, verify="never")
    if form == "hdf5" and "://" in unchecked._store.root:
        return  # a Zarr array there, whose own CRC still holds
    assert len(values(unchecked.read_task("w", "t"))) == len(values(make(0)))
    if form == "parquet":
        ((total,),) = unchecked.catalog.sql(SUM).fetchall()
        assert total == pytest.approx(frame(1)["a"].sum())
    assert not unchecked.verify().ok


# The memory


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where the memory is, empty, of files that count as settled at once."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(intact, "SETTLED", -(10**18))
    monkeypatch.setattr(intact, "_memory", intact.Memory())
    return tmp_path / "cache" / "functionfuse" / "intact" / "files"


@pytest.fixture
def table(tmp_path: Path, memory: Path) -> FileStorage:
    """Return a storage with one table."""
    storage = FileStorage(tmp_path / "storage")
    storage.register_default_serializers()
    storage.save("w", "t", frame(0))
    return storage


def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows with every file that is hashed to check it."""
    counted: list[int] = []
    original = intact._digest_of

    def count(handle: int) -> str:
        counted.append(handle)
        return original(handle)

    monkeypatch.setattr(intact, "_digest_of", count)
    return counted


def test_once_for_each_file(table: FileStorage, memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second question, and another process, do not read the file again to check it."""
    counted = reads(monkeypatch)
    for _ in range(3):
        table.catalog.sql(SUM)
    assert len(counted) == 1
    assert memory.stat().st_size == 16
    assert (memory.stat().st_mode & 0o777, memory.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    program = f"""
from catalog import Catalog
from catalog.store import verified as intact
def refuse(handle):
    raise SystemExit("it was read again")
intact._digest_of = refuse
print(Catalog.open({table._store.root!r}).sql({SUM!r}).fetchall())
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("[(")


def test_remembered_and_then_changed(table: FileStorage, memory: Path) -> None:
    """A file that was found intact and then changed, with its old times, is read again and found damaged."""
    table.catalog.sql(SUM)
    (path,) = Path(table._store.root).glob("w/bigdata/*/*.parquet")
    before = path.stat()
    with open(path, "r+b") as file:
        file.seek(200)
        file.write(b"\0" * 20)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    with pytest.raises(InvalidQuestion, match="is damaged"):
        table.catalog.sql(SUM)


def test_what_is_new_is_not_remembered(table: FileStorage, memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that changed a moment ago may change again within the resolution of its times: it is read each time."""
    monkeypatch.setattr(intact, "SETTLED", 10**18)
    counted = reads(monkeypatch)
    for _ in range(2):
        table.catalog.sql(SUM)
    assert len(counted) == 2
    assert not memory.exists()


def test_verification_does_not_ask_the_memory(table: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the memory is wrong, as on a disk that changes bytes and no times, `verify` finds the damage."""
    (path,) = Path(table._store.root).glob("w/bigdata/*/*.parquet")
    path.write_bytes(flip(0.5, path.read_bytes()))
    monkeypatch.setattr(intact._memory, "knows", lambda key: True)
    monkeypatch.setattr("catalog.sandbox.results.fault_of", lambda handle, digest: "")
    assert [finding.task for finding in table.verify().damaged] == ["t"]


SPOILERS: dict[str, Callable[[Path], object]] = {
    "garbage": lambda path: path.write_bytes(os.urandom(4_000)),
    "torn": lambda path: path.write_bytes(path.read_bytes()[:-3]),
    "gone": lambda path: path.unlink(),
    "open to others": lambda path: path.chmod(0o666),
    "folder open to others": lambda path: path.parent.chmod(0o777),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a link": lambda path: (path.rename(path.with_name("real")), path.symlink_to("real")),
}


@pytest.mark.parametrize("spoiler", SPOILERS)
def test_a_memory_that_cannot_be_trusted(
    table: FileStorage, memory: Path, monkeypatch: pytest.MonkeyPatch, spoiler: str
) -> None:
    """It costs a second look at the file, and is neither an error nor believed."""
    table.catalog.sql(SUM)
    SPOILERS[spoiler](memory)
    monkeypatch.setattr(intact, "_memory", intact.Memory())
    counted = reads(monkeypatch)
    for _ in range(3):
        table.catalog.sql(SUM)
    assert len(counted) == 1
    if spoiler in ("garbage", "torn", "gone"):
        assert memory.stat().st_size % 16 == 0
        assert memory.stat().st_size >= 16


def test_no_cache_directory(table: FileStorage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where none can be made, a process remembers for itself."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    counted = reads(monkeypatch)
    for _ in range(3):
        table.catalog.sql(SUM)
    assert len(counted) == 1


def test_the_memory_is_bounded_and_shared(memory: Path) -> None:
    """Processes that add at once leave whole records, no more than fit, and nothing else beside them."""
    program = """
import os, sys
from catalog.store import verified as intact
intact._MOST = 1_600
for _ in range(400):
    intact._memory.add(os.urandom(16))
"""
    running = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(4)]
    assert [process.wait() for process in running] == [0] * 4
    assert memory.stat().st_size % 16 == 0
    assert 0 < memory.stat().st_size <= 1_600 + 4 * 16
    assert list(memory.parent.iterdir()) == [memory]
    key = os.urandom(16)
    intact.Memory().add(key)
    assert intact.Memory().knows(key)
    assert not intact.Memory().knows(os.urandom(16))
