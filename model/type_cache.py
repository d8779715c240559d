"""What the network is told about word types, kept from one batch to the next.

Each distinct form is encoded once, and what the backend makes of it is a row of a table. Several
threads may look types up at once: what is new to one of them it computes without the lock, and no
table is written over that another still reads.

    W features of a word type   P pieces of it, where there is a context encoder
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.backend import Backend
from model.features import Encoder
from model.wordpiece import PIECE_WINDOW

# Word types that are kept, and how much their features may be. Of 100 words of Wikipedia so many are
# computed then with en-person, whose types take 4 kB: 13 with 64 MiB, 10.5 with 96, 9 with 128; of novels
# 5, 4 and 3.5.
_CACHED_TYPES, _CACHED_BYTES = 1 << 16, 3 << 25
_CACHED_CHARS = 1 << 22  # and of their characters; real words have 8 each
_TYPES_AT_ONCE = 512


@dataclass(frozen=True, slots=True)
class Found:
    """Tokens as rows of the tables."""

    rows: NDArray[np.int64]  # (tokens,)
    features: NDArray[Any]  # (…, W); row 0 is padding
    pieces: NDArray[np.int64]  # (…, P + 1): its pieces, then its shape; (…, 0) without a context encoder


class TypeCache:
    """Word types and their features, up to a bound; when it is full it begins anew."""

    def __init__(self, encoder: Encoder, backend: Backend) -> None:
        self._encoder = encoder
        self._backend = backend
        self._width = PIECE_WINDOW + 1 if encoder.pieces else 0
        row_bytes = backend.n_features * np.dtype(backend.dtype).itemsize
        self._most = min(_CACHED_TYPES, _CACHED_BYTES // row_bytes)
        self._lock = Lock()  # of what follows
        self._begin(self._most)

    def __len__(self) -> int:
        return len(self._rows)

    def look_up(self, tokens: Sequence[str]) -> Found:
        """Every token's row. Raises what the backend raises; then nothing is kept."""
        types = dict.fromkeys(tokens)
        known = self._rows  # as it is now: of what is dropped meanwhile, below
        fresh = [t for t in types if t not in known]
        while True:
            features, pieces = self._computed(fresh)
            with self._lock:
                made = set(fresh)
                dropped = [t for t in types if t not in self._rows and t not in made]
                if not dropped:
                    self._keep(types, fresh, features, pieces)
                    rows = np.fromiter(map(self._rows.__getitem__, tokens), np.int64, len(tokens))
                    return Found(rows, self._features, self._pieces)
            fresh += dropped

    def _computed(self, fresh: list[str]) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """The features and pieces of new types, which are put in order of their length: the character
        encoder takes as long as the longest word of a part wants, and its memory too."""
        fresh.sort(key=len)
        features = np.empty((len(fresh), self._backend.n_features), dtype=self._backend.dtype)
        pieces = np.empty((len(fresh), self._width), dtype=np.int64)
        for at in range(0, len(fresh), _TYPES_AT_ONCE):
            encoded = self._encoder.encode(fresh[at : at + _TYPES_AT_ONCE])
            mine = slice(at, at + _TYPES_AT_ONCE)
            features[mine] = self._backend.features(encoded)
            if self._width:
                pieces[mine] = np.column_stack((encoded.pieces, encoded.shapes))
        return features, pieces

    # With the lock

    def _keep(
        self, types: Iterable[str], fresh: list[str], features: NDArray[Any], pieces: NDArray[np.int64]
    ) -> None:
        """Adds what was computed, but for what another thread added meanwhile."""
        new = [i for i, t in enumerate(fresh) if t not in self._rows]
        if not new:
            return
        full = len(self._rows) + len(new) >= self._most or self._n_chars > _CACHED_CHARS
        if full and self._rows:
            # Anew rather than in order of use: the common words are back after a few batches.
            kept = [t for t in types if t in self._rows]
            rows = [self._rows[t] for t in kept]
            old_features, old_pieces = self._features, self._pieces
            self._begin(max(self._most, 1 + len(kept) + len(new)))
            self._add(kept, old_features[rows], old_pieces[rows])
        elif 1 + len(new) > len(self._features):  # one batch has more than are kept, and comes first
            self._begin(1 + len(new))
        if len(new) < len(fresh):
            fresh, features, pieces = [fresh[i] for i in new], features[new], pieces[new]
        self._add(fresh, features, pieces)

    def _begin(self, n: int) -> None:
        """Empty tables for so many types, padding included.

        All of it at once: the system gives memory when it is first written to, and a table that grows is
        copied meanwhile, of which 64 MB keep whoever waits waiting for 0.2 s, every 200,000 words.
        """
        self._rows: dict[str, int] = {}
        self._n_chars = 0  # of all keys of _rows
        self._features = np.zeros((n, self._backend.n_features), dtype=self._backend.dtype)
        self._pieces = np.zeros((n, self._width), dtype=np.int64)

    def _add(self, types: list[str], features: NDArray[Any], pieces: NDArray[np.int64]) -> None:
        first = len(self._rows) + 1
        self._features[first : first + len(types)] = features
        self._pieces[first : first + len(types)] = pieces
        self._rows.update((token, first + i) for i, token in enumerate(types))
        self._n_chars += sum(map(len, types))
