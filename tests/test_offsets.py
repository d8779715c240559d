"""Offsets against Python's own codecs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.offsets import UNITS, converted, table_of
from tests.strategies import brief

LENGTH = {
    "codepoint": len,
    "utf16": lambda text: len(text.encode("utf-16-le")) // 2,
    "utf8": lambda text: len(text.encode()),
}


def test_every_unit_is_tested():
    assert set(LENGTH) == set(UNITS)


@pytest.mark.parametrize("unit", UNITS)
@brief
@given(text=st.text(st.characters(exclude_categories=("Cs",))))
def test_an_offset_is_the_length_of_what_comes_before(unit, text):
    offsets = list(range(len(text) + 1))
    expected = [LENGTH[unit](text[:i]) for i in offsets]
    assert converted(table_of(text, unit), offsets) == expected


@pytest.mark.parametrize("unit", UNITS)
def test_the_borders_of_each_width(unit):
    text = "\x00\x7f\x80\u07ff\u0800\ud7ff\ue000\uffff\U00010000\U0010ffff"
    offsets = list(range(len(text) + 1))
    assert converted(table_of(text, unit), offsets) == [LENGTH[unit](text[:i]) for i in offsets]
