"""OpenTelemetry spans, by the SDK's own exporter into memory."""

import subprocess
import sys

import pytest

pytest.importorskip("opentelemetry.sdk")
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from service.observing.tracing import Tracing
from service.settings import ROOT
from tests.running import running

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def traced(tiny_artefact):
    """A service, and where its spans are."""
    exporter = InMemorySpanExporter()
    with running(tiny_artefact, tracing=Tracing(SimpleSpanProcessor(exporter))) as service:
        yield service, exporter


def by_name(exporter):
    return {span.name: span for span in exporter.get_finished_spans()}


def test_a_request_has_spans_of_its_steps_in_the_caller_s_trace_and_links_to_its_batch(traced):
    service, exporter = traced
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "x-request-id": "a-1"}
    service.client.post("/v1/tag", json={"sentences": ["Ann Smith", "Bob"]}, headers=headers)
    service.client.get("/livez")  # answered after the request's span has ended
    spans = by_name(exporter)
    request, batch = spans["POST /v1/tag"], spans["batch"]
    assert f"{request.context.trace_id:032x}" == TRACE
    assert f"{request.parent.span_id:016x}" == PARENT
    for step in ("cut", "queue", "write"):
        assert spans[step].parent.span_id == request.context.span_id
        assert spans[step].start_time <= spans[step].end_time
    assert [link.context.span_id for link in batch.links] == [request.context.span_id]
    assert [link.context.span_id for link in request.links] == [batch.context.span_id]
    assert batch.parent is None
    assert (batch.attributes["nametag.batch.rows"], batch.attributes["nametag.batch.tokens"]) == (2, 3)
    assert request.attributes["http.route"] == "/v1/tag"
    assert request.attributes["http.response.status_code"] == 200
    assert request.attributes["nametag.request_id"] == "a-1"
    assert request.attributes["nametag.tokens"] == 3


def test_a_large_request_that_no_other_process_answers_has_its_spans(tiny_artefact, monkeypatch):
    async def no_process(*_):
        return None

    monkeypatch.setattr("service.offload.Offload._ready", no_process)
    exporter = InMemorySpanExporter()
    tracing = Tracing(SimpleSpanProcessor(exporter))
    with running(tiny_artefact, tracing=tracing, offload_bytes=10) as service:
        service.tag(["Ann Smith"])
        service.client.get("/livez")
    spans = by_name(exporter)
    assert spans["cut"].parent.span_id == spans["POST /v1/tag"].context.span_id


def test_what_another_process_answers_has_its_spans_there(tiny_artefact, monkeypatch):
    async def passed_on(_offload, _scope, _receive, send, _request_id):
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})
        return True

    monkeypatch.setattr("service.offload.Offload.answered", passed_on)
    exporter = InMemorySpanExporter()
    tracing = Tracing(SimpleSpanProcessor(exporter))
    with running(tiny_artefact, tracing=tracing, offload_bytes=10) as service:
        assert service.client.post("/v1/tag", json={"sentences": ["Ann Smith"]}).status_code == 204
        service.client.get("/livez")
    assert "POST /v1/tag" not in by_name(exporter)


def test_no_span_holds_what_was_submitted_also_where_a_step_fails(traced, monkeypatch):
    service, exporter = traced

    def broken(text):
        raise ValueError(f"cannot tokenise {text}")

    service.tag(["Zebedee Quux"])
    service.client.get("/Zebedee?quux")
    monkeypatch.setattr(service.service.models.find(None).tagger, "tokenise", broken)
    service.refused(500, "internal-error", json={"sentences": ["Zebedee Quux"]})
    service.client.get("/livez")
    told = "".join(span.to_json() for span in exporter.get_finished_spans())
    assert '"internal-error"' in told
    assert "zebedee" not in told.lower()
    assert "quux" not in told.lower()


def printed(code):
    """What the code prints, as a process of its own."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def test_neither_the_sdk_nor_our_spans_are_imported_unless_they_are_on():
    """FastAPI imports the API, which does nothing by itself."""
    code = """
import sys
from service.app import create_app
from service.settings import Settings
create_app(Settings())
print([name for name in ("opentelemetry.sdk", "service.observing.tracing") if name in sys.modules])
"""
    assert printed(code) == "[]"


def test_fastapi_makes_no_spans_of_its_own_which_would_hold_paths_and_queries():
    code = """
import asyncio
import httpx
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from service.app import create_app
from service.settings import Settings
exporter, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
async def ask():
    transport = httpx.ASGITransport(create_app(Settings()))
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        await client.get("/livez?zebedee")
asyncio.run(ask())
print([span.to_json() for span in exporter.get_finished_spans()])
"""
    assert printed(code) == "[]"
