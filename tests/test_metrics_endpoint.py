"""GET /metrics over a socket: what is counted is right, and its labels are few."""

import json
import os
import signal
import socket
import subprocess

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.problems import KINDS
from tests.running import process, running

JSON = {"content-type": "application/json"}
MODEL = "tiny@1"


@pytest.fixture
def service(tiny_artefact):
    with running(tiny_artefact) as service:
        yield service


class Scraped:
    """What GET /metrics says."""

    def __init__(self, client):
        answer = client.get("/metrics")
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        self.samples = [s for f in text_string_to_metric_families(answer.text) for s in f.samples]

    def __call__(self, name, /, **labels):
        """The sum of the samples of a name with at least these labels."""
        return sum(s.value for s in self.samples if s.name == name and labels.items() <= s.labels.items())

    def values(self, name, label):
        return {s.labels[label] for s in self.samples if s.name == name}


def test_requests_are_counted_by_method_template_and_status(service):
    service.tag(["Ann"])
    service.tag(["Ann"])
    service.refused(400, "not-json", content=b"{", headers=JSON)
    service.client.get("/v1/models/tiny")
    service.client.get("/v1/models/nope")
    service.client.get("/nope/ann")
    said = Scraped(service.client)
    for n, method, path, status in (
        (2, "POST", "/v1/tag", 200),
        (1, "POST", "/v1/tag", 400),
        (1, "GET", "/v1/models/{name}", 200),
        (1, "GET", "/v1/models/{name}", 404),
        (1, "GET", "other", 404),
    ):
        assert said("nametag_requests_total", method=method, path=path, status=str(status)) == n
    assert said("nametag_request_seconds_count", path="/v1/tag") == 3
    assert said("nametag_request_seconds_bucket", path="/v1/tag", le="+Inf") == 3
    assert 0 < said("nametag_request_seconds_sum", path="/v1/tag") < 60


def test_sentences_tokens_and_persons_are_counted_and_batches_with_their_padding(service):
    sentences = [["Harry", "Potter"], ["Hermione", "Granger", "invented", "a", "spell"], []]
    tagged = service.tag(sentences)
    n_persons = sum(len(sentence["persons"]) for sentence in tagged)
    said = Scraped(service.client)
    counted = {
        name: said(f"nametag_{name}", model=MODEL)
        for name in (
            "sentences_total", "tokens_total", "persons_total", "queue_wait_seconds_count",
            "batch_rows_count", "batch_rows_sum", "batch_seconds_count", "batch_tokens_total",
            "batch_padding_tokens_total", "batch_failures_total",
        )
    }  # fmt: skip
    assert counted == {
        "sentences_total": 2, "tokens_total": 7, "persons_total": n_persons,
        "queue_wait_seconds_count": 1, "batch_rows_count": 1, "batch_rows_sum": 2,
        "batch_seconds_count": 1, "batch_tokens_total": 7, "batch_padding_tokens_total": 3,
        "batch_failures_total": 0,
    }  # fmt: skip
    assert n_persons > 0


def test_a_batch_that_fails_and_is_tried_again_in_halves_is_counted(service, monkeypatch):
    batcher = service.service.models.find(None).batcher
    tag_batch = batcher._tag_batch

    def poisoned(items):
        if any("poison" in item.tokens for item in items):
            raise ValueError
        return tag_batch(items)

    monkeypatch.setattr(batcher, "_tag_batch", poisoned)
    service.refused(500, "internal-error", json={"sentences": ["Ann", "poison"]})
    said = Scraped(service.client)
    assert said("nametag_batch_failures_total") == 2
    assert said("nametag_rejections_total", reason="internal-error") == 1
    assert said("nametag_sentences_total") == 0


