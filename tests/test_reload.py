"""Other versions while requests come in: in one process, and in two workers as users start them."""

import gc
import json
import os
import shutil
import signal
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from model.artefact import save
from model.tagger import Tagger
from service.keys import ADMIN, new_key
from service.schemas import ChangeResponse, ModelList
from tests.conftest import random_artefact
from tests.running import check_problem, process, running

TOKENS = "Harry Potter met Hermione Granger in London .".split()
SECRET, KEY = new_key("boss", ADMIN)
USER_SECRET, USER_KEY = new_key("ada")
HEADERS = {"x-api-key": SECRET}


def made(folder, version, *, seed, name="tiny", **changes):
    artefact = random_artefact(seed, name)
    config = replace(artefact.config, version=version)
    save(replace(artefact, config=config, **changes), folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of model folders: "tiny" in three versions, and what cannot be loaded."""
    folder = tmp_path_factory.mktemp("models")
    for version in "123":
        made(folder / f"tiny-{version}", version, seed=int(version))
    made(folder / "other", "1", seed=4, name="other")
    made(folder / "nested" / "model", "7", seed=7)
    made(folder / "again", "1", seed=5)  # version 1, of other weights
    wrong = [dict(entry) for entry in random_artefact(6).expected]
    wrong[2]["scores"] = [score / 2 for score in wrong[2]["scores"]]
    made(folder / "forgetful", "8", seed=6, expected=wrong)
    made(folder / "damaged", "9", seed=9)
    weights = bytearray((folder / "damaged" / "weights.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "damaged" / "weights.safetensors").write_bytes(weights)
    (folder / "empty").mkdir()
    return folder


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("keys") / "keys.txt"
    path.write_text(f"{KEY.line}\n{USER_KEY.line}\n")
    return path


@pytest.fixture
def service(folders, keys_file):
    """Serves tiny@1, alone."""
    with running(folders / "tiny-1", models_dir=folders, keys_file=keys_file) as service:
        service.client.headers.update(HEADERS)
        yield service


def change(client, what, name="tiny", **body):
    return client.post(f"/v1/models/{name}/{what}", json=body)


def changed(client, what, name="tiny", **body):
    answer = change(client, what, name, **body)
    assert answer.status_code == 200, answer.text
    ChangeResponse.model_validate_json(answer.content)
    return answer.json()


def version_of(client, model=None):
    answer = client.post("/v1/tag", json={"sentences": [TOKENS], "model": model})
    assert answer.status_code == 200, answer.text
    return answer.json()["model"]["version"]


def loaded(client):
    listed = client.get("/v1/models").json()
    ModelList.model_validate(listed)
    return [f"{m['name']}@{m['version']}" + "*" * m["current"] for m in listed["models"]]


def until(condition):
    while not condition():
        time.sleep(0.01)  # a test that spins would keep what it waits for from running


# What a load makes of the names


def test_a_load_moves_the_bare_name_and_keeps_one_version_for_pinned_requests_and_for_going_back(service):
    client = service.client
    assert loaded(client) == ["tiny@1*"]
    told = changed(client, "load", path="tiny-2")
    assert told == {"name": "tiny", "version": "2", "previous": "1", "unloaded": []}
    assert loaded(client) == ["tiny@2*", "tiny@1"]
    assert [version_of(client, m) for m in (None, "tiny", "tiny@1", "tiny@2")] == ["2", "2", "1", "2"]
    assert changed(client, "load", version="3")["unloaded"] == ["tiny@1"]  # found by its version
    assert [version_of(client, m) for m in (None, "tiny@2")] == ["3", "2"]
    problem = check_problem(
        client.post("/v1/tag", json={"sentences": [TOKENS], "model": "tiny@1"}), 404, "unknown-model"
    )
    assert problem["available"] == ["tiny@3", "tiny@2"]
    assert changed(client, "unload", version="2")["previous"] is None
    assert loaded(client) == ["tiny@3*"]
    changed(client, "load", version="7")  # two folders deep
    changed(client, "load", name="other", path="other")  # a name that nothing had
    assert loaded(client) == ["tiny@7*", "tiny@3", "other@1*"]
    assert client.get("/v1/models/tiny").json()["version"] == "7"
    assert client.get("/readyz").status_code == 200


def test_going_back_to_the_version_that_is_loaded_still_reads_nothing(service, monkeypatch):
    changed(service.client, "load", path="tiny-2")
    first = service.service.models.find("tiny@1")
    monkeypatch.setattr("service.models.Tagger.load", None)
    monkeypatch.setattr("service.models.digest_of", None)
    assert changed(service.client, "load", version="1")["previous"] == "2"
    assert service.service.models.find("tiny") is first
    assert version_of(service.client) == "1"
    told = changed(service.client, "load", version="1")  # which it has already
    assert (told["version"], told["previous"]) == ("1", "2")


def test_a_folder_of_the_settings_is_loaded_by_its_path_without_a_folder_of_folders(folders, keys_file):
    first, second = folders / "tiny-1", folders / "tiny-2"
    with running(first, second, keys_file=keys_file) as service:
        service.client.headers.update(HEADERS)
        assert loaded(service.client) == ["tiny@1*", "tiny@2"]
        changed(service.client, "load", path=str(second))
        assert loaded(service.client) == ["tiny@2*", "tiny@1"]
        changed(service.client, "load", version="1")
        answer = change(service.client, "load", path=str(folders / "tiny-3"))
        check_problem(answer, 403, "folder-not-allowed")


def test_a_model_that_fails_its_self_test_at_the_start_is_mended_by_a_load(folders, keys_file):
    with running(folders / "forgetful", models_dir=folders, keys_file=keys_file) as service:
        service.client.headers.update(HEADERS)
        check_problem(service.client.get("/readyz"), 503, "self-test-failed")
        changed(service.client, "load", path="tiny-2")
        assert service.client.get("/readyz").status_code == 200


# What is refused


@pytest.mark.parametrize(
    ("body", "status", "code", "detail"),
    [
        ({"path": "nowhere"}, 422, "load-failed", "no such model folder"),
        ({"path": "empty"}, 422, "load-failed", "not a model folder"),
        ({"path": "damaged"}, 422, "load-failed", "weights.safetensors: sha256 is"),
        ({"path": "forgetful"}, 422, "load-failed", "expected.json, sentence 2"),
        ({"path": "other"}, 422, "load-failed", "holds 'other', and 'tiny' is expected"),
        ({"path": "again"}, 409, "version-taken", "tiny@1 is loaded already, from other files"),
        ({"version": "99"}, 404, "unknown-model", "no folder that may be loaded holds tiny@99"),
        ({"path": ".."}, 403, "folder-not-allowed", "NAMETAG_MODELS_DIR"),
        ({"path": "."}, 403, "folder-not-allowed", ""),
        ({"path": ""}, 403, "folder-not-allowed", ""),
        ({"path": "tiny-2/../../x"}, 403, "folder-not-allowed", ""),
        ({"path": "/etc"}, 403, "folder-not-allowed", ""),
        ({"path": "a\0b"}, 422, "load-failed", ""),
        ({"path": "x" * 5000}, 422, "load-failed", ""),
        ({}, 422, "invalid-request", "`path` or `version`"),
        ({"path": "tiny-2", "version": "2"}, 422, "invalid-request", ""),
        ({"path": 1}, 422, "invalid-request", "/path is a number"),
        ({"folder": "tiny-2"}, 422, "invalid-request", ""),
        ([], 422, "invalid-request", ""),
    ],
    ids=range(19),
)  # fmt: skip
def test_a_load_that_cannot_be_says_why_and_changes_nothing(module_service, body, status, code, detail):
    answer = module_service.client.post("/v1/models/tiny/load", json=body)
    assert detail in check_problem(answer, status, code)["detail"]
    assert loaded(module_service.client) == ["tiny@1*"]
    assert version_of(module_service.client) == "1"


@pytest.fixture(scope="module")
def module_service(folders, keys_file):
    """The same, for tests that change nothing."""
    with running(folders / "tiny-1", models_dir=folders, keys_file=keys_file) as service:
        service.client.headers.update(HEADERS)
        yield service


def test_an_unload_that_cannot_be_says_why(module_service):
    client = module_service.client
    check_problem(change(client, "unload", version="1"), 409, "version-in-use")
    check_problem(change(client, "unload", version="2"), 404, "unknown-model")
    check_problem(change(client, "unload", name="nope", version="1"), 404, "unknown-model")
    check_problem(change(client, "unload", path="tiny-1"), 422, "invalid-request")
    check_problem(client.post("/v1/models/tiny/unload", content=b"{"), 415, "unsupported-content-type")


def test_only_an_admin_s_key_loads_and_unloads(module_service, folders, tmp_path):
    for what in ("load", "unload"):
        url = f"http://127.0.0.1:{module_service.port}/v1/models/tiny/{what}"
        body = {"version": "2"}
        check_problem(httpx.post(url, json=body), 401, "key-missing")
        answer = httpx.post(url, json=body, headers={"x-api-key": "no"})
        check_problem(answer, 403, "key-wrong")
        answer = httpx.post(url, json=body, headers={"x-api-key": USER_SECRET})
        check_problem(answer, 403, "admin-only")
    (tmp_path / "keys").write_text(USER_KEY.line)
    for settings in ({}, {"keys_file": tmp_path / "keys"}):
        with running(folders / "tiny-1", models_dir=folders, **settings) as service:
            service.client.headers["x-api-key"] = USER_SECRET
            problem = check_problem(change(service.client, "load", path="tiny-2"), 403, "admin-only")
            assert "new-key --admin" in problem["detail"]
            assert loaded(service.client) == ["tiny@1*"]


def test_the_documentation_tells_of_keys_and_its_example_works(module_service, service):
    document = module_service.client.get("/openapi.json").json()
    for what in ("load", "unload"):
        operation = document["paths"][f"/v1/models/{{name}}/{what}"]["post"]
        assert operation["security"] == [{"bearer": []}, {"api_key": []}]
        assert {"200", "401", "403", "404", "409", "422", "429", "503"} <= operation["responses"].keys()
        ChangeResponse.model_validate(
            operation["responses"]["200"]["content"]["application/json"]["example"]
        )
        example = operation["requestBody"]["content"]["application/json"]["examples"]["version"]["value"]
        changed(service.client, "load", path="tiny-3" if what == "unload" else "tiny-2")
        changed(service.client, what, **example)


# Requests meanwhile


class Held:
    """A model folder one file of which is a pipe: who reads it waits for the test."""

    def __init__(self, source, folder, name="chars.json"):
        shutil.copytree(source, folder)
        self.path = folder / name
        self.content = self.path.read_bytes()
        self.path.unlink()
        os.mkfifo(self.path)

    def wait_for_a_reader(self):
        self._end = os.open(self.path, os.O_WRONLY)

    def let_go(self, content=None):
        os.write(self._end, self.content if content is None else content)
        os.close(self._end)


def test_a_load_disturbs_nobody_and_there_is_one_at_a_time(service, folders):
    held = Held(folders / "tiny-2", folders / "held-one")
    try:
        with ThreadPoolExecutor(1) as other:
            loading = other.submit(changed, service.client, "load", path="held-one")
            held.wait_for_a_reader()
            assert version_of(service.client) == "1"
            for what, body in (("load", {"path": "tiny-3"}), ("unload", {"version": "1"})):
                refused = change(service.client, what, **body)
                check_problem(refused, 409, "load-in-progress")
                assert refused.headers["retry-after"]
            assert loaded(service.client) == ["tiny@1*"]
            held.let_go()
            assert loading.result()["version"] == "2"
        assert version_of(service.client) == "2"
    finally:
        shutil.rmtree(folders / "held-one")


def test_a_load_that_takes_too_long_is_given_up_and_the_next_one_works(folders, keys_file):
    held = Held(folders / "tiny-2", folders / "held-two")
    try:
        with running(
            folders / "tiny-1", models_dir=folders, keys_file=keys_file, load_timeout_s=0.2
        ) as service:
            service.client.headers.update(HEADERS)
            answer = change(service.client, "load", path="held-two")
            check_problem(answer, 503, "load-aborted")
            assert answer.headers["retry-after"]
            held.wait_for_a_reader()
            held.let_go()  # what was given up is neither served nor kept, though it ends well
            until(lambda: "load" not in {thread.name for thread in threading.enumerate()})
            assert loaded(service.client) == ["tiny@1*"]
            assert service.service.switch._new is None
            until(lambda: change(service.client, "load", path="tiny-3").status_code != 503)
            assert loaded(service.client) == ["tiny@3*", "tiny@1"]
    finally:
        shutil.rmtree(folders / "held-two")


def test_what_a_version_has_begun_it_finishes_though_it_is_unloaded(service):
    changed(service.client, "load", path="tiny-2")
    model = service.service.models.find("tiny@1")
    batcher = model.batcher
    opened, came = threading.Event(), threading.Event()
    tag_batch = batcher._tag_batch

    def gate(items):
        came.set()
        assert opened.wait(30)
        return tag_batch(items)

    batcher._tag_batch = gate
    batcher._max_tokens_at_once = 0
    with ThreadPoolExecutor(1) as other:
        asked = other.submit(version_of, service.client, "tiny@1")
        assert came.wait(30)
        assert changed(service.client, "unload", version="1")["unloaded"] == ["tiny@1"]
        assert loaded(service.client) == ["tiny@2*"]
        opened.set()
        assert asked.result() == "1"


def test_a_request_that_found_its_version_and_has_yet_to_submit_to_it_is_answered(service):
    changed(service.client, "load", path="tiny-2")
    opened = threading.Event()
    service.service.text_thread.submit(opened.wait, 30)
    long = {"text": "Harry Potter met Hermione Granger . " * 500, "model": "tiny@1"}  # cut on that thread
    with ThreadPoolExecutor(1) as other:
        asked = other.submit(service.client.post, "/v1/tag", json=long)
        until(lambda: not service.service.text_thread._work_queue.empty())
        changed(service.client, "unload", version="1")
        changed(service.client, "load", path="tiny-3")
        opened.set()
        answer = asked.result()
    assert answer.status_code == 200
    assert answer.json()["model"]["version"] == "1"


def test_an_unloaded_model_is_freed_though_what_is_loaded_is_hidden_from_the_collector(service):
    changed(service.client, "load", path="tiny-2")
    version_of(service.client, "tiny@1")
    model = service.service.models.find("tiny@1")
    vocabulary = model.tagger.artefact.vocabulary
    tagger, sessions = model.tagger, model.tagger.backend._sentences
    parts = [model, model.batcher, tagger, sessions, vocabulary, vocabulary.encoder]
    freed = threading.Semaphore(0)  # one after another, in whichever thread lets go of the last
    for part in parts:
        weakref.finalize(part, freed.release)
    waited_for, thread = len(parts), model.batcher._thread
    del model, vocabulary, tagger, sessions, parts, part
    gc.disable()
    try:
        gc.freeze()
        changed(service.client, "unload", version="1")
        assert all(freed.acquire(timeout=30) for _ in range(waited_for))
        thread.join(30)
        assert not thread.is_alive()
    finally:
        gc.enable()
        gc.unfreeze()


# Two workers


def expected(folder):
    (tagged,) = Tagger.load(folder, device="cpu").tag([TOKENS])
    return tagged.labels, [round(score, 6) for score in tagged.scores]


@contextmanager
def two_workers(folders, keys_file, **settings):
    # Several processes start here, one after another: on a busy machine that takes its time.
    # Nobody reads the log while requests are made: a line for each would soon fill the pipe.
    own = {"patience_s": 300, "drain_delay_s": 0, "model": folders / "tiny-1", "access_log": "off"}
    settings = {**own, **settings}
    with process(workers=2, models_dir=folders, keys_file=keys_file, **settings) as service:
        while sum('"listening"' in line for line in service.log) < 2:
            service.log.append(service.process.stderr.readline())
        yield service


def pids(service):
    """Of the workers that listen, in the order in which they came."""
    return [json.loads(line)["pid"] for line in service.log if '"listening"' in line]


def new_client(service):
    return httpx.Client(base_url=f"http://127.0.0.1:{service.port}", headers=HEADERS, timeout=30)


def open_files(pid):
    """What a process has open, as /proc says it."""
    found = set()
    for number in os.listdir(f"/proc/{pid}/fd"):
        with suppress(OSError):  # closed meanwhile
            found.add(os.readlink(f"/proc/{pid}/fd/{number}"))
    return found


def owner(client, service):
    """The worker that a client's connection leads to; by the port of its end, in /proc."""
    client.get("/livez")
    stream = client._transport._pool.connections[0]._connection._network_stream
    port = stream.get_extra_info("socket").getsockname()[1]
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        local, remote, inode = (line.split()[i] for i in (1, 2, 9))
        if int(local[-4:], 16) == service.port and int(remote[-4:], 16) == port:
            for pid in pids(service):
                if f"socket:[{inode}]" in open_files(pid):
                    return pid
    raise AssertionError("nobody has the connection")


@contextmanager
def one_client_each(service):
    """Clients by the worker that they are connected to."""
    clients = {}
    spare = []
    try:
        while len(clients) < 2:
            client = new_client(service)
            spare.append(client)
            clients.setdefault(owner(client, service), client)
        yield clients
    finally:
        for client in spare:
            client.close()


def stop(service):
    service.process.send_signal(signal.SIGTERM)
    assert service.wait() == 0


def test_under_load_every_answer_is_that_of_the_version_it_names_and_afterwards_of_the_new_one(
    folders, keys_file
):
    right = {version: expected(folders / f"tiny-{version}") for version in "123"}
    assert right["1"] != right["2"] != right["3"]
    with two_workers(folders, keys_file) as service:
        done = threading.Event()
        seen = []

        def hammer():
            with new_client(service) as client:
                while not done.is_set():
                    answer = client.post("/v1/tag", json={"sentences": [TOKENS]})
                    assert answer.status_code == 200, answer.text
                    tokens = answer.json()["sentences"][0]["tokens"]
                    version = answer.json()["model"]["version"]
                    labels, scores = right[version]
                    assert [t["label"] for t in tokens] == labels
                    assert [t["score"] for t in tokens] == pytest.approx(scores, abs=1e-4)
                    seen.append(version)

        with ThreadPoolExecutor(4) as clients, new_client(service) as admin:
            asked = [clients.submit(hammer) for _ in range(4)]
            try:
                for version in "213":
                    n = len(seen)
                    assert changed(admin, "load", path=f"tiny-{version}")["version"] == version
                    with one_client_each(service) as each:
                        assert {version_of(client) for client in each.values()} == {version}
                    until(lambda n=n: len(seen) > n + 20 or any(one.done() for one in asked))
            finally:
                done.set()
            for one in asked:
                one.result()
        assert set(seen) == {"1", "2", "3"}
        stop(service)
    switched = [json.loads(line)["models"] for line in service.log if '"switched"' in line]
    assert len(switched) == 6
    assert SECRET not in "".join(service.log)
    assert any('"changed"' in line and '"key":"boss"' in line for line in service.log)


def test_where_one_worker_cannot_load_none_switches(folders, keys_file):
    held = Held(folders / "tiny-2", folders / "held-three")
    try:
        with two_workers(folders, keys_file) as service, one_client_each(service) as clients:
            admin = next(iter(clients.values()))
            with ThreadPoolExecutor(1) as other:
                loading = other.submit(change, admin, "load", path="held-three")
                # Both read one pipe: the first gets the whole file, and the second an empty one.
                held.wait_for_a_reader()
                for pid in pids(service):
                    until(lambda pid=pid: str(held.path) in open_files(pid))
                held.let_go()
                problem = check_problem(loading.result(), 422, "load-failed")
            assert "chars.json: sha256 is" in problem["detail"]
            for client in clients.values():
                assert loaded(client) == ["tiny@1*"]
                assert version_of(client) == "1"
            changed(admin, "load", path="tiny-3")
            assert [version_of(client) for client in clients.values()] == ["3", "3"]
            stop(service)
    finally:
        shutil.rmtree(folders / "held-three")


@pytest.mark.parametrize("who", ["asker", "other"])
def test_a_worker_that_is_killed_during_a_load_undoes_it_and_comes_back(folders, keys_file, who):
    held = Held(folders / "tiny-2", folders / "held-four")
    try:
        with two_workers(folders, keys_file) as service, one_client_each(service) as clients:
            changed(next(iter(clients.values())), "load", path="tiny-3")
            asker, other = clients
            victim = asker if who == "asker" else other
            with ThreadPoolExecutor(1) as thread:
                loading = thread.submit(change, clients[asker], "load", path="held-four")
                held.wait_for_a_reader()
                os.kill(victim, signal.SIGKILL)
                if who == "asker":
                    with pytest.raises(httpx.TransportError):
                        loading.result()
                else:
                    check_problem(loading.result(), 503, "load-aborted")
            survivor = clients[other if who == "asker" else asker]
            assert loaded(survivor) == ["tiny@3*", "tiny@1"]
            while len(pids(service)) < 3:
                service.log.append(service.process.stderr.readline())
            service.log = [line for line in service.log if str(victim) not in line]
            with one_client_each(service) as clients:  # what was agreed on, and not what the settings say
                assert {tuple(loaded(client)) for client in clients.values()} == {("tiny@3*", "tiny@1")}
                # Back, though the survivor still reads what was given up.
                changed(next(iter(clients.values())), "load", version="1")
                assert [version_of(client) for client in clients.values()] == ["1", "1"]
            held.let_go(b"")
            stop(service)
    finally:
        shutil.rmtree(folders / "held-four")


def test_a_worker_that_stands_still_makes_the_load_time_out_and_none_switches(folders, keys_file):
    with two_workers(folders, keys_file, load_timeout_s=1) as service, one_client_each(service) as clients:
        asker, other = clients
        os.kill(other, signal.SIGSTOP)
        try:
            problem = check_problem(change(clients[asker], "load", path="tiny-2"), 503, "load-aborted")
            assert "1 of 2 workers" in problem["detail"]
        finally:
            os.kill(other, signal.SIGCONT)
        assert {tuple(loaded(client)) for client in clients.values()} == {("tiny@1*",)}
        stop(service)


def test_a_load_under_way_does_not_keep_the_service_from_ending(folders, keys_file):
    held = Held(folders / "tiny-2", folders / "held-five")
    try:
        with two_workers(folders, keys_file) as service, new_client(service) as client:
            with ThreadPoolExecutor(1) as other:
                loading = other.submit(change, client, "load", path="held-five")
                held.wait_for_a_reader()
                stop(service)
                check_problem(loading.result(), 503, "draining")
            os.close(held._end)
    finally:
        shutil.rmtree(folders / "held-five")
