"""A corpus in, how fast each engine of ``nametag tag`` tags it, and whether their outputs are one, out.

    python benchmarks/bulk.py                     # a gigabyte through both engines, then ten kills of each
    python benchmarks/bulk.py --bytes 1e8 --engines local

The corpus is made of the raw texts at hand, as often as it takes: files of 64 MB, in turn text, lines
of JSON, and text in gzip. Rates are beside what one process and as many as there are workers tag in
memory of the same texts: before, after, and every minute, while the run is stopped. Then a part of the
corpus again, while processes are killed at random moments by SIGKILL, workers and the command in turn; a
command that ended is given again.

Linux only: it reads /proc. The Ray engine needs nametag[ray].
"""

from __future__ import annotations

import argparse
import gzip
import json
import lzma
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle, islice, zip_longest
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a script's own folder is on the path, and not what is beside it

from benchmarks.figures import slope_per_min  # noqa: E402
from benchmarks.in_process import Rate, in_memory  # noqa: E402
from benchmarks.operating_points import machine  # noqa: E402
from benchmarks.servers import family, kill_session, pss_bytes, rss_bytes, signal_session  # noqa: E402
from model.backend import usable_cpus  # noqa: E402
from service.cli.inputs import CHUNK_CHARS, Reading, chunks, opened  # noqa: E402
from service.cli.parts import MANIFEST  # noqa: E402
from service.cli.places import Input, inputs_of  # noqa: E402
from service.cli.records import Record  # noqa: E402

RAW = ROOT.parent / "shared" / "data" / "raw"
ENGINES = ("local", "ray")
_SUFFIXES = ("txt", "jsonl", "txt.gz")
_FILE_BYTES = 64_000_000
_WATCH_EVERY_S = 2.0
_STOP_EVERY_S, _STOPPED_S = 60.0, 3.0  # for what is measured beside, each
_SAMPLE_BYTES = 40_000_000


def paragraphs(raw: Path) -> Iterator[str]:
    """Those of all raw texts, again and again."""
    files = sorted(raw.glob("*.txt.xz"))
    if not files:
        raise ValueError(f"{raw}: *.txt.xz are expected there")
    for path in cycle(files):
        with lzma.open(path, "rt", encoding="utf-8") as lines:
            yield from (line.strip() for line in lines if not line.isspace())


