"""A disk that is full to the last byte: what makes room on it works, and what fails says why."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

# A user namespace of its own lets the program mount a small disk in memory, which is gone when it ends.
ALONE = ["unshare", "--map-root-user", "--mount"]

PROGRAM = """
import json, logging, os, subprocess, sys
from functionfuse.errors import StorageUnusable
from functionfuse.storage.filestorage import FileStorage

disk, home = sys.argv[1:]
os.environ["XDG_CACHE_HOME"] = home
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], check=True)
storage = FileStorage(disk + "/results")


def fill():
    with open(disk + "/fill", "ab", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass


for number in range(8):
    storage.save("w", f"t{number}", os.urandom(20_000))
storage.save("v", "t", os.urandom(20_000))
storage.list_tasks("w")
found = []
for remove in (
    lambda: storage.remove_task("w", "t0"),
    lambda: storage.gc(workflow="w", keep_last=3, dry_run=False),
    lambda: storage.remove_workflow("w"),
):
    fill()
    other = FileStorage(disk + "/results")
    try:
        other.save("w", "new", os.urandom(20_000))
    except StorageUnusable as error:
        found.append("No space left" in str(error))
    remove()
    found.append(storage.list_tasks("w"))
fill()
os.remove(disk + "/results/.catalog/catalog.duckdb")
fill()
logging.basicConfig(stream=sys.stderr)
found.append(storage.list_tasks("v"))
print(json.dumps(found))
"""


@pytest.mark.slow
def test_a_full_disk(tmp_path: Path) -> None:
    """Results are removed from a full disk in every way; the index goes elsewhere, and the log says why."""
    try:
        subprocess.run([*ALONE, "mount", "-t", "tmpfs", "tmpfs", tmp_path], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a disk cannot be mounted here")
    (tmp_path / "disk").mkdir()
    command = [*ALONE, sys.executable, "-c", PROGRAM, str(tmp_path / "disk"), str(tmp_path / "cache")]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    assert json.loads(run.stdout) == [
        *(True, [f"t{number}" for number in range(1, 8)]),
        *(True, ["t5", "t6", "t7"]),
        *(True, []),
        ["t"],
    ]
    assert "No space left on device" in run.stderr
    assert "damaged" not in run.stderr
