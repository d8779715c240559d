"""service.client against a running service, and against one that is refused for now on purpose."""

import asyncio
import json
import math
import re
import subprocess
import sys

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.client import (
    AsyncNametag,
    ConnectionFailed,
    KeyRefused,
    Nametag,
    Refused,
    ServiceFailed,
    TimedOut,
    TooLarge,
    Unavailable,
)
from service.client.jobs import JITTER, LINE_BYTES_AT_ONCE, LINES_AT_ONCE, MAX_ATTEMPTS
from service.keys import new_key
from service.openapi import SECONDS_PATTERN
from tests.running import running
from tests.strategies import brief

TEXT = "In London 👋, Harry Potter met Hermione Granger. Potter left."
ANSWER = {"model": {"name": "tiny", "version": "1"}, "offset_unit": "codepoint", "sentences": []}


@pytest.fixture(scope="module")
def service(tiny_artefact):
    with running(tiny_artefact) as service:
        yield service


@pytest.fixture(scope="module")
def url(service):
    return f"http://127.0.0.1:{service.port}"


class Patient:
    """A service that answers as it is told, and a client that notes its waits instead of waiting."""

    def __init__(self, *answers, timeout_s=60.0):
        self.requests = []
        self.waits = []
        self._answers = iter(answers)
        self.client = Nametag("http://x", timeout_s=timeout_s, transport=httpx.MockTransport(self._answer))
        self.client._sleep = self.waits.append

    def _answer(self, request):
        self.requests.append(request)
        answer = next(self._answers)
        return answer(request) if callable(answer) else answer


def problem(status, code, headers=None, **fields):
    content = {"status": status, "code": code, "detail": "said so", **fields}
    return httpx.Response(status, json=content, headers=headers)


def told(service, body):
    return service.client.post("/v1/tag", json=body).json()["sentences"]


def as_json(sentence):
    """A Sentence as /v1/tag writes it."""
    return {
        "text": sentence.text,
        "tokens": [
            {"text": t.text, "start": t.start, "end": t.end, "label": t.label, "person": int(t.is_person),
             "score": t.score}
            for t in sentence.tokens
        ],
        "persons": [
            {"text": p.text, "start": p.start, "end": p.end, "first_token": p.first_token,
             "last_token": p.last_token, "score": p.score}
            for p in sentence.persons
        ],
    }  # fmt: skip


def run(url, work):
    async def go():
        async with AsyncNametag(url) as nametag:
            return await work(nametag)

    return asyncio.run(go())


def test_the_answers_are_those_of_the_service(service, url):
    sentences = ["Harry Potter left.", ["Hermione", "Granger"], ""]
    with Nametag(url) as nametag:
        tagged = nametag.tag(sentences, threshold=0.1, offset_unit="utf16", model="tiny@1")
        document = nametag.tag_text(TEXT, offset_unit="utf8")
        models = nametag.models()
    body = {"sentences": sentences, "threshold": 0.1, "offset_unit": "utf16"}
    assert list(map(as_json, tagged)) == told(service, body)
    assert list(map(as_json, document)) == told(service, {"text": TEXT, "offset_unit": "utf8"})
    assert {s.model for s in (*tagged, *document)} == {"tiny@1"}
    assert models == service.client.get("/v1/models").json()["models"]


def test_the_asynchronous_client_answers_the_same(url):
    async def all_of_it(nametag):
        streamed = [each async for each in nametag.stream([TEXT, {"text": "Ann", "id": 7}])]
        return await nametag.tag([TEXT]), await nametag.tag_text(TEXT), streamed, await nametag.models()

    with Nametag(url) as nametag:
        expected = (
            nametag.tag([TEXT]),
            nametag.tag_text(TEXT),
            list(nametag.stream([TEXT, {"text": "Ann", "id": 7}])),
        )
        assert run(url, all_of_it) == (*expected, nametag.models())


