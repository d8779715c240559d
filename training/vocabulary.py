"""Training data and pretrained vectors in, a vocabulary and its tables out.

With vectors, a table holds their most frequent words, whatever the training data says: how well
a word is known must not depend on whether it was trained on. Without, it holds the words of the
training split, and only of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from model.features import PAD, UNK, Vocabulary
from model.normalisation import normalisation
from training.corpus import Sentence
from training.embeddings import Vectors
from training.pretrained import Pretrained

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Lexicon:
    """A vocabulary with the pretrained rows of its tables; None where a table is to be learnt."""

    vocabulary: Vocabulary
    cased: Array | None  # (V, D); rows 0 and 1, <PAD> and <UNK>, are 0
    lower: Array | None
    context: dict[str, Tensor] = field(default_factory=dict)  # weights of the context encoder


def _table(vectors: Vectors, most: int, form: Callable[[str], str]) -> tuple[tuple[str, ...], Array]:
    """The ``most`` most frequent words, each under the form that it is looked up by.

    GloVe has "1998" and "2010", of which no token is ever looked up: both are "0000", and the
    commoner one is it.
    """
    at: dict[str, int] = {}
    for i, word in enumerate(vectors.words):
        if len(at) == most:
            break
        at.setdefault(form(word), i)
    rows = vectors.rows[list(at.values())]
    # One scale for all, from the commonest words alone: never from the words of some data set.
    scale = float(rows[:10_000].std())
    return (PAD, UNK, *at), np.concatenate([np.zeros((2, rows.shape[1]), np.float32), rows / scale])


def build_lexicon(
    sentences: Iterable[Sentence],
    *,
    normalisation_name: str = "cased-1",
    cased: Vectors | None = None,
    lower: Vectors | None = None,
    context: Pretrained | None = None,
    max_cased: int,
    max_lower: int,
    min_count: int,
) -> Lexicon:
    """The vocabulary of a run. ``min_count``: occurrences that a word or character must have."""
    normalise = normalisation(normalisation_name)
    tokens = Counter(t for s in sentences for t in s.tokens)
    forms: Counter[str] = Counter()
    for token, n in tokens.items():
        forms[normalise(token)] += n
    chars: Counter[str] = Counter()
    for form, n in forms.items():
        for char in form:
            chars[char] += n
    for word in cased.words[:max_cased] if cased else ():
        chars.update(word)

    def learnt(counted: Counter[str]) -> tuple[str, ...]:
        known = (w for w, n in sorted(counted.items()) if n >= min_count and w not in (PAD, UNK))
        return (PAD, UNK, *known)

    lowered: Counter[str] = Counter()
    for form, n in forms.items():
        lowered[form.lower()] += n
    cased_words, cased_rows = _table(cased, max_cased, normalise) if cased else (learnt(forms), None)
    lower_words, lower_rows = (
        _table(lower, max_lower, lambda word: normalise(word).lower()) if lower else (learnt(lowered), None)
    )
    pieces = context.pieces if context else ()
    vocabulary = Vocabulary(cased_words, lower_words, learnt(chars), normalisation_name, pieces)
    return Lexicon(vocabulary, cased_rows, lower_rows, context.weights if context else {})
