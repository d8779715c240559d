"""A labelled file in, sentences out: tokens with their IOB2 labels. Knows nothing of vocabularies or torch.

Two forms are read, plain, ``.gz`` or ``.xz``; a file is JSON lines where its name ends in .json,
.jsonl or .ndjson, or where its first line is a JSON object, and columns otherwise.

Columns (CoNLL). One token a line, 2 to 4 columns, the token first and its label last; a blank
line between sentences; a line that begins with ``-DOCSTART-``, or a ``# newdoc`` comment, begins
a document. Where a line holds a tab, tabs separate its columns, so that a token may hold spaces;
else spaces do, and no other white space. A line is a comment only where it can be nothing else:
before a sentence's first token, "#" and a space, no tab, and then ``newdoc``, ``newpar``, ``key =``
(CoNLL-U), or anything that does not end in a label. So ``#<tab>O`` and ``# O`` are the token "#".

JSON lines. One document a line: ``{"text": …, "spans": [{"start": 0, "end": 3, "label": "PER"}]}``,
which is Prodigy's form (its rejected and ignored examples are left out), or doccano's ``"label":
[[0, 3, "PER"]]``, spaCy's and doccano's ``"entities"``. Offsets are half open and count code points,
or what the line's ``"offset_unit"`` says: codepoint, utf16 or utf8. The text is cut as the service
cuts it, into sentences and tokens; then an edge of a span inside a token cuts that token, and a
span across a sentence's end joins the two sentences: no annotation is lost or moved.

Schemes. IOB1, IOB2, BIOES and BILOU become IOB2. With ``scheme="auto"`` an ill-formed sequence is
read as conlleval reads it (model.labels.spans_of), whichever scheme it was meant to be; a scheme
that is named is a promise, and the first label that breaks it is an error. ``detect_scheme`` tells
which it is.

Types. PERSON, Person, person, PERS, pers and per are PER, unless the caller asks for that very type.
"""

from __future__ import annotations

import json
import lzma
import re
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.labels import OUTSIDE, PERSON
from model.sentences import sentences_of
from model.tokeniser import Tokens
from training.raw_text import open_bytes

# Which prefixes each scheme has; E and L are one thing by two names, and so are S and U.
SCHEMES = {"iob1": "BI", "iob2": "BI", "bioes": "BIES", "bilou": "BILU"}
ALIASES = dict.fromkeys(("PERSON", "Person", "person", "PERS", "pers", "per"), PERSON)
OFFSET_UNITS = ("codepoint", "utf16", "utf8")

_DOCUMENT_START = "-DOCSTART-"
_LABEL = re.compile(r"O|[BIESLU]-.+")
_CLEAR_COMMENT = re.compile(r"# (?:newdoc|newpar)\b|# [\w.:-]+ =(?: |$)")
_NEW_DOCUMENT = re.compile(r"# newdoc\b")
_JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
_SPAN_KEYS = ("spans", "label", "labels", "entities")


class CorpusError(ValueError):
    """A labelled file that cannot be read as one; says the file, the line, the value, what was expected."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence of a labelled file. ``labels`` are IOB2, one for each token."""

    tokens: tuple[str, ...]
    labels: tuple[str, ...]
    document: int  # the number of its document within its file, from 0
    # A teacher's posterior (training/distil.py), (T, K, K) float16; the labels are then its best.
    pairs: NDArray[np.float16] | None = field(default=None, compare=False)


def read_corpus(
    path: Path,
    *,
    scheme: str = "auto",
    entity_types: tuple[str, ...] | None = None,
    tokenise: Callable[[str], Tokens],
) -> list[Sentence]:
    """The sentences of a labelled file. Raises CorpusError, which names the file and the line.

    ``entity_types``: the types to keep, the others become O; None keeps all. ``tokenise`` cuts the
    text of JSON lines; columns are cut already.
    """
    return list(iter_corpus(path, scheme=scheme, entity_types=entity_types, tokenise=tokenise))


