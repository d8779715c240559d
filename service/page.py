"""GET /, the page for people, and GET /web/{name}, what it is made of: the files of service/web/.

Nothing is fetched from anywhere else, and the content security policy says so: no inline script,
no inline style, and no string ever becomes HTML (trusted types). The page has no rights of its own:
it asks /v1/tag like anybody, with a key where one is needed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service.problems import Problem

_FOLDER = Path(__file__).parent / "web"
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    # Kept, but asked for each time: a new version's files must not meet an old one's.
    "cache-control": "no-cache",
}


@dataclass(frozen=True)
class _File:
    content: bytes
    media_type: str
    etag: str

    def answer(self, request: Request) -> Response:
        """The file, or 304 to who has it already."""
        headers = {**_HEADERS, "etag": self.etag}
        known = request.headers.get("if-none-match", "").split(",")
        if self.etag in (tag.strip().removeprefix("W/") for tag in known):
            return Response(status_code=304, headers=headers)
        return Response(self.content, headers=headers, media_type=self.media_type)


def _read(path: Path) -> _File:
    content = path.read_bytes()
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    return _File(content, _MEDIA_TYPES[path.suffix], etag)


_FILES = {path.name: _read(path) for path in sorted(_FOLDER.iterdir())}
# Nobody needs a key to be shown where to enter it.
PATHS = frozenset({"/", *(f"/web/{name}" for name in _FILES)})


def router() -> APIRouter:
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    async def home(request: Request) -> Response:
        return _FILES["index.html"].answer(request)

    @router.get("/web/{name}")
    async def part(name: str, request: Request) -> Response:
        if name not in _FILES:
            raise Problem("unknown-path", "see /docs for the paths there are")
        return _FILES[name].answer(request)

    return router
