"""Several users of one result: what one of them changes in place, nobody else sees without a word."""

from __future__ import annotations

import array
import collections
import copy
import dataclasses
import functools
import io
import itertools
import mmap
import random
import re
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.errors import ChangedResultWarning
from functionfuse.storage.filestorage import FileStorage

SEEN: list[Any] = []


@pytest.fixture(autouse=True)
def _nothing_seen() -> None:
    SEEN.clear()


@pytest.fixture
def storage(tmp_path: Any) -> FileStorage:
    """Return a new storage."""
    return FileStorage(tmp_path / "store")


def flow(*leaves: Any, storage: FileStorage | None = None) -> LocalWorkflow:
    """Return a workflow over a storage, or over none."""
    made = LocalWorkflow(*leaves, workflow_name="flow", on_stale="ignore")
    made.set_storage(storage)
    return made


@workflow
def call(function: Callable[..., Any], *values: Any) -> Any:
    """Call a function."""
    return function(*values)


# What can be changed


@dataclasses.dataclass
class Settings:
    """An object with attributes."""

    rate: float
    steps: list[int]


class Locked:
    """An object that cannot be pickled as a whole."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.rows = [1, 2]


def local_object() -> Any:
    """Return an object of a class that has no name in its module."""

    class Local:
        rows = ()

        def __init__(self) -> None:
            self.rows = [1]  # type: ignore[assignment]

    return Local()


def counted(count: int) -> collections.defaultdict[str, list[int]]:
    """Return a dict with a factory."""
    found: collections.defaultdict[str, list[int]] = collections.defaultdict(list)
    found["a"].append(count)
    return found


class Kind(NamedTuple):
    """A kind of result: how to make one, to change one in place, and to tell what is in one (which may use it up)."""

    make: Callable[[], Any]
    change: Callable[[Any], Any]
    look: Callable[[Any], Any]

    def changed(self, value: Any) -> int:
        """Change a value in place."""
        self.change(value)
        return 0


KINDS = {
    "list": Kind(lambda: [3, 1, 2], list.sort, list),
    "long list": Kind(lambda: list(range(50_000)), list.clear, len),
    "list in a tuple": Kind(lambda: ([1], 2), lambda value: value[0].pop(), lambda value: len(value[0])),
    "dict": Kind(lambda: {"a": 1}, lambda value: value.update(b=2), dict),
    "defaultdict": Kind(lambda: counted(1), lambda value: value["b"], dict),
    "Counter": Kind(lambda: collections.Counter("aab"), lambda value: value.subtract("aa"), dict),
    "set": Kind(lambda: {1, 2}, lambda value: value.discard(1), set),
    "deque": Kind(lambda: collections.deque([1, 2, 3]), lambda value: value.rotate(), list),
    "bytearray": Kind(lambda: bytearray(b"abc"), lambda value: value.extend(b"d"), bytes),
    "long bytearray": Kind(lambda: bytearray(100_000), lambda value: value.clear(), len),
    "array of the standard library": Kind(lambda: array.array("i", [1, 2]), lambda value: value.pop(), list),
    "dataclass": Kind(lambda: Settings(0.1, [1]), lambda value: value.steps.append(2), dataclasses.astuple),
    "object with a lock": Kind(Locked, lambda value: value.rows.append(3), lambda value: list(value.rows)),
    "object of a local class": Kind(local_object, lambda value: value.rows.append(3), lambda value: list(value.rows)),
    "function beside a list": Kind(lambda: [lambda: 1, [1]], lambda value: value[1].append(2), lambda value: value[1]),
    "items of a dict": Kind(lambda: iter({"a": 1}.items()), next, list),
    "map": Kind(lambda: map(str, [1, 2]), list, list),
    "cycle": Kind(lambda: enumerate("abc"), next, list),
    "bytes in memory": Kind(
        lambda: io.BytesIO(b"abc"), lambda value: value.write(b"x"), lambda value: value.getvalue()
    ),
    "random numbers": Kind(lambda: random.Random(1), lambda value: value.random(), lambda value: value.random()),
}


def _numpy_kinds() -> dict[str, Kind]:
    np = pytest.importorskip("numpy")

    def put(value: Any) -> None:
        value.reshape(-1)[0] = 99

    def first(value: Any) -> Any:
        return value.reshape(-1)[0].item()

    return {
        "array": Kind(lambda: np.arange(3), put, first),
        "sort": Kind(lambda: np.array([3, 1, 2]), lambda value: value.sort(), list),
        "noise": Kind(lambda: np.random.default_rng(1).random(100_000), put, first),
        "zeros": Kind(lambda: np.zeros((1_000, 100)), put, first),
        "transposed": Kind(
            lambda: np.random.default_rng(1).random((300, 300)).T, lambda value: value.fill(0), float_sum
        ),
        "records": Kind(
            lambda: np.zeros(2, "i4,f8"), lambda value: value["f0"].fill(1), lambda value: value["f0"].sum()
        ),
        "record": Kind(
            lambda: np.zeros(2, "i4,f8")[0], lambda value: value.__setitem__("f0", 1), lambda value: value["f0"]
        ),
        "array of objects": Kind(
            lambda: np.array([[1], [2]], dtype=object), lambda value: value.fill(0), lambda value: value.tolist()
        ),
        "arrays in a dict": Kind(
            lambda: {"a": np.random.default_rng(1).random(50_000)},
            lambda value: put(value["a"]),
            lambda value: first(value["a"]),
        ),
        "generator of NumPy": Kind(
            lambda: np.random.default_rng(1), lambda value: value.random(), lambda value: value.random()
        ),
    }


def float_sum(value: Any) -> float:
    """Return the sum of an array."""
    return float(value.sum())


def _pandas_kinds() -> dict[str, Kind]:
    pd = pytest.importorskip("pandas")
    return {
        "frame": Kind(
            lambda: pd.DataFrame({"a": [1, 2]}), lambda value: value.insert(0, "b", 1), lambda value: list(value)
        ),
        "cell": Kind(lambda: pd.DataFrame({"a": [1, 2]}), _set_cell, lambda value: value.iloc[0, 0]),
        "long frame": Kind(lambda: pd.DataFrame({"a": range(50_000)}), _set_cell, lambda value: value.iloc[0, 0]),
        "series": Kind(lambda: pd.Series([2, 1]), lambda value: value.__setitem__(0, 9), list),
    }


def _set_cell(value: Any) -> None:
    value.iloc[0, 0] = 9


KINDS.update(_numpy_kinds() if find_spec("numpy") else {})
KINDS.update(_pandas_kinds() if find_spec("pandas") else {})
WATCHED = {"long list", "long bytearray", "noise", "zeros", "transposed", "arrays in a dict", "long frame"}
NOT_STORABLE = {"object with a lock"}

STORED = [(name, True) for name in KINDS if name not in NOT_STORABLE]
UNSTORED = [(name, False) for name in KINDS]


@pytest.mark.parametrize("order", range(3))
@pytest.mark.parametrize(("name", "is_stored"), STORED + UNSTORED)
def test_nobody_sees_what_another_one_changed(storage: FileStorage, name: str, is_stored: bool, order: int) -> None:
    """Nodes, a leaf and `node.result` have what was returned, whoever comes first, restored as well; or are warned."""
    kind = KINDS[name]
    expected = kind.look(kind.make())
    for number in range(3):
        made = call(kind.make).set_name("made")
        users = [("changes", kind.changed), ("looks", kind.look), ("changes too", kind.changed)]
        nodes = {each: call(function, made).set_name(each) for each, function in users[order:] + users[:order]}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            *results, leaf = flow(*nodes.values(), made, storage=storage if is_stored else None).run()
            looked = [results[list(nodes).index("looks")], kind.look(leaf), kind.look(made.result)]
        for warning in caught:
            assert name in WATCHED, warning
            assert warning.category is ChangedResultWarning
            assert re.search(
                r"'changes( too)?' \(argument '\*1'\) changed the result of node 'made'", str(warning.message)
            )
        if is_stored or not caught:
            assert looked == [expected] * 3
        if is_stored:
            storage.remove_task("flow", "looks")
            if number:
                storage.remove_task("flow", "changes")


@pytest.mark.parametrize("name", KINDS)
def test_a_result_with_one_user_is_handed_on_as_it_is(storage: FileStorage, name: str) -> None:
    """A node that alone needs a result gets the object that was returned; `node.result` is what was returned, too."""
    kind = KINDS[name]
    expected = kind.look(kind.make())

    def make() -> Any:
        SEEN.append(kind.make())
        return SEEN[-1]

    def change(value: Any) -> int:
        SEEN.append(value)
        return kind.changed(value)

    for is_stored in [False, True] if name not in NOT_STORABLE else [False]:
        SEEN.clear()
        made = call(make).set_name("made")
        graph = flow(call(change, made).set_name("changes"), storage=storage if is_stored else None)
        if is_stored or name not in WATCHED:
            graph.run()
            assert kind.look(made.result) == expected
        else:
            with pytest.warns(ChangedResultWarning, match="'changes'"):
                graph.run()
        assert SEEN[0] is SEEN[1]


@pytest.mark.parametrize(
    "value", [1, 2.5, "text", b"bytes", None, True, (1, ("a", 2)), frozenset({1}), print, Kind, range(3)]
)
def test_what_cannot_be_changed_is_shared(value: Any) -> None:
    """Every user of an immutable result has the same object."""
    made = call(lambda: value)
    first, second = call(lambda got: SEEN.append(got), made), call(lambda got: SEEN.append(got), made)
    *_, leaf = flow(first, second, made).run()
    assert all(got is value for got in (*SEEN, leaf, made.result))


# Who is told


def changes_of(count: int) -> list[Any]:
    """Return leaves of which half change the result of others that is too large to be copied."""
    leaves = []
    for number in range(count):
        made = call(lambda: [0] * 50_000).set_name(f"made {number}")
        leaves += [call(list.clear, made).set_name(f"clear {number}"), call(len, made).set_name(f"len {number}")]
    return leaves


def test_a_warning_comes_with_every_run(storage: FileStorage) -> None:
    """One warning a run, in every run, from the line that runs it, with node and argument."""

    def shrink(numbers: list[int]) -> None:
        numbers.pop()

    made = call(lambda: [0] * 50_000).set_name("made")
    graph = flow(workflow(shrink)(made).set_name("shrinks"), workflow(len)(made))
    for _ in range(2):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            assert graph.run() == [None, 49_999]
        (warning,) = caught
        assert str(warning.message).startswith(
            "results of workflow 'flow' were changed in place: "
            "node 'shrinks' (argument 'numbers') changed the result of node 'made', as others see it. "
        )
        assert warning.filename == __file__


def test_a_warning_is_of_bounded_length() -> None:
    """However many results are changed, and however long their names are, the warning is short."""
    leaves = changes_of(50)
    for leaf in leaves:
        leaf.set_name(leaf.get_name() + "x" * 10_000)
    with pytest.warns(ChangedResultWarning, match="and 45 more") as caught:
        flow(*leaves).run()
    assert len(str(caught[0].message)) < 3_000


def test_what_is_stored_takes_the_place_of_what_was_changed(storage: FileStorage) -> None:
    """A large result that was changed is read again for the others, which the warning says; it can be an error."""
    graph = flow(*changes_of(1), storage=storage)
    with pytest.warns(ChangedResultWarning, match="'clear 0' .* which was read again for others"):
        assert graph.run() == [None, 50_000]
    assert storage.read_task("flow", "made 0") == [0] * 50_000
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ChangedResultWarning):
            flow(*changes_of(1)).run()


def test_a_failure_is_not_hidden_by_what_was_changed(caplog: pytest.LogCaptureFixture) -> None:
    """Where a node fails since another one has changed its argument, its exception arrives, and the log says why."""
    made = call(lambda: [0] * 50_000).set_name("made")
    cleared = call(list.clear, made).set_name("clears")
    with pytest.raises(IndexError):
        flow(cleared, call(list.pop, made)).run()
    assert "'clears' (argument '*1') changed the result of node 'made'" in caplog.text


def test_a_result_that_is_asked_for_later_is_looked_at() -> None:
    """Who changes a large result after the run, and asks for it again, is told."""
    made = call(lambda: [0] * 50_000).set_name("made")
    graph = flow(call(len, made), made)
    graph.run()[1].pop()
    with pytest.warns(ChangedResultWarning, match="who had it before changed the result of node 'made'"):
        assert len(made.result) == 49_999


class Remembers:
    """Remembers what it was asked."""

    def __init__(self) -> None:
        self.numbers = list(range(50_000))

    @functools.cached_property
    def total(self) -> int:
        """The sum, computed once."""
        return sum(self.numbers)


def test_what_is_laid_out_anew_is_no_change(storage: FileStorage) -> None:
    """Objects that remember what they were asked, and frames whose columns are brought together, raise no alarm."""
    pd = pytest.importorskip("pandas")

    def pieces() -> Any:
        frame = pd.DataFrame({"a": range(20_000)})
        for number in range(10):
            frame[number] = 1.0 * number
        return frame

    frame, remembers = call(pieces), call(Remembers)
    looks = [call(lambda value: float(value.values.sum()), frame) for _ in range(2)]
    sums = [call(lambda value: value.total, remembers) for _ in range(2)]
    first, second = flow(*looks).run()
    assert first == second
    *_, third, fourth = flow(*looks, *sums, storage=storage).run()
    assert third == fourth


# Results that are parts of others


@pytest.mark.parametrize("is_stored", [False, True])
def test_a_result_may_be_a_changed_argument(storage: FileStorage, is_stored: bool) -> None:
    """A function that changes its argument and returns it, or a part of it, leaves the other result as it was."""

    def grow(value: list[Any]) -> list[Any]:
        value[0].append(len(value[0]))
        return value

    made = call(lambda: [[0]]).set_name("made")
    one = call(grow, made).set_name("one")
    two = call(grow, one).set_name("two")
    part = call(lambda value: value[0], two).set_name("part")
    ends = [call(list.clear, part).set_name("end"), call(list.clear, one[0]).set_name("other end")]
    flow(*ends, storage=storage if is_stored else None).run()
    assert [node.result for node in (made, one, two, part)] == [[[0]], [[0, 1]], [[0, 1, 2]], [0, 1, 2]]


def test_one_call_gets_one_object() -> None:
    """A node that has a result twice among its arguments, or an item of it, gets one object, others another one."""
    made = call(lambda: {"rows": [1]})
    nodes = [call(lambda *got: SEEN.append(got), made, [made, made["rows"]]) for _ in range(2)]
    flow(*nodes).run()
    for whole, (again, rows) in SEEN:
        assert whole is again
        assert rows is whole["rows"]
    assert SEEN[0][0] is not SEEN[1][0]


def test_large_arrays_lie_over_their_file(storage: FileStorage) -> None:
    """Each user of a stored array has its own mapping of the file: writing copies pages, and leaves the file alone."""
    np = pytest.importorskip("numpy")

    def change(value: Any) -> bool:
        value[0] = -1
        base = value
        while isinstance(base, np.ndarray):
            base = base.base
        return isinstance(base.obj, mmap.mmap)

    made = call(lambda: np.random.default_rng(1).random(100_000)).set_name("made")
    results = flow(*[call(change, made) for _ in range(3)], made, storage=storage).run()
    assert results[:3] == [True] * 3
    assert results[3][0] > 0
    assert (storage.read_task("flow", "made") == results[3]).all()


def test_an_overwritten_array_is_that_of_the_run(storage: FileStorage) -> None:
    """If a result is overwritten or removed during the run, its other users still get what the node returned."""
    np = pytest.importorskip("numpy")
    made = call(lambda: np.random.default_rng(1).random(100_000)).set_name("made")
    first = call(lambda value: storage.save("flow", "made", np.zeros(100_000)), made)
    second = call(lambda value: value.sum() > 0, made)
    third = call(lambda value: storage.remove_task("flow", "made"), made)
    fourth = call(lambda value: value.sum() > 0, made)
    assert flow(first, second, third, fourth, storage=storage).run() == [None, True, None, True]


class Unreadable(Exception):
    """Can be pickled, but not unpickled."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(one)


