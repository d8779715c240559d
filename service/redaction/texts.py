"""Texts in, the same texts with something else in place of persons out, offsets in both.

    Redaction: to_tag() → somebody finds persons → learn() → … → results()

Knows nothing of HTTP, nor of how persons are found. Offsets are code points, half open.

    mask        █████, always five: the text does not show how long the name was
    label       [PERSON_1], the same number for the same person throughout all texts
    hash        [PERSON_3f2a90c1b2d4e6f8], of a key and the fullest form of the person's name in the texts
    pseudonym   an invented name (service/redaction/pseudonyms.py)

The bundled models take none of the first three for a person: ***** and [REDACTED] do as well, xxxxx
does not (of 2,067 replaced persons, 0 were found again at 0.1, and of xxxxx 6).
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from model.head import Tagged
from model.labels import PERSON
from model.tokeniser import Tokens
from service.redaction.identity import POSSESSIVE, WORD, People, Words, folded, people_of
from service.redaction.pseudonyms import Pseudonyms

MODES = ("mask", "label", "hash", "pseudonym")
KEYED = ("hash", "pseudonym")
MASK = "█████"
# Hexadecimal digits: of a million persons, two share 16 with a probability of 3 in 100 million.
_HASH_DIGITS = 16
# Who reads hashes can try names with a key that can be guessed.
MIN_KEY_CHARS = 16
# Below the card's 0.1, so that nothing which scores that is left. Lower ones find few names more, and
# take far more else for names: of 100 names 0.1 finds 94.1, and 0.03 95.4, at twice the false finds.
THRESHOLD = 0.05
# A redacted text is looked at again, since what is left of a sentence reads differently; so often at most.
_MAX_ROUNDS = 6
# A name of two words that is a person so surely is taken for one wherever else it stands.
_SURE = 0.5

_INSIDE_NAME = re.compile(r"[\s.\-'\u2019\u2010]{1,3}")


@dataclass(frozen=True, slots=True)
class Person:
    """A person at ``text[start:end]``."""

    start: int
    end: int
    score: float


@dataclass(frozen=True, slots=True)
class Replacement:
    """What stood at [start, end) of the old text is ``text``, at [new_start, new_end) of the new one."""

    start: int
    end: int
    new_start: int
    new_end: int
    text: str
    person: int  # from 1; the same number is the same person, in all texts
    score: float


@dataclass(frozen=True, slots=True)
class Redacted:
    text: str
    replacements: list[Replacement]


def persons_of(text: str, tokens: Tokens, tagged: Tagged) -> list[Person]:
    """The persons of a tagged sentence; ``text`` is what the tokens' offsets count in."""
    found = []
    for scored in tagged.spans:
        if scored.span.entity_type == PERSON:
            start, end = tokens.starts[scored.span.start], tokens.ends[scored.span.end - 1]
            clitic = POSSESSIVE.search(text, start, end)
            if clitic and clitic.start() > start:
                end = clitic.start()
            found.append(Person(start, end, scored.score))
    return found


class Redaction:
    """The texts of one request on their way.

    ``key``: for hash, and for pseudonym, where the same key chooses the same names. ``given``: the persons
    of texts, by their indices, in which nobody else is to be found; in order, without overlaps.
    """

    def __init__(
        self,
        texts: Sequence[str],
        mode: str,
        key: bytes,
        given: Mapping[int, Sequence[Person]] | None = None,
    ) -> None:
        self._texts = texts
        self._mode = mode
        self._key = key
        self._given = given or {}
        self._persons = [list(self._given.get(i, ())) for i in range(len(texts))]
        # The model would find invented names too: they come last, in results().
        self._shown_mode = "label" if mode == "pseudonym" else mode
        self._results = redacted(texts, self._persons, self._shown_mode, key)
        self._seen: list[str | None] = [None] * len(texts)  # the result that was tagged last
        self.asked: list[int] = []  # whose texts to_tag() gave
        self._rounds = 0
        self._is_begun = False

    @property
    def is_begun(self) -> bool:
        """Whether ``learn`` has been called."""
        return self._is_begun

    def to_tag(self) -> list[str]:
        """The texts in which persons are to be found next; none when all is done."""
        if self._rounds >= _MAX_ROUNDS:
            return []
        self._rounds += 1
        self.asked = [
            i for i, (result, seen) in enumerate(zip(self._results, self._seen, strict=True))
            if result.text != seen and i not in self._given
        ]  # fmt: skip
        for i in self.asked:
            self._seen[i] = self._results[i].text
        return [self._results[i].text for i in self.asked]

    def learn(self, found: Sequence[Sequence[Person]]) -> None:
        """What was found in each text of ``to_tag()``, in order."""
        self._is_begun = True
        is_more = False
        for i, persons in zip(self.asked, found, strict=True):
            more = left_over(self._results[i], persons)
            self._persons[i] += more
            is_more = is_more or bool(more)
        if is_more:
            found_too = with_namesakes(self._texts, self._persons)
            self._persons = [list(self._given.get(i, each)) for i, each in enumerate(found_too)]
            self._results = redacted(self._texts, self._persons, self._shown_mode, self._key)

    def results(self) -> list[Redacted]:
        """Each text without the persons that are known by now."""
        if self._mode == self._shown_mode:
            return self._results
        return redacted(self._texts, self._persons, self._mode, self._key)


