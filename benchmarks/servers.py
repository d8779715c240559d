"""Starts a server on this machine, waits until all of its workers serve, watches it, and stops it.

Reads /proc, so Linux only.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.operating_points import ROOT

# Two intra-op threads collapse as soon as anything else runs; two workers use the two cores.
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS"), "1"
)
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass
class Server:
    """A running server.

    ``log`` is what it wrote to stderr, of very much the last lines; ``ready`` those that say that a
    worker serves.
    """

    process: subprocess.Popen[str]
    port: int
    log: deque[str] = field(default_factory=lambda: deque(maxlen=100_000))
    ready: list[str] = field(default_factory=list)

    def pids(self) -> list[int]:
        return family(self.process.pid)

    def cpu_s(self) -> dict[int, float]:
        """CPU seconds so far, of each of its processes."""
        return {pid: seconds for pid in self.pids() if (seconds := cpu_s(pid)) is not None}

    def memory_bytes(self) -> int:
        """Of all its processes, what they share counted once."""
        return sum(filter(None, map(pss_bytes, self.pids())))

    def settle(self, timeout_s: float = 20.0) -> None:
        """Waits until it has nothing left to do: what was given up goes on being computed by some."""
        ends = time.monotonic() + timeout_s
        while time.monotonic() < ends:
            before = sum(self.cpu_s().values())
            time.sleep(0.1)
            if sum(self.cpu_s().values()) - before < 0.02:
                return

    def stop(self, timeout_s: float = 60.0) -> int:
        """SIGTERM. The exit code."""
        self.process.terminate()
        return self.process.wait(timeout_s)

    def kill(self) -> None:
        kill_session(self.process)


def _stat(pid: int) -> list[str] | None:
    """/proc/PID/stat from the third field on: state, parent, process group, session, ..."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    except OSError:
        return None


def family(pid: int) -> list[int]:
    """A process and all below it."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdecimal() and (stat := _stat(int(entry))):
            children.setdefault(int(stat[1]), []).append(int(entry))
    found = [pid]
    for each in found:
        found += children.get(each, ())
    return found


def session(leader: int) -> list[int]:
    """The processes of a session, which is a server's own: those that its parent lost sight of too."""
    pids = [int(entry) for entry in os.listdir("/proc") if entry.isdecimal()]
    return [pid for pid in pids if (stat := _stat(pid)) and int(stat[3]) == leader]


def signal_session(leader: subprocess.Popen[Any], number: signal.Signals) -> None:
    """To all of its processes; also those whose parent is gone already."""
    for pid in session(leader.pid):
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def kill_session(leader: subprocess.Popen[Any]) -> None:
    signal_session(leader, signal.SIGKILL)
    leader.wait()


def stop_as_interrupted() -> None:
    """From now on SIGTERM ends this process as ^C does, so that its servers are stopped."""
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    # Also where it was started in the background, whose jobs a shell has ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def cpu_s(pid: int) -> float | None:
    stat = _stat(pid)
    return (int(stat[11]) + int(stat[12])) / _TICKS_PER_S if stat else None


def exact_cpu_s(pid: int) -> float:
    """As ``cpu_s``, of all threads that it has or had, and not in ticks of 10 ms."""
    return time.clock_gettime((~pid << 3) | 2)  # the clock that clock_getcpuclockid(3) gives


def stolen_s(cpu: int) -> float:
    """Seconds that a virtual CPU had to compute and was not let to by its host, since the start."""
    for line in Path("/proc/stat").read_text("ascii").splitlines():
        name, *ticks = line.split()
        if name == f"cpu{cpu}":
            return int(ticks[7]) / _TICKS_PER_S
    raise ValueError(f"cpu {cpu}: one of /proc/stat is expected")


def _kilobytes(path: str, name: str) -> int | None:
    try:
        text = Path(path).read_text("ascii")
    except OSError:
        return None
    _, found, rest = text.partition(f"\n{name}:")
    return 1024 * int(rest.split()[0]) if found else None


def rss_bytes(pid: int) -> int | None:
    return _kilobytes(f"/proc/{pid}/status", "VmRSS")


def pss_bytes(pid: int) -> int | None:
    """Its own memory, and its part of what it shares with others."""
    return _kilobytes(f"/proc/{pid}/smaps_rollup", "Pss")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


@contextmanager
def started(
    command: Sequence[str],
    port: int,
    environment: Mapping[str, str],
    *,
    ready: str,
    n_ready: int,
    timeout_s: float = 120.0,
) -> Iterator[Server]:
    """The server, until the block ends. It serves when ``n_ready`` lines of its log hold ``ready``."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:  # thousands of connections
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    process = subprocess.Popen(
        command, cwd=ROOT, env=dict(environment), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True, errors="replace",
        start_new_session=True,  # ^C is for us alone: we then stop the server, and know that it is gone
    )  # fmt: skip
    server = Server(process, port)
    all_ready = threading.Event()

    def read() -> None:
        assert process.stderr
        for line in process.stderr:
            server.log.append(line)
            if ready in line:
                server.ready.append(line)
            if len(server.ready) == n_ready:
                all_ready.set()
        all_ready.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        if not all_ready.wait(timeout_s) or process.poll() is not None:
            raise ValueError(f"{' '.join(command)} did not start:\n{''.join(server.log)}")
        yield server
    finally:
        server.kill()
        reader.join(5)
        if process.stderr and not reader.is_alive():
            process.stderr.close()


def nametag(
    model: Path, workers: int, python: str = sys.executable, **settings: object
) -> tuple[list[str], int, dict[str, str]]:
    """Command, port and environment of our own service."""
    port = free_port()
    plain = {name: value for name, value in os.environ.items() if not name.startswith("NAMETAG_")}
    ours = {"port": port, "host": "127.0.0.1", "model": model, "workers": workers, "device": "cpu"}
    named = {f"NAMETAG_{name.upper()}": str(value) for name, value in {**ours, **settings}.items()}
    return [python, "-m", "service"], port, {**plain, **ONE_THREAD, **named}


def on_cpu(cpu: int, command: Sequence[str]) -> list[str]:
    """The same command, of which all threads stay on one CPU."""
    return ["taskset", "--cpu-list", str(cpu), *command]


NAMETAG_READY = '"listening"'
UVICORN_READY = "Application startup complete"


def peer(name: str, python: str, workers: int, **variables: str) -> tuple[list[str], int, dict[str, str]]:
    """Command, port and environment of one of peer_apps.py."""
    port = free_port()
    command = [python, "-m", "benchmarks.peer_apps", name, "--port", str(port), "--workers", str(workers)]
    return command, port, {**os.environ, **ONE_THREAD, **variables}
