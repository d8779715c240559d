"""Inputs in, the chunks to do out, with notes of where each input begins and ends.

plan   which inputs, and which parts of them, are not done yet: the folder of outputs says so
feed   those, read: knows no folder, so it can run elsewhere, and again: it gives the same each time
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from service.cli.engine import Note
from service.cli.errors import InputError
from service.cli.formats import header_of
from service.cli.inputs import Reading, chunks, opened
from service.cli.parts import CHUNKS_PER_PART, Folder
from service.cli.places import STDIN, Input
from service.cli.records import Chunk, Options


@dataclass(frozen=True, slots=True)
class Todo:
    read: Input
    parts: frozenset[int]  # of its output, that are there
    before: int  # bytes of the inputs before


@dataclass(frozen=True, slots=True)
class Begin:
    read: Input
    header: bytes


@dataclass(frozen=True, slots=True)
class End:
    read: Input
    header: bytes
    n_chunks: int
    trouble: str | None  # why it ends before its input does


@dataclass(frozen=True, slots=True)
class BadLines:
    messages: list[str]


Event = Begin | End | BadLines


def plan(inputs: Iterable[Input], folder: Folder | None) -> Iterator[Todo | Note]:
    before = 0
    for each in inputs:
        try:
            is_done = folder is not None and not folder.begin(each)
        except InputError as error:
            yield Note(End(each, b"", 0, str(error)))
            continue
        if folder is not None and is_done:
            n_bad = folder.n_bad_lines(each)
            message = f"{each.name}: {n_bad:,} bad lines, when it was done"
            yield Note(BadLines([message] if n_bad else []))
        else:
            yield Todo(each, frozenset() if folder is None else folder.output(each).parts(), before)
        before += each.size()


def feed(planned: Iterable[Todo | Note], how: Reading, options: Options) -> Iterator[Chunk | Note]:
    for each in planned:
        if isinstance(each, Note):
            yield each
        else:
            yield from _read(each, how, options)


def _read(todo: Todo, how: Reading, options: Options) -> Iterator[Chunk | Note]:
    read = todo.read
    try:
        source = opened(read, how)
    except InputError as error:
        yield Note(End(read, b"", 0, str(error)))
        return
    columns = tuple(source.header)
    header = header_of(options.format, source.kind, columns, is_redaction=bool(options.mode))
    yield Note(Begin(read, header))
    index = 0
    trouble = None
    shown = None if read.name == STDIN else read.name
    try:
        for records in chunks(source.records):
            if index // CHUNKS_PER_PART in todo.parts:
                yield Note(BadLines([str(r) for r in records if isinstance(r, InputError)]))
            else:
                yield Chunk(shown, source.kind, columns, records, index, todo.before + source.position())
            index += 1
    except InputError as error:
        trouble = str(error)
    finally:
        source.close()
    yield Note(End(read, header, index, trouble))
