import pytest
from hypothesis import given

from model.sentences import sentences_of
from model.tokeniser import tokeniser
from tests.strategies import any_text, thorough

tokenise = tokeniser("treebank-1")


def split(text):
    tokens = tokenise(text)
    return [text[tokens.starts[a] : tokens.ends[b - 1]] for a, b in sentences_of(tokens, text)]


@thorough
@given(any_text)
def test_sentences_cover_all_tokens_in_order_and_none_is_empty(text):
    tokens = tokenise(text)
    at = 0
    for first, last in sentences_of(tokens, text):
        assert first == at
        assert first < last
        at = last
    assert at == len(tokens)


@pytest.mark.parametrize(
    "expected",
    [
        ["Harry met Ron.", "They left."],
        ["no full stop at all"],
        ["One.", "Two, without an end"],
        # Abbreviations and initials
        ["Mr. Smith met Dr. Who.", "St. John came."],
        ["J. R. R. Tolkien wrote.", "C.S. Lewis read."],
        ["At 5 p.m. Ann left.", "Bob stayed, etc. and so on."],
        ["He asked Mrs. He for it."],
        ["Is it Mr.?", "No."],
        # Quotes and brackets after the end
        ["“Go.”", "She went.", "(He stayed.)", "Then he went."],
        ['He said, "Go."', "Then he left."],
        ["He said: “I am here.” and left."],
        # Dialogue: no end before lower case
        ['"Hello!" said Tom.', '"Who?" asked Ann.', "He left."],
        ["‘Why?’ asked Ann.", "‘Because.’"],
        # Runs of ends
        ["What?!", "No!!!", "Really…", "Yes."],
        ["Well...", "I think so.", "Wait ... what?"],
        ["Wait . . . what?", "She left . . .", "He stayed."],
        # Not ends
        ["Pi is 3.14 and example.com is a site.", "Write to ann@x.org."],
        # Right to left: the mark after a full stop belongs to the sentence that it ends
        ["טוב.\u200f", "מה שלומך?\u200f", "טוב."],
    ],
    ids=lambda expected: ascii(expected[0])[:40],
)  # fmt: skip
def test_sentences_of_one_line(expected):
    assert split(" ".join(expected)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \n\n ", []),
        ("...", ["..."]),
        ('."', ['."']),
        # Headings, and blank lines however they are spelt
        ("A title\n\nThe text. More", ["A title", "The text.", "More"]),
        ("A title\r\n \t\r\nthe text", ["A title", "the text"]),
        ("Chapter One\nHarry woke up.", ["Chapter One", "Harry woke up."]),
        # Mail headers and a signature
        (
            "From: Bob Smith <bob@x.org>\nTo: Ann Lee\nSubject: lunch\n\nHi Ann,\nsee you.\nBob",
            ["From: Bob Smith <bob@x.org>", "To: Ann Lee", "Subject: lunch", "Hi Ann,\nsee you.", "Bob"],
        ),
        # Lists
        ("- Ann Lee\n- Bob Ray\n* Cid", ["- Ann Lee", "- Bob Ray", "* Cid"]),
        ("1. Ann Lee\n2. Bob Ray\n10. Cid.", ["1. Ann Lee", "2. Bob Ray", "10. Cid."]),
        ("It cost 3. 50 people came.", ["It cost 3.", "50 people came."]),
        # A long line was wrapped: its break is a space
        (
            "This line is so long that some editor has wrapped it after John\nSmith. He left.",
            ["This line is so long that some editor has wrapped it after John\nSmith.", "He left."],
        ),
        (
            "This line is so long that some editor has wrapped it after a stop.\nHe left.",
            ["This line is so long that some editor has wrapped it after a stop.", "He left."],
        ),
        # The wrapped line is measured from its own start
        (
            "A short one.\nThis line is so long that some editor has wrapped it after John\nSmith.",
            ["A short one.", "This line is so long that some editor has wrapped it after John\nSmith."],
        ),
        (
            "\n".join(["Here come the names of those who were there that day", *["Ann Lee"] * 3]),
            ["Here come the names of those who were there that day\nAnn Lee", "Ann Lee", "Ann Lee"],
        ),
        # Chat: an end and a line break end a sentence even before lower case
        ("He left.\nshe came", ["He left.", "she came"]),
        ("a short line\ngoes on", ["a short line\ngoes on"]),
        # CJK: no space between sentences
        ("他走了。她来了！「好。」他说。", ["他走了。", "她来了！", "「好。」", "他说。"]),
        # A word that starts sentences, after an abbreviation
        ("He lives in the U.S. The end.", ["He lives in the U.S.", "The end."]),
        ("He lives in the U.S. Bob too.", ["He lives in the U.S. Bob too."]),
        # A starter after an initial; without one the initial belongs to a name
        ("I met Malcolm X. He spoke.", ["I met Malcolm X.", "He spoke."]),
        ("I met Malcolm X. Smith spoke.", ["I met Malcolm X. Smith spoke."]),
        ("She has a Ph.D. But he hasn't.", ["She has a Ph.D.", "But he hasn't."]),
    ],
)  # fmt: skip
def test_sentences_of_a_document(text, expected):
    assert split(text) == expected


@pytest.mark.parametrize("line_break", ["\n", "\r\n", "\r", "\r\r\n", "\v", "\x85", "\u2028", "\u2029"])
def test_a_line_break_is_one_whatever_wrote_it(line_break):
    assert split(f"Ann Lee{line_break}Bob Ray{line_break}") == ["Ann Lee", "Bob Ray"]
    wrapped = f"This line is so long that some editor has wrapped it after John{line_break}Smith."
    assert split(wrapped) == [wrapped]


def test_a_form_feed_is_no_blank_line():
    page = "This line is so long that some editor has wrapped it after John\n\fSmith."
    assert split(page) == [page]


def test_a_sentence_end_inside_a_word_or_address_is_none():
    assert split("Yahoo!x and a?b") == ["Yahoo!x and a?b"]
