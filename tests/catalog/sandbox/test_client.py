"""The process in which boxed SQL runs: it is confined, kept, replaced, and never left behind."""

from __future__ import annotations

import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from catalog.errors import CatalogUnusable, InvalidQuestion
from catalog.sandbox import client
from functionfuse.storage.filestorage import FileStorage
from workshop import ROOT, root_of, running_python, say, wait_for

ENDLESS = "SELECT count(*) FROM range(1000000000000)"


@pytest.fixture
def asked(storage: FileStorage) -> FileStorage:
    """Return a storage with one result, of which something was asked."""
    storage.save("w", "a", 1)
    assert count(storage) == 1
    return storage


def count(storage: FileStorage) -> int:
    """Return the number of results, asked by SQL."""
    ((number,),) = storage.catalog.sql("SELECT count(*) FROM tasks").fetchall()
    return int(number)


def kept() -> int:
    """Return the id of the process that is kept."""
    assert client._kept is not None
    return client._kept._process.pid


def runs(pid: int) -> bool:
    """Tell whether a process runs; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until_ended(pid: int) -> None:
    """Wait until a process has ended."""
    deadline = time.monotonic() + 240
    while runs(pid):
        assert time.monotonic() < deadline, f"process {pid} was left behind"
        time.sleep(0.02)


# Kept and replaced


def test_one_process_answers_all_questions(asked: FileStorage) -> None:
    """The process of the first question answers the next ones too, also after one with a mistake, or without end."""
    before = kept()
    for query in ("SELECT nosuch FROM tasks", ENDLESS, "SELECT repeat('x', 5000000000)"):
        with pytest.raises(InvalidQuestion):
            asked.catalog.sql(query, time_limit=0.2)
    assert count(asked) == 1
    assert kept() == before


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_process_that_ended_is_replaced(asked: FileStorage, number: signal.Signals) -> None:
    """Of a process that ended between two questions the second one does not hear."""
    assert client._kept is not None
    before = kept()
    select.select([client._kept._pipe(1)], [], [])  # it has said that it can be asked
    os.kill(before, number)
    wait_until_ended(before)
    assert count(asked) == 1
    assert kept() != before


def test_a_process_that_ends_before_it_takes_the_question_is_replaced(asked: FileStorage) -> None:
    """It is asked as long as it can be written to, which is longer than it lives."""
    before = kept()
    os.kill(before, signal.SIGSTOP)
    timer = threading.Timer(0.5, os.kill, (before, signal.SIGKILL))
    timer.start()
    assert count(asked) == 1
    assert not timer.is_alive()
    assert kept() != before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "said"),
    [
        (signal.SIGKILL, "stopped at its memory limit, 1GB"),  # by the kernel, where memory is short
        (signal.SIGSEGV, "crashed the process in which it ran: SIGSEGV"),
        (signal.SIGSTOP, r"stopped after 0\.5 s, its time limit"),
    ],
)
def test_a_process_that_ends_within_a_question(asked: FileStorage, number: signal.Signals, said: str) -> None:
    """Who asked what ends or hangs the process is told so, and the next question is answered."""
    before = kept()
    timer = threading.Timer(0.2, os.kill, (before, number))
    timer.start()
    with pytest.raises(InvalidQuestion, match=said):
        asked.catalog.sql(ENDLESS, time_limit=0.5 if number == signal.SIGSTOP else 20)
    timer.join()
    assert not runs(before)
    assert count(asked) == 1


@pytest.mark.slow
def test_a_process_that_has_grown_is_replaced(asked: FileStorage) -> None:
    """What a large answer left in the process is given back: after it, another one answers."""
    before = kept()
    asked.catalog.sql("SELECT repeat('x', 150000000)")
    assert count(asked) == 1
    address_space = int(Path(f"/proc/{kept()}/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE")
    assert kept() != before or address_space < 1_000_000_000


def test_a_query_that_names_the_index(asked: FileStorage) -> None:
    """An error that tells of the index in the query's own words is no damage to it."""
    index = Path(asked.catalog.path) / ".catalog" / "catalog.duckdb"
    before = index.stat().st_ino
    for query in (f"SELECT error('{index}')", f"SELECT '{index}'::INT"):
        with pytest.raises(InvalidQuestion):
            asked.catalog.sql(query)
    assert index.stat().st_ino == before


