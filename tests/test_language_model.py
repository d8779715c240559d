"""Language models: trained in seconds on a few sentences, then asked."""

import itertools
import math
import random
from pathlib import Path

import pytest
import torch

from training.__main__ import main
from training.language_model import (
    EOS,
    EOS_ID,
    FILE,
    UNK,
    UNK_ID,
    LanguageModel,
    LanguageModelConfig,
    contextual_embeddings,
    join,
    load_model,
    make_batch,
    save_model,
)
from training.language_model_fit import Split, fit, perplexity, read_sentences, read_split

SENTENCES = [tuple(s.split()) for s in (
    "cats average 15 hours of sleep a day .", "dogs eat twice a day .",
    "the apple and pear salad was good .", "a pair of shoes was sold .",
)]  # fmt: skip
LEARN = {
    "epochs": 60,
    "learning_rate": 0.02,
    "min_count": 1,
    "dropout": 0.0,
    "batch_units": 64,
    "hidden_dim": 48,
    "embedding_dim": 24,
}


def trained(level: str = "word", direction: str = "forward", **changed: object) -> LanguageModel:
    config = LanguageModelConfig(level=level, direction=direction, **(LEARN | changed))  # type: ignore[arg-type]
    return fit(config, Split(SENTENCES, SENTENCES)).model


def untrained(n_units: int, **changed: object) -> LanguageModel:
    torch.manual_seed(0)
    config = LanguageModelConfig(hidden_dim=16, embedding_dim=8, **changed)  # type: ignore[arg-type]
    return LanguageModel(config, [EOS, UNK, *(f"w{i}" for i in range(n_units - 2))])


@pytest.fixture(scope="module")
def words() -> LanguageModel:
    return trained()


@pytest.fixture(scope="module")
def characters() -> dict[str, LanguageModel]:
    return {d: trained("char", d, epochs=4) for d in ("forward", "backward")}


# --- probabilities -------------------------------------------------------------------------


@pytest.mark.parametrize(("cell", "n_layers"), [("lstm", 1), ("gru", 2), ("rnn", 1)])
def test_a_small_text_is_learnt_by_heart(cell: str, n_layers: int) -> None:
    # Nothing tells which of the four sentences comes: 2 bits, shared out over all units.
    n_units = sum(len(s) + 1 for s in SENTENCES)
    least = 4 ** (len(SENTENCES) / n_units)
    model = trained(cell=cell, n_layers=n_layers)
    assert least <= perplexity(model, SENTENCES).per_unit < least + 0.05


def test_a_uniform_model_hesitates_between_all_units() -> None:
    model = LanguageModel(LanguageModelConfig(), [EOS, UNK, "a", "b", "c"])
    for parameter in model.softmax.parameters():
        torch.nn.init.zeros_(parameter)
    found = perplexity(model, [("a", "b"), ("unheard",)])
    assert found.per_unit == pytest.approx(5)
    assert found.bits_per_unit == pytest.approx(math.log2(5))
    assert (found.n_units, found.n_words, found.n_unknown) == (5, 5, 1)


def test_a_models_characters_make_a_words_perplexity() -> None:
    model = LanguageModel(LanguageModelConfig(level="char"), [EOS, UNK, *"ab "])
    for parameter in model.softmax.parameters():
        torch.nn.init.zeros_(parameter)
    found = perplexity(model, [("ab", "a")])  # a, b, a space, a, <EOS>: for two words and <EOS>
    assert (found.n_units, found.n_words) == (5, 3)
    assert found.per_word == pytest.approx(5 ** (5 / 3))
    assert str(found) == (
        "perplexity 5.00 (2.322 bits) a unit, 14.62 a word over 5 units, 0.0% of them <UNK>"
    )


@pytest.mark.parametrize(("softmax", "n_units"), [("full", 50), ("adaptive", 50), ("adaptive", 7000)])
def test_the_probabilities_of_all_next_units_sum_to_one(softmax: str, n_units: int) -> None:
    model = untrained(n_units, softmax=softmax).eval()
    h = model(torch.tensor([[EOS_ID, 5, 7]]))[0][0]
    logs = model.softmax.log_prob(h)  # (T, V)
    assert logs.shape == (3, n_units)
    assert logs.exp().sum(1).tolist() == pytest.approx([1.0] * 3, abs=1e-4)
    for unit in (EOS_ID, UNK_ID, 40, n_units - 1):  # of the head and of every tail
        of_unit, _ = model.softmax(h, torch.full((3,), unit))
        assert of_unit.tolist() == pytest.approx(logs[:, unit].tolist(), abs=1e-4)