def iter_corpus(
    path: Path,
    *,
    scheme: str = "auto",
    entity_types: tuple[str, ...] | None = None,
    tokenise: Callable[[str], Tokens],
) -> Iterator[Sentence]:
    """read_corpus one by one, for a file larger than memory; an error comes where its line does."""
    if scheme != "auto" and scheme not in SCHEMES:
        raise ValueError(f"scheme {scheme!r} is not one of {('auto', *SCHEMES)}")
    lines = _lines_of(path)
    begun = []  # up to the first line that is not blank
    for line in lines:
        begun.append(line)
        if line.strip():
            break
    lines = chain(begun, lines)
    types = _Types(entity_types)
    if _is_json(path, begun[-1] if begun else ""):
        sentences = _read_json_lines(path, lines, types, tokenise)
    else:
        sentences = _read_columns(path, lines, types, scheme)
    is_empty = True
    for sentence in sentences:
        is_empty = False
        yield sentence
    if is_empty:
        raise CorpusError(f"{path}: holds no sentences")


def detect_scheme(sequences: Iterable[Sequence[str]]) -> str:
    """Which scheme these label sequences, one a sentence, are written in. Raises ValueError for a mixture.

    Any E- or S- makes it bioes, any L- or U- bilou. Else a span that starts with I- makes it
    iob1, where only a span right after one of its own type starts with B-. What is left, iob2,
    takes in the files in which the schemes do not differ, for want of spans.
    """
    found: set[str] = set()
    opens_inside = False
    for labels in sequences:
        before = OUTSIDE
        for label in labels:
            if label != OUTSIDE:
                found.add(label[0])
                if label[0] == "I" and before[1:] != label[1:]:
                    opens_inside = True
            before = label
    bioes, bilou = sorted(found & set("ES")), sorted(found & set("LU"))
    if bioes and bilou:
        raise ValueError(f"{bioes[0]}- is of BIOES and {bilou[0]}- of BILOU: one scheme is expected")
    if bioes or bilou:
        return "bioes" if bioes else "bilou"
    return "iob1" if opens_inside else "iob2"


def split_by_document(
    sentences: Sequence[Sentence], dev_share: float, seed: int
) -> tuple[list[Sentence], list[Sentence]]:
    """Training and dev sentences, each in the order given; no document is in both.

    Documents are drawn in a seeded order, and each is taken that does not make dev larger than
    ``dev_share`` of all sentences, or than one; where none is small enough, the smallest is. A file
    that is all one document is split by sentence. Training keeps at least one document (or sentence).
    """
    if not 0 <= dev_share < 1:
        raise ValueError(f"dev_share is {dev_share}: at least 0 and less than 1 is expected")
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for i, sentence in enumerate(sentences):
        groups[sentence.document].append(i)
    if len(groups) == 1:
        groups = defaultdict(list, {i: [i] for i in range(len(sentences))})
    order = sorted(groups)
    Random(seed).shuffle(order)
    target = max(1, round(dev_share * len(sentences))) if dev_share else 0
    dev: set[int] = set()
    n_left = len(order)
    if target:
        for document in order:
            if n_left > 1 and len(dev) + len(groups[document]) <= target:
                dev.update(groups[document])
                n_left -= 1
        if not dev and n_left > 1:
            dev.update(groups[min(order, key=lambda document: len(groups[document]))])
    train = [s for i, s in enumerate(sentences) if i not in dev]
    return train, [sentences[i] for i in sorted(dev)]


class _Types:
    """Which type each name in the data stands for."""

    def __init__(self, kept: tuple[str, ...] | None) -> None:
        self._kept = kept

    def named(self, name: str) -> str:
        """The type, its alias resolved."""
        if self._kept is not None and name in self._kept:
            return name
        return ALIASES.get(name, name)

    def keeps(self, entity_type: str) -> bool:
        return self._kept is None or entity_type in self._kept


