import itertools

import numpy as np
import pytest
import torch

from model.config import CELLS, HEADS, NetworkConfig
from model.features import CHAR_WINDOW, PAD_ID, SHAPES
from model.network import BiRnnTagger, Dropout, PeepholeLstm, TypeTensors, locked_dropout, reversal

LENGTHS = [7, 1, 4, 7, 2]
N_TYPES, D = 30, 6
SMALL = {
    "hidden_dim": 5, "feature_dim": D, "cased_dim": 4, "lower_dim": 3, "char_dim": 3, "char_filters": 4,
}  # fmt: skip
VARIANTS = [
    pytest.param(
        {"cell": cell, "n_layers": n, "bidirectional": both, "head": head},
        id=f"{cell}-{n}-{'both' if both else 'left'}-{head}",
    )
    for cell, n, both, head in itertools.product(CELLS, (1, 2), (True, False), HEADS)
]
every_variant = pytest.mark.parametrize("variant", VARIANTS)


def a_network(seed=0, **changes):
    torch.manual_seed(seed)
    config = NetworkConfig(**{**SMALL, **changes})
    network = BiRnnTagger(config, n_cased=20, n_lower=15, n_chars=12, n_labels=3).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(2)  # so that what must matter shows
    return network


def some_types(seed=0):
    torch.manual_seed(seed)
    return TypeTensors(
        torch.randint(20, (N_TYPES,)),
        torch.randint(15, (N_TYPES,)),
        torch.randint(len(SHAPES), (N_TYPES,)),
        torch.randint(12, (N_TYPES, CHAR_WINDOW)),
    )


def some_batch(seed=0):
    """Rows of word types (B, T); past a sentence's length, any row."""
    torch.manual_seed(seed)
    return torch.randint(N_TYPES, (len(LENGTHS), max(LENGTHS))), torch.tensor(LENGTHS)


def close(a, b):
    return torch.allclose(a, b, rtol=1e-5, atol=1e-6)


@every_variant
@torch.inference_mode()
def test_a_sentence_gets_the_same_emissions_alone_and_in_any_batch(variant):
    network, types = a_network(**variant), some_types()
    index, lengths = some_batch()
    together = network(types, index, lengths)  # (B, T, K)
    assert together.shape == (len(LENGTHS), max(LENGTHS), 3)
    for b, n in enumerate(LENGTHS):
        alone = network(types, index[b : b + 1, :n], lengths[b : b + 1])[0]  # (T, K)
        torch.testing.assert_close(together[b, :n], alone, rtol=1e-5, atol=1e-6)


@every_variant
@torch.inference_mode()
def test_what_pads_a_batch_is_irrelevant(variant):
    network = a_network(**variant)
    lengths = torch.tensor(LENGTHS)
    x = torch.randn(len(LENGTHS), max(LENGTHS), D)
    past = torch.arange(max(LENGTHS)) >= lengths[:, None]
    noisy = torch.cat([torch.where(past[:, :, None], 1e3 * torch.randn_like(x), x), torch.ones(5, 3, D)], 1)
    plain, padded = network.emissions(x, lengths), network.emissions(noisy, lengths)
    for b, n in enumerate(LENGTHS):
        torch.testing.assert_close(padded[b, :n], plain[b, :n], rtol=1e-5, atol=1e-6)


@every_variant
@torch.inference_mode()
def test_each_token_sees_its_left_side_and_its_right_only_if_bidirectional(variant):
    network = a_network(**variant)
    n = torch.tensor([4])
    x = torch.randn(1, 4, D)
    base = network.emissions(x, n)[0]
    for changed in range(4):
        other = x.clone()
        other[0, changed] += 1
        emissions = network.emissions(other, n)[0]
        for t in range(4):
            sees = t >= changed or variant["bidirectional"]
            assert close(emissions[t], base[t]) != sees, f"token {t} when {changed} changes"


@torch.inference_mode()
def test_the_two_directions_have_weights_of_their_own():
    network = a_network()
    x = torch.randn(1, 5, D)
    n = torch.tensor([5])
    assert not close(network.emissions(x.flip(1), n).flip(1), network.emissions(x, n))


@pytest.mark.parametrize("width", [1, 3, 7])
def test_in_training_the_filters_see_no_more_padding_than_they_need_and_find_the_same(width):
    network = a_network(char_width=width)
    types = some_types()
    types.chars.clamp_(min=1)
    for row, n in enumerate([1, 2, 3, 5, 5, CHAR_WINDOW - 2, CHAR_WINDOW - 1, CHAR_WINDOW, 0]):
        types.chars[row, :n] = torch.randint(1, 12, (n,))
        types.chars[row, n:] = PAD_ID
    learnt = [network.words.chars.weight, *network.words.filters.parameters()]
    towards = torch.randn(N_TYPES, D)
    found = []
    for in_training in (False, True):
        network.train(in_training)
        features = network.words(types, Dropout())
        found.append((features, torch.autograd.grad((features * towards).sum(), learnt)))
    (expected, slopes), (features, others) = found
    torch.testing.assert_close(features, expected)
    torch.testing.assert_close(others, slopes)


