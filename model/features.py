"""Tokens in, ids of word types out: the one encode path of training and of serving.

A word type is a distinct token form. Everything the network is told about a token follows
from its form alone, so each form is encoded once, however often it occurs:

    cased    row of the cased word table, of the normalised form as written
    lower    row of the lower-cased word table: finds POTTER and potter where only Potter is known
    shape    capitalisation class (SHAPES)
    chars    character ids; of a long word the first and the last CHAR_WINDOW / 2
    pieces   subword ids, where the network has a context encoder (model/wordpiece.py)

Looking a row up by its id is the tutorials' one-hot vector times a weight matrix, without the
multiplications by zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import InitVar, dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from model.normalisation import normalisation
from model.wordpiece import WordPieces

PAD, UNK = "<PAD>", "<UNK>"
PAD_ID, UNK_ID = 0, 1
CHAR_WINDOW = 24  # covers 99.9 % of English word types whole; even
_LAST = "\U0010ffff"  # code point, which is no character's
SHAPES = ("lower", "Title", "UPPER", "Initial", "miXed", "digits", "d1g1t", "other")

Ids = NDArray[np.int64]


def shape_of(token: str) -> int:
    """The capitalisation class of a token, as an index into SHAPES.

    >>> [SHAPES[shape_of(t)] for t in ("met", "Ada", "NATO", "J.", "McEwan", "1996", "3rd", ",")]
    ['lower', 'Title', 'UPPER', 'Initial', 'miXed', 'digits', 'd1g1t', 'other']
    """
    if token.isascii() and token.isalpha():  # nearly all; as below, without a look at every letter
        if token.islower():
            return 0
        if token.isupper():
            return 2 if len(token) > 1 else 3
        return 1 if token.istitle() else 4
    letters = [c for c in token if c.isalpha()]
    if not letters:
        return 5 if any(c.isdigit() for c in token) else 7
    if any(c.isdigit() for c in token):
        return 6
    if len(letters) == 1 and letters[0].isupper():
        return 3
    upper = [c.isupper() for c in letters]
    if all(upper):
        return 2
    if not any(upper):
        return 0
    return 1 if upper[0] and not any(upper[1:]) else 4


def _index(words: Sequence[str], what: str) -> dict[str, int]:
    if list(words[:2]) != [PAD, UNK]:
        raise ValueError(f"{what} must begin with {PAD!r} and {UNK!r}, not {list(words[:2])}")
    index = {word: i for i, word in enumerate(words)}
    if len(index) != len(words):
        raise ValueError(f"{what}: {len(words) - len(index)} entries occur twice")
    return index


@dataclass(frozen=True)
class Vocabulary:
    """The known words and characters of one artefact; a position is an id. Each starts PAD, UNK."""

    cased: tuple[str, ...]
    lower: tuple[str, ...]
    chars: tuple[str, ...]
    normalisation: str = "cased-1"
    pieces: tuple[str, ...] = ()  # of a network with a context encoder; starts [PAD]

    @cached_property
    def encoder(self) -> Encoder:
        return Encoder(self)


@dataclass(frozen=True)
class WordTypes:
    """N encoded word types, in four arrays."""

    cased: Ids  # (N,)
    lower: Ids  # (N,)
    shapes: Ids  # (N,)
    chars: Ids  # (N, CHAR_WINDOW), PAD_ID after the word's end
    pieces: Ids  # (N, PIECE_WINDOW), 0 after the last; (N, 0) without a context encoder


@dataclass
class Encoder:
    """Looks word types up in a vocabulary, which it does not keep: the vocabulary keeps it.

    A cycle of the two would be freed by the garbage collector only, from which a service hides them.
    """

    vocabulary: InitVar[Vocabulary]
    _cased: dict[str, int] = field(init=False)
    _lower: dict[str, int] = field(init=False)
    _chars: Ids = field(init=False)  # by code point, up to the highest that is known, and one more

    def __post_init__(self, vocabulary: Vocabulary) -> None:
        self._normalise = normalisation(vocabulary.normalisation)
        self._cased = _index(vocabulary.cased, "cased words")
        self._lower = _index(vocabulary.lower, "lower-cased words")
        known = {ord(c): i for c, i in _index(vocabulary.chars, "characters").items() if len(c) == 1}
        self._chars = np.full(max(known, default=0) + 2, UNK_ID, dtype=np.int64)
        self._chars[list(known)] = list(known.values())
        self._chars[0] = PAD_ID
        self.pieces = WordPieces(vocabulary.pieces) if vocabulary.pieces else None

    def encode(self, tokens: Sequence[str]) -> WordTypes:
        """The tokens' word types, in order, one row a token. O(total characters)."""
        n = len(tokens)
        half = CHAR_WINDOW // 2
        forms = [self._normalise(token) for token in tokens]
        in_cased, in_lower = self._cased.get, self._lower.get
        cased = np.array([in_cased(form, UNK_ID) for form in forms], dtype=np.int64)
        lower = np.array([in_lower(form.lower(), UNK_ID) for form in forms], dtype=np.int64)
        shapes = np.array([shape_of(form) for form in forms], dtype=np.int64)
        windows = [form if len(form) <= CHAR_WINDOW else form[:half] + form[-half:] for form in forms]
        # All characters at once, one by one they would take longer than all the rest; NUL is padding, and
        # a real one is as unknown as the last of Unicode's.
        filled = [window.replace("\0", _LAST).ljust(CHAR_WINDOW, "\0") for window in windows]
        points = np.frombuffer("".join(filled).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        chars = self._chars.take(np.minimum(points, len(self._chars) - 1)).reshape(n, CHAR_WINDOW)
        pieces = self.pieces.rows(forms) if self.pieces else np.empty((n, 0), dtype=np.int64)
        return WordTypes(cased, lower, shapes, chars, pieces)


def distinct(sentences: Iterable[Sequence[str]]) -> tuple[list[str], list[list[int]]]:
    """The distinct tokens of the sentences, and each sentence as indices into them."""
    index: dict[str, int] = {}
    rows = [[index.setdefault(token, len(index)) for token in tokens] for tokens in sentences]
    return list(index), rows
