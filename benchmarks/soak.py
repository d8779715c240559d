"""python benchmarks/soak.py --minutes 30: does the service stay right, whatever is done to it?

Starts it with two workers and keeps it busy with single sentences, requests of 32, documents, odd
inputs (benchmarks/oddities.py), clients that hang up before or during the answer or are slow, and
streams; in the first third of the time, now and then processes are killed, and another version of the
model loaded and left again (benchmarks/chaos.py). Every request carries a key. Every answer is compared,
sentence by sentence, with what the Tagger says in this process of that sentence alone: equal labels, and
scores within 1e-4. Wrong is:

    another status than expected, 500 above all      another answer
    refusals (429, 503, 504), if more than 1 %       no answer at all
    a connection lost, unless a worker was killed    submitted text in the log, or an error there
    memory that grows by more than 1 MB a minute     another exit code than 0 at the end

Memory is judged over the second half of a run, if that is 5 minutes long.
Writes OUT.json; exit code 1 where something was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from random import Random
from typing import Any, TypeVar

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a script's own folder is on the path, and not what is beside it

import orjson  # noqa: E402

from benchmarks import servers, texts  # noqa: E402
from benchmarks.chaos import Chaos, Place, offloaded_pids, place, worker_pids  # noqa: E402
from benchmarks.oddities import PATH, Oddity, document, oddities  # noqa: E402
from benchmarks.soak_report import Ledger, Loss, Memory, verdict  # noqa: E402
from benchmarks.wire import Answer, connect, http, read_answer  # noqa: E402
from model.head import Tagged  # noqa: E402
from model.tagger import Tagger  # noqa: E402

STREAM = "/v1/tag/stream"
MOST_SCORE_OFF = 1e-4
CANARY = "Lovelace"  # a name in many of the odd inputs: it must not be in the log
# Workers are killed in the first part of the time, and memory is judged over the last: in between,
# those that came late warm up.
_CHAOS_SHARE, _WARM_SHARE = 0.3, 0.5
_SAMPLE_S = 1.0
_ANSWER_S = 90.0  # more than the deadline that the service itself keeps

Labelled = list[tuple[str, str, float]]  # token, label, score
Value = TypeVar("Value")
_GONE = (ConnectionError, asyncio.IncompleteReadError)


class Oracle:
    """What a sentence's answer must be, alone and anywhere."""

    def __init__(self, tagger: Tagger) -> None:
        self._tagger = tagger
        self._known: dict[str, Labelled] = {}

    def sentence(self, text: str) -> Labelled:
        found = self._known.get(text)
        if found is None:
            tokens = self._tagger.tokenise(text).texts
            found = self._known[text] = _labelled(tokens, *self._tagger.tag([tokens]))
        return found

    def document(self, text: str) -> list[Labelled]:
        (found,) = self._tagger.tag_texts([text])
        return [_labelled(tokens.texts, answer) for tokens, answer in found]


def _labelled(tokens: Sequence[str], answer: Tagged) -> Labelled:
    return list(zip(tokens, answer.labels, answer.scores, strict=True))


def difference(entries: Sequence[dict[str, Any]], expected: Sequence[Labelled]) -> str | None:
    """How an answer's sentences differ from what is expected, without quoting them; None if they do not."""
    if len(entries) != len(expected):
        return f"{len(entries)} sentences, {len(expected)} are expected"
    for i, (entry, labelled) in enumerate(zip(entries, expected, strict=True)):
        tokens = entry["tokens"]
        if len(tokens) != len(labelled):
            return f"sentence {i}: {len(tokens)} tokens, {len(labelled)} are expected"
        for j, (token, (text, label, score)) in enumerate(zip(tokens, labelled, strict=True)):
            if token["text"] != text or token["label"] != label:
                return f"sentence {i}, token {j}: {token['label']}, {label} is expected, or another token"
            if not abs(token["score"] - score) <= MOST_SCORE_OFF:
                return f"sentence {i}, token {j}: score {token['score']}, {score:.6f} is expected"
    return None


