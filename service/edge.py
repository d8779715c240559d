"""The outermost layer: request ids, keys, problems as answers, and the straight way to busy endpoints.

Pure ASGI; starlette's BaseHTTPMiddleware would break noticing that a client hung up.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.keys import OPEN_PATHS, Keyring
from service.log import LOGGER, place_of
from service.problems import ClientGone, Problem

Endpoint = Callable[[Request], Awaitable[Response]]

_REQUEST_ID = b"x-request-id"
_SANE_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")

log = logging.getLogger(LOGGER)


def bug(error: Exception, request_id: bytes) -> Problem:
    """What to answer where the service made a mistake, which is logged without what was submitted."""
    fields = {"request_id": request_id.decode(), "error": type(error).__name__, "at": place_of(error)}
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

    ``keys``: what requests must carry, except those of OPEN_PATHS; the scope's "key" then says whose.
    FastAPI's layers and router cost about 25 µs a request; they know the same endpoints, for
    /openapi.json and for other methods.
    """

    def __init__(self, app: ASGIApp, straight: Mapping[str, Endpoint], keys: Keyring | None = None) -> None:
        self.app = app
        self.keys = keys
        self.straight = straight

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = next((value for name, value in scope["headers"] if name == _REQUEST_ID), b"")
        if not _SANE_ID.fullmatch(request_id):
            request_id = os.urandom(12).hex().encode()
        scope["request_id"] = request_id
        has_begun = False

        async def send_with_id(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                message["headers"] = [*message.get("headers", ()), (_REQUEST_ID, request_id)]
            await send(message)

        try:
            if self.keys is not None and scope["path"] not in OPEN_PATHS:
                scope["key"] = self.keys.admitted(scope["headers"])
            endpoint = self.straight.get(scope["path"]) if scope["method"] == "POST" else None
            if endpoint is None:
                await self.app(scope, receive, send_with_id)
            else:
                response = await endpoint(Request(scope, receive))
                await response(scope, receive, send_with_id)
            return
        except ClientGone:
            return
        except Problem as raised:
            problem = raised
        except Exception as error:
            problem = bug(error, request_id)
        if not has_begun:
            problem.fields.setdefault("request_id", request_id.decode())
            await problem.response()(scope, receive, send_with_id)
