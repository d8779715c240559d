"""A labelled file in, how much faster several processes train on it than one out, and whether as well.

    python benchmarks/ranks.py TRAIN --dev DEV --epochs 5 --seeds 1 2 3 -- --types PER

For each seed the same `python -m training train`, by itself and under torchrun, in turn, one thread a
process; what follows `--` goes to both. Sentences a second are those trained on, over the seconds of an
epoch with its scoring of dev: the median of the epochs, without the first, which reads the data. F1 is
of dev, in the last epoch.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a script's own folder is on the path, and not what is beside it

from benchmarks.operating_points import machine  # noqa: E402
from benchmarks.servers import ONE_THREAD  # noqa: E402
from model.config import TaggerConfig  # noqa: E402
from model.tokeniser import tokeniser  # noqa: E402
from training.checkpoint import read_checkpoint  # noqa: E402
from training.corpus import iter_corpus  # noqa: E402
from training.fit import CHECKPOINT  # noqa: E402


@dataclass(frozen=True)
class Trained:
    """One run."""

    processes: int
    seed: int
    seconds: tuple[float, ...]  # of each epoch
    dev_f1: tuple[float, ...]  # after each, 0..1


def train(given: argparse.Namespace, processes: int, seed: int) -> Trained:
    """Raises RuntimeError where the command fails."""
    run = given.out / f"{processes}-{seed}"
    command = ["-m", "training", "train", given.train, "--dev", given.dev, "--epochs", given.epochs]
    command += ["--seed", seed, "--out", run / "model", "--run-folder", run, *given.options]
    if processes > 1:
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes]
        command = [*torchrun, *command]
    ended = subprocess.run(
        [sys.executable, *map(str, command)], cwd=ROOT, env={**os.environ, **ONE_THREAD},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    if ended.returncode:
        raise RuntimeError(f"seed {seed}, {processes} processes: {ended.stderr[-2000:]}")
    history = read_checkpoint(run / CHECKPOINT)[1]["history"]
    return Trained(
        processes, seed, tuple(e["seconds"] for e in history), tuple(e["dev_f1"] for e in history)
    )


def summary(runs: Sequence[Trained], processes: int, n_sentences: int) -> dict[str, float]:
    """Of the runs of so many processes."""
    of = [run for run in runs if run.processes == processes]
    later = [seconds for run in of for seconds in run.seconds[1:] or run.seconds]
    return {
        "sentences_per_s": round(n_sentences / statistics.median(later), 1),
        "dev_f1": round(100 * statistics.fmean(run.dev_f1[-1] for run in of), 2),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("train", type=Path)
    parser.add_argument("--dev", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "ranks", help="emptied at first")
    own = list(sys.argv[1:] if arguments is None else arguments)
    at = own.index("--") if "--" in own else len(own)
    given = parser.parse_args(own[:at])
    given.options = own[at + 1 :]
    given.train, given.dev, given.out = (p.resolve() for p in (given.train, given.dev, given.out))
    shutil.rmtree(given.out, ignore_errors=True)
    n_sentences = sum(1 for _ in iter_corpus(given.train, tokenise=tokeniser(TaggerConfig("").tokeniser)))
    runs: list[Trained] = []
    for seed in given.seeds:
        for processes in (1, given.processes):
            runs.append(train(given, processes, seed))
            print(runs[-1], file=sys.stderr, flush=True)
    alone, together = (summary(runs, n, n_sentences) for n in (1, given.processes))
    report = {
        "machine": machine(0), "train": given.train.name, "options": given.options,
        "one": alone, "together": together,
        "times": round(together["sentences_per_s"] / alone["sentences_per_s"], 2),
        "runs": [asdict(run) for run in runs],
    }  # fmt: skip
    (given.out / "ranks.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({key: report[key] for key in ("one", "together", "times")}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
