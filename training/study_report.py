"""A study in, one HTML page out: what each system scores and costs, and the reasons, drawn.

The page is made as training/report.py makes its own: it holds all that it shows, asks nobody for
anything, and is readable in light and in dark.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean, median, stdev

from training.report import _CSS, _table, _text
from training.study_plots import gradients, memory
from training.study_runs import Study
from training.systems import BASE, GROUPS, SYSTEMS, System

_MORE_CSS = """
.group { margin-bottom:1rem } .group p { max-width:60rem }
.group table { table-layout:fixed; min-width:62rem; margin-top:.6rem }
.group thead th:first-child { width:17% } .group thead th:nth-child(3) { width:17% }
.group thead th:nth-child(6) { width:9% }
.group tbody th { white-space:normal } .group td, .group th { padding-right:.3rem }
td.dots { padding:0 .6rem }
.track { display:block; position:relative; height:1.3rem }
.track i { position:absolute; top:50%; transform:translate(-50%,-50%) }
.track .zero { width:1px; height:100%; background:var(--line) }
.track .spread { height:2px; background:var(--faint); transform:translateY(-50%) }
.track .one { width:.32rem; height:.32rem; border-radius:50%; background:var(--faint) }
.track .mean { width:.62rem; height:.62rem; border-radius:50%; background:var(--first) }
tr.base th, tr.base td { font-weight:600 }
.broke { color:var(--wrong) } small { color:var(--ink-2); font-weight:400 }
.references li { border:0; padding:.2rem 0; font-size:.88rem }
pre { overflow-x:auto; font-size:.82rem; color:var(--ink-2) }
"""

_REFERENCES = (
    "Bengio, Y., Simard, P. & Frasconi, P. 1994. Learning long-term dependencies with gradient descent is "
    "difficult. IEEE Transactions on Neural Networks 5.",
    "Cho, K. et al. 2014. Learning phrase representations using RNN encoder–decoder for statistical "
    "machine translation. arXiv:1406.1078.",
    "Elman, J. L. 1990. Finding structure in time. Cognitive Science 14.",
    "Gers, F. A., Schraudolph, N. N. & Schmidhuber, J. 2002. Learning precise timing with LSTM recurrent "
    "networks. Journal of Machine Learning Research 3.",
    "Hochreiter, S. & Schmidhuber, J. 1997. Long short-term memory. Neural Computation 9.",
    "Huang, Z., Xu, W. & Yu, K. 2015. Bidirectional LSTM-CRF models for sequence tagging. "
    "arXiv:1508.01991.",
    "Jordan, M. I. 1986. Serial order: a parallel distributed processing approach. ICS report 8604, UC San "
    "Diego.",
    "Lafferty, J., McCallum, A. & Pereira, F. 2001. Conditional random fields. ICML.",
    "Ma, X. & Hovy, E. 2016. End-to-end sequence labeling via bi-directional LSTM-CNNs-CRF. "
    "arXiv:1603.01354.",
    "Pascanu, R., Mikolov, T. & Bengio, Y. 2013. On the difficulty of training recurrent neural networks. "
    "arXiv:1211.5063.",
    "Ranzato, M. et al. 2016. Sequence level training with recurrent neural networks. arXiv:1511.06732.",
    "Schuster, M. & Paliwal, K. K. 1997. Bidirectional recurrent neural networks. IEEE Transactions on "
    "Signal Processing 45.",
    "Williams, R. J. & Zipser, D. 1989. A learning algorithm for continually running fully recurrent "
    "neural networks. Neural Computation 1.",
)


def report(study: Study) -> str:
    """The page."""
    parts = [
        _header(study),
        "<h2>Systems</h2>",
        *_groups(study),
        "<h2>Why: how far back the gradient reaches</h2>",
        gradients(study),
    ]
    if study.probes:
        parts += ["<h2>Why: how far away the deciding word may stand</h2>", memory(study)]
    parts += ["<h2>References</h2>", _references(), "<h2>How it was made</h2>", _made(study)]
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Recurrent taggers side by side</title>\n<style>{_CSS}{_MORE_CSS}</style>\n"
        "</head>\n<body>\n<main>\n" + "\n".join(parts) + "\n</main>\n</body>\n</html>\n"
    )


def _header(study: Study) -> str:
    slugs = {run.system for run in study.runs}
    seeds = {run.seed for run in study.runs}
    scores = {slug: mean(run.f1 for run in study.of(slug)) for slug in slugs}
    best = max(scores, key=lambda slug: scores[slug])
    tiles = [
        ("Systems", f"{len(slugs)}"),
        ("Trainings", f"{len(study.runs)}"),
        ("F1 of the base", f"{100 * scores[BASE.slug]:.1f}"),
        (f"Best F1: {_where(best)}", f"{100 * scores[best]:.1f}"),
        ("Broke down", f"{sum(bool(run.broke_down) for run in study.runs)}"),
    ]
    shown = "".join(f"<div><dt>{_text(name)}</dt><dd>{value}</dd></div>" for name, value in tiles)
    c = study.recipe.network
    n_dev = sum(study.dev.values())
    return (
        "<header><h1>Recurrent taggers side by side</h1>"
        f'<p class="note">Every system is trained on the same {sum(study.train.values()):,} sentences '
        f"({study.n_train_tokens:,} tokens) and scored on the same {n_dev:,}, with "
        f"{len(seeds)} seed{'s' * (len(seeds) > 1)}. Each group changes one thing of one base: a "
        f"bidirectional LSTM of one layer, {c.hidden_dim} units in each direction, which reads words and "
        "characters, with a CRF on top, AdamW and clipping. F1 in per cent: a name counts only where its "
        "start, end and type are all right. Of each training the epoch that is best on these very "
        "sentences is scored, which flatters all systems alike.</p>"
        f'<dl class="tiles">{shown}</dl></header>'
    )


def _where(slug: str) -> str:
    """A system's name with its group's, since it is read outside the group's table."""
    if slug == BASE.slug:
        return BASE.name
    return next(f"{g.title.lower()}, {s.name}" for g in GROUPS for s in g.systems if s.slug == slug)


