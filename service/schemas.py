"""The JSON edges: bytes in, a frozen request out; tagged sentences in, plain dicts out.

The pydantic models say what the JSON is, for /openapi.json. Reading and writing by way of them
would cost more than tagging (57 µs against 6 for a sentence of 20 tokens), so both
are done by hand here; tests/test_schemas.py holds the two against each other.

Decided where RFC 8259 leaves a choice: of duplicate keys the last one counts; NaN and Infinity
are not JSON; a byte order mark is not accepted; nesting is limited (the parser's 1,024).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field

from model.head import Tagged
from model.labels import OUTSIDE, PERSON, LabelScheme
from model.tokeniser import Tokens
from service.offsets import UNITS, Table, converted
from service.problems import Problem, invalid, too_large

# What the JSON is


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _TagOptions(Strict):
    offset_unit: Literal["codepoint", "utf16", "utf8"] = Field(
        "codepoint", description="What every `start` and `end` of characters counts."
    )
    threshold: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Persons that score lower become `O`. Above 0, all that score this or more are found, "
        "also those that the most probable labelling leaves out, so a low one misses fewer; 0 gives the "
        "most probable labelling. Default: the model's own.",
    )
    model: str | None = Field(
        None, description="`name` or `name@version`. Default: the first model that was loaded."
    )


class TagSentences(_TagOptions):
    """Sentences, each a string (tokenised here, never split) or a list of tokens (taken as they are)."""

    sentences: list[str | list[str]] = Field(
        description="One entry of the answer for each. A given token may be any string, an empty one and "
        "one with spaces included: it gets exactly one label."
    )


class TagDocument(_TagOptions):
    """One document, split into sentences and tokenised here."""

    text: str


TagRequestJson = TagSentences | TagDocument


class TokenJson(Strict):
    text: str
    start: int = Field(description="Offset of the first character, in the unit asked for.")
    end: int = Field(description="Offset past the last character.")
    label: str = Field(description="IOB2: `B-PER`, `I-PER`, `O`, or as the model's labels say.")
    person: Literal[0, 1] = Field(description="1 where the label's type is PER.")
    score: float = Field(ge=0, le=1, description="The model's marginal probability of the label.")


class PersonJson(Strict):
    text: str
    start: int
    end: int
    first_token: int = Field(description="Index into the sentence's `tokens`.")
    last_token: int = Field(description="Half open: one past the last token.")
    score: float = Field(ge=0, le=1, description="The probability that exactly this span is a person.")


class SentenceJson(Strict):
    text: str
    tokens: list[TokenJson]
    persons: list[PersonJson]


class ModelRef(Strict):
    name: str
    version: str


class TagResponse(Strict):
    model: ModelRef
    offset_unit: Literal["codepoint", "utf16", "utf8"]
    sentences: list[SentenceJson]


_ID = Field(None, description="Comes back with the answer.")
_LINE = Field(description="Of the body, from 1; empty lines are counted too.")


class TagLineSentences(TagSentences):
    """One line of a stream: sentences."""

    id: str | int | float | None = _ID


class TagLineDocument(TagDocument):
    """One line of a stream: a document."""

    id: str | int | float | None = _ID


class TagLineResponse(TagResponse):
    """The answer to one line of a stream."""

    line: int = _LINE
    id: str | int | float | None = _ID


class ModelSummary(Strict):
    name: str
    version: str
    default: bool = Field(description="Whether requests that name no model are answered by it.")
    current: bool = Field(description="Whether its name without a version means it.")
    ready: bool = Field(description="Whether it reproduced its expected answers.")
    languages: list[str]
    labels: list[str]
    threshold: float
    tokeniser: str
    device: str
    backend: str


class ModelList(Strict):
    models: list[ModelSummary]


class ModelDetails(ModelSummary):
    """The model card as data."""

    normalisation: str
    temperature: float
    network: dict[str, Any]
    training: dict[str, Any] = Field(description="How it was trained, and its scores by set and slice.")
    card: str = Field(description="The model card, in Markdown.")


class LoadPath(Strict):
    """Load the model of this folder."""

    path: str = Field(
        description="One of the folders of `NAMETAG_MODEL`, or one below `NAMETAG_MODELS_DIR`, where "
        "relative paths begin."
    )


class LoadVersion(Strict):
    """Load this version: the one that is loaded still, or the one such folder that holds it."""

    version: str


class UnloadVersion(Strict):
    """Drop this version, which must not be the one that the bare name means."""

    version: str


class ChangeResponse(Strict):
    name: str
    version: str = Field(description="What the bare name means now, on every worker.")
    previous: str | None = Field(
        description="The version that was replaced last. It stays loaded: `name@version` asks for it, and "
        "loading it again takes no time."
    )
    unloaded: list[str] = Field(description="What is no longer loaded, as `name@version`.")


class Health(Strict):
    status: Literal["live", "ready"]


class ErrorJson(Strict):
    pointer: Annotated[str, Field(description="Where: a JSON pointer (RFC 6901).")]
    kind: str = Field(description="What kind of value is there.")
    expected: str


class ProblemJson(BaseModel):
    """RFC 9457. Further members depend on `code`."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str | None = None
    errors: list[ErrorJson] | None = Field(None, description="What is wrong with the JSON (422).")
    limit: str | None = Field(None, description="The limit that something is over (413, 429).")
    maximum: int | None = None
    actual: int | None = None


