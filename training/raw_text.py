"""Files of text, whether plain, ``.gz`` or ``.xz``: found, opened, and cut into documents."""

from __future__ import annotations

import gzip
import lzma
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import IO, cast


def open_bytes(path: Path) -> IO[bytes]:
    """A file's content, whether plain, ``.gz`` or ``.xz``."""
    if path.suffix == ".xz":
        return lzma.open(path)
    if path.suffix == ".gz":
        return cast(IO[bytes], gzip.open(path))
    return path.open("rb")


def open_text(path: Path) -> IO[str]:
    """A text file as UTF-8, whether plain, ``.gz`` or ``.xz``."""
    return TextIOWrapper(open_bytes(path), encoding="utf-8")


def text_files(paths: list[Path]) -> list[Path]:
    """The text files among ``paths``, folders searched. Raises ValueError where there are none."""
    found = [
        file
        for path in paths
        for file in (sorted(path.rglob("*")) if path.is_dir() else [path])
        if file.name.endswith((".txt", ".txt.xz", ".txt.gz")) or file == path
    ]
    files = [f for f in found if f.is_file()]
    if missing := [str(p) for p in paths if not p.exists()]:
        raise ValueError(f"{missing[0]}: no such file or folder")
    if not files:
        raise ValueError(f"{paths[0]}: holds no .txt, .txt.gz or .txt.xz file")
    return files


def documents(path: Path) -> Iterator[str]:
    """The documents of a raw text file, which blank lines separate."""
    lines: list[str] = []
    with open_text(path) as opened:
        for line in opened:
            if line.strip():
                lines.append(line)
            elif lines:
                yield "".join(lines)
                lines = []
    if lines:
        yield "".join(lines)
