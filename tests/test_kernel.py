"""The compiled kernel against what it stands in for: ONNX Runtime, torch and NumPy."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model import head, kernel
from model.backend import KernelBackend, OnnxBackend, TorchBackend, _recurrence_of, choose_backend
from model.head import Chain, legality
from model.labels import LabelScheme
from model.tagger import Tagger
from service.models import KERNEL_TOKENS_AT_ONCE, ServedModel
from service.observing.metrics import Metrics
from service.settings import Settings
from tests.conftest import random_artefact
from tests.strategies import brief
from tests.test_backend import TOKENS, int8_emissions, some_rows

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "model" / "kernel").glob("*.c"))
is_built = pytest.mark.skipif(kernel._library() is None, reason="the kernel was not built: no C compiler")
runs = pytest.mark.skipif(not kernel.levels(), reason="no kernel for this processor, or not built")
levels = pytest.mark.parametrize(
    "level",
    [
        pytest.param(
            n, marks=pytest.mark.skipif(n not in kernel.levels(), reason=f"no {name} here"), id=name
        )
        for n, name in enumerate(kernel.LEVELS)
        if n
    ],
)


def an_artefact(hidden_dim=64, **shape):
    """Tile registers take whole 64s; other widths are computed without."""
    return random_artefact(int8_recurrence=True, hidden_dim=hidden_dim, **shape)


@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")
def test_the_kernel_is_built_where_there_is_a_compiler():
    assert kernel._library() is not None


@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")
def test_the_compiler_has_nothing_to_say_about_it(tmp_path):
    options = ["-O3", "-std=gnu11", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-shared", "-fPIC"]
    subprocess.run(["cc", *options, *SOURCES, "-o", tmp_path / "k.so", "-lm"], check=True)


@levels
@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize("hidden", [16, 48, 192])
def test_emissions_are_those_of_onnx_runtime_but_for_states_between_two_integers(level, both, hidden):
    """A state that lies between two may be rounded to either, and count as 1/127 more."""
    artefact = an_artefact(hidden, bidirectional=both)
    backends = KernelBackend(artefact, level), OnnxBackend(artefact)
    backends[0].features = backends[1].features  # one row of gates for both
    mine, others = (np.concatenate(int8_emissions(b, artefact, some_rows())) for b in backends)
    plain = replace(artefact.config, network=replace(artefact.config.network, int8_recurrence=False))
    without = TorchBackend(replace(artefact, config=plain))
    exact = np.concatenate(int8_emissions(without, artefact, some_rows()))
    off = np.abs(mine - others)
    assert np.median(off) < 1e-5
    assert off.mean() < 0.1 * np.abs(others - exact).mean()


@levels
@brief
@given(st.lists(st.integers(1, 30), min_size=1, max_size=24))
def test_a_sentence_has_the_same_emissions_to_the_last_bit_in_any_batch(level, lengths):
    artefact = an_artefact(bidirectional=True)
    backend = KernelBackend(artefact, level)
    sentences = some_rows(lengths)
    for sentence, together in zip(sentences, int8_emissions(backend, artefact, sentences), strict=True):
        (alone,) = int8_emissions(backend, artefact, [sentence])
        np.testing.assert_array_equal(alone, together)


@levels
@pytest.mark.parametrize(
    "shape",
    [
        {"hidden_dim": 48, "feature_dim": 70, "char_filters": 20},
        {"bidirectional": False, "char_width": 5, "feature_dim": 64},
        {"char_width": 1, "cased_dim": 0},
        {"char_filters": 0, "shape_dim": 0},
        {"lower_dim": 0, "cased_dim": 0},
    ],
)
def test_word_types_give_the_gates_what_they_do_in_onnx_runtime(level, shape):
    artefact = an_artefact(**shape)
    types = artefact.vocabulary.encoder.encode(TOKENS)
    mine, others = (b.features(types) for b in (KernelBackend(artefact, level), OnnxBackend(artefact)))
    assert mine.dtype == np.float16
    # To the last bit or two of float16, between which a sum in another order may fall.
    np.testing.assert_allclose(mine.astype(float), others.astype(float), rtol=2e-3, atol=1e-5)


@levels
@brief
@given(st.lists(st.sampled_from(TOKENS), min_size=1, max_size=11))
def test_a_word_type_gives_the_same_to_the_last_bit_in_any_company(level, tokens):
    artefact = an_artefact()
    backend, encode = KernelBackend(artefact, level), artefact.vocabulary.encoder.encode
    together = backend.features(encode(tokens))
    for token, row in zip(tokens, together, strict=True):
        np.testing.assert_array_equal(backend.features(encode([token]))[0], row)


@runs
def test_saturated_gates_are_finite():
    artefact = an_artefact()
    backend = KernelBackend(artefact)
    gates = np.full((2, backend.n_features), 60_000, np.float16)
    gates[1] = -60_000
    rows, lengths = np.array([[0, 1] * 50, [1] * 100]), np.array([100, 100])
    assert np.isfinite(backend.emissions(gates, rows, lengths)).all()


def chains(scheme, rng, spread=2.0):
    k = len(scheme.labels)
    legal = legality(scheme)
    return Chain(
        legal.start + rng.normal(0, spread, k),
        legal.transitions + rng.normal(0, spread, (k, k)),
        legal.end + rng.normal(0, spread, k),
    )


@is_built
@brief
@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=5), st.integers(0, 2**32),
    st.sampled_from([1, 10, 60]), st.sampled_from([0.5, 1.0, 1.7]),
    st.sampled_from([("PER",), ("LOC", "MISC", "ORG", "PER")]),
)  # fmt: skip
def test_a_chain_s_sums_are_those_of_numpy(lengths, seed, spread, temperature, types):
    rng = np.random.default_rng(seed)
    scheme = LabelScheme(types)
    chain = chains(scheme, rng)
    emissions = rng.normal(0, spread, (len(lengths), max(lengths), len(scheme.labels)))
    n = np.array(lengths)
    cooled = head._cooled(chain, temperature)
    path, scores, marginals, suffixes = head._sums(chain, temperature).of(emissions, n)
    expected = head.best_path(emissions, n, chain), *head.messages(emissions / temperature, n, cooled)
    for b, length in enumerate(lengths):
        np.testing.assert_array_equal(path[b, :length], expected[0][b, :length])
        np.testing.assert_allclose(marginals[b, :length], expected[1][b, :length], atol=1e-10)
        chosen = marginals[b, np.arange(length), path[b, :length]].round(head._PLACES)
        np.testing.assert_array_equal(scores[b, :length], chosen)
        mine, others = (
            x / x.sum(1, keepdims=True) for x in (suffixes[b, :length], expected[2][b, :length])
        )
        np.testing.assert_allclose(mine, others, atol=1e-10)


@is_built
def test_without_the_kernel_decoding_answers_the_same(monkeypatch):
    rng = np.random.default_rng(5)
    scheme = LabelScheme(("PER",))
    chain, lengths = chains(scheme, rng), [1, 7, 20]
    emissions = rng.normal(0, 3, (3, 20, 3)).astype(np.float32)
    compiled = head.decode(emissions, lengths, chain, scheme, temperature=1.3, threshold=[0.0, 0.2, 0.5])
    monkeypatch.setattr(kernel, "sums_chains", lambda _: False)
    plain = head.decode(emissions, lengths, chain, scheme, temperature=1.3, threshold=[0.0, 0.2, 0.5])
    for a, b in zip(compiled, plain, strict=True):
        assert a.labels == b.labels
        assert [one.span for one in a.spans] == [one.span for one in b.spans]
        np.testing.assert_allclose(a.scores, b.scores, atol=1e-10)
        np.testing.assert_allclose([s.score for s in a.spans], [s.score for s in b.spans], atol=1e-10)


@runs
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"hidden_dim": 24}, "whole 16s, not 24"),
        ({"int8_recurrence": False, "hidden_dim": 32}, "networks with an int8 recurrence"),
    ],
)
def test_a_network_it_is_not_for_is_onnx_runtime_s(shape, message):
    artefact = random_artefact(**{"int8_recurrence": True, **shape})
    assert type(choose_backend(artefact, device="cpu")) is OnnxBackend
    with pytest.raises(ValueError, match=message):
        choose_backend(artefact, device="cpu", backend="kernel")


@runs
def test_weights_gates_and_levels_that_it_is_not_for_are_refused():
    recurrence = _recurrence_of(an_artefact())
    scales, output, bias = np.ones((1, 64), np.float32), np.ones((1, 3, 16), np.float32), np.ones(3)
    with pytest.raises(ValueError, match="at most 63"):
        kernel.Recurrence(np.full((1, 64, 16), 64, np.int8), scales, output, bias)
    beyond = len(kernel.LEVELS)
    with pytest.raises(ValueError, match=f"at level {beyond}"):
        kernel.Recurrence(np.ones((1, 64, 16), np.int8), scales, output, bias, beyond)
    rows, lengths = np.zeros((1, 2), np.int64), np.array([2])
    for gates in (np.zeros((1, 512), np.float32), np.zeros((1, 511), np.float16)):
        with pytest.raises(ValueError, match=r"float16 \(…, 512\) expected"):
            recurrence.emissions(gates, rows, lengths)


@runs
def test_where_it_was_not_built_auto_is_onnx_runtime_and_kernel_an_error(monkeypatch):
    artefact = an_artefact()
    assert type(choose_backend(artefact, device="cpu")) is KernelBackend
    monkeypatch.setattr(kernel, "levels", tuple)
    assert type(choose_backend(artefact, device="cpu")) is OnnxBackend
    with pytest.raises(ValueError, match="does not run on this processor"):
        choose_backend(artefact, device="cpu", backend="kernel")


@runs
@pytest.mark.bundled
def test_the_bundled_model_answers_as_with_onnx_runtime():
    folder = ROOT / "artefacts" / "en-person"
    mine, others = (Tagger.load(folder, device="cpu", backend=name) for name in ("kernel", "onnx"))
    mine.self_test()
    texts = (ROOT / "docs").glob("*.md")
    sentences = [
        list(mine.tokenise(line).texts) for path in texts for line in path.read_text("utf-8").split("\n")
    ]
    for a, b in zip(mine.tag_all(sentences), others.tag_all(sentences), strict=True):
        assert a.labels == b.labels
        np.testing.assert_allclose(a.scores, b.scores, atol=5e-3)


@pytest.mark.skipif(not shutil.which("nm"), reason="nm is not installed")
@is_built
def test_nothing_but_its_functions_is_visible():
    shown = ["nm", "-D", "--defined-only", kernel._library()._name]
    found = subprocess.run(shown, capture_output=True, text=True, check=True)
    names = {line.split()[-1] for line in found.stdout.splitlines()}
    assert {name for name in names if not name.startswith("_")} <= {
        "nametag_levels", "nametag_words", "nametag_emissions", "nametag_chain"
    }  # fmt: skip


@runs
def test_only_what_the_kernel_computes_is_computed_on_the_event_loop():
    metrics = Metrics()
    try:
        for name, tokens in (("kernel", KERNEL_TOKENS_AT_ONCE), ("onnx", 0)):
            artefact = an_artefact()
            tagger = Tagger(artefact, choose_backend(artefact, device="cpu", backend=name))
            assert ServedModel(tagger, Settings(), metrics).batcher._max_tokens_at_once == tokens
    finally:
        metrics.close()
