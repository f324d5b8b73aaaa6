"""A prefix of an S3 bucket, over the client of s3fs.

Each operation is one request, which s3fs would make two or more of here and
there; its file system gives the client, its settings and its credentials.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any

from catalog.errors import CatalogUnusable, Refused
from catalog.format.names import CATALOG_FOLDER
from catalog.store.base import Changed, Entry, Listing, Tail
from catalog.store.filesystems import shared
from catalog.store.object_writer import Upload
from catalog.store.objects import ObjectStore
from catalog.store.retry import Patience

_CONNECTION = {"connect_timeout": 5, "read_timeout": 30, "max_pool_connections": 32}
_ONE_TRY = {"retries": {"max_attempts": 0}}  # we try again ourselves, and tell sooner what will not pass
_PASSING = ("RequestTimeout", "RequestTimeTooSkewed")
_LARGEST_COPY = 5 << 30  # bytes that one request copies
_COPIED_PART = 1 << 30
_REFUSALS = {
    "NoCredentialsError": "there are no credentials: give key and secret, set the environment or a profile of AWS, or "
    "anon=True for a public bucket",
    "PartialCredentialsError": "the credentials are not complete",
    "ProfileNotFound": "there is no such profile of AWS",
}


def _open(options: Mapping[str, Any]) -> Any:
    try:
        from catalog.store.s3_filesystem import PatientFileSystem
    except ImportError as error:
        raise CatalogUnusable("a storage in S3 needs s3fs: pip install 'functionfuse[s3]'") from error
    config = {**_CONNECTION, **_ONE_TRY, **(options.get("config_kwargs") or {})}
    given = {**options, "config_kwargs": config, "skip_instance_cache": True}
    return shared("s3", given, lambda: PatientFileSystem(**given))


class S3Store(ObjectStore):
    """A prefix of an S3 bucket.

    Parameters
    ----------
    url : str
        ``s3://bucket`` or ``s3://bucket/prefix``.
    options : mapping
        Keyword arguments of `s3fs.S3FileSystem`.
    """

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        super().__init__(url, options)
        self._path = url.partition("://")[2]
        self._bucket, _, prefix = self._path.partition("/")
        self._prefix = f"{prefix}/" if prefix else ""

    def _connect(self) -> Any:
        return _open(self.options)

    @property
    def patience(self) -> Patience:
        """For how long requests are tried again, those of serializers by the same client too."""
        patience: Patience = self.filesystem.patience
        return patience

    @property
    def address(self) -> str:
        """URL and endpoint."""
        client = self.filesystem._s3  # it knows the endpoint wherever that comes from, such as the environment
        return f"{self.root} at {client.meta.endpoint_url}" if client else self.root

    @property
    def prefix(self) -> str:
        """Bucket and prefix."""
        return self._path

    def get(self, key: str) -> bytes:
        """Return an object."""
        data, _ = self._got(Key=self._prefix + key)
        return data

    def tail(self, key: str, most: int) -> Tail:
        """Return the last bytes of an object."""
        try:
            data, answer = self._got(Key=self._prefix + key, Range=f"bytes=-{most}")
        except _NoRange:  # of an object without a byte
            data, answer = self._got(Key=self._prefix + key)
        span = answer.get("ContentRange")
        size = int(span.rpartition("/")[2]) if span else len(data)
        return Tail(data[-most:], size, answer["LastModified"].timestamp(), answer.get("ETag", ""))

    def span(self, key: str, begin: int, end: int, tag: str) -> bytes:
        """Return bytes of an object."""
        condition = {"IfMatch": tag} if tag else {}
        data, _ = self._got(Key=self._prefix + key, Range=f"bytes={begin}-{end - 1}", **condition)
        return data

    def put(self, key: str, data: bytes) -> bool:
        """Write an object."""
        return self._call(lambda: self._ask("put_object", Key=self._prefix + key, Body=data))[1]

    def create(self, key: str, data: bytes) -> None:
        """Write an object if there is none."""
        try:
            self._call(lambda: self._ask("put_object", Key=self._prefix + key, Body=data, IfNoneMatch="*"))
        except CatalogUnusable as error:
            if not isinstance(error.__cause__, _NoConditions):
                raise
            self.put(key, data)  # who asks has looked just before
        except Changed:
            raise FileExistsError(f"{self.root}/{key} is there already") from None

    def delete_object(self, key: str, tag: str) -> bool:
        """Delete an object; servers that know no condition are asked just before."""
        if not tag:
            return self._call(lambda: self._ask("delete_object", Key=self._prefix + key))[1]
        if self.tail(key, 1).tag != tag:
            raise Changed
        try:
            return self._call(lambda: self._ask("delete_object", Key=self._prefix + key, IfMatch=tag))[1]
        except CatalogUnusable as error:
            if not isinstance(error.__cause__, _NoConditions):
                raise
            return self.delete_object(key, "")

    def copy(self, key: str, to: str, tag: str) -> None:
        """Copy an object, in parts if it is larger than one request takes."""
        tail = self.tail(key, 1)
        if tail.tag != tag:
            raise Changed
        if tail.size <= _LARGEST_COPY:
            source = {"Bucket": self._bucket, "Key": self._prefix + key}
            copied = partial(self._ask, "copy_object", Key=self._prefix + to, CopySource=source, CopySourceIfMatch=tag)
            self._call(copied)
        else:
            paths = (f"{self._bucket}/{self._prefix}{name}" for name in (key, to))
            self._call(partial(self.filesystem._copy_managed, *paths, tail.size, block=_COPIED_PART))

    def ls(self, prefix: str, deep: bool = True) -> Listing:
        """List objects, a thousand with each request."""
        entries: list[Entry] = []
        folders: list[str] = []
        cut = len(self._prefix)
        more: dict[str, str] = {} if deep else {"Delimiter": "/"}
        while True:
            try:
                answer, _ = self._call(partial(self._ask, "list_objects_v2", Prefix=self._prefix + prefix, **more))
            except FileNotFoundError as error:
                if isinstance(error.__cause__, UnicodeEncodeError):  # no key can begin like that
                    return Listing([], [], 0.0)
                raise CatalogUnusable(
                    f"{self.address} is answered by something that is no S3: check the address"
                ) from error
            for each in answer.get("Contents", ()):
                changed = each["LastModified"].timestamp()
                entries.append(Entry(each["Key"][cut:], each["Size"], changed, each.get("ETag", "")))
            folders += [each["Prefix"][cut:].rstrip("/") for each in answer.get("CommonPrefixes", ())]
            if not answer.get("IsTruncated"):
                now = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
                return Listing(entries, folders, parsedate_to_datetime(now).timestamp() if now else 0.0)
            more["ContinuationToken"] = answer["NextContinuationToken"]

    def upload(self, key: str) -> Upload:
        """Begin a multipart upload."""
        answer, _ = self._call(lambda: self._ask("create_multipart_upload", Key=self._prefix + key))
        return _MultipartUpload(self, self._prefix + key, answer["UploadId"])

    def now(self) -> float:
        """Return the server's time, as it answers a listing of nothing; this machine's where it does not tell."""
        return self.ls(f"{CATALOG_FOLDER}/storage.json").now or time.time()

    def reason(self, error: Exception) -> CatalogUnusable | None:
        """Return what an error means that will not pass."""
        code, status = _answer_of(error)
        where = self.address
        if code == "NoSuchBucket":
            return CatalogUnusable(f"{where}: there is no bucket {self._bucket!r}; make it first, or check its name")
        name = type(error).__name__
        if name in _REFUSALS:
            return Refused(f"{where}: {_REFUSALS[name]}")
        if status in (401, 403) and code not in _PASSING:
            return Refused(f"{where}: access is refused ({code or error}); check key, secret and permissions")
        return None

    # Requests

    def _call(self, request: Callable[[], Any]) -> tuple[Any, bool]:
        from fsspec.asyn import sync

        return self.retry(lambda: sync(self.filesystem.loop, _awaited, request))

    def _got(self, **parameters: Any) -> tuple[bytes, Any]:
        (data, answer), _ = self._call(lambda: self._read(**parameters))
        return data, answer

    async def _ask(self, method: str, **parameters: Any) -> Any:
        try:
            await self.filesystem.set_session()
            client = await self.filesystem.get_s3(self._bucket)
            call = getattr(client, method)
            given = self.filesystem._get_s3_method_kwargs(call, Bucket=self._bucket, **parameters)
            return await self.filesystem.answered(call(**given), parameters)
        except Exception as error:
            raise _translated(error) from error

    async def _read(self, **parameters: Any) -> tuple[bytes, Any]:
        answer = await self._ask("get_object", **parameters)
        async with answer["Body"] as body:
            return await body.read(), answer


async def _awaited(request: Callable[[], Any]) -> Any:
    return await request()


def _translated(error: Exception) -> Exception:
    """Return an error as a store raises it: only an object that is not there is `FileNotFoundError`."""
    code, status = _answer_of(error)
    if code in ("NoSuchKey", "NoSuchUpload") or (status == 404 and code != "NoSuchBucket"):
        return FileNotFoundError(str(error))
    if isinstance(error, UnicodeEncodeError):  # a name of the older format, which no object can have
        return FileNotFoundError(str(error))
    if status == 501 or code == "NotImplemented":
        return _NoConditions(str(error))
    if status == 416 or code == "InvalidRange":
        return _NoRange()
    if status == 412 or code in ("PreconditionFailed", "ConditionalRequestConflict"):
        return Changed()
    return error


def _answer_of(error: Exception) -> tuple[str, int]:
    response = getattr(error, "response", None) or {}
    return response.get("Error", {}).get("Code", ""), response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)


class _NoConditions(Exception):
    """The service does not know a request, such as a conditional one."""


class _NoRange(Changed):
    """An object has no byte of a range."""


class _MultipartUpload(Upload):
    def __init__(self, store: S3Store, key: str, upload_id: str) -> None:
        self._store = store
        self._where = {"Key": key, "UploadId": upload_id}
        self._tags: dict[int, str] = {}

    def send(self, number: int, data: bytes) -> None:
        store = self._store
        answer, _ = store._call(lambda: store._ask("upload_part", PartNumber=number, Body=data, **self._where))
        self._tags[number] = answer["ETag"]

    def complete(self) -> bool:
        store = self._store
        parts = {"Parts": [{"PartNumber": number, "ETag": self._tags[number]} for number in sorted(self._tags)]}
        return store._call(lambda: store._ask("complete_multipart_upload", MultipartUpload=parts, **self._where))[1]

    def abort(self) -> None:
        store = self._store
        store._call(lambda: store._ask("abort_multipart_upload", **self._where))
