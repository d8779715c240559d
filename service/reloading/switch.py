"""This process's part in changing what is loaded: asks for it, prepares it, commits it, cleans up.

    POST …/load ─► ask() ─► Asked ─► service/reloading/agreement.py ─► Prepare, Commit or Abort ─► receive()

Loading runs on a thread of its own, beside what serves. Of several workers, the agreement is the
supervisor's, at the other end of a pipe; a process that is alone has it here. Belongs to one event
loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection

from service.admission import Admission
from service.memory import give_back
from service.models import Models, ServedModel
from service.observing.log import LOGGER, place_of
from service.reloading.agreement import (
    Abort,
    Agreement,
    Asked,
    Commit,
    Committed,
    FromWorker,
    Outcome,
    Prepare,
    Prepared,
    ToWorker,
    Up,
)
from service.reloading.lineup import ChangeError, Load, Unload
from service.settings import Settings

log = logging.getLogger(LOGGER)


class Switch:
    """``pipe``: to the supervisor; None where this process is alone."""

    def __init__(
        self, models: Models, admission: Admission, settings: Settings, pipe: Connection | None = None
    ) -> None:
        self._models = models
        self._admission = admission
        self._settings = settings
        self._pipe = pipe
        self._asked: dict[int, asyncio.Future[Outcome]] = {}
        self._n_asked = 0
        self._number = 0  # of the round that is being prepared
        self._new: ServedModel | None = None  # what was prepared in it
        self._one_at_a_time = threading.Lock()  # an aborted load may still be under way
        self._cleaning: dict[asyncio.Task[None], list[ServedModel]] = {}

    def start(self) -> None:
        """Takes part from now on; the models are loaded."""
        self._loop = asyncio.get_running_loop()
        if self._pipe is None:
            self._post = self._connected_here()
        else:
            self._post = _connected(self._pipe, self._loop, self.receive)
        self._post(Up(self._models.lineup))

    def _connected_here(self) -> Callable[[FromWorker], None]:
        """An agreement of this one process with itself."""
        loop = self._loop
        timeout_s = self._settings.load_timeout_s
        agreement = Agreement(
            lambda _, message: _soon(loop, self.receive, message), timeout_s=timeout_s, clock=loop.time
        )
        agreement.join(0)

        def post(message: FromWorker) -> None:
            loop.call_soon(agreement.receive, 0, message)
            if isinstance(message, Asked):
                loop.call_later(timeout_s + 0.01, agreement.tick)

        return post

    async def ask(self, change: Load | Unload) -> Outcome:
        """Has every worker make this change, or none. Raises ChangeError. It goes on if nobody waits."""
        self._n_asked += 1
        outcome: asyncio.Future[Outcome] = self._loop.create_future()
        self._asked[self._n_asked] = outcome
        self._post(Asked(self._n_asked, change))
        return await outcome

    def abandon(self) -> None:
        """Answers who waits for an outcome: the process is ending."""
        for outcome in self._asked.values():
            if not outcome.done():
                outcome.set_exception(ChangeError("draining", "this replica is shutting down"))

    async def close(self, timeout_s: float) -> None:
        """Stops the models that are being cleaned up."""
        self.abandon()
        for task, models in list(self._cleaning.items()):
            task.cancel()
            for model in models:  # those that are left
                await model.batcher.close(timeout_s)

    def receive(self, message: ToWorker) -> None:
        """What the agreement says."""
        if isinstance(message, Prepare):
            self._begin(message)
        elif isinstance(message, Commit):
            new = self._new if message.number == self._number else None
            self._new = None
            dropped = self._models.adopt(message.lineup, new)
            self._post(Committed(message.number))
            fields = {"models": [model.reference for model in self._models.all]}
            log.info("switched", extra={"fields": fields})
            if dropped:
                task = self._loop.create_task(self._clean_up(dropped))
                self._cleaning[task] = dropped
                task.add_done_callback(lambda task: self._cleaning.pop(task, None))
        elif isinstance(message, Abort):
            self._number, self._new = 0, None
        else:
            outcome = self._asked.pop(message.token)
            if outcome.done():
                pass  # nobody waits any more
            elif message.error is not None:
                outcome.set_exception(message.error)
            else:
                outcome.set_result(message)

    def _begin(self, message: Prepare) -> None:
        self._number, self._new = message.number, None
        # At once, so that going back works even where a load that was given up never ends.
        if having := self._models.having(message.load):
            entry, model = having
            self._has_prepared(Prepared(message.number, entry), model)
        else:
            # A daemon: a folder that cannot be read to its end must not keep the process from exiting.
            threading.Thread(target=self._prepare, args=(message,), name="load", daemon=True).start()

    def _prepare(self, message: Prepare) -> None:
        """On its own thread: loads, beside what serves."""
        new = None
        try:
            with self._one_at_a_time:
                if message.number != self._number:
                    return  # given up while it waited for its turn
                entry, new = self._models.prepared(message.load)
            answer = Prepared(message.number, entry)
        except ChangeError as error:
            answer = Prepared(message.number, error=error)
        except Exception as error:  # out of memory, or a bug: either way, what serves goes on
            log.error(
                "a load failed", extra={"fields": {"error": type(error).__name__, "at": place_of(error)}}
            )
            failed = ChangeError("load-failed", f"{message.load.folder}: {type(error).__name__}")
            answer = Prepared(message.number, error=failed)
        _soon(self._loop, self._has_prepared, answer, new)

    def _has_prepared(self, answer: Prepared, new: ServedModel | None) -> None:
        if answer.number == self._number:  # else it was aborted meanwhile
            self._new = new
        self._post(answer)

    async def _clean_up(self, dropped: list[ServedModel]) -> None:
        """Lets what was dropped go when the requests that may have found it have been answered."""
        await self._admission.passed(self._settings.max_request_timeout_s)
        while dropped:
            await dropped[-1].batcher.close(self._settings.grace_s)
            log.info("unloaded", extra={"fields": {"model": dropped[-1].reference}})
            dropped.pop()
        await asyncio.to_thread(give_back)


def _soon(loop: asyncio.AbstractEventLoop, callback: Callable[..., None], *arguments: object) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: the process is ending
        loop.call_soon_threadsafe(callback, *arguments)


def _connected(
    pipe: Connection, loop: asyncio.AbstractEventLoop, receive: Callable[[ToWorker], None]
) -> Callable[[FromWorker], None]:
    """Has ``receive`` called with what comes through the pipe; returns what sends through it."""

    def read() -> None:
        with contextlib.suppress(OSError, EOFError):  # no supervisor, no service: the server sees to it
            while True:
                _soon(loop, receive, pipe.recv())

    def post(message: FromWorker) -> None:
        with contextlib.suppress(OSError):
            pipe.send(message)

    threading.Thread(target=read, name="supervisor", daemon=True).start()
    return post
