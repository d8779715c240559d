r"""A folder of marked sentences in, cases out: texts with the offsets of their persons. Knows no model.

One file a phenomenon, ``titles.txt``, and one case a line, each person in square brackets:

    # a comment
    = before                          a heading, of the cases down to the next one
    Mr. [Babbage] declined.           two cases without a blank line between them and alone so:
    The committee declined.           a minimal pair

``\n``, ``\t``, ``\[``, ``\]`` and ``\\`` stand for a line break, a tab, brackets and a backslash.
Offsets count code points, half open.

Minimal pairs by capability, and variants that must not change the answer: Ribeiro et al. 2020
(CheckList), arXiv:2005.04118, sections 2.1 and 2.2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

Offsets = tuple[int, int]  # code points, half open

_ESCAPED = {"n": "\n", "t": "\t", "[": "[", "]": "]", "\\": "\\"}


class MarkupError(ValueError):
    """A line of markup that cannot be read as a case; says the place, the value, what was expected."""


@dataclass(frozen=True, slots=True)
class Case:
    """A text, and the persons that are to be found in it: these spans, and no others."""

    phenomenon: str  # the file's name, without its suffix
    heading: str  # "" where there is none above
    group: int  # number of its run of lines without a blank one, within the file
    place: str  # titles.txt:12
    text: str
    spans: tuple[Offsets, ...]


def read_cases(folder: Path) -> list[Case]:
    """The cases of all ``*.txt`` of a folder. Raises MarkupError, or ValueError where there are none."""
    cases: list[Case] = []
    for path in sorted(folder.glob("*.txt")):
        heading, group, in_group = "", 0, False
        for number, line in enumerate(path.read_text("utf-8").split("\n"), 1):
            if not line or line.startswith(("# ", "= ")):
                group += in_group
                in_group = False
                if line.startswith("= "):
                    heading = line[2:]
                continue
            in_group = True
            cases.append(parse(line, Case(path.stem, heading, group, f"{path.name}:{number}", "", ())))
    if not cases:
        raise ValueError(f"{folder}: holds no cases; .txt files of marked sentences are expected")
    return cases


def parse(markup: str, case: Case) -> Case:
    """``case`` with the text and the spans of one line of markup. Raises MarkupError."""

    def wrong(column: int, why: str) -> MarkupError:
        return MarkupError(f"{case.place}: column {column + 1} of {markup!r}: {why}")

    text = ""
    spans: list[Offsets] = []
    start: int | None = None
    characters = iter(enumerate(markup))
    for column, character in characters:
        if character == "\\":
            _, escaped = next(characters, (column, ""))
            if escaped not in _ESCAPED:
                raise wrong(column, f"\\{escaped} is not one of " + " ".join(f"\\{e}" for e in _ESCAPED))
            text += _ESCAPED[escaped]
        elif character == "[":
            if start is not None:
                raise wrong(column, "[ within brackets; a ] is expected first")
            start = len(text)
        elif character == "]":
            if start is None:
                raise wrong(column, "] without a [")
            if not text[start:] or text[start:] != text[start:].strip():
                raise wrong(column, "the brackets hold nothing, or white space at an edge")
            spans.append((start, len(text)))
            start = None
        else:
            text += character
    if start is not None:
        raise wrong(len(markup), "the end; a ] is expected first")
    if not text.strip():
        raise wrong(0, "no text")
    return replace(case, text=text, spans=tuple(spans))


def marked(text: str, spans: Iterable[Offsets]) -> str:
    """The markup of a text and its spans, escapes left out: for messages."""
    for start, end in sorted(spans, reverse=True):
        text = f"{text[:start]}[{text[start:end]}]{text[end:]}"
    return text.replace("\n", "\\n").replace("\t", "\\t")


def pairs(cases: Iterable[Case]) -> list[tuple[int, int]]:
    """Minimal pairs, as positions in ``cases``: the groups of exactly two."""
    groups: dict[tuple[str, int], list[int]] = {}
    for i, case in enumerate(cases):
        groups.setdefault((case.phenomenon, case.group), []).append(i)
    return [(found[0], found[1]) for found in groups.values() if len(found) == 2]


# Variants: the same persons in another guise. None where the guise does not apply, or changes nothing.


def _each(case: Case, change: Callable[[str], str]) -> Case:
    """Changes each character by itself, and leaves those that would become two (ß, İ)."""
    changed = [c if len(change(c)) != 1 else change(c) for c in case.text]
    return replace(case, text="".join(changed))


def _lower(case: Case) -> Case | None:
    return _each(case, str.lower)


def _upper(case: Case) -> Case | None:
    return _each(case, str.upper)


def _no_final_mark(case: Case) -> Case | None:
    ends = case.text[-1] in ".!?" and not (case.spans and case.spans[-1][1] == len(case.text))
    return replace(case, text=case.text[:-1]) if ends else None


def _typographic(case: Case) -> Case | None:
    """Quotes and apostrophes as a word processor turns them: opening after a space or a bracket."""
    turned = ""
    for before, character in zip(" " + case.text, case.text, strict=False):
        opening = before.isspace() or before in "([\u2014\u2013\"'"
        if character == '"':
            character = "\u201c" if opening else "\u201d"
        elif character == "'":
            character = "\u2018" if opening else "\u2019"
        turned += character
    return replace(case, text=turned)


_BEFORE = "The second item on the agenda took most of the afternoon, and two others were put off. "
_AFTER = " Nothing else was decided, and the hall was locked at six."


def _paragraph(case: Case) -> Case | None:
    if "\n" in case.text or case.text[-1] not in '.!?"':
        return None
    return _shifted(case, _BEFORE, _AFTER)


def _bullet(case: Case) -> Case | None:
    return None if "\n" in case.text or case.text[0] == "-" else _shifted(case, "- ")


def _shifted(case: Case, before: str, after: str = "") -> Case:
    spans = tuple((start + len(before), end + len(before)) for start, end in case.spans)
    return replace(case, text=before + case.text + after, spans=spans)


def _sender(case: Case) -> Case | None:
    """The case's first person as the sender of a mail. Display names with , or \" would need quotes."""
    if not case.spans or {",", '"'} & set(name := case.text[slice(*case.spans[0])]):
        return None
    mailbox = "".join(c for c in name.lower() if c.isascii() and c.isalnum()) or "mail"
    text = f"From: {name} <{mailbox}@example.org>"
    return replace(case, text=text, spans=((len("From: "), len("From: ") + len(name)),))


VARIANTS: dict[str, Callable[[Case], Case | None]] = {
    "lower case": _lower,
    "ALL CAPS": _upper,
    "no final mark": _no_final_mark,
    "typographic quotes": _typographic,
    "in a paragraph": _paragraph,
    "bullet": _bullet,
    "sender of a mail": _sender,
}


def variants(cases: Sequence[Case], name: str) -> list[Case]:
    """The cases in that guise; those that it does not change are left out, and each text comes once."""
    changed = {case.text: case for original in cases if (case := VARIANTS[name](original))}
    written = {case.text for case in cases}
    return [case for text, case in changed.items() if text not in written]
