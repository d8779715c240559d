"""A study in, its drawings out: why some systems learn what others do not. For training/study_report.py."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import geometric_mean, mean

import matplotlib
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from training.report import _FIRST, _INK, _SECOND, _STYLE, _THIRD, _axes, _figure, _grid, _svg
from training.study_runs import Study
from training.systems import BASE

_CELLS = {
    "rnn": ("plain RNN", _SECOND, "-"),
    "gru": ("GRU", _THIRD, "-"),
    "lstm": ("LSTM", _FIRST, "-"),
    "lstm-peephole": ("with peepholes", _FIRST, "--"),
}
# The systems whose trained cells are compared, by cell.
_CELL_SYSTEMS = {"rnn": "rnn", "gru": "gru", "lstm": BASE.slug, "lstm-peephole": "lstm-peephole"}
_LEAST = 1e-12  # share of a gradient below which it is not drawn


def _legend(axes: Axes) -> None:
    if axes.lines:
        axes.legend(ncols=2, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)


def _decades(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_minor_locator(NullLocator())


def _averaged(curves: Sequence[Sequence[float]]) -> list[float]:
    """Geometric means, up to where the gradient is gone."""
    values = [geometric_mean([max(v, 1e-300) for v in at]) for at in zip(*curves, strict=True)]
    return [value if value >= _LEAST else math.nan for value in values]


def _before(study: Study, slug: str, *, trained: bool, after: bool = False) -> list[float]:
    found = [run.trained if trained else run.untrained for run in study.of(slug)]
    curves = [curve.after if after else curve.before for curve in found if curve]
    return _averaged(curves) if curves else []


def gradients(study: Study) -> str:
    cards = [
        _by_cell(
            study,
            True,
            "The cells of the first table, as trained. The gradient of a label's loss on the features of "
            "the word k tokens before, as a share of that on its own word (geometric means). A straight "
            "line is exponential: so many per cent of what is left go at every step (Bengio, Simard & "
            "Frasconi 1994). A word with a thousandth of the gradient has a thousandth of the say "
            "in what is learnt.",
        ),
        _by_cell(
            study,
            False,
            "The same before training: what the first steps have to learn from. At a forget gate of one "
            "half, an LSTM forgets half of its state at every step; training opens the gates.",
        ),
        _two_sides(study),
        _exploding(study),
        _norms_by_step(study),
    ]
    return _grid(*(card for card in cards if card))


def _by_cell(study: Study, trained: bool, caption: str) -> str:
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes("Distance in tokens", "Gradient, relative")
        for cell, slug in _CELL_SYSTEMS.items():
            curve = _before(study, slug, trained=trained)
            if curve:
                name, colour, style = _CELLS[cell]
                axes.plot(curve, color=colour, linestyle=style, label=name)
        _decades(axes)
        _legend(axes)
        svg = _svg(figure, f"Gradient by distance, {'trained' if trained else 'untrained'} cells")
    return _figure("Vanishing: after training" if trained else "Vanishing: before training", svg, caption)


def _two_sides(study: Study) -> str:
    if not study.of("one-direction"):
        return ""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes("Words before ← distance in tokens → words after", "Gradient, relative")
        for slug, name, colour in (
            (BASE.slug, "two directions", _FIRST),
            ("one-direction", "one direction", _SECOND),
        ):
            before = _before(study, slug, trained=True)
            after = _before(study, slug, trained=True, after=True)
            if before:
                at = range(-len(before) + 1, len(after))
                axes.plot(list(at), [*before[:0:-1], *after], color=colour, label=name)
        _decades(axes)
        _legend(axes)
        svg = _svg(figure, "Gradient by distance to either side")
    return _figure(
        "What one direction cannot see",
        svg,
        "Left to right only, the words after a token get no gradient at all: not a small one, none.",
    )


def _exploding(study: Study) -> str:
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes("Distance in tokens", "Gradient, relative")
        for number, (radius, curve) in enumerate(sorted(study.scaled.items())):
            shown = _averaged([curve.before])
            opacity = 0.35 + 0.65 * number / max(1, len(study.scaled) - 1)
            axes.plot(shown, color=_SECOND, alpha=opacity)
            last = max(i for i, value in enumerate(shown) if not math.isnan(value))
            axes.annotate(f"{radius:g}", (last, shown[last]), (4, 0), textcoords="offset points",
                          va="center", color=_INK, annotation_clip=False)  # fmt: skip
        _decades(axes)
        svg = _svg(figure, "Gradient by distance, by spectral radius")
    return _figure(
        "Exploding: the recurrent weights' size",
        svg,
        "An untrained plain RNN whose recurrent weights are scaled to a spectral radius (at the lines' "
        "ends). What goes back k steps is multiplied k times by these weights and by tanh's slope, which "
        "is at most 1: well below a radius of 1 it vanishes, well above it may explode (Pascanu, Mikolov & "
        "Bengio 2013, section 2.1).",
    )


def _norms_by_step(study: Study) -> str:
    looks = {
        "rnn-sgd": ("plain RNN, clipped", _THIRD),
        "rnn-sgd-unclipped": ("plain RNN, not clipped", _SECOND),
        BASE.slug: ("LSTM, AdamW", _FIRST),
    }
    if not any(study.of(slug) for slug in ("rnn-sgd", "rnn-sgd-unclipped")):
        return ""
    limit = study.recipe.optimiser.clip_norm
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes("Step", "Gradient norm")
        for slug, (name, colour) in looks.items():
            runs = study.of(slug)
            if runs and runs[0].grad_norms:
                norms = [max(norm, 1e-3) for norm in runs[0].grad_norms]
                wide = max(1, len(norms) // 150)
                # The largest of each stretch: a single step is what does the damage.
                steps = range(0, len(norms), wide)
                axes.plot(list(steps), [max(norms[i : i + wide]) for i in steps], color=colour, label=name,
                          linewidth=1.3)  # fmt: skip
        if limit:
            axes.axhline(limit, color=_INK, linewidth=1, linestyle=(0, (4, 3)))
        _decades(axes)
        _legend(axes)
        svg = _svg(figure, "Gradient norm by step")
    seed = study.runs[0].seed
    return _figure(
        "Exploding: with and without clipping",
        svg,
        f"Before clipping, seed {seed}; the largest of neighbouring steps. Dashed: the limit, {limit:g}. "
        "Not clipped, one step along a huge gradient throws the weights to where tanh is flat: what "
        "follows is noise, or nothing.",
    )


def memory(study: Study) -> str:
    p = study.probe
    n_seeds = len({run.seed for run in study.probes})
    example = (
        '<p class="note">Made sentences, in which a word k tokens away decides whether an ambiguous word '
        "is a person: “The <b>author</b> after storms near bridges … was called <b>Jordan</b>.”, “The "
        "<b>river</b> despite clouds … was called <b>Jordan</b>.”; and the other way around, "
        "“<b>Jordan</b> near lamps … was the <b>author</b>.” A third are persons, so that a network that "
        "cannot see the deciding word does best to find nobody. No phrase between the two, and no pair of "
        f"name and deciding word, is in both training and test. {p.n_test // 2} test sentences a dot"
        f"{'; thin lines: single trainings' * (n_seeds > 1)}.</p>"
    )
    alone = _recall(
        study,
        {cell: (cell, False) for cell in _CELLS},
        mixed=False,
        title="Each distance alone",
        caption=f"One direction; the deciding word comes first. One training for each dot, {p.n_alone:,} "
        f"sentences of that distance, {p.epochs} epochs. The gradient has to bridge the whole distance at "
        "once: what the curves above lose is not learnt here.",
    )
    mixed = _recall(
        study,
        {cell: (cell, False) for cell in _CELLS},
        mixed=True,
        title="All distances together",
        caption=f"One training on all distances, {p.n_mixed:,} sentences, {p.epochs} epochs. What is "
        "learnt on near words carries over to far ones: a gate that keeps a state for three tokens keeps "
        "it for seventy. It is learning over a distance that is hard, more than holding on.",
    )
    sides = _sides(study)
    return example + _grid(alone, mixed, sides)


def _points(study: Study, cell: str, both: bool, mixed: bool, first: bool) -> dict[int, list[float]]:
    """Recall by distance, one value a seed."""
    found: dict[int, list[float]] = {}
    for run in study.probes:
        if (run.cell, run.bidirectional) == (cell, both):
            for score in run.scores:
                if score.mixed == mixed and score.cue_first == first:
                    found.setdefault(score.distance, []).append(score.recall)
    return found


def _draw_recall(
    axes: Axes, points: Mapping[int, Sequence[float]], name: str, colour: str, style: str
) -> None:
    if not points:
        return
    x = list(points)
    for single in zip(*points.values(), strict=True):
        if len(next(iter(points.values()))) > 1:
            axes.plot(x, single, color=colour, linestyle=style, linewidth=0.8, alpha=0.5)
    means = [mean(values) for values in points.values()]
    axes.plot(x, means, color=colour, linestyle=style, marker="o", markersize=4, label=name, clip_on=False)


def _recall(
    study: Study,
    networks: Mapping[str, tuple[str, bool]],
    *,
    mixed: bool,
    title: str,
    caption: str,
) -> str:
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes("Distance of the deciding word, in tokens", "Recall")
        for cell, network in networks.items():
            name, colour, style = _CELLS[cell]
            _draw_recall(axes, _points(study, *network, mixed, True), name, colour, style)
        _distances(axes, study.probe.distances)
        svg = _svg(figure, f"Recall by distance, {title.lower()}")
    return _figure(title, svg, caption)


def _distances(axes: Axes, distances: Sequence[int]) -> None:
    axes.set_xscale("log")
    axes.set_xticks(list(distances), [str(d) for d in distances])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(0, 1.02)
    _legend(axes)


def _sides(study: Study) -> str:
    lines = (
        ("two directions, before", True, True, _FIRST, "-"),
        ("two directions, after", True, False, _FIRST, "--"),
        ("one direction, before", False, True, _SECOND, "-"),
        ("one direction, after", False, False, _SECOND, "--"),
    )
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes("Distance of the deciding word, in tokens", "Recall")
        for name, both, first, colour, style in lines:
            _draw_recall(axes, _points(study, "lstm", both, True, first), name, colour, style)
        _distances(axes, study.probe.distances)
        svg = _svg(figure, "Recall by distance, one direction and two")
    return _figure(
        "One direction and two",
        svg,
        "An LSTM, all distances together; the deciding word before the name or after it. Read left to "
        "right, a name is labelled before a word after it is seen, at whatever distance.",
    )
