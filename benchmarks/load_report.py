"""Rounds of measured cells in; JSON, Markdown tables and two plots out. Measures nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.figures import median, ratio

NAMES = {
    "nametag": "Nametag",
    "echo": "FastAPI echo",
    "bytes": "uvicorn alone",
    "spacy": "spaCy sm, FastAPI",
    "presidio": "Presidio's REST shape",
}
OURS, ECHO = "nametag", "echo"


@dataclass(frozen=True)
class Cell:
    """One run of one round. Rates are requests answered with 200, a second."""

    system: str
    n: int  # sentences of a request
    kind: str  # "closed", "open"; of ours also "alone" and "beside" a request of 10,000 sentences
    level: float  # connections, or times the capacity
    round: int
    offered_per_s: float  # 0 in a closed loop
    statuses: dict[int, int]  # 0: unanswered, -1: connection lost
    per_s: float
    good_per_s: float
    p50_s: float
    p99_s: float
    refused_p99_s: float
    n_without_retry_after: int  # 429s
    late_p99_s: float  # how late the client sent
    client_cpus: float
    server_cpus: tuple[float, ...]  # of each process

    @property
    def key(self) -> tuple[str, int, str, float]:
        return self.system, self.n, self.kind, self.level


@dataclass(frozen=True)
class Round:
    """One round of all systems."""

    cells: tuple[Cell, ...]
    memory_bytes: dict[str, int]
    in_process_per_s: float  # sentences


@dataclass(frozen=True)
class Merged:
    """The rounds of one cell."""

    cells: tuple[Cell, ...]

    @property
    def first(self) -> Cell:
        return self.cells[0]

    def __getattr__(self, name: str) -> float:
        """A figure of the cell: the median of the rounds."""
        if name.startswith("_"):
            raise AttributeError(name)
        return median([float(getattr(cell, name)) for cell in self.cells])

    @property
    def statuses(self) -> dict[int, int]:
        found: dict[int, int] = {}
        for cell in self.cells:
            for status, n in cell.statuses.items():
                found[status] = found.get(status, 0) + n
        return dict(sorted(found.items()))


@dataclass(frozen=True)
class Measured:
    """All rounds."""

    rounds: tuple[Round, ...]

    @property
    def merged(self) -> list[Merged]:
        keys = dict.fromkeys(cell.key for each in self.rounds for cell in each.cells)
        return [Merged(tuple(self._of(key))) for key in keys]

    def _of(self, key: tuple[str, int, str, float]) -> list[Cell]:
        return [cell for each in self.rounds for cell in each.cells if cell.key == key]

    def find(self, system: str, n: int, kind: str) -> list[Merged]:
        """In the order of their levels."""
        found = [m for m in self.merged if (m.first.system, m.first.n, m.first.kind) == (system, n, kind)]
        return sorted(found, key=lambda m: m.first.level)

    @property
    def systems(self) -> list[str]:
        return list(dict.fromkeys(cell.system for each in self.rounds for cell in each.cells))

    @property
    def sizes(self) -> list[int]:
        return sorted({cell.n for each in self.rounds for cell in each.cells})

    def capacities(self, system: str, n: int) -> list[float]:
        """The best closed-loop rate of each round, 0 where there is none."""
        key = system, n, "closed"
        return [max((c.per_s for c in each.cells if c.key[:3] == key), default=0.0) for each in self.rounds]

    def ratio(self, system: str, n: int) -> float:
        """How many times its capacity ours is."""
        return ratio(self.capacities(OURS, n), self.capacities(system, n))

    @property
    def in_process_per_s(self) -> list[float]:
        return [each.in_process_per_s for each in self.rounds]


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["--:"] * (len(heads) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (heads, rule, *rows))


def ms(seconds: float) -> str:
    if math.isnan(seconds):
        return "–"
    return "never" if math.isinf(seconds) else f"{1e3 * seconds:,.{1 if seconds < 0.1 else 0}f}"


def statuses(counts: dict[int, int]) -> str:
    """Shares of what was sent: "200 41 %, 429 59 %"."""
    names = {0: "unanswered", -1: "lost"}
    total = sum(counts.values())
    return ", ".join(f"{names.get(s, s)} {100 * n / total:.3g} %" for s, n in counts.items() if n)


def _number(value: float) -> str:
    if math.isnan(value):
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def markdown(measured: Measured) -> str:
    """The report's tables. A cell that a system was too slow for is a dash."""
    return "\n\n".join(
        [
            "## Closed loop: requests a second (p50, p99 in ms)",
            *(_closed(measured, n) for n in measured.sizes),
            "## Open loop: offered, answered within a second, p50 and p99 from when a request was due",
            *(_open(measured, n) for n in measured.sizes),
            "## Ratios, memory and what limits",
            _ratios(measured),
            _limits(measured),
        ]
    )


