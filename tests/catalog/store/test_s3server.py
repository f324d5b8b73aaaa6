"""The servers that the S3 tests run against do what those tests take for granted."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

boto3 = pytest.importorskip("boto3")

from botocore.exceptions import ClientError, EndpointConnectionError  # noqa: E402 (after it is known to be there)

from s3server import PUBLIC, Endpoint, SeaweedServer, remove_sockets  # noqa: E402

HERE = Path(__file__).parents[2] / "support"


@pytest.fixture(params=["s3server", "motoserver"])
def endpoint(request: pytest.FixtureRequest) -> Endpoint:
    """Return each of the servers' endpoint."""
    found: Endpoint = request.getfixturevalue(request.param).endpoint
    return found


def refused(call: Any, **arguments: Any) -> str:
    """Return the code with which a request is refused."""
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    code: str = caught.value.response["Error"]["Code"]
    return code


def test_objects_of_a_fresh_prefix(endpoint: Endpoint) -> None:
    """What is put under a fresh prefix is listed and read there, and nothing else is."""
    path, other = endpoint.prefix(), endpoint.prefix()
    bucket, prefix = path[1:].split("/")
    with closing(endpoint.client()) as client:
        client.put_object(Bucket=bucket, Key=f"{prefix}/w/t", Body=b"12345")
    assert endpoint.objects(path) == {"w/t": 5}
    assert endpoint.get(path, "w/t") == b"12345"
    assert endpoint.objects(other) == {}


def test_a_fresh_bucket(endpoint: Endpoint) -> None:
    """Each fresh bucket is another one, and empty."""
    first, second = endpoint.bucket(), endpoint.bucket()
    assert first != second
    assert endpoint.objects(f"/{first}") == {}


def test_ranges_conditions_and_multipart(endpoint: Endpoint) -> None:
    """Suffix ranges, conditional PUTs and multipart uploads work as S3 says."""
    bucket, prefix = endpoint.prefix()[1:].split("/")
    at = {"Bucket": bucket, "Key": f"{prefix}/large"}
    with closing(endpoint.client()) as client:
        started = client.create_multipart_upload(**at)["UploadId"]
        parts = []
        for number in (1, 2):
            body = bytes([number]) * (5 << 20)
            tag = client.upload_part(**at, UploadId=started, PartNumber=number, Body=body)["ETag"]
            parts.append({"PartNumber": number, "ETag": tag})
        client.complete_multipart_upload(**at, UploadId=started, MultipartUpload={"Parts": parts})
        with client.get_object(**at, Range="bytes=-3")["Body"] as body:
            assert body.read() == b"\2\2\2"
        assert refused(client.put_object, **at, Body=b"", IfNoneMatch="*") == "PreconditionFailed"


def test_who_may_do_what(s3server: SeaweedServer) -> None:
    """A reader reads and does not write; everyone reads the public bucket and no other; a wrong secret is refused."""
    owner, reader, anonymous = s3server.endpoint, s3server.reader, s3server.anonymous
    public, private = owner.prefix(PUBLIC), owner.prefix()
    with closing(owner.client()) as client:
        for path in (public, private):
            bucket, prefix = path[1:].split("/")
            client.put_object(Bucket=bucket, Key=f"{prefix}/k", Body=b"v")
    assert reader.objects(private) == anonymous.objects(public) == {"k": 1}
    assert reader.get(private, "k") == anonymous.get(public, "k") == b"v"
    bucket, prefix = private[1:].split("/")
    with closing(reader.client()) as client:
        assert refused(client.put_object, Bucket=bucket, Key=f"{prefix}/k", Body=b"") == "AccessDenied"
        assert refused(client.delete_object, Bucket=bucket, Key=f"{prefix}/k") == "AccessDenied"
    with pytest.raises(ClientError, match="AccessDenied"):
        anonymous.get(private, "k")
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        Endpoint(owner.endpoint_url, owner.key, "another secret").get(private, "k")


@pytest.mark.slow
def test_killed_and_started_again(s3server: SeaweedServer) -> None:
    """Killed, it refuses connections; started again, it is where it was, with every object."""
    path = s3server.endpoint.prefix()
    bucket, prefix = path[1:].split("/")
    with closing(s3server.endpoint.client()) as client:
        for number in range(20):
            client.put_object(Bucket=bucket, Key=f"{prefix}/{number}", Body=b"x" * number * 10_000)
    s3server.kill()
    with (
        closing(s3server.endpoint.client(retries={"total_max_attempts": 1})) as client,
        pytest.raises(EndpointConnectionError),
    ):
        client.list_buckets()
    s3server.start()
    assert s3server.endpoint.objects(path) == {f"{number}": number * 10_000 for number in range(20)}
    assert s3server.endpoint.get(path, "19") == b"x" * 190_000


def test_a_server_dies_with_its_parent(tmp_path: Path) -> None:
    """When the process that started it is killed, the server is gone within a moment."""
    program = f"""
import os, sys
sys.path.insert(0, {str(HERE)!r})
from pathlib import Path
from s3server import SeaweedServer
server = SeaweedServer(Path({str(tmp_path)!r}))
server.start()
print(server._process.pid, server._first_port, flush=True)
os.kill(os.getpid(), 9)
"""
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    server, first_port = map(int, answer.stdout.split())
    if sys.platform != "linux":
        os.kill(server, 9)
        pytest.skip("only Linux's kernel kills a child with its parent")
    end = time.monotonic() + 240
    while Path(f"/proc/{server}/cmdline").exists() and b"weed" in Path(f"/proc/{server}/cmdline").read_bytes():
        assert time.monotonic() < end
        time.sleep(0.05)
    remove_sockets(first_port)


def test_a_server_that_cannot_start_shows_its_log(tmp_path: Path) -> None:
    """A server whose port is taken meanwhile fails with the end of its log."""
    server = SeaweedServer(tmp_path)
    address = server.endpoint.endpoint_url.removeprefix("http://").split(":")
    with socket.create_server((address[0], int(address[1]))), pytest.raises(RuntimeError, match="is not available"):
        server.start()
