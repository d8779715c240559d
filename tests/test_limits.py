"""Bodies that are wrong, large, slow or unfinished; queues that are full. A 500 is a bug."""

import asyncio
import json
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from service.problems import Problem
from service.steps import off_loop
from tests.running import check_problem, running

JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def service(tiny_artefact):
    with running(tiny_artefact) as service:
        yield service


@pytest.fixture(scope="module")
def narrow(tiny_artefact):
    """A service with small limits."""
    with running(
        tiny_artefact, max_body_bytes=2000, max_sentences=4, max_sentence_tokens=10, max_token_chars=20,
        max_document_chars=200, max_request_tokens=30, max_queue_bytes=4000, max_queue_tokens=30,
        receive_timeout_s=0.3,
    ) as service:  # fmt: skip
        yield service


# What is over a limit


@pytest.mark.parametrize(
    ("body", "limit", "maximum", "actual"),
    [
        ({"sentences": ["a"] * 5}, "max_sentences", 4, 5),
        ({"sentences": ["a", "b " * 11]}, "max_sentence_tokens", 10, 11),
        ({"sentences": [["b"] * 11]}, "max_sentence_tokens", 10, 11),
        ({"text": "b " * 11}, "max_sentence_tokens", 10, 11),
        ({"sentences": ["a " + "b" * 21]}, "max_token_chars", 20, 21),
        ({"sentences": [["b" * 21]]}, "max_token_chars", 20, 21),
        ({"text": "b" * 21}, "max_token_chars", 20, 21),
        ({"text": " " * 201}, "max_document_chars", 200, 201),
        ({"sentences": [" " * 201]}, "max_document_chars", 200, 201),
        ({"sentences": ["a " * 10] * 3 + ["a"]}, "max_request_tokens", 30, 31),
        ({"text": "One two. " * 11}, "max_request_tokens", 30, 33),
    ],
)
def test_what_is_over_a_limit_is_told_which_and_by_how_much(narrow, body, limit, maximum, actual):
    problem = narrow.refused(413, "too-large", json=body)
    assert (problem["limit"], problem["maximum"], problem["actual"]) == (limit, maximum, actual)
    assert limit in problem["detail"]


def test_what_is_at_a_limit_is_tagged_whole(narrow):
    assert [len(s["tokens"]) for s in narrow.tag(["a " * 10] * 3)] == [10, 10, 10]
    assert narrow.tag(["b" * 20])[0]["tokens"][0]["end"] == 20


def test_a_body_over_the_limit_is_refused_before_it_is_sent(narrow):
    with socket.create_connection(("127.0.0.1", narrow.port), timeout=10) as client:
        client.sendall(
            b"POST /v1/tag HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 2001\r\nExpect: 100-continue\r\n\r\n"
        )
        answer = client.recv(65536)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"limit":"max_body_bytes","maximum":2000,"actual":2001' in answer


def test_a_chunked_body_is_given_up_when_it_is_over_the_limit(narrow):
    def endless():
        for _ in range(1000):
            yield b" " * 1000

    answer = narrow.client.post("/v1/tag", content=endless(), headers=JSON)
    problem = check_problem(answer, 413, "too-large")
    assert problem["limit"] == "max_body_bytes"
    assert 2000 < problem["actual"] < 1_000_000
    assert narrow.tag(["Ann"])


@pytest.mark.parametrize("connection", ["keep-alive", "close"])
def test_a_client_that_sends_a_large_body_gets_to_read_the_refusal(narrow, connection):
    headers = {**JSON, "Connection": connection}
    answer = narrow.client.post("/v1/tag", content=b" " * 5_000_000, headers=headers)
    assert check_problem(answer, 413, "too-large")["actual"] == 5_000_000


def test_a_client_that_writes_all_before_it_reads_is_told_and_then_let_go(narrow):
    head = f"Host: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {5_000_000}"
    with socket.create_connection(("127.0.0.1", narrow.port), timeout=10) as client:
        client.sendall(f"POST /v1/tag HTTP/1.1\r\n{head}\r\n\r\n".encode())
        for _ in range(50):
            client.sendall(b" " * 100_000)
            time.sleep(0.001)
        answer = b""
        while part := client.recv(65536):  # ends, since the connection is closed
            answer += part
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"\r\nconnection: close\r\n" in answer
    assert answer.endswith(b"}")


# What is not the body that is expected


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/jsonx", "application/json; charset=latin-1", "multipart/form-data", ""],
)
def test_another_content_type_is_a_415(service, content_type):
    service.refused(
        415, "unsupported-content-type", content=b'{"text": "a"}', headers={"content-type": content_type}
    )