def redacted(
    texts: Sequence[str], persons: Sequence[Sequence[Person]], mode: str, key: bytes
) -> list[Redacted]:
    """Each text with its persons, which are in order and do not overlap, replaced."""
    names = [text[p.start : p.end] for text, found in zip(texts, persons, strict=True) for p in found]
    if not names:  # invented ones would have every word of the texts looked at
        return [Redacted(text, []) for text in texts]
    people = people_of(names)
    instead = zip(_instead(names, people, texts, mode, key), people.numbers, strict=True)
    results = []
    for text, found in zip(texts, persons, strict=True):
        parts: list[str] = []
        made: list[Replacement] = []
        at = length = 0  # in the old text, and of the new one
        for person in found:
            replacement, number = next(instead)
            parts += (text[at : person.start], replacement)
            new_start = length + person.start - at
            length = new_start + len(replacement)
            at = person.end
            made.append(
                Replacement(person.start, person.end, new_start, length, replacement, number, person.score)
            )
        results.append(Redacted("".join((*parts, text[at:])), made))
    return results


def _instead(
    names: Sequence[str], people: People, texts: Sequence[str], mode: str, key: bytes
) -> Iterable[str]:
    """What stands for each name."""
    if mode == "mask":
        return [MASK] * len(names)
    if mode == "pseudonym":
        pseudonyms = Pseudonyms(people, texts, key)
        return [pseudonyms.of(number, name) for number, name in zip(people.numbers, names, strict=True)]
    marks = [str(number) for number in range(1, len(people.names) + 1)]
    if mode == "hash":
        marks = [
            hmac.new(key, " ".join(words).encode(), hashlib.sha256).hexdigest()[:_HASH_DIGITS]
            for words in people.names
        ]
    return [f"[PERSON_{marks[number - 1]}]" for number in people.numbers]


def left_over(result: Redacted, persons: Iterable[Person]) -> list[Person]:
    """Persons found in a result, as persons of its old text: what of them no replacement covers."""
    found = []
    places = result.replacements
    for person in persons:
        start, shift = person.start, 0
        for place in places:
            if place.new_end <= start:
                shift = place.end - place.new_end
            elif place.new_start < person.end:
                found.append((start, place.new_start, shift, person.score))
                start, shift = place.new_end, place.end - place.new_end
            else:
                break
        found.append((start, person.end, shift, person.score))
    text = result.text
    return [
        Person(words[0].start() + shift, words[-1].end() + shift, score)
        for start, end, shift, score in found
        if start < end and (words := list(WORD.finditer(text, start, end)))
    ]


# By first word, and by how many words: words → score.
_Known = dict[str, dict[int, dict[Words, float]]]


def with_namesakes(texts: Sequence[str], persons: Sequence[Sequence[Person]]) -> list[list[Person]]:
    """The persons in order, and with them what else has the name of one, if it is sure and of two words.

    Models tell a person by the sentence too, so that the same name may be found in one and not in
    another. A single word is left to them: who is called May does not make every May a person.
    """
    known: _Known = defaultdict(lambda: defaultdict(dict))
    for text, found in zip(texts, persons, strict=True):
        for p in found:
            words = tuple(folded(match[0]) for match in WORD.finditer(text, p.start, p.end))
            if p.score >= _SURE and len(words) > 1:
                scores = known[words[0]][len(words)]
                scores[words] = max(p.score, scores.get(words, 0.0))
    return [
        sorted([*found, *_namesakes(text, found, known)], key=lambda p: p.start) if known else list(found)
        for text, found in zip(texts, (sorted(f, key=lambda p: p.start) for f in persons), strict=True)
    ]


def _namesakes(text: str, taken: Sequence[Person], known: _Known) -> list[Person]:
    found: list[Person] = []
    matches = list(WORD.finditer(text))
    words = [folded(match[0]) for match in matches]
    free_from = 0  # offset
    n_passed = 0  # of taken
    for i, word in enumerate(words):
        # The fullest name that stands here.
        for n_words in sorted(known.get(word, ()), reverse=True):
            name, last = tuple(words[i : i + n_words]), i + n_words
            if name not in known[word][n_words] or matches[i].start() < free_from:
                continue
            start, end = matches[i].start(), matches[last - 1].end()
            while n_passed < len(taken) and taken[n_passed].end <= start:
                n_passed += 1
            is_taken = n_passed < len(taken) and taken[n_passed].start < end
            gaps = [text[matches[j].end() : matches[j + 1].start()] for j in range(i, last - 1)]
            if not is_taken and all(map(_INSIDE_NAME.fullmatch, gaps)):
                found.append(Person(start, end, known[word][n_words][name]))
                free_from = end
                break
    return found
