"""GET /v1/models and /v1/models/{name}: what is loaded, and each model's card as data."""

from __future__ import annotations

import orjson
from fastapi import APIRouter
from starlette.responses import Response

from service.edge import JsonResponse
from service.openapi import answers
from service.state import Service

_SUMMARY = {
    "name": "en-person",
    "version": "1",
    "default": True,
    "current": True,
    "ready": True,
    "languages": ["en"],
    "labels": ["O", "B-PER", "I-PER"],
    "threshold": 0.0,
    "tokeniser": "treebank-1",
    "device": "cpu",
    "backend": "onnx",
}
_DETAILS = {
    **_SUMMARY,
    "normalisation": "cased-1",
    "temperature": 1.0,
    "network": {"cell": "lstm", "hidden_dim": 128},
    "training": {},
    "card": "# en-person",
}


def router(service: Service) -> APIRouter:
    router = APIRouter(prefix="/v1/models", tags=["models"])
    models = service.models

    @router.get(
        "", operation_id="list_models", summary="List the models",
        responses=answers("ModelList", {"models": [_SUMMARY]}),
    )  # fmt: skip
    async def list_models() -> Response:
        """Every model that is loaded, the default one first."""
        summaries = [
            model.summary(default=models.is_default(model), current=models.is_current(model))
            for model in models.all
        ]
        return JsonResponse(orjson.dumps({"models": summaries}))

    @router.get(
        "/{name}", operation_id="get_model", summary="Show a model's card",
        responses=answers("ModelDetails", _DETAILS, "unknown-model"),
    )  # fmt: skip
    async def get_model(name: str) -> Response:
        """What is known of one model, by `name` or `name@version`: data, scores, speed, limits."""
        model = models.find(name)
        details = model.details(default=models.is_default(model), current=models.is_current(model))
        return JsonResponse(orjson.dumps(details))

    return router
