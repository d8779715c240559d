"""What is answered without the HTTP parser: what is plainly one request, and as the ordinary way does."""

import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.keys import new_key
from service.plain import Plain
from tests.running import running
from tests.test_refusal import answer_of, exchanged, until

PATH = "/v1/tag"
BODY = b'{"sentences": ["Ann met Ben."]}'
JSON = b"Content-Type: application/json\r\n"


def request(body=BODY, headers=JSON):
    head = b"POST /v1/tag HTTP/1.1\r\nHost: x\r\n%sContent-Length: %d\r\n\r\n"
    return head % (headers, len(body)) + body


def not_plain(plain):
    """The same request, with a header that is none of the service's business."""
    return plain.replace(b"Host: x\r\n", b"Host: x\r\nTraceparent: no\r\n", 1)


@contextmanager
def connected(service):
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as sock:
        yield sock


def answers_of(sock, n):
    """The next n: their statuses, and request ids."""
    found, data = [], b""
    while len(found) < n:
        head, _, rest = data.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        if length and len(rest) >= int(length[1]):
            found.append((int(head[9:12]), re.search(rb"x-request-id: (.*)", head)[1]))
            data = rest[int(length[1]) :]
        else:
            part = sock.recv(1 << 16)
            assert part
            data += part
    assert not data
    return found


# What is plain


@pytest.mark.parametrize("headers", [
    b"", JSON, b"X-Request-Id: 7\r\n", b"accept:*/*\r\nX-Empty:\r\n", b"Connection: keep-alive\r\n",
    b"CONNECTION:Keep-Alive \r\n",
])  # fmt: skip
def test_a_whole_request_with_a_length_is_plain(headers):
    data = request(headers=headers)
    head = Plain(PATH).head_of(data)
    assert data[head.n_bytes :] == BODY
    assert len(BODY) == head.n_body_bytes


@pytest.mark.parametrize("data", [
    b"", b"\r\n\r\n", request()[:-1], request() + b"P", request() + request(), request()[:40],
    request().replace(b"/v1/tag", b"/v1/tags"), request().replace(b"/v1/tag", b"/v1/tag?a"),
    request().replace(b"/v1/tag", b"/v1/tag "), request().replace(b"POST", b"PUT"),
    request().replace(b"POST", b"post"), request().replace(b"/v1/tag", b"/V1/tag"),
    request().replace(b"HTTP", b"http"), request().replace(b"1.1", b"1.0"),
    request().replace(b"\r\n", b"\n"),
    request().replace(b"Host: x", b"Host : x"), request().replace(b"Host: x", b" Host: x"),
    request().replace(b"Host: x", b"Host: x\r\n y"), request().replace(b"Host: x", b"Host: \xff"),
    request().replace(b"Host: x", b"Host: x\ry"), request().replace(b"Host: x", b"Host: x\0"),
    request(headers=b"Connection: close\r\n"), request(headers=b"Connection: keep-alive, upgrade\r\n"),
    request(headers=b"Connection: keep-alive\r\nConnection: close\r\n"),
    request(headers=b"Transfer-Encoding: chunked\r\n"), request(headers=b"Expect: 100-continue\r\n"),
    request(headers=b"Upgrade: h2c\r\n"), request(headers=b"Origin: http://x\r\n"),
    request(headers=b"Content-Length: %d\r\n" % len(BODY)), request(headers=b"Content-Length: 0\r\n"),
    request(headers=JSON + JSON), request(headers=b"X-Long: " + 3000 * b"a" + b"\r\n"),
    request(headers=b"Proxy-Connection: close\r\n"),
    request().replace(b"Content-Length: ", b"Content-Length: +"),
    request().replace(b"Length: 31", b"Length: 31 31"),
])  # fmt: skip
def test_whatever_else_there_is_is_not_plain(data):
    assert Plain(PATH).head_of(data) is None


class Parsed:
    """What the HTTP parser makes of a request."""

    def __init__(self, data):
        self.url, self.headers, self.body, self.n_whole = b"", [], b"", 0
        parser = httptools.HttpRequestParser(self)
        parser.feed_data(data)
        self.method, self.version = parser.get_method(), parser.get_http_version()
        self.is_kept, self.is_upgraded = parser.should_keep_alive(), parser.should_upgrade()

    def on_url(self, url):
        self.url += url

    def on_header(self, name, value):
        self.headers.append((name.lower(), value))

    def on_body(self, body):
        self.body += body

    def on_message_complete(self):
        self.n_whole += 1


