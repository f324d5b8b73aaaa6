"""What is kept of results that JSON has no word for: which members stay, which are left out, and how that is said."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import json
import pathlib
import sys
import types
import uuid
import zoneinfo
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functionfuse.storage._describe import describe
from functionfuse.storage.filestorage import FileStorage

LONGEST = 4096
LONG = [number / 7 for number in range(600)]


def described(obj: Any) -> dict[str, Any]:
    """Return what is captured of an object."""
    found = describe(obj)
    summary, value = (
        json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
        for text in (found.summary, found.value)
    )
    return {"type": found.type, "summary": summary, "value": value, "packages": found.packages}


class Model:
    """An object that JSON has nothing for."""


class Mode(enum.Enum):
    """A choice."""

    FAST = 1


class Level(enum.IntEnum):
    """A number with a name."""

    HIGH = 3


class Word(str, enum.Enum):
    """A text with a name."""

    MSE = "mse"


class Flags(enum.Flag):
    """Choices together."""

    A = 1
    B = 2


@dataclasses.dataclass
class Score:
    """A result with fields."""

    kinds: ClassVar[str] = "a"
    rmse: float
    n: int = 3


@dataclasses.dataclass
class Finer(Score):
    """One with more of them."""

    depth: int = 1


@dataclasses.dataclass(frozen=True)
class Slotted:
    """A result whose fields are in slots."""

    __slots__ = ("n", "rmse")
    rmse: float
    n: int


class Pair(NamedTuple):
    """A tuple with names."""

    rmse: float
    n: int


class Later(Pair):
    """A tuple with names, of a class of its own."""

    __slots__ = ()


UTC = dt.timezone.utc


@pytest.mark.parametrize(
    ("member", "value"),
    [
        (dt.date(2026, 1, 2), "2026-01-02"),
        (dt.datetime(2026, 1, 2, 3, 4, 5, 6), "2026-01-02T03:04:05.000006"),
        (dt.datetime(2026, 1, 2, tzinfo=dt.timezone(dt.timedelta(hours=9))), "2026-01-02T00:00:00+09:00"),
        (dt.datetime(2026, 7, 2, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")), "2026-07-02T00:00:00+02:00"),
        (dt.time(3, 4), "03:04:00"),
        (dt.timedelta(minutes=1, milliseconds=500), 60.5),
        (Mode.FAST, "FAST"),
        (Level.HIGH, 3),
        (Word.MSE, "mse"),
        (Flags.A, "A"),
        (pathlib.PurePosixPath("a/b"), "a/b"),
        (pathlib.Path("a"), "a"),
        (pathlib.PureWindowsPath('a\\"b'), 'a\\"b'),
        (uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        (decimal.Decimal("1.50"), "1.50"),
        (decimal.Decimal("NaN"), "NaN"),
        (fractions.Fraction(1, 4), 0.25),
        (2.5 - 1j, {"real": 2.5, "imag": -1.0}),
        pytest.param({"b", "a"}, ["a", "b"], id="a set"),
        (frozenset([3]), [3]),
        (collections.deque([1, 2]), [1, 2]),
        (collections.OrderedDict(a=1), {"a": 1}),
        (collections.defaultdict(int, a=1), {"a": 1}),
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        (types.SimpleNamespace(rmse=1), {"rmse": 1}),
        (argparse.Namespace(rmse=1), {"rmse": 1}),
        (Score(0.5), {"rmse": 0.5, "n": 3}),
        (Finer(0.5), {"rmse": 0.5, "n": 3, "depth": 1}),
        (Slotted(0.5, 2), {"n": 2, "rmse": 0.5}),
        (Pair(0.5, 2), {"rmse": 0.5, "n": 2}),
        (Later(0.5, 2), {"rmse": 0.5, "n": 2}),
        (np.float32(0.5), 0.5),
        (np.bool_(True), True),
        (np.longdouble(0.5), 0.5),
        (np.datetime64("2026-01-02T03:04:05.000000006"), "2026-01-02T03:04:05.000000006"),
        (np.datetime64("NaT"), None),
        (np.timedelta64(1500, "ms"), 1.5),
        (np.array([1.5, np.nan]), [1.5, "NaN"]),
        (np.eye(2, dtype=int), [[1, 0], [0, 1]]),
        (np.array(["a", "bc"]), ["a", "bc"]),
        (np.array("2026-01-02", "M8[D]"), "2026-01-02"),
    ],
    ids=ascii,
)
def test_what_has_a_word_in_json_is_kept(member: Any, value: Any) -> None:
    """Times, choices, paths, numbers and objects with fields are kept, as a result and as a member of one."""
    assert described(member)["value"] == value
    found = described({"member": member, "loss": 1})
    assert found["value"] == {"member": value, "loss": 1}
    assert "omitted" not in found["summary"]


def test_objects_of_attrs_and_pydantic_are_kept() -> None:
    """What their classes declare as fields are members; so is what a model was given beyond them."""
    attrs = pytest.importorskip("attrs")
    pydantic = pytest.importorskip("pydantic")
    assert described(attrs.make_class("A", ["rmse", "model"])(0.5, Model()))["value"] == {"rmse": 0.5}
    assert described(attrs.make_class("B", ["rmse"], slots=False)(0.5))["value"] == {"rmse": 0.5}
    model = pydantic.create_model("C", rmse=(float, ...), __config__={"extra": "allow"})
    assert described(model(rmse=0.5, more=1))["value"] == {"rmse": 0.5, "more": 1}
    first = pytest.importorskip("pydantic.v1")
    old = first.create_model("D", rmse=(float, ...), __config__=type("Config", (), {"extra": "allow"}))
    assert described(old(rmse=0.5, more=1))["value"] == {"rmse": 0.5, "more": 1}


def test_times_of_pandas_are_kept() -> None:
    """Timestamps to the nanosecond, spans in seconds; what is missing is null."""
    pandas = pytest.importorskip("pandas")
    moment = pandas.Timestamp("2026-01-02 03:04:05.000000006", tz="UTC")
    found = described({"at": moment, "took": pandas.Timedelta("90s"), "none": pandas.NaT, "nothing": pandas.NA})
    expected = {"at": "2026-01-02T03:04:05.000000006+00:00", "took": 90.0, "none": None, "nothing": None}
    assert found["value"] == expected


@pytest.mark.parametrize(
    ("result", "value", "omitted"),
    [
        ({"rmse": 0.5, "model": Model()}, {"rmse": 0.5}, {"model": "opaque"}),
        ({"rmse": 0.5, "losses": LONG}, {"rmse": 0.5}, {"losses": "long"}),
        ({"losses": LONG, "log": "x" * 5000, "rmse": 0.5}, {"rmse": 0.5}, {"losses": "long", "log": "long"}),
        ({"rmse": 1, "fit": {"n": 3, "model": Model()}}, {"rmse": 1, "fit": {"n": 3}}, {"fit.model": "opaque"}),
        ({"rmse": 1, "fit": {"model": Model()}}, {"rmse": 1}, {"fit": "opaque"}),
        ({"folds": [{"r": 1, "m": Model()}, {"r": 2}]}, {"folds": [{"r": 1}, {"r": 2}]}, {"folds[0].m": "opaque"}),
        ({"parts": [1, Model(), 3]}, {"parts": [1, None, 3]}, {"parts[1]": "opaque"}),
        # Named, since the order of a set in the test's own name would differ between the processes that collect it.
        pytest.param({"tags": {Model(), 1}}, {"tags": [1, None]}, {"tags[]": "opaque"}, id="a set"),
        ([1, LONG], [1, None], {"[1]": "long"}),
        ({"model": Model()}, None, {"model": "opaque"}),
        ({"raw": b"x", "odd name": 2**64, "a": 1}, {"a": 1}, {"raw": "opaque", '"odd name"': "long"}),
        ({"a": np.zeros(100_000), "b": 1}, {"b": 1}, {"a": "long"}),
        ({"a": np.zeros((10**6, 0)), "b": 1}, {"b": 1}, {"a": "long"}),
        ({"a": np.ma.masked_all(3), "b": np.ma.masked, "c": 1}, {"c": 1}, {"a": "opaque", "b": "opaque"}),
        (Score(0.5, Model()), {"rmse": 0.5}, {"n": "opaque"}),  # type: ignore[arg-type]  # what it was annotated as
        (Pair(0.5, Model()), {"rmse": 0.5}, {"n": "opaque"}),  # type: ignore[arg-type]  # likewise
        ({1: "a", "1": "b", Model(): 2}, {"1": "a"}, {'"1"': "same key", "<Model>": "opaque"}),
        (
            {(0.1, "x"): 1, Mode.FAST: 2, dt.date(2026, 1, 2): 3, 2.5: 4},
            {'[0.1,"x"]': 1, "FAST": 2, "2026-01-02": 3, "2.5": 4},
            None,
        ),
        ({"first": list(range(499)), "second": [1, 2]}, {"second": [1, 2]}, {"first": "no room"}),
        ([[0] * 300, [0] * 300], None, None),
        ([Model(), b"x"], None, None),
    ],
    ids=lambda part: ascii(part).partition(" at 0x")[0][:40],
)
def test_what_is_left_out_is_named(result: Any, value: Any, omitted: Any) -> None:
    """What is long or opaque is left out alone, and `summary` has its path and the reason."""
    found = described(result)
    assert found["value"] == value
    assert (found["summary"] or {}).get("omitted") == omitted


def test_a_nest_that_is_too_deep_is_cut() -> None:
    """Beyond 32 levels a member is left out; what is above it stays."""
    nest: dict[str, Any] = {"n": 0}
    for _ in range(400):
        nest = {"n": 0, "in": nest}
    found = described({"loss": 1, "nest": nest})
    assert found["value"]["loss"] == 1
    assert list(found["summary"]["omitted"].values()) == ["deep"]


class Trap:
    """Says when any of its methods is called."""

    ran: ClassVar[list[str]] = []

    @classmethod
    def methods(cls, *names: str) -> dict[str, Any]:
        """Return methods that note their call."""

        def method(name: str) -> Any:
            def noted(*_: object, **__: object) -> Any:
                cls.ran.append(name)
                raise RuntimeError(name)

            return noted

        return {name: method(name) for name in names}


SPECIAL = """
    __len__ __iter__ __getitem__ __repr__ __str__ __eq__ __hash__ __bool__ __getattr__ __getattribute__ __int__
    __float__ __index__ __contains__ __format__ __fspath__ __lt__ __round__ __array__ __complex__ __sizeof__ __dir__
