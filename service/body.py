"""An ASGI request in, the bytes of its JSON body out; never more of them than allowed.

What cannot be answered is refused before it is read: a wrong content type, a content encoding, a
Content-Length over the limit. A chunked body is given up as soon as it is over. uvicorn has no
deadline of its own for a body that trickles in (encode/uvicorn#157), so it is here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from contextlib import nullcontext

from starlette.requests import Request

from service.admission import Hold
from service.problems import ClientGone, Problem, too_large

JSON = b"application/json"
IS_TO_COME = "is_body_to_come"  # what the server tells of a request in its state: a function

_NO_DEADLINE = nullcontext()


def check_content_type(headers: Mapping[bytes, bytes], accepted: Collection[bytes] = (JSON,)) -> None:
    """Raises Problem unless the body is plain JSON in UTF-8, or of another of the types accepted."""
    content_type = headers.get(b"content-type", b"")
    if content_type not in accepted:
        media_type, *parameters = (part.strip().lower() for part in content_type.split(b";"))
        for parameter in parameters:
            name, _, value = parameter.partition(b"=")
            if name.strip() == b"charset" and value.strip(b' "') not in (b"utf-8", b"utf8"):
                raise Problem("unsupported-content-type", "the charset is not utf-8")
        if media_type not in accepted:
            expected = " or ".join(each.decode() for each in accepted)
            raise Problem("unsupported-content-type", f"Content-Type: {expected} is expected")
    check_content_encoding(headers)


def check_content_encoding(headers: Mapping[bytes, bytes]) -> None:
    """Raises Problem unless the body is sent as it is."""
    encoding = headers.get(b"content-encoding", b"identity")
    if encoding.strip().lower() not in (b"identity", b""):
        raise Problem("unsupported-content-encoding", "send the body as it is, without Content-Encoding")


def _is_to_come(request: Request) -> bool:
    """Whether some of the body may be: where the server does not say."""
    return bool(request.scope.get("state", {}).get(IS_TO_COME, lambda: True)())


async def read_body(
    headers: Mapping[bytes, bytes], request: Request, hold: Hold, *, max_bytes: int, timeout_s: float
) -> bytes:
    """The whole body. Raises Problem (too-large, body-too-slow, overloaded) or ClientGone."""
    declared = headers.get(b"content-length")
    if declared is not None and int(declared) > max_bytes:  # the server has checked that it is a number
        raise too_large("max_body_bytes", max_bytes, int(declared), "bytes of the body")
    chunks = []
    n = 0
    try:
        # A deadline takes 12 µs; mostly the body came with the head.
        async with asyncio.timeout(timeout_s) if _is_to_come(request) else _NO_DEADLINE:
            while True:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                chunk: bytes = message.get("body", b"")
                n += len(chunk)
                if n > max_bytes:
                    raise too_large("max_body_bytes", max_bytes, n, "bytes of the body, or more")
                hold.add_bytes(len(chunk))
                chunks.append(chunk)
                if not message.get("more_body", False):
                    break
    except TimeoutError:
        raise Problem(
            "body-too-slow", f"the body did not arrive within {timeout_s:g} seconds", timeout_s=timeout_s
        ) from None
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)
