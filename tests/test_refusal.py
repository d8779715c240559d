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

from service import refusal
from service.admission import LEAST_QUEUED, LEAST_REQUESTS, QUEUE_S, Admission
from service.keys import new_key
from service.problems import Problem
from service.refusal import Refusal
from tests.running import running


@contextmanager
def full_service(artefact, secret="", **settings):
    """A service that has as many requests as it may, of one that waits; and a connection to it."""
    with running(artefact, max_queue_requests=1, **settings) as service, ThreadPoolExecutor(1) as pool:
        service.client.headers["x-api-key"] = secret
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


def allowed_after(phases, rate_per_s):
    """What is allowed at the end of each phase, of (seconds, queue_s), by what answers so many requests a
    second, lets in all that is allowed, and is looked at every 0.05 s."""
    admission, holds, now_s = Admission(512, 10**6), [], 0.0
    for seconds, queue_s in phases:
        ends_s = now_s + seconds
        while now_s < ends_s:
            holds += [admission.begin() for _ in range(admission.max_requests - len(holds))]
            for _ in range(rate_per_s // 20):
                admission.end(holds.pop())
            now_s += 0.05
            admission.looked(now_s, late_s=0.0, queue_s=queue_s)
        yield admission.max_requests


def test_a_late_event_loop_allows_fewer_requests_and_a_punctual_one_more():
    admission = Admission(max_requests=512, max_bytes=1)
    admission.looked(0.0, late_s=0.01)
    assert admission.max_requests == 512
    allowed = []
    with ExitStack() as holding:
        for _ in range(400):
            holding.enter_context(admission.hold())
        for n in range(20):
            admission.looked(n / 20, late_s=0.3)
            allowed.append(admission.max_requests)
        with pytest.raises(Problem) as refused:
            holding.enter_context(admission.hold())
        assert "400 requests are being answered, and 96 are allowed" in refused.value.detail
    assert allowed[:2] == [300, 225]
    assert allowed[-1] == LEAST_REQUESTS
    for n in range(100):
        admission.looked(1 + n / 20, late_s=0.01)
    assert admission.max_requests == 512
    small = Admission(max_requests=3, max_bytes=1)
    small.looked(0.0, late_s=9)
    assert small.max_requests == 3


def test_a_long_queue_lets_in_less_than_a_late_loop_does():
    admission = Admission(512, 10**6)
    for n in range(50):
        admission.looked(n / 20, late_s=0.01, queue_s=1.0)
    assert admission.max_requests == LEAST_QUEUED < LEAST_REQUESTS
    admission.looked(2.5, late_s=0.3, queue_s=1.0)
    assert admission.max_requests == LEAST_QUEUED, "and a late loop lets in no more"
    admission.looked(2.6, late_s=0.01, queue_s=0.1)
    assert admission.max_requests > LEAST_QUEUED


@pytest.mark.parametrize("rate_per_s", [100, 500])
def test_a_long_queue_lets_in_what_is_answered_in_its_time(rate_per_s):
    phases = [(2.0, 1.01 * QUEUE_S), (10.0, 0.9 * QUEUE_S), (10.0, 0.0)]
    first, later, idle = allowed_after(phases, rate_per_s)
    assert first == pytest.approx(rate_per_s * QUEUE_S, rel=0.1)
    # And no more by and by while the queue is nearly as long, however slowly that shows.
    assert later == pytest.approx(rate_per_s * QUEUE_S, rel=0.1)
    assert idle == 512


@pytest.mark.parametrize("has_keys", [False, True])
def test_who_asks_again_at_once_waits_for_its_refusal_and_costs_nothing_meanwhile(
    has_keys, tiny_artefact, monkeypatch, tmp_path
):
    secret, key = new_key("ada")
    (tmp_path / "keys").write_text(f"{key.line}\n")
    settings = {"keys_file": tmp_path / "keys"} if has_keys else {}
    whole = HEAD + b"X-API-Key: %s\r\n\r\n" % secret.encode() + BODY
    with full_service(tiny_artefact, secret, **settings) as (service, sock):
        admission = service.service.admission
        assert exchanged(sock, whole)[0] == 429
        monkeypatch.setattr(refusal, "HOLD_S", 3600.0)
        sock.sendall(whole)
        until(lambda: admission.n_held == 1)
        # What is no tagging, and another connection, waits for nothing.
        assert service.client.get("/livez").status_code == 200
        with socket.create_connection(("127.0.0.1", service.port), timeout=30) as other:
            assert exchanged(other, whole)[0] == 429
            assert exchanged(other, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")[0] == 200
        sock.close()
        until(lambda: admission.n_held == 0)


def test_what_was_held_is_refused_in_the_end_and_what_came_behind_it_too(tiny_artefact, monkeypatch):
    monkeypatch.setattr(refusal, "HOLD_S", 0.1)
    with full_service(tiny_artefact) as (service, sock):
        first = exchanged(sock, HEAD + b"X-Request-Id: me\r\n\r\n" + BODY)
        sock.sendall(HEAD + b"X-Request-Id: me\r\n\r\n" + BODY)
        until(lambda: service.service.admission.n_held == 1)
        sock.sendall(HEAD + b"X-Request-Id: behind\r\n\r\n" + BODY)
        assert answer_of(sock) == first
        assert answer_of(sock)[1]["x-request-id"] == "behind"
        assert service.service.admission.n_held == 0


def test_what_was_held_is_answered_where_there_is_room_by_then(tiny_artefact, monkeypatch):
    monkeypatch.setattr(refusal, "HOLD_S", 0.5)
    with running(tiny_artefact, max_queue_requests=1) as service, ThreadPoolExecutor(1) as pool:
        gate = service.gate()
        waiting = pool.submit(service.tag, ["Ann"])
        assert gate.came.wait(30)
        with socket.create_connection(("127.0.0.1", service.port), timeout=30) as sock:
            assert exchanged(sock, HEAD + b"\r\n" + BODY)[0] == 429
            sock.sendall(HEAD + b"\r\n" + BODY)
            until(lambda: service.service.admission.n_held == 1)
            gate.opened.set()
            assert waiting.result()
            assert answer_of(sock)[0] == 200
