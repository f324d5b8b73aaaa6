"""Real S3 servers on loopback: SeaweedFS, which can be killed and started again, and moto, which is light.

Both run as processes of their own. They die with the process that started them, however that one ends.
"""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import time
import uuid
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import boto3
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

LOOPBACK = "127.0.0.1"
PUBLIC = "public"  # a bucket that SeaweedFS lets everyone read and list
_SHARED = "results"  # the bucket of the fresh prefixes
_PATIENCE = 240.0  # seconds until a server must be up
_CORES = str(os.cpu_count() or 1)

# Its ports and their gRPC ports, 10,000 higher (its parts assume that), lie below those that outgoing connections get.
_PORTS = range(10_000, 22_000)
_PARTS = ("s3", "master", "volume", "filer", "admin")


@dataclass(frozen=True)
class Endpoint:
    """How a client reaches an S3 server.

    Attributes
    ----------
    endpoint_url : str
        Where the server, or a proxy before it, listens.
    key, secret : str or None
        Credentials; none for an anonymous client.
    """

    endpoint_url: str
    key: str | None
    secret: str | None

    def client(self, **config: Any) -> Any:
        """Return a boto3 client with these settings of its `Config`; whoever asks for it closes it."""
        if self.key is None:
            config["signature_version"] = UNSIGNED
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self.key,
            aws_secret_access_key=self.secret,
            region_name="us-east-1",
            config=Config(**{"s3": {"addressing_style": "path"}, **config}),
        )

    def s3fs(self, **more: Any) -> dict[str, Any]:
        """Return keyword arguments of `s3fs.S3FileSystem`: the option `s3fs` of a storage."""
        known = {"anon": True} if self.key is None else {"key": self.key, "secret": self.secret}
        return {"endpoint_url": self.endpoint_url, **known, **more}

    def config(self, path: str, **more: Any) -> dict[str, Any]:
        """Return the configuration of a storage at a path, for `storage_factory`."""
        return {"kind": "S3", "options": {"path": path, "s3fs": self.s3fs(), **more}}

    def at(self, endpoint_url: str) -> Endpoint:
        """Return the same reached at another place, as through a proxy."""
        return replace(self, endpoint_url=endpoint_url)

    def bucket(self) -> str:
        """Make a fresh bucket and return its name."""
        name = f"fresh-{uuid.uuid4().hex}"
        with closing(self.client()) as client:
            client.create_bucket(Bucket=name)
        return name

    def prefix(self, bucket: str = _SHARED) -> str:
        """Return a fresh ``/bucket/prefix`` in a bucket that is there."""
        return f"/{bucket}/{uuid.uuid4().hex}"

    def objects(self, path: str) -> dict[str, int]:
        """Return the size in bytes of every object below ``/bucket/prefix`` by its key after the prefix."""
        bucket, _, prefix = path.strip("/").partition("/")
        begin = f"{prefix}/" if prefix else ""
        with closing(self.client()) as client:
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=begin)
            return {each["Key"][len(begin) :]: each["Size"] for page in pages for each in page.get("Contents", ())}

    def get(self, path: str, key: str) -> bytes:
        """Return the bytes of an object below ``/bucket/prefix``."""
        bucket, _, prefix = path.strip("/").partition("/")
        with closing(self.client()) as client:
            data: bytes = client.get_object(Bucket=bucket, Key=f"{prefix}/{key}")["Body"].read()
            return data


