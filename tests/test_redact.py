"""POST /v1/redact over a real socket: what is replaced, by what, and where it then stands."""

import json
import logging
import re
import unicodedata

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from model.head import ScoredSpan, Tagged
from model.labels import PERSON, Span
from model.tokeniser import tokeniser
from service.problems import Problem
from service.redaction.schemas import RedactRequestJson, RedactResponse, redact_request
from service.redaction.texts import (
    MASK,
    MODES,
    Person,
    Redacted,
    Redaction,
    left_over,
    persons_of,
    redacted,
    with_namesakes,
)
from service.schemas import parsed
from service.settings import ROOT
from tests.running import check_problem, running
from tests.strategies import any_text, brief, thorough

BUNDLED = ROOT / "artefacts" / "en-person"
KEY = "nobody can guess it"
CUT = {
    "codepoint": lambda text, start, end: text[start:end],
    "utf16": lambda text, start, end: text.encode("utf-16-le")[2 * start : 2 * end].decode("utf-16-le"),
    "utf8": lambda text, start, end: text.encode()[start:end].decode(),
}


@pytest.fixture(scope="module")
def service(tiny_artefact):
    with running(tiny_artefact) as service:
        yield service


@pytest.fixture(scope="module")
def bundled():
    with running(BUNDLED) as service:
        yield service


def redact(service, texts, mode, **options):
    options = {"key": KEY, **options} if mode == "hash" else options
    answer = service.client.post("/v1/redact", json={"texts": texts, "mode": mode, **options})
    assert answer.status_code == 200, answer.text
    RedactResponse.model_validate_json(answer.content)
    return answer.json()["texts"]


def refused(service, **request):
    return check_problem(service.client.post("/v1/redact", json=request), 422, "invalid-request")


def check_offsets(text, result, unit):
    """Both texts are the same but for the replacements, each of which stands where it says."""
    cut, old, new = CUT[unit], 0, 0
    kept = []
    for each in result["replacements"]:
        assert old <= each["start"] < each["end"]
        kept.append((cut(text, old, each["start"]), cut(result["text"], new, each["new_start"])))
        assert cut(result["text"], each["new_start"], each["new_end"]) == each["replacement"]
        old, new = each["end"], each["new_end"]
    kept.append((cut(text, old, len(text) * 4), cut(result["text"], new, len(result["text"]) * 4)))
    assert all(before == after for before, after in kept)


@pytest.mark.parametrize("unit", CUT)
@pytest.mark.parametrize("mode", MODES)
def test_offsets_are_exact_in_both_texts_and_in_every_unit(service, unit, mode):
    texts = [
        "👩‍🚀 Harry Potter met José Nuñez 🎉 in London.",
        "",
        "王小明 met Hermione\n\nGranger’s 🏴 owl.",
    ]
    found = redact(service, texts, mode, offset_unit=unit, threshold=0.01)
    assert sum(len(result["replacements"]) for result in found) > 2
    for text, result in zip(texts, found, strict=True):
        check_offsets(text, result, unit)


a_part = any_text.filter(lambda t: not re.search("[\ud800-\udfff]", t))
a_person = a_part.filter(bool).map(lambda name: {"person": name})


@brief
@given(st.lists(st.lists(a_part | a_person, max_size=8), max_size=3), st.sampled_from(MODES))
def test_of_a_text_in_parts_exactly_those_that_are_marked_are_replaced(service, texts, mode):
    for parts, result in zip(texts, redact(service, texts, mode), strict=True):
        whole, spans = "", []
        for part in parts:
            text = part if isinstance(part, str) else part["person"]
            if part is not text:
                spans.append((len(whole), len(whole) + len(text)))
            whole += text
        check_offsets(whole, result, "codepoint")
        assert [(r["start"], r["end"]) for r in result["replacements"]] == spans
        assert {r["score"] for r in result["replacements"]} <= {1.0}


