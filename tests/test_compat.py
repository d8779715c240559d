"""The compatible surfaces, wire by wire: what clients rely on that /v1/tag does not say already."""

import json
import struct
from urllib.parse import quote

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.compat import SURFACES
from service.compat.wire import chosen
from service.keys import new_key
from service.settings import ROOT, Settings, SettingsError
from tests.running import process, running
from tests.strategies import any_text, brief

TEXT = "In London 👋, Harry Potter met Hermione Granger. Potter left."
CONFIG = (
    '<View><Labels name="label" toName="text"><Label value="Organisation"/><Label value="Person"/></Labels>'
    '<Text name="text" value="$content"/></View>'
)
AWS = {"content-type": "application/x-amz-json-1.1", "x-amz-target": "Comprehend_20171127.DetectEntities"}


def tensor(*texts, **more):
    return {
        "inputs": [{"name": "text", "datatype": "BYTES", "shape": [len(texts)], "data": [*texts], **more}]
    }


def requests_of(text):
    """For each surface a request for the persons of a text: path, body, headers."""
    js = {"content-type": "application/json"}
    return {
        "huggingface": ("/compat/huggingface", {"inputs": text}, js),
        "presidio": ("/compat/presidio/analyze", {"text": text, "language": "en"}, js),
        "inference": ("/v2/models/tiny/infer", tensor(text), {}),
        "corenlp": ("/compat/corenlp", text, {"content-type": "text/plain; charset=utf-8"}),
        "comprehend": ("/compat/comprehend/", {"Text": text, "LanguageCode": "en"}, AWS),
        "labelstudio": (
            "/compat/labelstudio/predict",
            {"tasks": [{"id": 1, "data": {"content": text}}], "label_config": CONFIG},
            js,
        ),
    }


@pytest.fixture(scope="module")
def service(tiny_artefact):
    with running(tiny_artefact) as service:
        yield service


def post(service, path, body, headers=None):
    content = body if isinstance(body, str | bytes) else json.dumps(body)
    return service.client.post(
        path, content=content, headers=headers or {"content-type": "application/json"}
    )