def test_the_probabilities_of_all_sentences_up_to_a_length_and_of_longer_ones_sum_to_one() -> None:
    model = untrained(4)
    short = [s for n in range(4) for s in itertools.product(("w0", "w1", UNK), repeat=n)]
    ended = sum(math.exp(sum(logs)) for logs in model.log_probabilities(short))
    # Those that go on after three units: all but <EOS> of their last step.
    longest = model.log_probabilities([s for s in short if len(s) == 3])
    longer = sum(math.exp(sum(logs[:-1])) * -math.expm1(logs[-1]) for logs in longest)
    assert ended + longer == pytest.approx(1, abs=1e-5)


def test_a_score_is_the_sum_of_the_conditionals(words: LanguageModel) -> None:
    scored = words.score("dogs eat a day.")
    assert [unit for unit, _ in scored] == ["dogs", "eat", "a", "day", ".", EOS]
    ids = words.encode("dogs eat a day .".split())
    conditionals = []
    for t, i in enumerate(ids):  # each by a run of its own over what comes before it
        h = words(torch.tensor([[EOS_ID, *ids[:t]]]))[0][:, -1]
        conditionals.append(words.softmax.log_prob(h)[0, i].item() / math.log(2))
    assert [log for _, log in scored] == pytest.approx(conditionals, rel=1e-4, abs=1e-5)


def test_a_sentence_scores_the_same_alone_and_among_others(words: LanguageModel) -> None:
    alone = [words.log_probabilities([s])[0] for s in SENTENCES]
    for one, together in zip(alone, words.log_probabilities(SENTENCES), strict=True):
        assert one == pytest.approx(together, abs=1e-5)


def test_what_was_read_is_likelier_than_what_sounds_like_it(words: LanguageModel) -> None:
    read, heard = (
        sum(x for _, x in words.score(f"the apple and {w} salad was good .")) for w in ("pear", "pair")
    )
    assert read > heard


def test_padding_is_ignored_and_y_is_x_one_step_on() -> None:
    x, y = make_batch([[5, 6, EOS_ID], [7, EOS_ID]])
    assert x.tolist() == [[EOS_ID, 5, 6], [EOS_ID, 7, EOS_ID]]
    assert y.tolist() == [[5, 6, EOS_ID], [7, EOS_ID, -100]]


# --- generation ----------------------------------------------------------------------------


def test_a_beginning_is_completed_and_a_backward_model_completes_an_end(words: LanguageModel) -> None:
    rng = torch.Generator().manual_seed(0)
    assert words.generate(rng, "cats average 15", 0.1) == "cats average 15 hours of sleep a day."
    backward = trained(direction="backward")
    assert backward.generate(rng, "pear salad was good .", 0.1) == "the apple and pear salad was good ."


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_a_beginning_stays_as_it_was_written(direction: str, characters: dict[str, LanguageModel]) -> None:
    given = "Zebras  , “average” 1½"  # unknown words, odd spaces, marks that look-up would fold
    word_model = trained(direction=direction, epochs=1)
    for model in (word_model, characters[direction]):
        made = model.generate(torch.Generator().manual_seed(1), given, longest=5)
        assert made.startswith(given) if direction == "forward" else made.endswith(given)


def test_characters_go_on_inside_a_word_unless_a_space_ends_it() -> None:
    model = trained("char", epochs=60)
    rng = torch.Generator().manual_seed(1)
    assert model.generate(rng, "dogs eat twi", 0.1) == "dogs eat twice a day."
    assert model.generate(rng, "dogs eat ", 0.1) == "dogs eat twice a day."


def test_samples_end_know_every_word_and_repeat_with_their_seed() -> None:
    model = trained(min_count=2, epochs=3)  # so that most words are <UNK>
    assert "hours" not in model.ids
    samples = [
        [model.generate(rng, temperature=2.0) for _ in range(20)]
        for rng in (torch.Generator().manual_seed(3), torch.Generator().manual_seed(3))
    ]
    assert samples[0] == samples[1]
    assert len(set(samples[0])) > 10
    assert all(s and UNK not in s and EOS not in s for s in samples[0])
    # They stop at <EOS>, long before the most that would be made.
    assert all(len(s.split()) < 200 for s in samples[0])


