"""The tagger inside spaCy and Presidio: tests/integration_checks.py, run where those libraries are."""

import json
import subprocess

import pytest

from service.integrations.local import LocalTagger
from tests import integration_checks
from tests.running import running
from tests.test_compat_clients import PEERS, is_there


@pytest.fixture(scope="module")
def failures(tiny_artefact):
    """The tracebacks of the checks that fail: all in one process, since these libraries load slowly."""
    python = str(PEERS / "bin" / "python")
    for module in ("spacy", "presidio_analyzer"):
        if not is_there(python, module):
            pytest.skip(f"{module} is not installed: make peers")
    with running(tiny_artefact) as service:
        done = subprocess.run(
            [python, integration_checks.__file__, tiny_artefact, f"http://127.0.0.1:{service.port}"],
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.peers
@pytest.mark.parametrize("name", integration_checks.CHECKS)
def test_it_holds(name, failures):
    assert name not in failures, failures[name]


def test_a_local_tagger_finds_what_the_service_finds(tiny_artefact):
    tagger = LocalTagger(tiny_artefact)
    with running(tiny_artefact) as service:
        for text in integration_checks.TEXTS:
            answer = service.client.post("/v1/tag", json={"text": text}).json()
            persons = [
                (p["start"], p["end"], p["score"]) for s in answer["sentences"] for p in s["persons"]
            ]
            found = [
                (each.start, each.end, pytest.approx(each.score, abs=1e-4)) for each in tagger.persons(text)
            ]
            assert persons == found


def test_a_threshold_that_is_no_probability_is_refused(tiny_artefact):
    with pytest.raises(ValueError, match="threshold is 2: a number from 0 to 1"):
        LocalTagger(tiny_artefact, threshold=2)
