"""The contract, over a real socket, with a model of random weights: its answers are answers."""

import itertools
import json
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.artefact import save
from service.redaction.schemas import RedactResponse
from service.schemas import (
    ModelDetails,
    ModelList,
    ProblemJson,
    TagLineProblem,
    TagLineResponse,
    TagResponse,
)  # fmt: skip
from tests.conftest import random_artefact
from tests.running import check_problem, running
from tests.strategies import any_text, any_token, brief

CUT = {
    "codepoint": lambda text, start, end: text[start:end],
    "utf16": lambda text, start, end: text.encode("utf-16-le")[2 * start : 2 * end].decode("utf-16-le"),
    "utf8": lambda text, start, end: text.encode()[start:end].decode(),
}
ANSWERS = {"tag": TagResponse, "redact": RedactResponse}
TEXTS = [
    "Harry Potter met Hermione Granger in London.",
    "👩‍👩‍👧 Emma Clarke🎉 met José Ángel Nuñez 🏴󠁧󠁢󠁥󠁮󠁧󠁿.",
    "Zoe\u0308 Kravitz\u00a0left — “J. R. R.” too…",
    "王小明 met Angela Merkel。",
    "\u202eabc\u202c \u200fשלום\u200e x\x00y \ufeffz",
    "J. R. R. Tolkien\twrote\r\nto C.S. Lewis",
    "I" * 500 + " 👩🏽‍🚀" * 50,
    "",
    " \t\n\u3000",
]


@pytest.fixture(scope="module")
def service(tiny_artefact, tmp_path_factory):
    """Serves "tiny" twice, in two versions, and "other"."""
    folder = tmp_path_factory.mktemp("models")
    second = random_artefact(seed=1)
    save(replace(second, config=replace(second.config, version="2")), folder / "tiny-2")
    save(random_artefact(seed=2, name="other"), folder / "other")
    with running(tiny_artefact, folder / "tiny-2", folder / "other") as service:
        yield service


def check_sentence(sentence, text, unit):
    """What holds of every entry; ``text`` is what its offsets count in."""
    cut = CUT[unit]
    for each in (*sentence["tokens"], *sentence["persons"]):
        assert cut(text, each["start"], each["end"]) == each["text"]
        assert 0 <= each["score"] <= 1
    tokens = sentence["tokens"]
    for before, after in itertools.pairwise(tokens):
        assert before["end"] <= after["start"]
    for token in tokens:
        assert token["label"] in ("O", "B-PER", "I-PER")
        assert token["person"] == int(token["label"] != "O")
    for person in sentence["persons"]:
        first, last = person["first_token"], person["last_token"]
        assert [t["label"] for t in tokens[first:last]] == ["B-PER"] + ["I-PER"] * (last - first - 1)
        assert (person["start"], person["end"]) == (tokens[first]["start"], tokens[last - 1]["end"])
    assert sum(p["last_token"] - p["first_token"] for p in sentence["persons"]) == sum(
        t["person"] for t in tokens
    )


@pytest.mark.parametrize("unit", CUT)
def test_offsets_cut_out_what_they_are_of_in_every_unit(service, unit):
    for text, sentence in zip(TEXTS, service.tag(TEXTS, offset_unit=unit), strict=True):
        assert sentence["text"] == text
        check_sentence(sentence, text, unit)
        assert "".join("".join(t["text"] for t in sentence["tokens"]).split()) == "".join(text.split())


@pytest.mark.parametrize("unit", CUT)
def test_offsets_of_a_document_count_from_its_start(service, unit):
    text = "Élodie met 王小明. 🎉 Did she?\n\nYes!  Ann Smith did 👩‍🚀."
    answer = service.client.post("/v1/tag", json={"text": text, "offset_unit": unit}).json()
    assert answer["offset_unit"] == unit
    assert len(answer["sentences"]) > 2
    for sentence in answer["sentences"]:
        check_sentence(sentence, text, unit)
        start, end = sentence["tokens"][0]["start"], sentence["tokens"][-1]["end"]
        assert sentence["text"] == CUT[unit](text, start, end)


