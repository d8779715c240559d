"""The JSON edges of POST /v1/redact: a parsed body in, a frozen request out; and what both ways look like.

Read by hand, as service/schemas.py says why; tests/test_redact.py holds it against the models here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, Field

from service.offsets import converted, table_of
from service.problems import invalid, too_large
from service.redaction.texts import KEYED, MIN_KEY_CHARS, MODES, THRESHOLD, Person, Redacted
from service.schemas import (
    ModelRef,
    Strict,
    check_fields,
    kind_of,
    model_name,
    offset_unit,
    threshold_of,
)

MAX_KEY_CHARS = 1024


class PersonPartJson(Strict):
    person: str = Field(min_length=1)


class _RedactOptions(Strict):
    texts: list[str | list[str | PersonPartJson]] = Field(
        description="Documents. Persons are the same throughout all of them. Of a string, what the "
        "model finds is replaced, then what it finds in the result, until it finds nothing more; and "
        "wherever else the name of one stands, if it is sure and has two words or more. Of an array, a "
        'text in parts, those that are marked, `{"person": "Ada Lovelace"}`, and nobody else.'
    )
    offset_unit: Literal["codepoint", "utf16", "utf8"] = Field(
        "codepoint", description="What every offset counts."
    )
    threshold: float | None = Field(
        None,
        ge=0,
        le=1,
        description=f"Persons that score this or more are replaced. Default: {THRESHOLD}, which replaces "
        "too much rather than too little.",
    )
    model: str | None = Field(
        None, description="`name` or `name@version`. Default: the first model that was loaded."
    )


class RedactJson(_RedactOptions):
    """Texts, and what is to stand in place of the persons in them."""

    mode: Literal["mask", "label", "pseudonym"] = Field(
        description="`mask`: █████, whatever the name. `label`: [PERSON_1], a number for each person. "
        "`pseudonym`: invented names."
    )
    key: str | None = Field(
        None,
        min_length=MIN_KEY_CHARS,
        max_length=MAX_KEY_CHARS,
        description="For `pseudonym`: the same key chooses the same names for the same request; without "
        "one they are drawn at random. The other modes do not look at it.",
    )


class RedactHashJson(_RedactOptions):
    """Texts, and hashes in place of the persons in them: of the key, and of the fullest form of the name
    that the request has."""

    mode: Literal["hash"] = Field(
        description="[PERSON_3f2a90c1b2d4e6f8], the same in every request with this key where the fullest "
        'form of the name in it is the same: "Potter" alone has another than beside "Harry Potter". To '
        "join records of several requests, send the names in their fullest form along in each, as texts: "
        '`[{"person": "Harry Potter"}]`.'
    )
    key: str = Field(
        min_length=MIN_KEY_CHARS,
        max_length=MAX_KEY_CHARS,
        description="A secret, which whoever may read the hashes must not know or guess. Not needed where "
        "the service has one of its own.",
    )


RedactRequestJson = RedactJson | RedactHashJson


class ReplacementJson(Strict):
    start: int = Field(description="Where the person stood in the text that was sent.")
    end: int
    new_start: int = Field(description="Where the replacement stands in `text`.")
    new_end: int
    replacement: str
    person: int = Field(
        description="From 1; the same number is the same person throughout the request: the full name, a "
        "part of it that is nobody else's, with or without initials, in any case."
    )
    score: float = Field(ge=0, le=1, description="The model's; 1 where the text says so.")


class RedactedJson(Strict):
    text: str
    replacements: list[ReplacementJson]


class RedactResponse(Strict):
    model: ModelRef
    mode: Literal["mask", "label", "hash", "pseudonym"]
    offset_unit: Literal["codepoint", "utf16", "utf8"]
    texts: list[RedactedJson] = Field(description="One for each text, in order.")


SCHEMAS: tuple[type[BaseModel], ...] = (RedactJson, RedactHashJson, RedactResponse)


@dataclass(frozen=True, slots=True)
class RedactRequest:
    """``given``: the persons of texts that came in parts, by index; ``key``: empty where none came."""

    texts: list[str]
    mode: str
    offset_unit: str
    threshold: float
    model: str | None
    key: bytes
    given: dict[int, list[Person]]


_FIELDS = frozenset({"texts", "mode", "offset_unit", "threshold", "model", "key"})


def redact_request(value: Any, *, max_texts: int, max_chars: int, has_key: bool) -> RedactRequest:
    """Checks a parsed body. ``has_key``: whether the service has a key. Raises Problem: invalid-request,
    too-large."""
    if type(value) is not dict:
        raise invalid("", kind_of(value), "an object with `texts` and `mode`")
    check_fields(value, _FIELDS)
    for name in ("texts", "mode"):
        if name not in value:
            raise invalid("", f"an object without `{name}`", "an object with `texts` and `mode`")
    mode = value["mode"]
    if type(mode) is not str or mode not in MODES:
        kind = "another string" if type(mode) is str else kind_of(mode)
        raise invalid("/mode", kind, "one of " + ", ".join(MODES))
    unit, threshold, model = offset_unit(value), threshold_of(value), model_name(value)
    asked = value["texts"]
    if type(asked) is not list:
        raise invalid("/texts", kind_of(asked), "an array")
    if len(asked) > max_texts:
        raise too_large("max_sentences", max_texts, len(asked), "texts", pointer="#/texts")
    texts: list[str] = []
    given: dict[int, list[Person]] = {}
    for i, text in enumerate(asked):
        if type(text) is list:
            text, given[i] = _joined(text, f"/texts/{i}")
        elif type(text) is not str:
            raise invalid(f"/texts/{i}", kind_of(text), "a string, or an array of the text's parts")
        texts.append(text)
        if len(text) > max_chars:
            raise too_large(
                "max_document_chars", max_chars, len(text), "characters of one text",
                pointer=f"#/texts/{i}",
            )  # fmt: skip
    key = _key(value.get("key"), mode, has_key=has_key)
    least = THRESHOLD if threshold is None else threshold
    return RedactRequest(texts, mode, unit, least, model, key, given)


def _key(key: Any, mode: str, *, has_key: bool) -> bytes:
    if key is None:
        if mode == "hash" and not has_key:
            expected = "an object with `key`: hashes without one can be undone by trying names"
            raise invalid("", "an object with neither a `key` nor a key of the service", expected)
        return b""
    expected = f"a string of {MIN_KEY_CHARS} to {MAX_KEY_CHARS} characters"
    if type(key) is not str:
        raise invalid("/key", kind_of(key), expected)
    if not MIN_KEY_CHARS <= len(key) <= MAX_KEY_CHARS:
        raise invalid("/key", f"a string of {len(key):,}", expected)
    return key.encode() if mode in KEYED else b""


def _joined(parts: list[Any], pointer: str) -> tuple[str, list[Person]]:
    """A text that came in parts, and the persons among them, in code points."""
    texts: list[str] = []
    persons: list[Person] = []
    at = 0
    for j, part in enumerate(parts):
        here = f"{pointer}/{j}"
        is_person = type(part) is dict
        if is_person:
            if part.keys() != {"person"}:
                raise invalid(here, "an object of other fields", "an object with `person` alone")
            part, here = part["person"], f"{here}/person"
        if type(part) is not str:
            expected = "a string" if is_person else 'a string, or {"person": "…"}'
            raise invalid(here, kind_of(part), expected)
        if is_person:
            if not part:
                raise invalid(here, "an empty string", "a name")
            persons.append(Person(at, at + len(part), 1.0))
        texts.append(part)
        at += len(part)
    return "".join(texts), persons


def result_json(result: Redacted, old: str, unit: str) -> dict[str, Any]:
    """One entry of the answer. ``old``: the text as it was."""
    old_table, new_table = table_of(old, unit), table_of(result.text, unit)
    made = result.replacements
    offsets = zip(
        converted(old_table, [each.start for each in made]),
        converted(old_table, [each.end for each in made]),
        converted(new_table, [each.new_start for each in made]),
        converted(new_table, [each.new_end for each in made]),
        strict=True,
    )
    return {
        "text": result.text,
        "replacements": [
            {
                "start": start,
                "end": end,
                "new_start": new_start,
                "new_end": new_end,
                "replacement": each.text,
                "person": each.person,
                "score": round(each.score, 6),
            }
            for each, (start, end, new_start, new_end) in zip(made, offsets, strict=True)
        ],
    }
