"""Label Studio's ML backend: predictions for annotators, and their corrections as training data.

https://labelstud.io/guide/ml and https://labelstud.io/guide/webhook_reference. Offsets are code
points, as Label Studio counts them. /predict answers for the labelling configuration that comes with
it: a <Labels> on a <Text>, with a label for persons. /webhook stores what annotators save under
NAMETAG_ANNOTATIONS_DIR, a file for each project, for ``python -m training train``.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.parsers import expat

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from model.labels import PERSON
from service.body import check_content_type, read_body
from service.compat.corrections import Correction, Region, forget, store
from service.compat.wire import (
    Document,
    Job,
    Object,
    Surface,
    body_of,
    endpoint,
    json_answer,
    list_of,
    object_of,
    offset_of,
    refused_with_error,
    string_of,
)
from service.models import ServedModel
from service.offsets import table_of
from service.problems import Problem, invalid
from service.schemas import kind_of
from service.state import Service

PATH = "/compat/labelstudio"
# The names that people give to the label for persons; training/corpus.py takes the same as PER.
PERSON_LABELS = frozenset({"per", "pers", "person", "name"})
_STORED = frozenset({"ANNOTATION_CREATED", "ANNOTATION_UPDATED"})
_DELETED = "ANNOTATIONS_DELETED"
_SAFE = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass
class _Seen:
    """What of a labelling configuration counts here."""

    values: dict[str, str] = field(default_factory=dict)  # of <Text>: its name → its value
    controls: list[tuple[str, str, list[str]]] = field(default_factory=list)  # name, toName, labels


@dataclass(frozen=True, slots=True)
class Control:
    """The <Labels> that regions are made for."""

    name: str
    to_name: str
    key: str  # of the task's data: where the text is
    label: str  # for persons, as its author spells it


def control_of(config: str, pointer: str) -> Control:
    """Of a labelling configuration. Raises Problem (invalid-request)."""
    seen = _seen(config, pointer)
    for name, to_name, labels in seen.controls:
        value = seen.values.get(to_name, "")
        person = next((label for label in labels if label.lower() in PERSON_LABELS), None)
        if person is not None and value.startswith("$"):
            return Control(name, to_name, value[1:], person)
    raise invalid(
        pointer,
        "a configuration without one",
        'a <Labels> with a label like "PER" or "Person", toName a <Text> whose value is a field ($text)',
    )


def _seen(config: str, pointer: str) -> _Seen:
    seen = _Seen()

    def start(tag: str, attributes: dict[str, str]) -> None:
        if tag == "Text":
            seen.values[attributes.get("name", "")] = attributes.get("value", "")
        elif tag == "Labels":
            seen.controls.append((attributes.get("name", ""), attributes.get("toName", ""), []))
        elif tag == "Label" and seen.controls:
            seen.controls[-1][2].append(attributes.get("value", ""))

    def refuse(*_: object) -> None:
        raise invalid(pointer, "XML with a document type", "XML without one")

    # Events, not a tree: what is nested deeply takes no room. No document type, so no entities.
    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(config, True)
    except expat.ExpatError as error:
        kind = f"not XML (line {error.lineno}, column {error.offset})"
        raise invalid(pointer, kind, "a labelling configuration") from None
    return seen


# Predictions


def _read(body: bytes, _: Request) -> Job:
    value = body_of(body)
    control = control_of(string_of(value.get("label_config"), "/label_config"), "/label_config")
    tasks = list_of(value.get("tasks"), "/tasks")
    texts = [_text(task, control.key, f"/tasks/{i}") for i, task in enumerate(tasks)]

    def write(documents: list[Document], model: ServedModel) -> Response:
        return json_answer({"results": [_prediction(document, control, model) for document in documents]})

    return Job(texts, write)


def _text(task: Any, key: str, pointer: str) -> str:
    data = object_of(object_of(task, pointer).get("data"), f"{pointer}/data")
    return string_of(data.get(key), f"{pointer}/data/…")


def _prediction(document: Document, control: Control, model: ServedModel) -> Object:
    found = [entity for entity in document.entities if entity.entity_type == PERSON]
    return {
        "model_version": model.reference,
        # Label Studio can ask first for what the model is least sure of.
        "score": round(min((entity.score for entity in found), default=1.0), 6),
        "result": [
            {
                "id": f"nametag-{entity.start}-{entity.end}",
                "from_name": control.name,
                "to_name": control.to_name,
                "type": "labels",
                "score": round(entity.score, 6),
                "value": {
                    "start": entity.start,
                    "end": entity.end,
                    "text": entity.text,
                    "labels": [control.label],
                },
            }
            for entity in found
        ],
    }


# Corrections


def _correction(value: Object) -> Correction:
    """Of a webhook's payload. Raises Problem (invalid-request)."""
    annotation = object_of(value.get("annotation"), "/annotation")
    task = object_of(value.get("task"), "/task")
    text = _annotated(value, task)
    regions: list[Region] = []
    for i, item in enumerate(list_of(annotation.get("result"), "/annotation/result")):
        pointer = f"/annotation/result/{i}"
        region = object_of(item, pointer)
        if region.get("type") == "labels":
            regions.append(
                _region(object_of(region.get("value"), f"{pointer}/value"), text, f"{pointer}/value")
            )
    regions.sort(key=lambda region: (region.start, region.end))
    for before, after in pairwise(regions):
        if after.start < before.end:
            place = f"characters {after.start} to {after.end}"
            raise invalid("/annotation/result", f"regions that overlap at {place}", "regions that do not")
    number = task.get("id")
    return Correction(
        _id(annotation.get("id"), "/annotation/id"), number if type(number) is int else None, text, regions
    )