def test_a_higher_temperature_is_less_sure_of_the_likeliest(words: LanguageModel) -> None:
    def agreeing(temperature: float) -> int:
        rng = torch.Generator().manual_seed(5)
        made = [words.generate(rng, "dogs", temperature) for _ in range(20)]
        return made.count("dogs eat twice a day.")

    assert agreeing(1e-9) == 20
    assert agreeing(5.0) < 5


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        ("He did n't , did he ?", "He didn't, did he?"),
        ('She said : " No ( not yet ) . " He left .', 'She said: "No (not yet)." He left.'),
        ("It cost $ 5 .", "It cost $5."),
    ],
)
def test_tokens_are_joined_as_they_are_written(tokens: str, text: str) -> None:
    assert join(tokens.split()) == text


# --- both directions -----------------------------------------------------------------------


def test_a_backward_model_is_a_forward_model_of_sentences_turned_around() -> None:
    turned = [s[::-1] for s in SENTENCES]
    config = LanguageModelConfig(**(LEARN | {"epochs": 2}))  # type: ignore[arg-type]
    forward = fit(config, Split(turned, turned)).model
    backward = trained(direction="backward", epochs=2)
    assert backward.units == forward.units
    for s in SENTENCES:
        assert backward.log_probabilities([s])[0] == pytest.approx(forward.log_probabilities([s[::-1]])[0])


def test_both_directions_read_the_same_characters(characters: dict[str, LanguageModel]) -> None:
    forward, backward = (characters[d].units_of(["The", "cat"]) for d in ("forward", "backward"))
    assert "".join(forward) == "The cat"
    assert forward == backward[::-1]
    assert characters["forward"].units == characters["backward"].units


def test_an_embedding_knows_its_own_side_of_the_sentence(characters: dict[str, LanguageModel]) -> None:
    forward, backward = characters["forward"], characters["backward"]

    def of(text: str) -> torch.Tensor:
        return contextual_embeddings(forward, backward, text.split())

    a, b = of("cats sleep a day"), of("cats eat a day")
    half = a.shape[1] // 2
    assert a.shape == (4, 2 * LEARN["hidden_dim"])
    assert torch.allclose(a[0, :half], b[0, :half], atol=1e-6)  # nothing before "cats" differs
    assert not torch.allclose(a[0, half:], b[0, half:], atol=1e-6)
    assert torch.allclose(a[3, half:], b[3, half:], atol=1e-6)  # nothing after "day"
    assert not torch.allclose(a[3, :half], b[3, :half], atol=1e-6)


def test_an_embedding_is_the_state_at_the_words_own_edge(characters: dict[str, LanguageModel]) -> None:
    forward, backward = characters["forward"], characters["backward"]
    rows = contextual_embeddings(forward, backward, ["cats", "eat", "fish"])
    half = rows.shape[1] // 2
    to_its_end = torch.tensor([[EOS_ID, *(forward.ids.get(c, UNK_ID) for c in "cats eat")]])
    to_its_start = torch.tensor([[EOS_ID, *(backward.ids.get(c, UNK_ID) for c in "hsif tae")]])
    assert torch.allclose(rows[1, :half], forward(to_its_end)[0][0, -1], atol=1e-6)
    assert torch.allclose(rows[1, half:], backward(to_its_start)[0][0, -1], atol=1e-6)
    assert contextual_embeddings(forward, backward, []).shape == (0, 2 * half)
    torch.nn.Linear(2 * half, 3)(rows).sum().backward()  # a network can be trained on them


# --- files ---------------------------------------------------------------------------------


def test_a_saved_model_scores_the_same(words: LanguageModel, tmp_path: Path) -> None:
    for number, model in enumerate((words, untrained(7000))):
        save_model(model, tmp_path / str(number))
        loaded = load_model(tmp_path / str(number))
        assert loaded.score("dogs eat w6000.") == model.score("dogs eat w6000.")
        assert loaded.config == model.config


