"""All that runs on a GPU, on one where there is one, and on a pretended one (tests/pretended_gpu.py):
training and going on with it, soft labels, language models, the study, serving."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model.artefact import save
from model.backend import OnnxBackend, choose_backend
from model.tagger import Tagger
from tests.conftest import random_artefact
from tests.pretended_gpu import pretended_gpu
from tests.running import running
from tests.test_backend import TOKENS, VARIANTS, assert_same, emissions_of, some_features
from tests.test_context import SHAPE as CONTEXT
from tests.test_ranks import NO_DROPOUT
from tests.test_training import CORPUS, SMALL
from training import fit, language_model_fit, ranks
from training.__main__ import main
from training.language_model import LanguageModelConfig, save_model
from training.language_model_fit import Split

TEXT = "Harry Potter met Hermione Granger in London. They invented a new spell ."


@pytest.fixture(
    params=[
        "pretended",
        pytest.param(
            "real",
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
            ],
        ),
    ]
)
def gpu(request: pytest.FixtureRequest) -> Iterator[str]:
    """The device's name."""
    if request.param == "real":
        yield "cuda"
        return
    with pretended_gpu():
        yield "cuda"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "some.jsonl"
    path.write_text("".join(CORPUS.read_text("utf-8").splitlines(keepends=True)[:60]), "utf-8")
    return path


