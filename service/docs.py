"""GET /docs, the reference for people, made from /openapi.json.

One page, with its style and script inside: nothing is fetched from anywhere else, and the content
security policy says so. Every example can be copied as a curl command, or run in place.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from html import escape
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from service.compat.wire import Surface
from service.problems import KINDS

Object = dict[str, Any]

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; }
h2 { margin-top: 3rem; border-top: 1px solid #8886; padding-top: 1rem; }
code, pre { font: 14px/1.5 ui-monospace, monospace; }
pre { background: #8882; padding: .75rem; overflow: auto; border-radius: 6px; max-height: 30rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; }
th, td { padding: .25rem .75rem .25rem 0; border-bottom: 1px solid #8884; }
.method { font-weight: 700; } button { font: inherit; }
"""

_SCRIPT = """
for (const button of document.querySelectorAll("button[data-path]")) {
  button.addEventListener("click", async () => {
    const result = button.nextElementSibling;
    const init = {method: button.dataset.method};
    if (button.dataset.body) {
      init.body = button.dataset.body;
      init.headers = {"content-type": button.dataset.type};
    }
    try {
      const answer = await fetch(button.dataset.path, init);
      const text = (await answer.text()).trim();
      const isJson = (answer.headers.get("content-type") || "").includes("json");
      const laidOut = (line) => isJson ? JSON.stringify(JSON.parse(line), null, 1) : line;
      const shown = text.split("\\n").map(laidOut);
      result.textContent = [answer.status, ...shown].join("\\n");
    } catch (error) {
      result.textContent = String(error);
    }
    result.hidden = false;
  });
}
"""


