"""An ASGI request in, the lines of its body out; never more of them than a bounded part.

    Incoming (receives ahead of its reader, a little) → Lines (chunks → lines)

Knows nothing of JSON, or of what a line asks for.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from starlette.types import Receive

from service.problems import ClientGone

# What is received before it is asked for: enough that a batch's lines are there when a batch is done.
READ_AHEAD_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a body, without its end."""

    number: int  # from 1
    content: bytes | None  # None where it is too long
    n_bytes: int  # where it is too long: as many as had been seen when that was noticed


class Lines:
    """Cuts chunks into lines, and holds at most ``max_bytes`` of one that is not complete.

    A line ends with a line feed, or where the body does. Of one that is too long a single Line is
    given as soon as that is known, and the rest of it is dropped as it comes.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._parts: list[bytes] = []
        self._n_lines = 0  # given out
        self._is_skipping = False  # up to the next line feed
        self.n_held_bytes = 0  # of the line that is not complete

    def feed(self, chunk: bytes) -> Iterator[Line]:
        """The lines that end in this chunk, or are found to be too long in it."""
        start = 0
        while (end := chunk.find(b"\n", start)) >= 0:
            line = None if self._is_skipping else self._line(chunk[start:end])
            self._is_skipping = False  # here is the line feed that it looked for
            if line is not None:
                yield line
            start = end + 1
        rest = chunk[start:]
        if self._is_skipping or not rest:
            return
        if self.n_held_bytes + len(rest) > self._max_bytes:
            yield self._line(rest)
        else:
            self._parts.append(rest)
            self.n_held_bytes += len(rest)

    def end(self) -> Iterator[Line]:
        """The last line, where no line feed ends it."""
        if self._parts:
            yield self._line(b"")

    def skip(self) -> Line:
        """Gives up the line that is not complete: what is there of it is freed, the rest is dropped."""
        n_bytes = self.n_held_bytes
        self._forget()
        self._is_skipping = True
        self._n_lines += 1
        return Line(self._n_lines, None, n_bytes)

    def _line(self, last_part: bytes) -> Line:
        n_bytes = self.n_held_bytes + len(last_part)
        if n_bytes > self._max_bytes:
            self.n_held_bytes = n_bytes
            return self.skip()
        content = b"".join((*self._parts, last_part)) if self._parts else last_part
        self._forget()
        self._n_lines += 1
        return Line(self._n_lines, content, n_bytes)

    def _forget(self) -> None:
        self._parts.clear()
        self.n_held_bytes = 0


class Incoming:
    """The chunks of a body. While they are waited for, or wait, a client that hangs up is noticed."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._chunks: deque[bytes] = deque()
        self._n_bytes = 0
        self._is_dropping = False
        self._came = asyncio.Event()
        self._taken = asyncio.Event()
        self._complete = asyncio.Event()

    async def pump(self) -> None:
        """Receives until the client hangs up, which raises ClientGone; never returns."""
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            chunk: bytes = message.get("body", b"")
            if chunk and not self._is_dropping:
                self._chunks.append(chunk)
                self._n_bytes += len(chunk)
            if not message.get("more_body", False):
                self._complete.set()
            self._came.set()
            while self._n_bytes > READ_AHEAD_BYTES:
                self._taken.clear()
                await self._taken.wait()

    def take(self) -> bytes | None:
        """The next chunk where one is here."""
        if not self._chunks:
            return None
        chunk = self._chunks.popleft()
        self._n_bytes -= len(chunk)
        self._taken.set()
        return chunk

    @property
    def is_complete(self) -> bool:
        """Whether everything has been received; take() may still have some of it."""
        return self._complete.is_set()

    async def more(self) -> None:
        """Waits for a chunk, or for the end."""
        self._came.clear()
        if not self._chunks and not self.is_complete:
            await self._came.wait()

    async def drop_rest(self) -> None:
        """Drops what is here and what still comes, until there is no more."""
        self._is_dropping = True
        self._chunks.clear()
        self._n_bytes = 0
        self._taken.set()
        await self._complete.wait()
