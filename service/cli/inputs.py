"""Files in, the records to tag out, a chunk at a time; never more of a file than a bounded part.

    txt     a record is a paragraph, or a line; its offsets count from the start of the file
    jsonl   a record is a line: an object with a text
    csv     a record is a row: one column of it is the text; and tsv, and parquet (service/cli/parquet.py)

Which records there are, and which chunk each is in, depends on the file's content alone: that is what
a run which was interrupted goes on by.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import json
import lzma
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from service.cli.errors import InputError
from service.cli.places import STDIN, Input, kind_of
from service.cli.records import Record

KINDS = ("txt", "jsonl", "csv", "tsv", "parquet")
SEPARATORS = {"csv": ",", "tsv": "\t"}
# After these the rest of a csv is no rows: a quote is open, or a field is cut anywhere.
_NO_MORE_ROWS = ("unexpected end of data", "field larger than")
HAVE_COLUMNS = (*SEPARATORS, "parquet")
_PACKED: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open}

# About 12,000 words, which one core tags in a fifth of a second: enough that sending them to another
# process and sorting them by length pays, and little enough that a window of chunks is small.
CHUNK_CHARS = 64_000
# A longer paragraph is cut at the end of a line or else at white space.
MAX_PARAGRAPH_CHARS = 100_000
# Of a file that is redacted as one: the same person has the same number in all of it.
MAX_WHOLE_CHARS = 1_000_000
MAX_LINE_CHARS = 16_000_000
# Of JSON: deeper ones would not get to another process, nor into the output.
MAX_DEPTH = 200
_BLOCK_BYTES = 1 << 17

# How long a text is in each unit of offsets (service/offsets.py).
LENGTHS: dict[str, Callable[[str], int]] = {
    "codepoint": len,
    "utf16": lambda text: len(text.encode("utf-16-le")) // 2,
    "utf8": lambda text: len(text.encode()),
}


@dataclass(frozen=True, slots=True)
class Reading:
    """How files are to be read."""

    unit: str = "codepoint"
    split: str = "paragraph"  # of txt: "paragraph", "line", or "whole", which leaves no character out
    kind: str | None = None  # None: by the file's name
    column: str | None = None  # of csv and parquet
    field: str = "text"  # of jsonl


@dataclass
class Source:
    """One open input. ``header``: of csv, the names of the columns."""

    name: str
    kind: str
    header: list[str]
    records: Iterator[Record | InputError]  # an InputError is one bad line
    file: BinaryIO

    def position(self) -> int:
        """How many bytes of the file have been read, where that is known."""
        try:
            return 0 if self.name == STDIN else self.file.tell()
        except OSError:  # of a pipe
            return 0

    def close(self) -> None:
        if self.name != STDIN:
            self.file.close()


def opened(read: Input, how: Reading) -> Source:
    """To be closed. Raises InputError, as the records do where the rest of a file cannot be read."""
    name = read.name
    kind = how.kind or kind_of(name)
    file = _stdin() if name == STDIN else read.open()
    if kind == "parquet":
        from service.cli.parquet import records_of

        try:
            return Source(name, kind, [], records_of(file, name, how.column), file)
        except BaseException:
            file.close()
            raise
    blocks = _decoded(_reader(file, name), name)
    if kind in SEPARATORS:
        try:
            header, records = _csv(blocks, name, how.column, SEPARATORS[kind])
        except InputError:
            file.close()
            raise
        return Source(name, kind, header, records, file)
    if kind == "jsonl":
        return Source(name, kind, [], _jsonl(blocks, name, how.field), file)
    return Source(name, kind, [], _txt(blocks, how), file)


def _stdin() -> BinaryIO:
    if sys.stdin is None:
        raise InputError("stdin: is closed: a file or a pipe is expected there")
    return sys.stdin.buffer


def chunks(records: Iterator[Record | InputError]) -> Iterator[list[Record | InputError]]:
    """The records in portions of about CHUNK_CHARS, in order. Raises InputError after what came before."""
    chunk: list[Record | InputError] = []
    n_chars = 0
    trouble: InputError | None = None
    while True:
        try:
            record = next(records, None)
        except InputError as error:
            record, trouble = None, error
        if record is not None:
            chunk.append(record)
            n_chars += len(record.text) if isinstance(record, Record) else 0
        if chunk and (record is None or n_chars >= CHUNK_CHARS):
            yield chunk
            chunk, n_chars = [], 0
        if trouble is not None:
            raise trouble
        if record is None:
            return


def _reader(file: BinaryIO, name: str) -> Callable[[], bytes]:
    """Gives the next bytes, none at the end. Raises InputError."""
    suffix = Path(name).suffix
    read = file.read
    if suffix in _PACKED:
        read = _PACKED[suffix](file).read

    def block() -> bytes:
        try:
            return read(_BLOCK_BYTES)
        except (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError) as error:
            raise InputError(f"{name}: is not a whole {suffix} file: {error}") from None
        except OSError as error:
            raise InputError(f"{name}: {error.strerror or error}") from None
        except Exception as error:
            if "://" not in name:
                raise
            # A store's own package may raise anything.
            raise InputError(f"{name}: {type(error).__name__}: {error}") from None

    return block


def _decoded(read: Callable[[], bytes], name: str) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    n_bytes = 0
    n_lines = 0
    while True:
        block = read()
        at = n_bytes - len(decoder.getstate()[0])  # of the first byte that is not decoded
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            good = error.object[: error.start]
            line = n_lines + good.count(b"\n") + 1
            if good:
                yield good.decode()
            raise InputError(f"{name}:{line}: byte {at + error.start:,} of the file is not UTF-8") from None
        n_bytes += len(block)
        n_lines += text.count("\n")
        if text:
            yield text
        if not block:
            return


def lines_of(blocks: Iterator[str], most: int) -> Iterator[str]:
    """Lines with their ends; one of more than ``most`` characters in pieces, cut at white space."""
    rest = ""
    for block in blocks:
        rest += block
        start = 0
        while True:
            end = rest.find("\n", start) + 1
            if (end or len(rest)) - start > most:
                piece = rest[start : start + most]
                space = max(piece.rfind(" "), piece.rfind("\t")) + 1
                end = start + (space or most)
            elif not end:
                break
            yield rest[start:end]
            start = end
        rest = rest[start:]
    if rest:
        yield rest


def _txt(blocks: Iterator[str], how: Reading) -> Iterator[Record | InputError]:
    """Paragraphs, between lines that are blank; or lines that are not; or, whole, all there is."""
    length = LENGTHS[how.unit]
    most = MAX_WHOLE_CHARS if how.split == "whole" else MAX_PARAGRAPH_CHARS
    parts: list[str] = []
    n_chars = 0
    first_line, line = 1, 1
    start = at = 0  # of the record, and of the line
    n_blank = 0  # lines since the last record

    def record() -> Record:
        text = "".join(parts)
        text = text if how.split == "whole" else text.rstrip("\r\n")
        return Record(first_line, start, text, blank_lines=n_blank)

    for each in lines_of(blocks, MAX_PARAGRAPH_CHARS):
        is_blank = each.isspace()
        is_end = is_blank or how.split == "line" or n_chars + len(each) > most
        if how.split == "whole":
            # Rather at a blank line than anywhere.
            is_end = n_chars + len(each) > most or (is_blank and n_chars > most // 2)
        if is_end and parts:
            yield record()
            parts, n_chars, n_blank = [], 0, 0
        if not is_blank or how.split == "whole":
            if not parts:
                first_line, start = line, at
            parts.append(each)
            n_chars += len(each)
        else:
            n_blank += each[-1] == "\n"
        at += length(each)
        line += each[-1] == "\n"
    if parts:
        yield record()


def _jsonl(blocks: Iterator[str], name: str, field: str) -> Iterator[Record | InputError]:
    line = 1
    is_skipping = False  # the rest of a line that is too long
    for each in lines_of(blocks, MAX_LINE_CHARS):
        is_whole = each[-1] == "\n" or len(each) < MAX_LINE_CHARS // 2
        if is_skipping:
            is_skipping = each[-1] != "\n"
        elif not is_whole:
            yield InputError(f"{name}:{line}: a line of more than {MAX_LINE_CHARS:,} characters")
            is_skipping = True
        elif not each.isspace():
            yield _object(each.removeprefix("\ufeff") if line == 1 else each, f"{name}:{line}", line, field)
        line += each[-1] == "\n"


def _object(content: str, place: str, line: int, field: str) -> Record | InputError:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        at = f", at column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        return InputError(f"{place}: is not JSON{at}")
    if not isinstance(value, dict):
        return InputError(f"{place}: is not an object: one with {field!r} is expected")
    if content.count("{") + content.count("[") > MAX_DEPTH and _is_deep(value):
        return InputError(f"{place}: is nested deeper than {MAX_DEPTH} levels, which are expected at most")
    text = value.get(field)
    if not isinstance(text, str):
        kind = "is missing" if field not in value else "is not a string"
        return InputError(f"{place}: {field!r} {kind}: an object with a text there is expected")
    if "\\u" in content:  # what was decoded from UTF-8 has none but those that are written like this
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            return InputError(f"{place}: a string has half a surrogate pair, which is no character")
    return Record(line, 0, text, value.get("id"), (), value)


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        inner = (each.values() if isinstance(each, dict) else each for each in level)
        level = [each for values in inner for each in values if isinstance(each, dict | list)]
        if not level:
            return False
    return True


def _csv(
    blocks: Iterator[str], name: str, column: str | None, separator: str
) -> tuple[list[str], Iterator[Record | InputError]]:
    """The columns' names, and a record for each row. Raises InputError where there is no such column."""
    csv.field_size_limit(MAX_LINE_CHARS)
    rows = csv.reader(_without_mark(lines_of(blocks, MAX_LINE_CHARS)), delimiter=separator, strict=True)
    try:
        header = next(rows, [])
    except csv.Error as error:
        raise InputError(f"{name}:{rows.line_num}: {error}") from None
    if column is None:
        raise InputError(f"{name}: --column is expected: one of {', '.join(header)}")
    if column not in header:
        raise InputError(f"{name}: has no column {column!r}: its columns are {', '.join(header)}")
    place = header.index(column)

    def records() -> Iterator[Record | InputError]:
        line = rows.line_num + 1
        while True:
            try:
                row = next(rows, None)
            except csv.Error as error:
                bad = InputError(f"{name}:{line}: {error}")
                if str(error).startswith(_NO_MORE_ROWS):
                    raise bad from None
                yield bad
                row = []
            if row is None:
                return
            if len(row) == len(header):
                yield Record(line, 0, row[place], row=tuple(row))
            elif row:
                yield InputError(f"{name}:{line}: {len(row)} columns, and {len(header)} are expected")
            line = rows.line_num + 1

    return header, records()


def _without_mark(lines: Iterator[str]) -> Iterator[str]:
    for number, line in enumerate(lines):
        yield line if number else line.removeprefix("\ufeff")
