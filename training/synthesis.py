"""Templates and lists of names in, labelled sentences out: the kinds of text that corpora lack.

Corpora have few lists of bare surnames, mail headers, score cards, or companies and places named
after people beside the people. training/templates.txt has them, with slots:

    {full} {given} {family} {fi}        Ada Lovelace, Ada, Lovelace, A. B. Lovelace
    {initials} {nick} {suffixed}        A.B., Ada "Countess" Lovelace, Ada Lovelace Jr.
    {double} {particle} {compound}      Ada Byron-Lovelace, Ada van der Berg, Anne-Marie
    {index} {apostrophe}                Lovelace, Ada; O'Lovelace
    {lower} {lowerfamily} {lowerfull} {upperfull} {upperfamily} {uppergiven}   typed in haste or shouted
    {made}                              Capwin, grian: a name that somebody made up
    {word} {wordfamily} {personplace} {personplaceperson}   Grace, Baker, Jordan: also a word, a place
    {-given} {-family} {-initial} {-made}   the same words where they are no person
    {place} {country} {org} {job} {title} {day} {month} {year} {n} {mail} {handle} {upper…}

A name's parts are of one origin; {1.full} and {1.family} are of one person.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from training.names import OWN, Names, is_family_first, listed_in
from training.pronouns import frames

TEMPLATES = Path(__file__).with_name("templates.txt")

_LISTS = {
    name: listed_in(text)
    for name, text in tomllib.loads(Path(__file__).with_name("slots.toml").read_text("utf-8")).items()
}
_ONSETS = "b c d f g h j k l m n p r s t v w z br ch cl cr dr fl gr kh ph sh sk ss st th tr".split()
_CODAS = "n m r s l k x t z ck nd ng sh tt".split()
# Names that are words too, drawn for themselves: evenly from its lists, the family name of one Korean in
# twelve would come up once in three thousand times.
_ORDINARY = {*_LISTS["ordinary"], *_LISTS["word"], *_LISTS["wordfamily"]}
_ORDINARY_SHARE = 0.15
_TIMES = re.compile(r"\dx ")
_SLOT = re.compile(r"\{(?:(\d)\.)?(-?)([a-z]+)\}|([\[\]])")


@dataclass(frozen=True)
class _Person:
    given: str
    family: str
    more: tuple[str, str]  # a second given name and a second family name, of the same origin
    is_family_first: bool


class _Writer:
    """Fills templates; all choices from one generator."""

    def __init__(self, names: Names, rng: Random) -> None:
        self._names, self._rng = names, rng
        self._ordinary: dict[str, list[str]] = {}
        for origin in names.origins:
            if found := [n for n in (*names.given[origin], *names.family[origin]) if n in _ORDINARY]:
                self._ordinary[origin] = found
        self._having_ordinary = [*self._ordinary]
        self._own_having_ordinary = [origin for origin in self._ordinary if origin in OWN]

    def _person(self) -> _Person:
        choose = self._rng.choice
        origin, ordinary = choose(self._names.origins), ""
        if self._ordinary and self._rng.random() < _ORDINARY_SHARE:
            is_own = choose((True, False)) and self._own_having_ordinary
            origin = choose(self._own_having_ordinary if is_own else self._having_ordinary)
            ordinary = choose(self._ordinary[origin])
        given, family = self._names.given[origin], self._names.family[origin]
        more = choose(given), choose(family)
        family_name = ordinary if ordinary and ordinary in family else choose(family)
        given_name = ordinary if ordinary and ordinary != family_name else choose(given)
        return _Person(given_name, family_name, more, is_family_first(origin, self._rng))

    def _of(self, name: str) -> str:
        return self._rng.choice(_LISTS[name])

    def _made(self) -> str:
        """Two or three syllables, as people make names up for themselves: in lower case now and then."""
        choose = self._rng.choice
        made = "".join(
            choose(_ONSETS) + choose("aeiouaeioy") + choose(("", "", *_CODAS))
            for _ in range(choose((2, 2, 3)))
        )
        return made if self._rng.random() < 0.35 else made.capitalize()

    def _named(self, slot: str, p: _Person) -> str | None:
        """The slot's text where the slot is a person's name."""
        rng = self._rng
        first = p.given[0]
        if slot == "full" and p.is_family_first:
            return f"{p.family} {p.given}"
        if slot == "full":
            form = rng.random()
            if form < 0.06:
                return f"{p.given} {p.more[0][0]}. {p.family}"
            if form < 0.11:
                return f"{first}. {p.family}"
            if form < 0.14:
                return f"{first}. {p.more[0][0]}. {p.family}"
            if form < 0.18:
                return f"{p.given} {p.more[0]} {p.family}"
            if form < 0.21:
                return f"{p.given} {p.family}-{p.more[1]}"
            if form < 0.25:
                return f"{p.given} {self._of('particle')} {p.family}"
            if form < 0.28:
                return f"{p.given} {p.family} {p.more[1]}"
            if form < 0.29:
                return f"{p.given} {p.family} {self._of('particle')} {p.more[1]}"
            return f"{p.given} {p.family}"
        if slot in ("given", "family"):
            return str(getattr(p, slot))
        quote = rng.choice(['""', "''", "“”", "‘’", "()"])
        made = {
            "fi": rng.choice(
                [f"{first}. {p.family}", f"{first}.{p.more[0][0]}. {p.family}", f"{p.family} {first}"]
            ),
            "initials": rng.choice(
                [
                    f"{first}. {p.more[0][0]}. {p.family}",
                    f"{first}.{p.more[0][0]}. {p.family}",
                    f"{first} {p.family}",
                ]
            ),
            "nick": f"{p.given} {quote[0]}{self._of('nickname')}{quote[1]} {p.family}",
            "suffixed": f"{p.given} {p.family}{rng.choice([' ', ', '])}{self._of('suffix')}",
            "double": f"{p.given} {p.family}-{p.more[1]}",
            "index": rng.choice(
                [f"{p.family}, {p.given}", f"{p.family.upper()}, {p.given}", f"{p.family}, {first}."]
            ),
            "compound": rng.choice([f"{p.given}-{p.more[0]}", f"{p.family}-{p.more[1]}", f"Al-{p.family}"]),
            "apostrophe": rng.choice(["O'", "D'", "L'", "N'", "M'", "O’", "D’"]) + p.family,
            "uppergiven": p.given.upper(),
            "particle": f"{p.given} {self._of('particle')} {p.family}",
            "lower": p.given.lower(),
            "lowerfamily": p.family.lower(),
            "made": self._made(),
            "lowerfull": f"{p.given} {p.family}".lower(),
            "upperfull": f"{p.given} {p.family}".upper(),
            "upperfamily": p.family.upper(),
        }
        if slot in ("word", "wordfamily"):
            return self._of(slot)
        if slot == "personplaceperson":
            return self._of("personplace")
        return made.get(slot)

    def _plain(self, slot: str, p: _Person) -> str:
        """The slot's text where it is nobody."""
        rng = self._rng
        if slot in ("given", "family"):
            return str(getattr(p, slot))
        if slot.startswith("upper"):
            return self._plain(slot.removeprefix("upper"), p).upper()
        if slot in _LISTS:
            return self._of(slot)
        if slot == "made":
            return self._made().capitalize()
        handle = rng.choice([f"{p.given}{rng.randrange(100)}", f"{p.given}_{p.family}", f"x{p.family}x"])
        return {
            "initial": rng.choice("ABCDEFGHJKLMNPRSTVW"),
            "year": str(rng.randint(1850, 2025)),
            "n": str(rng.randint(1, 99)),
            "handle": "".join(handle.split()),
            "mail": "".join(
                f"{p.given[0]}.{p.family}@example.{rng.choice(['org', 'com'])}".lower().split()
            ),
        }[slot]

    def write(self, template: str) -> tuple[str, list[tuple[int, int]]]:
        """One sentence and its persons' spans in it."""
        people: dict[str, _Person] = {}
        text, at, opened = "", 0, 0
        spans: list[tuple[int, int]] = []
        for slot in _SLOT.finditer(template):
            text += template[at : slot.start()]
            at = slot.end()
            number, nobody, name, bracket = slot.groups()
            if bracket == "[":
                opened = len(text)
            elif bracket:
                spans.append((opened, len(text)))
            else:
                fresh = self._person()
                person = people.setdefault(number, fresh) if number else fresh
                named = None if nobody else self._named(name, person)
                value = named if named is not None else self._plain(name, person)
                if named is not None:
                    spans.append((len(text), len(text) + len(value)))
                text += value
        return text + template[at:], spans


