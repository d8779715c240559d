import gzip
import json
import lzma
import os
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.labels import Span, labels_of, spans_of
from model.sentences import sentences_of
from model.tokeniser import tokeniser
from tests.strategies import any_text, brief, thorough
from training.corpus import (
    CorpusError,
    Sentence,
    _lines_of,
    detect_scheme,
    iter_corpus,
    read_corpus,
    split_by_document,
)

DATA = Path(os.environ.get("NAMETAG_DATA", Path(__file__).parent.parent.parent / "shared" / "data"))
tokenise = tokeniser("treebank-1")


def read(folder, text, name="people.conll", **options):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_corpus(path, **{"tokenise": tokenise, **options})


def pairs(sentences):
    """[["Ada/B-PER", "met/O"]]: short to write down."""
    return [[f"{t}/{label}" for t, label in zip(s.tokens, s.labels, strict=True)] for s in sentences]


@pytest.fixture
def error(tmp_path):
    """Reads a file that has to fail, and gives what the error says after its folder."""

    def message(text, name="people.conll", **options):
        with pytest.raises(CorpusError) as raised:
            read(tmp_path, text, name, **options)
        said = str(raised.value)
        assert said.startswith(f"{tmp_path}/")
        return said.removeprefix(f"{tmp_path}/")

    return message


# Columns


@pytest.mark.parametrize(
    "text",
    [
        "Ada\tB-PER\nmet\tO\n\nYes\tO\n",
        "Ada\tB-PER\nmet\tO\n\nYes\tO",  # no line end at the end
        "\ufeffAda\tB-PER\r\nmet\tO\r\n\r\nYes\tO\r\n",
        "\n\nAda\tB-PER\nmet\tO\n \t\n\n\nYes\tO\n\n\n",
        "Ada B-PER\nmet O\n\nYes O\n",
        "Ada  NNP   B-PER \nmet VBD O\n\nYes UH O\n",
        "Ada NNP B-NP B-PER\nmet\tVBD\tB-VP\tO\n\nYes\tO\n",  # 2 to 4 columns, even in one file
        "Ada\tB-PER\t\nmet\tO\n\nYes\tO\n",
    ],
)
def test_columns_are_read_whatever_separates_them_and_ends_their_lines(tmp_path, text):
    assert pairs(read(tmp_path, text)) == [["Ada/B-PER", "met/O"], ["Yes/O"]]


def test_a_tab_separates_and_then_a_token_may_hold_any_white_space(tmp_path):
    text = "New York\tO\n\u00a0\tO\nA\u2028B\tO\nC\u3000D\u0085\tB-PER\n \tO\n"
    (sentence,) = read(tmp_path, text)
    assert sentence.tokens == ("New York", "\u00a0", "A\u2028B", "C\u3000D\u0085", " ")


def test_only_a_space_separates_where_there_is_no_tab(tmp_path):
    (sentence,) = read(tmp_path, "A\u00a0B O\nC\u3000D B-PER\n")
    assert sentence.tokens == ("A\u00a0B", "C\u3000D")


def test_docstart_and_newdoc_begin_documents_and_are_no_sentences(tmp_path):
    text = "-DOCSTART- -X- O O\n\nA O\n\nB O\n-DOCSTART-\tO\n\n-DOCSTART-\n\nC O\n\n# newdoc id = 7\nD O\n"
    assert [(s.tokens, s.document) for s in read(tmp_path, text)] == [
        (("A",), 0),
        (("B",), 0),
        (("C",), 1),
        (("D",), 2),
    ]


def test_a_file_without_documents_is_one_document(tmp_path):
    assert {s.document for s in read(tmp_path, "A O\n\nB O\n\nC O\n")} == {0}


def test_comments_are_left_out_where_they_can_be_nothing_else(tmp_path):
    text = "# newpar\n# sent_id = 3\n# text = Ada O\n# made by hand\nAda\tB-PER\n\n# text =\nmet\tO\n"
    assert pairs(read(tmp_path, text)) == [["Ada/B-PER"], ["met/O"]]


