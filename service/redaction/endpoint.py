"""POST /v1/redact: texts in, the same texts without the persons' names out.

The way of POST /v1/tag, walked again while the model finds somebody in what was redacted.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive

from model.head import Tagged
from service.body import check_content_type, read_body
from service.edge import Endpoint, JsonResponse
from service.models import ServedModel
from service.observing.facts import facts
from service.openapi import answers, json_body
from service.redaction.schemas import RedactRequest, redact_request, result_json
from service.redaction.texts import Redaction, persons_of
from service.schemas import parsed
from service.settings import Settings
from service.state import Service
from service.steps import INLINE_CHARS, Cut, check_room, cut_document, cut_unchecked, off_loop, tagged
from service.tag import timeout_s

PATH = "/v1/redact"
_RANDOM_KEY_BYTES = 32

EXAMPLES: dict[str, dict[str, Any]] = {
    "label": {
        "summary": "A number for each person, the same in all texts",
        "value": {
            "texts": ["Harry Potter met Hermione Granger.", "Potter's owl came back."],
            "mode": "label",
        },
    },
    "mask": {
        "summary": "Hidden, with offsets for JavaScript",
        "value": {"texts": ["🎉 Marie Curie was born in Warsaw."], "mode": "mask", "offset_unit": "utf16"},
    },
    "hash": {
        "summary": "The same mark in every request with this key, of the fullest form of the name there",
        "value": {
            "texts": ["Ada Lovelace wrote to Charles Babbage."],
            "mode": "hash",
            "key": "a secret that nobody else knows",
        },
    },
    "pseudonym": {
        "summary": "Invented names, for those who are marked alone",
        "value": {
            "texts": [[{"person": "Ada Lovelace"}, " wrote to Charles Babbage."]],
            "mode": "pseudonym",
        },
    },
}

ANSWER_EXAMPLE = {
    "model": {"name": "en-person", "version": "1"},
    "mode": "label",
    "offset_unit": "codepoint",
    "texts": [
        {
            "text": "[PERSON_1]'s notes",
            "replacements": [
                {"start": 0, "end": 12, "new_start": 0, "new_end": 10, "replacement": "[PERSON_1]",
                 "person": 1, "score": 0.99}
            ],
        }
    ],
}  # fmt: skip


def _cuts(
    texts: Sequence[str], numbers: Sequence[int], model: ServedModel, settings: Settings
) -> list[list[Cut]]:
    """The sentences of each text; ``numbers``: which of the request's it is. Raises Problem (too-large)."""
    n_tokens = 0
    cuts = []
    for i, text in zip(numbers, texts, strict=True):
        cuts.append(cut_document(text, model, settings, f"/texts/{i}", n_tokens))
        n_tokens += sum(len(cut.tokens) for cut in cuts[-1])
    return cuts


async def _find(
    redaction: Redaction,
    asked: RedactRequest,
    model: ServedModel,
    service: Service,
    deadline: float,
    receive: Receive,
    *,
    is_small: bool,
) -> None:
    """Finds the persons, until there are no more. Raises Problem, or ClientGone."""

    def cut() -> list[list[Cut]]:
        texts = redaction.to_tag()
        # What stands for a name may have more tokens than the name, which is not the client's fault.
        if redaction.is_begun:
            return [cut_unchecked(text, model) for text in texts]
        return _cuts(texts, redaction.asked, model, service.settings)

    def learn(by_text: list[list[Cut]], answers: list[Tagged]) -> None:
        answered = iter(answers)
        redaction.learn(
            [
                [p for cut in cuts for p in persons_of(cut.text, cut.tokens, next(answered))]
                for cuts in by_text
            ]
        )

    while True:
        with facts().step("cut"):
            by_text = await off_loop(service, is_small, cut, deadline, receive)
        if not by_text:
            return
        cuts = [cut for cuts in by_text for cut in cuts]
        answers = await tagged(cuts, model, asked.threshold, deadline, receive)
        await off_loop(service, is_small, partial(learn, by_text, answers), deadline, receive)


def answer_bytes(redaction: Redaction, asked: RedactRequest, model: ServedModel) -> bytes:
    """The JSON of the whole answer."""
    return orjson.dumps(
        {
            "model": {"name": model.name, "version": model.version},
            "mode": asked.mode,
            "offset_unit": asked.offset_unit,
            "texts": [
                result_json(result, text, asked.offset_unit)
                for result, text in zip(redaction.results(), asked.texts, strict=True)
            ],
        }
    )


def endpoint(service: Service) -> Endpoint:
    settings = service.settings

    async def redact(request: Request) -> Response:
        """Replaces the names of persons in texts, and says what stands where, before and after.

        No field of the answer holds a name that was replaced. Names that the model does not find
        stay where they are: what it misses, and at which threshold, its card says. A person has the
        same number, label, hash or pseudonym throughout one request.

        `mask` and `label` say nothing of a name; `hash` tells who holds the key whether it is one that
        they know. The offsets of the old text say how long each name was: keep them apart where that
        matters.
        """
        started = time.monotonic()
        headers = dict(request.scope["headers"])
        service.check_accepting()
        check_content_type(headers)
        deadline = started + timeout_s(headers, settings)
        with service.admission.hold() as hold:
            body = await read_body(
                headers, request, hold,
                max_bytes=settings.max_body_bytes, timeout_s=settings.receive_timeout_s,
            )  # fmt: skip
            is_small = len(body) <= INLINE_CHARS
            asked = redact_request(
                parsed(body),
                max_texts=settings.max_sentences,
                max_chars=settings.max_document_chars,
                has_key=bool(service.redaction_key),
            )
            del body
            model = service.model(asked.model)
            own_key = service.redaction_key if asked.mode == "hash" else b""
            key = asked.key or own_key or secrets.token_bytes(_RANDOM_KEY_BYTES)
            if len(asked.given) < len(asked.texts):
                check_room(model)
            off = partial(off_loop, service, is_small, deadline=deadline, receive=request.receive)
            redaction = await off(lambda: Redaction(asked.texts, asked.mode, key, asked.given))
            await _find(redaction, asked, model, service, deadline, request.receive, is_small=is_small)
            with facts().step("write"):
                content = await off(lambda: answer_bytes(redaction, asked, model))
            return JsonResponse(content)

    return redact


def router(service: Service) -> APIRouter:
    router = APIRouter(tags=["redaction"])
    router.add_api_route(
        PATH,
        endpoint(service),
        methods=["POST"],
        operation_id="redact",
        summary="Replace the names of persons in texts",
        openapi_extra=json_body(["RedactJson", "RedactHashJson"], EXAMPLES),
        responses=answers(
            "RedactResponse", ANSWER_EXAMPLE,
            "not-json", "not-utf-8", "invalid-timeout", "unknown-model", "body-too-slow", "too-large",
            "unsupported-content-type", "unsupported-content-encoding", "invalid-request",
            "lone-surrogate", "overloaded", "not-ready", "self-test-failed", "draining",
            "deadline-passed",
        ),
    )  # fmt: skip
    return router