class TagLineProblem(ProblemJson):
    """What is wrong with one line of a stream, or why the stream ends. Told by its `code`."""

    line: int = Field(description="The line it is about; where the stream ends, the first not answered.")
    id: str | int | float | None = _ID


SCHEMAS: tuple[type[BaseModel], ...] = (
    TagSentences, TagDocument, TagResponse, TagLineSentences, TagLineDocument, TagLineResponse,
    TagLineProblem, ModelList, ModelDetails, LoadPath, LoadVersion, UnloadVersion, ChangeResponse, Health,
    ProblemJson,
)  # fmt: skip

# Reading


@dataclass(frozen=True, slots=True)
class TagRequest:
    """What POST /v1/tag was asked: ``sentences`` or, where that is None, ``text``."""

    sentences: list[str | list[str]] | None
    text: str
    offset_unit: str
    threshold: float | None
    model: str | None


_FIELDS = frozenset({"sentences", "text", "offset_unit", "threshold", "model"})
_PLAIN_NAME = re.compile(r"[a-z_][a-z0-9_]{0,31}")
_HALF_PAIR_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_KINDS = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}


def kind_of(value: object) -> str:
    """The JSON kind of a parsed value, in words."""
    return _KINDS.get(type(value), "a number")


def parsed(body: bytes, *, first_line: int = 1) -> Any:
    """The JSON value of a body, or of the part of it that begins at ``first_line``.

    Raises Problem: not-json, not-utf-8, lone-surrogate.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        refused = error
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise Problem("not-utf-8", f"byte {error.start} is not UTF-8", offset=error.start) from None
    if _HALF_PAIR_ESCAPE.search(body):
        # orjson does not tell a lone surrogate from a syntax error; the standard parser lets it pass.
        try:
            value = json.loads(text, parse_constant=_refuse_constant)
            found = _SURROGATE.search(json.dumps(value, ensure_ascii=False))
        except (ValueError, RecursionError):
            found = None  # something else is wrong with it, as orjson says
        if found:
            raise _lone_surrogate(value)
    line = first_line + refused.lineno - 1
    raise Problem(
        "not-json",
        f"the JSON is broken at line {line}, column {refused.colno}",
        line=line,
        column=refused.colno,
    )


def _refuse_constant(_: str) -> None:
    raise ValueError("NaN and Infinity are not JSON")


def _strings(value: object, pointer: str) -> Iterator[tuple[str, str]]:
    """(pointer, string) of the strings at the places where a request may have one."""
    if isinstance(value, str):
        yield pointer, value
    elif isinstance(value, list) and pointer.count("/") < 3:
        for i, item in enumerate(value):
            yield from _strings(item, f"{pointer}/{i}")
    elif isinstance(value, dict) and not pointer:
        for name, item in value.items():
            yield from _strings(item, f"/{_shown(name)}")


def _lone_surrogate(value: object) -> Problem:
    for pointer, text in _strings(value, ""):
        if half := _SURROGATE.search(text):
            return Problem(
                "lone-surrogate",
                f"{pointer} has half a surrogate pair at character {half.start()}: "
                "it is not a character, and UTF-8 cannot encode it",
                errors=[
                    {
                        "pointer": f"#{pointer}",
                        "kind": "a string with a lone surrogate",
                        "expected": "a string of Unicode characters",
                    }
                ],
                offset=half.start(),
            )
    return Problem("lone-surrogate", "half a surrogate pair stands where no string is expected")


def _shown(name: str) -> str:
    """A field's name, unless it looks like text: that is not echoed."""
    return name if _PLAIN_NAME.fullmatch(name) else f"({len(name)} characters)"