def test_a_job_that_is_too_much_for_one_request_is_sent_in_parts(tiny_artefact):
    sentences = [f"Harry Potter left {i} times." for i in range(100)]
    with running(tiny_artefact) as service, Nametag(f"http://127.0.0.1:{service.port}") as nametag:
        expected = nametag.tag(sentences)
    for limit in (
        {"max_sentences": 7},
        {"max_body_bytes": 300},
        {"max_request_tokens": 40, "max_sentence_tokens": 40},
    ):
        with (
            running(tiny_artefact, **limit) as service,
            Nametag(f"http://127.0.0.1:{service.port}") as nametag,
        ):
            assert nametag.tag(sentences) == expected
            assert nametag.tag([]) == []


def test_one_sentence_that_is_too_long_is_refused_with_the_figures(tiny_artefact):
    with (
        running(tiny_artefact, max_document_chars=20) as service,
        Nametag(f"http://127.0.0.1:{service.port}") as nametag,
    ):
        with pytest.raises(TooLarge) as raised:
            nametag.tag(["short", "x" * 21, "short"])
        assert (raised.value.limit, raised.value.maximum, raised.value.actual) == (
            "max_document_chars",
            20,
            21,
        )


def test_what_smaller_parts_would_not_mend_is_asked_once():
    too_long = problem(413, "too-large", limit="max_document_chars", maximum=20, actual=21)
    patient = Patient(*[too_long] * 3)
    with pytest.raises(TooLarge):
        patient.client.tag(["a", "b", "c", "d"])
    assert len(patient.requests) == 1


def test_what_is_refused_says_why_and_not_what_was_sent(url):
    with Nametag(url) as nametag:
        with pytest.raises(Refused, match="422 invalid-request: /threshold") as raised:
            nametag.tag(["Harry Potter"], threshold=2)
        assert "Potter" not in str(raised.value)
        with pytest.raises(Refused, match="404 unknown-model"):
            nametag.tag_text("Ann", model="nope")
        with pytest.raises(Refused, match="lone-surrogate"):
            nametag.tag_text("\ud83d")


def test_a_key_is_sent_with_each_request(tiny_artefact, tmp_path):
    secret, key = new_key("ada")
    (tmp_path / "keys").write_text(key.line)
    with running(tiny_artefact, keys_file=tmp_path / "keys") as service:
        url = f"http://127.0.0.1:{service.port}"
        with Nametag(url, api_key=secret) as nametag:
            assert len(nametag.tag(["Ann"])) == len(list(nametag.stream(["Ann"]))) == 1
        for wrong in (None, "guessed"):
            with Nametag(url, api_key=wrong) as nametag, pytest.raises(KeyRefused):
                nametag.models()


# Streams


def test_a_stream_answers_each_document_in_order_and_a_wrong_one_alone(service, url):
    documents = [
        "Ann left.",
        {"txt": "?"},
        {"text": "Bob", "id": "b", "threshold": 1},
        {"sentences": [["Zoe"]]},
    ]
    with Nametag(url) as nametag:
        first, wrong, third, fourth = nametag.stream(documents)
    assert [as_json(s) for s in first.sentences] == told(service, {"text": "Ann left."})
    assert isinstance(wrong.error, Refused)
    assert (wrong.index, wrong.sentences, wrong.error.code) == (1, (), "invalid-request")
    assert (third.id, third.persons, third.error) == ("b", (), None)
    assert [as_json(s) for s in fourth.sentences] == told(service, {"sentences": [["Zoe"]]})


def test_a_long_stream_is_taken_and_answered_bit_by_bit(url):
    n_taken = 0

    def documents():
        nonlocal n_taken
        for i in range(3 * LINES_AT_ONCE + 5):
            n_taken += 1
            yield {"text": f"Ann {i}", "id": i}

    with Nametag(url) as nametag:
        for answer in nametag.stream(documents()):
            assert answer.index == answer.id
            assert answer.sentences[0].text == f"Ann {answer.id}"
            assert n_taken <= answer.index + LINES_AT_ONCE + 2
    assert answer.index == 3 * LINES_AT_ONCE + 4


def test_documents_that_are_long_together_are_sent_apart(url):
    documents = ["Ann left. " * 4_000, "Bob", "Zoe left. " * 40_000, "Eve"]
    assert sum(map(len, documents)) > LINE_BYTES_AT_ONCE
    with Nametag(url) as nametag:
        found = list(nametag.stream(documents))
    assert [len(answer.sentences) for answer in found] == [4_000, 1, 40_000, 1]


