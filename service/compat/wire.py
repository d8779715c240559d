"""What every compatible surface does alike: a request in its own wire in, an answer in it out.

    read (body → Job) → cut_document → tagged → write (Documents → answer)

Admission, limits, deadlines, keys, metrics and the log are those of /v1/tag, since the steps are.
Offsets count code points; who needs others converts them with service/offsets.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from typing import Any

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from model.head import Tagged
from model.labels import PERSON
from service.body import JSON, check_content_encoding, check_content_type, read_body
from service.edge import Endpoint
from service.models import ServedModel
from service.observing.facts import facts
from service.problems import Problem, invalid, too_large
from service.schemas import kind_of, parsed
from service.settings import Settings
from service.state import Service
from service.steps import INLINE_CHARS, Cut, check_room, check_total, cut_document, off_loop, tagged
from service.tag import timeout_s

Object = dict[str, Any]
# What most of these protocols call our types; they know no others.
TYPE_NAMES = {PERSON: "PERSON", "LOC": "LOCATION", "ORG": "ORGANIZATION"}


@dataclass(frozen=True, slots=True)
class Surface:
    """One protocol: where it is, how it is tried, what it answers with where something is wrong."""

    title: str  # whose clients these are
    path: str  # it answers this path and what is below it
    about: str
    example: str  # a shell command; URL stands for the service's own
    router: Callable[[Service], APIRouter]
    refused: Callable[[Problem], Response] = Problem.response


def chosen(settings: Settings) -> list[Surface]:
    """The surfaces that the settings turn on."""
    return [import_module(f"service.compat.{name}").SURFACE for name in settings.surfaces]


@dataclass(frozen=True, slots=True)
class Entity:
    """Something found in a document. Offsets are code points, half open."""

    text: str
    start: int
    end: int
    entity_type: str  # the model's: PER
    score: float  # the probability that exactly this span is one


@dataclass(frozen=True, slots=True)
class Document:
    """One text with its sentences and their answers."""

    text: str
    cuts: Sequence[Cut]
    answers: Sequence[Tagged]

    @property
    def entities(self) -> list[Entity]:
        """All that was found, in order."""
        return [
            Entity(self.text[start:end], start, end, scored.span.entity_type, scored.score)
            for cut, answer in zip(self.cuts, self.answers, strict=True)
            for scored in answer.spans
            for start, end in [(cut.tokens.starts[scored.span.start], cut.tokens.ends[scored.span.end - 1])]
        ]


def cut_as_document(text: str, model: ServedModel, settings: Settings) -> list[Cut]:
    return cut_document(text, model, settings)


@dataclass(frozen=True, slots=True)
class Job:
    """What one request wants: texts, and how their answers are written."""

    texts: Sequence[str]
    write: Callable[[list[Document], ServedModel], Response]
    threshold: float | None = None  # None is the model's own
    model: str | None = None  # None is the default model
    language: str | None = None  # that the texts are said to be in
    cut: Callable[[str, ServedModel, Settings], list[Cut]] = cut_as_document


def endpoint(
    service: Service,
    read: Callable[[bytes, Request], Job],
    *,
    accepted: Collection[bytes] | None = (JSON,),
) -> Endpoint:
    """The endpoint that reads a body as ``read`` does, tags the texts, and writes what it found.

    ``accepted``: content types; None is any, for clients that send none.
    """
    settings = service.settings

    async def answer(request: Request) -> Response:
        started = time.monotonic()
        headers = dict(request.scope["headers"])
        service.check_accepting()
        if accepted is None:
            check_content_encoding(headers)
        else:
            check_content_type(headers, accepted)
        deadline = started + timeout_s(headers, settings)
        with service.admission.hold() as hold:
            body = await read_body(
                headers, request, hold,
                max_bytes=settings.max_body_bytes, timeout_s=settings.receive_timeout_s,
            )  # fmt: skip
            is_small = len(body) <= INLINE_CHARS
            job = read(body, request)
            del body
            model = service.model(job.model or request.query_params.get("model"))
            _check_language(job.language, model)
            check_room(model)
            known = facts()
            with known.step("cut"):
                cuts = await off_loop(
                    service, is_small, lambda: _cut(job, model, settings), deadline, request.receive
                )
            together = [cut for each in cuts for cut in each]
            found = await tagged(together, model, job.threshold, deadline, request.receive)
            with known.step("write"):
                left = iter(found)
                documents = [
                    Document(text, part, list(islice(left, len(part))))
                    for text, part in zip(job.texts, cuts, strict=True)
                ]
                return await off_loop(
                    service, is_small, lambda: job.write(documents, model), deadline, request.receive
                )

    return answer


def _cut(job: Job, model: ServedModel, settings: Settings) -> list[list[Cut]]:
    """Each text's sentences. Raises Problem (too-large)."""
    n_texts = len(job.texts)
    if n_texts > settings.max_sentences:
        raise too_large("max_sentences", settings.max_sentences, n_texts, "texts")
    cuts = []
    n_tokens = 0
    for text in job.texts:
        cuts.append(job.cut(text, model, settings))
        n_tokens += sum(len(cut.tokens) for cut in cuts[-1])
        check_total(n_tokens, settings)
    return cuts


