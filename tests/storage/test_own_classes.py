"""The script's own classes: what is read is of the class that this process has, if it is the one that was saved."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from functionfuse.storage.filestorage import FileStorage

ROOT = Path(__file__).resolve().parents[2]

CLASSES = """
import abc, collections, dataclasses, enum, functools, sys, typing
from functionfuse.storage.filestorage import FileStorage

class Mode(enum.Enum):
    FAST = 1
    SLOW = 2
    QUICK = 1

    @property
    def low(self):
        return self.name.lower()

class Level(enum.IntEnum):
    LOW = 1

class Allowed(enum.Flag):
    READ = 1
    WRITE = 2

@dataclasses.dataclass
class Point:
    x: int
    seen: list = dataclasses.field(default_factory=list)

    def double(self):
        return Point(2 * self.x)

@dataclasses.dataclass(frozen=True)
class Frozen:
    x: float = float("nan")

class Pair(typing.NamedTuple):
    a: int
    b: int = 2

Triple = collections.namedtuple("Triple", "a b c")

class Failure(ValueError):
    def __init__(self, code):
        super().__init__(code)

class Slotted:
    __slots__ = ("a",)

    def __init__(self, a):
        self.a = a

class Reducing:
    def __init__(self, a):
        self.a = a

    def __reduce__(self):
        return Reducing, (self.a,)

T = typing.TypeVar("T")

class Box(typing.Generic[T]):
    pass

class Numbers(Box[int]):
    pass

class Meta(type):
    made = []

    def __new__(meta, name, bases, space):
        meta.made.append(name)
        return super().__new__(meta, name, bases, space)

class Made(metaclass=Meta):
    size = 3

class Plugin:
    known = {}
    count = 0

    def __init_subclass__(cls):
        Plugin.known[cls.__name__] = cls

    def use(self):
        Plugin.count += 1

class Reader(Plugin):
    def __repr__(self):
        return "own " + super().__repr__()

class Outer:
    class Inner:
        class Mode(enum.Enum):
            ON = True

class Shape(abc.ABC):
    @abc.abstractmethod
    def area(self): ...

class Square(Shape):
    @functools.lru_cache
    def area(self):
        return 4

    @functools.cached_property
    def side(self):
        return 2

    scaled = functools.partialmethod(area)

    @classmethod
    def make(cls):
        return cls()

    @staticmethod
    def corners():
        return 4
"""

ALL = """
VALUES = [
    Mode.FAST, [Mode.SLOW, {Mode.QUICK: 1}], Level.LOW, Allowed.READ | Allowed.WRITE, Point(1), (Frozen(),), Pair(1),
    Triple(1, 2, 3), Failure(3), Slotted(1), Reducing(1), Box(), Numbers(), Made(), Reader(), Outer.Inner(),
    Outer.Inner.Mode.ON, Square(), Point, [Mode, Meta],
]
storage = FileStorage("store")
if sys.argv[1:] == ["save"]:
    Reader().use()
    storage.save("w", "all", VALUES)
    for number, value in enumerate(VALUES):
        storage.save("w", str(number), value)
Plugin.known["added"] = 1
before = Meta.made.copy(), Plugin.known.copy(), Plugin.count
for values in (storage.read_task("w", "all"), [storage.read_task("w", str(n)) for n in range(len(VALUES))]):
    assert list(map(type, values)) == list(map(type, VALUES))
    assert values[0] is Mode.FAST and values[1] == [Mode.SLOW, {Mode.FAST: 1}]
    assert values[4] == Point(1) and values[4].double() == Point(2)
    assert repr(values[14]).startswith("own <") and values[16] is Outer.Inner.Mode.ON
    assert values[17].side == 2 and type(values[5][0]) is Frozen
    assert values[18:] == [Point, [Mode, Meta]] and values[18] is Point
assert (Meta.made, Plugin.known, Plugin.count) == before
"""


def run(folder: Path, source: str, *args: str, name: str = "script.py") -> str:
    """Run a script in a folder and return what it prints."""
    (folder / name).write_text(textwrap.dedent(source), encoding="utf-8")
    command = [sys.executable, name, *args]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_second_run_has_its_own_classes(tmp_path: Path) -> None:
    """Enums, dataclasses, tuples, exceptions and classes of any kind are the script's, and reading changes none."""
    run(tmp_path, CLASSES + ALL, "save")
    run(tmp_path, CLASSES + ALL)


MODE = """
import enum, sys
from functionfuse.storage.filestorage import FileStorage

class Mode(enum.Enum):
    FAST = 1

class Model:
    rate = 0.1
    def fit(self, more=1):
        return more + 1
"""
SAVE = MODE + 'FileStorage("store").save("w", "t", [Mode.FAST, Model()])\n'
READ = '\nmode, model = FileStorage("store").read_task("w", "t")\nprint(mode is Mode.FAST, type(model) is Model)\n'


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("class Model:", '# moved\nclass Model:\n    """Documented."""', id="docstring"),
        pytest.param("more + 1", "(more +\n        1)", id="lines"),
        pytest.param("rate = 0.1", "rate: float = 0.1", id="annotation"),
        pytest.param("class Model:", "class Model:\n    cache = {}", id="an object that can change"),
    ],
)
def test_edits_that_change_nothing(tmp_path: Path, old: str, new: str) -> None:
    """Where nothing but the look of the code has changed, the class is the same."""
    run(tmp_path, SAVE)
    assert run(tmp_path, SAVE.partition('FileStorage("store").save')[0].replace(old, new) + READ) == "True True\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("more + 1", "more + 2"),
        ("more=1", "more=2"),
        ("rate = 0.1", "rate = 0.2"),
        ("rate = 0.1", "rate = True"),
        ("    rate = 0.1\n", ""),
        ("class Model:", "class Model(dict):"),
        ("class Model:", "class Model:\n    def new(self): return 1"),
    ],
)
def test_a_class_of_other_code_is_read_as_it_was_saved(tmp_path: Path, old: str, new: str) -> None:
    """The result of an edited class behaves as it did, and classes beside it are the script's all the same."""
    run(tmp_path, SAVE)
    asked = READ + "print(model.rate, model.fit(), Model.__dict__.get('rate'))\n"
    first, second = run(tmp_path, MODE.replace(old, new) + asked).splitlines()
    assert first == "True False"
    assert second.startswith("0.1 2 ")


