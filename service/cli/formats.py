"""One tagged, or redacted, record in, its lines of output out: as bytes in UTF-8.

jsonl   an object for each record: {"file", "line", "start", "end", "persons": […]}, fields as in
        POST /v1/tag, without "file" for stdin and with "start" and "end" for txt alone
conll   a token and its label on each line, a blank line after each sentence
parquet the same columns as jsonl without "tokens"
csv     of a csv, its columns and one more, "persons"; else a row for each person
text    the text itself, with the persons marked, and its blank lines but for those at the end
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from typing import Any

import orjson

from model.labels import PERSON
from service.cli.inputs import SEPARATORS
from service.cli.records import Chunk, Options, Record, Sentence
from service.offsets import converted, table_of
from service.redaction.schemas import result_json
from service.redaction.texts import Redacted

PERSONS = "persons"  # the column that is added to a csv
CSV_HEADER = ("file", "line", "start", "end", "score", "person")
_COLOUR, _PLAIN = "\x1b[1;36m", "\x1b[0m"


def _spans(sentences: list[Sentence]) -> list[tuple[int, int, float]]:
    """(start, end, score) of the persons of a record, in code points."""
    return [
        (s.tokens.starts[each.span.start], s.tokens.ends[each.span.end - 1], each.score)
        for s in sentences
        for each in s.tagged.spans
        if each.span.entity_type == PERSON
    ]


def _persons(record: Record, sentences: list[Sentence], unit: str) -> list[dict[str, Any]]:
    spans = _spans(sentences)
    table = table_of(record.text, unit) if spans else None
    starts = converted(table, [start for start, _, _ in spans])
    ends = converted(table, [end for _, end, _ in spans])
    return [
        {
            "text": record.text[start:end],
            "start": record.start + shown_start,
            "end": record.start + shown_end,
            "score": round(score, 6),
        }
        for (start, end, score), shown_start, shown_end in zip(spans, starts, ends, strict=True)
    ]


def _place(record: Record, chunk: Chunk, unit: str) -> dict[str, Any]:
    place: dict[str, Any] = {} if chunk.name is None else {"file": chunk.name}
    place["line"] = record.line
    if record.id is not None:
        place["id"] = record.id
    if chunk.kind == "txt":
        table = table_of(record.text, unit)
        length = len(record.text) if table is None else int(table[-1])
        place |= {"start": record.start, "end": record.start + length}
    return place


def _jsonl(record: Record, sentences: list[Sentence], chunk: Chunk, options: Options) -> bytes:
    found = _place(record, chunk, options.unit)
    if options.has_tokens:
        found["sentences"] = _with_tokens(record, sentences, options.unit)
    else:
        found["persons"] = _persons(record, sentences, options.unit)
    return _json_line(found)


def _json_line(found: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(found, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # a whole number of more than 64 bits, in somebody's "id"
        import json

        return (json.dumps(found, ensure_ascii=False, separators=(",", ":")) + "\n").encode()


def _with_tokens(record: Record, sentences: list[Sentence], unit: str) -> list[dict[str, Any]]:
    """As POST /v1/tag answers a document."""
    from service.schemas import sentence_json

    table = table_of(record.text, unit)
    flags = {label: int(label.endswith(f"-{PERSON}")) for s in sentences for label in s.tagged.labels}
    entries = []
    for s in sentences:
        shown = record.text[s.tokens.starts[0] : s.tokens.ends[-1]]
        entry = sentence_json(record.text, shown, s.tokens, s.tagged, table, flags)
        for each in (*entry["tokens"], *entry["persons"]):
            each["start"] += record.start
            each["end"] += record.start
        entries.append(entry)
    return entries


def _conll(_: Record, sentences: list[Sentence], chunk: Chunk, __: Options) -> bytes:
    lines = [] if chunk.kind == "txt" else ["-DOCSTART-\tO\n\n"]
    for s in sentences:
        lines += [f"{t}\t{label}\n" for t, label in zip(s.tokens.texts, s.tagged.labels, strict=True)]
        lines.append("\n")
    return "".join(lines).encode()


def _csv(record: Record, sentences: list[Sentence], chunk: Chunk, options: Options) -> bytes:
    persons = _persons(record, sentences, options.unit)
    if chunk.kind in SEPARATORS:
        names = "; ".join(" ".join(p["text"].split()) for p in persons)
        return csv_line((*record.row, names), chunk.kind)
    return b"".join(
        csv_line((chunk.name or "", record.line, p["start"], p["end"], p["score"], p["text"]))
        for p in persons
    )


def csv_line(row: tuple[object, ...], kind: str = "csv") -> bytes:
    line = io.StringIO()
    # Only what is in the line's end is quoted: a lone "\r" has to be too, or nobody can read it.
    csv.writer(line, delimiter=SEPARATORS[kind], lineterminator="\r\n").writerow(row)
    return (line.getvalue().removesuffix("\r\n") + "\n").encode()


def _marked(record: Record, sentences: list[Sentence], before: str, after: str) -> bytes:
    parts = ["\n" * record.blank_lines]
    at = 0
    for start, end, _ in _spans(sentences):
        parts += (record.text[at:start], before, record.text[start:end], after)
        at = end
    return "".join((*parts, record.text[at:], "\n")).encode()


def _text(record: Record, sentences: list[Sentence], _: Chunk, __: Options) -> bytes:
    return _marked(record, sentences, "[", "]")


def _colour(record: Record, sentences: list[Sentence], _: Chunk, __: Options) -> bytes:
    return _marked(record, sentences, _COLOUR, _PLAIN)


FORMATS: dict[str, Callable[[Record, list[Sentence], Chunk, Options], bytes]] = {
    "jsonl": _jsonl,
    "conll": _conll,
    "csv": _csv,
    "parquet": _jsonl,  # which service/cli/parts.py makes Parquet of, when the whole file is there
    "text": _text,
    "colour": _colour,
}


def header_of(format_: str, kind: str, header: tuple[str, ...], *, is_redaction: bool) -> bytes:
    """What stands before an input's lines."""
    if is_redaction:
        return csv_line(header, kind) if kind in SEPARATORS and format_ == "same" else b""
    if format_ == "conll":
        return b"-DOCSTART-\tO\n\n" if kind == "txt" else b""
    if format_ != "csv":
        return b""
    return csv_line((*header, PERSONS), kind) if kind in SEPARATORS else csv_line(CSV_HEADER)


def redacted_lines(record: Record, result: Redacted, chunk: Chunk, options: Options) -> bytes:
    """The record as it was, but redacted; or an entry as in POST /v1/redact."""
    if options.format == "jsonl":
        entry = result_json(result, record.text, options.unit)
        for each in entry["replacements"]:
            # Where it was counts from the start of the file; where it is, from the start of "text".
            each["start"] += record.start
            each["end"] += record.start
        return _json_line(_place(record, chunk, options.unit) | entry)
    if chunk.kind in SEPARATORS:
        at = chunk.header.index(options.column or "")
        return csv_line((*record.row[:at], result.text, *record.row[at + 1 :]), chunk.kind)
    if chunk.kind == "jsonl":
        return _json_line({**(record.fields or {}), options.field: result.text})
    return result.text.encode()