@brief
@given(st.lists(any_text | st.lists(any_token, max_size=6), max_size=4), st.sampled_from(sorted(CUT)))
def test_whatever_the_text_the_answer_is_of_the_schema_or_names_the_surrogate(service, sentences, unit):
    body = json.dumps({"sentences": sentences, "offset_unit": unit})
    answer = service.client.post("/v1/tag", content=body, headers={"content-type": "application/json"})
    if re.search("[\ud800-\udfff]", json.dumps(json.loads(body), ensure_ascii=False)):
        check_problem(answer, 422, "lone-surrogate")
        return
    assert answer.status_code == 200
    TagResponse.model_validate_json(answer.content)
    for given_one, sentence in zip(json.loads(body)["sentences"], answer.json()["sentences"], strict=True):
        text = given_one if isinstance(given_one, str) else " ".join(given_one)
        assert sentence["text"] == text
        check_sentence(sentence, text, unit)
        if isinstance(given_one, list):
            assert [token["text"] for token in sentence["tokens"]] == given_one


def test_given_tokens_get_one_label_each_as_they_are(service):
    tokens = ["Harry", "", "New York", " ", "👩‍🚀", "n't", "\u0301"]
    (sentence,) = service.tag([tokens], offset_unit="utf16")
    assert [token["text"] for token in sentence["tokens"]] == tokens
    assert sentence["text"] == " ".join(tokens)
    check_sentence(sentence, sentence["text"], "utf16")


def test_nothing_in_gives_nothing_out(service):
    assert service.tag([]) == []
    assert service.tag(["", [], "  "]) == [
        {"text": text, "tokens": [], "persons": []} for text in ("", "", "  ")
    ]
    for text in ("", " \n "):
        assert service.client.post("/v1/tag", json={"text": text}).json()["sentences"] == []


def test_a_sentence_gets_the_same_answer_alone_in_a_request_and_among_clients(service):
    words = "Harry Potter and Hermione Granger invented a new spell met London . ,".split()
    sentences = [[words[(i * k + k) % len(words)] for i in range(1 + k * 7 % 40)] for k in range(60)]
    alone = [service.tag([sentence])[0] for sentence in sentences]
    with ThreadPoolExecutor(16) as clients:
        among = list(clients.map(lambda sentence: service.tag([sentence])[0], sentences))
    for answers in (service.tag(sentences), among):
        for a, b in zip(alone, answers, strict=True):
            assert [t["label"] for t in a["tokens"]] == [t["label"] for t in b["tokens"]]
            for x, y in zip(a["tokens"] + a["persons"], b["tokens"] + b["persons"], strict=True):
                assert x["score"] == pytest.approx(y["score"], abs=1e-4)


def test_answers_are_what_the_tagger_says(service):
    tagger = service.service.models.find(None).tagger
    tokens = "Harry Potter met Hermione Granger .".split()
    (expected,) = tagger.tag([tokens])
    (sentence,) = service.tag([tokens])
    assert [t["label"] for t in sentence["tokens"]] == expected.labels
    assert [t["score"] for t in sentence["tokens"]] == [round(s, 6) for s in expected.scores]
    assert [(p["first_token"], p["last_token"], p["score"]) for p in sentence["persons"]] == [
        (s.span.start, s.span.end, round(s.score, 6)) for s in expected.spans
    ]


def test_a_threshold_finds_all_that_score_it_and_a_higher_one_only_takes_away(service):
    def found(threshold):
        answers = service.tag(TEXTS, threshold=threshold)
        for answer in answers:  # labels and persons say the same
            persons = sum(p["last_token"] - p["first_token"] for p in answer["persons"])
            assert sum(t["label"] != "O" for t in answer["tokens"]) == persons
        return [(i, p["start"], p["end"], p["score"]) for i, s in enumerate(answers) for p in s["persons"]]

    last = found(0.05)
    assert len(last) > len(found(0))  # also what the most probable labelling leaves out
    for threshold in (0.2, 0.4, 0.6, 0.8):
        assert found(threshold) == [one for one in last if one[3] >= threshold]
    assert 0 < len(found(0.6)) < len(last)
    nothing = service.tag(TEXTS, threshold=1)
    assert {t["label"] for s in nothing for t in s["tokens"]} == {"O"}


