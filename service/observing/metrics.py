"""What the service counts, by name: requests, refusals, queues, batches, tokens, models, processes.

Labels hold what this code and the operator named: templates of paths, codes, models. Never what
was submitted.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from service.batching import Observer, Place
from service.observing.meters import (
    ROWS,
    SECONDS,
    Counter,
    Folder,
    Gauge,
    Histogram,
    Meters,
    exposition,
    forget_gauges,
)
from service.problems import Problem

# A client may send any method; each that is counted by itself costs a time series a path.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


@dataclass(frozen=True)
class Serving:
    """A version of a model that serves, and what computes it."""

    name: str
    version: str
    backend: str
    device: str


class ModelMetrics:
    """Of one model. Its first three methods are what a batcher tells its observer, on its thread."""

    def __init__(self, meters: Meters, model: str) -> None:
        self._queue_wait = meters.histogram(
            "nametag_queue_wait_seconds",
            "From when a request was accepted by its model's queue until its first sentence was in a batch",
            SECONDS, model=model,
        )  # fmt: skip
        self._rows = meters.histogram("nametag_batch_rows", "Sentences of a batch", ROWS, model=model)
        self._seconds = meters.histogram("nametag_batch_seconds", "Computing a batch", SECONDS, model=model)
        self._batch_tokens = meters.counter(
            "nametag_batch_tokens_total", "Tokens computed in batches, without padding", model=model
        )
        self._padding = meters.counter(
            "nametag_batch_padding_tokens_total", "Padding computed in batches", model=model
        )
        self._failures = meters.counter(
            "nametag_batch_failures_total", "Batches that failed, of which the parts were tried again",
            model=model,
        )  # fmt: skip
        self._sentences = meters.counter("nametag_sentences_total", "Sentences tagged", model=model)
        self._tokens = meters.counter("nametag_tokens_total", "Tokens tagged", model=model)
        self._persons = meters.counter("nametag_persons_total", "Persons found", model=model)
        self._queue_requests = meters.gauge(
            "nametag_queue_requests", "Requests in a model's queue, or being computed", model=model
        )
        self._queue_tokens = meters.gauge(
            "nametag_queue_tokens", "Tokens in a model's queue, or being computed", model=model
        )

    def waited(self, caller: object, seconds: float) -> None:  # noqa: ARG002
        self._queue_wait.observe(seconds)

    def computed(self, batch: Sequence[Place[Any, Any]], seconds: float) -> None:
        n_rows = len(batch)
        lengths = [place.length for place in batch]
        n_tokens = sum(lengths)
        self._rows.observe(n_rows)
        self._seconds.observe(seconds)
        self._batch_tokens.add(n_tokens)
        self._padding.add(max(lengths) * n_rows - n_tokens)

    def failed(self, batch: Sequence[Place[Any, Any]], seconds: float) -> None:  # noqa: ARG002
        self._failures.add()

    def queue(self, n_requests: int, n_tokens: int) -> None:
        """How much is waiting now."""
        self._queue_requests.set(n_requests)
        self._queue_tokens.set(n_tokens)

    def tagged(self, n_sentences: int, n_tokens: int, n_persons: int) -> None:
        """Called on the event loop, for the sentences of a request."""
        self._sentences.add(n_sentences)
        self._tokens.add(n_tokens)
        self._persons.add(n_persons)


class Observers:
    """Several, told of the same."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = observers

    def waited(self, caller: object, seconds: float) -> None:
        for each in self._observers:
            each.waited(caller, seconds)

    def computed(self, batch: Sequence[Place[Any, Any]], seconds: float) -> None:
        for each in self._observers:
            each.computed(batch, seconds)

    def failed(self, batch: Sequence[Place[Any, Any]], seconds: float) -> None:
        for each in self._observers:
            each.failed(batch, seconds)