names = st.sampled_from([
    "Host", "Accept", "X-Request-Id", "content-type", "Content-Length", "Connection", "TE", "Upgrade",
    "Transfer-Encoding", "Expect", "keep-alive", "proxy-connection", "x_y", "X Y", "",
])  # fmt: skip
values = st.one_of(
    st.sampled_from(["keep-alive", " keep-alive\t", "close", "chunked", "5", " 5 ", "5, 5", "a\r\n b"]),
    st.text("aZ0 \t:;,\r\n\0\x7f", max_size=5),
)  # fmt: skip
ends = st.sampled_from(8 * ["\r\n"] + ["\n", "\r"])


lines = st.lists(st.tuples(names, st.sampled_from([":", ": ", " :"]), values, ends), max_size=5)


@settings(max_examples=1_000)
@given(lines, st.sampled_from([0, 0, 0, -1, 1]))
def test_what_is_plain_the_parser_reads_likewise(lines, growth):
    body = b"ab\r\nc"
    head = "".join(name + colon + value + end for name, colon, value, end in lines).encode()
    length = b"Content-Length: %d\r\n\r\n" % (len(body) + growth)
    data = b"POST /v1/tag HTTP/1.1\r\n" + head + length + body
    found = Plain(PATH).head_of(data)
    if found is None:
        return
    parsed = Parsed(data)
    assert (parsed.method, parsed.url, parsed.version, parsed.n_whole) == (b"POST", b"/v1/tag", "1.1", 1)
    assert parsed.is_kept
    assert not parsed.is_upgraded
    assert parsed.body == data[found.n_bytes :] == body
    assert {name: value.rstrip(b" \t") for name, value in parsed.headers} == found.headers
    assert len(parsed.headers) == len(found.headers)


# The same answers


@pytest.mark.parametrize(
    ("plain", "status"),
    [
        (request(), 200),
        (request(b'{"text": "Ann met Ben. Ann Lee left.", "offset_unit": "utf16", "threshold": 0.1}'), 200),
        (request(b'{"sentences": []}'), 200),
        (request(b'{"sentences": ["", " "]}', JSON + b"X-Request-Id: mine-1\r\n"), 200),
        (request(b'{"sentences": ["a' + 30 * b" a" + b'"]}'), 413),
        (request(b'{"sentences": ' + 3_900 * b" " + b"[]}"), 413),
        (request(b'{"sentences": "a"}'), 422),
        (request(b'{"sentences": ["a"], "model": "none"}'), 404),
        (request(b'{"sentences": ["\\ud800"]}'), 422),
        (request(b"nonsense"), 400),
        (request(b""), 400),
        (request(b'{"sentences": ["\xff"]}'), 400),
        (request(headers=b"Content-Type: text/plain\r\n"), 415),
        (request(headers=JSON + b"Content-Encoding: gzip\r\n"), 415),
        (request(headers=JSON + b"X-Request-Timeout: soon\r\n"), 400),
        (request(headers=JSON + b"X-Request-Id: not a sane one\r\n"), 200),
    ],
)
def test_the_answer_is_the_ordinary_one(plain, status, tiny_artefact):
    limits = {"max_sentence_tokens": 20, "max_body_bytes": 3_900}
    with running(tiny_artefact, **limits) as service, connected(service) as sock:
        assert Plain(PATH).head_of(plain) is not None
        assert Plain(PATH).head_of(not_plain(plain)) is None
        answers = [exchanged(sock, each) for each in (plain, not_plain(plain), plain)]
        for _, headers, content in answers:
            assert len(headers.pop("x-request-id")) in (6, 24)
            content.pop("request_id", None)
        assert answers[0] == answers[1] == answers[2]
        assert answers[0][0] == status
        counted = service.client.get("/metrics").text
        assert f'nametag_requests_total{{method="POST",path="/v1/tag",status="{status}"}} 3.0' in counted


def test_keys_are_asked_for(tiny_artefact, tmp_path):
    secret, key = new_key("ada", "user", 2)
    (tmp_path / "keys.txt").write_text(f"{key.line}\n")
    mine = JSON + b"X-API-Key: %s\r\n" % secret.encode()
    with running(tiny_artefact, keys_file=tmp_path / "keys.txt") as service, connected(service) as sock:
        for each in (request(), not_plain(request())):
            assert exchanged(sock, each)[2]["code"] == "key-missing"
        assert exchanged(sock, request(headers=mine))[0] == 200
        statuses = {exchanged(sock, request(headers=mine))[0] for _ in range(20)}
        assert statuses == {200, 429}


def test_a_deadline_passes_here_too(tiny_artefact):
    plain = request(headers=JSON + b"X-Request-Timeout: 0.3\r\n")
    with running(tiny_artefact) as service, connected(service) as sock:
        gate = service.gate()
        try:
            answers = [exchanged(sock, each) for each in (plain, not_plain(plain))]
        finally:
            gate.opened.set()
        assert {(status, content["code"]) for status, _, content in answers} == {(504, "deadline-passed")}


