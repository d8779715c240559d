"""Requests as bytes in, what became of each out: a client that costs little, for closed and open loops.

It shares the machine with what it measures, so it does next to nothing: a protocol on uvloop's
transports, keep-alive, one request at a time on a connection, and of an answer the status and the
Content-Length. httpx takes 20 times as long for a request, and would be what is measured.
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections import deque
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import uvloop

from benchmarks.figures import Sample, Schedule, Summary, Times, percentile, summary

LOST = -1
UNANSWERED = 0
# More than two workers let in at once by default (NAMETAG_MAX_QUEUE_REQUESTS), so that overload
# reaches their queues and does not wait here.
MAX_CONNECTIONS = 4096
_TICK_S = 0.0005


def http_request(path: str, body: bytes) -> bytes:
    """POST with JSON, keep-alive."""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Connection(asyncio.Protocol):
    """One keep-alive connection to the server."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.due_s = 0.0
        self.is_waiting = False  # for an answer
        self._head = b""
        self._status = 0
        self._n_left = 0  # bytes of the body; 0 while the head is read
        self.answer: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]

    def send(self, request: bytes, due_s: float) -> None:
        self.due_s = due_s
        self.is_waiting = True
        self.answer.clear()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        if self._n_left:
            self._n_left -= len(data)
            self.answer.append(data)
        else:
            self._head += data
            end = self._head.find(b"\r\n\r\n") + 4
            if end < 4:
                return
            head = self._head[:end].lower()
            at = head.index(b"\r\ncontent-length:") + 17  # all of the servers give one
            self._status = int(head[9:12])
            if self._status == 429 and b"\r\nretry-after:" not in head:
                self.loop.n_without_retry_after += 1
            body = self._head[end:]
            self._n_left = int(head[at : head.index(b"\r\n", at)]) - len(body)
            self.answer.append(body)
            self._head = b""
        if self._n_left <= 0:
            self._n_left = 0
            self.is_waiting = False
            self.loop.answered(self, self._status)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self.loop.lost(self)


@dataclass(frozen=True)
class Load:
    """One run: the requests, taken in turn, and how they are sent."""

    port: int
    requests: Sequence[bytes]
    seconds: float
    warm_s: float  # at the beginning, sent and not counted
    concurrency: int = 0  # of a closed loop
    rate_per_s: float = 0.0  # of an open loop
    due_s: Sequence[float] = ()  # of an open loop whose requests are not evenly spaced: from its beginning
    first: int = 0  # which request to begin with
    good_within_s: float = 1.0
    drain_s: float = 10.0  # for answers still out at the end


@dataclass
class Outcome:
    """What one run gave."""

    summary: Summary
    n_sent: int
    n_without_retry_after: int
    late_p99_s: float  # how long after it was due a request was sent, in an open loop
    client_cpus: float  # CPU seconds a second that the client took
    answers: list[bytes] = field(default_factory=list)  # the first few bodies
    samples: list[Sample] = field(default_factory=list)  # in the order in which they were due


