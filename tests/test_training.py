"""Training end to end on a little of the project's own corpus: every system, resuming, breaking."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from model.artefact import load, save
from model.tagger import Tagger
from tests.conftest import random_artefact
from training import fit as fit_module
from training.__main__ import main

CORPUS = Path(__file__).parent.parent / "training" / "people" / "train.jsonl"
SMALL = (
    "--set",
    "network.feature_dim=16",
    "--set",
    "network.char_filters=8",
    "--set",
    "network.cased_dim=12",
)
# For data so small that an epoch is a step or two.
EAGER = ("--learning-rate", "0.02", "--set", "optimiser.patience=60")


@pytest.fixture(scope="module")
def some_sentences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 80 entries of the corpus."""
    path = tmp_path_factory.mktemp("data") / "some.jsonl"
    path.write_text("".join(CORPUS.read_text("utf-8").splitlines(keepends=True)[:80]), "utf-8")
    return path


def train(data: Path, out: Path, *options: str) -> int:
    run = out.with_name(out.name + "-run")
    return main(
        ["train", str(data), "--out", str(out), "--run", str(run), "--device", "cpu", *SMALL, *options]
    )


@pytest.mark.parametrize(
    "options",
    [
        ("--cell", "lstm"),
        ("--cell", "lstm", "--layers", "2", "--head", "softmax"),
        ("--cell", "lstm", "--one-direction"),
        ("--cell", "gru"),
        ("--cell", "gru", "--layers", "2", "--one-direction", "--head", "softmax"),
        ("--cell", "rnn"),
        ("--cell", "rnn", "--layers", "3", "--one-direction"),
        ("--cell", "lstm-peephole"),
        ("--cell", "lstm-peephole", "--layers", "2", "--head", "softmax"),
        ("--set", "network.lower_dim=6", "--set", "network.cased_dim=0"),
        ("--set", "network.char_filters=0", "--set", "network.shape_dim=0"),
        ("--set", "network.cased_dim=0"),
    ],
    ids=" ".join,
)
def test_every_system_learns_from_the_command_line_and_its_artefact_works(
    options: tuple[str, ...], some_sentences: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model"
    assert train(some_sentences, out, "--hidden", "16", "--epochs", "4", *options) == 0
    assert "dev F1" in capsys.readouterr().out
    tagger = Tagger.load(out, device="cpu")
    tagger.self_test()
    history = tagger.artefact.training["history"]
    assert history[-1]["loss"] < history[0]["loss"]
    assert all(record["grad_norm"] > 0 for record in history)


def test_a_run_that_is_killed_and_resumed_ends_with_the_weights_of_one_that_is_not(
    some_sentences: Path, tmp_path: Path
) -> None:
    options = ("--hidden", "16", "--epochs", "6")
    assert train(some_sentences, tmp_path / "whole", *options) == 0
    out, run = tmp_path / "killed", tmp_path / "killed-run"
    arguments = ["train", str(some_sentences), "--out", str(out), "--run", str(run), "--device", "cpu"]
    process = subprocess.Popen(
        [sys.executable, "-m", "training", *arguments, *SMALL, *options],
        cwd=CORPUS.parent.parent.parent,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if re.search(r"epoch 3/6: loss", line):
            process.kill()
            break
    process.stderr.close()
    assert process.wait() == -signal.SIGKILL
    assert not out.exists()
    assert train(some_sentences, out, *options, "--resume") == 0
    whole, resumed = (load_file(tmp_path / n / "weights.safetensors") for n in ("whole", "killed"))
    assert whole.keys() == resumed.keys()
    assert [name for name in whole if whole[name].tobytes() != resumed[name].tobytes()] == []


# Variants bring word types that the data itself has not, so the store of types that a resumed run
# has built up is another than that of a run from the start.
VARIANTS = ("--set", "augment.lower=0.3", "--set", "augment.upper=0.3", "--set", "augment.title=0.3")


@pytest.mark.parametrize(
    ("variants", "cut_at_step"), [((), 14), (VARIANTS, 34)], ids=["plain", "augmented"]
)
def test_resuming_in_the_middle_of_an_epoch_changes_nothing(
    variants: tuple[str, ...],
    cut_at_step: int,
    some_sentences: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = ("--hidden", "8", "--epochs", "4", "--set", "batches.max_batch_sentences=8", *variants)
    assert train(some_sentences, tmp_path / "whole", *options) == 0
    steps = 0
    one_step = fit_module.Fit._step

    def interrupted(self: fit_module.Fit, *given: object) -> None:
        nonlocal steps
        steps += 1
        if steps == cut_at_step:
            raise KeyboardInterrupt
        one_step(self, *given)  # type: ignore[arg-type]
        self.save(*divmod(self.step, len(self.batches.epoch(0))))

    monkeypatch.setattr(fit_module.Fit, "_step", interrupted)
    assert train(some_sentences, tmp_path / "cut", *options) == 130
    monkeypatch.setattr(fit_module.Fit, "_step", one_step)
    assert train(some_sentences, tmp_path / "cut", *options, "--resume") == 0
    a, b = ((tmp_path / n / "weights.safetensors").read_bytes() for n in ("whole", "cut"))
    assert a == b
    whole, cut = (load(tmp_path / n).training["history"] for n in ("whole", "cut"))
    assert [{**h, "seconds": 0} for h in whole] == [{**h, "seconds": 0} for h in cut]


def test_a_run_is_not_resumed_with_other_settings(
    some_sentences: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model"
    assert train(some_sentences, out, "--hidden", "8", "--epochs", "1") == 0
    assert train(some_sentences, out, "--hidden", "8", "--epochs", "1") == 2
    assert "--resume" in capsys.readouterr().err
    assert train(some_sentences, out, "--hidden", "9", "--epochs", "1", "--resume") == 2
    assert "other settings" in capsys.readouterr().err


def test_resuming_after_the_data_changed_begins_afresh_or_is_refused(
    some_sentences: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = tmp_path / "data.jsonl", tmp_path / "model"
    lines = some_sentences.read_text("utf-8").splitlines(keepends=True)
    dev = ("--dev", str(some_sentences), "--types", "PER", "--hidden", "8")
    data.write_text("".join(lines[:40]), "utf-8")
    assert train(data, out, *dev, "--epochs", "2") == 0
    before = load_file(out / "weights.safetensors")
    data.write_text("".join(lines), "utf-8")
    assert train(data, out, *dev, "--epochs", "2", "--resume") == 0
    assert "begins afresh" in capsys.readouterr().err
    after, (n_sentences,) = load_file(out / "weights.safetensors"), load(out).training["sentences"].values()
    assert any(before[n].shape != after[n].shape or (before[n] != after[n]).any() for n in before)
    assert n_sentences > 80
    # The same once more has nothing to do, from another model everything.
    assert train(data, out, *dev, "--epochs", "2", "--resume") == 0
    again = load_file(out / "weights.safetensors")
    assert all((again[n] == after[n]).all() for n in after)
    checkpoint = tmp_path / "model-run" / "checkpoint.safetensors"
    tensors, state = fit_module.read_checkpoint(checkpoint)
    fit_module.write_checkpoint(checkpoint, tensors, {**state, "epoch": 1, "history": state["history"][:1]})
    data.write_text("".join(lines[:60]), "utf-8")
    assert train(data, out, *dev, "--epochs", "2", "--resume") == 2
    assert "which has not ended" in capsys.readouterr().err


def test_a_seed_is_the_recipes_where_none_is_given(some_sentences: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("seed = 7\n")
    options = ("--recipe", str(recipe), "--types", "PER", "--epochs", "1")
    assert train(some_sentences, tmp_path / "a", *options) == 0
    assert train(some_sentences, tmp_path / "b", *options, "--seed", "3") == 0
    assert [load(tmp_path / n).training["recipe"]["seed"] for n in "ab"] == [7, 3]


def test_types_that_a_model_does_not_learn_are_nobody_on_dev(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, dev = tmp_path / "train.conll", tmp_path / "dev.conll"
    data.write_text("Ada\tB-PER\nsang\tO\n\nBob\tB-PER\nsang\tO\n\n" * 10)
    dev.write_text("Ada\tB-PER\nsang\tO\n\nBob\tB-PER\nsang\tO\n\nAcme\tB-ORG\nInc\tI-ORG\n")
    options = ("--dev", str(dev), "--hidden", "16", "--epochs", "30", *EAGER)
    assert train(data, tmp_path / "model", *options) == 0
    err = capsys.readouterr().err
    assert "of other types than PER is O" in err
    assert "R 1.0000" in err
    assert main(["evaluate", str(tmp_path / "model"), str(dev), "--device", "cpu"]) == 0


def test_training_that_begins_with_a_model_has_its_shape(
    some_sentences: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = tmp_path / "first"
    assert train(some_sentences, first, "--hidden", "24", "--types", "PER", "--epochs", "1") == 0
    init = ("--init", str(first), "--types", "PER", "--epochs", "1")
    for wrong, complaint in (
        (("--cell", "gru"), "--cell with --init"),
        (("--one-direction",), "--one-direction with --init"),
        (("--set", "network.hidden_dim=25"), "network.hidden_dim is 25; first, to begin with, has 24"),
    ):
        assert train(some_sentences, tmp_path / "x", *init, *wrong) == 2
        assert complaint in capsys.readouterr().err
    assert train(some_sentences, tmp_path / "second", *init) == 0
    assert load(tmp_path / "second").training["recipe"]["network"]["hidden_dim"] == 24


@pytest.mark.parametrize(("n", "low", "high"), [(0, 1.0, 1.0), (1, 0.8, 1.0), (2_000, 0.5, 0.7)])
def test_few_spans_on_dev_move_the_temperature_little(
    n: int, low: float, high: float, tmp_path: Path
) -> None:
    """Where the model is right and more or less sure: the more there are, the sharper the scores."""
    dev = tmp_path / "dev.conll"
    dev.write_text("and\tO\n\n" + "Ada\tB-PER\nsang\tO\n\n" * n)
    data = tmp_path / "train.conll"
    data.write_text("Ada\tB-PER\nsang\tO\n\nand\tO\nso\tO\n\n" * 10)
    options = ("--dev", str(dev), "--hidden", "16", "--epochs", "30", *EAGER)
    assert train(data, tmp_path / "model", *options) == 0
    assert low <= load(tmp_path / "model").config.temperature <= high


def test_a_model_folder_that_cannot_be_is_refused_before_training(
    some_sentences: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("precious")
    for out in (tmp_path / "file", tmp_path / "file" / "model"):
        run = ("--run", str(tmp_path / "run"))
        assert main(["train", str(some_sentences), "--out", str(out), *run, "--device", "cpu"]) == 2
        assert "epoch" not in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "precious"


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_what_was_good(
    some_sentences: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loss = fit_module.Fit._loss

    def broken(self: fit_module.Fit, batch: object) -> object:
        value = loss(self, batch)  # type: ignore[arg-type]
        return value * float("nan") if len(self.history) == 2 else value

    monkeypatch.setattr(fit_module.Fit, "_loss", broken)
    out = tmp_path / "model"
    assert train(some_sentences, out, "--hidden", "8", "--epochs", "4") == 1
    error = capsys.readouterr().err
    assert "loss is nan" in error
    assert "checkpoint.safetensors" in error
    assert not out.exists()
    _, state = fit_module.read_checkpoint(tmp_path / "model-run" / "checkpoint.safetensors")
    assert state["epoch"] == 2


def test_a_model_is_fine_tuned_from_another(some_sentences: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert train(some_sentences, first, "--hidden", "16", "--epochs", "12", "--learning-rate", "0.01") == 0
    assert train(some_sentences, second, "--init", str(first), "--epochs", "1") == 0
    before, after = load(first), load(second)
    assert after.vocabulary == before.vocabulary
    assert after.config.network == before.config.network
    assert after.training["history"][0]["loss"] < before.training["history"][0]["loss"] / 2


def test_dev_words_are_not_in_the_vocabulary(tmp_path: Path) -> None:
    data, dev = tmp_path / "train.conll", tmp_path / "dev.conll"
    data.write_text("Ada\tB-PER\nspoke\tO\n\nAda\tB-PER\nsang\tO\n\n" * 3)
    dev.write_text("Zelda\tB-PER\nspoke\tO\n")
    assert train(data, tmp_path / "model", "--dev", str(dev), "--hidden", "4", "--epochs", "1") == 0
    words = load(tmp_path / "model").vocabulary.cased
    assert "Ada" in words
    assert "Zelda" not in words


def test_other_entity_types_are_learnt_as_the_data_has_them(tmp_path: Path) -> None:
    data = tmp_path / "train.jsonl"
    entry = {"text": "Ada joined Acme.", "spans": [
        {"start": 0, "end": 3, "label": "PERSON"}, {"start": 11, "end": 15, "label": "ORG"}]}  # fmt: skip
    data.write_text((json.dumps(entry) + "\n") * 20)
    assert train(data, tmp_path / "model", "--hidden", "16", "--epochs", "60", *EAGER) == 0
    tagger = Tagger.load(tmp_path / "model", device="cpu")
    assert tagger.config.entity_types == ("ORG", "PER")
    assert tagger.tag([["Ada", "joined", "Acme", "."]])[0].labels == ["B-PER", "O", "B-ORG", "O"]


def test_a_type_that_a_model_does_not_know_is_learnt_beside_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def written(name: str, *labels: tuple[int, int, str]) -> Path:
        spans = [{"start": start, "end": end, "label": label} for start, end, label in labels]
        entry = json.dumps({"text": "Ada joined Acme.", "spans": spans}) + "\n"
        (tmp_path / name).write_text(entry * 20)
        return tmp_path / name

    def labels_by(model: str) -> list[str]:
        return Tagger.load(tmp_path / model, device="cpu").tag([["Ada", "joined", "Acme", "."]])[0].labels

    persons = written("persons.jsonl", (0, 3, "PERSON"))
    both = written("both.jsonl", (0, 3, "PERSON"), (11, 15, "ORG"))
    assert train(persons, tmp_path / "first", "--hidden", "16", "--epochs", "60", *EAGER) == 0
    init = ("--init", str(tmp_path / "first"))
    assert train(both, tmp_path / "untaught", *init, "--epochs", "1", "--learning-rate", "1e-7") == 0
    assert "knows PER; ORG begins anew" in capsys.readouterr().err
    assert labels_by("untaught")[0] == "B-PER"
    assert train(both, tmp_path / "second", *init, "--epochs", "60", *EAGER) == 0
    assert load(tmp_path / "second").config.entity_types == ("PER", "ORG")
    assert labels_by("second") == ["B-PER", "O", "B-ORG", "O"]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--set", "network.hidden=3"), "network.hidden is not one of"),
        (("--set", "network.cell=transformer"), "'transformer' is not one of"),
        (("--set", "optimiser.epochs=many"), "int is expected, not 'many'"),
        (("--set", "nonsense"), "KEY=VALUE is expected"),
        (("--set", "seed=1", "--set", "seed.x=2"), "seed was given a value of its own"),
        (("--set", 'data=["x"]'), "each a [[data]]"),
        (("--set", 'data=[{path="x", weight=-1}]'), "weight is -1"),
        (("--learning-rate", "0"), "learning_rate is 0"),
        (
            ("--types", "PER", "ORGANISATION"),
            "type 'ORGANISATION' is asked for, and no training",
        ),
        (("--vectors", "no-such-file.txt"), "no-such-file.txt"),
        (("--init", "no-such-model"), "no such model folder"),
        (("--recipe", "no-such-recipe.toml"), "no-such-recipe.toml"),
    ],
    ids=str,
)
def test_a_wrong_setting_is_named(
    options: tuple[str, ...],
    complaint: str,
    some_sentences: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train(some_sentences, tmp_path / "model", "--epochs", "1", *options) == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_scores_are_calibrated_on_the_files_named_alone(some_sentences: Path, tmp_path: Path) -> None:
    dev = ("--dev", str(some_sentences), "--types", "PER", "--epochs", "1", "--set")
    assert train(some_sentences, tmp_path / "m", *dev, f'calibrate=["{some_sentences}"]') == 0
    assert train(some_sentences, tmp_path / "n", *dev, 'calibrate=["other.jsonl"]') == 2


def output_weights(data: Path, out: Path, *options: str) -> NDArray[np.float32]:
    """After an epoch."""
    assert train(data, out, "--types", "PER", "--epochs", "1", *options) == 0
    return load(out).weights["output.weight"]


def test_what_training_began_with_is_mixed_into_what_it_ends_with(
    some_sentences: Path, tmp_path: Path
) -> None:
    before = output_weights(some_sentences, tmp_path / "before")
    init = ("--init", str(tmp_path / "before"))
    after = output_weights(some_sentences, tmp_path / "after", *init)
    assert np.abs(after - before).max() > 1e-4
    mixed = output_weights(
        some_sentences, tmp_path / "mixed", *init, "--set", "optimiser.initial_share=0.25"
    )
    np.testing.assert_allclose(mixed, 0.75 * after + 0.25 * before, atol=1e-7)


def test_runs_from_the_same_model_are_averaged(
    some_sentences: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = output_weights(some_sentences, tmp_path / "before")
    init = ("--init", str(tmp_path / "before"))
    one, other = (
        output_weights(some_sentences, tmp_path / "one", *init),
        output_weights(some_sentences, tmp_path / "other", *init, "--seed", "2"),
    )
    soup = ("--set", f'soup=[{{run="{tmp_path / "other-run"}", share=0.25}}]')
    mixed = output_weights(
        some_sentences, tmp_path / "mixed", *init, *soup, "--set", "optimiser.initial_share=0.25"
    )
    np.testing.assert_allclose(mixed, 0.5 * one + 0.25 * other + 0.25 * before, atol=1e-6)
    wrong = ("--set", f'soup=[{{run="{tmp_path / "other-run"}"}}]', "--hidden", "9", "--types", "PER")
    assert train(some_sentences, tmp_path / "x", *wrong) == 2
    assert "is not of the network" in capsys.readouterr().err
    too_much = ("--set", 'soup=[{run="a", share=0.6}, {run="b", share=0.6}]')
    assert train(some_sentences, tmp_path / "x", *too_much) == 2
    assert "less than 1 in all" in capsys.readouterr().err


def test_a_temperature_that_is_given_is_not_fitted(some_sentences: Path, tmp_path: Path) -> None:
    given = ("--types", "PER", "--epochs", "1", "--set")
    assert train(some_sentences, tmp_path / "m", *given, "temperature=1.25") == 0
    assert load(tmp_path / "m").config.temperature == 1.25
    assert train(some_sentences, tmp_path / "n", *given, "temperature=-1") == 2


def test_the_last_epoch_is_kept_where_the_recipe_says_so(some_sentences: Path, tmp_path: Path) -> None:
    options = ("--dev", str(some_sentences), "--epochs", "4", "--learning-rate", "0.9", "--types", "PER")
    for keep in ("best", "last"):
        assert train(some_sentences, tmp_path / keep, *options, "--set", f"optimiser.keep={keep}") == 0
    best, last = (load(tmp_path / keep).training for keep in ("best", "last"))
    scores = [record["dev_f1"] for record in best["history"]]
    assert last["best_epoch"] == 4
    assert scores[best["best_epoch"] - 1] == max(scores)
    assert train(some_sentences, tmp_path / "x", "--set", "optimiser.keep=first") == 2


CPP = shutil.which("g++") or shutil.which("c++") or shutil.which("clang++")


@pytest.mark.skipif(not CPP, reason="there is no C++ compiler")
def test_a_compiled_encoder_learns_the_same(some_sentences: Path, tmp_path: Path) -> None:
    context = {"context_layers": 1, "context_dim": 8, "context_heads": 2, "context_inner": 8}
    save(random_artefact(**context), tmp_path / "begun")
    # Without dropout, whose random numbers are the compiled code's own.
    options = ("--init", str(tmp_path / "begun"), "--epochs", "2", "--set", "dropout.context=0")
    weights = []
    for name, more in (("eager", ()), ("compiled", ("--compile",))):
        out = tmp_path / name
        given = ("--out", str(out), "--run", f"{out}-run", "--device", "cpu", *options, *more)
        # By itself: torch warns of what it imports to compile.
        done = subprocess.run(
            [sys.executable, "-m", "training", "train", str(some_sentences), *given],
            cwd=CORPUS.parent.parent.parent,
            env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")},
            stderr=subprocess.PIPE,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        weights.append(load_file(out / "weights.safetensors"))
    assert any((tmp_path / "cache").rglob("*.cpp"))
    for name, value in weights[0].items():
        np.testing.assert_allclose(weights[1][name], value, rtol=1e-3, atol=1e-3)


def test_only_a_context_encoder_is_compiled(
    some_sentences: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(some_sentences, tmp_path / "none", "--compile") == 2
    assert "--compile is for a context encoder, and this network has none" in capsys.readouterr().err
