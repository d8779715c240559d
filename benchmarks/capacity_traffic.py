"""When requests come and how long their documents are: drawn by seed. Pure: no clock, no files."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, takewhile
from random import Random


@dataclass(frozen=True)
class Bursts:
    """A Markov-modulated Poisson process of two states: ``times`` the mean rate, and less in between.

    It is in the first state for ``share`` of the time, each time for ``seconds`` on average; both
    durations are exponential. Times 1 is a Poisson process.
    """

    times: float = 1.0
    share: float = 0.1
    seconds: float = 1.0

    def __post_init__(self) -> None:
        if not (0 < self.share < 1 and 1 <= self.times <= 1 / self.share and self.seconds > 0):
            raise ValueError(
                f"bursts of {self.times:g} times the rate for {self.share:g} of the time, {self.seconds:g} "
                "seconds each: 1 to 1 / share times, a share between 0 and 1, and seconds are expected"
            )

    def rates(self, mean_per_s: float) -> tuple[float, float]:
        """In a burst, and else."""
        return self.times * mean_per_s, mean_per_s * (1 - self.times * self.share) / (1 - self.share)


STEADY = Bursts()


def arrivals(rate_per_s: float, seconds: float, bursts: Bursts, seed: int) -> list[float]:
    """Seconds from the beginning, in order."""
    return list(takewhile(lambda due: due < seconds, accumulate(_gaps(rate_per_s, bursts, Random(seed)))))


def _gaps(rate_per_s: float, bursts: Bursts, random: Random) -> Iterator[float]:
    rates = bursts.rates(rate_per_s)
    means_s = (bursts.seconds, bursts.seconds * (1 - bursts.share) / bursts.share)
    state = 0 if random.random() < bursts.share else 1
    waited_s = 0.0
    while True:
        left_s = random.expovariate(1 / means_s[state])
        # A Poisson process has no memory, so that one may draw anew wherever the state changes.
        while True:
            gap_s = random.expovariate(rates[state]) if rates[state] else math.inf
            if gap_s > left_s:
                break
            left_s -= gap_s
            yield waited_s + gap_s
            waited_s = 0.0
        waited_s += left_s
        state = 1 - state


@dataclass(frozen=True)
class Lengths:
    """Words of documents, lognormal: of half of them at most ``median``."""

    median: float = 60.0
    sigma: float = 1.2  # of the logarithm
    most: int = 100_000

    def __post_init__(self) -> None:
        if not (self.median > 0 and self.sigma >= 0 and self.most >= 1):
            raise ValueError(
                f"lengths of median {self.median:g}, sigma {self.sigma:g}, at most {self.most}: a median "
                "above 0, a sigma of 0 or more, and at least 1 are expected"
            )

    def draw(self, n: int, seed: int) -> list[int]:
        random = Random(seed)
        drawn = (random.lognormvariate(math.log(self.median), self.sigma) for _ in range(n))
        return [min(self.most, max(1, round(length))) for length in drawn]
