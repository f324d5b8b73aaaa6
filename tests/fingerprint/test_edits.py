"""Edits of the smallest project of two modules: which ones a fingerprint must see, and which ones it must not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

#: Name -> the module of the function `f`, the module `lib` that it imports, and what stands at ``@@`` before and after.
Edit = tuple[str, str, str, str]
_G = "from lib import g\ndef f(x): return g(x)"
_CLASS = "from lib import C\ndef f(x): return C().m(x)"

SEEN: dict[str, Edit] = {
    # Functions, through modules
    "the function itself": ("def f(x): return x + @@", "", "1", "2"),
    "a helper of another module": (_G, "def g(x): return x + @@", "1", "2"),
    "a helper through its module": ("import lib\ndef f(x): return lib.g(x)", "def g(x): return x + @@", "1", "2"),
    "a helper through a renamed module": (
        "import lib as l\ndef f(x): return l.g(x)",
        "def g(x): return x + @@",
        "1",
        "2",
    ),
    "a helper of a helper": (_G, "def h(x): return x + @@\ndef g(x): return h(x)", "1", "2"),
    "helpers in a circle": (
        _G,
        "def h(x): return x + @@ if x > 9 else g(x + 1)\ndef g(x): return h(x)",
        "1",
        "2",
    ),
    "which of two helpers is called": (_G, "def a(x): return 1\ndef b(x): return 2\ndef g(x): return @@(x)", "a", "b"),
    "an import inside the function": (
        "def f(x):\n    from lib import g\n    return g(x)",
        "def g(x): return x + @@",
        "1",
        "2",
    ),
    "a module imported inside the function": (
        "def f(x):\n    import lib\n    return lib.g(x)",
        "def g(x): return x + @@",
        "1",
        "2",
    ),
    "a module that is handed on whole": (
        "import lib\ndef f(x, name='g'): return getattr(lib, name)(x)",
        "def g(x): return x + @@",
        "1",
        "2",
    ),
    "a helper in a lambda": (
        "from lib import g\ndef f(x): return (lambda y: g(y))(x)",
        "def g(x): return x + @@",
        "1",
        "2",
    ),
    "a helper in a comprehension": (
        "from lib import g\ndef f(x): return [g(y) for y in [x]]",
        "def g(x): return x + @@",
        "1",
        "2",
    ),
    "a helper in a generator": (
        "from lib import g\ndef f(x): return sum(g(y) for y in [x])",
        "def g(x): return x + @@",
        "1",
        "2",
    ),
    "a nested function": ("def f(x):\n    def g(y): return y + @@\n    return g(x)", "", "1", "2"),
    "the order of two statements": ("def f(x):\n    @@\n    return x", "", "x += 1; x *= 2", "x *= 2; x += 1"),
    "the exceptions that are caught": (
        "def f(x):\n    try: return 1 / x\n    except @@: return 0",
        "",
        "ValueError",
        "ZeroDivisionError",
    ),
    "what try protects": (
        "def f(x):\n    @@\n",
        "",
        "try: y = 1 / x\n    except Exception: return 0\n    return int(y)",
        "y = 1 / x\n    try: return int(y)\n    except Exception: return 0",
    ),
    "a constant in a set": ("def f(x): return x in {1, 2, @@}", "", "3", "4"),
    "a number's type": ("def f(x): return x * @@", "", "1", "1.0"),
    "the sign of zero": ("def f(x): return x * @@", "", "0.0", "-0.0"),
    "a name in an f-string": ("def f(x): return f'{x:@@}'", "", ">4", ">5"),
    "a name of an attribute": ("def f(x): return x.@@", "", "real", "imag"),
    "which argument is used": ("def f(x, y=1): return @@", "", "x", "y"),
    "a parameter's name": ("def f(@@): return 1", "", "x", "y"),
    # Values
    "a default": ("def f(x, k=@@): return x + k", "", "1", "2"),
    "a default for a keyword": ("def f(x, *, k=@@): return x + k", "", "1", "2"),
    "a default that is a list": ("def f(x, k=[@@]): return x + k[0]", "", "1", "2"),
    "a helper's default": (_G, "def g(x, k=@@): return x + k", "1", "2"),
    "a global": ("K = @@\ndef f(x): return x + K", "", "1", "2"),
    "a global of another module": ("from lib import K\ndef f(x): return x + K", "K = @@", "1", "2"),
    "a global through its module": ("import lib\ndef f(x): return x + lib.K", "K = @@", "1", "2"),
    "a global of a helper": (_G, "K = @@\ndef g(x): return x + K", "1", "2"),
    "a value in a global dict": (_G, "K = {'a': [@@]}\ndef g(x): return K['a']", "1", "2"),
    "the order of a global dict": (_G, "K = {@@}\ndef g(x): return list(K)", "1: 0, 2: 0", "2: 0, 1: 0"),
    "a member of a global set": (_G, "K = {'a', '@@'}\ndef g(x): return x in K", "b", "c"),
    "an object in a global": (
        _G,
        "class C:\n    def __init__(s, k): s.k = k\nK = C(@@)\ndef g(x): return K.k",
        "1",
        "2",
    ),
    "a function in a global dict": (_G, "T = {'a': lambda x: x + @@}\ndef g(x): return T['a'](x)", "1", "2"),
    "a function in a global list": (_G, "def h(x): return x + @@\nT = [h]\ndef g(x): return T[0](x)", "1", "2"),
    "a captured value": (
        "from lib import make\nf = make(@@)",
        "def make(k):\n    def g(x): return x + k\n    return g",
        "1",
        "2",
    ),
    "a captured function": (
        "from lib import make\ndef h(x): return x + @@\nf = make(h)",
        "def make(k):\n    def g(x): return k(x)\n    return g",
        "1",
        "2",
    ),
    "a regular expression": (_G, "import re\nR = re.compile('@@')\ndef g(x): return R.match('a')", "a", "b"),
    # Objects that hold code
    "a decorator": (
        "from lib import d\n@d\ndef f(x): return x",
        "import functools\ndef d(fn):\n    @functools.wraps(fn)\n    def inner(x): return fn(x) + @@\n    return inner",
        "1",
        "2",
    ),
    "a decorator's argument": (
        "from lib import d\n@d(@@)\ndef f(x): return x",
        "def d(k):\n    def deco(fn):\n        def inner(x): return fn(x) + k\n        return inner\n    return deco",
        "1",
        "2",
    ),
    "what functools.cache wraps": (_G, "import functools\n@functools.cache\ndef g(x): return x + @@", "1", "2"),
    "what contextmanager wraps": (
        "from lib import g\ndef f(x):\n    with g() as y: return x + y",
        "import contextlib\n@contextlib.contextmanager\ndef g(): yield @@",
        "1",
        "2",
    ),
    "a partial's argument": (_G, "import functools\ndef h(k, x): return x + k\ng = functools.partial(h, @@)", "1", "2"),
    "what singledispatch calls": (
        _G,
        "import functools\n@functools.singledispatch\ndef g(x): return 0\n@g.register\ndef _(x: int): return x + @@",
        "1",
        "2",
    ),
    "which type singledispatch takes": (
        _G,
        "import functools\n@functools.singledispatch\ndef g(x): return 0\n@g.register\ndef _(x: @@): return x + 1",
        "int",
        "float",
    ),
    # Classes
    "a method": (_CLASS, "class C:\n    def m(s, x): return x + @@", "1", "2"),
    "a method of a base": (_CLASS, "class B:\n    def m(s, x): return x + @@\nclass C(B): pass", "1", "2"),
    "a base": (
        _CLASS,
        "class A:\n    def m(s, x): return 1\nclass B:\n    def m(s, x): return 2\nclass C(@@): pass",
        "A",
        "B",
    ),
    "a property": (_CLASS, "class C:\n    @property\n    def k(s): return @@\n    def m(s, x): return s.k", "1", "2"),
    "a class method": (_CLASS, "class C:\n    @classmethod\n    def m(s, x): return @@", "1", "2"),
    "a static method": (_CLASS, "class C:\n    @staticmethod\n    def m(x): return @@", "1", "2"),
    "a cached property": (
        _CLASS,
        "import functools\nclass C:\n    @functools.cached_property\n    def k(s): return @@\n"
        "    def m(s, x): return s.k",
        "1",
        "2",
    ),
    "a class attribute": (_CLASS, "class C:\n    k = @@\n    def m(s, x): return s.k", "1", "2"),
    "a list as a class attribute": (_CLASS, "class C:\n    k = [@@]\n    def m(s, x): return s.k", "1", "2"),
    "a metaclass": (
        _CLASS,
        "class M(type):\n    def k(c): return @@\nclass C(metaclass=M):\n    def m(s, x): return type(s).k()",
        "1",
        "2",
    ),
    "a descriptor": (
        _CLASS,
        "class D:\n    def __get__(s, o, t=None): return @@\nclass C:\n    k = D()\n    def m(s, x): return s.k",
        "1",
        "2",
    ),
    "an operator of a class": (
        "from lib import C\ndef f(x): return C() + x",
        "class C:\n    def __add__(s, o): return @@",
        "1",
        "2",
    ),
    "an enum's value": (
        "from lib import E\ndef f(x): return E.A.value",
        "import enum\nclass E(enum.Enum):\n    A = @@",
        "1",
        "2",
    ),
    "a dataclass's default": (
        "from lib import C\ndef f(x): return C().a",
        "import dataclasses\n@dataclasses.dataclass\nclass C:\n    a: int = @@",
        "1",
        "2",
    ),
    "a dataclass's default factory": (
        "from lib import C\ndef f(x): return C().a",
        "import dataclasses\n@dataclasses.dataclass\nclass C:\n"
        "    a: list = dataclasses.field(default_factory=lambda: [@@])",
        "1",
        "2",
    ),
    "a dataclass's field": (
        "from lib import C\ndef f(x): return C()",
        "import dataclasses\n@dataclasses.dataclass\nclass C:\n    @@: int = 1",
        "a",
        "b",
    ),
    "whether a dataclass is frozen": (
        "from lib import C\ndef f(x): return C()",
        "import dataclasses\n@dataclasses.dataclass(frozen=@@)\nclass C:\n    a: int = 1",
        "True",
        "False",
    ),
    "a named tuple's default": (
        "from lib import C\ndef f(x): return C().a",
        "import typing\nclass C(typing.NamedTuple):\n    a: int = @@",
        "1",
        "2",
    ),
}

SAME: dict[str, Edit] = {
    "a comment": ("def f(x):\n    # @@\n    return x", "", "a", "b"),
    "a docstring": ("def f(x):\n    '''@@'''\n    return x", "", "a", "b"),
    "a helper's docstring": (_G, "def g(x):\n    '''@@'''\n    return x", "a", "b"),
    "a class's docstring": (_CLASS, "class C:\n    '''@@'''\n    def m(s, x): return x", "a", "b"),
    "a module's docstring": (_G, "'''@@'''\ndef g(x): return x", "a", "b"),
    "an annotation": ("def f(x@@): return x", "", "", ": int"),
    "a return annotation": ("def f(x)@@: return x", "", "", " -> int"),
    "an annotation of a helper": (_G, "def g(x@@): return x", "", ": 'int'"),
    "an annotation of a method": (_CLASS, "class C:\n    def m(s, x@@): return x", "", ": int"),
    "an annotation of a nested function": ("def f(x):\n    def g(y@@): return y\n    return g(x)", "", "", ": int"),
    "an annotation of a closure": ("def f(x):\n    def g(y@@): return y + x\n    return g(x)", "", "", ": list[int]"),
    "an annotation of a variable": ("def f(x):\n    y@@ = x\n    return y", "", "", ": int"),
    "an annotation in a class": (_CLASS, "class C:\n    k@@ = 1\n    def m(s, x): return x", "", ": int"),
    "annotations from the future": (
        _G,
        "@@\ndef g(x: int) -> int:\n    def h(y: int): return y\n    return h(x)",
        "",
        "from __future__ import annotations",
    ),
    "a line break in a call": ("def f(x): return max(x,@@ 1)", "", "", "\n    "),
    "brackets": ("def f(x): return @@", "", "x + 1", "(x + 1)"),
    "an empty line": ("def f(x):\n    x += 1@@\n    return x", "", "", "\n\n"),
    "a local variable's name": ("def f(x):\n    @@ = x + 1\n    return @@ * 2", "", "a", "zz"),
    "a loop variable's name": ("def f(x): return [@@ for @@ in [x]]", "", "a", "zz"),
    "a captured variable's name": ("def f(x):\n    b, @@ = x, x\n    return (lambda: (@@, b))()", "", "a", "zz"),
    "an exception's name": (
        "def f(x):\n    try: return x\n    except ValueError as @@: return str(@@)",
        "",
        "e",
        "error",
    ),
    "a pass": ("def f(x):\n    @@\n    return x", "", "", "pass"),
    "a pass in a branch": ("def f(x):\n    if x:\n        @@\n        x = 2\n    return x", "", "", "pass"),
    "a try over lines": ("def f(x):\n    try:@@ return 1 / x\n    except Exception: return 0", "", "", "\n        "),
    "a with over lines": ("def f(x):\n    with open(x) as y:@@ return y.read()", "", "", "\n        "),
    "the name of a helper": ("from lib import @@ as g\ndef f(x): return g(x)", "def @@(x): return x", "g", "h"),
    "another helper beside": (_G, "@@\ndef g(x): return x", "", "def h(x): return 1"),
    "a global that nothing uses": (_G, "K = @@\ndef g(x): return x", "1", "2"),
    "a helper's place in its module": (
        _G,
        "@@",
        "def h(x): return x\ndef g(x): return h(x)",
        "def g(x): return h(x)\ndef h(x): return x",
    ),
    "the order of methods": (
        _CLASS,
        "class C:\n    @@",
        "def m(s, x): return x\n    def n(s): pass",
        "def n(s): pass\n    def m(s, x): return x",
    ),
    "the order of a set": (_G, "K = {@@}\ndef g(x): return x in K", "'a', 'b', 'c'", "'c', 'b', 'a'"),
    "the order of a set of functions": (
        _G,
        "def a(x): return 1\ndef b(x): return 2\nK = {@@}\ndef g(x): return [k(x) for k in K]",
        "a, b",
        "b, a",
    ),
    "what attrs makes a hash of": (
        "from lib import C\n# @@\ndef f(x): return C(x)",
        "import attrs\n@attrs.define(frozen=True, cache_hash=True)\nclass C:\n    name: str",
        "a",
        "b",
    ),
    "a logger's name": (
        _G,
        "import logging\nlog = logging.getLogger('@@')\ndef g(x):\n    log.info(x)\n    return x",
        "a",
        "b",
    ),
    "a helper moved to the other module": (
        "@@\ndef f(x): return g(x)",
        "def g(x): return x + 1",
        "from lib import g",
        "def g(x): return x + 1",
    ),
    "a class moved to the other module": (
        "@@\ndef f(x): return C().m(x)",
        "class C:\n    k = 2\n    def m(s, x): return s.k",
        "from lib import C",
        "class C:\n    k = 2\n    def m(s, x): return s.k",
    ),
    "a helper that was called before": (
        "import lib\n@@\ndef f(x): return lib.g(x)",
        "import functools\n@functools.cache\ndef g(x): return x",
        "",
        "lib.g(1)",
    ),
    "a vectorized helper that was called before": (
        "import lib\n@@\ndef f(x): return lib.g(x)",
        "import numpy\n@numpy.vectorize\ndef g(x): return x",
        "",
        "lib.g([1])",
    ),
}

PROGRAM = """
import importlib, json, os, sys
from functionfuse.fingerprint import Closure, code_of
told = {}
for folder in sorted(os.listdir(sys.argv[1])):
    sys.path.insert(0, os.path.join(sys.argv[1], folder))
    code = code_of(importlib.import_module("flow").f, Closure())
    told[folder] = [code.fingerprint, code.unknown, code.state]
    del sys.modules["flow"], sys.path[0]
    sys.modules.pop("lib", None)
    importlib.invalidate_caches()
