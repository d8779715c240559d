"""Soft labels: the teacher's posterior against enumeration, the file, and the loss that fits them."""

import itertools
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file

from model.artefact import save
from model.head import Tagged, legality, messages
from model.labels import LabelScheme
from model.loss import crf_loss, soft_crf_loss, soft_softmax_loss, softmax_loss
from model.tagger import Tagger
from tests.conftest import random_artefact
from tests.test_loss import LENGTHS, a_case, as_tensors, score
from training.__main__ import main
from training.augment import AugmentConfig, Variant
from training.batches import BatchConfig, Batches, LabelledSet, _pairs_of, is_sure
from training.corpus import Sentence
from training.distil import (
    Chosen,
    Teacher,
    Teachers,
    doubtful,
    pair_marginals,
    raw_sentences,
    read_soft,
    up_to,
    write_soft,
)
from training.raw_text import documents

TEXT = """Harry Potter met Hermione Granger in London. They invented a new spell .
The spell was new , and London slept .

Granger and Potter met . Harry met a new Hermione in London , not Potter .
"""


def pairs_by_enumeration(emissions, n, chain):
    """(T, K, K) of one sentence: each sequence's probability, added where it goes."""
    k = emissions.shape[1]
    out = np.zeros((n, k, k))
    for path in itertools.product(range(k), repeat=n):
        mass = np.exp(score(path, emissions, chain))
        out[0, 0, path[0]] += mass
        for t in range(1, n):
            out[t, path[t - 1], path[t]] += mass
    return out / out[0].sum()


def test_the_pairs_of_labels_are_those_of_enumeration() -> None:
    emissions, _, chain = a_case(("PER",))
    pairs = pair_marginals(emissions, np.array(LENGTHS), chain)
    for b, n in enumerate(LENGTHS):
        np.testing.assert_allclose(pairs[b, :n], pairs_by_enumeration(emissions[b], n, chain), atol=1e-9)


@pytest.mark.parametrize("types", [("PER",), ("PER", "ORG")])
def test_of_certain_pairs_the_soft_loss_is_the_crf_loss(types) -> None:
    emissions, gold, chain = a_case(types)
    pairs = np.zeros((*emissions.shape, emissions.shape[2]))
    for b, n in enumerate(LENGTHS):
        for t in range(n):
            pairs[b, t, gold[b, t - 1] if t else 0, gold[b, t]] = 1
    e, labels, lengths, *ends = as_tensors(emissions, gold, chain)
    assert soft_crf_loss(e, torch.tensor(pairs), lengths, *ends).item() == pytest.approx(
        crf_loss(e, labels, lengths, *ends).item()
    )
    assert soft_softmax_loss(e, torch.tensor(pairs)).item() == pytest.approx(softmax_loss(e, labels).item())


def test_the_soft_loss_is_least_at_the_teacher_itself() -> None:
    """Its gradient is the student's marginals less the teacher's: 0 where they agree."""
    emissions, gold, chain = a_case(("PER",))
    pairs = torch.tensor(pair_marginals(emissions, np.array(LENGTHS), chain))
    for b, n in enumerate(LENGTHS):
        pairs[b, n:] = 0
    tensors = as_tensors(emissions, gold, chain)
    soft_crf_loss(tensors[0], pairs, *tensors[2:]).backward()
    for b, n in enumerate(LENGTHS):
        assert tensors[0].grad[b, :n].abs().max() < 1e-9
    other = as_tensors(emissions * 0.5, gold, chain)
    soft_crf_loss(other[0], pairs, *other[2:]).backward()
    marginals, _ = messages(emissions * 0.5, np.array(LENGTHS), chain)
    single = pairs.sum(2).numpy()
    for b, n in enumerate(LENGTHS):
        expected = (marginals[b, :n] - single[b, :n]) / len(LENGTHS)
        np.testing.assert_allclose(other[0].grad[b, :n].numpy(), expected, atol=1e-9)


