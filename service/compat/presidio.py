"""Microsoft Presidio's REST services: analyze, as its analyzer; anonymize, as its anonymizer.

https://microsoft.github.io/presidio/api-docs/api-docs.html. Its remote recognisers and LiteLLM's
guardrail send what is read here. An answer's items have no members but Presidio's own: clients
unpack them into RecognizerResult. Offsets are code points.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service.compat.anonymisers import OPERATORS, Operator, Result, anonymised, operator_of
from service.compat.wire import (
    TYPE_NAMES,
    Document,
    Job,
    Object,
    Surface,
    body_of,
    endpoint,
    json_answer,
    list_of,
    object_of,
    offset_of,
    probability_of,
    refused_with_error,
    string_of,
    strings_of,
    text_or_texts,
)
from service.models import ServedModel
from service.problems import invalid
from service.state import Service

PATH = "/compat/presidio"


def _read_analyze(body: bytes, _: Request) -> Job:
    value = body_of(body)
    given = value.get("text")
    texts = text_or_texts(given, "/text")
    language = string_of(value.get("language", "en"), "/language")
    wanted = value.get("entities")
    entities = frozenset(strings_of(wanted, "/entities")) if wanted else None
    allowed = frozenset(strings_of(value.get("allow_list") or [], "/allow_list"))
    if allowed and value.get("allow_list_match", "exact") != "exact":
        raise invalid("/allow_list_match", "another way of matching", "exact")
    if value.get("ad_hoc_recognizers"):
        raise invalid("/ad_hoc_recognizers", "not empty", "none: this service has one recogniser")

    def write(documents: list[Document], _: ServedModel) -> Response:
        found = [
            [
                {
                    "entity_type": name,
                    "start": entity.start,
                    "end": entity.end,
                    "score": round(entity.score, 6),
                    "analysis_explanation": None,
                }
                for entity in document.entities
                if (name := TYPE_NAMES.get(entity.entity_type, entity.entity_type))
                and (entities is None or name in entities)
                and entity.text not in allowed
            ]
            for document in documents
        ]
        return json_answer(found if isinstance(given, list) else found[0])

    threshold = probability_of(value.get("score_threshold"), "/score_threshold")
    return Job(texts, write, threshold=threshold, language=language)


def _read_anonymize(body: bytes, _: Request) -> Job:
    value = body_of(body)
    text = string_of(value.get("text"), "/text")
    results = [
        _result(item, f"/analyzer_results/{i}", len(text))
        for i, item in enumerate(list_of(value.get("analyzer_results"), "/analyzer_results"))
    ]
    operators: dict[str, Operator] = {
        string_of(name, "/anonymizers"): operator_of(given, "/anonymizers/…")
        for name, given in object_of(value.get("anonymizers"), "/anonymizers").items()
    }

    def write(_: list[Document], __: ServedModel) -> Response:
        return json_answer(anonymised(text, results, operators))

    # Nothing is tagged: what is to be replaced has been found.
    return Job([], write)


def _result(value: Any, pointer: str, n_chars: int) -> Result:
    item: Object = object_of(value, pointer)
    start = offset_of(item.get("start"), f"{pointer}/start", n_chars)
    end = offset_of(item.get("end"), f"{pointer}/end", n_chars)
    if start >= end:
        raise invalid(f"{pointer}/end", "not above start", "a whole number above start")
    score = item.get("score", 0)
    if type(score) not in (int, float):
        raise invalid(f"{pointer}/score", "not a number", "a number")
    return Result(start, end, string_of(item.get("entity_type"), f"{pointer}/entity_type"), float(score))


def _router(service: Service) -> APIRouter:
    router = APIRouter(prefix=PATH, include_in_schema=False)
    analyze: Any = endpoint(service, _read_analyze)
    anonymize: Any = endpoint(service, _read_anonymize)
    router.add_api_route("/analyze", analyze, methods=["POST"])
    router.add_api_route("/anonymize", anonymize, methods=["POST"])

    def types(request: Request) -> list[str]:
        model = service.model(request.query_params.get("model"))
        language = request.query_params.get("language", "en")
        if language not in model.tagger.config.languages:
            return []
        return [TYPE_NAMES.get(each, each) for each in model.tagger.config.scheme.entity_types]

    @router.get("/supportedentities")
    async def supported_entities(request: Request) -> Response:
        return json_answer(types(request))

    @router.get("/recognizers")
    async def recognizers(request: Request) -> Response:
        return json_answer(["NametagRecognizer"] if types(request) else [])

    @router.get("/anonymizers")
    async def anonymizers() -> Response:
        return json_answer(sorted(OPERATORS))

    @router.get("/health")
    async def health() -> Response:
        service.check_ready()
        return Response("Nametag is up", media_type="text/plain")

    return router


SURFACE = Surface(
    title="Presidio",
    path=PATH,
    about="Its REST services: `/analyze` and `/supportedentities` of the analyzer, `/anonymize` of the "
    "anonymizer with `replace`, `redact`, `mask`, `hash` and `keep`. A `score_threshold` above 0 finds all "
    "that scores at least that.",
    example="curl URL/compat/presidio/analyze -H 'content-type: application/json' "
    """-d '{"text": "Ada Lovelace wrote.", "language": "en"}'""",
    router=_router,
    refused=refused_with_error,
)
