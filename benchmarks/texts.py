"""Real text in, sentences and the requests that carry them out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

from benchmarks.client import http_request
from benchmarks.operating_points import ROOT, SETS
from model.labels import PERSON
from model.tokeniser import tokeniser
from training.cases import read_cases
from training.corpus import read_corpus

DATA = ROOT.parent / "shared" / "data" / "ner"


@dataclass(frozen=True)
class Texts:
    """Sentences in a seeded order, and where they are from."""

    source: str
    sentences: tuple[str, ...]


def real_sentences(data: Path, seed: int) -> Texts:
    """The labelled sets' sentences where they are; else those that come with the project."""
    files = [path for name in SETS if (path := data / f"{name}.iob.xz").exists()]
    own = [ROOT / "training" / "people" / f"{name}.jsonl" for name in ("train", "test")]
    read = partial(read_corpus, entity_types=(PERSON,), tokenise=tokeniser("treebank-1"))
    found = [" ".join(sentence.tokens) for path in files or own for sentence in read(path)]
    if not files:
        found += [case.text for case in read_cases(ROOT / "tests" / "behaviour")]
    Random(seed).shuffle(found)
    source = ", ".join(SETS) if files else "training/people and tests/behaviour"
    return Texts(source, tuple(found))


def groups(sentences: Sequence[str], n: int) -> list[list[str]]:
    """The sentences in requests of ``n``, each used once, what is left over left out."""
    if len(sentences) < n:
        raise ValueError(f"{len(sentences)} sentences for requests of {n}: at least as many are expected")
    return [list(sentences[at : at + n]) for at in range(0, len(sentences) - n + 1, n)]


def _body(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def tag_request(sentences: Sequence[str]) -> bytes:
    """Ours, and the echo's."""
    return http_request("/v1/tag", _body({"sentences": list(sentences)}))


def spacy_request(sentences: Sequence[str]) -> bytes:
    return http_request("/tag", _body({"texts": list(sentences)}))


def presidio_request(sentences: Sequence[str]) -> bytes:
    text = sentences[0] if len(sentences) == 1 else list(sentences)
    return http_request("/analyze", _body({"text": text, "language": "en", "entities": ["PERSON"]}))