class Loop:
    """Runs one Load. Belongs to one event loop."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.samples: list[Sample] = []
        self.lateness: list[float] = []
        self.n_sent = 0
        self.n_without_retry_after = 0
        self.answers: list[bytes] = []
        self._connections: set[Connection] = set()
        self._n_connecting = 0
        self._idle: deque[Connection] = deque()
        self._waiting: deque[float] = deque()  # when they were due, which found no connection
        self._sending = True
        self._quiet = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    def answered(self, connection: Connection, status: int) -> None:
        now = time.perf_counter()
        self.samples.append(Sample(connection.due_s, now, status))
        if len(self.answers) < 64 and status == 200:
            self.answers.append(b"".join(connection.answer))
        if self.load.concurrency:
            if self._sending:
                self._send(connection, now)
        elif self._waiting:
            self._send(connection, self._waiting.popleft())
        else:
            self._idle.append(connection)

    def lost(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if connection.is_waiting:
            connection.is_waiting = False
            self.samples.append(Sample(connection.due_s, time.perf_counter(), LOST))
        with suppress(ValueError):
            self._idle.remove(connection)
        if self.load.concurrency and self._sending:
            self._start(self._open())

    def _send(self, connection: Connection, due_s: float) -> None:
        requests = self.load.requests
        request = requests[(self.load.first + self.n_sent) % len(requests)]
        self.n_sent += 1
        self.lateness.append(time.perf_counter() - due_s)
        connection.send(request, due_s)

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _open(self) -> None:
        """Opens a connection, and sends what waits for one."""
        self._n_connecting += 1
        try:
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_connection(
                lambda: Connection(self), "127.0.0.1", self.load.port
            )
        except OSError:
            if self._waiting:
                self.samples.append(Sample(self._waiting.popleft(), time.perf_counter(), LOST))
            return
        finally:
            self._n_connecting -= 1
        self._connections.add(connection)
        if self.load.concurrency:
            if self._sending:
                self._send(connection, time.perf_counter())
        elif self._waiting:
            self._send(connection, self._waiting.popleft())
        else:
            self._idle.append(connection)

    async def run(self) -> Outcome:
        load = self.load
        began_cpu_s, began_s = time.process_time(), time.perf_counter()
        if load.concurrency:
            for _ in range(load.concurrency):
                self._start(self._open())
            await asyncio.sleep(load.seconds)
        else:
            await self._keep_sending(
                Times(load.due_s, load.seconds) if load.due_s else Schedule(load.rate_per_s, load.seconds)
            )
        self._sending = False
        took_s = time.perf_counter() - began_s
        cpus = (time.process_time() - began_cpu_s) / took_s
        ends = time.perf_counter() + load.drain_s
        while self._is_waiting() and time.perf_counter() < ends:
            await asyncio.sleep(0.01)
        now = time.perf_counter()
        for connection in list(self._connections):
            if connection.is_waiting:
                connection.is_waiting = False
                self.samples.append(Sample(connection.due_s, now, UNANSWERED))
            connection.transport.abort()
        self.samples += [Sample(due_s, now, UNANSWERED) for due_s in self._waiting]
        for task in list(self._tasks):
            task.cancel()
        await asyncio.sleep(0)
        window = (began_s + load.warm_s, began_s + load.seconds)
        return Outcome(
            summary(self.samples, window, load.good_within_s),
            self.n_sent,
            self.n_without_retry_after,
            0.0 if load.concurrency else percentile(self.lateness, 0.99),
            cpus,
            self.answers,
            sorted(self.samples, key=lambda sample: sample.due_s),
        )

    def _is_waiting(self) -> bool:
        return bool(self._waiting) or any(one.is_waiting for one in self._connections)

    async def _keep_sending(self, schedule: Schedule | Times) -> None:
        """Sends each request when it is due, or else as soon as possible, and never fewer of them."""
        loop = asyncio.get_running_loop()
        began_s = time.perf_counter()
        done = loop.create_future()
        n_begun = 0

        def send_what_is_due() -> None:
            nonlocal n_begun
            os.read(bell, 8)
            n_due = schedule.n_due(time.perf_counter() - began_s)
            while n_begun < n_due:
                due_s = began_s + schedule.due_s(n_begun)
                n_begun += 1
                if self._idle:
                    self._send(self._idle.popleft(), due_s)
                else:
                    self._waiting.append(due_s)
                    if len(self._connections) + self._n_connecting < MAX_CONNECTIONS:
                        self._start(self._open())
            if n_begun == schedule.n and not done.done():
                done.set_result(None)

        def ring() -> None:
            # The event loop's own timers are in whole milliseconds, which is more than an answer takes.
            number = 0
            while number < schedule.n:
                wait_s = began_s + schedule.due_s(number) - time.perf_counter()
                time.sleep(max(wait_s, _TICK_S))
                number = schedule.n_due(time.perf_counter() - began_s)
                os.eventfd_write(bell, 1)

        bell = os.eventfd(0, os.EFD_NONBLOCK)
        loop.add_reader(bell, send_what_is_due)
        keeper = threading.Thread(target=ring)
        keeper.start()
        try:
            await done
            # To the end of the last request's turn, so that the window is as long as it says.
            await asyncio.sleep(max(0.0, began_s + schedule.seconds - time.perf_counter()))
        finally:
            await asyncio.to_thread(keeper.join)
            loop.remove_reader(bell)
            os.close(bell)


def run(load: Load) -> Outcome:
    """Sends the load to the server on this machine, and returns when its answers are here."""
    if bool(load.concurrency) + bool(load.rate_per_s) + bool(load.due_s) != 1:
        raise ValueError("a load has a concurrency, a rate or times: one of them is expected")

    async def one() -> Outcome:
        return await Loop(load).run()

    gc.collect()
    gc.disable()  # its pauses would be the server's latencies
    try:
        return uvloop.run(one())
    finally:
        gc.enable()
