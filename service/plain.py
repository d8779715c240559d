"""The head of what is plainly one request of an endpoint, read by a pattern instead of the HTTP parser.

Plain is what has a length, no header twice, and none that changes how a request is to be read or answered.
Whatever else there is, or may be, goes the ordinary way: through the parser.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from service.observing.facts import request_id_of

# With one of them, it is not plain. HTTP/1.1 keeps connections alive whether it is said or not.
_ELSE = (
    rb"(?:transfer-encoding|expect|upgrade|origin|traceparent|content-length):"
    rb"|(?:proxy-)?connection:(?![ \t]*keep-alive[ \t]*\r\n)"
)
_HEADERS = rb"(?:(?!" + _ELSE + rb")[a-z0-9-]+:[\t -~]*\r\n)*"
_HEADER = re.compile(rb"\r\n([A-Za-z0-9-]+):[ \t]*([^\r]*)")
# Clients send few heads, but for the length of the body: those that came last are known.
_MOST_BYTES, _KEPT = 2048, 1024


@dataclass(frozen=True, slots=True)
class Head:
    headers: dict[bytes, bytes]  # by name in lower case
    n_bytes: int
    n_body_bytes: int

    def request_id(self) -> bytes:
        """Another each time, where the client gave none."""
        return request_id_of(self.headers.get(b"x-request-id", b""))


class Plain:
    """Of one endpoint: POST ``path``."""

    def __init__(self, path: str) -> None:
        self._whole = re.compile(
            rb"POST " + re.escape(path.encode()) + rb" HTTP/1\.1\r\n(?i:" + _HEADERS
            + rb"content-length:[ \t]*(\d{1,15})[ \t]*\r\n" + _HEADERS + rb")\r\n"
        )  # fmt: skip
        self._read = lru_cache(_KEPT)(self._read_anew)

    def head_of(self, data: bytes) -> Head | None:
        """Of one whole request, which is all that ``data`` has; None where it is not plainly that."""
        end = data.find(b"\r\n\r\n", 0, _MOST_BYTES) + 4
        head = self._read(data[:end]) if end >= 4 else None
        return head if head is not None and head.n_body_bytes == len(data) - end else None

    def _read_anew(self, data: bytes) -> Head | None:
        match = self._whole.fullmatch(data)
        if match is None:
            return None
        found = _HEADER.findall(data)
        headers = {name.lower(): value.rstrip(b" \t") for name, value in found}
        if len(headers) < len(found):
            return None
        return Head(headers, len(data), int(match[1]))
