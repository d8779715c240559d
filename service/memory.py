"""Gives memory that a model has left back to the system, which glibc otherwise keeps for later."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache


@cache
def _trim() -> Callable[[int], int] | None:
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):  # musl, macOS; Windows
        return None
    return found


def give_back() -> None:
    """Takes some milliseconds, without the GIL. Does nothing where the C library knows no such thing."""
    if trim := _trim():
        trim(0)