"""
USUAL = """
    keys values items get isoformat utcoffset total_seconds item tolist shape dtype columns min max mean view
"""
FIELDS = """rmse n x y _fields_ name value as_posix hex int"""


def trapped(base: type, *given: Any, **fields: Any) -> Any:
    """Return an object of a class whose every method, property and metaclass notes that it is asked."""

    class Meta(type(base)):  # type: ignore[misc]  # a metaclass that is computed
        def __instancecheck__(cls, _: object) -> bool:
            Trap.ran.append("__instancecheck__")
            return True

        __mro__ = property(lambda _: Trap.ran.append("mro"))
        __name__ = property(lambda _: Trap.ran.append("name"))

    body = Trap.methods(*SPECIAL.split(), *USUAL.split())
    body |= {name: property(lambda _, name=name: Trap.ran.append(name)) for name in ("__class__", *FIELDS.split())}
    plain = type("Plain", (base,), {})
    made = plain(*given, **fields)
    try:
        made.__class__ = Meta("Trapped", (plain,), body)
    except TypeError:  # not every object can change its class: it is made of the trapped one
        made = base.__new__(Meta("Trapped", (plain,), body), *given)
        if base in (list, set, collections.deque):
            base.__init__(made, *given)  # type: ignore[misc]  # on purpose
    Trap.ran.clear()
    return made


TRAPPED = {
    "object": (object, (), None),
    "list": (list, ([1, 2],), [1, 2]),
    "tuple": (tuple, ((1, 2),), [1, 2]),
    "dict": (dict, ({"a": 1},), {"a": 1}),
    "OrderedDict": (collections.OrderedDict, ({"a": 1},), {"a": 1}),
    "set": (set, ([1],), [1]),
    "frozenset": (frozenset, ([1],), [1]),
    "deque": (collections.deque, ([1],), [1]),
    "str": (str, ("abc",), "abc"),
    "int": (int, (7,), 7),
    "float": (float, (0.5,), 0.5),
    "complex": (complex, (0.5,), {"real": 0.5, "imag": 0.0}),
    "bytes": (bytes, (b"x",), None),
    "date": (dt.date, (2026, 1, 2), "2026-01-02"),
    "datetime": (dt.datetime, (2026, 1, 2), "2026-01-02T00:00:00"),
    "timedelta": (dt.timedelta, (1,), 86400.0),
    "Decimal": (decimal.Decimal, ("1.5",), "1.5"),
    "dataclass": (Score, (0.5, 2), {"rmse": 0.5, "n": 2}),
    "slots": (Slotted, (0.5, 2), {"n": 2, "rmse": 0.5}),
    "named tuple": (Pair, (0.5, 2), {"rmse": 0.5, "n": 2}),
    "path": (pathlib.PurePosixPath, ("a",), None),
    "exception": (ValueError, ("x",), None),
    "array": (np.ndarray, ((3,),), ...),
}


@pytest.mark.parametrize("kind", TRAPPED)
def test_no_code_of_an_object_runs(kind: str) -> None:
    """Whatever the class of an object defines, none of it is called, and what is kept is what the object holds."""
    base, given, value = TRAPPED[kind]
    result = trapped(base, *given)
    found = [described(result), described({"a": result}), described([result])]
    assert Trap.ran == []
    if value is not ...:
        assert found[0]["value"] == value
    assert found[0]["type"].endswith("Trapped")


def test_no_code_of_keys_zones_and_cells_runs() -> None:
    """Nor is any called of a key, of a zone of a time, of a class that only calls itself as a library's, of a cell."""
    pandas = pytest.importorskip("pandas")

    class Zone(dt.tzinfo):
        def utcoffset(self, _: object) -> Any:
            Trap.ran.append("utcoffset")

    class Key:
        def __repr__(self) -> str:
            Trap.ran.append("repr")
            return "x"

    class Number(float):
        def __ne__(self, _: object) -> bool:
            Trap.ran.append("ne")
            return True

        __hash__ = float.__hash__

    said = type("ndarray", (), {**Trap.methods("view"), "shape": property(lambda _: Trap.ran.append("shape"))})
    said.__module__ = "numpy"
    frame = pandas.DataFrame({"a": pandas.Series([Number(1), None], dtype=object)})
    named = pandas.DataFrame([[1]], columns=pandas.Index([Key()], dtype=object))
    Trap.ran.clear()
    assert described({"at": dt.datetime(2026, 1, 2, tzinfo=Zone()), "n": 1})["value"] == {"n": 1}
    assert described({Key(): 1, "n": 1})["summary"]["omitted"] == {"<" + Key.__qualname__[:99] + ">": "opaque"}
    assert described(said())["summary"] is None
    assert described(frame)["summary"]["shape"] == [2, 1]
    assert described(named)["summary"]["shape"] == [1, 1]
    assert Trap.ran == []


