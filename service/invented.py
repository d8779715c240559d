"""Names to invent persons from, by origin: common ones, written down for this project.

Of each origin about as many women's names as men's. They stand for nobody: a pseudonym is put
together from them anew for each request.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from service.identity import folded


@dataclass(frozen=True)
class Origin:
    """``female_surnames``: only where women's differ from men's."""

    name: str
    female: tuple[str, ...]
    male: tuple[str, ...]
    surnames: tuple[str, ...]
    female_surnames: tuple[str, ...] = ()
    folded_surnames: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        both = (*self.surnames, *self.female_surnames)
        object.__setattr__(self, "folded_surnames", frozenset(map(folded, both)))


def _origin(name: str, female: str, male: str, surnames: str, female_surnames: str = "") -> Origin:
    return Origin(name, *(tuple(words.split()) for words in (female, male, surnames, female_surnames)))


_ALL = (
    _origin(
        "English",
        "Alice Beatrice Claire Dorothy Eleanor Fiona Georgia Hannah Imogen Jessica Katherine Lucy "
        "Megan Natalie Olivia Phoebe Rebecca Sophie Tessa Victoria",
        "Adam Benjamin Christopher Daniel Edward Frederick Graham Henry Ian Julian Keith Leonard "
        "Martin Nigel Oliver Patrick Robert Simon Timothy William",
        "Ashworth Bennett Carter Dawson Ellison Fletcher Gibson Harding Ingram Jarvis Kendall Lambert "
        "Mercer Norris Osborne Parsons Radford Saunders Thornton Underhill Vickers Whitaker Yates",
    ),
)
ORIGINS = {origin.name: origin for origin in _ALL}