# The tables


def _spread(values: Sequence[float]) -> str:
    """Mean in per cent, and the sample standard deviation where there are several."""
    around = f" <small>± {100 * stdev(values):.1f}</small>" if len(values) > 1 else ""
    return f"{100 * mean(values):.1f}{around}"


def _groups(study: Study) -> list[str]:
    means = [mean(run.f1 for run in found) for s in SYSTEMS.values() if (found := study.of(s.slug))]
    high = max(max(run.f1 for run in study.runs), 0.05)
    # What failed is not drawn to scale: the others would all be in one place.
    low = min([m for m in means if m > high / 2] + [high - 0.05])
    low, high = math.floor(20 * low - 0.5) / 20, math.ceil(20 * high) / 20
    note = (
        '<p class="note">Large dots: means; small ones: single trainings; '
        f"from {100 * low:.0f} on the left to {100 * high:.0f} on the right, what scores less on the left "
        "edge. The line is the base, which stands in bold in every group. Tokens a second: of one core's "
        "time, for training a batch and for tagging in batches. Gradient norm: before clipping, the "
        "median and the largest of all steps.</p>"
    )
    head = ("", "F1", "", "Precision", "Recall", "Parameters", "Trains, tokens/s", "Tags, tokens/s",
            "Best epoch", "Gradient norm", "Steps clipped")  # fmt: skip
    alone = {run.system for run in study.runs} == {BASE.slug}
    cards = []
    for group in GROUPS:
        rows = [_row(study, system, low, high) for system in group.systems if study.of(system.slug)]
        if len(rows) > 1 or alone:
            extra = _exposure(study) if group.title == "Head" else ""
            cards.append(
                f'<div class="card group"><h3>{_text(group.title)}</h3><p class="note">{_text(group.why)}'
                f"{extra}</p>{_table(head, rows)}</div>"
            )
    return [note, *cards]


