"""Raw text in, a trained language model and its perplexity on held-out documents out.

Every sentence is read by itself, as it will be when it is scored or made; not contiguous text with a
carried state (truncated back-propagation through time), whose state no lone sentence has.
"""

from __future__ import annotations

import math
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import torch
from torch import nn
from tqdm import tqdm

from model.sentences import sentences_of
from model.tokeniser import tokeniser
from training.batches import buckets
from training.embeddings import TOKENISER
from training.fit import NonFiniteLossError
from training.language_model import (
    EOS,
    IGNORED,
    UNK,
    UNK_ID,
    LanguageModel,
    LanguageModelConfig,
    make_batch,
)
from training.raw_text import documents

_LONGEST = {"word": 120, "char": 600}  # units of a sentence that is trained on; longer ones are left out
_MAX_SENTENCES = 512  # in a batch

Sentences = list[tuple[str, ...]]


@dataclass(frozen=True)
class Split:
    train: Sentences
    held_out: Sentences


@dataclass(frozen=True)
class Perplexity:
    """How well a model predicts text. Every sentence's <EOS> counts, as a unit and as a word."""

    log_likelihood: float  # natural logarithm
    n_units: int
    n_words: int
    n_unknown: int  # units that were <UNK>: predicting it is easier than predicting what it stands for

    @property
    def per_unit(self) -> float:
        """exp of the mean negative log-probability of a unit. A uniform model's is V."""
        return math.exp(-self.log_likelihood / self.n_units)

    @property
    def bits_per_unit(self) -> float:
        return -self.log_likelihood / self.n_units / math.log(2)

    @property
    def per_word(self) -> float:
        """The same by word, also where the units are characters: then the spaces cost too."""
        return math.exp(min(-self.log_likelihood / self.n_words, 700.0))

    def __str__(self) -> str:
        by_word = f", {self.per_word:.2f} a word" if self.n_words != self.n_units else ""
        return (
            f"perplexity {self.per_unit:.2f} ({self.bits_per_unit:.3f} bits) a unit{by_word} "
            f"over {self.n_units:,} units, {self.n_unknown / self.n_units:.1%} of them {UNK}"
        )


@dataclass(frozen=True)
class Fitted:
    model: LanguageModel
    held_out: Perplexity
    n_train_units: int  # of one epoch
    seconds: float


def read_documents(path: Path, max_tokens: int) -> list[Sentences]:
    """The first documents of a raw text file as sentences of tokens, up to so many words."""
    cut = tokeniser(TOKENISER)
    found: list[Sentences] = []
    n_tokens = 0
    try:
        for document in documents(path):
            tokens = cut(document)
            texts = [*map(sys.intern, tokens.texts)]  # a word's every occurrence is one string
            found.append([tuple(texts[a:b]) for a, b in sentences_of(tokens, document)])
            n_tokens += len(tokens)
            if n_tokens >= max_tokens:
                break
    except (UnicodeDecodeError, EOFError) as error:
        raise ValueError(f"{path}: not text in UTF-8: {error}") from None
    return found


def read_sentences(files: Sequence[Path], max_tokens: int) -> Sentences:
    """The sentences of raw text files, up to so many words, as many of each file. Raises ValueError."""
    share = math.ceil(max_tokens / len(files))
    found = [s for path in files for document in read_documents(path, share) for s in document]
    if not found:
        raise ValueError(f"{files[0]}: no words in it")
    return found


def read_split(files: Sequence[Path], max_tokens: int, held_out: float) -> Split:
    """What ``read_sentences`` reads, the last documents of each file apart: at least ``held_out`` of
    its words, and a document. The last, since neighbours may be of one book. Raises ValueError."""
    share = math.ceil(max_tokens / len(files))
    split = Split([], [])
    for path in files:
        read = read_documents(path, share)
        lengths = [sum(map(len, document)) for document in read]
        first, n_apart = len(read), 0
        while first > 1 and n_apart < max(1.0, held_out * sum(lengths)):
            first -= 1
            n_apart += lengths[first]
        for number, document in enumerate(read):
            (split.train if number < first else split.held_out).extend(document)
    if not split.train or not split.held_out:
        raise ValueError(f"{files[0]}: at least two documents are expected, a blank line between them")
    return split


