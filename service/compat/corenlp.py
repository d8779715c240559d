"""Stanford CoreNLP's server, for its ner annotator: nltk's CoreNLPParser, stanza's CoreNLPClient.

https://stanfordnlp.github.io/CoreNLP/corenlp-server.html. The text is the body; ``properties`` in
the query is JSON or, from stanza, a Python literal. Of the properties those that cut the text count:
tokenize.whitespace, ssplit.eolonly, ssplit.isOneSentence. ``characterOffset…`` counts UTF-16 units,
as Java does, ``codepointOffset…`` code points. The only output is JSON.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from model.tokeniser import Tokens
from service.compat.wire import TYPE_NAMES, Document, Job, Object, Surface, endpoint, json_answer
from service.models import ServedModel
from service.offsets import Table, converted, table_of
from service.problems import Problem, invalid
from service.settings import Settings
from service.state import Service
from service.steps import Cut, check_chars, cut_ranges

PATH = "/compat/corenlp"
MAX_PROPERTIES_CHARS = 4_096
# What this server can tell; whatever else is asked for would be missing from the answer.
ANNOTATORS = frozenset({"tokenize", "ssplit", "cleanxml", "mwt", "ner", "entitymentions"})
# Asked for by clients that only want ner, since Stanford's own needs them for it.
_UNUSED = frozenset({"pos", "lemma"})
_WORD = re.compile(r"\S+")


def _properties(request: Request) -> dict[str, str]:
    """The properties of a request. Raises Problem (invalid-request)."""
    raw = request.query_params.get("properties", "{}")
    expected = "an object of strings, as JSON or as a Python literal"
    if len(raw) > MAX_PROPERTIES_CHARS:
        raise invalid("/properties", f"{len(raw)} characters", f"at most {MAX_PROPERTIES_CHARS}")
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        value = _literal(raw)
    if type(value) is not dict or not all(type(name) is str for name in value):
        raise invalid("/properties", "something else", expected)
    return {name: _word(item) for name, item in value.items() if isinstance(item, str | bool)}


def _literal(raw: str) -> object:
    """The value of a Python literal; None where it is none."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of odd literals, which would be quoted in the log
            return ast.literal_eval(raw)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _word(value: str | bool) -> str:
    """A property as Java has it: "true"."""
    return value if isinstance(value, str) else str(value).lower()


def _read(body: bytes, request: Request) -> Job:
    properties = _properties(request)
    if properties.get("outputFormat", "json") != "json":
        raise invalid("/properties/outputFormat", "another format", "json")
    if properties.get("inputFormat", "text") != "text":
        raise invalid("/properties/inputFormat", "another format", "text")
    asked = {each.strip() for each in properties.get("annotators", "ner").split(",")} - {""}
    if not asked <= ANNOTATORS | _UNUSED:
        raise invalid("/properties/annotators", "others too", "some of " + ", ".join(sorted(ANNOTATORS)))
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise Problem("not-utf-8", f"byte {error.start} is not UTF-8", offset=error.start) from None

    def is_set(name: str) -> bool:
        return properties.get(name) == "true"

    by_spaces = is_set("tokenize.whitespace")
    by_lines = is_set("ssplit.eolonly")
    as_one = is_set("ssplit.isOneSentence")

    def cut(text: str, model: ServedModel, settings: Settings) -> list[Cut]:
        check_chars(text, "", settings)
        tokens = _words(text) if by_spaces else model.tagger.tokenise(text)
        if as_one:
            ranges = [(0, len(tokens))] if len(tokens) else []
        elif by_lines:
            ranges = list(_lines(text, tokens))
        else:
            ranges = model.tagger.sentences(text, tokens)
        return cut_ranges(text, tokens, ranges, settings)

    def write(documents: list[Document], _: ServedModel) -> Response:
        (document,) = documents
        return json_answer({"sentences": list(_sentences(document))})

    return Job([text], write, language=properties.get("pipelineLanguage"), cut=cut)


def _words(text: str) -> Tokens:
    """What stands between white space."""
    found = list(_WORD.finditer(text))
    return Tokens([m[0] for m in found], [m.start() for m in found], [m.end() for m in found])


def _lines(text: str, tokens: Tokens) -> Iterator[tuple[int, int]]:
    """The token ranges of the lines that have any."""
    line = 0
    last = 0

    def line_of(i: int) -> int:
        nonlocal line, last
        line += text.count("\n", last, tokens.starts[i])
        last = tokens.starts[i]
        return line

    for _, run in groupby(range(len(tokens)), line_of):
        numbers = list(run)
        yield numbers[0], numbers[-1] + 1


def _sentences(document: Document) -> Iterator[Object]:
    table = table_of(document.text, "utf16")
    n_before = 0  # tokens of the document
    for number, (cut, answer) in enumerate(zip(document.cuts, document.answers, strict=True)):
        tokens = cut.tokens
        names = ["O"] * len(tokens)
        mentions = []
        for scored in answer.spans:
            span = scored.span
            name = TYPE_NAMES.get(span.entity_type, span.entity_type)
            names[span.start : span.end] = [name] * (span.end - span.start)
            start, end = tokens.starts[span.start], tokens.ends[span.end - 1]
            mentions.append(
                {
                    "docTokenBegin": n_before + span.start,
                    "docTokenEnd": n_before + span.end,
                    "tokenBegin": span.start,
                    "tokenEnd": span.end,
                    "text": document.text[start:end],
                    **_offsets(start, end, table),
                    "ner": name,
                    "nerConfidences": {name: round(scored.score, 6)},
                }
            )
        yield {
            "index": number,
            "entitymentions": mentions,
            "tokens": [
                {"index": i, "word": word, "originalText": word, **_offsets(start, end, table), "ner": name}
                for i, (word, start, end, name) in enumerate(
                    zip(tokens.texts, tokens.starts, tokens.ends, names, strict=True), 1
                )
            ],
        }
        n_before += len(tokens)


def _offsets(start: int, end: int, table: Table | None) -> Object:
    first, last = converted(table, [start, end])
    return {
        "characterOffsetBegin": first,
        "characterOffsetEnd": last,
        "codepointOffsetBegin": start,
        "codepointOffsetEnd": end,
    }


def _router(service: Service) -> APIRouter:
    router = APIRouter(prefix=PATH, include_in_schema=False)
    annotate: Any = endpoint(service, _read, accepted=None)
    for path in ("", "/"):
        router.add_api_route(path, annotate, methods=["POST"])

    @router.get("/ping")
    @router.get("/live")
    async def live() -> Response:
        service.check_live()
        return Response("pong\n", media_type="text/plain")

    @router.get("/ready")
    async def ready() -> Response:
        service.check_ready()
        return Response("ready\n", media_type="text/plain")

    return router


def _refused(problem: Problem) -> Response:
    """In plain words; stanza knows a timeout by those of Stanford's server."""
    if problem.code == "deadline-passed":
        said = "CoreNLP request timed out. Your document may be too long."
    else:
        said = f"{problem.detail} ({problem.code})"
    return problem.said_as(said.encode(), "text/plain")


SURFACE = Surface(
    title="Stanford CoreNLP server",
    path=PATH,
    about="nltk's CoreNLPParser and stanza's CoreNLPClient, with the annotators tokenize, ssplit and ner "
    "and JSON output. `tokenize.whitespace`, `ssplit.eolonly` and `ssplit.isOneSentence` are heeded.",
    example="curl URL/compat/corenlp -H 'content-type: text/plain' -d 'Ada Lovelace wrote.'",
    router=_router,
    refused=_refused,
)
