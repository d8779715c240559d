"""One process that serves, or several behind one socket: restarted when they die, drained together."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import signal
import socket
import sys
import time
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from service.app import create_app
from service.log import LOGGER, configure
from service.meters import Folder, Meters, forget_gauges
from service.metrics import restarts_of
from service.models import ModelsError
from service.server import Server
from service.settings import Settings
from service.state import Service

_RESTART_AFTER_S = 1.0  # a worker that dies at once must not keep a CPU busy with dying

log = logging.getLogger(LOGGER)


def serve(
    settings: Settings,
    sock: socket.socket,
    parent_pid: int | None = None,
    metrics_folder: Path | None = None,
) -> None:
    """Serves in this process. Exits with 2 where a model cannot be loaded."""
    configure(settings.log_level)
    signal.signal(signal.SIGTERM, _leave)  # until the server takes over
    app = create_app(settings, metrics_folder)
    service: Service = app.state.service
    try:
        # Before the socket listens: a replica that accepts connections can answer them.
        service.models.load()
    except ModelsError as error:
        sys.stderr.write(f"nametag: {error}\n")  # at once: print() lets other workers in between
        raise SystemExit(2) from None
    for model in service.models.all:
        fields = {"model": model.reference, "backend": model.tagger.backend.name, "trouble": model.trouble}
        log.log(logging.ERROR if model.trouble else logging.INFO, "loaded", extra={"fields": fields})
    # What is loaded stays: without this, each full collection walks over all of it, and every
    # request that is under way waits (p99 at 32 clients: 131 to 172 ms without, 20 to 34 with).
    gc.collect()
    gc.freeze()
    Server(app, service, parent_pid).run_until_told(sock)
    log.info("stopped", extra={"fields": {"pid": os.getpid()}})


def _leave(*_: object) -> None:
    # Nothing was accepted yet. An exception here could come up inside an import of C code, which
    # would make another one of it.
    os._exit(0)


def supervise(settings: Settings, sock: socket.socket) -> int:
    """Runs ``settings.workers`` processes until told to stop. The exit code.

    A worker that exits with 2 cannot serve as configured: then all stop, and that is the code.
    """
    context = multiprocessing.get_context("spawn")
    folder = Folder()
    meters = Meters(folder.path, os.getpid())
    restarts = restarts_of(meters)
    told = False

    def stop(*_: object) -> None:
        nonlocal told
        told = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)

    def started() -> SpawnProcess:
        worker = context.Process(target=serve, args=(settings, sock, os.getpid(), folder.path))
        worker.start()
        return worker

    workers = [started() for _ in range(settings.workers)]
    code = 0
    while not told and code != 2:
        wait([worker.sentinel for worker in workers], timeout=0.2)
        for i, worker in enumerate(workers):
            if worker.exitcode is None or told:
                continue
            if worker.exitcode == 2:
                code = 2
                break
            assert worker.pid is not None  # it was started
            log.error("a worker died", extra={"fields": {"pid": worker.pid, "exit_code": worker.exitcode}})
            forget_gauges(folder.path, worker.pid)
            restarts.add()
            time.sleep(_RESTART_AFTER_S)
            workers[i] = started()
    for worker in workers:
        if worker.is_alive():
            worker.terminate()
    ends = time.monotonic() + settings.grace_s + 10
    for worker in workers:
        worker.join(max(0.0, ends - time.monotonic()))
        if worker.is_alive():
            worker.kill()
            worker.join()
    # One that was told before it could listen had nothing to finish.
    if code == 0 and any(worker.exitcode not in (0, -signal.SIGTERM) for worker in workers):
        code = 1
    meters.close()
    folder.delete()
    return code
