"""Settings in, the ASGI application out: the place where the parts of the service meet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service import catalogue, docs, health, openapi, page, stream, tag
from service.compat import wire
from service.edge import Edge
from service.observing import scrape
from service.problems import Problem
from service.redaction import endpoint as redact
from service.reloading import endpoint as reload
from service.settings import Settings
from service.state import Service

if TYPE_CHECKING:
    from service.observing.tracing import Tracing

VERSION = "0.1.0"


class Application(FastAPI):
    """FastAPI, whose layers and router cost 3 % of the throughput of 64 clients: requests for Edge's
    straight endpoints do without them, where nothing has to be outside of Edge."""

    make_edge: Callable[[ASGIApp], Edge] | None = None

    def build_middleware_stack(self) -> ASGIApp:
        stack = super().build_middleware_stack()
        if self.make_edge is None:
            return stack
        edge = self.make_edge(stack)

        def straight_or_not(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
            return (edge if edge.straight_to(scope) else stack)(scope, receive, send)

        return straight_or_not


def create_app(
    settings: Settings,
    supervisor: Connection | None = None,
    metrics_folder: Path | None = None,
    tracing: Tracing | None = None,
    *,
    is_offload: bool = False,
) -> FastAPI:
    """The application. Entering its lifespan loads the models; ``app.state.service`` is its Service.

    ``supervisor``, ``is_offload``: see Service. ``metrics_folder``: where all processes of the service
    count; None where this is the only one. ``tracing``: by default what the settings say.
    """
    service = Service(settings, supervisor, metrics_folder, is_offload=is_offload)
    if tracing is None and settings.otel == "on":
        from service.observing.tracing import Tracing

        tracing = Tracing()
    service.metrics.tracing = tracing

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.start()
        sampling = asyncio.create_task(scrape.keep_sampling(service))
        try:
            yield
        finally:
            sampling.cancel()
            await service.close()
            if tracing is not None:
                await asyncio.to_thread(tracing.close)

    app = Application(
        title="Nametag",
        version=VERSION,
        summary="Finds people's names in text.",
        # Our own page: FastAPI's loads its scripts from somewhere else.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        # FastAPI's own spans hold paths and queries, and its records messages of exceptions.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
        lifespan=lifespan,
    )
    app.state.service = service
    for each in (tag, redact, stream, catalogue, reload, health, scrape):
        app.include_router(each.router(service))
    surfaces = wire.chosen(settings)
    for surface in surfaces:
        app.include_router(surface.router(service))
    app.include_router(docs.router(app, surfaces))
    app.include_router(page.router())
    app.add_exception_handler(HTTPException, _refused)
    straight = {each.PATH: each.endpoint(service) for each in (tag, redact, stream)}
    edge: dict[str, Any] = {
        "straight": straight,
        "metrics": service.metrics,
        "keys": service.keys,
        "access": service.access,
        "tracing": tracing,
        "offload": service.offload,
        "refusals": {surface.path: surface.refused for surface in surfaces},
    }
    app.add_middleware(Edge, **edge)
    if not settings.cors_origins:
        app.make_edge = partial(Edge, **edge)
    else:
        # Outside of Edge: a preflight carries no key, and a page may read why it was refused.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=[
                "content-type",
                "authorization",
                "x-api-key",
                "x-request-id",
                "x-request-timeout",
            ],
            expose_headers=["x-request-id", "retry-after", "www-authenticate"],
        )  # fmt: skip
    openapi.complete(app, has_keys=service.keys is not None)
    return app


async def _refused(_: Request, error: Exception) -> Response:
    """What the router itself refuses, as a problem."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 405:
        detail = f"allowed: {headers.get('Allow', '')}"
        raise Problem("method-not-allowed", detail, headers=headers)
    if error.status_code == 404:
        raise Problem("unknown-path", "see /docs for the paths there are")
    raise error
