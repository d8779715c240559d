"""Amazon Comprehend: boto3.client("comprehend", endpoint_url=URL) and other SDKs of AWS.

https://docs.aws.amazon.com/comprehend/latest/APIReference. Four of its operations: DetectEntities,
BatchDetectEntities, DetectPiiEntities and ContainsPiiEntities, where a person is a NAME. Signatures are not
checked: nobody's secret is known here. A service with keys wants one of its own as X-API-Key.
Offsets are code points, as Comprehend's are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from model.labels import PERSON
from service.compat.wire import (
    TYPE_NAMES,
    Document,
    Job,
    Object,
    Surface,
    body_of,
    endpoint,
    json_answer,
    string_of,
    strings_of,
)
from service.models import ServedModel
from service.problems import Problem, invalid
from service.state import Service

PATH = "/compat/comprehend"
JSON_1_1 = b"application/x-amz-json-1.1"
OPERATIONS = ("DetectEntities", "BatchDetectEntities", "DetectPiiEntities", "ContainsPiiEntities")
_TARGET = "Comprehend_20171127."

# What Comprehend calls it; whatever is not here is its InvalidRequestException.
_ERRORS = {
    "too-large": "TextSizeLimitExceededException",
    "key-missing": "MissingAuthenticationTokenException",
    "key-wrong": "UnrecognizedClientException",
    "overloaded": "TooManyRequestsException",
    "rate-limited": "TooManyRequestsException",
    "internal-error": "InternalServerException",
    "not-ready": "ServiceUnavailableException",
    "self-test-failed": "ServiceUnavailableException",
    "draining": "ServiceUnavailableException",
    "deadline-passed": "RequestTimeoutException",
}
# Comprehend says all of these with a 400; the others keep their status, and Retry-After.
_SAID_AS_400 = frozenset({404, 405, 413, 415, 422})


def _read(body: bytes, request: Request) -> Job:
    target = request.headers.get("x-amz-target", "")
    operation = target.removeprefix(_TARGET)
    if operation not in OPERATIONS:
        names = ", ".join(_TARGET + each for each in OPERATIONS)
        raise invalid("/X-Amz-Target", "another operation", f"one of {names}")
    value = body_of(body)
    language = string_of(value.get("LanguageCode"), "/LanguageCode")
    if operation == "BatchDetectEntities":
        texts = strings_of(value.get("TextList"), "/TextList")
    else:
        texts = [string_of(value.get("Text"), "/Text")]

    def write(documents: list[Document], _: ServedModel) -> Response:
        if operation == "BatchDetectEntities":
            results = [{"Index": i, "Entities": list(_entities(d))} for i, d in enumerate(documents)]
            return json_answer({"ResultList": results, "ErrorList": []})
        (document,) = documents
        if operation == "DetectEntities":
            return json_answer({"Entities": list(_entities(document))})
        names = list(_names(document))
        if operation == "DetectPiiEntities":
            return json_answer({"Entities": names})
        surest = max((each["Score"] for each in names), default=None)
        return json_answer({"Labels": [] if surest is None else [{"Name": "NAME", "Score": surest}]})

    return Job(texts, write, language=language)


def _entities(document: Document) -> Iterator[Object]:
    for entity in document.entities:
        yield {
            "Score": round(entity.score, 6),
            "Type": TYPE_NAMES.get(entity.entity_type, "OTHER"),
            "Text": entity.text,
            "BeginOffset": entity.start,
            "EndOffset": entity.end,
        }


def _names(document: Document) -> Iterator[Object]:
    """The persons, as personal data."""
    for entity in document.entities:
        if entity.entity_type == PERSON:
            yield {
                "Score": round(entity.score, 6),
                "Type": "NAME",
                "BeginOffset": entity.start,
                "EndOffset": entity.end,
            }


def _router(service: Service) -> APIRouter:
    router = APIRouter(prefix=PATH, include_in_schema=False)
    answer: Any = endpoint(service, _read, accepted=(JSON_1_1, b"application/json"))
    for path in ("", "/"):
        router.add_api_route(path, answer, methods=["POST"])
    return router


def _refused(problem: Problem) -> Response:
    name = _ERRORS.get(problem.code, "InvalidRequestException")
    if any(error["pointer"] == "#/language" for error in problem.fields.get("errors", ())):
        name = "UnsupportedLanguageException"
    content = orjson.dumps({"__type": name, "message": f"{problem.detail} ({problem.code})"})
    status = 400 if problem.kind.status in _SAID_AS_400 else problem.kind.status
    return problem.said_as(content, JSON_1_1.decode(), status)


SURFACE = Surface(
    title="Amazon Comprehend",
    path=PATH,
    about="boto3 and other SDKs with this `endpoint_url`: " + ", ".join(OPERATIONS) + ". Any signature is "
    "taken; where the service has keys, send one as `X-API-Key`.",
    example="curl URL/compat/comprehend -H 'content-type: application/x-amz-json-1.1' "
    "-H 'x-amz-target: Comprehend_20171127.DetectEntities' "
    """-d '{"Text": "Ada Lovelace wrote.", "LanguageCode": "en"}'""",
    router=_router,
    refused=_refused,
)