def test_an_impossible_move_costs_nothing_where_the_teacher_never_makes_it() -> None:
    legal = legality(LabelScheme(("PER",)))
    emissions = torch.zeros(1, 2, 3)
    pairs = torch.zeros(1, 2, 3, 3)
    pairs[0, 0, 0, 0] = pairs[0, 1, 0, 0] = 1
    parts = (torch.tensor(x, dtype=torch.float32) for x in (legal.start, legal.transitions, legal.end))
    assert torch.isfinite(soft_crf_loss(emissions, pairs, torch.tensor([2]), *parts))


class Scout:
    """A model that is sure of every word but "Ada"."""

    def tag(self, sentences: list[tuple[str, ...]], _threshold: float) -> list[Tagged]:
        return [Tagged(["O"] * len(s), [0.6 if t == "Ada" else 0.99 for t in s], []) for s in sentences]


def test_what_a_scout_is_sure_of_is_left_out_but_for_a_share() -> None:
    sentences = [("Ada", str(i)) if i % 10 == 0 else (str(i), "slept") for i in range(10_000)]
    scout = cast(Tagger, Scout())
    assert list(doubtful(sentences, scout, 0.0, Random(1))) == sentences[::10]
    some = list(doubtful(sentences, scout, 0.1, Random(1)))
    assert set(sentences[::10]) < set(some)
    assert 1700 < len(some) < 2100
    assert sorted(some, key=sentences.index) == some


def test_no_sentence_is_cut_where_enough_are_labelled() -> None:
    sentences = [("a", "b", "c")] * 5
    assert [len(list(up_to(sentences, n))) for n in (1, 3, 4, 99)] == [1, 1, 2, 5]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher") / "teacher"
    save(random_artefact(), folder)
    return folder


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    path = tmp_path / "raw.txt"
    path.write_text(TEXT)
    return path


def test_blank_lines_separate_documents(raw: Path) -> None:
    assert [d.split()[0] for d in documents(raw)] == ["Harry", "Granger"]


def test_sentences_are_drawn_by_document_and_none_twice(tmp_path: Path) -> None:
    path = tmp_path / "raw.txt"
    path.write_text((TEXT + "\n") * 3)
    assert len(list(raw_sentences(path, "treebank-1", Chosen()))) == 5
    assert not list(raw_sentences(path, "treebank-1", Chosen(share=0.0)))


def test_a_teacher_labels_as_the_tagger_does_and_the_file_keeps_it(teacher: Path, raw: Path) -> None:
    from model.tagger import Tagger

    out = raw.with_name("soft.safetensors")
    command = [
        "label",
        str(teacher),
        str(raw),
        "--out",
        str(out),
        "--without-names",
        "1",
        "--device",
        "cpu",
    ]
    assert main(command) == 0
    soft, labels = read_soft(out)
    assert labels == Teacher(teacher).config.scheme.labels
    assert len(soft) == 5
    answers = Tagger.load(teacher, device="cpu").tag([s.tokens for s in soft], 0.0)
    for sentence, answer in zip(soft, answers, strict=True):
        assert list(sentence.labels) == answer.labels
        assert sentence.pairs is not None
        single = sentence.pairs.astype(float).sum(1)
        np.testing.assert_allclose(single.sum(1), 1, atol=2e-3)
        ids = [Teacher(teacher).config.scheme.labels.index(label) for label in answer.labels]
        np.testing.assert_allclose(single[np.arange(len(ids)), ids], answer.scores, atol=2e-3)


def test_a_higher_temperature_gives_the_same_labels_less_surely(teacher: Path) -> None:
    sentence = [("Harry", "met", "Ada", "Lovelace", ".")]
    sure = []
    for temperature in (0.5, 1.0, 3.0):
        asked = Teacher(teacher, temperature=temperature)
        (found,) = asked.label(sentence)
        ids = asked.config.scheme.ids(found.labels)
        assert found.pairs is not None
        pairs = found.pairs.astype(float)
        # The best sequence's probability, by the chain rule: of a softmax it falls with temperature.
        moves = [pairs[t, ids[t - 1], ids[t]] / pairs[t, ids[t - 1]].sum() for t in range(1, len(ids))]
        sure.append((list(found.labels), pairs[0, 0, ids[0]] * np.prod(moves)))
    assert sure[0][0] == sure[1][0] == sure[2][0]
    assert sure[0][1] > sure[1][1] > sure[2][1]


