"""Large requests, answered by processes beside this one.

A request of 10,000 sentences keeps an interpreter busy for more than a second, and whoever else it should
answer meanwhile waits for its turn at every step: single sentences had a p99 of 13 to 23 ms instead of 1.7.
With a process of its own for it they have 3.

    a request's head ─► takes() ─► answered() ─► relay ─► another process: the same service, at a socket in
                                                          this one's folder, where nobody else comes

One is started with the first large request, another when two are under way there (of many clients'
connections one worker may have all, and would leave the others' CPUs idle), and each ends when nothing came
for a while. They serve the models that were loaded when they started: after a change the next large request
starts another. Where there is none, the request is answered here, as others are, and while one starts, what
takes less time than the start.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import count
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from starlette.types import Receive, Scope, Send

from service.admission import Admission
from service.models import Models
from service.observing.log import LOGGER
from service.observing.metrics import Metrics
from service.problems import ClientGone, Problem
from service.relay import LostError, relay
from service.reloading.lineup import Lineup
from service.settings import Settings
from service.signals import without_interrupts

STREAM_PATH = "/v1/tag/stream"

# It is up after 1 to 2 seconds, or 5 on a busy machine. Until then the worker answers those that ask for
# less time, and what is computed in less: up to so many times what is large, about half a second.
_START_S = 10.0
_WAITING_TIMES = 8
_IDLE_S = 300.0
_AGAIN_S = 30.0  # after one that could not start
# What a request may take beyond its deadline, which the other process keeps.
_MARGIN_S = 10.0
_MOST_PROCESSES, _BUSY = 2, 2  # and that many requests are enough for another process
_CLOSE_S = 5.0

log = logging.getLogger(LOGGER)


def _serve(
    settings: Settings, sock: socket.socket, parent: int, pipe: Connection, lineup: Lineup, folder: Path
) -> None:
    """What runs there."""
    from service.workers import serve  # which imports this

    serve(settings, sock, parent, pipe, lineup, folder, is_offload=True)


@dataclass(eq=False)
class _Process:
    path: Path
    lineup: Lineup
    is_up: asyncio.Future[None]  # or has failed to be, and is none of the current ones then
    process: SpawnProcess | None = None  # once started
    pipe: Connection | None = None  # says that it is up
    n_under_way: int = 0
    is_retired: bool = False
    idle: asyncio.TimerHandle | None = field(default=None, repr=False)


class Offload:
    """Of one worker. Belongs to one event loop. ``check_accepting``: as of Service."""

    def __init__(
        self,
        settings: Settings,
        models: Models,
        admission: Admission,
        metrics: Metrics,
        check_accepting: Callable[[], None],
    ) -> None:
        self._check_accepting = check_accepting
        self._settings = settings
        self._models = models
        self._admission = admission
        self._metrics = metrics
        self._numbers = count()
        self._current: list[_Process] = []
        self._alive: set[_Process] = set()
        self._starting: set[asyncio.Task[None]] = set()
        self._not_before = 0.0  # of the loop's time
        self._timeout_s = settings.receive_timeout_s + settings.max_request_timeout_s + _MARGIN_S

    def takes(self, scope: Scope) -> bool:
        """Whether a request is large, by its head. A stream's lines are few at a time, however many."""
        if scope["method"] != "POST" or scope["path"] == STREAM_PATH:
            return False
        for name, value in scope["headers"]:
            if name == b"content-length":
                return int(value) > self._settings.offload_bytes and self._is_of_cpu()
        return False

    def _is_of_cpu(self) -> bool:
        """A GPU is shared by batches, not by processes."""
        return all(model.tagger.backend.device == "cpu" for model in self._models.all)

    async def answered(self, scope: Scope, receive: Receive, send: Send, request_id: bytes) -> bool:
        """Has the other process answer, which counts and logs the request too; False where there is none,
        and nothing of the request was read.

        Raises Problem.
        """
        self._check_accepting()
        with self._admission.hold():
            chosen = await self._ready(dict(scope["headers"]))
            if chosen is None:
                return False
            chosen.n_under_way += 1
            if chosen.idle is not None:
                chosen.idle.cancel()
            try:
                await relay(chosen.path, scope, receive, send, request_id, self._timeout_s)
            except ClientGone:
                pass  # as the other process sees too
            except LostError as lost:
                self._stop(chosen)
                if not lost.has_begun:
                    detail = "the process that was to answer this request is gone; others are not concerned"
                    raise Problem("worker-lost", detail) from None
                # What was begun cannot be mended: the connection closes, which tells the client.
            finally:
                chosen.n_under_way -= 1
                self._rest(chosen)
            return True

    async def close(self) -> None:
        """Ends what is left, at once where it still answers: it was given the time for that."""
        await asyncio.gather(*self._starting)
        for each in list(self._alive):
            self._retire(each)
            if each.n_under_way:
                self._stop(each)
        for each in list(self._alive):
            assert each.process is not None
            await asyncio.to_thread(each.process.join, _CLOSE_S)
            self._stop(each)
            self._ended(each)

    async def _ready(self, headers: dict[bytes, bytes]) -> _Process | None:
        """The process to ask, started if it must be."""
        self._loop = asyncio.get_running_loop()
        for each in list(self._current):
            if each.lineup != self._models.lineup:
                self._retire(each)
        most = min(_MOST_PROCESSES, self._settings.workers or 1)
        are_busy = all(each.n_under_way >= _BUSY for each in self._current)
        if are_busy and len(self._current) < most and self._loop.time() >= self._not_before:
            self._current.append(self._begun())
        if not any(each.is_up.done() for each in self._current):
            if not (self._current and self._is_to_wait(headers)):
                return None
            starting = [each.is_up for each in self._current]
            await asyncio.wait(starting, timeout=_START_S, return_when=asyncio.FIRST_COMPLETED)
        up = [each for each in self._current if each.is_up.done()]
        return min(up, key=lambda each: each.n_under_way, default=None)

    def _is_to_wait(self, headers: dict[bytes, bytes]) -> bool:
        """Whether its request is to wait for a process to start."""
        if b"x-request-timeout" in headers:
            return False
        return int(headers[b"content-length"]) > _WAITING_TIMES * self._settings.offload_bytes

    def _begun(self) -> _Process:
        assert self._metrics.folder is not None
        path = self._metrics.folder / f"offload-{os.getpid()}-{next(self._numbers)}"
        new = _Process(path, self._models.lineup, self._loop.create_future())
        task = self._loop.create_task(self._start(new))
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)
        return new

    async def _start(self, new: _Process) -> None:
        try:
            await asyncio.to_thread(self._spawn, new)
        except OSError as error:
            log.error("no process for large requests", extra={"fields": {"why": str(error)}})
            self._has_failed(new)
            return
        assert new.process is not None
        assert new.pipe is not None
        self._alive.add(new)
        self._loop.add_reader(new.pipe.fileno(), self._hear, new)
        self._loop.add_reader(new.process.sentinel, self._ended, new)
        if new.is_retired:  # meanwhile
            self._retire(new)

    def _spawn(self, new: _Process) -> None:
        """On a thread. Raises OSError."""
        context: Any = multiprocessing.get_context("spawn")
        settings = replace(self._settings, offload_bytes=0, cors_origins=(), workers=1)
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as sock:
            sock.bind(os.fspath(new.path))
            sock.listen()  # so that who comes too soon waits
            new.pipe, theirs = context.Pipe()
            arguments = (settings, sock, os.getpid(), theirs, new.lineup, self._metrics.folder)
            new.process = context.Process(target=_serve, args=arguments, daemon=True)
            with without_interrupts(), contextlib.closing(theirs):
                new.process.start()

    def _hear(self, each: _Process) -> None:
        """It says once that it is up; what else may come is the end."""
        assert each.pipe is not None
        self._loop.remove_reader(each.pipe.fileno())
        with contextlib.suppress(OSError, EOFError):
            each.pipe.recv()
            if not each.is_up.done():
                each.is_up.set_result(None)

    def _ended(self, each: _Process) -> None:
        """It has exited."""
        if each not in self._alive:
            return
        self._alive.discard(each)
        assert each.process is not None
        assert each.pipe is not None
        self._loop.remove_reader(each.pipe.fileno())
        self._loop.remove_reader(each.process.sentinel)
        each.process.join()
        each.pipe.close()
        each.path.unlink(missing_ok=True)
        pid, exit_code = each.process.pid, each.process.exitcode
        assert pid is not None
        self._metrics.ended(pid, has_died=not each.is_retired)
        if not each.is_retired:
            log.error("a worker died", extra={"fields": {"pid": pid, "exit_code": exit_code}})
        self._has_failed(each)

    def _has_failed(self, each: _Process) -> None:
        """It is not there any more."""
        if each in self._current:
            self._current.remove(each)
        if not each.is_up.done():
            if not each.is_retired:
                self._not_before = self._loop.time() + _AGAIN_S
            each.is_up.set_result(None)

    def _rest(self, each: _Process) -> None:
        """Nothing is under way there, maybe."""
        if each.n_under_way or each not in self._alive:
            return
        if each.is_retired:
            self._retire(each)
        else:
            each.idle = self._loop.call_later(_IDLE_S, self._retire, each)

    def _retire(self, each: _Process) -> None:
        """It is asked nothing more, and ends when it has answered."""
        each.is_retired = True
        if each in self._current:
            self._current.remove(each)
        if not each.n_under_way and each in self._alive:
            assert each.process is not None
            each.process.terminate()

    def _stop(self, each: _Process) -> None:
        if each in self._alive:
            assert each.process is not None
            each.process.kill()