def test_the_queue_is_as_deep_as_what_waits(service):
    gate = service.gate()
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as client:
        body = b'{"sentences": ["Harry Potter met Hermione"]}'
        client.sendall(
            b"POST /v1/tag HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        assert gate.came.wait(10)
        said = Scraped(service.client)
        gate.opened.set()
        assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
    assert said("nametag_queue_requests", model=MODEL) == 1
    assert said("nametag_queue_tokens", model=MODEL) == 4
    assert said("nametag_requests_in_progress") == 1
    after = Scraped(service.client)
    assert (after("nametag_queue_requests"), after("nametag_queue_tokens")) == (0, 0)
    assert after("nametag_requests_in_progress") == 0


def test_a_client_that_hangs_up_is_a_499(service):
    gate = service.gate()
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as client:
        client.sendall(
            b"POST /v1/tag HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b'Content-Length: 22\r\n\r\n{"sentences": ["Ann"]}'
        )
        assert gate.came.wait(10)
    while not (said := Scraped(service.client))("nametag_requests_total", path="/v1/tag"):
        pass
    gate.opened.set()
    assert said("nametag_requests_total", status="499", path="/v1/tag") == 1


def test_rejections_are_counted_by_code_and_limit(tiny_artefact):
    with running(tiny_artefact, max_queue_requests=1, max_sentences=2) as service:
        service.refused(413, "too-large", json={"sentences": ["a"] * 3})
        service.refused(422, "invalid-request", json={})
        gate = service.gate()
        body = {"sentences": ["Ann"]}
        service.refused(504, "deadline-passed", json=body, headers={"x-request-timeout": "0.01"})
        with socket.create_connection(("127.0.0.1", service.port), timeout=10) as client:
            client.sendall(
                b"POST /v1/tag HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                b"Content-Length: 100\r\nExpect: 100-continue\r\n\r\n"
            )
            assert client.recv(100).startswith(b"HTTP/1.1 100 ")
            service.refused(429, "overloaded", json=body)
        with socket.create_connection(("127.0.0.1", service.port), timeout=10) as client:
            client.sendall(b"Harry Potter\r\n\r\n")
            answer = client.recv(65536)
        gate.opened.set()
        said = Scraped(service.client)
    assert b"\r\nx-request-id: " in answer
    for reason, limit in (
        ("too-large", "max_sentences"),
        ("invalid-request", ""),
        ("deadline-passed", ""),
        ("overloaded", "max_queue_requests"),
        ("bad-http", ""),
    ):
        assert said("nametag_rejections_total", reason=reason, limit=limit) == 1
    assert said.values("nametag_rejections_total", "reason") <= {*KINDS, "bad-http"}


def test_the_models_that_serve_are_told_by_version(service):
    said = Scraped(service.client)
    labels = {"name": "tiny", "version": "1", "backend": "onnx", "device": "cpu"}
    assert said("nametag_model_info", **labels) == 1
    service.service.models.find(None).trouble = "it differs"
    assert Scraped(service.client)("nametag_model_info", **labels) == 0


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="only Linux says")
def test_memory_and_cpu_time_are_those_of_the_process(service):
    said = Scraped(service.client)
    assert 10**7 < said("process_resident_memory_bytes") < 10**11
    assert said("process_cpu_seconds_total") > 0
    assert said("nametag_workers") == 1


def test_whatever_is_asked_for_there_is_one_label_for_all_that_is_unknown(service):
    for i in range(8):
        service.client.get(f"/nope/{i}?ann={i}")
        service.client.post(f"/v1/models/{i}")
        service.client.get(f"/v1/models/{i}")
        service.client.request(["PURGE", "LOCK", "TRACE", "MKCOL"][i % 4], "/v1/tag")
    said = Scraped(service.client)
    assert said.values("nametag_requests_total", "path") == {"other", "/v1/models/{name}", "/v1/tag"}
    assert said.values("nametag_requests_total", "method") == {"GET", "POST", "other"}
    assert said("nametag_requests_total", method="other", path="/v1/tag", status="405") == 8


def test_several_workers_answer_with_the_sum_also_after_one_was_killed(tiny_artefact):
    """Each connection may reach either worker; each of them tells of both."""
    with process(model=tiny_artefact, workers=2, drain_delay_s=0) as service:
        url = f"http://127.0.0.1:{service.port}"

        def tag(n):
            for _ in range(n):
                assert httpx.post(url + "/v1/tag", json={"sentences": ["Ann Smith"]}).status_code == 200

        def both_say(n):
            """Each of the workers has been asked, and says so many."""
            for _ in range(20):
                with httpx.Client(base_url=url) as client:
                    said = Scraped(client)
                assert said("nametag_requests_total", path="/v1/tag", status="200") == n
                assert said("nametag_request_seconds_count", path="/v1/tag") == n
                assert said("nametag_tokens_total") == 2 * n
                assert said("nametag_batch_rows_sum") == n
            return said

        def listening(n):
            """The numbers of the first n processes that began to listen."""
            while len(pids := [json.loads(x)["pid"] for x in service.log if '"listening"' in x]) < n:
                service.log.append(service.process.stderr.readline())
            return pids

        victim, other = listening(2)
        tag(40)
        said = both_say(40)
        assert said("nametag_worker_restarts_total") == 0
        subprocess.run(["kill", "-9", str(victim)], check=True)
        *_, replacement = listening(3)
        said = both_say(40)
        tag(20)
        said = both_say(60)
        assert said("nametag_worker_restarts_total") == 1
        assert said.values("process_resident_memory_bytes", "pid") == {str(other), str(replacement)}
        assert said("nametag_workers") == 2
        service.process.send_signal(signal.SIGTERM)
        assert service.wait() == 0
