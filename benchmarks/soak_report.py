"""What a soak saw in, whether it passed out. Pure; times are seconds since it began."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.figures import slope_per_min

MB = 1e6
MOST_MB_PER_MIN = 1.0
# Below this, allocators that settle look like leaks; a slope is then told, not judged.
LEAST_S = 300.0
REFUSALS = (429, 503, 504)
MOST_REFUSED = 0.01  # of all requests: a machine that has other work may be late now and then
_KEPT = 50  # failures


@dataclass(frozen=True)
class Loss:
    """A connection that ended without the answer that was due."""

    what: str
    opened_s: float
    lost_s: float

    def is_excused(self, kills_s: Sequence[float]) -> bool:
        """Whether a worker was killed while it was open."""
        return any(self.opened_s <= at <= self.lost_s for at in kills_s)


@dataclass(frozen=True)
class Memory:
    """Resident bytes of each worker, and when they were read."""

    times_s: dict[int, list[float]]  # by pid
    rss_bytes: dict[int, list[int]]

    def points(self, pid: int) -> list[tuple[float, int]]:
        return list(zip(self.times_s[pid], self.rss_bytes[pid], strict=True))

    def slope_mb_per_min(self, pid: int, from_s: float) -> float:
        points = [
            (t, b / MB) for t, b in zip(self.times_s[pid], self.rss_bytes[pid], strict=True) if t >= from_s
        ]
        return slope_per_min([t for t, _ in points], [mb for _, mb in points])

    def total(self) -> Memory:
        """The workers as one, at the moments at which most of them were seen."""
        sums: dict[float, list[int]] = defaultdict(list)
        for pid in self.times_s:
            for t, b in self.points(pid):
                sums[t].append(b)
        most = max(map(len, sums.values()), default=0)
        whole = {t: sum(each) for t, each in sorted(sums.items()) if len(each) == most}
        return Memory({0: list(whole)}, {0: list(whole.values())})


@dataclass
class Ledger:
    """Everything that happened."""

    statuses: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    n_checked: int = 0  # answers compared, sentence by sentence
    failures: list[str] = field(default_factory=list)
    n_failures: int = 0
    losses: list[Loss] = field(default_factory=list)
    kills_s: list[float] = field(default_factory=list)
    n_hung_up: int = 0
    n_refused: int = 0

    def fail(self, what: str) -> None:
        self.n_failures += 1
        if len(self.failures) < _KEPT:
            self.failures.append(what)

    def answered(self, what: str, status: int, expected: int) -> bool:
        """Notes an answer; whether it has the status expected."""
        self.statuses[what][status] += 1
        # A process for large requests that is killed may have had one that was to be refused otherwise.
        if status == 503 or (expected == 200 and status in REFUSALS):
            self.n_refused += 1
        elif status != expected:
            self.fail(f"{what}: status {status}, {expected} is expected")
        return status == expected


def verdict(ledger: Ledger, memory: Memory, seconds: float, calm_from_s: float) -> dict[str, Any]:
    """The report. ``passed`` is what all of it comes to."""
    failures = list(ledger.failures)
    unexcused = [loss for loss in ledger.losses if not loss.is_excused(ledger.kills_s)]
    failures += [
        f"{loss.what}: connection lost at {loss.lost_s:.1f} s, and no worker was killed"
        for loss in unexcused
    ]
    n_requests = sum(map(Counter.total, ledger.statuses.values()))
    if ledger.n_refused > MOST_REFUSED * n_requests:
        failures.append(
            f"{ledger.n_refused} of {n_requests} refused: at most {MOST_REFUSED:.0%} is expected"
        )
    lasting = [pid for pid, times in memory.times_s.items() if times[-1] >= seconds - 10]
    workers = {
        pid: {
            "first_mb": memory.rss_bytes[pid][0] / MB,
            "last_mb": memory.rss_bytes[pid][-1] / MB,
            "most_mb": max(memory.rss_bytes[pid]) / MB,
            "slope_mb_per_min": memory.slope_mb_per_min(pid, calm_from_s) if pid in lasting else None,
        }
        for pid in memory.times_s
    }
    total = memory.total()
    slopes = {str(pid): workers[pid]["slope_mb_per_min"] for pid in lasting}
    slopes["all"] = total.slope_mb_per_min(0, calm_from_s) if total.times_s[0] else None
    is_judged = seconds - calm_from_s >= LEAST_S
    if is_judged:
        failures += [
            f"worker {name}: memory grows by {slope:.2f} MB a minute, "
            f"at most {MOST_MB_PER_MIN:g} is expected"
            for name, slope in slopes.items()
            if slope is not None and not slope <= MOST_MB_PER_MIN
        ]
    return {
        "passed": not failures and not ledger.n_failures,
        "seconds": seconds,
        "requests": {what: dict(counts) for what, counts in sorted(ledger.statuses.items())},
        "n_requests": n_requests,
        "n_refused": ledger.n_refused,
        "n_sentences_checked": ledger.n_checked,
        "n_hung_up": ledger.n_hung_up,
        "kills_s": ledger.kills_s,
        "n_lost": len(ledger.losses),
        "n_failures": ledger.n_failures + len(failures) - len(ledger.failures),
        "failures": failures,
        "memory": {
            "slopes_from_s": calm_from_s,
            "is_judged": is_judged,
            "slopes_mb_per_min": slopes,
            "workers": workers,
            "series": {
                pid: [
                    [round(t, 1), round(b / MB, 2)]
                    for t, b in zip(times, memory.rss_bytes[pid], strict=True)
                ]
                for pid, times in memory.times_s.items()
            },
        },
    }
