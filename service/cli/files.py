"""Inputs, options and a place for the output in; everything done, reported and counted out.

What `nametag tag` and `nametag redact` have in common.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from service.cli.engine import Engine, Note
from service.cli.errors import CliError, InputError
from service.cli.formats import header_of
from service.cli.inputs import STDIN, Reading, chunks, opened, size_of
from service.cli.models import identity_of
from service.cli.parts import Folder, Output
from service.cli.work import Chunk, Done, Options, setup, work

_MOST_ERRORS = 20  # that are shown of one input


@dataclass(frozen=True, slots=True)
class Begin:
    name: str
    header: bytes
    output: Output | None


@dataclass(frozen=True, slots=True)
class End:
    name: str
    header: bytes
    output: Output | None
    n_chunks: int
    trouble: str | None  # why it ends before its input does


@dataclass(frozen=True, slots=True)
class BadLines:
    messages: list[str]


Event = Begin | End | BadLines


def feed(names: list[str], how: Reading, options: Options, folder: Folder | None) -> Iterator[Chunk | Note]:
    """The chunks of all inputs, and notes of where each begins and ends."""
    before = 0  # bytes of the inputs before
    for name in names:
        output = None
        try:
            if folder is not None:
                output = folder.begin(name)
                if output is None:
                    n_bad = folder.n_bad_lines(name)
                    yield Note(
                        BadLines([f"{name}: {n_bad:,} bad lines, when it was done"] if n_bad else [])
                    )
                    continue
            source = opened(name, how)
        except InputError as error:
            yield Note(End(name, b"", output, 0, str(error)))
            continue
        except OSError as error:
            yield Note(End(name, b"", output, 0, f"{name}: {error.strerror}"))
            continue
        columns = tuple(source.header)
        header = header_of(options.format, source.kind, columns, is_redaction=bool(options.mode))
        yield Note(Begin(name, header, output))
        index = 0
        trouble = None
        try:
            for records in chunks(source.records):
                if output is not None and output.has(index):
                    yield Note(BadLines([str(r) for r in records if isinstance(r, InputError)]))
                else:
                    shown = None if name == STDIN else name
                    position = before + source.position()
                    yield Chunk(shown, source.kind, columns, records, index, position)
                index += 1
        except InputError as error:
            trouble = str(error)
        finally:
            source.close()
        yield Note(End(name, header, output, index, trouble))
        before += size_of(name)


def run(
    names: list[str], how: Reading, options: Options, *, out: Path | None, suffix: str, n_processes: int
) -> int:
    """The exit code. Raises CliError."""
    folder = None
    if out is not None:
        if STDIN in names:
            raise CliError("--out takes files: stdin cannot be read again where a run is resumed")
        folder = Folder(out, _kept(options, how), names, suffix)
    reported = Report(sum(map(size_of, names)))
    try:
        with reported:
            engine: Engine[Chunk, Done] = Engine(setup, work, options, n_processes)
            _write(engine.run(feed(names, how, options, folder)), reported)
    finally:
        if folder is not None:
            folder.close()
    return 1 if reported.is_bad else 0


def _kept(options: Options, how: Reading) -> dict[str, Any]:
    """What the outputs depend on: a run goes on with these, or elsewhere."""
    return {
        "model": identity_of(options.model),
        "threshold": options.threshold,
        "offset_unit": options.unit,
        "format": options.format,
        "tokens": options.has_tokens,
        "mode": options.mode,
        # Not the key itself: the folder is for others to read.
        "key": options.key_mark,
        "split": how.split,
        "input": how.kind,
        "column": how.column,
        "field": how.field,
    }


def _write(done: Iterator[tuple[Chunk, Done] | Note], report: Report) -> None:
    stdout = sys.stdout.buffer
    header = b""  # the last that was written to stdout
    output: Output | None = None  # of the input that is written
    n_bad = 0
    for each in done:
        if not isinstance(each, Note):
            chunk, result = each
            report.bad_lines(result.errors)
            n_bad += len(result.errors)
            report.progress(chunk.position, result.n_tokens)
            if output is not None:
                output.add(chunk.index, result.output)
            else:
                stdout.write(result.output)
                stdout.flush()
            continue
        event: Event = each.value
        if isinstance(event, BadLines):
            report.bad_lines(event.messages)
            n_bad += len(event.messages)
        elif isinstance(event, Begin):
            n_bad, output = 0, event.output
            report.begin()
            if event.output is None and event.header != header:
                stdout.write(event.header)
                header = event.header
        else:
            if event.trouble is not None:
                report.error(event.trouble)
            if event.output is not None:
                if event.trouble is None:
                    event.output.end(event.header, event.n_chunks, n_bad)
                else:
                    event.output.fail(event.trouble)


class Report:
    """What a run says on stderr: what is bad and, where that is a terminal, how far it is."""

    def __init__(self, n_bytes: int) -> None:
        self._n_bytes = n_bytes
        self._bar: Any = None
        self._n_shown = 0
        self._n_tokens = 0
        self._started = time.monotonic()
        self.is_bad = False

    def __enter__(self) -> Report:
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                total=self._n_bytes or None, unit="B", unit_scale=True, file=sys.stderr, dynamic_ncols=True
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._say_rest()
        if self._bar is not None:
            self._bar.close()

    def begin(self) -> None:
        """Of the next input."""
        self._say_rest()
        self._n_shown = 0

    def _say_rest(self) -> None:
        if self._n_shown > _MOST_ERRORS:
            self._say(f"… and {self._n_shown - _MOST_ERRORS:,} more bad lines of it")

    def bad_lines(self, messages: list[str]) -> None:
        for message in messages:
            self.is_bad = True
            self._n_shown += 1
            if self._n_shown <= _MOST_ERRORS:
                self._say(message)

    def error(self, message: str) -> None:
        self.is_bad = True
        self._say(message)

    def progress(self, position: int, n_tokens: int) -> None:
        """``position``: bytes of all inputs that are done."""
        self._n_tokens += n_tokens
        if self._bar is not None:
            rate = self._n_tokens / max(1e-9, time.monotonic() - self._started)
            self._bar.set_postfix_str(f"{rate:,.0f} tokens/s", refresh=False)
            self._bar.update(position - self._bar.n)

    def _say(self, message: str) -> None:
        if self._bar is not None:
            self._bar.write(f"nametag: {message}", file=sys.stderr)
        else:
            print(f"nametag: {message}", file=sys.stderr)
