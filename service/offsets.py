"""Offsets in code points in, offsets in the unit that the client counts in out.

codepoint   Python's and Go's rune count; what model.tokeniser gives
utf16       JavaScript's, Java's and C#'s string index
utf8        a byte of the text encoded as UTF-8; Rust's, C's and Go's string index
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

UNITS = ("codepoint", "utf16", "utf8")
Table = NDArray[np.int64]


def table_of(text: str, unit: str) -> Table | None:
    """(len(text) + 1,): where each code point begins, and where the last ends; None is the identity."""
    if unit == "codepoint" or text.isascii():
        return None
    # Lone surrogates never get here by way of the service; they count as they are stored.
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    widths = 1 + (codes > 0xFFFF).astype(np.int64)
    if unit == "utf8":
        widths += (codes > 0x7F).astype(np.int64) + (codes > 0x7FF)
    table = np.zeros(len(text) + 1, dtype=np.int64)
    np.cumsum(widths, out=table[1:])
    return table


def converted(table: Table | None, offsets: list[int]) -> list[int]:
    """The offsets in the table's unit."""
    if table is None or not offsets:
        return offsets
    there: list[int] = table[offsets].tolist()
    return there