def test_a_long_document_has_the_same_answer_as_its_sentences(service):
    sentence = "Harry Potter met Hermione Granger in London . "
    answer = service.client.post("/v1/tag", json={"text": sentence * 2000}).json()
    assert len(answer["sentences"]) == 2000
    (alone,) = service.tag([sentence.strip()])
    for entry in (answer["sentences"][0], answer["sentences"][1999]):
        assert [t["label"] for t in entry["tokens"]] == [t["label"] for t in alone["tokens"]]


def test_a_model_is_chosen_by_name_or_by_name_and_version(service):
    chosen = {
        asked: service.client.post("/v1/tag", json={"sentences": ["Ann"], "model": asked}).json()["model"]
        for asked in (None, "tiny", "tiny@1", "tiny@2", "other", "other@1")
    }
    assert chosen == {
        None: {"name": "tiny", "version": "1"},
        "tiny": {"name": "tiny", "version": "1"},
        "tiny@1": {"name": "tiny", "version": "1"},
        "tiny@2": {"name": "tiny", "version": "2"},
        "other": {"name": "other", "version": "1"},
        "other@1": {"name": "other", "version": "1"},
    }
    for unknown in ("nope", "tiny@3", "", "tiny@"):
        problem = service.refused(404, "unknown-model", json={"sentences": ["Ann"], "model": unknown})
        assert problem["available"] == ["tiny@1", "tiny@2", "other@1"]


def test_the_models_are_listed_and_described(service):
    listed = service.client.get("/v1/models").json()
    ModelList.model_validate(listed)
    assert [(m["name"], m["version"], m["default"]) for m in listed["models"]] == [
        ("tiny", "1", True), ("tiny", "2", False), ("other", "1", False),
    ]  # fmt: skip
    details = service.client.get("/v1/models/tiny@2").json()
    ModelDetails.model_validate(details)
    assert details["labels"] == ["O", "B-PER", "I-PER"]
    assert details["network"]["hidden_dim"] == 6
    check_problem(service.client.get("/v1/models/nope"), 404, "unknown-model")


def test_what_the_router_refuses_is_a_problem_too(service):
    check_problem(service.client.get("/nope"), 404, "unknown-path")
    check_problem(service.client.post("/v1/tag/"), 404, "unknown-path")
    answer = service.client.get("/v1/tag")
    check_problem(answer, 405, "method-not-allowed")
    assert answer.headers["allow"] == "POST"


def test_every_answer_carries_the_request_s_id(service):
    for path in ("/readyz", "/v1/tag", "/nope"):
        answer = service.client.get(path, headers={"x-request-id": "abc-1"})
        assert answer.headers["x-request-id"] == "abc-1"
    made = [service.client.get("/livez").headers["x-request-id"] for _ in range(2)]
    assert made[0] != made[1]
    odd = service.client.get("/livez", headers={"x-request-id": "a b" * 100})
    assert re.fullmatch("[0-9a-f]+", odd.headers["x-request-id"])


def test_health(service):
    assert service.client.get("/livez").json() == {"status": "live"}
    assert service.client.get("/readyz").json() == {"status": "ready"}


def test_a_bug_is_a_500_that_quotes_nothing(service, monkeypatch, caplog):
    def broken(_):
        raise ValueError("cannot tokenise Ann Smith")

    monkeypatch.setattr(service.service.models.find(None).tagger, "tokenise", broken)
    problem = service.refused(500, "internal-error", json={"sentences": ["Ann Smith"]})
    assert "Ann" not in json.dumps(problem)
    (record,) = caplog.records
    assert record.fields["request_id"] == problem["request_id"]
    assert record.fields["error"] == "ValueError"
    assert "test_api.py" in record.fields["at"]
    assert "Ann" not in str(vars(record))


