"""Files of text, whether plain, ``.gz`` or ``.xz``: found, opened, cut into documents and sentences."""

from __future__ import annotations

import gzip
import lzma
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path
from random import Random
from typing import IO, cast

from model.sentences import sentences_of
from model.tokeniser import tokeniser


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


def drawn_sentences(
    path: Path, tokeniser_name: str, rng: Random, share: float, lengths: range
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The sentences of a ``share`` of the documents, drawn by ``rng``: text and tokens, of so many tokens,
    none twice."""
    tokenise = tokeniser(tokeniser_name)
    seen: set[int] = set()
    for document in documents(path):
        if rng.random() >= share:
            continue
        tokens = tokenise(document)
        for first, last in sentences_of(tokens, document):
            sentence = tuple(tokens.texts[first:last])
            key = hash(sentence)
            if len(sentence) in lengths and key not in seen:
                seen.add(key)
                yield document[tokens.starts[first] : tokens.ends[last - 1]], sentence
