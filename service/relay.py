"""An ASGI request on to another process, over a Unix socket, and its answer back: both as they come."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httptools
from starlette.types import Receive, Scope, Send

from service.problems import ClientGone

# Of one connection and not of the message (RFC 9110, section 7.6.1). This server says by itself that it
# waits for a body, and when it answered.
_OF_THE_HOP = frozenset({
    b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade",
    b"expect", b"date",
})  # fmt: skip
_PIECE_BYTES = 256 * 1024


class LostError(Exception):
    """The other process is gone, or says nothing. ``has_begun``: some of its answer was sent on."""

    def __init__(self, has_begun: bool) -> None:
        super().__init__("the other process is gone")
        self.has_begun = has_begun


class _Answer:
    """What httptools tells of one."""

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.body: list[bytes] = []
        self.has_head = self.is_whole = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() not in _OF_THE_HOP:
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.has_head = True

    def on_body(self, body: bytes) -> None:
        self.body.append(body)

    def on_message_complete(self) -> None:
        self.is_whole = True


def head_of(scope: Scope, request_id: bytes) -> bytes:
    """The request's head, its id as given: as the only request of a connection."""
    target: bytes = scope["raw_path"]
    if scope["query_string"]:
        target += b"?" + scope["query_string"]
    headers = [each for each in scope["headers"] if each[0] not in _OF_THE_HOP | {b"x-request-id"}]
    headers += [(b"x-request-id", request_id), (b"connection", b"close")]
    lines = [b"%s: %s\r\n" % each for each in headers]
    return b"".join((scope["method"].encode(), b" ", target, b" HTTP/1.1\r\n", *lines, b"\r\n"))


async def relay(
    path: Path, scope: Scope, receive: Receive, send: Send, request_id: bytes, timeout_s: float
) -> None:
    """Asks whoever listens at ``path``, and has its answer sent.

    Raises LostError where that fails, or no answer has begun after ``timeout_s``; ClientGone.
    """
    try:
        reader, writer = await asyncio.open_unix_connection(path, limit=_PIECE_BYTES)
    except OSError:
        raise LostError(False) from None
    writer.write(head_of(scope, request_id))
    upload = asyncio.create_task(_upload(receive, writer))
    download = asyncio.create_task(_download(reader, send, timeout_s))
    try:
        await asyncio.wait({upload, download}, return_when=asyncio.FIRST_COMPLETED)
        if not download.done() and isinstance(upload.exception(), ClientGone):
            raise ClientGone
        await download  # also where the upload failed: it may be answered before it is read
    finally:
        upload.cancel()
        download.cancel()
        await asyncio.gather(upload, download, return_exceptions=True)
        writer.close()  # what was said arrives, and then that nobody listens


async def _upload(receive: Receive, writer: asyncio.StreamWriter) -> None:
    """The body, and then nothing until the client is gone."""
    is_to_come = True
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        if is_to_come:
            writer.write(message.get("body", b""))
            await writer.drain()
            is_to_come = message.get("more_body", False)


async def _download(reader: asyncio.StreamReader, send: Send, timeout_s: float) -> None:
    answer = _Answer()
    parser: Any = httptools.HttpResponseParser(answer)
    has_begun = False
    try:
        async with asyncio.timeout(timeout_s) as limit:
            while not answer.is_whole:
                data = await reader.read(_PIECE_BYTES)
                if not data:
                    raise LostError(has_begun)
                parser.feed_data(data)
                if not answer.has_head:
                    continue
                if not has_begun:
                    limit.reschedule(None)
                    has_begun = True
                    status = parser.get_status_code()
                    await send({"type": "http.response.start", "status": status, "headers": answer.headers})
                body, answer.body = b"".join(answer.body), []
                if body or answer.is_whole:
                    more = not answer.is_whole
                    await send({"type": "http.response.body", "body": body, "more_body": more})
    except (OSError, TimeoutError, httptools.HttpParserError):
        raise LostError(has_begun) from None
