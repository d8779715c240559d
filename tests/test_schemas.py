"""The reader written by hand, against pydantic's reading of the published schema."""

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from service.problems import Problem
from service.schemas import TagRequestJson, parsed, tag_request
from tests.strategies import thorough

PUBLISHED = TypeAdapter(TagRequestJson)

anything = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-2, 2) | st.text("ab", max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=2)
    ),
    max_leaves=6,
)
requests = st.fixed_dictionaries(
    {},
    optional={
        "sentences": st.lists(st.text("ab ") | st.lists(st.text("ab ")), max_size=3) | anything,
        "text": st.text("ab ") | anything,
        "offset_unit": st.sampled_from(["codepoint", "utf16", "utf8"]) | anything,
        "threshold": st.floats(0, 1) | anything,
        "model": st.text("ab") | anything,
        "colour": anything,
    },
)


@thorough
@given(requests | anything)
def test_what_is_read_is_what_the_published_schema_allows(value):
    try:
        PUBLISHED.validate_python(value)
        allowed = True
    except ValidationError:
        allowed = False
    try:
        read = tag_request(parsed(orjson.dumps(value)), max_sentences=100)
    except Problem as raised:
        assert (raised.code, allowed) == ("invalid-request", False)  # noqa: PT017 - either may be right
    else:
        assert allowed
        assert read.sentences == value.get("sentences")
        assert read.text == value.get("text", "")
        assert read.threshold == value.get("threshold")


@pytest.mark.parametrize(
    ("value", "pointer", "kind"),
    [
        ([], "#", "an array"),
        ({}, "#", "an object with neither `sentences` nor `text`"),
        ({"text": "a", "sentences": []}, "#", "an object with both `sentences` and `text`"),
        ({"sentences": "Ann Smith"}, "#/sentences", "a string"),
        ({"sentences": None}, "#/sentences", "null"),
        ({"sentences": ["a", 5]}, "#/sentences/1", "a number"),
        ({"sentences": ["a", ["b", "c", True]]}, "#/sentences/1/2", "a boolean"),
        ({"sentences": [["b", ["c"]]]}, "#/sentences/0/1", "an array"),
        ({"text": {"a": "b"}}, "#/text", "an object"),
        ({"text": "a", "threshold": 1.5}, "#/threshold", "a number out of range"),
        ({"text": "a", "threshold": True}, "#/threshold", "a boolean"),
        ({"text": "a", "offset_unit": "bytes"}, "#/offset_unit", "another string"),
        ({"text": "a", "model": 1}, "#/model", "a number"),
        ({"text": "a", "colour": 1}, "#/colour", "an unknown field"),
        ({"text": "a", "Ann Smith": 1}, "#/(9 characters)", "an unknown field"),
    ],
)
def test_a_wrong_request_is_told_where_what_and_what_was_expected(value, pointer, kind):
    with pytest.raises(Problem) as raised:
        tag_request(value, max_sentences=100)
    (error,) = raised.value.fields["errors"]
    assert (error["pointer"], error["kind"]) == (pointer, kind)
    assert error["expected"]
    assert "Ann Smith" not in json.dumps(raised.value.as_json())


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "not-json"),
        (b"{", "not-json"),
        (b'{"text": "a",}', "not-json"),
        (b'{"text": "a"} x', "not-json"),
        (b'{"threshold": NaN, "text": "a"}', "not-json"),
        (b'{"threshold": -Infinity, "text": "a"}', "not-json"),
        (b'{"threshold": 1e999, "text": "\\ud83d\\ude00"}', "not-json"),
        (b'{"threshold": NaN, "text": "\\ud83d"}', "not-json"),
        (b"\xef\xbb\xbf{}", "not-json"),
        (b"[" * 100_000 + b"]" * 100_000, "not-json"),
        (b'["\\ud83d",' + b"[" * 100_000 + b"]" * 100_000 + b"]", "not-json"),
        (b'{"a":' * 100_000, "not-json"),
        (b'{"text": "a\x01"}', "not-json"),
        (b'{"text": "\xff"}', "not-utf-8"),
        (b'{"text": "\xed\xa0\xbd"}', "not-utf-8"),
        ('{"text": "a"}'.encode("utf-16"), "not-utf-8"),
        (b'{"text": "ab\\ud83d"}', "lone-surrogate"),
        (b'{"text": "\\ude00\\ud83d"}', "lone-surrogate"),
        (b'{"\\ud83d": 1}', "lone-surrogate"),
    ],
)
def test_what_cannot_be_parsed_is_a_problem_with_a_code(body, code):
    with pytest.raises(Problem) as raised:
        parsed(body)
    assert raised.value.code == code


@pytest.mark.parametrize(
    ("body", "pointer", "offset"),
    [
        (b'{"sentences": ["a", "Ann \\ud83d"]}', "#/sentences/1", 4),
        (b'{"sentences": ["a", ["b", "\\udc00c"]]}', "#/sentences/1/1", 0),
        (b'{"text": "\\ud83d\\ude00 \\ud83d."}', "#/text", 2),
    ],
)
def test_a_lone_surrogate_is_located(body, pointer, offset):
    with pytest.raises(Problem) as raised:
        parsed(body)
    assert raised.value.fields["errors"][0]["pointer"] == pointer
    assert raised.value.fields["offset"] == offset
    assert "Ann" not in json.dumps(raised.value.as_json())


def test_of_duplicate_keys_the_last_one_counts():
    assert tag_request(parsed(b'{"text": "a", "text": "b"}'), max_sentences=1).text == "b"