def answered(service, path, body, headers=None):
    answer = post(service, path, body, headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


def persons(service, text):
    answer = service.client.post("/v1/tag", json={"text": text}).json()
    return [(p["start"], p["end"]) for s in answer["sentences"] for p in s["persons"]]


# Which are on


def test_they_are_on_by_default_where_the_service_listens_on_this_machine_only():
    for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost"):
        assert Settings(host=host).surfaces == SURFACES
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org"):
        assert Settings(host=host).surfaces == ()


def test_the_setting_turns_on_all_none_or_some():
    def surfaces(value):
        return Settings.from_env({"NAMETAG_COMPAT": value, "NAMETAG_HOST": "0.0.0.0"}).surfaces

    assert surfaces("all") == SURFACES
    assert surfaces("none") == surfaces("auto") == ()
    assert surfaces("presidio, huggingface") == ("huggingface", "presidio")
    with pytest.raises(
        SettingsError, match="NAMETAG_COMPAT is 'presidio,spacy': auto, all, none, or some of"
    ):
        surfaces("presidio,spacy")


def test_a_surface_that_is_off_is_not_there(tiny_artefact):
    with running(tiny_artefact, compat="presidio") as service:
        for name, (path, body, headers) in requests_of(TEXT).items():
            assert post(service, path, body, headers).status_code == (200 if name == "presidio" else 404)
        assert "/compat/comprehend" not in service.client.get("/docs").text


def test_every_file_of_a_surface_is_one_that_can_be_chosen():
    files = {
        path.stem for path in (ROOT / "service" / "compat").glob("*.py") if "SURFACE = " in path.read_text()
    }
    assert files == set(SURFACES)
    assert len({surface.path for surface in chosen(Settings())}) == len(SURFACES)


# What holds of all


@pytest.mark.parametrize("name", SURFACES)
def test_a_document_over_a_limit_is_refused_and_not_cut_off(tiny_artefact, name):
    with running(tiny_artefact, max_document_chars=70) as service:
        path, body, headers = requests_of(TEXT + " " * 20)[name]
        answer = post(service, path, body, headers)
    assert answer.status_code == (400 if name == "comprehend" else 413)
    assert "max_document_chars allows 70" in answer.text
    assert "Potter" not in answer.text


def test_texts_that_are_too_much_together_are_refused_too(tiny_artefact):
    with running(tiny_artefact, max_request_tokens=20, max_sentence_tokens=20, max_sentences=4) as service:
        for texts, limit in (([TEXT, TEXT], "max_request_tokens"), ([""] * 5, "max_sentences")):
            answer = post(service, "/compat/huggingface", {"inputs": texts})
            assert (answer.status_code, answer.json()["limit"]) == (413, limit)
        assert post(service, "/compat/huggingface", {"inputs": [TEXT]}).status_code == 200


@pytest.mark.parametrize("name", SURFACES)
def test_no_key_no_answer_and_the_client_is_told_in_its_own_words(tiny_artefact, tmp_path, name):
    secret, key = new_key("ada")
    (tmp_path / "keys").write_text(key.line)
    with running(tiny_artefact, keys_file=tmp_path / "keys") as service:
        path, body, headers = requests_of(TEXT)[name]
        refused = post(service, path, body, headers)
        # A signature is no key: AWS's clients send theirs as X-API-Key.
        signed = post(service, path, body, {**headers, "authorization": "AWS4-HMAC-SHA256 Credential=x"})
        keyed = post(service, path, body, {**headers, "x-api-key": secret})
    assert (refused.status_code, signed.status_code, keyed.status_code) == (401, 401, 200)
    assert words_of(name, refused) == (
        "send a key, as Authorization: Bearer KEY or as X-API-Key: KEY (key-missing)"
    )


def words_of(name, answer):
    """What a surface's clients show of an error."""
    if name == "corenlp":
        assert answer.headers["content-type"].startswith("text/plain")
        return answer.text
    said = answer.json()
    if name == "comprehend":
        assert answer.headers["content-type"] == "application/x-amz-json-1.1"
        assert said.keys() == {"__type", "message"}
        return said["message"]
    assert answer.headers["content-type"] == "application/json"
    return said["error"]


@pytest.mark.parametrize("name", SURFACES)
def test_a_full_queue_is_a_429_with_retry_after(service, monkeypatch, name):
    for name_of_limit in ("most_requests", "max_requests"):
        monkeypatch.setattr(service.service.admission, name_of_limit, 0)
    path, body, headers = requests_of(TEXT)[name]
    answer = post(service, path, body, headers)
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "1"
    assert words_of(name, answer).endswith("(overloaded)")


@pytest.mark.parametrize("name", SURFACES)
def test_a_deadline_that_passes_is_a_504(tiny_artefact, name):
    with running(tiny_artefact) as service:
        gate = service.gate()
        path, body, headers = requests_of(TEXT)[name]
        answer = post(service, path, body, {**headers, "x-request-timeout": "0.2"})
        gate.opened.set()
    assert answer.status_code == 504
    # By these words stanza's client knows a timeout.
    expected = "CoreNLP request timed out" if name == "corenlp" else "the deadline passed"
    assert words_of(name, answer).startswith(expected)


@pytest.mark.parametrize("name", SURFACES)
def test_a_service_that_shuts_down_says_so_with_a_503(service, monkeypatch, name):
    monkeypatch.setattr(service.service, "is_draining", True)
    path, body, headers = requests_of(TEXT)[name]
    answer = post(service, path, body, headers)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


def test_the_log_names_the_path_and_the_counts_and_never_the_text(tiny_artefact):
    with process(model=tiny_artefact) as service:
        for path, body, headers in requests_of(TEXT).values():
            content = body if isinstance(body, str) else json.dumps(body)
            properties = {"properties": "{'a': '\\d Potter'}"} if "corenlp" in path else {}
            httpx.post(
                f"http://127.0.0.1:{service.port}{path}",
                content=content.encode(), headers=headers, params=properties,
            ).raise_for_status()  # fmt: skip
        service.process.terminate()
        assert service.wait() == 0
    lines = [json.loads(line) for line in service.log if '"answered"' in line]
    assert {line["path"] for line in lines} >= {"/v2/models/{name}/infer", "/compat/comprehend/"}
    assert all((line["sentences"], line["tokens"] > 8) == (2, True) for line in lines)
    assert "Potter" not in "".join(service.log)


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 1 << 70)
    | st.floats()
    | any_text
    | st.sampled_from(["text", "PER"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3),
    max_leaves=6,
)


