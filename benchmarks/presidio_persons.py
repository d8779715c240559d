"""python benchmarks/presidio_persons.py FILE…: what Presidio finds with our recogniser, and with spaCy's.

Both run in the environment of --peer-python (`make peers`), a process each, one after the other, on
the same texts; each tags all of them once to warm up, unless --cold, and once more against the clock.
A person of the file is found where a span touches one of its tokens, and found exactly where a span
has exactly its tokens. The table goes to stdout, in Markdown.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a script's own folder is on the path, and not what is beside it

from benchmarks.operating_points import Process, texts_of  # noqa: E402
from benchmarks.peers import Spans  # noqa: E402
from model.labels import PERSON, spans_of  # noqa: E402
from model.tokeniser import tokeniser  # noqa: E402
from training.corpus import Sentence, read_corpus  # noqa: E402

SYSTEMS = ("presidio", "presidio-nametag")


def found(gold: Sequence[Spans], predicted: Sequence[Spans]) -> tuple[int, int]:
    """(persons that a span touches, persons that a span is)."""
    n_touched = n_exact = 0
    for persons, spans in zip(gold, predicted, strict=True):
        n_exact += len(set(persons) & set(map(tuple, spans)))
        n_touched += sum(any(a < end and start < b for a, b in spans) for start, end in persons)
    return n_touched, n_exact


def gold_of(sentences: Sequence[Sentence]) -> list[Spans]:
    return [
        [(span.start, span.end) for span in spans_of(each.labels) if span.entity_type == PERSON]
        for each in sentences
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--peer-python", default=ROOT / ".venv-peers" / "bin" / "python")
    parser.add_argument("--cold", action="store_true", help="do not warm up")
    given = parser.parse_args(arguments)
    tokenise = tokeniser("treebank-1")
    sentences = [s for file in given.files for s in read_corpus(file, tokenise=tokenise)]
    gold, texts = gold_of(sentences), texts_of(sentences)
    n_gold, n_words = sum(map(len, gold)), sum(len(s.tokens) for s in sentences)
    print(f"{n_gold} persons, {n_words} tokens\n\n| | found | exactly | spans | seconds | tokens/s |")
    print("|---|--:|--:|--:|--:|--:|")
    os.environ["PYTHONPATH"] = str(ROOT)
    for system in SYSTEMS:
        process = Process([str(given.peer_python), str(ROOT / "benchmarks" / "peers.py"), system], system)
        predicted = process.ask(tag_tokens=[s.tokens for s in sentences])["persons"]
        batch_size = process.about["batch_sizes"][-1]
        if not given.cold:
            process.ask(tag=texts, batch_size=batch_size)
        cpu_s = process.ask(tag=texts, batch_size=batch_size)["cpu_s"]
        process.close()
        touched, exact = found(gold, predicted)
        counts = f"{touched} | {exact} | {sum(map(len, predicted))}"
        print(f"| {process.about['name']} | {counts} | {cpu_s:.2f} | {n_words / cpu_s:,.0f} |")


if __name__ == "__main__":
    main()
