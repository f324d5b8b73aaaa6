"""The shape of the project: layers, tables of contents, the price of an import, what no file may say."""

from __future__ import annotations

import ast
import importlib
import json
import re
import subprocess
import sys
from fnmatch import fnmatchcase
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# The floors of functionfuse, the lowest first (docs/design). A module stands on the first
# floor with a pattern for it, and imports from its own floor or from lower ones.
FLOORS = (
    ("errors", "_catalog_package"),
    (
        "workflow",
        "baseworkflow",
        "_arguments",
        "_file",
        "_html",
        "_progress",
        "_ray",
        "_task",
        "fingerprint",
        "fingerprint.*",
        "serializers",
        "serializers.base",
    ),
    ("serializers.*", "storage._*"),
    ("storage.base",),
    ("storage", "storage.*"),
    ("backends._*", "backends.plugins", "backends.plugins.*"),
    ("backends", "backends.*"),
    ("cli", "_cli_*", "__main__", "testing", "testing.*", "_exports", "*__init__"),
)

# The rooms of the catalog, the lowest first. Those on one floor know nothing of one another.
ROOMS = (
    {"errors"},
    {"_translate", "format"},
    {"store"},
    {"journal"},
    {"index"},
    {"query"},
    {"sandbox"},
    {"verify", "audit", "retention", "show"},
    {"task"},
    {"catalog"},
    {"__init__"},
)

# What storage and catalog share are the lower rooms of the catalog: formats, ways to bytes, the journal's writers.
# The rest of the catalog is for those who ask questions.
SHARED = {"catalog.errors", "catalog.format.*", "catalog.store.*", "catalog.journal.base", "catalog.journal.open"}
ASK_THE_CATALOG = {
    "functionfuse.storage._catalogued",
    "functionfuse.storage._raycatalog",
    "functionfuse.storage.base",
    "functionfuse.cli",
    "functionfuse._cli_check",
    "functionfuse._cli_answer",
    "functionfuse._cli_storage",
}
# A storage kind says where bytes go.
KINDS = {f"functionfuse.storage.{kind}storage": {"catalog.store.open"} for kind in ("file", "s3", "fsspec", "rayfile")}
# Both packages show themselves in notebooks by the same few tags, which know nothing of either.
# And all exceptions have one base.
LOOK = {
    "functionfuse": {"catalog"},
    "functionfuse._html": {"catalog.show.html"},
    "functionfuse.errors": {"catalog.errors"},
}

HEAVY = {"click", "dask", "duckdb", "fsspec", "h5py", "numpy", "pandas", "polars", "pyarrow", "ray", "rich", "s3fs"}
CHEAP = "import pickle, json, hashlib, logging, inspect"


@cache
def modules() -> dict[str, Path]:
    """Return every module of both packages by its name."""
    found = {}
    for package in ("functionfuse", "catalog"):
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


@cache
def tree(name: str) -> ast.Module:
    """Return the syntax of a module."""
    return ast.parse(modules()[name].read_text(encoding="utf-8"))


def imports(name: str, *, typing_too: bool = True) -> set[str]:
    """Return the modules of this project that a module imports, inside functions too."""
    skipped = set() if typing_too else set(only_for_types(tree(name)))
    found: set[str] = set()
    for node in ast.walk(tree(name)):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}, line {node.lineno}: imports are absolute"
            found.update(
                f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}" in modules() else str(node.module)
                for alias in node.names
            )
    return found & modules().keys()


def only_for_types(module: ast.Module) -> list[ast.AST]:
    """Return what stands below ``if TYPE_CHECKING``."""
    guards = [node for node in ast.walk(module) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)]
    return [inner for guard in guards for statement in guard.body for inner in ast.walk(statement)]


def floor(name: str) -> int:
    """Return the floor on which a module of functionfuse stands."""
    _, _, inside = name.partition(".")
    for number, patterns in enumerate(FLOORS):
        if any(fnmatchcase(inside or "__init__", pattern) for pattern in patterns):
            return number
    raise AssertionError(f"{name} stands on no floor: give it one in FLOORS, and draw it in the design")


def of(package: str) -> list[str]:
    """Return the names of a package's modules."""
    return [name for name in modules() if name.split(".")[0] == package]


@pytest.mark.parametrize("name", of("functionfuse"))
def test_imports_run_downwards(name: str) -> None:
    """A module imports nothing from a floor above its own, not even for its types."""
    ours = {other for other in imports(name) if other.startswith("functionfuse")}
    assert [other for other in sorted(ours) if floor(other) > floor(name)] == []


def room(name: str) -> str:
    """Return the room of a module of the catalog."""
    return (name.split(".")[1:] or ["__init__"])[0]


@pytest.mark.parametrize("name", of("catalog"))
def test_rooms_of_the_catalog_import_downwards(name: str) -> None:
    """A module of the catalog imports from its own room or from lower ones, not even for its types from others."""
    floors = {each: number for number, rooms in enumerate(ROOMS) for each in rooms}
    others = [other for other in sorted(imports(name) & set(of("catalog"))) if room(other) != room(name)]
    assert [other for other in others if floors[room(other)] >= floors[room(name)]] == []


@pytest.mark.parametrize("package", ["functionfuse", "catalog"])
def test_imports_have_no_cycle(package: str) -> None:
    """Within a floor, too, one module comes before the other."""
    graph = {name: imports(name, typing_too=False) for name in of(package)}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_the_catalog_stands_alone() -> None:
    """The catalog imports nothing from functionfuse."""
    assert {name: found for name in of("catalog") if (found := imports(name) & set(of("functionfuse")))} == {}


