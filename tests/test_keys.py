"""Keys, their limits and CORS: what is refused, what stays open, and what is never said."""

import hashlib
import json
import math
import re
import signal
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from service.keys import ADMIN, Bucket, Keyring, KeysError, new_key, read_keys
from service.problems import Problem
from tests.running import check_problem, process, run_to_end, running

BODY = {"sentences": ["Harry Potter met Hermione Granger ."]}


def bearer(secret):
    return {"authorization": f"Bearer {secret}"}


@pytest.fixture(scope="module")
def secrets():
    """Keys by name; "slow" may ask once in 50 seconds."""
    made = {"ada": new_key("ada"), "boss": new_key("boss", ADMIN), "slow": new_key("slow", rate=0.02)}
    return {name: secret for name, (secret, _) in made.items()}, [key.line for _, key in made.values()]


@pytest.fixture(scope="module")
def keys_file(secrets, tmp_path_factory):
    path = tmp_path_factory.mktemp("keys") / "keys.txt"
    path.write_text("# our keys\n\n" + "\n".join(secrets[1]) + "\n")
    return path


@pytest.fixture(scope="module")
def service(tiny_artefact, keys_file):
    with running(tiny_artefact, keys_file=keys_file) as service:
        yield service


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


# The file


def test_a_key_is_256_random_bits_and_its_line_holds_its_hash_and_not_the_key(tmp_path):
    secret, key = new_key("ada", rate=2.5)
    assert len(secret.removeprefix("nametag_")) >= math.ceil(256 / 6)
    assert secret != new_key("ada")[0]
    assert key.line == f"ada user {hashlib.sha256(secret.encode()).hexdigest()} 2.5"
    (tmp_path / "keys").write_text(key.line)
    assert read_keys(tmp_path / "keys") == (key,)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ada user", "2 words: a name, a role, a hash and at most a rate are expected"),
        ("ada user {hash} 1 2", "5 words"),
        ("a/b user {hash}", "the name is expected"),
        ("ada root {hash}", "the role is expected to be one of user, admin"),
        ("ada user {secret}", "the hash is expected to be 64 hexadecimal digits"),
        ("ada {secret} user", "the role is expected"),
        ("ada user {hash} fast", "the rate is expected"),
        ("ada user {hash} 0", "the rate is expected"),
        ("ada user {hash} inf", "the rate is expected"),
        ("bob user {hash}\nada user {hash}", "the same name or hash as bob"),
        ("ada user {hash}\nada user {other}", "the same name or hash as ada"),
    ],
)
def test_a_wrong_line_is_named_and_not_quoted(tmp_path, line, message):
    secret, key = new_key("ada")
    path = tmp_path / "keys"
    path.write_text("# keys\n" + line.format(hash=key.digest.hex(), other="0" * 64, secret=secret))
    with pytest.raises(KeysError, match=re.escape(message)) as raised:
        read_keys(path)
    assert str(raised.value).startswith(f"{path}:{2 + line.count(chr(10))}: ")
    assert secret not in str(raised.value)


def test_no_file_and_a_file_without_keys_are_refused_in_one_line_with_exit_code_2(tmp_path, tiny_artefact):
    (tmp_path / "none").write_text("# nobody\n")
    for name, message in (("none", "holds no keys"), ("nowhere", "No such file")):
        ended = run_to_end(model=tiny_artefact, keys_file=tmp_path / name)
        assert ended.returncode == 2
        assert ended.stderr.startswith(f"nametag: {tmp_path / name}: {message}")
        assert ended.stderr.count("\n") == 1


def test_the_command_writes_the_line_to_stdout_and_the_key_to_stderr():
    made = run_to_end("new-key", "ada", "--admin", "--rate", "5")
    assert made.returncode == 0
    secret = made.stderr.split()[-1]
    assert made.stdout == f"ada admin {hashlib.sha256(secret.encode()).hexdigest()} 5\n"
    assert secret not in made.stdout
    for wrong in (["new-key"], ["new-key", "a b"], ["new-key", "ada", "--rate", "-1"]):
        assert run_to_end(*wrong).returncode == 2


# Who is let in


