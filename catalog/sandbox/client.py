"""The process of the sandbox, seen from the one that asks.

It is started at the first question, kept for the next ones, and killed as soon
as it takes too much; the next question then starts another.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

from catalog.errors import CatalogUnusable
from catalog.index.damage import QueryFailed
from catalog.sandbox.server import END, HEADER, PIECE, READY, TAKEN

# The module is found where this process found it; what else is in its environment is no business of a query's.
_PROGRAM = "import sys; sys.path[:] = sys.argv[2:]; from catalog.sandbox.server import main; main()"
_KEPT = ("DYLD_LIBRARY_PATH", "LD_LIBRARY_PATH", "TZ")
# Address space is what is bounded: without these, every thread would reserve much that it does not use.
_SET = {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "1", "OPENBLAS_NUM_THREADS": "1"}
_START = 60.0  # seconds until it must be up: hundreds of times what it takes
_GRACE = 1.0  # seconds that a query has for ending by itself after its time limit
_LONGEST = 1e6  # seconds of one wait
_MOST_SAID = 10_000  # bytes of what it left on stderr


class TimedOut(Exception):
    """The query did not end."""


class TooLarge(Exception):
    """The answer is larger than was allowed."""


class Died(Exception):
    """The process ended in the midst of the question.

    Parameters
    ----------
    status : int
        Its exit code, below zero the signal.
    said : str
        What it left on stderr.
    """

    def __init__(self, status: int, said: str) -> None:
        how = signal.Signals(-status).name if status < 0 else f"exit code {status}"
        super().__init__(f"{how}: {said}" if said else how)
        self.lacked_memory = status == -signal.SIGKILL or "bad_alloc" in said or "Memory" in said


class _Ended(Exception):
    """There is nothing more to read."""


class Client:
    """One process that answers questions, one after the other; not for several threads at once.

    Raises
    ------
    OSError
        If it cannot be started.
    """

    def __init__(self) -> None:
        paths = map(os.path.abspath, sys.path)
        self._process = subprocess.Popen(
            [sys.executable or "", "-I", "-c", _PROGRAM, str(os.getpid()), *paths],
            bufsize=0,
            cwd="/",
            env=_SET | {name: os.environ[name] for name in _KEPT if name in os.environ},
            start_new_session=True,  # Ctrl-C is for the one who asks, who then ends this process
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._poll = select.poll()
        self._poll.register(self._pipe(1), select.POLLIN)

    def take(self, question: bytes) -> None:
        """Hand over a question.

        Parameters
        ----------
        question : bytes
            What is asked of it, pickled.

        Raises
        ------
        _Ended, TimedOut
            If it did not take the question.
        """
        deadline = time.monotonic() + _START
        self._expect(READY, deadline)
        self._send(question)
        self._expect(TAKEN, deadline)

    def answer(self, seconds: float, most: int) -> list[bytearray]:
        """Return the pieces of the answer to the question that was taken.

        Parameters
        ----------
        seconds : float
            Time after which the query ends by itself.
        most : int
            Bytes of the answer.

        Returns
        -------
        list of bytearray
            Arrow streams.

        Raises
        ------
        QueryFailed
            If the query is refused; it can be asked again. After any other exception it is to be ended.
        """
        deadline = time.monotonic() + seconds + _GRACE
        pieces: list[bytearray] = []
        while True:
            kind, content = self._message(deadline, most)
            if kind == END:
                break
            pieces.append(content)
            most -= len(content)
        if error := json.loads(content):
            raise QueryFailed(**error)
        return pieces

    def end(self) -> Died:
        """End it; return how it had ended before, if it had."""
        self._process.kill()
        status = self._process.wait()
        said = b""
        errors = select.poll()
        errors.register(self._pipe(2), select.POLLIN)
        if errors.poll(0):
            said = os.read(self._pipe(2), _MOST_SAID)
        self._close()
        return Died(status, said.decode(errors="replace").strip())

    def forget(self) -> None:
        """Leave it to the process that this one was forked from."""
        self._process.returncode = 0  # or Popen would miss its end
        self._close()

    def _close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()

    def _pipe(self, number: int) -> int:
        pipe = (self._process.stdin, self._process.stdout, self._process.stderr)[number]
        assert pipe is not None
        return pipe.fileno()

    def _send(self, content: bytes) -> None:
        rest = memoryview(HEADER.pack(b"Q", len(content)) + content)
        try:
            while rest:
                rest = rest[os.write(self._pipe(0), rest) :]
        except BrokenPipeError:
            raise _Ended from None

    def _expect(self, kind: bytes, deadline: float) -> None:
        if self._read(HEADER.size, deadline) != HEADER.pack(kind, 0):
            raise _Ended

    def _message(self, deadline: float, most: int) -> tuple[bytes, bytearray]:
        """Return kind and content of the next message; of a piece of an answer at most so many bytes."""
        kind, size = HEADER.unpack(self._read(HEADER.size, deadline))
        if kind == PIECE and size > most:
            raise TooLarge
        return kind, self._read(size, deadline)

    def _read(self, count: int, deadline: float) -> bytearray:
        data = bytearray(count)
        rest = memoryview(data)
        while rest:
            left = min(deadline - time.monotonic(), _LONGEST)
            if left <= 0:
                raise TimedOut
            if self._poll.poll(left * 1000):
                count = os.readv(self._pipe(1), [rest])
                if not count:
                    raise _Ended
                rest = rest[count:]
        return data


_lock = threading.Lock()
_kept: Client | None = None


def ask(question: bytes, seconds: float, most: int) -> list[bytearray]:
    """Return the answer as Arrow streams; one thread after the other.

    Parameters
    ----------
    question : bytes
        What is asked, pickled.
    seconds : float
        Time after which the query ends by itself.
    most : int
        Bytes of the answer.

    Returns
    -------
    list of bytearray
        Its pieces.

    Raises
    ------
    QueryFailed, TimedOut, TooLarge, Died
        If there is no answer.
    CatalogUnusable
        If the process cannot be started.
    """
    with _lock:
        try:
            return _asked(question).answer(seconds, most)
        except QueryFailed:
            raise
        except _Ended as error:
            raise _end() or error from None
        except BaseException:  # KeyboardInterrupt too
            _end()
            raise


def start() -> None:
    """Start the process if there is none, and do not wait for it: it is up when a first question is prepared."""
    global _kept
    if _lock.acquire(blocking=False):
        try:
            if _kept is None:
                _kept = Client()
        except OSError:
            pass  # who asks is told
        finally:
            _lock.release()


def _asked(question: bytes) -> Client:
    """Return a process that has taken the question: the one that is kept, or a new one."""
    global _kept
    if _kept is not None:
        with suppress(_Ended, TimedOut):  # it ended by itself, or somebody ended it
            _kept.take(question)
            return _kept
        _end()
    try:
        _kept = Client()
        _kept.take(question)
    except (OSError, TimedOut, _Ended) as error:
        raise CatalogUnusable(
            f"a query runs in a Python process of its own, which sys.executable = {sys.executable!r} does not start: "
            f"{error if isinstance(error, OSError) else _end()}"
        ) from error
    return _kept


def _end() -> Died | None:
    """End the process that is kept; return how it had ended by itself, or that it was killed."""
    global _kept
    client, _kept = _kept, None
    return client.end() if client else None


def _after_fork() -> None:
    global _kept, _lock
    _lock = threading.Lock()
    client, _kept = _kept, None
    if client:
        client.forget()


def _at_exit() -> None:
    if _lock.acquire(blocking=False):  # a thread that still asks must not wake up now; its process ends by itself
        _end()


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
