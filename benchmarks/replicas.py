"""python benchmarks/replicas.py: is a replica's end seen by anybody who asks?

Starts three replicas behind HAProxy with deploy/haproxy.cfg, sends them requests at a steady rate, twelve
at a time, of one sentence and of sixteen, and compares every answer with the one that a single replica
gave before, when nobody else asked. Meanwhile, in this order:

    steady     nothing is done
    roll       each replica in turn gets SIGTERM, must exit with 0, and is started again, over and over
               until --seconds have passed, but once at least
    kill       one is killed with SIGKILL, while it has requests in hand, and started again
    wedge      one stands still (SIGSTOP) until HAProxy has given up what it has in hand, and goes on

Writes OUT.json: for each part the requests, those that failed by cause, how often HAProxy asked another
replica, and the latencies. Exit code 1 where one request failed, or one replica did not exit with 0.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a script's own folder is on the path, and not what is beside it

import httpx  # noqa: E402
import orjson  # noqa: E402
import uvloop  # noqa: E402

from benchmarks import texts  # noqa: E402
from benchmarks.balanced import CONFIG, Balancer, Replica, balanced  # noqa: E402
from benchmarks.figures import Schedule, percentile  # noqa: E402
from benchmarks.wire import connect, http, read_answer  # noqa: E402

PATH = "/v1/tag"
N_TOGETHER = 16
BURST = 12  # requests sent at once, so that each replica has some in hand
DRAIN_DELAY_S = 3.0  # as deploy/haproxy.cfg says
MOST_SCORE_OFF = 1e-4
_ANSWER_S = 60.0
_WARNINGS = {
    "asked again": "haproxy_backend_retry_warnings_total",
    "moved to another replica": "haproxy_backend_redispatch_warnings_total",
}
_HOLD_S = 0.5  # a replica stands still for this long before it is killed, so that it has requests in hand
_IDLE_S = 20.0  # of a connection; HAProxy closes it after 30


@dataclass(frozen=True)
class Asked:
    """A request, and what a replica answered when nobody else asked."""

    body: bytes
    expected: Any


@dataclass
class Part:
    """What became of the requests that were sent in one part of the run."""

    name: str
    began_s: float
    seconds: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)  # to replicas, and what HAProxy did of it

    @property
    def n_failed(self) -> int:
        return self.failed.total()

    def as_json(self) -> dict[str, Any]:
        took_ms = {f"p{n}": round(1000 * percentile(self.latencies_s, n / 100), 1) for n in (50, 99)}
        return {
            "part": self.name,
            "seconds": round(self.seconds, 1),
            "requests": len(self.latencies_s) + self.n_failed,
            "failed": dict(self.failed.most_common()),
            **self.done,
            "latency_ms": {**took_ms, "max": round(1000 * max(self.latencies_s, default=0.0), 1)},
        }


def difference(found: Any, expected: Any, place: str = "answer") -> str | None:
    """Where two answers differ by more than rounding; None where they do not. Quotes nothing."""
    if isinstance(expected, float) and isinstance(found, float):
        return None if abs(found - expected) <= MOST_SCORE_OFF else place
    if isinstance(expected, dict) and isinstance(found, dict) and found.keys() == expected.keys():
        pairs = [(f"{place}.{key}", found[key], expected[key]) for key in expected]
    elif isinstance(expected, list) and isinstance(found, list) and len(found) == len(expected):
        pairs = [(f"{place}[{i}]", *pair) for i, pair in enumerate(zip(found, expected, strict=True))]
    else:
        return None if found == expected else place
    return next(filter(None, (difference(a, b, at) for at, a, b in pairs)), None)


class Client:
    """Sends requests at a steady rate, in bursts, each on a connection that is free, until told to stop."""

    def __init__(self, port: int, asked: Sequence[Asked], part: Part) -> None:
        self.part = part
        self._port = port
        self._asked = asked
        self._free: list[tuple[float, asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._under_way: set[asyncio.Task[None]] = set()
        self._told = False

    async def run(self, rate_per_s: float) -> None:
        began = time.monotonic()
        schedule = Schedule(rate_per_s, 1e6)
        for number, asked in enumerate(cycle(self._asked)):
            due_s = schedule.due_s(number - number % BURST)
            await asyncio.sleep(max(0.0, began + due_s - time.monotonic()))
            if self._told:
                break
            task = asyncio.create_task(self._ask(asked, self.part))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
        await asyncio.gather(*self._under_way)
        for _, _, writer in self._free:
            writer.close()

    def stop(self) -> None:
        self._told = True

    async def _ask(self, asked: Asked, part: Part) -> None:
        began = time.monotonic()
        try:
            async with asyncio.timeout(_ANSWER_S):
                cause = await self._failure(asked)
        except TimeoutError:
            cause = f"no answer within {_ANSWER_S:g} seconds"
        except (ConnectionError, asyncio.IncompleteReadError):
            cause = "the connection was lost"
        if cause is None:
            part.latencies_s.append(time.monotonic() - began)
        else:
            part.failed[cause] += 1

    async def _failure(self, asked: Asked) -> str | None:
        reader, writer = await self._connection()
        try:
            writer.write(http("POST", PATH, asked.body))
            answer = await read_answer(reader)
        except BaseException:
            writer.close()
            raise
        if answer.headers.get("connection") == "close":
            writer.close()
        else:
            self._free.append((time.monotonic(), reader, writer))
        if answer.status != 200:
            with suppress(ValueError, KeyError):  # HAProxy's own are HTML
                return f"status {answer.status} {orjson.loads(answer.body)['code']}"
            return f"status {answer.status}"
        place = difference(orjson.loads(answer.body), asked.expected)
        return f"another answer: {place}" if place else None

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._free:
            since, reader, writer = self._free.pop()
            if time.monotonic() < since + _IDLE_S and not reader.at_eof():
                return reader, writer
            writer.close()
        return await connect(self._port)


class Run:
    """One run: the load, and what is done to the replicas meanwhile."""

    def __init__(
        self, balancer: Balancer, replicas: Sequence[Replica], asked: Sequence[Asked],
        answer_within_s: float,
    ) -> None:  # fmt: skip
        self.parts: list[Part] = []
        self.exit_codes: Counter[int] = Counter()
        self._balancer = balancer
        self._replicas = replicas
        self._answer_within_s = answer_within_s
        self._client = Client(balancer.port, asked, self._begin("steady"))

    def _begin(self, name: str) -> Part:
        print(f"{name} …", file=sys.stderr)
        self.parts.append(Part(name, time.monotonic()))
        return self.parts[-1]

    async def run(self, rate_per_s: float, seconds: float) -> None:
        load = asyncio.create_task(self._client.run(rate_per_s))
        counts = await asyncio.to_thread(self._balancer.counts)
        for number, step in enumerate((self._steady, self._roll, self._kill, self._wedge)):
            part = self._client.part if number == 0 else self._begin(step.__name__.strip("_"))
            self._client.part = part
            await step(part, seconds)
            part.seconds = time.monotonic() - part.began_s
            before, counts = counts, await asyncio.to_thread(self._balancer.counts)
            for name, metric in _WARNINGS.items():
                part.done[name] = int(counts[metric] - before[metric])
        self._client.stop()
        await load

    async def _steady(self, part: Part, seconds: float) -> None:  # noqa: ARG002
        await asyncio.sleep(3.0)

    async def _roll(self, part: Part, seconds: float) -> None:
        ends = time.monotonic() + seconds
        while True:
            for replica in self._replicas:
                code = await asyncio.to_thread(replica.stop)
                self.exit_codes[code] += 1
                await self._start(replica)
                part.done["restarts"] += 1
            if time.monotonic() >= ends:
                return

    async def _start(self, replica: Replica) -> None:
        await asyncio.to_thread(replica.start)
        await asyncio.to_thread(self._balancer.await_state, replica, "UP")

    async def _kill(self, part: Part, seconds: float) -> None:  # noqa: ARG002
        replica = self._replicas[0]
        replica.send(signal.SIGSTOP)
        await asyncio.sleep(_HOLD_S)
        part.done["in hand when killed"] = await asyncio.to_thread(self._balancer.held_by, replica)
        await asyncio.to_thread(replica.kill)
        await asyncio.to_thread(self._balancer.await_state, replica, "DOWN")
        await self._start(replica)

    async def _wedge(self, part: Part, seconds: float) -> None:  # noqa: ARG002
        replica = self._replicas[1]
        replica.send(signal.SIGSTOP)
        await asyncio.to_thread(self._balancer.await_state, replica, "DOWN")
        part.done["in hand when left"] = await asyncio.to_thread(self._balancer.held_by, replica)
        await asyncio.sleep(self._answer_within_s + 1)
        replica.send(signal.SIGCONT)
        await asyncio.to_thread(self._balancer.await_state, replica, "UP")
        await asyncio.sleep(1.0)

    def report(self) -> dict[str, Any]:
        n_failed = sum(part.n_failed for part in self.parts)
        return {
            "passed": n_failed == 0 and set(self.exit_codes) <= {0},
            "requests": sum(len(part.latencies_s) for part in self.parts) + n_failed,
            "failed": n_failed,
            "exit_codes": dict(self.exit_codes),
            "parts": [part.as_json() for part in self.parts],
        }


def asked_alone(port: int, sentences: Sequence[str]) -> list[Asked]:
    """Requests of one sentence and of sixteen, in turn, with a replica's answers to each alone."""
    singles = [[sentence] for sentence in sentences]
    wanted = [each for pair in zip(singles, cycle(texts.groups(sentences, N_TOGETHER))) for each in pair]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        found = []
        for each in wanted:
            body = orjson.dumps({"sentences": each})
            answer = client.post(PATH, content=body, headers={"content-type": "application/json"})
            found.append(Asked(body, answer.raise_for_status().json()))
    return found


