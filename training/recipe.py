"""What a training run is made of: one frozen value, read from a TOML file and the command line.

The README's defaults are this file's: a recipe needs to say only where it differs.
"""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model.config import NetworkConfig
from model.network import Dropout
from training.augment import AugmentConfig
from training.batches import BatchConfig


@dataclass(frozen=True)
class OptimiserConfig:
    """AdamW (Loshchilov & Hutter 2019), a linear warm-up, then half a cosine down to 0."""

    epochs: int = 20
    learning_rate: float = 2.5e-3  # at its peak
    context_rate: float = 0.05  # the context encoder's learning rate, as a share of the above
    weight_decay: float = 1e-4
    warmup: float = 0.1  # share of all steps
    clip_norm: float = 5.0  # of the whole gradient; 0 does not clip
    average_decay: float = 0.998  # of the running average of the weights that is kept; 0: none
    # Share of the weights that training began with, as --init gave them, in those it ends with: a network
    # fine-tuned, and what it knew before (Wortsman et al. 2022, arXiv:2109.01903).
    initial_share: float = 0.0
    patience: int = 5  # epochs without a better dev F1 before stopping
    keep: str = "best"  # the weights of the epoch that scored best on dev, or of the "last" one

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"epochs is {self.epochs}: at least 1 is expected")
        if self.keep not in ("best", "last"):
            raise ValueError(f"keep {self.keep!r} is not one of ('best', 'last')")
        if not 0 <= self.initial_share < 1:
            raise ValueError(f"initial_share is {self.initial_share}: 0 to below 1 is expected")
        if not 0 < self.learning_rate < 1:
            raise ValueError(f"learning_rate is {self.learning_rate}: between 0 and 1 is expected")


@dataclass(frozen=True)
class VectorsConfig:
    """Pretrained word vectors, one file a table; "" for none. Tables without vectors are learnt."""

    cased: str = ""
    lower: str = ""
    context: str = ""  # folder of a pretrained BERT: model.safetensors and vocab.txt
    max_cased: int = 80_000  # rows kept, the most frequent first
    max_lower: int = 120_000
    cased_columns: int = 0  # of each row, kept in the artefact (training.export.fold_tables); 0: all
    lower_columns: int = 0
    tune: bool = False  # train the pretrained rows too


@dataclass(frozen=True)
class DataConfig:
    """One training file and the share of it that each epoch sees."""

    path: str
    weight: float = 1.0
    stream: bool = False  # keep its sentences on disk: for a file larger than memory

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise ValueError(f"weight is {self.weight:g}: 0 or more is expected")


@dataclass(frozen=True)
class SoupConfig:
    """Another run from the same --init whose weights are averaged with this one's (Wortsman et al. 2022,
    arXiv:2203.05482), and its share of the mean."""

    run: str
    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"share is {self.share:g}: between 0 and 1 is expected")


@dataclass(frozen=True)
class Recipe:
    name: str = "tagger"
    version: str = "1"
    languages: tuple[str, ...] = ("en",)
    entity_types: tuple[str, ...] = ()  # () takes those of the data
    scheme: str = "auto"
    data: tuple[DataConfig, ...] = ()
    soup: tuple[SoupConfig, ...] = ()
    dev: tuple[str, ...] = ()
    calibrate: tuple[str, ...] = ()  # the dev files that scores are made probabilities on; () is all
    temperature: float = 0.0  # of the scores; 0: fitted on these files
    dev_share: float = 0.1  # of the training documents, where no dev file is given
    names: str = ""  # folder of name lists, for augment.swap_names
    min_count: int = 2  # of a word in the training data, for a row in a table without vectors
    seed: int = 1
    network: NetworkConfig = field(default_factory=NetworkConfig)
    dropout: Dropout = field(default_factory=lambda: Dropout(0.33, 0.33, 0.1, 0.02))
    batches: BatchConfig = field(default_factory=BatchConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    vectors: VectorsConfig = field(default_factory=VectorsConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        shares = [each.share for each in self.soup] + [self.optimiser.initial_share]
        if sum(shares) >= 1:
            raise ValueError(
                f"the shares of soup and initial_share are {shares}: less than 1 in all is expected"
            )

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


_TABLES: dict[str, Any] = {"data": DataConfig(""), "soup": SoupConfig("")}  # lists of them


def read_recipe(path: Path) -> Recipe:
    """A recipe from a TOML file. Raises ValueError naming the file and the field."""
    try:
        value = tomllib.loads(path.read_text(encoding="utf-8"))
        recipe: Recipe = with_values(Recipe(), value)
        return recipe
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"{path}: {reason}") from None


def with_values(base: Any, values: dict[str, Any], where: str = "") -> Any:
    """``base``, a dataclass, with nested ``values`` in place of its own; types are checked."""
    fields = {f.name: f for f in dataclasses.fields(base)}
    changed: dict[str, Any] = {}
    for name, value in values.items():
        if name not in fields:
            raise ValueError(f"{where}{name} is not one of {sorted(fields)}")
        current = getattr(base, name)
        if dataclasses.is_dataclass(current):
            if not isinstance(value, dict):
                raise ValueError(f"{where}{name}: a table is expected, not {value!r}")
            changed[name] = with_values(current, value, f"{where}{name}.")
        elif name in _TABLES:
            if not isinstance(value, list) or not all(isinstance(v, dict) for v in value):
                raise ValueError(f"{name}: tables are expected, each a [[{name}]], not {value!r:.80}")
            changed[name] = tuple(with_values(_TABLES[name], v, f"{name}.") for v in value)
        elif isinstance(current, tuple):
            if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
                raise ValueError(f"{where}{name}: a list of strings is expected, not {value!r}")
            changed[name] = tuple(value)
        elif isinstance(current, float) and isinstance(value, int) and not isinstance(value, bool):
            changed[name] = float(value)
        elif type(value) is not type(current):
            raise ValueError(f"{where}{name}: {type(current).__name__} is expected, not {value!r}")
        else:
            changed[name] = value
    return dataclasses.replace(base, **changed)
