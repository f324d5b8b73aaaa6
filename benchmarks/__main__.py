"""Run the benchmarks: ``python benchmarks [name ...]``, all of them without a name.

Every figure is measured beside its floor or its peer in the same run, and the
ratio is what counts: machines differ and are noisy. Nothing is deleted while
measuring: on ext4, creating a file costs 20 times as much for minutes after
thousands were deleted.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import tempfile
from importlib import import_module
from pathlib import Path

NAMES = (
    *("main_road", "writers", "catalog_scale", "questions", "live_questions", "arrays", "dask_arrays"),
    *("side_digests", "s3", "ray_nodes"),
)


def main() -> None:
    """Run the benchmarks that the command line names."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], help=f"of {', '.join(NAMES)}")
    parser.add_argument("--folder", type=Path, help="where to write, on the disk to be measured; temporary by default")
    parser.add_argument("--rounds", type=int, default=7, help="rounds, of which medians are printed")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="functionfuse-benchmark-", dir=arguments.folder))
    try:
        print(f"Python {platform.python_version()}, {platform.system()}, medians of {arguments.rounds} rounds\n")
        for name in arguments.names or NAMES:
            import_module(name).run(folder / name, arguments.rounds)
    finally:
        shutil.rmtree(folder)


main()
