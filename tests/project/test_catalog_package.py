"""A script's own module called `catalog` beside the package of that name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

USE = "import functionfuse\nprint('imported')\n"


def run(script: Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a script in a new process."""
    return subprocess.run([sys.executable, str(script)], capture_output=True, text=True, cwd=cwd, check=False)


@pytest.mark.parametrize("own", ["catalog.py", "catalog/__init__.py"])
@pytest.mark.parametrize("before", ["", "import catalog\n"], ids=["first", "after theirs"])
def test_a_hidden_package_is_said(tmp_path: Path, own: str, before: str) -> None:
    """An ImportError names the file or folder that hides the package, and says to rename it."""
    (tmp_path / own).parent.mkdir(exist_ok=True)
    (tmp_path / own).write_text("DATASETS = {}\n")
    (tmp_path / "flow.py").write_text(before + USE)
    done = run(tmp_path / "flow.py")
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1
    assert last.startswith(f"ImportError: {tmp_path / own.partition('/')[0]} hides the package 'catalog'")
    assert "Rename yours" in last


def test_a_script_called_catalog_is_said(tmp_path: Path) -> None:
    """The script itself may be the file in the way."""
    (tmp_path / "catalog.py").write_text(USE)
    assert f"ImportError: {tmp_path / 'catalog.py'} hides" in run(tmp_path / "catalog.py").stderr


def test_what_hides_nothing_is_left_alone(tmp_path: Path) -> None:
    """A folder without ``__init__.py`` gives way to a package, and one of that name elsewhere is in nobody's way."""
    (tmp_path / "catalog").mkdir()
    (tmp_path / "catalog" / "sales.csv").write_text("1\n")
    (tmp_path / "flow.py").write_text(USE)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "catalog.py").write_text("")
    assert run(tmp_path / "flow.py", cwd=elsewhere).stdout == "imported\n"


def test_a_link_to_the_installed_package_is_no_stranger(tmp_path: Path) -> None:
    """The package may be reached by another path."""
    import catalog

    (tmp_path / "catalog").symlink_to(Path(catalog.__file__).parent)
    (tmp_path / "flow.py").write_text(USE)
    assert run(tmp_path / "flow.py").stdout == "imported\n"
