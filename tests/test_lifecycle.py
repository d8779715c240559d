"""Starting, being told to stop, and what is said meanwhile; as the process that users start."""

import json
import re
import shutil
import signal
import socket
import subprocess
from dataclasses import replace

import httpx
import pytest

from model.artefact import save
from service.workers import pause_s
from tests.conftest import random_artefact
from tests.running import check_problem, process, run_to_end, running

HEAD = (
    b"POST /v1/tag HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\nExpect: 100-continue\r\n\r\n"
)


BODY = json.dumps({"sentences": ["Harry Potter met Hermione ."] * 50}).encode()


def begun_request(client):
    """Sends the head of a request, and returns when the service is handling it."""
    client.sendall(HEAD % len(BODY))
    assert client.recv(100).startswith(b"HTTP/1.1 100 ")


def check_finished(client):
    """Sends the rest, and asserts that all is answered."""
    client.sendall(BODY)
    answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert len(json.loads(answer.partition(b"\r\n\r\n")[2])["sentences"]) == 50


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT])
def test_being_told_to_stop_finishes_what_was_accepted_says_so_and_exits_with_0(tiny_artefact, told):
    with (
        process(model=tiny_artefact, drain_delay_s=0) as service,
        socket.create_connection(("127.0.0.1", service.port), timeout=20) as client,
    ):
        begun_request(client)
        service.process.send_signal(told)
        url = f"http://127.0.0.1:{service.port}"
        while (answer := httpx.get(url + "/readyz")).status_code == 200:
            pass
        check_problem(answer, 503, "draining")
        refused = httpx.post(url + "/v1/tag", json={"text": "Ann"})
        check_problem(refused, 503, "draining")
        assert refused.headers["retry-after"]
        assert httpx.get(url + "/livez").status_code == 200
        check_finished(client)
        assert service.wait() == 0
        assert '"stopped"' in service.log[-1]


def test_from_sigterm_on_it_is_not_ready_and_answers_all_the_same_until_load_balancers_look_away(
    tiny_artefact,
):
    body = {"sentences": ["Harry Potter met Hermione ."]}
    with (
        process(model=tiny_artefact, drain_delay_s=25) as service,
        httpx.Client(base_url=f"http://127.0.0.1:{service.port}", timeout=20) as client,
    ):
        before = client.post("/v1/tag", json=body)
        assert "connection" not in before.headers
        service.process.send_signal(signal.SIGTERM)
        while (answer := httpx.get(client.base_url.join("/readyz"))).status_code == 200:
            pass
        check_problem(answer, 503, "draining")
        leaving = client.post("/v1/tag", json=body)  # on the connection from before
        assert (leaving.status_code, leaving.content) == (200, before.content)
        assert leaving.headers["connection"] == "close"


def test_sigterm_lets_every_worker_finish_what_it_accepted(tiny_artefact):
    with (
        process(model=tiny_artefact, workers=2, drain_delay_s=0) as service,
        socket.create_connection(("127.0.0.1", service.port), timeout=20) as client,
    ):
        begun_request(client)
        service.process.send_signal(signal.SIGTERM)
        check_finished(client)
        assert service.wait() == 0


def test_work_that_outlasts_the_grace_period_is_answered_and_the_process_ends(tiny_artefact):
    with (
        process(model=tiny_artefact, grace_s=0.3, drain_delay_s=0) as service,
        socket.create_connection(("127.0.0.1", service.port), timeout=20) as client,
    ):
        begun_request(client)
        service.process.send_signal(signal.SIGTERM)
        assert service.wait() == 0


def test_submitted_text_never_reaches_the_log(tiny_artefact):
    with process(model=tiny_artefact, log_level="debug") as service:
        url = f"http://127.0.0.1:{service.port}"
        with httpx.Client(base_url=url, timeout=20) as client:
            for body in (
                b'{"text": "Zebedee Quux"}',
                b'{"text": "Zebedee Quux", "zebedee": 1}',
                b'{"text": "Zebedee Quux \\ud83d"}',
                b'{"text": "Zebedee Quux',
                b'{"sentences": ["Zebedee", 5], "model": "Quux"}',
                b'{"sentences": ["Zebedee"], "model": "Quux"}',
            ):
                client.post("/v1/tag", content=body, headers={"content-type": "application/json"})
            client.post("/v1/tag?zebedee=quux", content=b"Zebedee", headers={"x-request-timeout": "Quux"})
            client.get("/v1/models/Zebedee", headers={"x-request-id": "Zebedee Quux"})
            client.get("/Zebedee?quux")
        with socket.create_connection(("127.0.0.1", service.port), timeout=20) as client:
            client.sendall(b"Zebedee Quux\r\n\r\n")
            client.recv(65536)
        service.process.send_signal(signal.SIGTERM)
        assert service.wait() == 0
    assert len(service.log) >= 3
    for line in service.log:
        assert json.loads(line)["message"]
        assert not re.search("zebedee|quux", line, re.IGNORECASE)