def test_no_content_type_is_a_415(service):
    service.refused(415, "unsupported-content-type", content=b'{"text": "a"}')


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "Application/JSON; Charset=UTF-8", 'application/json;charset="utf-8"'],
)
def test_json_in_utf_8_is_welcome_however_it_is_said(service, content_type):
    headers = {"content-type": content_type, "content-encoding": "identity"}
    answer = service.client.post("/v1/tag", content='{"text": "Zoë"}'.encode(), headers=headers)
    assert answer.status_code == 200


def test_a_content_encoding_is_a_415(service):
    headers = {**JSON, "content-encoding": "gzip"}
    service.refused(415, "unsupported-content-encoding", content=b"\x1f\x8b", headers=headers)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"\xff", 400),
        (b'{"text": "a", "threshold": NaN}', 400),
        (b"[" * 500_000, 400),
        (b'{"sentences": ' + b"[" * 900 + b"]" * 900 + b"}", 422),
        (b"null", 422),
        (b'{"sentences": ["\\ud83d"]}', 422),
        (b'{"sentences": [["a", "\\udfff"]]}', 422),
        (b'{"text": "\\u0000 \\u202e \\ufeff \\uffff"}', 200),
        (b'{"text": "a", "text": "b"}', 200),
        (b'{"sentences": ["' + b"x" * 1_000_000 + b'"]}', 413),
        (b'{"sentences": [' + b'"",' * 99_999 + b'""]}', 413),
        (b'{"sentences": [' + b'"",' * 9_999 + b'""]}', 200),
        (b'{"text": "' + b"a.b" * 300_000 + b'"}', 413),
        (b'{"text": "' + "é👩‍🚀 ".encode() * 20_000 + b'"}', 413),
        (b'{"text": "' + "é👩‍🚀 ".encode() * 5_000 + b'", "offset_unit": "utf8"}', 200),
        (b'{"text": "' + b"!?" * 5_000 + b'"}', 200),
    ],
    ids=range(18),
)
def test_no_body_is_too_odd_for_an_answer(service, body, status):
    answer = service.client.post("/v1/tag", content=body, headers=JSON)
    assert answer.status_code == status, answer.text[:300]
    if status != 200:
        assert answer.json()["code"]


def test_ten_thousand_sentences_in_one_request_are_tagged(service):
    sentences = ["Harry Potter met Hermione ."] * 10_000
    found = service.tag(sentences)
    assert len(found) == 10_000
    assert all(len(sentence["tokens"]) == 5 for sentence in found)


# HTTP