@brief
@given(data=st.data())
def test_whatever_is_sent_the_answer_is_no_500(service, data):
    path, body, headers = requests_of(data.draw(any_text))[data.draw(st.sampled_from(SURFACES))]
    if isinstance(body, str):
        path += "?properties=" + quote(
            data.draw(any_text | st.just("{'ssplit.eolonly': 'true'}")), errors="replace"
        )
    else:
        # One member is replaced, at whatever depth, by something else.
        at = body
        while True:
            key = data.draw(st.sampled_from(sorted(at) if isinstance(at, dict) else list(range(len(at)))))
            if not isinstance(at[key], dict | list) or not at[key] or data.draw(st.booleans()):
                break
            at = at[key]
        at[key] = data.draw(anything)
    content = body if isinstance(body, str) else json.dumps(body)
    answer = post(service, path, content.encode(errors="replace"), headers)
    assert answer.status_code in (200, 400, 404, 413, 422), answer.text


def test_problems_of_the_router_are_said_in_the_client_s_words_too(service):
    answer = service.client.get("/compat/comprehend")
    assert (answer.status_code, answer.json()["__type"]) == (400, "InvalidRequestException")
    assert service.client.get("/v2/nope").json()["error"]
    assert service.client.get("/v2nope").headers["content-type"] == "application/problem+json"


# Hugging Face


def hugging(service, inputs, **parameters):
    return answered(service, "/compat/huggingface", {"inputs": inputs, "parameters": parameters})


def test_none_gives_every_token_with_its_label_and_score(service):
    tokens = [
        t
        for s in service.client.post("/v1/tag", json={"text": TEXT}).json()["sentences"]
        for t in s["tokens"]
    ]
    found = hugging(service, TEXT, aggregation_strategy="none", ignore_labels=[])
    assert [(t["word"], t["start"], t["end"], t["entity"], t["score"]) for t in found] == [
        (t["text"], t["start"], t["end"], t["label"], t["score"]) for t in tokens
    ]
    assert [t["index"] for t in found] == list(range(1, len(tokens) + 1))
    named = hugging(service, TEXT, aggregation_strategy="none")
    assert named == [t for t in found if t["entity"] != "O"]


def test_all_strategies_that_join_give_the_persons(service):
    for strategy in ("simple", "first", "average", "max", None):
        found = hugging(service, TEXT, aggregation_strategy=strategy)
        assert [(e["start"], e["end"]) for e in found] == persons(service, TEXT)
        assert {e["entity_group"] for e in found} == {"PER"}
    assert hugging(service, TEXT, ignore_labels=["PER", "O"]) == []


def test_what_is_outside_of_persons_is_given_where_it_is_not_ignored(service):
    found = hugging(service, TEXT, ignore_labels=[])
    assert {e["entity_group"] for e in found} == {"PER", "O"}
    assert [e for e in found if e["entity_group"] == "PER"] == hugging(service, TEXT)
    tokens = hugging(service, TEXT, aggregation_strategy="none", ignore_labels=[])
    for each in found:
        if each["entity_group"] == "O":
            inside = [t["score"] for t in tokens if each["start"] <= t["start"] < each["end"]]
            assert each["score"] == pytest.approx(sum(inside) / len(inside), abs=1e-5)
    spaces = "".join(c for c in TEXT if c.isspace())
    covered = "".join(TEXT[e["start"] : e["end"]] for e in found)
    assert sorted(covered.replace(" ", "")) == sorted(c for c in TEXT if c not in spaces)


def test_several_inputs_give_as_many_lists(service):
    assert hugging(service, [TEXT, "", TEXT]) == [hugging(service, TEXT), [], hugging(service, TEXT)]


def test_another_strategy_is_refused_with_those_there_are(service):
    body = {"inputs": "x", "parameters": {"aggregation_strategy": "best"}}
    answer = post(service, "/compat/huggingface", body)
    assert answer.status_code == 422
    assert "one of none, simple, first, average, max is expected" in answer.json()["error"]


# Presidio


def analyze(service, **body):
    return answered(service, "/compat/presidio/analyze", {"text": TEXT, "language": "en", **body})


def test_analyze_gives_what_recognizer_result_takes_and_nothing_else(service):
    found = analyze(service)
    assert [(r["start"], r["end"]) for r in found] == persons(service, TEXT)
    members = {"entity_type", "start", "end", "score", "analysis_explanation"}
    assert all(r.keys() == members and r["entity_type"] == "PERSON" for r in found)
    assert analyze(service, text=[TEXT, ""]) == [found, []]


