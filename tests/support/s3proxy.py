"""An HTTP proxy that stands before an S3 server: it counts, delays, refuses, cuts and swallows.

It forwards every byte as it came, the `Host` that the client signed among them. ``python s3proxy.py URL SECONDS`` runs
one in a process of its own, which delays every request, prints its URL, and ends with its standard input.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

from s3faults import Request, Rule
from s3forwarding import PIECE, Connection, Stream

LOOPBACK = "127.0.0.1"


class Proxy:
    """A proxy in a thread of its own; a context manager.

    Parameters
    ----------
    upstream : str
        URL of the server.
    delay : float
        Seconds by which every request comes later to the server.

    Attributes
    ----------
    url : str
        Where it listens.
    rule : callable or None
        Says what is done to a request; is called in the proxy's thread, for one request after another.
    requests : list of Request
        All that came, in their order.

    Notes
    -----
    Connections are shut down, not only closed: a child that was forked meanwhile does not keep them open.
    """

    def __init__(self, upstream: str, delay: float = 0.0) -> None:
        server = urlsplit(upstream)
        self.upstream = (str(server.hostname), int(server.port or 80))
        self.delay = delay
        self.rule: Rule | None = None
        self.requests: list[Request] = []
        self._connections: dict[asyncio.Task[None], Connection] = {}

    def __enter__(self) -> Proxy:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._do(self._listen(0))
        return self

    def __exit__(self, *error: object) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def counts(self) -> Counter[str]:
        """Return how many requests of each kind came."""
        return Counter(request.kind for request in self.requests)

    @contextmanager
    def watching(self) -> Iterator[list[Request]]:
        """Return a list that has, after the block, the requests that came within it."""
        begin = len(self.requests)
        found: list[Request] = []
        yield found
        found += self.requests[begin:]

    @contextmanager
    def harming(self, rule: Rule) -> Iterator[None]:
        """Apply a rule within the block."""
        self.rule = rule
        try:
            yield
        finally:
            self.rule = None

    @contextmanager
    def gone(self) -> Iterator[None]:
        """Refuse connections within the block, and drop those that there are."""
        self._do(self._close())
        try:
            yield
        finally:
            self._do(self._listen(int(self.url.rpartition(":")[2])))

    def _do(self, work: Coroutine[None, None, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _listen(self, port: int) -> None:
        self._listener = await asyncio.start_server(self._accept, LOOPBACK, port, limit=PIECE, backlog=1_000)
        self.url = f"http://{LOOPBACK}:{self._listener.sockets[0].getsockname()[1]}"

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(self, Stream(reader, writer))
        task = self._loop.create_task(connection.serve())
        self._connections[task] = connection
        task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        self._connections.pop(task).close()

    async def _close(self) -> None:
        for each in self._listener.sockets:
            with suppress(OSError):  # only Linux shuts down what listens
                each.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        await _turns()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await _turns()


async def _turns() -> None:
    """Let the loop do what is left to do: take what was accepted, close what was shut down."""
    for _ in range(3):
        await asyncio.sleep(0)


def main(upstream: str, delay: str) -> None:
    """Run a proxy until the standard input ends."""
    with Proxy(upstream, float(delay)) as proxy:
        sys.stdout.write(f"{proxy.url}\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
