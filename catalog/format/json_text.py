"""JSON as footers, lines of the journal and lists of side files hold it: in ASCII, no number without an end."""

from __future__ import annotations

import re
from json.encoder import encode_basestring_ascii
from typing import Any

import msgspec

from catalog.format.names import to_text

# The first import of msgspec takes 15 ms, and encoding a record 1 µs: the standard library's encoder takes ten.
_encode = msgspec.json.Encoder().encode
_OTHER = re.compile(r"[^\x00-\x7f]+")


def to_json(value: Any) -> bytes:
    """Return a struct, or a dictionary, as a JSON object in ASCII.

    Its strings have to be valid Unicode (`to_text`).
    """
    data = _encode(value)
    return data if data.isascii() else _OTHER.sub(_escaped, data.decode()).encode("ascii")


def _escaped(found: re.Match[str]) -> str:
    return encode_basestring_ascii(found[0])[1:-1]  # what is not ASCII stands in strings alone


def quote(text: str) -> str:
    """Return any string as a JSON string in ASCII; lone surrogates are escaped as `to_text` does."""
    return encode_basestring_ascii(text if text.isascii() else to_text(text))