class Closes:
    """Takes something along when it goes."""

    def __del__(self) -> None:
        SEEN.append("closed")


@pytest.mark.parametrize("make", [lambda: Unreadable(1, 2), Closes, threading.Lock, Locked().lock.acquire])
def test_what_cannot_be_copied_is_shared(make: Callable[[], Any]) -> None:
    """Locks, what cannot be unpickled, and what cleans up when it goes, are the same object for all."""
    made = call(make)
    ids = [call(id, made) for _ in range(2)]
    assert len(set(flow(*ids).run())) == 1
    assert SEEN == []


# Iterators


def test_a_generator_with_several_users_is_told_of() -> None:
    """A generator can be gone through once: who shares it is warned."""

    def count() -> Iterator[int]:
        yield from range(3)

    numbers = call(count).set_name("numbers")
    with pytest.warns(ChangedResultWarning, match="the generator that node 'numbers' returned has several users"):
        assert flow(call(list, numbers), call(list, numbers)).run() == [[0, 1, 2], []]
    assert flow(call(list, call(count))).run() == [0, 1, 2]


@pytest.mark.parametrize(
    "make", [lambda: (n for n in range(3)), lambda: enumerate("ab"), lambda: iter([1]), itertools.chain]
)
def test_an_iterator_as_an_argument_is_told_of(make: Callable[[], Any]) -> None:
    """An iterator among the arguments is used up by the first call: a second one, or another node, is warned of."""
    values = make()
    graph = flow(call(list, values).set_name("first"))
    graph.run()
    with pytest.warns(ChangedResultWarning, match=f"the {type(values).__name__} that node 'first' has as an argument"):
        assert graph.run() == []
    values = make()
    with pytest.warns(ChangedResultWarning, match="that node 'second' has as an argument was gone through before"):
        flow(call(list, values).set_name("first"), call(list, values).set_name("second")).run()


