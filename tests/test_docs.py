"""What the README and docs/ show, run as a reader would: examples, answers, commands, clients."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.settings import ROOT
from tests.running import Process, process
from tests.test_compat_clients import PEERS, is_there

PAGES = {path.name: path.read_text("utf-8") for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))}
APART = ("presidio_analyzer", "spacy")  # what is in .venv-peers only
BUNDLED = ROOT / "artefacts" / "en-person"
# Commands that set up, serve for ever, or take long; the second group is for one that is tested elsewhere.
NOT_RUN = re.compile(
    r"make |docker |NAMETAG_\w+=\S+ (make|docker) |\.venv/bin/python -m training (study|language-model)"
    r"|.*/load |.*torchrun .* HOST:"  # tests/test_reload.py, tests/test_ranks.py
    r"|kubectl |haproxy |RAY_\w+=0 serve |pip |python benchmarks/replicas"  # tests of deploy/
    r"|python benchmarks/capacity"  # takes minutes and a quiet machine: tests/test_capacity.py
    r"|.* --engine ray"  # tests/test_cli_ray.py
)

pytestmark = pytest.mark.bundled


def blocks(language: str, *pages: str) -> list[str]:
    """The code blocks of a language, in order; of all pages unless some are named."""
    texts = [text for name, text in PAGES.items() if name in (pages or PAGES)]
    found: list[str] = re.findall(rf"^```{language}\n(.*?)^```", "\n".join(texts), re.DOTALL | re.MULTILINE)
    return found


def commands(block: str) -> list[str]:
    """The commands of a block, those of several lines joined."""
    joined = re.sub(r"(\\|\|)\n", lambda end: "| " if end[1] == "|" else "", block)
    return [line for line in joined.splitlines() if line.strip()]


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
    (command,) = (block for block in blocks("sh", "README.md") if "/v1/tag " in block)
    (shown,) = (json.loads(block) for block in blocks("json", "README.md"))
    with process(model=BUNDLED) as service:
        answered = json.loads(run_shell(command, service))
    assert close(shown, answered), answered
    (sentence,) = answered["sentences"]
    assert [token["person"] for token in sentence["tokens"]] == [1, 1, 0, 1, 1, 0, 0, 0, 0]


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_the_curl_command_of_redaction_answers_as_the_text_says() -> None:
    (command,) = (block for block in blocks("sh", "redaction.md") if "/v1/redact" in block)
    with process(model=BUNDLED) as service:
        texts = [result["text"] for result in json.loads(run_shell(command, service))["texts"]]
    assert texts == ["[PERSON_1] met [PERSON_2].", "[PERSON_1]'s notes"]
    assert all(f"`{text}`" in PAGES["redaction.md"] for text in texts)


def test_the_retraining_commands_make_a_model_that_serves(tmp_path: Path) -> None:
    (block,) = (block for block in blocks("sh") if "--init" in block)
    lines = [line.partition("#")[0].strip() for line in block.splitlines()]
    ours = [c for c in lines if c.startswith(".venv/bin/python ")]
    assert len(ours) == 2
    for command in ours:
        arguments = command.replace("runs/mine", str(tmp_path)).split()[1:]
        if "train" in arguments:
            arguments += ["--run", str(tmp_path / "run")]
        subprocess.run([sys.executable, *arguments], cwd=ROOT, timeout=300, check=True)
    assert "<svg" in (tmp_path / "report.html").read_text("utf-8")
    (serve,) = (c for c in lines if c.startswith("make serve"))
    model = serve.partition("MODEL=")[2].replace("runs/mine", str(tmp_path))
    with process(model=model) as service:
        url = f"http://127.0.0.1:{service.port}/v1/tag"
        answer = httpx.post(url, json={"sentences": ["Harry Potter met Hermione Granger ."]}).json()
    assert [p["text"] for p in answer["sentences"][0]["persons"]] == ["Harry Potter", "Hermione Granger"]


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_work(page: str, tmp_path: Path) -> None:
    """In a folder that has what they speak of, one after the other."""
    for name in ("training", "artefacts"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "letters.txt").write_text("Ada Lovelace wrote.\n\nCharles Babbage read.\n", "utf-8")
    with gzip.open(tmp_path / "notes.jsonl.gz", "wt", encoding="utf-8") as notes:
        notes.write('{"text": "Marie Curie left."}\n')
    (tmp_path / "mails.csv").write_text("id,body\n1,Ada wrote.\n", "utf-8")
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "letters.txt").write_text("Ada Lovelace wrote.\n", "utf-8")
    tools = tmp_path / "bin"
    tools.mkdir()
    modules = {"python": "", "nametag": "-m service.cli", "torchrun": "-m torch.distributed.run"}
    for name, module in modules.items():
        (tools / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {module} "$@"\n', "utf-8")
        (tools / name).chmod(0o755)
    env = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    with process(model=BUNDLED, patience_s=300) as service:
        for command in (c for block in blocks("sh", page) for c in commands(block)):
            if NOT_RUN.match(command):
                continue
            here = command.replace("127.0.0.1:8000", f"127.0.0.1:{service.port}")
            here = here.replace(".venv/bin/", "")
            done = subprocess.run(
                ["bash", "-o", "pipefail", "-c", here], cwd=tmp_path, env=env,
                capture_output=True, text=True, timeout=200, check=False,
            )  # fmt: skip
            assert done.returncode == 0, (command, done.stderr)
            if "/v1/tag" in command or command.startswith("nametag tag l"):
                assert re.search("Lovelace|Curie|Hermione", done.stdout), command


def test_every_page_that_is_spoken_of_is_there() -> None:
    for name, text in PAGES.items():
        folder = ROOT if name == "README.md" else ROOT / "docs"
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", text):
            assert (folder / link).exists(), (name, link)


CLIENTS = {re.search(r"(?:import|from) (\w+)", block)[1]: block for block in blocks("python")}  # type: ignore[index]


@pytest.mark.parametrize(
    "library",
    [pytest.param(each, marks=[pytest.mark.peers] if each in APART else []) for each in CLIENTS],
)
def test_a_client_of_the_docs_finds_ada_lovelace(library: str) -> None:
    python = str(PEERS / "bin" / "python") if library in APART else sys.executable
    if not is_there(python, library):
        pytest.skip(f"{library} is not installed: make peers")
    with process(model=BUNDLED) as service:
        script = CLIENTS[library].replace("127.0.0.1:8000", f"127.0.0.1:{service.port}")
        done = subprocess.run(
            [python, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
        )
    assert done.returncode == 0, done.stderr
    assert "Lovelace" in done.stdout
