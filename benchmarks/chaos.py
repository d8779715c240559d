"""What a soak does to the service on purpose: processes are killed, and versions of the model loaded."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import orjson

from benchmarks import servers
from benchmarks.soak_report import Ledger
from benchmarks.wire import Answer, http
from model.artefact import load, save
from service.keys import ADMIN, new_key

OTHER = "soak"  # the version that is loaded: the same files under another name, so that answers stay


@dataclass(frozen=True)
class Place:
    """Where a service finds what a soak needs of it, and the key that each request carries."""

    settings: dict[str, Path]
    key: str
    model: str
    version: str

    def keyed(self, request: bytes) -> bytes:
        first, rest = request.split(b"\r\n", 1)
        return b"\r\n".join((first, b"X-API-Key: " + self.key.encode(), rest))


@contextmanager
def place(model: Path) -> Iterator[Place]:
    """A folder of models with ``model`` as another version in it, and a file of one admin's key."""
    artefact = load(model)
    with TemporaryDirectory(prefix="nametag-soak-") as folder:
        models = Path(folder) / "models"
        save(replace(artefact, config=replace(artefact.config, version=OTHER)), models / OTHER)
        secret, key = new_key("soak", ADMIN)
        keys = Path(folder) / "keys.txt"
        keys.write_text(key.line + "\n", encoding="utf-8")
        yield Place(
            {"keys_file": keys, "models_dir": models}, secret, artefact.config.name, artefact.config.version
        )


@dataclass(frozen=True)
class Chaos:
    """Kills and loads in turn, until ``ends_s``."""

    server: servers.Server
    place: Place
    ledger: Ledger
    now_s: Callable[[], float]
    ask: Callable[[bytes], Awaitable[Answer]]
    most_s: float  # that a worker or a load may take

    async def run(self, ends_s: float) -> None:
        every_s = max(5.0, ends_s / 8)
        while self.now_s() + every_s < ends_s:
            await asyncio.sleep(every_s)
            if not await self._kill():
                return
            self._kill_offloaded()
            await self._load({"path": OTHER}, OTHER)
            await self._load({"version": self.place.version}, self.place.version)

    async def _kill(self) -> bool:
        """Always the worker that began last, so that one of them lives through all of the soak."""
        n_before = len(self.server.ready)
        youngest = worker_pids(self.server)[-1]
        self.ledger.kills_s.append(self.now_s())
        os.kill(youngest, signal.SIGKILL)
        while len(self.server.ready) == n_before:
            if self.now_s() > self.ledger.kills_s[-1] + self.most_s:
                self.ledger.fail(f"no worker came within {self.most_s:g} seconds after one was killed")
                return False
            await asyncio.sleep(0.1)
        return True

    def _kill_offloaded(self) -> None:
        """The processes that answer large requests: the next of these starts others."""
        for pid in offloaded_pids(self.server):
            self.ledger.kills_s.append(self.now_s())
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def _load(self, asked: dict[str, str], version: str) -> None:
        answer = await self.ask(http("POST", f"/v1/models/{self.place.model}/load", orjson.dumps(asked)))
        is_done = self.ledger.answered("load", answer.status, 200)
        if is_done and orjson.loads(answer.body)["version"] != version:
            self.ledger.fail("load: another version than was asked for")


def worker_pids(server: servers.Server) -> list[int]:
    """Of the workers that run, in the order in which they began to serve."""
    said = [json.loads(line)["pid"] for line in list(server.ready)]
    alive = set(server.pids())
    return [pid for pid in said if pid in alive]


def offloaded_pids(server: servers.Server) -> list[int]:
    """Of the processes that workers have for large requests."""
    return [pid for worker in worker_pids(server) for pid in servers.family(worker) if pid != worker]
