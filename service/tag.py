"""POST /v1/tag: sentences, or one document, in; their tokens, labels, persons and scores out."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Any

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from model.head import Tagged
from service.body import check_content_type, read_body
from service.edge import Endpoint, JsonResponse
from service.models import ServedModel
from service.observing.facts import facts
from service.offsets import Table, table_of
from service.openapi import SECONDS_PATTERN, answers, json_body
from service.problems import Problem
from service.schemas import TagRequest, parsed, person_flags, sentence_json, tag_request
from service.settings import Settings
from service.state import Service
from service.steps import (
    INLINE_CHARS,
    Cut,
    check_room,
    cut_document,
    cut_sentences,
    let_go,
    off_loop,
    tagged,
)

PATH = "/v1/tag"
_SECONDS = re.compile(SECONDS_PATTERN.encode())
# Shorter deadlines count as this: a busy machine may take as long for nothing at all.
LEAST_TIMEOUT_S = 0.2
# A long answer is made of parts, so that neither memory nor the GIL is held for the whole of it.
_PART_TOKENS = 5_000

EXAMPLES: dict[str, dict[str, Any]] = {
    "sentence": {
        "summary": "One sentence as a string",
        "value": {"sentences": ["Harry Potter and Hermione Granger invented a new spell."]},
    },
    "tokens": {
        "summary": "Your own tokens: one label for each",
        "value": {"sentences": [["Harry", "Potter", "met", "Ron", "Weasley"], "Ada Lovelace wrote."]},
    },
    "document": {
        "summary": "A document, with offsets for JavaScript",
        "value": {
            "text": "Marie Curie was born in Warsaw. She met Pierre Curie in Paris! 🎉",
            "offset_unit": "utf16",
            "threshold": 0.5,
        },
    },
}

ANSWER_EXAMPLE = {
    "model": {"name": "en-person", "version": "1"},
    "offset_unit": "codepoint",
    "sentences": [
        {
            "text": "Ada Lovelace wrote.",
            "tokens": [
                {"text": "Ada", "start": 0, "end": 3, "label": "B-PER", "person": 1, "score": 0.998},
                {"text": "Lovelace", "start": 4, "end": 12, "label": "I-PER", "person": 1, "score": 0.997},
                {"text": "wrote", "start": 13, "end": 18, "label": "O", "person": 0, "score": 0.999},
                {"text": ".", "start": 18, "end": 19, "label": "O", "person": 0, "score": 0.999},
            ],
            "persons": [
                {"text": "Ada Lovelace", "start": 0, "end": 12, "first_token": 0, "last_token": 2,
                 "score": 0.996}
            ],
        }
    ],
}  # fmt: skip


def timeout_s(headers: dict[bytes, bytes], settings: Settings) -> float:
    """How long the request may take: what X-Request-Timeout asks for, within limits, or the default."""
    asked = headers.get(b"x-request-timeout")
    if asked is None:
        return settings.request_timeout_s
    if not _SECONDS.fullmatch(asked):
        raise Problem("invalid-timeout", "X-Request-Timeout: a number of seconds is expected, such as 2.5")
    return min(max(float(asked), LEAST_TIMEOUT_S), settings.max_request_timeout_s)


def asked_of(body: bytes, service: Service) -> tuple[TagRequest, ServedModel]:
    """What is asked, and of which model, that has room for it. Raises Problem."""
    asked = tag_request(parsed(body), max_sentences=service.settings.max_sentences)
    model = service.model(asked.model)
    check_room(model)
    return asked, model


def cuts_of(asked: TagRequest, model: ServedModel, settings: Settings) -> list[Cut]:
    """The sentences asked for, in tokens. Raises Problem (too-large)."""
    if asked.sentences is None:
        return cut_document(asked.text, model, settings)
    return cut_sentences(asked.sentences, model, settings)


def answer_bytes(cuts: Sequence[Cut], answers: Sequence[Tagged], unit: str, model: ServedModel) -> bytes:
    """The JSON of the whole answer."""
    persons = person_flags(model.tagger.config.scheme)
    parts: list[bytes] = []
    entries: list[dict[str, Any]] = []
    n_tokens = 0
    text: str | None = None
    table: Table | None = None
    for cut, answer in zip(cuts, answers, strict=True):
        if cut.text is not text:  # once for all sentences of a document
            text = cut.text
            table = table_of(text, unit)
        entries.append(sentence_json(text, cut.shown, cut.tokens, answer, table, persons))
        n_tokens += len(cut.tokens)
        if n_tokens > _PART_TOKENS:
            parts.append(orjson.dumps(entries)[1:-1])
            entries, n_tokens = [], 0
    if entries:
        parts.append(orjson.dumps(entries)[1:-1])
    head = orjson.dumps({"model": {"name": model.name, "version": model.version}, "offset_unit": unit})
    return b"".join((head[:-1], b',"sentences":[', b",".join(parts), b"]}"))


def endpoint(service: Service) -> Endpoint:
    settings = service.settings

    async def tag(request: Request) -> Response:
        """Finds the persons in sentences, or in one document.

        Give exactly one of `sentences` and `text`. Nothing is ever cut off: what is over a limit
        is a 413. A sentence's answer is the same alone, in any request and in any batch. Of
        duplicate keys the last one counts.
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
            asked, model = asked_of(body, service)
            del body
            known = facts()
            with known.step("cut"):
                cuts = await off_loop(
                    service, is_small, lambda: cuts_of(asked, model, settings), deadline, request.receive
                )
            is_alone = service.admission.n_under_way == 1
            answers = await tagged(
                cuts, model, asked.threshold, deadline, request.receive, is_alone=is_alone
            )
            with known.step("write"):
                content = await off_loop(
                    service, is_small, lambda: answer_bytes(cuts, answers, asked.offset_unit, model),
                    deadline, request.receive,
                )  # fmt: skip
            if not is_small:
                service.text_thread.submit(let_go, cuts, answers)  # nobody waits for that
            return JsonResponse(content)

    return tag


def router(service: Service) -> APIRouter:
    router = APIRouter(tags=["tagging"])
    router.add_api_route(
        PATH,
        endpoint(service),
        methods=["POST"],
        operation_id="tag",
        summary="Tag sentences or a document",
        openapi_extra=json_body(["TagSentences", "TagDocument"], EXAMPLES),
        responses=answers(
            "TagResponse", ANSWER_EXAMPLE,
            "not-json", "not-utf-8", "invalid-timeout", "unknown-model", "body-too-slow", "too-large",
            "unsupported-content-type", "unsupported-content-encoding", "invalid-request",
            "lone-surrogate", "overloaded", "not-ready", "self-test-failed", "draining",
            "deadline-passed",
        ),
    )  # fmt: skip
    return router
