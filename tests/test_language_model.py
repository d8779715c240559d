"""Language models: trained in seconds on a few sentences, then asked."""

import math
from pathlib import Path

import pytest
import torch

from training.__main__ import main
from training.language_model import (
    EOS_ID,
    FILE,
    UNK,
    LanguageModel,
    LanguageModelConfig,
    contextual_embeddings,
    fit,
    held_out_split,
    load_model,
    perplexity,
    save_model,
)

SENTENCES = [tuple(s.split()) for s in (
    "cats average fifteen hours of sleep a day .", "dogs eat twice a day .",
    "the apple and pear salad was good .", "a pair of shoes was sold .",
)]  # fmt: skip
LEARN = {
    "epochs": 80,
    "learning_rate": 0.02,
    "min_count": 1,
    "dropout": 0.0,
    "batch_units": 64,
    "hidden_dim": 48,
    "embedding_dim": 24,
}


def trained(level: str = "word", direction: str = "forward", **changed: object) -> LanguageModel:
    config = LanguageModelConfig(level=level, direction=direction, **(LEARN | changed))  # type: ignore[arg-type]
    return fit(config, SENTENCES, SENTENCES).model


@pytest.fixture(scope="module")
def words() -> LanguageModel:
    return trained()


@pytest.fixture(scope="module")
def characters() -> dict[str, LanguageModel]:
    return {d: trained("char", d, epochs=4) for d in ("forward", "backward")}


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_a_small_text_is_learnt_by_heart(cell: str) -> None:
    assert perplexity(trained(cell=cell), SENTENCES) < 1.6  # the first word is one of four


def test_a_uniform_model_hesitates_between_all_units() -> None:
    model = LanguageModel(LanguageModelConfig(), ["<EOS>", UNK, "a", "b", "c"])
    torch.nn.init.zeros_(model.output.weight)
    torch.nn.init.zeros_(model.output.bias)
    assert perplexity(model, [("a", "b"), ("c",)]) == pytest.approx(5)


def test_the_score_is_the_sum_of_the_conditionals_and_these_sum_to_one(words: LanguageModel) -> None:
    scored = words.score("dogs eat a day .")
    assert [unit for unit, _ in scored] == ["dogs", "eat", "a", "day", ".", "<EOS>"]
    ids = words.encode("dogs eat a day .".split())
    x = torch.tensor([[EOS_ID, *ids[:-1]]])
    p = words(x)[0].softmax(1)
    assert p.sum(1).tolist() == pytest.approx([1.0] * 6)
    assert sum(log for _, log in scored) == pytest.approx(
        sum(math.log2(p[t, i].item()) for t, i in enumerate(ids)), rel=1e-4
    )


def test_a_sentence_scores_the_same_alone_and_among_others(words: LanguageModel) -> None:
    alone = [words.log_probabilities([s])[0] for s in SENTENCES]
    for one, together in zip(alone, words.log_probabilities(SENTENCES), strict=True):
        assert one == pytest.approx(together, abs=1e-5)


def test_what_was_read_is_likelier_than_what_sounds_like_it(words: LanguageModel) -> None:
    read, heard = (
        sum(x for _, x in words.score(f"the apple and {w} salad was good .")) for w in ("pear", "pair")
    )
    assert read > heard


def test_a_beginning_is_completed_and_a_backward_model_completes_an_end(words: LanguageModel) -> None:
    rng = torch.Generator().manual_seed(0)
    assert words.generate(rng, "cats average", 0.1) == "cats average fifteen hours of sleep a day."
    assert trained(direction="backward").generate(rng, "pear salad was good .", 0.1) == (
        "the apple and pear salad was good."
    )


def test_samples_end_know_every_word_and_repeat_with_their_seed() -> None:
    model = trained(min_count=2, epochs=3)
    assert "fifteen" not in model.ids
    samples = [
        [model.generate(rng, temperature=2.0, longest=40) for _ in range(20)]
        for rng in (torch.Generator().manual_seed(3), torch.Generator().manual_seed(3))
    ]
    assert samples[0] == samples[1]
    assert all(s and UNK not in s and "<EOS>" not in s for s in samples[0])


def test_both_directions_read_the_same_sentences(characters) -> None:
    sentence = "The cat".split()
    forward, backward = (characters[d].units_of(sentence) for d in ("forward", "backward"))
    assert "".join(forward) == "The cat"
    assert forward == backward[::-1]


def test_an_embedding_knows_its_own_side_of_the_sentence(characters) -> None:
    def of(text: str) -> torch.Tensor:
        return contextual_embeddings(characters["forward"], characters["backward"], text.split())

    a, b = of("cats sleep a day"), of("cats eat a day")
    half = a.shape[1] // 2
    assert a.shape == (4, 2 * LEARN["hidden_dim"])
    assert torch.allclose(a[0, :half], b[0, :half])  # nothing before "cats" differs
    assert not torch.allclose(a[0, half:], b[0, half:])
    assert torch.allclose(a[3, half:], b[3, half:])  # nothing after "day"
    assert not torch.allclose(a[3, :half], b[3, :half])
    one, _ = characters["forward"], None
    x = torch.tensor([[EOS_ID, *one.encode(["cats"])[:-1]]])
    assert torch.allclose(a[0, :half], one.states(x)[0, -1])
    with pytest.raises(ValueError, match="a forward model of characters is expected, not a backward one"):
        contextual_embeddings(characters["backward"], characters["backward"], ["a"])


def test_a_saved_model_scores_the_same(words: LanguageModel, tmp_path: Path) -> None:
    save_model(words, tmp_path)
    assert load_model(tmp_path).score("dogs eat .") == words.score("dogs eat .")


def test_bad_input_is_named(words: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"language-model\.safetensors"):
        load_model(tmp_path)
    (tmp_path / FILE).write_bytes(b"no")
    with pytest.raises(ValueError, match="not a language model"):
        load_model(tmp_path)
    with pytest.raises(ValueError, match="level 'letter' is not one of"):
        LanguageModelConfig(level="letter")
    with pytest.raises(ValueError, match="at least two documents"):
        held_out_split([[("a",)]], 0.1)
    with pytest.raises(ValueError, match="temperature is 0"):
        words.generate(torch.Generator(), temperature=0)


def test_every_verb_runs_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "raw.txt"
    text.write_text("\n\n".join("Cats sleep all day. Dogs eat twice a day." for _ in range(30)))
    out = str(tmp_path / "lm")
    settings = [f"--set={k}={v}" for k, v in {"epochs": 3, "hidden_dim": 16, "max_tokens": 1000}.items()]
    assert main(["language-model", "train", str(text), "--out", out, *settings]) == 0
    assert "held out: perplexity" in capsys.readouterr().out
    assert main(["language-model", "perplexity", out, str(text)]) == 0
    assert "bits" in capsys.readouterr().out
    assert main(["language-model", "score", out, "Cats sleep all day.", "Zebras sleep all day."]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sorted(line.split("\t")[1:] for line in lines) == [
        ["Cats sleep all day."],
        ["Zebras sleep all day.", "<UNK>: Zebras"],
    ]
    assert float(lines[0].split()[0]) >= float(lines[1].split()[0])
    assert main(["language-model", "complete", out, "Cats sleep", "-n", "2"]) == 0
    assert all(line.startswith("Cats sleep") for line in capsys.readouterr().out.splitlines())
    assert main(["language-model", "sample", out, "-n", "3"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert main(["language-model", "train", str(text), "--out", out, "--set=hiden_dim=3"]) == 2
    assert "hiden_dim is not one of" in capsys.readouterr().err
