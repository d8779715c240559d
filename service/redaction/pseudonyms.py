"""Who is who in the texts of a request in, an invented name for each person out. Pure.

The name keeps the shape of the one it stands for: as many given names and surnames, initials for
initials, hyphens, capitals. A word of a name has the same stand-in throughout the request, so a
surname alone follows the full name, and who shares a surname still does. Particles, titles and
suffixes are left out: a part of a name that is kept is a part that is known.

No word of an invented name occurs anywhere in the texts, in whatever case, or begins like the one it
stands for. Which names are chosen depends on the key, the texts and the names, and on nothing else.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count

from service.redaction.guess import Bearer, bearer_of
from service.redaction.identity import (
    PARTICLES,
    POSSESSIVE,
    SUFFIXES,
    TITLES,
    WORD,
    People,
    Words,
    agree,
    bare,
    composed,
    folded,
    is_initials,
)
from service.redaction.invented import ORIGINS, Origin

_WORD = re.compile(r"\w+")
_HYPHEN = re.compile("[-\u2010\u2011]")
_LEFT_OUT = PARTICLES | SUFFIXES | TITLES
_PAIRS_TRIED = 50
_LEAST_SYLLABLES = 3
_SYLLABLES = "ba be bi bo da de di do ka ke ki ko la le li lo ma me mi mo na ne ni no ra re ri ro".split()


@dataclass(frozen=True, slots=True)
class _Pool:
    """What one list of ``n`` names has for a request."""

    n: int
    names: dict[int, str]  # by their place in the list: those that occur nowhere in the texts
    left: list[int]  # the places of those that may be free, ascending


class Pseudonyms:
    """Of one request, whose ``people`` are named in its ``texts``."""

    def __init__(self, people: People, texts: Iterable[str], key: bytes) -> None:
        self._key = key
        # One that occurs in a text could be taken for who is meant there.
        words = {word for text in texts for word in WORD.findall(text)}
        self._in_texts = {part for word in words for part in _WORD.findall(folded(word))}
        self._names = people.names
        self._bearers = _bearers(people.names)
        self._stand_ins: dict[tuple[bool, str], str] = {}  # (is it a surname, folded word) → stand-in
        self._used: set[str] = set()  # folded: two names never become the same
        self._pools: dict[tuple[str, bool, bool], _Pool] = {}  # origin, is it of surnames, of women

    def of(self, number: int, name: str) -> str:
        """What stands for this form of the name of person ``number``."""
        full = self._names[number - 1]
        bearer = self._bearers[number - 1]
        name = composed(name)
        possessive = POSSESSIVE.search(name)
        words = [w for w in (name[: possessive.start()] if possessive else name).split() if bare(w)]
        telling = [w for w in words if folded(bare(w)) not in _LEFT_OUT] or words[-1:] or [full[-1]]
        shown = []
        at = 0  # in the full name
        for word in telling:
            plain = folded(bare(word)) or word
            there = next((i for i in range(at, len(full)) if agree(plain, full[i])), None)
            at = at if there is None else there + 1
            is_surname = bearer.is_surname[len(full) - 1 if there is None else there]
            shown.append(
                self._shown(word, plain, plain if there is None else full[there], is_surname, bearer)
            )
        return " ".join(shown) + (possessive[0] if possessive else "")

    def _shown(self, word: str, plain: str, whole: str, is_surname: bool, bearer: Bearer) -> str:
        """``word``, which is ``plain`` when folded and stands for ``whole``, in its shape."""
        if not is_initials(plain):
            return _in_case_of(self._stand_in(plain, is_surname, bearer), word)
        wholes = plain.split(".") if is_initials(whole) else [whole]
        initials = [self._stand_in(each, is_surname, bearer)[0] for each in wholes if each]
        return _in_case_of(".".join(initials), word) + ("." if word.endswith(".") else "")

    def _stand_in(self, word: str, is_surname: bool, bearer: Bearer) -> str:
        """The invented word for a folded word of a name, in the case of a name."""
        found = self._stand_ins.get((is_surname, word))
        if found is None:
            parts = [part for part in _HYPHEN.split(word) if part]
            if len(parts) > 1:
                found = "-".join(self._stand_in(part, is_surname, bearer) for part in parts)
            else:
                found = next(self._candidates(word, is_surname, bearer))
            self._stand_ins[is_surname, word] = found
            self._used.add(folded(found))
        return found

    def _candidates(self, word: str, is_surname: bool, bearer: Bearer) -> Iterator[str]:
        """Those that may stand for the word, the fittest first; without end."""
        draw = self._draw(word, is_surname)
        own = bearer.origin
        for origin in (own, *(each for each in ORIGINS.values() if each is not own)):
            yield from self._listed(self._pool(origin, is_surname, bearer), draw, word)
        pool = self._pool(own, is_surname, bearer)
        names = [name for name in pool.names.values() if not _is_alike(name, word)]
        for i in range(_PAIRS_TRIED if names else 0):
            one, other = divmod(draw + i, len(names))
            pair = f"{names[one % len(names)]}-{names[other]}"
            if folded(pair) not in self._used:
                yield pair
        for n_syllables in count(_LEAST_SYLLABLES):
            first = draw % len(_SYLLABLES) ** n_syllables
            # Where those that are drawn are taken, longer ones are not: all first syllables, and on.
            for i in range(first, first + len(_SYLLABLES)):
                name = _of_syllables(i, n_syllables)
                if not (_is_alike(name, word) or self._is_in_texts(name) or folded(name) in self._used):
                    yield name

    def _listed(self, pool: _Pool, draw: int, word: str) -> Iterator[str]:
        """Those of a list that may stand for the word, from the drawn one on."""
        first = bisect_left(pool.left, draw % pool.n)
        for place in (*pool.left[first:], *pool.left[:first]):
            name = pool.names[place]
            if _is_alike(name, word):
                continue
            if folded(name) in self._used:
                pool.left.remove(place)  # for good, so that nobody looks at it again
            else:
                yield name

    def _pool(self, origin: Origin, is_surname: bool, bearer: Bearer) -> _Pool:
        key = (origin.name, is_surname, bearer.is_female)
        if key not in self._pools:
            listed = _names(origin, is_surname, bearer)
            names = {place: name for place, name in enumerate(listed) if not self._is_in_texts(name)}
            self._pools[key] = _Pool(len(listed), names, list(names))
        return self._pools[key]

    def _is_in_texts(self, name: str) -> bool:
        return not self._in_texts.isdisjoint(_WORD.findall(folded(name)))

    def _draw(self, word: str, is_surname: bool) -> int:
        role = b"surname\0" if is_surname else b"given\0"
        return int.from_bytes(hmac.digest(self._key, role + word.encode(), hashlib.sha256)[:8], "big")


def _bearers(names: Sequence[Words]) -> list[Bearer]:
    """Of each name. Whether one of a single word is a surname, fuller names say before its letters do."""
    bearers = [bearer_of(name) for name in names]
    known: dict[str, bool] = {}
    for name, bearer in zip(names, bearers, strict=True):
        if len(name) > 1:
            for word, is_surname in zip(name, bearer.is_surname, strict=True):
                known.setdefault(word, is_surname)
    for i, (name, bearer) in enumerate(zip(names, bearers, strict=True)):
        if len(name) == 1 and name[0] in known:
            bearers[i] = replace(bearer, is_surname=(known[name[0]],))
    return bearers


def _names(origin: Origin, is_surname: bool, bearer: Bearer) -> Sequence[str]:
    if is_surname:
        return origin.female_surnames if bearer.is_female and origin.female_surnames else origin.surnames
    return origin.female if bearer.is_female else origin.male


def _is_alike(name: str, word: str) -> bool:
    """Whether both begin with the same letter."""
    return folded(name)[0] == word[:1]


def _of_syllables(number: int, n_syllables: int) -> str:
    n = len(_SYLLABLES)
    return "".join(_SYLLABLES[number // n**place % n] for place in range(n_syllables)).capitalize()


def _in_case_of(name: str, word: str) -> str:
    if word.islower():
        return name.lower()
    return name.upper() if word.isupper() else name
