"""A word of a name in; where such words come from, whether women bear it, whether it is a surname, out.

A guess, from the word's letters alone: a linear model of hashed character n-grams, each word being
the sum of its n-grams' rows. For making up a name like it, and for nothing else: it says nothing
about a person.

    N buckets   K origins
"""

from __future__ import annotations

import json
import unicodedata
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

N_BUCKETS = 4096
_SHORTEST, _LONGEST = 2, 4
FILE = "name-origins.safetensors"


def buckets(word: str) -> list[int]:
    """The rows of a word's n-grams; its beginning and end count as letters."""
    parts = unicodedata.normalize("NFKC", word).casefold().split("-")
    return [
        zlib.crc32(marked[i : i + n].encode("utf-8", "replace")) % N_BUCKETS
        for marked in (f"^{part}$" for part in parts if part)
        for n in range(_SHORTEST, _LONGEST + 1)
        for i in range(len(marked) - n + 1)
    ]


@dataclass(frozen=True, slots=True)
class Guess:
    """``origins``: log probabilities, (K,). The others are log odds: above 0 is yes."""

    origins: NDArray[np.float32]
    is_female: float
    is_surname: float


@dataclass(frozen=True)
class NameOrigins:
    origins: tuple[str, ...]
    rows: NDArray[np.float32]  # (N, K + 2)
    bias: NDArray[np.float32]  # (K + 2,)

    def guess(self, word: str) -> Guess:
        scores = self.rows[buckets(word)].sum(0) + self.bias  # (K + 2,)
        origins = scores[:-2] - np.logaddexp.reduce(scores[:-2])
        return Guess(origins, float(scores[-2]), float(scores[-1]))


def load(path: Path) -> NameOrigins:
    """Raises OSError, and ValueError where it is not such a file."""
    with safe_open(path, framework="numpy") as file:
        origins = tuple(json.loads((file.metadata() or {})["origins"]))
        rows = file.get_tensor("rows").astype(np.float32) * file.get_tensor("scale")
        bias = file.get_tensor("bias")
    if rows.shape != (N_BUCKETS, len(origins) + 2) or bias.shape != rows.shape[1:]:
        raise ValueError(f"{path}: rows are {rows.shape}, expected {(N_BUCKETS, len(origins) + 2)}")
    return NameOrigins(origins, rows, bias)