def test_documents_may_come_asynchronously(url):
    async def documents():
        for text in ("Ann", "Bob"):
            await asyncio.sleep(0)
            yield text

    async def work(nametag):
        return [answer async for answer in nametag.stream(documents(), offset_unit="utf8")]

    assert [answer.sentences[0].text for answer in run(url, work)] == ["Ann", "Bob"]


def lines(*contents):
    return httpx.Response(200, content=b"".join(json.dumps(each).encode() + b"\n" for each in contents))


def test_a_stream_that_the_service_ends_is_gone_on_with():
    last_word = {"status": 503, "code": "draining", "detail": "", "line": 2}
    patient = Patient(
        lines({**ANSWER, "line": 1, "id": "a"}, last_word), lines({**ANSWER, "line": 1, "id": "b"})
    )
    found = list(patient.client.stream([{"text": "x", "id": "a"}, {"text": "y", "id": "b"}]))
    assert [(each.index, each.id) for each in found] == [(0, "a"), (1, "b")]
    assert [json.loads(line)["id"] for line in patient.requests[1].content.splitlines()] == ["b"]
    assert len(patient.waits) == 1


def test_a_stream_that_ends_again_and_again_is_given_up():
    last_word = {"status": 503, "code": "draining", "detail": "", "line": 1}
    patient = Patient(*[lines(last_word)] * MAX_ATTEMPTS)
    with pytest.raises(Unavailable, match="503 draining"):
        list(patient.client.stream(["x"]))


# Attempts


@pytest.mark.parametrize(("status", "code"), [(429, "overloaded"), (503, "draining")])
def test_a_refusal_for_now_is_waited_out_as_long_as_retry_after_says(status, code):
    refusals = [problem(status, code, {"retry-after": str(wait)}) for wait in (3, 7)]
    patient = Patient(*refusals, httpx.Response(200, json=ANSWER))
    assert patient.client.tag(["x"]) == []
    first, second = patient.waits
    assert 3 <= first <= 3 * (1 + JITTER)
    assert 7 <= second <= 7 * (1 + JITTER)
    deadlines = [float(request.headers["x-request-timeout"]) for request in patient.requests]
    assert all(0 < each <= 60 for each in deadlines)


def test_waits_grow_where_nothing_says_how_long():
    patient = Patient(*[problem(503, "draining")] * 3, httpx.Response(200, json=ANSWER))
    patient.client.tag(["x"])
    assert [
        round(wait / (1 + JITTER), 1) <= least <= wait
        for wait, least in zip(patient.waits, (0.5, 1, 2), strict=True)
    ] == [True] * 3


