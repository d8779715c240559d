"""An evaluation in, one HTML page out: figures, tables, and the worst mistakes in their context.

The page holds everything it shows: no script, no request to anywhere, and a policy that forbids
both. It is readable in light and in dark. Texts of the data are escaped.
"""

from __future__ import annotations

import io
import re
import unicodedata
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from model.labels import Span
from training.metrics import SpanScores
from training.scores import AT_PRECISION, AT_RECALL, CURVE_FROM, KINDS, CorpusScores, Evaluation, Mistake

_CONTEXT = 14  # tokens shown to either side of a mistake

# Colours that nothing else uses stand in the drawings for the page's variables, which know the
# reader's light or dark.
_INK, _GRID, _FIRST, _SECOND, _THIRD, _FAINT = (f"#0{i}0{i}0{i}" for i in range(1, 7))
_VARIABLES = {
    _INK: "var(--ink-2)",
    _GRID: "var(--line)",
    _FIRST: "var(--first)",
    _SECOND: "var(--second)",
    _THIRD: "var(--third)",
    _FAINT: "var(--faint)",
}
_STYLE: Any = {  # matplotlib's type for it spells out each of its 300 keys
    "svg.fonttype": "none",  # text stays text, in the page's own font
    "font.size": 10,
    "text.color": _INK,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.major.pad": 7,
    "legend.frameon": False,
    "lines.linewidth": 2,
    "lines.solid_capstyle": "round",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}

_CSS = """
:root { color-scheme: light dark; --page:#f6f7f9; --card:#fff;
  --ink:#16191f; --ink-2:#59616e; --line:#e1e5eb;
  --first:#2f6bdb; --second:#d9622b; --third:#16916b; --faint:#b9c2cf;
  --gold:#0d7a57; --gold-bg:#d8f3e7; --wrong:#b3261e; --wrong-bg:#fde3df; --cell:47,107,219; }
@media (prefers-color-scheme: dark) {
:root { --page:#101319; --card:#181c24; --ink:#e8ebf0; --ink-2:#a3adbb; --line:#2c333f;
  --first:#7aa7ff; --second:#ff9a66; --third:#4fd0a5; --faint:#4a5464;
  --gold:#6fe0b6; --gold-bg:#123a2d; --wrong:#ff9d94; --wrong-bg:#4a1f1c; --cell:122,167,255; } }
* { box-sizing:border-box }
body { margin:0; background:var(--page); color:var(--ink); line-height:1.5;
  font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans","DejaVu Sans",sans-serif; }
main { max-width:72rem; margin:0 auto; padding:2rem 1rem 4rem }
h1 { font-size:1.7rem; margin:0 } h2 { font-size:1.15rem; margin:2.4rem 0 .8rem }
h3 { font-size:.95rem; margin:0 0 .4rem }
p { margin:.3rem 0 } .note { color:var(--ink-2); font-size:.88rem; max-width:60rem }
.tiles { display:grid; grid-template-columns:repeat(auto-fit,minmax(9rem,1fr)); gap:.8rem;
  margin-top:1.4rem }
.tiles div, .card { background:var(--card); border:1px solid var(--line); border-radius:.6rem;
  padding:1rem }
.tiles div { display:flex; flex-direction:column; justify-content:space-between }
.tiles dt { color:var(--ink-2); font-size:.82rem } .tiles dd { margin:0; font-size:1.55rem; font-weight:600;
  font-variant-numeric:tabular-nums }
.grid { display:grid; grid-template-columns:repeat(auto-fit,minmax(min(100%,25rem),1fr)); gap:1rem }
.card { min-width:0; overflow-x:auto } figure { margin:0 }
figure svg { width:100%; height:auto; display:block; margin-bottom:.4rem }
figcaption { color:var(--ink-2); font-size:.85rem }
svg text { font-family:inherit !important }
table { border-collapse:collapse; width:100%; font-variant-numeric:tabular-nums; font-size:.9rem }
caption { text-align:left; font-weight:600; padding-bottom:.4rem }
th, td { padding:.32rem .6rem; text-align:right; border-bottom:1px solid var(--line); white-space:nowrap }
thead th { color:var(--ink-2); font-weight:500; vertical-align:bottom; white-space:normal }
tbody th { text-align:left; font-weight:400 } th.left { text-align:left }
tr.total th, tr.total td { font-weight:600; border-bottom:0 } tbody tr:last-child > * { border-bottom:0 }
.bar { width:34%; min-width:6rem } .bar span { display:block; height:.55rem; border-radius:.3rem;
  background:var(--first) }
.confusion { width:auto } .confusion td, .confusion th + th { text-align:center; min-width:6rem }
ol { list-style:none; margin:0; padding:0 }
li { padding:.55rem 0; border-bottom:1px solid var(--line) } li:last-child { border-bottom:0 }
li p { overflow-wrap:anywhere } li .where { color:var(--ink-2); font-size:.8rem }
mark { color:inherit; background:none; border-radius:.25rem; padding:.05rem .15rem }
mark.gold { background:var(--gold-bg); box-shadow:inset 0 -2px var(--gold) }
mark.wrong { background:var(--wrong-bg); outline:1px dashed var(--wrong) }
mark.wrong.gold { background:linear-gradient(var(--wrong-bg) 50%,var(--gold-bg) 50%);
  box-shadow:inset 0 -2px var(--gold) }
mark.right { border-bottom:2px dotted var(--ink-2); border-radius:0 }
"""


