"""One training sentence in, a variant of it out; each change with its own probability.

Pure but for the ``Random`` that is passed: the same generator state gives the same variant.
"""

from __future__ import annotations

import re
from collections.abc import Callable
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
    split_marks: float = 0.0  # "harry ' s", "did n ' t", "well . . .", likewise
    split_hyphens: float = 0.0  # "al - Sadr", "well - known", likewise
    post: float = 0.0  # "@hp7 Harry is here 😂 #magic": as people post it

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}: a probability is expected")


_TITLES = frozenset("Mr Mrs Ms Dr Prof St Jr Sr Rev Hon Gen Col Capt Lt Sgt Sen Rep Gov Mt No".split())
_BULLETS = ("-", "•", "*", "–", "1.", "2.", ">", "|")
_FACES = "😂 😭 ❤ 😍 🔥 🙏 😀 lol haha xD :) <3 !! !!! ??? ... … smh".split()
_MARK = re.compile(r"(['\u2019])")
_HYPHEN = re.compile(r"(?<=[^\W\d_])(-)(?=[^\W\d_])")
_CURLY = {"'s": "\u2019s", "n't": "n\u2019t", "'": "\u2019", '"': "\u201d", "``": "\u201c", "''": "\u201d"}


@dataclass(frozen=True)
class Variant:
    """A sentence's variant. ``sources[t]``: the token of the sentence that token t stands for, or -1
    for one that was put in and is nobody; None where names have other lengths than they had."""

    tokens: list[str]
    labels: list[str]
    sources: list[int] | None


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


def _split_stops(token: str) -> list[str]:
    """The parts of an initial or a title with its stop: its label is theirs."""
    word = token[:-1]
    if token.endswith(".") and (word in _TITLES or (len(word) == 1 and word.isupper())):
        return [word, "."]
    return [token]


def _split_marks(token: str) -> list[str]:
    """The parts of a token between whose marks some tokenisers cut: 's, n't, ... and !!!"""
    if len(token) > 1 and not any(c.isalnum() for c in token) and len(set(token)) == 1:
        return list(token)
    return [part for part in _MARK.split(token) if part] if len(token) < 4 else [token]


def _split_hyphens(token: str) -> list[str]:
    """The parts of a word between whose hyphens some tokenisers cut."""
    return _HYPHEN.split(token)


def _split(
    tokens: list[str], labels: list[str], parts_of: Callable[[str], list[str]]
) -> tuple[list[str], list[str]]:
    out: list[str] = []
    given: list[str] = []
    for token, label in zip(tokens, labels, strict=True):
        parts = parts_of(token)
        out += parts
        given += [label] + [label if label == "O" else f"I-{label[2:]}"] * (len(parts) - 1)
    return out, given


def _handle(rng: Random) -> str:
    letters = "abcdefghijklmnopqrstuvwxyz"
    name = "".join(rng.choice(letters) for _ in range(rng.randint(3, 9)))
    return f"@{rng.choice((name, name.title(), f'_{name}', f'{name}{rng.randint(1, 99)}'))}"


def _post(rng: Random) -> tuple[list[str], list[str]]:
    """What comes before a post, and after it."""
    before = rng.choice(([], [], [_handle(rng)], ["RT", _handle(rng), ":"], [_handle(rng), _handle(rng)]))
    after = [rng.choice(_FACES) for _ in range(rng.choice((0, 1, 1, 2)))]
    if rng.random() < 0.3:
        after += [f"#{_handle(rng)[1:]}"]
    return before, after


def augmented(
    tokens: list[str], labels: list[str], config: AugmentConfig, names: Names | None, rng: Random
) -> Variant:
    """A variant of the sentence, and its labels. Always at least one token."""
    given = labels
    if names and rng.random() < config.swap_names and f"B-{PERSON}" in labels:
        tokens, labels = _swap(tokens, labels, names, config.shorten_names, rng)
    aligned = labels == given
    as_post = config.post > 0 and rng.random() < config.post
    drops = rng.random() < config.drop_end or as_post
    if drops and len(tokens) > 1 and tokens[-1] in (".", "!", "?"):
        tokens, labels = tokens[:-1], labels[:-1]
    if config.lower_names and rng.random() < config.lower_names:
        tokens = [t.lower() if label[2:] == PERSON else t for t, label in zip(tokens, labels, strict=True)]
    if rng.random() < config.curly_quotes:
        tokens = [_CURLY.get(token, token) for token in tokens]
    n = len(tokens)
    if config.split_stops and rng.random() < config.split_stops:
        tokens, labels = _split(tokens, labels, _split_stops)
    if config.split_marks and rng.random() < config.split_marks:
        tokens, labels = _split(tokens, labels, _split_marks)
    if config.split_hyphens and rng.random() < config.split_hyphens:
        tokens, labels = _split(tokens, labels, _split_hyphens)
    sources = list(range(n)) if aligned and len(tokens) == n else None
    before: list[str] = []
    after: list[str] = []
    if as_post:
        before, after = _post(rng)
    elif config.bullet and rng.random() < config.bullet:
        before = [rng.choice(_BULLETS)]
    case = rng.random()
    if case < config.lower:
        tokens = [token.lower() for token in tokens]
    elif case < config.lower + config.upper:
        tokens = [token.upper() for token in tokens]
    elif case < config.lower + config.upper + config.title:
        tokens = [token[:1].upper() + token[1:] for token in tokens]
    return Variant(
        [*before, *tokens, *after],
        ["O"] * len(before) + labels + ["O"] * len(after),
        None if sources is None else [-1] * len(before) + sources + [-1] * len(after),
    )