# Objects with a state


@workflow
class Book:
    """An object that hands out a part of itself."""

    def __init__(self, size: int = 0) -> None:
        self.lines: list[str] = []
        self.pages = [0] * size

    def write(self, line: str) -> list[str]:
        """Add a line, and return all."""
        self.lines.append(line)
        return self.lines

    def merge(self, other: Any) -> int:
        """Add the lines of another one, and clear it."""
        self.lines += other.lines
        other.lines.clear()
        return len(self.lines)


def tear(book: Any) -> int:
    """Clear a book."""
    count = len(book.lines)
    book.lines.clear()
    return count


@pytest.mark.parametrize("is_stored", [False, True])
def test_functions_and_methods_do_not_reach_into_objects(storage: FileStorage, is_stored: bool) -> None:
    """What gets an object gets a copy of it, as on Ray, and a method's result is what it was when it returned."""
    book, other = Book().set_name("book"), Book().set_name("other")
    one = book.write("a")
    torn = call(tear, book)
    cleared = call(list.clear, one)
    two = book.write("b")
    merged = other.merge(book)
    size = call(lambda value: len(value.lines), book)
    last = book.write("c")
    graph = flow(one, torn, cleared, two, merged, size, last, book, storage=storage if is_stored else None)
    *results, end = graph.run()
    assert results == [["a"], 1, None, ["a", "b"], 2, 2, ["a", "b", "c"]]
    assert end.lines == book.result.lines == ["a", "b", "c"]
    assert one.result == ["a"]