def _hash(content: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() + "'"


HEADERS = {
    "content-security-policy": f"default-src 'none'; style-src {_hash(_STYLE)}; "
    f"script-src {_hash(_SCRIPT)}; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}

_PLAIN_HOST = re.compile(r"[A-Za-z0-9._:\[\]-]+")


def page(document: Object, base_url: str, surfaces: Sequence[Surface] = ()) -> str:
    """The reference as HTML. ``base_url``: where the curl commands go."""
    info = document["info"]
    operations = [
        (path, method, operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
    ]
    contents = "".join(
        f'<li><a href="#{escape(o["operationId"])}"><code>{method.upper()} {escape(path)}</code></a> '
        f"{escape(o['summary'])}</li>"
        for path, method, o in operations
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(info["title"])}: API</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style>'
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1><p>{escape(info['summary'])} "
        'The same as data: <a href="/openapi.json">/openapi.json</a>.</p>'
        "<p>JSON in and out. Every offset is half open. A sentence's answer does not depend on what "
        f"else is in the request, or in the queue.</p><ul>{contents}</ul>"
        + "".join(_operation(path, method, o, base_url) for path, method, o in operations)
        + _surfaces(surfaces, base_url)
        + _schemas(document["components"]["schemas"])
        + _problems()
        + f"<script>{_SCRIPT}</script></html>"
    )


def _operation(path: str, method: str, operation: Object, base_url: str) -> str:
    out = [
        f'<h2 id="{escape(operation["operationId"])}"><code><span class="method">{method.upper()}</span> '
        f"{escape(path)}</code></h2>",
        *(f"<p>{_prose(p)}</p>" for p in operation.get("description", "").split("\n\n")),
    ]
    if parameters := operation.get("parameters"):
        rows = [
            [f"<code>{escape(p['name'])}</code>", escape(p["in"]), _prose(p.get("description", ""))]
            for p in parameters
        ]
        out.append("<h3>Parameters</h3>" + _table(["name", "in", "meaning"], rows))
    media_type, body = _media(operation.get("requestBody", {}))
    if body:
        out.append(f"<h3>Body</h3><p>{_type(body['schema'])}</p>")
    keyed = "security" in operation
    if keyed:
        out.append(
            "<p>Needs a key: <code>Authorization: Bearer KEY</code> or <code>X-API-Key: KEY</code>.</p>"
        )
    url = base_url + path.replace("{name}", "en-person")
    if method == "get":
        out.append(_example("Example", method, path, url, None, media_type, keyed))
    for example in (body.get("examples") or body.get("x-examples", {})).values():
        out.append(
            _example(example["summary"], method, path, url, _shown(example["value"]), media_type, keyed)
        )
    out.append("<h3>Answers</h3>")
    rows = []
    for status, answer in operation["responses"].items():
        _, media = _media(answer)
        schema = _type(media["schema"]) if media.get("schema") else ""
        rows.append([f"<code>{status}</code>", escape(answer["description"]), schema])
    out.append(_table(["status", "when", "body"], rows))
    _, answer = _media(operation["responses"]["200"])
    if "example" in answer:
        out.append(f"<pre>{escape(_shown(answer['example'], indent=1))}</pre>")
    return "".join(out)


def _media(entry: Object) -> tuple[str, Object]:
    """The first media type of a body or an answer, and what is said of it."""
    return next(iter(entry.get("content", {}).items()), ("", {}))


def _shown(example: Any, indent: int | None = None) -> str:
    """An example as it is sent: JSON, unless it is lines of JSON, as text, already."""
    return example if isinstance(example, str) else json.dumps(example, indent=indent, ensure_ascii=False)


def _example(
    title: str, method: str, path: str, url: str, content: str | None, media_type: str, keyed: bool
) -> str:
    command = f"curl {url}"
    if keyed:
        command += ' -H "authorization: Bearer $KEY"'
    if content is not None:
        quoted = content.replace("'", "'\\''")
        command += f" -H 'content-type: {media_type}' -d '{quoted}'"
    body = "" if content is None else f' data-type="{media_type}" data-body="{escape(content)}"'
    run = (
        ""
        if "{" in path or keyed  # the page knows no key
        else f'<button data-method="{method.upper()}" data-path="{escape(path)}"{body}>Run</button>'
        "<pre hidden></pre>"
    )
    return f'<h3>{escape(title)}</h3><pre class="curl">{escape(command)}</pre>{run}'


def _surfaces(surfaces: Sequence[Surface], base_url: str) -> str:
    if not surfaces:
        return ""
    return (
        '<h2 id="compat">In place of what you have</h2><p>Clients of these services work with this one '
        "when they are told its address. They get the same persons as <code>/v1/tag</code>, and keys, "
        "limits and deadlines are the same. What is wrong is said as each of them expects it.</p>"
    ) + "".join(
        f"<h3>{escape(each.title)}: <code>{escape(each.path)}</code></h3><p>{_prose(each.about)}</p>"
        f'<pre class="curl">{escape(each.example.replace("URL", base_url))}</pre>'
        for each in surfaces
    )


def _schemas(schemas: Object) -> str:
    out = ["<h2>Schemas</h2>"]
    for name, schema in schemas.items():
        required = schema.get("required", [])
        rows = [
            [
                f"<code>{escape(field)}</code>" + ("" if field in required else " (optional)"),
                _type(value),
                _prose(value.get("description", "")),
            ]
            for field, value in schema.get("properties", {}).items()
        ]
        out.append(
            f'<h3 id="schema-{escape(name)}">{escape(name)}</h3>'
            f"<p>{_prose(schema.get('description', ''))}</p>" + _table(["field", "kind", "meaning"], rows)
        )
    return "".join(out)


def _problems() -> str:
    rows = [
        [f'<code id="problem-{code}">{code}</code>', str(kind.status), escape(kind.title)]
        for code, kind in KINDS.items()
    ]
    return (
        "<h2>Problems</h2><p>Every answer that is not a 200 is <code>application/problem+json</code> "
        "(RFC 9457) with one of these in <code>code</code>. Submitted text is never in it. Those with "
        "<code>Retry-After</code> may succeed later.</p>" + _table(["code", "status", "when"], rows)
    )


def _type(schema: Object) -> str:
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#schema-{name}">{name}</a>'
    for key in ("oneOf", "anyOf"):
        if key in schema:
            return " or ".join(_type(each) for each in schema[key])
    if "enum" in schema:
        return " or ".join(f"<code>{escape(json.dumps(value))}</code>" for value in schema["enum"])
    if "const" in schema:
        return f"<code>{escape(json.dumps(schema['const']))}</code>"
    if "contentSchema" in schema:
        return f"lines of ({_type(schema['contentSchema'])})"
    if schema.get("type") == "array":
        return f"array of ({_type(schema['items'])})" if schema.get("items") else "array"
    return escape(str(schema.get("type", "anything")))


def _prose(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _table(head: list[str], rows: list[list[str]]) -> str:
    heads = "".join(f"<th>{each}</th>" for each in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{heads}</tr>{body}</table>"


def router(app: FastAPI, surfaces: Sequence[Surface] = ()) -> APIRouter:
    router = APIRouter(include_in_schema=False)

    @router.get("/docs")
    async def docs(request: Request) -> Response:
        host = request.headers.get("host", "")
        host = host if _PLAIN_HOST.fullmatch(host) else "127.0.0.1:8000"
        scheme = "https" if request.url.scheme == "https" else "http"
        return HTMLResponse(page(app.openapi(), f"{scheme}://{host}", surfaces), headers=HEADERS)

    return router