def new_model(config: LanguageModelConfig, train: Sentences) -> LanguageModel:
    """A model with fresh weights, whose vocabulary is the training text's most frequent units.
    Raises ValueError where none is frequent enough."""
    bare = LanguageModel(replace(config, direction="forward"), [EOS, UNK])
    counts = Counter(unit for sentence in train for unit in bare.units_of(sentence))
    ranked = sorted(counts.items(), key=lambda one: (-one[1], one[0]))[: config.max_units]
    known = [unit for unit, n in ranked if n >= config.min_count and unit not in (EOS, UNK)]
    if not known:
        raise ValueError(
            f"no {config.level} comes min_count, {config.min_count}, times in the training text"
        )
    torch.manual_seed(config.seed)
    return LanguageModel(config, [EOS, UNK, *known])


def perplexity(model: LanguageModel, sentences: Sentences) -> Perplexity:
    """Of sentences, at least one, each read by itself."""
    logs = model.log_probabilities(sentences)
    return Perplexity(
        log_likelihood=math.fsum(x for sentence in logs for x in sentence),
        n_units=sum(map(len, logs)),
        n_words=sum(len(sentence) + 1 for sentence in sentences),
        n_unknown=sum(model.encode(sentence).count(UNK_ID) for sentence in sentences),
    )


def fit(config: LanguageModelConfig, split: Split, device: str = "cpu") -> Fitted:
    """Trains by AdamW, the rate warmed up and then a cosine down to 0; keeps the last weights.

    Raises NonFiniteLossError, and ValueError where no sentence is short enough.
    """
    model = new_model(config, split.train).to(device)
    ids = [i for i in map(model.encode, split.train) if 1 < len(i) <= _LONGEST[config.level]]
    if not ids:
        raise ValueError(f"no sentence has at most {_LONGEST[config.level]} units of {config.level}")
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, fused=True)
    # In bfloat16 an LSTM of 384 units takes 158 ms where it took 255, on a processor that has it.
    pays = device != "cpu" or torch.cpu._is_avx512_bf16_supported()
    began = time.monotonic()
    for epoch in range(config.epochs):
        rng = Random(f"{config.seed} {epoch}")
        plan = buckets([len(i) for i in ids], config.batch_units, _MAX_SENTENCES, rng)
        name = f"epoch {epoch + 1}/{config.epochs}"
        model.train()
        total = 0.0
        with _less_precise_products():
            for step, chosen in enumerate(tqdm(plan, name, file=sys.stderr, leave=False, disable=None)):
                done = (epoch + step / len(plan)) / config.epochs
                for group in optimiser.param_groups:
                    group["lr"] = config.learning_rate * _schedule(done)
                x, y = make_batch([ids[i] for i in chosen])
                with torch.autocast(device, torch.bfloat16, enabled=pays):
                    states = model(x)[0]  # (B, T, H)
                real = y != IGNORED
                logs, loss = model.softmax(states[real.to(device)].float(), y[real].to(device))
                if not loss.isfinite():
                    raise NonFiniteLossError(f"{name}, step {step + 1}: the loss is {float(loss)}")
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
                optimiser.step()
                total += float(logs.detach().sum())
        held_out = perplexity(model, split.held_out)
        print(f"{name}: {math.exp(-total / sum(map(len, ids))):.2f} in training; held out: {held_out}; "
              f"{time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)  # fmt: skip
    return Fitted(model, held_out, sum(map(len, ids)), time.monotonic() - began)


def _schedule(done: float) -> float:
    """The share of the peak learning rate when this share of all steps is done."""
    return min(1.0, 0.05 + 20 * done) * 0.5 * (1 + math.cos(math.pi * done))


@contextmanager
def _less_precise_products() -> Iterator[None]:
    """Products of float32 by way of bfloat16, where that is faster: enough to learn by, not to score."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
