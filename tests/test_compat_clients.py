"""Real clients of other services, unmodified, over a socket: what they are told is what /v1/tag says."""

import json
import shutil
import subprocess
import sys
from functools import cache
from itertools import product
from pathlib import Path
from random import Random

import pytest

from tests.running import running

HERE = Path(__file__).parent
PEERS = HERE.parent / ".venv-peers"
TEXTS = [
    "In London 👋, Harry Potter met Hermione Granger. Potter left, and so did José Ángel Nuñez.",
    "Harry Potter and Hermione\nGranger invented a new spell.",
    "",
    "🎉",
]
WORDS = [text.replace("\n", " ") for text in TEXTS[:2]]
HERE_TOO = ["huggingface_hub", "triton_json", "triton_binary", "stanza", "boto3"]
APART = ["kserve", "presidio", "huggingface_js"]


@cache
def is_there(python, module):
    """Whether an environment has a package, without importing it here."""
    if not Path(python).exists():
        return False
    script = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    return subprocess.run([python, "-c", script], check=False).returncode == 0


def ask(client, url, given):
    """What a client finds; skips where it is not installed."""
    if client == "huggingface_js":
        python = sys.executable
        if not shutil.which("node") or not (PEERS / "node_modules/@huggingface/inference").exists():
            pytest.skip("@huggingface/inference is not installed: make peers")
    else:
        python = str(PEERS / "bin/python") if client in (*APART, "presidio_anonymizer") else sys.executable
        module = {"presidio": "presidio_analyzer"}.get(client, client.replace("triton_", "tritonclient#"))
        if not is_there(python, module.partition("#")[0]):
            pytest.skip(f"{client} is not installed: make peers")
    done = subprocess.run(
        [python, HERE / "compat_clients.py", client, url],
        input=json.dumps(given), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def service(tiny_artefact):
    with running(tiny_artefact) as service:
        yield service


def persons_of(service, text):
    answer = service.client.post("/v1/tag", json={"text": text})
    return [[p["start"], p["end"], p["score"]] for s in answer.json()["sentences"] for p in s["persons"]]


def same(found, expected):
    """Equal, but for scores that a client keeps as 32-bit floats."""
    assert [[e[:2] for e in each] for each in found] == [[e[:2] for e in each] for each in expected]
    scores = [[e[2] for each in side for e in each] for side in (found, expected)]
    assert scores[0] == pytest.approx(scores[1], abs=2e-6)


@pytest.mark.parametrize("client", [*HERE_TOO, *(pytest.param(c, marks=pytest.mark.peers) for c in APART)])
def test_a_client_finds_the_persons_that_the_service_finds(service, client):
    # Comprehend and Presidio have no answer for an empty text: their clients refuse to ask.
    texts = [text for text in TEXTS if text] if client in ("boto3", "presidio") else TEXTS
    expected = [persons_of(service, text) for text in texts]
    assert sum(map(len, expected)) > 2
    same(ask(client, f"http://127.0.0.1:{service.port}", texts), expected)


def test_nltk_gets_a_label_for_each_of_its_own_tokens(service):
    expected = []
    for text, (sentence,) in ((t, service.tag([t.split(" ")])) for t in WORDS):
        persons = [[t["start"], t["end"], None] for t in sentence["tokens"] if t["person"]]
        assert persons, text
        expected.append(persons)
    assert ask("nltk", f"http://127.0.0.1:{service.port}", WORDS) == expected


RESULTS = [
    [("PERSON", 0, 3, 0.9)],
    [("PERSON", 0, 3, 0.9), ("PERSON", 4, 12, 0.8)],  # a space between them
    [("PERSON", 0, 8, 0.9), ("PERSON", 4, 12, 0.8)],  # of one type, across each other
    [("PERSON", 0, 12, 0.9), ("CITY", 4, 12, 0.99)],  # one inside the other
    [("PERSON", 0, 12, 0.9), ("CITY", 0, 12, 0.99), ("DATE", 0, 12, 0.5)],
    [("PERSON", 0, 6, 0.9), ("CITY", 4, 12, 0.5)],  # of two types, across each other
    [("CITY", 17, 23, 0.9), ("PERSON", 0, 12, 0.5), ("PERSON", 24, 27, 0.5)],
    [("PERSON", 0, 3, 0.9), ("PERSON", 3, 12, 0.9)],
    [("PERSON", 4, 12, 0.9), ("CITY", 0, 27, 0.1), ("PERSON", 0, 3, 0.9)],
    [],
]
ANONYMIZERS = [
    {},
    {"DEFAULT": {"type": "replace", "new_value": "X👋"}, "CITY": {"type": "redact"}},
    {"PERSON": {"type": "mask", "masking_char": "*", "chars_to_mask": 4, "from_end": True}},
    {"PERSON": {"type": "mask", "masking_char": "•", "chars_to_mask": 99, "from_end": False}},
    {"DEFAULT": {"type": "hash", "hash_type": "sha512", "salt": "sixteen bytes at least"}},
    {"DEFAULT": {"type": "hash", "salt": "sixteen bytes at least"}, "PERSON": {"type": "keep"}},
]


def random_results(random):
    places = [sorted(random.sample(range(28), 2)) for _ in range(random.randint(0, 6))]
    return [
        (random.choice(["PERSON", "CITY"]), start, end, random.choice([0.25, 0.5, 1.0]))
        for start, end in places
    ]


@pytest.mark.peers
def test_anonymize_answers_as_presidio_s_own_library_does(service):
    random = Random(1)
    made = [random_results(random) for _ in range(300)]
    cases = [
        {
            "text": "Ada Lovelace 👋 in London, Ann",
            "analyzer_results": [
                {"entity_type": t, "start": start, "end": end, "score": score}
                for t, start, end, score in results
            ],
            "anonymizers": anonymizers,
        }
        for results, anonymizers in product(RESULTS + made, ANONYMIZERS)
    ]
    expected = ask("presidio_anonymizer", "", cases)
    for case, answer in zip(cases, expected, strict=True):
        ours = service.client.post("/compat/presidio/anonymize", json=case)
        assert ours.status_code == 200, ours.text
        assert ours.json() == answer, case