def test_training_repeats_with_its_seed() -> None:
    one, two, other = (trained(epochs=1, dropout=0.3, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.embedding.weight, other.embedding.weight)


def test_the_last_documents_of_each_file_are_held_out(tmp_path: Path) -> None:
    paths = []
    for name in "ab":
        paths.append(tmp_path / f"{name}.txt")
        paths[-1].write_text("\n\n".join(f"{name} number {i}." for i in range(10)))
    split = read_split(paths, max_tokens=1000, held_out=0.25)
    held_out = {s[:3:2] for s in split.held_out}
    assert held_out == {(name, i) for name in "ab" for i in "789"}
    assert {s[:3:2] for s in split.train} == {(name, i) for name in "ab" for i in "0123456"}
    assert len(read_sentences(paths, 24)) == 6  # words, evenly over the files


def test_words_that_came_too_rarely_are_unknown() -> None:
    rng = random.Random(0)
    train = [tuple(rng.choices("abcdefgh", weights=[8, 7, 6, 5, 4, 3, 2, 1], k=20)) for _ in range(200)]
    config = LanguageModelConfig(max_units=3, epochs=1, hidden_dim=8)
    model = fit(config, Split([*train, ("once",)], train)).model
    assert model.units == (EOS, UNK, "a", "b", "c")


def test_numbers_are_generated_so_they_are_read_as_written(words: LanguageModel) -> None:
    assert "15" in words.ids
    assert words.units_of(["“1996”", "“a”"]) == ["“1996”", '"a"']


def test_bad_input_is_named(
    words: LanguageModel, characters: dict[str, LanguageModel], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"language-model\.safetensors: no such file"):
        load_model(tmp_path)
    (tmp_path / FILE).write_bytes(b"no")
    with pytest.raises(ValueError, match=r"language-model\.safetensors: not a language model"):
        load_model(tmp_path)
    with pytest.raises(ValueError, match="level 'letter' is not one of"):
        LanguageModelConfig(level="letter")
    with pytest.raises(ValueError, match="epochs is 0: at least 1 is expected"):
        LanguageModelConfig(epochs=0)
    with pytest.raises(ValueError, match="no word comes min_count, 9, times"):
        trained(min_count=9)
    with pytest.raises(ValueError, match="temperature is 0"):
        words.generate(torch.Generator(), temperature=0)
    with pytest.raises(ValueError, match="a forward model of characters is expected, not a backward one"):
        contextual_embeddings(characters["backward"], characters["backward"], ["a"])
    one = tmp_path / "one.txt"
    one.write_text("A single document.")
    with pytest.raises(ValueError, match=r"one\.txt: at least two documents"):
        read_split([one], 100, 0.1)
    one.write_text("\n")
    with pytest.raises(ValueError, match=r"one\.txt: no words in it"):
        read_sentences([one], 100)
    one.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"one\.txt: not text in UTF-8"):
        read_sentences([one], 100)


def test_every_verb_runs_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*words: str) -> list[str]:
        assert main(["language-model", *words]) == 0
        return capsys.readouterr().out.splitlines()

    text = tmp_path / "raw.txt"
    text.write_text("\n\n".join("Cats sleep all day. Dogs eat twice a day." for _ in range(30)))
    out = str(tmp_path / "lm")
    settings = [f"--set={k}={v}" for k, v in {"epochs": 3, "hidden_dim": 16}.items()]
    (made,) = run("train", str(text), "--out", out, "--max-tokens", "1000", *settings)
    assert "11 words known" in made
    assert "held out: perplexity" in made
    (found,) = run("perplexity", out, str(text))
    assert " bits) a unit over " in found
    scored = run("score", out, "Zebras sleep all day.", "Cats sleep all day.")
    log2, ppl = zip(*(map(float, line.split("\t")[:2]) for line in scored), strict=True)
    assert sorted(line.split("\t")[2:] for line in scored) == [
        ["Cats sleep all day."],
        ["Zebras sleep all day.", "<UNK>: Zebras"],
    ]
    assert log2[0] >= log2[1]
    assert ppl[0] == pytest.approx(2 ** (-log2[0] / 6), abs=0.02)
    units = [line.split() for line in run("score", out, "Cats sleep.", "--units")[1:]]
    assert [unit for _, unit in units] == ["Cats", "sleep", ".", EOS]
    completed = run("complete", out, "Cats sleep", "-n", "2")
    assert len(completed) == 2
    assert all(line.startswith("Cats sleep") for line in completed)
    assert run("sample", out, "-n", "3", "--seed", "4") == run("sample", out, "-n", "3", "--seed", "4")
    for wrong, said in (
        (["train", str(text), "--out", out, "--set=hiden_dim=3"], "hiden_dim is not one of"),
        (["sample", out, "--temperature", "0"], "temperature is 0"),
        (["perplexity", str(tmp_path), str(text)], "no such file"),
        (["perplexity", out, str(tmp_path / "none")], "no such file or folder"),
    ):
        assert main(["language-model", *wrong]) == 2
        assert said in capsys.readouterr().err