def report(evaluation: Evaluation, training: Mapping[str, Any]) -> str:
    """The page. ``training``: the artefact's record of how it was made, for its "history"."""
    e = evaluation
    parts = [
        _header(e),
        _sets(e),
        "<h2>Scores and thresholds</h2>",
        _grid(_curve(e), _reliability(e.pooled)),
    ]
    if history := training.get("history"):
        parts += ["<h2>Training</h2>", _grid(*_history(history))]
    parts += [
        "<h2>Where it is good, and where not</h2>",
        _grid(*_slices(e.pooled)),
        "<h2>Labels</h2>",
        _confusion(e.pooled),
        *_worst(e.pooled),
    ]
    title = f"{e.model} {e.version}: evaluation"
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(parts)
        + "\n</main>\n</body>\n</html>\n"
    )


def _text(text: str) -> str:
    """Escaped; what has no place in HTML (controls, half surrogates) as U+FFFD."""
    return escape("".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cs") else c for c in text))


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.2f}"


def _grid(*cards: str) -> str:
    return '<div class="grid">' + "".join(f'<div class="card">{card}</div>' for card in cards) + "</div>"


def _header(e: Evaluation) -> str:
    total = e.pooled
    reached = total.recall_at_precision
    tiles = [
        ("F1, all names" if len(e.sets) > 1 else "F1", _percent(total.spans.f1)),
        ("Precision", _percent(total.spans.precision)),
        ("Recall", _percent(total.spans.recall)),
        (f"Recall at {AT_PRECISION:.0%} precision", _percent(reached.recall if reached else None)),
        ("Calibration error", _percent(total.calibration.ece)),
        ("Words a second", f"{e.tokens_per_s:,.0f}"),
    ]
    if len(e.sets) > 1:
        tiles.insert(0, ("F1, mean of sets", _percent(e.mean_f1)))
    shown = "".join(f"<div><dt>{_text(name)}</dt><dd>{value}</dd></div>" for name, value in tiles)
    n = total.spans.n_gold
    return (
        f"<header><h1>{_text(e.model)} <small>{_text(e.version)}</small></h1>"
        f'<p class="note">{total.n_sentences:,} sentences, {total.n_tokens:,} tokens, {n:,} names; '
        f"threshold {e.threshold:g}; {_text(e.backend)} on {_text(e.device)}. All shares in per cent. "
        "A name counts only where start, end and type are all right, as conlleval counts.</p>"
        f'<dl class="tiles">{shown}</dl></header>'
    )


