"""Language models: how likely is the next word, or character? Asked here, trained in language_model_fit.

A many-to-many recurrent network whose labels are its own inputs one step on (Mikolov et al. 2010,
https://doi.org/10.21437/Interspeech.2010-343). A sentence is read from <EOS> to <EOS>: y_t is the unit
after x_t, and x_1 is <EOS>; so the probabilities of all sentences sum to one. A backward model reads
every sentence turned around. Two character models, one a direction, give contextual string embeddings
(Akbik, Blythe & Vollgraf 2018, https://aclanthology.org/C18-1139).

    B sentences   T units in the longest, <EOS> included   D, H embedding and hidden width   V units known
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from random import Random

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

from model.network import make_cell
from model.normalisation import normalisation
from model.tokeniser import tokeniser
from training.batches import buckets
from training.checkpoint import read_checkpoint, write_checkpoint
from training.embeddings import NORMALISATION, TOKENISER

FILE = "language-model.safetensors"
EOS, UNK = "<EOS>", "<UNK>"
EOS_ID, UNK_ID = 0, 1
IGNORED = -100  # in y, past a sentence's end
LEVELS, DIRECTIONS = ("word", "char"), ("forward", "backward")
CELLS = ("lstm", "gru", "rnn")
SOFTMAXES = ("adaptive", "full")
_CUTOFFS = (
    2000,
    6000,
)  # of the adaptive softmax: the first are 76 % of running English words, the next 10 %
_MAX_SENTENCES = 512  # in a batch
# Between generated tokens; a straight quotation mark's side depends on those before it.
_NO_SPACE_BEFORE = frozenset(". , ; : ! ? … ... ) ] } ' ” ’ % n't 's 're 've 'll 'd 'm".split())
_NO_SPACE_AFTER = frozenset("( [ { “ ‘ $ £ €".split())


@dataclass(frozen=True)
class LanguageModelConfig:
    """The shape of a model and how it is trained; widths in units. Raises ValueError."""

    level: str = "word"
    direction: str = "forward"
    cell: str = "lstm"
    n_layers: int = 1
    embedding_dim: int = 128
    hidden_dim: int = 256
    softmax: str = "adaptive"  # both are exact; with up to 2,000 units there is no difference
    max_units: int = 15_000  # of the vocabulary, the most frequent; the others are <UNK>
    min_count: int = 3
    max_tokens: int = 2_000_000  # words that are read of the files
    held_out: float = 0.02  # of each file's words, the last documents read; never trained on
    epochs: int = 2
    learning_rate: float = 3e-3
    clip_norm: float = 1.0
    dropout: float = 0.1
    batch_units: int = 4096  # padded
    seed: int = 1

    def __post_init__(self) -> None:
        for name, known in (
            ("level", LEVELS), ("direction", DIRECTIONS), ("cell", CELLS), ("softmax", SOFTMAXES),
        ):  # fmt: skip
            if getattr(self, name) not in known:
                raise ValueError(f"{name} {getattr(self, name)!r} is not one of {known}")
        for name in ("n_layers", "embedding_dim", "hidden_dim", "max_units", "min_count", "max_tokens",
                     "epochs", "batch_units"):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: at least 1 is expected")
        for name in ("learning_rate", "clip_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}: more than 0 is expected")
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out is {self.held_out}: between 0 and 1 is expected")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}: from 0 to below 1 is expected")


class FullSoftmax(nn.Module):
    """P(unit | state) by one matrix, with the two methods of torch's adaptive softmax that are used."""

    def __init__(self, hidden_dim: int, n_units: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_dim, n_units)

    def log_prob(self, h: Tensor) -> Tensor:
        """(N, V) for states (N, H)."""
        logs: Tensor = self.linear(h).float().log_softmax(1)
        return logs

    def forward(self, h: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The log-probabilities (N,) of units y (N,), and the negative of their mean."""
        of_y = self.log_prob(h).gather(1, y[:, None])[:, 0]
        return of_y, -of_y.mean()


def _softmax(config: LanguageModelConfig, n_units: int) -> FullSoftmax | nn.AdaptiveLogSoftmaxWithLoss:
    """The adaptive one (Grave et al. 2017, arXiv:1609.04309) gives rare units narrower states, and
    computes those only where they come: twice to four times as fast on a CPU."""
    cutoffs = [cutoff for cutoff in _CUTOFFS if cutoff < n_units - 1]
    if config.softmax == "full" or not cutoffs:
        return FullSoftmax(config.hidden_dim, n_units)
    return nn.AdaptiveLogSoftmaxWithLoss(config.hidden_dim, n_units, cutoffs)


class LanguageModel(nn.Module):
    """P(next unit | the units before it). ``units``: <EOS>, <UNK>, then the most frequent first."""

    def __init__(self, config: LanguageModelConfig, units: Sequence[str]) -> None:
        super().__init__()
        self.config, self.units = config, tuple(units)
        self.ids = {unit: i for i, unit in enumerate(units)}
        self.embedding = nn.Embedding(len(units), config.embedding_dim)
        widths = [config.embedding_dim, *[config.hidden_dim] * config.n_layers]
        self.layers = nn.ModuleList(make_cell(config.cell, a, b) for a, b in pairwise(widths))
        self.softmax = _softmax(config, len(units))
        self._tokenise = tokeniser(TOKENISER)
        self._normalise = normalisation(NORMALISATION)

    @property
    def device(self) -> torch.device:
        return self.embedding.weight.device

    def forward(self, x: Tensor, carried: list[object] | None = None) -> tuple[Tensor, list[object]]:
        """Hidden states (B, T, H) of the last layer after each of x (B, T), and what every layer
        carries on to the next call."""
        h: Tensor = self.embedding(x.to(self.device))  # (B, T, D)
        after: list[object] = []
        for i, layer in enumerate(self.layers):
            h = dropout(h, self.config.dropout, self.training)
            h, state = layer(h, carried[i] if carried else None)
            after.append(state)
        return dropout(h, self.config.dropout, self.training), after

    # --- text and units --------------------------------------------------------------------

    def form(self, token: str) -> str:
        """A token as the model reads it: as the tagger does, but with its digits, which get generated."""
        return token if any(c.isdigit() for c in token) else self._normalise(token)

    def tokens_of(self, text: str) -> list[str]:
        """The tokens of one sentence."""
        return self._tokenise(text).texts

    def units_of(self, tokens: Sequence[str]) -> list[str]:
        """A sentence as units, in the model's direction, without <EOS>."""
        forms = [self.form(token) for token in tokens]
        found = forms if self.config.level == "word" else list(" ".join(forms))
        return found if self.config.direction == "forward" else found[::-1]

    def encode(self, tokens: Sequence[str]) -> list[int]:
        """The ids of a sentence, and <EOS> at its end."""
        return [self.ids.get(unit, UNK_ID) for unit in self.units_of(tokens)] + [EOS_ID]

    # --- what it is for --------------------------------------------------------------------

    @torch.inference_mode()
    def log_probabilities(self, sentences: Sequence[Sequence[str]]) -> list[list[float]]:
        """For each sentence the natural logarithm of the probability of each unit, <EOS> included."""
        self.eval()
        ids = [self.encode(tokens) for tokens in sentences]
        out: list[list[float]] = [[] for _ in ids]
        for chosen in buckets([len(i) for i in ids], self.config.batch_units, _MAX_SENTENCES, Random(0)):
            x, y = make_batch([ids[i] for i in chosen])
            h = self(x)[0][y != IGNORED]  # (N, H): sentence after sentence
            logs = self.softmax(h, y[y != IGNORED].to(self.device))[0]
            for i, of_sentence in zip(chosen, logs.split([len(ids[i]) for i in chosen]), strict=True):
                out[i] = of_sentence.tolist()
        return out

    def score(self, text: str) -> list[tuple[str, float]]:
        """Each unit of one sentence with its log2-probability; their sum is the sentence's."""
        tokens = self.tokens_of(text)
        units = [*self.units_of(tokens), EOS]
        logs = self.log_probabilities([tokens])[0]
        return [(unit, log / math.log(2)) for unit, log in zip(units, logs, strict=True)]

    @torch.inference_mode()
    def generate(
        self, rng: torch.Generator, beginning: str = "", temperature: float = 1.0, longest: int = 400
    ) -> str:
        """A sentence that goes on from ``beginning`` (a backward model's: that leads up to it) until
        <EOS>, or for ``longest`` units. Never <UNK>; never nothing. ``rng``: a generator of the CPU."""
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}: more than 0 is expected")
        self.eval()
        backward, is_char = self.config.direction == "backward", self.config.level == "char"
        given = self.encode(self.tokens_of(beginning))[:-1]
        at_gap = beginning[:1].isspace() if backward else beginning[-1:].isspace()
        if is_char and given and at_gap and " " in self.ids:
            given.append(self.ids[" "])
        x = torch.tensor([[EOS_ID, *given]])
        carried = None
        made: list[str] = []
        while len(made) < longest:
            h, carried = self(x, carried)
            logs = self.softmax.log_prob(h[:, -1])[0].float().cpu()
            logs[UNK_ID] = -torch.inf
            if not given and not made:
                logs[EOS_ID] = -torch.inf
            weights = ((logs - logs.max()) / temperature).softmax(0)
            choice = int(torch.multinomial(weights, 1, generator=rng))
            if choice == EOS_ID:
                break
            made.append(self.units[choice])
            x = torch.tensor([[choice]])
        if backward:
            made.reverse()
        kept = beginning if given else ""  # as it was written; only what is new gets its spaces here
        if is_char:
            made = "".join(made).split(" ")
            made[-1 if backward else 0] = made[-1] + kept if backward else kept + made[0]
        elif kept:
            made.insert(len(made) if backward else 0, kept.strip())
        return join(made)


