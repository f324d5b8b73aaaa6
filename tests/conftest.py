"""What every test gets: a watch over its open files, an environment of its own, reproducible examples."""

from __future__ import annotations

import gc
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from catalog.format import ids
from functionfuse.storage.filestorage import FileStorage

if TYPE_CHECKING:
    from s3proxy import Proxy
    from s3server import MotoServer, SeaweedServer

# The same examples everywhere, so that a red run can be repeated; HYPOTHESIS_PROFILE=explore looks for new ones.
settings.register_profile("repeatable", deadline=None, derandomize=True, database=None)
settings.register_profile("explore", deadline=None, max_examples=2_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

DESCRIPTORS = Path("/proc/self/fd")

# What a library opens once and keeps for the life of the process: devices, the event
# loops of Polars and asyncio, the pipes of pyarrow's signal handler and of
# multiprocessing's resource tracker. (A forgotten pipe of Popen is a ResourceWarning.)
PROCESS_WIDE = ("/dev/", "/proc/", "anon_inode:", "pipe:")

# Servers to which a process keeps its connections. Nor are sockets watched in a process that has used Ray: tests that
# came after one of a cluster were seen with new ones, most likely of Ray's threads, which go on when it has ended.
KEEP_CONNECTIONS = frozenset({"s3server", "motoserver", "proxy"})

FAILED = pytest.StashKey[bool]()


def pytest_configure() -> None:
    """Let Ctrl-C reach what the tests start, also where a script has this run in the background, which ignores it."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files with the most slow tests first: what is long and begins last is waited for by an idle core."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember which tests failed."""
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run that skips a test where nothing may be skipped: a green run shall mean that it was tested."""
    reporter: Any = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("FUNCTIONFUSE_SKIP_NOTHING") and reporter is not None and reporter.stats.get("skipped"):
        reporter.write_line("\nFAILED: FUNCTIONFUSE_SKIP_NOTHING is set, and tests were skipped")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def open_files() -> set[tuple[str, str]]:
    """Return number and target of every descriptor that this process holds, but the process-wide ones."""
    found = set()
    for descriptor in os.listdir(DESCRIPTORS):
        try:
            target = os.readlink(DESCRIPTORS / descriptor)
        except FileNotFoundError:  # the one that listed the folder
            continue
        if not target.startswith(PROCESS_WIDE):
            found.add((descriptor, target))
    return found


@pytest.fixture(scope="module", autouse=True)
def settled_heap() -> None:
    """Let collections pass over what is there already: with all modules each takes 50 ms, and most tests need one."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def no_leaked_files(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a file or socket open (Linux only)."""
    if not DESCRIPTORS.exists():
        yield
        return
    before = open_files()
    yield
    if FAILED in request.node.stash:  # its traceback keeps everything alive, and it is red already
        return
    keeps_connections = "ray" in sys.modules or not KEEP_CONNECTIONS.isdisjoint(request.fixturenames)

    def leaked() -> list[tuple[str, str]]:
        new = sorted(open_files() - before)
        return [(number, to) for number, to in new if not (keeps_connections and to.startswith("socket:"))]

    if leaked():
        request.node.funcargs.clear()  # pytest drops the fixtures' values only after this
        gc.collect()
    deadline = time.monotonic() + 60
    while leaked() and time.monotonic() < deadline:  # tasks of Zarr's event loop may still be reading
        time.sleep(0.05)
        gc.collect()
    assert not leaked(), f"the test left files open: {leaked()}"


@pytest.fixture(scope="session", autouse=True)
def no_cloud() -> Iterator[None]:
    """Keep the user's AWS settings and proxies out of the tests and of all that they start."""
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith("AWS_") or name.lower().endswith("_proxy"):
                patch.delenv(name)
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")  # else a client without credentials asks the network for some
        yield


@pytest.fixture(scope="session")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return fresh folders, made faster than by pytest, which lists its thousands for each."""
    parent = tmp_path_factory.mktemp("caches")

    def fresh() -> Iterator[Path]:
        for number in itertools.count():
            (parent / str(number)).mkdir()
            yield parent / str(number)

    return fresh()


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch, caches: Iterator[Path]) -> None:
    """Keep the user's cache, colours and terminal out of the tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(next(caches)))
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("MPLBACKEND", "agg")
    for name in ("NO_COLOR", "FORCE_COLOR", "PYTHONWARNINGS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let it be an error after a second, and not five, that no node of Ray's cluster can give what is asked for."""
    monkeypatch.setattr("functionfuse._ray._PATIENCE", 1.0)


@pytest.fixture
def storage(tmp_path: Path) -> FileStorage:
    """Return an empty storage."""
    return FileStorage(tmp_path / "storage")


@pytest.fixture
def open_place() -> Iterator[Path]:
    """Return a folder to which other users find their way."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    subprocess.run(["chmod", "-R", "u+rwX", folder], check=True)
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def own_ids() -> None:
    """Let a test's ids be of now, where those of an earlier one followed some of tomorrow."""
    if ids._last_tick >> 12 > time.time_ns() // 1_000_000 + 1_000:
        ids._last_tick = 0


@pytest.fixture(scope="session")
def zarr_loop() -> None:
    """Start Zarr's event loop, whose sockets live as long as the process, before a test's files are counted."""
    zarr = pytest.importorskip("zarr")
    zarr.create_group(zarr.storage.MemoryStore())


@pytest.fixture(scope="session")
def s3server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedServer]:
    """Start SeaweedFS; a test that kills it starts it again."""
    pytest.importorskip("boto3", reason="S3 is tested where boto3 is installed")
    from s3server import SeaweedServer

    server = SeaweedServer(tmp_path_factory.mktemp("seaweedfs"))
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="session")
def motoserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MotoServer]:
    """Start moto."""
    pytest.importorskip("moto", reason="S3 is tested where moto is installed")
    from s3server import MotoServer

    server = MotoServer(tmp_path_factory.mktemp("moto"))
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture
def proxy(s3server: SeaweedServer) -> Iterator[Proxy]:
    """Put a proxy before SeaweedFS, which does nothing yet but count."""
    from s3proxy import Proxy

    with Proxy(s3server.endpoint.endpoint_url) as found:
        yield found
