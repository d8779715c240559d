"""Label Studio: predictions for its configurations, and annotators' corrections as training data."""

import json
import subprocess
import sys
import threading

import pytest

from model.tokeniser import tokeniser
from service.compat.corrections import Correction, Region, store
from service.settings import ROOT
from tests.running import running
from training.corpus import read_corpus

TEXT = "👋 Harry Potter met Hermione Granger."
CONFIG = (
    '<View><Choices name="kind" toName="text"><Choice value="Person"/></Choices>'
    '<Labels name="ner" toName="text"><Label value="Place"/><Label value="Person"/></Labels>'
    '<Text name="text" value="$content"/></View>'
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("annotations") / "made"


@pytest.fixture(scope="module")
def service(tiny_artefact, folder):
    with running(tiny_artefact, annotations_dir=folder) as service:
        yield service


def post(service, call, body):
    return service.client.post(f"/compat/labelstudio/{call}", json=body)


def predict(service, config=CONFIG, text=TEXT):
    return post(
        service, "predict", {"tasks": [{"id": 1, "data": {"content": text}}], "label_config": config}
    )


def region(start, end, label="Person", text=None, **more):
    value = {"start": start, "end": end, "labels": [label]}
    if text is not None:
        value["text"] = text
    return {"type": "labels", "from_name": "ner", "to_name": "text", "value": value, **more}


def event(action, *regions, annotation=7, project=1, data=None, config=CONFIG, **more):
    """What Label Studio sends when an annotation is saved."""
    return {
        "action": action,
        "annotation": {"id": annotation, "result": [*regions], **more},
        "task": {"id": 3, "data": data or {"content": TEXT}},
        "project": {"id": project, "label_config": config},
    }


def stored(folder, project=1):
    """(annotation, text, [(start, end, label), …]) of each line of a project's file."""
    lines = (folder / f"project-{project}.jsonl").read_text("utf-8").splitlines()
    return [
        (line["annotation"], line["text"], [(s["start"], s["end"], s["label"]) for s in line["spans"]])
        for line in map(json.loads, lines)
    ]


# Predictions


def test_predictions_are_made_for_the_labels_of_the_configuration(service):
    (prediction,) = predict(service).json()["results"]
    persons = [
        p
        for s in service.client.post("/v1/tag", json={"text": TEXT}).json()["sentences"]
        for p in s["persons"]
    ]
    assert prediction["model_version"] == "tiny@1"
    assert prediction["score"] == min(p["score"] for p in persons)
    assert [(r["value"]["start"], r["value"]["end"], r["score"]) for r in prediction["result"]] == [
        (p["start"], p["end"], p["score"]) for p in persons
    ]
    for each in prediction["result"]:
        value = each["value"]
        assert (each["from_name"], each["to_name"], each["type"]) == ("ner", "text", "labels")
        assert value["labels"] == ["Person"]
        assert TEXT[value["start"] : value["end"]] == value["text"]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("<View>", "not XML (line 1, column 6)"),
        ('<View><Text name="t" value="$content"/></View>', "a configuration without one"),
        (CONFIG.replace("Person", "Animal"), "a configuration without one"),
        (CONFIG.replace("$content", "plain words"), "a configuration without one"),
        ('<!DOCTYPE a [<!ENTITY b "b">]><View>&b;</View>', "XML with a document type"),
        (None, "/label_config is null"),
    ],
)
def test_a_configuration_without_a_label_for_persons_is_refused(service, config, said):
    answer = predict(service, config)
    assert answer.status_code == 422
    assert said in answer.json()["error"]


def test_a_task_without_the_text_is_refused_at_its_place(service):
    body = {
        "tasks": [{"id": 1, "data": {"content": ""}}, {"data": {"Harry": TEXT}}],
        "label_config": CONFIG,
    }
    answer = post(service, "predict", body)
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("/tasks/1/data/… is null: a string")
    assert "Harry" not in answer.text


def test_setup_versions_and_health(service):
    setup = post(service, "setup", {"project": "1.1", "schema": CONFIG, "extra_params": ""})
    assert setup.json() == {"model_version": "tiny@1"}
    assert post(service, "versions", {"project": "1.1"}).json() == {"versions": ["tiny@1"]}
    assert service.client.get("/compat/labelstudio/health").json()["status"] == "UP"


# Corrections


def test_an_annotation_is_stored_and_changed_and_deleted(service, folder):
    first = event("ANNOTATION_CREATED", region(2, 14, text="Harry Potter"), project="a")
    assert post(service, "webhook", first).json() == {"status": "stored"}
    other = event("ANNOTATION_CREATED", region(19, 35, "Place"), annotation=8, project="a")
    assert post(service, "webhook", other).status_code == 200
    assert stored(folder, "a") == [(7, TEXT, [(2, 14, "PER")]), (8, TEXT, [(19, 35, "Place")])]
    changed = event("ANNOTATION_UPDATED", region(19, 35), region(2, 7), project="a")
    assert post(service, "webhook", changed).status_code == 200
    assert stored(folder, "a")[1] == (7, TEXT, [(2, 7, "PER"), (19, 35, "PER")])
    gone = {"action": "ANNOTATIONS_DELETED", "annotations": [{"id": 8}], "project": {"id": "a"}}
    assert post(service, "webhook", gone).status_code == 200
    assert [line[0] for line in stored(folder, "a")] == [7]
    skipped = event("ANNOTATION_UPDATED", project="a", was_cancelled=True)
    assert post(service, "webhook", skipped).status_code == 200
    assert stored(folder, "a") == []


