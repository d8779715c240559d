"""Text in, tokens with offsets out. Knows nothing of vocabularies or labels.

Every character that is not white space (``str.isspace``) belongs to exactly one token, tokens
do not overlap, and ``text[start:end]`` is the token: nothing is normalised here.

A tokeniser is published under a versioned name, which an artefact's ``config.json`` records.
Once artefacts exist, the rules behind a name never change: a new rule is a new name.

``treebank-1`` keeps to what the labelled sets do (Penn Treebank style, as in CoNLL-2003, with
the habits of Twitter sets): clitics are split off (``Potter|'s``, ``do|n't``); hyphens,
initials and abbreviations stay whole (``Jean-Luc``, ``J.R.R.``, ``Mr.``); e-mail addresses,
URLs, ``@handles`` and ``#tags`` are one token each; and so is each CJK ideograph, since those
scripts write no space between a name and its neighbours.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of one text: three parallel lists. Offsets are code points, half open."""

    texts: list[str]
    starts: list[int]
    ends: list[int]

    def __len__(self) -> int:
        return len(self.texts)

    def slice(self, first: int, last: int) -> Tokens:
        """Tokens ``[first, last)``, their offsets unchanged."""
        return Tokens(self.texts[first:last], self.starts[first:last], self.ends[first:last])


def given_tokens(texts: list[str]) -> Tokens:
    """Tokens that somebody else cut, as they are: the text is what one space between them gives."""
    starts, ends, at = [], [], 0
    for text in texts:
        starts.append(at)
        at += len(text)
        ends.append(at)
        at += 1
    return Tokens(texts, starts, ends)


def _class_of(*categories: str) -> str:
    """The inside of a character class: every code point of these Unicode categories.

    Planes 0, 1 and 14 hold all the combining marks and format characters that there are.
    """
    ranges: list[list[int]] = []
    for code in (*range(0x20000), *range(0xE0000, 0xE0200)):
        if unicodedata.category(chr(code)) in categories:
            if ranges and ranges[-1][1] == code - 1:
                ranges[-1][1] = code
            else:
                ranges.append([code, code])
    return "".join(f"\\U{a:08x}-\\U{b:08x}" for a, b in ranges)


# Parts of patterns' classes of characters.
MARK = _class_of("Mn", "Mc", "Me")
FORMAT = _class_of("Cf")
# Inside a word: marks, soft hyphen, joiners, bidi marks. Not U+200B, which separates words.
GLUE = MARK + "\u00ad\u061c\u200c-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069"
_HAN = "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_LETTER = f"[^\\W_{_HAN}]"  # a letter or digit of a script that writes words
_REST = f"{_LETTER}*(?:[{GLUE}]+{_LETTER}*)*"
_PICTURE = (
    "[\u00a9\u00ae\u203c\u2049\u2122\u2190-\u2bff\u3030\u303d\u3297\u3299\U0001f000-\U0001faff]"
    "[\ufe0e\ufe0f\u20e3\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]*"
)
_APOSTROPHE = "'\u2019\u02bc"
# What ends a URL: white space, quotes, ideographs, and the punctuation of CJK text.
_NOT_URL = (
    f'\\s<>"\u201c\u201d\u00ab\u00bb{_HAN}'
    "\u3001-\u3003\u3008-\u3011\uff01\uff08\uff09\uff0c\uff1a\uff1b\uff1f"
)
_CLITIC = "s|m|d|re|ve|ll"

# What a repetition takes, nothing after it could want, and where it could, its length is bounded:
# so a megabyte without a space takes linear time (tests/test_tokeniser.py). That is what possessive
# quantifiers are for, but CPython before 3.11.5 matches them wrongly inside groups.
_KINDS = (
    rf"(?:(?:https?|ftp)://|www\.)[^{_NOT_URL}]*[^{_NOT_URL}.,;:!?{_APOSTROPHE})\]}}\u2026]",
    # A word: a hyphen, apostrophe, full stop, … stays inside between word characters;
    # one full stop at the end is taken along, and judged by _cuts.
    rf"{_LETTER}{_REST}"
    rf"(?:(?:[-\u2010\u2011.&\u00b7{_APOSTROPHE}]|(?<=\d)[,:/](?=\d)){_LETTER}{_REST})*"
    # An e-mail address starts like a word; its local part has at most 64 characters.
    rf"(?:[\w.+-]{{0,64}}@[\w-]+(?:\.[\w-]+)+|\.(?![.\w]))?",
    rf"[@#](?:\w+|[{GLUE}]+\w*)(?:[{GLUE}]+\w*)*",
    rf"(?i:n?[{_APOSTROPHE}](?:{_CLITIC}|t)|[{_APOSTROPHE}]\d\ds?)(?!\w)",
    *(f"{re.escape(mark)}{{2,}}" for mark in "-=*_~.!?`"),
    "''",
    r"[:;=]['-]?[()DPpO/\\|\]\[*3]+(?![\w()/\\|\]\[*])|<3",
    "[\U0001f1e6-\U0001f1ff]{2}",  # a flag
    rf"{_PICTURE}(?:\u200d{_PICTURE})*",
    rf"[{_HAN}][{GLUE}]*",
    rf"[{FORMAT}]+",
    rf"\S[{GLUE}]*",
)
# Most tokens are a plain word or a comma before something that no kind of token would take too. Tried
# first, that halves the time; nothing is matched otherwise than by the kinds alone.
_PLAIN = r"[A-Za-z]+(?=[\s,;)!?\"]|$)|,(?= )"
_TOKEN = re.compile("|".join((_PLAIN, *_KINDS)))

