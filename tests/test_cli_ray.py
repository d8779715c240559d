"""``nametag tag --engine ray`` beside the local engine: the same bytes, whoever is killed meanwhile."""

import gzip
import importlib.util
import json
import os
import random
import re
import shutil
import signal
import subprocess
import tempfile
import time

import pytest

from service.settings import ROOT
from tests.running import environment
from tests.test_cli import SENTENCE, command, lines, nametag, outputs

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="Ray is not installed: nametag[ray]"),
]
N_KILLS = int(os.environ.get("NAMETAG_TEST_KILLS", "3"))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A folder of some megabytes: large and small, packed, with a record that is bad."""
    rng = random.Random(3)
    words = [*SENTENCE.split(), "é", "🎉", "Jane"]
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "below").mkdir()
    text = "\n\n".join(" ".join(rng.choices(words, k=rng.randint(1, 120))) for _ in range(8_000))
    (folder / "large.txt").write_text(text, "utf-8")
    (folder / "below" / "packed.txt.gz").write_bytes(gzip.compress(text[:300_000].encode(), mtime=0))
    records = [json.dumps({"text": SENTENCE * (n % 7), "id": n}) for n in range(2_000)]
    (folder / "below" / "records.jsonl").write_text("\n".join([*records[:900], "{", *records[900:]]))
    for n in range(30):
        (folder / f"small{n:02}.txt").write_text(f"{SENTENCE}\n" * n)
    (folder / "broken.txt").write_bytes(b"Jane met\n\nAnn\xffZebedee")
    return folder


@pytest.fixture(scope="module")
def asked(corpus, tiny_artefact):
    """The arguments but for the engine and --out."""
    return ("tag", corpus, "--model", tiny_artefact, "--threshold", 0.1, "--workers", 2)


@pytest.fixture(scope="module")
def expected(asked, tmp_path_factory):
    out = tmp_path_factory.mktemp("local")
    _, errors = nametag(*asked, "--out", out, code=1)
    return outputs(out), errors


def below(pid):
    """process id → command, of all that a process has begun."""
    shown = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True)
    rows = [line.split(None, 2) for line in shown.stdout.splitlines()[1:]]
    found, waiting = {}, [str(pid)]
    while waiting:
        parent = waiting.pop()
        for child, its_parent, args in rows:
            if its_parent == parent:
                found[int(child)] = args
                waiting.append(child)
    return found


def test_its_output_and_its_errors_are_those_of_the_local_engine(asked, expected, tmp_path):
    _, errors = nametag(*asked, "--engine", "ray", "--out", tmp_path / "out", code=1)
    assert outputs(tmp_path / "out") == expected[0]
    assert errors == expected[1]
    assert "records.jsonl:901: is not JSON" in errors
    # And once more, when all is done.
    nametag(*asked, "--engine", "ray", "--out", tmp_path / "out", code=1)
    assert outputs(tmp_path / "out") == expected[0]


def test_a_run_goes_on_with_the_other_engine(asked, expected, tmp_path):
    nametag(*asked, "--engine", "ray", "--out", tmp_path / "out", code=1)
    (tmp_path / "out" / "large.txt.jsonl").unlink()
    nametag(*asked, "--out", tmp_path / "out", code=1)
    assert outputs(tmp_path / "out") == expected[0]


def test_stdout_gets_the_same_and_stdin_is_refused(tiny_artefact, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(SENTENCE)
    asked = ("tag", "--model", tiny_artefact, "--threshold", 0.1, "--engine", "ray")
    (found,) = lines(nametag(*asked, path)[0])
    assert found["persons"]
    assert "not stdin" in nametag(*asked, stdin=b"Ada", code=2)[1]


def test_whoever_is_killed_the_output_is_the_same(asked, expected, tmp_path):
    """Workers, and the command itself, at random moments, by SIGKILL."""
    rng = random.Random(4)
    out = tmp_path / "out"
    n_workers = n_drivers = 0
    said = b""
    while True:
        with subprocess.Popen(
            command(*asked, "--engine", "ray", "--out", out), cwd=ROOT, env=environment(),
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        ) as driver:  # fmt: skip
            ends_at = None
            while driver.poll() is None:
                ours = [p for p, args in below(driver.pid).items() if re.match("ray::Map|ray::Read", args)]
                if ours and n_workers < (n_drivers + 1) * N_KILLS:
                    time.sleep(rng.uniform(0, 0.4))
                    try:
                        os.kill(rng.choice(ours), signal.SIGKILL)
                        n_workers += 1
                    except ProcessLookupError:
                        continue
                elif n_drivers < N_KILLS and ours:
                    ends_at = ends_at or time.monotonic() + rng.uniform(0, 4)
                    if time.monotonic() > ends_at:
                        driver.kill()
                        n_drivers += 1
                        break
                time.sleep(0.05)
            code = driver.wait(120)
            os.set_blocking(driver.stdout.fileno(), False)  # Ray's processes hold it a while longer
            said += driver.stdout.read() or b""
        if code != -signal.SIGKILL:
            break
    assert code == 1  # the bad record is bad still
    assert not said  # stdout is for results
    assert n_workers > 0
    assert n_drivers > 0
    assert outputs(out) == expected[0]


@pytest.mark.skipif(not shutil.which("ss"), reason="ss is not installed")
def test_nothing_listens_beyond_loopback_and_nothing_of_it_stays(asked, tmp_path):
    addresses = set()
    # A short name: Ray's sockets have less than a hundred characters.
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        with subprocess.Popen(
            command(*asked, "--engine", "ray", "--out", tmp_path / "out"), cwd=ROOT,
            env=environment(TMPDIR=folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        ) as driver:  # fmt: skip
            processes = {driver.pid: ""}
            while driver.poll() is None:
                processes |= below(driver.pid)
                listed = subprocess.run(["ss", "-Htlnp"], capture_output=True, text=True, check=True).stdout
                for line in listed.splitlines():
                    if processes.keys() & {int(pid) for pid in re.findall(r"pid=(\d+)", line)}:
                        addresses.add(line.split()[3].rpartition(":")[0])
                time.sleep(0.2)
        assert os.listdir(folder) == []
    assert addresses
    assert {re.sub(r"[\[\]]|::ffff:", "", address) for address in addresses} == {"127.0.0.1"}
    assert not [pid for pid, args in processes.items() if "ray" in args and os.path.exists(f"/proc/{pid}")]
