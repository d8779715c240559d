"""Large requests, answered by processes beside the worker: the same answers, and what goes wrong there."""

import asyncio
import json
import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from model.artefact import save
from service import offload
from service.admission import Admission
from service.keys import ADMIN, new_key
from service.problems import ClientGone
from service.relay import LostError, relay
from service.settings import Settings
from tests.conftest import random_artefact
from tests.running import check_problem, process, running
from tests.test_metrics_endpoint import Scraped

pytestmark = pytest.mark.skipif(
    not os.path.exists("/proc/self/task"), reason="needs /proc to find processes"
)

SENTENCES = ["Harry Potter met Hermione Granger in London ."] * 40
LARGE = {"sentences": SENTENCES}  # of about 2,000 bytes: enough to wait for a process
LIMIT = 200
SECRET, KEY = new_key("ada", rate=1)
ADMIN_SECRET, ADMIN_KEY = new_key("boss", ADMIN)


def processes_of(pid):
    """Those that answer large requests, of the worker ``pid``."""
    found = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        for child in (thread / "children").read_text().split():
            with suppress(OSError):
                if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.append(int(child))
    return found


def until(holds):
    ends = time.monotonic() + 20
    while not (found := holds()):
        assert time.monotonic() < ends
        time.sleep(0.01)
    return found


def is_alive(pid):
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    return False


@contextmanager
def large(tiny_artefact, **settings):
    """The service, its client, and the process that answers large requests, which is up."""
    chosen = {"model": tiny_artefact, "drain_delay_s": 0, "offload_bytes": LIMIT, **settings}
    with (
        process(**chosen) as service,
        httpx.Client(base_url=f"http://127.0.0.1:{service.port}", timeout=30) as client,
    ):
        (worker,) = [json.loads(line)["pid"] for line in service.log if '"listening"' in line]
        assert client.post("/v1/tag", json=LARGE, headers={"x-api-key": ADMIN_SECRET}).status_code == 200
        (beside,) = processes_of(worker)
        yield service, client, beside


REQUESTS = {
    "sentences": ("/v1/tag", LARGE),
    "document": ("/v1/tag", {"text": " ".join(SENTENCES), "offset_unit": "utf16"}),
    "redaction": ("/v1/redact", {"text": " ".join(SENTENCES)}),
    "surface": ("/compat/presidio/analyze", {"text": " ".join(SENTENCES), "language": "en"}),
    "wrong-type": ("/v1/tag", {"sentences": [*SENTENCES, 7]}),
    "unknown-model": ("/v1/tag", {**LARGE, "model": "none"}),
    "too-many": ("/v1/tag", {"sentences": ["Ann"] * 500}),
    "unknown-path": ("/v1/nothing", LARGE),
}


def test_answers_and_problems_are_those_of_the_worker_itself(tiny_artefact):
    with (
        large(tiny_artefact, max_sentences=100, max_body_bytes=8_000) as (service, client, _),
        running(tiny_artefact, max_sentences=100, max_body_bytes=8_000) as other,
    ):
        for path, body in REQUESTS.values():
            headers = {"x-request-id": "mine"}
            found = client.post(path, json=body, headers=headers)
            wanted = other.client.post(path, json=body, headers=headers)
            assert (found.status_code, found.content) == (wanted.status_code, wanted.content)
            assert dict(found.headers) | {"date": ""} == dict(wanted.headers) | {"date": ""}
        for content in (b"{" * 2_000, b"\xff" * 2_000, b"[" * 9_000):
            headers = {"content-type": "application/json", "x-request-id": "mine"}
            found = client.post("/v1/tag", content=content, headers=headers)
            wanted = other.client.post("/v1/tag", content=content, headers=headers)
            assert (found.status_code, found.content) == (wanted.status_code, wanted.content)
        service.process.send_signal(signal.SIGTERM)
        assert service.wait() == 0
    lines = [json.loads(line) for line in service.log]
    answered = [line for line in lines if line["message"] == "answered"]
    assert len(answered) == 1 + len(REQUESTS) + 3  # one line for each, whoever answered it
    assert not any("Potter" in line for line in service.log)


