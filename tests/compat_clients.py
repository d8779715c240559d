"""python compat_clients.py CLIENT URL: a real client of another service, asked for the persons in texts.

Reads a JSON list of texts from stdin and writes a list for each: ``[start, end, score]``, in code
points, score null where the client gives none. It runs in a process of its own, since some clients
warn and some need an environment of their own (.venv-peers); so it imports nothing of this project.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
Found = list[list[Any]]


def huggingface_hub(url: str, texts: list[str]) -> list[Found]:
    from huggingface_hub import InferenceClient

    client = InferenceClient(base_url=f"{url}/compat/huggingface", token="none")
    found = [client.token_classification(text, aggregation_strategy="simple") for text in texts]
    for text, entities in zip(texts, found, strict=True):
        assert all(text[e.start : e.end] == e.word and e.entity_group == "PER" for e in entities)
        none = client.token_classification(text, aggregation_strategy="none", ignore_labels=["O"])
        assert sum(token.entity == "B-PER" for token in none) == len(entities)
        assert all(text[token.start : token.end] == token.word for token in none)
    return [[[e.start, e.end, e.score] for e in entities] for entities in found]


def huggingface_js(url: str, texts: list[str]) -> list[Found]:
    script = """
import {readFileSync} from "node:fs";
import {createRequire} from "node:module";
import {pathToFileURL} from "node:url";
const [url, folder] = process.argv.slice(-2);
const path = createRequire(folder + "/").resolve("@huggingface/inference");
const {InferenceClient} = await import(pathToFileURL(path));
const client = new InferenceClient("none", {endpointUrl: url});
const found = [];
for (const inputs of JSON.parse(readFileSync(0, "utf8"))) {
  const parameters = {aggregation_strategy: "simple"};
  const entities = await client.tokenClassification({inputs, parameters});
  found.push(entities.map((e) => [e.start, e.end, e.score]));
}
console.log(JSON.stringify(found));
"""
    folder = HERE.parent / ".venv-peers"
    done = subprocess.run(
        ["node", "--input-type=module", "-e", script, f"{url}/compat/huggingface", str(folder)],
        input=json.dumps(texts), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr)
    found: list[Found] = json.loads(done.stdout)
    return found


def triton(url: str, texts: list[str], binary: bool) -> list[Found]:
    import numpy as np
    import tritonclient.http as http

    client = http.InferenceServerClient(url.removeprefix("http://"))
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny")
    metadata = client.get_model_metadata("tiny")
    (named,) = metadata["inputs"]
    given = http.InferInput(named["name"], [len(texts)], named["datatype"])
    given.set_data_from_numpy(np.array([t.encode() for t in texts], dtype=object), binary_data=binary)
    wanted = [http.InferRequestedOutput("entities", binary_data=binary)]
    for outputs in (wanted, None):
        answer = client.infer("tiny", [given], outputs=outputs, request_id="7")
        assert answer.get_response()["id"] == "7"
        parts = [json.loads(each) for each in answer.as_numpy("entities")]
    return [[[e["start"], e["end"], e["score"]] for e in part] for part in parts]


def triton_json(url: str, texts: list[str]) -> list[Found]:
    return triton(url, texts, binary=False)


def triton_binary(url: str, texts: list[str]) -> list[Found]:
    return triton(url, texts, binary=True)


def kserve(url: str, texts: list[str]) -> list[Found]:
    from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

    async def ask(binary: bool) -> list[Found]:
        client = InferenceRESTClient(RESTConfig(protocol="v2"))
        assert await client.is_server_live(url)
        assert await client.is_server_ready(url)
        assert await client.is_model_ready(url, "tiny")
        given = InferInput("text", [len(texts)], "BYTES", data=texts)
        if binary:
            import numpy as np

            given = InferInput("text", [len(texts)], "BYTES")
            given.set_data_from_numpy(np.array([t.encode() for t in texts], dtype=object), binary_data=True)
        answer = await client.infer(url, InferRequest("tiny", [given]), model_name="tiny")
        parts = [json.loads(each) for each in answer.outputs[0].data]
        return [[[e["start"], e["end"], e["score"]] for e in part] for part in parts]

    found = asyncio.run(ask(binary=False))
    assert asyncio.run(ask(binary=True)) == found
    return found


def nltk(url: str, texts: list[str]) -> list[Found]:
    """Given tokens, as its taggers work: the texts hold single spaces only."""
    from nltk.parse.corenlp import CoreNLPParser

    parser = CoreNLPParser(url=f"{url}/compat/corenlp", tagtype="ner")
    found = []
    for text in texts:
        words = text.split(" ")
        tagged = parser.tag(words)
        assert [word for word, _ in tagged] == words
        starts = [sum(map(len, words[:i])) + i for i in range(len(words))]
        found.append(
            [
                [start, start + len(word), None]
                for start, (word, name) in zip(starts, tagged, strict=True)
                if name == "PERSON"
            ]
        )
    return found


def stanza(url: str, texts: list[str]) -> list[Found]:
    from stanza.server import CoreNLPClient, StartServer

    client = CoreNLPClient(
        start_server=StartServer.DONT_START, endpoint=f"{url}/compat/corenlp",
        annotators=["tokenize", "ssplit", "ner"], output_format="json",
    )  # fmt: skip
    assert client.is_alive()
    found = []
    for text in texts:
        units = text.encode("utf-16-le")
        mentions = [m for s in client.annotate(text)["sentences"] for m in s["entitymentions"]]
        for m in mentions:
            cut = units[2 * m["characterOffsetBegin"] : 2 * m["characterOffsetEnd"]]
            assert cut.decode("utf-16-le") == m["text"]
        found.append(
            [
                [m["codepointOffsetBegin"], m["codepointOffsetEnd"], m["nerConfidences"]["PERSON"]]
                for m in mentions
            ]
        )
    return found


def boto3(url: str, texts: list[str]) -> list[Found]:
    import boto3 as aws

    client = aws.client(
        "comprehend", endpoint_url=f"{url}/compat/comprehend", region_name="us-east-1",
        aws_access_key_id="x", aws_secret_access_key="y",
    )  # fmt: skip
    single = [client.detect_entities(Text=text, LanguageCode="en")["Entities"] for text in texts]
    batch = client.batch_detect_entities(TextList=texts, LanguageCode="en")
    assert [result["Entities"] for result in batch["ResultList"]] == single
    assert batch["ErrorList"] == []
    for text, entities in zip(texts, single, strict=True):
        names = client.detect_pii_entities(Text=text, LanguageCode="en")["Entities"]
        assert [n["Type"] for n in names] == ["NAME"] * len(entities)
        labels = client.contains_pii_entities(Text=text, LanguageCode="en")["Labels"]
        assert bool(labels) == bool(entities)
        assert all(text[e["BeginOffset"] : e["EndOffset"]] == e["Text"] for e in entities)
    return [[[e["BeginOffset"], e["EndOffset"], e["Score"]] for e in entities] for entities in single]


def presidio(url: str, texts: list[str]) -> list[Found]:
    """A recogniser in the manner of Presidio's sample of a remote one, in its own engine."""
    import logging

    import requests
    from presidio_analyzer import AnalyzerEngine, RecognizerRegistry, RecognizerResult, RemoteRecognizer
    from presidio_analyzer.nlp_engine import SpacyNlpEngine

    class Remote(RemoteRecognizer):  # type: ignore[misc]
        def load(self) -> None:
            asked = requests.get(f"{url}/compat/presidio/supportedentities", {"language": "en"}, timeout=20)
            self.supported_entities = asked.json()

        def get_supported_entities(self) -> list[str]:
            return self.supported_entities

        def analyze(self, text: str, entities: list[str], nlp_artifacts: Any) -> list[RecognizerResult]:  # noqa: ARG002
            body = {"text": text, "language": "en", "entities": entities}
            answer = requests.post(f"{url}/compat/presidio/analyze", json=body, timeout=20)
            return [RecognizerResult(**item) for item in answer.json()]

    class Blank(SpacyNlpEngine):  # type: ignore[misc]
        def load(self) -> None:
            import spacy

            self.nlp = {"en": spacy.blank("en")}

    logging.disable()
    engine = Blank(models=[{"lang_code": "en", "model_name": "blank"}])
    engine.load()
    remote = Remote(supported_entities=[], name="remote", supported_language="en", version="1")
    analyzer = AnalyzerEngine(RecognizerRegistry([remote], supported_languages=["en"]), engine)
    found = [sorted(analyzer.analyze(t, "en"), key=lambda r: r.start) for t in texts]
    return [[[r.start, r.end, r.score] for r in results] for results in found]


def presidio_anonymizer(_: str, cases: list[Any]) -> list[Any]:
    """The library's own answers: for each case what its REST service would say."""
    from presidio_anonymizer import AnonymizerEngine
    from presidio_anonymizer.entities import OperatorConfig, RecognizerResult

    engine = AnonymizerEngine()
    answers = []
    for case in cases:
        results = [RecognizerResult(**result) for result in case["analyzer_results"]]
        operators = {
            name: OperatorConfig(given["type"], {k: v for k, v in given.items() if k != "type"})
            for name, given in case["anonymizers"].items()
        }
        said = engine.anonymize(case["text"], results, operators)
        items = [
            {name: getattr(item, name) for name in ("start", "end", "entity_type", "text", "operator")}
            for item in said.items
        ]
        answers.append({"text": said.text, "items": items})
    return answers


if __name__ == "__main__":
    # Libraries print what they like; only the answer may reach the pipe.
    pipe, sys.stdout = sys.stdout, sys.stderr
    # A client's functions must not find this file where they import the library of the same name.
    sys.path[:] = [each for each in sys.path if Path(each or ".").resolve() != HERE]
    print(json.dumps(globals()[sys.argv[1]](sys.argv[2], json.load(sys.stdin))), file=pipe)
