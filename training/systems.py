"""What the study compares: one base system, and others that each differ from it in one thing.

A difference is written as a recipe writes it: what {"network": {"cell": "rnn"}} is here,
`--set network.cell=rnn` is to `python -m training train`, which saves a model to serve.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from model.config import NetworkConfig
from model.labels import PERSON
from training.recipe import OptimiserConfig, Recipe

# Small, so that all systems train within minutes on one core; and plain: no shapes, which would tell
# the word-level system what letters a word has, and no averaging of weights.
RECIPE = Recipe(
    name="study",
    entity_types=(PERSON,),
    network=NetworkConfig(hidden_dim=64, feature_dim=64, char_dim=16, char_filters=32, shape_dim=0),
    optimiser=OptimiserConfig(epochs=20, learning_rate=4e-3, average_decay=0.0, patience=10_000),
)


@dataclass(frozen=True)
class System:
    slug: str  # names its results' files
    name: str  # in its group's table
    values: Mapping[str, Any] = field(default_factory=dict)  # where it differs from the study's recipe
    feedback: str = ""  # whose labels output recurrence is trained on: "gold" or "own"; "": it has none
    sgd: bool = False  # plain stochastic gradient descent instead of AdamW


@dataclass(frozen=True)
class Group:
    """Systems that differ in one thing. ``why`` tells a reader what to look for."""

    title: str
    why: str
    systems: tuple[System, ...]


BASE = System("base", "the base")
_SGD = {"learning_rate": 0.3}

GROUPS = (
    Group(
        "Cell",
        "What a unit does with what it has seen. The plain RNN (Elman 1990) writes its whole state anew at "
        "every token. The LSTM (Hochreiter & Schmidhuber 1997) adds to a cell state behind gates; with "
        "peepholes (Gers, Schraudolph & Schmidhuber 2002) the gates see that state too. The GRU (Cho et "
        "al. 2014, arXiv:1406.1078) does it with two gates and three quarters of the weights.",
        (
            System("rnn", "plain RNN", {"network": {"cell": "rnn"}}),
            System("gru", "GRU", {"network": {"cell": "gru"}}),
            replace(BASE, name="LSTM"),
            System("lstm-peephole", "LSTM with peepholes", {"network": {"cell": "lstm-peephole"}}),
        ),
    ),
    Group(
        "Direction",
        "Left to right only, a token's label cannot depend on the words after it; a second network over "
        "the sentence turned around sees them (Schuster & Paliwal 1997).",
        (
            System("one-direction", "one", {"network": {"bidirectional": False}}),
            replace(BASE, name="two"),
        ),
    ),
    Group(
        "Depth",
        "Each further layer reads the states of the layer below, of both directions.",
        (
            replace(BASE, name="1 layer"),
            System("2-layers", "2 layers", {"network": {"n_layers": 2}}),
            System("3-layers", "3 layers", {"network": {"n_layers": 3}}),
        ),
    ),
    Group(
        "What a word is",
        "A row of a table, or, of a word that the table does not have, the row of <UNK>; its characters, "
        "through a convolution (Ma & Hovy 2016, arXiv:1603.01354); or both.",
        (
            System("words", "word, or <UNK>", {"network": {"char_filters": 0}}),
            System(
                "characters",
                "characters",
                {"network": {"cased_dim": 0, "lower_dim": 0}, "vectors": {"cased": "", "lower": ""}},
            ),
            replace(BASE, name="both"),
        ),
    ),
    Group(
        "Head",
        "How labels are chosen. Softmax decides for every token alone; the CRF scores the whole sequence "
        "(Lafferty, McCallum & Pereira 2001; Huang, Xu & Yu 2015, arXiv:1508.01991). With output "
        "recurrence each decision sees the label before it (Jordan 1986): the gold one in training, which "
        "is teacher forcing (Williams & Zipser 1989), or its own, as when tagging. All keep to what IOB2 "
        "allows.",
        (
            System("softmax", "softmax", {"network": {"head": "softmax"}}),
            System(
                "teacher-forcing",
                "output recurrence, teacher forcing",
                {"network": {"head": "softmax"}},
                feedback="gold",
            ),
            System(
                "own-labels",
                "output recurrence, own labels",
                {"network": {"head": "softmax"}},
                feedback="own",
            ),
            replace(BASE, name="CRF"),
        ),
    ),
    Group(
        "Clipping",
        "A gradient whose norm is over a limit is scaled down to it (Pascanu, Mikolov & Bengio 2013, "
        "arXiv:1211.5063, section 3.2). AdamW divides each weight's step by the size of its recent "
        "gradients, which bounds it already; plain gradient descent does not.",
        (
            replace(BASE, name="LSTM, AdamW, clipped"),
            System("unclipped", "LSTM, AdamW, not clipped", {"optimiser": {"clip_norm": 0.0}}),
            System(
                "rnn-sgd",
                "plain RNN, SGD, clipped",
                {"network": {"cell": "rnn"}, "optimiser": _SGD},
                sgd=True,
            ),
            System(
                "rnn-sgd-unclipped",
                "plain RNN, SGD, not clipped",
                {"network": {"cell": "rnn"}, "optimiser": {**_SGD, "clip_norm": 0.0}},
                sgd=True,
            ),
        ),
    ),
)
SYSTEMS = {system.slug: system for group in GROUPS for system in group.systems} | {BASE.slug: BASE}


def chosen(slugs: Sequence[str]) -> list[System]:
    """The systems of these names, or all; the base first. Raises ValueError for an unknown name."""
    if unknown := sorted(set(slugs) - set(SYSTEMS)):
        raise ValueError(f"system {unknown[0]!r} is not one of {tuple(SYSTEMS)}")
    wanted = set(slugs or SYSTEMS) | {BASE.slug}
    return [BASE, *(s for slug, s in SYSTEMS.items() if slug in wanted and slug != BASE.slug)]