def _table(head: Sequence[str], rows: Sequence[str], *, caption: str = "", name: str = "") -> str:
    cells = "".join(f"<th{' class=left' * (i == 0)} scope=col>{cell}</th>" for i, cell in enumerate(head))
    title = f"<caption>{_text(caption)}</caption>" if caption else ""
    body = "".join(rows)
    return f'<table class="{name}">{title}<thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>'


def _tr(head: str, cells: Sequence[str], *, total: bool = False) -> str:
    shown = "".join(f"<td>{cell}</td>" for cell in cells)
    return f"<tr{' class=total' * total}><th scope=row>{_text(head)}</th>{shown}</tr>"


def _sets(e: Evaluation) -> str:
    def row(one: CorpusScores, *, total: bool = False) -> str:
        s, at_precision = one.spans, one.recall_at_precision
        at_recall, at_hidden = one.precision_at_recall, one.precision_at_hidden
        shares = (
            *(s.precision, s.recall, s.f1, one.token_accuracy, one.calibration.ece),
            at_precision.recall if at_precision else None,
            at_recall.precision if at_recall else None,
            at_hidden.precision if at_hidden else None,
        )
        counts = [f"{n:,}" for n in (one.n_sentences, s.n_gold)]
        return _tr(one.name, [*counts, *map(_percent, shares)], total=total)

    head = ("Set", "Sentences", "Names", "Precision", "Recall", "F1", "Token accuracy", "Calibration error",
            f"Recall at {AT_PRECISION:.0%} precision", f"Precision at {AT_RECALL:.0%} recall",
            f"Persons that touch a name, at {AT_RECALL:.0%} of names hidden whole")  # fmt: skip
    rows = [row(one) for one in e.sets] + ([row(e.pooled, total=True)] if len(e.sets) > 1 else [])
    return f'<h2>Sets</h2><div class="card">{_table(head, rows)}</div>'


# Drawings


def _svg(figure: Figure, what: str) -> str:
    """The figure as markup. ``what`` describes it to who cannot see it, and keeps its ids its own."""
    out = io.StringIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": what}):
        figure.savefig(out, format="svg", metadata=metadata, bbox_inches="tight", pad_inches=0.03)
    markup = out.getvalue()
    markup = markup[markup.index("<svg") :]
    markup = re.sub(r'\s(?:width|height)="[\d.]+pt"|\sxmlns(?::\w+)?="[^"]*"', "", markup)
    # Element ids repeat from figure to figure; those that are referred to carry the salt.
    markup = re.sub(r' id="[\w.]+_\d+"', "", markup)
    for colour, variable in _VARIABLES.items():
        markup = markup.replace(colour, variable)
    return markup.replace("<svg", f'<svg role="img" aria-label="{_text(what)}"', 1)


def _axes(x: str, y: str, height: float = 3.0) -> tuple[Figure, Axes]:
    """To be called with _STYLE in force."""
    figure = Figure(figsize=(5.2, height))
    axes = figure.add_subplot()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes


def _figure(title: str, svg: str, caption: str) -> str:
    return f"<figure><h3>{_text(title)}</h3>{svg}<figcaption>{caption}</figcaption></figure>"


