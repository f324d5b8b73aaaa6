"""What is saved can be read: what cannot be unpickled is refused when it is saved, or a typed error when it is read."""

from __future__ import annotations

import sys
import types
import urllib.error
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.errors import DamagedResult, LazyResultWarning, UnpicklableResult, UnreadableResult
from functionfuse.storage.filestorage import FileStorage
from functionfuse.testing import NoteSerializer
from functionfuse.testing._samples import Note


@pytest.fixture
def storage(tmp_path: Path) -> FileStorage:
    """Return an empty storage."""
    return FileStorage(tmp_path / "storage")


class TwoArguments(Exception):
    """An exception that keeps one of its two arguments."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class ByKeyword(Exception):
    """An exception that wants a keyword."""

    def __init__(self, *, code: int) -> None:
        super().__init__(code)


class Proxy:
    """Passes every attribute on, also before it has its target."""

    def __init__(self, target: Any) -> None:
        self.target = target

    def __getattr__(self, name: str) -> Any:
        return getattr(self.target, name)


class NewWithArgument:
    """Wants an argument that is not kept."""

    def __new__(cls, number: int) -> Any:
        """Take it."""
        return super().__new__(cls)


class Changing:
    """Refuses its state, from its second use on if it is so told."""

    refuses = True

    def __init__(self, size: int = 0) -> None:
        self.text = "x" * size

    def __setstate__(self, state: dict[str, Any]) -> None:
        if Changing.refuses:
            raise ValueError("an old state")
        self.__dict__.update(state)


class Worse(Exception):
    """Cannot say what it is."""

    def __str__(self) -> str:
        raise ValueError("no text")


class RaisesWorse:
    """Raises something that cannot be told when it is unpickled."""

    def __setstate__(self, state: Any) -> None:
        raise Worse

    def __getstate__(self) -> dict[str, int]:
        return {"a": 1}


UNREADABLE: dict[str, tuple[Callable[[], Any], str]] = {
    "two arguments": (lambda: TwoArguments("a", 1), "missing 1 required positional argument: 'code'"),
    "by keyword": (lambda: ByKeyword(code=1), "TypeError"),
    "of the library": (lambda: urllib.error.HTTPError("u", 404, "m", None, None), "TypeError"),  # type: ignore[arg-type]
    "proxy": (lambda: Proxy([1]), "RecursionError"),
    "__new__": (lambda: NewWithArgument(1), "missing 1 required positional argument: 'number'"),
    "__setstate__": (Changing, "ValueError: an old state"),
    "without a text": (RaisesWorse, "Worse"),
}


@pytest.mark.parametrize("place", [lambda it: it, lambda it: {"a": [it, 1]}], ids=["alone", "inside"])
@pytest.mark.parametrize(("make", "reason"), UNREADABLE.values(), ids=UNREADABLE)
def test_what_cannot_be_unpickled_is_refused(
    storage: FileStorage, make: Callable[[], Any], reason: str, place: Callable[[Any], Any]
) -> None:
    """What pickles and does not unpickle is refused with task, cause and remedy; the result before stays."""
    storage.save("w", "the task", "before")
    with pytest.raises(UnpicklableResult, match=r"task 'the task' of workflow 'w'.*return something else") as caught:
        storage.save("w", "the task", place(make()))
    assert reason in str(caught.value)
    assert storage.read_task("w", "the task") == "before"


@pytest.mark.parametrize("error", [KeyError("no"), Exception("own"), ZeroDivisionError(), OSError("of the object")])
def test_any_error_of_pickling_is_a_refusal(storage: FileStorage, error: Exception) -> None:
    """Whatever `__reduce__` raises, the result is refused with the task's name: the storage is not at fault."""

    class Bad:
        def __reduce__(self) -> Any:
            raise error

    with pytest.raises(UnpicklableResult, match=r"task 't' of workflow 'w': a list cannot be pickled: "):
        storage.save("w", "t", [1, Bad()])


