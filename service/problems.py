"""What can go wrong, and how it is said: RFC 9457 problem+json with a machine-readable code.

    Problem (an exception that knows its answer)
     ├─ raised by every step, told apart by ``code``
     └─ ClientGone is not one: nobody is left to answer

``KINDS`` is the list of all codes; /docs shows it. A problem never holds submitted text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson
from starlette.responses import Response

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 1


class ClientGone(Exception):  # noqa: N818 - not an error of ours
    """The client hung up: there is nobody to answer."""


@dataclass(frozen=True)
class Kind:
    """One sort of problem: what its ``code`` says in a status and in words."""

    status: int
    title: str
    retry: bool = False  # the same request may succeed later


KINDS: dict[str, Kind] = {
    "not-json": Kind(400, "The body is not JSON"),
    "not-utf-8": Kind(400, "The body is not UTF-8"),
    "invalid-timeout": Kind(400, "X-Request-Timeout is not a number of seconds"),
    "key-missing": Kind(401, "The request carries no key"),
    "key-wrong": Kind(403, "The key is not one of the service's"),
    "admin-only": Kind(403, "This needs the key of an admin"),
    "annotations-off": Kind(403, "This service stores no annotations"),
    "folder-not-allowed": Kind(403, "No model may be loaded from this folder"),
    "unknown-model": Kind(404, "There is no such model"),
    "unknown-path": Kind(404, "There is nothing at this path"),
    "method-not-allowed": Kind(405, "This path has no such method"),
    "body-too-slow": Kind(408, "The body did not arrive in time"),
    "load-in-progress": Kind(409, "Another model is being loaded", retry=True),
    "version-taken": Kind(409, "Another model of this name and version is loaded"),
    "version-in-use": Kind(409, "The bare name means this version"),
    "too-large": Kind(413, "Something is over its limit"),
    "unsupported-content-type": Kind(415, "The content type is not one that is taken here"),
    "unsupported-content-encoding": Kind(415, "The body has a content encoding"),
    "invalid-request": Kind(422, "The JSON is not of the schema"),
    "lone-surrogate": Kind(422, "A string holds half a surrogate pair"),
    "load-failed": Kind(422, "The model cannot be loaded; what was served still is"),
    "overloaded": Kind(429, "The queue is full", retry=True),
    "rate-limited": Kind(429, "The key has been used too often", retry=True),
    "internal-error": Kind(500, "The service made a mistake"),
    "load-aborted": Kind(503, "The load was given up; what was served still is", retry=True),
    "not-ready": Kind(503, "The service is not ready", retry=True),
    "self-test-failed": Kind(503, "The model does not reproduce its expected answers", retry=True),
    "draining": Kind(503, "The service is shutting down", retry=True),
    "worker-lost": Kind(503, "The process that was to answer is gone", retry=True),
    "wedged": Kind(503, "The inference worker does not answer", retry=True),
    "annotations-not-stored": Kind(503, "The annotation could not be stored", retry=True),
    "deadline-passed": Kind(504, "The deadline passed before the answer"),
}


class Problem(Exception):  # noqa: N818 - RFC 9457's word
    """An answer that is not the one asked for. ``fields`` are further members of the JSON."""

    def __init__(
        self, code: str, detail: str, *, headers: dict[str, str] | None = None, **fields: Any
    ) -> None:
        super().__init__(code)
        self.code = code
        self.kind = KINDS[code]
        self.detail = detail
        self.fields = fields
        self.headers = headers or {}

    def as_json(self) -> dict[str, Any]:
        return {
            "type": f"/docs#problem-{self.code}",
            "title": self.kind.title,
            "status": self.kind.status,
            "detail": self.detail,
            "code": self.code,
            **self.fields,
        }

    def response(self) -> Response:
        return self.said_as(orjson.dumps(self.as_json()), MEDIA_TYPE)

    def said_as(self, content: bytes, media_type: str, status: int | None = None) -> Response:
        """The same in other words, for clients that know another form of errors."""
        headers = dict(self.headers)
        if self.kind.retry:
            headers.setdefault("retry-after", str(RETRY_AFTER_S))
        return Response(content, status or self.kind.status, headers=headers, media_type=media_type)


def too_large(limit: str, maximum: int, actual: int, what: str, **fields: Any) -> Problem:
    """413: ``what`` ("the body, in bytes") has ``actual`` where ``limit`` allows ``maximum``."""
    detail = f"{what}: {actual:,}, and {limit} allows {maximum:,}"
    return Problem("too-large", detail, limit=limit, maximum=maximum, actual=actual, **fields)


def invalid(pointer: str, kind: str, expected: str) -> Problem:
    """422: where (a JSON pointer, RFC 6901), what kind of value is there, what was expected."""
    return Problem(
        "invalid-request",
        f"{pointer or 'the body'} is {kind}: {expected} is expected",
        errors=[{"pointer": "#" + pointer, "kind": kind, "expected": expected}],
    )
