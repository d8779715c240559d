"""The straight line from text to spans, used by evaluation and by the service alike.

    tokenise → encode (once per word type) → backend → head.decode

``tag`` may be called by several threads at once if the backend may be, as the CPU's may. ``tokenise``
and ``sentences`` are pure, and may be called from any thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.artefact import Artefact, load
from model.backend import Backend, choose_backend
from model.head import Tagged, decode
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
        self, sentences: Sequence[Sequence[str]], threshold: Sequence[float] | float | None = None
    ) -> list[Tagged]:
        """Tags the sentences as one batch: one label for each token given, in the same order.

        ``threshold``: spans that score lower become O; None is the artefact's own. An empty
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
        *,
        max_batch_tokens: int = 2048,
    ) -> list[Tagged]:
        """Tags any number of sentences, in batches of similar length; answers in the given order.

        ``max_batch_tokens`` bounds a batch's padded tokens; a longer sentence is a batch by itself.
        In microseconds a word of en-person: 4.2 at 256, 3.9 at 1,024, 3.6 at 2,048, 3.5 at 4,096.
        """
        answers: list[Tagged] = [Tagged([], [], [])] * len(sentences)
        by_length = sorted(range(len(sentences)), key=lambda i: -len(sentences[i]))
        start = 0
        while start < len(by_length):
            longest = max(1, len(sentences[by_length[start]]))
            batch = by_length[start : start + max(1, max_batch_tokens // longest)]
            for i, answer in zip(batch, self.tag([sentences[i] for i in batch], threshold), strict=True):
                answers[i] = answer
            start += len(batch)
        return answers

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