def _row(study: Study, system: System, low: float, high: float) -> str:
    runs = study.of(system.slug)
    base = mean(run.f1 for run in study.of(BASE.slug))

    def at(share: float) -> str:
        return f"{100 * min(1.0, max(0.0, (share - low) / (high - low))):.1f}%"

    f1 = [run.f1 for run in runs]
    dots = f'<i class="zero" style="left:{at(base)}"></i>'
    dots += "".join(f'<i class="one" style="left:{at(value)}"></i>' for value in f1)
    dots += f'<i class="mean" style="left:{at(mean(f1))}"></i>'
    norms = [norm for run in runs for norm in run.grad_norms]
    broke = [run for run in runs if run.broke_down]
    trouble = f' <span class="broke">broke down, {len(broke)} of {len(runs)}: ' if broke else ""
    if broke:
        trouble += f"{_text(broke[0].broke_down)}</span>"
    epochs = f"{median(run.best_epoch for run in runs):.0f} of {max(run.n_epochs for run in runs)}"
    cells = [
        _spread(f1),
        f'<span class="track">{dots}</span>',
        _spread([run.precision for run in runs]),
        _spread([run.recall for run in runs]),
        f"{runs[0].n_parameters:,}",
        f"{median(run.train_tokens_per_s for run in runs):,.0f}",
        f"{median(run.tag_tokens_per_s for run in runs):,.0f}",
        epochs,
        f"{_short(median(norms))} <small>{_short(max(norms))}</small>" if norms else "–",
        f"{mean(run.clipped for run in runs):.0%}",
    ]
    shown = "".join(f"<td{' class=dots' * (i == 1)}>{cell}</td>" for i, cell in enumerate(cells))
    is_base = system.slug == BASE.slug
    head = f"<th scope=row>{_text(system.name)}{trouble}</th>"
    return f"<tr{' class=base' * is_base}>{head}{shown}</tr>"


def _short(value: float) -> str:
    return f"{value:.1f}" if value < 1000 else f"{value:.0e}".replace("e+0", "e").replace("e+", "e")


def _exposure(study: Study) -> str:
    """How much oftener output recurrence is wrong after its own labels than after the gold ones."""
    told = []
    for slug, how in (("teacher-forcing", "by teacher forcing"), ("own-labels", "on its own labels")):
        runs = [run for run in study.of(slug) if run.wrong_given_gold is not None]
        if runs:
            own, gold = (
                1000 * mean(getattr(run, f"wrong_given_{given}") for run in runs)
                for given in ("own", "gold")
            )
            told.append(f"trained {how}, {own:.1f} labels in 1,000, and {gold:.1f} when told")
    if not told:
        return ""
    return (
        " A network that was only ever shown right labels may go astray on its own wrong ones (exposure "
        "bias: Ranzato et al. 2016, arXiv:1511.06732). What that costs is seen by telling it the gold "
        f"label before each token of the dev sets. Wrong are: {'; '.join(told)}."
    )


def _references() -> str:
    items = "".join(f"<li>{_text(reference)}</li>" for reference in _REFERENCES)
    return f'<div class="card"><ol class="references">{items}</ol></div>'


def _made(study: Study) -> str:
    files = "".join(
        f"<li>{what} {_text(name)}: {n:,} sentences</li>"
        for what, found in (("Trained on", study.train), ("Scored on", study.dev))
        for name, n in found.items()
    )
    o = study.recipe.optimiser
    return (
        f'<div class="card"><pre>{_text(study.command)}</pre><ol class="references">{files}'
        f"<li>{o.epochs} epochs; learning rate {o.learning_rate:g} at its peak, after a warm-up, then half "
        f"a cosine; dropout; {_text(study.machine)}. All figures: results.json beside this "
        "page.</li></ol></div>"
    )