@pytest.mark.parametrize("line", ["#\tO", "# O", "#  NN  O", "# NN B-PER", "# \tO", "#ada\tO", "#ada O"])
def test_a_hash_that_is_a_token_stays_one(tmp_path, line):
    for text in (f"{line}\n", f"a O\n{line}\n"):
        (sentence,) = read(tmp_path, text)
        assert sentence.tokens[-1].strip() == line.split("\t")[0].split()[0]


def test_errors_in_columns_name_the_file_the_line_the_value_and_what_was_expected(error):
    assert error("Ada\tB-PER\n\nmet\tPER\n") == (
        "people.conll:3: label 'PER' is not 'O', nor one of 'B-', 'I-', 'E-', 'S-', 'L-', 'U-' and a type, "
        "such as 'B-PER'"
    )
    assert error("Ada\tS-PER\n", scheme="iob2") == (
        "people.conll:1: label 'S-PER' is not 'O', nor one of 'B-', 'I-' and a type, such as 'B-PER'"
    )
    assert error("a O\nAda\n").startswith("people.conll:2: 1 column, 2 to 4 are expected")
    assert error("a b c d O\n").startswith("people.conll:1: 5 columns, 2 to 4 are expected")
    assert error("a O\n\tO\n") == "people.conll:2: the token is empty"
    assert error("#\n") == "people.conll:1: 1 column, 2 to 4 are expected: a token first, its label last"
    assert error("a O\n\u00a0\nb O\n").startswith("people.conll:2: 1 column, ")  # no blank line
    assert error("a O\n# so it goes\n").startswith("people.conll:2: label 'goes' is not 'O'")


@pytest.mark.parametrize("label", ["o", "B-", "B", "B_PER", "X-PER", "BI-PER", "-PER", "PER-B", "b-PER"])
def test_a_label_of_another_shape_is_an_error(error, label):
    assert error(f"a\tO\nAda\tx\t{label}\n").startswith(f"people.conll:2: label {label!r} is not 'O', nor ")


@pytest.mark.parametrize("text", ["", "\n\n", "\ufeff", "-DOCSTART- O\n\n", "# newdoc\n"])
def test_a_file_without_a_sentence_is_an_error(error, text):
    assert error(text) == "people.conll: holds no sentences"


def test_bytes_that_are_not_utf_8_are_an_error_that_says_where(error):
    assert error(b"Ada\tO\nZo\xeb\tO\n") == "people.conll:2: byte 0xeb at offset 8 is not UTF-8"
    assert error("Ada\tO\n".encode("utf-16")) == "people.conll:1: byte 0xff at offset 0 is not UTF-8"
    assert error("Zoë\tO\n".encode()[:3]).startswith("people.conll:1: byte 0xc3 at offset 2")


def test_compressed_files_are_read_and_damaged_ones_are_errors(tmp_path, error):
    text = b"Ada\tB-PER\n" * 50
    for suffix, compress in ((".xz", lzma.compress), (".gz", gzip.compress)):
        (sentence,) = read(tmp_path, compress(text), "people.iob" + suffix)
        assert len(sentence.tokens) == 50
        for broken in (compress(text)[:-9], text, compress(text)[:20] + b"!" + compress(text)[21:]):
            assert error(broken, "people.iob" + suffix).startswith(f"people.iob{suffix}: ")
    assert read(tmp_path, gzip.compress(b'{"text": "Ada", "spans": []}'), "a.jsonl.gz")