def test_a_key_is_taken_in_either_header_and_the_scheme_in_any_case(service, secrets):
    secret = secrets[0]["ada"]
    for headers in (bearer(secret), {"authorization": f"bEARER  {secret}"}, {"x-api-key": secret}):
        answer = service.client.post("/v1/tag", json=BODY, headers=headers)
        assert answer.status_code == 200
        assert service.client.get("/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize("headers", [{}, {"authorization": "Basic YTpi"}, {"cookie": "key=a"}])
def test_no_key_is_a_401_that_says_how_to_send_one(service, headers):
    for method, path in (("POST", "/v1/tag"), ("GET", "/v1/models"), ("GET", "/nope"), ("GET", "/v1/tag")):
        answer = service.client.request(method, path, headers=headers)
        check_problem(answer, 401, "key-missing")
        assert answer.headers["www-authenticate"].startswith("Bearer ")
        assert answer.headers["x-request-id"]


def test_a_wrong_key_is_a_403_that_does_not_repeat_it(service, secrets):
    for wrong in ("Sesame", secrets[0]["ada"][:-1], secrets[0]["ada"] + "x", "é"):
        headers = {b"authorization": b"Bearer " + wrong.encode()}
        answer = service.client.post("/v1/tag", json=BODY, headers=headers)
        check_problem(answer, 403, "key-wrong")
        assert len(wrong) < 3 or wrong not in answer.text


def test_the_hash_of_a_key_is_not_a_key(service, secrets):
    stored = secrets[1][0].split()[2]
    answer = service.client.post("/v1/tag", json=BODY, headers=bearer(stored))
    check_problem(answer, 403, "key-wrong")


def test_probes_and_the_documentation_need_no_key(service):
    for path in ("/livez", "/readyz", "/", "/docs", "/openapi.json"):
        assert service.client.get(path).status_code == 200


def test_without_a_keys_file_no_key_is_asked_for_and_one_that_is_sent_is_ignored(tiny_artefact):
    with running(tiny_artefact) as service:
        assert service.tag(["Ann"])
        answer = service.client.post("/v1/tag", json=BODY, headers=bearer("whatever"))
        assert answer.status_code == 200


def test_every_key_is_compared_whichever_fits(secrets, keys_file, monkeypatch):
    compared = []

    def compare(a, b):
        compared.append(b)
        return a == b

    monkeypatch.setattr("service.keys.hmac.compare_digest", compare)
    keys = read_keys(keys_file)
    keyring = Keyring(keys)
    for name in ("ada", "boss"):
        compared.clear()
        assert keyring.admitted([(b"x-api-key", secrets[0][name].encode())]).name == name
        assert compared == [key.digest for key in keys]


def test_no_key_reaches_the_log(tiny_artefact, keys_file, secrets):
    with process(model=tiny_artefact, keys_file=keys_file, log_level="debug") as service:
        with httpx.Client(base_url=f"http://127.0.0.1:{service.port}", timeout=20) as client:
            for headers in (bearer(secrets[0]["ada"]), {"x-api-key": "nametag_wrong"}, {}):
                client.post("/v1/tag", json=BODY, headers=headers)
                client.get("/v1/models/nope", headers=headers)
        service.process.send_signal(signal.SIGTERM)
        assert service.wait() == 0
    log = "".join(service.log)
    assert "nametag_" not in log
    assert not any(line.split()[2] in log for line in secrets[1])


# How often


def test_a_bucket_lets_a_second_s_worth_pass_at_once_and_then_its_rate():
    clock = Clock()
    bucket = Bucket(4, clock)
    assert [bucket.wait_s() for _ in range(5)] == [0, 0, 0, 0, 0.25]
    clock.now += 0.25
    assert [bucket.wait_s() for _ in range(2)] == [0, 0.25]
    clock.now += 1000  # a pause is not saved up
    assert [bucket.wait_s() > 0 for _ in range(6)] == [False] * 4 + [True] * 2


def test_a_rate_below_one_lets_the_first_request_pass():
    clock = Clock()
    bucket = Bucket(0.1, clock)
    assert [bucket.wait_s() for _ in range(2)] == [0, pytest.approx(10)]
    clock.now += 9
    assert bucket.wait_s() == pytest.approx(1)
    clock.now += 1.001
    assert bucket.wait_s() == 0


def test_workers_divide_a_key_s_rate_and_keys_do_not_share():
    clock = Clock()
    made = [new_key(name, rate=8) for name in ("ada", "bob")]
    ada, bob = ([(b"x-api-key", secret.encode())] for secret, _ in made)
    keyring = Keyring([key for _, key in made], workers=4, clock=clock)

    def refusal(headers):
        try:
            keyring.admitted(headers)
        except Problem as problem:
            return problem
        return None

    def n_passed(headers):
        return next(n for n in range(100) if refusal(headers))

    assert [n_passed(ada), n_passed(ada), n_passed(bob)] == [2, 0, 2]
    assert (refusal(ada).code, refusal(ada).headers["retry-after"]) == ("rate-limited", "1")
    clock.now += 0.5
    assert n_passed(ada) == 1


def test_a_key_that_asks_too_often_gets_429_and_is_told_when_to_come_back(service, secrets):
    headers = bearer(secrets[0]["slow"])
    with ThreadPoolExecutor(4) as clients:
        answers = list(
            clients.map(lambda _: service.client.post("/v1/tag", json=BODY, headers=headers), range(4))
        )
    assert sorted(answer.status_code for answer in answers) == [200, 429, 429, 429]
    (refused, *_) = (answer for answer in answers if answer.status_code == 429)
    check_problem(refused, 429, "rate-limited")
    assert 40 <= int(refused.headers["retry-after"]) <= 50
    assert service.client.post("/v1/tag", json=BODY, headers=bearer(secrets[0]["ada"])).status_code == 200


# The documentation


def secured(document):
    return {
        operation["operationId"]
        for item in document["paths"].values()
        for operation in item.values()
        if "security" in operation
    }


def test_the_documentation_says_which_calls_need_a_key(service, tiny_artefact):
    document = service.client.get("/openapi.json").json()
    assert {"tag", "list_models", "get_model"} <= secured(document)
    assert not {"livez", "readyz"} & secured(document)
    schemes = document["components"]["securitySchemes"]
    assert schemes["bearer"]["scheme"] == "bearer"
    assert schemes["api_key"]["name"] == "X-API-Key"
    responses = document["paths"]["/v1/tag"]["post"]["responses"]
    assert {"401", "403", "429"} <= responses.keys()
    assert "rate-limited" in json.dumps(responses["429"])
    assert "overloaded" in json.dumps(responses["429"])
    page = service.client.get("/docs").text
    assert "authorization: Bearer $KEY" in page
    with running(tiny_artefact) as without:
        plain = without.client.get("/openapi.json").json()
        assert not {"tag", "list_models", "get_model"} & secured(plain)
        assert "401" not in plain["paths"]["/v1/tag"]["post"]["responses"]


# Browsers


def preflight(service, origin, method="POST"):
    return service.client.options(
        "/v1/tag",
        headers={
            "origin": origin,
            "access-control-request-method": method,
            "access-control-request-headers": "authorization, content-type",
        },
    )


def test_pages_of_a_named_origin_may_ask_and_others_may_not(tiny_artefact, keys_file, secrets):
    ours = "https://app.example.org"
    with running(tiny_artefact, keys_file=keys_file, cors_origins=(ours,)) as service:
        answer = preflight(service, ours)  # which carries no key
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == ours
        assert "POST" in answer.headers["access-control-allow-methods"]
        assert "authorization" in answer.headers["access-control-allow-headers"].lower()
        refused = preflight(service, "https://evil.example.org")
        assert refused.status_code == 400
        assert "access-control-allow-origin" not in refused.headers
        assert preflight(service, ours, "DELETE").status_code == 400
        headers = {"origin": ours}
        refused = service.client.post("/v1/tag", json=BODY, headers=headers)
        check_problem(refused, 401, "key-missing")
        assert refused.headers["access-control-allow-origin"] == ours  # or the page could not read it
        headers |= bearer(secrets[0]["ada"])
        answer = service.client.post("/v1/tag", json=BODY, headers=headers)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == ours
        assert "x-request-id" in answer.headers["access-control-expose-headers"].lower()


def test_without_origins_no_page_may_ask(service):
    answer = preflight(service, "https://app.example.org")
    assert not [name for name in answer.headers if name.startswith("access-control")]
