"""One system of the study in, its measured run out; and one network of the probe likewise.

Uses the training loop of training/fit.py; writes only into the folder it is given, to be thrown away.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import mean, median
from typing import Any

import torch
from torch import Tensor

from model.config import NetworkConfig
from model.labels import PERSON
from model.loss import IGNORED, softmax_loss
from model.network import Dropout
from training.batches import Batch, BatchConfig, LabelledSet, TypeStore, buckets, make_batch
from training.corpus import Sentence
from training.fit import DevSet, Fit, NonFiniteLossError, decode_all, emit, network_chain
from training.memory import DISTANCES, Gradients, gradients_by_distance, probes, windows
from training.metrics import span_scores
from training.output_recurrence import OutputRecurrentTagger
from training.recipe import OptimiserConfig, Recipe
from training.systems import System
from training.train import _fresh

_TIMED_TOKENS, _TIMED_REPEATS = 20_000, 3  # of tagging
_BATCH_TOKENS, _BATCH_SENTENCES = 8192, 256


@dataclass(frozen=True)
class SystemRun:
    """One training of one system. Shares are 0..1; of several dev sets they are means."""

    system: str
    seed: int
    n_parameters: int  # trained ones
    f1: float  # of the best epoch on dev, as are the next two
    precision: float
    recall: float
    best_epoch: int  # from 1; 0: none was finished
    n_epochs: int
    broke_down: str  # the step and what was not finite; "": it did not
    # A second of CPU time, on a CPU.
    train_tokens_per_s: float  # of a step: forward, backward, update; median over steps
    tag_tokens_per_s: float  # emissions and decoding, in batches, in memory; median of 3
    clipped: float  # share of the steps
    grad_norms: list[float]  # of each step, before clipping
    # Share of the dev labels that output recurrence gets wrong, going on from its own labels, and
    # with the gold label before each token.
    wrong_given_own: float | None
    wrong_given_gold: float | None
    untrained: Gradients | None  # of a network whose emissions do not depend on its own labels
    trained: Gradients | None

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> SystemRun:
        curves = {k: Gradients(**value[k]) if value[k] else None for k in ("untrained", "trained")}
        return cls(**{**value, **curves})


def _seconds(device: str) -> float:
    """Of CPU time, so that what else the machine does is not measured; by the clock on CUDA."""
    return time.process_time() if device == "cpu" else time.perf_counter()


class MeasuredFit(Fit):
    """A Fit that trains every system, and keeps each step's gradient norm and speed."""

    def __init__(self, system: System, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.grad_norms: list[float] = []
        self.tokens_per_s: list[float] = []
        self._feedback = system.feedback
        if system.sgd:
            rate = self.recipe.optimiser.learning_rate
            group = {"params": list(self.trained.values()), "share": 1.0}
            self._optimiser = torch.optim.SGD([group], lr=rate)  # type: ignore[assignment]

    def _loss(self, batch: Batch) -> Tensor:
        if not isinstance(self.network, OutputRecurrentTagger):
            return super()._loss(batch)
        labels = batch.labels if self._feedback == "gold" else None
        scores = self.network.taught(batch.types, batch.index, batch.lengths, labels, self.recipe.dropout)
        return softmax_loss(scores, batch.labels)

    def _step(self, batch: Batch, total_steps: int) -> None:
        norms_before, began = self._sums[1], _seconds(self.device)
        super()._step(batch, total_steps)
        self.tokens_per_s.append(int(batch.lengths.sum()) / (_seconds(self.device) - began))
        self.grad_norms.append(self._sums[1] - norms_before)


def _wrong_given(fit: Fit, network: OutputRecurrentTagger, *, gold_before: bool) -> float:
    """Share of the dev labels that are wrong, with the gold label before each token or its own."""
    ids = {label: i for i, label in enumerate(fit.config.scheme.labels)}
    sentences = [s for part in fit.dev for s in part.sentences]
    rows = fit.batches.store.rows([s.tokens for s in sentences])
    gold = [[ids.get(label, 0) for label in s.labels] for s in sentences]
    n_wrong = n_tokens = 0
    for chosen in buckets([len(r) for r in rows], _BATCH_TOKENS, _BATCH_SENTENCES, Random(0)):
        batch = make_batch([rows[i] for i in chosen], [gold[i] for i in chosen], fit.batches.store)
        batch = batch.to(fit.device)
        before = batch.labels if gold_before else None
        with torch.inference_mode():
            given = network.taught(batch.types, batch.index, batch.lengths, before).argmax(2)
        real = batch.labels != IGNORED
        n_wrong += int((given != batch.labels)[real].sum())
        n_tokens += int(real.sum())
    return n_wrong / n_tokens


def _tag_tokens_per_s(fit: Fit) -> float:
    sentences: list[Sentence] = []
    n_tokens = 0
    for s in (s for part in fit.dev for s in part.sentences):
        if n_tokens < _TIMED_TOKENS:
            sentences.append(s)
            n_tokens += len(s.tokens)
    chain = network_chain(fit.network, fit.config)
    rates = []
    for _ in range(_TIMED_REPEATS):
        began = _seconds(fit.device)
        decode_all(emit(fit.network, sentences, fit.batches.store, fit.device), chain, fit.config)
        rates.append(n_tokens / (_seconds(fit.device) - began))
    return median(rates)


def run_system(
    system: System,
    recipe: Recipe,
    train: Sequence[LabelledSet],
    dev: Sequence[DevSet],
    folder: Path,
    device: str = "cpu",
) -> SystemRun:
    """Trains ``system`` by its recipe. A loss that becomes infinite ends the run and is its result."""
    config, lexicon, network = _fresh(recipe, train)
    if system.feedback:
        words = network.words  # with the pretrained tables
        network = OutputRecurrentTagger(config.network, lexicon.vocabulary, config.scheme)
        network.words = words
    fit = MeasuredFit(
        system, folder, recipe, config, network, lexicon.vocabulary, train, dev, device=device
    )
    stretches = windows(
        [s for part in dev for s in part.sentences], config.scheme, TypeStore(lexicon.vocabulary.encoder)
    )
    measured = not isinstance(network, OutputRecurrentTagger)
    untrained = gradients_by_distance(network, stretches) if measured else None
    broke_down = ""
    try:
        fit.run()
    except NonFiniteLossError as error:
        broke_down = str(error).partition(". ")[0]
    history = fit.history
    best = max(history, key=lambda record: (record.dev_f1, record.epoch), default=None)
    if best:
        fit.load_best()
    limit = recipe.optimiser.clip_norm
    recurrent = network if best and isinstance(network, OutputRecurrentTagger) else None
    return SystemRun(
        system=system.slug,
        seed=recipe.seed,
        n_parameters=sum(p.numel() for p in fit.trained.values()),
        f1=best.dev_f1 if best else 0.0,
        precision=best.dev_precision if best else 0.0,
        recall=best.dev_recall if best else 0.0,
        best_epoch=best.epoch if best else 0,
        n_epochs=len(history),
        broke_down=broke_down,
        train_tokens_per_s=median(fit.tokens_per_s or [0.0]),
        tag_tokens_per_s=_tag_tokens_per_s(fit) if best else 0.0,
        clipped=mean([norm > limit > 0 for norm in fit.grad_norms] or [0.0]),
        grad_norms=[float(f"{norm:.4g}") for norm in fit.grad_norms],
        wrong_given_own=_wrong_given(fit, recurrent, gold_before=False) if recurrent else None,
        wrong_given_gold=_wrong_given(fit, recurrent, gold_before=True) if recurrent else None,
        untrained=untrained,
        trained=gradients_by_distance(network, stretches) if best and measured else None,
    )


@dataclass(frozen=True)
class ProbeConfig:
    """How the networks of the probe (training/memory.py) are trained, all alike and from nothing."""

    distances: tuple[int, ...] = DISTANCES
    n_alone: int = 1000  # sentences to train on, all of one distance
    n_mixed: int = 3000  # of all distances in turn
    n_test: int = 400  # of one distance
    epochs: int = 30
    learning_rate: float = 5e-3


@dataclass(frozen=True)
class ProbeScore:
    """How many of the names at one distance were found."""

    distance: int
    mixed: bool  # trained on all distances, or on this one alone
    cue_first: bool
    recall: float
    precision: float


@dataclass(frozen=True)
class ProbeRun:
    cell: str
    bidirectional: bool
    seed: int
    scores: list[ProbeScore]

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ProbeRun:
        return cls(**{**value, "scores": [ProbeScore(**score) for score in value["scores"]]})


@dataclass(frozen=True)
class Study:
    """All that the report shows."""

    command: str
    train: dict[str, int]  # sentences of each file
    dev: dict[str, int]
    n_train_tokens: int
    recipe: Recipe
    probe: ProbeConfig
    runs: list[SystemRun]
    probes: list[ProbeRun]
    scaled: dict[float, Gradients]  # of an untrained plain RNN, by spectral radius
    machine: str

    def of(self, slug: str) -> list[SystemRun]:
        """A system's runs, one a seed; none where it was left out."""
        return [run for run in self.runs if run.system == slug]


def run_probe(cell: str, bidirectional: bool, seed: int, config: ProbeConfig, folder: Path) -> ProbeRun:
    """One network trained on all distances, and one on each alone. It knows words alone, no characters."""
    scores = []
    for number, distances in enumerate([config.distances, *((d,) for d in config.distances)]):
        mixed = not number
        n = (config.n_mixed if mixed else config.n_alone) // len(distances)
        train = [s for distance in distances for s in probes("train", distance, n, seed)]
        test = {distance: probes("test", distance, config.n_test, seed) for distance in distances}
        fit = _probe_fit(cell, bidirectional, seed, config, train, test, folder / str(number))
        fit.run()
        chain = network_chain(fit.network, fit.config)
        for distance, sentences in test.items():
            answers = decode_all(emit(fit.network, sentences, fit.batches.store), chain, fit.config)
            for first in (0, 1):  # sentences whose cue comes first and last take turns
                gold = [s.labels for s in sentences[first::2]]
                found = span_scores(gold, [a.labels for a in answers[first::2]])
                scores.append(ProbeScore(distance, mixed, not first, found.recall, found.precision))
    return ProbeRun(cell, bidirectional, seed, scores)


def _probe_fit(
    cell: str,
    bidirectional: bool,
    seed: int,
    config: ProbeConfig,
    train: list[Sentence],
    test: Mapping[int, list[Sentence]],
    folder: Path,
) -> Fit:
    network = NetworkConfig(
        cell=cell,
        bidirectional=bidirectional,
        head="softmax",
        hidden_dim=32,
        feature_dim=32,
        cased_dim=32,
        char_filters=0,
        shape_dim=0,
    )
    recipe = Recipe(
        name="probe",
        entity_types=(PERSON,),
        min_count=1,
        seed=seed,
        network=network,
        dropout=Dropout(),
        optimiser=OptimiserConfig(
            epochs=config.epochs, learning_rate=config.learning_rate, average_decay=0.0, patience=10_000
        ),
        batches=BatchConfig(max_batch_tokens=4096, max_batch_sentences=32),
    )
    sets = [LabelledSet("probe", train)]
    tagger, lexicon, fresh = _fresh(recipe, sets)
    dev = [DevSet("all distances", [s for sentences in test.values() for s in sentences[:20]])]
    return Fit(folder, recipe, tagger, fresh, lexicon.vocabulary, sets, dev)
