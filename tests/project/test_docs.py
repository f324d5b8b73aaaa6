"""README and documentation say what is true: their examples run, and they know every public name."""

from __future__ import annotations

import datetime
import importlib
import importlib.util
import inspect
import pkgutil
import re
import subprocess
import sys
import typing
import zlib
from collections.abc import Iterator
from doctest import ELLIPSIS, OutputChecker
from pathlib import Path

import duckdb
import numpy as np
import pytest

import catalog
import functionfuse
from catalog.audit.export import Export
from catalog.retention.plan import Age
from catalog.verify.report import Verification
from commands import environment, put_on_path
from functionfuse.storage import Storage
from snippets import commands, program

ROOT = Path(__file__).resolve().parents[2]
ON_RAY = ROOT / "docs" / "ray.md"  # its script starts Ray: tests/backends/test_ray.py runs it
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def relative(path: Path) -> str:
    """Return a path as it reads in the repository."""
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page != ON_RAY and program(page.read_text(encoding="utf-8"))], ids=relative
)
def test_the_examples_of_a_page_run(page: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The ``python`` blocks of a page, one after another in an empty folder, run as a user's script would."""
    if page.name == "s3.md":
        have_s3(request)
    script = tmp_path / page.name.replace(".md", ".py")
    script.write_text(program(page.read_text(encoding="utf-8")), encoding="utf-8")
    folder = tmp_path / "empty"
    folder.mkdir()
    run = subprocess.run([sys.executable, "-W", "error", str(script)], cwd=folder, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def have_s3(request: pytest.FixtureRequest) -> None:
    """Give the pages' scripts a server of S3 and a bucket ``results`` in it, by the environment."""
    endpoint = request.getfixturevalue("motoserver").endpoint
    endpoint.prefix()  # which makes the bucket
    patch = request.getfixturevalue("monkeypatch")
    patch.setenv("AWS_ENDPOINT_URL", endpoint.endpoint_url)
    patch.setenv("AWS_ACCESS_KEY_ID", endpoint.key)
    patch.setenv("AWS_SECRET_ACCESS_KEY", endpoint.secret)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if commands(page.read_text(encoding="utf-8"))], ids=relative)
def test_the_commands_of_a_page_run(page: Path, tmp_path: Path) -> None:
    """The ``console`` blocks of a page print what they say, in the folder in which its ``python`` blocks were run."""
    text = page.read_text(encoding="utf-8")
    folder = tmp_path / "folder"
    folder.mkdir()
    variables = environment(PATH=put_on_path(tmp_path / "bin"), COLUMNS="200")
    subprocess.run([sys.executable, "-c", program(text)], cwd=folder, env=variables, check=True)
    for command in commands(text):
        run = subprocess.run(
            ["bash", "-c", command.text],
            cwd=folder,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert run.returncode == 0, f"{command.text}\n{run.stdout}"
        assert OutputChecker().check_output(command.output, run.stdout, ELLIPSIS), f"{command.text}\n{run.stdout}"


def documented() -> set[str]:
    """Return the modules that the API reference describes."""
    return set(re.findall(r"automodule:: (\S+)", (ROOT / "docs" / "api.md").read_text(encoding="utf-8")))


def public() -> set[str]:
    """Return functionfuse's modules without an underscore, and those that `catalog.__all__` opens."""
    ours = {relative(path.with_suffix("")).replace("/", ".") for path in (ROOT / "functionfuse").rglob("[!_]*.py")}
    return {name for name in ours if "._" not in name} | {getattr(catalog, name).__module__ for name in catalog.__all__}


def test_the_reference_describes_every_public_module() -> None:
    """The API reference misses no public module, and has none that is gone."""
    assert sorted(public() - documented()) == []
    assert [name for name in sorted(documented()) if importlib.util.find_spec(name) is None] == []


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Build the site, which no warning may spoil, and return every name that its index has, without its module."""
    site = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", str(site / "trees")]
    build = subprocess.run([*command, str(ROOT / "docs"), str(site)], capture_output=True, text=True)
    assert build.returncode == 0, build.stderr
    inventory = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    entries = re.findall(r"^(\S+) py:(\w+) ", zlib.decompress(inventory).decode(), re.MULTILINE)
    inside = ("method", "property", "attribute")
    return {".".join(name.split(".")[-1 - (role in inside) :]) for name, role in entries}


def opened() -> Iterator[tuple[str, object]]:
    """Yield every name that a public package opens, or a module of functionfuse that is documented defines."""
    packages = [
        name for _, name, is_package in pkgutil.walk_packages(functionfuse.__path__, "functionfuse.") if is_package
    ]
    for name in ("functionfuse", "catalog", "catalog.errors", *packages, *sorted(public())):
        module = importlib.import_module(name)
        own = [key for key, value in vars(module).items() if key[0] != "_" and inspect.getmodule(value) is module]
        for key in getattr(module, "__all__", own):
            yield key, getattr(module, key)


def returned() -> Iterator[tuple[str, object]]:
    """Yield the classes of this project that methods of storages and catalogs return."""
    known = {"Catalog": catalog.Catalog, "duckdb": duckdb, "date": datetime.date, "datetime": datetime.datetime}
    known |= {"Age": Age, "Export": Export, "Verification": Verification, "numpy": np}
    for cls in (Storage, catalog.Catalog):
        for _, method in inspect.getmembers(cls, inspect.isroutine):
            if not method.__name__.startswith("_"):
                answer = typing.get_type_hints(method, localns=known).get("return")
                if inspect.isclass(answer) and answer.__module__.split(".")[0] in ("functionfuse", "catalog"):
                    yield answer.__name__, answer


@pytest.mark.slow
def test_the_reference_describes_every_public_name(described: set[str]) -> None:
    """Functions, classes, their methods, exceptions and constants: what is open is described."""
    missing = set()
    for name, value in (*opened(), *returned()):
        members = vars(value) if inspect.isclass(value) else {}
        methods = [key for key in members if key[0] != "_" and callable(inspect.getattr_static(value, key))]
        missing |= {name, *(f"{name}.{method}" for method in methods)} - described
    assert sorted(missing) == []


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_links_lead_somewhere(page: Path) -> None:
    """What a page links to in the repository is there."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert [link for link in links if link and not (page.parent / link).exists()] == []
