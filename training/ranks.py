"""The processes that train one model together: which of them this is, and what they tell each other.

torchrun starts them, and starts all of them again when one is lost. Each makes the same batches from
the same seed and takes its share of every one, so all they exchange is sums. This file alone knows
torch.distributed; a run of one process is ``Ranks()``, and talks to nobody.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from time import monotonic, sleep
from uuid import uuid4

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

_give_way = getattr(os, "sched_yield", lambda: sleep(0))  # to gloo's thread, which adds

# Longer than one process may be behind another, in reading its data or in writing a checkpoint.
_TIMEOUT = timedelta(minutes=10)


class LostRankError(RuntimeError):
    """Another process of the run is gone, or has not answered in time."""


@dataclass(frozen=True)
class Ranks:
    """The first (rank 0) writes checkpoints, the model and the log; the others only compute."""

    rank: int = 0
    size: int = 1
    is_restart: bool = False  # torchrun has started all processes again after one was lost

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def say(self, text: str) -> None:
        """Progress, once, not once for each process."""
        if self.is_first:
            print(text, file=sys.stderr, flush=True)

    def add(self, tensor: Tensor) -> None:
        """Replaces ``tensor`` by the sum of all processes'; the same bits in all of them."""
        if self.size > 1:
            with _in_time():
                work = dist.all_reduce(tensor, async_op=True)
                while tensor.device.type == "cpu" and not work.is_completed():
                    # Asleep, a virtual CPU takes milliseconds to wake up: a sum of 835,000 numbers by two
                    # took 6.5 to 10 ms, and 1.9 to 3.1 like this.
                    _give_way()
                work.wait()

    def share(self, content: bytes) -> bytes:
        """The first process's ``content``; what the others pass does not matter."""
        if self.size == 1:
            return content
        with _in_time():
            length = torch.tensor(len(content))
            dist.broadcast(length, 0)
            if self.is_first:
                out = torch.frombuffer(bytearray(content), dtype=torch.uint8)
            else:
                out = torch.empty(int(length), dtype=torch.uint8)
            dist.broadcast(out, 0)
        return out.numpy().tobytes()

    def agree(self, digest: bytes, what: str) -> None:
        """Raises ValueError, in all processes, unless all have the same 32 bytes."""
        first = self.share(digest)
        differs = torch.zeros(self.size, dtype=torch.int64)
        differs[self.rank] = digest != first
        self.add(differs)
        if strangers := differs.nonzero().flatten().tolist():
            raise ValueError(f"process {strangers[0]} of {self.size} has other {what} than process 0")


ALONE = Ranks()


@contextmanager
def _in_time() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # of whatever backend it is
        raise LostRankError(f"another process of this run is lost: {str(error).splitlines()[0]}") from None


@contextmanager
def joined(environment: Mapping[str, str], device: str) -> Iterator[Ranks]:
    """The processes that torchrun has started, connected; without it, this one alone.

    On CUDA each process takes the device of its local rank.
    """
    size = int(environment.get("WORLD_SIZE", "1"))
    if "RANK" not in environment or size == 1:
        yield Ranks(is_restart=_is_restart(environment))
        return
    if device == "cuda":
        torch.cuda.set_device(int(environment["LOCAL_RANK"]))
    # Checkpoints and counts travel in main memory on CUDA too.
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    with _in_time():
        store, rank, size = next(rendezvous("env://", timeout=_TIMEOUT))
        store = PrefixStore(_meeting(store, rank, size), store)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_TIMEOUT)
    try:
        yield Ranks(rank, size, _is_restart(environment))
    except LostRankError:
        # The process ends: the others may no longer be there to say goodbye to.
        raise
    except BaseException:
        # Else gloo's threads may abort the process on its way out, when another's are gone before.
        dist.destroy_process_group()
        raise
    dist.destroy_process_group()


def _meeting(store: Store, rank: int, size: int) -> str:
    """A name that all processes of this start agree on, and no earlier start has had.

    torchrun keeps one store over all its restarts, so the addresses of processes that are dead would
    be found there. Its count of restarts does not tell them apart: each machine has its own
    (pytorch/pytorch issue 135712).
    """
    own = uuid4().hex
    if rank:
        store.set(f"here/{rank}", own)
        name: bytes = store.get(f"name/{own}")  # waits for it
        store.add(f"met/{name.decode()}", 1)
        return name.decode()
    until = monotonic() + _TIMEOUT.total_seconds()
    # Who has come may be one of an earlier start; then he will come again, by another name.
    while store.add(f"met/{own}", 0) < size - 1:
        for other in range(1, size):
            store.set(f"name/{store.get(f'here/{other}').decode()}", own)
        if monotonic() > until:
            raise LostRankError(f"{size} processes were to meet, and not all have come")
        sleep(0.02)
    return own


def _is_restart(environment: Mapping[str, str]) -> bool:
    return environment.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
