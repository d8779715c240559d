"""The outermost layer: request ids, keys, problems as answers, what is counted and logged of each
request, and the straight way to busy endpoints.

Pure ASGI; starlette's BaseHTTPMiddleware would break noticing that a client hung up.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.keys import OPEN_PATHS, Keyring
from service.observing.access import AccessLog
from service.observing.facts import Facts, begin, facts, request_id_of
from service.observing.log import LOGGER, place_of
from service.observing.metrics import Metrics
from service.problems import ClientGone, Problem

if TYPE_CHECKING:
    from service.observing.tracing import Tracing
    from service.offload import Offload

Endpoint = Callable[[Request], Awaitable[Response]]

_REQUEST_ID = b"x-request-id"

# W3C Trace Context, section 3.2; all zeros are no id. Versions to come may append more.
_TRACEPARENT = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?"
)
# nginx's word for it: the client hung up before there was an answer.
CLIENT_GONE = 499

log = logging.getLogger(LOGGER)


def bug(error: Exception) -> Problem:
    """What to answer where the service made a mistake, which is logged without what was submitted."""
    fields = {"request_id": facts().request_id, "error": type(error).__name__, "at": place_of(error)}
    log.error("unexpected error", extra={"fields": fields})
    return Problem("internal-error", "the service failed; it has logged this request's id")


class JsonResponse(Response):
    """200 with JSON that is bytes already."""

    def __init__(self, content: bytes) -> None:  # what starlette's does, without its generality
        self.status_code = 200
        self.background = None
        self.body = content
        self.raw_headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(content)).encode()),
        ]


class Edge:
    """Wraps the whole application. ``straight``: POST endpoints by path, reached without its layers.
    ``refusals``: how a problem is said at a path and below it, where not as problem+json.

    ``keys``: what requests must carry, except those of OPEN_PATHS; the scope's "key" then says whose.
    FastAPI's layers and router cost about 25 µs a request; they know the same endpoints, for
    /openapi.json and for other methods.
    """

    def __init__(
        self,
        app: ASGIApp,
        straight: Mapping[str, Endpoint],
        metrics: Metrics,
        keys: Keyring | None = None,
        *,
        access: AccessLog | None = None,
        tracing: Tracing | None = None,
        offload: Offload | None = None,
        refusals: Mapping[str, Callable[[Problem], Response]] | None = None,
    ) -> None:
        self.app = app
        self.refusals = refusals or {}
        self.keys = keys
        self.straight = straight
        self.metrics = metrics
        self.access = access
        self.tracing = tracing
        self.offload = offload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = traceparent = b""
        for name, value in scope["headers"]:
            if name == b"x-request-id":
                request_id = value
            elif name == b"traceparent":
                traceparent = value
        request_id = request_id_of(request_id)
        facts = Facts(request_id.decode(), scope["method"])
        if traceparent and (parsed := _TRACEPARENT.fullmatch(traceparent)):
            facts.trace_id = parsed[1].decode()
        if self.tracing is not None:
            self.tracing.begin(facts, scope["headers"])
        begin(facts)
        endpoint = self.straight_to(scope)
        status = 0  # until the answer has begun
        is_counted = False
        is_passed_on = False  # to another process, which counts, logs and traces what it answers

        def count(status: int) -> None:
            nonlocal is_counted
            is_counted = True
            facts.path = scope["path"] if endpoint else template(scope)
            self.metrics.answered(facts.method, facts.path, status, time.perf_counter() - started)

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (_REQUEST_ID, request_id)]
            elif not message.get("more_body", False):
                # Before the client has all of it: it may ask another worker for the counts next.
                count(status)
            await send_or_leave(message)

        async def send_or_leave(message: Message) -> None:
            try:
                await send(message)
            except RuntimeError:
                # uvloop's word for a connection that was closed in this very turn of the loop.
                if scope.get("state", {}).get("is_closing", bool)():
                    raise ClientGone from None
                raise

        try:
            try:
                if self.keys is not None and scope["path"] not in OPEN_PATHS:
                    scope["key"] = key = self.keys.admitted(scope["headers"])
                    facts.key = key.name
                if self.offload is not None and self.offload.takes(scope):
                    is_passed_on = await self.offload.answered(scope, receive, send_or_leave, request_id)
                if is_passed_on:
                    pass
                elif endpoint is None:
                    await self.app(scope, receive, send_with_id)
                else:
                    response = await endpoint(Request(scope, receive))
                    await response(scope, receive, send_with_id)
                return
            except Problem as raised:
                problem = raised
            except ClientGone:
                status = CLIENT_GONE
                return
            except Exception as error:
                problem = bug(error)
            facts.problem = problem.code
            self.metrics.rejected(problem)
            if not status:
                problem.fields.setdefault("request_id", facts.request_id)
                await self._refusal(problem, scope["path"])(scope, receive, send_with_id)
        finally:
            if not is_counted and not is_passed_on:
                status = CLIENT_GONE
                count(status)
            if self.tracing is not None and not is_passed_on:
                self.tracing.end(facts, status)
            if self.access is not None and not is_passed_on:
                self.access.answered(facts, status, time.perf_counter() - started)

    def straight_to(self, scope: Scope) -> Endpoint | None:
        if scope["type"] != "http" or scope["method"] != "POST":
            return None
        return self.straight.get(scope["path"])

    def _refusal(self, problem: Problem, path: str) -> Response:
        for at, said in self.refusals.items():
            if path == at or path.startswith(at + "/"):
                return said(problem)
        return problem.response()


def template(scope: Scope) -> str:
    """The template of the path that the router found: "/v1/models/{name}"; "other" where it found none."""
    found: str = getattr(scope.get("route"), "path", "other")
    return found