print(json.dumps(told))
"""


def fingerprints(place: Path, edits: dict[str, Edit], version: int) -> list[list[object]]:
    """Return the fingerprint of each project, in a new process with another hash seed."""
    for number, (flow, lib, *texts) in enumerate(edits.values()):
        folder = place / str(version) / f"{number:03d}"
        folder.mkdir(parents=True)
        (folder / "flow.py").write_text(flow.replace("@@", texts[version]))
        (folder / "lib.py").write_text(lib.replace("@@", texts[version]))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(place / str(version))],
        env={**os.environ, "PYTHONHASHSEED": str(version), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return list(json.loads(done.stdout).values())


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[list[object], list[object]]]:
    """Return the fingerprints before and after each edit."""
    edits = {**SEEN, **SAME}
    place = tmp_path_factory.mktemp("projects")
    before, after = (fingerprints(place, edits, version) for version in (0, 1))
    return dict(zip(edits, zip(before, after, strict=True), strict=True))


def test_the_matrix_is_large() -> None:
    """There are at least 50 edits that must be seen, and 30 that must not."""
    assert len(SEEN) >= 50
    assert len(SAME) >= 30


@pytest.mark.parametrize("name", SEEN)
def test_an_edit_is_seen(name: str, told: dict[str, tuple[list[object], list[object]]]) -> None:
    """An edit of anything that a function reaches gives it another fingerprint."""
    before, after = told[name]
    assert before[1:] == after[1:] == [[], []]
    assert before[0] != after[0]


@pytest.mark.parametrize("name", SAME)
def test_an_edit_changes_nothing(name: str, told: dict[str, tuple[list[object], list[object]]]) -> None:
    """An edit that cannot change what a function gives leaves its fingerprint alone."""
    before, after = told[name]
    assert before[1:] == after[1:] == [[], []]
    assert before[0] == after[0]