def make_corpus(folder: Path, raw: Path, n_bytes: int) -> None:
    """So many bytes of text, or little more."""
    folder.mkdir(parents=True)
    texts = paragraphs(raw)
    n_files = max(len(_SUFFIXES), -(-n_bytes // _FILE_BYTES))
    for number in range(n_files):
        suffix = _SUFFIXES[number % len(_SUFFIXES)]
        path = folder / f"{number:03}.{suffix}"
        with gzip.open(path, "wb", compresslevel=1) if suffix == "txt.gz" else path.open("wb") as file:
            n = 0
            while n < n_bytes / n_files:
                text = next(texts)
                n += len(text.encode())
                line = json.dumps({"id": n, "text": text}) if suffix == "jsonl" else text + "\n"
                file.write((line + "\n").encode())


def sample(corpus: Path, n_bytes: int) -> list[list[str]]:
    """The texts of the first chunks of each file, in turn: files are of several kinds of text."""
    inputs = inputs_of([str(corpus)], None, None)
    most = -(-n_bytes // (CHUNK_CHARS * len(inputs)))
    by_file = [_first_chunks(read, most) for read in inputs]
    return [texts for some in zip_longest(*by_file) for texts in some if texts]


def _first_chunks(read: Input, most: int) -> list[list[str]]:
    source = opened(read, Reading())
    try:
        found = islice(chunks(source.records), most)
        return [[record.text for record in records if isinstance(record, Record)] for records in found]
    finally:
        source.close()


@dataclass
class Run:
    """One command, while it runs and afterwards. Memory is of it and all below it, in bytes."""

    process: subprocess.Popen[bytes]
    began_s: float = field(default_factory=time.monotonic)
    times_s: list[float] = field(default_factory=list)
    total: list[int] = field(default_factory=list)
    most_of_one: int = 0
    seconds: float = 0.0  # without those that it was stopped
    stopped_s: float = 0.0

    def watch(self, beside: Callable[[], None] | None = None) -> None:
        """Until it ends; every minute it is stopped, and something else measured."""
        stop_at = _STOP_EVERY_S
        while self.process.poll() is None:
            if beside and time.monotonic() - self.began_s > stop_at:
                with self._stopped():
                    beside()
                stop_at = time.monotonic() - self.began_s + _STOP_EVERY_S
            pids = family(self.process.pid)
            self.times_s.append(time.monotonic() - self.began_s)
            self.total.append(sum(filter(None, map(pss_bytes, pids))))
            self.most_of_one = max(self.most_of_one, *(rss_bytes(pid) or 0 for pid in pids))
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(_WATCH_EVERY_S)
        self.seconds = time.monotonic() - self.began_s - self.stopped_s

    @contextmanager
    def _stopped(self) -> Iterator[None]:
        began = time.monotonic()
        signal_session(self.process, signal.SIGSTOP)
        try:
            yield
        finally:
            signal_session(self.process, signal.SIGCONT)
            self.stopped_s += time.monotonic() - began

    def memory(self) -> dict[str, float]:
        half = len(self.total) // 2
        return {
            "most_mb": round(max(self.total) / 1e6),
            "most_of_a_process_mb": round(self.most_of_one / 1e6),
            "second_half_mb_per_min": round(slope_per_min(self.times_s[half:], self.total[half:]) / 1e6, 2),
        }


@contextmanager
def command(given: argparse.Namespace, engine: str, corpus: Path, out: Path) -> Iterator[Run]:
    arguments = [
        sys.executable, "-m", "service.cli", "tag", "--model", given.model, "--engine", engine,
        "--workers", given.workers, "--out", out, corpus,
    ]  # fmt: skip
    with out.with_suffix(".log").open("ab") as stderr:
        process = subprocess.Popen(
            [str(each) for each in arguments], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=stderr,
            start_new_session=True,
        )  # fmt: skip
    try:
        yield Run(process)
    finally:
        kill_session(process)


def differing(one: Path, other: Path) -> list[str]:
    """Names of outputs that are not the same bytes, or in one folder alone."""
    names = {name for out in (one, other) for name in json.loads((out / MANIFEST).read_bytes())["inputs"]}
    return sorted(n for n in names if subprocess.call(["cmp", "--silent", one / n, other / n]))


def killed(
    given: argparse.Namespace, engine: str, corpus: Path, out: Path, seconds: float
) -> dict[str, int]:
    """A run that is killed ``given.kills`` times, spread at random over what it takes undisturbed."""
    rng = random.Random(given.seed)
    counts = {"workers": 0, "commands": 0, "begun": 0}
    while True:
        counts["begun"] += 1
        with command(given, engine, corpus, out) as run:
            while (n := counts["workers"] + counts["commands"]) < given.kills:
                with suppress(subprocess.TimeoutExpired):
                    run.process.wait(rng.uniform(0.5, 1.5) * seconds / given.kills)
                    break
                what = ("workers", "commands")[n % 2]
                pids = [run.process.pid] if what == "commands" else busy_workers(run.process.pid)
                if pids:
                    os.kill(rng.choice(pids), signal.SIGKILL)
                    counts[what] += 1
            code = run.process.wait()
        if code == 0:
            return counts
        if code not in (1, -signal.SIGKILL):
            raise RuntimeError(f"{engine}: exit code {code} after a kill: see {out}.log")


def busy_workers(pid: int) -> list[int]:
    """Processes below a command that tag or read: not those that only keep others in order."""
    found = []
    for each in family(pid)[1:]:
        with suppress(OSError):
            line = Path(f"/proc/{each}/cmdline").read_bytes()
            if line.startswith((b"ray::Map", b"ray::Read")) or b"spawn_main" in line:
                found.append(each)
    return found


def measure(rates: list[tuple[float, float]], rate_of: Rate, workers: int) -> None:
    """Adds the bytes a second in memory of one process, and of as many as there are workers."""
    rates.append((rate_of(1, _STOPPED_S), rate_of(workers, _STOPPED_S)))


def engines(given: argparse.Namespace) -> dict[str, Any]:
    """Each engine's rate and memory, and which outputs are not those of the first."""
    corpus = given.out / "corpus"
    make_corpus(corpus, given.raw, given.bytes)
    documents = sample(corpus, min(given.bytes, _SAMPLE_BYTES))
    found: dict[str, dict[str, Any]] = {}
    for engine in given.engines:
        out = given.out / engine
        rates: list[tuple[float, float]] = []
        with in_memory(given.model, documents, given.workers) as rate_of:
            beside = partial(measure, rates, rate_of, given.workers)
            beside()
            with command(given, engine, corpus, out) as run:
                run.watch(beside)
            beside()
        if run.process.returncode:
            raise RuntimeError(f"{engine}: exit code {run.process.returncode}: see {out}.log")
        one, together = (statistics.mean(each) for each in zip(*rates, strict=True))
        rate = given.bytes / run.seconds
        found[engine] = {
            "seconds": round(run.seconds, 1),
            "rates_in_memory": len(rates),
            "mb_per_s": round(rate / 1e6, 3),
            "one_in_memory_mb_per_s": round(one / 1e6, 3),
            "all_in_memory_mb_per_s": round(together / 1e6, 3),
            "of_workers_times_one": round(rate / (given.workers * one), 3),
            "of_all_in_memory": round(rate / together, 3),
            **run.memory(),
            "differing": differing(given.out / given.engines[0], out),
        }
        print(engine, json.dumps(found[engine], indent=1), flush=True)
    return found


def kills(given: argparse.Namespace) -> dict[str, Any]:
    """Engine → how often whom, and what differs from the output of a run that nobody disturbed."""
    if not given.kills:
        return {}
    corpus, expected = given.out / "kills", given.out / "undisturbed"
    make_corpus(corpus, given.raw, given.kill_bytes)
    with command(given, "local", corpus, expected) as run:
        run.watch()
    found = {}
    for engine in given.engines:
        out = given.out / f"{engine}-killed"
        counts = killed(given, engine, corpus, out, run.seconds)
        found[engine] = counts | {"differing": differing(expected, out)}
        print(engine, found[engine], flush=True)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bytes", type=lambda n: int(float(n)), default=10**9, help="of the corpus")
    parser.add_argument("--raw", type=Path, default=RAW, help="the folder of the raw texts")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--workers", type=int, default=usable_cpus())
    parser.add_argument("--kills", type=int, default=10, help="of each engine")
    parser.add_argument("--kill-bytes", type=lambda n: int(float(n)), default=10**8, help="of their corpus")
    parser.add_argument("--model", type=Path, default=ROOT / "artefacts" / "en-person")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "bulk", help="emptied at first")
    given = parser.parse_args(arguments)
    given.out, given.model = given.out.resolve(), given.model.resolve()
    shutil.rmtree(given.out, ignore_errors=True)
    try:
        report = {
            "machine": machine(0), "bytes": given.bytes, "workers": given.workers,
            "engines": engines(given), "kills": kills(given),
        }  # fmt: skip
    except (ValueError, OSError) as error:
        parser.error(str(error))
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    (given.out / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return int(any(f["differing"] for part in ("engines", "kills") for f in report[part].values()))


if __name__ == "__main__":
    sys.exit(main())