def _lines_of(path: Path) -> Iterator[str]:
    """The lines, without their ends and a byte order mark. They end in ``\\n``, ``\\r\\n`` or ``\\r``."""
    before = 0  # bytes before the line
    try:
        with open_bytes(path) as opened:
            for number, raw in enumerate(opened, 1):
                try:
                    line = raw.decode()
                except UnicodeDecodeError as error:
                    byte, at = raw[error.start], before + error.start
                    raise CorpusError(
                        f"{path}:{number}: byte {byte:#04x} at offset {at} is not UTF-8"
                    ) from None
                line = line.removesuffix("\n")
                if not before:
                    line = line.removeprefix("\ufeff")
                before += len(raw)
                if "\r" in line:
                    yield from line.removesuffix("\r").split("\r")
                else:
                    yield line
    except (EOFError, lzma.LZMAError, zlib.error) as error:
        raise CorpusError(f"{path}: damaged or truncated: {error}") from None
    except OSError as error:
        raise CorpusError(f"{path}: {error.strerror or error}") from None


def _is_json(path: Path, first_line: str) -> bool:
    """``first_line``: the first that is not blank."""
    name = path.name.removesuffix(".gz").removesuffix(".xz")
    if name.endswith(_JSON_SUFFIXES):
        return True
    if not first_line.lstrip().startswith("{"):
        return False
    try:
        return isinstance(json.loads(first_line), dict)
    except ValueError:
        return False


# Columns


def _read_columns(path: Path, lines: Iterable[str], types: _Types, scheme: str) -> Iterator[Sentence]:
    prefixes = SCHEMES.get(scheme, "BIESLU")
    known: dict[str, str] = {OUTSIDE: OUTSIDE}  # a label as written → with its type's own name
    kept: dict[str, bool] = {}  # the latter → whether its type is
    interned: dict[str, str] = {}  # a corpus repeats its words: one string for each
    tokens: list[str] = []
    labels: list[str] = []
    document, fresh = 0, True  # fresh: the document has no sentence yet
    number = 0

    def end_sentence(number: int) -> Iterator[Sentence]:
        """The sentence, if one has begun; ``number`` is that of the line after its last."""
        nonlocal tokens, labels, fresh
        if tokens:
            if scheme != "auto":
                _check(path, number - len(tokens), labels, scheme)
            yield Sentence(tuple(tokens), _as_iob2(labels, kept), document)
            tokens, labels, fresh = [], [], False

    for number, line in enumerate(lines, 1):
        token, _, written = line.partition("\t")
        label = known.get(written)
        # Nearly all lines of a large file: two columns, a tab, a label that was seen before.
        if label is None or not token or token == _DOCUMENT_START:
            if not line.strip(" \t"):
                yield from end_sentence(number)
                continue
            if line.startswith(_DOCUMENT_START):
                yield from end_sentence(number)
                document, fresh = (document if fresh else document + 1), True
                continue
            if line.startswith("#") and not tokens and _is_comment(line):
                if _NEW_DOCUMENT.match(line):
                    document, fresh = (document if fresh else document + 1), True
                continue
            fields = _columns(line)
            if not 2 <= len(fields) <= 4:
                raise CorpusError(
                    f"{path}:{number}: {len(fields)} column{'s' * (len(fields) != 1)}, "
                    f"2 to 4 are expected: a token first, its label last"
                )
            token, written = fields[0], fields[-1]
            if not token:
                raise CorpusError(f"{path}:{number}: the token is empty")
            label = known.get(written)
            if label is None:
                prefix, dash, name = written.partition("-")
                if not (dash and name and len(prefix) == 1 and prefix in prefixes):
                    choices = ", ".join(f"'{p}-'" for p in prefixes)
                    raise CorpusError(
                        f"{path}:{number}: label {written!r} is not 'O', nor one of {choices} and a type, "
                        f"such as 'B-{PERSON}'"
                    )
                label = known[written] = f"{prefix}-{types.named(name)}"
                kept[label] = types.keeps(label[2:])
        tokens.append(interned.setdefault(token, token))
        labels.append(label)
    yield from end_sentence(number + 1)
    if scheme == "auto":
        try:
            detect_scheme([list(known.values())])
        except ValueError as error:
            raise CorpusError(f"{path}: {error}") from None


