"""Sentences in, seeded length-bucketed batches out, as tensors.

Every random choice of an epoch follows from (seed, epoch) alone, so that a run that resumes
draws what an uninterrupted one would have drawn.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from random import Random

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.features import UNK_ID, Encoder, Ids, WordTypes
from model.labels import LabelScheme
from model.loss import IGNORED
from model.network import LayoutTensors, TypeTensors
from model.wordpiece import lay_out
from training.augment import AugmentConfig, Variant, augmented
from training.corpus import Sentence
from training.names import Names

Pairs = NDArray[np.float16]
_SURE = 0.9  # least probability of every label of a sentence whose names may be swapped


def is_sure(sentence: Sentence) -> bool:
    """Whether all its labels are certain, or nearly so to the teacher that gave them."""
    if sentence.pairs is None:
        return True
    return bool(sentence.pairs.sum(1, dtype=np.float32).max(1).min() >= _SURE)


def _pairs_of(sentence: Sentence, variant: Variant) -> Pairs | None:
    """The soft labels of a variant of the sentence.

    Where its names are of another length they have no place in the posterior, and the labels say
    what they are.
    """
    pairs, sources = sentence.pairs, variant.sources
    if pairs is None or sources is None:
        return None
    out = np.zeros((len(sources), *pairs.shape[1:]), dtype=pairs.dtype)
    for t, source in enumerate(sources):
        if source >= 0:
            out[t] = pairs[source]
        else:  # it is nobody: O, whatever came before
            out[t, :, 0] = out[t - 1].sum(0) if t else np.eye(len(out[t]))[0]
    return out


@dataclass(frozen=True)
class LabelledSet:
    """The sentences of one file, and the share of them that an epoch draws (1: all)."""

    name: str
    sentences: Sequence[Sentence]
    weight: float = 1.0
    taught: tuple[str, ...] = ()  # the labels that soft ones are of, in their teacher's order

    def of_labels(self, labels: tuple[str, ...]) -> LabelledSet:
        """The set with soft labels in this order. Raises ValueError where they are of others."""
        if self.taught in ((), labels):
            return self
        if sorted(self.taught) != sorted(labels):
            raise ValueError(f"{self.name}: its teacher knows {self.taught}, the tagger {labels}")
        at = [self.taught.index(label) for label in labels]
        sentences = [
            s if s.pairs is None else replace(s, pairs=s.pairs[:, at][:, :, at]) for s in self.sentences
        ]
        return replace(self, sentences=sentences, taught=labels)


@dataclass(frozen=True)
class Batch:
    """B sentences, the longest of T tokens, N distinct word types."""

    types: TypeTensors
    index: Tensor  # (B, T) int64: each token's row among the word types
    lengths: Tensor  # (B,)
    labels: Tensor  # (B, T) int64, IGNORED past the length
    layout: LayoutTensors | None = None  # for a network with a context encoder
    pairs: Tensor | None = None  # (B, T, K, K) as model.loss.soft_crf_loss has it, of soft labels
    share: float = 1.0  # of a whole batch's sentences, where several processes divide it
    seen: dict[str, Tensor] = field(default_factory=dict)  # then, of each word table, the whole's rows

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
        pairs = None if self.pairs is None else moved(self.pairs)
        return replace(
            self, types=types, index=moved(self.index), lengths=moved(self.lengths),
            labels=moved(self.labels), layout=layout, pairs=pairs,
            seen={name: moved(rows) for name, rows in self.seen.items()},
        )  # fmt: skip


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

    def words(self, rows: Ids) -> dict[str, Tensor]:
        """Of each word table the rows of these word types, ascending, and <UNK>'s, which dropout takes."""
        t = self._all()
        return {
            name: torch.from_numpy(np.union1d(ids[rows], [UNK_ID]))
            for name, ids in (("cased", t.cased), ("lower", t.lower))
        }

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


def make_batch(
    rows: Sequence[Sequence[int]],
    labels: Sequence[Sequence[int]],
    store: TypeStore,
    pairs: Sequence[Pairs | None] = (),
) -> Batch:
    """One batch from rows of the store and label ids; every sentence has at least one token.

    ``pairs``: the sentences' soft labels, None for those that have none.
    """
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
        _padded_pairs(pairs, targets, lengths),
    )


