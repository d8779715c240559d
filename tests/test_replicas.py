"""Three replicas behind HAProxy, as deploy/haproxy.cfg has it: who asks does not see one of them end."""

import math
import re

import pytest

from benchmarks import replicas
from benchmarks.balanced import CONFIG, NAMES, is_installed
from service.settings import Settings
from tests.conftest import WORDS

SENTENCES = [" ".join(WORDS[n:] + WORDS[:n]) for n in range(len(WORDS))] * 2


@pytest.mark.balancer
@pytest.mark.skipif(not is_installed(), reason="haproxy is not installed")
def test_nobody_sees_replicas_restarted_killed_or_wedged(tiny_artefact):
    report = replicas.measure(
        tiny_artefact, rate_per_s=30.0, seconds=0.0, answer_within_s=5.0, sentences=SENTENCES
    )
    assert report["passed"], report
    assert report["exit_codes"] == {0: 3}
    steady, roll, kill, wedge = report["parts"]
    assert [part["part"] for part in report["parts"]] == ["steady", "roll", "kill", "wedge"]
    assert steady["requests"] > 0
    assert roll["restarts"] == 3
    # What was lost with the replica was asked again, and nobody was told.
    for part, held in ((kill, kill["in hand when killed"]), (wedge, wedge["in hand when left"])):
        assert part["asked again"] >= held


def test_the_configuration_asks_again_only_what_may_be_asked_again():
    text = CONFIG.read_text("utf-8")
    (never,) = re.findall(r"disable-l7-retry if (.*)", text)
    assert "{ path /v1/tag/stream }" in never
    assert "{ path_beg /compat/labelstudio }" in never
    servers = re.findall(r"^    server (\w+) \"\$\{REPLICA_(\d)-", text, re.MULTILINE)
    assert servers == [(name, str(n)) for n, name in enumerate(NAMES, 1)]


def test_a_replica_answers_for_longer_than_haproxy_takes_to_leave_it():
    text = CONFIG.read_text("utf-8")
    (every_s, then_ms, n) = re.findall(r"inter (\d+)s fastinter (\d+)ms fall (\d+)", text)[0]
    leaves_within_s = int(every_s) + int(then_ms) / 1000 * (int(n) - 1)
    assert leaves_within_s < replicas.DRAIN_DELAY_S < Settings.grace_s
    assert f"NAMETAG_DRAIN_DELAY_S={replicas.DRAIN_DELAY_S:g} " in text


def test_a_difference_between_two_answers_is_placed_and_quotes_nothing():
    answer = {"sentences": [{"text": "Ann", "tokens": [{"label": "B-PER", "score": 0.5}]}], "n": 1}
    assert replicas.difference(answer, answer) is None

    def changed(**token):
        return {
            **answer,
            "sentences": [{"text": "Ann", "tokens": [answer["sentences"][0]["tokens"][0] | token]}],
        }

    assert replicas.difference(changed(score=0.50009), answer) is None
    token = "answer.sentences[0].tokens[0]"
    assert replicas.difference(changed(score=0.5002), answer) == f"{token}.score"
    assert replicas.difference(changed(score=math.nan), answer) == f"{token}.score"
    assert replicas.difference(changed(label="O"), answer) == f"{token}.label"
    assert replicas.difference(changed(more=1), answer) == token
    assert replicas.difference({**answer, "sentences": []}, answer) == "answer.sentences"
    assert replicas.difference(None, answer) == "answer"
