"""Figures and notes in, a model folder with its card out: MODEL_CARD.md, and the same as data.

The weights, the vocabulary and the expected answers stay byte for byte what they were.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from model.artefact import Artefact, load, save
from model.config import NetworkConfig
from training.behaviour import markdown


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


def _score_rows(scores: Mapping[str, Any]) -> list[str]:
    rows = ["| set | sentences | names | precision | recall | F1 | ECE |", "|---|--:|--:|--:|--:|--:|--:|"]
    for one in scores["sets"]:
        s = one["spans"]
        shares = " | ".join(_percent(s[name]) for name in ("precision", "recall", "f1"))
        rows.append(
            f"| {one['name']} | {one['n_sentences']:,} | {s['n_gold']:,} | {shares} | "
            f"{one['calibration']['ece']:.3f} |"
        )
    return rows


def _slice_rows(scores: Mapping[str, Any]) -> list[str]:
    rows = ["| slice | | names | precision | recall | F1 |", "|---|---|--:|--:|--:|--:|"]
    for slicing, found in scores["pooled"]["slices"].items():
        for name, s in found.items():
            shares = " | ".join(_percent(s[key]) for key in ("precision", "recall", "f1"))
            rows.append(f"| {slicing} | {name} | {s['n_gold']:,} | {shares} |")
    return rows


def _threshold_rows(pooled: Mapping[str, Any]) -> list[str]:
    """What round thresholds give, from the pooled curves."""
    rows = [
        "| threshold | precision | recall | persons that touch a name | names hidden whole |",
        "|--:|--:|--:|--:|--:|",
    ]
    for threshold in (0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99):
        cells = [f"{threshold:g}"]
        for curve in (pooled["curve"], pooled["hiding"]):
            at = [p for p in curve if p["threshold"] >= threshold]
            point = min(at, key=lambda p: p["threshold"], default=None)
            cells += [_percent(point[key]) for key in ("precision", "recall")] if point else []
        if len(cells) > 1:
            rows.append(f"| {' | '.join(cells)} |")
    return rows


def _context(network: NetworkConfig) -> str:
    n = network
    if not n.context_layers:
        return ""
    return (
        f"; beside them the vectors of a transformer over word pieces, {n.context_layers} layers of "
        f"{n.context_dim}, {n.context_heads} heads, inner width {n.context_inner}"
    )


def _reached(pooled: Mapping[str, Any]) -> list[str]:
    """What search and redaction ask for: recall at a precision, precision at a recall."""
    strict = {"precision": "precision", "recall": "recall"}
    hiding = {"precision": "persons that touch a name", "recall": "names hidden whole"}
    lines = []
    for key, asked, given, share, said in (
        ("recall_at_precision_0.95", "recall", "precision", 95, strict),
        ("precision_at_recall_0.98", "precision", "recall", 98, strict),
        ("precision_at_hidden_0.98", "precision", "recall", 98, hiding),
    ):
        point = pooled[key]
        reached = "not reached at any threshold of the table."
        if point is not None:
            reached = (
                f"{said[asked]} {_percent(point[asked])} ({said[given]} {_percent(point[given])}), "
                f"by the threshold {point['threshold']:.3f}."
            )
        lines.append(f"- At {said[given]} {share} or more: {reached}")
    return lines


def _behaviour_lines(figures: Mapping[str, Any]) -> list[str]:
    return [
        "## Behaviour",
        "",
        f"{figures['all']['n_cases']:,} short texts written for this project, most of them in minimal "
        'pairs ("Ford retired in 1990.", "Ford recalled 4,000 cars."), tagged as running text, threshold '
        f"{figures['threshold']:g}, by `python -m training behaviour`. A text passes where exactly its "
        "persons are found, a pair where both its texts pass. False finds: persons found in texts that "
        "have none.",
        "",
        *markdown(figures),
        "",
    ]


def _card(
    artefact: Artefact, scores: Mapping[str, Any], notes: str, behaviour: Mapping[str, Any] | None
) -> str:
    config, training = artefact.config, artefact.training
    n = config.network
    data = [f"| {path} | {count:,} |" for path, count in training.get("sentences", {}).items()]
    return "\n".join(
        [
            f"# {config.name} {config.version}",
            "",
            notes.strip(),
            "",
            "## Scores",
            "",
            f"Strict spans, given tokens, threshold {scores['threshold']:g}, by `python -m training "
            "evaluate`. ECE is the expected calibration error of the spans' scores.",
            "",
            *_score_rows(scores),
            "",
            "All sets pooled, by slice:",
            "",
            *_slice_rows(scores),
            "",
            "All sets pooled, by the request's threshold. Without one the answer is the most probable "
            "labelling; a low one finds more, the unlikely too. The last two columns are what redaction "
            "asks: a name is hidden whole where each of its tokens is in a person that was found.",
            "",
            *_threshold_rows(scores["pooled"]),
            "",
            *_reached(scores["pooled"]),
            "",
            *(_behaviour_lines(behaviour) if behaviour else []),
            "## Network",
            "",
            f"{n.n_layers} layer(s) of {n.cell.upper()}, {n.n_directions} direction(s) of {n.hidden_dim} "
            f"units, {n.head.upper()} head; word vectors {n.cased_dim} d as written and {n.lower_dim} d "
            f"lower-cased, {n.char_filters} character filters, projected to {n.feature_dim}"
            f"{_context(n)}. Labels: {', '.join(config.scheme.labels)}. Tokeniser {config.tokeniser}, "
            f"normalisation {config.normalisation}, temperature {config.temperature:g}.",
            "",
            "## Training",
            "",
            "```sh",
            str(training.get("command", "")),
            "```",
            "",
            f"Kept: epoch {training.get('best_epoch')} of {len(training.get('history', []))}. "
            "Everything else, file hashes included, is in `config.json`.",
            "",
            "| training file | sentences |",
            "|---|--:|",
            *data,
            "",
        ]
    )


def write_card(model: Path, *, scores: Path, notes: Path, behaviour: Path | None = None) -> Path:
    """Adds the figures that ``evaluate --json`` and ``behaviour --json`` wrote to the model folder.

    Without ``behaviour`` the folder's own figures of that kind stay. Returns the card's path.
    """
    artefact = load(model)
    suite = _read_behaviour(behaviour) if behaviour else artefact.training.get("behaviour")
    try:
        figures = json.loads(scores.read_text("utf-8"))
        kept = {
            "threshold": figures["threshold"],
            "mean_f1": figures["mean_f1"],
            "sets": [
                {key: one[key] for key in ("name", "n_sentences", "n_tokens", "spans", "slices")}
                | {"ece": one["calibration"]["ece"]}
                for one in figures["sets"]
            ],
        }
        card = _card(artefact, figures, notes.read_text("utf-8"), suite)
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{scores}: not what evaluate --json writes: {error!r}") from None
    training = {**artefact.training, "scores": kept, **({"behaviour": suite} if suite else {})}
    save(replace(artefact, training=training, card=card), model)
    return model / "MODEL_CARD.md"


def _read_behaviour(path: Path) -> dict[str, Any]:
    try:
        figures: dict[str, Any] = json.loads(path.read_text("utf-8"))
        _behaviour_lines(figures)
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not what behaviour --json writes: {error!r}") from None
    return figures