def _padded_pairs(pairs: Sequence[Pairs | None], targets: Ids, lengths: Sequence[int]) -> Tensor | None:
    """(B, T, K, K), 0 past a length; a sentence without soft labels is certain of its own."""
    n_labels = next((p.shape[-1] for p in pairs if p is not None), 0)
    if not n_labels:
        return None
    out = np.zeros((*targets.shape, n_labels, n_labels), dtype=np.float32)
    for b, (soft, n) in enumerate(zip(pairs, lengths, strict=True)):
        if soft is not None:
            out[b, :n] = soft
        else:
            before = np.concatenate(([0], targets[b, : n - 1]))
            out[b, np.arange(n), before, targets[b, :n]] = 1.0
    return torch.from_numpy(out)


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
        window: int = 0,
    ) -> None:
        """``window``: sentences of an epoch in memory at a time; 0: all."""
        self._sets = [part.of_labels(scheme.labels) for part in sets]
        self._window = window
        self._config = config
        self._augment = augment
        self._unswapped = replace(augment, swap_names=0.0)
        self._names = names
        self._seed = seed
        self._ids = {label: i for i, label in enumerate(scheme.labels)}
        for part in sets:
            for sentence in part.sentences[:1]:
                n_labels = len(self._ids) if sentence.pairs is None else sentence.pairs.shape[-1]
                if n_labels != len(self._ids):
                    raise ValueError(
                        f"{part.name}: its teacher knows {n_labels} labels, the tagger {len(self._ids)}"
                    )
        if not self.n_drawn(0):
            shares = {part.name: part.weight for part in sets}
            raise ValueError(f"no sentence is drawn: the weights are {shares}")
        self._encoder = encoder
        self.store = TypeStore(encoder)

    def n_drawn(self, epoch: int) -> int:
        """Sentences that the epoch draws."""
        return len(self._drawn(epoch, Random(0)))

    def _drawn(self, epoch: int, rng: Random) -> array[int]:
        """An epoch's sentences, by number. A set of weight 1/3 is cut in three, and goes round."""
        drawn = array("q")
        before = 0
        for part in self._sets:
            numbers = array("q", range(before, before + len(part.sentences)))
            whole, share = divmod(part.weight, 1.0)
            drawn += numbers * int(whole)
            if share:
                n = round(len(numbers) * share)
                Random(f"{self._seed} {part.name}").shuffle(numbers)
                first = (epoch * n) % len(numbers)
                drawn += (numbers + numbers)[first : first + n]
            before += len(part.sentences)
        rng.shuffle(drawn)
        return drawn

    def _sentence(self, number: int) -> Sentence:
        """Of all sets, one after another."""
        for part in self._sets:
            if number < len(part.sentences):
                return part.sentences[number]
            number -= len(part.sentences)
        raise IndexError(number)

    def windows(self, epoch: int) -> Iterator[EpochBatches]:
        """The epoch's batches: known in number, made one by one; all at once, or window by window.

        Sentences are shuffled over the whole epoch before it is cut into windows; a batch holds those
        of one window.
        """
        rng = Random(f"{self._seed} {epoch}")
        drawn = self._drawn(epoch, rng)
        size = self._window or max(1, len(drawn))
        for first in range(0, max(1, len(drawn)), size):
            # The word types of a window are forgotten with it: of a large corpus they are many.
            store = TypeStore(self._encoder) if self._window else self.store
            yield self._planned([self._sentence(i) for i in drawn[first : first + size]], store, rng)

    def epoch(self, epoch: int) -> EpochBatches:
        """The epoch's first window, or all of it."""
        return next(self.windows(epoch))

    def _planned(self, drawn: Sequence[Sentence], store: TypeStore, rng: Random) -> EpochBatches:
        sentences = []
        pairs = []
        for s in drawn:
            # Where a teacher was not sure, another name would be taught as if it had been.
            augment = self._augment if is_sure(s) else self._unswapped
            variant = augmented(list(s.tokens), list(s.labels), augment, self._names, rng)
            sentences.append((variant.tokens, variant.labels))
            pairs.append(_pairs_of(s, variant))
        lengths = [len(tokens) for tokens, _ in sentences]
        plan = buckets(lengths, self._config.max_batch_tokens, self._config.max_batch_sentences, rng)
        rows = store.rows([tokens for tokens, _ in sentences])
        ids = [[self._ids[label] for label in given] for _, given in sentences]
        return EpochBatches(plan, rows, ids, store, pairs)


@dataclass(frozen=True)
class EpochBatches:
    plan: list[list[int]]
    rows: list[list[int]]
    labels: list[list[int]]
    store: TypeStore
    pairs: list[Pairs | None]

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, step: int) -> Batch:
        return self._batch(self.plan[step])

    def share(self, step: int, rank: int, n_ranks: int) -> Batch:
        """What process ``rank`` of ``n_ranks`` takes of a batch: every ``n_ranks``-th sentence.

        A batch is ordered by length, so all shares are of nearly the same length and width. Where
        there are fewer sentences than processes, some take one that counts for nothing.
        """
        whole = self.plan[step]
        if n_ranks == 1:
            return self._batch(whole)
        chosen = whole[rank::n_ranks]
        seen = self.store.words(np.unique(np.concatenate([self.rows[i] for i in whole])))
        return replace(self._batch(chosen or whole[:1]), share=len(chosen) / len(whole), seen=seen)

    def _batch(self, chosen: Sequence[int]) -> Batch:
        rows, labels = ([part[i] for i in chosen] for part in (self.rows, self.labels))
        return make_batch(rows, labels, self.store, [self.pairs[i] for i in chosen])
