"""What the parts of one running service share: settings, models, admission, and whether it is ending."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

from service.admission import Admission
from service.keys import Keyring, read_keys, read_secret
from service.models import Models, ServedModel
from service.observing.access import AccessLog
from service.observing.metrics import Metrics
from service.offload import Offload
from service.problems import Problem
from service.redaction.texts import MIN_KEY_CHARS
from service.reloading.switch import Switch
from service.settings import Settings
from service.window import Streams


class Service:
    """One process of the service. Belongs to one event loop. Raises KeysError.

    ``supervisor``: the pipe to whoever has all workers switch models together; None where there is one.
    ``metrics_folder``: where all processes of the service count; None where this is the only one.
    ``is_offload``: it answers what another process passes on.
    """

    def __init__(
        self,
        settings: Settings,
        supervisor: Connection | None = None,
        metrics_folder: Path | None = None,
        *,
        is_offload: bool = False,
    ) -> None:
        self.settings = settings
        self.is_offload = is_offload
        self.keys: Keyring | None = None
        if settings.keys_file is not None:
            self.keys = Keyring(
                read_keys(settings.keys_file), workers=max(1, settings.workers), has_rates=not is_offload
            )
        self.redaction_key = b""
        if settings.redaction_key_file is not None:
            self.redaction_key = read_secret(settings.redaction_key_file, least_chars=MIN_KEY_CHARS)
        self.metrics = Metrics(metrics_folder)
        self.access = AccessLog() if settings.access_log == "on" else None
        self.models = Models(settings, self.metrics)
        self.admission = Admission(settings.max_queue_requests, settings.max_queue_bytes)
        self.streams = Streams()
        self.offload: Offload | None = None
        if settings.offload_bytes and hasattr(asyncio, "open_unix_connection"):
            self.offload = Offload(
                settings, self.models, self.admission, self.metrics, self.check_accepting
            )
        self.switch = Switch(self.models, self.admission, settings, supervisor)
        # One thread for long texts and long answers: they are pure Python, so a second would only
        # compete with the first, and with the event loop.
        self.text_thread = ThreadPoolExecutor(1, thread_name_prefix="text")
        self.is_leaving = False  # told to stop: /readyz says so, and everything is still answered
        self.is_draining = False  # and, from then on, new work is refused
        self.is_started = False

    async def start(self) -> None:
        """Loads what is not loaded, and starts the inference threads. Raises ModelsError."""
        await asyncio.to_thread(self.models.load)
        self.models.start()
        self.switch.start()
        self.is_started = True

    async def drain(self, *, delay_s: float, ends: float) -> None:
        """Is not ready, works on for ``delay_s``, then refuses new work and waits for what was accepted.

        Whoever hands requests out takes a while to hear of it: until then, what comes here is answered.
        What is not finished at ``ends``, a time of the event loop, is given up, which answers it.
        """
        self.is_leaving = True
        if delay_s:
            await asyncio.sleep(delay_s)
        self.is_draining = True
        self.streams.drain()
        self.switch.abandon()
        if not await self.admission.idle(max(0.0, ends - asyncio.get_running_loop().time())):
            self.models.abandon()

    async def close(self) -> None:
        self.is_leaving = self.is_draining = True
        if self.offload is not None:
            await self.offload.close()
        await self.switch.close(self.settings.grace_s)
        await self.models.close(self.settings.grace_s)
        await asyncio.to_thread(self.text_thread.shutdown, cancel_futures=True)
        self.metrics.close()
        if self.access is not None:
            self.access.flush()

    def oldest_wait_s(self) -> float:
        """As Batcher.oldest_wait_s, of all models."""
        return max([model.batcher.oldest_wait_s() for model in self.models.all], default=0.0)

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
        """Raises Problem unless requests for every model are answered. A full queue is no reason.

        Nor is a model that was replaced: replacing one that fails its self-test mends the service.
        """
        self.check_accepting()
        if self.is_leaving:
            raise Problem("draining", "this replica is shutting down: ask another, or again")
        for model in self.models.wanted:
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