@pytest.mark.slow
def test_among_many_open_files(asked: FileStorage) -> None:
    """The process is ended in a program that has more files open than `select` knows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
    try:
        client._end()
        with pytest.raises(InvalidQuestion, match="larger than the memory limit"):
            asked.catalog.sql("SELECT range, repeat('x', 1000) FROM range(100000)", memory_limit="40MB")
        client._end()
    finally:
        for each in held:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_an_answer_that_is_too_large(asked: FileStorage) -> None:
    """An answer is taken up to the limit of memory and no further, however quickly it comes."""
    with pytest.raises(InvalidQuestion, match="the answer is larger than the memory limit, 100MB: ask for less of it"):
        asked.catalog.sql("SELECT range, repeat('x', 1000) FROM range(1000000)", memory_limit="100MB")
    assert count(asked) == 1


def test_a_parameter_of_ones_own_class(asked: FileStorage) -> None:
    """A parameter that cannot go to another process is refused."""
    with pytest.raises(InvalidQuestion, match="a parameter cannot be sent to the process of the query"):
        asked.catalog.sql("SELECT ?", [lambda: 1])
    assert count(asked) == 1


# Confined


def test_it_knows_and_may_little(storage: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process has no secrets of the environment, is in no folder of the user's, and can write to no file."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nobody's business")
    client._end()
    assert count(storage) == 0
    process = Path(f"/proc/{kept()}")
    assert b"AWS" not in (process / "environ").read_bytes()
    assert os.readlink(process / "cwd") == "/"
    limits = {line[:25].strip(): line[25:].split()[:2] for line in (process / "limits").read_text().splitlines()}
    assert limits["Max file size"] == ["0", "0"]
    assert limits["Max core file size"] == ["0", "0"]
    assert limits["Max open files"][0] == "64"
    assert os.getsid(kept()) != os.getsid(0)


@pytest.mark.parametrize("executable", [None, "", "/nowhere/python", "/bin/true", "/bin/echo"])
def test_no_python_to_start(storage: FileStorage, monkeypatch: pytest.MonkeyPatch, executable: str | None) -> None:
    """Where `sys.executable` is no Python, as in some programs that embed one, that is what is said."""
    client._end()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", executable)
        with pytest.raises(CatalogUnusable, match=f"sys.executable = {executable!r} does not start"):
            count(storage)
    assert count(storage) == 0


# Not left behind

ASKING = f"""
import os, sys, threading
from catalog import Catalog
from catalog.sandbox import client
catalog = Catalog.open(sys.argv[1])

def count():
    return catalog.sql("SELECT count(*) FROM tasks").fetchall()[0][0]

def endless():
    catalog.sql("{ENDLESS}")

def pid():
    return client._kept._process.pid

assert count() == 1
"""
# What is done with the process that is kept, before the one that keeps it ends.
ENDINGS = {
    "idle": "print(pid(), flush=True); sys.stdin.readline()",
    "asked": "threading.Thread(target=endless, daemon=True).start(); print(pid(), flush=True); sys.stdin.readline()",
    "forked": """
if os.fork() == 0:
    sys.stdin.readline()  # lives on when its parent is killed
    os._exit(0)
print(pid(), flush=True)
sys.stdin.readline()
""",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_it_ends_with_the_one_that_asks(asked: FileStorage, ending: str) -> None:
    """Where the process that asks is killed, idle, within a question or after a fork, that of its queries ends too."""
    with running_python(ASKING + ENDINGS[ending], root_of(asked)) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert runs(pid)
        process.kill()
        process.wait()
        wait_until_ended(pid)


def test_it_ends_at_exit(asked: FileStorage) -> None:
    """A program that ends has ended the process of its queries before, without a warning."""
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", ASKING + ENDINGS["idle"], str(root_of(asked))]
    run = subprocess.run(command, input="end\n", capture_output=True, text=True, check=False, cwd=ROOT)
    assert (run.returncode, run.stderr) == (0, "")
    assert not runs(int(run.stdout))


FORKING = """
mine = pid()
child = os.fork()
if child == 0:
    assert client._kept is None
    assert count() == 1
    assert pid() != mine
    theirs = client._kept
    client._end()
    os._exit(theirs._process.returncode != -9)
_, status = os.waitpid(child, 0)
assert status == 0
assert count() == 1
assert pid() == mine
print("right")
"""


def test_a_forked_child_has_a_process_of_its_own(asked: FileStorage) -> None:
    """A child neither uses nor ends the process that its parent asks."""
    command = [sys.executable, "-W", "error", "-c", ASKING + FORKING, str(root_of(asked))]
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert run.stderr == ""
    assert run.stdout == "right\n"


INTERRUPTED = """
before = pid()
print("asking", flush=True)
try:
    endless()
except KeyboardInterrupt:
    print("interrupted", flush=True)
assert not os.path.exists(f"/proc/{before}")
assert count() == 1
print("answered", flush=True)
"""


def test_control_c_ends_the_question(asked: FileStorage) -> None:
    """Ctrl-C, which a terminal sends to all processes of a program, reaches who asks; the query ends with it."""
    command = [sys.executable, "-c", ASKING + INTERRUPTED, str(root_of(asked))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True) as process:
        wait_for(process, "asking")
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGINT)
        wait_for(process, "interrupted")
        wait_for(process, "answered")
        assert process.wait() == 0


def test_control_c_between_questions(asked: FileStorage) -> None:
    """Ctrl-C while nothing is asked leaves the process of the queries as it is."""
    waiting = "import signal; signal.signal(2, signal.SIG_IGN); before = pid(); print('up', flush=True)\n"
    waiting += "sys.stdin.readline(); assert (count(), pid()) == (1, before); print('answered', flush=True)"
    with running_python(ASKING + waiting, root_of(asked)) as process:
        wait_for(process, "up")
        process.send_signal(signal.SIGINT)
        say(process, "go")
        wait_for(process, "answered")
