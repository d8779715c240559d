"""Refusals that cost nothing: the same as the ordinary ones, and only for what is plainly one request."""

import json
import logging
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.client import HTTPResponse

import pytest

from service.admission import LEAST_QUEUED, LEAST_REQUESTS, Admission
from service.problems import Problem
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
    """What answers a request sent in parts."""
    for part in parts:
        sock.sendall(part)
    return answer_of(sock)


def answer_of(sock):
    """The status, the headers but for the date, and the JSON of the next answer."""
    answer = HTTPResponse(sock)
    answer.begin()
    headers = {name.lower(): value for name, value in answer.getheaders()}
    headers.pop("date", None)  # it may be another second's, and before the first there is none
    return answer.status, headers, json.loads(answer.read())


def until(is_so):
    ends = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < ends
        time.sleep(0.01)


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


def test_of_many_requests_that_come_in_one_turn_only_the_first_are_answered(tiny_artefact):
    """Before the first of them holds, all have been read."""
    with running(tiny_artefact, max_queue_requests=2) as service, ExitStack() as open_sockets:
        gate = service.gate()
        socks = [
            open_sockets.enter_context(socket.create_connection(("127.0.0.1", service.port), timeout=30))
            for _ in range(40)
        ]
        for sock in socks:
            sock.sendall(HEAD + b"\r\n" + BODY)
        assert gate.came.wait(30)
        gate.opened.set()
        statuses = Counter(answer_of(sock)[0] for sock in socks)
        assert set(statuses) == {200, 429}
        until(lambda: service.service.admission.n_under_way == 0)


def test_requests_whose_clients_hang_up_are_not_under_way_any_more(tiny_artefact):
    with running(tiny_artefact) as service:
        gate = service.gate()
        for n_parts in (0, 1):  # before the body, and after it
            with socket.create_connection(("127.0.0.1", service.port), timeout=30) as sock:
                sock.sendall(HEAD + b"\r\n" + BODY * n_parts)
                until(lambda: service.service.admission.n_under_way == 1)
            until(lambda: service.service.admission.n_under_way == 0)
        gate.opened.set()


def test_of_a_flood_of_refusals_some_are_logged_and_the_others_counted(tiny_artefact, caplog):
    with full_service(tiny_artefact) as (service, _):
        refusal = Refusal(service.service, "/v1/tag")
        with caplog.at_level(logging.INFO):
            for second in (7, 7, 8):
                for _ in range(60):
                    refusal._is_to_log(second)
        (said,) = (r for r in caplog.records if r.message == "refused, without a line each")
        assert said.fields == {"requests": 70}


def test_a_late_event_loop_allows_fewer_requests_and_a_punctual_one_more():
    admission = Admission(max_requests=512, max_bytes=1)
    admission.looked(late_s=0.01)
    assert admission.max_requests == 512
    allowed = []
    with ExitStack() as holding:
        for _ in range(400):
            holding.enter_context(admission.hold())
        for _ in range(20):
            admission.looked(late_s=0.3)
            allowed.append(admission.max_requests)
        with pytest.raises(Problem) as refused:
            holding.enter_context(admission.hold())
        assert "400 requests are being answered, and 96 are allowed" in refused.value.detail
    assert allowed[:2] == [300, 225]
    assert allowed[-1] == LEAST_REQUESTS
    for _ in range(100):
        admission.looked(late_s=0.01)
    assert admission.max_requests == 512
    small = Admission(max_requests=3, max_bytes=1)
    small.looked(late_s=9)
    assert small.max_requests == 3


def test_a_long_queue_lets_in_less_than_a_late_loop_does():
    admission = Admission(512, 10**6)
    for _ in range(50):
        admission.looked(late_s=0.01, queue_s=1.0)
    assert admission.max_requests == LEAST_QUEUED < LEAST_REQUESTS
    admission.looked(late_s=0.01, queue_s=0.1)
    assert admission.max_requests > LEAST_QUEUED
