"""The context encoder: pieces, their layout in rows, and one answer on every backend and in any batch."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from model.artefact import ArtefactError, load, save
from model.backend import OnnxBackend, TorchBackend
from model.config import NetworkConfig
from model.tagger import Tagger
from model.wordpiece import PIECE_WINDOW, ROW, WordPieces, lay_out
from tests.conftest import PIECES, WORDS, random_artefact
from training.pretrained import read_pretrained

SHAPE = {"context_layers": 2, "context_dim": 12, "context_heads": 3, "context_inner": 20}
BACKENDS = [OnnxBackend, TorchBackend]


def words_of(ids: list[int]) -> list[str]:
    return [PIECES[i] for i in ids]


@pytest.mark.parametrize(
    ("token", "pieces"),
    [
        ("Harry", ["harry"]),
        ("POTTER", ["pot", "##ter"]),
        ("Hérmione", ["her", "##mi", "##one"]),
        ("O'Neill", ["o", "'", "n", "##e", "##i", "##l", "##l"]),
        ("U.S.", ["u", ".", "s", "."]),
        ("new-spell", ["new", "[UNK]", "spell"]),
        ("王明", ["[UNK]", "[UNK]"]),
        ("\u0301", ["[UNK]"]),
        ("", ["[UNK]"]),
        ("a" * 101, ["[UNK]"]),
    ],
)
def test_pieces_are_the_longest_known_prefixes(token: str, pieces: list[str]) -> None:
    assert words_of(WordPieces(PIECES).ids(token)) == pieces


def test_of_a_long_word_both_ends_are_kept() -> None:
    row = WordPieces(PIECES).rows(["abcdefghijklmnop"])[0]
    assert words_of(row.tolist()) == ["a", "##b", "##c", "##d", "##m", "##n", "##o", "##p"]
    assert len(row) == PIECE_WINDOW


def test_a_vocabulary_without_the_marks_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[CLS\]"):
        WordPieces(("[PAD]", "[UNK]", "[SEP]"))
    with pytest.raises(ValueError, match="must come first, not at 1"):
        WordPieces(("[UNK]", "[PAD]", "[SEP]", "[CLS]"))


@pytest.mark.parametrize("n_words", [1, 3, 62, 63, 64, 125, 126, 127, 128, 189, 190, 1000])
def test_every_word_is_read_within_its_rows(n_words: int) -> None:
    """Each word's place holds its own first piece, with context on either side in long sentences."""
    rng = np.random.default_rng(n_words)
    pieces = np.zeros((n_words, PIECE_WINDOW), dtype=np.int64)
    for i, row in enumerate(pieces):
        row[: rng.integers(1, 4)] = 10 + i  # a word's pieces are known by its number
    made = lay_out(pieces, np.arange(n_words), np.arange(n_words)[None], [n_words], 2, 3)
    assert made.pieces.shape[1] <= ROW
    assert made.pieces.flat[made.at[0]].tolist() == list(range(10, 10 + n_words))
    assert made.shapes.flat[made.at[0]].tolist() == list(range(1, 1 + n_words))
    assert (made.pieces[:, 0] == 2).all()
    assert ((made.pieces == 3).sum(1) == 1).all()
    n_pieces = int((pieces != 0).sum())
    column = made.at[0] % made.pieces.shape[1]
    begins = np.cumsum((pieces != 0).sum(1)) - (pieces != 0).sum(1)
    before, after = column - 1, (ROW - 2) - (column - 1)
    assert (before >= np.minimum(begins, 31)).all()
    assert (after >= np.minimum(n_pieces - begins, 31)).all()


@pytest.fixture(scope="module")
def sentences() -> list[list[str]]:
    rng = np.random.default_rng(0)
    known = [*WORDS, "Hermione-Potter", "Zoë", "王", "🎉", "unknown"]
    return [[known[i] for i in rng.integers(len(known), size=n)] for n in (9, 1, 300, 30, 2, 80, 127)]


