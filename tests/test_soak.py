"""The benchmarks' commands, run for some seconds: they end, they tell right from wrong, they clean up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import servers
from service.settings import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the benchmarks read /proc")


def run(script: str, *arguments: object, model: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """One of the benchmarks, on the project's own sentences."""
    command = [sys.executable, ROOT / "benchmarks" / script, "--model", model, "--out", out, *arguments]
    return subprocess.run(
        list(map(str, command)), cwd=ROOT, capture_output=True, text=True, timeout=400, check=False
    )


def test_a_short_soak_with_a_killed_worker_and_loads_finds_nothing_wrong(tiny_artefact, tmp_path):
    ran = run("soak.py", "--minutes", 0.3, "--data", tmp_path, model=tiny_artefact, out=tmp_path / "soak")
    report = json.loads((tmp_path / "soak.json").read_text("utf-8"))
    assert report["failures"] == []
    assert ran.returncode == 0, ran.stderr
    # A worker, and the process that each of the two has for large requests, where it has one by then.
    assert 1 <= len(report["kills_s"]) <= 3
    assert report["exit_code"] == 0
    assert report["n_sentences_checked"] > 1_000
    assert {"single", "of 32", "document", "slow writer", "slow reader", "stream"} <= report[
        "requests"
    ].keys()
    assert report["requests"]["load"] == {"200": 2}
    # The two, one that came after the kill, and those for large requests.
    assert len(report["memory"]["workers"]) >= 3


def test_two_thousand_broken_requests_do_no_harm(tiny_artefact, tmp_path):
    ran = run("fuzz.py", "-n", 2_000, model=tiny_artefact, out=tmp_path / "fuzz")
    assert ran.stdout, ran.stderr
    report = json.loads((tmp_path / "fuzz.json").read_text("utf-8"))
    assert report["failures"] == []
    assert {"200", "400"} <= report["statuses"].keys()


def test_a_soak_fails_where_answers_are_not_those_of_the_model(tiny_artefact, tmp_path, monkeypatch):
    from benchmarks import soak

    monkeypatch.setattr(soak, "MOST_SCORE_OFF", -1.0)  # no score is as near as that
    report = soak.soak(tiny_artefact, tmp_path, 3.0, seed=0)
    assert not report["passed"]
    assert any("score" in failure for failure in report["failures"])


def test_the_load_report_has_every_system_that_was_measured(tiny_artefact, tmp_path):
    ran = run(
        "load.py", "--rounds", 1, "--seconds", 0.2, "--overload-seconds", 0.3, "--sizes", 1,
        "--concurrency", 1, 8, "--offered", 0.5, 3, "--data", tmp_path,
        model=tiny_artefact, out=tmp_path / "load",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    for name in ("Nametag", "FastAPI echo", "uvicorn alone"):
        assert f"| {name} | " in ran.stdout
    record = json.loads((tmp_path / "load" / "load.json").read_text("utf-8"))
    (measured,) = record["rounds"]
    kinds = {(cell["system"], cell["kind"], cell["level"]) for cell in measured["cells"]}
    assert {(s, "closed", c) for s in ("nametag", "echo", "bytes") for c in (1, 8)} <= kinds
    assert {(s, "open", t) for s in ("nametag", "echo") for t in (0.5, 3.0)} <= kinds
    assert {("nametag", "alone", 0.2), ("nametag", "beside", 0.2)} <= kinds
    for cell in measured["cells"]:
        assert set(cell["statuses"]) <= {"200", "429", "0"}, cell
        assert cell["n_without_retry_after"] == 0
    assert measured["in_process_per_s"] > 0
    assert all(size > 0 for size in measured["memory_bytes"].values())


@pytest.mark.parametrize(
    ("script", "told"),
    [("load.py", signal.SIGINT), ("load.py", signal.SIGTERM), ("soak.py", signal.SIGTERM)],
)
def test_an_interrupted_measurement_leaves_no_process_behind(tiny_artefact, tmp_path, script, told):
    command = [sys.executable, f"benchmarks/{script}", "--model", tiny_artefact, "--data", tmp_path,
               "--out", tmp_path / "report"]  # fmt: skip
    with subprocess.Popen(list(map(str, command)), cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        ends = time.monotonic() + 60
        while len(servers.family(process.pid)) < 4 and time.monotonic() < ends:  # a server, its workers
            time.sleep(0.1)
        time.sleep(2.0)  # the first of them serves
        started = servers.family(process.pid)[1:]
        assert len(started) > 2
        process.send_signal(told)
        assert "Traceback" not in process.stderr.read()
        assert process.wait(60) == 130
    assert [pid for pid in started if servers.rss_bytes(pid)] == []


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("load.py", ["--seconds", "0"]),
        ("load.py", ["--model", "nowhere"]),
        ("soak.py", ["--minutes", "-1"]),
        ("fuzz.py", ["-n", "0"]),
    ],
)
def test_bad_arguments_exit_with_2_and_say_why(script, arguments):
    ran = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / script, *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert ran.returncode == 2
    assert arguments[-1] in ran.stderr
