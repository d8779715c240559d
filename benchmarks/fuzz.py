"""python benchmarks/fuzz.py -n 100000: broken HTTP requests, and a service that has to survive them.

Starts the service with two workers and sends the requests of benchmarks/mutants.py, each on a connection
of its own. Wrong is a status of 500 or more, but for 503 and 504, which are documented; a worker that
dies; an error in the log; another answer than expected to a plain request, which is sent every now and
then and at the end; another exit code than 0. What is wrong is told with the request's number, and
`--only NUMBER` sends that one alone and prints it.

Writes OUT.json; exit code 1 where something was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a script's own folder is on the path, and not what is beside it

import orjson  # noqa: E402
import uvloop  # noqa: E402

from benchmarks import servers, texts  # noqa: E402
from benchmarks.chaos import worker_pids  # noqa: E402
from benchmarks.mutants import mutant  # noqa: E402
from benchmarks.soak import Oracle, check_log, difference  # noqa: E402
from benchmarks.soak_report import Ledger  # noqa: E402
from benchmarks.wire import connect, read_answer  # noqa: E402
from model.tagger import Tagger  # noqa: E402

_AT_ONCE = 64
_CHECK_EVERY = 1_000
_PLAIN = "Ada Lovelace met Charles Babbage in London ."
# Truncated requests are never answered, and others at once; what the client misses, the log has.
_FIRST_S, _NEXT_S = 0.15, 0.03
_STATUS = re.compile(rb"HTTP/1\.1 (\d\d\d) ")


@dataclass
class Fuzz:
    """One run against a running service."""

    server: servers.Server
    oracle: Oracle
    seed: int
    ledger: Ledger = field(default_factory=Ledger)
    statuses: Counter[str] = field(default_factory=Counter)

    async def send(self, number: int) -> bytes:
        """What comes back for one mutant."""
        found = b""
        try:
            reader, writer = await connect(self.server.port)
        except OSError as error:
            self.ledger.fail(f"request {number}: cannot connect, {type(error).__name__}")
            return found
        try:
            for piece in mutant(self.seed, number):
                writer.write(piece)
                await writer.drain()
            wait_s = _FIRST_S
            while part := await asyncio.wait_for(reader.read(1 << 16), wait_s):
                found += part
                wait_s = _NEXT_S
        except (TimeoutError, ConnectionError):
            pass
        finally:
            writer.transport.abort()
        statuses = [int(status) for status in _STATUS.findall(found)]
        for status in statuses:
            self.statuses[str(status)] += 1
            if status >= 500 and status not in (503, 504):
                self.ledger.fail(f"request {number}: status {status}")
        if not statuses:
            self.statuses["none"] += 1
        return found

    async def check(self) -> None:
        """A plain request has its answer, on several connections so that each worker is asked."""
        for _ in range(8):
            reader, writer = await connect(self.server.port)
            try:
                writer.write(texts.tag_request([_PLAIN]))
                answer = await asyncio.wait_for(read_answer(reader), 30)
            except (OSError, EOFError) as error:  # a TimeoutError is an OSError
                self.ledger.fail(f"a plain request: {type(error).__name__}")
                continue
            finally:
                writer.close()
            if self.ledger.answered("plain", answer.status, 200):
                entries = orjson.loads(answer.body)["sentences"]
                if wrong := difference(entries, [self.oracle.sentence(_PLAIN)]):
                    self.ledger.fail(f"a plain request: {wrong}")

    async def run(self, n: int) -> None:
        for first in range(0, n, _CHECK_EVERY):
            numbers = iter(range(first, min(n, first + _CHECK_EVERY)))

            async def some(mine: Any = numbers) -> None:
                for number in mine:
                    await self.send(number)

            await asyncio.gather(*(some() for _ in range(_AT_ONCE)))
            await self.check()


def fuzz(model: Path, n: int, seed: int) -> dict[str, Any]:
    """The report of one run."""
    oracle = Oracle(Tagger.load(model, device="cpu", threads=1))
    how = servers.nametag(model, 2)
    with servers.started(*how, ready=servers.NAMETAG_READY, n_ready=2) as server:
        it = Fuzz(server, oracle, seed)
        pids = worker_pids(server)
        began = time.perf_counter()
        uvloop.run(it.run(n))
        took_s = time.perf_counter() - began
        if worker_pids(server) != pids or len(server.ready) != 2:
            it.ledger.fail("a worker died")
        code = server.stop()
        if code != 0:
            it.ledger.fail(f"exit code {code} after SIGTERM, 0 is expected")
        check_log(server, it.ledger)
    return {
        "passed": not it.ledger.n_failures,
        "n_requests": n,
        "per_s": n / took_s,
        "seed": seed,
        "statuses": dict(it.statuses.most_common()),
        "n_failures": it.ledger.n_failures,
        "failures": it.ledger.failures,
    }


def only(model: Path, seed: int, number: int) -> None:
    """Prints one mutant, and what comes back."""
    oracle = Oracle(Tagger.load(model, device="cpu", threads=1))
    how = servers.nametag(model, 1)
    with servers.started(*how, ready=servers.NAMETAG_READY, n_ready=1) as server:
        print(*mutant(seed, number), sep="\n")
        print(uvloop.run(Fuzz(server, oracle, seed).send(number)))
        server.stop()
        print("".join(server.log))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", type=int, default=100_000, help="requests")
    parser.add_argument("--model", type=Path, default=ROOT / "artefacts" / "en-person")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, metavar="NUMBER")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "fuzz")
    given = parser.parse_args(arguments)
    if given.n < 1:
        parser.error(f"-n is {given.n}: at least 1 is expected")
    try:
        if given.only is not None:
            only(given.model.resolve(), given.seed, given.only)
            return 0
        report = fuzz(given.model.resolve(), given.n, given.seed)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        return 130
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=1))
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
