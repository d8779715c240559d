"""Raw text in, templates out: sentences that name nobody, with slots where their pronouns were.

    She runs a bakery.              {1.full} runs a bakery.
    I asked him for the key.        I asked {1.given} for the key.
    They left before his speech.    {family} and {family} left before his speech.
    It was built in 1850.           {-namedtown} was built in 1850.

Templates that somebody wrote have few verbs, and a model takes those for what tells a person from a firm
(LABBOOK, 23). Text has all of them. It is kept only where no other word is capitalised, so that no name is
left without a label. The slots are those of training/synthesis.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random

from training.raw_text import drawn_sentences

_LENGTHS = range(4, 46)  # in tokens
_MOST_CHARS = 240
_MARKUP = re.compile(r'[{}\[\]\n"“”*_=|<>]')
# What a sentence may begin with: no name does.
_FIRST = frozenset(
    """He She They It The A An In On At When While After Before If As But And For There This That These
    Those With By From To I We You Then Although Because Since What Why How Who Some Many Most One
    Two Three Later During However No Not Her His My Our Their Its Thus So Once Where Which Yet
    Until Under Over Having Being Without Despite Even Though Now Here Both All Each Every Several
    Perhaps Still Only Just Indeed Instead Again Also Soon Never Unlike Like Nobody Nothing Everyone
    Everything Something Someone""".split()
)
_CAPITALISED = re.compile(r"(?<!^)(?<!\w)[A-Z][\w'’.-]*")
_NO_NAMES = frozenset(
    """I I'm I've I'd I'll He She They It The A But And In January February March April May June July August
    September October November December Monday Tuesday Wednesday Thursday Friday Saturday Sunday English
    French German American British""".split()
)
_WORD = re.compile(r"[\w'’-]+")
_SUBJECT = re.compile(r"(?:He|She)\b(?!-)")
# Of things, mostly.
_NOT_PEOPLE = (
    "are|were|may|can|have|include|range|do|occur|consist|form|differ|live|also|usually|tend|became|become|"
    "vary|could|would|should|must"
)
_PEOPLE = re.compile(rf"They\b(?! (?:{_NOT_PEOPLE})\b)(?!['’])")
# Not where nothing is meant by it: "It is said that".
_THING = re.compile(
    r"It\b(?!['’])(?! (?:is|was|seems|seemed|appears|appeared|takes|took|may|would|will|must) "
    r"(?:that|to|not|be|said|thought|believed|clear|true|possible))"
)
_WITHIN = re.compile(r"(?<=\s)(?:he|she|him)\b(?!-)")
_HIS = re.compile(r"(?<=\s)his\b(?!-)")

_PERSON_SLOTS = {
    "full": 46, "given": 22, "family": 17, "wordfamily": 4, "word": 2, "personplaceperson": 2, "double": 2,
    "particle": 2, "initials": 1, "apostrophe": 1, "compound": 1,
}  # fmt: skip
_FORMS, _WEIGHTS = list(_PERSON_SLOTS), list(_PERSON_SLOTS.values())
_NOBODY = (
    "{-namedtown}", "{-brand}", "{-country}", "{-place}", "{-team}", "{-software}", "{-family} {-sector}",
    "The {-family} {-site}",
)  # fmt: skip


def frame(sentence: str, rng: Random) -> str | None:
    """A sentence as a template; None where it may name somebody, has no pronoun, or is not drawn."""
    first = _WORD.match(sentence)
    if len(sentence) > _MOST_CHARS or _MARKUP.search(sentence) or not first or first[0] not in _FIRST:
        return None
    if any(word.rstrip(".,;:!?'") not in _NO_NAMES for word in _CAPITALISED.findall(sentence)):
        return None
    (form,) = rng.choices(_FORMS, _WEIGHTS)

    def part() -> str:
        return f"{{1.{rng.choice(('given', 'family'))}}}"

    if he := _SUBJECT.match(sentence):
        named = f"{{1.{form}}}" if rng.random() > 0.06 else "{title} {1.family}"
        rest = _WITHIN.sub(lambda x: part() if rng.random() < 0.25 else x[0], sentence[he.end() :])
        return named + _HIS.sub(lambda x: f"{part()}'s" if rng.random() < 0.08 else x[0], rest)
    if they := _PEOPLE.match(sentence):
        one = "{" + rng.choice(("full", "given", "family")) + "}"
        several = f"{one}, {one} and {one}" if rng.random() < 0.25 else f"{one} and {one}"
        return several + sentence[they.end() :]
    if (it := _THING.match(sentence)) and rng.random() < 0.3:
        return rng.choice(_NOBODY) + sentence[it.end() :]
    for pronouns, share, ending in ((_WITHIN, 0.5, ""), (_HIS, 0.3, "'s")):
        found = list(pronouns.finditer(sentence))
        if found and rng.random() < share:
            at = rng.choice(found)
            return f"{sentence[: at.start()]}{{1.{form}}}{ending}{sentence[at.end() :]}"
    return None


def frames(path: Path, n: int, seed: int, share: float = 0.5) -> Iterator[str]:
    """``n`` templates, or as many as there are, no sentence twice, from a ``share`` of a raw text's
    documents, which blank lines separate."""
    rng = Random(f"{seed} {path.name}")
    sentences = drawn_sentences(path, "treebank-1", rng, share, _LENGTHS)
    return islice(filter(None, (frame(sentence, rng) for sentence, _ in sentences)), n)