def _closed(measured: Measured, n: int) -> str:
    levels = sorted({m.first.level for m in measured.merged if m.first.kind == "closed"})
    rows = []
    for system in measured.systems:
        by_level = {m.first.level: m for m in measured.find(system, n, "closed")}
        cells = []
        for level in levels:
            one = by_level.get(level)
            cells.append(f"{_number(one.per_s)} ({ms(one.p50_s)}, {ms(one.p99_s)})" if one else "–")
        rows.append([NAMES[system], *cells])
    what = "one sentence" if n == 1 else f"{n} sentences"
    return table((f"{what} a request; connections", *(f"{level:g}" for level in levels)), rows)


def _open(measured: Measured, n: int) -> str:
    rows = [
        [
            NAMES[system], f"{m.first.level:g}", _number(m.offered_per_s), _number(m.good_per_s),
            ms(m.p50_s), ms(m.p99_s), ms(m.refused_p99_s), statuses(m.statuses),
        ]
        for system in measured.systems
        for m in measured.find(system, n, "open")
    ]  # fmt: skip
    what = "one sentence" if n == 1 else f"{n} sentences"
    heads = (f"{what} a request", "times capacity", "offered/s", "answered in time/s", "p50 ms", "p99 ms",
             "p99 of refusals, ms", "statuses")  # fmt: skip
    return table(heads, rows)


def _ratios(measured: Measured) -> str:
    rows = []
    for system in measured.systems:
        memory = median([float(each.memory_bytes.get(system, math.nan)) for each in measured.rounds])
        rows.append(
            [
                NAMES[system],
                *(
                    f"{_number(median(measured.capacities(system, n)))} ({measured.ratio(system, n):.2f})"
                    for n in measured.sizes
                ),
                f"{memory / 1e6:,.0f}",
            ]
        )
    heads = [f"capacity at {n} a request (Nametag is times it)" for n in measured.sizes]
    return table(("", *heads, "memory of all processes, MB"), rows)


def _limits(measured: Measured) -> str:
    """What is said of ours alone, a line each."""
    lines = []
    for n in measured.sizes:
        over = [m for m in measured.find(OURS, n, "open") if m.first.level >= 1.5]
        for m in over[-1:]:
            kept = ratio(
                [cell.good_per_s for cell in m.cells], measured.capacities(OURS, n)[: len(m.cells)]
            )
            lines.append(
                f"- {n} a request, {m.first.level:g} times the capacity offered: answered in time is "
                f"{kept:.2f} of the capacity; 429 without Retry-After: "
                f"{sum(cell.n_without_retry_after for cell in m.cells)}"
            )
    alone, beside = (measured.find(OURS, 1, kind) for kind in ("alone", "beside"))
    if alone and beside:
        lines.append(
            f"- single sentences at {alone[0].first.level:g} of the capacity: p50 {ms(alone[0].p50_s)} ms, "
            f"p99 {ms(alone[0].p99_s)} ms; while a request of 10,000 sentences is answered: "
            f"p50 {ms(beside[0].p50_s)} ms, p99 {ms(beside[0].p99_s)} ms"
        )
    if 32 in measured.sizes:
        share = ratio([32 * rate for rate in measured.capacities(OURS, 32)], measured.in_process_per_s)
        lines.append(
            f"- requests of 32: {_number(32 * median(measured.capacities(OURS, 32)))} sentences/s are "
            f"{share:.2f} of the {_number(median(measured.in_process_per_s))} that as many processes "
            "tag without HTTP and without a client on their cores"
        )
    cells = [m for m in measured.merged if m.first.kind == "closed"]
    if cells:
        busiest = max(cells, key=lambda m: m.client_cpus)
        lines.append(
            f"- the client takes at most {busiest.client_cpus:.2f} of a core "
            f"({NAMES[busiest.first.system]}, {busiest.first.n} a request, "
            f"{busiest.first.level:g} connections)"
        )
    late = [m.late_p99_s for m in measured.merged if m.first.kind == "open" and m.first.level <= 0.75]
    if late:
        lines.append(f"- below 0.75 of the capacity it sends at most {ms(max(late))} ms late (p99)")
    return "\n".join(lines)


