"""The folded words of a name in, what may be guessed of who bears it out: for an invented name like it."""

from __future__ import annotations

from dataclasses import dataclass

from service.identity import SUFFIXES, Words
from service.invented import ORIGINS, Origin


@dataclass(frozen=True, slots=True)
class Bearer:
    """``is_surname``: for each word of the name."""

    origin: Origin
    is_female: bool
    is_surname: tuple[bool, ...]


def bearer_of(name: Words) -> Bearer:
    origin = ORIGINS["English"]
    return Bearer(origin, False, _surnames(name, origin, is_given=False))


def _surnames(name: Words, origin: Origin, *, is_given: bool) -> tuple[bool, ...]:
    """Which words are surnames. ``is_given``: whether a name of one word is a given name."""
    telling = [i for i, word in enumerate(name) if word not in SUFFIXES] or [0]
    surname = telling[-1]
    known = origin.folded_surnames
    if len(telling) > 1 and name[telling[0]] in known and name[surname] not in known:
        surname = telling[0]  # Mao Zedong
    if len(telling) == 1 and is_given:
        surname = -1
    return tuple(i == surname for i in range(len(name)))
