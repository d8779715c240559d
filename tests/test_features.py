import doctest
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import model.features
from model.features import CHAR_WINDOW, PAD, PAD_ID, SHAPES, UNK, UNK_ID, Vocabulary, distinct, shape_of
from tests.strategies import any_token, thorough

WORDS = Vocabulary(
    cased=(PAD, UNK, "Harry", "Potter", "met", "0000"),
    lower=(PAD, UNK, "harry", "potter", "met", "zoë"),
    chars=(PAD, UNK, *"HPaeorty0"),
)


def encode(*tokens):
    return WORDS.encoder.encode(tokens)


def test_known_words_have_their_position_as_id_and_unknown_ones_unk():
    types = encode("Harry", "Potter", "Hermione", "met")
    assert types.cased.tolist() == [2, 3, UNK_ID, 4]
    assert types.lower.tolist() == [2, 3, UNK_ID, 4]


def test_another_case_is_found_in_the_lower_cased_table_only():
    types = encode("POTTER", "potter", "Zoe\u0308")
    assert types.cased.tolist() == [UNK_ID, UNK_ID, UNK_ID]
    assert types.lower.tolist() == [3, 3, 5]


def test_words_are_looked_up_in_their_normalised_form():
    types = encode("1996", "Ｐotter")
    assert types.cased.tolist() == [5, 3]


def test_characters_are_ids_in_order_and_padding_after_the_end():
    types = encode("Potter", "Px")
    p, o, t, e, r = (WORDS.chars.index(c) for c in "Poter")
    assert types.chars[0, :7].tolist() == [p, o, t, t, e, r, PAD_ID]
    assert types.chars[1, :3].tolist() == [p, UNK_ID, PAD_ID]
    assert not types.chars[:, 7:].any()


def test_a_long_word_shows_its_first_and_last_characters():
    half = CHAR_WINDOW // 2
    whole, cut = encode("H" * half + "P" * half, "H" * half + "x" * 100_000 + "P" * half).chars
    assert whole.tolist() == cut.tolist()
    assert PAD_ID not in cut.tolist()
    one_more = encode("H" * half + "x" + "P" * half).chars[0]
    assert one_more.tolist() == whole.tolist()


def test_an_empty_token_is_an_unknown_word_without_characters():
    types = encode("")
    assert (types.cased[0], types.lower[0]) == (UNK_ID, UNK_ID)
    assert SHAPES[types.shapes[0]] == "other"
    assert not types.chars.any()


def test_no_tokens_give_empty_arrays():
    types = encode()
    assert types.cased.shape == types.lower.shape == types.shapes.shape == (0,)
    assert types.chars.shape == (0, CHAR_WINDOW)


@pytest.mark.parametrize(
    ("token", "shape"),
    [
        ("met", "lower"), ("Ada", "Title"), ("É", "Initial"), ("J.", "Initial"), ("NATO", "UPPER"),
        ("J.R.R.", "UPPER"), ("McEwan", "miXed"), ("O'Neill", "miXed"), ("iPhone", "miXed"),
        ("Jean-Luc", "miXed"), ("jean-luc", "lower"), ("x.", "lower"), ("1996", "digits"),
        ("3/4", "digits"), ("3rd", "d1g1t"), ("B2B", "d1g1t"), (",", "other"), ("", "other"),
        ("\U0001f389", "other"), ("王", "lower"), ("משה", "lower"), ("\ud800", "other"),
    ],
)  # fmt: skip
def test_shape(token, shape):
    assert SHAPES[shape_of(token)] == shape


@thorough
@given(st.lists(any_token, max_size=6))
def test_a_token_is_encoded_the_same_alone_and_among_others(tokens):
    together = encode(*tokens)
    for i, token in enumerate(tokens):
        alone = encode(token)
        for name in ("cased", "lower", "shapes", "chars"):
            np.testing.assert_array_equal(getattr(together, name)[i], getattr(alone, name)[0])


@thorough
@given(st.lists(any_token, max_size=6))
def test_every_id_is_a_row_of_its_table(tokens):
    types = encode(*tokens)
    sizes = {"cased": WORDS.cased, "lower": WORDS.lower, "shapes": SHAPES, "chars": WORDS.chars}
    for name, table in sizes.items():
        ids = getattr(types, name)
        assert ids.dtype == np.int64
        assert ((ids >= 0) & (ids < len(table))).all()


@thorough
@given(st.lists(st.lists(any_token, max_size=5), max_size=5))
def test_distinct_tokens_come_once_and_the_indices_give_the_sentences_back(sentences):
    types, rows = distinct(sentences)
    assert len(set(types)) == len(types)
    assert [[types[i] for i in row] for row in rows] == sentences


def test_a_vocabulary_that_does_not_begin_with_pad_and_unk_is_refused():
    with pytest.raises(ValueError, match=r"lower-cased words must begin with '<PAD>' and '<UNK>'"):
        Vocabulary((PAD, UNK), (UNK, PAD), (PAD, UNK)).encoder  # noqa: B018


def test_a_word_that_occurs_twice_is_refused():
    with pytest.raises(ValueError, match="cased words: 1 entries occur twice"):
        Vocabulary((PAD, UNK, "a", "a"), (PAD, UNK), (PAD, UNK)).encoder  # noqa: B018


def test_the_examples_in_the_docstrings_are_true():
    assert doctest.testmod(model.features).failed == 0


def test_the_class_of_a_plain_word_is_that_of_its_letters() -> None:
    """Plain words are classed without a look at every letter: beside an accent every letter is looked at,
    and an accented letter is a letter like others."""
    for n in range(1, 6):
        for letters in itertools.product("aB", repeat=n):
            plain = "".join(letters)
            for at, letter in enumerate(plain):
                accented = plain[:at] + ("é" if letter == "a" else "É") + plain[at + 1 :]
                assert shape_of(plain) == shape_of(accented), plain
