"""The straight line from text to spans, used by evaluation and by the service alike.

    tokenise → encode (once per word type) → backend → head.decode

A Tagger is used by one thread at a time: its cache of word types has no lock. ``tokenise`` and
``sentences`` are pure, and may be called from any thread.
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
from model.wordpiece import PIECE_WINDOW, Layout, lay_out

TOLERANCE = 1e-3  # of expected.json's scores; backends differ by about 1e-6
# Word types whose features are kept, and how much that may be: at D = 128, 32 MiB.
_CACHED_TYPES, _CACHED_BYTES = 1 << 16, 1 << 26
_TYPES_AT_ONCE = 512
_CACHED_CHARS = 1 << 22  # and of their characters; real words have 8 each


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
        self._rows: dict[str, int] = {}  # word type → row of _features
        self._n_chars = 0  # of all keys of _rows
        row_bytes = backend.n_features * np.dtype(backend.dtype).itemsize
        self._most_types = min(_CACHED_TYPES, _CACHED_BYTES // row_bytes)
        self._make_room(self._most_types)

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
        rows = np.zeros((len(full), int(lengths.max())), dtype=np.int64)  # (B, T)
        self._learn_types([sentences[i] for i in full])
        types = map(self._rows.__getitem__, chain.from_iterable(sentences[i] for i in full))
        rows[np.arange(rows.shape[1]) < lengths[:, None]] = np.fromiter(types, np.int64, int(lengths.sum()))
        layout = self._layout(rows, lengths.tolist())
        emissions = self.backend.emissions(self._features, rows, lengths, layout)
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

    def _layout(self, rows: NDArray[np.int64], lengths: list[int]) -> Layout | None:
        pieces = self._encoder.pieces
        if not pieces:
            return None
        types, shapes = self._pieces[:, :-1], self._pieces[:, -1]
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

    def _make_room(self, n: int) -> None:
        """Empty tables for so many word types, row 0, which is padding, included.

        All of it at once: the system gives memory when it is first written to, and a table that grows is
        copied meanwhile, of which 64 MB keep whoever waits waiting for 0.2 s, every 200,000 words.
        """
        self._features = np.zeros((n, self.backend.n_features), dtype=self.backend.dtype)
        # What the context encoder reads of a word type: its pieces, then its shape.
        width = PIECE_WINDOW + 1 if self._encoder.pieces else 0
        self._pieces = np.zeros((n, width), dtype=np.int64)

    def _learn_types(self, sentences: Sequence[Sequence[str]]) -> None:
        """Computes the features of the word types that are not cached yet."""
        types = dict.fromkeys(chain.from_iterable(sentences))
        fresh = [t for t in types if t not in self._rows]
        if not fresh:
            return
        full = len(self._rows) + len(fresh) >= self._most_types or self._n_chars > _CACHED_CHARS
        if full and self._rows:
            # Start again rather than track use: the common words are back after a few batches.
            self._rows = {}
            self._n_chars = 0
            fresh = list(types)
            if len(self._features) > self._most_types:
                self._make_room(self._most_types)
        first = len(self._rows) + 1
        needed = first + len(fresh)
        if needed > len(self._features):  # one batch has more than are kept, so nothing else is there
            self._make_room(needed)
        # By length, in parts, since the character encoder takes as long as the longest word of a part
        # wants, and its memory too.
        fresh.sort(key=len)
        for at in range(0, len(fresh), _TYPES_AT_ONCE):
            part = fresh[at : at + _TYPES_AT_ONCE]
            encoded = self._encoder.encode(part)
            mine = slice(first + at, first + at + len(part))
            self._features[mine] = self.backend.features(encoded)
            if self._encoder.pieces:
                self._pieces[mine] = np.column_stack((encoded.pieces, encoded.shapes))
        self._rows.update((token, first + i) for i, token in enumerate(fresh))
        self._n_chars += sum(map(len, fresh))

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