def test_a_file_is_read_sentence_by_sentence_and_its_error_comes_last(tmp_path):
    """What is larger than memory could not be read whole first."""
    for name, good, bad in (
        ("a.conll", "Ada\tB-PER\n\nmet\tO\n\n", "Bob\tPER\n"),
        ("a.jsonl", '{"text": "Ada", "spans": []}\n{"text": "met", "spans": []}\n', "{\n"),
        ("b.conll", "Ada\tB-PER\n\nmet\tO\n\n", b"\xff"),
    ):
        path = tmp_path / name
        path.write_bytes(good.encode() + (bad if isinstance(bad, bytes) else bad.encode()))
        sentences = iter_corpus(path, tokenise=tokenise)
        assert [next(sentences).tokens for _ in range(2)] == [("Ada",), ("met",)]
        with pytest.raises(CorpusError, match=rf"{name}:[35]: "):
            next(sentences)


@given(
    st.lists(st.sampled_from(["a\tO", "", "é\tB-PER", "\x85\tO", " "])),
    st.sampled_from(["\n", "\r\n", "\r"]),
)
def test_lines_are_those_of_python_s_universal_line_ends(lines, end):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a"
        path.write_bytes(end.join(lines).encode())
        with path.open(encoding="utf-8") as opened:
            assert list(_lines_of(path)) == [line.removesuffix("\n") for line in opened]


def test_a_missing_file_and_a_folder_are_errors(tmp_path):
    with pytest.raises(CorpusError, match=r"none\.conll: No such file"):
        read_corpus(tmp_path / "none.conll", tokenise=tokenise)
    with pytest.raises(CorpusError, match="Is a directory"):
        read_corpus(tmp_path, tokenise=tokenise)


# Schemes

PER, ORG = "PER", "ORG"


def written(spans, n, scheme):
    """Labels in any scheme, by its definition: an encoder that shares nothing with the reader."""
    labels = ["O"] * n
    before = None
    for span in sorted(spans):
        length = span.end - span.start
        if scheme in ("bioes", "bilou"):
            first, single, last = "B", *("SE" if scheme == "bioes" else "UL")
            prefixes = [single] if length == 1 else [first, *"I" * (length - 2), last]
        else:
            touches = before and before.end == span.start and before.entity_type == span.entity_type
            prefixes = ["B" if scheme == "iob2" or touches else "I", *"I" * (length - 1)]
        for i, prefix in enumerate(prefixes, span.start):
            labels[i] = f"{prefix}-{span.entity_type}"
        before = span
    return labels


@st.composite
def spans_in_sentence(draw):
    """Non-overlapping spans, often side by side, over 1 to 12 tokens."""
    n = draw(st.integers(1, 12))
    spans, at = [], 0
    while at < n:
        length = draw(st.integers(1, 3))
        kind = draw(st.sampled_from([None, PER, ORG]))
        if kind and at + length <= n:
            spans.append(Span(at, at + length, kind))
        at += length
    return spans, n


@pytest.mark.parametrize("scheme", ["iob1", "iob2", "bioes", "bilou"])
def test_every_scheme_becomes_iob2_named_or_detected(tmp_path, scheme):
    @thorough
    @given(st.lists(spans_in_sentence(), min_size=1, max_size=4))
    def check(sentences):
        sequences = [written(spans, n, scheme) for spans, n in sentences]
        text = "\n\n".join("\n".join(f"w\t{label}" for label in labels) for labels in sequences)
        expected = [tuple(labels_of(spans, n)) for spans, n in sentences]
        for asked in (scheme, "auto"):
            assert [s.labels for s in read(tmp_path, text, scheme=asked)] == expected
        detected = detect_scheme(sequences)
        # Where two schemes write the same, either name is right.
        assert [written(spans, n, detected) for spans, n in sentences] == sequences

    check()


def test_the_scheme_is_detected_from_what_only_it_can_hold():
    assert detect_scheme([["B-PER", "I-PER", "O"]]) == "iob2"
    assert detect_scheme([["O"], ["B-PER", "I-PER"], ["I-PER", "B-PER"]]) == "iob1"
    assert detect_scheme([["B-PER", "I-ORG"]]) == "iob1"
    assert detect_scheme([["B-PER", "E-PER"]]) == detect_scheme([["S-PER"]]) == "bioes"
    assert detect_scheme([["B-PER", "L-PER"]]) == detect_scheme([["U-PER"]]) == "bilou"
    assert detect_scheme([["O", "O"], []]) == "iob2"