def test_analyze_heeds_entities_the_allow_list_and_the_threshold(service):
    assert analyze(service, entities=["PERSON", "CREDIT_CARD"]) == analyze(service)
    assert analyze(service, entities=["CREDIT_CARD"]) == []
    first, *rest = analyze(service)
    assert analyze(service, allow_list=[TEXT[first["start"] : first["end"]]]) == rest
    many = analyze(service, score_threshold=0.05)
    assert all(r["score"] >= 0.05 for r in many)
    tagged = service.client.post("/v1/tag", json={"text": TEXT, "threshold": 0.05}).json()["sentences"]
    assert len(many) == sum(len(s["persons"]) for s in tagged)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"language": "de"}, "/language is a language that this model does not know: one of en"),
        ({"ad_hoc_recognizers": [{}]}, "/ad_hoc_recognizers is not empty"),
        ({"allow_list": ["a"], "allow_list_match": "regex"}, "/allow_list_match is another way"),
        ({"score_threshold": 2}, "/score_threshold is a number out of range"),
        ({"text": {}}, "/text is an object: a string, or an array of strings"),
    ],
)
def test_analyze_refuses_what_it_cannot_do(service, body, said):
    answer = post(service, "/compat/presidio/analyze", {"text": TEXT, "language": "en", **body})
    assert answer.status_code == 422
    assert answer.json()["error"].startswith(said)


def test_presidio_s_lists(service):
    get = service.client.get
    assert get("/compat/presidio/supportedentities?language=en").json() == ["PERSON"]
    assert get("/compat/presidio/supportedentities?language=de").json() == []
    assert get("/compat/presidio/recognizers").json() == ["NametagRecognizer"]
    assert get("/compat/presidio/anonymizers").json() == ["hash", "keep", "mask", "redact", "replace"]
    assert get("/compat/presidio/health").status_code == 200


def anonymize(service, **anonymizers):
    found = [{"entity_type": "PERSON", "start": 0, "end": 3, "score": 0.9}]
    body = {"text": "Ada wrote", "analyzer_results": found, "anonymizers": anonymizers}
    return post(service, "/compat/presidio/anonymize", body)


def test_a_hash_without_a_salt_differs_each_time(service):
    made = {anonymize(service, DEFAULT={"type": "hash"}).json()["text"] for _ in range(2)}
    assert len(made) == 2
    assert all(len(text) == 64 + len(" wrote") for text in made)


@pytest.mark.parametrize(
    ("operator", "said"),
    [
        ({"type": "encrypt", "key": "k" * 16}, "another one: one of replace, redact, keep, mask, hash"),
        ({"type": "mask", "masking_char": "**", "chars_to_mask": 1, "from_end": True}, "one character"),
        ({"type": "mask", "masking_char": "*", "chars_to_mask": "1"}, "a whole number is expected"),
        ({"type": "hash", "salt": "short"}, "5 bytes: at least 16, or no salt"),
        ({"type": "hash", "hash_type": "md5"}, "one of sha256, sha512"),
        ("redact", "null: one of replace"),
    ],
)
def test_an_operator_that_is_not_here_is_refused(service, operator, said):
    answer = anonymize(service, PERSON=operator)
    assert answer.status_code == 422
    assert said in answer.json()["error"]


@pytest.mark.parametrize("place", [(0, 10), (-1, 3), (3, 3), (4, 3), (0.0, 3), ("0", 3)])
def test_a_result_outside_of_the_text_is_refused(service, place):
    found = [{"entity_type": "PERSON", "start": place[0], "end": place[1], "score": 0.9}]
    body = {"text": "Ada wrote", "analyzer_results": found}
    assert post(service, "/compat/presidio/anonymize", body).status_code == 422


# Open Inference Protocol


def test_the_model_s_metadata_and_health(service):
    get = service.client.get
    assert get("/v2/health/live").json() == {"live": True}
    assert get("/v2/health/ready").json() == {"ready": True}
    assert get("/v2/models/tiny/ready").json() == {"name": "tiny", "ready": True}
    assert get("/v2/models/tiny/versions/1").json() == get("/v2/models/tiny").json()
    assert get("/v2/models/tiny").json()["versions"] == ["1"]
    assert get("/v2").json()["extensions"] == ["binary_tensor_data"]
    assert get("/v2/models/nope").status_code == get("/v2/models/tiny/versions/9/ready").status_code == 404


