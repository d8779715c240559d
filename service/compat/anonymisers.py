"""A text and what was found in it in, the text without it out: presidio-anonymizer's rules.

https://microsoft.github.io/presidio/anonymizer/: results of one type that overlap become one, also
where only spaces are between them; one inside another is dropped; the rest is replaced from the
end. tests/test_compat_clients.py holds this against the library. Pure, but for ``hash`` without a
salt, which takes a random one for every result, as the library does.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from service.problems import invalid
from service.schemas import kind_of

LEAST_SALT_BYTES = 16
_HASHES = {"sha256": hashlib.sha256, "sha512": hashlib.sha512}


@dataclass(frozen=True, slots=True, order=True)
class Result:
    """What an analyzer found. Offsets are code points, half open."""

    start: int
    end: int
    entity_type: str
    score: float


@dataclass(frozen=True, slots=True)
class Operator:
    """What is done to one type: text and type in, what stands there instead out."""

    name: str
    operate: Callable[[str, str], str]


def _of(given: Mapping[str, Any], name: str, kind: type, default: Any, pointer: str) -> Any:
    """A parameter of an operator; a default of None: it has to be there. Raises Problem."""
    value = given.get(name, default)
    if type(value) is not kind:
        expected = {str: "a string", int: "a whole number", bool: "true or false"}[kind]
        raise invalid(f"{pointer}/{name}", kind_of(value), expected)
    return value


def _replace(given: Mapping[str, Any], pointer: str) -> Callable[[str, str], str]:
    value = _of(given, "new_value", str, "", pointer)
    return lambda _, entity_type: value or f"<{entity_type}>"


def _redact(_: Mapping[str, Any], __: str) -> Callable[[str, str], str]:
    return lambda _, __: ""


def _keep(_: Mapping[str, Any], __: str) -> Callable[[str, str], str]:
    return lambda text, _: text


def _mask(given: Mapping[str, Any], pointer: str) -> Callable[[str, str], str]:
    character: str = _of(given, "masking_char", str, None, pointer)
    if len(character) != 1:
        raise invalid(f"{pointer}/masking_char", f"{len(character)} characters", "one character")
    most: int = _of(given, "chars_to_mask", int, None, pointer)
    from_end = _of(given, "from_end", bool, False, pointer)

    def mask(text: str, _: str) -> str:
        n = max(0, min(len(text), most))
        return text[: len(text) - n] + character * n if from_end else character * n + text[n:]

    return mask


def _hash(given: Mapping[str, Any], pointer: str) -> Callable[[str, str], str]:
    name = _of(given, "hash_type", str, "sha256", pointer)
    if name not in _HASHES:
        raise invalid(f"{pointer}/hash_type", "another hash", "one of " + ", ".join(_HASHES))
    salt = _of(given, "salt", str, None, pointer).encode() if given.get("salt") is not None else None
    if salt is not None and len(salt) < LEAST_SALT_BYTES:
        raise invalid(f"{pointer}/salt", f"{len(salt)} bytes", f"at least {LEAST_SALT_BYTES}, or no salt")
    return lambda text, _: _HASHES[name](
        text.encode() + (os.urandom(32) if salt is None else salt)
    ).hexdigest()


OPERATORS = {"replace": _replace, "redact": _redact, "keep": _keep, "mask": _mask, "hash": _hash}
DEFAULT = Operator("replace", _replace({}, ""))


def operator_of(value: Any, pointer: str) -> Operator:
    """An operator of a request's ``anonymizers``. Raises Problem (invalid-request)."""
    given = value if type(value) is dict else {}
    name = given.get("type")
    if type(name) is not str or name not in OPERATORS:
        kind = "another one" if type(name) is str else kind_of(name)
        raise invalid(f"{pointer}/type", kind, "one of " + ", ".join(OPERATORS))
    return Operator(name, OPERATORS[name](given, pointer))


def anonymised(text: str, results: Sequence[Result], operators: Mapping[str, Operator]) -> dict[str, Any]:
    """``{"text": …, "items": […]}``; offsets of the items are in the new text, the last comes first."""
    otherwise = operators.get("DEFAULT", DEFAULT)
    parts: list[str] = []  # of the new text, from its end
    items = []
    last = len(text)  # what is before it has not been written
    n_after = 0  # characters of the new text after it
    for result in sorted(_resolved(text, results), reverse=True):
        operator = operators.get(result.entity_type, otherwise)
        new = operator.operate(text[result.start : result.end], result.entity_type)
        between = text[min(result.end, last) : last]
        parts += between, new
        n_after += len(between) + len(new)
        last = result.start
        items.append((n_after, new, result.entity_type, operator.name))
    parts.append(text[:last])
    anonymous = "".join(reversed(parts))
    n = len(anonymous)
    return {
        "text": anonymous,
        "items": [
            {
                "start": n - from_end,
                "end": n - from_end + len(new),
                "entity_type": entity_type,
                "text": new,
                "operator": name,
            }
            for from_end, new, entity_type, name in items
        ],
    }


def _resolved(text: str, results: Sequence[Result]) -> list[Result]:
    """In order, none inside another, and none across one of its own type."""
    merged: dict[str, list[Result]] = {}
    for result in sorted(results):
        same = merged.setdefault(result.entity_type, [])
        if same and result.start < same[-1].end:
            before = same[-1]
            same[-1] = replace(
                before, end=max(before.end, result.end), score=max(before.score, result.score)
            )
        else:
            same.append(result)
    kept: list[Result] = []
    end = -1
    # The longer of two that begin together comes first, and of equal ones the surer.
    for result in sorted(
        (each for same in merged.values() for each in same), key=lambda r: (r.start, -r.end, -r.score)
    ):
        if result.end > end:
            kept.append(result)
            end = result.end
    joined: list[Result] = []
    for result in kept:
        if joined and joined[-1].entity_type == result.entity_type:
            gap = text[joined[-1].end : result.start]
            if gap and not gap.strip(" "):
                joined[-1] = replace(joined[-1], end=result.end)
                continue
        joined.append(result)
    return joined