def templates(path: Path = TEMPLATES) -> list[str]:
    """The templates of a file, as often as it says: a line each, without comments and blank lines."""
    found: list[str] = []
    for line in path.read_text(encoding="utf-8").split("\n"):
        if line and line[:2] != "# ":
            times, _, text = line.partition("x ") if _TIMES.match(line) else ("1", "", line)
            found += [text.replace("\\n", "\n").replace("\\t", "\t")] * int(times)
    return found


def written(
    names: Names, n: int, seed: int, path: Path = TEMPLATES
) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    """``n`` sentences with their persons' spans, the templates in turn."""
    rng = Random(seed)
    writer = _Writer(names, rng)
    known = templates(path)
    for i in range(n):
        if i % len(known) == 0:
            rng.shuffle(known)
        yield writer.write(known[i % len(known)])


def from_raw(
    names: Names, n: int, seed: int, paths: Sequence[Path]
) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    """About ``n`` sentences of raw text, in equal parts, with names in the place of pronouns."""
    writer = _Writer(names, Random(seed))
    for path in paths:
        for template in frames(path, n // len(paths), seed):
            yield writer.write(template)


def write_corpus(names: Names, out: Path, n: int, seed: int, raw: Sequence[Path] = ()) -> int:
    """Writes ``n`` sentences as JSON lines that training reads; how many there were. ``raw``: texts whose
    pronouns become names, in the place of templates; where they have few, fewer are written."""
    out.parent.mkdir(parents=True, exist_ok=True)
    n_written = 0
    with out.open("w", encoding="utf-8") as opened:
        for text, spans in from_raw(names, n, seed, raw) if raw else written(names, n, seed):
            line = {"text": text, "spans": [{"start": s, "end": e, "label": "PER"} for s, e in spans]}
            opened.write(json.dumps(line, ensure_ascii=False) + "\n")
            n_written += 1
    return n_written
