"""How far a stream reads ahead of its client, and how much of the queue all streams together take.

A stream holds no more lines than its window, so what it needs does not grow with its length. And
what streams have in the queue is bounded together, however many they are: a single request never
waits for more than a few batches of theirs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Read, and the answer not yet written: lines, and their bytes. One line may be longer, alone.
# Four batches of short sentences: with 256 lines a batch had 52 of 10 words, with 1,024 it has 70.
MAX_LINES = 1024
MAX_BYTES = 256 * 1024
# Of a model's queue, for all streams: enough that the next batch is there when one is done.
MAX_BATCHES = 4
MAX_QUEUE_SHARE = 0.5  # of max_queue_requests


class Window:
    """What one stream has under way. It belongs to one event loop."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self.n_lines = 0
        self.n_bytes = 0
        self.n_queued_lines = 0
        self.n_queued_tokens = 0
        self._changed = asyncio.Event()

    def add_read(self, n_bytes: int) -> None:
        self.n_lines += 1
        self.n_bytes += n_bytes

    def remove_written(self, n_lines: int, n_bytes: int) -> None:
        self.n_lines -= n_lines
        self.n_bytes -= n_bytes
        self._changed.set()

    def add_queued(self, n_tokens: int) -> None:
        if not self.n_queued_lines:
            self._streams.n_queueing += 1
        self.n_queued_lines += 1
        self.n_queued_tokens += n_tokens

    def remove_queued(self, n_tokens: int) -> None:
        self.n_queued_lines -= 1
        self.n_queued_tokens -= n_tokens
        if not self.n_queued_lines:
            self._streams.n_queueing -= 1
        self._changed.set()

    async def room_to_read(self, n_bytes: int) -> None:
        """Waits until a line of so many bytes may be read."""
        while self.n_lines and (self.n_lines >= MAX_LINES or self.n_bytes + n_bytes > MAX_BYTES):
            await self._change()

    async def room_to_queue(self, n_tokens: int, *, max_batch_tokens: int, max_queue_requests: int) -> None:
        """Waits until a line of so many tokens is within this stream's part of a queue.

        Streams that have lines there share alike, and each may always have one.
        """
        while self.n_queued_lines:
            n_streams = self._streams.n_queueing
            lines = MAX_QUEUE_SHARE * max_queue_requests / n_streams
            tokens = MAX_BATCHES * max_batch_tokens / n_streams
            if self.n_queued_lines < lines and self.n_queued_tokens + n_tokens <= tokens:
                return
            await self._change()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()


class Streams:
    """The streams that are open in one process."""

    def __init__(self) -> None:
        self._open: dict[Window, Callable[[], None]] = {}
        self.n_queueing = 0  # that have lines in a queue

    @property
    def windows(self) -> list[Window]:
        return list(self._open)

    @contextmanager
    def open(self, drain: Callable[[], None]) -> Iterator[Window]:
        """A stream's window, for as long as it is open; ``drain`` is called where it should end."""
        window = Window(self)
        self._open[window] = drain
        try:
            yield window
        finally:
            del self._open[window]

    def drain(self) -> None:
        for drain in list(self._open.values()):
            drain()
