"""The Open Inference Protocol, version 2, at the root: tritonclient, kserve and gateways that speak it.

https://github.com/kserve/open-inference-protocol, with the binary tensor extension of Triton
(protocol/extension_binary_data.md of triton-inference-server/server), which tritonclient uses
unless it is told not to. Each model takes ``text``, BYTES [n], a document each, and gives
``entities``, BYTES [n]: for each document a JSON list of {"text", "start", "end", "label", "score"}.
Offsets are code points.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from math import prod
from typing import Any

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

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
    probability_of,
    refused_with_error,
    string_of,
)
from service.models import ServedModel
from service.problems import Problem, invalid
from service.schemas import kind_of
from service.state import Service

PATH = "/v2"
INPUT, OUTPUT = "text", "entities"
_HEADER_LENGTH = "inference-header-content-length"


def _read(body: bytes, request: Request) -> Job:
    head, binary = _parts(body, request.headers.get(_HEADER_LENGTH))
    value = body_of(head)
    inputs = list_of(value.get("inputs"), "/inputs")
    if len(inputs) != 1:
        raise invalid("/inputs", f"{len(inputs)} inputs", f"one input, `{INPUT}`")
    tensor = object_of(inputs[0], "/inputs/0")
    if tensor.get("name") != INPUT:
        raise invalid("/inputs/0/name", "another name", f"`{INPUT}`")
    if tensor.get("datatype") != "BYTES":
        raise invalid("/inputs/0/datatype", "another type", "BYTES")
    shape = _shape(tensor.get("shape"))
    texts = _texts(tensor, binary)
    if len(texts) != prod(shape):
        raise invalid("/inputs/0/shape", f"{prod(shape)} elements", f"{len(texts)}, as there are")
    parameters = object_of(value.get("parameters"), "/parameters")
    is_binary = _is_output_binary(value, parameters)
    request_id = value.get("id")

    def write(documents: list[Document], model: ServedModel) -> Response:
        entities = [orjson.dumps([_entity(entity) for entity in d.entities]) for d in documents]
        output: Object = {"name": OUTPUT, "datatype": "BYTES", "shape": shape}
        answer: Object = {"model_name": model.name, "model_version": model.version, "outputs": [output]}
        if type(request_id) is str:
            answer["id"] = request_id
        if not is_binary:
            output["data"] = [each.decode() for each in entities]
            return json_answer(answer)
        data = b"".join(struct.pack("<I", len(each)) + each for each in entities)
        output["parameters"] = {"binary_data_size": len(data)}
        start = orjson.dumps(answer)
        return Response(
            start + data,
            headers={_HEADER_LENGTH: str(len(start))},
            media_type="application/octet-stream",
        )

    return Job(
        texts,
        write,
        threshold=probability_of(parameters.get("threshold"), "/parameters/threshold"),
        model=_reference(request),
    )


def _entity(entity: Any) -> Object:
    return {
        "text": entity.text,
        "start": entity.start,
        "end": entity.end,
        "label": entity.entity_type,
        "score": round(entity.score, 6),
    }


def _reference(request: Request) -> str:
    """The model that the path means: name, or name@version."""
    name: str = request.path_params["name"]
    version = request.path_params.get("version")
    return name if version is None else f"{name}@{version}"


def _parts(body: bytes, length: str | None) -> tuple[bytes, bytes]:
    """The JSON of a body, and the binary data behind it. Raises Problem (invalid-request)."""
    if length is None:
        return body, b""
    if not (length.isascii() and length.isdigit() and len(length) < 16 and int(length) <= len(body)):
        raise invalid(
            "", "a body with another Inference-Header-Content-Length", f"at most {len(body)} in that header"
        )
    return body[: int(length)], body[int(length) :]


def _shape(value: Any) -> list[int]:
    shape = list_of(value, "/inputs/0/shape")
    if not 1 <= len(shape) <= 8 or not all(type(n) is int and 0 <= n < 1 << 31 for n in shape):
        raise invalid("/inputs/0/shape", "another shape", "1 to 8 whole numbers")
    return shape


def _texts(tensor: Object, binary: bytes) -> list[str]:
    """The elements of the input. Raises Problem: invalid-request, not-utf-8."""
    size = object_of(tensor.get("parameters"), "/inputs/0/parameters").get("binary_data_size")
    if size is None:
        return list(_flat(tensor.get("data"), "/inputs/0/data"))
    if size != len(binary):
        raise invalid(
            "/inputs/0/parameters/binary_data_size", "another size", f"{len(binary)}, as there are"
        )
    texts: list[str] = []
    at = 0
    while at < len(binary):
        end = at + 4
        if end <= len(binary):
            end += int(struct.unpack_from("<I", binary, at)[0])
        if end > len(binary) or end < at + 4:
            raise invalid(
                "/inputs/0", f"cut off in element {len(texts)}", "4 bytes of length before each text"
            )
        try:
            texts.append(binary[at + 4 : end].decode())
        except UnicodeDecodeError as error:
            place = f"element {len(texts)} of the input: byte {error.start}"
            raise Problem("not-utf-8", f"{place} is not UTF-8") from None
        at = end
    return texts


def _flat(value: Any, pointer: str, depth: int = 0) -> Iterator[str]:
    """The strings of an array, in row-major order, as the protocol has it."""
    for i, item in enumerate(list_of(value, pointer)):
        if type(item) is list and depth < 8:
            yield from _flat(item, f"{pointer}/{i}", depth + 1)
        else:
            yield string_of(item, f"{pointer}/{i}")


def _is_output_binary(value: Object, parameters: Object) -> bool:
    """Whether the client wants bytes. Raises Problem where it wants another output."""
    wanted = list_of(value.get("outputs") or [], "/outputs")
    choice = parameters.get("binary_data_output", False)
    for i, each in enumerate(wanted):
        output = object_of(each, f"/outputs/{i}")
        if output.get("name") != OUTPUT:
            raise invalid(f"/outputs/{i}/name", "another name", f"`{OUTPUT}`")
        its = object_of(output.get("parameters"), f"/outputs/{i}/parameters")
        if its.get("classification"):
            raise invalid(f"/outputs/{i}/parameters/classification", "not 0", "none")
        choice = its.get("binary_data", choice)
    if type(choice) is not bool:
        raise invalid("/parameters/binary_data_output", kind_of(choice), "true or false")
    return choice


def _router(service: Service) -> APIRouter:
    router = APIRouter(prefix=PATH, include_in_schema=False)
    # tritonclient names no content type.
    infer: Any = endpoint(service, _read, accepted=None)

    @router.get("")
    async def server() -> Response:
        return json_answer({"name": "nametag", "version": "2", "extensions": ["binary_tensor_data"]})

    @router.get("/health/live")
    async def live() -> Response:
        service.check_live()
        return json_answer({"live": True})

    @router.get("/health/ready")
    async def ready() -> Response:
        service.check_ready()
        return json_answer({"ready": True})

    async def metadata(request: Request) -> Response:
        model = service.models.find(_reference(request))
        return json_answer(
            {
                "name": model.name,
                "versions": [each.version for each in service.models.all if each.name == model.name],
                "platform": "nametag",
                "inputs": [{"name": INPUT, "datatype": "BYTES", "shape": [-1]}],
                "outputs": [{"name": OUTPUT, "datatype": "BYTES", "shape": [-1]}],
            }
        )

    async def model_ready(request: Request) -> Response:
        service.check_accepting()
        return json_answer({"name": service.model(_reference(request)).name, "ready": True})

    for path in ("/models/{name}", "/models/{name}/versions/{version}"):
        router.add_api_route(path, metadata, methods=["GET"])
        router.add_api_route(f"{path}/ready", model_ready, methods=["GET"])
        router.add_api_route(f"{path}/infer", infer, methods=["POST"])
    return router


SURFACE = Surface(
    title="Open Inference Protocol v2",
    path=PATH,
    about=f"tritonclient (JSON and binary) and kserve. Input `{INPUT}`, BYTES [n]: a document each; output "
    f"`{OUTPUT}`, BYTES [n]: a JSON list for each. The parameter `threshold` as in `/v1/tag`.",
    example="curl URL/v2/models/en-person/infer -H 'content-type: application/json' "
    """-d '{"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], """
    """"data": ["Ada Lovelace wrote."]}]}'""",
    router=_router,
    refused=refused_with_error,
)
