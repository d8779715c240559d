"""What annotators corrected in, lines of a file that ``python -m training train`` takes out.

A line is {"text", "spans": [{"start", "end", "label"}], "annotation", "task"}: the form of
training/corpus.py, with offsets in code points, and two members that it does not read. An annotation
that is changed replaces its line, and one that is deleted loses it, so the file always holds what
stands in Label Studio now.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson

try:
    import fcntl
except ImportError:  # Windows, where one process serves and its text thread is the only writer
    fcntl = None  # type: ignore[assignment]


@dataclass(frozen=True, slots=True)
class Region:
    """A labelled part of a text. Offsets are code points, half open."""

    start: int
    end: int
    label: str


@dataclass(frozen=True, slots=True)
class Correction:
    """One annotation of one text, as it stands now."""

    annotation: int
    task: int | None
    text: str
    regions: list[Region]

    @property
    def line(self) -> bytes:
        spans = [{"start": r.start, "end": r.end, "label": r.label} for r in self.regions]
        content = {"text": self.text, "spans": spans, "annotation": self.annotation, "task": self.task}
        return orjson.dumps(content, option=orjson.OPT_APPEND_NEWLINE)


def store(path: Path, correction: Correction) -> None:
    """Adds a correction to a file, or puts it in the place of the one before. Raises OSError, or ValueError
    where the file is not one of corrections."""
    _change(path, {correction.annotation}, correction.line)


def forget(path: Path, annotations: set[int]) -> None:
    """Takes annotations out of a file. Raises as ``store``."""
    _change(path, annotations, b"")


def _change(path: Path, replaced: set[int], line: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path.with_suffix(".lock")):
        try:
            before = path.read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            before = []
        after = [each for each in before if _annotation_of(each) not in replaced]
        # Renamed into place: a training that reads it now finds the whole of the old or the new one.
        # Not synced to the disk, which may take seconds: Label Studio has the annotation still.
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as made:
            made.write(b"".join((*after, line)))
        os.replace(made.name, path)


def _annotation_of(line: bytes) -> object:
    """Raises ValueError."""
    value = orjson.loads(line)
    if type(value) is not dict:
        raise ValueError("an object is expected on each line")
    return value.get("annotation")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One writer at a time, of all workers."""
    with path.open("wb") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
