"""POST /v1/models/{name}/load and …/unload: other versions, without a restart and without a gap.

What may be loaded says folders.py; how all workers switch together, agreement.py.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service.body import check_content_type, read_body
from service.edge import JsonResponse
from service.keys import Key
from service.models import ModelsError, digest_of
from service.observing.log import LOGGER
from service.openapi import REQUEST_ID_HEADER, SECURED, answers, json_body
from service.problems import Problem, invalid
from service.reloading.folders import allowed_folder, folder_of
from service.reloading.lineup import ChangeError, Entry, Lineup, Load, Unload, current
from service.schemas import kind_of, parsed
from service.settings import Settings
from service.state import Service

# What is asked for is one short string.
MAX_BODY_BYTES = 64 * 1024

LOAD_EXAMPLES = {
    "path": {"summary": "The model of a folder", "value": {"path": "en-person-3"}},
    "version": {"summary": "A version, as when going back", "value": {"version": "2"}},
}
UNLOAD_EXAMPLES = {"version": {"summary": "Drop a version", "value": {"version": "2"}}}
ANSWER_EXAMPLE = {"name": "en-person", "version": "3", "previous": "2", "unloaded": ["en-person@1"]}
_PROBLEMS = (
    "not-json", "not-utf-8", "body-too-slow", "too-large", "unsupported-content-type",
    "unsupported-content-encoding", "invalid-request", "lone-surrogate", "admin-only", "unknown-model",
    "load-in-progress", "overloaded", "not-ready", "draining",
)  # fmt: skip

# No X-Request-Timeout: load_timeout_s is what bounds a load, and a change is not left half made.
_EXTRA = {"parameters": [REQUEST_ID_HEADER], "security": SECURED}

log = logging.getLogger(LOGGER)


def _admin(request: Request, service: Service) -> Key:
    """Whose key the request carries. Raises Problem (admin-only) where that is not an admin's."""
    key: Key | None = request.scope.get("key")
    if key is not None and key.is_admin:
        return key
    if service.keys is None or not service.keys.has_admin:
        raise Problem(
            "admin-only", "the service has no admin's key: see `python -m service new-key --admin`"
        )
    raise Problem("admin-only", "the key is not an admin's")


def asked_string(value: Any, names: tuple[str, ...]) -> tuple[str, str]:
    """Which of ``names`` a body has, and its string. Raises Problem (invalid-request)."""
    expected = "an object with " + " or ".join(f"`{name}`" for name in names)
    if type(value) is not dict:
        raise invalid("", kind_of(value), expected)
    if len(value) != 1 or not value.keys() <= set(names):
        raise invalid("", "an object with other fields", expected)
    ((name, text),) = value.items()
    if type(text) is not str:
        raise invalid(f"/{name}", kind_of(text), "a string")
    return name, text


def wanted_load(name: str, by: str, text: str, lineup: Lineup, settings: Settings) -> Load:
    """Which files to load. Reads the disk. Raises ChangeError."""
    if by == "version":
        for entry in lineup:
            if entry.reference == f"{name}@{text}":  # these very files, wherever their folder has gone
                return Load(name, entry.folder, entry.digest)
        folder = folder_of(name, text, settings)
    else:
        folder = allowed_folder(text, settings)
    try:
        return Load(name, folder, digest_of(folder))
    except ModelsError as error:
        raise ChangeError("load-failed", str(error)) from None


def answer(name: str, before: Lineup, after: Lineup) -> dict[str, Any]:
    """As schemas.ChangeResponse."""
    entry = current(after, name)
    assert entry is not None

    def references(lineup: Lineup) -> list[str]:
        return [each.reference for each in lineup]

    def is_previous(each: Entry) -> bool:
        return each.name == name and each.is_replaced

    return {
        "name": name,
        "version": entry.version,
        "previous": next((each.version for each in after if is_previous(each)), None),
        "unloaded": [each for each in references(before) if each not in references(after)],
    }


def router(service: Service) -> APIRouter:
    router = APIRouter(prefix="/v1/models", tags=["models"])
    settings = service.settings

    async def body_of(request: Request, names: tuple[str, ...]) -> tuple[str, str]:
        headers = dict(request.scope["headers"])
        service.check_accepting()
        check_content_type(headers)
        with service.admission.hold() as hold:  # not longer: a load must not wait for itself to end
            body = await read_body(
                headers, request, hold,
                max_bytes=MAX_BODY_BYTES, timeout_s=settings.receive_timeout_s,
            )  # fmt: skip
        return asked_string(parsed(body), names)

    async def changed(name: str, key: Key, find: Callable[[], Load | Unload]) -> Response:
        fields: dict[str, Any] = {"model": name, "key": key.name}
        try:
            change = await asyncio.to_thread(find)
            fields["change"] = type(change).__name__.lower()
            outcome = await service.switch.ask(change)
        except ChangeError as error:
            log.warning("not changed", extra={"fields": {**fields, "code": error.code}})
            raise Problem(error.code, error.detail) from None
        told = answer(name, outcome.before, outcome.after)
        log.info("changed", extra={"fields": {**fields, **told}})
        return JsonResponse(orjson.dumps(told))

    @router.post(
        "/{name}/load", operation_id="load_model", summary="Load another version of a model",
        openapi_extra={**json_body(["LoadPath", "LoadVersion"], LOAD_EXAMPLES), **_EXTRA},
        responses=answers(
            "ChangeResponse", ANSWER_EXAMPLE,
            *_PROBLEMS, "folder-not-allowed", "version-taken", "load-failed", "load-aborted",
        ),
    )  # fmt: skip
    async def load_model(name: str, request: Request) -> Response:
        """Loads a version beside those that serve, self-tests it, and makes the bare name mean it.

        On all workers or on none: where one cannot load it, or dies, or is not done in time,
        nothing has changed. What is being answered is answered by the version that it began with.
        The version that had the name stays loaded, for `name@version` and for going back, until
        the next load or until it is unloaded. Needs an admin's key.
        """
        key = _admin(request, service)
        by, text = await body_of(request, ("path", "version"))
        lineup = service.models.lineup
        return await changed(name, key, lambda: wanted_load(name, by, text, lineup, settings))

    @router.post(
        "/{name}/unload", operation_id="unload_model", summary="Unload a version of a model",
        openapi_extra={**json_body(["UnloadVersion"], UNLOAD_EXAMPLES), **_EXTRA},
        responses=answers("ChangeResponse", ANSWER_EXAMPLE, *_PROBLEMS, "version-in-use"),
    )  # fmt: skip
    async def unload_model(name: str, request: Request) -> Response:
        """Drops a version that the bare name does not mean, on all workers, and gives its memory back.

        Requests that it is answering are answered first. Needs an admin's key.
        """
        key = _admin(request, service)
        _, version = await body_of(request, ("version",))
        return await changed(name, key, lambda: Unload(name, version))

    return router
