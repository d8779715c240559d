"""What the parts of one running service share: settings, models, admission, and whether it is ending."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from service.admission import Admission
from service.metrics import Metrics
from service.models import Models, ServedModel
from service.problems import Problem
from service.settings import Settings


class Service:
    """One process of the service. Belongs to one event loop.

    ``metrics_folder``: where all processes of the service count; None where this is the only one.
    """

    def __init__(self, settings: Settings, metrics_folder: Path | None = None) -> None:
        self.settings = settings
        self.metrics = Metrics(metrics_folder)
        self.models = Models(settings, self.metrics)
        self.admission = Admission(settings.max_queue_requests, settings.max_queue_bytes)
        # One thread for long texts and long answers: they are pure Python, so a second would only
        # compete with the first, and with the event loop.
        self.text_thread = ThreadPoolExecutor(1, thread_name_prefix="text")
        self.is_draining = False
        self.is_started = False

    async def start(self) -> None:
        """Loads what is not loaded, and starts the inference threads. Raises ModelsError."""
        await asyncio.to_thread(self.models.load)
        self.models.start()
        self.is_started = True

    async def drain(self, *, delay_s: float, ends: float) -> None:
        """Refuses new work, for ``delay_s`` at least, and waits for what was accepted.

        What is not finished at ``ends``, a time of the event loop, is given up, which answers it.
        """
        self.is_draining = True
        await asyncio.sleep(delay_s)
        if not await self.admission.idle(max(0.0, ends - asyncio.get_running_loop().time())):
            self.models.abandon()

    async def close(self) -> None:
        self.is_draining = True
        await self.models.close(self.settings.grace_s)
        await asyncio.to_thread(self.text_thread.shutdown, cancel_futures=True)
        self.metrics.close()

    def check_accepting(self) -> None:
        """Raises Problem where new work is refused, whatever model it is for."""
        if self.is_draining:
            raise Problem("draining", "this replica is shutting down: ask another, or again")
        if not self.is_started:
            raise Problem("not-ready", "the models are being loaded")

    def model(self, name: str | None) -> ServedModel:
        """The model asked for. Raises Problem where there is none, or it must not serve."""
        model = self.models.find(name)
        if model.trouble is not None:
            raise Problem("self-test-failed", f"{model.reference}: {model.trouble}")
        return model

    def check_ready(self) -> None:
        """Raises Problem unless requests for every model are answered. A full queue is no reason."""
        self.check_accepting()
        for model in self.models.all:
            if model.trouble is not None:
                raise Problem("self-test-failed", f"{model.reference}: {model.trouble}")

    def check_live(self) -> None:
        """Raises Problem where an inference thread is wedged or has died."""
        for model in self.models.all:
            busy_s = model.batcher.busy_for_s()
            if busy_s > self.settings.wedged_after_s:
                raise Problem(
                    "wedged", f"{model.reference}: one batch has been computing for {busy_s:.0f} s"
                )