_CLITIC_END = re.compile(rf"(?i)(?<=.)(?:(?<=\w)n[{_APOSTROPHE}]t|[{_APOSTROPHE}](?:{_CLITIC}))$")
_SHORT_PARTS = re.compile(r"[^\W\d_]{1,2}(?:\.[^\W\d_]{1,2})+")  # Ph.D  a.m
_INITIALS_THEN_NAME = re.compile(r"((?:[^\W\d_]\.)+)[^\W\d_]{2}")  # J.R.R.Tolkien
_BLANK_OR_CLOSING = " \t\r\n\u00a0\"'\u201d\u2019\u00bb)]}"
_MISSING_SPACE = re.compile(r"(?<=[^\W\d_A-Z]{2})\.(?=[A-Z][^\W\d_A-Z])")  # sold.John

# Abbreviations keep their full stop. No word that may be a name at a sentence's end (Al, Ed, Jan).
ABBREVIATIONS = frozenset(
    "mr mrs ms mx dr prof rev hon gen col maj capt cpt lt sgt cpl pvt adm cmdr cdr gov sen rep "
    "pres supt insp messrs mme mlle st ste jr sr esq bros inc corp co ltd llc plc vs etc viz cf "
    "approx dept est assn ave blvd vol vols pp feb apr aug sept oct nov dec".split()
)


def _cuts(token: str, is_last: bool) -> list[int]:
    """Where to cut inside a coarse token, ascending: before clitics and full stops."""
    end = len(token)
    cuts: list[int] = []
    if token[-1] == ".":
        body = token[:-1]
        keeps = (
            body.lower() in ABBREVIATIONS
            or bool(_SHORT_PARTS.fullmatch(body))
            # An initial has a name after it; "Malcolm X." at the end of a text has none.
            or (not is_last and len(body) == 1 and body.isalpha() and body.isupper())
        )
        if not keeps:
            end -= 1
            cuts.append(end)
    if "." in token[:end] and "@" not in token:
        title = token.partition(".")[0]
        if title.lower() in ABBREVIATIONS and token[len(title) + 1 : end][:1].isupper():  # Mr.Smith
            cuts.append(len(title) + 1)
        if name := _INITIALS_THEN_NAME.match(token, 0, end):
            cuts.append(name.end(1))
        for stop in _MISSING_SPACE.finditer(token, 0, end):
            if stop.end() not in cuts:  # else it is the abbreviation's own: Prof.Smith
                cuts += (stop.start(), stop.end())
    if clitic := _CLITIC_END.search(token[:end]):
        cuts.append(clitic.start())
    return sorted(set(cuts))  # no token is empty


def _treebank_1(text: str) -> Tokens:
    texts: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    find = text.find
    end = 0
    # White space lies between tokens and nothing else: each is found where it was matched.
    for token in _TOKEN.findall(text):
        start = find(token, end)
        end = start + len(token)
        # Only a word can have to be cut, and nearly all words are alphanumeric throughout.
        if not token.isalnum() and len(token) > 1 and "://" not in token and token[0].isalnum():
            first = start
            for cut in _cuts(token, is_last=not text[end : end + 64].strip(_BLANK_OR_CLOSING)):
                texts.append(text[start : first + cut])
                starts.append(start)
                start = first + cut
                ends.append(start)
            token = text[start:end]
        texts.append(token)
        starts.append(start)
        ends.append(end)
    return Tokens(texts, starts, ends)


TOKENISERS: dict[str, Callable[[str], Tokens]] = {"treebank-1": _treebank_1}


def tokeniser(name: str) -> Callable[[str], Tokens]:
    """The tokeniser of that versioned name. Raises ValueError for an unknown one."""
    if name not in TOKENISERS:
        raise ValueError(f"tokeniser {name!r} is not one of {sorted(TOKENISERS)}")
    return TOKENISERS[name]
