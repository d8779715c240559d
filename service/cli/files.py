"""Inputs, options and a place for the output in; everything done, reported and counted out.

What `nametag tag` and `nametag redact` have in common.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from service.cli.engine import Engine, Note
from service.cli.errors import CliError
from service.cli.feed import BadLines, Begin, Event, Todo, feed, plan
from service.cli.inputs import Reading
from service.cli.models import identity_of
from service.cli.parts import Folder, Output
from service.cli.places import Input, kind_of
from service.cli.records import Chunk, Done, Options
from service.cli.scale import Scale
from service.cli.work import setup, work

_MOST_ERRORS = 20  # that are shown of one input


def run(
    inputs: list[Input], how: Reading, options: Options, *, out: Path | None, suffix: str, scale: Scale
) -> int:
    """The exit code. Raises CliError."""
    folder = None
    if out is not None:
        for each in inputs:
            if each.is_stream:
                raise CliError(f"--out takes files: {each.said} cannot be read again to go on")
        folder = Folder(out, _kept(options, how), inputs, lambda each: _suffix_of(each, how, suffix))
    elif suffix == ".parquet":
        raise CliError("--format parquet: --out is expected: the folder for the files")
    reported = Report(sum(each.size() for each in inputs))
    try:
        with reported:
            _write(_done(plan(inputs, folder), how, options, scale), folder, reported)
    finally:
        if folder is not None:
            folder.close()
    return 1 if reported.is_bad else 0


def _done(
    planned: Iterator[Todo | Note], how: Reading, options: Options, scale: Scale
) -> Iterator[Done | Note]:
    if scale.engine == "ray":
        from service.cli.ray_engine import run as run_on_ray

        return run_on_ray(list(planned), how, options, scale)
    engine: Engine[Chunk, Done] = Engine(setup, work, options, scale.n_processes)
    return engine.run(feed(planned, how, options))


def _suffix_of(read: Input, how: Reading, suffix: str) -> str:
    """``suffix``, but that a csv has the separators of its input (service/cli/formats.py)."""
    return ".tsv" if suffix == ".csv" and (how.kind or kind_of(read.path)) == "tsv" else suffix


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


def _write(done: Iterator[Done | Note], folder: Folder | None, report: Report) -> None:
    stdout = _stdout() if folder is None else None
    header = b""  # the last that was written to stdout
    output: Output | None = None  # of the input that is written
    n_bad = 0
    for each in done:
        if not isinstance(each, Note):
            report.bad_lines(each.errors)
            n_bad += len(each.errors)
            report.progress(each.position, each.n_tokens)
            if output is not None:
                output.add(each.index, each.output)
            elif stdout is not None:
                stdout.write(each.output)
                stdout.flush()
            continue
        event: Event = each.value
        if isinstance(event, BadLines):
            report.bad_lines(event.messages)
            n_bad += len(event.messages)
        elif isinstance(event, Begin):
            n_bad = 0
            report.begin()
            if folder is not None:
                output = folder.output(event.read)
            elif stdout is not None and event.header != header:
                stdout.write(event.header)
                header = event.header
        else:
            if event.trouble is not None:
                report.error(event.trouble)
            if folder is not None:
                output = output or folder.output(event.read)
                if event.trouble is None:
                    output.end(event.header, event.n_chunks, n_bad)
                else:
                    output.fail(event.trouble)
                output = None


def _stdout() -> BinaryIO:
    """Raises CliError."""
    if sys.stdout is None:
        raise CliError("stdout: is closed: a file or a pipe is expected there, or --out", exit_code=1)
    return sys.stdout.buffer


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
