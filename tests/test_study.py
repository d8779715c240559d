"""The study on a little of the project's own corpus: every system, its measurements, going on."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from model.config import NetworkConfig, TaggerConfig
from model.features import PAD, UNK, Vocabulary
from model.head import chain_of, decode
from model.labels import LabelScheme
from model.network import BiRnnTagger, Dropout, network_for
from tests.test_report import Page
from training import fit as fit_module
from training import study as study_module
from training.__main__ import main
from training.batches import Batch, TypeStore, make_batch
from training.corpus import Sentence
from training.memory import DISTANCES, gradients_by_distance, probes, scale_recurrence, windows
from training.output_recurrence import OutputRecurrentTagger
from training.recipe import DataConfig, Recipe, with_values
from training.study import PROBED, recipe_of, run
from training.study_runs import ProbeConfig
from training.systems import BASE, GROUPS, RECIPE, SYSTEMS

PEOPLE = Path(__file__).parent.parent / "training" / "people"
SMALL = {
    "network": {"hidden_dim": 6, "feature_dim": 8, "cased_dim": 6, "char_dim": 4, "char_filters": 4},
    "optimiser": {"epochs": 1},
}
TINY_PROBE = ProbeConfig(distances=(3, 5), n_alone=12, n_mixed=12, n_test=8, epochs=1)
SCHEME = LabelScheme()
WORDS = "Ada met Bob in Oslo .".split()
VOCABULARY = Vocabulary((PAD, UNK, *WORDS), (PAD, UNK), (PAD, UNK, *sorted(set("".join(WORDS)))))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """The study's, on the first 30 entries of the corpus and 10 of its test file."""
    folder = tmp_path_factory.mktemp("data")
    for name, n in (("train", 30), ("test", 10)):
        lines = (PEOPLE / f"{name}.jsonl").read_text("utf-8").splitlines(keepends=True)
        (folder / f"{name}.jsonl").write_text("".join(lines[:n]), "utf-8")
    small: Recipe = with_values(RECIPE, SMALL)
    return replace(
        small, data=(DataConfig(str(folder / "train.jsonl")),), dev=(str(folder / "test.jsonl"),)
    )


