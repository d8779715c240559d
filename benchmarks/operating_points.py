"""python benchmarks/operating_points.py: accuracy against speed, beside spaCy's small model and Presidio.

Text to labels on one core, `pip install ".[bench]"` first. Every system is a process of its own,
all on the same core with one thread each, and they take turns: each round gives all of them the
same text, which none has seen before, so that no cache knows more than its words. Words are what
white space separates. A rate is words per CPU second of the process and all its threads, as wall
time would count what else the machine does; ratios are medians over the rounds. A peer runs at
the fastest of its batch sizes. Accuracy is the strict F1 of persons on the tokens that the sets give.

Writes OUT.json and OUT.svg; the table goes to stdout, in Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a script's own folder is on the path, and not what is beside it

from benchmarks.peers import Spans, folder_bytes, serve  # noqa: E402
from model.labels import PERSON, Span, labels_of  # noqa: E402
from model.tagger import Tagger  # noqa: E402
from model.tokeniser import tokeniser  # noqa: E402
from training.corpus import Sentence, read_corpus  # noqa: E402
from training.evaluate import set_names  # noqa: E402
from training.metrics import SpanScores, span_scores  # noqa: E402

SETS = ("wikigold/test", "uner_en_ewt/dev", "conll2003/dev", "wnut17_nohandle/dev", "litbank/dev",
        "crossner_politics/test")  # fmt: skip
PEERS = ("spacy", "presidio")
BASE = "spacy"  # whose speed is 1
BAR = 10.0  # times BASE
_SENTENCES_IN_TEXT = 20  # most; a set's sentences are joined to texts
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")


class Nametag:
    """A model folder, as benchmarks.peers.System."""

    def __init__(self, folder: Path) -> None:
        self.tagger = Tagger.load(folder, device="cpu", threads=1)
        config = self.tagger.config
        self.about = {
            "name": folder.name,
            "versions": {config.name: config.version, "onnxruntime": version("onnxruntime")},
            "size_bytes": folder_bytes(folder),
            "batch_sizes": [self.tagger.backend.batch_tokens],
        }

    def tag(self, texts: Sequence[str], batch_size: int) -> list[Spans]:
        cut = [self.tagger.tokenise(text) for text in texts]
        sentences, places = [], []
        for number, (text, tokens) in enumerate(zip(texts, cut, strict=True)):
            for first, last in self.tagger.sentences(text, tokens):
                sentences.append(tokens.texts[first:last])
                places.append((number, first))
        persons: list[Spans] = [[] for _ in texts]
        tagged = self.tagger.tag_all(sentences, max_batch_tokens=batch_size)
        for (number, first), answer in zip(places, tagged, strict=True):
            tokens = cut[number]
            for one in answer.spans:
                if one.span.entity_type == PERSON:
                    start, last = first + one.span.start, first + one.span.end - 1
                    persons[number].append((tokens.starts[start], tokens.ends[last]))
        return persons

    def tag_tokens(self, sentences: Sequence[Sequence[str]]) -> list[Spans]:
        return [
            [(s.span.start, s.span.end) for s in answer.spans if s.span.entity_type == PERSON]
            for answer in self.tagger.tag_all(sentences)
        ]


class Process:
    """A system's process, through its pipe."""

    def __init__(self, command: Sequence[str], what: str) -> None:
        environment = os.environ | dict.fromkeys(_ONE_THREAD, "1")
        self.what = what
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
        )
        self.about: dict[str, Any] = self._read()["about"]

    def ask(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            hint = ': is it installed? pip install ".[bench]"' if self.what in PEERS else ""
            raise ValueError(f"{self.what}: its process ended with {self._process.wait()}{hint}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


@dataclass
class Measured:
    """One system's figures."""

    key: str
    about: dict[str, Any]
    sets: dict[str, SpanScores] = field(default_factory=dict)
    batch_size: int = 0
    words_per_cpu_s: list[float] = field(default_factory=list)  # one a round
    words_per_wall_s: list[float] = field(default_factory=list)
    peak_rss_bytes: int = 0

    @property
    def f1(self) -> float:
        """The mean of the sets, 0..1."""
        return statistics.fmean(scores.f1 for scores in self.sets.values())

    @property
    def rate(self) -> float:
        return statistics.median(self.words_per_cpu_s)

    def times(self, base: Measured) -> float:
        """How many times as fast as ``base``, by the median round."""
        pairs = zip(self.words_per_cpu_s, base.words_per_cpu_s, strict=True)
        return statistics.median(mine / its for mine, its in pairs)


def texts_of(sentences: Sequence[Sentence]) -> list[str]:
    """A set's sentences as texts of at most _SENTENCES_IN_TEXT, one sentence a line."""
    texts = []
    for _, document in groupby(sentences, key=lambda sentence: sentence.document):
        lines = [" ".join(sentence.tokens) for sentence in document]
        for at in range(0, len(lines), _SENTENCES_IN_TEXT):
            texts.append("\n".join(lines[at : at + _SENTENCES_IN_TEXT]))
    return texts


def dealt(texts: Sequence[str], n_parts: int) -> list[list[str]]:
    """The texts in parts of about as many of each set. Raises ValueError where a part would be empty."""
    if len(texts) < n_parts:
        raise ValueError(
            f"{len(texts)} texts for {n_parts} rounds, warm-up included: text for each is expected"
        )
    return [list(texts[i::n_parts]) for i in range(n_parts)]


def n_words(texts: Sequence[str]) -> int:
    return sum(len(text.split()) for text in texts)


@contextmanager
def _on_core(core: int) -> Iterator[None]:
    """Everything started meanwhile runs on that core, and so does this."""
    if not hasattr(os, "sched_setaffinity"):
        raise ValueError("this system cannot keep a process on one core")
    before = os.sched_getaffinity(0)
    if core not in before:
        raise ValueError(f"core {core} is not one of {sorted(before)}")
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def measure_accuracy(process: Process, measured: Measured, sets: Mapping[str, Sequence[Sentence]]) -> None:
    for name, sentences in sets.items():
        found = process.ask(tag_tokens=[list(sentence.tokens) for sentence in sentences])["persons"]
        predicted = [
            labels_of([Span(first, last, PERSON) for first, last in spans], len(sentence.tokens))
            for spans, sentence in zip(found, sentences, strict=True)
        ]
        measured.sets[name] = span_scores([sentence.labels for sentence in sentences], predicted)


def measure_speed(systems: Sequence[tuple[Process, Measured]], parts: Sequence[Sequence[str]]) -> None:
    """Part 0 warms up and chooses the batch size; each other part is a round."""
    warm_up, *rounds = parts
    for process, measured in systems:
        sizes = measured.about["batch_sizes"]
        process.ask(tag=warm_up, batch_size=sizes[-1])
        measured.batch_size = min(
            sizes, key=lambda size: process.ask(tag=warm_up, batch_size=size)["cpu_s"]
        ) if len(sizes) > 1 else sizes[0]  # fmt: skip
    for number, texts in enumerate(rounds):
        words = n_words(texts)
        # To and fro, so that nobody is always the first after a change of the machine's load.
        for process, measured in systems[:: -1 if number % 2 else 1]:
            took = process.ask(tag=texts, batch_size=measured.batch_size)
            measured.words_per_cpu_s.append(words / took["cpu_s"])
            measured.words_per_wall_s.append(words / took["wall_s"])
        rates = ", ".join(f"{m.key} {m.words_per_cpu_s[-1]:,.0f}" for _, m in systems)
        print(f"round {number + 1}: {words:,} words; words/s: {rates}", file=sys.stderr)
    for process, measured in systems:
        measured.peak_rss_bytes = process.ask(peak_rss=None)["peak_rss_bytes"]


def machine(core: int) -> dict[str, Any]:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        cpu = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor()
    return {
        "cpu": cpu,
        "n_cpus": os.cpu_count(),
        "core": core,
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_1_min": os.getloadavg()[0],
        "date": time.strftime("%Y-%m-%d"),
    }


def as_json(
    measured: Sequence[Measured], where: dict[str, Any], n_texts: int, words: int
) -> dict[str, Any]:
    base = next((one for one in measured if one.key == BASE), None)
    return {
        "machine": where,
        "speed_texts": {"n_texts": n_texts, "n_words": words},
        "systems": [
            {
                "key": one.key,
                **one.about,
                "batch_size": one.batch_size,
                "mean_f1": one.f1,
                "sets": {
                    name: {"precision": s.precision, "recall": s.recall, "f1": s.f1}
                    for name, s in one.sets.items()
                },
                "words_per_cpu_s": one.rate,
                "words_per_wall_s": statistics.median(one.words_per_wall_s),
                f"times_{BASE}": one.times(base) if base else None,
                "rounds": {
                    "words_per_cpu_s": one.words_per_cpu_s,
                    "words_per_wall_s": one.words_per_wall_s,
                },
                "peak_rss_bytes": one.peak_rss_bytes,
            }
            for one in measured
        ],
    }


def markdown(measured: Sequence[Measured]) -> str:
    """Two tables: the operating points, and the F1 of each set, in per cent."""
    base = next((one for one in measured if one.key == BASE), None)

    def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
        rule = ["---", *["--:"] * (len(heads) - 1)]
        return "\n".join("| " + " | ".join(row) + " |" for row in (heads, rule, *rows))

    points = [
        [
            one.about["name"],
            f"{100 * one.f1:.1f}",
            f"{one.rate:,.0f}",
            f"{one.times(base):.1f}" if base else "–",
            f"{one.about['size_bytes'] / 1e6:.1f}",
            f"{one.peak_rss_bytes / 1e6:,.0f}",
        ]
        for one in measured
    ]
    heads = ("system", "F1, mean of sets", "words/s", "times spaCy sm", "on disk, MB", "peak memory, MB")
    by_set = [[name, *(f"{100 * one.sets[name].f1:.1f}" for one in measured)] for name in measured[0].sets]
    return "\n\n".join(
        (table(heads, points), table(("F1", *(one.about["name"] for one in measured)), by_set))
    )


def plot(measured: Sequence[Measured]) -> str:
    """F1 over words/s as an SVG that knows the reader's light or dark."""
    import matplotlib
    from matplotlib.ticker import FuncFormatter, NullFormatter

    # The report's own look, which has one place.
    from training.report import _FAINT, _FIRST, _INK, _SECOND, _STYLE, _axes, _svg

    base = next((one for one in measured if one.key == BASE), None)
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes(
            "words a second on one core, text to labels", "F1 of persons, mean of sets, %", 3.4
        )
        axes.set_xscale("log")
        # Names in turn above and below: neighbours on the speed axis may be close.
        for place, one in enumerate(sorted(measured, key=lambda m: m.rate)):
            colour = _SECOND if one.key in PEERS else _FIRST
            x, y = one.rate, 100 * one.f1
            axes.plot([x], [y], "o", color=colour, markersize=8, clip_on=False)
            axes.annotate(
                one.about["name"],
                (x, y),
                (0, -18 if place % 2 else 9),
                textcoords="offset points",
                ha="center",
                color=_INK,
            )
        rates = [one.rate for one in measured] + ([BAR * base.rate] if base else [])
        axes.set_xlim(min(rates) / 2.2, max(rates) * 2.2)
        low, high = axes.get_ylim()
        axes.set_ylim(low - 0.12 * (high - low), high + 0.12 * (high - low))
        if base:
            axes.axvline(BAR * base.rate, color=_FAINT, linewidth=1.2, linestyle=(0, (4, 3)))
            where = (BAR * base.rate, 0.02)
            axes.annotate(
                f" {BAR:g} × spaCy sm", where, xycoords=("data", "axes fraction"), color=_INK, fontsize=9
            )
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        markup = _svg(figure, "Accuracy against speed: F1 of persons over words a second")
    return standalone(markup)


def standalone(markup: str) -> str:
    """A figure of the report's page as a file of its own: with its name spaces and the page's colours."""
    from training.report import _CSS

    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    colours = _CSS[: _CSS.index("* {")].strip()
    opened, rest = markup.split(">", 1)
    font = "text{font-family:system-ui,sans-serif}"
    return f"{opened.replace('<svg', f'<svg {spaces}', 1)}>\n<style>{colours}\n{font}</style>{rest}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "files", nargs="*", type=Path, metavar="FILE", help="labelled sets; default: --data's"
    )
    parser.add_argument("--model", type=Path, action="append", help="a model folder; may be repeated")
    parser.add_argument(
        "--data", type=Path, default=ROOT.parent / "shared" / "data" / "ner", metavar="FOLDER"
    )
    parser.add_argument(
        "--text", type=Path, help="measure speed on this text, a blank line between documents"
    )
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--peer-python", default=sys.executable, help="the interpreter that has the peers")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--core", type=int, help="default: the last that this process may use")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "operating-points")
    parser.add_argument(
        "--serve", type=Path, help=argparse.SUPPRESS
    )  # what the model's own process is started with
    given = parser.parse_args(arguments)
    if given.serve:
        serve(Nametag(given.serve), sys.stdin, sys.stdout)
        return
    try:
        _run(given)
    except (ValueError, OSError) as error:
        parser.error(str(error))