def test_an_enum_of_other_members_is_read_as_it_was_saved(tmp_path: Path) -> None:
    """A member that is no longer there can be read, and the script's enum is as it stands."""
    run(tmp_path, SAVE)
    asked = READ.replace("Mode.FAST", "Mode.SLOW") + "print(mode, list(Mode))\n"
    assert run(tmp_path, MODE.replace("FAST = 1", "SLOW = 1") + asked).splitlines() == [
        "False True",
        "Mode.FAST [<Mode.SLOW: 1>]",
    ]


def test_a_cell_that_is_executed_again(tmp_path: Path) -> None:
    """In one process the current class of the same code is taken; after an edit, what was saved is of the old one."""
    cell = """
    import builtins, sys
    from functionfuse.storage.filestorage import FileStorage
    main = sys.modules["__main__"].__dict__
    cell = "import enum\\nclass Mode(enum.Enum):\\n    FAST = 1\\nclass Model:\\n    count = 0\\n"
    storage = FileStorage("store")
    exec(cell, main)
    old = Mode, Model
    storage.save("w", "t", [Mode.FAST, Model()])
    exec(cell, main)
    mode, model = storage.read_task("w", "t")
    assert mode is Mode.FAST and type(model) is Model is not old[1]
    Model.count = 7  # by no method: the class is another one than was saved, to all appearance
    old[1].count = 5
    exec(cell.replace("= 1", "= 2"), main)
    mode, model = storage.read_task("w", "t")
    assert mode is old[0].FAST
    storage.save("w", "now", Model())
    Model.count = 9
    assert type(storage.read_task("w", "now")) is Model and Model.count == 9
    """
    run(tmp_path, cell)


def test_local_classes_are_read_by_value(tmp_path: Path) -> None:
    """A class of a function is never taken for one of the script that has its name."""
    source = MODE + "def made():\n    class Model:\n        pass\n    return Model()\n"
    run(tmp_path, source + 'FileStorage("store").save("w", "t", [Mode.FAST, made()])\n')
    assert run(
        tmp_path, source.replace("class Model:\n    rate", "class Other:\n    rate") + "class Model: pass\n" + READ
    ) == ("True False\n")


def test_a_spawned_process_and_its_parent(tmp_path: Path) -> None:
    """What a spawned process saves is of the parent's classes there, and the other way round."""
    source = MODE + textwrap.dedent(
        """
        import multiprocessing

        def work(_):
            storage = FileStorage("store")
            mode, model = storage.read_task("w", "parent")
            assert mode is Mode.FAST and type(model) is Model
            storage.save("w", "t", [Mode.FAST, Model()])

        if __name__ == "__main__":
            FileStorage("store").save("w", "parent", [Mode.FAST, Model()])
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                pool.map(work, [1])
        """
    )
    read = textwrap.indent(READ, "    ")
    assert run(tmp_path, source + read) == "True True\n"


def test_a_script_that_is_imported_later(tmp_path: Path) -> None:
    """What a script saved is of its classes where it is imported; and what was saved there is the script's."""
    guarded = MODE + 'if __name__ == "__main__":' + textwrap.indent(READ, "    ")
    run(tmp_path, SAVE)
    other = """
    from functionfuse.storage.filestorage import FileStorage
    import script
    mode, model = FileStorage("store").read_task("w", "t")
    print(mode is script.Mode.FAST, type(model) is script.Model)
    FileStorage("store").save("w", "t", [script.Mode.FAST, script.Model()])
    """
    (tmp_path / "script.py").write_text(guarded)
    assert run(tmp_path, other, name="other.py") == "True True\n"
    assert run(tmp_path, guarded + "    print('script' in sys.modules)\n") == "True True\nFalse\n"


def test_the_stream_stays_open_to_cloudpickle(tmp_path: Path) -> None:
    """Plain pickle reads what was saved of the script's classes, nested ones with their qualified names."""
    run(tmp_path, CLASSES + 'FileStorage("store").save("w", "t", [Outer.Inner(), Mode.FAST])\n')
    with (tmp_path / "store" / "w" / "t").open("rb") as file:
        inner, mode = pickle.load(file)
    assert (type(inner).__qualname__, mode.low) == ("Outer.Inner", "fast")
    again = FileStorage(tmp_path / "store").read_task("w", "t")
    assert (type(again[0]).__qualname__, again[1].low) == ("Outer.Inner", "fast")


def test_streams_of_cloudpickle_alone(tmp_path: Path) -> None:
    """What earlier versions saved, as cloudpickle wrote it, is of the script's classes, too."""
    old = """
    import cloudpickle
    from functionfuse.storage import _own_classes
    _own_classes.pickler = lambda: cloudpickle.Pickler
    """
    assert "functionfuse" not in run(tmp_path, MODE + textwrap.dedent(old) + SAVE.replace(MODE, ""))
    assert run(tmp_path, MODE + READ) == "True True\n"
