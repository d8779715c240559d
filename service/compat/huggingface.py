"""Hugging Face's token classification: InferenceClient(base_url=URL).token_classification(text).

https://huggingface.co/docs/inference-providers/tasks/token-classification. Our tokens are words, so
the strategies that resolve disagreement within a word (first, average, max) have nothing to do and
answer as ``simple`` does. Offsets are code points; ``word`` is the text there, letter for letter.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import groupby
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from model.labels import OUTSIDE
from service.compat.wire import (
    Document,
    Job,
    Object,
    Surface,
    body_of,
    endpoint,
    json_answer,
    object_of,
    refused_with_error,
    string_of,
    strings_of,
    text_or_texts,
)
from service.models import ServedModel
from service.problems import invalid
from service.state import Service

PATH = "/compat/huggingface"
STRATEGIES = ("none", "simple", "first", "average", "max")


def _read(body: bytes, _: Request) -> Job:
    value = body_of(body)
    given = value.get("inputs")
    texts = text_or_texts(given, "/inputs")
    parameters = object_of(value.get("parameters"), "/parameters")
    strategy = parameters.get("aggregation_strategy")
    if strategy is None:
        strategy = "simple"
    if string_of(strategy, "/parameters/aggregation_strategy") not in STRATEGIES:
        raise invalid(
            "/parameters/aggregation_strategy", "another string", "one of " + ", ".join(STRATEGIES)
        )
    ignored = parameters.get("ignore_labels")
    labels = [OUTSIDE] if ignored is None else strings_of(ignored, "/parameters/ignore_labels")
    list_out = _tokens if strategy == "none" else _groups

    def write(documents: list[Document], _: ServedModel) -> Response:
        found = [list(list_out(document, frozenset(labels))) for document in documents]
        return json_answer(found if isinstance(given, list) else found[0])

    return Job(texts, write)


def _tokens(document: Document, ignored: Collection[str]) -> Iterator[Object]:
    """Every token, with the probability of its label."""
    number = 0
    for cut, answer in zip(document.cuts, document.answers, strict=True):
        tokens = cut.tokens
        for i, (label, score) in enumerate(zip(answer.labels, answer.scores, strict=True)):
            number += 1
            if label not in ignored:
                yield {
                    "entity": label, "score": score, "index": number,
                    "word": tokens.texts[i], "start": tokens.starts[i], "end": tokens.ends[i],
                }  # fmt: skip


def _groups(document: Document, ignored: Collection[str]) -> Iterator[Object]:
    """Every entity, with the probability of exactly that span; what is between them is of type O."""
    for cut, answer in zip(document.cuts, document.answers, strict=True):
        starts, ends = cut.tokens.starts, cut.tokens.ends
        found: list[tuple[int, int, str, float]] = [
            (scored.span.start, scored.span.end, scored.span.entity_type, scored.score)
            for scored in answer.spans
        ]
        if OUTSIDE not in ignored:
            found = sorted([*found, *_outside(answer.labels, answer.scores)])
        for first, last, entity_type, score in found:
            if entity_type not in ignored:
                start, end = starts[first], ends[last - 1]
                yield {
                    "entity_group": entity_type, "score": round(score, 6),
                    "word": document.text[start:end], "start": start, "end": end,
                }  # fmt: skip


def _outside(labels: list[str], scores: list[float]) -> Iterator[tuple[int, int, str, float]]:
    """The runs of tokens outside of all entities, each with its tokens' mean score."""
    at = 0
    for is_outside, run in groupby(labels, key=lambda label: label == OUTSIDE):
        n = len(list(run))
        if is_outside:
            yield at, at + n, OUTSIDE, sum(scores[at : at + n]) / n
        at += n


def _router(service: Service) -> APIRouter:
    router = APIRouter(include_in_schema=False)
    answer: Any = endpoint(service, _read)
    router.add_api_route(PATH, answer, methods=["POST"])
    return router


SURFACE = Surface(
    title="Hugging Face token classification",
    path=PATH,
    about="InferenceClient of huggingface_hub and of @huggingface/inference; `token` is a key. "
    "`aggregation_strategy` and `ignore_labels` as usual; the strategies that join the parts of words are "
    "all alike, since no word is in parts.",
    example="curl URL/compat/huggingface -H 'content-type: application/json' "
    """-d '{"inputs": "Ada Lovelace wrote."}'""",
    router=_router,
    refused=refused_with_error,
)
