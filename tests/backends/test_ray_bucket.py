"""Ray and a bucket: workers tell of many saves by few objects of the journal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("s3fs", reason="storages in buckets are tested where s3fs is installed")

from functionfuse import workflow
from functionfuse.backends.builtin.rayback import RayWorkflow
from functionfuse.storage import storage_factory
from raying import MARKS, one_node

if TYPE_CHECKING:
    from s3server import MotoServer

pytestmark = MARKS


@pytest.fixture(scope="module", autouse=True)
def ray() -> Iterator[None]:
    """Run Ray."""
    with one_node():
        yield


@workflow
def give(number: int) -> int:
    """Return a small result, at once."""
    return number


@pytest.mark.parametrize(("count", "most"), [(60, 40), (120, 20)], ids=["together", "compacted"])
def test_small_nodes_share_segments(motoserver: MotoServer, count: int, most: int) -> None:
    """Small nodes that go to Ray as one task are told by one segment; behind many nodes the journal is compacted."""
    endpoint = motoserver.endpoint
    path = endpoint.prefix()
    storage = storage_factory(endpoint.config(path))
    graph = RayWorkflow(*[give(number).set_name(f"n{number}") for number in range(count)], workflow_name="w")
    graph.set_storage(storage)
    graph.run()
    assert sum(key.endswith(".ndjson") for key in endpoint.objects(path)) <= most
    assert sorted(storage.list_tasks("w")) == sorted(f"n{number}" for number in range(count))
    assert all(storage.read_task("w", f"n{number}") == number for number in (0, count - 1))
    runs = storage.catalog.sql("SELECT count(DISTINCT run_id) FROM events WHERE event = 'save'").fetchall()
    assert runs == [(1,)]
