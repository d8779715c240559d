"""Language models: how likely is the next word, or character? Trained, scored, completed, sampled.

A many-to-many recurrent network whose labels are its own inputs one step on (Mikolov et al. 2010).
A sentence is read from <EOS> to <EOS>: y_t is the unit after x_t, and x_1 is <EOS>. A backward model
reads every sentence turned around. Two character models, one a direction, give contextual string
embeddings (Akbik, Blythe & Vollgraf 2018, https://aclanthology.org/C18-1139).

    B sentences   T units in the longest, <EOS> included   H hidden width   V units in the vocabulary
"""

from __future__ import annotations

import math
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from model.normalisation import normalisation
from model.sentences import sentences_of
from model.tokeniser import Tokens, tokeniser
from training.batches import buckets
from training.checkpoint import read_checkpoint, write_checkpoint
from training.distil import documents
from training.embeddings import NORMALISATION, TOKENISER

FILE = "language-model.safetensors"
EOS, UNK = "<EOS>", "<UNK>"
EOS_ID, UNK_ID = 0, 1
LEVELS, DIRECTIONS = ("word", "char"), ("forward", "backward")
CELLS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
_IGNORED = -100
_LONGEST = {"word": 120, "char": 600}  # units of a sentence that is trained on; longer ones are left out
_NO_SPACE_BEFORE = frozenset(". , ; : ! ? ) ] } ' ” ’ % n't 's 're 've 'll 'd 'm".split())
_NO_SPACE_AFTER = frozenset("( [ { “ ‘ $ £ €".split())


@dataclass(frozen=True)
class LanguageModelConfig:
    """The shape of a model and how it was trained; widths in units."""

    level: str = "word"
    direction: str = "forward"
    cell: str = "lstm"
    n_layers: int = 1
    embedding_dim: int = 128
    hidden_dim: int = 256
    max_units: int = 10_000  # of the vocabulary, the most frequent; the others are <UNK>
    min_count: int = 3
    max_tokens: int = 2_000_000  # words that are read of the files
    held_out: float = 0.02  # of the documents, never trained on
    epochs: int = 2
    learning_rate: float = 3e-3
    clip_norm: float = 1.0
    dropout: float = 0.1
    batch_units: int = 4096  # padded
    seed: int = 1

    def __post_init__(self) -> None:
        for name, value, known in (
            ("level", self.level, LEVELS),
            ("direction", self.direction, DIRECTIONS),
            ("cell", self.cell, tuple(CELLS)),
        ):
            if value not in known:
                raise ValueError(f"{name} {value!r} is not one of {known}")
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out is {self.held_out}: between 0 and 1 is expected")


