"""A number in, the bytes of a broken HTTP request out: always the same ones for the same number.

Each begins as a request that the service answers, and is then spoilt once or a few times: its request
line, headers, lengths, chunks or body, or simply its bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from random import Random

from benchmarks.wire import http

_BODY = json.dumps({"sentences": ["Ada Lovelace met Bob ."], "threshold": 0.5}).encode()
_METHODS = (
    b"get", b"", b"POST POST", b"CONNECT", b"OPTIONS", b"PRI", b"M" * 5_000, b"\x00", b"P\xc3\x96ST",
    b"TRACE",
)  # fmt: skip
_TARGETS = (
    b"*", b"", b"/v1/tag?x=%ff%00", b"http://example.org/v1/tag", b"//v1//tag", b"/v1/tag#x",
    b"/v1/t a g", b"/../../etc/passwd", b"/%", b"/v1/tag\x00", b"\\v1\\tag", b"/\xff\xfe",
    b"/" + b"a" * 70_000, b"/v1/models/" + b"%2e" * 1_000, "/v1/models/名".encode(), b"/v1/tag;x",
    b"/v1/tag/", b"[::1]",
)  # fmt: skip
_VERSIONS = (
    b"HTTP/0.9", b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"HTTP/11", b"HTTP/x.y", b"", b"http/1.1",
    b"HTTP/1.1 ",
)  # fmt: skip
_HEADERS = (
    b"Content-Length: 5", b"Content-Length: -1", b"Content-Length: +12", b"Content-Length: 0x10",
    b"Content-Length: 99999999999999999999999", b"Content-Length: 18446744073709551616",
    b"Content-Length: 4, 4", b"Content-Length:", b"Content-Length: 1e3", b"Content-Length : 7",
    b"Content-Length: 17000000", b"Content-Length: \xd9\xa3", b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: xchunked",
    b"Transfer-Encoding: chunked, chunked", b"Transfer-Encoding: identity",
    b"Transfer-Encoding:\tchunked", b"Connection: close", b"Connection: keep-alive, Upgrade",
    b"Connection: \x00", b"Connection: upgrade", b"Upgrade: websocket", b"Upgrade: h2c",
    b"HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA", b"Expect: 100-continue", b"Expect: 200-ok", b"Host: ",
    b"Host: a\r\nHost: b", b"Host: \xff", b"Content-Type: application/json; charset=utf-7",
    b"Content-Type: ;;;=", b"Content-Type: \xff\xfe", b"Content-Type: application/json;charset=",
    b"Content-Encoding: gzip, br", b"Content-Encoding: \x80", b"X-Request-Timeout: nan",
    b"X-Request-Timeout: -1", b"X-Request-Timeout: 1e999", b"X-Request-Timeout: \xff",
    b"X-Request-Timeout: 1_0", b"X-Request-Timeout: 0.0001", b"X-Request-ID: " + b"x" * 5_000,
    b"X-Request-ID: \xf0\x9f\x8e\x89", b"X-Request-ID: a\tb", b": no name", b"no colon", b"a b: c",
    b" folded", b"\tfolded", b"Cookie: " + b"a=b; " * 20_000, b"X: \x00", b"X: \x7f\x1b[31m",
    b"Authorization: Bearer \xff", b"Authorization: Basic", b"Accept: */*;q=\xff",
    b"Range: bytes=0-0,-1", b"Trailer: Content-Length", b"Origin: null", b"If-None-Match: \x01",
)  # fmt: skip
_CHUNKED = (
    b"0\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n", b"FFFFFFFFFFFFFFFFF\r\n", b"-1\r\n", b"ffffffff\r\nx",
    b"\r\n", b"5;a=b\r\nhello\r\n", b"5\nhello\n0\n\n", b"0\r\nContent-Length: 5\r\n\r\n", b"g\r\n",
    b"5\r\nhello world\r\n0\r\n\r\n", b"1\r\n{\r\n" * 500, b"5 \r\nhello\r\n0\r\n\r\n",
    b"0x5\r\nhello\r\n0\r\n\r\n", b"0" * 5_000 + b"\r\n\r\n", b"5;" + b"x" * 70_000,
    b"0\r\n" + b"X: y\r\n" * 3_000 + b"\r\n",
)  # fmt: skip
_GETS = ("/livez", "/readyz", "/v1/models", "/docs", "/openapi.json", "/nothing")
_ENDS = (b"\n", b"\r", b"\r\r\n", b"\n\r", b"\x00\r\n", b" \r\n")
_JSONS = (
    b"", b"{", b"[]", b"null", b'"', b'{"sentences":[' + b"[" * 3_000, b'{"text":"\\ud800"}', b"\xff",
    b'{"text":"\x00"}', b'{"sentences":["Ada"],"sentences":[1]}', b'{"text":""}',
    b'{"sentences":[[""," ","\\u0000"]]}', b'{"sentences":[],"threshold":1e400}',
    b'{"sentences":[],"model":"\\uDBFF\\uDFFF"}', b'{"text":1E+}', b'{"\\u0000":0}',
)  # fmt: skip


def _whole(random: Random) -> bytes:
    """A request that is well-formed."""
    kind = random.randrange(6)
    if kind == 0:
        return http("GET", random.choice(_GETS))
    if kind == 1:
        body = random.choice(_JSONS)
        return http("POST", "/v1/tag", body)
    if kind == 2:
        at = random.randrange(1, len(_BODY))
        parts = (_BODY[:at], _BODY[at:])
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
        return (
            _with_header(http("POST", "/v1/tag"), b"Transfer-Encoding: chunked").replace(
                b"Content-Length: 0\r\n", b""
            )
            + chunks
        )
    return http("POST", "/v1/tag", _BODY)


def _with_header(request: bytes, header: bytes, after: int = 0) -> bytes:
    """The header line put in after the request line, or after so many headers."""
    head, blank, body = request.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    at = 1 + after % len(lines)
    return b"\r\n".join([*lines[:at], header, *lines[at:]]) + blank + body


def _spoil_line(request: bytes, random: Random) -> bytes:
    line, end, rest = request.partition(b"\r\n")
    parts = [*line.split(b" "), b"", b"", b""][:3]
    which = random.randrange(3)
    parts[which] = random.choice((_METHODS, _TARGETS, _VERSIONS)[which])
    return b" ".join(parts) + end + rest


def _spoil_headers(request: bytes, random: Random) -> bytes:
    for _ in range(random.choice((1, 1, 2, 5))):
        request = _with_header(request, random.choice(_HEADERS), random.randrange(8))
    if random.random() < 0.02:
        request = _with_header(request, b"\r\n".join(b"X-%d: y" % i for i in range(3_000)))
    return request


def _spoil_ends(request: bytes, random: Random) -> bytes:
    """Line ends that are not CRLF."""
    return request.replace(b"\r\n", random.choice(_ENDS), random.randint(1, 5))


def _spoil_chunks(request: bytes, random: Random) -> bytes:
    head = request.partition(b"\r\n\r\n")[0]
    if random.random() < 0.9:
        lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"content-length")]
        head = b"\r\n".join(lines)
    return head + b"\r\nTransfer-Encoding: chunked\r\n\r\n" + random.choice(_CHUNKED)


def _spoil_bytes(request: bytes, random: Random) -> bytes:
    spoilt = bytearray(request)
    for _ in range(random.choice((1, 2, 8, 40))):
        at = random.randrange(len(spoilt) + 1)
        what = random.randrange(4)
        if what == 0:
            spoilt[at : at + 1] = random.randbytes(1)
        elif what == 1:
            del spoilt[at : at + random.randint(1, 10)]
        elif what == 2:
            spoilt[at:at] = random.randbytes(random.randint(1, 10))
        else:
            start = random.randrange(len(spoilt) + 1)
            spoilt[at:at] = spoilt[start : start + random.randint(1, 30)]
    return bytes(spoilt)


def _cut(request: bytes, random: Random) -> bytes:
    return request[: random.randrange(len(request) + 1)]


def _lengthen(request: bytes, random: Random) -> bytes:
    return request + random.choice((b"\r\n", b"\x00", b"GET", random.randbytes(50), b"0\r\n\r\n"))


_SPOIL: tuple[Callable[[bytes, Random], bytes], ...] = (
    _spoil_line, _spoil_headers, _spoil_headers, _spoil_ends, _spoil_chunks, _spoil_bytes, _cut, _lengthen,
)  # fmt: skip


def mutant(seed: int, number: int) -> list[bytes]:
    """One connection's bytes, in the pieces in which they are sent."""
    random = Random(f"{seed} {number}")
    if random.random() < 0.03:
        request = random.randbytes(random.choice((1, 10, 1_000, 100_000)))
    else:
        request = b""
        for _ in range(random.choice((1, 1, 1, 2, 5))):  # more than one: pipelined
            one = _whole(random)
            for _ in range(random.choice((0, 1, 1, 1, 2, 3))):
                one = random.choice(_SPOIL)(one, random)
            request += one
    cuts = sorted(random.randrange(len(request) + 1) for _ in range(random.choice((0, 0, 1, 2))))
    edges = [0, *cuts, len(request)]
    return [request[a:b] for a, b in pairwise(edges)]
