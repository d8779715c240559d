"""GET /livez and /readyz: should this process be restarted, and should it be sent requests?

A full queue fails neither: more replicas would help then, and fewer would not.
"""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from service.edge import JsonResponse
from service.openapi import answers
from service.state import Service


def router(service: Service) -> APIRouter:
    router = APIRouter(tags=["health"])

    @router.get(
        "/livez", operation_id="livez", summary="Is the process alive?",
        responses=answers("Health", {"status": "live"}, "wedged"),
    )  # fmt: skip
    async def livez() -> Response:
        """Live: the event loop turns, and no inference worker is wedged. Otherwise, restart it."""
        service.check_live()
        return JsonResponse(b'{"status":"live"}')

    @router.get(
        "/readyz", operation_id="readyz", summary="Should it be sent requests?",
        responses=answers("Health", {"status": "ready"}, "not-ready", "self-test-failed", "draining"),
    )  # fmt: skip
    async def readyz() -> Response:
        """Ready: the models are loaded, reproduced their expected answers, and nothing is shutting down."""
        service.check_ready()
        return JsonResponse(b'{"status":"ready"}')

    return router
