"""What the README shows, run as a reader would: its example, its answer, its retraining commands."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.settings import ROOT
from tests.running import Process, environment, process

README = (ROOT / "README.md").read_text("utf-8")
BUNDLED = ROOT / "artefacts" / "en-person"

pytestmark = pytest.mark.bundled


def blocks(language: str) -> list[str]:
    """The README's code blocks of a language, in order."""
    found: list[str] = re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    return found


def close(shown: Any, answered: Any) -> bool:
    """Equal, but for scores, which may differ in the fourth digit from one machine to another."""
    if isinstance(shown, float):
        return bool(abs(shown - answered) < 1e-3)
    if isinstance(shown, dict):
        return shown.keys() == answered.keys() and all(close(shown[k], answered[k]) for k in shown)
    if isinstance(shown, list):
        return len(shown) == len(answered) and all(map(close, shown, answered))
    return bool(shown == answered)


def run_shell(command: str, service: Process) -> str:
    """What a command of the README prints, when the service is the one it means."""
    command = command.replace("127.0.0.1:8000", f"127.0.0.1:{service.port}")
    return subprocess.run(
        command, shell=True, capture_output=True, text=True, timeout=60, check=True
    ).stdout


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_the_curl_command_of_the_stream_answers_each_line() -> None:
    (command,) = (block for block in blocks("sh") if "/v1/tag/stream" in block)
    with process(model=BUNDLED) as service:
        right, wrong = map(json.loads, run_shell(command, service).splitlines())
    assert (right["id"], right["sentences"][0]["persons"][0]["text"]) == ("a", "Ada Lovelace")
    assert (wrong["line"], wrong["code"]) == (2, "invalid-request")


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_the_curl_command_gives_the_answer_shown() -> None:
    (command,) = (block for block in blocks("sh") if "/v1/tag " in block)
    (shown,) = (json.loads(block) for block in blocks("json"))
    with process(model=BUNDLED) as service:
        answered = json.loads(run_shell(command, service))
    assert close(shown, answered), answered
    (sentence,) = answered["sentences"]
    assert [token["person"] for token in sentence["tokens"]] == [1, 1, 0, 1, 1, 0, 0, 0, 0]


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_the_curl_command_of_redaction_answers_as_the_text_says() -> None:
    (command,) = (block for block in blocks("sh") if "/v1/redact" in block)
    with process(model=BUNDLED) as service:
        texts = [result["text"] for result in json.loads(run_shell(command, service))["texts"]]
    assert texts == ["[PERSON_1] met [PERSON_2].", "[PERSON_1]'s notes"]
    assert all(f"`{text}`" in README for text in texts)


def test_the_commands_of_the_command_line_run(tmp_path: Path) -> None:
    (block,) = (block for block in blocks("sh") if "nametag tag" in block)
    text = "Ada Lovelace met Charles Babbage.\n"
    (tmp_path / "notes.txt").write_text(text)
    (tmp_path / "people.csv").write_text(f"id,note\n1,{text}")
    (tmp_path / "mail.jsonl.gz").write_bytes(gzip.compress(json.dumps({"text": text}).encode()))
    env = {**environment(), "PYTHONPATH": str(ROOT)}
    shown = []
    for line in block.splitlines():
        command = line.partition("#")[0].replace("nametag", f"{sys.executable} -m service.cli", 1)
        done = subprocess.run(
            command,
            shell=True,
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        shown.append(done.stdout)
    assert sorted(path.name for path in (tmp_path / "tagged").glob("*.jsonl")) == [
        "mail.jsonl", "notes.txt.jsonl",
    ]  # fmt: skip
    header, row = shown[1].splitlines()
    assert header == "id,note,persons"
    assert row == "1,Ada Lovelace met Charles Babbage.,Ada Lovelace; Charles Babbage"
    assert (tmp_path / "redacted.txt").read_text() == "[PERSON_1] met [PERSON_2].\n"
    assert "en-person@" in shown[3]


def test_the_retraining_commands_make_a_model_that_serves(tmp_path: Path) -> None:
    (block,) = (block for block in blocks("sh") if "--init" in block)
    commands = [line.partition("#")[0].strip() for line in block.splitlines()]
    ours = [c for c in commands if c.startswith(".venv/bin/python ")]
    assert len(ours) == 2
    for command in ours:
        arguments = command.replace("runs/mine", str(tmp_path)).split()[1:]
        if "train" in arguments:
            arguments += ["--run", str(tmp_path / "run")]
        subprocess.run([sys.executable, *arguments], cwd=ROOT, timeout=300, check=True)
    assert "<svg" in (tmp_path / "report.html").read_text("utf-8")
    (serve,) = (c for c in commands if c.startswith("make serve"))
    model = serve.partition("MODEL=")[2].replace("runs/mine", str(tmp_path))
    with process(model=model) as service:
        url = f"http://127.0.0.1:{service.port}/v1/tag"
        answer = httpx.post(url, json={"sentences": ["Harry Potter met Hermione Granger ."]}).json()
    assert [p["text"] for p in answer["sentences"][0]["persons"]] == ["Harry Potter", "Hermione Granger"]
