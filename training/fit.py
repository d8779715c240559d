"""A recipe in, the best weights out: the training loop, its checkpoints, its early stopping.

All randomness follows from the seed: the data's from (seed, epoch), dropout's from (seed, step).
So a run that was killed and resumed gives, on a CPU, the weights of one that was not.

Several processes (training/ranks.py) take shares of the same batches and add up their gradients, so
their run is that of one process but for rounding, and for dropout, whose seed has their number too.
All of them hold the same weights, averages and history at any step.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from json import dumps
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from model.config import TaggerConfig
from model.features import Vocabulary
from model.head import Chain, Tagged, chain_of, decode, legality
from model.loss import crf_loss, soft_crf_loss, soft_softmax_loss, softmax_loss
from model.network import BiRnnTagger, network_for
from training.batches import (
    Batch,
    Batches,
    LabelledSet,
    TypeStore,
    buckets,
    make_batch,
)
from training.checkpoint import read_checkpoint, read_state, write_checkpoint
from training.corpus import Sentence
from training.metrics import SpanScores, span_scores
from training.names import Names
from training.ranks import ALONE, Ranks
from training.recipe import OptimiserConfig, Recipe
from training.vocabulary import Lexicon

CHECKPOINT, BEST = "checkpoint.safetensors", "best.safetensors"
_EVAL_BATCH_TOKENS, _EVAL_BATCH_SENTENCES = 8192, 256  # padded tokens


class NonFiniteLossError(RuntimeError):
    """The loss became infinite or not a number; the last good checkpoint is kept."""


@dataclass(frozen=True)
class EpochRecord:
    """One line of a run's history."""

    epoch: int  # from 1
    loss: float  # mean over the epoch's batches
    grad_norm: float  # mean, before clipping
    clipped: float  # share of the steps
    learning_rate: float  # at the epoch's end
    dev_f1: float  # mean over the dev sets, 0..1
    dev_precision: float
    dev_recall: float
    seconds: float


@dataclass(frozen=True)
class DevSet:
    name: str
    sentences: list[Sentence]


def new_network(config: TaggerConfig, lexicon: Lexicon, tune: bool) -> BiRnnTagger:
    """A network with fresh weights, the lexicon's pretrained tables, frozen unless ``tune``, and its
    pretrained context encoder, to be trained on. Raises ValueError where that has another shape."""
    network = network_for(config, lexicon.vocabulary)
    if network.context is not None and lexicon.context:
        own = network.context.state_dict()
        for name, value in lexicon.context.items():
            if value.shape != own[name].shape:
                shape, expected = tuple(value.shape), tuple(own[name].shape)
                raise ValueError(f"context.{name}: the shape is {shape}, {expected} is expected")
        network.context.load_state_dict(lexicon.context, strict=False)
    for table, rows in ((network.words.cased, lexicon.cased), (network.words.lower, lexicon.lower)):
        if table is not None and rows is not None:
            with torch.no_grad():
                table.weight.copy_(torch.from_numpy(rows))
            table.weight.requires_grad_(tune)
    return network


def learning_rate(config: OptimiserConfig, done: float) -> float:
    """At ``done`` (0..1) of all steps."""
    if done < config.warmup:
        return config.learning_rate * (done + 1e-3) / (config.warmup + 1e-3)
    rest = (done - config.warmup) / max(1e-9, 1 - config.warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, rest)))


def network_chain(network: BiRnnTagger, config: TaggerConfig) -> Chain:
    start, transitions, end = (
        parameter.detach().cpu().numpy() for parameter in (network.start, network.transitions, network.end)
    )
    return chain_of(start, transitions, end, config.scheme)


def autocast(network: BiRnnTagger, device: str) -> torch.autocast:
    """bfloat16 products where they pay: on CUDA, and for a context encoder on CPUs that have them."""
    if device.startswith("cuda"):
        return torch.autocast("cuda", torch.bfloat16)
    pays = network.context is not None and torch.cpu._is_avx512_bf16_supported()
    return torch.autocast("cpu", torch.bfloat16, enabled=pays)


def compile_encoder(network: BiRnnTagger) -> None:
    """Has torch.compile join what the context encoder does between its products.

    Recurrent layers are one call of cuDNN's already. Raises ValueError without a context encoder.
    """
    if network.context is None:
        raise ValueError("--compile is for a context encoder, and this network has none")
    network.context.compile(dynamic=True)  # else anew for every length