@pytest.mark.parametrize(
    "request_bytes",
    [b"\x00\x01\x02\r\n\r\n", b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n", b"GET\r\n\r\n"],
)
def test_what_is_not_http_gets_a_problem_and_is_closed(service, request_bytes):
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as client:
        client.sendall(request_bytes)
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 4")
    assert b"application/problem+json" in answer
    assert service.tag(["Ann"])


HTTP2 = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n"


def wish(body, headers=HTTP2):
    """What asks for HTTP/2, as Java's client and curl --http2 do, if only the server speaks it."""
    line = b"POST /v1/tag HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return line + headers + b"Content-Length: %d\r\n\r\n" % len(body) + body


def answers(service, *parts, n=1):
    """What comes back until n answers have begun, or the connection is closed."""
    found = b""
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for part in parts:
            client.sendall(part)
            time.sleep(0.002)
        while found.count(b"HTTP/1.1 ") < n and (part := client.recv(65536)):
            found += part
    return found


@pytest.mark.parametrize(
    "headers", [HTTP2, HTTP2.replace(b"h2c", b"websocket"), b"upgrade:h2c\r\n" + HTTP2]
)
@pytest.mark.parametrize("size", [10_000, 150, 1], ids=["whole", "in parts", "bytes"])
def test_a_wish_for_another_protocol_is_ignored_and_the_body_read(service, headers, size):
    request = 2 * wish(b'{"sentences": ["Ann"]}', headers) + wish(b'{"sentences": []}', b"")
    parts = [request[at : at + size] for at in range(0, len(request), size)]
    found = answers(service, *parts, n=3)
    assert re.findall(rb"HTTP/1\.1 (\d+) ", found) == [b"200"] * 3


def test_a_wish_for_another_protocol_keeps_what_else_was_asked(service):
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as client:
        client.sendall(
            wish(
                b'{"sentences": ["Ann"]}',
                b"Connection: close, Upgrade\r\nUpgrade: h2c\r\nX-Request-Id: me\r\n",
            )
        )
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nx-request-id: me\r\n" in answer
    assert b"\r\nconnection: close\r\n" in answer


@pytest.mark.parametrize("apart", [False, True])
def test_no_request_hides_in_a_body_behind_a_wish_for_another_protocol(service, apart):
    request = wish(b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Request-Id: hidden\r\n\r\n")
    at = request.index(b"GET /livez") if apart else len(request)
    found = answers(service, request[:at], request[at:], wish(b'{"sentences": []}', b""), n=2)
    assert re.findall(rb"HTTP/1\.1 (\d+) ", found) == [b"400", b"200"]
    assert b'"code":"not-json"' in found
    assert b"hidden" not in found


def test_nothing_is_read_behind_connect_which_is_for_proxies(service):
    hidden = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
    head = b"CONNECT /livez HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(hidden)
    found = answers(service, head, hidden, n=2)
    assert re.findall(rb"HTTP/1\.1 (\d+) ", found) == [b"400"]


def test_a_head_that_never_ends_is_cut_off(service):
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * 70_000)
        assert client.recv(65536).startswith(b"HTTP/1.1 431 ")


def test_a_head_that_trickles_in_is_closed(narrow):
    for sent in (b"", b"POST /v1/tag HTTP/1.1\r\nHost: x\r\n"):
        with socket.create_connection(("127.0.0.1", narrow.port), timeout=10) as client:
            client.sendall(sent)
            assert client.recv(65536) == b""


def test_a_body_that_trickles_in_is_a_408(narrow):
    with socket.create_connection(("127.0.0.1", narrow.port), timeout=10) as client:
        client.sendall(
            b"POST /v1/tag HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b'Content-Length: 100\r\n\r\n{"text"'
        )
        answer = client.recv(65536)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b'"code":"body-too-slow"' in answer
        # And then it is not waited for any longer.
        assert client.recv(65536) == b""


# Queues and deadlines


def in_background(service, pool, **request):
    def post():
        with httpx.Client(base_url=service.client.base_url, timeout=30) as client:
            return client.post("/v1/tag", **request)

    return pool.submit(post)


def test_a_full_queue_is_a_429_and_the_service_stays_live_and_ready(tiny_artefact):
    with running(tiny_artefact, max_queue_requests=1) as service, ThreadPoolExecutor(1) as pool:
        gate = service.gate()
        first = in_background(service, pool, json={"sentences": ["Ann"]})
        assert gate.came.wait(10)
        answer = service.client.post("/v1/tag", json={"sentences": ["Bob"]})
        problem = check_problem(answer, 429, "overloaded")
        assert int(answer.headers["retry-after"]) >= 1
        assert (problem["limit"], problem["maximum"], problem["actual"]) == ("max_queue_requests", 1, 1)
        assert service.client.get("/livez").status_code == 200
        assert service.client.get("/readyz").status_code == 200
        gate.opened.set()
        assert first.result().status_code == 200
        assert service.tag(["Bob"])


def test_requests_whose_body_is_still_arriving_count(tiny_artefact):
    with (
        running(tiny_artefact, max_queue_requests=1) as service,
        socket.create_connection(("127.0.0.1", service.port), timeout=10) as client,
    ):
        client.sendall(
            b"POST /v1/tag HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\nExpect: 100-continue\r\n\r\n"
        )
        assert client.recv(100).startswith(b"HTTP/1.1 100 ")
        service.refused(429, "overloaded", json={"sentences": ["Ann"]})


def test_tokens_and_bytes_in_the_queue_are_bounded_too(narrow):
    with ThreadPoolExecutor(1) as pool:
        gate = narrow.gate()
        first = in_background(narrow, pool, json={"sentences": ["a " * 10] * 2, "threshold": 0.5})
        assert gate.came.wait(10)
        problem = narrow.refused(429, "overloaded", json={"sentences": ["a " * 10] * 2})
        assert (problem["limit"], problem["actual"]) == ("max_queue_tokens", 20)
        gate.opened.set()
        assert first.result().status_code == 200
        large = json.dumps({"sentences": ["Ann"], "model": "x"}) + " " * 1900
        gate = narrow.gate()
        padding = " " * (1990 - len(json.dumps({"sentences": ["Ann"]})))
        with ThreadPoolExecutor(2) as two:
            bodies = [json.dumps({"sentences": ["Ann"]}) + padding] * 2
            waiting = [in_background(narrow, two, content=body, headers=JSON) for body in bodies]
            assert gate.came.wait(10)
            while narrow.service.admission.n_bytes < 3900:
                pass
            problem = narrow.refused(429, "overloaded", content=large, headers=JSON)
            assert problem["limit"] == "max_queue_bytes"
            gate.opened.set()
            assert [each.result().status_code for each in waiting] == [200, 200]
    assert (narrow.service.admission.n_requests, narrow.service.admission.n_bytes) == (0, 0)


@pytest.mark.parametrize(
    ("nonsense", "status"),
    [(b"\x00\x01 nonsense\r\n\r\n", b"400"), (b"GET / HTTP/1.1\r\nx: " + b"y" * 70_000, b"431")],
)
def test_what_came_before_a_broken_request_is_answered_first(service, nonsense, status):
    body = b'{"sentences": ["Ann"]}'
    head = (
        b"POST /v1/tag HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    )
    gate = service.gate()
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as client:
        client.sendall(2 * (head % len(body) + body) + nonsense)
        assert gate.came.wait(10)
        gate.opened.set()
        answers = b""
        while part := client.recv(10_000):
            answers += part
    statuses = re.findall(rb"HTTP/1\.1 (\d+) ", answers)
    assert statuses == [b"200", b"200", status]


def test_a_passed_deadline_is_a_504(service):
    gate = service.gate()
    body = {"sentences": ["Ann"]}
    service.refused(504, "deadline-passed", json=body, headers={"x-request-timeout": "0.01"})
    gate.opened.set()
    assert service.tag(["Ann"])


@pytest.mark.parametrize("timeout", ["", "soon", "0", "0.000", "-1", "1e3", "nan", "inf"])
def test_a_deadline_that_is_none_is_a_400(service, timeout):
    service.refused(400, "invalid-timeout", json={"text": "a"}, headers={"x-request-timeout": timeout})


LONG = "Ann met Ben. " * 500  # of which the text thread makes tokens, not the event loop


@pytest.fixture
def busy(service):
    """The text thread works on something else until the event is set."""
    done = threading.Event()
    service.service.text_thread.submit(done.wait, 30)
    yield done
    done.set()


@pytest.fixture
def begun(monkeypatch):
    """The requests whose texts the text thread began to cut."""
    found = []
    monkeypatch.setattr("service.tag.cuts_of", lambda *asked: found.append(asked))
    monkeypatch.setattr("service.compat.wire._cut", lambda *asked: found.append(asked))
    monkeypatch.setattr("service.redaction.endpoint.Redaction", lambda *asked: found.append(asked))
    return found


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/tag", {"text": LONG}),
        ("/v1/redact", {"texts": [LONG], "mode": "label"}),
        ("/compat/huggingface", {"inputs": LONG}),
    ],
)
def test_a_deadline_counts_while_others_use_the_text_thread(service, busy, begun, path, body):
    answer = service.client.post(path, json=body, headers={"x-request-timeout": "0.2"})
    assert (answer.status_code, answer.json()["code"]) == (504, "deadline-passed")
    assert not busy.is_set()
    busy.set()
    service.service.text_thread.submit(int).result(30)  # by now it has had its turn
    assert begun == []


