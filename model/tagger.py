"""The straight line from text to spans, used by evaluation and by the service alike.

    tokenise → encode (once per word type) → backend → head.decode

A document's sentences go it a second time where others of them name somebody (model/document.py).

``tag`` may be called by several threads at once if the backend may be, as the CPU's may. ``tokenise``
and ``sentences`` are pure, and may be called from any thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.artefact import Artefact, load
from model.backend import Backend, choose_backend
from model.document import WEIGHT, first_threshold, second_look
from model.head import Tagged, decode
from model.labels import PERSON
from model.sentences import sentences_of
from model.tokeniser import Tokens, tokeniser
from model.type_cache import Found, TypeCache
from model.wordpiece import Layout, lay_out

TOLERANCE = 1e-3  # of expected.json's scores; backends differ by about 1e-6


class SelfTestError(RuntimeError):
    """The artefact's expected answers were not reproduced on this device and backend."""


class Tagger:
    """Tags sentences with one artefact on one backend."""

    def __init__(self, artefact: Artefact, backend: Backend) -> None:
        self.artefact = artefact
        self.config = artefact.config
        self.backend = backend
        self.tokenise = tokeniser(self.config.tokeniser)
        self._encoder = artefact.vocabulary.encoder
        self._chain = artefact.chain
        self._types = TypeCache(self._encoder, backend)
        labels = self.config.scheme.labels
        self._of_persons = [k for k, label in enumerate(labels) if label.endswith(f"-{PERSON}")]

    @classmethod
    def load(cls, folder: Path, *, device: str = "auto", backend: str = "auto", threads: int = 1) -> Tagger:
        """Loads and verifies a model folder. Raises ArtefactError, or ValueError for the device."""
        artefact = load(folder)
        chosen = choose_backend(artefact, device=device, backend=backend, threads=threads)
        return cls(artefact, chosen)

    def sentences(self, text: str, tokens: Tokens) -> list[tuple[int, int]]:
        """The token ranges of a document's sentences."""
        return sentences_of(tokens, text)

    def tag(
        self,
        sentences: Sequence[Sequence[str]],
        threshold: Sequence[float] | float | None = None,
        known: Sequence[Sequence[int]] | None = None,
    ) -> list[Tagged]:
        """Tags the sentences as one batch: one label for each token given, in the same order.

        ``threshold``: spans that score lower become O; None is the artefact's own. ``known``: of each
        sentence the tokens that its document knows as words of names (model/document.py). An empty
        sentence has an empty answer. A sentence's answer does not depend on the others.
        """
        if threshold is None:
            threshold = self.config.threshold
        least = [threshold] * len(sentences) if isinstance(threshold, float | int) else threshold
        full = [i for i, sentence in enumerate(sentences) if sentence]
        answers = [Tagged([], [], [])] * len(sentences)
        if not full:
            return answers
        lengths = np.array([len(sentences[i]) for i in full], dtype=np.int64)
        found = self._types.look_up(list(chain.from_iterable([sentences[i] for i in full])))
        rows = found.rows[None]  # (B, T)
        if len(full) > 1:
            rows = np.zeros((len(full), int(lengths.max())), dtype=np.int64)
            rows[np.arange(rows.shape[1]) < lengths[:, None]] = found.rows
        layout = self._layout(found, rows, lengths.tolist())
        emissions = self.backend.emissions(found.features, rows, lengths, layout)
        if known is not None:
            emissions = np.array(emissions)
            for b, i in enumerate(full):
                if known[i]:
                    emissions[b, np.array(known[i])[:, None], self._of_persons] += WEIGHT
        tagged = decode(
            emissions,
            lengths.tolist(),
            self._chain,
            self.config.scheme,
            temperature=self.config.temperature,
            threshold=[least[i] for i in full],
        )
        for i, answer in zip(full, tagged, strict=True):
            answers[i] = answer
        return answers

    def _layout(self, found: Found, rows: NDArray[np.int64], lengths: list[int]) -> Layout | None:
        pieces = self._encoder.pieces
        if not pieces:
            return None
        types, shapes = found.pieces[:, :-1], found.pieces[:, -1]
        return lay_out(types, shapes, rows, lengths, pieces.first, pieces.last)

    def tag_all(
        self,
        sentences: Sequence[Sequence[str]],
        threshold: float | None = None,
        known: Sequence[Sequence[int]] | None = None,
        *,
        max_batch_tokens: int | None = None,
    ) -> list[Tagged]:
        """Tags any number of sentences, in batches of similar length; answers in the given order.

        ``max_batch_tokens`` bounds a batch's padded tokens (None: as the backend has it); a longer sentence
        is a batch by itself.
        """
        most = max_batch_tokens or self.backend.batch_tokens
        answers: list[Tagged] = [Tagged([], [], [])] * len(sentences)
        by_length = sorted(range(len(sentences)), key=lambda i: -len(sentences[i]))
        start = 0
        while start < len(by_length):
            longest = max(1, len(sentences[by_length[start]]))
            batch = by_length[start : start + max(1, most // longest)]
            of_batch = None if known is None else [known[i] for i in batch]
            tagged = self.tag([sentences[i] for i in batch], threshold, of_batch)
            for i, answer in zip(batch, tagged, strict=True):
                answers[i] = answer
            start += len(batch)
        return answers

    def tag_documents(
        self, documents: Sequence[Sequence[Sequence[str]]], threshold: float | None = None
    ) -> list[list[Tagged]]:
        """Tags the sentences of each document, which tell each other of names, as those of a request's
        ``text`` do. ``threshold`` is as in ``tag``."""
        least = self.config.threshold if threshold is None else threshold
        sentences = list(chain.from_iterable(documents))
        answers = self.tag_all(sentences, first_threshold(least))
        again: dict[int, tuple[int, ...]] = {}  # sentence → its known tokens
        first = 0
        for document in documents:
            found = second_look(document, answers[first : first + len(document)], least)
            again |= {first + i: known for i, known in found.items()}
            first += len(document)
        tagged = self.tag_all([sentences[i] for i in again], least, list(again.values()))
        for i, answer in zip(again, tagged, strict=True):
            answers[i] = answer
        left = iter(answers)
        return [list(islice(left, len(document))) for document in documents]

    def tag_texts(
        self, texts: Sequence[str], threshold: float | None = None
    ) -> list[list[tuple[Tokens, Tagged]]]:
        """The sentences of each text, one document each: their tokens, whose offsets are the text's, and
        their answers."""
        cut: list[list[Tokens]] = []
        for text in texts:
            tokens = self.tokenise(text)
            cut.append([tokens.slice(first, last) for first, last in self.sentences(text, tokens)])
        answers = self.tag_documents([[part.texts for part in parts] for parts in cut], threshold)
        return [list(zip(parts, found, strict=True)) for parts, found in zip(cut, answers, strict=True)]

    def self_test(self) -> None:
        """Reproduces expected.json, alone and in one batch. Raises SelfTestError for what differs."""
        expected = self.artefact.expected
        if not expected:
            raise SelfTestError("expected.json holds no sentences")
        sentences = [e["tokens"] for e in expected]
        together = self.tag(sentences, 0.0)
        alone = [self.tag([s], 0.0)[0] for s in sentences]
        for number, (want, *got) in enumerate(zip(expected, together, alone, strict=True)):
            for tagged, how in zip(got, ("in one batch", "alone"), strict=True):
                if tagged.labels != want["labels"]:
                    raise SelfTestError(
                        f"expected.json, sentence {number}, {how}: labels are {tagged.labels}, "
                        f"expected {want['labels']}"
                    )
                off = np.abs(np.subtract(tagged.scores, want["scores"])).max(initial=0)
                if not off <= TOLERANCE:
                    raise SelfTestError(
                        f"expected.json, sentence {number}, {how}: a score is off by {off:.2g}, "
                        f"at most {TOLERANCE} is expected"
                    )