def test_a_mixture_of_two_schemes_is_an_error(error):
    assert error("Ada S-PER\nAda U-PER\n") == (
        "people.conll: S- is of BIOES and U- of BILOU: one scheme is expected"
    )


@thorough
@given(st.lists(st.sampled_from("O B-PER I-PER B-ORG I-ORG".split()), min_size=1, max_size=8))
def test_ill_formed_labels_are_read_as_conlleval_reads_them(tmp_path_factory, labels):
    folder = tmp_path_factory.getbasetemp()
    (sentence,) = read(folder, "".join(f"w\t{label}\n" for label in labels))
    assert list(sentence.labels) == labels_of(spans_of(labels), len(labels))


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        # Each by conlleval's startOfChunk and endOfChunk, by hand.
        ("E-PER I-PER", "B-PER B-PER"),
        ("O I-PER E-PER", "O B-PER I-PER"),
        ("B-PER O E-PER", "B-PER O B-PER"),
        ("B-PER S-PER E-PER", "B-PER B-PER B-PER"),
        ("B-PER E-ORG", "B-PER B-ORG"),
    ],
)
def test_ill_formed_bioes_is_read_as_conlleval_reads_it(tmp_path, labels, expected):
    (sentence,) = read(tmp_path, "".join(f"w\t{label}\n" for label in labels.split()))
    assert " ".join(sentence.labels) == expected


@pytest.mark.parametrize(
    ("scheme", "labels", "line"),
    [
        ("iob2", "O I-PER", 2),
        ("iob2", "B-PER I-ORG", 2),
        ("iob1", "I-PER O B-PER", 3),
        ("bioes", "B-PER O", 2),
        ("bioes", "B-PER S-PER", 2),
        ("bioes", "B-PER E-ORG", 2),
        ("bioes", "O I-PER E-PER", 2),
        ("bioes", "S-PER E-PER", 2),
        ("bioes", "O B-PER", 2),
        ("bilou", "U-PER B-PER I-PER", 3),
    ],
)
def test_a_named_scheme_is_checked_and_the_first_label_against_it_named(error, scheme, labels, line):
    text = "x\tO\n\n" + "".join(f"w\t{label}\n" for label in labels.split())
    said = error(text, scheme=scheme)
    assert said.startswith(f"people.conll:{2 + line}: label {labels.split()[line - 1]!r} may not ")
    assert scheme.upper() in said


def test_an_unknown_scheme_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="'iob3' is not one of"):
        read(tmp_path, "a O\n", scheme="iob3")


# Types


def test_only_the_types_asked_for_are_kept_and_person_has_aliases(tmp_path):
    text = "A B-PERSON\nB I-PERSON\nC B-ORG\nD B-person\nE B-per\nF I-loc\n"
    assert read(tmp_path, text)[0].labels == ("B-PER", "I-PER", "B-ORG", "B-PER", "B-PER", "B-loc")
    assert read(tmp_path, text, entity_types=("PER",))[0].labels == (
        *("B-PER", "I-PER", "O", "B-PER", "B-PER", "O"),
    )
    # Who asks for an alias by its name means it.
    kept = read(tmp_path, text, entity_types=("PERSON", "ORG"))[0].labels
    assert kept == ("B-PERSON", "I-PERSON", "B-ORG", "O", "O", "O")


def test_a_type_may_hold_hyphens(tmp_path):
    assert read(tmp_path, "A B-person-actor\n")[0].labels == ("B-person-actor",)


# JSON lines


def record(text, *spans, **more):
    listed = [{"start": s, "end": e, "label": label} for s, e, label in spans]
    return json.dumps({"text": text, "spans": listed, **more}) + "\n"