class Metrics:
    """Of one process. But for ModelMetrics' observer, belongs to one thread.

    ``folder``: of all processes of this service; None where this is the only one.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._own = Folder() if folder is None else None
        self.folder = self._own.path if self._own else folder
        assert self.folder is not None
        self._meters = meters = Meters(self.folder, os.getpid())
        self._answers: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._rejections: dict[tuple[str, str], Counter] = {}
        self._models: dict[str, ModelMetrics] = {}
        self.tracing: Observer | None = None  # is told of batches, too
        self._served: dict[Serving, Gauge] = {}
        self._in_progress = meters.gauge(
            "nametag_requests_in_progress", "Requests being answered, their bodies still arriving or queued"
        )
        self._cpu = meters.counter("process_cpu_seconds_total", "CPU time of the processes that serve")
        self._cpu_s = 0.0
        self._memory = meters.gauge(
            "process_resident_memory_bytes", "Resident memory of each process that serves", mode="liveall"
        )
        meters.gauge("nametag_workers", "Processes that serve").set(1)
        self._restarts = restarts_of(meters)

    def answered(self, method: str, path: str, status: int, seconds: float) -> None:
        """``path``: a template, of which there are few; ``status`` 499: nobody waited for the answer."""
        key = (method, path, status)
        meters = self._answers.get(key)
        if meters is None:
            known = method if method in _METHODS else "other"
            meters = self._answers[key] = (
                self._meters.counter(
                    "nametag_requests_total", "Requests, by template of the path; 499: the client hung up",
                    method=known, path=path, status=str(status),
                ),
                self._meters.histogram(
                    "nametag_request_seconds", "From a request's head to the end of its answer", SECONDS,
                    path=path,
                ),
            )  # fmt: skip
        n_requests, latency = meters
        n_requests.add()
        latency.observe(seconds)

    def rejected(self, problem: Problem) -> None:
        self.refused(problem.code, str(problem.fields.get("limit", "")))

    def refused(self, reason: str, limit: str = "") -> None:
        """``reason``: a code of problems; ``limit``: the setting that it ran into, if any."""
        counter = self._rejections.get((reason, limit))
        if counter is None:
            counter = self._rejections[reason, limit] = self._meters.counter(
                "nametag_rejections_total", "Requests answered with a problem, by its code and limit",
                reason=reason, limit=limit,
            )  # fmt: skip
        counter.add()

    def of_model(self, model: str) -> ModelMetrics:
        """``model``: name@version. The same for each call, so that a model loaded again counts on."""
        if model not in self._models:
            self._models[model] = ModelMetrics(self._meters, model)
        return self._models[model]

    def observer_of(self, model: str) -> Observer:
        """For the model's batcher."""
        counts = self.of_model(model)
        return counts if self.tracing is None else Observers((counts, self.tracing))

    def queues(self, now: Mapping[str, tuple[int, int]]) -> None:
        """The requests and tokens that wait now, by model; where one is gone, nothing does."""
        for model, metrics in list(self._models.items()):  # a load, on its own thread, may add one
            metrics.queue(*now.get(model, (0, 0)))

    def serving(self, models: Iterable[Serving]) -> None:
        """Those that serve now."""
        now = set(models)
        for each in now - self._served.keys():
            self._served[each] = self._meters.gauge(
                "nametag_model_info", "In how many processes a version of a model serves", **asdict(each)
            )
        for each, gauge in self._served.items():
            gauge.set(each in now)

    def ended(self, pid: int, *, has_died: bool) -> None:
        """A process that this one started: its counts stay, its gauges go."""
        assert self.folder is not None
        forget_gauges(self.folder, pid)
        if has_died:
            self._restarts.add()

    def sample(self, n_in_progress: int) -> None:
        """Takes the gauges of this process."""
        self._in_progress.set(n_in_progress)
        cpu_s = time.process_time()
        self._cpu.add(cpu_s - self._cpu_s)
        self._cpu_s = cpu_s
        if (memory := resident_bytes()) is not None:
            self._memory.set(memory)

    def exposition(self) -> bytes:
        """What all processes of this service have counted, in Prometheus's text format."""
        assert self.folder is not None
        return exposition(self.folder)

    def close(self) -> None:
        self._meters.close()
        if self._own is not None:
            self._own.delete()


def restarts_of(meters: Meters) -> Counter:
    """Counted by whoever restarts others; there, and 0, in every other process."""
    return meters.counter("nametag_worker_restarts_total", "Processes that died and were replaced")


def resident_bytes() -> int | None:
    """Of this process; None where the system does not say."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None
