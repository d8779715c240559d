"""A teacher's answers on raw text, kept as soft labels for a student to learn from.

What is kept of a sentence is the teacher's posterior over its label sequences. For a linear chain
that is all said by the probabilities of neighbouring labels, so a student that is fitted to them
(model.loss.soft_crf_loss) is fitted to the whole posterior, not to its best guess: knowledge
distillation (Hinton et al. 2015, arXiv:1503.02531) of a structure (Wang et al. 2020,
arXiv:2004.03846, there with sampled sequences; here exactly).

    T tokens of a sentence   K labels
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from model.artefact import load
from model.backend import network_of
from model.head import Chain, best_path, messages
from model.network import BiRnnTagger
from model.tagger import Tagger
from training.batches import TypeStore
from training.corpus import Sentence
from training.fit import emit
from training.raw_text import drawn_sentences

SUFFIX = ".safetensors"
_LENGTHS = range(4, 121)  # in tokens: headings and run-on lists teach little
_CHUNK = 4096  # sentences labelled at a time
_SCOUT_SURE = 0.95  # of each token's label: a quarter of the sentences have one it is less sure of


@dataclass(frozen=True)
class Chosen:
    """Which sentences of the raw text are labelled and kept."""

    share: float = 1.0  # of the documents, drawn at random
    max_tokens: int = 1_000_000  # that are labelled, of each file
    without_names: float = 0.3  # share kept of the sentences in which the teacher finds nobody
    seed: int = 1
    sure: float = 0.1  # share labelled of the sentences that a scout is sure of


def raw_sentences(path: Path, tokeniser_name: str, chosen: Chosen) -> Iterator[tuple[str, ...]]:
    """The tokens of the drawn documents' sentences, no sentence twice."""
    rng = Random(f"{chosen.seed} {path.name}")
    for _, tokens in drawn_sentences(path, tokeniser_name, rng, chosen.share, _LENGTHS):
        yield tokens


def doubtful(
    sentences: Iterable[tuple[str, ...]], scout: Tagger, sure: float, rng: Random
) -> Iterator[tuple[str, ...]]:
    """The sentences with a token of whose label the scout is not sure, and a share of the others.

    What a student knows already teaches it little: uncertainty sampling (Lewis & Gale 1994,
    arXiv:cmp-lg/9407020), with a slow teacher in the place of a person.
    """
    source = iter(sentences)
    while part := list(islice(source, _CHUNK)):
        for tokens, answer in zip(part, scout.tag(part, 0.0), strict=True):
            if min(answer.scores) < _SCOUT_SURE or rng.random() < sure:
                yield tokens


def up_to(sentences: Iterable[tuple[str, ...]], max_tokens: int) -> Iterator[tuple[str, ...]]:
    """The first sentences, until they have ``max_tokens``."""
    n_tokens = 0
    for tokens in sentences:
        if n_tokens >= max_tokens:
            return
        n_tokens += len(tokens)
        yield tokens


def pair_marginals(
    emissions: NDArray[np.float64], lengths: NDArray[np.int64], chain: Chain
) -> NDArray[np.float64]:
    """(B, T, K, K): P(y_t-1 = j, y_t = k); at t = 0, P(y_0 = k) in row j = 0."""
    marginals, suffixes = messages(emissions, lengths, chain)
    ahead = np.exp(chain.transitions) * suffixes[:, 1:, None, :]  # (B, T - 1, K, K)
    ahead /= ahead.sum(3, keepdims=True)
    out = np.zeros((*emissions.shape, emissions.shape[2]))
    out[:, 0, 0] = marginals[:, 0]
    out[:, 1:] = marginals[:, :-1, :, None] * ahead
    return out


class Teacher:
    """Labels sentences with an artefact's network, in torch.

    ``temperature``: of its probabilities; None is the artefact's own, which was fitted on noisier
    text than the raw text may be.
    """

    def __init__(self, folder: Path, device: str = "cpu", temperature: float | None = None) -> None:
        artefact = load(folder)
        self.name = artefact.config.name
        self.config = artefact.config
        self._network: BiRnnTagger = network_of(artefact).to(device)
        self._encoder = artefact.vocabulary.encoder
        self._device = device
        t = self._temperature = temperature or self.config.temperature
        chain = artefact.chain
        self._chain = Chain(chain.start / t, chain.transitions / t, chain.end / t)

    def label(self, sentences: list[tuple[str, ...]], document: int = 0) -> list[Sentence]:
        """The sentences with the teacher's best labels and its posterior."""
        names = self.config.scheme.labels
        given = [Sentence(tokens, ("O",) * len(tokens), document) for tokens in sentences]
        answers: dict[int, Sentence] = {}
        # A store of its own for every call: of raw text, most types are seen once.
        for part in emit(self._network, given, TypeStore(self._encoder), self._device):
            lengths = np.array(part.lengths)
            scores = part.emissions.astype(np.float64) / self._temperature
            path = best_path(scores, lengths, self._chain)
            pairs = pair_marginals(scores, lengths, self._chain).astype(np.float16)
            for b, (i, n) in enumerate(zip(part.chosen, part.lengths, strict=True)):
                labels = tuple(names[k] for k in path[b, :n].tolist())
                answers[i] = Sentence(given[i].tokens, labels, document, pairs[b, :n].copy())
        return [answers[i] for i in range(len(given))]


