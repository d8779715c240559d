"""Signals, and the processes that are started while they may come."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_interrupts() -> Iterator[None]:
    """A process that is started here never hears SIGINT, not even while it imports, when an interrupt
    at a terminal, which goes to all, would have it print a traceback. Who starts it ends it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