def test_json_lines_are_cut_into_sentences_and_tokens_as_the_service_cuts(tmp_path):
    text = (
        record("Ada Lovelace's pen. Yes, Ada's!", (0, 12, "PER"), (25, 28, "PERSON"))
        + record(" ")
        + "\n"
        + record("No.")
    )
    found = read(tmp_path, text, "people.jsonl")
    assert pairs(found) == [
        ["Ada/B-PER", "Lovelace/I-PER", "'s/O", "pen/O", "./O"],
        ["Yes/O", ",/O", "Ada/B-PER", "'s/O", "!/O"],
        ["No/O", "./O"],
    ]
    assert [s.document for s in found] == [0, 0, 1]


@pytest.mark.parametrize(
    "line",
    [
        {"text": "so Ada", "spans": [{"start": 3, "end": 6, "label": "PER"}]},
        {"text": "so Ada", "spans": [{"start": 3, "end": 6, "label": "PER"}], "answer": "accept"},
        {"text": "so Ada", "label": [[3, 6, "PER"]]},
        {"text": "so Ada", "labels": [[3, 6, "PER"]], "id": 7},
        {"text": "so Ada", "entities": [[3, 6, "PER"]]},
        {"text": "so Ada", "entities": [{"start_offset": 3, "end_offset": 6, "label": "PER"}]},
        {"text": "so Ada", "spans": [{"start": 2, "end": 6, "label": "PER"}]},  # a space at its edge
    ],
)  # fmt: skip
def test_the_exports_of_common_annotation_tools_are_read(tmp_path, line):
    for name in ("people.jsonl", "people.json", "people.ndjson", "people.txt"):
        assert pairs(read(tmp_path, json.dumps(line), name)) == [["so/O", "Ada/B-PER"]]


def test_what_prodigy_marks_as_rejected_or_ignored_is_left_out(tmp_path):
    lines = (
        record("Ada", answer="reject") + record("Bob", answer="ignore") + '{"text":"Cy","answer":"accept"}'
    )
    assert [s.tokens for s in read(tmp_path, lines, "a.jsonl")] == [("Cy",)]


def test_a_span_edge_inside_a_token_cuts_the_token(tmp_path):
    text = record("ask mcdonalds-Ada2go now", (14, 17, "PER"))
    (sentence,) = read(tmp_path, text, "a.jsonl")
    assert pairs([sentence]) == [["ask/O", "mcdonalds-/O", "Ada/B-PER", "2go/O", "now/O"]]


def test_two_spans_may_meet_inside_one_token(tmp_path):
    (sentence,) = read(tmp_path, record("AdaBob", (3, 6, "PER"), (0, 3, "PER")), "a.jsonl")
    assert pairs([sentence]) == [["Ada/B-PER", "Bob/B-PER"]]


def test_a_span_across_the_end_of_a_sentence_joins_the_sentences(tmp_path):
    text = "It was Panic! At the Disco. Then it was not."
    found = read(tmp_path, record(text, (7, 26, "PER")), "a.jsonl")
    assert len(sentences_of(tokenise(text), text)) == 3
    assert [s.tokens[0] for s in found] == ["It", "Then"]
    assert found[0].labels == (*("O", "O"), "B-PER", *["I-PER"] * 4, "O")


@pytest.mark.parametrize(("unit", "start", "end"), [("codepoint", 4, 7), ("utf16", 5, 8), ("utf8", 8, 12)])
def test_offsets_count_what_the_line_says(tmp_path, unit, start, end):
    line = record("é 🎉 Zoë", (start, end, "PER"), offset_unit=unit)
    assert pairs(read(tmp_path, line, "a.jsonl")) == [["é/O", "🎉/O", "Zoë/B-PER"]]


