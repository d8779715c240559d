"""Runs the service for tests: in a thread of this process, or as the process that users start."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from service.app import create_app
from service.server import Server, bound_socket
from service.settings import ROOT, Settings
from service.state import Service


@dataclass
class Running:
    """A service in a thread, behind a real socket."""

    service: Service
    client: httpx.Client
    port: int

    def tag(self, sentences: list[Any], **options: Any) -> list[dict[str, Any]]:
        answer = self.client.post("/v1/tag", json={"sentences": sentences, **options})
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()["sentences"]
        return found

    def refused(self, status: int, code: str, **request: Any) -> dict[str, Any]:
        """The problem that POST /v1/tag answers with."""
        answer = self.client.post("/v1/tag", **request)
        return check_problem(answer, status, code)

    def gate(self) -> Gate:
        """Holds the default model's batches up until it is opened."""
        batcher = self.service.models.find(None).batcher
        gate = Gate(batcher._tag_batch)
        batcher._tag_batch = gate
        batcher._max_tokens_at_once = 0  # the event loop itself is not to be held up
        return gate


def check_problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Asserts that an answer is that problem, and returns it."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    problem: dict[str, Any] = answer.json()
    assert (answer.status_code, problem["status"], problem["code"]) == (status, status, code)
    assert {"type", "title", "detail"} <= problem.keys()
    return problem


@dataclass
class Gate:
    """Stands before a batch function: says when a batch has come, and lets it pass when opened."""

    function: Any
    came: threading.Event = field(default_factory=threading.Event)
    opened: threading.Event = field(default_factory=threading.Event)
    batches: list[list[Any]] = field(default_factory=list)

    def __call__(self, items: list[Any]) -> Any:
        self.batches.append(items)
        self.came.set()
        assert self.opened.wait(30)
        return self.function(items)


@contextmanager
def running(*models: Path, tracing: Any = None, **settings: Any) -> Iterator[Running]:
    """The service with these settings, until the block ends."""
    chosen = Settings(
        port=0, model=models, **{"device": "cpu", "drain_delay_s": 0.0, "offload_bytes": 0, **settings}
    )
    app = create_app(chosen, tracing=tracing)
    started = threading.Event()

    class Announced(Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            started.set()

    with bound_socket(chosen) as sock:
        port = sock.getsockname()[1]
        server = Announced(app, app.state.service)
        thread = threading.Thread(target=server.run, args=([sock],))
        thread.start()
        try:
            assert started.wait(30)
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
                yield Running(app.state.service, client, port)
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


@dataclass
class Process:
    """``python -m service``, started and listening."""

    process: subprocess.Popen[str]
    port: int
    log: list[str]

    def wait(self) -> int:
        """The exit code; reads the rest of the log."""
        assert self.process.stderr is not None
        self.log += self.process.stderr
        return self.process.wait(30)


def environment(**settings: object) -> dict[str, str]:
    """This process's, without settings of the service but these."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("NAMETAG_")}
    ours = {f"NAMETAG_{name.upper()}": str(value) for name, value in settings.items()}
    return {**plain, "NAMETAG_PORT": "0", "NAMETAG_DEVICE": "cpu", "NAMETAG_WORKERS": "1", **ours}


@contextmanager
def process(patience_s: float = 60, **settings: object) -> Iterator[Process]:
    """The service as its own process, ended when the block ends, or after ``patience_s``."""
    command = [sys.executable, "-m", "service"]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment(**settings), stderr=subprocess.PIPE, text=True
    ) as started:
        assert started.stderr is not None
        log: list[str] = []
        watchdog = threading.Timer(patience_s, started.kill)  # a test that waits for a line fails instead
        watchdog.start()
        try:
            port = 0
            for line in started.stderr:
                log.append(line)
                if '"listening"' in line:
                    port = json.loads(line)["port"]
                    break
            assert port, log
            yield Process(started, port, log)
        finally:
            watchdog.cancel()
            started.kill()


def run_to_end(*arguments: str, **settings: object) -> subprocess.CompletedProcess[str]:
    """``python -m service`` that is expected to end by itself."""
    return subprocess.run(
        [sys.executable, "-m", "service", *arguments],
        cwd=ROOT, env=environment(**settings), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