def damaged(tiny_artefact, folder):
    shutil.copytree(tiny_artefact, folder)
    weights = folder / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    return folder


@pytest.mark.parametrize("workers", [1, 2])
def test_a_model_with_one_byte_changed_is_refused_in_one_line(tiny_artefact, tmp_path, workers):
    ended = run_to_end(
        model=damaged(tiny_artefact, tmp_path / "damaged"), workers=workers, log_level="error"
    )
    assert ended.returncode == 2
    for line in ended.stderr.splitlines():
        assert re.fullmatch(r"nametag: .*weights\.safetensors: sha256 is .* the file has changed.*", line)
    assert 1 <= len(ended.stderr.splitlines()) <= workers


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"port": "8o00"}, "nametag: NAMETAG_PORT is '8o00': a whole number"),
        ({"model": "/nowhere"}, "nametag: /nowhere: no such model folder"),
        ({"host": "203.0.113.1"}, "nametag: cannot listen on 203.0.113.1:0: "),
    ],
)
def test_what_cannot_be_served_is_said_in_one_line_with_exit_code_2(settings, message):
    ended = run_to_end(**settings)
    assert ended.returncode == 2
    assert ended.stderr.startswith(message)
    assert ended.stderr.count("\n") == 1
    assert ended.stdout == ""


def test_the_same_model_twice_is_refused(tiny_artefact):
    ended = run_to_end(model=f"{tiny_artefact}:{tiny_artefact}")
    assert ended.returncode == 2
    assert ended.stderr.endswith("model tiny@1 is loaded already\n")


def test_help_lists_the_settings_and_bad_arguments_exit_with_2():
    helped = run_to_end("--help")
    assert helped.returncode == 0
    assert "NAMETAG_MAX_BODY_BYTES" in helped.stdout
    assert run_to_end("--port", "1").returncode == 2


def test_a_model_that_fails_its_self_test_is_live_and_not_ready(tmp_path):
    artefact = random_artefact()
    wrong = [dict(entry) for entry in artefact.expected]
    wrong[3]["scores"] = [score / 2 for score in wrong[3]["scores"]]
    save(replace(artefact, expected=wrong), tmp_path / "wrong")
    with running(tmp_path / "wrong") as service:
        assert service.client.get("/livez").status_code == 200
        problem = check_problem(service.client.get("/readyz"), 503, "self-test-failed")
        assert "sentence 3" in problem["detail"]
        assert not any(
            word in json.dumps(problem) for entry in wrong for word in entry["tokens"] if len(word) > 5
        )
        service.refused(503, "self-test-failed", json={"sentences": ["Ann"]})
        assert not service.client.get("/v1/models").json()["models"][0]["ready"]


def test_a_wedged_worker_is_not_live(tiny_artefact):
    with running(tiny_artefact, wedged_after_s=0.01) as service:
        gate = service.gate()
        body = {"sentences": ["Ann"]}
        service.refused(504, "deadline-passed", json=body, headers={"x-request-timeout": "0.05"})
        check_problem(service.client.get("/livez"), 503, "wedged")
        gate.opened.set()
        assert service.tag(["Ann"])
        assert service.client.get("/livez").status_code == 200


def test_a_worker_that_dies_is_replaced(tiny_artefact):
    with process(model=tiny_artefact, workers=2, drain_delay_s=0) as service:
        pids = set()
        url = f"http://127.0.0.1:{service.port}"
        listening = [json.loads(line) for line in service.log if '"listening"' in line]
        victim = listening[0]["pid"]
        subprocess.run(["kill", "-9", str(victim)], check=True)
        while len(pids) < 2:  # of the two workers that are there in the end
            line = service.process.stderr.readline()
            service.log.append(line)
            if '"listening"' in line:
                pids.add(json.loads(line)["pid"])
        assert victim not in pids
        assert httpx.get(url + "/readyz").status_code == 200
        service.process.send_signal(signal.SIGTERM)
        assert service.wait() == 0
    assert any("a worker died" in line for line in service.log)


def test_a_worker_that_cannot_serve_is_tried_less_and_less_often():
    pauses = [1.0]
    for _ in range(7):
        pauses.append(pause_s(2, pauses[-1]))
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]
    assert pause_s(-signal.SIGKILL, 30.0) == 1.0
