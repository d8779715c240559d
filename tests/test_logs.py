"""The log's lines: one for each request, and never a word of what was submitted."""

import asyncio
import json
import re
import signal
import socket

import httpx
import pytest

from service.edge import _TRACEPARENT
from service.observing.access import ACCESS, AccessLog
from service.observing.facts import Facts
from tests.running import process

JSON = {"content-type": "application/json"}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
MARKER = re.compile("zebedee|quux", re.IGNORECASE)


def ended(service):
    """The access log's lines, by request id, of a service that is told to stop."""
    service.process.send_signal(signal.SIGTERM)
    assert service.wait() == 0
    lines = [json.loads(line) for line in service.log]
    return {line["request_id"]: line for line in lines if line["logger"] == "nametag.access"}


def test_each_request_has_a_line_with_its_id_counts_and_trace(tiny_artefact):
    with process(model=tiny_artefact) as service:
        with httpx.Client(base_url=f"http://127.0.0.1:{service.port}", timeout=20) as client:
            sentences = {"sentences": ["Ann Smith left", "", ["Bob"]]}
            headers = {"x-request-id": "a-1", "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
            client.post("/v1/tag", json=sentences, headers=headers)
            client.post("/v1/tag", content=b"{", headers={**JSON, "x-request-id": "a-2"})
            client.get("/v1/models/nope", headers={"x-request-id": "a-3"})
            client.get("/readyz", headers={"x-request-id": "a-4"})
            made = client.get("/v1/models").headers["x-request-id"]
        lines = ended(service)
    assert lines.keys() == {"a-1", "a-2", "a-3", made}
    first = lines["a-1"]
    assert first.pop("ms") > 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first.pop("time"))
    assert first == {
        "level": "info", "logger": "nametag.access", "message": "answered", "request_id": "a-1",
        "method": "POST", "path": "/v1/tag", "status": 200, "model": "tiny@1", "sentences": 2,
        "tokens": 4, "trace_id": TRACE,
    }  # fmt: skip
    assert (lines["a-2"]["status"], lines["a-2"]["problem"]) == (400, "not-json")
    assert (lines["a-3"]["path"], lines["a-3"]["problem"]) == ("/v1/models/{name}", "unknown-model")
    assert "trace_id" not in lines["a-3"]


@pytest.mark.parametrize(("settings", "n"), [({"access_log": "off"}, 0), ({"log_level": "debug"}, 2)])
def test_the_lines_can_be_left_out_and_those_of_health_checks_are_of_level_debug(
    tiny_artefact, settings, n
):
    with process(model=tiny_artefact, **settings) as service:
        with httpx.Client(base_url=f"http://127.0.0.1:{service.port}", timeout=20) as client:
            client.get("/v1/models", headers={"x-request-id": "a-1"})
            client.get("/livez", headers={"x-request-id": "a-2"})
        lines = ended(service)
    assert len(lines) == n
    if n:
        assert (lines["a-1"]["level"], lines["a-2"]["level"]) == ("info", "debug")


def test_lines_wait_for_others_and_are_written_in_pieces_that_a_pipe_takes_whole(monkeypatch, caplog):
    pieces = []
    caplog.set_level("INFO", ACCESS)
    monkeypatch.setattr("sys.stderr.write", pieces.append)

    async def answered(n):
        log = AccessLog()
        for number in range(n):
            log.answered(Facts(f"a-{number}", "POST", "/v1/tag"), 200, 0.001)
        written = len(pieces)
        async with asyncio.timeout(20):
            while log._waiting:
                await asyncio.sleep(0.01)
        return written

    assert asyncio.run(answered(1)) == 0
    assert asyncio.run(answered(100)) > 1
    assert len(pieces) < 20
    assert all(piece.endswith("\n") and len(piece) <= 4096 for piece in pieces)
    assert [json.loads(line)["request_id"] for line in "".join(pieces).splitlines()] == [
        "a-0", *(f"a-{number}" for number in range(100))
    ]  # fmt: skip


@pytest.mark.parametrize(
    "traceparent",
    [
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-00f067aa0ba902b7-01",
        f"00-{TRACE.upper()}-00f067aa0ba902b7-01",
        f"00-{TRACE}-00f067aa0ba902b7",
        "Zebedee",
    ],
)
def test_what_is_no_traceparent_is_not_logged(traceparent):
    assert _TRACEPARENT.fullmatch(f"00-{TRACE}-00f067aa0ba902b7-01".encode())[1].decode() == TRACE
    assert not _TRACEPARENT.fullmatch(traceparent.encode())


def test_submitted_text_reaches_no_log_no_metric_and_no_answer_to_others(tiny_artefact):
    limits = {"max_body_bytes": 2000, "max_sentence_tokens": 10, "max_request_tokens": 20}
    with process(model=tiny_artefact, log_level="debug", max_token_chars=30, **limits) as service:
        with httpx.Client(base_url=f"http://127.0.0.1:{service.port}", timeout=20) as client:
            for body in (
                b'{"text": "Zebedee Quux"}',
                b'{"text": "Zebedee Quux", "zebedee": 1}',
                b'{"text": "Zebedee \\ud83d Quux"}',
                b'{"text": "Zebedee \xff Quux"}',
                b'{"text": "Zebedee Quux',
                b'{"sentences": ["Zebedee", {"Quux": 1}]}',
                b'{"sentences": ["Zebedee"], "model": "Quux"}',
                b'{"sentences": ["Zebedee"], "offset_unit": "Quux"}',
                b'{"sentences": ["' + b"Zebedee " * 11 + b'"]}',
                b'{"sentences": ["' + b"Zebedee" * 11 + b'"]}',
                b'{"sentences": ["' + b"Zebedee " * 400 + b'"]}',
            ):
                client.post("/v1/tag", content=body, headers=JSON)
            client.post(
                "/v1/tag?zebedee=quux", content=b"Zebedee", headers={"content-type": "zebedee/quux"}
            )
            for header in (
                "x-request-timeout", "x-request-id", "traceparent", "tracestate", "user-agent", "referer",
                "content-encoding", "authorization", "cookie", "host",
            ):  # fmt: skip
                client.post("/v1/tag", json={"text": "Ann"}, headers={header: "Zebedee, Quux"})
            client.get("/v1/models/Zebedee?quux")
            client.get("/Zebedee/Quux")
            client.request("PURGE", "/Zebedee")
            with socket.create_connection(("127.0.0.1", service.port), timeout=20) as raw:
                raw.sendall(b"Zebedee Quux\r\n\r\n")
                raw.recv(65536)
            others = [
                client.get("/metrics"),
                client.get("/nope"),
                client.get("/readyz"),
                client.get("/v1/models"),
                client.post("/v1/tag", json={"sentences": [5]}),
                client.post("/v1/tag", json={"sentences": ["a " * 11]}),
            ]
        lines = ended(service)
    assert len(lines) >= 30
    for line in service.log:
        assert not MARKER.search(line)
    for answer in others:
        assert not MARKER.search(answer.text)
        assert not MARKER.search(str(answer.headers))
