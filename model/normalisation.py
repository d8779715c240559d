"""One token in, the form under which it is looked up. Pure; knows no vocabulary.

Published under versioned names, as tokenisers are, and frozen in the same way. Training,
serving and the word vectors all use the one that the artefact names. Offsets never pass
through here: only the look-up sees the normalised form.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

_QUOTES = str.maketrans(
    {
        "\u2018": "'", "\u2019": "'", "\u02bc": "'", "\u201b": "'", "\u00b4": "'", "`": "'",
        "\u201c": '"', "\u201d": '"', "\u201e": '"', "\u00ab": '"', "\u00bb": '"',
        "\u2010": "-", "\u2011": "-", "\u2012": "-", "\u2013": "-", "\u2014": "-", "\u2015": "-",
    }
)  # fmt: skip
_DIGITS = str.maketrans("123456789", "000000000")
_TREEBANK = {"''": '"', "``": '"', "-LRB-": "(", "-RRB-": ")", "-LSB-": "[", "-RSB-": "]", "--": "-"}


def _cased_1(token: str) -> str:
    """Compatibility forms and typographic variants folded, digits to 0, the case kept.

    >>> _cased_1("O\u2019Neill"), _cased_1("1996"), _cased_1("\uff21da")
    ("O'Neill", '0000', 'Ada')
    """
    if token in _TREEBANK:
        return _TREEBANK[token]
    if not token.isascii():
        token = unicodedata.normalize("NFKC", token.translate(_QUOTES))
        token = "".join(c for c in token if unicodedata.category(c) != "Cf") or "\u200b"
        if any(c.isdigit() and not c.isascii() for c in token):
            token = "".join("0" if c.isdigit() else c for c in token)
    if not token.isalpha():
        token = token.translate(_QUOTES).translate(_DIGITS)
    return token


NORMALISATIONS: dict[str, Callable[[str], str]] = {"cased-1": _cased_1}


def normalisation(name: str) -> Callable[[str], str]:
    """The normalisation of that versioned name. Raises ValueError for an unknown one."""
    if name not in NORMALISATIONS:
        raise ValueError(f"normalisation {name!r} is not one of {sorted(NORMALISATIONS)}")
    return NORMALISATIONS[name]
