"""The label scheme: how spans over tokens become one label per token, and back.

Scheme: IOB2 (Ramshaw & Marcus 1995, as in CoNLL-2003's later releases). ``B-X``
opens a span of type X, ``I-X`` continues it, ``O`` is outside. For one type:

    tokens  Ada   Lovelace  met  Ada
    labels  B-PER I-PER     O    B-PER
    spans   [0, 2) PER           [3, 4) PER

Pure: no torch, no files. Training and serving import this module, and no other
place spells a label out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

OUTSIDE = "O"
PERSON = "PER"


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """Tokens ``[start, end)`` form one entity. Token indices, half open."""

    start: int
    end: int
    entity_type: str


@dataclass(frozen=True, slots=True)
class LabelScheme:
    """The ordered labels of one artefact; the position of a label is its id.

    There is no padding label: padded positions are masked, so the network can
    never predict "padding".
    """

    entity_types: tuple[str, ...] = (PERSON,)

    @property
    def labels(self) -> tuple[str, ...]:
        return (OUTSIDE, *(f"{p}-{t}" for t in self.entity_types for p in "BI"))

    def ids(self, labels: Sequence[str]) -> list[int]:
        """Label ids. Raises ValueError naming the first label that is not in the scheme."""
        known = {label: i for i, label in enumerate(self.labels)}
        for label in labels:
            if label not in known:
                raise ValueError(f"label {label!r} is not one of {self.labels}")
        return [known[label] for label in labels]

    def may_follow(self, before: str, after: str) -> bool:
        """Whether ``after`` may come next: ``I-X`` only continues a span of X."""
        return not after.startswith("I-") or before[1:] == after[1:]

    def may_open(self, label: str) -> bool:
        """Whether a sentence may begin with ``label``."""
        return not label.startswith("I-")


def labels_of(spans: Sequence[Span], n_tokens: int) -> list[str]:
    """Labels for ``n_tokens`` tokens. Raises ValueError where a span does not fit or overlaps."""
    labels = [OUTSIDE] * n_tokens
    for span in spans:
        if not 0 <= span.start < span.end <= n_tokens:
            raise ValueError(f"{span} does not fit {n_tokens} tokens")
        if any(label != OUTSIDE for label in labels[span.start : span.end]):
            raise ValueError(f"{span} overlaps another span")
        labels[span.start] = f"B-{span.entity_type}"
        for i in range(span.start + 1, span.end):
            labels[i] = f"I-{span.entity_type}"
    return labels


def spans_of(labels: Sequence[str]) -> list[Span]:
    """Spans, in order. An ``I-X`` with no span of X before it opens one.

    That is conlleval's reading of a badly formed sequence, so our scores can be
    compared with published ones.
    """
    spans: list[Span] = []
    start = 0
    open_type = ""  # type of the span open before token i; "" when none is
    for i, label in enumerate([*labels, OUTSIDE]):
        prefix, _, entity_type = label.partition("-")
        if open_type and not (prefix == "I" and entity_type == open_type):
            spans.append(Span(start, i, open_type))
            open_type = ""
        if prefix != OUTSIDE and not open_type:
            start, open_type = i, entity_type
    return spans