def _run(given: argparse.Namespace) -> None:
    if given.rounds < 1:
        raise ValueError(f"--rounds is {given.rounds}: at least 1 is expected")
    models = given.model or [ROOT / "artefacts" / "en-person"]
    files = given.files or [given.data / f"{name}.iob.xz" for name in SETS]
    read = partial(read_corpus, entity_types=(PERSON,), tokenise=tokeniser("treebank-1"))
    sets = dict(zip(set_names(files), map(read, files), strict=True))
    if given.text:
        documents = given.text.read_text("utf-8").split("\n\n")
        texts = [document for document in documents if document.strip()]
    else:
        texts = [text for sentences in sets.values() for text in texts_of(sentences)]
    parts = dealt(texts, given.rounds + 1)
    core = given.core if given.core is not None else max(os.sched_getaffinity(0))
    commands = {str(folder): [sys.executable, __file__, "--serve", str(folder)] for folder in models}
    commands |= {
        peer: [given.peer_python, str(ROOT / "benchmarks" / "peers.py"), peer] for peer in given.peers
    }
    with _on_core(core), ExitStack() as stack:
        where = machine(core)
        systems = []
        for key, command in commands.items():
            process = Process(command, key)
            stack.callback(process.close)
            systems.append((process, Measured(key, process.about)))
        for process, measured in systems:
            measure_accuracy(process, measured, sets)
            print(f"{measured.key}: F1 {100 * measured.f1:.2f}", file=sys.stderr)
        measure_speed(systems, parts)
    found = [measured for _, measured in systems]
    given.out.parent.mkdir(parents=True, exist_ok=True)
    record = as_json(found, where, len(texts), n_words(texts))
    given.out.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    given.out.with_suffix(".svg").write_text(plot(found), encoding="utf-8")
    print(markdown(found))


if __name__ == "__main__":
    main()
