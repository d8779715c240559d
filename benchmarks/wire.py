"""Bytes to a server and its answers back, for clients that misbehave: nothing here is checked or mended."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

HEAD_END = b"\r\n\r\n"


@dataclass(frozen=True)
class Answer:
    """One HTTP answer. Header names are in lower case; of those that repeat, the last."""

    status: int
    headers: dict[str, str]
    body: bytes


def http(
    method: str, path: str, body: bytes = b"", *, content_type: str = "application/json", **headers: str
) -> bytes:
    """A request, whole. ``headers``: with _ for -; ``content_type`` "" leaves it out."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1"]
    if content_type:
        lines.append(f"Content-Type: {content_type}")
    if body or method == "POST":
        lines.append(f"Content-Length: {len(body)}")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    """The next answer. Raises asyncio.IncompleteReadError where the connection ends before it does."""
    head = await reader.readuntil(HEAD_END)
    first, *lines = head[: -len(HEAD_END)].decode("latin-1").split("\r\n")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    status = int(first.split()[1])
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
            body += await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readexactly(2)
    elif status < 200:
        return await read_answer(reader)  # 100 Continue: the answer itself follows
    else:
        body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Answer(status, headers, body)


async def connect(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", port, limit=1 << 26)