def _annotated(value: Object, task: Object) -> str:
    """The text of the task: where the project's configuration says, or the only text there is."""
    data = object_of(task.get("data"), "/task/data")
    config = object_of(value.get("project"), "/project").get("label_config")
    if type(config) is str and config:
        seen = _seen(config, "/project/label_config")
        keys = [each[1:] for each in seen.values.values() if each.startswith("$")]
    else:
        keys = ["text"] if "text" in data else list(data)
    if len(keys) != 1:
        raise invalid("/task/data", f"{len(keys)} texts", "one")
    return string_of(data.get(keys[0]), "/task/data/…")


def _region(value: Object, text: str, pointer: str) -> Region:
    labels = list_of(value.get("labels"), f"{pointer}/labels")
    if len(labels) != 1:
        raise invalid(f"{pointer}/labels", f"{len(labels)} labels", "one")
    label = string_of(labels[0], f"{pointer}/labels/0")
    label = PERSON if label.lower() in PERSON_LABELS else label
    start = offset_of(value.get("start"), f"{pointer}/start", 2 * len(text))
    end = offset_of(value.get("end"), f"{pointer}/end", 2 * len(text))
    said = value.get("text")
    places = [(start, end)]
    if said is not None:  # versions before 1.8 counted UTF-16 units: this tells which these are
        places.append(_from_utf16(start, end, text))
    for first, last in places:
        found = text[first:last]
        if found.strip() and said in (None, found):
            return Region(first, last, label)
    raise invalid(pointer, "another part of the text", "the one that its `text` says, not only white space")


def _from_utf16(start: int, end: int, text: str) -> tuple[int, int]:
    """The offsets in code points; (0, 0) where they are between the halves of a character."""
    table = table_of(text, "utf16")
    if table is None:
        return start, end
    places = {int(there): here for here, there in enumerate(table)}
    return places.get(start, 0), places.get(end, 0)


def _id(value: Any, pointer: str) -> int:
    if type(value) is not int:
        raise invalid(pointer, kind_of(value), "a whole number")
    return value


def _file(folder: Path, value: Object) -> Path:
    """The file of a payload's project."""
    number = str(object_of(value.get("project"), "/project").get("id", "unknown"))
    return folder / f"project-{number if _SAFE.fullmatch(number) else 'unknown'}.jsonl"


def _deleted(value: Object) -> set[int]:
    listed: Sequence[Any] = list_of(value.get("annotations"), "/annotations")
    return {
        _id(object_of(item, f"/annotations/{i}").get("id"), f"/annotations/{i}/id")
        for i, item in enumerate(listed)
    }


async def _kept(work: Callable[[Path, Any], None], file: Path, what: Any) -> None:
    """Does the work on a thread, also where the client does not wait for it. Raises Problem."""
    try:
        await asyncio.shield(asyncio.to_thread(work, file, what))
    except (OSError, ValueError) as error:  # a full disk, or a line that somebody else wrote
        raise Problem("annotations-not-stored", f"{file.name}: {type(error).__name__}") from None


def _router(service: Service) -> APIRouter:
    router = APIRouter(prefix=PATH, include_in_schema=False)
    settings = service.settings
    predict: Any = endpoint(service, _read)
    router.add_api_route("/predict", predict, methods=["POST"])

    def version(request: Request) -> str:
        return service.model(request.query_params.get("model")).reference

    @router.get("")
    @router.get("/")
    @router.get("/health")
    async def health() -> Response:
        service.check_ready()
        return json_answer({"status": "UP", "model_class": "Nametag", "v2": True})

    @router.post("/setup")
    async def setup(request: Request) -> Response:
        return json_answer({"model_version": version(request)})

    @router.post("/versions")
    @router.get("/versions")
    async def versions(request: Request) -> Response:
        return json_answer({"versions": [version(request)]})

    @router.post("/webhook")
    async def webhook(request: Request) -> Response:
        headers = dict(request.scope["headers"])
        service.check_accepting()
        check_content_type(headers)
        if settings.annotations_dir is None:
            raise Problem(
                "annotations-off", "NAMETAG_ANNOTATIONS_DIR says where to store them, and is not set"
            )
        with service.admission.hold() as hold:
            body = await read_body(
                headers, request, hold,
                max_bytes=settings.max_body_bytes, timeout_s=settings.receive_timeout_s,
            )  # fmt: skip
            value = body_of(body)
            action = string_of(value.get("action"), "/action")
            file = _file(settings.annotations_dir, value)
            if action in _STORED:
                correction = _correction(value)
                if object_of(value.get("annotation"), "").get("was_cancelled"):  # skipped by the annotator
                    await _kept(forget, file, {correction.annotation})
                else:
                    await _kept(store, file, correction)
            elif action == _DELETED:
                await _kept(forget, file, _deleted(value))
            else:
                return json_answer({"status": "ignored"})
        return json_answer({"status": "stored"})

    return router


SURFACE = Surface(
    title="Label Studio ML backend",
    path=PATH,
    about="Add it under Model in a project's settings. Predictions need a <Labels> with a label like PER "
    "or Person on a <Text>. `/webhook` keeps what annotators save in NAMETAG_ANNOTATIONS_DIR, a file for "
    "each project, which `python -m training train` takes as it is.",
    example="curl URL/compat/labelstudio/predict -H 'content-type: application/json' -d "
    """'{"tasks": [{"id": 1, "data": {"text": "Ada Lovelace wrote."}}], "label_config": """
    r""""<View><Labels name=\"l\" toName=\"t\"><Label value=\"PER\"/></Labels>"""
    r"""<Text name=\"t\" value=\"$text\"/></View>"}'""",
    router=_router,
    refused=refused_with_error,
)