def test_large_objects_are_watched() -> None:
    """A function that changes an object that is too large to be copied is told of; its methods are not."""
    book = Book(50_000).set_name("book")
    book.write("a")
    torn = call(tear, book).set_name("torn")
    last = book.write("b")
    with pytest.warns(ChangedResultWarning, match="'torn' .* changed the result of node 'book'") as caught:
        assert flow(torn, last).run() == [1, ["b"]]
    assert "write" not in str(caught[0].message)


# Any graph


def grow(value: list[Any], *_: Any) -> list[Any]:
    """Change an argument and return it."""
    value.append(len(value))
    return value


def shrink(value: list[Any], *_: Any) -> list[Any]:
    """Change an argument and return a part of it."""
    del value[-1:]
    inner = [member for member in value if isinstance(member, list)]
    return inner[0] if inner else value


def join(value: list[Any], *others: Any) -> list[Any]:
    """Change all arguments, and return a list that holds them."""
    for other in others:
        other.insert(0, len(value))
    value.reverse()
    return [value, *others]


def empty(value: list[Any], *others: Any) -> int:
    """Count, and change all arguments."""
    count = len(str([value, *others]))
    for each in (value, *others):
        del each[1:]
    return [count]  # type: ignore[return-value]


def begin(size: int) -> list[Any]:
    """Return a nested list."""
    inner = [1, 2]
    return [inner, [3], inner, "x" * size]


