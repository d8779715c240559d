"""Word vectors: trained on raw text, read from the usual formats, refused clearly."""

from __future__ import annotations

import gzip
import lzma
from pathlib import Path

import numpy as np
import pytest

from model.features import PAD, UNK
from training.__main__ import main
from training.embeddings import Vectors, read_vectors, write_vectors
from training.raw_text import text_files
from training.vocabulary import build_lexicon

VECTORS = Vectors(["Ada", "met", "Zoë"], np.array([[1, 2], [3, 4], [5, 6.5]], dtype=np.float32))
TEXT = "Ada Lovelace met Charles Babbage's friends.\nMr. O\u2019Neill met Ada in 1833.\n\n" * 40


@pytest.mark.parametrize("name", ["vectors.bin", "vectors.txt"])
def test_vectors_survive_writing_and_reading(name: str, tmp_path: Path) -> None:
    write_vectors(VECTORS, tmp_path / name)
    read = read_vectors(tmp_path / name)
    assert read.words == VECTORS.words
    np.testing.assert_allclose(read.rows, VECTORS.rows)
    assert read_vectors(tmp_path / name, most=2).words == ["Ada", "met"]


def test_gloves_format_has_no_header(tmp_path: Path) -> None:
    (tmp_path / "glove.txt").write_text("the 0.5 1\nada -1 2e-1\n")
    read = read_vectors(tmp_path / "glove.txt")
    assert read.words == ["the", "ada"]
    np.testing.assert_allclose(read.rows, [[0.5, 1], [-1, 0.2]])


@pytest.mark.parametrize("method", ["word2vec", "fasttext"])
def test_vectors_are_trained_on_every_kind_of_text_file(
    method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "a.txt").write_text(TEXT, "utf-8")
    (folder / "b.txt.gz").write_bytes(gzip.compress(TEXT.encode()))
    (folder / "c.txt.xz").write_bytes(lzma.compress(TEXT.encode()))
    (folder / "ignored.json").write_text("{}")
    out = tmp_path / "out.bin"
    arguments = ["embeddings", str(folder), "--out", str(out), "--method", method]
    assert main([*arguments, "--dimension", "8", "--min-count", "2", "--epochs", "1"]) == 0
    assert "8 dimensions" in capsys.readouterr().out
    read = read_vectors(out)
    # The tagger's own tokeniser and normalisation: clitics split, quotes straight, digits 0.
    assert {"Babbage", "'s", "Mr.", "O'Neill", "0000"} <= set(read.words)
    assert read.rows.shape[1] == 8


def test_training_on_one_thread_is_reproducible(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXT, "utf-8")
    for out in ("1.bin", "2.bin"):
        arguments = ["embeddings", str(tmp_path / "a.txt"), "--out", str(tmp_path / out)]
        assert main([*arguments, "--dimension", "4", "--min-count", "1", "--epochs", "1"]) == 0
    assert (tmp_path / "1.bin").read_bytes() == (tmp_path / "2.bin").read_bytes()


def test_pretrained_vectors_are_used_and_kept_as_they_are(tmp_path: Path) -> None:
    data = tmp_path / "train.conll"
    data.write_text("Ada\tB-PER\nmet\tO\nZoë\tB-PER\n\n" * 20, "utf-8")
    write_vectors(VECTORS, tmp_path / "vectors.txt")
    out = tmp_path / "model"
    options = [
        "--vectors",
        str(tmp_path / "vectors.txt"),
        "--hidden",
        "8",
        "--epochs",
        "8",
        "--dev",
        str(data),
    ]
    assert main(["train", str(data), "--out", str(out), "--run", str(tmp_path / "run"), *options]) == 0
    assert (out / "cased.txt").read_text("utf-8").split() == ["<PAD>", "<UNK>", "Ada", "met", "Zoë"]


def test_a_vector_is_kept_under_the_form_that_tokens_are_looked_up_by() -> None:
    words = ["1998", "Ada", "2010", "caf\u00e9", "o\u2019neill"]
    rows = np.arange(10, dtype=np.float32).reshape(5, 2)
    cased = build_lexicon([], cased=Vectors(words, rows), max_cased=3, max_lower=9, min_count=1)
    assert cased.vocabulary.cased == (PAD, UNK, "0000", "Ada", "caf\u00e9")
    lower = build_lexicon([], lower=Vectors(words, rows), max_cased=9, max_lower=9, min_count=1)
    assert lower.vocabulary.lower == (PAD, UNK, "0000", "ada", "caf\u00e9", "o'neill")
    assert lower.lower is not None
    scale = rows[[0, 1, 3, 4]].std()
    np.testing.assert_allclose(lower.lower[2:] * scale, rows[[0, 1, 3, 4]], rtol=1e-6)


def test_wrong_paths_and_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere: no such file or folder"):
        text_files([tmp_path / "nowhere"])
    with pytest.raises(ValueError, match=r"holds no \.txt"):
        text_files([tmp_path])
    (tmp_path / "broken.txt").write_text("word 1 2\nother 1\n")
    with pytest.raises(ValueError, match=r"broken\.txt:2: a word and 2 numbers are expected"):
        read_vectors(tmp_path / "broken.txt")
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(ValueError, match=r"empty\.txt: holds no word vectors"):
        read_vectors(tmp_path / "empty.txt")
    assert main(["embeddings", str(tmp_path / "empty.txt"), "--out", str(tmp_path / "v.bin")]) == 2


def test_a_text_without_a_frequent_word_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "short.txt").write_text("Every word comes once.\n")
    command = ["embeddings", str(tmp_path / "short.txt"), "--out", str(tmp_path / "v.bin")]
    assert main([*command, "--min-count", "5"]) == 2
    assert "short.txt: no word comes 5 times" in capsys.readouterr().err


def test_fasttexts_own_models_are_read_with_their_subwords(tmp_path: Path) -> None:
    from gensim.models import FastText
    from gensim.models.fasttext import save_facebook_model

    model = FastText(
        [["Ada", "met", "Zoë"]] * 5, vector_size=4, min_count=1, bucket=50, epochs=1, workers=1
    )
    save_facebook_model(model, str(tmp_path / "model.bin"))
    read = read_vectors(tmp_path / "model.bin")
    assert sorted(read.words) == ["Ada", "Zoë", "met"]
    np.testing.assert_allclose(read.rows[read.words.index("Ada")], model.wv["Ada"], atol=1e-5)
