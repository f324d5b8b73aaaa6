"""The wheel that users get, in an environment that has nothing but its core dependencies."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from snippets import first_below

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "requirements" / "dev-{}.{}.txt".format(*sys.version_info)

EXTRAS = {"dask", "graphviz", "h5py", "numpy", "pandas", "ray", "s3fs"}

pytestmark = [pytest.mark.wheel, pytest.mark.timeout(600)]


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a command and return what it printed; its complaint is the failure's message."""
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "-qq", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT)
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel, and what it asks for in the locked versions, into a bare environment."""
    folder = tmp_path_factory.mktemp("bare")
    run(sys.executable, "-m", "venv", folder / "venv")
    pins = folder / "pins.txt"
    pins.write_text("\n".join(re.findall(r"^\S+==\S+", LOCK.read_text(encoding="utf-8"), re.MULTILINE)))
    python = folder / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "-qq", "--only-binary", ":all:", "--no-compile", "--constraint", pins, wheel)
    return python


def test_contents(wheel: Path) -> None:
    """The wheel holds both packages with their types, the licence, and nothing else of the repository."""
    names = zipfile.ZipFile(wheel).namelist()
    metadata = "-".join(wheel.name.split("-")[:2]) + ".dist-info"
    assert {name.partition("/")[0] for name in names} == {"functionfuse", "catalog", metadata}
    assert {"functionfuse/py.typed", "catalog/py.typed", f"{metadata}/licenses/LICENSE"} <= set(names)


def test_environment_is_bare(python: Path) -> None:
    """No optional dependency comes in with the core ones."""
    listing = run(python, "-m", "pip", "list", "--format=freeze", "--disable-pip-version-check")
    assert {line.partition("==")[0] for line in listing.splitlines()} & EXTRAS == set()


def test_packages_import(python: Path) -> None:
    """Both packages import without any extra, storages included."""
    run(python, "-I", "-W", "error", "-c", "import functionfuse.storage, functionfuse.serializers, catalog")


def test_quickstart(python: Path, tmp_path: Path) -> None:
    """The quickstart of the README runs as it stands."""
    script = tmp_path / "quickstart.py"
    script.write_text(first_below((ROOT / "README.md").read_text(encoding="utf-8"), "Quickstart"), encoding="utf-8")
    run(python, "-I", "-W", "error", script, cwd=tmp_path)


def test_command(python: Path, tmp_path: Path) -> None:
    """The command is installed, and reads what a script has saved."""
    save = "from functionfuse.storage import storage_factory as make; make({'kind': 'file', 'options': {'path': 'r'}})"
    run(python, "-I", "-c", f"{save}.save('w', 't', 1)", cwd=tmp_path)
    assert run(python.with_name("functionfuse"), "ls", "r", cwd=tmp_path).startswith("w\tt\t")


GRAPH = """
from functionfuse import workflow
from functionfuse.backends.builtin.graphback import GraphWorkflow

@workflow
def one():
    return 1

GraphWorkflow(one(), workflow_name="w", doc_path="w.svg").run()
"""


@pytest.mark.parametrize(("extra", "use"), [("graph", GRAPH)])
def test_missing_extra_names_its_cure(python: Path, tmp_path: Path, extra: str, use: str) -> None:
    """What needs an extra that is not installed answers with the command that installs it."""
    done = subprocess.run([str(python), "-I", "-c", use], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"pip install functionfuse[{extra}]" in done.stderr.splitlines()[-1]