@pytest.mark.parametrize("make", BACKENDS)
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_sentence_gets_the_same_answer_alone_and_in_any_batch(make, cell, sentences) -> None:
    artefact = random_artefact(**SHAPE, cell=cell)
    tagger = Tagger(artefact, make(artefact))
    alone = [tagger.tag([s], 0.0)[0] for s in sentences]
    other = Tagger(artefact, BACKENDS[make is OnnxBackend](artefact))
    for answers in (tagger.tag(sentences, 0.0), tagger.tag_all(sentences, 0.0), other.tag(sentences, 0.0)):
        for one, answer in zip(alone, answers, strict=True):
            assert answer.labels == one.labels
            np.testing.assert_allclose(answer.scores, one.scores, atol=1e-4)


def test_what_a_word_is_depends_on_the_words_around_it() -> None:
    """Through the encoder alone: the recurrent layer reads one direction, the change comes after."""
    artefact = random_artefact(**SHAPE, bidirectional=False)
    tagger = Tagger(artefact, OnnxBackend(artefact))
    one, other = tagger.tag([["Harry", "met"], ["Harry", "spell"]], 0.0)
    assert abs(one.scores[0] - other.scores[0]) > 1e-3


def test_an_artefact_with_a_context_encoder_survives_the_disk(tmp_path: Path) -> None:
    artefact = random_artefact(**SHAPE)
    save(artefact, tmp_path / "m")
    back = load(tmp_path / "m")
    assert back.vocabulary.pieces == PIECES
    assert back.config.network.context_layers == 2
    for device in ("onnx", "torch"):
        Tagger.load(tmp_path / "m", device="cpu", backend=device).self_test()


def test_an_artefact_without_its_pieces_is_refused(tmp_path: Path) -> None:
    artefact = random_artefact(**SHAPE)
    save(artefact, tmp_path / "m")
    manifest = json.loads((tmp_path / "m/manifest.json").read_text())
    del manifest["pieces.txt"]
    (tmp_path / "m/manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtefactError, match=r"pieces\.txt"):
        load(tmp_path / "m")


def test_heads_that_do_not_divide_the_width_are_named() -> None:
    with pytest.raises(ValueError, match="context_dim is 10: a multiple of context_heads, 3,"):
        NetworkConfig(context_dim=10, context_heads=3)


def bert_folder(folder: Path) -> Path:
    """A BERT of random weights, as Hugging Face lays it out."""
    folder.mkdir()
    config = {
        "num_hidden_layers": 2,
        "hidden_size": 12,
        "num_attention_heads": 3,
        "intermediate_size": 20,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "vocab.txt").write_text("".join(f"{p}\n" for p in PIECES))
    generator = torch.Generator().manual_seed(0)

    def some(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator)

    tensors = {
        "embeddings.word_embeddings.weight": some(len(PIECES), 12),
        "embeddings.position_embeddings.weight": some(512, 12),
        "embeddings.token_type_embeddings.weight": some(2, 12),
        "embeddings.LayerNorm.weight": some(12),
        "embeddings.LayerNorm.bias": some(12),
    }
    for i in range(2):
        for name, (rows, columns) in {
            "attention.self.query": (12, 12),
            "attention.self.key": (12, 12),
            "attention.self.value": (12, 12),
            "attention.output.dense": (12, 12),
            "intermediate.dense": (20, 12),
            "output.dense": (12, 20),
        }.items():
            tensors[f"encoder.layer.{i}.{name}.weight"] = some(rows, columns)
            tensors[f"encoder.layer.{i}.{name}.bias"] = some(rows)
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            tensors[f"encoder.layer.{i}.{name}.weight"] = some(12)
            tensors[f"encoder.layer.{i}.{name}.bias"] = some(12)
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_published_weights_are_read_into_their_places(tmp_path: Path) -> None:
    from model.context import ContextEncoder

    found = read_pretrained(bert_folder(tmp_path / "bert"))
    encoder = ContextEncoder(NetworkConfig(**found.shape), len(found.pieces))
    missing, unexpected = encoder.load_state_dict(found.weights, strict=False)
    assert missing == ["shapes.weight"]
    assert unexpected == []


def test_a_folder_that_is_no_bert_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere.*config\.json"):
        read_pretrained(tmp_path / "nowhere")
    folder = bert_folder(tmp_path / "bert")
    (folder / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="num_hidden_layers"):
        read_pretrained(folder)
