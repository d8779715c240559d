"""Who is the same person, and the invented names that follow."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.redaction.guess import bearer_of
from service.redaction.identity import folded, people_of
from service.redaction.invented import ORIGINS
from service.redaction.pseudonyms import Pseudonyms
from service.redaction.texts import Person, redacted
from tests.strategies import brief, thorough

GIVEN = ["Ada", "Jean-Luc", "MARY", "james", "J.", "Élodie", "Xi"]
FAMILY = ["Lovelace", "Smith", "SMITH", "Picard", "O'Neil", "van Beethoven", "King Jr.", "小明"]
names = st.one_of(
    st.sampled_from(GIVEN),
    st.sampled_from(FAMILY),
    st.builds("{} {}".format, st.sampled_from(GIVEN), st.sampled_from(FAMILY)),
    st.builds("{} {} {}".format, st.sampled_from(GIVEN), st.sampled_from(GIVEN), st.sampled_from(FAMILY)),
    st.text(max_size=6),
)


@pytest.mark.parametrize(
    ("given_names", "numbers"),
    [
        (["Harry Potter", "Potter", "HARRY", "harry potter", "Mr. Potter", "Potter's"], [1] * 6),
        (["Potter", "Ron Weasley", "Harry Potter"], [1, 2, 1]),
        (["John Smith", "Mary Smith", "Smith", "John"], [1, 2, 3, 1]),
        (["Walter Scott", "Scott Joplin", "Scott"], [1, 2, 3]),
        (["John Ronald Tolkien", "J. R. Tolkien", "John Tolkien", "J. Tolkien", "Tolkien"], [1] * 5),
        (["John Tolkien", "James Tolkien", "J. Tolkien"], [1, 2, 3]),
        (["Harry James Potter", "James Potter"], [1, 2]),
        (["Ludwig van Beethoven", "van Beethoven", "Beethoven"], [1, 1, 1]),
        (["Martin Luther King Jr.", "Martin King", "King"], [1, 1, 1]),
        (["Xi Jinping", "Xi"], [1, 1]),
        (["J.", "John Smith"], [1, 2]),
        (["", "!", "Mr.", "'s"], [1, 2, 3, 4]),
    ],
)
def test_who_is_the_same_person(given_names, numbers):
    assert people_of(given_names).numbers == numbers


@thorough
@given(st.lists(names, max_size=8))
def test_numbers_count_from_1_and_do_not_depend_on_case_or_on_what_is_said_twice(given_names):
    people = people_of(given_names)
    assert list(dict.fromkeys(people.numbers)) == list(range(1, len(people.names) + 1))
    assert people_of(given_names * 2).numbers == people.numbers * 2
    # "ß".upper() is "SS": folding is what makes them one.
    assert people_of([folded(name) for name in given_names]).numbers == people.numbers


def pseudonyms(given_names, key=b"key", more=()):
    people = people_of(given_names)
    made = Pseudonyms(people, [*given_names, *more], key)
    return [made.of(number, name) for number, name in zip(people.numbers, given_names, strict=True)]


def test_a_pseudonym_keeps_the_shape_of_the_name():
    shapes = {
        "Jean-Luc PICARD": r"\w+-\w+ [^a-z]+",
        "J.R.R. Tolkien": r"\w\.\w\.\w\. [\w-]+",
        "ada lovelace": "[^A-Z]+ [^A-Z]+",
        "Ann B. Smith-Jones": r"\w+ \w\. \w+-\w+",
        "Dr. Eve Adams's": r"\w+ [\w-]+'s",
        "Picard": r"[\w-]+",
    }
    made = pseudonyms(list(shapes))
    for name, shape in zip(made, shapes.values(), strict=True):
        assert re.fullmatch(shape, name), name
    assert made[0].split()[1].casefold() == made[5].casefold()


def test_those_who_share_a_surname_still_do_and_nobody_else():
    one, other, alone, third = pseudonyms(["John Smith", "Mary Smith", "Smith", "Mary Jones"])
    assert one.split()[1] == other.split()[1] == alone != third.split()[1]
    assert other.split()[0] == third.split()[0] != one.split()[0]


@brief
@given(st.lists(names, min_size=1, max_size=8), st.binary(min_size=1, max_size=4))
def test_no_part_of_a_pseudonym_occurs_in_the_texts_and_the_key_decides(given_names, key):
    made = pseudonyms(given_names, key)
    assert made == pseudonyms(given_names, key)
    in_texts = {word for name in given_names for word in re.findall(r"\w+", folded(name))}
    for name in made:
        words = [w for w in re.findall(r"\w+", folded(name)) if len(w) > 1 and w != "s"]
        assert in_texts.isdisjoint(words)


def test_names_that_occur_in_the_texts_are_never_chosen_even_where_that_is_nearly_all():
    everybody = [
        word for o in ORIGINS.values() for words in (o.female, o.male, o.surnames) for word in words
    ]
    for more in (everybody, [word for o in ORIGINS.values() for word in o.surnames]):
        (made,) = pseudonyms(["John Smith"], more=more)
        assert set(re.findall(r"\w+", folded(made))).isdisjoint(re.findall(r"\w+", folded(" ".join(more))))


def test_hundreds_of_persons_have_a_name_each():
    letters = "abcdefghijklmnopqrstuvwxyz"
    given_names = [f"{a}{b}or {b}{a}{a}sen".title() for a in letters for b in letters]
    made = pseudonyms(given_names)
    assert len(set(made)) == len(given_names)


@pytest.mark.parametrize(
    ("name", "origin", "is_female"),
    [
        ("angela merkel", "German", True), ("giovanni rossi", "Italian", False),
        ("ngozi okafor", "Igbo", None), ("lars nilsson", "Scandinavian", False),
        ("guðrún sigurðardóttir", "Icelandic", True), ("yuki tanaka", "Japanese", None),
    ],
)  # fmt: skip
def test_an_invented_name_is_of_the_origin_and_gender_that_the_name_sounds_like(name, origin, is_female):
    bearer = bearer_of(tuple(name.split()))
    assert bearer.origin.name == origin
    assert is_female in (None, bearer.is_female)


def test_a_woman_has_a_woman_s_surname_where_there_are_two():
    origin = ORIGINS["Russian"]
    assert len(origin.female_surnames) == len(origin.surnames)
    (made,) = pseudonyms(["Svetlana Kuznetsova"])
    assert made.split()[1][-1] == "a"


def test_the_lists_are_of_plain_words_and_each_origin_has_enough():
    for origin in ORIGINS.values():
        for words in (origin.female, origin.male, origin.surnames):
            assert len(set(words)) == len(words) >= 11
            assert all(re.fullmatch(r"[A-ZÀ-ÞĀ-Ž]\w+(-\w+)?", word) for word in words)


@brief
@given(st.lists(names, min_size=1, max_size=6), st.sampled_from(["mask", "label", "hash"]))
def test_nothing_of_a_name_is_in_what_stands_for_it(given_names, mode):
    texts = [name for name in given_names if name]
    results = redacted(texts, [[Person(0, len(text), 1.0)] for text in texts], mode, b"key" * 9)
    marks = "█████" if mode == "mask" else r"\[PERSON_[0-9a-f]+\]"
    assert all(re.fullmatch(marks, result.text) for result in results)