@dataclass(frozen=True)
class Emitted:
    """A batch's emissions (B, T, K), and which sentences they belong to."""

    chosen: list[int]
    lengths: list[int]
    emissions: NDArray[np.float32]


def emit(
    network: BiRnnTagger, sentences: Sequence[Sentence], store: TypeStore, device: str = "cpu"
) -> list[Emitted]:
    """The emissions of all sentences, from the network in memory."""
    network.eval()
    rows = store.rows([s.tokens for s in sentences])
    plan = buckets([len(r) for r in rows], _EVAL_BATCH_TOKENS, _EVAL_BATCH_SENTENCES, Random(0))
    emitted = []
    with torch.inference_mode():
        for chosen in plan:
            batch = make_batch([rows[i] for i in chosen], [[0] * len(rows[i]) for i in chosen], store)
            batch = batch.to(device)
            with autocast(network, device):
                out = network(batch.types, batch.index, batch.lengths, layout=batch.layout)
            out = out.float().cpu().numpy()
            emitted.append(Emitted(chosen, [len(rows[i]) for i in chosen], out))
    return emitted


def decode_all(emitted: Sequence[Emitted], chain: Chain, config: TaggerConfig) -> list[Tagged]:
    """Answers in the sentences' order."""
    answers: dict[int, Tagged] = {}
    for part in emitted:
        tagged = decode(part.emissions, part.lengths, chain, config.scheme, temperature=config.temperature)
        answers.update(zip(part.chosen, tagged, strict=True))
    return [answers[i] for i in range(len(answers))]


class _Average:
    """A running average of the trained weights (Polyak & Juditsky 1992), warmed up."""

    def __init__(self, parameters: dict[str, Tensor], decay: float) -> None:
        self._decay = decay
        self.values = {name: p.detach().clone() for name, p in parameters.items()}

    def update(self, parameters: dict[str, Tensor], step: int) -> None:
        # Early on the plain mean: the first weights are far from where the run will end.
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, value in self.values.items():
            value.lerp_(parameters[name].detach(), 1 - decay)


def _history(state: dict[str, Any]) -> list[EpochRecord]:
    return [EpochRecord(**record) for record in state["history"]]


