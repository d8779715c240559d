"""Samples in, figures out: percentiles, slopes, ratios, and when an open loop's requests are due.

Pure: no clock, no socket. Times are seconds.
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass


def percentile(values: Sequence[float], share: float) -> float:
    """The least of the values that ``share`` of them do not exceed (nearest rank). 0 < share <= 1.

    Nothing is interpolated, so that an unanswered request, whose latency is infinite, counts.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}: more than 0 and at most 1 is expected")
    if not values:
        return math.nan
    return sorted(values)[math.ceil(share * len(values)) - 1]


def median(values: Sequence[float]) -> float:
    """Of the values that are numbers; nan where there is none."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return math.nan
    # Between an infinite latency and a finite one there is no middle: the worse one counts.
    return statistics.median_high(known) if math.inf in known else statistics.median(known)


def ratio(mine: Sequence[float], its: Sequence[float]) -> float:
    """How many times as much, by the median round: what both rounds suffered from cancels out."""
    pairs = zip(mine, its, strict=True)
    return median([a / b if b > 0 else math.nan for a, b in pairs])


def slope_per_min(times_s: Sequence[float], values: Sequence[float]) -> float:
    """By how much the values grow a minute, by least squares; nan for fewer than two moments."""
    if len(times_s) != len(values):
        raise ValueError(f"{len(times_s)} times for {len(values)} values: as many are expected")
    if len(set(times_s)) < 2:
        return math.nan
    return 60 * statistics.linear_regression(times_s, values).slope


@dataclass(frozen=True)
class Schedule:
    """When the requests of an open loop are due: evenly spaced, whatever becomes of the answers."""

    rate_per_s: float
    seconds: float

    def __post_init__(self) -> None:
        if not (0 < self.rate_per_s < math.inf and 0 < self.seconds < math.inf):
            raise ValueError(
                f"{self.rate_per_s} requests a second for {self.seconds} seconds: more than 0 are expected"
            )

    @property
    def n(self) -> int:
        """How many requests there are in all."""
        return max(1, math.ceil(self.rate_per_s * self.seconds - 1e-9))

    def due_s(self, number: int) -> float:
        """When request ``number``, from 0, is due."""
        return number / self.rate_per_s

    def n_due(self, elapsed_s: float) -> int:
        """How many are due by then."""
        if elapsed_s < 0:
            return 0
        return min(self.n, math.floor(elapsed_s * self.rate_per_s + 1e-9) + 1)


@dataclass(frozen=True)
class Times:
    """As ``Schedule``, of requests that are due at the times given, in order."""

    times_s: Sequence[float]
    seconds: float

    @property
    def n(self) -> int:
        return len(self.times_s)

    def due_s(self, number: int) -> float:
        return self.times_s[number]

    def n_due(self, elapsed_s: float) -> int:
        return bisect_right(self.times_s, elapsed_s)


@dataclass(frozen=True)
class Sample:
    """What became of one request. ``status`` 0: no answer came; -1: the connection was lost."""

    due_s: float  # when it should have been sent; in a closed loop, when it was
    done_s: float
    status: int

    @property
    def latency_s(self) -> float:
        return self.done_s - self.due_s if self.status > 0 else math.inf


@dataclass(frozen=True)
class Summary:
    """The figures of one run. Rates are of answers with status 200, in the window."""

    statuses: dict[int, int]  # of what was due in the window
    per_s: float
    good_per_s: float  # those that came in time
    p50_s: float  # latencies of what was let in: 200, or never answered
    p99_s: float
    refused_p99_s: float


def summary(samples: Sequence[Sample], window: tuple[float, float], good_within_s: float) -> Summary:
    """``window``: from when to when. Latencies are of requests due in it, rates of answers in it."""
    first, last = window
    due = [sample for sample in samples if first <= sample.due_s < last]
    statuses: dict[int, int] = {}
    for sample in due:
        statuses[sample.status] = statuses.get(sample.status, 0) + 1
    answered = [s for s in samples if s.status == 200 and first <= s.done_s < last]
    let_in = [s.latency_s for s in due if s.status in (200, 0, -1)]
    refused = [s.latency_s for s in due if s.status not in (200, 0, -1)]
    return Summary(
        dict(sorted(statuses.items())),
        len(answered) / (last - first),
        sum(s.latency_s <= good_within_s for s in answered) / (last - first),
        percentile(let_in, 0.5),
        percentile(let_in, 0.99),
        percentile(refused, 0.99),
    )
