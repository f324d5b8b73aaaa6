"""The proxy before the S3 server harms what it is told to harm, at the byte, and nothing else."""

from __future__ import annotations

import hashlib
import http.client
import io
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

boto3 = pytest.importorskip("boto3")

from botocore.exceptions import (  # noqa: E402 (after it is known to be there)
    ClientError,
    ConnectionClosedError,
    EndpointConnectionError,
    HTTPClientError,
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
)

from s3faults import (  # noqa: E402
    CutAnswer,
    CutRequest,
    Fault,
    Lose,
    Refuse,
    Request,
    Stall,
    StallAnswer,
    cut_answer,
    cut_request,
    first,
    lose,
    refuse,
    sometimes,
)

if TYPE_CHECKING:
    from s3proxy import Proxy
    from s3server import SeaweedServer

DROPPED = (ConnectionClosedError, EndpointConnectionError, HTTPClientError)
CUT = (*DROPPED, IncompleteReadError, ResponseStreamingError)
HERE = Path(__file__).parents[2] / "support"


class Bucket:
    """A fresh prefix, reached through the proxy by a client that tries once."""

    def __init__(self, client: Any, path: str) -> None:
        self.client = client
        self.path = path
        self.bucket, self.prefix = path[1:].split("/")

    def at(self, key: str) -> dict[str, str]:
        """Return the arguments that name an object."""
        return {"Bucket": self.bucket, "Key": f"{self.prefix}/{key}"}

    def put(self, key: str, data: Any) -> None:
        """Put an object."""
        self.client.put_object(**self.at(key), Body=data)

    def get(self, key: str, **more: str) -> bytes:
        """Get an object."""
        with closing(self.client.get_object(**self.at(key), **more)["Body"]) as body:
            data: bytes = body.read()
            return data


@pytest.fixture
def objects(proxy: Proxy, s3server: SeaweedServer) -> Iterator[Bucket]:
    """Return a fresh prefix behind the proxy."""
    endpoint = s3server.endpoint.at(proxy.url)
    with closing(endpoint.client(retries={"total_max_attempts": 1}, max_pool_connections=16)) as client:
        yield Bucket(client, endpoint.prefix())


def noise(size: int, seed: int = 0) -> bytes:
    """Return random bytes."""
    return random.Random(seed).randbytes(size)


# Nothing is harmed


def test_objects_pass_unharmed(objects: Bucket) -> None:
    """Objects of many sizes, ranges, listings and removals are the same behind the proxy as before it."""
    for size in (0, 1, 65_537, 3 << 20):
        objects.put("k", noise(size))
        assert objects.get("k") == noise(size)
    assert objects.get("k", Range="bytes=-10") == noise(3 << 20)[-10:]
    assert objects.client.head_object(**objects.at("k"))["ContentLength"] == 3 << 20
    with pytest.raises(ClientError, match="404"):
        objects.client.head_object(**objects.at("none"))
    objects.put("a b/ü%2F+c", b"odd")
    listed = objects.client.list_objects_v2(Bucket=objects.bucket, Prefix=objects.prefix)["Contents"]
    assert [each["Key"] for each in listed] == [f"{objects.prefix}/a b/ü%2F+c", f"{objects.prefix}/k"]
    objects.client.delete_object(**objects.at("k"))
    with pytest.raises(ClientError, match="NoSuchKey"):
        objects.get("k")


def test_a_multipart_upload_and_a_chunked_one(objects: Bucket, proxy: Proxy) -> None:
    """A transfer in parallel parts, and a body in chunks of unknown length, arrive whole."""
    data = noise(20 << 20)
    objects.client.upload_fileobj(io.BytesIO(data), objects.bucket, f"{objects.prefix}/parts")
    assert hashlib.sha256(objects.get("parts")).digest() == hashlib.sha256(data).digest()
    back = io.BytesIO()
    objects.client.download_fileobj(objects.bucket, f"{objects.prefix}/parts", back)
    assert back.getbuffer() == data
    kinds = proxy.counts()
    assert kinds["PART"] == 3
    assert kinds["START"] == kinds["COMPLETE"] == 1


def test_a_chunked_body_by_hand(s3server: SeaweedServer, proxy: Proxy) -> None:
    """A request in chunks with a trailer, written byte by byte, reaches the server, and the connection goes on."""
    path = s3server.endpoint.prefix()
    bucket, prefix = path[1:].split("/")
    with closing(s3server.endpoint.client()) as client:
        place = {"Bucket": bucket, "Key": f"{prefix}/k"}
        url = client.generate_presigned_url("put_object", Params=place).partition("/results")[2]
    host = s3server.endpoint.endpoint_url.removeprefix("http://")
    with closing(http.client.HTTPConnection(*proxy.url.removeprefix("http://").split(":"))) as connection:
        for data in (b"one", b"two" * 30_000):
            chunks = (data[begin : begin + 7] for begin in range(0, len(data), 7))
            connection.request("PUT", f"/results{url}", chunks, {"Host": host}, encode_chunked=True)
            answer = connection.getresponse()
            assert (answer.status, answer.read()) == (200, b"")
            assert s3server.endpoint.get(path, "k") == data