def infer(service, body, headers=None):
    return post(service, "/v2/models/tiny/infer", body, headers or {})


def test_the_answer_has_the_shape_of_the_input_and_the_request_s_id(service):
    body = tensor(TEXT, "", shape=[2, 1], data=[[TEXT], [""]]) | {"id": "seven"}
    answer = infer(service, body).json()
    (output,) = answer["outputs"]
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("seven", "tiny", "1")
    assert (output["name"], output["datatype"], output["shape"]) == ("entities", "BYTES", [2, 1])
    first, second = map(json.loads, output["data"])
    assert [(e["start"], e["end"]) for e in first] == persons(service, TEXT)
    assert all(TEXT[e["start"] : e["end"]] == e["text"] and e["label"] == "PER" for e in first)
    assert second == []


def test_a_threshold_is_a_parameter(service):
    body = tensor(TEXT) | {"parameters": {"threshold": 1}}
    assert infer(service, body).json()["outputs"][0]["data"] == ["[]"]


def test_bytes_come_back_only_where_they_are_asked_for(service):
    data = struct.pack("<I", len(TEXT.encode())) + TEXT.encode()
    head = tensor(TEXT, parameters={"binary_data_size": len(data)})
    del head["inputs"][0]["data"]
    start = json.dumps(head).encode()
    headers = {"inference-header-content-length": str(len(start))}
    plain = infer(service, start + data, headers)
    assert plain.json()["outputs"] == infer(service, tensor(TEXT)).json()["outputs"]
    start = json.dumps(
        head | {"outputs": [{"name": "entities", "parameters": {"binary_data": True}}]}
    ).encode()
    binary = infer(service, start + data, {"inference-header-content-length": str(len(start))})
    n = int(binary.headers["inference-header-content-length"])
    (output,) = json.loads(binary.content[:n])["outputs"]
    assert output["parameters"]["binary_data_size"] == len(binary.content) - n
    (size,) = struct.unpack_from("<I", binary.content, n)
    assert binary.content[n + 4 : n + 4 + size].decode() == plain.json()["outputs"][0]["data"][0]


@pytest.mark.parametrize(
    ("data", "size", "said"),
    [
        (b"\x05\0\0\0abc", 7, "cut off in element 0"),
        (b"\x01\0\0\0a\0\0", 7, "cut off in element 1"),
        (b"\x01\0\0\0a", 6, "/binary_data_size is another size: 5, as there are"),
        (b"\x01\0\0\0\xff", 5, "element 0 of the input: byte 0 is not UTF-8"),
    ],
)
def test_bytes_that_are_no_tensor_are_refused(service, data, size, said):
    head = tensor("x", parameters={"binary_data_size": size})
    start = json.dumps(head).encode()
    answer = infer(service, start + data, {"inference-header-content-length": str(len(start))})
    assert answer.status_code in (400, 422)
    assert said in answer.json()["error"]
    long = infer(service, start, {"inference-header-content-length": "9" * 12})
    assert long.status_code == 422


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (tensor("a", shape=[2]), "/inputs/0/shape is 2 elements: 1, as there are"),
        (tensor("a", datatype="FP32"), "BYTES is expected"),
        (tensor("a", name="words"), "`text` is expected"),
        (tensor("a", shape=[-1]), "1 to 8 whole numbers"),
        (tensor(1), "/inputs/0/data/0 is a number: a string"),
        ({"inputs": []}, "0 inputs: one input, `text`"),
        (tensor("a") | {"outputs": [{"name": "labels"}]}, "/outputs/0/name is another name: `entities`"),
    ],
)
def test_an_inference_that_is_none_is_refused(service, body, said):
    answer = infer(service, body)
    assert answer.status_code == 422
    assert said in answer.json()["error"]


# CoreNLP


def corenlp(service, text, **properties):
    return service.client.post(
        "/compat/corenlp/", content=text.encode(), params={"properties": json.dumps(properties)}
    )


def words(answer):
    return [[t["word"] for t in s["tokens"]] for s in answer.json()["sentences"]]


