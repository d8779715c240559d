"""A corpus on disk in place of one in memory: the same sentences, the same batches, and no memory."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.artefact import load
from tests.strategies import brief
from tests.test_batches import batches_of
from training import train as train_module
from training.__main__ import main
from training.batches import LabelledSet
from training.corpus import Sentence
from training.stored import StoredSentences

ROOT = Path(__file__).parent.parent
PEOPLE = ROOT / "training" / "people"

_labels = st.sampled_from(["O", "B-PER", "I-PER", "B-a b"])
_sentences = st.lists(
    st.tuples(st.lists(st.tuples(st.text(min_size=1), _labels), min_size=1), st.integers(0, 2**31 - 1)).map(
        lambda drawn: Sentence(
            tuple(t for t, _ in drawn[0]), tuple(label for _, label in drawn[0]), drawn[1]
        )
    )
)


@given(_sentences)
@brief
def test_what_is_stored_is_read_back(sentences: list[Sentence]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        stored = StoredSentences(iter(sentences), Path(folder))
        assert list(Path(folder).iterdir()) == []  # nothing is left behind, however the process ends
        assert list(stored) == sentences
        assert [stored[-1 - i] for i in range(len(stored))] == sentences[::-1]
        assert stored[1:5:2] == sentences[1:5:2]
        with pytest.raises(IndexError):
            stored[len(sentences)]


def test_soft_labels_are_not_stored(tmp_path: Path) -> None:
    soft = Sentence(("a",), ("O",), 0, np.zeros((1, 3, 3), np.float16))
    with pytest.raises(ValueError, match="soft labels"):
        StoredSentences([soft], tmp_path)


def some(n: int) -> list[Sentence]:
    return [Sentence((f"s{i}",) * (1 + i % 7), ("O",) * (1 + i % 7), i) for i in range(n)]


def test_an_epoch_in_windows_holds_every_sentence_once_in_an_order_of_its_seed(tmp_path: Path) -> None:
    data = some(100)
    stored = LabelledSet("a", StoredSentences(data, tmp_path))
    first, again, other = (
        [w.rows for w in batches_of(stored, seed=seed, window=16).windows(1)] for seed in (1, 1, 2)
    )
    assert first == again != other
    assert [len(rows) for rows in first] == [16] * 6 + [4]
    in_memory = batches_of(LabelledSet("a", data), seed=1, window=16)
    seen = []
    for rows, window in zip(first, in_memory.windows(1), strict=True):
        assert window.rows == rows
        assert sorted(i for chosen in window.plan for i in chosen) == list(range(len(rows)))
        seen += [len(row) for row in rows]
    assert sorted(seen) == sorted(len(s.tokens) for s in data)


def train(out: Path, *options: str) -> int:
    shape = "feature_dim=16 char_filters=8 cased_dim=12 hidden_dim=8".split()
    return main(
        ["train", *options, "--out", str(out), "--run", str(out.with_name(out.name + "-run")),
         "--device", "cpu", *(word for s in shape for word in ("--set", f"network.{s}"))]
    )  # fmt: skip


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, ...]:
    path = tmp_path / "some.jsonl"
    path.write_text("".join((PEOPLE / "train.jsonl").read_text("utf-8").splitlines(True)[:80]), "utf-8")
    return str(path), "--dev", str(path), "--epochs", "3", "--set", "augment.lower=0.3"


def test_a_streamed_run_is_that_of_the_same_data_in_memory(files: tuple[str, ...], tmp_path: Path) -> None:
    for name, options in (("memory", ()), ("disk", ("--stream",))):
        assert train(tmp_path / name, *files, *options) == 0
    memory, disk = ((tmp_path / name / "weights.safetensors").read_bytes() for name in ("memory", "disk"))
    assert memory == disk


def test_a_streamed_run_of_several_windows_is_resumed_in_the_middle_of_one(
    files: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_module, "_WINDOW", 30)
    options = (*files, "--stream", "--set", "batches.max_batch_sentences=4")
    assert train(tmp_path / "whole", *options) == 0
    n_batches = 0
    one_step = train_module.Fit._step

    def interrupted(self: train_module.Fit, *given: object) -> None:
        nonlocal n_batches
        if self.step == 35:
            sizes = [sum(map(len, self.batches.windows(epoch))) for epoch in range(3)]
            assert sizes[0] < 35 < sizes[0] + sizes[1]
            self.save(1, 35 - sizes[0])
            n_batches = sizes[0]
            raise KeyboardInterrupt
        one_step(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(train_module.Fit, "_step", interrupted)
    assert train(tmp_path / "cut", *options) == 130
    assert n_batches > 8 * 2  # of several windows
    monkeypatch.setattr(train_module.Fit, "_step", one_step)
    assert train(tmp_path / "cut", *options, "--resume") == 0
    whole, cut = (load(tmp_path / name) for name in ("whole", "cut"))
    assert (tmp_path / "whole" / "weights.safetensors").read_bytes() == (
        tmp_path / "cut" / "weights.safetensors"
    ).read_bytes()
    histories = ([{**h, "seconds": 0} for h in x.training["history"]] for x in (whole, cut))
    assert next(histories) == next(histories)


def test_streamed_data_needs_a_dev_file(
    files: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path / "m", files[0], "--stream") == 2
    assert "give a dev file" in capsys.readouterr().err


PEAK = """
import json, resource, sys
from pathlib import Path
from model.features import PAD, UNK, Vocabulary
from model.labels import LabelScheme
from training.augment import AugmentConfig
from training.batches import BatchConfig, Batches, LabelledSet
from training.corpus import iter_corpus
from training.stored import StoredSentences

def none(text):
    raise AssertionError

path = Path(sys.argv[1])
stored = StoredSentences(iter_corpus(path, tokenise=none), path.parent)
vocabulary = Vocabulary((PAD, UNK), (PAD, UNK), (PAD, UNK))
batches = Batches([LabelledSet("a", stored)], LabelScheme(), vocabulary.encoder, BatchConfig(),
                  augment=AugmentConfig(lower=0.5), names=None, seed=1, window=int(sys.argv[2]))
n = 0
for window, _ in zip(batches.windows(0), range(4)):
    n += len(window)
    window[0]
print(json.dumps([resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, len(stored), n]))
"""


def peak_mb(path: Path, n_mb: int, window: int) -> float:
    """Of a process that reads and plans a file of ``n_mb`` MB."""
    rng = np.random.default_rng(1)
    with path.open("w") as out:
        written = 0
        while written < n_mb * 1_000_000:
            numbers = rng.zipf(1.3, 20_000) % 20_000
            text = "".join(f"w{i:x}\tO\n" + "\n" * (i == 3) for i in numbers.tolist())
            written += out.write(text)
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(path), str(window)], cwd=ROOT, capture_output=True, text=True
    )
    path.unlink()
    assert done.returncode == 0, done.stderr
    peak, n_sentences, n_batches = json.loads(done.stdout)
    assert n_sentences > 4 * window
    assert n_batches > 4
    return float(peak)


def test_a_file_of_five_times_the_size_takes_no_more_memory(tmp_path: Path) -> None:
    small, large = (peak_mb(tmp_path / "big.conll", n_mb, window=2_000) for n_mb in (4, 20))
    # Words repeat; what grows is 12 bytes a sentence. Read whole, the larger takes 150 MB more.
    assert large - small < 12
