"""Training in several processes, started by torchrun itself: what one process trains, whoever is lost."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from model.artefact import load
from model.features import PAD, UNK, Vocabulary
from training.batches import EpochBatches, TypeStore
from training.checkpoint import read_checkpoint
from training.fit import CHECKPOINT
from training.ranks import Ranks

ROOT = Path(__file__).parent.parent
CORPUS = ROOT / "training" / "people" / "train.jsonl"
OPTIONS = (
    "--device", "cpu", "--hidden", "16", "--epochs", "9", "--set", "network.feature_dim=16",
    "--set", "network.char_filters=8", "--set", "network.cased_dim=12",
    "--set", "batches.max_batch_sentences=5",
)  # fmt: skip
NO_DROPOUT = tuple(
    word for name in ("features", "output", "words", "chars") for word in ("--set", f"dropout.{name}=0")
)
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
ALONE = (sys.executable, "-m")


def environment(**more: str) -> dict[str, str]:
    """This one's, but that of no other processes."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **more}


def command(start: tuple[str, ...], data: Path, folder: Path, *options: str) -> list[str]:
    return [*start, "training", "train", str(data), "--out", str(folder / "model"),
            "--run-folder", str(folder / "run"), *OPTIONS, *options]  # fmt: skip


def trained(start: tuple[str, ...], data: Path, folder: Path, *options: str) -> str:
    """What the run said."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        command(start, data, folder, *options), cwd=ROOT, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """At the run's end, with their averages and moments."""
    return load_file(folder / "run" / CHECKPOINT)


