"""Names as they stand in the texts of one request in, who is the same person out. Pure.

Same: the same words whatever their case; a part of exactly one person's name (the surname alone, the
given name alone, a middle name left out); and initials that agree with exactly one ("J. Tolkien").
Titles, a possessive 's and punctuation do not count, nor does how an accent is written (é, or e and
U+0301) or what nobody sees (a soft hyphen). Whose part it is must be plain: where John and Mary Smith
both occur, "Smith" alone is somebody by itself.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

# What belongs to a word is what the tokeniser says, so that no name ends inside a token.
from model.tokeniser import FORMAT, GLUE, MARK

Words = tuple[str, ...]

# Before a name, with or without a full stop. No word that is a name too ("Dean", "Judge").
TITLES = frozenset(
    "mr mrs ms mx miss dr prof professor sir dame rev hon gen col maj capt lt sgt sen rep gov pres "
    "president madam mme mlle herr frau monsieur madame señor señora signor signora".split()
)
SUFFIXES = frozenset("jr sr ii iii iv esq phd md".split())
# They open a surname: "van Beethoven" is a part of "Ludwig van Beethoven".
PARTICLES = frozenset(
    "van von der den de del della di da dos das du la le el al bin ibn binti ben ter ten zu zur af av "
    "o' mac mc st".split()
)
POSSESSIVE = re.compile(rf"(?<=[\w{GLUE}])['\u2019\u02bc][sS]$|(?<=[sS])['\u2019\u02bc]$")
# A word, with its marks, joiners and soft hyphens. Direction marks inside are its own; the one behind
# it is not: that may close what was opened before it.
WORD = re.compile(rf"\w(?:[\w{GLUE}]*[\w{MARK}\u00ad\u200c\u200d])?")
_INVISIBLE = re.compile(f"[{FORMAT}]+")


@dataclass(frozen=True, slots=True)
class People:
    """``numbers[i]``: who the i-th name is, from 1 in the order of first names; ``names``: by number - 1,
    the fullest form of each person's name, in folded words."""

    numbers: list[int]
    names: list[Words]


def composed(name: str) -> str:
    """The name with its letters and their accents in one, and without what is invisible."""
    return name if name.isascii() else unicodedata.normalize("NFC", _INVISIBLE.sub("", name))


def folded(word: str) -> str:
    """What two spellings of a name's word have in common."""
    return word.casefold() if word.isascii() else unicodedata.normalize("NFKC", composed(word)).casefold()


def bare(word: str) -> str:
    """A word of a name, which is composed, without the punctuation about it."""
    start, end = 0, len(word)
    while start < end and not word[start].isalnum():
        start += 1
    while end > start and not word[end - 1].isalnum():
        end -= 1
    return word[start:end]


def words_of(name: str) -> Words:
    """The folded words that tell who it is; the whole name where none does."""
    name = composed(name)
    words = [folded(w) for w in map(bare, POSSESSIVE.sub("", name.strip()).split()) if w]
    first = 0
    while first < len(words) - 1 and words[first] in TITLES:
        first += 1
    return tuple(words[first:]) or (folded(name),)


def is_initials(word: str) -> bool:
    """ "j", "j.r.r": letters of an alphabet, one by one."""
    return all(len(part) == 1 and part.lower() != part.upper() for part in word.split("."))


def agree(short: str, long: str) -> bool:
    """Whether one word of a name may stand for the other: equal, or its initial."""
    return short == long or (is_initials(short) and "." not in short and long.startswith(short))


def _surname(words: Words) -> str:
    return next((w for w in reversed(words) if w not in SUFFIXES), words[-1])


def is_form_of(short: Words, long: Words) -> bool:
    """Whether ``short``, of two words or more, can be a shorter form of ``long``."""
    if _surname(short) != _surname(long) or is_initials(_surname(short)):
        return False
    if not agree(short[0], long[0]) and short[0] not in PARTICLES:
        return False
    left = iter(long)
    return all(any(agree(word, other) for other in left) for word in short)


def _fullness(words: Words) -> tuple[int, int]:
    return sum(not is_initials(word) for word in words), len(words)


class _FullNames:
    """Those of two words or more, to be found by the rarest word of a shorter form of them: whoever shares
    a surname with thousands is not compared with each of them."""

    def __init__(self) -> None:
        # (surname, as the first word or anywhere, a word or its initial) → who has that
        self._having: dict[tuple[str, bool, str], list[Words]] = defaultdict(list)

    def add(self, words: Words) -> None:
        surname = _surname(words)
        keys = {(surname, False, part) for word in words for part in (word, word[:1])}
        for key in keys | {(surname, True, words[0]), (surname, True, words[0][:1])}:
            self._having[key].append(words)

    def of_form(self, short: Words) -> list[Words]:
        """Those of which ``short``, of two words or more, can be a shorter form; two, if there are more."""
        surname = _surname(short)
        keys = [(surname, i == 0 and word not in PARTICLES, word) for i, word in enumerate(short)]
        fewest = min((self._having.get(key, []) for key in keys), key=len)
        return list(islice((full for full in fewest if is_form_of(short, full)), 2))


def people_of(names: Iterable[str]) -> People:
    """Who is who, of all names of a request, in the order of its texts."""
    keys = [words_of(name) for name in names]
    order = dict.fromkeys(keys)  # distinct, in the order of first occurrence
    with_word: dict[str, list[Words]] = defaultdict(list)  # word → full names that have it
    full_names = _FullNames()
    full_name: dict[Words, Words] = {}
    for words in sorted(order, key=_fullness, reverse=True):  # a stable sort, so the first come first
        candidates = full_names.of_form(words) if len(words) > 1 else with_word[words[0]]
        if len(candidates) == 1:
            full_name[words] = candidates[0]
            continue
        full_name[words] = words
        if len(words) > 1:
            full_names.add(words)
            for word in {*words} - PARTICLES - SUFFIXES:
                if not is_initials(word):
                    with_word[word].append(words)
    number: dict[Words, int] = {}
    for words in order:
        number.setdefault(full_name[words], len(number) + 1)
    return People([number[full_name[words]] for words in keys], list(number))


def aligned(words: Sequence[str], full: Words) -> list[int | None]:
    """For each word of a form, which word of the full name it stands for."""
    found: list[int | None] = []
    at = 0
    for word in words:
        there = next((i for i in range(at, len(full)) if agree(word, full[i])), None)
        found.append(there)
        at = at if there is None else there + 1
    return found