def test_errors_in_json_lines_name_the_file_the_line_and_the_span(error):
    def said(line):
        return error(record("No.") + line, "a.jsonl")

    assert said('{"text": \n').startswith("a.jsonl:2: not JSON: ")
    assert said("[1]") == "a.jsonl:2: one JSON object a line is expected, not list"
    assert said("[" * 100_000).startswith("a.jsonl:2: not JSON: ")
    assert said('{"spans": []}') == "a.jsonl:2: 'text' is None, a string is expected"
    assert said('{"text": "a\\ud83d"}') == "a.jsonl:2: 'text' holds half a surrogate pair at 1"
    assert said('{"text": "a"}').startswith("a.jsonl:2: holds no spans, exactly one of ('spans', ")
    assert said('{"text": "a", "spans": [], "label": []}').startswith("a.jsonl:2: holds ['spans', 'label']")
    assert said('{"text": "a", "spans": {}}') == "a.jsonl:2: 'spans' is {}, a list is expected"
    assert said(record("a", offset_unit="bytes")).startswith("a.jsonl:2: offset_unit 'bytes' is not one of")
    overlapping = record("Ada Lovelace", (4, 12, "PER"), (0, 5, "PER"))
    assert said(overlapping) == (
        "a.jsonl:2: span [4, 12) 'Lovelace' overlaps [0, 5) 'Ada L'; spans that do not are expected"
    )
    assert said(record("a  b", (1, 3, "PER"))) == "a.jsonl:2: span [1, 3) holds only white space"
    for start, end in ((-1, 1), (0, 4), (2, 2), (2, 1)):
        assert said(record("Ada", (start, end, "PER"))).startswith(
            f"a.jsonl:2: span [{start}, {end}) is not 0 <= start < end <= 3"
        )
    inside = record("🎉 Ada", (1, 3, "PER"), offset_unit="utf16")
    assert said(inside).startswith(
        "a.jsonl:2: span [1, 3) is not 0 <= start < end <= 6, between characters"
    )
    for item in (
        "[0, 1]",
        '{"start": 0, "end": 1}',
        '[0, 1.0, "PER"]',
        '[true, 1, "PER"]',
        '[0, 1, ""]',
        "7",
    ):
        assert said(f'{{"text": "a", "spans": [{item}]}}').startswith("a.jsonl:2: span ")


def test_spans_of_types_that_are_not_kept_may_overlap(tmp_path):
    line = record("Ada Lovelace Institute", (0, 12, "PER"), (0, 22, "ORG"))
    (sentence,) = read(tmp_path, line, "a.jsonl", entity_types=("PER",))
    assert sentence.labels == ("B-PER", "I-PER", "O")


def test_a_column_file_whose_first_token_is_a_brace_is_no_json(tmp_path):
    assert read(tmp_path, "{ O\nAda B-PER\n")[0].tokens == ("{", "Ada")
    assert read(tmp_path, "{}\tO\n")[0].tokens == ("{}",)


@st.composite
def annotated(draw):
    """A text and spans that do not overlap, none of white space only."""
    text = draw(any_text.filter(lambda t: not any("\ud800" <= c <= "\udfff" for c in t)))
    edges = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8, unique=True)))
    found = zip(edges[::2], edges[1::2], strict=False)
    return text, [(a, b, draw(st.sampled_from([PER, ORG]))) for a, b in found if text[a:b].strip()]


