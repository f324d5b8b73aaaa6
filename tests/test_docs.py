"""README and documentation say what is true: their examples run, and they know every public name."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from doctest import ELLIPSIS, OutputChecker
from pathlib import Path

import pytest

from tests.commands import environment, put_on_path
from tests.snippets import commands, program

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def relative(path: Path) -> str:
    """Return a path as it reads in the repository."""
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", [page for page in PAGES if program(page.read_text(encoding="utf-8"))], ids=relative)
def test_the_examples_of_a_page_run(page: Path, tmp_path: Path) -> None:
    """The ``python`` blocks of a page, one after another in an empty folder, run as a user's script would."""
    script = tmp_path / page.name.replace(".md", ".py")
    script.write_text(program(page.read_text(encoding="utf-8")), encoding="utf-8")
    folder = tmp_path / "empty"
    folder.mkdir()
    run = subprocess.run([sys.executable, "-W", "error", str(script)], cwd=folder, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


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
    catalog = importlib.import_module("catalog")
    return {name for name in ours if "._" not in name} | {getattr(catalog, name).__module__ for name in catalog.__all__}


def test_the_reference_describes_every_public_module() -> None:
    """The API reference misses no public module, and has none that is gone."""
    assert sorted(public() - documented()) == []
    assert [name for name in sorted(documented()) if importlib.util.find_spec(name) is None] == []
