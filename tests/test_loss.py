"""The losses against enumeration and against their definition; the gradient against head.messages."""

import itertools

import numpy as np
import pytest
import torch

from model.head import Chain, legality, messages
from model.labels import LabelScheme
from model.loss import IGNORED, crf_loss, softmax_loss

LENGTHS = [3, 1, 4, 2]


def a_case(types, seed=0, spread=2.0):
    """Emissions (B, T, K) whose padding is noise, legal gold labels (B, T), and a chain."""
    scheme = LabelScheme(types)
    k = len(scheme.labels)
    rng = np.random.default_rng(seed)
    legal = legality(scheme)
    chain = Chain(
        legal.start + rng.normal(size=k),
        legal.transitions + rng.normal(size=(k, k)),
        legal.end + rng.normal(size=k),
    )
    emissions = rng.normal(0, spread, (len(LENGTHS), max(LENGTHS), k))
    gold = np.full(emissions.shape[:2], IGNORED)
    for b, n in enumerate(LENGTHS):
        emissions[b, n:] = rng.normal(0, 1000, emissions[b, n:].shape)
        label = 0
        for t in range(n):
            label = int(rng.choice([j for j in range(k) if legal.transitions[label, j] == 0]))
            gold[b, t] = label
    return emissions, gold, chain


def as_tensors(emissions, gold, chain, dtype=torch.float64):
    return (
        torch.tensor(emissions, dtype=dtype, requires_grad=True),
        torch.tensor(gold),
        torch.tensor(LENGTHS),
        *(
            torch.tensor(x, dtype=dtype, requires_grad=True)
            for x in (chain.start, chain.transitions, chain.end)
        ),
    )


def score(path, emissions, chain):
    return (
        chain.start[path[0]]
        + chain.end[path[-1]]
        + sum(emissions[t, k] for t, k in enumerate(path))
        + sum(chain.transitions[a, b] for a, b in itertools.pairwise(path))
    )


@pytest.mark.parametrize("types", [("PER",), ("PER", "ORG")], ids=["K3", "K5"])
@pytest.mark.parametrize("seed", range(3))
def test_the_crf_loss_is_that_of_enumeration(types, seed):
    emissions, gold, chain = a_case(types, seed)
    losses = []
    for b, n in enumerate(LENGTHS):
        paths = itertools.product(range(emissions.shape[2]), repeat=n)
        scores = np.array([score(path, emissions[b], chain) for path in paths])
        log_mass = scores.max() + np.log(np.exp(scores - scores.max()).sum())
        losses.append(log_mass - score(gold[b, :n].tolist(), emissions[b], chain))
    assert crf_loss(*as_tensors(emissions, gold, chain)).item() == pytest.approx(np.mean(losses))


@pytest.mark.parametrize("types", [("PER",), ("PER", "ORG")], ids=["K3", "K5"])
def test_the_crf_gradient_is_the_marginals_less_the_gold_labels(types):
    """The loss and the head were written apart; that calculus holds between them checks both."""
    emissions, gold, chain = a_case(types)
    tensors = as_tensors(emissions, gold, chain)
    crf_loss(*tensors).backward()
    marginals, _ = messages(emissions, np.array(LENGTHS), chain)
    expected = np.zeros_like(emissions)
    for b, n in enumerate(LENGTHS):
        expected[b, :n] = marginals[b, :n] - np.eye(emissions.shape[2])[gold[b, :n]]
    np.testing.assert_allclose(tensors[0].grad, expected / len(LENGTHS), atol=1e-9)


@pytest.mark.parametrize("lengths", [LENGTHS, [4, 4, 4, 4], [1, 1, 1, 1]], ids=str)
def test_the_crf_loss_has_the_gradients_of_the_sum_in_logarithms(monkeypatch, lengths):
    emissions, gold, chain = a_case(("PER", "ORG"))
    found = []
    for most in (150.0, 0.0):  # by forward-backward, by autograd
        monkeypatch.setattr("model.loss._MOST_SPREAD", most)
        tensors = as_tensors(emissions, np.where(gold < 0, 0, gold), chain)
        n_steps = max(lengths)
        parts = (tensors[0][:, :n_steps], tensors[1][:, :n_steps], torch.tensor(lengths), *tensors[3:])
        crf_loss(*parts).backward()
        found.append([tensors[0].grad, *(t.grad for t in tensors[3:])])
    for ours, expected in zip(*found, strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-12)


@pytest.mark.parametrize("size", [1.0, 1e3])
def test_the_crf_loss_and_its_gradients_are_finite_in_float32(size):
    emissions, gold, chain = a_case(("PER",), spread=size)
    tensors = as_tensors(emissions, gold, chain, torch.float32)
    loss = crf_loss(*tensors)
    loss.backward()
    assert loss.isfinite()
    assert all(t.grad.isfinite().all() for t in tensors if t.requires_grad)


def test_the_padding_of_a_batch_changes_no_loss():
    emissions, gold, chain = a_case(("PER",))
    base = crf_loss(*as_tensors(emissions, gold, chain))
    wider = np.concatenate([emissions, np.full((4, 3, 3), 77.0)], 1)
    ignored = np.concatenate([gold, np.full((4, 3), IGNORED)], 1)
    assert crf_loss(*as_tensors(wider, ignored, chain)).item() == pytest.approx(base.item())
    assert softmax_loss(torch.tensor(wider), torch.tensor(ignored)).item() == pytest.approx(
        softmax_loss(torch.tensor(emissions), torch.tensor(gold)).item()
    )


def test_the_softmax_loss_is_minus_the_log_probability_of_the_gold_labels():
    emissions, gold, _ = a_case(("PER", "ORG"))
    total = 0.0
    for b, n in enumerate(LENGTHS):
        for t in range(n):
            total += np.log(np.exp(emissions[b, t]).sum()) - emissions[b, t, gold[b, t]]
    tensor = torch.tensor(emissions, requires_grad=True)
    loss = softmax_loss(tensor, torch.tensor(gold))
    assert loss.item() == pytest.approx(total / len(LENGTHS))
    loss.backward()
    assert tensor.grad.isfinite().all()
    assert not tensor.grad[1, 1:].any()


def test_both_losses_are_on_one_scale():
    """With a chain of zeros, and no rule of legality, they are the same number."""
    emissions, gold, chain = a_case(("PER",))
    flat = Chain(chain.start * 0, chain.transitions * 0, chain.end * 0)
    crf = crf_loss(*as_tensors(emissions, gold, flat)).item()
    assert crf == pytest.approx(softmax_loss(torch.tensor(emissions), torch.tensor(gold)).item())