def test_other_events_are_taken_and_change_nothing(service, folder):
    assert post(service, "webhook", event("PROJECT_UPDATED", project="none")).json() == {
        "status": "ignored"
    }
    assert not (folder / "project-none.jsonl").exists()


def test_offsets_in_utf16_units_are_known_by_the_region_s_text(service, folder):
    assert post(
        service, "webhook", event("ANNOTATION_CREATED", region(3, 15, text="Harry Potter"), project=2)
    ).is_success
    assert stored(folder, 2) == [(7, TEXT, [(2, 14, "PER")])]


@pytest.mark.parametrize(
    ("regions", "said"),
    [
        ([region(2, 14, text="Hermione")], "/annotation/result/0/value is another part of the text"),
        ([region(1, 2)], "not only white space"),
        ([region(2, 999)], "/annotation/result/0/value/end is a number out of range"),
        ([region(2, 14), region(8, 35)], "regions that overlap at characters 8 to 35"),
        (
            [region(2, 14, text="Harry Potter") | {"value": {"start": 2, "end": 14, "labels": []}}],
            "0 labels: one",
        ),
    ],
)
def test_a_region_that_no_training_could_use_is_refused_and_nothing_is_stored(
    service, folder, regions, said
):
    answer = post(service, "webhook", event("ANNOTATION_CREATED", *regions, project="wrong"))
    assert answer.status_code == 422
    assert said in answer.json()["error"]
    assert "Harry" not in answer.text
    assert not (folder / "project-wrong.jsonl").exists()


def test_a_project_s_id_cannot_lead_out_of_the_folder(service, folder):
    body = event("ANNOTATION_CREATED", region(2, 14), project="../../x")
    assert post(service, "webhook", body).status_code == 200
    assert len(stored(folder, "unknown")) == 1


def test_without_a_folder_the_answer_says_which_setting_is_missing(tiny_artefact):
    with running(tiny_artefact) as service:
        answer = post(service, "webhook", event("ANNOTATION_CREATED", region(2, 14)))
    assert (answer.status_code, answer.json()["code"]) == (403, "annotations-off")
    assert "NAMETAG_ANNOTATIONS_DIR" in answer.json()["error"]


def test_where_it_cannot_be_stored_the_answer_is_a_503_without_the_text(tiny_artefact, tmp_path):
    (tmp_path / "file").touch()
    with running(tiny_artefact, annotations_dir=tmp_path / "file") as service:
        answer = post(service, "webhook", event("ANNOTATION_CREATED", region(2, 14)))
    assert (answer.status_code, answer.json()["code"]) == (503, "annotations-not-stored")


@pytest.mark.parametrize("line", ["[1]", "null", '"7"', "no JSON"])
def test_a_file_with_lines_of_somebody_else_s_is_a_503_and_stays_as_it_is(service, folder, line):
    folder.mkdir(exist_ok=True)
    file = folder / "project-mixed.jsonl"
    file.write_text(line + "\n")
    gone = {"action": "ANNOTATIONS_DELETED", "annotations": [{"id": 8}], "project": {"id": "mixed"}}
    for body in (event("ANNOTATION_CREATED", region(2, 14), project="mixed"), gone):
        answer = post(service, "webhook", body)
        assert (answer.status_code, answer.json()["code"]) == (503, "annotations-not-stored")
    assert file.read_text() == line + "\n"


def test_several_writers_lose_nothing(tmp_path):
    path = tmp_path / "project-1.jsonl"

    def write(first):
        for i in range(first, first + 20):
            store(path, Correction(i, None, TEXT, [Region(2, 14, "PER")]))

    threads = [threading.Thread(target=write, args=(n,)) for n in (0, 100, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    numbers = sorted(json.loads(line)["annotation"] for line in path.read_text().splitlines())
    assert numbers == [*range(20), *range(100, 120), *range(200, 220)]


def test_training_takes_the_file_as_it_is(service, folder, tmp_path):
    texts = ["Harry Potter met Hermione Granger.", "Then Ann wrote 👋 to José Nuñez."]
    for number, text in enumerate(texts * 6):
        names = ["Harry Potter", "Hermione Granger", "Ann", "José Nuñez"]
        regions = [region(text.index(n), text.index(n) + len(n), text=n) for n in names if n in text]
        body = event(
            "ANNOTATION_CREATED", *regions, annotation=number, project="train", data={"content": text}
        )
        assert post(service, "webhook", body).status_code == 200
    file = folder / "project-train.jsonl"
    sentences = read_corpus(file, tokenise=tokeniser("treebank-1"))
    assert len(sentences) == 12
    labelled = zip(sentences[1].tokens, sentences[1].labels, strict=True)
    assert [token for token, label in labelled if label != "O"] == ["Ann", "José", "Nuñez"]
    done = subprocess.run(
        [sys.executable, "-m", "training", "train", file, "--epochs", "1", "--out", tmp_path / "model",
         "--run", tmp_path / "run"],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "model" / "config.json").exists()
