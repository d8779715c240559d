"""Raw text in, word vectors out; and the readers of other people's vectors.

The text is cut and normalised by the same code that serves (model.tokeniser and
model.normalisation), so that a vector's key is what the tagger will look up. It is streamed:
only one line is in memory at a time, and gensim reads the token file, not a list.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from model.normalisation import normalisation
from model.tokeniser import tokeniser
from training.raw_text import open_text

TOKENISER, NORMALISATION = "treebank-1", "cased-1"
_FASTTEXT_MAGIC = (793712314).to_bytes(4, "little")  # of fastText's binary models


@dataclass(frozen=True)
class Vectors:
    """Word vectors: ``rows[i]`` (D,) float32 belongs to ``words[i]``; no word twice."""

    words: list[str]
    rows: NDArray[np.float32]  # (V, D)


def read_vectors(path: Path, most: int | None = None) -> Vectors:
    """Word vectors in word2vec's text or binary form, GloVe's (no header), or fastText's .bin.

    At most the first ``most`` words, which are the most frequent ones. Raises ValueError naming the file.
    """
    try:
        with path.open("rb") as opened:
            head = opened.readline(1 << 16)
        if head.startswith(_FASTTEXT_MAGIC):
            from gensim.models.fasttext import load_facebook_vectors

            loaded = load_facebook_vectors(str(path))
            words = list(loaded.index_to_key)[:most]
            return Vectors(words, np.stack([loaded[word] for word in words]))  # with their subwords
        fields = head.split()
        has_header = len(fields) == 2 and all(field.isdigit() for field in fields)
        if has_header and path.suffix == ".bin":
            from gensim.models import KeyedVectors

            loaded = KeyedVectors.load_word2vec_format(str(path), binary=True, limit=most)
            return Vectors(list(loaded.index_to_key), np.asarray(loaded.vectors, dtype=np.float32))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from None
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path}: not word vectors that can be read: {error}") from None
    return _read_text_vectors(path, 1 if has_header else 0, most)


def _read_text_vectors(path: Path, n_header_lines: int, most: int | None) -> Vectors:
    """A word and its numbers a line, separated by spaces. A word may hold spaces itself."""
    words: dict[str, None] = {}  # in order; of a word that comes twice, the first counts
    rows: list[NDArray[np.float32]] = []
    width = 0
    with path.open(encoding="utf-8", errors="replace", newline="\n") as lines:
        for number, line in enumerate(lines, 1):
            if number <= n_header_lines or (most is not None and len(words) == most):
                continue
            width = width or len(line.split()) - 1
            word, *values = line.rstrip().rsplit(" ", width)
            try:
                row = np.array(values, dtype=np.float32)
            except ValueError:
                row = np.empty(0, dtype=np.float32)
            if not width or len(row) != width:
                raise ValueError(f"{path}:{number}: a word and {width or 'some'} numbers are expected")
            if word not in words:
                words[word] = None
                rows.append(row)
    if not words:
        raise ValueError(f"{path}: holds no word vectors")
    return Vectors(list(words), np.stack(rows))


def write_vectors(vectors: Vectors, path: Path) -> None:
    """word2vec's binary form where the name ends in .bin, else its text form; in one step."""
    from gensim.models import KeyedVectors

    keyed = KeyedVectors(vectors.rows.shape[1])
    keyed.add_vectors(vectors.words, vectors.rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.partial")
    keyed.save_word2vec_format(str(fresh), binary=path.suffix == ".bin")
    fresh.replace(path)


def _write_tokens(job: tuple[Path, Path]) -> int:
    """Writes a file's tokens, separated by spaces, a line each; how many there were."""
    source, target = job
    tokenise, normalise = tokeniser(TOKENISER), lru_cache(1 << 18)(normalisation(NORMALISATION))
    n_tokens = 0
    with open_text(source) as lines, target.open("w", encoding="utf-8") as out:
        for line in lines:
            words = [normalise(t) for t in tokenise(line).texts]
            # gensim cuts sentences at 10,000 words; no paragraph of real text comes near.
            if words:
                out.write(" ".join(words) + "\n")
                n_tokens += len(words)
    return n_tokens


def train_vectors(
    files: list[Path],
    *,
    method: str = "word2vec",
    dimension: int = 100,
    window: int = 5,
    min_count: int = 10,
    epochs: int = 3,
    threads: int = 1,
    seed: int = 1,
) -> Vectors:
    """Skip-gram vectors (Mikolov et al. 2013, arXiv:1310.4546; Bojanowski et al. 2017 for fastText).

    ``threads`` above 1 is faster and no longer reproducible: gensim's workers race by design.
    """
    from gensim.models import FastText, Word2Vec
    from gensim.models.callbacks import CallbackAny2Vec

    class Progress(CallbackAny2Vec):  # type: ignore[misc]
        def __init__(self) -> None:
            self.bar = tqdm(total=epochs, desc=f"{method}, epochs", file=sys.stderr, disable=None)

        def on_epoch_end(self, _model: Any) -> None:
            self.bar.update()

    with TemporaryDirectory(prefix="nametag-embeddings-") as folder:
        parts = [(f, Path(folder) / f"{i}.tokens") for i, f in enumerate(files)]
        with get_context("spawn").Pool(min(threads, len(parts))) as pool:
            counted = pool.imap(_write_tokens, parts)
            n_tokens = sum(tqdm(counted, "tokenising, files", len(parts), file=sys.stderr, disable=None))
        if not n_tokens:
            raise ValueError(f"{files[0]}: no words in it")
        whole = Path(folder) / "all.tokens"
        with whole.open("wb") as out:
            for _, part in parts:
                with part.open("rb") as tokens:
                    while block := tokens.read(1 << 20):
                        out.write(block)
                part.unlink()
        print(f"{n_tokens:,} tokens", file=sys.stderr)
        trainer = {"word2vec": Word2Vec, "fasttext": FastText}[method]
        try:
            model = trainer(
                corpus_file=str(whole),
                vector_size=dimension,
                window=window,
                min_count=min_count,
                sg=1,
                negative=5,
                sample=1e-4,
                epochs=epochs,
                workers=threads,
                seed=seed,
                callbacks=[Progress()],
            )
        except RuntimeError as error:
            if "build vocabulary" not in str(error):
                raise
            raise ValueError(
                f"{files[0]}: no word comes {min_count} times, as --min-count asks: {error}"
            ) from None
    return Vectors(list(model.wv.index_to_key), np.asarray(model.wv.vectors, dtype=np.float32))