def _curve(e: Evaluation) -> str:
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes("Recall", "Precision")
        if len(e.sets) > 1:
            for one in e.sets:
                axes.plot(*_line(one), color=_FAINT, linewidth=1.1)
        axes.plot(*_line(e.pooled), color=_FIRST)
        s = e.pooled.spans
        axes.plot([s.recall], [s.precision], "o", color=_SECOND, markersize=7, clip_on=False)
        axes.axhline(AT_PRECISION, color=_THIRD, linewidth=1, linestyle=(0, (4, 3)))
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
        svg = _svg(figure, "Precision by recall, over all thresholds")
    sets = "; thin: each set" if len(e.sets) > 1 else ""
    return _figure(
        "Precision and recall, by threshold",
        svg,
        f"Blue: all{sets}. Dot: at the threshold {e.threshold:g}. Dashed: {AT_PRECISION:.0%} precision. "
        f"The curve ends at the threshold {CURVE_FROM:g}.",
    )


def _line(scores: CorpusScores) -> tuple[list[float], list[float]]:
    return [point.recall for point in scores.curve], [point.precision for point in scores.curve]


def _reliability(scores: CorpusScores) -> str:
    bins = scores.calibration.bins
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes("Score of the name", "Share that is right")
        most = max((one.n for one in bins), default=1)
        for one in bins:
            width = one.high - one.low
            axes.bar(one.low, 0.25 * one.n / most, width * 0.9, align="edge", color=_FAINT)
        axes.plot([0, 1], [0, 1], color=_INK, linewidth=1, linestyle=(0, (4, 3)))
        x, y = [one.mean_score for one in bins], [one.share_correct for one in bins]
        # A point of few names is small: it is off the line by chance more than by fault.
        sizes = [12 + 50 * (one.n / most) ** 0.5 for one in bins]
        axes.plot(x, y, color=_FIRST, linewidth=1)
        axes.scatter(x, y, s=sizes, color=_FIRST, clip_on=False, zorder=3)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
        svg = _svg(figure, "Share of right names by score")
    return _figure(
        "Reliability",
        svg,
        f"On the dashed line a score of 0.8 is right 80 times in 100. Expected calibration error "
        f"{_percent(scores.calibration.ece)}. Grey: how many names have that score.",
    )


def _history(history: Sequence[Mapping[str, Any]]) -> list[str]:
    epochs = [record["epoch"] for record in history]

    def drawn(what: str, lines: Mapping[str, tuple[str, str]]) -> str:
        with matplotlib.rc_context(_STYLE):
            figure, axes = _axes("Epoch", what, 2.6)
            for key, (name, colour) in lines.items():
                values = [record.get(key) for record in history]
                if all(value is None for value in values):
                    continue
                shown = [float("nan") if value is None else value for value in values]
                axes.plot(epochs, shown, "-o", color=colour, markersize=4, label=name)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            if len(lines) > 1 and axes.lines:
                axes.legend(ncols=len(lines), loc="lower left", bbox_to_anchor=(0, 1))
            return _svg(figure, f"{what} by epoch")

    scores = {
        "dev_f1": ("F1", _FIRST),
        "dev_precision": ("precision", _SECOND),
        "dev_recall": ("recall", _THIRD),
    }
    best = max(history, key=lambda record: record.get("dev_f1") or 0.0)
    seconds = sum(record.get("seconds") or 0.0 for record in history)
    return [
        _figure(
            "Loss", drawn("Loss", {"loss": ("loss", _FIRST)}), f"{len(history)} epochs, {seconds:,.0f} s."
        ),
        _figure(
            "Dev scores",
            drawn("Dev score", scores),
            f"Best: epoch {best['epoch']}, F1 {_percent(best.get('dev_f1'))}.",
        ),
    ]


# Tables


def _slices(scores: CorpusScores) -> list[str]:
    def rows(found: Mapping[str, SpanScores]) -> list[str]:
        return [
            _tr(name, [f"{s.n_gold:,}", *map(_percent, (s.precision, s.recall, s.f1))]).replace(
                "</tr>", f'<td class="bar"><span style="width:{100 * s.f1:.1f}%"></span></td></tr>'
            )
            for name, s in found.items()
        ]

    head = ("", "Names", "Precision", "Recall", "F1", "")
    by_type = {"type": scores.by_type} if len(scores.by_type) > 1 else {}
    return [
        _table(
            head, rows(found), caption=f"By {slicing}" if slicing != "in training" else "Names in training"
        )
        for slicing, found in {**by_type, **scores.slices}.items()
        if found
    ]


