import doctest

import pytest
from hypothesis import given

import model.normalisation
from model.normalisation import normalisation
from tests.strategies import any_token, thorough

cased = normalisation("cased-1")


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        ("Potter", "Potter"),
        ("POTTER", "POTTER"),
        ("O’Neill", "O'Neill"),
        ("OʼNeill", "O'Neill"),
        ("’s", "'s"),
        ("“", '"'),
        ("»", '"'),
        ("``", '"'),
        ("''", '"'),
        ("`", "'"),
        ("--", "-"),
        ("—", "-"),
        ("Jean‑Luc", "Jean-Luc"),
        ("-LRB-", "("),
        ("-RRB-", ")"),
        ("1996", "0000"),
        ("3/4/2021", "0/0/0000"),
        ("٣٤", "00"),
        ("1\ufe0f\u20e3", "0\ufe0f\u20e3"),
        # Compatibility forms, and the two spellings of one letter
        ("Ａｄａ", "Ada"),
        ("ﬁn", "fin"),
        ("Zoe\u0308", "Zoë"),
        # What cannot be seen is not there, unless nothing else is
        ("co\u00adop", "coop"),
        ("\u200fמשה", "משה"),
        ("\u200b", "\u200b"),
        ("\ufeff\u200f", "\u200b"),
        ("王", "王"),
        ("\ud800", "\ud800"),
        ("", ""),
    ],
    ids=ascii,
)
def test_example(token, expected):
    assert cased(token) == expected


@thorough
@given(any_token)
def test_a_token_keeps_something_to_look_up_and_no_digit_but_0(token):
    form = cased(token)
    assert bool(form) == bool(token)
    assert not [c for c in form if c.isdigit() and c != "0"]


@thorough
@given(any_token)
def test_the_same_token_gives_the_same_form(token):
    assert cased(token) == cased("".join(token))


def test_the_examples_in_the_docstrings_are_true():
    assert doctest.testmod(model.normalisation).failed == 0


def test_an_unknown_name_is_an_error_that_names_the_known_ones():
    with pytest.raises(ValueError, match=r"'cased-0' is not one of \['cased-1'\]"):
        normalisation("cased-0")
