"""python benchmarks/backends.py [MODEL]: the kernel and ONNX Runtime against torch on this CPU.

All run in one process, in turn, on one thread; medians over the rounds, and the ratio of each
round's pairs. The text is the project's own corpus, tokenised outside the clock.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from model.tagger import Tagger

ROOT = Path(__file__).parent.parent


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", type=Path, default=ROOT / "artefacts" / "en-person")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    taggers = {
        name: Tagger.load(arguments.model, device="cpu", backend=name, threads=1)
        for name in ("kernel", "onnx", "torch")
    }
    lines = (ROOT / "training" / "people" / "test.jsonl").read_text("utf-8").splitlines()
    sentences = [taggers["onnx"].tokenise(json.loads(line)["text"]).texts for line in lines] * 8
    n_words = sum(map(len, sentences))
    works: dict[str, Callable[[Tagger], object]] = {
        "one sentence at a time": lambda tagger: [tagger.tag([s]) for s in sentences[:200]],
        "batches of 1,024 padded tokens": lambda tagger: tagger.tag_all(sentences),
    }
    n_done = {"one sentence at a time": sum(map(len, sentences[:200]))}
    print(f"{len(sentences)} sentences, {n_words} words, one thread, median of {arguments.rounds} rounds")
    for what, work in works.items():
        rates: dict[str, list[float]] = {name: [] for name in taggers}
        for tagger in taggers.values():
            work(tagger)  # warm up: word types cached, kernels chosen
        for _ in range(arguments.rounds):
            for name, tagger in taggers.items():
                rates[name].append(n_done.get(what, n_words) / _seconds(partial(work, tagger)))
        ratios = {
            name: statistics.median(a / b for a, b in zip(rate, rates["torch"], strict=True))
            for name, rate in rates.items()
        }
        figures = ", ".join(f"{name} {statistics.median(r):,.0f} words/s" for name, r in rates.items())
        print(
            f"{what}: {figures}; times torch: "
            + ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items())
        )


if __name__ == "__main__":
    main()