class Fit:
    """One training run in one folder."""

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        config: TaggerConfig,
        network: BiRnnTagger,
        vocabulary: Vocabulary,
        train: Sequence[LabelledSet],
        dev: Sequence[DevSet],
        *,
        names: Names | None = None,
        device: str = "cpu",
        ranks: Ranks = ALONE,
        window: int = 0,
        inputs: str = "",
    ) -> None:
        """``window``: as training.batches.Batches has it. ``inputs``: a digest of the data, the vocabulary
        and the model that training begins with, which must be a checkpoint's too to go on from it."""
        self.inputs = inputs
        self.folder, self.recipe, self.config, self.device = folder, recipe, config, device
        self.ranks = ranks
        self.network = network.to(device)
        self.dev = dev
        self.batches = Batches(
            train,
            config.scheme,
            vocabulary.encoder,
            recipe.batches,
            augment=recipe.augment,
            names=names,
            seed=recipe.seed,
            window=window,
        )
        self.trained: dict[str, Tensor] = {
            n: p for n, p in self.network.named_parameters() if p.requires_grad
        }
        legal = legality(config.scheme)
        self._legal = [
            torch.as_tensor(part, dtype=torch.float32, device=device)
            for part in (legal.start, legal.transitions, legal.end)
        ]
        self.history: list[EpochRecord] = []
        self.best_f1 = -1.0
        self.step = 0  # over all epochs
        self._sums = [0.0, 0.0, 0.0]  # this epoch's loss, gradient norm, clipped steps
        mixes = recipe.optimiser.initial_share > 0
        self._initial = {n: p.detach().clone() for n, p in self.trained.items() if mixes}
        self._soup = [(each.share, self._kept_by(Path(each.run))) for each in recipe.soup]
        self._average = _Average(self.trained, recipe.optimiser.average_decay)
        pretrained = {n for n in self.trained if n.startswith("context.")}
        share = recipe.optimiser.context_rate
        self._optimiser = torch.optim.AdamW(
            [
                {"params": [p for n, p in self.trained.items() if (n in pretrained) == inside], "share": of}
                for inside, of in ((False, 1.0), (True, share))
                if inside <= bool(pretrained)
            ],
            weight_decay=recipe.optimiser.weight_decay,
            fused=True,  # one pass over the memory, which is what a step of 24 M weights waits for
        )
        # Several processes keep all gradients one after another, and the loss after them: one sum a step.
        n_trained = sum(p.numel() for p in self.trained.values())
        self._sum = torch.zeros(n_trained + 1, device=device) if ranks.size > 1 else None

    # --- what is on disk -------------------------------------------------------------------

    def save(self, epoch: int, step_in_epoch: int) -> None:
        """By the first process alone: all have the same."""
        if not self.ranks.is_first:
            return
        tensors = {f"weight.{n}": p for n, p in self.trained.items()}
        tensors |= {f"average.{n}": p for n, p in self._average.values.items()}
        for name, parameter in self.trained.items():
            moments = self._optimiser.state.get(parameter, {})
            tensors |= {f"adam.{key}.{name}": value for key, value in moments.items()}
        state = {
            "epoch": epoch,
            "step_in_epoch": step_in_epoch,
            "step": self.step,
            "sums": self._sums,
            "best_f1": self.best_f1,
            "history": [asdict(record) for record in self.history],
            "recipe": self.recipe.as_json(),
            "inputs": self.inputs,
        }
        write_checkpoint(self.folder / CHECKPOINT, tensors, state)

    def _begin(self, resume: bool) -> tuple[int, int]:
        """(epoch, step in it) to go on from. Raises ValueError."""
        path = self.folder / CHECKPOINT
        there = self.ranks.is_first and resume and path.exists() and not self._gives_way(path)
        if self.ranks.size == 1:
            return self.load(path) if there else (0, 0)
        # Of several processes all take up the first one's, so that all begin with the same bits,
        # whatever disks and processors they have.
        if self.ranks.is_first and not there:
            self.save(0, 0)
        content = self.ranks.share(path.read_bytes() if self.ranks.is_first else b"")
        if self.ranks.is_first:
            return self.load(path)
        with TemporaryDirectory() as folder:
            copy = Path(folder) / CHECKPOINT
            copy.write_bytes(content)
            return self.load(copy)

    def _gives_way(self, path: Path) -> bool:
        """Whether a checkpoint is of a run by these settings that has ended, on other data or from another
        model: nothing of it is to be gone on with. Raises ValueError where it has not ended."""
        state = read_state(path)
        if state.get("inputs", self.inputs) == self.inputs or not self._is_mine(state):
            return False
        if state["epoch"] < self.recipe.optimiser.epochs and not self._is_stuck(_history(state)):
            raise ValueError(
                f"{path}: was written by a run on other data or from another model, which has not ended; "
                "resume with the same, or start afresh in another folder"
            )
        self.ranks.say(
            f"{path}: of a run on other data or from another model, which has ended: begins afresh"
        )
        return True

    def _is_mine(self, state: dict[str, Any]) -> bool:
        # Compared as JSON has it: tuples are lists there.
        return dumps(state["recipe"]) == dumps(self.recipe.as_json())

    def load(self, path: Path) -> tuple[int, int]:
        """Takes up a checkpoint; (epoch, step in it) to go on from. Raises ValueError."""
        tensors, state = read_checkpoint(path)
        if not self._is_mine(state):
            raise ValueError(
                f"{path}: was written by a run of other settings; resume with the "
                "same ones, or start afresh in another folder"
            )
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(tensors[f"weight.{name}"])
                self._average.values[name].copy_(tensors[f"average.{name}"])
                for key in ("step", "exp_avg", "exp_avg_sq"):
                    moment = tensors.get(f"adam.{key}.{name}")
                    if moment is not None:
                        self._optimiser.state[parameter][key] = moment.to(self.device)
        self.step, self.best_f1, self._sums = state["step"], state["best_f1"], state["sums"]
        self.history = _history(state)
        return state["epoch"], state["step_in_epoch"]

    def load_best(self) -> None:
        """Takes up the weights of the epoch to keep, mixed with the initial ones, and with those of other
        runs, as the recipe says."""
        initial = self.recipe.optimiser.initial_share
        own = 1 - initial - sum(share for share, _ in self._soup)
        best, _ = read_checkpoint(self.folder / BEST)
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(best[name]).mul_(own)
                if initial:
                    parameter.add_(self._initial[name], alpha=initial)
                for share, weights in self._soup:
                    parameter.add_(weights[name].to(self.device), alpha=share)

    def _kept_by(self, folder: Path) -> dict[str, Tensor]:
        """Another run's weights. Raises ValueError where they are not of this network."""
        weights, _ = read_checkpoint(folder / BEST)
        if {n: w.shape for n, w in weights.items()} != {n: p.shape for n, p in self.trained.items()}:
            raise ValueError(f"{folder / BEST}: is not of the network that is trained here")
        return weights

    # --- training --------------------------------------------------------------------------

    def _loss(self, batch: Batch) -> Tensor:
        network = self.network
        with autocast(network, self.device):
            emissions = network(batch.types, batch.index, batch.lengths, self.recipe.dropout, batch.layout)
        emissions = emissions.float()
        if self.config.network.head == "softmax":
            if batch.pairs is not None:
                return soft_softmax_loss(emissions, batch.pairs)
            return softmax_loss(emissions, batch.labels)
        learnt = (network.start, network.transitions, network.end)
        start, moves, end = (own + legal for own, legal in zip(learnt, self._legal, strict=True))
        if batch.pairs is not None:
            return soft_crf_loss(emissions, batch.pairs, batch.lengths, start, moves, end)
        return crf_loss(emissions, batch.labels, batch.lengths, start, moves, end)

    def _gradients(self, batch: Batch) -> float:
        """Leaves the whole batch's gradient in the weights, if its loss is finite; gives the loss."""
        self._optimiser.zero_grad(set_to_none=True)
        loss = self._loss(batch)
        if self._sum is None:
            value = float(loss.detach())
            if math.isfinite(value):
                loss.backward()  # type: ignore[no-untyped-call]
            return value
        at = 0
        tables = {f"words.{name}.weight": rows for name, rows in batch.seen.items()}
        tables = {name: rows for name, rows in tables.items() if name in self.trained}
        for name, parameter in self.trained.items():
            if name not in tables:
                parameter.grad = self._sum[at : at + parameter.numel()].view_as(parameter)
                at += parameter.numel()
        self._sum[:at].zero_()
        # A loss is the mean over sentences, so the whole batch's is that of the shares', weighted.
        loss = loss * batch.share
        loss.backward()  # type: ignore[no-untyped-call]
        # Of the word tables, mostly the largest part, a batch has few rows: only these are exchanged.
        exchanged: list[tuple[Tensor, Tensor, Tensor]] = []
        for name, rows in tables.items():
            of_table = self.trained[name].grad
            assert of_table is not None
            room = self._sum[at : at + len(rows) * of_table.shape[1]].view(len(rows), -1)
            room.copy_(of_table[rows])
            exchanged.append((of_table, rows, room))
            at += room.numel()
        self._sum[at] = loss.detach()
        self.ranks.add(self._sum[: at + 1])
        for of_table, rows, room in exchanged:
            of_table[rows] = room
        return float(self._sum[at])

    def _step(self, batch: Batch, total_steps: int) -> None:
        """``batch``: this process's share of it."""
        config = self.recipe.optimiser
        rate = learning_rate(config, self.step / total_steps)
        for group in self._optimiser.param_groups:
            group["lr"] = rate * group["share"]
        number = (self.ranks.rank,) if self.ranks.rank else ()
        torch.manual_seed(hash((self.recipe.seed, self.step, *number)) % 2**63)
        self.network.train()
        value = self._gradients(batch.to(self.device))
        if math.isfinite(value):
            limit = config.clip_norm or math.inf
            of_all = torch.nn.utils.get_total_norm(
                [p.grad for p in self.trained.values() if p.grad is not None]
            )
            norm = float(of_all)
            if norm > limit:
                torch.nn.utils.clip_grads_with_norm_(self.trained.values(), limit, of_all)
        if not (math.isfinite(value) and math.isfinite(norm)):
            what = f"loss is {value}" if not math.isfinite(value) else f"gradient norm is {norm}"
            raise NonFiniteLossError(
                f"step {self.step + 1}: the {what}. The last good state is {self.folder / CHECKPOINT}; "
                f"try a learning rate below {config.learning_rate:g}, or clipping"
            )
        self._optimiser.step()
        self.step += 1
        self._average.update(self.trained, self.step)
        self._sums[0] += value
        self._sums[1] += norm
        self._sums[2] += norm > limit

    def _score_dev(self, store: TypeStore) -> tuple[float, float, float]:
        """Mean F1, precision and recall over the dev sets, of the averaged weights."""
        kept = {name: p.detach().clone() for name, p in self.trained.items()}
        if self.recipe.optimiser.average_decay:
            self._copy(self._average.values)
        totals = [0.0, 0.0, 0.0]
        chain = network_chain(self.network, self.config)
        counts = torch.zeros(len(self.dev), 3, dtype=torch.int64)
        for row, part in zip(counts, self.dev, strict=True):
            share = part.sentences[self.ranks.rank :: self.ranks.size]
            answers = decode_all(emit(self.network, share, store, self.device), chain, self.config)
            scores = span_scores([s.labels for s in share], [a.labels for a in answers])
            row[:] = torch.tensor([scores.n_gold, scores.n_predicted, scores.n_correct])
        self.ranks.add(counts)
        for row in counts.tolist():
            scores = SpanScores(*row)
            for i, value in enumerate((scores.f1, scores.precision, scores.recall)):
                totals[i] += value / len(self.dev)
        better = totals[0] >= self.best_f1  # of equals the later: it has the lower loss
        if better or self.recipe.optimiser.keep == "last":
            self.best_f1 = max(self.best_f1, totals[0])
            if self.ranks.is_first:
                write_checkpoint(self.folder / BEST, dict(self.trained), {"step": self.step})
        self._copy(kept)
        return totals[0], totals[1], totals[2]

    def _copy(self, values: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(values[name])

    def run(self, *, resume: bool = False, checkpoint_every_s: float = 60.0) -> list[EpochRecord]:
        """Trains to the end or to early stopping. Raises NonFiniteLossError, or ValueError on resuming."""
        if self.ranks.is_first:
            self.folder.mkdir(parents=True, exist_ok=True)
        epoch, skip = self._begin(resume)
        config = self.recipe.optimiser
        store = self.batches.store
        begun = self.batches.windows(0)
        first = next(begun)
        # All epochs draw the same number of sentences, but not of batches: near enough for a schedule.
        n_batches = round(len(first) * self.batches.n_drawn(0) / max(1, len(first.rows)))
        total_steps = config.epochs * n_batches
        saved_at = time.monotonic()
        while epoch < config.epochs and not self._is_stuck(self.history):
            began = time.monotonic()
            if not skip:
                self._sums = [0.0, 0.0, 0.0]
            done = 0  # batches of this epoch
            bar = tqdm(
                desc=f"epoch {epoch + 1}/{config.epochs}", total=n_batches, initial=skip, file=sys.stderr,
                leave=False, disable=None if self.ranks.is_first else True,
            )  # fmt: skip
            for batches in self.batches.windows(epoch) if epoch else chain((first,), begun):
                for at in range(max(0, skip - done), len(batches)):
                    share = batches.share(at, self.ranks.rank, self.ranks.size)
                    self._step(share, max(total_steps, self.step + 1))
                    bar.update()
                    if time.monotonic() - saved_at > checkpoint_every_s:
                        self.save(epoch, done + at + 1)
                        saved_at = time.monotonic()
                done += len(batches)
            bar.close()
            f1, precision, recall = self._score_dev(store)
            loss, norm, clipped = (x / max(1, done) for x in self._sums)
            rate = learning_rate(config, self.step / total_steps)
            seconds = time.monotonic() - began
            record = EpochRecord(epoch + 1, loss, norm, clipped, rate, f1, precision, recall, seconds)
            self.history.append(record)
            self.ranks.say(
                f"epoch {record.epoch}/{config.epochs}: loss {loss:.3f}, gradient norm {norm:.2f} "
                f"({clipped:.0%} clipped), dev F1 {f1:.4f} (P {precision:.4f}, R {recall:.4f}), "
                f"{seconds:.1f} s"
            )
            epoch, skip = epoch + 1, 0
            self.save(epoch, 0)
            saved_at = time.monotonic()
        return self.history

    def _is_stuck(self, history: Sequence[EpochRecord]) -> bool:
        """Whether the last ``patience`` epochs brought nothing. Before the first name is found, never."""
        scores = [record.dev_f1 for record in history]
        best = max(scores, default=0.0)
        return best > 0 and scores[::-1].index(best) >= self.recipe.optimiser.patience