def tag_request(value: Any, *, max_sentences: int) -> TagRequest:
    """Checks a parsed body. Raises Problem: invalid-request, too-large."""
    if type(value) is not dict:
        raise invalid("", kind_of(value), "an object with `sentences` or `text`")
    check_fields(value, _FIELDS)
    if ("sentences" in value) == ("text" in value):
        both = "both `sentences` and `text`" if "text" in value else "neither `sentences` nor `text`"
        raise invalid("", f"an object with {both}", "an object with exactly one of them")
    unit, threshold, model = offset_unit(value), threshold_of(value), model_name(value)
    sentences, text = value.get("sentences"), value.get("text", "")
    if type(text) is not str:
        raise invalid("/text", kind_of(text), "a string")
    if "sentences" in value:
        _check_sentences(sentences, max_sentences)
    return TagRequest(sentences, text, unit, threshold, model)


def check_fields(value: dict[str, Any], fields: frozenset[str]) -> None:
    """Raises Problem (invalid-request) for a field that is none of these."""
    if not value.keys() <= fields:
        name = next(name for name in value if name not in fields)
        raise invalid(f"/{_shown(name)}", "an unknown field", "one of " + ", ".join(sorted(fields)))


def offset_unit(value: dict[str, Any]) -> str:
    """Raises Problem (invalid-request), as do the next two."""
    unit = value.get("offset_unit", "codepoint")
    if type(unit) is not str or unit not in UNITS:
        kind = "another string" if type(unit) is str else kind_of(unit)
        raise invalid("/offset_unit", kind, "one of " + ", ".join(UNITS))
    return unit


def threshold_of(value: dict[str, Any]) -> float | None:
    threshold: float | None = value.get("threshold")
    if threshold is not None and (type(threshold) not in (float, int) or not 0 <= threshold <= 1):
        kind = "a number out of range" if type(threshold) in (float, int) else kind_of(threshold)
        raise invalid("/threshold", kind, "a number from 0 to 1")
    return threshold


def model_name(value: dict[str, Any]) -> str | None:
    model: str | None = value.get("model")
    if model is not None and type(model) is not str:
        raise invalid("/model", kind_of(model), "a model's name, or name@version")
    return model


def _check_sentences(sentences: Any, max_sentences: int) -> None:
    if type(sentences) is not list:
        raise invalid("/sentences", kind_of(sentences), "an array")
    if len(sentences) > max_sentences:
        raise too_large("max_sentences", max_sentences, len(sentences), "sentences", pointer="#/sentences")
    for i, sentence in enumerate(sentences):
        if type(sentence) is list:
            for j, token in enumerate(sentence):
                if type(token) is not str:
                    raise invalid(f"/sentences/{i}/{j}", kind_of(token), "a string")
        elif type(sentence) is not str:
            raise invalid(f"/sentences/{i}", kind_of(sentence), "a string, or an array of strings")


# Writing


def person_flags(scheme: LabelScheme) -> dict[str, int]:
    """What ``person`` says for each label."""
    return {label: int(label != OUTSIDE and label[2:] == PERSON) for label in scheme.labels}


def sentence_json(
    text: str, shown: str, tokens: Tokens, tagged: Tagged, table: Table | None, persons: dict[str, int]
) -> dict[str, Any]:
    """One entry of the answer.

    ``text``: what the tokens' offsets count in; ``shown``: the entry's own text, which is a part
    of it; ``table``: of ``text``, for the offsets; ``persons``: see person_flags.
    """
    starts, ends = converted(table, tokens.starts), converted(table, tokens.ends)
    return {
        "text": shown,
        "tokens": [
            {
                "text": token,
                "start": start,
                "end": end,
                "label": label,
                "person": persons[label],
                "score": score,
            }
            for token, start, end, label, score in zip(
                tokens.texts, starts, ends, tagged.labels, tagged.scores, strict=True
            )
        ],
        "persons": [
            {
                "text": text[tokens.starts[span.start] : tokens.ends[span.end - 1]],
                "start": starts[span.start],
                "end": ends[span.end - 1],
                "first_token": span.start,
                "last_token": span.end,
                "score": round(scored.score, 6),
            }
            for scored in tagged.spans
            if (span := scored.span).entity_type == PERSON
        ],
    }
