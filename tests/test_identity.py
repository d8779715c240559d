"""Who is the same person, and the invented names that follow."""

import hashlib
import hmac
import random
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.redaction import identity
from service.redaction import pseudonyms as inventing
from service.redaction.guess import bearer_of
from service.redaction.identity import People, folded, is_form_of, is_initials, people_of, words_of
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
        (["José García", "Jose\u0301 Garci\u0301a", "JOSE\u0301", "Jose\u0301's"], [1] * 4),
        (["Ada Lovelace", "Ada Love\u00adlace", "\u200eAda\u200f Lovelace", "Love\u00adlace"], [1] * 4),
        (["राहुल गांधी", "गांधी's"], [1, 1]),
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


def by_comparing_all(given_names):
    """The rule of people_of: each name, the fullest first, with every fuller one."""
    keys = [words_of(name) for name in given_names]
    full_name, taken = {}, []
    for words in sorted(
        dict.fromkeys(keys), key=lambda ws: (sum(not is_initials(w) for w in ws), len(ws)), reverse=True
    ):
        if len(words) > 1:
            candidates = [full for full in taken if is_form_of(words, full)]
        else:
            telling = {*words} - identity.PARTICLES - identity.SUFFIXES
            telling = {w for w in telling if not is_initials(w)}
            candidates = [full for full in taken if len(full) > 1 and telling & {*full}]
        full_name[words] = candidates[0] if len(candidates) == 1 else words
        if full_name[words] is words:
            taken.append(words)
    persons = list(dict.fromkeys(full_name[words] for words in keys))
    return People([persons.index(full_name[words]) + 1 for words in keys], persons)


@pytest.mark.parametrize("seed", range(8))
def test_who_is_who_is_what_comparing_all_with_all_says(seed):
    some = random.Random(seed)
    words = "j j. J.R. john jane jan x ab van de smith jones jr. III mr 明 小明 o'neil é गांधी".split()
    for _ in range(150):
        given_names = [
            " ".join(some.choices(words, k=some.randint(1, 5))) for _ in range(some.randint(1, 30))
        ]
        assert people_of(given_names) == by_comparing_all(given_names)


@pytest.mark.parametrize("form", ["Q{}x Smith", "John Q{}x Smith", "J. Q{}x Smith", "van Q{}x Smith"])
def test_who_shares_a_name_with_thousands_is_compared_with_a_few(form, monkeypatch):
    compared = []
    monkeypatch.setattr(identity, "is_form_of", lambda *both: compared.append(both) or is_form_of(*both))
    given_names = [*(form.format(i) for i in range(1_000)), "Smith", "J. Smith", "van Smith", "John Smith"]
    assert len(set(people_of(given_names).numbers)) > 1_000
    assert len(compared) < 3 * len(given_names)


def hash_of(name, key=b"key" * 9):
    (result,) = redacted([name], [[Person(0, len(name), 1.0)]], "hash", key)
    return result.text


def test_a_hash_is_of_the_composed_name_however_it_is_written():
    for name in ("josé garcía", "ada lovelace", "nguyễn văn"):
        expected = hmac.new(b"key" * 9, name.encode(), hashlib.sha256).hexdigest()[:16]
        for form in ("NFC", "NFD"):
            written = unicodedata.normalize(form, name.title())
            hidden = "\u00ad".join(written)  # between letters, and between a letter and its accent
            assert {hash_of(written), hash_of(hidden)} == {f"[PERSON_{expected}]"}


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


def test_a_pseudonym_is_the_same_however_the_name_is_written():
    one, other, surname = pseudonyms(["José Garcé", "Jose\u0301 Gar\u00adce\u0301", "Garce\u0301"])
    assert one == other
    assert surname == one.split()[1]
    # And a word of the texts is one that is never chosen.
    (chosen,) = pseudonyms(["José"])
    hidden = "\u00ad".join(unicodedata.normalize("NFD", chosen))
    for more in (hidden, f"{chosen}\u200bis", f"{chosen}\u030b"):
        assert pseudonyms(["José"], more=[more]) != [chosen]


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


@pytest.mark.parametrize("form", ["Q{}x", "A{}x"])  # few of the lists' names begin like it; many do
def test_an_invented_name_takes_no_longer_for_the_thousandth(form, monkeypatch):
    looked_at = []
    monkeypatch.setattr(inventing, "folded", lambda name: looked_at.append(name) or folded(name))
    given_names = [form.format(i) for i in range(2_000)]
    made = pseudonyms(given_names)
    assert len(set(made)) == len(given_names)
    assert len(looked_at) < 100 * len(given_names)


def test_where_all_short_names_occur_in_the_texts_a_longer_one_is_found_soon(monkeypatch):
    syllables = inventing._SYLLABLES
    short = [a + b + c for a in syllables for b in syllables for c in syllables]
    listed = [w for o in ORIGINS.values() for w in (*o.female, *o.male, *o.surnames, *o.female_surnames)]
    looked_at = []
    monkeypatch.setattr(inventing, "_is_alike", lambda *both: bool(looked_at.append(both)))
    (made,) = pseudonyms(["Quux"], more=[" ".join(short + listed)])
    assert len(made) == 2 * 4
    assert len(looked_at) < 100


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
