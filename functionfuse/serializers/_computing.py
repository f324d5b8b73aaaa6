"""Computing with Dask, so that nobody computes or writes any more when it is over, even by an error."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from functionfuse.serializers._needed import needed


@contextmanager
def threads() -> Iterator[dict[str, Any]]:
    """Have the options with which Dask computes in threads of this block alone.

    Dask raises the first error of a task while its threads go on with others. Here they have ended when the block has,
    so that none of them writes into what is being deleted.
    """
    count = needed("dask", "dask").config.get("num_workers", None) or os.cpu_count() or 1
    pool = ThreadPoolExecutor(count, "functionfuse-dask")
    try:
        yield {"scheduler": "threads", "pool": pool}
    finally:
        pool.shutdown(cancel_futures=True)