@pytest.mark.parametrize("name", sorted(set(of("functionfuse")) - ASK_THE_CATALOG))
def test_few_look_into_the_catalog(name: str) -> None:
    """Beside those who ask, the storage knows only the formats that it shares with the catalog, all others nothing."""
    allowed = SHARED if name.startswith("functionfuse.storage._") else (LOOK | KINDS).get(name, set())
    asked = imports(name) & set(of("catalog"))
    assert [other for other in sorted(asked) if not any(fnmatchcase(other, pattern) for pattern in allowed)] == []


@pytest.mark.parametrize("name", [name for name, path in modules().items() if path.name == "__init__.py"])
def test_init_is_a_table_of_contents(name: str) -> None:
    """An ``__init__.py`` has a docstring, imports (perhaps on use) and a complete ``__all__``, and nothing else."""
    docstring, *statements = tree(name).body
    assert ast.get_docstring(tree(name)), "no docstring"
    assert isinstance(docstring, ast.Expr)
    listed: list[str] = []
    imported: set[str] = set()
    for statement in statements:
        if isinstance(statement, ast.ImportFrom) and statement.module == "typing":
            continue
        if isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING":
            imported.update(entry.name for each in statement.body for entry in each.names)  # type: ignore[attr-defined]
        elif isinstance(statement, ast.FunctionDef) and statement.name in ("__getattr__", "__dir__"):
            continue
        elif isinstance(statement, ast.ImportFrom):
            imported.update(alias.asname or alias.name for alias in statement.names)
        elif isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__":
            listed = ast.literal_eval(statement.value)
        else:
            pytest.fail(f"line {statement.lineno} is no entry of a table of contents: {ast.unparse(statement)[:80]}")
    assert sorted(listed) == sorted(imported)


@pytest.mark.parametrize("name", modules())
def test_all_names_what_is_there(name: str) -> None:
    """Every name in ``__all__`` exists, once."""
    module = importlib.import_module(name)
    listed = getattr(module, "__all__", [])
    assert [entry for entry in listed if not hasattr(module, entry)] == []
    assert len(listed) == len(set(listed))


@pytest.mark.parametrize("name", modules())
def test_the_log_keeps_no_error(name: str) -> None:
    """An error is logged as text: a handler that keeps records would keep the storages in its traceback open."""
    kept = [
        f"line {argument.lineno}"
        for handler in ast.walk(tree(name))
        if isinstance(handler, ast.ExceptHandler)
        for call in ast.walk(handler)
        if isinstance(call, ast.Call) and ast.unparse(call.func).startswith("_log.")
        for argument in call.args
        if isinstance(argument, ast.Name) and argument.id == handler.name
    ]
    assert kept == []


def python(code: str) -> str:
    """Run code in a fresh interpreter, which finds the tests' helpers, and return what it printed."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT / "tests" / "support").stdout


@pytest.mark.parametrize("package", ["functionfuse", "functionfuse.storage", "catalog"])
def test_import_loads_nothing_heavy(package: str) -> None:
    """Importing a package loads no database, no arrays, no cluster and no terminal."""
    loaded = json.loads(python(f"import sys, json, {package}; print(json.dumps(list(sys.modules)))"))
    assert sorted({name.partition(".")[0] for name in loaded} & HEAVY) == []


def test_import_is_cheap() -> None:
    """``import functionfuse`` is less work than five well-known modules of the standard library."""

    def work(module: str) -> int:
        counted = f"from counting import calls; print(calls(lambda: exec({module!r})))"
        return int(python(counted))

    assert work("import functionfuse") < work(CHEAP)


def test_every_benchmark_can_be_imported() -> None:
    """No benchmark reaches for what the packages no longer have."""
    folder = ROOT / "benchmarks"
    names = [path.stem for path in folder.glob("*.py") if path.stem != "__main__"]
    assert "arrays" in names
    code = f"import {', '.join(names)}"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=folder, check=True)


LINES = """
import sys
from pathlib import Path
import million
root = Path(sys.argv[1])
(root / "workflow_0").mkdir()
(root / ".catalog" / "journal").mkdir(parents=True)
million.append(root, "task", 3)
million.check_lines(root)
"""


def test_the_million_is_as_the_library_writes_it(tmp_path: Path) -> None:
    """The lines that the benchmarks of the catalog write have the fields of those of a run, in their order."""
    command = [sys.executable, "-W", "ignore", "-c", LINES, str(tmp_path)]
    subprocess.run(command, cwd=ROOT / "benchmarks", check=True)


@cache
def texts() -> dict[str, str]:
    """Return the text files that git tracks or would track, by their path."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, check=False, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    found = {}
    for name in listed.stdout.split("\0")[:-1]:
        try:
            found[name] = (ROOT / name).read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError):  # a fixture of bytes; a file deleted but not committed
            continue
    return found


@pytest.mark.parametrize(
    "forbidden",
    [
        pytest.param(r"(pypi|pythonhosted|npmjs|debian)\.(org|com)", id="a registry's host"),
        pytest.param(r"^\s*--?((extra-)?index-url|find-links|trusted-host)\b", id="an index"),
        pytest.param(r"(?<![\w.~])/(home|root|work|Users)/\w", id="a path of one machine"),
        pytest.param(re.escape(f"{ROOT}/"), id="the path of this checkout"),
    ],
)
def test_no_file_names_a_machine_or_a_registry(forbidden: str) -> None:
    """What is in the repository works anywhere: it names no registry, index or place on one machine."""
    pattern = re.compile(forbidden, re.MULTILINE)
    hits = [
        f"{name}:{text.count(chr(10), 0, match.start()) + 1}: {match.group()}"
        for name, text in texts().items()
        for match in pattern.finditer(text)
    ]
    assert hits == []