def test_offsets_of_a_text_in_parts_count_in_the_unit_that_is_asked_for(service):
    text = ["🎉 ", {"person": "Ada Lovelace"}, " wrote."]
    for unit, start in (("codepoint", 2), ("utf16", 3), ("utf8", 5)):
        (result,) = redact(service, [text], "mask", offset_unit=unit)
        assert result["text"] == f"🎉 {MASK} wrote."
        assert result["replacements"][0]["start"] == start


@pytest.mark.bundled
def test_in_other_texts_of_the_request_persons_are_found_as_ever(bundled):
    marked = [{"person": "Ada Lovelace"}, " and Charles Babbage met."]
    texts = ["Ada Lovelace wrote.", marked, "Babbage left."]
    results = [result["text"] for result in redact(bundled, texts, "label")]
    assert results == ["[PERSON_1] wrote.", "[PERSON_1] and Charles Babbage met.", "[PERSON_2] left."]


def test_a_text_that_is_too_large_is_named_by_its_place_in_the_request(tiny_artefact):
    with running(tiny_artefact, max_sentence_tokens=3) as service:
        request = {"texts": [[{"person": "Ada"}], "Ada and Bob left us"], "mode": "mask"}
        problem = check_problem(service.client.post("/v1/redact", json=request), 413, "too-large")
    assert problem["pointer"] == "#/texts/1"


@pytest.mark.parametrize(
    ("text", "pointer"),
    [
        (1, "#/texts/0"),
        ({"person": "Ann"}, "#/texts/0"),
        (["Ann", 1], "#/texts/0/1"),
        (["Ann", ["Ann"]], "#/texts/0/1"),
        ([{"start": 0, "end": 3}], "#/texts/0/0"),
        ([{"person": "Ann", "score": 1}], "#/texts/0/0"),
        ([{"person": 1}], "#/texts/0/0/person"),
        ([{"person": ""}], "#/texts/0/0/person"),
    ],
)
def test_parts_that_are_none_are_refused_with_their_place(service, text, pointer):
    problem = refused(service, texts=[text, "Ann Smith left."], mode="mask")
    assert problem["errors"][0]["pointer"] == pointer
    assert "Ann" not in json.dumps(problem)


def test_a_hash_takes_a_key_that_is_not_short_and_quotes_none(service):
    refused(service, texts=["Ann"], mode="hash")
    for mode in MODES:
        problem = refused(service, texts=["Ann"], mode=mode, key="swordfish")
        assert "swordfish" not in json.dumps(problem)


def test_the_service_may_have_a_key_of_its_own(tiny_artefact, tmp_path):
    path = tmp_path / "key"
    path.write_text(f"{KEY}\n")
    texts = [[{"person": "Ann"}]]
    with running(tiny_artefact, redaction_key_file=path) as service:
        request = {"texts": texts, "mode": "hash"}
        (result,) = service.client.post("/v1/redact", json=request).json()["texts"]
        (with_same,) = redact(service, texts, "hash")
        (with_other,) = redact(service, texts, "hash", key="another that is long")
    assert re.fullmatch(r"\[PERSON_[0-9a-f]{16}\]", result["text"])
    assert result == with_same != with_other


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-2, 2) | st.text("ab", max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=2)
    ),
    max_leaves=6,
)
some_part = st.text("ab ") | st.fixed_dictionaries({"person": st.text("ab ")})
requests = st.fixed_dictionaries(
    {},
    optional={
        "texts": st.lists(st.text("ab ") | st.lists(some_part | anything, max_size=2), max_size=3)
        | anything,
        "mode": st.sampled_from(MODES) | anything,
        "offset_unit": st.sampled_from(["codepoint", "utf16", "utf8"]) | anything,
        "threshold": st.floats(0, 1) | anything,
        "model": st.text("ab") | anything,
        "key": st.just(KEY) | anything,
        "colour": anything,
    },
)


@thorough
@given(requests | anything)
def test_what_is_read_is_what_the_published_schema_allows(value):
    try:
        TypeAdapter(RedactRequestJson).validate_python(value)
        allowed = True
    except ValidationError:
        allowed = False
    try:
        read = redact_request(parsed(orjson.dumps(value)), max_texts=9, max_chars=99, has_key=True)
    except Problem as raised:
        assert (raised.code, allowed) == ("invalid-request", False)  # noqa: PT017 - either may be right
    else:
        assert allowed
        assert read.texts == [
            text
            if isinstance(text, str)
            else "".join(p if isinstance(p, str) else p["person"] for p in text)
            for text in value["texts"]
        ]