@pytest.fixture(scope="module")
def finished(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole study."""
    out = tmp_path_factory.mktemp("study")
    assert run(recipe, out, probe=TINY_PROBE) == out / "report.html"
    return out


def test_every_system_trains_and_is_in_the_report(finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text("utf-8"))
    assert {r["system"] for r in results["runs"]} == set(SYSTEMS)
    assert all(r["n_epochs"] == 1 and r["grad_norms"] and not r["broke_down"] for r in results["runs"])
    for r in results["runs"]:
        recurrent = bool(SYSTEMS[r["system"]].feedback)
        assert (r["wrong_given_own"] is not None) == (r["wrong_given_gold"] is not None) == recurrent
        assert (r["untrained"] is None) == recurrent
    assert {(p["cell"], p["bidirectional"]) for p in results["probes"]} == set(PROBED)
    page = Page((finished / "report.html").read_text("utf-8"))
    for group in GROUPS:
        for text in (group.title, *(system.name for system in group.systems)):
            assert text in page.text
    assert page.tags.count("tr") == sum(1 + len(group.systems) for group in GROUPS)
    assert page.tags.count("svg") == 8


def test_the_report_asks_nobody_for_anything(finished: Path) -> None:
    page = Page((finished / "report.html").read_text("utf-8"))
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert all("://" not in value for _, _, value in page.attributes)
    assert len(page.ids) == len(set(page.ids))


def test_the_systems_of_a_group_differ_from_the_base_and_from_each_other() -> None:
    for group in GROUPS:
        assert BASE.slug in {system.slug for system in group.systems}
        seen = [(recipe_of(s, RECIPE, 1), s.feedback, s.sgd) for s in group.systems]
        assert all(seen[i] != seen[j] for i in range(len(seen)) for j in range(i))
    assert len({s.slug for g in GROUPS for s in g.systems}) == len(SYSTEMS)


def test_a_study_that_was_interrupted_does_only_what_is_missing(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []
    train_one = study_module.run_system

    def interrupted(system, *given, **options):  # type: ignore[no-untyped-def]
        trained.append(system.slug)
        if trained == ["base", "rnn", "gru"]:
            raise KeyboardInterrupt
        return train_one(system, *given, **options)

    monkeypatch.setattr(study_module, "run_system", interrupted)
    wanted = ["rnn", "gru", "softmax"]
    with pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path, systems=wanted, n_probe_seeds=0)
    assert not (tmp_path / "report.html").exists()
    assert [p.name for p in (tmp_path / "results").iterdir() if p.is_dir()] == []
    before = (tmp_path / "results" / "rnn-1.json").read_bytes()
    run(recipe, tmp_path, systems=wanted, n_probe_seeds=0)
    assert trained == ["base", "rnn", "gru", "gru", "softmax"]
    assert (tmp_path / "results" / "rnn-1.json").read_bytes() == before
    # Another seed is more of the same study.
    run(recipe, tmp_path, systems=wanted, n_seeds=2, n_probe_seeds=0)
    assert trained[5:] == ["base", "rnn", "gru", "softmax"]
    assert "±" in (tmp_path / "report.html").read_text("utf-8")
    with pytest.raises(ValueError, match=r"base-1\.json: was made with other settings or data"):
        run(with_values(recipe, {"network": {"hidden_dim": 7}}), tmp_path, systems=wanted)
    (tmp_path / "results" / "gru-1.json").write_text("[]")
    with pytest.raises(ValueError, match=r"gru-1\.json: not a result of a study"):
        run(recipe, tmp_path, systems=wanted, n_probe_seeds=0)


def test_a_training_that_breaks_down_is_a_result(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = fit_module.Fit._loss

    def broken(self: fit_module.Fit, batch: Batch) -> torch.Tensor:
        return loss(self, batch) * (float("inf") if self.config.network.cell == "rnn" else 1.0)

    monkeypatch.setattr(fit_module.Fit, "_loss", broken)
    text = Page(run(recipe, tmp_path, systems=["rnn", "gru"], n_probe_seeds=0).read_text("utf-8")).text
    assert "broke down, 1 of 1: step 1: the loss is inf" in text


def test_the_command_writes_the_report_and_names_what_is_wrong(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [recipe.data[0].path, "--dev", *recipe.dev]
    small = ["--epochs", "1", "--set", "network.hidden_dim=4", "--probe-seeds", "0", "--device", "cpu"]
    out = str(tmp_path / "study")
    assert main(["study", *files, "--out", out, "--systems", "one-direction", *small]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "study" / "report.html")
    for arguments, complaint in (
        ([*files, "--systems", "transformer"], "system 'transformer' is not one of ('rnn', "),
        (["--dev", *recipe.dev], "--dev without training files"),
        (["no-such-file.conll"], "no-such-file.conll"),
        ([*files, "--types", "SHIP"], "the training data holds no entity"),
        ([*files, "--set", "network.cell=transformer"], "'transformer' is not one of"),
    ):
        assert main(["study", *arguments, "--out", str(tmp_path / "bad"), "--epochs", "1"]) == 2
        assert complaint in capsys.readouterr().err
    assert not (tmp_path / "bad" / "report.html").exists()


# Output recurrence


def a_batch(store: TypeStore | None = None) -> Batch:
    store = store or TypeStore(VOCABULARY.encoder)
    sentences = [WORDS, WORDS[:3], ["Oslo"]]
    return make_batch(store.rows(sentences), [[1, 0, 1, 0, 0, 0], [1, 0, 1], [0]], store)


@pytest.fixture
def output_recurrent() -> OutputRecurrentTagger:
    torch.manual_seed(9)  # its own labels are of all kinds, and differ from sentence to sentence
    config = NetworkConfig(head="softmax", hidden_dim=6, feature_dim=8, cased_dim=5, char_filters=0)
    network = OutputRecurrentTagger(config, VOCABULARY, SCHEME).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3)  # so that words and labels before both matter
        network.scores.bias.zero_()
    return network


def test_taught_its_own_labels_it_scores_as_when_it_decodes(
    output_recurrent: OutputRecurrentTagger,
) -> None:
    batch = a_batch()
    given = (batch.types, batch.index, batch.lengths)
    greedy = output_recurrent(*given)
    labels = greedy.argmax(2)
    assert len(labels.unique()) == 3
    taught = output_recurrent.taught(*given, labels)
    allowed = greedy > -1e3
    torch.testing.assert_close(taught[allowed], greedy[allowed])
    torch.testing.assert_close(output_recurrent.taught(*given, None), taught)
    other = output_recurrent.taught(*given, batch.labels)
    assert not torch.allclose(other[:, 1:], taught[:, 1:])
    torch.testing.assert_close(other[:, 0], taught[:, 0])  # before the first token there is no label


def test_viterbi_over_its_scores_finds_the_greedy_path_again(
    output_recurrent: OutputRecurrentTagger,
) -> None:
    batch = a_batch()
    with torch.no_grad():
        output_recurrent.scores.bias[2] = 9.0  # it would say I-PER everywhere, where it must not
    scores = output_recurrent(batch.types, batch.index, batch.lengths).detach()
    lengths = batch.lengths.tolist()
    zeros = [0.0] * 3
    answers = decode(scores.numpy(), lengths, chain_of(zeros, [zeros] * 3, zeros, SCHEME), SCHEME)
    for b, (answer, n) in enumerate(zip(answers, lengths, strict=True)):
        assert answer.labels == [SCHEME.labels[k] for k in scores[b, :n].argmax(1).tolist()]
        assert SCHEME.may_open(answer.labels[0])
        assert all(SCHEME.may_follow(a, b) for a, b in pairwise(answer.labels))


def test_where_it_is_certain_teacher_forcing_and_greedy_decoding_agree(
    output_recurrent: OutputRecurrentTagger,
) -> None:
    batch = a_batch()
    given = (batch.types, batch.index, batch.lengths)
    optimiser = torch.optim.Adam(output_recurrent.parameters(), 0.02)
    real = batch.labels >= 0
    for _ in range(150):
        optimiser.zero_grad()
        scores = output_recurrent.taught(*given, batch.labels)
        cross_entropy(scores[real], batch.labels[real]).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    taught = output_recurrent.taught(*given, batch.labels)
    assert taught[real].softmax(1).amax(1).min() > 0.9
    assert torch.equal(taught.argmax(2)[real], batch.labels[real])
    assert torch.equal(output_recurrent(*given).argmax(2)[real], batch.labels[real])


def test_output_recurrence_takes_the_place_of_softmax_alone() -> None:
    with pytest.raises(ValueError, match="head is 'crf'"):
        OutputRecurrentTagger(NetworkConfig(), VOCABULARY, SCHEME)


# The gradient by distance


def a_network(**shape: object) -> BiRnnTagger:
    torch.manual_seed(0)
    settings: dict[str, object] = {"hidden_dim": 8, "feature_dim": 8, "cased_dim": 5, "char_filters": 0}
    return network_for(TaggerConfig("", network=NetworkConfig(**{**settings, **shape})), VOCABULARY)  # type: ignore[arg-type]


def stretches(reach: int) -> Batch:
    words = Sentence(tuple(WORDS), ("B-PER", "O", "B-PER", "O", "O", "O"), 0)
    return windows([words] * 30, SCHEME, TypeStore(VOCABULARY.encoder), most=8, reach=reach)


def test_a_window_has_a_name_in_its_middle() -> None:
    batch = stretches(10)
    assert batch.index.shape[1] == 61
    assert 4 <= len(batch.labels) <= 8
    assert (batch.labels[:, 30] == 1).all()
    short = windows([Sentence(("Oslo",), ("B-LOC",), 0)], SCHEME, TypeStore(VOCABULARY.encoder), reach=3)
    assert short.index.shape[1] == 47
    assert not short.labels.any()


def test_the_gradient_of_a_contracting_rnn_vanishes_monotonically_and_of_a_large_one_grows() -> None:
    small, large = (a_network(cell="rnn", bidirectional=False) for _ in range(2))
    scale_recurrence(small, 0.2)
    curve = gradients_by_distance(small, stretches(30))
    assert curve is not None
    assert curve.before[0] == 1
    assert all(b < a for a, b in pairwise(curve.before))
    assert 0 < curve.before[30] < 1e-15
    assert max(curve.after[1:]) < 1e-250  # it never saw the words after
    with torch.no_grad():
        large.words.projection.weight.mul_(1e-3)  # small inputs: tanh does not saturate
        large.words.projection.bias.zero_()
    scale_recurrence(large, 3.0)
    grown = gradients_by_distance(large, stretches(5))
    assert grown is not None
    assert grown.before[5] > 1


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm", "lstm-peephole"])
def test_the_gradient_is_that_of_finite_differences(cell: str) -> None:
    network, batch = a_network(cell=cell).double(), stretches(3)
    one = Batch(batch.types, batch.index[:1], batch.lengths[:1], batch.labels[:1])
    found = gradients_by_distance(network, one)
    assert found is not None
    x = network.words(one.types, Dropout())[one.index].detach()  # (1, 47, D)

    def norm(t: int) -> float:
        slopes = []
        for d in range(x.size(2)):
            losses = []
            for step in (1e-5, -1e-5):
                moved = x.clone()
                moved[0, t, d] += step
                scores = network.emissions(moved, one.lengths)[:, 23]
                losses.append(float(cross_entropy(scores, one.labels[:, 23]).detach()))
            slopes.append((losses[0] - losses[1]) / 2e-5)
        return float(torch.tensor(slopes).norm())

    expected = [norm(t) for t in range(20, 27)]
    assert found.before == pytest.approx([expected[3 - k] / expected[3] for k in range(4)], rel=1e-4)
    assert found.after == pytest.approx([expected[3 + k] / expected[3] for k in range(4)], rel=1e-4)


def test_a_saturated_network_has_no_gradient_to_compare() -> None:
    network = a_network(cell="rnn", bidirectional=False)
    with torch.no_grad():
        network.output.weight.zero_()
    assert gradients_by_distance(network, stretches(3)) is None


# The probe's sentences


@pytest.mark.parametrize("distance", DISTANCES)
def test_a_word_at_the_distance_decides_and_nothing_else_does(distance: int) -> None:
    cues: dict[bool, set[str]] = {True: set(), False: set()}
    names: dict[bool, set[str]] = {True: set(), False: set()}
    sentences = probes("train", distance, 400, seed=1)
    for number, sentence in enumerate(sentences):
        words, person = sentence.tokens, "B-PER" in sentence.labels
        if number % 2 == 0:
            cue, name = words[1], words[1 + distance]
        else:
            cue, name = words[distance], words[0]
        assert len(words) == distance + (3 if number % 2 == 0 else 2)
        if person:
            assert sentence.labels.index("B-PER") == words.index(name)
        assert sum(label != "O" for label in sentence.labels) == person
        cues[person].add(cue)
        names[person].add(name)
    assert not cues[True] & cues[False]
    assert names[True] == names[False]
    assert 0.25 < sum("B-PER" in s.labels for s in sentences) / len(sentences) < 0.42


def test_no_filler_and_no_pair_of_cue_and_name_is_in_both_splits() -> None:
    fillers: dict[str, set[tuple[str, str]]] = {}
    pairs: dict[str, set[tuple[str, str]]] = {}
    words: dict[str, set[str]] = {}
    for split in ("train", "test"):
        sentences = [s.tokens for d in DISTANCES for s in probes(split, d, 300, seed=1)]
        before, after = sentences[::2], sentences[1::2]
        phrases = [t[2:-4] for t in before] + [t[1:-4] for t in after]
        fillers[split] = {(p[i], p[i + 1]) for p in phrases for i in range(0, len(p), 2)}
        pairs[split] = {(t[1], t[-2]) for t in before} | {(t[-2], t[0]) for t in after}
        words[split] = {word for t in sentences for word in t}
    assert fillers["train"]
    assert fillers["test"]
    assert not fillers["train"] & fillers["test"]
    assert not pairs["train"] & pairs["test"]
    assert words["test"] <= words["train"]  # nothing fails for being unknown


def test_a_probe_that_cannot_be_made_is_refused() -> None:
    with pytest.raises(ValueError, match="split 'dev' is not one of"):
        probes("dev", 3, 1, 1)
    with pytest.raises(ValueError, match="distance is 4"):
        probes("train", 4, 1, 1)


def test_probe_sentences_follow_from_the_seed() -> None:
    assert probes("test", 9, 20, 1) == probes("test", 9, 20, 1) != probes("test", 9, 20, 2)
    assert asdict(TINY_PROBE) == asdict(ProbeConfig(**asdict(TINY_PROBE)))