def test_they_are_counted_once_and_so_is_what_was_done_for_them(tiny_artefact):
    with large(tiny_artefact) as (_, client, _):
        for _ in range(3):
            assert client.post("/v1/tag", json=LARGE).status_code == 200
            assert client.post("/v1/tag", json={"text": "Ann"}).status_code == 200
        said = Scraped(client)
        assert said("nametag_requests_total", path="/v1/tag", status="200") == 7
        assert said("nametag_sentences_total") == 4 * 40 + 3
        assert said("nametag_worker_restarts_total") == 0


def test_one_that_dies_loses_what_it_had_in_hand_and_is_replaced(tiny_artefact):
    with large(tiny_artefact) as (service, client, beside), ThreadPoolExecutor() as threads:
        os.kill(beside, signal.SIGSTOP)
        waiting = threads.submit(client.post, "/v1/tag", json=LARGE)
        assert client.post("/v1/tag", json={"text": "Ann"}).status_code == 200  # nobody waits for it
        until(lambda: Scraped(client)("nametag_requests_in_progress") >= 1)
        os.kill(beside, signal.SIGKILL)
        problem = waiting.result()
        check_problem(problem, 503, "worker-lost")
        assert problem.headers["retry-after"]
        assert client.post("/v1/tag", json=LARGE).status_code == 200
        assert Scraped(client)("nametag_worker_restarts_total") == 1
        service.process.send_signal(signal.SIGTERM)
        assert service.wait() == 0
    assert any("a worker died" in line for line in service.log)