def test_a_model_that_fails_is_a_500_that_says_nothing(tiny_artefact, caplog):
    with running(tiny_artefact) as service, connected(service) as sock:
        batcher = service.service.models.find(None).batcher

        def fail(_):
            raise RuntimeError("Ann met Ben.")

        works, batcher._tag_batch = batcher._tag_batch, fail
        status, headers, content = exchanged(sock, request())
        assert (status, content["code"]) == (500, "internal-error")
        assert content["request_id"] == headers["x-request-id"]
        assert "Ann" not in caplog.text + str(content)
        batcher._tag_batch = works
        assert exchanged(sock, request())[0] == 200


# Connections


def test_what_comes_while_one_is_answered_waits_for_it(tiny_artefact):
    ids = [b"X-Request-Id: %d\r\n" % i for i in range(6)]
    with running(tiny_artefact) as service, connected(service) as sock:
        gate = service.gate()
        sock.sendall(request(headers=JSON + ids[0]))
        assert gate.came.wait(30)
        sock.sendall(request(headers=JSON + ids[1]))
        time.sleep(0.05)
        sock.sendall(request(headers=JSON + ids[2]) + not_plain(request(headers=JSON + ids[3]))[:30])
        time.sleep(0.05)
        sock.sendall(not_plain(request(headers=JSON + ids[3]))[30:] + request(headers=JSON + ids[4]))
        assert service.service.admission.n_requests == 1
        gate.opened.set()
        assert answers_of(sock, 5) == [(200, b"%d" % i) for i in range(5)]
        assert exchanged(sock, request(headers=JSON + ids[5]))[1]["x-request-id"] == "5"
        until(lambda: service.service.admission.n_under_way == 0)


@pytest.mark.parametrize(
    "parts",
    [
        [request()[: -len(BODY)], BODY],
        [request()[: -len(BODY)], BODY[:9], BODY[9:]],
        [request()[:30], request()[30:]],
        [request(), request()[: -len(BODY)], BODY],
        [request()[: -len(BODY)], BODY + request()],
        [request() + request(), request()],
    ],
)
def test_what_comes_in_parts_is_answered_whichever_way(parts, tiny_artefact):
    with running(tiny_artefact) as service, connected(service) as sock:
        for part in parts:
            sock.sendall(part)
            time.sleep(0.01)
        n = b"".join(parts).count(BODY)
        assert [status for status, _ in answers_of(sock, n)] == n * [200]
        assert exchanged(sock, request())[0] == 200


def test_who_hangs_up_frees_what_was_queued(tiny_artefact):
    with running(tiny_artefact) as service, connected(service) as first:
        admission = service.service.admission
        gate = service.gate()
        first.sendall(request())
        assert gate.came.wait(30)
        with connected(service) as gone:
            gone.sendall(request(b'{"sentences": ["Zed left."]}'))
            until(lambda: admission.n_requests == 2)
        until(lambda: admission.n_requests == admission.n_under_way == 1)
        gate.opened.set()
        assert answer_of(first)[0] == 200
        until(lambda: admission.n_requests == admission.n_under_way == admission.n_bytes == 0)
        assert [[item.tokens for item in batch] for batch in gate.batches] == [[["Ann", "met", "Ben", "."]]]
        counted = service.client.get("/metrics").text
        assert 'nametag_requests_total{method="POST",path="/v1/tag",status="499"} 1.0' in counted


@pytest.mark.parametrize("is_plain", [True, False])
def test_what_is_under_way_when_the_service_stops_is_answered_and_then_closed(is_plain, tiny_artefact):
    with ThreadPoolExecutor(1) as pool:
        with running(tiny_artefact) as service:
            sock = socket.create_connection(("127.0.0.1", service.port), timeout=30)
            gate = service.gate()
            sock.sendall(request() if is_plain else not_plain(request()))
            assert gate.came.wait(30)
            opened = pool.submit(lambda: (until(lambda: service.service.is_leaving), gate.opened.set()))
        opened.result()
        with sock:
            status, headers, _ = answer_of(sock)
            assert (status, headers["connection"]) == (200, "close")
            assert sock.recv(1) == b""


def test_many_at_once_share_batches(tiny_artefact):
    with running(tiny_artefact) as service, ThreadPoolExecutor(16) as pool:

        def ask(n):
            with connected(service) as sock:
                return [
                    exchanged(sock, request(b'{"sentences": ["Ann %d met Ben %d."]}' % (n, i)))
                    for i in range(20)
                ]

        alone = ask(3)
        for n, answers in enumerate(pool.map(ask, range(16))):
            assert [status for status, _, _ in answers] == 20 * [200]
            for i, (_, _, content) in enumerate(answers):
                assert content["sentences"][0]["text"] == f"Ann {n} met Ben {i}."
            if n == 3:
                assert [content for _, _, content in answers] == [content for _, _, content in alone]