class Server:
    """A server in a process of its own, which dies with this one.

    Attributes
    ----------
    endpoint : Endpoint
        For the owner of everything in it.
    """

    endpoint: Endpoint

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and return when it keeps what it is given.

        Raises
        ------
        RuntimeError
            If it ends or is not up in time; with the end of its log.
        """
        raise NotImplementedError

    def kill(self) -> None:
        """End it by SIGKILL, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _run(self, command: list[str], log: Path, environment: dict[str, str]) -> None:
        with log.open("ab") as output:
            # In a session of its own, so that Ctrl-C is for the tests alone: they end it.
            self._process = subprocess.Popen(
                [sys.executable, "-S", "-c", _MORTAL, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    def _await(self, log: Path) -> None:
        """Wait until the bucket of fresh prefixes is there and an object can be put into it."""
        end = time.monotonic() + _PATIENCE
        with closing(self.endpoint.client(retries={"total_max_attempts": 1}, read_timeout=5)) as client:
            while True:
                assert self._process is not None
                try:
                    _have_bucket(client, _SHARED)
                    client.put_object(Bucket=_SHARED, Key="ready", Body=b"ready")
                    break
                except (ClientError, BotoCoreError) as error:
                    if self._process.poll() is not None or time.monotonic() > end:
                        self.kill()
                        tail = log.read_text(errors="replace")[-3_000:]
                        raise RuntimeError(f"the S3 server did not come up ({error}); its log ends:\n{tail}") from error
                time.sleep(0.05)


def _have_bucket(client: Any, name: str) -> None:
    with suppress(client.exceptions.BucketAlreadyExists, client.exceptions.BucketAlreadyOwnedByYou):
        client.create_bucket(Bucket=name)


# Becomes the command that follows; on Linux the kernel kills it when its parent ends, also by SIGKILL.
_MORTAL = """
import os, sys
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
os.execv(sys.argv[1], sys.argv[1:])
"""


class SeaweedServer(Server):
    """SeaweedFS: all its parts in one process, on free ports of loopback.

    Parameters
    ----------
    folder : Path
        A fresh folder for its data and its log.

    Attributes
    ----------
    reader : Endpoint
        For someone who may read and list, and nothing else.
    anonymous : Endpoint
        For someone without credentials, who may read and list the bucket `PUBLIC`.

    Raises
    ------
    FileNotFoundError
        If its program is not in this environment.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._weed = Path(sys.executable).with_name("weed")
        if not self._weed.exists():
            raise FileNotFoundError(f"{self._weed}: SeaweedFS is missing; install what requirements/dev.in names")
        self._folder = folder
        self._log = folder / "weed.log"
        self._first_port = _free_ports()
        url = f"http://{LOOPBACK}:{self._first_port}"
        self.endpoint = Endpoint(url, "owner", "owner's secret")
        self.reader = Endpoint(url, "reader", "reader's secret")
        self.anonymous = Endpoint(url, None, None)
        (folder / "data").mkdir()
        (folder / "s3.json").write_text(json.dumps({"identities": self._identities()}))

    def _identities(self) -> list[dict[str, Any]]:
        everything = ["Admin", "Read", "List", "Write", "Tagging"]
        return [
            _identity(self.endpoint, everything),
            _identity(self.reader, ["Read", "List"]),
            {"name": "anonymous", "actions": [f"Read:{PUBLIC}", f"List:{PUBLIC}"]},
        ]

    def start(self) -> None:
        """Start it, or start it again with all that it had."""
        ports = {f"{part}.port": self._first_port + number for number, part in enumerate(_PARTS)}
        options: dict[str, object] = {
            "dir": self._folder / "data",
            "ip": LOOPBACK,
            "ip.bind": LOOPBACK,
            **ports,
            "s3.config": self._folder / "s3.json",
            "s3.autoCreateBucket": "false",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "s3.cacheCapacityMB": 0,
            "s3.readerCacheSizeMB": 64,
            "master.volumeSizeLimitMB": 64,  # every bucket has volumes of its own, made as large as this at most
            "master.telemetry": "false",
            "webdav": "false",
            "admin.ui": "false",
        }
        command = [
            str(self._weed),
            "-logtostderr=true",
            "mini",
            *(f"-{name}={value}" for name, value in options.items()),
        ]
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self._folder),
            "GOMEMLIMIT": "600MiB",
            "GOMAXPROCS": _CORES,
        }
        self._run(command, self._log, environment)
        self._await(self._log)
        with closing(self.endpoint.client()) as client:
            _have_bucket(client, PUBLIC)

    def kill(self) -> None:
        """End it by SIGKILL, if it runs."""
        if self._process is not None:
            super().kill()
            remove_sockets(self._first_port)


def remove_sockets(first_port: int) -> None:
    """Remove the Unix sockets that SeaweedFS leaves when it is killed."""
    for port in _all_ports(first_port):
        for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
            left.unlink(missing_ok=True)


def _identity(endpoint: Endpoint, actions: list[str]) -> dict[str, Any]:
    credentials = [{"accessKey": endpoint.key, "secretKey": endpoint.secret}]
    return {"name": endpoint.key, "credentials": credentials, "actions": actions}


def _all_ports(first: int) -> list[int]:
    own = range(first, first + len(_PARTS))
    return [*own, *(port + 10_000 for port in own)]


def _free_ports() -> int:
    """Return the first of as many ports as SeaweedFS has parts, which are free, their gRPC ports too."""
    chance = random.Random(os.urandom(8))
    while True:
        first = chance.choice(_PORTS)
        if all(map(_is_free, _all_ports(first))):
            return first


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


class MotoServer(Server):
    """moto: knows no wrong secret and forgets everything when it ends, but is light.

    Parameters
    ----------
    folder : Path
        For its log.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._log = folder / "moto.log"
        self._port = _free_ports()
        self.endpoint = Endpoint(f"http://{LOOPBACK}:{self._port}", "owner", "secret")

    def start(self) -> None:
        """Start it, empty."""
        command = [sys.executable, "-m", "moto.server", "-H", LOOPBACK, "-p", str(self._port)]
        self._run(command, self._log, dict(os.environ))
        self._await(self._log)