def test_a_client_that_hangs_up_is_noticed_there(tiny_artefact):
    body = json.dumps(LARGE).encode()
    head = (
        f"POST /v1/tag HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    )
    with large(tiny_artefact) as (service, client, beside):
        os.kill(beside, signal.SIGSTOP)
        for sent in (body, body[:-1]):
            with socket.create_connection(("127.0.0.1", service.port)) as sock:
                sock.sendall(head.encode() + b"\r\n\r\n" + sent)
                until(lambda: Scraped(client)("nametag_requests_in_progress") >= 1)
        until(lambda: Scraped(client)("nametag_requests_in_progress") == 0)
        os.kill(beside, signal.SIGCONT)
        until(lambda: Scraped(client)("nametag_requests_total", path="/v1/tag") == 3)
        assert Scraped(client)("nametag_requests_total", status="499") >= 1  # that whose body broke off
        assert client.post("/v1/tag", json=LARGE).status_code == 200
        assert processes_of(service.process.pid) == [beside]


def test_being_told_to_stop_finishes_what_was_passed_on(tiny_artefact):
    with large(tiny_artefact) as (service, client, beside), ThreadPoolExecutor() as threads:
        os.kill(beside, signal.SIGSTOP)
        waiting = threads.submit(client.post, "/v1/tag", json=LARGE)
        until(lambda: Scraped(client)("nametag_requests_in_progress") >= 1)
        service.process.send_signal(signal.SIGTERM)
        until(lambda: httpx.get(client.base_url.join("/readyz")).status_code == 503)
        check_problem(client.post("/v1/tag", json=LARGE), 503, "draining")
        os.kill(beside, signal.SIGCONT)
        assert len(waiting.result().json()["sentences"]) == 40
        assert service.wait() == 0
    assert not is_alive(beside)


def test_it_ends_with_its_worker(tiny_artefact):
    with large(tiny_artefact) as (service, _, beside):
        service.process.kill()
        until(lambda: not is_alive(beside))


def test_a_key_is_asked_for_and_its_rate_counted_once(tiny_artefact, tmp_path):
    keys = tmp_path / "keys.txt"
    keys.write_text(f"{KEY.line}\n{ADMIN_KEY.line}\n")
    with large(tiny_artefact, keys_file=keys) as (service, client, _):
        check_problem(client.post("/v1/tag", json=LARGE), 401, "key-missing")
        check_problem(client.post("/v1/tag", json=LARGE, headers={"x-api-key": "no"}), 403, "key-wrong")
        mine = {"x-api-key": SECRET}
        assert client.post("/v1/tag", json=LARGE, headers=mine).status_code == 200
        check_problem(client.post("/v1/tag", json=LARGE, headers=mine), 429, "rate-limited")
        service.process.send_signal(signal.SIGTERM)
        assert service.wait() == 0
    said = [json.loads(line) for line in service.log]
    keys = [line.get("key", "") for line in said if line["message"] == "answered"]
    assert sorted(keys) == ["", "", "", "ada", "boss"]


def test_after_a_reload_another_answers_with_the_new_version(tmp_path):
    for version in "12":
        artefact = random_artefact(int(version))
        save(replace(artefact, config=replace(artefact.config, version=version)), tmp_path / version)
    keys = tmp_path / "keys.txt"
    keys.write_text(ADMIN_KEY.line + "\n")
    with large(tmp_path / "1", models_dir=tmp_path, keys_file=keys) as (service, client, beside):
        client.headers["x-api-key"] = ADMIN_SECRET
        os.kill(beside, signal.SIGSTOP)
        with ThreadPoolExecutor() as threads:
            waiting = threads.submit(client.post, "/v1/tag", json=LARGE)
            until(lambda: Scraped(client)("nametag_requests_in_progress") >= 1)
            assert client.post("/v1/models/tiny/load", json={"path": "2"}).status_code == 200
            for pinned, wanted in ((None, "2"), ("tiny@1", "1"), ("tiny@2", "2")):
                body = LARGE if pinned is None else {**LARGE, "model": pinned}
                assert client.post("/v1/tag", json=body).json()["model"]["version"] == wanted
            os.kill(beside, signal.SIGCONT)
            assert waiting.result().json()["model"]["version"] == "1"  # finished where it had begun
        until(lambda: not is_alive(beside))
        assert len(processes_of(service.process.pid)) == 1
        assert Scraped(client)("nametag_worker_restarts_total") == 0


@pytest.mark.parametrize(("workers", "wanted"), [(1, "aaaaa"), (2, "aabba")])
def test_two_are_enough_for_another_where_there_are_workers_for_it(monkeypatch, workers, wanted):
    chosen = []

    async def run():
        models = SimpleNamespace(all=[], lineup=())
        offloads = offload.Offload(
            Settings(workers=workers), models, Admission(10, 1_000), None, check_accepting=lambda: None
        )
        leave = asyncio.Event()
        scope = {"headers": [(b"content-length", b"100000")]}

        def begun():
            made = offload._Process(Path("ab"[len(offloads._current)]), (), offloads._loop.create_future())
            made.is_up.set_result(None)
            return made

        async def relayed(path, *_):
            chosen.append(str(path))
            await leave.wait()

        monkeypatch.setattr(offloads, "_begun", begun)
        monkeypatch.setattr(offload, "relay", relayed)
        async with asyncio.TaskGroup() as tasks:
            for _ in wanted:
                tasks.create_task(offloads.answered(scope, None, None, b"mine"))
                await asyncio.sleep(0)
            leave.set()

    asyncio.run(run())
    assert "".join(chosen) == wanted


def test_one_that_nobody_asks_ends(tiny_artefact, monkeypatch):
    monkeypatch.setattr(offload, "_IDLE_S", 0.05)
    with running(tiny_artefact, offload_bytes=LIMIT) as service:
        assert service.tag(SENTENCES)
        until(lambda: not service.service.offload._alive)
        assert service.tag(SENTENCES)  # by a new one


def test_where_there_is_none_the_worker_answers(tiny_artefact, monkeypatch):
    starts = []

    def fails(_, new):
        starts.append(new)
        raise OSError("no room")

    monkeypatch.setattr(offload.Offload, "_spawn", fails)
    with running(tiny_artefact, offload_bytes=LIMIT) as service:
        for _ in range(3):
            assert service.tag(SENTENCES)
        assert len(starts) == 1  # not again and again
        said = Scraped(service.client)
        assert said("nametag_requests_total", path="/v1/tag", status="200") == 3


@pytest.mark.parametrize(
    ("sentences", "headers"), [(SENTENCES, {"x-request-timeout": "2"}), (SENTENCES[:20], {})]
)
def test_who_has_little_time_or_needs_little_does_not_wait_for_one_to_start(
    tiny_artefact, monkeypatch, sentences, headers
):
    starts = []

    async def never_up(_, new):
        starts.append(new)

    monkeypatch.setattr(offload.Offload, "_start", never_up)
    with running(tiny_artefact, offload_bytes=LIMIT) as service:
        answer = service.client.post("/v1/tag", json={"sentences": sentences}, headers=headers)
        assert answer.status_code == 200
        said = Scraped(service.client)
        assert said("nametag_requests_total", path="/v1/tag", status="200") == 1
    assert len(starts) == 1  # for those that come later


# The relay, with the other side told what to do


SCOPE = {
    "method": "POST",
    "raw_path": b"/v1/tag",
    "query_string": b"a=1",
    "headers": [(b"host", b"x"), (b"content-length", b"4"), (b"expect", b"100-continue")],
}


def relayed(tmp_path, other, *, body=(b"ab", b"cd"), timeout_s=10, then_gone=False):
    """The messages that the client got."""
    sent = []
    path = tmp_path / "socket"

    async def send(message):
        sent.append(message)

    async def run():
        server = await asyncio.start_unix_server(other, path)
        left = list(body)

        async def receive():
            if left:
                return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}
            if not then_gone:
                await asyncio.sleep(60)
            return {"type": "http.disconnect"}

        async with server:
            try:
                await relay(path, SCOPE, receive, send, b"mine", timeout_s)
            finally:
                await asyncio.sleep(0.05)  # until both sides have closed

    try:
        asyncio.run(run())
    finally:
        path.unlink(missing_ok=True)
    return sent