def test_a_subclass_of_an_array_or_frame_is_summarised_as_what_it_is() -> None:
    """An array of a class that answers otherwise has the statistics of its elements, a frame its columns."""
    pandas = pytest.importorskip("pandas")

    class Mine(np.ndarray):
        min = max = mean = None  # type: ignore[assignment]  # on purpose

    class Frame(pandas.DataFrame):  # type: ignore[misc]  # without stubs it is Any
        shape = columns = dtypes = None

    array = described(np.array([1, 2, 6]).view(Mine))
    assert array["summary"] == {"shape": [3], "dtype": "int64", "bytes": 24, "min": 1, "max": 6, "mean": 3.0}
    assert described(Frame({"a": [1, 2]}))["summary"]["columns"] == {"a": "int64"}


def calls_of(function: Any, *given: Any) -> int:
    """Return how many functions are called, of Python and of C."""
    calls = 0

    def count(_: object, event: str, __: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        function(*given)
    finally:
        sys.setprofile(None)
    return calls


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dict", "list", "nest", "dicts", "frame", "dtype", "counter"])
def test_the_work_is_bounded(kind: str) -> None:
    """A result of a hundred times as many members or columns costs no more calls."""
    pandas = pytest.importorskip("pandas")
    make = {
        "dict": lambda n: {str(number): Model for number in range(n)},
        "list": lambda n: [0] * n,
        "nest": lambda n: [[Model] * 499 for _ in range(n // 500)],
        "dicts": lambda n: {number: {str(at): [0] * 400 for at in range(500)} for number in range(n // 500)},
        "frame": lambda n: pandas.DataFrame(np.zeros((1, n))),
        "dtype": lambda n: np.zeros(1, [(f"f{number}", "i1") for number in range(n // 50)]),
        "counter": lambda n: collections.Counter(range(n)),
    }[kind]
    few, many = make(2_000), make(200_000)
    describe(few)
    assert calls_of(describe, many) <= calls_of(describe, few) * 1.1 + 2_500 * (kind in ("nest", "dicts")) * 20


def test_a_tiny_scalar_costs_few_calls() -> None:
    """A number, a short text, True and None are described in a handful of calls."""
    for result in (1, 0.5, "text", True, None):
        assert calls_of(describe, result) <= 12


keys = st.text('ab.é ["\\', min_size=1, max_size=5)
scalars = st.none() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=3) | st.dates()
scalars |= st.sampled_from(
    [Model(), Mode.FAST, LONG, np.float32(1), np.zeros(3), "x" * 5000, "x" * 3000, list(range(400))]
)
nests = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(keys | st.integers(), inner)
        | st.builds(Score, inner, inner)
        | st.builds(Pair, inner, inner)
        | st.dictionaries(keys, inner).map(collections.OrderedDict)
    ),
    max_leaves=40,
)


@given(result=nests)
@settings(max_examples=100)
def test_any_nest_is_kept_within_bounds(result: Any) -> None:
    """Value and summary are JSON within 4 KiB; every member of a result is in its value, or named with a reason."""
    found = described(result)
    summary = found["summary"] or {}
    for part in (found["value"], summary):
        assert len(json.dumps(part, separators=(",", ":"))) <= LONGEST
    names = members_of(result)
    omitted = summary.get("omitted", {})
    missing = [name for name in names if name not in (found["value"] or {})]
    assert all(name in omitted or quoted(name) in omitted for name in missing) or "omitted_count" in summary


def members_of(result: Any) -> list[str]:
    """Return the names of the members of a result, as text."""
    if isinstance(result, (Score, Pair)):
        return ["rmse", "n"]
    return [name_of(key) for key in result] if isinstance(result, dict) else []


def name_of(key: Any) -> str:
    """Return the name of a member; whole numbers that JSON's readers cannot hold have that of their type."""
    return "<int>" if isinstance(key, int) and not -(2**63) <= key < 2**64 else str(key)


def quoted(name: str) -> str:
    """Return a name as it stands in a path."""
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


def test_the_best_of_all_kinds_is_found_by_sql(storage: FileStorage) -> None:
    """Ranking by a metric finds every result that has it, and what was left out of which can be asked, too."""
    results = {
        "numbers": {"loss": 0.5},
        "model": {"loss": 0.1, "model": [Model()]},
        "curve": {"loss": 0.2, "curve": LONG},
        "ordered": collections.OrderedDict(loss=np.float32(0.25), at=dt.date(2026, 1, 2)),
        "decimal": types.SimpleNamespace(loss=decimal.Decimal("0.3")),
    }
    for name, result in results.items():
        storage.save("w", name, result)
    storage.save("w", "dataclass", Score(0.4))
    best = "SELECT task FROM tasks ORDER BY coalesce(value->>'loss', value->>'rmse')::DOUBLE"
    ranked = [task for (task,) in storage.catalog.sql(best).fetchall()]
    assert ranked == ["model", "curve", "ordered", "decimal", "dataclass", "numbers"]
    without = (
        "SELECT task, reason FROM (SELECT task, summary->'omitted'->>'curve' AS reason FROM tasks) WHERE reason > ''"
    )
    assert storage.catalog.sql(without).fetchall() == [("curve", "long")]
