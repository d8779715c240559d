"""Both backends against each other, and the exported artefact against the network it was made of."""

import itertools
import os
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from model.artefact import ArtefactError, Table
from model.backend import (
    OnnxBackend,
    TorchBackend,
    _used_chars,
    choose_backend,
    network_of,
    usable_cpus,
)
from model.config import CELLS, HEADS, NetworkConfig
from model.features import CHAR_WINDOW, UNK_ID
from model.head import decode
from model.network import BiRnnTagger, Dropout, TypeTensors
from tests.conftest import WORDS, random_artefact
from training.export import fold_tables

VARIANTS = [
    pytest.param(
        {"cell": cell, "n_layers": n, "bidirectional": both, "head": head},
        id=f"{cell}-{n}-{'both' if both else 'left'}-{head}",
    )
    for cell, n, both, head in itertools.product(CELLS, (1, 2), (True, False), HEADS)
]
PARTS = [
    {"lower_dim": 0}, {"cased_dim": 0}, {"char_filters": 0}, {"shape_dim": 0}, {"char_width": 5},
    {"cased_dim": 0, "lower_dim": 0}, {"lower_dim": 0, "char_filters": 0, "shape_dim": 0},
    {"cased_dim": 20, "feature_dim": 12},  # a table wider than the features
    {"entity_types": ("PER", "ORG")},
]  # fmt: skip
TOKENS = [*WORDS, "HARRY", "Zoë", "", "x" * 100, "1996", "王", "\ud800", "🎉"]
WIDTH = 12


def as_table(x):
    """Padded features (B, T, F) as a table of them and the rows in it."""
    return x.reshape(-1, x.shape[2]), np.arange(x.shape[0] * x.shape[1]).reshape(x.shape[:2])


def emissions_of(backend, x, lengths):
    """Only what means something: each sentence's own rows."""
    out = backend.emissions(*as_table(x), np.array(lengths))
    assert out.dtype == np.float32
    return [out[b, :n] for b, n in enumerate(lengths)]