def test_connections_are_kept(objects: Bucket, proxy: Proxy) -> None:
    """Many requests one after another use one connection on both sides."""
    for number in range(20):
        objects.put(str(number), b"x")
    assert len(proxy._connections) == 1
    assert proxy.counts()["PUT"] == 20


def test_requests_are_told_apart(objects: Bucket, proxy: Proxy) -> None:
    """Every request is counted by what it does, with its key."""
    place = {"Bucket": objects.bucket}
    objects.put("w/t", b"123")
    objects.get("w/t")
    objects.client.head_object(**objects.at("w/t"))
    objects.client.list_objects_v2(**place, Prefix=objects.prefix)
    objects.client.list_objects(**place, Prefix=objects.prefix)
    objects.client.copy_object(
        **objects.at("copy"), CopySource={"Bucket": objects.bucket, "Key": objects.at("w/t")["Key"]}
    )
    objects.client.delete_object(**objects.at("copy"))
    objects.client.delete_objects(**place, Delete={"Objects": [{"Key": objects.at("w/t")["Key"]}]})
    upload = objects.client.create_multipart_upload(**objects.at("parts"))["UploadId"]
    objects.client.upload_part(**objects.at("parts"), UploadId=upload, PartNumber=1, Body=b"x")
    objects.client.list_parts(**objects.at("parts"), UploadId=upload)
    objects.client.abort_multipart_upload(**objects.at("parts"), UploadId=upload)
    kinds = "PUT GET HEAD LIST LIST COPY DELETE DELETE START PART OTHER ABORT"
    assert [request.kind for request in proxy.requests] == kinds.split()
    assert proxy.requests[0] == Request("PUT", objects.bucket, f"{objects.prefix}/w/t", 3, 200)
    assert proxy.requests[3].key == objects.prefix
    assert {request.status for request in proxy.requests} == {200, 204}


def test_a_delay(objects: Bucket, proxy: Proxy) -> None:
    """Each request takes the delay longer; requests at once wait at once."""
    proxy.delay = 3.0
    with ThreadPoolExecutor(8) as pool:
        began = time.monotonic()
        list(pool.map(lambda number: objects.put(str(number), b""), range(8)))
        assert 3.0 <= time.monotonic() - began < 8 * 3.0


# Harm


def test_refused_requests(objects: Bucket, proxy: Proxy) -> None:
    """A refused PUT, GET and HEAD get their error and change nothing; the connection goes on."""
    objects.put("k", b"old")
    with proxy.harming(lambda request: Refuse()):
        with pytest.raises(ClientError, match="SlowDown"):
            objects.put("k", noise(300_000))
        with pytest.raises(ClientError, match="SlowDown"):
            objects.get("k")
        with pytest.raises(ClientError, match="503"):
            objects.client.head_object(**objects.at("k"))
    with proxy.harming(lambda request: Refuse(403, "AccessDenied")), pytest.raises(ClientError, match="AccessDenied"):
        objects.get("k")
    assert objects.get("k") == b"old"
    assert [request.status for request in proxy.requests] == [200, 503, 503, 503, 403, 200]


@pytest.mark.parametrize("after", [0, 1, 70_000, 199_999])
def test_a_request_cut(objects: Bucket, proxy: Proxy, after: int) -> None:
    """A PUT that is cut before its last byte fails and leaves what was there."""
    objects.put("k", b"old")
    with proxy.harming(lambda request: CutRequest(after)), pytest.raises(DROPPED):
        objects.put("k", noise(200_000))
    assert objects.get("k") == b"old"


def test_a_request_cut_after_its_end(objects: Bucket, proxy: Proxy) -> None:
    """A PUT that is cut after its last byte fails, and the object is the new one or the old one, whole."""
    objects.put("k", b"old")
    with proxy.harming(lambda request: CutRequest(200_000)), pytest.raises(DROPPED):
        objects.put("k", noise(200_000))
    assert objects.get("k") in (b"old", noise(200_000))


@pytest.mark.parametrize("after", [0, 1, 100, 1_000, 150_000])
def test_an_answer_cut(objects: Bucket, proxy: Proxy, after: int) -> None:
    """A GET that is cut within its head or body fails; the next one gets all."""
    objects.put("k", noise(200_000))
    with proxy.harming(lambda request: CutAnswer(after)), pytest.raises(CUT):
        objects.get("k")
    assert objects.get("k") == noise(200_000)