def test_limits_are_those_of_documents(tiny_artefact):
    with running(
        tiny_artefact, max_sentences=2, max_document_chars=40, max_request_tokens=12, max_sentence_tokens=8
    ) as service:
        for texts, limit in (
            (["a"] * 3, "max_sentences"),
            (["a", "b" * 41], "max_document_chars"),
            (["a b c d e f", "a b c d. e f g"], "max_request_tokens"),
            (["a b c d e f g h i"], "max_sentence_tokens"),
        ):  # fmt: skip
            answer = service.client.post("/v1/redact", json={"texts": texts, "mode": "mask"})
            assert check_problem(answer, 413, "too-large")["limit"] == limit
        # What a name becomes has more tokens than the name; that is nobody's fault.
        for mode in MODES:
            redact(service, ["Harry Potter met Hermione Granger in London . ,"[:40]], mode, threshold=0.01)


# With the model that is bundled


@pytest.mark.bundled
def test_a_person_is_the_same_throughout_a_request(bundled):
    texts = ["Harry Potter met HERMIONE GRANGER.", "Mr. Potter's owl saw Hermione, and harry potter left."]
    first, second = (result["text"] for result in redact(bundled, texts, "label"))
    assert first == "[PERSON_1] met [PERSON_2]."
    assert second == "Mr. [PERSON_1]'s owl saw [PERSON_2], and [PERSON_1] left."


@pytest.mark.bundled
def test_an_invented_name_follows_its_person_in_every_form(bundled):
    texts = ["Harry Potter met HERMIONE GRANGER.", "Mr. Potter's owl saw Hermione, and harry potter left."]
    first, second = (result["text"] for result in redact(bundled, texts, "pseudonym"))
    match = re.fullmatch(r"(\w+) (\w+) met (\w+ \w+)\.", first)
    given_name, surname, hers = match.groups()
    assert hers.isupper()  # and not of A to Z alone: a surname may be MÖLLER
    her = hers.split()[0]
    shown = f"Mr. {surname}'s owl saw {her.capitalize()}, and {given_name.lower()} {surname.lower()} left."
    assert second == shown
    assert not re.search("harry|potter|hermione|granger", first + second, re.IGNORECASE)


@pytest.mark.bundled
def test_the_same_key_invents_the_same_names_and_no_key_others(bundled):
    texts = ["Harry Potter met Hermione Granger, Ron Weasley, Albus Dumbledore and Severus Snape."]
    keyed = [redact(bundled, texts, "pseudonym", key=KEY) for _ in range(2)]
    assert keyed[0] == keyed[1]
    assert len({redact(bundled, texts, "pseudonym")[0]["text"] for _ in range(4)}) > 1


# Nothing of a name gets out

SYLLABLES = ["quux", "zeb", "wom", "vrax", "jilt", "ybb"]  # in no English word, in no answer of ours
odd_word = st.lists(st.sampled_from(SYLLABLES), min_size=2, max_size=3).map(
    lambda s: "".join(s).capitalize()
)
odd_name = st.lists(odd_word, min_size=1, max_size=3).map(" ".join)


