"""The demo workflow on Ray: the same steps and the same graph, on all cores or on a cluster.

``python examples/model_selection_ray.py [--folder demo-output-ray] [--address auto] [--disk RESOURCE]``.

Without an address Ray is started on this machine. With ``--disk`` the results go to
the disk of the node that has this resource, else to a folder that every node sees.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path
from typing import Any

from model_selection import NAME, selection

from functionfuse.backends.builtin.rayback import RayWorkflow
from functionfuse.storage import Storage, storage_factory


def main(folder: Path, ray_init_args: dict[str, Any], disk: str | None) -> None:
    """Run twice, then ask the catalog what ran where."""
    selecting = RayWorkflow(*selection(), workflow_name=NAME, ray_init_args=ray_init_args)
    selecting.set_storage(storage_at(folder.absolute() / "results", ray_init_args, disk))
    for _ in range(2):
        began = time.perf_counter()
        evaluation, figure = selecting.run(return_results=True)
        print(f"{time.perf_counter() - began:.2f} s")
    (folder / "figure.png").write_bytes(figure)
    print("accuracy {accuracy:.4f}, area under the ROC curve {roc_auc:.4f} on the test rows".format_map(evaluation))
    storage = storage_at(folder.absolute() / "results", ray_init_args, disk)
    storage.catalog.sql("""
        SELECT details->>'ray_node' AS node, count(*) AS results, round(sum(duration), 2) AS seconds
        FROM events WHERE event = 'save' GROUP BY ALL ORDER BY node""").show()
    storage.catalog.runs().project("backend, status, computed, restored").show()


def storage_at(path: Path, ray_init_args: dict[str, Any], disk: str | None) -> Storage:
    """Return the storage: a folder, or a folder on the disk of one node."""
    options: dict[str, Any] = {"path": path}
    if disk is None:
        return storage_factory({"kind": "file", "options": options})
    options |= {"remoteArgs": {"resources": {disk: 0.001}}, "rayInitArgs": ray_init_args}
    return storage_factory({"kind": "ray", "options": options})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The demo workflow, unchanged but for the backend.")
    parser.add_argument("--folder", type=Path, default=Path("demo-output-ray"), help="where to write; %(default)s")
    parser.add_argument("--address", help="of a cluster, such as auto; by default Ray is started here")
    parser.add_argument("--disk", help="resource of the node whose disk keeps the results")
    options = parser.parse_args()
    shutil.rmtree(options.folder / "results", ignore_errors=True)
    options.folder.mkdir(parents=True, exist_ok=True)
    main(options.folder, {"address": options.address} if options.address else {}, options.disk)
