"""Parquet in, records out; lines of JSON in, Parquet out. Alone knows pyarrow.

A row is a record, "line" its number from 1, and a column "id", where there is one, its id.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import orjson

from service.cli.errors import CliError, InputError
from service.cli.places import EXTRA
from service.cli.records import Record

_ROWS_AT_ONCE = 256


def check() -> None:
    """Raises CliError where pyarrow is not installed."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise CliError(f"Parquet: {EXTRA}") from None


def records_of(file: BinaryIO, name: str, column: str | None) -> Iterator[Record | InputError]:
    """Raises InputError: at once where it is no such file, and later where the rest cannot be read."""
    check()
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        source = ParquetFile(file)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{name}: is not a Parquet file: {_line(error)}") from None
    columns = source.schema_arrow.names
    if column not in columns:
        raise InputError(f"{name}: has no column {column!r}: its columns are {', '.join(columns)}")
    wanted = [column] if column == "id" or "id" not in columns else [column, "id"]
    for each in wanted:
        if columns.count(each) > 1:
            raise InputError(f"{name}: has {columns.count(each)} columns {each!r}: one is expected")
    return _records(source, name, str(column), wanted)


def _records(source: Any, name: str, column: str, columns: list[Any]) -> Iterator[Record | InputError]:
    import pyarrow

    line = 0
    try:
        for batch in source.iter_batches(_ROWS_AT_ONCE, columns=columns, use_threads=False):
            texts = batch.column(column).to_pylist()
            ids = batch.column("id").to_pylist() if "id" in columns else [None] * len(texts)
            for text, id_ in zip(texts, ids, strict=True):
                line += 1
                if isinstance(text, str):
                    yield Record(line, 0, text, id_ if isinstance(id_, int | str | None) else str(id_))
                else:
                    kind = "is null" if text is None else f"is a {type(text).__name__}"
                    yield InputError(f"{name}:{line}: {column!r} {kind}: a text is expected")
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        # Not a decoder's own words: they may show what was there.
        what = "not UTF-8" if isinstance(error, UnicodeDecodeError) else _line(error)
        raise InputError(f"{name}: cannot be read after row {line:,}: {what}") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


class _Sink:
    """What pyarrow writes to: keeps it until it is taken."""

    closed = False

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._n_bytes = 0

    def write(self, piece: Any) -> int:
        self._pieces.append(bytes(piece))
        self._n_bytes += len(self._pieces[-1])
        return len(self._pieces[-1])

    def tell(self) -> int:
        return self._n_bytes

    def flush(self) -> None:
        """Nothing waits here."""

    def close(self) -> None:
        self.closed = True

    def taken(self) -> bytes:
        taken, self._pieces = b"".join(self._pieces), []
        return taken


def parquet_of(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Lines as `nametag tag --format jsonl` writes them in, a file of the same in pieces out: a row
    group for each part, so that no more than one is held."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    person = pa.struct(
        [("text", pa.string()), ("start", pa.int64()), ("end", pa.int64()), ("score", pa.float64())]
    )
    schema = pa.schema(
        [
            ("file", pa.string()), ("line", pa.int64()), ("id", pa.string()), ("start", pa.int64()),
            ("end", pa.int64()), ("persons", pa.list_(person)),
        ]
    )  # fmt: skip
    sink = _Sink()
    with ParquetWriter(pa.PythonFile(sink, mode="w"), schema, compression="zstd") as writer:
        for part in parts:
            rows = [_row(line) for line in part.splitlines()]
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
            yield sink.taken()
    yield sink.taken()


def _row(line: bytes) -> dict[str, Any]:
    try:
        row: dict[str, Any] = orjson.loads(line)
    except orjson.JSONDecodeError:  # a whole number of more than 64 bits, in somebody's "id"
        row = json.loads(line)
    id_ = row.get("id")
    # One column has one type: what is no text is there as JSON.
    return row | {"id": id_ if id_ is None or isinstance(id_, str) else json.dumps(id_, ensure_ascii=False)}