@pytest.mark.bundled
@brief
@given(st.lists(odd_name, min_size=1, max_size=4), st.sampled_from(MODES))
def test_no_part_of_a_name_that_was_replaced_is_anywhere(bundled, names, mode):
    text = [
        part for name in names
        for part in ("Yesterday Mr. ", {"person": name}, "'s mother spoke to the press. ")
    ]  # fmt: skip
    upper = [each.upper() if isinstance(each, str) else {"person": each["person"].upper()} for each in text]
    records = []
    logger = logging.getLogger()
    handler = logging.Handler()
    handler.emit = records.append
    logger.addHandler(handler)
    try:
        request = {"texts": [text, upper], "mode": mode, "key": KEY}
        right = bundled.client.post("/v1/redact", json=request)
        wrong = [
            {**request, "texts": [text, [*text, {"person": names[0], "start": 0}]]},
            {**request, names[0]: text},
            {**request, "texts": [text, [text]]},
            {**request, "mode": names[0]},
            {**request, "model": "nobody"},
        ]
        answers = [bundled.client.post("/v1/redact", json=each) for each in wrong]
    finally:
        logger.removeHandler(handler)
    assert [right.status_code, *(each.status_code for each in answers)] == [200, 422, 422, 422, 422, 404]
    told = [right.text, *(each.text for each in answers), bundled.client.get("/metrics").text]
    told += [str(vars(record)) for record in records]
    assert not [s for s in SYLLABLES if s in "".join(told).casefold()]


@pytest.mark.bundled
def test_a_bug_says_nothing_of_the_text(bundled, caplog, monkeypatch):
    def broken(*_):
        raise ValueError("cannot replace Zebedee Quux")

    monkeypatch.setattr("service.redaction.endpoint.answer_bytes", broken)
    request = {"texts": ["Zebedee Quux left."], "mode": "mask"}
    answer = bundled.client.post("/v1/redact", json=request)
    check_problem(answer, 500, "internal-error")
    told = answer.text + str([vars(record) for record in caplog.records])
    assert not re.search("zebedee|quux", told, re.IGNORECASE)


@pytest.mark.bundled
def test_the_model_finds_nobody_in_what_was_redacted(bundled):
    """Against /v1/tag, at twice the threshold that redacts."""
    cases = [path.read_text("utf-8") for path in sorted((ROOT / "tests" / "behaviour").glob("*.txt"))]
    lines = [re.sub(r"[\[\]]", "", line) for line in "\n".join(cases).splitlines() if "[" in line]
    texts = ["\n\n".join(lines[i : i + 25]) for i in range(0, len(lines), 25)]
    for mode in ("mask", "label", "hash"):
        for result in redact(bundled, texts, mode):
            request = {"text": result["text"], "threshold": 0.1}
            found = bundled.client.post("/v1/tag", json=request).json()["sentences"]
            assert [p["text"] for s in found for p in s["persons"]] == []


def test_who_shares_a_first_name_with_thousands_is_looked_up(monkeypatch):
    sorted_in_all = []
    monkeypatch.setattr(
        "service.redaction.texts.sorted",
        lambda these, **how: sorted(sorted_in_all.extend(these) or these, **how),
        raising=False,
    )
    names = [f"John q{i}x" for i in range(1_000)]
    text = ", ".join(names)
    persons = [Person(m.start(), m.end(), 0.9) for m in re.finditer(r"John \w+", text)]
    _, found = with_namesakes([text, text.upper()], [persons, []])
    assert len(found) == len(names)
    assert len(sorted_in_all) < 10 * len(names)


# How names are written

MARKED = [
    "Andre\u0301",
    "Rene\u0301",
    "Gidé",
    "गांधी",
    "राहुल",
    "ક્‍ષ",
    "محمّد",
    "Love\u00adlace",
    "علی\u200cرضا",
    "ศรี",
]


@pytest.mark.parametrize("name", MARKED)
def test_of_a_name_no_mark_and_no_joiner_is_left(name):
    for text in (f"I met {name}.", f"I met Dr. {name}'s owl", f"\u2068{name}\u2069 left"):
        start = text.index(name)
        for before in (0, 1):  # and where the model takes what stands beside it along
            found = Person(start - before, start + len(name) + before, 0.9)
            assert left_over(Redacted(text, []), [found]) == [Person(start, start + len(name), 0.9)]


def test_the_same_name_is_found_elsewhere_however_its_accents_are_written():
    name = unicodedata.normalize("NFD", "André Gidé")
    texts = [f"I met {name}.", "André Gidé left.", f"I met {name}\u0301."]
    _, elsewhere, other = with_namesakes(texts, [[Person(6, 6 + len(name), 0.9)], [], []])
    assert elsewhere == [Person(0, 10, 0.9)]
    assert other == []  # another word begins like it