class Teachers:
    """Several teachers as one: the mean of their posteriors, with the first one's best labels.

    A mixture of chains is no chain, but its pairs of labels are the means of theirs, and a student is
    fitted to the pairs alone.
    """

    def __init__(self, teachers: Sequence[Teacher]) -> None:
        first, *others = teachers
        for other in others:
            if (
                other.config.scheme != first.config.scheme
                or other.config.tokeniser != first.config.tokeniser
            ):
                raise ValueError(f"{other.name} has other labels, or another tokeniser, than {first.name}")
        self._teachers = teachers
        self.name = " and ".join(teacher.name for teacher in teachers)
        self.config = first.config

    def label(self, sentences: list[tuple[str, ...]], document: int = 0) -> list[Sentence]:
        first, *others = (teacher.label(sentences, document) for teacher in self._teachers)
        if not others:
            return first
        return [
            replace(
                each[0], pairs=np.mean([s.pairs for s in each], axis=0, dtype=np.float32).astype(np.float16)
            )
            for each in zip(first, *others, strict=True)
        ]


def label_files(
    teacher: Teachers, files: Iterable[Path], chosen: Chosen, scout: Tagger | None = None
) -> Iterator[Sentence]:
    """The labelled sentences that are kept, file by file; with a scout, those that it doubts."""
    rng = Random(chosen.seed)
    for path in files:
        source = raw_sentences(path, teacher.config.tokeniser, chosen)
        if scout is not None:
            source = doubtful(source, scout, chosen.sure, rng)
        source = up_to(source, chosen.max_tokens)
        n_tokens = n_kept = 0
        while part := list(islice(source, _CHUNK)):
            for sentence in teacher.label(part):
                n_tokens += len(sentence.tokens)
                if any(label != "O" for label in sentence.labels) or rng.random() < chosen.without_names:
                    n_kept += len(sentence.tokens)
                    yield sentence
            print(f"{path}: {n_tokens:,} tokens labelled, {n_kept:,} kept", file=sys.stderr, flush=True)


def write_soft(sentences: Iterable[Sentence], path: Path, labels: tuple[str, ...], teacher: str) -> int:
    """Writes soft-labelled sentences as one safetensors file; how many there were."""
    kept = list(sentences)
    if not kept:
        raise ValueError(f"{path}: no sentence was kept to write; more text or a larger share is expected")
    tensors: dict[str, NDArray[Any]] = {
        "tokens": np.frombuffer("\n".join(t for s in kept for t in s.tokens).encode(), dtype=np.uint8),
        "lengths": np.array([len(s.tokens) for s in kept], dtype=np.int32),
        "best": np.array([labels.index(x) for s in kept for x in s.labels], dtype=np.uint8),
        "pairs": np.concatenate([s.pairs for s in kept if s.pairs is not None]),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.partial")
    save_file(tensors, fresh, {"labels": json.dumps(labels), "teacher": teacher})
    fresh.replace(path)
    return len(kept)


def read_soft(path: Path) -> tuple[list[Sentence], tuple[str, ...]]:
    """The sentences that ``write_soft`` wrote, and the labels that their posteriors are of, in that order.
    Raises ValueError naming the file."""
    try:
        with safe_open(path, "numpy") as opened:
            names = json.loads(opened.metadata()["labels"])
            tokens, lengths, best, pairs = (
                opened.get_tensor(name) for name in ("tokens", "lengths", "best", "pairs")
            )
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not soft labels: {error}") from None
    texts = tokens.tobytes().decode().split("\n")
    labels = [names[i] for i in best.tolist()]
    ends = np.cumsum(lengths).tolist()
    if not len(texts) == len(labels) == len(pairs) == (ends[-1] if ends else 0):
        raise ValueError(f"{path}: {len(texts)} tokens for {len(labels)} labels and {len(pairs)} pairs")
    sentences = [
        Sentence(tuple(texts[start:end]), tuple(labels[start:end]), number, pairs[start:end])
        for number, (start, end) in enumerate(zip([0, *ends], ends, strict=False))
    ]
    return sentences, tuple(names)
