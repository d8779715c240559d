"""Model folders in, models that serve out: each a Tagger, the thread that runs it, and its health."""

from __future__ import annotations

import gc
import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

from model.artefact import MANIFEST, ArtefactError
from model.backend import CPU_BATCH_TOKENS
from model.document import first_threshold, second_look
from model.head import Tagged
from model.tagger import SelfTestError, Tagger
from service.batching import Batcher
from service.observing.log import LOGGER
from service.observing.metrics import Metrics
from service.problems import Problem
from service.reloading.lineup import ChangeError, Entry, Lineup, Load
from service.settings import Settings

# What the kernel computes on the event loop itself: a batch, 3 to 5 ms. Another thread takes 0.15 ms to be
# told and to answer, and the two take the GIL from each other: of one client's requests of 32 sentences
# there were 1.11 times as many as with 512 here, of four clients' 1.05 times. Other backends are too slow
# for that, and a larger network far too slow.
KERNEL_TOKENS_AT_ONCE = CPU_BATCH_TOKENS

_WARM_UP = [["Harry", "Potter"], ["Hermione", "Granger", "invented", "a", "new", "spell", "."] * 8]


log = logging.getLogger(LOGGER)


class ModelsError(ValueError):
    """The models cannot be loaded as configured. The message is one line for the operator."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """One item of a batch. Its answer depends on nothing else."""

    tokens: list[str]
    threshold: float
    document: str | None = None  # the text that it is a part of, whose other sentences tell it of names
    known: tuple[int, ...] | None = None  # its tokens that they told of; None until they have


_DOCUMENT = attrgetter("document")


def _n_tokens(sentence: Sentence) -> int:
    return len(sentence.tokens)


def tag_batch(tagger: Tagger, sentences: Sequence[Sentence]) -> Sequence[Tagged]:
    """A sentence of a document is looked at for less sure names too, which others of it may explain."""
    known = [s.known or () for s in sentences] if any(s.known for s in sentences) else None
    thresholds = [
        first_threshold(s.threshold) if s.known is None and s.document is not None else s.threshold
        for s in sentences
    ]
    return tagger.tag([s.tokens for s in sentences], thresholds, known)


def look_again(sentences: Sequence[Sentence], answers: Sequence[Tagged]) -> dict[int, Sentence]:
    """Those of a document that its own names explain (model/document.py)."""
    again: dict[int, Sentence] = {}
    first = 0
    # By identity: equal texts of one request are documents of their own.
    for _, run in groupby(map(id, map(_DOCUMENT, sentences))):
        last = first + len(list(run))
        if sentences[first].document is not None:
            of_document = sentences[first:last]
            found = second_look(
                [s.tokens for s in of_document], answers[first:last], of_document[0].threshold
            )
            again |= {first + i: replace(of_document[i], known=known) for i, known in found.items()}
        first = last
    return again


def _is_out_of_memory(error: Exception) -> bool:
    # By name, since the service does not import torch: torch.OutOfMemoryError is the class's name
    # on CUDA, MemoryError Python's, and ONNX Runtime says it in words only.
    return "OutOfMemory" in type(error).__name__ or isinstance(error, MemoryError)


class ServedModel:
    """One loaded model. ``trouble`` is why it must not serve, or None."""

    def __init__(self, tagger: Tagger, settings: Settings, metrics: Metrics) -> None:
        self.tagger = tagger
        self.name = tagger.config.name
        self.version = tagger.config.version
        self.trouble: str | None = None
        self.metrics = metrics.of_model(self.reference)
        # No cycle may lead from here to here: the collector looks at nothing that is loaded
        # (frozen, below), so an unloaded model is freed by its last reference or never.
        self.batcher: Batcher[Sentence, Tagged] = Batcher(
            partial(tag_batch, tagger),
            length=_n_tokens,
            look_again=look_again,
            max_batch_tokens=settings.max_batch_tokens or tagger.backend.batch_tokens,
            max_queue_requests=settings.max_queue_requests,
            max_queue_tokens=settings.max_queue_tokens,
            max_tokens_at_once=KERNEL_TOKENS_AT_ONCE if tagger.backend.name == "kernel" else 0,
            is_padded=tagger.backend.is_padded,
            is_out_of_memory=_is_out_of_memory,
            free_memory=tagger.backend.free_memory,
            observer=metrics.observer_of(self.reference),
            name=f"tagger-{self.name}",
        )

    @property
    def reference(self) -> str:
        return f"{self.name}@{self.version}"

    def self_test(self) -> None:
        """Sets ``trouble`` unless the expected answers come out, here and now. Warms the backend up."""
        try:
            self.tagger.self_test()
        except SelfTestError as error:
            self.trouble = str(error)
        else:
            self.tagger.tag(_WARM_UP)

    def summary(self, *, default: bool, current: bool) -> dict[str, Any]:
        """As schemas.ModelSummary."""
        config = self.tagger.config
        return {
            "name": self.name,
            "version": self.version,
            "default": default,
            "current": current,
            "ready": self.trouble is None,
            "languages": list(config.languages),
            "labels": list(config.scheme.labels),
            "threshold": config.threshold,
            "tokeniser": config.tokeniser,
            "device": self.tagger.backend.device,
            "backend": self.tagger.backend.name,
        }

    def details(self, *, default: bool, current: bool) -> dict[str, Any]:
        """As schemas.ModelDetails."""
        config = self.tagger.config
        return {
            **self.summary(default=default, current=current),
            "normalisation": config.normalisation,
            "temperature": config.temperature,
            "network": asdict(config.network),
            "training": self.tagger.artefact.training,
            "card": self.tagger.artefact.card,
        }


class Models:
    """The models of one process; the first is the default. What a name means says reloading/lineup.py.

    Each change replaces ``_models`` as a whole, so whoever looks finds the old ones or the new ones.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._models: dict[str, ServedModel] = {}  # by name, and by name@version
        self.lineup: Lineup = ()

    @property
    def all(self) -> list[ServedModel]:
        return list(dict.fromkeys(self._models.values()))

    @property
    def wanted(self) -> list[ServedModel]:
        """Those that were not replaced."""
        return [self._models[entry.reference] for entry in self.lineup if not entry.is_replaced]

    def is_default(self, model: ServedModel) -> bool:
        return next(iter(self._models.values())) is model

    def is_current(self, model: ServedModel) -> bool:
        """Whether the bare name means it."""
        return self._models.get(model.name) is model

    def load(self, lineup: Lineup | None = None) -> None:
        """Loads and self-tests every model, unless that was done. Raises ModelsError.

        ``lineup``: what other workers serve already; None is what the settings say. Of it, replaced
        models whose folder holds other files by now are left out: they wait for a way back only.
        """
        if self._models:
            return
        served: dict[str, ServedModel] = {}
        entries: list[Entry] = []
        if lineup is None:
            for folder in self._settings.model:
                entry, model = self._loaded(folder)
                if model.reference in served:
                    raise ModelsError(f"{folder}: model {model.reference} is loaded already")
                served[model.reference] = model
                entries.append(entry)
        for wanted in lineup or ():
            try:
                entry, model = self._loaded(wanted.folder, wanted.digest)
            except ModelsError as error:
                if not wanted.is_replaced:
                    raise
                log.warning("left out", extra={"fields": {"model": wanted.reference, "why": str(error)}})
            else:
                served[model.reference] = model
                entries.append(replace(entry, is_replaced=wanted.is_replaced))
        self._adopt(tuple(entries), served)

    def having(self, load: Load) -> tuple[Entry, ServedModel] | None:
        """What is asked for, where it is loaded already."""
        for entry in self.lineup:
            if (entry.name, entry.digest) == (load.name, load.digest):
                return replace(entry, is_replaced=False), self._models[entry.reference]
        return None

    def prepared(self, load: Load) -> tuple[Entry, ServedModel]:
        """The model to be loaded, self-tested, beside what serves. On any thread. Raises ChangeError."""
        try:
            entry, model = self._loaded(load.folder, load.digest, load.name)
        except ModelsError as error:
            raise ChangeError("load-failed", str(error)) from None
        if model.trouble is not None:
            raise ChangeError("load-failed", f"{load.folder}: {model.trouble}")
        if model.reference in self._models:
            detail = f"{load.folder}: {model.reference} is loaded already, from other files"
            raise ChangeError("version-taken", f"{detail}: give them another version")
        # As at the start (service/memory.py), but without a collection, which would stop traffic.
        gc.freeze()
        return entry, model

    def adopt(self, lineup: Lineup, new: ServedModel | None) -> list[ServedModel]:
        """Serves this lineup from now on; returns the models that are no longer in it.

        On the event loop. A replaced version that this process does not have is left out.
        """
        before = self.all
        served = {model.reference: model for model in (*before, *filter(None, (new,)))}
        if new is not None and new not in before:
            new.batcher.start()
        self._adopt(tuple(entry for entry in lineup if entry.reference in served), served)
        after = self.all
        return [model for model in before if model not in after]

    def _adopt(self, lineup: Lineup, served: dict[str, ServedModel]) -> None:
        models: dict[str, ServedModel] = {}
        for entry in lineup:
            models.setdefault(entry.name, served[entry.reference])
            models[entry.reference] = served[entry.reference]
        self.lineup = lineup
        self._models = models

    def _loaded(
        self, folder: Path, digest: str | None = None, name: str | None = None
    ) -> tuple[Entry, ServedModel]:
        """Raises ModelsError, also where a folder does not hold these files, or a model of this name."""
        before = digest_of(folder)
        if digest not in (None, before):
            raise ModelsError(
                f"{folder}: holds other files than those that are served: load it again, or put them back"
            )
        tagger = _tagger(folder, self._settings)
        if digest_of(folder) != before:
            raise ModelsError(f"{folder}: the folder changed while it was read")
        if name not in (None, tagger.config.name):
            raise ModelsError(f"{folder}: holds {tagger.config.name!r}, and {name!r} is expected")
        model = ServedModel(tagger, self._settings, self._metrics)
        model.self_test()
        return Entry(model.name, model.version, folder, before), model

    def find(self, name: str | None) -> ServedModel:
        """By name or name@version; None is the default. Raises Problem (unknown-model)."""
        model = next(iter(self._models.values()), None) if name is None else self._models.get(name)
        if model is None:
            available = [each.reference for each in self.all]
            raise Problem("unknown-model", "the models are: " + ", ".join(available), available=available)
        return model

    def start(self) -> None:
        for model in self.all:
            model.batcher.start()

    async def close(self, timeout_s: float) -> None:
        for model in self.all:
            await model.batcher.close(timeout_s)

    def abandon(self) -> None:
        for model in self.all:
            model.batcher.abandon()


def digest_of(folder: Path) -> str:
    """Which files a folder holds: the manifest has the hash of each. Raises ModelsError."""
    try:
        return hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    except (OSError, ValueError):
        no_model = f"holds no {MANIFEST}, so it is not a model folder"
        problem = no_model if os.path.isdir(folder) else "no such model folder"
        raise ModelsError(f"{folder}: {problem}") from None


def _tagger(folder: Path, settings: Settings) -> Tagger:
    try:
        return Tagger.load(
            folder, device=settings.device, backend=settings.backend, threads=settings.threads
        )
    except ArtefactError as error:
        raise ModelsError(str(error)) from None
    except (ValueError, OSError) as error:
        raise ModelsError(f"{os.fspath(folder)}: {error}") from None
