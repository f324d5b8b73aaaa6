"""What a query may take, and the operating system's limits that hold it to that."""

from __future__ import annotations

import os
import re
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from catalog.errors import InvalidQuestion

_MEMORY = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT])(i?)B\s*", re.IGNORECASE | re.ASCII)
_UNITS = "BKMGT"

_DESCRIPTORS = 64
_CPU = 60  # seconds of computing beyond what the time limit allows
# Of address space beside the memory limit: stacks, what DuckDB does not count, a piece of the answer. Measured: a tenth
# of it suffices for an ordinary answer under a limit of 100 MB, and what DuckDB does not count grows with the limit.
SLACK = 192 << 20
_SLACK_SHARE = 4


@dataclass(frozen=True)
class Limits:
    """What a query may take.

    Attributes
    ----------
    memory : str
        A number of bytes with its unit, such as ``"1GB"``: for the query, and again for its answer.
    seconds : float
        Time until it is interrupted.

    Raises
    ------
    InvalidQuestion
        If a limit cannot be understood.
    """

    memory: str
    seconds: float

    def __post_init__(self) -> None:
        if not isinstance(self.memory, str) or not _MEMORY.fullmatch(self.memory):
            raise InvalidQuestion(f"memory_limit={self.memory!r}: it is a number with a unit, such as '500MB' or '1GB'")
        is_number = isinstance(self.seconds, (int, float)) and not isinstance(self.seconds, bool)
        if not is_number or not 0 < self.seconds <= threading.TIMEOUT_MAX:
            raise InvalidQuestion(f"time_limit={self.seconds!r}: it is a number of seconds above 0")

    @property
    def bytes(self) -> int:
        """The memory as a number."""
        amount, unit, binary = _MEMORY.findall(self.memory)[0]
        return int(float(amount) * (1024 if binary else 1000) ** _UNITS.index(unit.upper()))


def confine() -> None:
    """Forbid what no question needs: writing to files, dumps of memory, many open files."""
    for limit in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
        resource.setrlimit(limit, (0, 0))
    _limit(resource.RLIMIT_NOFILE, _DESCRIPTORS)


@contextmanager
def bounded(base: int, limits: Limits, files: int) -> Iterator[None]:
    """Bound address space and computing for one question."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    computing = used.ru_utime + used.ru_stime + limits.seconds * (os.cpu_count() or 1) + _CPU
    _limit(resource.RLIMIT_CPU, int(computing))
    _limit(resource.RLIMIT_NOFILE, _DESCRIPTORS + files)
    if base:
        _limit(resource.RLIMIT_AS, base + SLACK + limits.bytes + limits.bytes // _SLACK_SHARE)
    try:
        yield
    finally:
        _limit(resource.RLIMIT_CPU, resource.RLIM_INFINITY)
        _limit(resource.RLIMIT_NOFILE, _DESCRIPTORS)
        _limit(resource.RLIMIT_AS, resource.RLIM_INFINITY)


def _limit(which: int, most: int) -> None:
    """Set what can be raised again, within what this process was started with."""
    hard = resource.getrlimit(which)[1]
    allowed = [each for each in (most, hard) if each != resource.RLIM_INFINITY]
    resource.setrlimit(which, (min(allowed, default=resource.RLIM_INFINITY), hard))


def address_space() -> int:
    """Return the bytes that this process has mapped; 0 where the system does not tell, as macOS, which bounds none."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except FileNotFoundError:
        return 0