def measure(
    model: Path, *, rate_per_s: float, seconds: float, answer_within_s: float, config: Path = CONFIG,
    sentences: Sequence[str],
) -> dict[str, Any]:  # fmt: skip
    """The report. Raises ValueError where HAProxy or a replica does not start."""
    starting = balanced(model, drain_delay_s=DRAIN_DELAY_S, answer_within_s=answer_within_s, config=config)
    with starting as (balancer, replicas):
        run = Run(balancer, replicas, asked_alone(replicas[0].port, sentences), answer_within_s)
        uvloop.run(run.run(rate_per_s, seconds))
    return {"rate_per_s": rate_per_s, "answer_within_s": answer_within_s, **run.report()}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="of rolling restarts")
    parser.add_argument("--rate", type=float, default=60.0, help="requests a second")
    parser.add_argument(
        "--answer-within", type=float, default=10.0, help="HAProxy's ANSWER_WITHIN, seconds"
    )
    parser.add_argument("--config", type=Path, default=CONFIG, help="another HAProxy configuration")
    parser.add_argument("--model", type=Path, default=ROOT / "artefacts" / "en-person")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "replicas")
    given = parser.parse_args(arguments)
    if not given.rate > 0 or not given.answer_within > 0:
        parser.error("--rate and --answer-within: more than 0 are expected")
    sentences = islice(texts.real_sentences(texts.DATA, given.seed).sentences, 100)
    try:
        report = measure(
            given.model.resolve(), rate_per_s=given.rate, seconds=given.seconds,
            answer_within_s=given.answer_within, config=given.config, sentences=list(sentences),
        )  # fmt: skip
    except (ValueError, OSError) as error:
        parser.error(str(error))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=1))
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
