"""What /openapi.json says that FastAPI cannot know: what is read and written by hand."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from service import schemas
from service.keys import OPEN_PATHS
from service.problems import KINDS, MEDIA_TYPE
from service.redaction import schemas as redact_schemas

NDJSON = "application/x-ndjson"
_REF = "#/components/schemas/{model}"
Object = dict[str, Any]

# As text, which is what a header is: clients that check answers against the schema otherwise take each
# "2.5" for what is no number.
SECONDS_PATTERN = r"^([1-9][0-9]{0,8}(\.[0-9]{1,20})?|0\.[0-9]{0,9}[1-9][0-9]{0,9})$"
TIMEOUT_HEADER: Object = {
    "name": "X-Request-Timeout",
    "in": "header",
    "required": False,
    "description": "Seconds in which the answer must be there, else 504. Capped by the service; less than "
    "0.2 counts as that.",
    "schema": {"type": "string", "pattern": SECONDS_PATTERN, "examples": ["2.5"]},
}
REQUEST_ID_HEADER: Object = {
    "name": "X-Request-ID",
    "in": "header",
    "required": False,
    "description": "Comes back with the answer. One is made up where none is given.",
    "schema": {"type": "string"},
}


def _ref(name: str) -> Object:
    return {"$ref": _REF.format(model=name)}


def lines_of(names: list[str]) -> Object:
    """The schema of a body that has JSON of one of these schemas on each line.

    OpenAPI 3.1 has no word for such a body: to it this is a string.
    """
    schemas = [_ref(name) for name in names]
    return {
        "type": "string",
        "description": "On each line one of " + ", ".join(f"`{name}`" for name in names) + ".",
        "contentMediaType": NDJSON,
        "contentSchema": {"oneOf": schemas},
    }


def json_body(names: list[str], examples: dict[str, Object]) -> Object:
    """``openapi_extra`` of an operation that takes one of these schemas as JSON."""
    schema = _ref(names[0]) if len(names) == 1 else {"oneOf": [_ref(name) for name in names]}
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": schema, "examples": examples}},
        },
        "parameters": [TIMEOUT_HEADER, REQUEST_ID_HEADER],
    }


def answers(schema: str, example: object, *codes: str) -> dict[int | str, Object]:
    """``responses`` of an operation: 200 with the schema, and the problems it may have."""
    found: dict[int | str, Object] = {
        200: {
            "description": "The answer",
            "content": {"application/json": {"schema": _ref(schema), "example": example}},
        }
    }
    return found | problem_answers(*codes, "internal-error")


def problem_answers(*codes: str) -> dict[int | str, Object]:
    """``responses`` of an operation that may have these problems."""
    found: dict[int | str, Object] = {}
    for code in codes:
        kind = KINDS[code]
        entry = found.setdefault(
            kind.status,
            {"description": "", "content": {MEDIA_TYPE: {"schema": _ref("ProblemJson"), "examples": {}}}},
        )
        entry["description"] = ", or: ".join(filter(None, (entry["description"], kind.title)))
        entry["content"][MEDIA_TYPE]["examples"][code] = {
            "value": {
                "type": f"/docs#problem-{code}",
                "title": kind.title,
                "status": kind.status,
                "detail": kind.title,
                "code": code,
            }
        }
        if kind.retry:
            entry["headers"] = {
                "Retry-After": {"description": "Seconds to wait", "schema": {"type": "integer"}}
            }
    return found


SECURITY_SCHEMES: Object = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "A key of the service."},
    "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same keys."},
}
# Either of them.
SECURED: list[Object] = [{"bearer": []}, {"api_key": []}]


def _secure(path: str, operation: Object, *, has_keys: bool) -> None:
    """Says of an operation which keys it needs, as the service is configured."""
    if has_keys and path not in OPEN_PATHS:
        operation["security"] = SECURED
    if "security" in operation:
        for status, entry in problem_answers("key-missing", "key-wrong", "rate-limited").items():
            found = operation["responses"].setdefault(str(status), entry)
            if found is not entry:
                found["description"] += ", or: " + entry["description"]
                found["content"][MEDIA_TYPE]["examples"] |= entry["content"][MEDIA_TYPE]["examples"]


def complete(app: FastAPI, *, has_keys: bool) -> None:
    """Makes ``app.openapi()`` add our schemas and keys, and leave out answers that are never given."""
    draw = app.openapi

    def openapi() -> Object:
        if app.openapi_schema is None:
            document = draw()
            _, definitions = models_json_schema(
                [(model, "validation") for model in (*schemas.SCHEMAS, *redact_schemas.SCHEMAS)],
                ref_template=_REF,
            )
            document.setdefault("components", {}).setdefault("schemas", {}).update(definitions["$defs"])
            document["components"]["securitySchemes"] = SECURITY_SCHEMES
            for path, item in document["paths"].items():
                for operation in item.values():
                    _secure(path, operation, has_keys=has_keys)
                    # FastAPI's own 422, of parameters: ours are strings, and every string is one.
                    wrong = operation["responses"].get("422", {}).get("content", {})
                    if "HTTPValidationError" in str(wrong):
                        del operation["responses"]["422"]
            for name in ("HTTPValidationError", "ValidationError"):
                document["components"]["schemas"].pop(name, None)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI's documentation says to