def assert_close(a: Path, b: Path) -> None:
    """But for the order in which numbers were added up."""
    one, other = weights(a), weights(b)
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=1e-4, atol=1e-5)
    histories = [read_checkpoint(x / "run" / CHECKPOINT)[1]["history"] for x in (a, b)]
    for ours, theirs in zip(*histories, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-3)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "some.jsonl"
    path.write_text("".join(CORPUS.read_text("utf-8").splitlines(keepends=True)[:80]), "utf-8")
    return path


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process, without dropout, which would fall elsewhere in two."""
    folder = tmp_path_factory.mktemp("alone")
    trained(ALONE, data, folder, *NO_DROPOUT)
    return folder


def test_two_processes_train_what_one_trains(data: Path, alone: Path, tmp_path: Path) -> None:
    said = trained(TORCHRUN, data, tmp_path, *NO_DROPOUT)
    assert said.count("epoch 9/9: loss") == 1
    assert load(tmp_path / "model").training["processes"] == 2
    assert_close(alone, tmp_path)


def pid_of(launcher: int, rank: int) -> int:
    """The process of this rank that torchrun has started."""
    for child in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        if f"RANK={rank}".encode() in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            return int(child)
    raise LookupError(f"no process of rank {rank}")


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc to find a process")
@pytest.mark.parametrize("rank", [0, 1])
def test_a_run_that_loses_a_process_ends_as_one_that_does_not(
    rank: int, data: Path, tmp_path: Path
) -> None:
    """torchrun starts both again, and they go on from the checkpoint, to the same bits."""
    whole, disturbed = tmp_path / "whole", tmp_path / "disturbed"
    trained(TORCHRUN, data, whole)
    elastic = (*TORCHRUN[:-1], "--max-restarts", "1", "-m")
    with subprocess.Popen(
        command(elastic, data, disturbed), cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            if re.search(r"epoch 3/9: loss", line) and "epoch 3/9: loss" not in said:
                os.kill(pid_of(process.pid, rank), signal.SIGKILL)
            said += line
    assert process.returncode == 0, said
    assert said.count("trained parameters") == 2  # it has begun twice
    assert said.count("epoch 2/9: loss") == 1  # but not from the beginning
    a, b = weights(whole), weights(disturbed)
    assert [name for name in a if not torch.equal(a[name], b[name])] == []
    artefacts = [(x / "model" / "weights.safetensors").read_bytes() for x in (whole, disturbed)]
    assert artefacts[0] == artefacts[1]


def by_hand(rank: int, port: int, data: Path, folder: Path, *options: str) -> subprocess.Popen[str]:
    """One of two processes, as torchrun would start it."""
    place = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return subprocess.Popen(
        command(ALONE, data, folder, *options),
        cwd=ROOT,
        env=environment(**place),
        stderr=subprocess.PIPE,
        text=True,
    )


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def test_what_two_processes_began_one_ends(data: Path, alone: Path, tmp_path: Path) -> None:
    """The order of the data does not depend on how many they are. Each has its own disk here."""
    port = free_port()
    folders = tmp_path / "first", tmp_path / "second"
    first, second = (by_hand(i, port, data, folder, *NO_DROPOUT) for i, folder in enumerate(folders))
    with first, second:
        assert first.stderr is not None
        said = ""
        for line in first.stderr:
            said += line
            if "epoch 3/9: loss" in line:
                second.kill()
    assert first.returncode == 1
    assert "error: another process of this run is lost" in said
    assert "Traceback" not in said
    assert not folders[1].exists()  # one writer
    trained(ALONE, data, folders[0], *NO_DROPOUT, "--resume")
    assert_close(alone, folders[0])


def test_processes_of_other_data_do_not_train_together(data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text(data.read_text("utf-8").replace("the", "teh"), "utf-8")
    port = free_port()
    processes = [by_hand(i, port, path, tmp_path / str(i)) for i, path in enumerate((data, other))]
    for process in processes:
        _, said = process.communicate()
        assert process.returncode == 2
        assert "process 1 of 2 has other settings, data, vectors or names than process 0" in said


@given(st.lists(st.integers(1, 30), min_size=1, max_size=40), st.integers(1, 9))
def test_shares_hold_every_sentence_of_a_batch_once(lengths: list[int], n_ranks: int) -> None:
    store = TypeStore(Vocabulary((PAD, UNK), (PAD, UNK), (PAD, UNK)).encoder)
    rows = store.rows([[f"w{i}"] * n for i, n in enumerate(lengths)])
    plan = sorted(range(len(lengths)), key=lambda i: lengths[i])
    batches = EpochBatches([plan], rows, [[0] * n for n in lengths], store, [None] * len(lengths))
    shares = [batches.share(0, rank, n_ranks) for rank in range(n_ranks)]
    assert sum(share.share for share in shares) == pytest.approx(1)
    kept = [share for share in shares if share.share]
    assert sorted(int(n) for share in kept for n in share.lengths) == sorted(lengths)
    assert {round(share.share * len(lengths)) for share in kept} <= {
        len(lengths) // n_ranks,
        -(-len(lengths) // n_ranks),
    }
    # Of a batch in order of length no share has more than a longest sentence too many.
    tokens = [int(share.lengths.sum()) if share.share else 0 for share in shares]
    assert max(tokens) - min(tokens) <= max(lengths)


@given(
    st.lists(st.lists(st.integers(0, 20), min_size=1, max_size=6), min_size=1, max_size=9),
    st.integers(2, 4),
)
def test_all_shares_know_the_whole_batch_s_rows_of_the_word_tables(
    numbers: list[list[int]], n_ranks: int
) -> None:
    letters = "abcdefghijklmnopqrstu"
    words = [f"W{letter}" for letter in letters[::2]]
    store = TypeStore(Vocabulary((PAD, UNK, *words), (PAD, UNK, "wa"), (PAD, UNK)).encoder)
    sentences = [[f"W{letters[n]}" for n in each] for each in numbers]
    labels = [[0] * len(each) for each in numbers]
    batches = EpochBatches(
        [list(range(len(numbers)))], store.rows(sentences), labels, store, [None] * len(numbers)
    )
    known = {word: row for row, word in enumerate((PAD, UNK, *words))}
    for rank in range(n_ranks):
        share = batches.share(0, rank, n_ranks)
        assert set(share.seen["cased"].tolist()) == {1} | {
            known.get(word, 1) for sentence in sentences for word in sentence
        }
        assert set(share.types.cased.tolist()) <= set(share.seen["cased"].tolist())
        assert set(share.types.lower.tolist()) <= set(share.seen["lower"].tolist()) <= {1, 2}
    assert not batches.share(0, 0, 1).seen


def test_one_process_talks_to_nobody() -> None:
    ranks, tensor = Ranks(), torch.tensor([1.0, 2.0])
    ranks.add(tensor)
    ranks.agree(b"0" * 32, "data")
    assert tensor.tolist() == [1.0, 2.0]
    assert ranks.share(b"x") == b"x"
    assert not torch.distributed.is_initialized()