def test_what_is_large_is_a_typed_error_when_it_is_read(storage: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is too large to be tried is saved; reading it names task, cause and remedy, and it is there untouched."""
    storage.save("w", "t", Changing(100_000))
    for _ in range(2):
        with pytest.raises(UnreadableResult, match=r"task 't' of workflow 'w'.*ValueError: an old state.*recompute"):
            storage.read_task("w", "t")
    assert issubclass(UnreadableResult, DamagedResult)
    monkeypatch.setattr(Changing, "refuses", False)
    assert storage.read_task("w", "t").text == "x" * 100_000


@pytest.fixture
def module() -> Iterator[types.ModuleType]:
    """Return a module that can be imported, with a class `Later`."""
    made = types.ModuleType("a_module_of_mine")
    exec("class Later: pass", vars(made))
    sys.modules[made.__name__] = made
    yield made
    sys.modules.pop(made.__name__, None)


@pytest.mark.parametrize("serializers", [(), (NoteSerializer,)], ids=["plain", "with a serializer"])
def test_a_class_or_module_that_is_gone(storage: FileStorage, module: Any, serializers: tuple[type, ...]) -> None:
    """A result of a class, or of a module, that is gone names it, and is read as soon as it is there again."""
    storage.register_persistent_serializers(*serializers)
    later = module.Later
    storage.save("w", "t", [later(), Note("beside")])
    del module.Later
    with pytest.raises(
        UnreadableResult, match=r"task 't' of workflow 'w'.*AttributeError.*Later.*make what it refers to"
    ):
        storage.read_task("w", "t")
    del sys.modules[module.__name__]
    with pytest.raises(UnreadableResult, match=r"ModuleNotFoundError.*a_module_of_mine") as caught:
        storage.read_task("w", "t")
    cause = caught.value.__cause__
    assert isinstance(cause and cause.__cause__, ModuleNotFoundError)
    sys.modules[module.__name__] = module
    module.Later = later
    assert type(storage.read_task("w", "t")[0]) is later


def test_on_stale_recompute_computes_it_anew(storage: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stored result that cannot be unpickled is computed anew with on_stale="recompute", else it is an error."""
    calls: list[str] = []

    @workflow
    def first() -> Any:
        calls.append("first")
        return Changing(100_000)

    @workflow
    def beside() -> int:
        calls.append("beside")
        return 1

    @workflow
    def size(changing: Any, number: int) -> int:
        calls.append("size")
        return len(changing.text) + number

    def run(on_stale: str, recompute: str | None = None) -> Any:
        leaf = size(first().set_name("first"), beside().set_name("beside")).set_name("size")
        local = LocalWorkflow(leaf, workflow_name="w", on_stale=on_stale)
        local.set_storage(storage)
        calls.clear()
        return local.run(recompute=recompute)

    assert run("warn") == 100_001
    storage.remove_task("w", "size")
    for on_stale in ("warn", "error", "ignore"):
        with pytest.raises(UnreadableResult, match=r"task 'first' of workflow 'w'"):
            run(on_stale)
        assert calls == []
    assert run("recompute") == 100_001
    assert calls == ["first", "size"]
    assert run("recompute") == 100_001
    assert calls == []
    assert run("recompute", recompute="beside") == 100_001
    assert sorted(calls) == ["beside", "beside", "first", "size"]  # it is known only when it is read
    monkeypatch.setattr(Changing, "refuses", False)
    assert storage.read_task("w", "first").text == "x" * 100_000


class Owner:
    """Does something when it goes."""

    gone = 0

    def __del__(self) -> None:
        Owner.gone += 1


def test_what_does_something_when_it_goes_is_not_tried(storage: FileStorage) -> None:
    """Of objects with `__del__` no second one is made when they are saved: it might close what the first one needs."""
    owner = Owner()
    storage.save("w", "t", {"owner": owner})
    assert Owner.gone == 0
    assert type(storage.read_task("w", "t")["owner"]) is Owner


@pytest.mark.parametrize("value", [1, "text", [1, {"a": (2.5, None)}], {"set": {1, 2}}, b"bytes"], ids=repr)
def test_builtin_values_are_not_tried(storage: FileStorage, value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers, texts and builtin containers of them are not unpickled when they are saved."""

    def refuse(*_: Any) -> None:
        raise AssertionError("it was tried")

    monkeypatch.setattr("functionfuse.storage._codec.try_to_load", refuse)
    storage.save("w", "t", value)
    assert storage.read_task("w", "t") == value
    with pytest.raises(AssertionError, match="it was tried"):
        storage.save("w", "t", Note("this is"))


def test_open_files_are_refused(storage: FileStorage, tmp_path: Path) -> None:
    """An open file, which would come back as a text, is refused with a remedy; where it stands is not changed."""
    (tmp_path / "file").write_text("line\n")
    with open(tmp_path / "file", encoding="utf-8") as file:
        with pytest.raises(UnpicklableResult, match="return its path or what it holds"):
            storage.save("w", "t", {"log": file})
        assert file.read() == "line\n"


@pytest.mark.parametrize(
    "view",
    [
        memoryview(b"abc"),
        memoryview(bytearray(b"abc")),
        memoryview(b""),
        memoryview(bytes(range(24))).cast("i"),
        memoryview(bytes(24)).cast("d", (3, 1)),
        memoryview(bytes(range(8)))[::-2],
    ],
    ids=lambda view: f"{view.format} {view.shape} {view.readonly}",
)
def test_memory_views_come_back(storage: FileStorage, view: memoryview) -> None:
    """A view comes back as one, of the same elements, over memory of its own; plain pickle reads it."""
    storage.save("w", "t", [view])
    (found,) = storage.read_task("w", "t")
    assert type(found) is memoryview
    assert (found, found.format, found.shape, found.readonly) == (view, view.format, view.shape, view.readonly)


@pytest.mark.parametrize(
    "make",
    [
        lambda: zip([1, 2], "ab", strict=False),
        lambda: map(abs, [-1, -2]),
        lambda: enumerate("ab"),
        lambda: iter([1, 2]),
    ],
    ids=["zip", "map", "enumerate", "iter"],
)
def test_iterators_are_not_used_up(storage: FileStorage, make: Callable[[], Any]) -> None:
    """An iterator is kept where it stands, and saving it takes nothing from it."""
    iterator = make()
    next(iterator)
    storage.save("w", "t", iterator)
    found = storage.read_task("w", "t")
    rest = list(make())[1:]
    assert (type(found), list(found), list(iterator)) == (type(iterator), rest, rest)


# Lazy results


def lazy_frame(tmp_path: Path) -> Any:
    """Return a query of Polars."""
    polars = pytest.importorskip("polars")
    (tmp_path / "a.csv").write_text("x\n1\n2\n")
    return polars.scan_csv(tmp_path / "a.csv")


def dask_array(tmp_path: Path) -> Any:
    """Return a lazy array."""
    return pytest.importorskip("dask.array").ones((4, 4), chunks=2)


def dask_frame(tmp_path: Path) -> Any:
    """Return a lazy data frame."""
    pandas = pytest.importorskip("pandas")
    return pytest.importorskip("dask.dataframe").from_pandas(pandas.DataFrame({"x": [1, 2]}), npartitions=1)


def dask_series(tmp_path: Path) -> Any:
    """Return a lazy column."""
    return dask_frame(tmp_path).x


def dask_bag(tmp_path: Path) -> Any:
    """Return a lazy sequence."""
    return pytest.importorskip("dask.bag").from_sequence([1, 2], npartitions=1)


def delayed(tmp_path: Path) -> Any:
    """Return a call that has not been made."""
    return pytest.importorskip("dask.delayed").delayed(abs)(-1)


def arrow_dataset(tmp_path: Path) -> Any:
    """Return tables in files."""
    arrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(arrow.table({"x": [1]}), tmp_path / "a.parquet")
    return pytest.importorskip("pyarrow.dataset").dataset(str(tmp_path / "a.parquet"))


def zarr_array(tmp_path: Path) -> Any:
    """Return an array in files."""
    zarr = pytest.importorskip("zarr")
    return zarr.create_array(str(tmp_path / "a.zarr"), shape=(2,), dtype="f8")


LAZY = {
    lazy_frame: "LazyFrame: .*collect",
    dask_array: r"Array: .*register_default_serializers.*functionfuse\[dask\]",
    dask_frame: r"DataFrame: .*register_default_serializers.*functionfuse\[dataframe\]",
    dask_series: "Series: .*compute",
    dask_bag: "Bag: .*compute",
    delayed: "Delayed: .*compute",
    arrow_dataset: "FileSystemDataset: .*to_table",
    zarr_array: "LocalStore: .*in memory",
}


@pytest.mark.slow
@pytest.mark.parametrize("is_by_value", [False, True], ids=["pickle", "cloudpickle"])
@pytest.mark.parametrize(("make", "remedy"), LAZY.items(), ids=[make.__name__ for make in LAZY])
@pytest.mark.usefixtures("zarr_loop")
def test_lazy_results_are_warned_of(
    storage: FileStorage, make: Callable[[Path], Any], remedy: str, is_by_value: bool, tmp_path: Path
) -> None:
    """What is pickled as a recipe is stored with a warning that names task, class and remedy, at any depth."""
    value = [make(tmp_path), (lambda: 1) if is_by_value else 1]
    with pytest.warns(LazyResultWarning, match=rf"task 'lazy' of workflow 'w' .*{remedy}"):
        storage.save("w", "lazy", {"inside": value})
    assert type(storage.read_task("w", "lazy")["inside"][0]) is type(value[0])


@pytest.mark.slow
@pytest.mark.parametrize("make", [dask_array, dask_frame])
def test_what_a_serializer_takes_over_is_data(
    storage: FileStorage, make: Callable[[Path], Any], tmp_path: Path
) -> None:
    """Nothing is warned of where a registered serializer stores the data."""
    storage.register_default_serializers()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        storage.save("w", "t", [make(tmp_path)])


def test_mapped_arrays_are_data(storage: FileStorage, tmp_path: Path) -> None:
    """An array over a file is stored as its elements."""
    numpy = pytest.importorskip("numpy")
    array = numpy.memmap(tmp_path / "a", numpy.int64, "w+", shape=(20_000,))
    array[:] = 7
    storage.save("w", "t", array)
    array[:] = 8
    array.flush()
    assert set(storage.read_task("w", "t").tolist()) == {7}