class LanguageModel(nn.Module):
    """P(next unit | the units before it), for all next units at once."""

    def __init__(self, config: LanguageModelConfig, units: Sequence[str]) -> None:
        super().__init__()
        self.config, self.units = config, tuple(units)
        self.ids = {unit: i for i, unit in enumerate(units)}
        self.embedding = nn.Embedding(len(units), config.embedding_dim)
        self.rnn = CELLS[config.cell](
            config.embedding_dim, config.hidden_dim, config.n_layers, batch_first=True
        )
        self.output = nn.Linear(config.hidden_dim, len(units))
        self._tokenise = tokeniser(TOKENISER)
        self._normalise = normalisation(NORMALISATION)

    def states(self, x: Tensor) -> Tensor:
        """Hidden states (B, T, H) for unit ids (B, T)."""
        states: Tensor = self.rnn(self.embedding(x))[0]
        return states

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, T, V) of what follows each of x (B, T)."""
        p = self.config.dropout
        h = nn.functional.dropout(self.states(x), p, self.training)
        logits: Tensor = self.output(h)
        return logits

    # --- text and units --------------------------------------------------------------------

    def units_of(self, tokens: Sequence[str]) -> list[str]:
        """A sentence as units, in the model's direction, without <EOS>."""
        forms = [self._normalise(token) for token in tokens]
        found = forms if self.config.level == "word" else list(" ".join(forms))
        return found if self.config.direction == "forward" else found[::-1]

    def encode(self, tokens: Sequence[str]) -> list[int]:
        """The ids of a sentence, and <EOS> at its end."""
        return [self.ids.get(unit, UNK_ID) for unit in self.units_of(tokens)] + [EOS_ID]

    def text_of(self, ids: Sequence[int]) -> str:
        """The text of generated units, in reading order."""
        found = [self.units[i] for i in ids if i != EOS_ID]
        if self.config.direction == "backward":
            found.reverse()
        if self.config.level == "char":
            return "".join(found)
        text = ""
        for before, unit in zip(["", *found], found, strict=False):
            spaced = text and unit not in _NO_SPACE_BEFORE and before not in _NO_SPACE_AFTER
            text += f" {unit}" if spaced else unit
        return text

    # --- what it is for --------------------------------------------------------------------

    @torch.inference_mode()
    def log_probabilities(self, sentences: Sequence[Sequence[str]]) -> list[list[float]]:
        """For each sentence the natural logarithm of the probability of each unit, <EOS> included."""
        self.eval()
        ids = [self.encode(tokens) for tokens in sentences]
        plan = buckets([len(i) for i in ids], self.config.batch_units, 256, Random(0))
        out: list[list[float]] = [[] for _ in ids]
        for chosen in plan:
            x, y = _batch([ids[i] for i in chosen])
            logs = self(x).float().log_softmax(2)
            of_next = logs.gather(2, y.clamp(min=0)[:, :, None])[:, :, 0]  # (B, T)
            for row, i in zip(of_next.tolist(), chosen, strict=True):
                out[i] = row[: len(ids[i])]
        return out

    def score(self, text: str) -> list[tuple[str, float]]:
        """Each unit of one sentence with its log2-probability; their sum is the sentence's."""
        tokens = self._tokenise(text).texts
        units = [*self.units_of(tokens), EOS]
        logs = self.log_probabilities([tokens])[0]
        return [(unit, log / math.log(2)) for unit, log in zip(units, logs, strict=True)]

    @torch.inference_mode()
    def generate(
        self, rng: torch.Generator, beginning: str = "", temperature: float = 1.0, longest: int = 300
    ) -> str:
        """A sentence that goes on from ``beginning`` (a backward model: that ends with it) until <EOS>,
        or for ``longest`` units. Never <UNK>; never nothing."""
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}: more than 0 is expected")
        self.eval()
        ids = self.encode(self._tokenise(beginning).texts)[:-1]
        if self.config.level == "char" and ids and self.config.direction == "forward":
            ids += [self.ids[" "]] if beginning[-1:].isspace() and " " in self.ids else []
        state: Any = None
        x = torch.tensor([[EOS_ID, *ids]])
        for _ in range(longest):
            h, state = self.rnn(self.embedding(x), state)
            logits = self.output(h[0, -1]).float() / temperature
            logits[UNK_ID] = -torch.inf
            if not ids:
                logits[EOS_ID] = -torch.inf
            choice = int(torch.multinomial(logits.softmax(0), 1, generator=rng))
            if choice == EOS_ID:
                break
            ids.append(choice)
            x = torch.tensor([[choice]])
        return self.text_of(ids)


def contextual_embeddings(forward: LanguageModel, backward: LanguageModel, tokens: Sequence[str]) -> Tensor:
    """(T, 2H): of each token the forward model's state after its last character, beside the backward
    model's after its first: what is known of the word and all before it, of the word and all after.

    Raises ValueError unless both models are of characters and of those directions.
    """
    for model, direction in ((forward, "forward"), (backward, "backward")):
        if (model.config.level, model.config.direction) != ("char", direction):
            raise ValueError(
                f"a {direction} model of characters is expected, "
                f"not a {model.config.direction} one of {model.config.level}s"
            )
        model.eval()
    lengths = torch.tensor([len(forward._normalise(token)) for token in tokens])
    ends = lengths.cumsum(0) + torch.arange(len(tokens))  # each token's end, the spaces counted
    n = int(ends[-1])
    parts = []
    with torch.inference_mode():
        for model, at in ((forward, ends), (backward, n - (ends - lengths))):
            x = torch.tensor([[EOS_ID, *model.encode(tokens)[:-1]]])
            parts.append(model.states(x)[0, at])
    return torch.cat(parts, 1)


# --- training ------------------------------------------------------------------------------