def _confusion(scores: CorpusScores) -> str:
    rows = []
    for label, counts in zip(scores.labels, scores.confusion, strict=True):
        n = sum(counts)
        cells = "".join(
            f'<td style="background:rgba(var(--cell),{0.55 * count / n if n else 0:.3f})">{count:,}</td>'
            for count in counts
        )
        rows.append(f"<tr><th scope=row>{_text(label)}</th>{cells}</tr>")
    head = ("label in the data ↓ &nbsp; given →", *map(_text, scores.labels))
    return (
        f'<div class="card">{_table(head, rows, name="confusion")}</div>'
        '<p class="note">Tokens; the shade is the share of the row.</p>'
    )


_EXPLAINED = {
    "missed": ("Missed", "Names that no answer touches, the ones the model was surest were none first."),
    "invented": ("Invented", "Answers that touch no name of the data, the highest scores first."),
    "boundary": ("Wrong boundary", "Answers that overlap a name, but begin or end elsewhere."),
    "type": ("Wrong type", "The right tokens with another type."),
}


def _worst(scores: CorpusScores) -> list[str]:
    parts = [
        "<h2>Worst mistakes</h2>",
        '<p class="note"><mark class="gold">name in the data</mark> &nbsp; '
        '<mark class="wrong">wrong answer</mark> &nbsp; <mark class="wrong gold">both</mark> &nbsp; '
        '<mark class="right">right answer</mark>. Sometimes it is the data that is wrong.</p>',
    ]
    for kind in KINDS:
        shown = [mistake for mistake in scores.worst if mistake.kind == kind]
        if not shown:
            continue
        title, what = _EXPLAINED[kind]
        items = "".join(f"<li>{_mistake(mistake)}</li>" for mistake in shown)
        n = scores.n_mistakes[kind]
        parts.append(
            f'<h2>{title} <small>({len(shown)} of {n:,})</small></h2><p class="note">{what}</p>'
            f'<div class="card"><ol>{items}</ol></div>'
        )
    if len(parts) == 2:
        return ["<h2>Mistakes</h2>", '<p class="note">None.</p>']
    return parts


def _mistake(mistake: Mistake) -> str:
    first = max(0, mistake.span.start - _CONTEXT)
    last = min(len(mistake.tokens), mistake.span.end + _CONTEXT)
    words = ["…"] if first else []
    at = first
    while at < last:
        classes, end = _look(mistake, at), at + 1
        while end < last and _look(mistake, end) == classes and not _begins(mistake, end):
            end += 1
        text = _text(" ".join(mistake.tokens[at:end]))
        words.append(f'<mark class="{classes}">{text}</mark>' if classes else text)
        at = end
    words += ["…"] if last < len(mistake.tokens) else []
    # <bdi>: a direction mark in one text does not turn the next around.
    where = f"{mistake.corpus}, sentence {mistake.sentence + 1:,}; {mistake.span.entity_type}"
    return (
        f"<p><bdi>{' '.join(words)}</bdi></p>"
        f'<p class="where">{_text(where)}, {_percent(mistake.confidence)} % sure</p>'
    )


def _look(mistake: Mistake, token: int) -> str:
    """The classes that mark a token."""

    def at(spans: Sequence[Span]) -> Span | None:
        return next((span for span in spans if span.start <= token < span.end), None)

    gold, predicted = at(mistake.gold), at(mistake.predicted)
    if predicted and predicted == gold:
        return "right"
    return " ".join(["wrong"] * (predicted is not None) + ["gold"] * (gold is not None))


def _begins(mistake: Mistake, token: int) -> bool:
    return any(span.start == token for span in (*mistake.gold, *mistake.predicted))