def _check_language(language: str | None, model: ServedModel) -> None:
    """Raises Problem where the model was not trained for a language: its answer would mislead."""
    known = model.tagger.config.languages
    if language is not None and language.lower().partition("-")[0] not in known:
        raise invalid("/language", "a language that this model does not know", "one of " + ", ".join(known))


# Reading


def object_of(value: Any, pointer: str = "") -> Object:
    """A JSON object, which null is too, an empty one. Raises Problem (invalid-request)."""
    if value is None:
        return {}
    if type(value) is not dict:
        raise invalid(pointer, kind_of(value), "an object")
    return value


def body_of(body: bytes) -> Object:
    """A body that is a JSON object. Raises Problem: not-json, not-utf-8, invalid-request."""
    value = parsed(body)
    if type(value) is not dict:
        raise invalid("", kind_of(value), "an object")
    return value


def list_of(value: Any, pointer: str) -> list[Any]:
    """Raises Problem (invalid-request)."""
    if type(value) is not list:
        raise invalid(pointer, kind_of(value), "an array")
    return value


def string_of(value: Any, pointer: str) -> str:
    """Raises Problem (invalid-request)."""
    if type(value) is not str:
        raise invalid(pointer, kind_of(value), "a string")
    return value


def strings_of(value: Any, pointer: str) -> list[str]:
    """Raises Problem (invalid-request)."""
    return [string_of(item, f"{pointer}/{i}") for i, item in enumerate(list_of(value, pointer))]


def text_or_texts(value: Any, pointer: str) -> list[str]:
    """A string, or several: as a list. Raises Problem (invalid-request)."""
    if type(value) not in (str, list):
        raise invalid(pointer, kind_of(value), "a string, or an array of strings")
    return [value] if type(value) is str else strings_of(value, pointer)


def offset_of(value: Any, pointer: str, most: int) -> int:
    """A place in a text. Raises Problem (invalid-request)."""
    if type(value) is not int or not 0 <= value <= most:
        kind = "a number out of range" if type(value) in (int, float) else kind_of(value)
        raise invalid(pointer, kind, f"a whole number from 0 to {most}")
    return value


def probability_of(value: Any, pointer: str) -> float | None:
    """A threshold; null, and 0, which every span reaches, are the model's own. Raises Problem."""
    if value is None:
        return None
    if type(value) not in (int, float) or not 0 <= value <= 1:
        kind = "a number out of range" if type(value) in (int, float) else kind_of(value)
        raise invalid(pointer, kind, "a number from 0 to 1")
    return value or None


# Writing


def json_answer(value: Any, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(value), headers=headers, media_type="application/json")


def refused_with_error(problem: Problem) -> Response:
    """A problem whose ``error`` says in words what is wrong: the member that most clients show."""
    content = {"error": f"{problem.detail} ({problem.code})", **problem.as_json()}
    return problem.said_as(orjson.dumps(content), "application/json")
