"""A document's sentences and their answers in, which of its words its own names explain out. Pure.

A surname alone is doubtful where it stands ("Player pulled into a barrel"), and plain from a sentence
before ("Ben Player won the title"). So the sentences of a document that hold a word of a name which
another of them names surely are looked at twice, the second time with that word more likely a person's.
The two stages are Krishnan & Manning's (2006, ACL P06-1141); theirs learns the weight of the evidence,
here it is one number, chosen on sets that nothing was trained on (training/LABBOOK.md, 22).

Sentences that are not of one document tell each other nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from model.head import Tagged
from model.labels import PERSON

SURE, SURE_ALONE = 0.8, 0.97  # of a name: its score, where it has several words, and where it has one
WEIGHT = 2.0  # what is added to the emissions of a person's labels
_SHORT = 2  # letters: initials and the like tell nothing
_IN_MANY = -1
# Words of names that are also words of much else.
_COMMON = frozenset(
    "The Of And Van Von De La Le Los Las El Al Bin Ibn Abu Jr. Sr. Jnr Snr III Esq. Saint St. San Santa "
    "Mr. Mrs. Ms. Dr. Sir Lord Lady King Queen Prince Princess Pope Captain Colonel General".split()
)


def first_threshold(threshold: float) -> float:
    """Of a document's first look: what a higher one would leave out is evidence nevertheless."""
    return min(threshold, SURE)


def second_look(
    sentences: Sequence[Sequence[str]], answers: Sequence[Tagged], threshold: float
) -> dict[int, tuple[int, ...]]:
    """Sentence → its known tokens, of those that are to be tagged again, with ``threshold``.

    ``answers`` are those at ``first_threshold(threshold)``; above SURE they hold spans that are to go.
    """
    found = known_words(sentences, answers)
    if threshold > SURE:
        for number, answer in enumerate(answers):
            if any(one.score < threshold for one in answer.spans):
                found.setdefault(number, ())
    return found


def known_words(
    sentences: Sequence[Sequence[str]], answers: Sequence[Tagged]
) -> dict[int, tuple[int, ...]]:
    """Sentence → its tokens that another sentence's sure names have, where they are no sure name's yet.

    ``sentences``: of one document, in tokens. Only those with such a token are there.
    """
    said_in: dict[str, int] = {}  # word of a sure name → the sentence that says it, or _IN_MANY
    for number, answer in enumerate(answers):
        for one in answer.spans:
            span = one.span
            alone = span.end - span.start == 1
            if one.score < (SURE_ALONE if alone else SURE) or span.entity_type != PERSON:
                continue
            for word in sentences[number][span.start : span.end]:
                tells = len(word) > _SHORT and word[0].isupper() and word not in _COMMON
                if tells and said_in.setdefault(word, number) != number:
                    said_in[word] = _IN_MANY
    if not said_in:
        return {}
    found: dict[int, tuple[int, ...]] = {}
    for number, words in enumerate(sentences):
        if said_in.keys().isdisjoint(words):
            continue
        sure = {
            at
            for one in answers[number].spans
            if one.score >= SURE
            for at in range(one.span.start, one.span.end)
        }
        tokens = tuple(
            at for at, word in enumerate(words) if at not in sure and said_in.get(word, number) != number
        )
        if tokens:
            found[number] = tokens
    return found