def test_a_deadline_counts_while_the_text_thread_writes(service, monkeypatch):
    written = threading.Event()
    monkeypatch.setattr("service.tag.answer_bytes", lambda *_: written.wait(30) and b"{}")
    service.refused(504, "deadline-passed", json={"text": LONG}, headers={"x-request-timeout": "0.5"})
    assert not written.is_set()
    written.set()


def test_work_that_comes_after_its_deadline_is_not_begun(service, begun):
    work = off_loop(service.service, False, lambda: begun.append(1), time.monotonic() - 1)
    with pytest.raises(Problem, match="deadline"):
        asyncio.run(work)
    service.service.text_thread.submit(int).result(30)
    assert begun == []


def test_a_client_that_hangs_up_leaves_the_text_thread_too(service, busy, begun):
    body = json.dumps({"text": LONG}).encode()
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as client:
        client.sendall(wish(body, b""))
        until(lambda: service.service.text_thread._work_queue.qsize())
    until(lambda: not service.service.admission.n_requests)
    assert not busy.is_set()
    busy.set()
    service.service.text_thread.submit(int).result(30)
    assert begun == []


def until(is_so):
    ends = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < ends
        time.sleep(0.01)


def test_a_deadline_is_capped(tiny_artefact):
    with running(tiny_artefact, request_timeout_s=0.05, max_request_timeout_s=0.05) as service:
        gate = service.gate()
        headers = {"x-request-timeout": "1000"}
        service.refused(504, "deadline-passed", json={"sentences": ["Ann"]}, headers=headers)
        gate.opened.set()


def test_the_work_of_a_client_that_hangs_up_is_not_done(service):
    gate = service.gate()
    with ThreadPoolExecutor(1) as pool:
        first = in_background(service, pool, json={"sentences": ["Ann"]})
        assert gate.came.wait(10)
        body = b'{"sentences": ["Gone Away"]}'
        with socket.create_connection(("127.0.0.1", service.port), timeout=10) as client:
            client.sendall(
                b"POST /v1/tag HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
            )
            batcher = service.service.models.find(None).batcher
            while batcher.n_waiting_requests < 2:
                pass
        while batcher.n_waiting_requests > 1:  # noticed, while the batch before still computes
            pass
        gate.opened.set()
        assert first.result().status_code == 200
    assert service.tag(["Ann"])
    assert not any("Gone" in item.tokens for batch in gate.batches for item in batch)