def test_of_several_teachers_the_mean_of_the_posteriors_is_kept(
    teacher: Path, raw: Path, tmp_path: Path
) -> None:
    save(random_artefact(seed=7), tmp_path / "other")
    out = tmp_path / "soft.safetensors"
    options = ["--without-names", "1", "--device", "cpu", "--temperature", "1.5"]
    command = ["label", str(teacher), str(raw), "--and", str(tmp_path / "other"), "--out", str(out)]
    assert main([*command, *options]) == 0
    soft, _ = read_soft(out)
    sentences = [s.tokens for s in soft]
    one = Teacher(teacher, temperature=1.5).label(sentences)
    other = Teacher(tmp_path / "other").label(sentences)
    for got, a, b in zip(soft, one, other, strict=True):
        assert got.pairs is not None
        assert a.pairs is not None
        assert b.pairs is not None
        np.testing.assert_allclose(got.pairs, (a.pairs.astype(float) + b.pairs) / 2, atol=1e-3)
        assert np.abs(a.pairs.astype(float) - b.pairs).max() > 0.01
    stranger = Teacher(teacher)
    stranger.config = replace(stranger.config, entity_types=("LOC", "PER"))
    with pytest.raises(ValueError, match="has other labels"):
        Teachers([Teacher(teacher), stranger])


def test_what_is_no_soft_label_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"no")
    with pytest.raises(ValueError, match=r"x\.safetensors: not soft labels"):
        read_soft(path)
    n = {"lengths": np.array([2], np.int32), "best": np.zeros(1, np.uint8)}
    save_file(
        {"tokens": np.zeros(1, np.uint8), "pairs": np.zeros((1, 3, 3), np.float16), **n},
        path,
        {"labels": '["O"]'},
    )
    with pytest.raises(ValueError, match="1 tokens for 1 labels and 1 pairs"):
        read_soft(path)


def test_nothing_to_write_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no sentence was kept"):
        write_soft([], tmp_path / "x.safetensors", ("O",), "teacher")


def a_soft_sentence(tokens: str, labels: list[str], sure: float = 1.0) -> Sentence:
    scheme = LabelScheme(("PER",))
    pairs = np.full((len(labels), 3, 3), 0, dtype=np.float16)
    ids = [scheme.labels.index(label) for label in labels]
    for t, k in enumerate(ids):
        before = ids[t - 1] if t else 0
        pairs[t, before, k] = sure
        pairs[t, before, 0 if k else 1] += 1 - sure
    return Sentence(tuple(tokens.split()), tuple(labels), 0, pairs)


def test_a_batch_of_hard_and_soft_labels_has_pairs_for_both() -> None:
    soft = a_soft_sentence("Ada met Bob .", ["B-PER", "O", "B-PER", "O"], 0.75)
    hard = Sentence(("Ada", "Lovelace", "slept"), ("B-PER", "I-PER", "O"), 1)
    vocabulary = random_artefact().vocabulary
    batches = Batches(
        [LabelledSet("a", [soft, hard])],
        LabelScheme(("PER",)),
        vocabulary.encoder,
        BatchConfig(),
        augment=AugmentConfig(),
        names=None,
        seed=1,
    )
    batch = batches.epoch(0)[0]
    assert batch.pairs is not None
    long, short = batch.lengths.tolist().index(4), batch.lengths.tolist().index(3)
    np.testing.assert_array_equal(batch.pairs[long].numpy(), soft.pairs.astype(np.float32))
    assert batch.pairs[short, 0].nonzero().tolist() == [[0, 1]]
    assert batch.pairs[short, 1].nonzero().tolist() == [[1, 2]]
    assert batch.pairs[short, 2].nonzero().tolist() == [[2, 0]]
    assert batch.pairs[short, 3].sum() == 0
    plain = Batches(
        [LabelledSet("a", [hard])], LabelScheme(("PER",)), vocabulary.encoder, BatchConfig(),
        augment=AugmentConfig(), names=None, seed=1,
    )  # fmt: skip
    assert plain.epoch(0)[0].pairs is None