def _columns(line: str) -> list[str]:
    line = line.rstrip(" \t")
    return line.split("\t") if "\t" in line else [field for field in line.split(" ") if field]


def _is_comment(line: str) -> bool:
    """Of a line that begins with "#", before a sentence's first token."""
    if "\t" in line:
        return False
    fields = _columns(line)
    is_no_token = fields[0] == "#" and len(fields) > 1 and not _LABEL.fullmatch(fields[-1])
    return is_no_token or bool(_CLEAR_COMMENT.match(line))


def _starts(before: str, label: str) -> bool:
    """Whether ``label`` begins a span where it follows ``before``: conlleval's startOfChunk."""
    return label[0] in "BSU" or before[1:] != label[1:] or before[0] in "ESLU"


def _as_iob2(labels: list[str], kept: dict[str, bool]) -> tuple[str, ...]:
    before = OUTSIDE
    out: list[str] = []
    for label in labels:
        if label == OUTSIDE or not kept[label]:
            out.append(OUTSIDE)
        else:
            out.append(("B" if _starts(before, label) else "I") + label[1:])
        before = label
    return tuple(out)


def _check(path: Path, first_line: int, labels: list[str], scheme: str) -> None:
    """Raises CorpusError for the first label that ``scheme`` does not allow at its place."""
    for i, label in enumerate(labels):
        before = labels[i - 1] if i else OUTSIDE
        goes_on = before[1:] == label[1:] and label != OUTSIDE  # a span of this type could continue
        if scheme == "iob1":
            wrong = label[0] == "B" and not goes_on
        elif scheme == "iob2":
            wrong = label[0] == "I" and not goes_on
        else:
            is_open = before[0] in "BI"
            wrong = (label[0] in "IEL") != is_open or (is_open and not goes_on)
        if wrong:
            raise CorpusError(
                f"{path}:{first_line + i}: label {label!r} may not follow {before!r} in {scheme.upper()} "
                "(scheme 'auto' reads such a file)"
            )
    if scheme in ("bioes", "bilou") and labels[-1][0] in "BI":
        last = first_line + len(labels) - 1
        raise CorpusError(
            f"{path}:{last}: label {labels[-1]!r} may not end a sentence in {scheme.upper()} "
            "(scheme 'auto' reads such a file)"
        )


# JSON lines


@dataclass(frozen=True, slots=True, order=True)
class _Annotation:
    """Characters ``[start, end)`` of a text, in code points."""

    start: int
    end: int
    entity_type: str


def _read_json_lines(
    path: Path, lines: Iterable[str], types: _Types, tokenise: Callable[[str], Tokens]
) -> Iterator[Sentence]:
    document = 0
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise CorpusError(f"{where}: not JSON: {error}") from None
        if not isinstance(record, dict):
            raise CorpusError(f"{where}: one JSON object a line is expected, not {type(record).__name__}")
        if record.get("answer", "accept") != "accept":  # Prodigy: rejected or ignored
            continue
        text = record.get("text")
        if not isinstance(text, str):
            raise CorpusError(f"{where}: 'text' is {text!r:.40}, a string is expected")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise CorpusError(f"{where}: 'text' holds half a surrogate pair at {error.start}") from None
        found = _sentences_of_document(text, _annotations(where, record, text, types), tokenise)
        yield from (Sentence(tokens, labels, document) for tokens, labels in found)
        document += bool(found)


