"""Sentences in, seeded length-bucketed batches out, as tensors.

Every random choice of an epoch follows from (seed, epoch) alone, so that a run that resumes
draws what an uninterrupted one would have drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from random import Random

import numpy as np
import torch
from torch import Tensor

from model.features import Encoder, Ids, WordTypes
from model.labels import LabelScheme
from model.loss import IGNORED
from model.network import LayoutTensors, TypeTensors
from model.wordpiece import lay_out
from training.augment import AugmentConfig, augmented
from training.corpus import Sentence
from training.names import Names


@dataclass(frozen=True)
class LabelledSet:
    """The sentences of one file, and the share of them that an epoch draws (1: all)."""

    name: str
    sentences: list[Sentence]
    weight: float = 1.0


@dataclass(frozen=True)
class Batch:
    """B sentences, the longest of T tokens, N distinct word types."""

    types: TypeTensors
    index: Tensor  # (B, T) int64: each token's row among the word types
    lengths: Tensor  # (B,)
    labels: Tensor  # (B, T) int64, IGNORED past the length
    layout: LayoutTensors | None = None  # for a network with a context encoder

    def to(self, device: str) -> Batch:
        if device == "cpu":
            return self

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        t = self.types
        types = TypeTensors(moved(t.cased), moved(t.lower), moved(t.shapes), moved(t.chars))
        layout = self.layout
        if layout is not None:
            layout = LayoutTensors(moved(layout.pieces), moved(layout.shapes), moved(layout.at))
        return Batch(types, moved(self.index), moved(self.lengths), moved(self.labels), layout)


class TypeStore:
    """Encodes each word type once per run; batches gather their rows."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._rows: dict[str, int] = {}
        self._parts: list[WordTypes] = []
        self._types: WordTypes | None = None

    def rows(self, sentences: Sequence[Sequence[str]]) -> list[list[int]]:
        """Each token's row in this store."""
        fresh = list({t: None for s in sentences for t in s if t not in self._rows})
        if fresh:
            self._parts.append(self._encoder.encode(fresh))
            self._types = None
            first = len(self._rows)
            self._rows.update((token, first + i) for i, token in enumerate(fresh))
        return [[self._rows[token] for token in sentence] for sentence in sentences]

    def _all(self) -> WordTypes:
        if self._types is None:
            names = [f.name for f in fields(WordTypes)]
            joined = {f: np.concatenate([getattr(p, f) for p in self._parts]) for f in names}
            self._types = WordTypes(**joined)
            self._parts = [self._types]
        return self._types

    def layout(self, padded: Ids, lengths: Sequence[int]) -> LayoutTensors | None:
        """The pieces of a batch of rows (B, T), if the vocabulary has any."""
        pieces = self._encoder.pieces
        if not pieces:
            return None
        t = self._all()
        made = lay_out(t.pieces, t.shapes, padded, lengths, pieces.first, pieces.last)
        return LayoutTensors(*(torch.from_numpy(a) for a in (made.pieces, made.shapes, made.at)))

    def tensors(self, rows: Ids) -> TypeTensors:
        """The word types of these rows."""
        t = self._all()
        return TypeTensors(
            *(
                torch.from_numpy(np.ascontiguousarray(a[rows]))
                for a in (t.cased, t.lower, t.shapes, t.chars)
            )
        )


def make_batch(rows: Sequence[Sequence[int]], labels: Sequence[Sequence[int]], store: TypeStore) -> Batch:
    """One batch from rows of the store and label ids; every sentence has at least one token."""
    lengths = [len(r) for r in rows]
    shape = (len(rows), max(lengths))
    padded = np.full(shape, rows[0][0], dtype=np.int64)
    targets = np.full(shape, IGNORED, dtype=np.int64)
    for b, (row, label) in enumerate(zip(rows, labels, strict=True)):
        padded[b, : len(row)] = row
        targets[b, : len(row)] = label
    used, first_at, index = np.unique(padded, return_index=True, return_inverse=True)
    # In the order in which the batch has them, not the store: that depends on all that came before,
    # which a resumed run has not seen, and dropout would fall on other types.
    order = np.argsort(first_at)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return Batch(
        store.tensors(used[order]),
        torch.from_numpy(rank[index.reshape(shape)]),
        torch.tensor(lengths),
        torch.from_numpy(targets),
        store.layout(padded, lengths),
    )


def buckets(lengths: Sequence[int], max_tokens: int, max_sentences: int, rng: Random) -> list[list[int]]:
    """Indices in batches of similar length, at most ``max_tokens`` padded tokens each, shuffled.

    Lengths are jittered before sorting, so that an epoch does not repeat the last one's batches.
    """
    order = sorted(range(len(lengths)), key=lambda i: lengths[i] * (0.9 + 0.2 * rng.random()))
    made: list[list[int]] = []
    batch: list[int] = []
    longest = 0
    for i in order:
        longest_now = max(longest, lengths[i])
        if batch and (longest_now * (len(batch) + 1) > max_tokens or len(batch) == max_sentences):
            made.append(batch)
            batch, longest_now = [], lengths[i]
        batch.append(i)
        longest = longest_now
    if batch:
        made.append(batch)
    rng.shuffle(made)
    return made


@dataclass(frozen=True)
class BatchConfig:
    max_batch_tokens: int = 1024  # padded
    max_batch_sentences: int = 32


class Batches:
    """The training batches of every epoch."""

    def __init__(
        self,
        sets: Sequence[LabelledSet],
        scheme: LabelScheme,
        encoder: Encoder,
        config: BatchConfig,
        *,
        augment: AugmentConfig,
        names: Names | None,
        seed: int,
    ) -> None:
        self._sets = sets
        self._config = config
        self._augment = augment
        self._names = names
        self._seed = seed
        self._ids = {label: i for i, label in enumerate(scheme.labels)}
        self.store = TypeStore(encoder)

    def _drawn(self, epoch: int, rng: Random) -> list[Sentence]:
        """An epoch's sentences. A set of weight 1/3 is cut in three, and goes round."""
        drawn: list[Sentence] = []
        for part in self._sets:
            whole, share = divmod(part.weight, 1.0)
            drawn += part.sentences * int(whole)
            if share:
                n = round(len(part.sentences) * share)
                order = list(range(len(part.sentences)))
                Random(f"{self._seed} {part.name}").shuffle(order)
                first = (epoch * n) % len(order)
                drawn += [part.sentences[i] for i in (order + order)[first : first + n]]
        rng.shuffle(drawn)
        return drawn

    def epoch(self, epoch: int) -> EpochBatches:
        """The epoch's batches: known in number, made one by one."""
        rng = Random(f"{self._seed} {epoch}")
        sentences = [
            augmented(list(s.tokens), list(s.labels), self._augment, self._names, rng)
            for s in self._drawn(epoch, rng)
        ]
        lengths = [len(tokens) for tokens, _ in sentences]
        plan = buckets(lengths, self._config.max_batch_tokens, self._config.max_batch_sentences, rng)
        rows = self.store.rows([tokens for tokens, _ in sentences])
        labels = [[self._ids[label] for label in given] for _, given in sentences]
        return EpochBatches(plan, rows, labels, self.store)


@dataclass(frozen=True)
class EpochBatches:
    plan: list[list[int]]
    rows: list[list[int]]
    labels: list[list[int]]
    store: TypeStore

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, step: int) -> Batch:
        chosen = self.plan[step]
        return make_batch([self.rows[i] for i in chosen], [self.labels[i] for i in chosen], self.store)