STEPS = st.tuples(st.sampled_from([grow, shrink, join, empty]), st.lists(st.integers(0, 20), min_size=1, max_size=3))


def graph_of(size: int, steps: list[Any]) -> tuple[list[Any], list[Any]]:
    """Return the nodes of a graph, and what each gives if its arguments are copies of their own."""
    nodes, expected = [call(begin, size).set_name("0")], [begin(size)]
    for function, places in steps:
        places = [place % len(nodes) for place in places]
        nodes.append(call(function, *[nodes[place] for place in places]).set_name(str(len(nodes))))
        expected.append(copy.deepcopy(function(*copy.deepcopy([expected[place] for place in places]))))
    return nodes, expected


@settings(max_examples=60)
@given(st.lists(STEPS, max_size=8), st.sets(st.integers(0, 8)), st.sets(st.integers(0, 8)), st.booleans())
def test_every_graph_gives_what_copies_would_give(
    steps: list[Any], leaves: set[int], removed: set[int], is_stored: bool
) -> None:
    """Results and leaves are those of a run that copies all arguments deeply, also where part of it is restored."""
    nodes, expected = graph_of(0, steps)
    wanted = sorted({number % len(nodes) for number in leaves} | {len(nodes) - 1})
    with tempfile.TemporaryDirectory() as folder:
        storage = FileStorage(folder) if is_stored else None
        for _ in range(2):
            graph = flow(*[nodes[number] for number in wanted], flow_end(nodes), storage=storage)
            *results, _ = graph.run()
            assert results == [expected[number] for number in wanted]
            assert [node.result for node in nodes] == expected
            if storage is not None:
                stored = storage.list_tasks("flow")
                for name in {"end", *map(str, removed)} & set(stored):
                    storage.remove_task("flow", name)


def flow_end(nodes: list[Any]) -> Any:
    """Return a node that needs all others."""
    return call(lambda *values: len(values), *nodes).set_name("end")


@settings(max_examples=30)
@given(st.lists(STEPS, max_size=6), st.booleans())
def test_every_large_graph_gives_that_or_warns(steps: list[Any], is_stored: bool) -> None:
    """The same with results that are too large to be copied: the same results, or a warning."""
    nodes, expected = graph_of(70_000, steps)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        results = flow(*nodes, storage=FileStorage(folder) if is_stored else None).run()
    given_back = results if isinstance(results, list) and len(nodes) > 1 else [results]
    assert given_back == expected or any(warning.category is ChangedResultWarning for warning in caught)
