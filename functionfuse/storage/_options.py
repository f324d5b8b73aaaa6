"""What a user may choose about every storage, whatever its kind, and what each choice may be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from functionfuse.errors import InvalidConfiguration
from functionfuse.storage._compression import AUTO, LEVELS, Packing

#: ``"auto"``, None, or such as ``{"codec": "zstd", "level": 3}``.
Compression = Literal["auto"] | Mapping[str, Any] | None


@dataclass(frozen=True)
class Options:
    """How results are written and read.

    Attributes
    ----------
    mmap : bool
        Whether large results lie over the mapped file, instead of in memory of their own.
    verify : bool
        Whether all of a result is held against its checksum when it is read.
    packing : Packing or None
        How buffers are compressed; None where none is.
    fsync : bool
        Whether a save returns only when the result is on the medium.
    """

    mmap: bool = True
    verify: bool = True
    packing: Packing | None = AUTO
    fsync: bool = False


def checked_options(*, mmap: bool, verify: str, compression: Compression, fsync: bool) -> Options:
    """Return the options that a user's values mean; `InvalidConfiguration` for one that means nothing."""
    for name, flag in (("mmap", mmap), ("fsync", fsync)):
        if not isinstance(flag, bool):
            raise InvalidConfiguration(f"the option {name!r} of a storage is True or False, not {flag!r}")
    if verify not in ("always", "never"):
        raise InvalidConfiguration(f"the option 'verify' of a storage is 'always' or 'never', not {verify!r}")
    return Options(mmap, verify == "always", _packing(compression), fsync)


def _packing(compression: Any) -> Packing | None:
    if compression is None:
        return None
    if compression == "auto":
        return AUTO
    form = f"'auto', None or {{'codec': 'zstd', 'level': n}} with n from {LEVELS[0]} to {LEVELS[-1]}"
    if isinstance(compression, Mapping) and {"codec"} <= compression.keys() <= {"codec", "level"}:
        level = compression.get("level", 3)
        if compression["codec"] == "zstd" and type(level) is int and level in LEVELS:
            return Packing(level)
    raise InvalidConfiguration(f"the option 'compression' of a storage is {form}, not {compression!r}")