def some_features(lengths, seed=0):
    """(B, T, D), the padding noisy."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 2, (len(lengths), max(lengths), WIDTH)).astype(np.float32)
    for b, n in enumerate(lengths):
        x[b, n:] *= 100
    return x


def assert_same(these, those, atol=1e-5):
    for a, b in zip(these, those, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=atol)


def a_tiny_artefact(types=None, **shape):
    if types is None:
        return random_artefact(**shape)
    from model.config import TaggerConfig
    from model.features import PAD, UNK, Vocabulary
    from training.export import make_artefact

    config = TaggerConfig(
        name="two", entity_types=types, network=NetworkConfig(feature_dim=WIDTH, hidden_dim=6)
    )
    vocabulary = Vocabulary((PAD, UNK, *WORDS), (PAD, UNK), (PAD, UNK, *"abc"))
    torch.manual_seed(0)
    network = BiRnnTagger(config.network, n_cased=len(vocabulary.cased), n_lower=2, n_chars=5, n_labels=5)
    return make_artefact(network, config, vocabulary, training={})


@pytest.mark.parametrize("variant", VARIANTS)
def test_onnx_runtime_and_torch_give_the_same_emissions(variant):
    artefact = random_artefact(**variant)
    onnx, in_torch = OnnxBackend(artefact), TorchBackend(artefact)
    lengths = [7, 1, 12, 3, 12]
    x = some_features(lengths)
    assert_same(emissions_of(onnx, x, lengths), emissions_of(in_torch, x, lengths))
    types = artefact.vocabulary.encoder.encode(TOKENS)
    assert_same([onnx.features(types)], [in_torch.features(types)])


@pytest.mark.parametrize("cell", CELLS)
def test_long_sentences_give_the_same_emissions(cell):
    artefact = random_artefact(cell=cell, n_layers=2)
    lengths = [2000, 1, 900]
    x = some_features(lengths)
    assert_same(
        emissions_of(OnnxBackend(artefact), x, lengths),
        emissions_of(TorchBackend(artefact), x, lengths),
        1e-4,
    )


@pytest.mark.parametrize("parts", PARTS, ids=str)
def test_the_parts_of_the_word_encoder_are_the_same_in_both(parts):
    artefact = (
        a_tiny_artefact(parts["entity_types"]) if "entity_types" in parts else random_artefact(**parts)
    )
    types = artefact.vocabulary.encoder.encode(TOKENS)
    onnx, in_torch = OnnxBackend(artefact), TorchBackend(artefact)
    assert onnx.features(types).shape == (len(TOKENS), WIDTH)
    assert_same([onnx.features(types)], [in_torch.features(types)])
    x = some_features([4, 2])
    assert_same(emissions_of(onnx, x, [4, 2]), emissions_of(in_torch, x, [4, 2]))


@pytest.mark.parametrize("make", [OnnxBackend, TorchBackend])
@torch.inference_mode()
def test_a_backend_in_two_steps_gives_what_the_network_gives_in_one(make):
    """The network looks its words up itself, as in training; a backend is given their rows."""
    artefact = random_artefact()
    encoded = artefact.vocabulary.encoder.encode(TOKENS)
    types = TypeTensors(*(torch.from_numpy(getattr(encoded, f.name)) for f in fields(TypeTensors)))
    index, n = torch.arange(len(TOKENS))[None], torch.tensor([len(TOKENS)])
    expected = network_of(artefact).eval()(types, index, n).numpy()
    backend = make(artefact)
    got = emissions_of(backend, backend.features(encoded)[None], [len(TOKENS)])
    assert_same(got, expected)


def test_features_of_a_word_type_do_not_depend_on_the_others():
    artefact = random_artefact()
    encoder = artefact.vocabulary.encoder
    backend = OnnxBackend(artefact)
    together = backend.features(encoder.encode(TOKENS * 50))
    for i, token in enumerate(TOKENS):
        np.testing.assert_allclose(backend.features(encoder.encode([token]))[0], together[i], atol=1e-5)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("make", [OnnxBackend, TorchBackend])
def test_a_sentence_gets_the_same_answer_alone_and_in_any_batch(make, cell):
    artefact = random_artefact(cell=cell)
    backend = make(artefact)
    rng = np.random.default_rng(1)
    lengths = [1, 40, 3, 40, 17, 2, 1, 300]
    x = some_features(lengths)

    def answers(chosen):
        n = [lengths[b] for b in chosen]
        out = backend.emissions(*as_table(x[chosen, : max(n)]), np.array(n))
        return decode(out, n, artefact.chain, artefact.config.scheme)

    alone = [answers([b])[0] for b in range(len(lengths))]
    for _ in range(5):
        chosen = rng.permutation(len(lengths))[: rng.integers(2, len(lengths) + 1)]
        for b, answer in zip(chosen, answers(chosen), strict=True):
            assert answer.labels == alone[b].labels
            np.testing.assert_allclose(answer.scores, alone[b].scores, atol=1e-4)
            assert [s.span for s in answer.spans] == [s.span for s in alone[b].spans]


@pytest.mark.parametrize("char_width", [1, 3, 5])
@torch.inference_mode()
def test_only_the_characters_that_words_have_are_computed(char_width):
    artefact = random_artefact(char_width=char_width)
    types = artefact.vocabulary.encoder.encode(["Zoë", "a", "", "Potter"])
    tensors = (torch.from_numpy(ids) for ids in (types.cased, types.lower, types.shapes, types.chars))
    whole = network_of(artefact).words(TypeTensors(*tensors), Dropout()).numpy()  # all CHAR_WINDOW columns
    for backend in (OnnxBackend(artefact), TorchBackend(artefact)):
        np.testing.assert_allclose(backend.features(types), whole, rtol=1e-5, atol=1e-5)
    bounds = [len("Potter") + char_width // 2 + 1, CHAR_WINDOW]
    assert [
        _used_chars(chars, char_width).shape[1] for chars in (types.chars, types.chars * 0 + 3)
    ] == bounds


# An int8 recurrence, whose backends keep other things of a word type


def int8_emissions(backend, artefact, sentences):
    """Through the features, as the Tagger does."""
    table = backend.features(artefact.vocabulary.encoder.encode(TOKENS))
    lengths = [len(s) for s in sentences]
    rows = np.full((len(sentences), max(lengths)), 3)
    for b, sentence in enumerate(sentences):
        rows[b, : len(sentence)] = sentence
    out = backend.emissions(table, rows, np.array(lengths))
    return [out[b, :n] for b, n in enumerate(lengths)]


def some_rows(lengths=(1, 40, 3, 40, 17, 2, 1, 300)):
    rng = np.random.default_rng(1)
    return [rng.integers(0, len(TOKENS), n) for n in lengths]


@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize("head", HEADS)
def test_an_int8_recurrence_is_rounded_alike_in_onnx_runtime_and_in_torch(both, head):
    """A state that lies between two integers may be rounded to either, and count as 1/127 more."""
    artefact = random_artefact(int8_recurrence=True, bidirectional=both, head=head, hidden_dim=16)
    rounded, in_torch = (
        np.concatenate(int8_emissions(make(artefact), artefact, some_rows()))
        for make in (OnnxBackend, TorchBackend)
    )
    plain = replace(artefact.config, network=replace(artefact.config.network, int8_recurrence=False))
    without = TorchBackend(replace(artefact, config=plain))
    exact = np.concatenate(int8_emissions(without, artefact, some_rows()))
    off = np.abs(rounded - in_torch)
    assert np.median(off) < 1e-5
    assert off.mean() < 0.02 * np.abs(rounded - exact).mean()


def test_what_an_int8_recurrence_rounds_does_not_depend_on_the_batch():
    """One state rounded the other way would be off by some 1e-3."""
    artefact = random_artefact(int8_recurrence=True, hidden_dim=16)
    backend, sentences = OnnxBackend(artefact), some_rows()
    together = int8_emissions(backend, artefact, sentences)
    for sentence, emissions in zip(sentences, together, strict=True):
        (alone,) = int8_emissions(backend, artefact, [sentence])
        np.testing.assert_allclose(alone, emissions, rtol=1e-5, atol=1e-6)


def test_two_products_of_an_int8_recurrence_fit_into_16_bits():
    artefact = random_artefact(int8_recurrence=True)
    for d in (0, 1):
        rows = artefact.tables[f"layers.0.{d}.weight_hh_l0"].rows
        assert np.abs(rows).max() == 63
        assert 2 * 255 * int(np.abs(rows).max()) < 2**15


# What export does to a network


def a_network(**shape):
    config = NetworkConfig(
        **{"hidden_dim": 6, "feature_dim": WIDTH, "cased_dim": 5, "lower_dim": 4, **shape}
    )
    torch.manual_seed(3)
    return BiRnnTagger(config, n_cased=30, n_lower=20, n_chars=10, n_labels=3).eval()


def widths_of(weights):
    """The settings that say how wide the tables are; one wider than the features was cut to them."""
    names = {f"{name}_dim": f"words.{name}.weight" for name in ("cased", "lower")}
    return {width: len(weights[key][0]) for width, key in names.items() if key in weights}


@pytest.mark.parametrize("shape", [{}, {"lower_dim": 0}, {"cased_dim": 20}, {"cased_dim": WIDTH}], ids=str)
@torch.inference_mode()
def test_folding_the_tables_changes_no_feature(shape):
    network = a_network(**shape)
    weights = {name: torch.from_numpy(value) for name, value in fold_tables(network).items()}
    folded = a_network(**{**shape, **widths_of(weights)})
    folded.load_state_dict(weights, strict=True)
    cased, lower = torch.arange(30), torch.arange(30) % 20
    shapes, chars = cased % 8, torch.zeros(30, CHAR_WINDOW, dtype=torch.int64)
    before, after = (
        n.words.project(n.words.vectors(cased, lower), shapes, chars) for n in (network, folded)
    )
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)
    for name, parameter in network.state_dict().items():
        if not name.startswith(("words.cased", "words.lower", "words.projection.weight")):
            assert torch.equal(parameter, weights[name])


@torch.inference_mode()
def test_of_the_columns_those_are_kept_that_the_features_need_most():
    network = a_network()
    whole, cut = fold_tables(network), fold_tables(network, {"cased": 3})
    assert cut["words.cased.weight"].shape == (30, 3)
    assert cut["words.lower.weight"].shape == (20, 4)
    np.testing.assert_array_equal(cut["words.cased.weight"], whole["words.cased.weight"][:, :3])
    given = whole["words.cased.weight"] @ whole["words.projection.weight"][:, :5].T
    kept = cut["words.cased.weight"] @ cut["words.projection.weight"][:, :3].T
    left = np.linalg.svd(given, compute_uv=False)[3:]  # the least that any three columns leave out
    np.testing.assert_allclose(np.linalg.norm(given - kept), np.linalg.norm(left), rtol=1e-4)


@torch.inference_mode()
def test_an_artefact_differs_from_its_network_by_the_rounding_of_its_tables_only():
    artefact = random_artefact()
    again = network_of(artefact)
    table = artefact.tables["words.cased.weight"]
    assert torch.equal(
        again.words.cased.weight, torch.from_numpy(table.look_up(np.arange(len(table.rows))))
    )
    for name, value in artefact.weights.items():
        assert np.array_equal(again.state_dict()[name].numpy(), value)


def test_a_weight_that_is_missing_is_an_error():
    artefact = random_artefact()
    del artefact.weights["output.bias"]
    with pytest.raises(RuntimeError, match=r"output\.bias"):
        TorchBackend(artefact)


def test_a_graph_that_is_missing_is_named():
    artefact = random_artefact()
    del artefact.graphs["sentences.onnx"]
    with pytest.raises(ArtefactError, match=r"tiny: sentences\.onnx is missing"):
        OnnxBackend(artefact)


def test_a_table_row_is_looked_up_with_its_own_scale():
    table = Table(np.array([[127, -127], [0, 1]], np.int8), np.array([0.5, 2], np.float32))
    assert table.look_up(np.array([1, 0, 1])).tolist() == [[0, 2], [63.5, -63.5], [0, 2]]
    assert table.look_up(np.array([UNK_ID])).dtype == np.float32


# Choosing


def test_the_cpu_is_served_by_onnx_runtime_unless_torch_is_asked_for():
    artefact = random_artefact()
    assert isinstance(choose_backend(artefact, device="cpu"), OnnxBackend)
    assert isinstance(choose_backend(artefact, device="auto", backend="onnx"), OnnxBackend)
    n_threads = torch.get_num_threads()
    try:
        chosen = choose_backend(artefact, device="cpu", backend="torch", threads=1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(n_threads)
    assert isinstance(chosen, TorchBackend)
    assert chosen.device == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_auto_is_the_cpu_and_cuda_an_error():
    artefact = random_artefact()
    assert isinstance(choose_backend(artefact), OnnxBackend)
    with pytest.raises(ValueError, match="torch finds no CUDA device"):
        choose_backend(artefact, device="cuda")


def test_torch_is_asked_for_a_gpu_only_where_there_is_a_driver_s_file(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(asked.append("is there one?")))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr("model.backend._GPU_FILES", (str(tmp_path / "nvidia*"),))
    assert choose_backend(random_artefact()).device == "cpu"
    assert not asked
    (tmp_path / "nvidia0").touch()
    assert choose_backend(random_artefact()).device == "cpu"
    assert asked


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "tpu"}, r"device 'tpu' is not one of \('auto', 'cpu', 'cuda'\)"),
        ({"backend": "jax"}, r"backend 'jax' is not one of \('auto', 'kernel', 'onnx', 'torch'\)"),
        ({"device": "cuda", "backend": "onnx"}, "device 'cuda' needs backend 'torch'"),
    ],
)
def test_a_choice_that_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        choose_backend(random_artefact(), **options)


def test_without_torch_auto_is_onnx_runtime_and_torch_an_error(monkeypatch):
    artefact = random_artefact()
    monkeypatch.setitem(sys.modules, "torch", None)
    assert isinstance(choose_backend(artefact), OnnxBackend)
    with pytest.raises(ValueError, match="needs torch"):
        choose_backend(artefact, backend="torch")


def test_a_cpu_serves_an_artefact_without_torch(tiny_artefact):
    code = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('torch', 'onnx', 'gensim')))\n"
        "from pathlib import Path\n"
        "from model.tagger import Tagger\n"
        "tagger = Tagger.load(Path(sys.argv[1]))\n"
        "tagger.self_test()\n"
        "print(tagger.backend.name)\n"
    )
    command = [sys.executable, "-W", "error", "-c", code, str(tiny_artefact)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "onnx\n", "")


def test_word_types_are_the_same_however_many_threads_blas_has():
    """By a last bit, words of another script had other features, and answers other scores."""
    code = (
        "import hashlib, sys\n"
        "from pathlib import Path\n"
        "from model.tagger import Tagger\n"
        "tagger = Tagger.load(Path(sys.argv[1]), device='cpu')\n"
        "types = [chr(n) + chr(n + 1) for n in range(0x20, 0x3000)]\n"
        "features = tagger.backend.features(tagger.artefact.vocabulary.encoder.encode(types))\n"
        "print(hashlib.sha256(features.tobytes()).hexdigest())\n"
    )
    bundled = Path(__file__).parent.parent / "artefacts" / "en-person"
    command = [sys.executable, "-W", "error", "-c", code, str(bundled)]
    found = {
        subprocess.run(
            command,
            env=os.environ | {"OPENBLAS_NUM_THREADS": n, "OMP_NUM_THREADS": n},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for n in ("1", "2")
    }
    assert len(found) == 1


def test_there_is_a_cpu_to_use():
    assert usable_cpus() >= 1


def test_the_inference_engine_knows_no_collector() -> None:
    """ONNX Runtime 1.29 and later, for Linux, upload what they run unless told not to."""
    folder = Path(onnxruntime.__file__).parent / "capi"
    libraries = [
        path for path in folder.iterdir() if ".so" in path.suffixes or path.suffix in (".dll", ".dylib")
    ]
    assert libraries
    assert [path.name for path in libraries if b"events.data.microsoft.com" in path.read_bytes()] == []