def test_soft_labels_go_with_the_variant_of_their_sentence() -> None:
    soft = a_soft_sentence("Ada met Bob .", ["B-PER", "O", "B-PER", "O"], 0.75)
    assert soft.pairs is not None

    def pairs_of(sources: list[int] | None) -> NDArray[np.float16] | None:
        return _pairs_of(soft, Variant([], [], sources))

    np.testing.assert_array_equal(pairs_of([0, 1, 2]), soft.pairs[:3])
    marked = pairs_of([-1, 0, 1, 2, 3, -1, -1])
    assert marked is not None
    assert marked[0].tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]
    np.testing.assert_array_equal(marked[1:5], soft.pairs)
    np.testing.assert_array_equal(marked[5, :, 0], soft.pairs[3].sum(0))  # nobody, whatever came before
    assert marked[6].tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert pairs_of(None) is None


def test_only_a_sure_teachers_names_are_swapped() -> None:
    assert is_sure(a_soft_sentence("Ada slept", ["B-PER", "O"], 0.95))
    assert not is_sure(a_soft_sentence("Ada slept", ["B-PER", "O"], 0.8))
    assert is_sure(Sentence(("Ada",), ("B-PER",), 0))


def test_soft_labels_are_taken_in_the_students_order() -> None:
    teacher, student = LabelScheme(("PER", "ORG")).labels, LabelScheme(("ORG", "PER")).labels
    pairs = np.zeros((2, 5, 5), np.float16)
    pairs[0, 0, teacher.index("B-PER")] = 1
    pairs[1, teacher.index("B-PER"), teacher.index("B-ORG")] = 1
    part = LabelledSet("a", [Sentence(("Ada", "Acme"), ("B-PER", "B-ORG"), 0, pairs)], 1.0, teacher)
    (found,) = part.of_labels(student).sentences
    assert found.pairs is not None
    assert np.argwhere(found.pairs).tolist() == [
        [0, 0, student.index("B-PER")], [1, student.index("B-PER"), student.index("B-ORG")]
    ]  # fmt: skip
    assert part.of_labels(teacher) is part


def test_a_teacher_of_other_labels_is_refused() -> None:
    two = Sentence(("Ada",), ("O",), 0, np.zeros((1, 5, 5), np.float16))
    encoder = random_artefact().vocabulary.encoder
    with pytest.raises(ValueError, match="its teacher knows 5 labels, the tagger 3"):
        Batches(
            [LabelledSet("a", [two])], LabelScheme(("PER",)), encoder, BatchConfig(),
            augment=AugmentConfig(), names=None, seed=1,
        )  # fmt: skip
    part = LabelledSet("a", [], 1.0, LabelScheme(("LOC", "PER")).labels)
    with pytest.raises(ValueError, match=r"its teacher knows .*B-LOC.*, the tagger"):
        part.of_labels(LabelScheme(("PER",)).labels)


def test_a_student_learns_from_soft_labels_alone(teacher: Path, raw: Path, tmp_path: Path) -> None:
    """The whole way: label, train on the soft file, serve what came out."""
    from model.tagger import Tagger

    raw.write_text(TEXT * 20 + "\n" + "\n".join(f"Harry {i} met Potter in London ." for i in range(60)))
    soft = tmp_path / "soft.safetensors"
    labelled = Teacher(teacher).label(list(raw_sentences(raw, "treebank-1", Chosen())))
    rng = Random(0)
    write_soft(sorted(labelled, key=lambda _: rng.random()), soft, ("O", "B-PER", "I-PER"), "tiny")
    out = tmp_path / "student"
    command = [
        "train", str(soft), "--dev", str(soft), "--out", str(out), "--run", str(tmp_path / "run"),
        "--epochs", "12", "--hidden", "16", "--types", "PER", "--device", "cpu", "--learning-rate", "0.01",
    ]  # fmt: skip
    assert main(command) == 0
    sentences = [s.tokens for s in labelled]
    student = Tagger.load(out, device="cpu").tag(sentences, 0.0)
    agree = [
        a == b
        for s, x in zip(labelled, student, strict=True)
        for a, b in zip(s.labels, x.labels, strict=True)
    ]
    assert np.mean(agree) > 0.9