def says(answer, *, reads=b"abcd"):
    async def other(reader, writer):
        if reads:
            assert (await reader.readuntil(reads)).endswith(reads)
        writer.write(answer)
        await writer.drain()
        writer.close()

    return other


def test_a_request_is_passed_on_as_it_is_but_for_what_is_of_the_connection(tmp_path):
    asked = []

    async def other(reader, writer):
        asked.append(await reader.readuntil(b"abcd"))
        writer.write(b"HTTP/1.1 200 OK\r\nDate: x\r\nX-A: 1\r\nTransfer-Encoding: chunked\r\n\r\n")
        for chunk in (b"3\r\nabc\r\n", b"2\r\nde\r\n", b"0\r\n\r\n"):
            await asyncio.sleep(0.01)
            writer.write(chunk)
        writer.close()

    head, *body = relayed(tmp_path, other)
    assert asked == [
        b"POST /v1/tag?a=1 HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\nx-request-id: mine\r\n"
        b"connection: close\r\n\r\nabcd"
    ]
    assert head == {"type": "http.response.start", "status": 200, "headers": [(b"x-a", b"1")]}
    assert b"".join(each["body"] for each in body) == b"abcde"
    assert [each["more_body"] for each in body][-1] is False


def test_an_answer_may_come_before_the_body_was_read(tmp_path):
    refusal = b"HTTP/1.1 413 No\r\nContent-Length: 2\r\n\r\nno"
    head, body = relayed(tmp_path, says(refusal, reads=b""), body=[b"x" * (1 << 20)] * 16)
    assert (head["status"], body["body"], body["more_body"]) == (413, b"no", False)


@pytest.mark.parametrize(
    ("answer", "has_begun"),
    [
        (b"", False),
        (b"HTTP/1.1 200 OK\r\nContent-", False),
        (b"not HTTP at all\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc", True),
    ],
)
def test_an_answer_that_breaks_off_is_told_apart_by_whether_it_had_begun(tmp_path, answer, has_begun):
    with pytest.raises(LostError) as lost:
        relayed(tmp_path, says(answer))
    assert lost.value.has_begun is has_begun


def test_who_says_nothing_and_who_is_not_there_are_lost(tmp_path):
    async def silent(reader, writer):
        await reader.read()
        writer.close()

    with pytest.raises(LostError):
        relayed(tmp_path, silent, timeout_s=0.05)
    with pytest.raises(LostError):
        asyncio.run(relay(tmp_path / "nobody", SCOPE, None, None, b"mine", 1))


@pytest.mark.parametrize("body", [(b"abcd",), ()])
def test_a_client_that_leaves_ends_it(tmp_path, body):
    gone = []

    async def other(reader, writer):
        gone.append(await reader.read())  # until the connection is closed
        writer.close()

    with pytest.raises(ClientGone):
        relayed(tmp_path, other, body=body, then_gone=True)