def _annotations(where: str, record: dict[str, Any], text: str, types: _Types) -> list[_Annotation]:
    """The kept spans of a document, in order; no two overlap, none begins or ends with white space."""
    keys = [key for key in _SPAN_KEYS if key in record]
    # Two lists could say two things; none could be a misspelt key, and all its names would be O.
    if len(keys) != 1 and not (not keys and "answer" in record):
        raise CorpusError(f"{where}: holds {keys or 'no spans'}, exactly one of {_SPAN_KEYS} is expected")
    listed = record[keys[0]] if keys else []
    if not isinstance(listed, list):
        raise CorpusError(f"{where}: {keys[0]!r} is {listed!r:.40}, a list is expected")
    unit = record.get("offset_unit", "codepoint")
    if unit not in OFFSET_UNITS:
        raise CorpusError(f"{where}: offset_unit {unit!r} is not one of {OFFSET_UNITS}")
    to_code_point = _to_code_point(text, unit)
    found: list[_Annotation] = []
    for item in listed:
        start, end, name = _span_fields(where, item)
        if not (start < end and start in to_code_point and end in to_code_point):
            n = max(to_code_point)
            raise CorpusError(
                f"{where}: span [{start}, {end}) is not 0 <= start < end <= {n}, between characters of the "
                f"text (offsets count {unit})"
            )
        if not types.keeps(entity_type := types.named(name)):
            continue
        first, last = to_code_point[start], to_code_point[end]
        covered = text[first:last]
        if not covered.strip():
            raise CorpusError(f"{where}: span [{start}, {end}) holds only white space")
        first += len(covered) - len(covered.lstrip())
        last -= len(covered) - len(covered.rstrip())
        found.append(_Annotation(first, last, entity_type))
    found.sort()
    for a, b in pairwise(found):
        if b.start < a.end:
            raise CorpusError(
                f"{where}: span [{b.start}, {b.end}) {text[b.start : b.end]!r:.40} overlaps "
                f"[{a.start}, {a.end}) {text[a.start : a.end]!r:.40}; spans that do not are expected"
            )
    return found


def _span_fields(where: str, item: Any) -> tuple[int, int, str]:
    if isinstance(item, dict):
        start = item.get("start", item.get("start_offset"))
        end, label = item.get("end", item.get("end_offset")), item.get("label")
    elif isinstance(item, list) and len(item) == 3:
        start, end, label = item
    else:
        start = end = label = None
    if type(start) is not int or type(end) is not int or not isinstance(label, str) or not label:
        raise CorpusError(
            f'{where}: span {item!r:.80} is neither {{"start": int, "end": int, "label": str}} '
            "nor [start, end, label]"
        )
    return start, end, label


def _to_code_point(text: str, unit: str) -> dict[int, int] | range:
    """From an offset in ``unit`` to one in code points; an offset inside a character is not in it."""
    if unit == "codepoint" or text.isascii():
        return range(len(text) + 1)
    encoding, width = ("utf-16-le", 2) if unit == "utf16" else ("utf-8", 1)
    offsets, at = {0: 0}, 0
    for i, char in enumerate(text, 1):
        at += len(char.encode(encoding)) // width
        offsets[at] = i
    return offsets


def _sentences_of_document(
    text: str, annotations: list[_Annotation], tokenise: Callable[[str], Tokens]
) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Each sentence's tokens and labels."""
    tokens = tokenise(text)
    # Sentences first, from the tokens that the service would see; then the cuts.
    starts = {tokens.starts[first] for first, _ in sentences_of(tokens, text)}
    edges = sorted({edge for a in annotations for edge in (a.start, a.end)})
    found: list[tuple[list[str], list[str]]] = []
    next_edge = next_span = 0
    for first, last in zip(tokens.starts, tokens.ends, strict=True):
        while next_edge < len(edges) and edges[next_edge] <= first:
            next_edge += 1
        cuts = [first]
        while next_edge < len(edges) and edges[next_edge] < last:
            cuts.append(edges[next_edge])
            next_edge += 1
        for start, end in zip(cuts, [*cuts[1:], last], strict=True):
            while next_span < len(annotations) and annotations[next_span].end <= start:
                next_span += 1
            label = OUTSIDE
            if next_span < len(annotations) and (span := annotations[next_span]).start <= start:
                label = ("B-" if span.start == start else "I-") + span.entity_type
            if start in starts and not label.startswith("I-"):
                found.append(([], []))
            found[-1][0].append(text[start:end])
            found[-1][1].append(label)
    return [(tuple(words), tuple(labels)) for words, labels in found]
