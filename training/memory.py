"""How far a recurrent network sees: two measurements that explain what the study's cells score.

1. How much a label's loss depends on a word k tokens away: the norm of the gradient by distance.
   Through a plain RNN each step multiplies it by the recurrent weights and by tanh's slope, so it
   vanishes or explodes exponentially (Bengio, Simard & Frasconi 1994; Pascanu, Mikolov & Bengio
   2013, arXiv:1211.5063, section 2); an LSTM's cell state is a way around (Hochreiter & Schmidhuber 1997).
2. Which names are found whose being a name is decided by a word k tokens away: sentences made for it.

B, T, K are those of model/network.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from model.labels import PERSON, LabelScheme, Span, labels_of
from model.network import BiRnnTagger, Dropout
from training.batches import Batch, TypeStore, make_batch
from training.corpus import Sentence

REACH = 60  # tokens to either side of the label whose loss is measured
# Tokens beyond them: at the start of a text the state is 0 and tanh at its steepest, as nowhere else.
_MARGIN = 20


@dataclass(frozen=True)
class Gradients:
    """Norms of d loss / d features by distance in tokens, from 0, as shares of the one at 0."""

    before: list[float]  # features of tokens before the label's own
    after: list[float]


def windows(
    sentences: Sequence[Sentence], scheme: LabelScheme, store: TypeStore, most: int = 64, reach: int = REACH
) -> Batch:
    """At most ``most`` stretches of the running text, with the first token of a name in the middle of
    each, ``reach`` tokens to either side, and a margin. A text too short for one is repeated; a label
    not of ``scheme`` is O."""
    tokens = [token for s in sentences for token in s.tokens]
    labels = [label for s in sentences for label in s.labels]
    side = reach + _MARGIN
    repeats = 1 + (4 * side + 2) // len(tokens)
    tokens, labels = tokens * repeats, labels * repeats
    inside = range(side, len(tokens) - side)
    middles = [at for at in inside if labels[at].startswith("B-")] or list(inside)
    middles = middles[:: 1 + (len(middles) - 1) // most]
    parts = [slice(at - side, at + side + 1) for at in middles]
    rows = store.rows([tokens[part] for part in parts])
    ids = {label: i for i, label in enumerate(scheme.labels)}
    return make_batch(rows, [[ids.get(label, 0) for label in labels[part]] for part in parts], store)


def gradients_by_distance(network: BiRnnTagger, batch: Batch) -> Gradients | None:
    """Of the cross-entropy of each window's middle label, averaged over the batch as geometric means.
    None of a saturated network, in which not even a label's own token gets any.

    Of a network with a CRF, its emissions are measured alone: the CRF would tie the label's loss to
    its neighbours'. In float64: a vanished gradient is far below what float32 can hold.
    """
    exact = deepcopy(network).double().cpu().eval()
    x = exact.words(batch.types, Dropout())[batch.index].detach().requires_grad_()  # (B, T, D)
    middle = batch.index.size(1) // 2
    scores = exact.emissions(x, batch.lengths)[:, middle]  # (B, K)
    loss = cross_entropy(scores, batch.labels[:, middle], reduction="sum")
    (gradient,) = torch.autograd.grad(loss, x)
    norms = gradient.norm(dim=2)  # (B, T)
    if not norms[:, middle].min() > 0:
        return None
    logs = norms.clamp(min=1e-300).log().mean(0)  # (T,)
    shares = (logs - logs[middle]).exp()
    first, last = _MARGIN, len(shares) - _MARGIN
    return Gradients(shares[first : middle + 1].flip(0).tolist(), shares[middle:last].tolist())


def spectral_radius(weights: Tensor) -> float:
    """The largest absolute eigenvalue of a square matrix: what repeated multiplication grows by."""
    return float(torch.linalg.eigvals(weights.double()).abs().max())


def scale_recurrence(network: BiRnnTagger, radius: float) -> None:
    """Scales every plain RNN's recurrent weights to this spectral radius, in place."""
    with torch.no_grad():
        for name, weights in network.named_parameters():
            if name.endswith("weight_hh_l0"):
                weights.mul_(radius / spectral_radius(weights))


# Sentences whose label a word at a distance decides

_CUES = {
    True: "author singer witness painter teacher senator goalkeeper dentist".split(),
    False: "river airport village harbour company retailer publisher warship".split(),
}
# Each is a person's name, and a place's or a company's too.
_NAMES = "Jordan Paris Chase Amazon Austin Florence Sydney Ford Lincoln Chelsea Houston Victoria".split()
_PREPOSITIONS = "after near during with beside behind between despite".split()
_NOUNS = (
    "storms bridges meetings ladders tables winters gardens lamps fences engines letters clouds".split()
)
DISTANCES = (3, 5, 9, 15, 25, 41, 71)  # tokens from the ambiguous word to the deciding one


def probes(split: str, distance: int, n: int, seed: int) -> list[Sentence]:
    """``n`` sentences with one ambiguous word, which a word ``distance`` tokens away decides; drawn for
    "train" or for "test". It comes before the ambiguous word and after it in turn:

        The author [after storms near bridges …] was called Jordan .     Jordan: B-PER
        Jordan [near lamps despite clouds …] was the river .             Jordan: O

    It decides for a person in a third of them, so a network that cannot see it does best to answer
    O, and finds nobody. The splits share every word, but no pair of preposition and noun, and no
    pair of cue and name: what a test sentence asks for cannot have been learnt by heart.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split {split!r} is not one of ('train', 'test')")
    if distance < 3 or distance % 2 == 0:
        raise ValueError(f"distance is {distance}: an odd number of at least 3 is expected")
    rng = Random(f"{seed} {split} {distance}")

    def pair(first: Sequence[str], second: Sequence[str]) -> tuple[str, str]:
        """A pair of this split: a quarter of all pairs are the test's."""
        while True:
            i, j = rng.randrange(len(first)), rng.randrange(len(second))
            if ((i + j) % 4 == 0) == (split == "test"):
                return first[i], second[j]

    made = []
    for number in range(n):
        person = rng.random() < 1 / 3
        cue, name = pair(_CUES[person], _NAMES)
        filler = [word for _ in range(distance // 2 - 1) for word in pair(_PREPOSITIONS, _NOUNS)]
        if number % 2 == 0:
            tokens = ["The", cue, *filler, "was", "called", name, "."]
        else:
            tokens = [name, *filler, "was", "the", cue, "."]
        at = tokens.index(name)
        labels = labels_of([Span(at, at + 1, PERSON)] if person else [], len(tokens))
        made.append(Sentence(tuple(tokens), tuple(labels), number))
    return made