@pytest.fixture(scope="module")
def with_context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of random weights, with a context encoder."""
    folder = tmp_path_factory.mktemp("artefacts") / "with-context"
    save(random_artefact(name="with-context", **CONTEXT), folder)
    return folder


def train(device: str, out: Path, *options: str) -> int:
    run = str(out.with_name(out.name + "-run"))
    return main(["train", "--out", str(out), "--run", run, "--device", device, "--epochs", "3", *options])


def history(folder: Path) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = Tagger.load(folder, device="cpu").artefact.training["history"]
    return records


def test_the_pretence_finds_what_is_on_another_device() -> None:
    with pretended_gpu():
        there, here = torch.zeros(2, 3, device="cuda"), torch.zeros(3)
        assert there.device == (there + 1).device == torch.device("cuda", 0)
        assert (there + here.to("cuda")).cpu().numpy().shape == (2, 3)
        with pytest.raises(RuntimeError, match="on the same device"):
            there + here
        with pytest.raises(RuntimeError):
            there.numpy()
    assert not torch.cuda.is_available() or torch.zeros(1, device="cuda").is_cuda


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--cell", "gru", "--layers", "2", "--head", "softmax"),
        ("--cell", "lstm-peephole", "--one-direction"),
        ("--cell", "rnn", "--set", "network.char_filters=0"),
    ],
    ids=" ".join,
)
def test_training_there_is_training_here_but_for_rounding(
    gpu: str, data: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    for device in (gpu, "cpu"):  # without dropout, whose random numbers are the device's own
        assert (
            train(device, tmp_path / device, str(data), *SMALL, "--hidden", "16", *NO_DROPOUT, *options)
            == 0
        )
    there, here = history(tmp_path / gpu), history(tmp_path / "cpu")
    assert [r["loss"] for r in there] == pytest.approx([r["loss"] for r in here], rel=0.02)
    Tagger.load(tmp_path / gpu, device="cpu").self_test()


def test_a_run_that_broke_off_goes_on_there(
    gpu: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train(gpu, tmp_path / "whole", str(data), *SMALL) == 0
    step = fit.Fit._step

    def broken(self: fit.Fit, *args: Any) -> None:
        if self.history:  # so in the second epoch
            raise KeyboardInterrupt
        step(self, *args)

    monkeypatch.setattr(fit.Fit, "_step", broken)
    out = tmp_path / "broken"
    options = (str(data), *SMALL)
    assert train(gpu, out, *options) == 130
    monkeypatch.setattr(fit.Fit, "_step", step)
    assert train(gpu, out, *options, "--resume") == 0
    whole, resumed = history(tmp_path / "whole"), history(out)
    assert [r["loss"] for r in resumed] == pytest.approx([r["loss"] for r in whole], rel=1e-3)


def test_of_several_processes_each_adds_its_gradients_up_there(
    gpu: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    added: list[torch.device] = []

    class First(ranks.Ranks):
        """Of two, the other of which has no gradients, and found nothing."""

        def add(self, tensor: Tensor) -> None:
            added.append(tensor.device)

        def share(self, content: bytes) -> bytes:
            return content

    @contextmanager
    def joined(*_: object) -> Iterator[ranks.Ranks]:
        yield First(0, 2)

    monkeypatch.setattr(ranks, "joined", joined)
    assert train(gpu, tmp_path / "model", str(data), *SMALL) == 0
    assert {device.type for device in added} == {"cuda", "cpu"}  # gradients; and what was found


def test_a_context_encoder_is_trained_there_and_labels_raw_text_to_train_on(
    gpu: str, data: Path, with_context: Path, tmp_path: Path
) -> None:
    out, soft = tmp_path / "model", tmp_path / "soft.safetensors"
    assert train(gpu, out, str(data), "--init", str(with_context)) == 0
    assert history(out)[-1]["loss"] < history(out)[0]["loss"]
    (tmp_path / "raw.txt").write_text(f"{TEXT}\n" * 9, "utf-8")
    assert main(["label", str(out), str(tmp_path / "raw.txt"), "--out", str(soft), "--device", gpu]) == 0
    for head in ("crf", "softmax"):
        options = (str(soft), "--dev", str(data), "--head", head, *SMALL)
        assert train(gpu, tmp_path / head, *options) == 0


def test_language_models_are_trained_and_asked_there(gpu: str, tmp_path: Path) -> None:
    sentences = [tuple(TEXT.split()), tuple("dogs eat twice a day .".split())]
    config = LanguageModelConfig(hidden_dim=16, embedding_dim=8, epochs=3, min_count=1)
    fitted = language_model_fit.fit(config, Split(sentences * 20, sentences), gpu)
    there = language_model_fit.perplexity(fitted.model, sentences)
    here = language_model_fit.perplexity(fitted.model.to("cpu"), sentences)
    assert there.log_likelihood == pytest.approx(here.log_likelihood, rel=1e-3)
    save_model(fitted.model, tmp_path)
    for verb in (["complete", str(tmp_path), "dogs eat"], ["sample", str(tmp_path)]):
        assert main(["language-model", *verb, "--device", gpu]) == 0


def test_the_study_trains_and_probes_there(gpu: str, data: Path, tmp_path: Path) -> None:
    options = ["--epochs", "1", "--systems", "rnn", "own-labels", "--probe-seeds", "0"]
    assert main(["study", str(data), "--out", str(tmp_path), "--device", gpu, *options]) == 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_same_emissions(gpu: str, variant: dict[str, Any]) -> None:
    artefact = random_artefact(**variant)
    onnx, there = OnnxBackend(artefact), choose_backend(artefact, device=gpu)
    assert (there.name, there.device) == ("torch", "cuda")
    lengths = [7, 1, 12, 3, 200]
    x = some_features(lengths)
    assert_same(emissions_of(onnx, x, lengths), emissions_of(there, x, lengths), 1e-4)
    types = artefact.vocabulary.encoder.encode(TOKENS)
    assert_same([onnx.features(types)], [there.features(types)], 1e-4)


def test_the_service_answers_from_there_what_it_answers_from_here(
    gpu: str, tiny_artefact: Path, with_context: Path
) -> None:
    asked = [TEXT, "", "王小明 met 🎉 Angela Merkel", "spell " * 300]
    answers = []
    for device in (gpu, "cpu"):
        with running(tiny_artefact, with_context, device=device) as service:
            for model in ("tiny", "with-context"):
                together = service.tag(asked, model=model)
                assert together == [service.tag([one], model=model)[0] for one in asked]
                answers.append(together)
    for there, here in zip(answers[:2], answers[2:], strict=True):
        for one, other in zip(there, here, strict=True):
            assert [t["label"] for t in one["tokens"]] == [t["label"] for t in other["tokens"]]
            scores = [[t["score"] for t in each["tokens"]] for each in (one, other)]
            assert scores[0] == pytest.approx(scores[1], abs=1e-3)
