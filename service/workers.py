"""One process that serves, or several behind one socket: restarted when they die, drained together."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import socket
import sys
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from service import crowd
from service.app import create_app
from service.crowd import Crowd
from service.keys import KeysError
from service.models import ModelsError
from service.observing.log import LOGGER, configure
from service.observing.meters import Folder, Meters, forget_gauges
from service.observing.metrics import restarts_of
from service.reloading.agreement import Agreement, ToWorker
from service.reloading.lineup import Lineup
from service.server import Server
from service.settings import Settings
from service.signals import without_interrupts
from service.state import Service

# A worker that dies at once must not keep a CPU busy with dying: longer and longer where it cannot serve.
_RESTART_AFTER_S, _MOST_RESTART_AFTER_S = 1.0, 30.0

log = logging.getLogger(LOGGER)


def serve(
    settings: Settings,
    sock: socket.socket,
    parent_pid: int | None = None,
    supervisor: Connection | None = None,
    lineup: Lineup | None = None,
    metrics_folder: Path | None = None,
    place: int | None = None,
    *,
    is_offload: bool = False,
) -> None:
    """Serves in this process. Exits with 2 where a model cannot be loaded, or the keys cannot be read.

    ``lineup``: the models that other workers serve by now; None is what the settings say.
    ``metrics_folder``: where all workers count; None where there is one. ``place``: which of them this is;
    None where it shares ``sock`` with none. ``is_offload``: see Service.
    """
    configure(settings.log_level)
    signal.signal(signal.SIGTERM, _leave)  # until the server takes over
    try:
        app = create_app(settings, supervisor, metrics_folder, is_offload=is_offload)
        service: Service = app.state.service
        # Before the socket listens: a replica that accepts connections can answer them.
        service.models.load(lineup)
    except (ModelsError, KeysError) as error:
        sys.stderr.write(f"nametag: {error}\n")  # at once: print() lets other workers in between
        raise SystemExit(2) from None
    for model in service.models.all:
        fields = {"model": model.reference, "backend": model.tagger.backend.name, "trouble": model.trouble}
        log.log(logging.ERROR if model.trouble else logging.INFO, "loaded", extra={"fields": fields})
    # How long a thread that computes may keep the event loop waiting for the interpreter: at Python's own
    # 5 ms, single sentences beside a request of 10,000 took twice as long.
    sys.setswitchinterval(0.0005)
    beside = Crowd(metrics_folder, place) if metrics_folder is not None and place is not None else None
    Server(app, service, parent_pid, beside).run_until_told(sock)
    log.info("stopped", extra={"fields": {"pid": os.getpid()}})


def _leave(*_: object) -> None:
    # Nothing was accepted yet. An exception here could come up inside an import of C code, which
    # would make another one of it.
    os._exit(0)


def pause_s(exit_code: int | None, before_s: float) -> float:
    """Before a place is filled again whose worker exited so, after ``before_s`` the last time."""
    return min(2 * before_s, _MOST_RESTART_AFTER_S) if exit_code == 2 else _RESTART_AFTER_S


@dataclass
class _Worker:
    process: SpawnProcess
    pipe: Connection


class Supervisor:
    """Runs ``settings.workers`` processes until told to stop, and has them switch models together."""

    def __init__(self, settings: Settings, sock: socket.socket) -> None:
        self._settings = settings
        self._sock = sock
        self._context = multiprocessing.get_context("spawn")
        self._workers: dict[int, _Worker] = {}  # by place; a worker that replaces another has its place
        self._to_start: dict[int, float] = dict.fromkeys(range(settings.workers), 0.0)  # and when
        self._pauses_s = dict.fromkeys(range(settings.workers), _RESTART_AFTER_S)
        self._told = False
        self._folder = Folder()
        crowd.make(self._folder.path, settings.workers)
        self._meters = Meters(self._folder.path, os.getpid())
        self._restarts = restarts_of(self._meters)
        self._agreement = Agreement(self._send, timeout_s=settings.load_timeout_s, is_stuck=self._kill)

    def run(self) -> int:
        """The exit code. A worker that exits with 2 cannot serve as configured: then all stop, and that
        is the code; but not once the models are loaded: what can go on serving does."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        while not self._told:
            self._start()
            pipes = {worker.pipe: place for place, worker in self._workers.items()}
            ready = wait([*pipes, *(worker.process.sentinel for worker in self._workers.values())], 0.2)
            for pipe, place in pipes.items():
                if pipe in ready:
                    self._hear(place)
            for place, worker in list(self._workers.items()):
                exit_code = worker.process.exitcode
                if exit_code is None or self._told:
                    continue
                if exit_code == 2 and self._agreement.lineup is None:
                    return self._ended(2)
                self._bury(place)
            self._agreement.tick()
        return self._ended(0)

    def _stop(self, *_: object) -> None:
        self._told = True

    def _start(self) -> None:
        """Starts the workers that are due. None during a change: it would come up without it."""
        if self._agreement.is_busy:
            return
        for place, due in list(self._to_start.items()):
            if due > time.monotonic():
                continue
            del self._to_start[place]
            pipe, theirs = self._context.Pipe()
            process = self._context.Process(
                target=serve,
                args=(
                    self._settings,
                    self._sock,
                    os.getpid(),
                    theirs,
                    self._agreement.lineup,
                    self._folder.path,
                    place,
                ),
            )
            with without_interrupts():
                process.start()
            theirs.close()  # so that ours tells when the worker is gone
            self._workers[place] = _Worker(process, pipe)
            self._agreement.join(place)

    def _hear(self, place: int) -> None:
        """What a worker says; nothing where it is gone, which its sentinel tells too."""
        try:
            message = self._workers[place].pipe.recv()
        except (EOFError, OSError):
            return
        self._agreement.receive(place, message)

    def _send(self, place: int, message: ToWorker) -> None:
        with contextlib.suppress(OSError):  # it is gone
            self._workers[place].pipe.send(message)

    def _kill(self, place: int) -> None:
        log.error("a worker is stuck", extra={"fields": {"pid": self._workers[place].process.pid}})
        self._workers[place].process.kill()

    def _bury(self, place: int) -> None:
        worker = self._workers.pop(place)
        worker.pipe.close()
        process = worker.process
        log.error("a worker died", extra={"fields": {"pid": process.pid, "exit_code": process.exitcode}})
        assert process.pid is not None  # it was started
        forget_gauges(self._folder.path, process.pid)
        crowd.vacate(self._folder.path, place)
        self._restarts.add()
        self._pauses_s[place] = pause_s(process.exitcode, self._pauses_s[place])
        self._to_start[place] = time.monotonic() + self._pauses_s[place]
        self._agreement.leave(place)

    def _ended(self, code: int) -> int:
        """Lets every worker finish what it accepted. The exit code."""
        processes = [worker.process for worker in self._workers.values()]
        for process in processes:
            if process.is_alive():
                process.terminate()
        ends = time.monotonic() + self._settings.grace_s + 10
        for process in processes:
            process.join(max(0.0, ends - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
        # One that was told before it could listen had nothing to finish.
        if code == 0 and any(process.exitcode not in (0, -signal.SIGTERM) for process in processes):
            code = 1
        self._meters.close()
        self._folder.delete()
        return code