@pytest.mark.parametrize(
    ("changed", "parts"),
    [
        ("cased", {"lower_dim": 0, "char_filters": 0, "shape_dim": 0}),
        ("lower", {"cased_dim": 0, "char_filters": 0, "shape_dim": 0}),
        ("chars", {"cased_dim": 0, "lower_dim": 0, "shape_dim": 0}),
        ("shapes", {"lower_dim": 0, "char_filters": 0}),
        (None, {}),
    ],
)
@torch.inference_mode()
def test_a_part_of_width_0_is_left_out_and_the_others_are_seen(changed, parts):
    network, types = a_network(**parts), some_types()
    base = network.words(types, Dropout())
    assert base.shape == (N_TYPES, D)
    for name, size in {"cased": 20, "lower": 15, "chars": 12, "shapes": len(SHAPES)}.items():
        fields = vars(types) | {name: (getattr(types, name) + 1) % size}
        same = close(network.words(TypeTensors(**fields), Dropout()), base)
        width = {"cased": "cased_dim", "lower": "lower_dim", "chars": "char_filters", "shapes": "shape_dim"}
        assert same == (getattr(network.config, width[name]) == 0)
    assert changed is None or not close(
        network.words(TypeTensors(**vars(types) | {changed: getattr(types, changed) * 0 + 1}), Dropout()),
        base,
    )


def test_reversal_turns_each_sentence_within_its_own_length():
    assert reversal(torch.tensor([3, 1, 4]), 4).tolist() == [[2, 1, 0, 3], [0, 1, 2, 3], [3, 2, 1, 0]]


@torch.inference_mode()
def test_peepholes_of_zero_make_a_plain_lstm():
    torch.manual_seed(0)
    plain, peephole = torch.nn.LSTM(3, 4, batch_first=True), PeepholeLstm(3, 4)
    peephole.load_state_dict({**plain.state_dict(), "peepholes": torch.zeros(3, 4)}, strict=True)
    x = torch.randn(2, 6, 3)
    torch.testing.assert_close(peephole(x)[0], plain(x)[0], rtol=1e-5, atol=1e-6)


@torch.inference_mode()
def test_the_peephole_lstm_is_that_of_gers_unit_by_unit():
    """Gers, Schraudolph & Schmidhuber 2002, section 2: one scalar at a time, in float64."""
    torch.manual_seed(1)
    n_in, n_hidden, n_steps = 3, 4, 5
    cell = PeepholeLstm(n_in, n_hidden).double()
    with torch.no_grad():
        cell.peepholes.mul_(3)
    x = torch.randn(1, n_steps, n_in, dtype=torch.float64)
    w, u, bw, bu, p = (
        v.numpy()
        for v in (cell.weight_ih_l0, cell.weight_hh_l0, cell.bias_ih_l0, cell.bias_hh_l0, cell.peepholes)
    )

    def sigmoid(v):
        return 1 / (1 + np.exp(-v))

    h, c = np.zeros(n_hidden), np.zeros(n_hidden)
    expected = []
    for t in range(n_steps):
        h_new, c_new = np.zeros(n_hidden), np.zeros(n_hidden)
        for j in range(n_hidden):
            i, f, g, o = (
                sum(w[row, d] * x[0, t, d].item() for d in range(n_in))
                + sum(u[row, k] * h[k] for k in range(n_hidden))
                + bw[row] + bu[row]
                for row in (j, j + n_hidden, j + 2 * n_hidden, j + 3 * n_hidden)
            )  # fmt: skip
            c_new[j] = sigmoid(f + p[1, j] * c[j]) * c[j] + sigmoid(i + p[0, j] * c[j]) * np.tanh(g)
            h_new[j] = sigmoid(o + p[2, j] * c_new[j]) * np.tanh(c_new[j])
        h, c = h_new, c_new
        expected.append(h)
    np.testing.assert_allclose(cell(x)[0][0].numpy(), expected, atol=1e-12)


def test_locked_dropout_drops_the_same_features_of_all_tokens_of_a_sentence():
    torch.manual_seed(0)
    out = locked_dropout(torch.ones(4, 6, 50), 0.4)
    assert (out == out[:, :1]).all()
    assert not (out[0] == out[1]).all()
    assert out.unique().tolist() == [0.0, pytest.approx(1 / 0.6)]


def test_without_dropout_nothing_is_random():
    network, types = a_network(), some_types()
    index, lengths = some_batch()
    assert (network(types, index, lengths) == network(types, index, lengths, Dropout())).all()
    every = Dropout(features=0.5, output=0.5, words=0.5, chars=0.5)
    assert not close(network(types, index, lengths, every), network(types, index, lengths, every))


@pytest.mark.parametrize("head", HEADS)
def test_only_the_crf_learns_its_chain(head):
    network = a_network(head=head)
    for parameter in (network.start, network.transitions, network.end):
        assert parameter.requires_grad == (head == "crf")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cell": "lstmm"}, "cell 'lstmm' is not one of"),
        ({"head": "CRF"}, "head 'CRF' is not one of"),
        ({"n_layers": 0}, "n_layers is 0: at least 1 is expected"),
        ({"hidden_dim": -1}, "hidden_dim is -1"),
        ({"char_width": 2}, "char_width is 2: an odd number"),
        ({"int8_recurrence": True, "n_layers": 2}, "int8_recurrence is for one layer"),
        ({"int8_recurrence": True, "cell": "gru"}, "int8_recurrence is for one layer"),
        ({"int8_recurrence": True, "context_layers": 1}, "int8_recurrence is for one layer"),
        ({"cased_dim": 0, "lower_dim": 0, "char_filters": 0}, "neither words nor characters"),
    ],
)
def test_a_network_that_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        NetworkConfig(**changes)
