"""Replicas of the service on this machine, and HAProxy before them, as deploy/haproxy.cfg has it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from benchmarks import servers
from benchmarks.operating_points import ROOT

CONFIG = ROOT / "deploy" / "haproxy.cfg"
NAMES = ("one", "two", "three")  # as HAProxy calls them
_PATIENCE_S = 60.0


class Replica:
    """One process of the service, always on the same port. Started again as often as one likes."""

    def __init__(self, name: str, model: Path, drain_delay_s: float, cpu: int | None = None) -> None:
        self.name = name
        self._command, self.port, self._environment = servers.nametag(
            model, 1, drain_delay_s=drain_delay_s, access_log="off"
        )
        if cpu is not None:
            self._command = servers.on_cpu(cpu, self._command)
        self._running = ExitStack()
        self._server: servers.Server | None = None

    def start(self) -> None:
        """Returns when it serves. Raises ValueError where it does not."""
        self._server = self._running.enter_context(
            servers.started(
                self._command, self.port, self._environment, ready=servers.NAMETAG_READY, n_ready=1
            )
        )

    @property
    def server(self) -> servers.Server:
        """Of a replica that was started."""
        assert self._server is not None
        return self._server

    def stop(self) -> int:
        """SIGTERM, which lets it finish. The exit code."""
        assert self._server is not None
        code = self._server.stop()
        self._running.close()
        return code

    def send(self, number: signal.Signals) -> None:
        assert self._server is not None
        os.kill(self._server.process.pid, number)

    def kill(self) -> None:
        """SIGKILL, which lets it finish nothing."""
        self._running.close()


@dataclass
class Balancer:
    """A running HAProxy. ``port``: where clients ask; ``watch_port``: where Prometheus does."""

    port: int = field(default_factory=servers.free_port)
    watch_port: int = field(default_factory=servers.free_port)
    pid: int = 0  # once it runs

    def counts(self) -> dict[str, float]:
        """Its metrics of the replicas by name, and where there are several, by name, server and state."""
        answer = httpx.get(f"http://127.0.0.1:{self.watch_port}/metrics", timeout=10)
        found = {}
        for family in text_string_to_metric_families(answer.text):
            for sample in family.samples:
                if sample.labels.get("proxy") == "replicas":
                    labels = [sample.labels[name] for name in ("server", "state") if name in sample.labels]
                    found[" ".join((sample.name, *labels))] = sample.value
        return found

    def held_by(self, replica: Replica) -> int:
        """Requests that it was given and has not answered."""
        return int(self.counts()[f"haproxy_server_current_sessions {replica.name}"])

    def await_state(self, replica: Replica, state: str) -> None:
        """Until it takes the replica for "UP" or "DOWN". Raises TimeoutError."""
        ends = time.monotonic() + _PATIENCE_S
        while self.counts()[f"haproxy_server_status {replica.name} {state}"] != 1:
            if time.monotonic() > ends:
                raise TimeoutError(f"HAProxy does not take replica {replica.name} for {state}")
            time.sleep(0.1)


def is_installed() -> bool:
    return _program() is not None


def _program() -> str | None:
    return shutil.which("haproxy", path=os.environ.get("PATH", "") + ":/usr/sbin")


@contextmanager
def balanced(
    model: Path, *, drain_delay_s: float, answer_within_s: float, config: Path = CONFIG,
    cpus: Sequence[int] = (),
) -> Iterator[tuple[Balancer, list[Replica]]]:  # fmt: skip
    """Three replicas behind HAProxy, all of them up, until the block ends.

    ``cpus``: as many replicas as these, at most three, each on its own; HAProxy finds the others down.
    """
    program = _program()
    if program is None:
        raise ValueError("haproxy is not installed: apt-get install haproxy")
    balancer = Balancer()
    on: Sequence[int | None] = cpus or [None] * len(NAMES)
    replicas = [Replica(name, model, drain_delay_s, cpu) for name, cpu in zip(NAMES, on, strict=False)]
    own = {
        "BIND": f"127.0.0.1:{balancer.port}",
        "WATCH": f"127.0.0.1:{balancer.watch_port}",
        "ANSWER_WITHIN": f"{round(1000 * answer_within_s)}ms",
        **{f"REPLICA_{n}": f"127.0.0.1:{servers.free_port()}" for n in range(1, 1 + len(NAMES))},
        **{f"REPLICA_{n}": f"127.0.0.1:{replica.port}" for n, replica in enumerate(replicas, 1)},
    }
    with ExitStack() as stack:
        for replica in replicas:
            stack.callback(replica.kill)
            replica.start()
        process = stack.enter_context(
            subprocess.Popen(
                [program, "-db", "-f", config],
                env={**os.environ, **own}, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )
        )  # fmt: skip
        stack.callback(process.kill)
        balancer.pid = process.pid
        _await_listening(balancer.watch_port, process)
        for replica in replicas:
            balancer.await_state(replica, "UP")
        yield balancer, replicas


def _await_listening(port: int, process: subprocess.Popen[bytes]) -> None:
    ends = time.monotonic() + _PATIENCE_S
    while True:
        try:
            httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=10)
            return
        except httpx.TransportError:
            if process.poll() is not None or time.monotonic() > ends:
                raise ValueError(f"haproxy did not start: exit code {process.poll()}") from None
            time.sleep(0.1)