def as_json(measured: Measured, machine: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    return {
        "machine": machine,
        "options": options,
        "capacity_per_s": {
            system: {n: median(measured.capacities(system, n)) for n in measured.sizes}
            for system in measured.systems
        },
        "nametag_is_times": {
            system: {n: measured.ratio(system, n) for n in measured.sizes}
            for system in measured.systems
            if system != OURS
        },
        "rounds": [asdict(each) for each in measured.rounds],
    }


def _finite(value: Any) -> Any:
    """JSON has no infinity and no nan: null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def plot(measured: Measured, n: int, figure_of: str) -> str:
    """``figure_of``: "throughput" or "latency", against the offered load, both logarithmic."""
    import matplotlib
    from matplotlib.ticker import FuncFormatter, NullFormatter

    from benchmarks.operating_points import standalone
    from training.report import _FAINT, _FIRST, _INK, _SECOND, _STYLE, _THIRD, _axes, _svg

    colours = dict(zip((OURS, "spacy", "presidio", ECHO), (_FIRST, _SECOND, _THIRD, _FAINT), strict=True))
    unit = "requests" if n == 1 else f"requests of {n} sentences"
    with matplotlib.rc_context(_STYLE):
        y = "answered within 1 s, a second" if figure_of == "throughput" else "milliseconds"
        figure, axes = _axes(f"{unit} offered a second", y, 3.4)
        axes.set_xscale("log")
        axes.set_yscale("log")
        for system, colour in colours.items():
            points = measured.find(system, n, "open")
            if not points:
                continue
            x = [m.offered_per_s for m in points]
            if figure_of == "throughput":
                axes.plot(x, [max(m.good_per_s, 0.1) for m in points], "-o", color=colour, markersize=4)
            else:
                # What was never answered has no place on the axis; the line ends there.
                for name, style in (("p50_s", (0, (2, 2))), ("p99_s", "-")):
                    y_ms = [1e3 * v if math.isfinite(v := getattr(m, name)) else math.nan for m in points]
                    axes.plot(x, y_ms, "o", linestyle=style, color=colour, markersize=4)
            axes.plot([], [], "-o", color=colour, label=NAMES[system], markersize=4)
        if axes.lines:
            axes.legend(ncols=2, loc="lower left", bbox_to_anchor=(0, 1))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.{0 if v >= 1 else 1}f}"))
            axis.set_minor_formatter(NullFormatter())
        if figure_of == "latency":
            axes.annotate(
                "solid p99, dashed p50", (0.02, 0.93), xycoords="axes fraction", color=_INK, fontsize=9
            )
        markup = _svg(figure, f"{figure_of} against offered load, {n} a request")
    return standalone(markup)


def write(folder: Path, rounds: Sequence[Round], machine: dict[str, Any], options: dict[str, Any]) -> str:
    """Writes the report's files, and returns the Markdown."""
    measured = Measured(tuple(rounds))
    folder.mkdir(parents=True, exist_ok=True)
    record = _finite(as_json(measured, machine, options))
    (folder / "load.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    about = (
        f"{machine['cpu']}, {len(machine['cores'])} cores, {machine['date']}, load "
        f"{machine['load_1_min']:.1f} before it began; {len(rounds)} rounds of {options['seconds']:g} s; "
        f"{options['workers']} workers; {options['n_sentences']:,} sentences of {options['texts']}. "
        "The client runs on the same cores."
    )
    content = f"{about}\n\n{markdown(measured)}\n"
    (folder / "load.md").write_text(content, encoding="utf-8")
    if any(cell.kind == "open" for each in rounds for cell in each.cells):
        for n in measured.sizes:
            for what in ("throughput", "latency"):
                (folder / f"{what}-{n}.svg").write_text(plot(measured, n, what), encoding="utf-8")
    return content
