"""Sentences in, persons out, in this process. What spaCy's component and Presidio's recogniser share."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from model.head import Tagged
from model.labels import PERSON
from model.tagger import Tagger
from model.tokeniser import Tokens
from service.settings import ROOT

BUNDLED = ROOT / "artefacts" / "en-person"


@dataclass(frozen=True, slots=True)
class Found:
    """A person in one text. Offsets are code points, half open."""

    start: int
    end: int
    score: float  # the probability that exactly this span is a person


class LocalTagger:
    """One model, loaded once, for any number of threads. Raises ArtefactError.

    ``model``: its folder; None is the bundled one. ``threshold``: persons that score less are left out;
    None is the model's own.
    """

    def __init__(self, model: str | Path | None = None, threshold: float | None = None) -> None:
        if threshold is not None and not 0 <= threshold <= 1:
            raise ValueError(f"threshold is {threshold}: a number from 0 to 1 is expected")
        self.folder = Path(model) if model is not None else BUNDLED
        self.threshold = threshold
        self._tagger = Tagger.load(self.folder, device="cpu")
        self._lock = threading.Lock()  # a Tagger serves one thread at a time
        self.languages = self._tagger.config.languages

    def sentences(self, text: str, tokens: Tokens) -> list[tuple[int, int]]:
        """The token ranges of a document's sentences."""
        return self._tagger.sentences(text, tokens)

    def tag(self, documents: Sequence[Sequence[Sequence[str]]]) -> list[list[Tagged]]:
        """One answer for each sentence of each document, in order."""
        with self._lock:
            return self._tagger.tag_documents(documents, self.threshold)

    def persons(self, text: str) -> list[Found]:
        """The persons of a document, in order."""
        with self._lock:
            (found,) = self._tagger.tag_texts([text], self.threshold)
        return [
            Found(tokens.starts[s.span.start], tokens.ends[s.span.end - 1], s.score)
            for tokens, tagged in found
            for s in tagged.spans
            if s.span.entity_type == PERSON
        ]
