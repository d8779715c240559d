"""What an artefact's ``config.json`` says of the network, the text and the labels; checked on reading."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from model.labels import LabelScheme
from model.normalisation import normalisation
from model.tokeniser import tokeniser

CELLS = ("lstm", "gru", "rnn", "lstm-peephole")
HEADS = ("crf", "softmax")


@dataclass(frozen=True)
class NetworkConfig:
    """The shape of the network; widths in units. 0 leaves a part out."""

    cell: str = "lstm"
    n_layers: int = 1
    bidirectional: bool = True
    head: str = "crf"
    hidden_dim: int = 128  # of one direction
    feature_dim: int = 128  # what a word type is projected to
    cased_dim: int = 50  # word table of forms as written
    lower_dim: int = 0  # word table of lower-cased forms
    char_dim: int = 24
    char_filters: int = 64
    char_width: int = 3  # characters that one filter sees; odd
    shape_dim: int = 8
    context_layers: int = 0  # of a transformer over word pieces (model/context.py)
    context_dim: int = 384
    context_heads: int = 12
    context_inner: int = 1536
    # Of a trained network, for speed (model/network.py, RoundedLstm): what a step hands to the next is
    # rounded to int8, what it is multiplied by to 7 bits, and what a word type gives the gates to float16.
    int8_recurrence: bool = False

    def __post_init__(self) -> None:
        for name, value, known in (("cell", self.cell, CELLS), ("head", self.head, HEADS)):
            if value not in known:
                raise ValueError(f"{name} {value!r} is not one of {known}")
        for name in ("n_layers", "hidden_dim", "feature_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: at least 1 is expected")
        if self.char_filters and self.char_width % 2 == 0:
            raise ValueError(f"char_width is {self.char_width}: an odd number is expected")
        if self.context_dim % self.context_heads:
            raise ValueError(
                f"context_dim is {self.context_dim}: a multiple of context_heads, {self.context_heads}, "
                "is expected"
            )
        if self.int8_recurrence and not self.allows_int8:
            raise ValueError("int8_recurrence is for one layer of 'lstm' cells over word types alone")
        if not (self.cased_dim or self.lower_dim or self.char_filters):
            raise ValueError("the network would see neither words nor characters")

    @property
    def allows_int8(self) -> bool:
        """Whether an int8 recurrence is written for such a network."""
        return self.cell == "lstm" and self.n_layers == 1 and not self.context_layers

    @property
    def n_directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def word_dim(self) -> int:
        """Width of the word vectors: the cased one, then the lower-cased one."""
        return self.cased_dim + self.lower_dim


@dataclass(frozen=True)
class TaggerConfig:
    """Everything about a tagger but its vocabulary and its weights."""

    name: str
    version: str = "1"
    languages: tuple[str, ...] = ("en",)
    entity_types: tuple[str, ...] = ("PER",)
    tokeniser: str = "treebank-1"
    normalisation: str = "cased-1"
    network: NetworkConfig = field(default_factory=NetworkConfig)
    # Probabilities are those of emissions and transitions divided by this (Guo et al. 2017,
    # arXiv:1706.04599), fitted on dev data. It does not change which labels are the best.
    temperature: float = 1.0
    threshold: float = 0.0  # spans that score lower become O, unless the request says otherwise

    def __post_init__(self) -> None:
        tokeniser(self.tokeniser)
        normalisation(self.normalisation)
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}: more than 0 is expected")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold is {self.threshold}: 0 to 1 is expected")

    @property
    def scheme(self) -> LabelScheme:
        return LabelScheme(self.entity_types)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> TaggerConfig:
        """Raises ValueError for an unknown or missing field, or a value out of range."""
        fields = dict(value)
        try:
            fields["network"] = NetworkConfig(**fields["network"])
            for name in ("languages", "entity_types"):
                fields[name] = tuple(fields[name])
            return cls(**fields)
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a tagger configuration: {error}") from None
