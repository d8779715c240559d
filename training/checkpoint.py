"""A run's state on disk, so that it can be killed at any moment and go on as if it had not been.

One safetensors file (no pickle) holds tensors and, as JSON in its metadata, the rest. It is
replaced in one step, so what is there is always whole.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


def write_checkpoint(path: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Raises OSError; what was there is there still."""
    fresh = path.with_suffix(".partial")
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(contiguous, fresh, metadata={"state": json.dumps(state)})
    except SafetensorError as error:  # a full disk, say
        fresh.unlink(missing_ok=True)
        raise OSError(errno.EIO, str(error), str(path)) from None
    with fresh.open("rb") as written:
        os.fsync(written.fileno())
    fresh.replace(path)


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Raises ValueError if the file is not a checkpoint."""
    with _opened(path) as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        return tensors, json.loads(opened.metadata()["state"])


def read_state(path: Path) -> dict[str, Any]:
    """What a checkpoint holds beside its tensors. Raises ValueError."""
    with _opened(path) as opened:
        state: dict[str, Any] = json.loads(opened.metadata()["state"])
        return state


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as opened:
            yield opened
    except Exception as error:  # safetensors raises its own type
        raise ValueError(f"{path}: not a checkpoint: {error}") from None
