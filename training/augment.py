"""One training sentence in, a variant of it out; each change with its own probability.

Pure but for the ``Random`` that is passed: the same generator state gives the same variant.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from model.labels import PERSON, Span, labels_of, spans_of
from training.names import Names


@dataclass(frozen=True)
class AugmentConfig:
    """Probabilities a sentence; 0 leaves a change out."""

    swap_names: float = 0.0  # every person gets another name, of any origin
    shorten_names: float = 0.0  # of the swapped ones of several words: a given or a family name alone
    lower: float = 0.0  # harry potter
    upper: float = 0.0  # HARRY POTTER
    lower_names: float = 0.0  # I met harry potter in London: the names alone, as in tweets
    title: float = 0.0  # As In A Headline
    drop_end: float = 0.0  # the full stop at the end goes
    curly_quotes: float = 0.0
    bullet: float = 0.0  # a mark of a list's item comes first
    split_stops: float = 0.0  # of initials and titles: "J ." and "Mr .", as some tokenisers have them

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}: a probability is expected")


_TITLES = frozenset("Mr Mrs Ms Dr Prof St Jr Sr Rev Hon Gen Col Capt Lt Sgt Sen Rep Gov Mt No".split())
_BULLETS = ("-", "•", "*", "–", "1.", "2.", ">", "|")
_CURLY = {"'s": "\u2019s", "n't": "n\u2019t", "'": "\u2019", '"': "\u201d", "``": "\u201c", "''": "\u201d"}


def _swap(
    tokens: list[str], labels: list[str], names: Names, shorten: float, rng: Random
) -> tuple[list[str], list[str]]:
    """Every person renamed, the same person (same tokens) alike within the sentence."""
    renamed: dict[tuple[str, ...], list[str]] = {}
    out: list[str] = []
    spans: list[Span] = []
    at = 0
    for span in spans_of(labels):
        out += tokens[at : span.start]
        words = tokens[span.start : span.end]
        if span.entity_type == PERSON:
            # Other cases and odd shapes stay: their context says "lower case", a name would not.
            plain = len(words) <= 4 and all(w[0].isupper() and not w.isupper() for w in words[:1])
            if plain:
                n = 1 if shorten and rng.random() < shorten else len(words)
                words = renamed.setdefault(tuple(words), names.full(rng, n))
        spans.append(Span(len(out), len(out) + len(words), span.entity_type))
        out += words
        at = span.end
    out += tokens[at:]
    return out, labels_of(spans, len(out))


def _split_stops(tokens: list[str], labels: list[str]) -> tuple[list[str], list[str]]:
    out: list[str] = []
    given: list[str] = []
    for token, label in zip(tokens, labels, strict=True):
        word = token[:-1]
        if token.endswith(".") and (word in _TITLES or (len(word) == 1 and word.isupper())):
            out += [word, "."]
            given += [label, label if label == "O" else f"I-{label[2:]}"]
        else:
            out.append(token)
            given.append(label)
    return out, given


def augmented(
    tokens: list[str], labels: list[str], config: AugmentConfig, names: Names | None, rng: Random
) -> tuple[list[str], list[str]]:
    """A variant of the sentence, and its labels. Always at least one token."""
    if names and rng.random() < config.swap_names and f"B-{PERSON}" in labels:
        tokens, labels = _swap(tokens, labels, names, config.shorten_names, rng)
    if rng.random() < config.drop_end and len(tokens) > 1 and tokens[-1] in (".", "!", "?"):
        tokens, labels = tokens[:-1], labels[:-1]
    if config.lower_names and rng.random() < config.lower_names:
        tokens = [t.lower() if label[2:] == PERSON else t for t, label in zip(tokens, labels, strict=True)]
    if rng.random() < config.curly_quotes:
        tokens = [_CURLY.get(token, token) for token in tokens]
    if config.split_stops and rng.random() < config.split_stops:
        tokens, labels = _split_stops(tokens, labels)
    if config.bullet and rng.random() < config.bullet:
        tokens, labels = [rng.choice(_BULLETS), *tokens], ["O", *labels]
    case = rng.random()
    if case < config.lower:
        tokens = [token.lower() for token in tokens]
    elif case < config.lower + config.upper:
        tokens = [token.upper() for token in tokens]
    elif case < config.lower + config.upper + config.title:
        tokens = [token[:1].upper() + token[1:] for token in tokens]
    return tokens, labels
