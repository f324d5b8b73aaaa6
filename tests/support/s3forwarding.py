"""How the S3 proxy passes one request on, and its answer back: bytes as they come, connections kept."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, Protocol

from s3faults import (
    CutAnswer,
    CutRequest,
    Headers,
    Lose,
    Refuse,
    Request,
    Rule,
    Stall,
    StallAnswer,
    parsed,
    request_of,
)

PIECE = 1 << 18  # bytes passed on at a time


class Settings(Protocol):
    """What a connection asks its proxy, anew for every request."""

    upstream: tuple[str, int]
    delay: float
    rule: Rule | None
    requests: list[Request]


class Cut(Exception):
    """The connections end here, by the will of a rule."""


class Stream:
    """One connection's two directions; what is written has gone to the kernel when `write` returns."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self._writer = reader, writer
        self._socket: socket.socket = writer.get_extra_info("socket")
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        writer.transport.set_write_buffer_limits(0)

    async def head(self) -> bytes:
        """Return the first line and the headers with the empty line that ends them."""
        return await self.reader.readuntil(b"\r\n\r\n")

    async def write(self, data: bytes) -> None:
        """Write all of it."""
        self._writer.write(data)
        await self._writer.drain()

    async def body(self, length: int) -> AsyncIterator[bytes]:
        """Yield a body of so many bytes."""
        while length:
            data = await self.reader.read(min(length, PIECE))
            if not data:
                raise EOFError
            length -= len(data)
            yield data

    async def rest(self) -> AsyncIterator[bytes]:
        """Yield a body that ends with the stream."""
        while data := await self.reader.read(PIECE):
            yield data

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield a body in chunks as it comes, with its sizes and trailers."""
        size = -1
        while size:
            line = await self.reader.readuntil(b"\n")
            yield line
            size = int(line.partition(b";")[0], 16)
            async for data in self.body(size + 2 if size else 0):
                yield data
        while line != b"\r\n":
            line = await self.reader.readuntil(b"\n")
            yield line

    def close(self) -> None:
        """Shut it down; the loop closes it in its next turn."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._writer.transport.abort()


class Connection:
    """A client's connection, with the one to the server that stands behind it."""

    def __init__(self, settings: Settings, client: Stream) -> None:
        self._settings, self._client = settings, client
        self._server: Stream | None = None

    async def serve(self) -> None:
        """Let requests pass until one side hangs up, or a rule does."""
        with suppress(OSError, EOFError, Cut):
            while await self._one_request():
                pass

    def close(self) -> None:
        """Shut both down."""
        for stream in (self._client, self._server):
            if stream is not None:
                stream.close()

    async def _one_request(self) -> bool:
        """Let one request pass, and tell whether another one may follow."""
        head = await self._client.head()
        request, headers = request_of(head)
        self._settings.requests.append(request)
        if self._settings.rule is not None:
            request.fault = self._settings.rule(request)
        await asyncio.sleep(self._settings.delay)
        if isinstance(request.fault, Stall):
            await asyncio.sleep(request.fault.seconds)
        if isinstance(request.fault, Refuse):
            return await self._refuse(request, request.fault, headers)
        server = await self._connected()
        sending = asyncio.ensure_future(self._send(server, request, head, headers))
        answering = asyncio.ensure_future(self._answer(server, request, request.kind == "HEAD"))
        try:
            return await self._both(sending, answering)
        finally:
            for each in (sending, answering):
                each.cancel()
            await asyncio.gather(sending, answering, return_exceptions=True)

    async def _both(self, sending: asyncio.Future[Any], answering: asyncio.Future[Any]) -> bool:
        """Wait for the answer, which may come before all of the request has gone out: then nothing may follow it."""
        await asyncio.wait({sending, answering}, return_when=asyncio.FIRST_COMPLETED)
        if sending.done() and isinstance(sending.exception(), Cut):
            raise Cut
        again: bool = await answering
        return again and sending.done() and sending.exception() is None

    async def _connected(self) -> Stream:
        if self._server is not None and self._server.reader.at_eof():
            self._server.close()
            self._server = None
        if self._server is None:
            self._server = Stream(*await asyncio.open_connection(*self._settings.upstream, limit=PIECE))
        return self._server

    async def _refuse(self, request: Request, fault: Refuse, headers: Headers) -> bool:
        """Answer in the server's place; a client that waits for a word before it sends its body is not waited for."""
        waits = b"expect" in headers
        if not waits:
            async for _ in _body(self._client, headers):
                pass
        text = f"<Error><Code>{fault.code}</Code><Message>A rule of the proxy.</Message></Error>".encode()
        lines = [
            f"HTTP/1.1 {fault.status} {fault.code}",
            "Content-Type: application/xml",
            f"Content-Length: {len(text)}",
            f"Connection: {'close' if waits else 'keep-alive'}",
        ]
        request.status = fault.status
        head = "\r\n".join([*lines, "", ""]).encode()
        await self._client.write(head if request.kind == "HEAD" else head + text)
        return not waits

    async def _send(self, server: Stream, request: Request, head: bytes, headers: Headers) -> None:
        await server.write(head)
        most = request.fault.after if isinstance(request.fault, CutRequest) else None
        await _pass(_body(self._client, headers), server, most)

    async def _answer(self, server: Stream, request: Request, bare: bool) -> bool:
        """Pass the answer on as it comes; tell whether the server keeps the connection."""
        head = await server.head()
        while head[9:10] == b"1":  # Continue: the client waits for it
            await self._client.write(head)
            head = await server.head()
        first, headers = parsed(head)
        status = int(first.split(b" ")[1])
        bare = bare or status in (204, 304)
        ends = bare or b"content-length" in headers or b"transfer-encoding" in headers
        body = server.body(0) if bare else _body(server, headers) if ends else server.rest()
        if isinstance(request.fault, Lose):
            async for _ in body:
                pass
            raise Cut
        if isinstance(request.fault, StallAnswer):
            await asyncio.sleep(request.fault.seconds)
        most = request.fault.after if isinstance(request.fault, CutAnswer) else None
        request.status = status
        await _pass(_with_head(head, body), self._client, most)
        return ends and headers.get(b"connection", b"").lower() != b"close"


def _body(stream: Stream, headers: Headers) -> AsyncIterator[bytes]:
    if headers.get(b"transfer-encoding", b"").lower() == b"chunked":
        return stream.chunks()
    return stream.body(int(headers.get(b"content-length", 0)))


async def _with_head(head: bytes, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield head
    async for data in body:
        yield data


async def _pass(source: AsyncIterator[bytes], target: Stream, most: int | None) -> None:
    """Pass bytes on, and end the connections as soon as the most that may pass have passed."""
    if most == 0:
        raise Cut
    async for data in source:
        allowed = data[:most]
        await target.write(allowed)
        if most is not None:
            most -= len(allowed)
            if most == 0:
                raise Cut