@thorough
@given(st.lists(annotated(), min_size=1, max_size=3))
def test_no_character_and_no_annotation_of_json_lines_is_lost(tmp_path_factory, documents):
    folder = tmp_path_factory.getbasetemp()
    by_unit = []
    for unit, encoding, width in (
        ("codepoint", "utf-32-le", 4),
        ("utf16", "utf-16-le", 2),
        ("utf8", "utf-8", 1),
    ):
        lines = ""
        for text, spans in documents:
            counted = [[len(text[:x].encode(encoding)) // width for x in (a, b)] for a, b, _ in spans]
            moved = [(*ab, kind) for ab, (_, _, kind) in zip(counted, spans, strict=True)]
            lines += record(text, *moved, offset_unit=unit)
        if not any(text.strip() for text, _ in documents):
            with pytest.raises(CorpusError, match="holds no sentences"):
                read(folder, lines, "a.jsonl")
            return
        by_unit.append(read(folder, lines, "a.jsonl"))
    found, *others = by_unit
    assert all(other == found for other in others)
    assert all(s.tokens for s in found)
    characters = "".join(c for s in found for t in s.tokens for c in t)
    assert characters == "".join(c for text, _ in documents for c in text if not c.isspace())
    names = [("".join(s.tokens[x.start : x.end]), x.entity_type) for s in found for x in spans_of(s.labels)]
    assert names == [
        ("".join(text[a:b].split()), kind) for text, spans in documents for a, b, kind in spans
    ]


# Splitting


def sentence(document):
    return Sentence(("a",), ("O",), document)


@brief
@given(
    st.lists(st.integers(1, 6), min_size=2, max_size=30),
    st.floats(0, 0.999),
    st.integers(0, 5),
)
def test_a_split_loses_nothing_and_no_document_is_on_both_sides(sizes, share, seed):
    sentences = [Sentence((f"{d}.{i}",), ("O",), d) for d, n in enumerate(sizes) for i in range(n)]
    train, dev = split_by_document(sentences, share, seed)
    assert sorted([*train, *dev], key=sentences.index) == sentences
    assert train == sorted(train, key=sentences.index)
    assert dev == sorted(dev, key=sentences.index)
    assert not {s.document for s in train} & {s.document for s in dev}
    assert train
    assert (train, dev) == split_by_document(sentences, share, seed)
    target = max(1, round(share * len(sentences))) if share else 0
    assert bool(dev) == bool(target)
    if target >= min(sizes):
        assert len(dev) <= target


def test_the_seed_decides_which_documents_are_dev():
    sentences = [sentence(d) for d in range(50)]
    splits = {tuple(s.document for s in split_by_document(sentences, 0.1, seed)[1]) for seed in range(5)}
    assert len(splits) > 1
    assert Counter(len(dev) for dev in splits) == {5: len(splits)}


def test_one_document_is_split_by_sentence():
    train, dev = split_by_document([sentence(0)] * 20, 0.1, 1)
    assert (len(train), len(dev)) == (18, 2)


def test_where_no_document_is_small_enough_the_smallest_is_dev():
    _, dev = split_by_document([sentence(0)] * 20 + [sentence(1)] * 10, 0.1, 1)
    assert [s.document for s in dev] == [1] * 10


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_share_that_leaves_no_training_data_is_an_error(share):
    with pytest.raises(ValueError, match="dev_share"):
        split_by_document([sentence(0)] * 3, share, 1)


def test_training_keeps_a_document_however_large_the_share():
    train, dev = split_by_document([sentence(d) for d in range(3)], 0.99, 1)
    assert (len(train), len(dev)) == (1, 2)


def test_one_sentence_is_training_data():
    assert split_by_document([sentence(0)], 0.5, 1) == ([sentence(0)], [])


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data or $NAMETAG_DATA")
@pytest.mark.parametrize(
    ("name", "n_sentences", "n_tokens", "n_persons"),
    [
        ("gmb_notitle/train", 38_426, 840_520, 12_734),
        ("wnut17_nohandle/dev", 1_009, 15_733, 470),
        ("redocred/dev", 4_110, 101_970, 2_429),
        ("wikigold/test", 1_696, 39_007, 934),
        ("weibo_zh/train", 1_350, 73_778, 578),
    ],
)
def test_the_shared_sets_have_the_sizes_that_their_readme_says(name, n_sentences, n_tokens, n_persons):
    found = read_corpus(DATA / "ner" / f"{name}.iob.xz", entity_types=(PER,), tokenise=tokenise)
    assert len(found) == n_sentences
    assert sum(len(s.tokens) for s in found) == n_tokens
    assert sum(label == "B-PER" for s in found for label in s.labels) == n_persons
