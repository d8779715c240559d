"""Memory: what Python's collector walks over and when, and what glibc gives back to the system."""

from __future__ import annotations

import ctypes
import gc
import math
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


def collect_seldom() -> None:
    """For a process that does one piece of work after another, whose objects their last references free:
    what is loaded stays, and is not walked over every 700 new ones. 3 % of the time to tag a corpus."""
    gc.freeze()
    gc.set_threshold(200_000)


_NEVER = 2**30
# New objects that are walked over at once: 7,000 take 4 ms, 20,000 take 14, and those who wait beside a
# request of 10,000 sentences notice. 64 documents of 60 words under way are 2,600. With Python's own 700,
# and 7,000 once more, walking over them was 5 % of what 64 clients cost.
_YOUNG = 3_000
# And for each request in hand, where many are: they have objects that live, and walking over these again
# and again was 5 % of what 128 clients cost.
_YOUNG_A_REQUEST = 100
_OFTEN_S, _AT_LATEST_S = 10.0, 600.0


class Collector:
    """Full garbage collections when nobody waits, or in the end all the same.

    Python would begin one whenever there are a quarter more objects than before: in the middle of a request
    of 10,000 sentences, with its tokens' millions of objects to walk over. That took up to 0.15 s, in which
    nobody else was answered. What is loaded before this is made is never walked over again, since it stays:
    p99 at 32 clients was 131 to 172 ms without that, and 20 to 34 with.
    """

    def __init__(self) -> None:
        gc.collect()
        gc.freeze()
        gc.set_threshold(_YOUNG, _NEVER, _NEVER)
        self._last_s = -math.inf

    def look(self, now_s: float, n_requests: int) -> None:
        """To be called often; collects where it is time to. ``now_s``: of any clock."""
        gc.set_threshold(max(_YOUNG, _YOUNG_A_REQUEST * n_requests), _NEVER, _NEVER)
        since_s = now_s - self._last_s
        if since_s > _AT_LATEST_S or (not n_requests and since_s > _OFTEN_S):
            gc.collect()
            self._last_s = now_s
