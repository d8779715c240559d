"""The folded words of a name in, what may be guessed of who bears it out: for an invented name like it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from model.name_origins import FILE, NameOrigins, load
from service.redaction.identity import PARTICLES, SUFFIXES, Words, is_initials
from service.redaction.invented import ORIGINS, Origin
from service.settings import ROOT

NEUTRAL = "English"  # where nothing can be guessed


@dataclass(frozen=True, slots=True)
class Bearer:
    """``is_surname``: for each word of the name."""

    origin: Origin
    is_female: bool
    is_surname: tuple[bool, ...]


@cache
def _name_origins() -> NameOrigins:
    return load(ROOT / "artefacts" / FILE)


def bearer_of(name: Words) -> Bearer:
    origins = _name_origins()
    guesses = {
        i: origins.guess(word)
        for i, word in enumerate(name)
        if not is_initials(word) and word not in PARTICLES | SUFFIXES
    }
    if not guesses:
        return Bearer(ORIGINS[NEUTRAL], False, _surnames(name, ORIGINS[NEUTRAL]))
    together = np.sum([guess.origins for guess in guesses.values()], axis=0)  # (K,)
    origin = ORIGINS[origins.origins[int(together.argmax())]]
    is_given_name = len(name) == 1 and guesses[0].is_surname < 0
    is_surname = (False,) if is_given_name else _surnames(name, origin)
    given = [guess for i, guess in guesses.items() if not is_surname[i]]
    is_female = sum(guess.is_female for guess in given or guesses.values()) > 0
    return Bearer(origin, is_female, is_surname)


def _surnames(name: Words, origin: Origin) -> tuple[bool, ...]:
    """Which of the words are surnames: the last, but for suffixes, or the first where that is one."""
    telling = [i for i, word in enumerate(name) if word not in SUFFIXES] or [0]
    surname = telling[-1]
    known = origin.folded_surnames
    if name[telling[0]] in known and name[surname] not in known:
        surname = telling[0]  # Huang Xiaoming
    return tuple(i == surname for i in range(len(name)))
