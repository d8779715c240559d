"""Words to subword pieces, and a batch's words to the rows that the context encoder reads. NumPy only.

Pieces are BERT's: lower-cased, without accents, punctuation apart, then the longest known prefix
again and again ("##" marks what continues a word). Wu et al. 2016, arXiv:1609.08144, section 4.1;
Devlin et al. 2019, arXiv:1810.04805.

    N word types   P pieces of a word type (PIECE_WINDOW)   B sentences   T tokens in the longest
    R rows         S pieces in the longest row, at most ROW
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PAD_PIECE, UNK_PIECE, FIRST_PIECE, LAST_PIECE = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
PIECE_WINDOW = 8  # of a longer word the first and the last half of them; even
ROW = 128  # pieces that attend to each other, the marks of beginning and end included
_STRIDE = (ROW - 2) // 2  # of the rows of a longer sentence
_MAX_CHARS = 100  # of a word that is looked up; longer ones are unknown, as BERT has it

Ids = NDArray[np.int64]


def _is_apart(char: str) -> bool:
    """Whether a character is a word by itself: punctuation, and what is written without spaces."""
    code = ord(char)
    if 0x3400 <= code <= 0x9FFF or 0xF900 <= code <= 0xFAFF or 0x20000 <= code <= 0x2FA1F:
        return True
    if code < 128:
        return not (char.isalnum() or char.isspace())
    return unicodedata.category(char).startswith("P")


class WordPieces:
    """The pieces of words, by one vocabulary; a piece's position in it is its id."""

    def __init__(self, vocabulary: Sequence[str]) -> None:
        self._ids = {piece: i for i, piece in enumerate(vocabulary)}
        missing = [p for p in (PAD_PIECE, UNK_PIECE, FIRST_PIECE, LAST_PIECE) if p not in self._ids]
        if missing:
            raise ValueError(f"pieces: {missing} are missing")
        if self._ids[PAD_PIECE] != 0:
            raise ValueError(f"pieces: {PAD_PIECE!r} must come first, not at {self._ids[PAD_PIECE]}")
        self.first, self.last = self._ids[FIRST_PIECE], self._ids[LAST_PIECE]
        self._unknown = self._ids[UNK_PIECE]

    def _longest_first(self, word: str) -> list[int]:
        if len(word) > _MAX_CHARS:
            return [self._unknown]
        ids: list[int] = []
        start = 0
        while start < len(word):
            mark = "##" if start else ""
            for end in range(len(word), start, -1):
                found = self._ids.get(mark + word[start:end])
                if found is not None:
                    ids.append(found)
                    start = end
                    break
            else:
                return [self._unknown]
        return ids

    def ids(self, form: str) -> list[int]:
        """The piece ids of one token: at least one."""
        plain = unicodedata.normalize("NFD", form.lower())
        words: list[str] = []
        joins = False
        for char in plain:
            category = unicodedata.category(char)
            if category == "Mn" or category in ("Cc", "Cf"):
                continue
            if _is_apart(char):
                words.append(char)
                joins = False
            elif char.isspace():
                joins = False
            elif joins:
                words[-1] += char
            else:
                words.append(char)
                joins = True
        return [i for word in words for i in self._longest_first(word)] or [self._unknown]

    def rows(self, forms: Sequence[str]) -> Ids:
        """(N, P): each form's pieces, 0 after the last."""
        out = np.zeros((len(forms), PIECE_WINDOW), dtype=np.int64)
        half = PIECE_WINDOW // 2
        for row, form in zip(out, forms, strict=True):
            ids = self.ids(form)
            if len(ids) > PIECE_WINDOW:
                ids = ids[:half] + ids[-half:]
            row[: len(ids)] = ids
        return out


@dataclass(frozen=True)
class Layout:
    """A batch's sentences as rows of pieces. A sentence too long for one row has several, that
    overlap by half; each of its words is read where it stands furthest from a row's ends."""

    pieces: Ids  # (R, S), 0 past a row's end
    shapes: Ids  # (R, S): 1 + the shape of the piece's word; 0 where there is no word
    at: Ids  # (B, T): each word's first piece, as an index into the flattened rows


def lay_out(
    pieces: Ids,  # (N, P)
    shapes: Ids,  # (N,)
    types: Ids,  # (B, T): rows of pieces and shapes; past a length, any
    lengths: Sequence[int],
    first: int,
    last: int,
) -> Layout:
    """The rows of a batch. What a sentence's rows hold follows from the sentence alone."""
    counts = (pieces != 0).sum(1)
    rows: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    places: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []  # row and column of each word
    for kinds, length in zip(types, lengths, strict=True):
        kinds = kinds[:length]
        mine = pieces[kinds]
        flat = mine[mine != 0]
        n = counts[kinds]
        of_shape = np.repeat(shapes[kinds] + 1, n)
        begins = np.cumsum(n) - n
        n_rows = 1 if len(flat) <= 2 * _STRIDE else -(-(len(flat) - _STRIDE) // _STRIDE)
        row = np.clip((begins - _STRIDE // 2) // _STRIDE, 0, n_rows - 1)
        places.append((len(rows) + row, 1 + begins - row * _STRIDE))
        for start in range(0, n_rows * _STRIDE, _STRIDE):
            part = slice(start, start + 2 * _STRIDE)
            rows.append((flat[part], of_shape[part]))
    width = 2 + max(len(flat) for flat, _ in rows)
    out = np.zeros((2, len(rows), width), dtype=np.int64)
    for r, (flat, of_shape) in enumerate(rows):
        out[0, r, 0], out[0, r, len(flat) + 1] = first, last
        out[0, r, 1 : len(flat) + 1] = flat
        out[1, r, 1 : len(flat) + 1] = of_shape
    at = np.zeros(types.shape, dtype=np.int64)
    for b, (row, column) in enumerate(places):
        at[b, : len(row)] = row * width + column
    return Layout(out[0], out[1], at)
