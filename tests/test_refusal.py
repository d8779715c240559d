"""Refusals that cost nothing: the same as the ordinary ones, and only for what is plainly one request."""

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPResponse

import pytest

from service.refusal import Refusal
from tests.running import running


@contextmanager
def full_service(artefact):
    """A service that has as many requests as it may, of one that waits; and a connection to it."""
    with running(artefact, max_queue_requests=1) as service, ThreadPoolExecutor(1) as pool:
        gate = service.gate()
        waiting = pool.submit(service.tag, ["Ann"])
        assert gate.came.wait(30)
        try:
            with socket.create_connection(("127.0.0.1", service.port), timeout=30) as sock:
                yield service, sock
        finally:
            gate.opened.set()
        assert waiting.result()


def exchanged(sock, *parts):
    """The status, the headers but for the date, and the JSON that answer a request sent in parts."""
    for part in parts:
        sock.sendall(part)
    answer = HTTPResponse(sock)
    answer.begin()
    headers = {name.lower(): value for name, value in answer.getheaders()}
    headers.pop("date", None)  # it may be another second's, and before the first there is none
    return answer.status, headers, json.loads(answer.read())


BODY = b'{"sentences": ["Ann met Ben."]}'
HEAD = (
    b"POST /v1/tag HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
    % len(BODY)
)


def test_a_full_service_refuses_at_once_with_the_words_of_the_ordinary_way(tiny_artefact):
    with full_service(tiny_artefact) as (service, sock):
        ordinary = exchanged(sock, HEAD + b"Traceparent: no\r\nX-Request-Id: me-1\r\n\r\n" + BODY)
        at_once = exchanged(sock, HEAD + b"X-Request-Id: me-1\r\n\r\n" + BODY)
        assert ordinary[0] == 429
        assert at_once == ordinary
        assert at_once[1]["retry-after"] == "1"
        assert at_once[2]["request_id"] == at_once[1]["x-request-id"] == "me-1"
        _, headers, problem = exchanged(sock, HEAD + b"X-Request-Id: not a sane one\r\n\r\n" + BODY)
        assert problem["request_id"] == headers["x-request-id"] != "not a sane one"
        counted = service.client.get("/metrics").text
        assert 'nametag_requests_total{method="POST",path="/v1/tag",status="429"} 3.0' in counted


@pytest.mark.parametrize(
    ("parts", "status"),
    [
        ((HEAD + b"\r\n", BODY), 429),
        ((HEAD + b"\r\n" + BODY[:5], BODY[5:]), 429),
        ((HEAD + b"Expect: 100-continue\r\n\r\n" + BODY,), 429),
        ((HEAD + b"Content-Length: 3\r\n\r\n" + BODY,), 400),
        ((HEAD.replace(b"/v1/tag", b"/v1/tog") + b"\r\n" + BODY,), 404),
        ((b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n",), 200),
    ],
)
def test_what_is_not_plainly_one_request_is_answered_as_ever(parts, status, tiny_artefact):
    with full_service(tiny_artefact) as (service, sock):
        assert Refusal(service.service, "/v1/tag").of(parts[0]) is None
        assert exchanged(sock, *parts)[0] == status


def test_a_connection_that_was_refused_is_answered_when_there_is_room(tiny_artefact):
    with running(tiny_artefact, max_queue_requests=1) as service:
        gate = service.gate()
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(service.tag, ["Ann"])
            assert gate.came.wait(30)
            with socket.create_connection(("127.0.0.1", service.port), timeout=30) as sock:
                assert exchanged(sock, HEAD + b"\r\n" + BODY)[0] == 429
                gate.opened.set()
                assert waiting.result()
                while service.service.admission.n_requests:
                    pass
                assert exchanged(sock, HEAD + b"\r\n" + BODY)[0] == 200
