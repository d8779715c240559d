"""GET /metrics: what all workers have counted, for Prometheus; and the gauges, taken once a second.

A gauge is taken, and not changed where it changes, so that it costs a request nothing. The process
that is asked takes its own anew; those of the others are a second old at most.
"""

from __future__ import annotations

import asyncio

from fastapi import APIRouter
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.responses import Response

from service.observing.metrics import Serving
from service.state import Service

PATH = "/metrics"

_SAMPLE_EVERY_S = 1.0
_EXAMPLE = """\
# HELP nametag_requests_total Requests, by template of the path; 499: the client hung up
# TYPE nametag_requests_total counter
nametag_requests_total{method="POST",path="/v1/tag",status="200"} 1027.0
"""


def sample(service: Service) -> None:
    """Takes the gauges of this process."""
    metrics = service.metrics
    models = service.models.all
    metrics.queues(
        {m.reference: (m.batcher.n_waiting_requests, m.batcher.n_waiting_tokens) for m in models}
    )
    metrics.serving(
        Serving(m.name, m.version, m.tagger.backend.name, m.tagger.backend.device)
        for m in models
        if m.trouble is None
    )
    metrics.sample(service.admission.n_requests)


async def keep_sampling(service: Service) -> None:
    """Until it is cancelled."""
    while True:
        sample(service)
        await asyncio.sleep(_SAMPLE_EVERY_S)


def router(service: Service) -> APIRouter:
    router = APIRouter(tags=["operation"])

    @router.get(
        PATH, operation_id="metrics", summary="Read the metrics", response_class=Response,
        responses={
            200: {
                "description": "The metrics in Prometheus's text format",
                "content": {"text/plain": {"schema": {"type": "string"}, "example": _EXAMPLE}},
            }
        },
    )  # fmt: skip
    async def metrics() -> Response:
        """Counts of all workers together, whichever of them answers. Never submitted text."""
        sample(service)
        # Milliseconds for each worker: requests go on meanwhile.
        content = await asyncio.to_thread(service.metrics.exposition)
        return Response(content, media_type=CONTENT_TYPE_PLAIN_0_0_4)

    return router
