"""Model folders in, models that serve out: each a Tagger, the thread that runs it, and its health."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from model.artefact import ArtefactError
from model.head import Tagged
from model.tagger import SelfTestError, Tagger
from service.batching import Batcher
from service.metrics import Metrics
from service.problems import Problem
from service.settings import Settings

# Where ONNX Runtime is fastest (model/tagger.py, tag_all); larger batches only make others wait.
# A GPU wants far more at once.
CPU_BATCH_TOKENS, CUDA_BATCH_TOKENS = 1_024, 16_384

_WARM_UP = [["Harry", "Potter"], ["Hermione", "Granger", "invented", "a", "new", "spell", "."] * 8]


class ModelsError(ValueError):
    """The models cannot be loaded as configured. The message is one line for the operator."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """One item of a batch. Its answer depends on nothing else."""

    tokens: list[str]
    threshold: float


def _n_tokens(sentence: Sentence) -> int:
    return len(sentence.tokens)


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
        on_cuda = tagger.backend.device.startswith("cuda")
        self.batcher: Batcher[Sentence, Tagged] = Batcher(
            self._tag_batch,
            length=_n_tokens,
            max_batch_tokens=settings.max_batch_tokens
            or (CUDA_BATCH_TOKENS if on_cuda else CPU_BATCH_TOKENS),
            max_queue_requests=settings.max_queue_requests,
            max_queue_tokens=settings.max_queue_tokens,
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

    def _tag_batch(self, sentences: list[Sentence]) -> Sequence[Tagged]:
        return self.tagger.tag([s.tokens for s in sentences], [s.threshold for s in sentences])

    def summary(self, *, default: bool) -> dict[str, Any]:
        """As schemas.ModelSummary."""
        config = self.tagger.config
        return {
            "name": self.name,
            "version": self.version,
            "default": default,
            "ready": self.trouble is None,
            "languages": list(config.languages),
            "labels": list(config.scheme.labels),
            "threshold": config.threshold,
            "tokeniser": config.tokeniser,
            "device": self.tagger.backend.device,
            "backend": self.tagger.backend.name,
        }

    def details(self, *, default: bool) -> dict[str, Any]:
        """As schemas.ModelDetails."""
        config = self.tagger.config
        return {
            **self.summary(default=default),
            "normalisation": config.normalisation,
            "temperature": config.temperature,
            "network": asdict(config.network),
            "training": self.tagger.artefact.training,
            "card": self.tagger.artefact.card,
        }


class Models:
    """The models of one process, in the order of the settings; the first is the default."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._models: dict[str, ServedModel] = {}  # by name, and by name@version

    @property
    def all(self) -> list[ServedModel]:
        return list(dict.fromkeys(self._models.values()))

    def is_default(self, model: ServedModel) -> bool:
        return next(iter(self._models.values())) is model

    def load(self) -> None:
        """Loads and self-tests every model that is not loaded yet. Raises ModelsError."""
        if self._models:
            return
        found: dict[str, ServedModel] = {}
        for folder in self._settings.model:
            model = ServedModel(_tagger(folder, self._settings), self._settings, self._metrics)
            model.self_test()
            if model.reference in found:
                raise ModelsError(f"{folder}: model {model.reference} is loaded already")
            found.setdefault(model.name, model)  # a bare name is the version that came first
            found[model.reference] = model
        self._models = found

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


def _tagger(folder: Path, settings: Settings) -> Tagger:
    try:
        return Tagger.load(
            folder, device=settings.device, backend=settings.backend, threads=settings.threads
        )
    except ArtefactError as error:
        raise ModelsError(str(error)) from None
    except (ValueError, OSError) as error:
        raise ModelsError(f"{os.fspath(folder)}: {error}") from None