def join(tokens: Sequence[str]) -> str:
    """Tokens as running text. One may be several already, with the spaces between them."""
    text = ""
    n_quotes = 0  # straight ones so far; the next one opens where their number is even
    glued = True
    for token in tokens:
        first = token.split(" ", 1)[0]
        closes = first == '"' and n_quotes % 2 == 1
        text += token if glued or closes or first in _NO_SPACE_BEFORE else f" {token}"
        n_quotes += token.count('"')
        glued = token[-1:] in _NO_SPACE_AFTER or (token[-1:] == '"' and n_quotes % 2 == 1)
    return text


def contextual_embeddings(forward: LanguageModel, backward: LanguageModel, tokens: Sequence[str]) -> Tensor:
    """(T, 2H): of each token the forward model's state after its last character, beside the backward
    model's before its first, in reading order: what is known of the word and all to its left, and of
    the word and all to its right.

    Raises ValueError unless both models are of characters and of those directions.
    """
    for model, direction in ((forward, "forward"), (backward, "backward")):
        if (model.config.level, model.config.direction) != ("char", direction):
            raise ValueError(
                f"a {direction} model of characters is expected, "
                f"not a {model.config.direction} one of {model.config.level}s"
            )
        model.eval()
    lengths = torch.tensor([len(forward.form(token)) for token in tokens], dtype=torch.long)
    ends = lengths.cumsum(0) + torch.arange(len(tokens))  # characters up to a token's end, spaces counted
    n_chars = int(ends[-1]) if len(tokens) else 0
    parts = []
    with torch.no_grad():  # not inference_mode: whoever trains on them may save them for the way back
        for model, n_read in ((forward, ends), (backward, n_chars - (ends - lengths))):
            states = model(torch.tensor([[EOS_ID, *model.encode(tokens)[:-1]]]))[0]
            parts.append(states[0, n_read].cpu())  # row 0 is the state after <EOS>
    return torch.cat(parts, 1)


def make_batch(ids: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """x (B, T) and y (B, T), one step on; past a sentence's end y is IGNORED."""
    longest = max(map(len, ids))
    y = torch.full((len(ids), longest), IGNORED)
    for row, sentence in zip(y, ids, strict=True):
        row[: len(sentence)] = torch.tensor(sentence)
    x = torch.full_like(y, EOS_ID)
    x[:, 1:] = y[:, :-1].clamp(min=0)
    return x, y


def save_model(model: LanguageModel, folder: Path) -> None:
    state = {"config": asdict(model.config), "units": list(model.units)}
    folder.mkdir(parents=True, exist_ok=True)
    write_checkpoint(folder / FILE, dict(model.state_dict()), state)


def load_model(folder: Path) -> LanguageModel:
    """Raises ValueError naming the file."""
    path = folder / FILE
    if not path.is_file():
        raise ValueError(f"{path}: no such file; a folder that language-model train wrote is expected")
    try:
        tensors, state = read_checkpoint(path)
        model = LanguageModel(LanguageModelConfig(**state["config"]), state["units"])
        model.load_state_dict(tensors)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: not a language model: {error}") from None
    return model