@pytest.mark.parametrize("name", MARKED)
def test_a_possessive_is_told_from_a_name_that_ends_in_a_mark(name):
    text = f"{name}'s owl"
    tokens = tokeniser("treebank-1")(text)
    both = Tagged([], [], [ScoredSpan(Span(0, len(tokens) - 1, PERSON), 0.9)])
    assert persons_of(text, tokens, both) == [Person(0, len(name), 0.9)]


# Rounds


def found_one_by_one(texts, patterns, mode):
    """The results where the model finds another pattern each time it looks; and what it was shown."""
    redaction = Redaction(texts, mode, KEY.encode())
    shown = []
    for pattern in (*patterns, "nobody"):
        asked = redaction.to_tag()
        shown += asked
        redaction.learn(
            [[Person(m.start(), m.end(), 0.4) for m in re.finditer(pattern, text)] for text in asked]
        )
    assert redaction.to_tag() == []
    return redaction.results(), shown


@pytest.mark.parametrize("mode", MODES)
def test_who_is_found_in_the_result_only_is_replaced_in_every_mode(mode):
    texts = ["Ada met Bob and Cleo.", "Bob left."]
    results, shown = found_one_by_one(texts, ["Ada|^Bob", "Bob", "Cleo"], mode)
    assert [[r.start for r in each.replacements] for each in results] == [[0, 8, 16], [0]]
    assert [[r.person for r in each.replacements] for each in results] == [[1, 2, 3], [2]]
    (ada, bob, _), (again,) = ([r.text for r in each.replacements] for each in results)
    assert bob == again
    assert (ada == bob) == (mode == "mask")
    for text, result in zip(texts, results, strict=True):
        assert not re.search("Ada|Bob|Cleo", result.text)
        at = 0
        for r in result.replacements:
            assert result.text[r.new_start : r.new_end] == r.text
            at += r.new_end - r.new_start - (r.end - r.start)
        assert len(result.text) == len(text) + at
    if mode == "pseudonym":  # the model would find invented names, and is shown none
        assert shown == found_one_by_one(texts, ["Ada|^Bob", "Bob", "Cleo"], "label")[1]
        persons = [[Person(r.start, r.end, 0.4) for r in each.replacements] for each in results]
        assert results == redacted(texts, persons, "pseudonym", KEY.encode())


def test_a_full_name_that_is_sent_along_makes_the_hashes_of_two_requests_one(service):
    """As docs/redaction.md says."""
    potter, harry = [{"person": "Potter"}, " left."], [{"person": "Harry Potter"}, " came."]
    full = [{"person": "Harry Potter"}]
    alone = redact(service, [potter], "hash")[0]["text"].removesuffix(" left.")
    beside, with_full = (redact(service, [potter, each], "hash") for each in (harry, full))
    (its_own,) = redact(service, [full], "hash")
    assert beside[0]["text"] == with_full[0]["text"] == f"{its_own['text']} left."
    assert alone != its_own["text"]


def test_a_sure_name_of_two_words_is_a_person_wherever_it_stands():
    texts = ["Harry Potter left.", "a harry  potter spell, HARRY-POTTER, harry, potter"]
    for score, expected in ((0.9, ["harry  potter", "HARRY-POTTER"]), (0.3, [])):
        _, found = with_namesakes(texts, [[Person(0, 12, score)], []])
        assert [texts[1][p.start : p.end] for p in found] == expected
    # The fullest of them, at the end of a text too.
    for name in ("Harry James Potter", "Harry Potter"):
        persons = [[Person(0, 18, 0.9)], [Person(0, 12, 0.8)], []]
        _, _, (found,) = with_namesakes(["Harry James Potter", "Harry Potter", name], persons)
        assert found == Person(0, len(name), 0.9 if "James" in name else 0.8)
    # What is a person already stays as it is.
    _, found = with_namesakes(texts, [[Person(0, 12, 0.9)], [Person(2, 7, 0.2)]])
    assert [texts[1][p.start : p.end] for p in found] == ["harry", "HARRY-POTTER"]