@pytest.mark.parametrize("after", [1, 20, 100_000])
def test_so_many_bytes_of_an_answer_arrive(objects: Bucket, proxy: Proxy, after: int) -> None:
    """The client gets exactly the bytes before the cut."""
    objects.put("k", noise(200_000))
    url = objects.client.generate_presigned_url("get_object", Params=objects.at("k")).removeprefix(proxy.url)
    host = proxy.url.removeprefix("http://")
    name, port = host.split(":")
    with proxy.harming(lambda request: CutAnswer(after)), socket.create_connection((name, int(port))) as connection:
        connection.sendall(f"GET {url} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        got = b"".join(iter(lambda: connection.recv(100_000), b""))
    assert len(got) == after
    assert b"HTTP/1.1 200".startswith(got[:12])


def test_a_lost_success(objects: Bucket, proxy: Proxy) -> None:
    """The server does what it is asked; the client sees a dropped connection."""
    with proxy.harming(lambda request: Lose()), pytest.raises(DROPPED):
        objects.put("k", b"new")
    assert objects.get("k") == b"new"
    with proxy.harming(lambda request: Lose()), pytest.raises(DROPPED):
        objects.client.delete_object(**objects.at("k"))
    with pytest.raises(ClientError, match="NoSuchKey"):
        objects.get("k")
    assert [request.status for request in proxy.requests] == [0, 200, 0, 404]


@pytest.mark.parametrize("fault", [Stall(2.0), StallAnswer(2.0)])
def test_a_stall(s3server: SeaweedServer, proxy: Proxy, fault: Fault) -> None:
    """A client that waits longer than the stall gets its answer, another one gives up.

    Before it sends a body, boto3 waits up to a second for the server's leave.
    """
    endpoint = s3server.endpoint.at(proxy.url)
    bucket, prefix = endpoint.prefix()[1:].split("/")
    place = {"Bucket": bucket, "Key": f"{prefix}/k", "Body": b"x"}
    impatient, patient = endpoint.client(retries={"total_max_attempts": 1}, read_timeout=0.3), endpoint.client()
    with proxy.harming(lambda request: fault), closing(impatient), closing(patient):
        with pytest.raises(ReadTimeoutError):
            impatient.put_object(**place)
        began = time.monotonic()
        patient.put_object(**place)
        assert time.monotonic() - began >= 2.0


def test_gone_and_back(objects: Bucket, proxy: Proxy) -> None:
    """While it is gone, connections are refused, the kept one too; then it is where it was."""
    objects.put("k", b"x")
    with proxy.gone(), pytest.raises(DROPPED):
        objects.get("k")
    assert objects.get("k") == b"x"


@pytest.mark.slow
def test_a_server_that_is_away(proxy: Proxy, objects: Bucket, s3server: SeaweedServer) -> None:
    """The server's death drops connections; when it is back the proxy finds it."""
    objects.put("k", b"x")
    s3server.kill()
    try:
        with pytest.raises(DROPPED):
            objects.get("k")
    finally:
        s3server.start()
    assert objects.get("k") == b"x"


@pytest.mark.slow
def test_harm_at_random_is_survived_by_retries(s3server: SeaweedServer, proxy: Proxy) -> None:
    """A client that retries gets everything through a proxy that harms a third of its requests, in any way."""
    endpoint = s3server.endpoint.at(proxy.url)
    path = endpoint.prefix()
    bucket, prefix = path[1:].split("/")
    rule = sometimes(0.3, 1, refuse, cut_request, cut_answer, lose)
    persistent = endpoint.client(retries={"total_max_attempts": 12, "mode": "legacy"})
    with closing(persistent) as client, proxy.harming(rule):
        for number in range(25):
            client.put_object(Bucket=bucket, Key=f"{prefix}/{number}", Body=noise(10_000, number))
    assert len({type(request.fault) for request in proxy.requests if request.fault}) == 4
    assert all(s3server.endpoint.get(path, str(number)) == noise(10_000, number) for number in range(25))


def test_the_first_requests_of_a_kind(objects: Bucket, proxy: Proxy) -> None:
    """A rule for the first of a kind leaves later ones and other kinds alone."""
    with proxy.harming(first(1, Refuse(), kinds="GET")), proxy.watching() as requests:
        objects.put("k", b"x")
        with pytest.raises(ClientError, match="SlowDown"):
            objects.get("k")
        assert objects.get("k") == b"x"
    assert [(request.kind, request.status) for request in requests] == [("PUT", 200), ("GET", 503), ("GET", 200)]


def test_a_fork_holds_no_connection_open(objects: Bucket, proxy: Proxy) -> None:
    """A child that was forked while connections were open does not keep a dropped client waiting."""
    objects.put("k", b"x")
    end, wait = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(wait)
        os.read(end, 1)
        os._exit(0)
    try:
        began = time.monotonic()
        with proxy.harming(lambda request: Lose()), pytest.raises(DROPPED):
            objects.put("k", b"y")
        with proxy.gone(), pytest.raises(DROPPED):
            objects.get("k")
        assert time.monotonic() - began < 30
    finally:
        os.close(wait)
        os.close(end)
        os.waitpid(child, 0)


def test_a_proxy_of_its_own_process(s3server: SeaweedServer) -> None:
    """As a program it delays every request, and ends with its standard input."""
    command = [sys.executable, str(HERE / "s3proxy.py"), s3server.endpoint.endpoint_url, "0.1"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert program.stdin is not None
        endpoint = s3server.endpoint.at(program.stdout.readline().strip())
        began = time.monotonic()
        assert endpoint.objects(endpoint.prefix()) == {}
        assert time.monotonic() - began >= 0.1
        program.stdin.close()
        assert program.wait(240) == 0
