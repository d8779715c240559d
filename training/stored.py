"""Sentences in, a sequence of them that lives on disk out, for a corpus larger than memory.

The file has no name: the operating system removes it with the process, however that ends. What stays
in memory is each distinct word once, and 12 bytes a sentence.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import overload
from weakref import finalize

from training.corpus import Sentence

_WORD, _LABEL = "i", "H"  # of array: a word's number, a label's
_TOKEN_BYTES = array(_WORD).itemsize + array(_LABEL).itemsize


class StoredSentences(Sequence[Sentence]):
    """Read one by one, in any order. Written to ``folder`` (None: the system's), 6 bytes a token."""

    def __init__(self, sentences: Iterable[Sentence], folder: Path | None) -> None:
        words: dict[str, int] = {}
        labels: dict[str, int] = {}
        self._starts = array("q", [0])  # in tokens
        self._documents = array("i")
        self._file = file = TemporaryFile(dir=folder)  # noqa: SIM115
        finalize(self, file.close)
        for sentence in sentences:
            if sentence.pairs is not None:
                raise ValueError("soft labels are not stored: read them whole")
            ids = array(_WORD, [words.setdefault(token, len(words)) for token in sentence.tokens])
            given = array(_LABEL, [labels.setdefault(label, len(labels)) for label in sentence.labels])
            file.write(ids.tobytes() + given.tobytes())
            self._starts.append(self._starts[-1] + len(ids))
            self._documents.append(sentence.document)
        file.flush()
        self._words, self._labels = list(words), list(labels)

    def __len__(self) -> int:
        return len(self._documents)

    @overload
    def __getitem__(self, at: int) -> Sentence: ...
    @overload
    def __getitem__(self, at: slice) -> list[Sentence]: ...
    def __getitem__(self, at: int | slice) -> Sentence | list[Sentence]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        document = self._documents[at]  # raises IndexError
        at %= len(self)
        first, n = self._starts[at], self._starts[at + 1] - self._starts[at]
        # Not mapped: pages of a map count as this process's memory, as long as nobody else wants them.
        record = os.pread(self._file.fileno(), n * _TOKEN_BYTES, first * _TOKEN_BYTES)
        ids, given = array(_WORD), array(_LABEL)
        ids.frombytes(record[: n * ids.itemsize])
        given.frombytes(record[n * ids.itemsize :])
        return Sentence(
            tuple([self._words[i] for i in ids]), tuple([self._labels[i] for i in given]), document
        )
