"""Requests to an S3 server as a proxy sees them, and what it may do to them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote, urlsplit

Headers = dict[bytes, bytes]  # names in lower case


# What is asked


@dataclass
class Request:
    """One request.

    Attributes
    ----------
    kind : str
        PUT, COPY, GET, HEAD, LIST, DELETE; START, PART, COMPLETE and ABORT of a multipart upload; OTHER.
    bucket, key : str
        The key of LIST is its prefix; a DELETE of several objects has none.
    length : int
        Bytes of its body, as far as they are announced.
    status : int
        Of the answer of which the client got at least the first bytes; 0 while there is none.
    fault : Fault or None
        What was done to it.
    is_conditional : bool
        Whether it is to be done only if the object is, or is not, a certain one.
    """

    kind: str
    bucket: str
    key: str
    length: int
    status: int = 0
    fault: Fault | None = None
    is_conditional: bool = False


def request_of(head: bytes) -> tuple[Request, Headers]:
    """Tell what the head of a request asks for; buckets are in the path, not in the host's name."""
    line, headers = parsed(head)
    method, target, _ = line.decode("latin-1").split(" ")
    where = urlsplit(target)
    bucket, _, key = unquote(where.path).lstrip("/").partition("/")
    query = parse_qs(where.query, keep_blank_values=True)
    kind = _kind(method, key, query, headers)
    if kind == "LIST":
        key = query.get("prefix", [""])[0]
    is_conditional = not headers.keys().isdisjoint((b"if-match", b"if-none-match"))
    length = int(headers.get(b"content-length", 0))
    return Request(kind, bucket, key, length, is_conditional=is_conditional), headers


def parsed(head: bytes) -> tuple[bytes, Headers]:
    """Return the first line and the headers of a request or an answer."""
    first, *lines = head[:-4].split(b"\r\n")
    pairs = (line.partition(b":") for line in lines)
    return first, {name.strip().lower(): value.strip() for name, _, value in pairs}


def _kind(method: str, key: str, query: dict[str, list[str]], headers: Headers) -> str:
    if method == "PUT" and key:
        if "partNumber" in query:
            return "PART"
        return "COPY" if b"x-amz-copy-source" in headers else "PUT"
    if method == "GET" and key:
        return "OTHER" if "uploadId" in query else "GET"
    if method == "GET":
        return "LIST" if not query or query.keys() & {"list-type", "prefix", "delimiter"} else "OTHER"
    if method == "HEAD":
        return "HEAD"
    if method == "DELETE" and key:
        return "ABORT" if "uploadId" in query else "DELETE"
    if method == "POST":
        known = {"uploads": "START", "uploadId": "COMPLETE", "delete": "DELETE"}
        return next((kind for name, kind in known.items() if name in query), "OTHER")
    return "OTHER"


# What is done to it


@dataclass(frozen=True)
class Refuse:
    """Answer with an error instead of asking the server."""

    status: int = 503
    code: str = "SlowDown"


@dataclass(frozen=True)
class CutRequest:
    """Drop both connections when so many bytes of the request's body have gone to the server."""

    after: int


@dataclass(frozen=True)
class CutAnswer:
    """Drop both connections when so many bytes of the answer, head and body, have gone to the client."""

    after: int


@dataclass(frozen=True)
class Lose:
    """Let the server do it, and drop the connection instead of handing on its answer."""


@dataclass(frozen=True)
class Stall:
    """Wait for some seconds before the server is asked."""

    seconds: float


@dataclass(frozen=True)
class StallAnswer:
    """Wait for some seconds with the server's answer in hand."""

    seconds: float


Fault = Refuse | CutRequest | CutAnswer | Lose | Stall | StallAnswer
Rule = Callable[[Request], Fault | None]
Maker = Callable[[Request, random.Random], Fault]


def sometimes(share: float, seed: int, *makers: Maker, kinds: str = "") -> Rule:
    """Return a rule that harms a share of the requests, each in one of several ways.

    Parameters
    ----------
    share : float
        Between 0 and 1.
    seed : int
        Of the choice; what is chosen also depends on the order in which requests come.
    *makers : callable
        Each makes a fault for a request.
    kinds : str
        The kinds of request that are harmed, separated by spaces; all if empty.
    """
    chance = random.Random(seed)

    def rule(request: Request) -> Fault | None:
        if (kinds and request.kind not in kinds.split()) or chance.random() >= share:
            return None
        return chance.choice(makers)(request, chance)

    return rule


def first(count: int, fault: Fault, kinds: str = "") -> Rule:
    """Return a rule that harms the first requests, of these kinds, and no more."""
    left = count

    def rule(request: Request) -> Fault | None:
        nonlocal left
        if left == 0 or (kinds and request.kind not in kinds.split()):
            return None
        left -= 1
        return fault

    return rule


def refuse(request: Request, chance: random.Random) -> Fault:
    """Answer 503."""
    return Refuse()


def cut_request(request: Request, chance: random.Random) -> Fault:
    """Cut at any byte of the request's body."""
    return CutRequest(chance.randrange(request.length + 1))


def cut_answer(request: Request, chance: random.Random) -> Fault:
    """Cut the answer: as often within its first 10 bytes as between 100,000 and 1,000,000."""
    return CutAnswer(chance.randrange(10 ** chance.randrange(1, 7)))


def lose(request: Request, chance: random.Random) -> Fault:
    """Lose the answer."""
    return Lose()
