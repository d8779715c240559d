"""Length buckets, set weights and augmentation: seeded, complete, and honest about labels."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.features import PAD, UNK, Vocabulary
from model.labels import LabelScheme, Span, spans_of
from model.loss import IGNORED
from training.augment import AugmentConfig, Variant, augmented
from training.batches import BatchConfig, Batches, LabelledSet, buckets
from training.corpus import Sentence
from training.names import Names

NAMES = Names({"NG": ["Chiamaka", "Ngozi"], "VN": ["An", "Thu Hà"]}, {"NG": ["Okafor"], "VN": ["Nguyễn"]})
VOCABULARY = Vocabulary((PAD, UNK, "Ada"), (PAD, UNK, "ada"), (PAD, UNK, *"Adas"))


def sentence(n: int, document: int = 0) -> Sentence:
    return Sentence(tuple(f"w{i}" for i in range(n)), ("B-PER",) + ("O",) * (n - 1), document)


def batches_of(*sets: LabelledSet, seed: int = 1, window: int = 0, **augment: float) -> Batches:
    return Batches(
        sets,
        LabelScheme(),
        VOCABULARY.encoder,
        BatchConfig(max_batch_tokens=20, max_batch_sentences=4),
        augment=AugmentConfig(**augment),
        names=NAMES,
        seed=seed,
        window=window,
    )


@given(st.lists(st.integers(1, 30), max_size=40), st.integers(1, 40), st.integers(1, 5), st.integers())
def test_buckets_hold_every_sentence_once_and_keep_the_budget(
    lengths: list[int], max_tokens: int, max_sentences: int, seed: int
) -> None:
    made = buckets(lengths, max_tokens, max_sentences, Random(seed))
    assert sorted(i for batch in made for i in batch) == list(range(len(lengths)))
    for batch in made:
        assert len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= max_tokens
        assert len(batch) <= max_sentences


def test_a_batch_holds_each_word_type_once_and_ignores_padding() -> None:
    batch = batches_of(LabelledSet("a", [sentence(2), sentence(4)])).epoch(0)[0]
    assert batch.index.shape == batch.labels.shape == (2, 4)
    assert len(batch.types.cased) == 4
    short = int(batch.lengths.argmin())
    assert batch.labels[short].tolist() == [1, 0, IGNORED, IGNORED]


def test_an_epoch_follows_from_the_seed_and_its_number() -> None:
    data = LabelledSet("a", [sentence(n % 7 + 1) for n in range(50)])
    first, again, other_seed = (batches_of(data, seed=s, lower=0.5) for s in (1, 1, 2))
    assert first.epoch(3).rows == again.epoch(3).rows
    assert first.epoch(3).plan == again.epoch(3).plan
    assert first.epoch(3).plan != first.epoch(4).plan
    assert first.epoch(3).plan != other_seed.epoch(3).plan


def test_a_set_of_weight_a_third_is_seen_whole_in_three_epochs() -> None:
    whole = [Sentence((f"s{i}",), ("O",), i) for i in range(30)]
    batches = batches_of(LabelledSet("a", whole, 1 / 3))
    seen = [batches._sentence(i).tokens for epoch in range(3) for i in batches._drawn(epoch, Random(0))]
    assert sorted(seen) == sorted(s.tokens for s in whole)


def test_swapped_names_take_their_labels_along() -> None:
    tokens = "Dr. Ada Lovelace met Bob and Ada Lovelace .".split()
    labels = ["O", "B-PER", "I-PER", "O", "B-PER", "O", "B-PER", "I-PER", "O"]
    for seed in range(30):
        variant = augmented(tokens, labels, AugmentConfig(swap_names=1.0), NAMES, Random(seed))
        new, given = variant.tokens, variant.labels
        spans = spans_of(given)
        assert len(spans) == 3
        assert [t for t, label in zip(new, given, strict=True) if label == "O"] == [
            "Dr.",
            "met",
            "and",
            ".",
        ]
        first, _, third = (new[s.start : s.end] for s in spans)
        assert first == third  # the same person stays the same person
        assert first != ["Ada", "Lovelace"]


def test_lower_case_persons_and_other_types_are_not_swapped() -> None:
    tokens, labels = ["ada", "joined", "Acme"], ["B-PER", "O", "B-ORG"]
    new = augmented(tokens, labels, AugmentConfig(swap_names=1.0), NAMES, Random(0))
    assert new == Variant(tokens, labels, [0, 1, 2])


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (AugmentConfig(lower=1), ["ada", "'s", "cat", "."]),
        (AugmentConfig(upper=1), ["ADA", "'S", "CAT", "."]),
        (AugmentConfig(lower_names=1), ["ada", "'s", "cat", "."]),
        (AugmentConfig(title=1), ["Ada", "'s", "Cat", "."]),
        (AugmentConfig(drop_end=1), ["Ada", "'s", "cat"]),
        (AugmentConfig(curly_quotes=1), ["Ada", "’s", "cat", "."]),
        (AugmentConfig(), ["Ada", "'s", "cat", "."]),
    ],
    ids=str,
)
def test_each_change_alone(config: AugmentConfig, expected: list[str]) -> None:
    new = augmented(["Ada", "'s", "cat", "."], ["B-PER", "O", "O", "O"], config, None, Random(0))
    assert new.tokens == expected
    assert spans_of(new.labels) == [Span(0, 1, "PER")]


def test_a_bullet_comes_first_and_is_nobody() -> None:
    new = augmented(["Ada", "slept"], ["B-PER", "O"], AugmentConfig(bullet=1), None, Random(0))
    assert new.tokens[1:] == ["Ada", "slept"]
    assert new.labels == ["O", "B-PER", "O"]
    assert new.sources == [-1, 0, 1]


def test_a_post_has_things_before_and_after_which_are_nobody() -> None:
    seen = set()
    for seed in range(60):
        new = augmented(
            ["Ada", "slept", "."], ["B-PER", "O", "O"], AugmentConfig(post=1), None, Random(seed)
        )
        assert new.sources is not None
        assert [t for t, source in zip(new.tokens, new.sources, strict=True) if source >= 0] == [
            "Ada",
            "slept",
        ]
        assert spans_of(new.labels) == [Span(new.sources.index(0), new.sources.index(0) + 1, "PER")]
        seen |= set(new.tokens[: new.sources.index(0)])
        assert all(t[0] == "@" or t in ("RT", ":") for t in new.tokens[: new.sources.index(0)])
    assert {"RT", ":"} < seen


def test_marks_are_cut_as_some_tokenisers_do() -> None:
    tokens = ["Ada", "\u2019s", "cat", "did", "n't", "...", "!!", "O'Hara", ":)"]
    new = augmented(tokens, ["B-PER"] + ["O"] * 8, AugmentConfig(split_marks=1), None, Random(0))
    assert new.tokens == "Ada \u2019 s cat did n ' t . . . ! ! O'Hara :)".split()
    assert new.labels == ["B-PER"] + ["O"] * 14
    assert new.sources is None


def test_hyphens_are_cut_within_words_and_names() -> None:
    tokens, labels = ["Anne-Marie", "al-Sadr", "won", "4-2", "-", "x--y"], ["B-PER", "I-PER", *"OOOO"]
    new = augmented(tokens, labels, AugmentConfig(split_hyphens=1), None, Random(0))
    assert new.tokens == "Anne - Marie al - Sadr won 4-2 - x--y".split()
    assert new.labels == ["B-PER"] + ["I-PER"] * 5 + ["O"] * 4


def test_full_stops_of_initials_stay_within_the_name() -> None:
    tokens, labels = ["Mr.", "J.", "Bell", "left", "."], ["O", "B-PER", "I-PER", "O", "O"]
    new = augmented(tokens, labels, AugmentConfig(split_stops=1), None, Random(0))
    assert new.tokens == ["Mr", ".", "J", ".", "Bell", "left", "."]
    assert new.labels == ["O", "O", "B-PER", "I-PER", "I-PER", "O", "O"]


def test_shortened_names_are_one_word() -> None:
    config = AugmentConfig(swap_names=1, shorten_names=1)
    names = Names({"x": ["Eve"]}, {"x": ["Doe"]})
    new = augmented(["Ada", "King", "slept"], ["B-PER", "I-PER", "O"], config, names, Random(0))
    assert (len(new.tokens), new.labels, new.sources) == (2, ["B-PER", "O"], None)


def test_a_sentence_never_becomes_empty() -> None:
    new = augmented(["."], ["O"], AugmentConfig(drop_end=1), None, Random(0))
    assert new == Variant(["."], ["O"], [0])


def test_a_probability_out_of_range_is_named() -> None:
    with pytest.raises(ValueError, match=r"lower is 1\.5"):
        AugmentConfig(lower=1.5)
