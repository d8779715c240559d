"""What the network is told about word types, kept from one batch to the next.

Each distinct form is encoded once, and what the backend makes of it is a row of a table, from which a batch
copies those that it needs: so a row can be given to another type while somebody still computes with it.
Several threads may look types up at once.

    N word types of a batch   W features of each   P pieces of it, where there is a context encoder
"""

from __future__ import annotations

import contextlib
import math
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.backend import Backend
from model.features import Encoder
from model.wordpiece import PIECE_WINDOW

# Word types that are kept, and how much their features may be. Of 100 words of Wikipedia 6.9 are computed
# then with en-person, whose types take 4 kB; of Wikinews 4.4, of novels 2.0.
_CACHED_TYPES, _CACHED_BYTES = 1 << 16, 3 << 25
_CACHED_CHARS = 1 << 22  # and of their characters; real words have 8 each
_TYPES_AT_ONCE = 512
# When it is full so many make room, one in: to find them takes 0.4 ms.
_EVICTED = 16
_NEVER = np.iinfo(np.int64).max


def _small_pages(shape: tuple[int, int], dtype: Any) -> NDArray[Any]:
    """Zeros, in pages of 4 kB where the system has others too.

    NumPy asks for huge ones, and the first of 512 word types that came to lie in one waited 5 ms for it.
    """
    n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    if not n_bytes or not hasattr(mmap, "MADV_NOHUGEPAGE"):
        return np.zeros(shape, dtype)
    pages = mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel that has none of the huge ones
        pages.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(pages, dtype).reshape(shape)


@dataclass(frozen=True, slots=True)
class Found:
    """Tokens as rows of what follows, which nobody else has."""

    rows: NDArray[np.int64]  # (tokens,)
    features: NDArray[Any]  # (N, W)
    pieces: NDArray[np.int64]  # (N, P + 1): its pieces, then its shape; (N, 0) without a context encoder


class TypeCache:
    """Word types and their features, up to a bound; then those make room that were looked up longest ago.

    Keeping none of them instead, as it was, computes half as many words again.
    """

    def __init__(self, encoder: Encoder, backend: Backend) -> None:
        self._encoder = encoder
        self._backend = backend
        self._width = PIECE_WINDOW + 1 if encoder.pieces else 0
        row_bytes = backend.n_features * np.dtype(backend.dtype).itemsize
        most = min(_CACHED_TYPES, _CACHED_BYTES // row_bytes)
        self._lock = Lock()  # of what follows
        self._rows: dict[str, int] = {}
        self._n_chars = 0  # of all its keys
        self._free = list(range(most))[::-1]
        self._types = [""] * most  # of each row
        self._looked_up = np.full(most, _NEVER)  # at which batch, each row that is not free
        self._n_batches = 0
        # All of it at once: the system gives memory when it is first written to.
        self._features = _small_pages((most, backend.n_features), backend.dtype)
        self._pieces = np.zeros((most, self._width), dtype=np.int64)

    def __len__(self) -> int:
        return len(self._rows)

    def look_up(self, tokens: Sequence[str]) -> Found:
        """Every token's row. Raises what the backend raises; then nothing is kept."""
        types = list(dict.fromkeys(tokens))
        features = np.empty((len(types), self._backend.n_features), dtype=self._backend.dtype)
        pieces = np.empty((len(types), self._width), dtype=np.int64)
        with self._lock:
            kept = list(map(self._rows.get, types))
            at = np.array([row for row in kept if row is not None], dtype=np.int64)
            n = len(at)
            self._features.take(at, 0, features[:n], "clip")
            if self._width:
                self._pieces.take(at, 0, pieces[:n], "clip")
            self._n_batches += 1
            self._looked_up[at] = self._n_batches
        if n < len(types):
            # In order of their length: the character encoder takes as long as the longest word of a part
            # wants, and its memory too.
            fresh = sorted([t for t, row in zip(types, kept, strict=True) if row is None], key=len)
            self._compute(fresh, features[n:], pieces[n:])
            with self._lock:
                self._keep(fresh, features[n:], pieces[n:])
            types = [t for t, row in zip(types, kept, strict=True) if row is not None] + fresh
        row_of = dict(zip(types, range(len(types)), strict=True))
        rows = np.fromiter(map(row_of.__getitem__, tokens), np.int64, len(tokens))
        return Found(rows, features, pieces)

    def _compute(self, fresh: list[str], features: NDArray[Any], pieces: NDArray[np.int64]) -> None:
        """Writes the features and pieces of new types."""
        for at in range(0, len(fresh), _TYPES_AT_ONCE):
            encoded = self._encoder.encode(fresh[at : at + _TYPES_AT_ONCE])
            mine = slice(at, at + _TYPES_AT_ONCE)
            features[mine] = self._backend.features(encoded)
            if self._width:
                pieces[mine] = np.column_stack((encoded.pieces, encoded.shapes))

    # With the lock

    def _keep(self, fresh: list[str], features: NDArray[Any], pieces: NDArray[np.int64]) -> None:
        """Adds what was computed, but for what another thread added meanwhile, and for what is too much."""
        new = [i for i, t in enumerate(fresh) if t not in self._rows][: len(self._types)]
        if len(self._free) < len(new):
            self._evict(max(len(new) - len(self._free), len(self._types) // _EVICTED))
        at = [self._free.pop() for _ in new]
        self._features[at] = features[new]
        self._pieces[at] = pieces[new]
        self._looked_up[at] = self._n_batches
        for row, i in zip(at, new, strict=True):
            self._types[row] = fresh[i]
            self._rows[fresh[i]] = row
            self._n_chars += len(fresh[i])
        while self._n_chars > _CACHED_CHARS:
            self._evict(1 + len(self._rows) // _EVICTED)

    def _evict(self, n: int) -> None:
        """Those that were looked up longest ago."""
        n = min(n, len(self._rows))
        oldest = np.argpartition(self._looked_up, n - 1)[:n]
        self._looked_up[oldest] = _NEVER
        for row in oldest.tolist():
            token = self._types[row]
            del self._rows[token]
            self._n_chars -= len(token)
            self._types[row] = ""
        self._free += oldest.tolist()