def test_the_properties_say_what_is_a_token_and_what_is_a_sentence(service):
    text = "Ann Lee's. Bob\nleft, he did."
    assert words(corenlp(service, text)) == [
        ["Ann", "Lee", "'s", "."],
        ["Bob", "left", ",", "he", "did", "."],
    ]
    by_spaces = {"tokenize.whitespace": "true"}
    assert words(corenlp(service, text, **by_spaces, **{"ssplit.eolonly": True})) == [
        ["Ann", "Lee's.", "Bob"], ["left,", "he", "did."],
    ]  # fmt: skip
    assert words(corenlp(service, text, **by_spaces, **{"ssplit.isOneSentence": "true"})) == [text.split()]
    assert (
        words(corenlp(service, ""))
        == words(corenlp(service, " \n", **{"ssplit.isOneSentence": "true"}))
        == []
    )


def test_properties_may_be_a_python_literal(service):
    properties = {"properties": "{'annotators': 'tokenize,ner', 'ssplit.isOneSentence': True}"}
    answer = service.client.post("/compat/corenlp", content=b"Ann. Bob.", params=properties)
    assert words(answer) == [["Ann", ".", "Bob", "."]]


def test_character_offsets_are_java_s_and_code_points_are_there_too(service):
    for sentence in corenlp(service, "👋 Harry Potter 👋 left. 👋 Granger").json()["sentences"]:
        for each in (*sentence["tokens"], *sentence["entitymentions"]):
            text = each.get("word") or each["text"]
            start, end = each["codepointOffsetBegin"], each["codepointOffsetEnd"]
            assert "👋 Harry Potter 👋 left. 👋 Granger"[start:end] == text
            units = "👋 Harry Potter 👋 left. 👋 Granger".encode("utf-16-le")
            java = units[2 * each["characterOffsetBegin"] : 2 * each["characterOffsetEnd"]]
            assert java.decode("utf-16-le") == text


def test_mentions_are_where_the_tokens_say(service):
    text = TEXT
    docs = corenlp(service, text).json()["sentences"]
    n = 0
    found = []
    for sentence in docs:
        for mention in sentence["entitymentions"]:
            tokens = sentence["tokens"][mention["tokenBegin"] : mention["tokenEnd"]]
            assert {t["ner"] for t in tokens} == {"PERSON"}
            assert mention["docTokenBegin"] == n + mention["tokenBegin"]
            found.append((mention["codepointOffsetBegin"], mention["codepointOffsetEnd"]))
        n += len(sentence["tokens"])
    assert found == persons(service, text)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ("{'outputFormat': 'serialized'}", "/properties/outputFormat is another format: json is expected"),
        ('{"annotators": "parse"}', "/properties/annotators is others too"),
        ("[]", "an object of strings"),
        ("{1: '2'}", "an object of strings"),
        ("__import__('os')", "an object of strings"),
        ("(" * 2000, "an object of strings"),
        ("-" * 4000 + "1", "an object of strings"),
        ("{'a': '\\d'", "an object of strings"),
        (" " * 5000, "5000 characters: at most 4096"),
        ('{"pipelineLanguage": "de"}', "a language that this model does not know"),
    ],
)
def test_properties_that_it_cannot_heed_are_refused(service, raw, said):
    answer = service.client.post("/compat/corenlp", content=b"Ann", params={"properties": raw})
    assert answer.status_code == 422
    assert said in answer.text


def test_the_pings_of_clients(service):
    for path in ("ping", "live", "ready"):
        assert service.client.get(f"/compat/corenlp/{path}").status_code == 200


# Comprehend


@pytest.mark.parametrize(
    ("target", "body", "kind"),
    [
        ("DetectSentiment", {"Text": "a", "LanguageCode": "en"}, "InvalidRequestException"),
        ("DetectEntities", {"Text": "a", "LanguageCode": "de"}, "UnsupportedLanguageException"),
        ("DetectEntities", {"Text": 1, "LanguageCode": "en"}, "InvalidRequestException"),
        ("BatchDetectEntities", {"Text": "a", "LanguageCode": "en"}, "InvalidRequestException"),
        ("DetectEntities", [], "InvalidRequestException"),
    ],
)
def test_comprehend_s_errors_have_its_names(service, target, body, kind):
    headers = {**AWS, "x-amz-target": f"Comprehend_20171127.{target}"}
    answer = post(service, "/compat/comprehend", body, headers)
    assert answer.status_code == 400
    assert answer.json()["__type"] == kind
