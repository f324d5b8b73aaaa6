"""The file system of S3 that serializers are given: as patient as all else here, whatever it is asked for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Mapping
from typing import Any

from fsspec.asyn import sync_wrapper
from s3fs import S3FileSystem

from catalog.store.retry import LONGEST, SHORTEST, Patience, is_transient

_ANSWERED = 60.0  # seconds in which what is sent is answered, where none of it waits to be taken
_SLOWEST = 1 << 16  # bytes a second in which what is sent is taken at least


class PatientFileSystem(S3FileSystem):  # type: ignore[misc]  # s3fs has no types
    """An `S3FileSystem` that counts the minute, and not the tries, each of which may take half of it.

    s3fs tries five times what its client tries by itself: where packets are swallowed, that is half an hour.

    Attributes
    ----------
    patience : Patience
        For how long requests are tried again, also those that others make by its client.
    """

    retries = 2  # of a body that is cut, too, which no single request tells

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.patience = Patience()

    @staticmethod
    async def answered(request: Awaitable[Any], parameters: Mapping[str, Any]) -> Any:
        """Return the answer to a request.

        The client counts the seconds without a byte only from when it has sent everything: for a place that takes the
        first bytes, or bids it go on, it would wait for ever.
        """
        body = parameters.get("Body")
        if not body:
            return await request
        size = len(body) if isinstance(body, (bytes, bytearray, memoryview)) else 0
        return await asyncio.wait_for(request, _ANSWERED + size / _SLOWEST)

    async def _call_s3(self, method: str, *args: Any, **parameters: Any) -> Any:
        began = time.monotonic()
        wait = SHORTEST
        while True:
            tried = time.monotonic()
            try:
                answer = await self.answered(super()._call_s3(method, *args, **parameters), parameters)
            except Exception as error:
                if not is_transient(error) or self.patience.failed(began, tried):
                    raise
            else:
                self.patience.answered()
                return answer
            await asyncio.sleep(wait)
            wait = min(2 * wait, LONGEST)

    call_s3 = sync_wrapper(_call_s3)  # by which its open files ask
