"""OpenTelemetry spans of requests and batches, where NAMETAG_OTEL is on; imported only then.

    request (of the caller's trace) ─┬─ cut, queue, write
      └─ links to: batch (a trace of its own), which links to every request that it was computed for

Where spans go is said by OpenTelemetry's own variables: OTEL_EXPORTER_OTLP_ENDPOINT and its like.
Attributes are counts, codes and templates of paths; never submitted text.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Link, Span, SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from service.batching import Place
from service.observing.facts import Facts

_PROPAGATOR = TraceContextTextMapPropagator()


def _span_of(caller: object) -> Span | None:
    return caller.span if isinstance(caller, Facts) else None


class Tracing:
    """Makes the spans of one process; an observer of its batchers, too.

    ``exporter``: where they go, in batches and from a thread of its own; a processor decides itself.
    """

    def __init__(self, exporter: SpanExporter | SpanProcessor | None = None) -> None:
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": "nametag"}), shutdown_on_exit=False
        )
        if not isinstance(exporter, SpanProcessor):
            exporter = BatchSpanProcessor(exporter or OTLPSpanExporter())
        self._provider.add_span_processor(exporter)
        self._tracer = self._provider.get_tracer("nametag")

    def begin(self, facts: Facts, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """``headers``: of ASGI; they name the caller's trace, if it has one."""
        sent = {n.decode(): v.decode("latin-1") for n, v in headers if n in (b"traceparent", b"tracestate")}
        facts.span = self._tracer.start_span(
            facts.method,
            context=_PROPAGATOR.extract(sent, Context()),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": facts.method},
        )
        facts.trace_id = f"{facts.span.get_span_context().trace_id:032x}"
        facts.make_step = self._step

    def end(self, facts: Facts, status: int) -> None:
        span: Span = facts.span
        span.update_name(f"{facts.method} {facts.path}")
        span.set_attributes(
            {
                "http.route": facts.path,
                "http.response.status_code": status,
                "nametag.request_id": facts.request_id,
                "nametag.model": facts.model,
                "nametag.sentences": facts.n_sentences,
                "nametag.tokens": facts.n_tokens,
            }
        )
        if facts.problem:
            span.set_attribute("error.type", facts.problem)
        if status >= 500:
            span.set_status(StatusCode.ERROR)
        span.end()

    @contextmanager
    def _step(self, facts: Facts, name: str) -> Iterator[None]:
        with self._tracer.start_as_current_span(
            name,
            context=set_span_in_context(facts.span),
            # Both would keep the exception's message, which may quote what was submitted.
            record_exception=False,
            set_status_on_exception=False,
        ):
            yield

    def close(self) -> None:
        """Sends what has not been sent."""
        self._provider.shutdown()

    # On the batcher's thread

    def waited(self, caller: object, seconds: float) -> None:
        if span := _span_of(caller):
            now = time.time_ns()
            self._tracer.start_span(
                "queue", context=set_span_in_context(span), start_time=now - int(seconds * 1e9)
            ).end(now)

    def computed(self, batch: Sequence[Place[Any, Any]], seconds: float) -> None:
        self._batch(batch, seconds, StatusCode.OK)

    def failed(self, batch: Sequence[Place[Any, Any]], seconds: float) -> None:
        self._batch(batch, seconds, StatusCode.ERROR)

    def _batch(self, batch: Sequence[Place[Any, Any]], seconds: float, status: StatusCode) -> None:
        jobs = dict.fromkeys(place.job for place in batch)
        requests = [span for job in jobs if (span := _span_of(job.caller))]
        if not requests:
            return
        now = time.time_ns()
        span = self._tracer.start_span(
            "batch",
            context=Context(),
            links=[Link(request.get_span_context()) for request in requests],
            attributes={
                "nametag.batch.rows": len(batch),
                "nametag.batch.tokens": sum(place.length for place in batch),
            },
            start_time=now - int(seconds * 1e9),
        )
        span.set_status(status)
        span.end(now)
        for request in requests:
            if request.is_recording():
                request.add_link(span.get_span_context())
