"""Lists of given names and family names, by origin, for augmentation. Never shipped.

Reads the folder of ``common-{forenames,surnames}-by-country.csv`` and plain lists
(``*first_names*.txt``, ``*surnames*.txt``: one origin each), and, where it is installed, the
person providers of the package faker; and names.toml, written for this project.
"""

from __future__ import annotations

import csv
import pkgutil
import tomllib
import unicodedata
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any

# Where the family name comes first at home, and in English text as often as not.
_FAMILY_FIRST = ("CN", "HU", "JP", "Korean", "TW", "VN", "faker-hu", "faker-ja", "faker-vi", "faker-zh")
_COLUMNS = ("Country", "Localized Name", "Romanized Name")


def listed_in(text: str) -> list[str]:
    """What commas separate, whatever white space is around it."""
    return [" ".join(value.split()) for value in text.split(",")]


OWN: dict[str, dict[str, list[str]]] = {
    origin: {part: listed_in(names) for part, names in lists.items()}
    for origin, lists in tomllib.loads(Path(__file__).with_name("names.toml").read_text("utf-8")).items()
}


def is_family_first(origin: str, rng: Random) -> bool:
    """Whether a name of this origin is to be written family name first, this time."""
    return origin.startswith(_FAMILY_FIRST) and rng.random() < 0.5


@dataclass(frozen=True)
class Names:
    """Given and family names by origin; an origin in both dictionaries gives whole names."""

    given: dict[str, list[str]]
    family: dict[str, list[str]]

    @cached_property
    def origins(self) -> list[str]:
        """Those of whole names, in order."""
        return sorted(self.given.keys() & self.family.keys())

    def full(self, rng: Random, n_tokens: int) -> list[str]:
        """A name of about ``n_tokens`` tokens, from one origin drawn evenly."""
        if n_tokens == 1:
            table = self.given if rng.random() < 0.5 else self.family
            return rng.choice(table[rng.choice(sorted(table))]).split()
        origin = rng.choice(self.origins)
        given, family = rng.choice(self.given[origin]), rng.choice(self.family[origin])
        if n_tokens == 2 and is_family_first(origin, rng):
            return f"{family} {given}".split()
        middle: list[str] = []
        for _ in range(n_tokens - 2):
            initial = rng.choice("ABCDEFGHJKLMNPRSTVW") + "."
            middle.append(initial if rng.random() < 0.5 else rng.choice(self.given[origin]))
        if rng.random() < 0.08:
            given = given[0] + "."
        return " ".join([given, *middle, family]).split()


def is_latin(name: str) -> bool:
    letters = [c for c in name if c.isalpha()]
    return bool(letters) and all(unicodedata.name(c, "").startswith("LATIN") for c in letters)


def _cleaned(names: dict[str, set[str]]) -> dict[str, list[str]]:
    kept = {origin: sorted(n for n in found if is_latin(n)) for origin, found in names.items()}
    return {origin: found for origin, found in sorted(kept.items()) if len(found) >= 5}


def read_names(folder: Path, *, with_faker: bool = True) -> Names:
    """The lists in ``folder``. Raises ValueError where it holds none."""
    given: dict[str, set[str]] = defaultdict(set)
    family: dict[str, set[str]] = defaultdict(set)
    for path in sorted(folder.glob("*.csv")) if folder.is_dir() else []:
        table = given if "forename" in path.name else family
        with path.open(encoding="utf-8-sig", newline="") as lines:
            rows = csv.DictReader(lines)
            if missing := {*_COLUMNS} - {*(rows.fieldnames or ())}:
                raise ValueError(f"{path}: has no column {min(missing)!r}, of {_COLUMNS} each is expected")
            for row in rows:
                table[row["Country"]].add((row["Romanized Name"] or row["Localized Name"]).strip())
    for path in sorted(folder.glob("*.txt")) if folder.is_dir() else []:
        table = family if "surname" in path.name else given
        table["list-US"].update(path.read_text(encoding="utf-8").split("\n"))
    if not given or not family:
        raise ValueError(f"{folder}: holds no lists of given names and family names")
    for origin, lists in OWN.items():
        given[origin].update(lists["given"])
        family[origin].update(lists["family"])
    if with_faker:
        _add_faker(given, family)
    return Names(_cleaned(given), _cleaned(family))


def _add_faker(given: dict[str, set[str]], family: dict[str, set[str]]) -> None:
    try:
        person = import_module("faker.providers.person")
    except ImportError:
        return
    for module in pkgutil.iter_modules(person.__path__):
        provider: Any = import_module(f"faker.providers.person.{module.name}").Provider
        for attribute in dir(provider):
            table = family if attribute.startswith("last_") else given
            if attribute.startswith(("first_name", "last_name", "first_romanized", "last_romanized")):
                values = getattr(provider, attribute)
                if isinstance(values, list | tuple | dict):
                    words = (v[0] if isinstance(v, tuple) else v for v in values)
                    table[f"faker-{module.name}"].update(w.strip() for w in words if isinstance(w, str))
