"""python benchmarks/load.py --out runs/load: what the service does under load, beside its peers.

Starts our service, an empty FastAPI that answers the same JSON (echo) and, with --peer-python, spaCy's
small model and Presidio behind FastAPI, one after the other on the same cores, two workers each. The
same client sends all of them the same sentences, over loopback:

    closed loop   1, 8, 64 and 256 connections that each wait for their answer and send again
    open loop     a fixed number of requests a second, up to 3 times what the server managed: a latency
                  counts from when the request was due, whether or not anything could be sent then

with one sentence and with 32 a request. Of ours also: latencies while one request of 10,000 sentences is
answered, memory, and what the same number of processes tags without HTTP. Each round measures all
systems; figures are medians of the rounds, ratios are medians of the rounds' ratios.

The client is one process on the same cores and takes its share of them: its CPU seconds a second are
in the report, and `bytes`, a server that does nothing at all, shows how far it reaches.

Writes OUT/load.json, load.md, throughput.svg and latency.svg. Peers: `pip install ".[bench]"`.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a script's own folder is on the path, and not what is beside it

from benchmarks import client, in_process, servers, texts  # noqa: E402
from benchmarks.client import Load  # noqa: E402
from benchmarks.load_report import Cell, Round, write  # noqa: E402
from benchmarks.operating_points import machine  # noqa: E402
from benchmarks.servers import Server  # noqa: E402

OURS, ECHO, BYTES = "nametag", "echo", "bytes"
PEERS = ("spacy", "presidio")
CONCURRENCY = (1, 8, 64, 256)
OFFERED = (0.25, 0.5, 0.75, 1.0, 1.5, 3.0)  # times what the closed loop reached
SIZES = (1, 32)  # sentences of a request
_WARM_SHARE = 0.2  # of a run, sent and not counted
_WAVES = 2.5  # a closed loop lasts until each connection has had that many answers
_WAVE_S = 3.0  # and is left out where the server would take longer for one
_OVERLOAD = 2.0  # times the capacity; from there on a queue must have the time to fill
_FEW, _SLOW_S = 10, 3.0  # an open loop has at least so many requests, if they are due in that time
_BIG = 10_000  # sentences of the large request
_BIG_OFFERED = 0.2  # of the single sentences' capacity, meanwhile
_REQUESTS = {
    OURS: texts.tag_request, ECHO: texts.tag_request, BYTES: texts.tag_request,
    "spacy": texts.spacy_request, "presidio": texts.presidio_request,
}  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """What is measured, and for how long."""

    model: Path
    workers: int
    peer_python: str
    seconds: float  # of a run, at least
    overload_s: float  # of a run far beyond the capacity
    rounds: int
    minutes: float  # no round begins that would probably end later
    sizes: tuple[int, ...]
    concurrency: tuple[int, ...]
    offered: tuple[float, ...]
    systems: tuple[str, ...]


class Bench:
    """Runs a plan on some sentences."""

    def __init__(self, plan: Plan, sentences: Sequence[str], scratch: Path) -> None:
        self.plan = plan
        self.sentences = sentences
        self.scratch = scratch
        self.groups = {n: texts.groups(sentences, n) for n in plan.sizes}
        self._first = 0  # so that no run begins with the same requests as the one before

    def round(self, number: int) -> Round:
        cells: list[Cell] = []
        memory: dict[str, int] = {}
        for system in self.plan.systems:
            for n in self.plan.sizes:
                # A server for each size: what overload leaves behind is not the next one's.
                with self._server(system) as server:
                    if system == OURS and n == 1:
                        cells += self._beside_a_big_one(number, server)
                    cells += self._cells(system, n, number, server)
                    memory[system] = max(memory.get(system, 0), server.memory_bytes())
        seconds = 2 * self.plan.seconds
        rate = in_process.rate_per_s(self.plan.model, self.sentences, self.plan.workers, seconds)
        say(f"in process: {rate:,.0f} sentences/s")
        return Round(tuple(cells), memory, rate)

    def write_answers(self) -> None:
        """Answers of our own for the echoes, of the usual length."""
        with self._server(OURS) as server:
            for n in (1, 32):
                requests = [texts.tag_request(group) for group in texts.groups(self.sentences, n)[:40]]
                load = Load(server.port, requests, 1.0, 0.0, concurrency=1)
                answers = sorted(client.run(load).answers, key=len)
                (self.scratch / f"{n}.json").write_bytes(answers[len(answers) // 2])

    @contextmanager
    def _server(self, system: str) -> Iterator[Server]:
        workers = self.plan.workers
        if system == OURS:
            how, ready = servers.nametag(self.plan.model, workers), servers.NAMETAG_READY
        else:
            python = self.plan.peer_python if system in PEERS else sys.executable
            variables = {f"ECHO_{n}": str(self.scratch / f"{n}.json") for n in (1, 32)}
            variables["ECHO_LONG"] = str(max(map(len, map(str.encode, self.sentences))) + 100)
            how, ready = servers.peer(system, python, workers, **variables), servers.UVICORN_READY
        with servers.started(*how, ready=ready, n_ready=workers) as server:
            say(f"{system} serves, port {server.port}")
            yield server

    def _cells(self, system: str, n: int, number: int, server: Server) -> Iterator[Cell]:
        requests = [_REQUESTS[system](group) for group in self.groups[n]]
        capacity = self._warmed_up(system, server, requests)
        for concurrency in self.plan.concurrency:
            if concurrency > _WAVE_S * capacity:
                continue
            load = self._closed(server, requests, concurrency, capacity)
            cell = self._cell(system, n, "closed", concurrency, number, server, load)
            capacity = max(capacity, cell.per_s)
            yield cell
        for times in self.plan.offered if system != BYTES and capacity else ():
            seconds = max(self.plan.seconds, min(_SLOW_S, _FEW / (times * capacity)))
            if times > _OVERLOAD:
                seconds = max(seconds, self.plan.overload_s)
            load = Load(
                server.port, requests, seconds, _WARM_SHARE * seconds,
                rate_per_s=times * capacity, drain_s=2.0,
            )  # fmt: skip
            yield self._cell(system, n, "open", times, number, server, load)

    def _warmed_up(self, system: str, server: Server, requests: Sequence[bytes]) -> float:
        """About its capacity, with word types cached and allocators filled."""
        for _ in range(10):
            found = client.run(self._closed(server, requests, 8)).summary
            if found.per_s:
                return found.per_s
        raise ValueError(f"{system} answers nothing with 200: {found.statuses}")

    def _closed(
        self, server: Server, requests: Sequence[bytes], concurrency: int, capacity: float = math.inf
    ) -> Load:
        seconds = max(self.plan.seconds, _WAVES * concurrency / capacity)
        return Load(server.port, requests, seconds, _WARM_SHARE * seconds, concurrency=concurrency)

    def _beside_a_big_one(self, number: int, server: Server) -> Iterator[Cell]:
        """Single sentences without, and then while a request of 10,000 sentences is being answered."""
        requests = [texts.tag_request([sentence]) for sentence in self.sentences]
        many = [self.sentences[i % len(self.sentences)] for i in range(_BIG)]
        capacity = self._warmed_up(OURS, server, requests)
        seconds = 2 * self.plan.seconds
        load = Load(
            server.port, requests, seconds, _WARM_SHARE * seconds, rate_per_s=_BIG_OFFERED * capacity
        )
        yield self._cell(OURS, 1, "alone", _BIG_OFFERED, number, server, load)
        with big_requests(server.port, texts.tag_request(many)):
            yield self._cell(OURS, 1, "beside", _BIG_OFFERED, number, server, load)

    def _cell(
        self, system: str, n: int, kind: str, level: float, number: int, server: Server, load: Load
    ) -> Cell:
        if kind != "beside":
            server.settle()
        before, began = server.cpu_s(), time.perf_counter()
        outcome = client.run(replace(load, first=self._first))
        self._first = (self._first + outcome.n_sent) % len(load.requests)
        took_s = time.perf_counter() - began
        cpus = sorted((s - before.get(pid, 0.0)) / took_s for pid, s in server.cpu_s().items())
        s = outcome.summary
        cell = Cell(
            system, n, kind, level, number, load.rate_per_s, s.statuses, s.per_s, s.good_per_s, s.p50_s,
            s.p99_s, s.refused_p99_s, outcome.n_without_retry_after, outcome.late_p99_s,
            outcome.client_cpus, tuple(round(c, 2) for c in cpus if c > 0.01),
        )  # fmt: skip
        say(
            f"{system}, {n} a request, {kind} {level:g}: {s.per_s:,.0f} answers/s, "
            f"p50 {1e3 * s.p50_s:.1f} ms, p99 {1e3 * s.p99_s:.1f} ms, {s.statuses}"
        )
        return cell


@contextmanager
def big_requests(port: int, request: bytes) -> Iterator[None]:
    """Sends one large request after the other, from a process of its own, while the block runs."""
    command = [sys.executable, __file__, "--repeat", str(port)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdin
    assert process.stdout
    try:
        process.stdin.write(request)
        process.stdin.close()
        process.stdout.readline()  # the first one is on its way
        yield
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def repeat(port: int) -> None:
    """The other side of ``big_requests``: until it is killed."""
    import socket

    request = sys.stdin.buffer.read()
    print("sent", flush=True)
    while True:
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.sendall(request)
            head = b""
            while b"\r\n\r\n" not in head:
                head += sock.recv(65536)
            if not head.startswith(b"HTTP/1.1 200"):
                raise ValueError(head.decode(errors="replace"))
            at = head.lower().index(b"content-length:") + 15
            n_left = int(head[at : head.index(b"\r\n", at)]) - len(head.partition(b"\r\n\r\n")[2])
            while n_left > 0:
                n_left -= len(sock.recv(1 << 20))


def say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def rounds(plan: Plan, measure: Callable[[int], Round], clock: Callable[[], float]) -> list[Round]:
    """As many as the plan says, or as there is time for: one at least."""
    began = clock()
    found: list[Round] = []
    for number in range(plan.rounds):
        elapsed = clock() - began
        if found and elapsed * (number + 1) / number > 60 * plan.minutes:
            say(f"{number} rounds: another would take longer than {plan.minutes:g} minutes in all")
            break
        found.append(measure(number))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=ROOT / "artefacts" / "en-person")
    parser.add_argument("--data", type=Path, default=texts.DATA, metavar="FOLDER", help="the labelled sets")
    parser.add_argument("--peer-python", help="the interpreter that has the peers; default: no peers")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1.0, help="of one run, at least")
    parser.add_argument(
        "--overload-seconds",
        type=float,
        default=4.0,
        help=f"of one beyond {_OVERLOAD:g} times the capacity",
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=12.0, help="no round begins that would end later")
    parser.add_argument("--sizes", type=int, nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--concurrency", type=int, nargs="+", default=list(CONCURRENCY))
    parser.add_argument("--offered", type=float, nargs="*", default=list(OFFERED), metavar="TIMES")
    parser.add_argument("--cores", type=int, nargs="+", help="that everything runs on; default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "load")
    parser.add_argument("--repeat", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.repeat:
        repeat(given.repeat)
    if threading.current_thread() is threading.main_thread():
        servers.stop_as_interrupted()
    try:
        _measure(given)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        return 130
    return 0


def _measure(given: argparse.Namespace) -> None:
    for name in ("workers", "seconds", "overload_seconds", "rounds", "minutes"):
        if not getattr(given, name) > 0:
            raise ValueError(f"--{name} is {getattr(given, name)}: more than 0 is expected")
    if given.cores:
        os.sched_setaffinity(0, given.cores)
    peers = [peer for peer in PEERS if peer in given.peers] if given.peer_python else []
    plan = Plan(
        given.model.resolve(), given.workers, given.peer_python or "", given.seconds,
        given.overload_seconds, given.rounds, given.minutes, tuple(given.sizes),
        tuple(given.concurrency), tuple(given.offered), (OURS, *peers, ECHO, BYTES),
    )  # fmt: skip
    found = texts.real_sentences(given.data, given.seed)
    where = machine(max(os.sched_getaffinity(0))) | {"cores": sorted(os.sched_getaffinity(0))}
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(plan, found.sentences, Path(scratch))
        bench.write_answers()
        measured = rounds(plan, bench.round, time.monotonic)
    options = {
        "model": plan.model.name, "workers": plan.workers, "seconds": plan.seconds, "seed": given.seed,
        "texts": found.source, "n_sentences": len(found.sentences),
    }  # fmt: skip
    print(write(given.out, measured, where, options))


if __name__ == "__main__":
    sys.exit(main())
