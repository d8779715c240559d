"""Sentences written from templates: their spans are the persons, and training can read them."""

import json
import re
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest

from model.tokeniser import tokeniser
from training.corpus import read_corpus
from training.names import Names, is_family_first, read_names
from training.pronouns import frame
from training.synthesis import _LISTS, _SLOT, TEMPLATES, _Writer, templates, write_corpus, written

NAMES = Names(
    {"x": ["Ada", "Anh Thư"], "y": ["Ngozi"]}, {"x": ["Lovelace"], "y": ["Okonjo-Iweala", "O'Neill"]}
)


def filled(template: str, seed: int = 0) -> str:
    text, spans = _Writer(NAMES, Random(seed)).write(template)
    for start, end in reversed(spans):
        text = f"{text[:start]}<{text[start:end]}>{text[end:]}"
    return text


@pytest.mark.parametrize("template", sorted(set(templates())))
def test_every_template_can_be_filled_and_its_spans_end_where_tokens_end(template: str) -> None:
    cut = tokeniser("treebank-1")
    for seed in range(3):
        text, spans = _Writer(NAMES, Random(seed)).write(template)
        assert "{" not in text
        assert "}" not in text
        tokens = cut(text)
        starts, ends = set(tokens.starts), set(tokens.ends)
        assert {start for start, _ in spans} <= starts
        assert {end for _, end in spans} <= ends
        # Neither within each other nor side by side.
        assert all(end < start for (_, end), (start, _) in pairwise(spans))


def test_no_line_is_there_twice_and_some_count_for_several() -> None:
    lines = [line for line in TEMPLATES.read_text("utf-8").split("\n") if line and line[:2] != "# "]
    assert len(set(lines)) == len(lines)
    assert len(templates()) > len(set(templates()))


def test_a_number_is_one_person_and_a_dash_is_nobody() -> None:
    for seed in range(20):
        text = filled("{1.family} left {1.-family} Inc.", seed)
        name = text[1 : text.index(">")]
        assert text == f"<{name}> left {name} Inc."


def test_brackets_are_persons() -> None:
    assert filled("[Grace] said grace.") == "<Grace> said grace."


def test_every_slot_is_known_or_a_name() -> None:
    names = set(
        "full given family fi initials nick suffixed double particle index compound apostrophe lower "
        "made lowerfamily lowerfull upperfull upperfamily uppergiven personplaceperson initial year n "
        "handle mail".split()
    )
    for template in templates():
        for slot in _SLOT.finditer(template):
            name = slot[3]
            assert name is None or name in names | set(_LISTS) or name.removeprefix("upper") in _LISTS


def test_the_same_seed_writes_the_same_corpus_which_training_reads(tmp_path: Path) -> None:
    a, b = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    assert write_corpus(NAMES, a, 400, 7) == 400
    write_corpus(NAMES, b, 400, 7)
    assert a.read_text() == b.read_text()
    assert list(written(NAMES, 5, 7)) != list(written(NAMES, 5, 8))
    sentences = read_corpus(a, tokenise=tokeniser("treebank-1"))
    n_spans = sum(len(json.loads(line)["spans"]) for line in a.read_text().splitlines())
    assert sum(label.startswith("B-") for s in sentences for label in s.labels) == n_spans


def framed(sentence: str) -> set[str]:
    """All templates that chance makes of it, most of a person's slots as "NAME"."""
    rng = Random(1)
    found = {frame(sentence, rng) or "" for _ in range(400)}
    return {re.sub(r"\{1\.[a-z]+\}", "NAME", template) for template in found}


def test_pronouns_become_slots_and_nothing_else_changes() -> None:
    assert framed("She runs a bakery.") == {"NAME runs a bakery.", "{title} NAME runs a bakery."}
    assert framed("I asked him for the key.") == {"I asked NAME for the key.", ""}
    assert framed("The dog ate his shoe.") == {"The dog ate NAME's shoe.", ""}
    assert "{full} and {full} left." in framed("They left.")
    assert framed("It was built in 1850.") >= {"", "{-namedtown} was built in 1850."}


@pytest.mark.parametrize(
    "sentence",
    [
        "She met Ada.",  # a name that would have no label
        "Ada said that he ran.",
        "It is said that all is well.",
        "They are sold by the pound.",
        "She wrote {x}.",
        "Nothing happened.",
        "",
    ],
)
def test_a_sentence_that_may_name_somebody_or_has_no_pronoun_is_left_out(sentence: str) -> None:
    assert framed(sentence) == {""}


def test_raw_text_is_written_with_names_in_place_of_pronouns(tmp_path: Path) -> None:
    raw = tmp_path / "raw.txt"
    raw.write_text("\n\n".join(f"She sold {n} apples. Ada met him." for n in range(200)), "utf-8")
    out = tmp_path / "out.jsonl"
    n = write_corpus(NAMES, out, 50, 3, [raw])
    assert n == 50
    entries = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert all(entry["text"].endswith("apples.") and len(entry["spans"]) == 1 for entry in entries)
    assert len({entry["text"] for entry in entries}) == 50


def test_names_that_the_lists_lack_are_there_and_some_begin_with_the_family(tmp_path: Path) -> None:
    for kind in ("forenames", "surnames"):
        table = "Country,Localized Name,Romanized Name\n" + "".join(f"GB,A{c},\n" for c in "abcdef")
        (tmp_path / f"{kind}.csv").write_text(table)
    names = read_names(tmp_path, with_faker=False)
    assert {"GB", "Korean", "Burmese"} <= names.given.keys() & names.family.keys()
    assert "Aung Kyaw" in names.given["Burmese"]
    rng = Random(1)
    assert not any(is_family_first("GB", rng) for _ in range(50))
    assert {is_family_first("Korean", rng) for _ in range(50)} == {True, False}


def test_names_that_are_words_too_are_drawn_for_themselves() -> None:
    family = [f"Kim{c}" for c in "abcdefghijklmnopqrstuvwxyz"] + ["Park"]
    writer = _Writer(Names({"Korean": ["Ji-woo"]}, {"Korean": family}), Random(0))
    written = [writer.write("{family}")[0] for _ in range(500)]
    assert 50 < written.count("Park") < 150


def test_a_list_of_names_is_read_as_spreadsheets_save_it_or_its_missing_column_is_named(
    tmp_path: Path,
) -> None:
    table = "Country,Localized Name,Romanized Name\n" + "".join(f"GB,A{c},\n" for c in "abcdef")
    for kind in ("forenames", "surnames"):
        (tmp_path / f"{kind}.csv").write_text("\ufeff" + table, "utf-8")
    assert "Aa" in read_names(tmp_path, with_faker=False).given["GB"]
    (tmp_path / "surnames.csv").write_text("Name\nLee\n")
    with pytest.raises(ValueError, match=r"surnames\.csv: has no column 'Country'"):
        read_names(tmp_path, with_faker=False)