def test_a_date_in_retry_after_is_understood():
    long_ago = {"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}
    patient = Patient(problem(429, "overloaded", long_ago), httpx.Response(200, json=ANSWER))
    patient.client.tag(["x"])
    ahead = {"retry-after": "Wed, 21 Oct 2115 07:28:00 GMT"}
    with pytest.raises(Unavailable):
        Patient(problem(429, "overloaded", ahead)).client.tag(["x"])


def test_attempts_end():
    patient = Patient(*[problem(429, "overloaded")] * MAX_ATTEMPTS)
    with pytest.raises(Unavailable, match="429 overloaded"):
        patient.client.tag(["x"])
    assert len(patient.requests) == MAX_ATTEMPTS


def test_no_wait_is_longer_than_the_deadline():
    patient = Patient(problem(429, "overloaded", {"retry-after": "11"}), timeout_s=10)
    with pytest.raises(Unavailable):
        patient.client.tag(["x"])
    assert patient.waits == []


def test_other_errors_are_not_repeated():
    for answer, error in [
        (problem(500, "internal-error"), ServiceFailed),
        (problem(504, "deadline-passed"), TimedOut),
        (problem(408, "body-too-slow"), Refused),
        (httpx.Response(502, text="<html>"), ServiceFailed),
        (httpx.Response(200, text="<html>"), ServiceFailed),
        (httpx.Response(200, json=[]), ServiceFailed),
    ]:
        patient = Patient(answer)
        with pytest.raises(error):
            patient.client.tag(["x"])
        assert len(patient.requests) == 1


def test_the_service_s_deadline_is_the_client_s(service):
    gate = service.gate()
    with Nametag(f"http://127.0.0.1:{service.port}", timeout_s=0.3) as nametag, pytest.raises(TimedOut):
        nametag.tag(["Ann"])
    gate.opened.set()


@pytest.mark.parametrize("timeout_s", [math.inf, 1e18, 1e9, 30.0, 0.0004])
def test_any_time_may_be_given_and_the_service_is_told_what_its_header_has_room_for(timeout_s):
    patient = Patient(httpx.Response(200, json=ANSWER), timeout_s=timeout_s)
    assert patient.client.tag(["Ann"]) == []
    (request,) = patient.requests
    assert re.fullmatch(SECONDS_PATTERN, request.headers["x-request-timeout"])
    waited_s = request.extensions["timeout"]["read"]
    assert waited_s is None if timeout_s > 30 else 0 < waited_s <= timeout_s


def test_an_answer_may_be_waited_for_for_ever(url):
    for timeout_s in (math.inf, 1e9):
        with Nametag(url, timeout_s=timeout_s) as nametag:
            assert len(nametag.tag(["Ann"])) == 1


def test_where_nobody_listens_the_connection_fails():
    with Nametag("http://127.0.0.1:1") as nametag, pytest.raises(ConnectionFailed):
        nametag.tag(["Ann"])


# Redaction


def test_redaction_asks_once_and_reads_what_was_replaced():
    said = {
        "start": 0,
        "end": 3,
        "new_start": 0,
        "new_end": 10,
        "replacement": "[PERSON_1]",
        "person": 1,
        "score": 1.0,
    }
    texts = [{"text": "[PERSON_1]", "replacements": [said]}]
    patient = Patient(httpx.Response(200, json={**ANSWER, "mode": "label", "texts": texts}))
    (found,) = patient.client.redact(["Ann"], "label", threshold=0.2)
    assert (found.text, found.replacements[0].person) == ("[PERSON_1]", 1)
    (request,) = patient.requests
    assert request.url.path == "/v1/redact"
    assert json.loads(request.content) == {"texts": ["Ann"], "mode": "label", "threshold": 0.2}


def test_redaction_gives_what_the_service_does(service, url):
    with Nametag(url) as nametag:
        (found,) = nametag.redact([TEXT], "mask", offset_unit="utf16")
        with pytest.raises(Refused, match="invalid-request"):
            nametag.redact([TEXT], "paint")
    body = {"texts": [TEXT], "mode": "mask", "offset_unit": "utf16"}
    (said,) = service.client.post("/v1/redact", json=body).json()["texts"]
    assert found.text == said["text"] != TEXT
    assert [vars_of(each) for each in found.replacements] == said["replacements"]
    assert run(url, lambda nametag: nametag.redact([TEXT], "mask", offset_unit="utf16")) == [found]


def vars_of(replacement):
    return {name: getattr(replacement, name) for name in replacement.__slots__}


# The parts


@brief
@given(st.integers(0, 60), st.integers(1, 20))
def test_parts_keep_the_order_and_leave_nothing_out(n, most):
    def answer(request):
        sentences = json.loads(request.content)["sentences"]
        if len(sentences) > most:
            return problem(413, "too-large", limit="max_sentences", maximum=most, actual=len(sentences))
        found = [{"text": text, "tokens": [], "persons": []} for text in sentences]
        return httpx.Response(200, json={**ANSWER, "sentences": found})

    with Nametag("http://x", transport=httpx.MockTransport(answer)) as nametag:
        assert [s.text for s in nametag.tag([str(i) for i in range(n)])] == [str(i) for i in range(n)]


def test_the_client_is_imported_without_the_server():
    heavy = {"fastapi", "numpy", "onnxruntime", "orjson", "pydantic", "uvicorn"}
    script = f"import sys, service.client; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