class Soak:
    """One soak of a running service."""

    def __init__(
        self, server: servers.Server, place: Place, oracle: Oracle, sentences: Sequence[str],
        seconds: float, seed: int,
    ) -> None:  # fmt: skip
        self.server = server
        self.place = place
        self.oracle = oracle
        self.seconds = seconds
        self.ledger = Ledger()
        self.memory = Memory(defaultdict(list), defaultdict(list))
        # Few enough that their words fit into the service's cache of word types, which then stays as it is.
        self.sentences = sentences[:2_000]
        self.documents = [document(self.sentences[at : at + 25]) for at in range(0, 500, 25)]
        self.oddities = oddities(seed)
        self._seed = seed
        self._began = time.monotonic()

    def now_s(self) -> float:
        return time.monotonic() - self._began

    @property
    def chaos_s(self) -> float:
        return _CHAOS_SHARE * self.seconds

    @property
    def calm_from_s(self) -> float:
        return _WARM_SHARE * self.seconds

    async def run(self) -> None:
        actors: list[Callable[[Random], Awaitable[None]]] = [
            *[self._single] * 4, *[self._of_32] * 2, self._document, self._odd, self._odd,
            self._hang_up_asking, self._hang_up_answered, self._slow_writer, self._slow_reader,
            self._stream,
        ]  # fmt: skip
        chaos = Chaos(self.server, self.place, self.ledger, self.now_s, self._one, _ANSWER_S)
        self._began = time.monotonic()
        works = [self._repeat(actor, Random(f"{self._seed} {i}")) for i, actor in enumerate(actors)]
        watching = asyncio.create_task(self._watch_memory())
        await asyncio.gather(*works, chaos.run(self.chaos_s))
        watching.cancel()
        self._sample_memory()

    async def _repeat(self, actor: Callable[[Random], Awaitable[None]], random: Random) -> None:
        """The same again until the time is over, on new connections."""
        while self.now_s() < self.seconds:
            opened_s = self.now_s()
            what = actor.__name__.strip("_").replace("_", " ")
            try:
                await actor(random)
            except _GONE:
                self.ledger.losses.append(Loss(what, opened_s, self.now_s()))
            except TimeoutError:
                self.ledger.fail(f"{what}: no answer within {_ANSWER_S:g} seconds")

    def _check(self, what: str, answer: Answer, expected: Sequence[Labelled]) -> None:
        if self.ledger.answered(what, answer.status, 200):
            self._compare(what, orjson.loads(answer.body)["sentences"], expected)

    def _compare(self, what: str, entries: Sequence[dict[str, Any]], expected: Sequence[Labelled]) -> None:
        self.ledger.n_checked += len(entries)
        if wrong := difference(entries, expected):
            self.ledger.fail(f"{what}: {wrong}")

    async def _ask(self, what: str, n: int, random: Random) -> None:
        """Requests of ``n`` sentences on one connection, for a while."""
        reader, writer = await connect(self.server.port)
        try:
            for _ in range(random.randint(1, 200 // n + 1)):
                asked = random.sample(self.sentences, n)
                writer.write(self.place.keyed(texts.tag_request(asked)))
                self._check(
                    what, await in_time(read_answer(reader)), [self.oracle.sentence(s) for s in asked]
                )
                if self.now_s() > self.seconds:
                    break
        finally:
            writer.close()

    async def _single(self, random: Random) -> None:
        await self._ask("single", 1, random)

    async def _of_32(self, random: Random) -> None:
        await self._ask("of 32", 32, random)

    async def _one(self, request: bytes) -> Answer:
        reader, writer = await connect(self.server.port)
        try:
            writer.write(self.place.keyed(request))
            return await in_time(read_answer(reader))
        finally:
            writer.close()

    async def _document(self, random: Random) -> None:
        text = random.choice(self.documents)
        answer = await self._one(http("POST", PATH, orjson.dumps({"text": text})))
        self._check("document", answer, self.oracle.document(text))

    async def _odd(self, random: Random) -> None:
        odd: Oddity = random.choice(self.oddities)
        try:
            answer = await self._one(odd.request)
        except ConnectionResetError:
            # Refused before its body was read, and hung up on: not every answer survives that. The
            # connection may be lost only where the request is one to refuse.
            if odd.status != 413:
                raise
            self.ledger.statuses[odd.name][0] += 1
            return
        if not self.ledger.answered(odd.name, answer.status, odd.status):
            return
        if odd.sentences is not None:
            expected = [self.oracle.sentence(s) for s in odd.sentences]
            self._compare(odd.name, orjson.loads(answer.body)["sentences"], expected)
        elif odd.status >= 400 and answer.headers["content-type"] != "application/problem+json":
            self.ledger.fail(f"{odd.name}: {answer.headers['content-type']} instead of a problem")

    async def _hang_up_asking(self, random: Random) -> None:
        request = self.place.keyed(texts.tag_request(random.sample(self.sentences, 32)))
        _, writer = await connect(self.server.port)
        writer.write(request[: random.randrange(len(request))])
        await asyncio.sleep(random.uniform(0, 0.2))
        self._hang_up(writer, random)

    async def _hang_up_answered(self, random: Random) -> None:
        reader, writer = await connect(self.server.port)
        asked = random.choices(self.sentences, k=random.choice((1, 32, 1_000)))
        writer.write(self.place.keyed(texts.tag_request(asked)))
        if random.random() < 0.5:
            await in_time(reader.read(100))
        else:
            await asyncio.sleep(random.uniform(0, 0.2))
        self._hang_up(writer, random)

    def _hang_up(self, writer: asyncio.StreamWriter, random: Random) -> None:
        """Politely, or with a reset."""
        self.ledger.n_hung_up += 1
        if random.random() < 0.5:
            writer.transport.abort()
        else:
            writer.close()

    async def _slow_writer(self, random: Random) -> None:
        asked = random.sample(self.sentences, 8)
        request = self.place.keyed(texts.tag_request(asked))
        reader, writer = await connect(self.server.port)
        try:
            step = len(request) // 20 + 1
            for at in range(0, len(request), step):
                writer.write(request[at : at + step])
                await asyncio.sleep(random.uniform(0, 0.15))
            answer = await in_time(read_answer(reader))
        finally:
            writer.close()
        self._check("slow writer", answer, [self.oracle.sentence(s) for s in asked])

    async def _slow_reader(self, random: Random) -> None:
        asked = random.choices(self.sentences, k=1_000)
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port, limit=1 << 12)
        try:
            writer.write(self.place.keyed(texts.tag_request(asked)))
            head = await in_time(reader.readuntil(b"\r\n\r\n"))
            n_left = int(head.lower().partition(b"content-length:")[2].split()[0])
            parts = []
            while n_left:
                await asyncio.sleep(0.002)
                parts.append(await in_time(reader.read(min(n_left, 1 << 14))))
                if not parts[-1]:
                    raise asyncio.IncompleteReadError(b"", n_left)
                n_left -= len(parts[-1])
        finally:
            writer.close()
        answer = Answer(int(head.split()[1]), {}, b"".join(parts))
        self._check("slow reader", answer, [self.oracle.sentence(s) for s in asked])

    async def _stream(self, random: Random) -> None:
        """Documents as lines, every tenth of them no JSON: that line fails, and no other."""
        chosen = random.choices(self.documents, k=random.randint(1, 30))
        lines = [b"{" if i % 10 == 9 else orjson.dumps({"text": text}) for i, text in enumerate(chosen)]
        body = b"\n".join(lines) + b"\n"
        answer = await self._one(http("POST", STREAM, body, content_type="application/x-ndjson"))
        if not self.ledger.answered("stream", answer.status, 200):
            return
        found = [orjson.loads(line) for line in answer.body.splitlines()]
        if len(found) != len(chosen):
            self.ledger.fail(f"stream: {len(found)} lines for {len(chosen)}")
            return
        for i, (text, line) in enumerate(zip(chosen, found, strict=True)):
            if i % 10 != 9:
                self._compare("stream", line.get("sentences", ()), self.oracle.document(text))
            elif line.get("code") != "not-json":
                self.ledger.fail(f"stream: line {i} is no JSON, and its answer does not say so")

    async def _watch_memory(self) -> None:
        while True:
            self._sample_memory()
            await asyncio.sleep(_SAMPLE_S)

    def _sample_memory(self) -> None:
        now = self.now_s()
        for pid in (*worker_pids(self.server), *offloaded_pids(self.server)):
            if (rss := servers.rss_bytes(pid)) is not None:
                self.memory.times_s[pid].append(now)
                self.memory.rss_bytes[pid].append(rss)


async def in_time(work: Coroutine[Any, Any, Value]) -> Value:
    """Raises TimeoutError where the service leaves it without an end."""
    return await asyncio.wait_for(work, _ANSWER_S)


def check_log(server: servers.Server, ledger: Ledger) -> None:
    """Errors that are the same but for their request are told once."""
    errors: Counter[str] = Counter()
    for line in server.log:
        if CANARY in line:
            ledger.fail("submitted text is in the log")
        if '"level":"error"' in line and "a worker died" not in line:
            entry = json.loads(line)
            errors[" ".join(str(entry.get(name, "")) for name in ("message", "error", "at"))] += 1
    for error, n in errors.items():
        ledger.fail(f"{n} times in the log: {error}")


def soak(model: Path, data: Path, seconds: float, seed: int) -> dict[str, Any]:
    """The report of one soak."""
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # writing after a reset is what we are here for
    found = texts.real_sentences(data, seed)
    oracle = Oracle(Tagger.load(model, device="cpu", threads=1))
    with (
        place(model) as where,
        servers.started(
            *servers.nametag(model, 2, sys.executable, **where.settings),
            ready=servers.NAMETAG_READY,
            n_ready=2,
        ) as server,
    ):
        it = Soak(server, where, oracle, found.sentences, seconds, seed)
        asyncio.run(it.run())
        code = server.stop()
        if code != 0:
            it.ledger.fail(f"exit code {code} after SIGTERM, 0 is expected")
        check_log(server, it.ledger)
    report = verdict(it.ledger, it.memory, seconds, it.calm_from_s)
    return report | {"exit_code": code, "model": model.name, "seed": seed, "texts": found.source}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--model", type=Path, default=ROOT / "artefacts" / "en-person")
    parser.add_argument("--data", type=Path, default=texts.DATA, metavar="FOLDER", help="the labelled sets")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "soak")
    given = parser.parse_args(arguments)
    if not given.minutes > 0:
        parser.error(f"--minutes is {given.minutes}: more than 0 is expected")
    servers.stop_as_interrupted()
    try:
        report = soak(given.model.resolve(), given.data, 60 * given.minutes, given.seed)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        return 130
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    del report["memory"]["series"]
    print(json.dumps(report, indent=1))
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
