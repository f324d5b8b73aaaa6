"""An S3 server that goes away for good: an error after a minute, here a second, and the process ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("s3fs", reason="storages in buckets are tested where s3fs is installed")

import s3proxy
from catalog.store import retry as patience
from catalog.store import threads as pool
from functionfuse.storage import storage_factory

if TYPE_CHECKING:
    from s3server import MotoServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SOON = 60.0  # seconds until the end comes on a busy machine; if each save took its own second, it would be minutes
SMALL, LARGE = 800, 6_000_000  # bytes of a result
QUICK = {"read_timeout": 1, "connect_timeout": 1, "retries": {"max_attempts": 0}}

# Runs nodes that give so many bytes, says when it is in the midst of them, and goes on when it is told to.
WORK = """
import json, os, sys
import numpy as np
from catalog.store import retry as patience, s3_filesystem as s3files
from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.serializers.numpyarray import NumpySerializer
from functionfuse.storage import storage_factory

patience.PATIENCE = 1.0
s3files._ANSWERED, s3files._SLOWEST = 1.0, 1 << 30
config, moment, nodes, size = json.loads(sys.argv[1])
storage = storage_factory(config)
storage.register_persistent_serializers(NumpySerializer)
storage.save("other", "task", 1)

def wait(now):
    if moment == now:
        print(now, flush=True)
        sys.stdin.readline()

@workflow
def give(n):
    if n == nodes // 4:
        wait("during")
    return np.frombuffer(os.urandom(size)) if n % 2 else os.urandom(size)

local = LocalWorkflow(*[give(n).set_name(f"n{n}") for n in range(nodes)], workflow_name="w")
local.set_storage(storage)
wait("before")
local.run()
wait("after")
storage.save("other", "task", 2)
"""


class Between:
    """A proxy in a process of its own, which goes away as real ones do."""

    def __init__(self, upstream: str) -> None:
        command = [sys.executable, s3proxy.__file__, upstream, "0"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()

    def harm(self, kind: str) -> None:
        """Have connections refused; or all that is sent swallowed: of what is large, no more than fits on the way."""
        self._process.send_signal(signal.SIGKILL if kind == "refused" else signal.SIGSTOP)
        if kind == "refused":
            self._process.wait()

    def come_back(self) -> None:
        """Go on with what was swallowed."""
        self._process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        """End it."""
        with self._process:
            self._process.kill()


@pytest.fixture
def between(motoserver: MotoServer) -> Iterator[Between]:
    """Return a proxy before a server."""
    proxy = Between(motoserver.endpoint.endpoint_url)
    yield proxy
    proxy.end()


@pytest.fixture
def config(motoserver: MotoServer, between: Between) -> dict[str, Any]:
    """Return the configuration of a storage behind the proxy."""
    endpoint = motoserver.endpoint.at(between.url)
    found = endpoint.config(endpoint.prefix())
    found["options"]["s3fs"]["config_kwargs"] = QUICK
    return found


@pytest.mark.parametrize(
    ("kind", "moment", "size"),
    [
        ("refused", "during", SMALL),
        ("swallowed", "during", SMALL),
        ("swallowed", "during", LARGE),
        ("refused", "after", SMALL),
        ("swallowed", "before", SMALL),
        pytest.param("refused", "before", SMALL, marks=pytest.mark.soak),
        pytest.param("refused", "during", LARGE, marks=pytest.mark.soak),
        pytest.param("swallowed", "after", LARGE, marks=pytest.mark.soak),
    ],
)
def test_a_run_whose_server_goes_away(
    between: Between, config: dict[str, Any], kind: str, moment: str, size: int
) -> None:
    """However the server goes away, and whenever, the run or what comes after it fails soon, and its process ends."""
    nodes = 200 if size == SMALL else 12
    command = [sys.executable, "-c", WORK, json.dumps([config, moment, nodes, size])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, text=True, **pipes) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == f"{moment}\n"
            between.harm(kind)
            began = time.monotonic()
            _, trouble = child.communicate("\n", timeout=2 * SOON)
            taken = time.monotonic() - began
        finally:
            child.kill()
    assert child.returncode == 1, trouble
    assert "does not answer as it should any more" in trouble
    assert taken < SOON


def test_what_a_serializer_sends(between: Between, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The client that serializers write by waits for a server that comes back, and not for one that does not."""
    storage = storage_factory(config)
    storage.save("w", "t", 1)
    path = config["options"]["path"]
    client = storage._store.filesystem
    between.harm("swallowed")
    timer = threading.Timer(2.5, between.come_back)  # a try takes a second
    timer.start()
    assert client.cat_file(f"{path[1:]}/w/t")
    timer.join()
    monkeypatch.setattr(patience, "PATIENCE", 1.0)
    between.harm("refused")
    began = time.monotonic()
    for _ in range(50):
        with pytest.raises(Exception, match="Could not connect"):
            client.cat_file(f"{path[1:]}/w/t")
    assert time.monotonic() - began < 50 * 1.0


def test_patience_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks where nothing has succeeded for a minute asks once; after any success, or a long pause, as ever."""
    now = 1_000.0
    monkeypatch.setattr(patience.time, "monotonic", lambda: now)
    shared = patience.Patience()
    assert not shared.failed(now - 4.0, now)
    assert shared.failed(now - 6.0, now)  # it was never reached
    shared.answered()
    assert not shared.failed(now - 59.0, now)
    assert shared.failed(now - 61.0, now)
    now += 61.0
    assert not shared.failed(now, now)
    assert not shared.is_over
    for _ in range(3):
        now += 30.0
        shared.failed(now, now - 30.0)
    assert shared.is_over
    assert shared.failed(now, now)
    now += 61.0
    assert not shared.failed(now, now)
    assert not shared.is_over
    shared.answered()
    assert not shared.failed(now, now)


def test_no_thread_can_be_started(motoserver: MotoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system has no thread left, the caller does it, once; nobody waits for a thread that does not come."""
    storage = storage_factory(motoserver.endpoint.config(motoserver.endpoint.prefix()))
    storage.save("w", "before", 0)

    def none(self: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(pool, "_pools", {})
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", none)
        for number in range(3):
            storage.save("w", f"{number}", number)
    storage.save("w", "after", 4)  # by a thread, which finds what the pools have kept
    assert storage.list_tasks("w") == ["0", "1", "2", "after", "before"]
    assert storage.catalog.sql("SELECT count(*) FROM events").fetchall() == [(5,)]
