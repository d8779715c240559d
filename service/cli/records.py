"""What the rooms of the engine hand each other, from the reading of an input to its output."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from service.cli.errors import InputError

if TYPE_CHECKING:  # --help needs no NumPy
    from model.head import Tagged
    from model.tokeniser import Tokens


class Record(NamedTuple):
    """One text to tag, and what its place in its file is."""

    line: int  # where it begins, from 1
    start: int  # of txt: where it begins in the file, in the unit of the offsets
    text: str
    id: Any = None  # of jsonl and parquet: its own, if it has one
    row: tuple[str, ...] = ()  # of csv: all columns
    fields: dict[str, Any] | None = None  # of jsonl: the whole object
    blank_lines: int = 0  # of txt: how many are before it


@dataclass(frozen=True, slots=True)
class Options:
    """What is to be done with every chunk of a run."""

    model: Path
    threshold: float | None
    unit: str
    format: str
    has_tokens: bool = False
    mode: str = ""  # of redaction; empty to tag
    key: bytes = b""
    column: str | None = None  # of csv, what is redacted
    field: str = "text"  # of jsonl
    device: str = "cpu"

    @property
    def key_mark(self) -> str:
        """Tells keys apart, and nothing more of them."""
        return hmac.new(self.key, b"which key", hashlib.sha256).hexdigest()[:16] if self.key else ""


@dataclass(frozen=True, slots=True)
class Chunk:
    """``name`` is the input's, as the output says it; None for stdin."""

    name: str | None
    kind: str
    header: tuple[str, ...]
    records: list[Record | InputError]
    index: int  # in its input, from 0
    position: int  # bytes of all inputs up to its end, about

    def __reduce__(self) -> tuple[Any, ...]:
        """Records go to other processes as plain tuples: as what they are, it takes three times as long."""
        plain = [tuple(each) if isinstance(each, Record) else each for each in self.records]
        return _chunk, (plain, self.name, self.kind, self.header, self.index, self.position)


def _chunk(plain: list[Any], name: str | None, kind: str, header: tuple[str, ...], *places: int) -> Chunk:
    records = [Record._make(each) if isinstance(each, tuple) else each for each in plain]
    return Chunk(name, kind, header, records, *places)


@dataclass(frozen=True, slots=True)
class Sentence:
    """Offsets of the tokens are code points of the record's text."""

    tokens: Tokens
    tagged: Tagged


@dataclass(frozen=True, slots=True)
class Done:
    """A chunk's output, and counts."""

    index: int  # the chunk's, and its position
    position: int
    output: bytes
    n_tokens: int
    n_persons: int
    n_records: int
    errors: list[str]