def _batch(ids: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """x (B, T) and y (B, T), one step on; past a sentence's end y is ignored."""
    longest = max(map(len, ids))
    y = torch.full((len(ids), longest), _IGNORED)
    for row, sentence in zip(y, ids, strict=True):
        row[: len(sentence)] = torch.tensor(sentence)
    x = torch.full_like(y, EOS_ID)
    x[:, 1:] = y[:, :-1].clamp(min=0)
    return x, y


def read_sentences(files: Iterable[Path], max_tokens: int) -> Iterator[list[tuple[str, ...]]]:
    """The documents of raw text files as sentences of tokens, up to so many words, spread evenly
    over the files."""
    cut = tokeniser(TOKENISER)
    paths = list(files)
    for path in paths:
        n_tokens = 0
        for document in documents(path):
            tokens: Tokens = cut(document)
            n_tokens += len(tokens)
            yield [tuple(tokens.texts[a:b]) for a, b in sentences_of(tokens, document)]
            if n_tokens >= max_tokens / len(paths):
                break


def held_out_split(
    texts: Iterable[list[tuple[str, ...]]], share: float
) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """Sentences to train on, and those of every n-th document, at least one. Raises ValueError."""
    every = max(2, round(1 / share))
    train: list[tuple[str, ...]] = []
    held_out: list[tuple[str, ...]] = []
    for number, sentences in enumerate(texts):
        (held_out if number % every == 1 else train).extend(sentences)
    if not train or not held_out:
        raise ValueError("at least two documents are expected, a blank line between them")
    return train, held_out


def new_model(config: LanguageModelConfig, train: Sequence[tuple[str, ...]]) -> LanguageModel:
    """A model with fresh weights, whose vocabulary is the training text's most frequent units."""
    bare = LanguageModel(replace(config, direction="forward"), [EOS, UNK])
    counts = Counter(unit for sentence in train for unit in bare.units_of(sentence))
    ranked = sorted(counts.items(), key=lambda one: (-one[1], one[0]))[: config.max_units]
    torch.manual_seed(config.seed)
    known = [unit for unit, n in ranked if n >= config.min_count and unit not in (EOS, UNK)]
    return LanguageModel(config, [EOS, UNK, *known])


def perplexity(model: LanguageModel, sentences: Sequence[tuple[str, ...]]) -> float:
    """exp of the mean negative log-probability of a unit, <EOS> included. A uniform model's is V."""
    logs = [x for sentence in model.log_probabilities(sentences) for x in sentence]
    return math.exp(-sum(logs) / len(logs))


@dataclass(frozen=True)
class Fitted:
    model: LanguageModel
    perplexity: float  # of the held-out sentences
    n_train_units: int
    n_held_out_units: int
    seconds: float


def fit(
    config: LanguageModelConfig, train: Sequence[tuple[str, ...]], held_out: Sequence[tuple[str, ...]]
) -> Fitted:
    """Trains by AdamW with a cosine down to 0, and keeps the last weights."""
    model = new_model(config, train)
    ids = [i for i in map(model.encode, train) if 1 < len(i) <= _LONGEST[config.level]]
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, fused=True)
    pays = torch.cpu._is_avx512_bf16_supported()
    began = time.monotonic()
    for epoch in range(config.epochs):
        rng = Random(f"{config.seed} {epoch}")
        plan = buckets([len(i) for i in ids], config.batch_units, 512, rng)
        total = n_units = 0.0
        bar = tqdm(plan, f"epoch {epoch + 1}/{config.epochs}", file=sys.stderr, leave=False, disable=None)
        model.train()
        for step, chosen in enumerate(bar):
            done = (epoch + step / len(plan)) / config.epochs
            for group in optimiser.param_groups:
                group["lr"] = config.learning_rate * min(1.0, 20 * done + 0.05) * _cosine(done)
            torch.manual_seed(hash((config.seed, epoch, step)) % 2**63)
            x, y = _batch([ids[i] for i in chosen])
            with torch.autocast("cpu", torch.bfloat16, enabled=pays):
                logits = model(x)
            loss = cross_entropy(logits.float().flatten(0, 1), y.flatten(), ignore_index=_IGNORED)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
            optimiser.step()
            n = int((y != _IGNORED).sum())
            total, n_units = total + float(loss.detach()) * n, n_units + n
        found = perplexity(model, held_out)
        print(
            f"epoch {epoch + 1}/{config.epochs}: perplexity {math.exp(total / n_units):.2f} in training, "
            f"{found:.2f} held out, {time.monotonic() - began:.0f} s",
            file=sys.stderr,
            flush=True,
        )
    n_held_out = sum(len(model.encode(s)) for s in held_out)
    return Fitted(model, found, int(n_units), n_held_out, time.monotonic() - began)


def _cosine(done: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * done))


def save_model(model: LanguageModel, folder: Path) -> None:
    state = {"config": asdict(model.config), "units": list(model.units)}
    folder.mkdir(parents=True, exist_ok=True)
    write_checkpoint(folder / FILE, dict(model.state_dict()), state)


def load_model(folder: Path) -> LanguageModel:
    """Raises ValueError naming the file."""
    path = folder / FILE
    try:
        tensors, state = read_checkpoint(path)
        model = LanguageModel(LanguageModelConfig(**state["config"]), state["units"])
        model.load_state_dict(tensors)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from None
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: not a language model: {error}") from None
    return model