def test_one_bad_sentence_fails_its_own_request_only(service, monkeypatch):
    batcher = service.service.models.find(None).batcher
    tag_batch = batcher._tag_batch

    def poisoned(items):
        if any("poison" in item.tokens for item in items):
            raise ValueError("Ann Smith")
        return tag_batch(items)

    monkeypatch.setattr(batcher, "_tag_batch", poisoned)
    service.refused(500, "internal-error", json={"sentences": ["Ann", "poison"]})
    assert service.tag(["Ann"])


# The documentation


@pytest.fixture(scope="module")
def document(service):
    return service.client.get("/openapi.json").json()


def operations(document):
    return [(p, m, o) for p, item in document["paths"].items() for m, o in item.items()]


def test_every_example_of_the_documentation_works(service, document):
    n = 0
    for path, method, operation in operations(document):
        if "security" in operation:
            continue  # tests/test_reload.py
        content = operation.get("requestBody", {}).get("content", {})
        for example in content.get("application/json", {}).get("examples", {}).values():
            answer = service.client.request(method, path, json=example["value"])
            assert answer.status_code == 200, answer.text
            ANSWERS[operation["operationId"]].model_validate_json(answer.content)
            n += 1
        for example in content.get("application/x-ndjson", {}).get("x-examples", {}).values():
            headers = {"content-type": "application/x-ndjson"}
            answer = service.client.request(method, path, content=example["value"], headers=headers)
            assert answer.status_code == 200, answer.text
            for line in map(json.loads, answer.content.splitlines()):
                (TagLineProblem if "code" in line else TagLineResponse).model_validate(line)
            n += 1
    assert n >= 5


def test_the_examples_of_answers_are_of_the_schema(document):
    stream = document["paths"]["/v1/tag/stream"]["post"]["responses"]["200"]["content"]
    answer, problem = stream["application/x-ndjson"]["example"].splitlines()
    TagLineResponse.model_validate_json(answer)
    TagLineProblem.model_validate_json(problem)
    examples = {
        o["operationId"]: content["application/json"]["example"]
        for _, _, o in operations(document)
        if "application/json" in (content := o["responses"]["200"]["content"])
    }
    for name, model in ANSWERS.items():
        model.model_validate(examples[name])
    ModelList.model_validate(examples["list_models"])
    ModelDetails.model_validate(examples["get_model"])


def test_references_of_the_documentation_lead_somewhere(document):
    schemas = document["components"]["schemas"]
    references = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert references <= schemas.keys()
    assert {"TagSentences", "TagDocument", "TagResponse", "ProblemJson"} <= references
    assert "HTTPValidationError" not in json.dumps(document)


def test_problems_are_of_the_published_schema(service):
    for body in (b"{", b"{}", b'{"text": "\\ud83d"}'):
        answer = service.client.post("/v1/tag", content=body, headers={"content-type": "application/json"})
        ProblemJson.model_validate_json(answer.content)


def test_the_pages_fetch_nothing_from_elsewhere(service):
    for path in ("/docs", "/"):
        answer = service.client.get(path)
        assert answer.status_code == 200
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert not re.search(r'(src|href)="(?!/|#)', answer.text)
        assert "@import" not in answer.text
    page = service.client.get("/docs").text
    for path in ("/v1/tag", "/v1/tag/stream", "/v1/models", "/livez", "/readyz"):
        assert path in page
    assert 'id="problem-overloaded"' in page
    assert 'href="/docs"' in service.client.get("/").text


def test_a_made_up_host_is_not_repeated_on_the_page(service):
    page = service.client.get("/docs", headers={"host": "a';alert(1)//"}).text
    assert "alert(1)" not in page


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_the_curl_commands_of_the_page_work(service):
    from html import unescape

    page = service.client.get("/docs").text
    commands = [unescape(c) for c in re.findall(r'<pre class="curl">(.*?)</pre>', page, re.DOTALL)]
    assert len(commands) >= 6
    for command in commands:
        if "$KEY" in command:
            continue
        told = command.replace("/models/en-person", "/models/tiny") + " -sS --fail-with-body"
        done = subprocess.run(["bash", "-c", told], capture_output=True, text=True, check=False)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        if not command.endswith("/metrics"):
            assert [json.loads(line) for line in done.stdout.splitlines()]
