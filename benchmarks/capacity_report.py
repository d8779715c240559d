"""What `capacity.py` found in, Markdown and a plot out. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.capacity_plan import Bulk, Needed
from benchmarks.figures import median

_HEAD = (
    "| replicas | load | runs | p50, simulated | p99, simulated | ratio of p99: median, least, most "
    "| predicted: median, least, most | sent again: least, most |"
)
_QUEUES = {
    "random": "chosen at random, as the kernel does",
    "least": "fewest in hand",
    "one": "one queue, one at a time",
}


def line(run: dict[str, Any]) -> str:
    measured, simulated = run["measured_ms"], run["simulated_ms"]
    p50 = f"p50 {measured['p50']:.1f} ms, simulated {simulated['p50']:.1f}"
    p99 = f"p99 {measured['p99']:.1f} ms, simulated {simulated['p99']:.1f}"
    factors = ", ".join(f"{factor:.2f}" for factor in run["factor"])
    return (
        f"{run['workers']} at {run['load']:.2f}: {run['rate_per_s']:.0f}/s, {p50}; {p99} "
        f"({simulated['p99'] / measured['p99']:.2f}), predicted {run['predicted_ms']['p99']:.1f}; "
        f"factors {factors}; refused {run['refused']}, simulated {run['simulated_refused']}, "
        f"predicted {run['predicted_refused']}; client {run['client_cpus']:.2f}"
    )


def _key(run: dict[str, Any]) -> tuple[int, int, float, float]:
    return run["workers"], run["cpus"], run["bursts"], run["load"]


def checked(runs: Sequence[dict[str, Any]]) -> str:
    """Of each arrangement and load the medians of its runs, in milliseconds, and the ratios of p99."""
    lines = [_HEAD, "|--:|--:|--:|--:|--:|--:|--:|--:|"]
    for key in sorted(set(map(_key, runs))):
        of = [run for run in runs if _key(run) == key]
        middle = {
            (which, name): median([run[which][name] for run in of])
            for which in ("measured_ms", "simulated_ms")
            for name in ("p50", "p99")
        }
        ratios, predicted, again = (
            [run[which]["p99"] / run["measured_ms"]["p99"] for run in of]
            for which in ("simulated_ms", "predicted_ms", "again_ms")
        )
        cells = [
            f"{key[0]}" + (" on one CPU" if key[0] > key[1] else ""),
            f"{key[3]:.0%}" + (", bursty" if key[2] > 1 else ""), f"{len(of)}",
            *(f"{middle['measured_ms', n]:.0f}, {middle['simulated_ms', n]:.0f}" for n in ("p50", "p99")),
            *(f"{median(each):.2f}, {min(each):.2f}, {max(each):.2f}" for each in (ratios, predicted)),
            f"{min(again):.2f}, {max(again):.2f}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def replicas(found: Mapping[str, Sequence[Needed]], rate_per_s: float, core_hour: float) -> str:
    """By how requests arrive: replicas for each p99, and the price of a million documents."""
    lines = [
        "| arrivals | p99 at most | replicas | p99 reached | requests/s of each | a million documents |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, needs in found.items():
        for each in needs:
            if each.replicas is None:
                lines.append(f"| {name} | {1e3 * each.p99_s:.0f} ms | none suffices | | | |")
                continue
            price = each.replicas * core_hour / 3_600 / rate_per_s * 1e6
            lines.append(
                f"| {name} | {1e3 * each.p99_s:.0f} ms | {each.replicas:,} | {1e3 * each.reached_s:.0f} ms "
                f"| {rate_per_s / each.replicas:.0f} | {price:.3f} |"
            )
    return "\n".join(lines)


def queues(found: Mapping[int, Mapping[Any, float]]) -> str:
    lines = [
        "| p99, ms | " + " | ".join(f"{n}" for n in found) + " |",
        "|---|" + "--:|" * len(found),
    ]
    for name, said in _QUEUES.items():
        values = [of[name] for of in found.values()]
        shown = [f"{1e3 * value:.0f}" if math.isfinite(value) else "refused" for value in values]
        lines.append(f"| {said} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def in_bulk(bulk: Bulk, documents: float, cores: Sequence[int], core_hour: float) -> str:
    hours = bulk.core_hours(documents)
    lines = [
        f"- {documents:,.0f} documents of {bulk.words:.0f} words: {hours:,.0f} core-hours, "
        f"{hours * core_hour:,.0f} at {core_hour:g} a core-hour; {hours * core_hour / documents * 1e6:.3f} "
        "a million documents",
        f"- {documents * bulk.bytes_in / 1e12:.2f} TB of text, {documents * bulk.bytes_out / 1e12:.1f} TB "
        "of answers as `/v1/tag` writes them, with every token",
    ]
    for n in cores:
        lines.append(f"- on {n:,} cores: {hours / n:,.1f} hours")
    return "\n".join(lines)


def plot(curves: Mapping[str, Sequence[tuple[float, float]]], runs: Sequence[dict[str, Any]]) -> str:
    """p99 in ms against load: simulated lines by name, and the runs that were checked as points."""
    import matplotlib
    from matplotlib.ticker import FuncFormatter, NullFormatter

    from benchmarks.operating_points import standalone
    from training.report import _FIRST, _INK, _SECOND, _STYLE, _THIRD, _axes, _svg

    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes("requests offered, % of the capacity of a closed loop", "p99, ms", 3.4)
        axes.set_yscale("log")
        for (name, points), colour in zip(curves.items(), (_FIRST, _SECOND, _THIRD), strict=False):
            axes.plot([100 * x for x, _ in points], [1e3 * y for _, y in points], color=colour, label=name)
        for workers, colour, marker in ((1, _FIRST, "o"), (2, _SECOND, "s")):
            of = [run for run in runs if run["workers"] == workers and run["bursts"] == 1]
            x = [100 * run["load"] for run in of]
            for which, fill in (("measured", "full"), ("simulated", "none")):
                y = [run[f"{which}_ms"]["p99"] for run in of]
                label = f"{workers} {which}" + (", same requests" if fill == "none" else "")
                if of:
                    axes.plot(x, y, marker, color=colour, markersize=4, fillstyle=fill, label=label)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.legend(ncols=2, loc="lower left", bbox_to_anchor=(0, 1), labelcolor=_INK)
        return standalone(_svg(figure, "p99 against load, simulated and measured"))


def sensitivity(found: Mapping[float, Mapping[float, float]]) -> str:
    factors = list(next(iter(found.values())))
    lines = [
        "| p99, ms, where everything costs | " + " | ".join(f"{f:g} times" for f in factors) + " |",
        "|---|" + "--:|" * len(factors),
    ]
    for load, by_factor in found.items():
        shown = [f"{1e3 * p99:.0f}" if math.isfinite(p99) else "refused" for p99 in by_factor.values()]
        lines.append(f"| at {load:.0%} | {' | '.join(shown)} |")
    return "\n".join(lines)
