"""How many connections each worker has, in a file that all of them see.

Workers share one listening socket, and a connection stays with who took it: one that has more than
another leaves the next to that one (service/acceptor.py).
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

_NAME = "crowd"
_NUMBER = struct.Struct("=q")
_NOBODY = 1 << 62  # more than any worker has


def make(folder: Path, n_places: int) -> None:
    """The file of so many workers, none of which is there yet."""
    (folder / _NAME).write_bytes(_NUMBER.pack(_NOBODY) * n_places)


def vacate(folder: Path, place: int) -> None:
    """The worker that had the place is gone."""
    with (folder / _NAME).open("r+b") as file:
        file.seek(place * _NUMBER.size)
        file.write(_NUMBER.pack(_NOBODY))


class Crowd:
    """As the worker at ``place`` sees it."""

    def __init__(self, folder: Path, place: int) -> None:
        with (folder / _NAME).open("r+b") as file:
            self._numbers = memoryview(mmap.mmap(file.fileno(), 0)).cast("q")
        self._place = place

    def enter(self) -> None:
        """This worker takes connections from now on."""
        self._numbers[self._place] = 0

    def leave(self) -> None:
        """It takes no more."""
        self._numbers[self._place] = _NOBODY

    def add(self, n: int) -> None:
        """So many connections more; fewer where it is negative."""
        self._numbers[self._place] += n

    def has_fewer_elsewhere(self) -> bool:
        return min(self._numbers) < self._numbers[self._place]
