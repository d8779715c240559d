"""A document's tokens in, sentences as token ranges out. Rules only; nothing is lost or moved.

A sentence ends after a run of . ! ? … or their CJK forms, with the quotes and brackets that
close it, unless what follows starts in lower case; and at a blank line. A line break alone, of
any system or a word processor's, ends one where the line is too short to have been wrapped
(headings, lists, mail headers, chat). An abbreviation or initial keeps its full stop inside its
token (model.tokeniser), so it ends nothing, unless a word follows that hardly occurs capitalised
inside a sentence. The full stop of a list's number ("1. Ann Lee") ends nothing either.
"""

from __future__ import annotations

import re

from model.tokeniser import Tokens

_ENDS = frozenset(".!?…。！？｡")
_CLOSERS = frozenset("\"'”’»)]}」』）】") | {"''"}
# Invisible marks, of direction mostly, that an end or a closer may carry.
_MARKS = "".join(map(chr, (0x61C, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2066, 0x206A))))
# Not a form feed, which comes beside a line's break and would make a blank line of it.
_LINE_BREAK = re.compile(r"\r*\n|[\r\v\x85\u2028\u2029]")
_WRAPPED = 50  # characters; a line shorter than this was not broken for want of room
# Function words that are capitalised at the start of a sentence and hardly anywhere else.
_STARTERS = frozenset(
    "The A An He She It They We I You This That These Those But And However In On At For If When "
    "While There Then His Her Its Their Our My Your What Who Why How Where As After Before".split()
)  # fmt: skip
_KEEP_GOING = frozenset({"Mr.", "Mrs.", "Ms.", "Dr.", "Prof.", "St.", "Rev.", "Hon.", "Gen.", "Sen."})


def _is_end(token: str) -> bool:
    core = token.strip(_MARKS)
    return bool(core) and all(c in _ENDS for c in core)


def _is_closer(token: str) -> bool:
    core = token.strip(_MARKS)
    return core in _CLOSERS or not core


def sentences_of(tokens: Tokens, text: str) -> list[tuple[int, int]]:
    """Token ranges ``[first, last)`` of the sentences: in order, none empty, covering all tokens."""
    found: list[tuple[int, int]] = []
    texts, starts, ends = tokens.texts, tokens.starts, tokens.ends
    first = 0
    ended = False  # the sentence has seen its end and is taking its closers
    line_start = starts[0] if texts else 0  # offset of the current line's first token
    for i, token in enumerate(texts):
        if i > first:
            gap = text[ends[i - 1] : starts[i]]
            n_breaks = len(_LINE_BREAK.findall(gap)) if gap not in ("", " ") else 0
            breaks = False
            if n_breaks > 1:
                breaks = True
            elif n_breaks and ends[i - 1] - line_start < _WRAPPED:
                breaks = ended or not token[0].islower()
            elif ended:
                # Another mark goes on the run: "?!", ". . ."
                more = _is_end(token) or (not gap and _is_closer(token))
                breaks = not more and not token[0].islower()
            elif texts[i - 1][-1] == "." and token in _STARTERS:
                breaks = texts[i - 1] not in _KEEP_GOING
            if breaks:
                found.append((first, i))
                first = i
                ended = False
            if n_breaks:
                line_start = starts[i]
        if token[0].isalnum():  # nearly every token
            ended = False
        elif _is_end(token):
            ended = not (token == "." and i == first + 1 and texts[first].isdigit())
        elif not _is_closer(token):
            ended = False
    if first < len(texts):
        found.append((first, len(texts)))
    return found
