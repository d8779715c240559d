"""The two heads' losses, in torch; what they fit is decoded by model/head.py.

B sentences   T tokens in the longest   K labels
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

IGNORED = -100  # label id past a sentence's length


def crf_loss(
    emissions: Tensor,  # (B, T, K)
    labels: Tensor,  # (B, T), IGNORED past the length
    lengths: Tensor,  # (B,)
    start: Tensor,  # (K,), legality included
    transitions: Tensor,  # (K, K), from row to column
    end: Tensor,  # (K,)
) -> Tensor:
    """Mean over sentences of -log P(labels): Lample et al. 2016, arXiv:1603.01360, equation 1."""
    n_steps = emissions.size(1)
    rows = torch.arange(len(lengths), device=emissions.device)
    real = torch.arange(n_steps, device=emissions.device) < lengths[:, None]  # (B, T)
    gold = labels.clamp(min=0)
    path = emissions.gather(2, gold[:, :, None])[:, :, 0] * real  # (B, T)
    moves = transitions[gold[:, :-1], gold[:, 1:]] * real[:, 1:]
    score = start[gold[:, 0]] + path.sum(1) + moves.sum(1) + end[gold[rows, lengths - 1]]
    return (_log_mass(emissions, real, start, transitions, end) - score).mean()


def _log_mass(emissions: Tensor, real: Tensor, start: Tensor, transitions: Tensor, end: Tensor) -> Tensor:
    """(B,): the logarithm of the mass of all label sequences; ``real`` (B, T), false past a length."""
    alpha = start + emissions[:, 0]  # (B, K): log mass of all beginnings
    for t in range(1, emissions.size(1)):
        longer = torch.logsumexp(alpha[:, :, None] + transitions, 1) + emissions[:, t]
        alpha = torch.where(real[:, t, None], longer, alpha)
    return torch.logsumexp(alpha + end, 1)


def soft_crf_loss(
    emissions: Tensor,  # (B, T, K)
    pairs: Tensor,  # (B, T, K, K): P(y_t-1 = j, y_t = k); at t = 0, P(y_0 = k) in row 0; 0 past the length
    lengths: Tensor,  # (B,)
    start: Tensor,  # (K,), legality included
    transitions: Tensor,  # (K, K), from row to column
    end: Tensor,  # (K,)
) -> Tensor:
    """Mean over sentences of the cross-entropy from a posterior over label sequences to this chain's.

    Both are linear chains, so the expectation needs only the pairs. Of certain pairs it is crf_loss.
    """
    rows = torch.arange(len(lengths), device=emissions.device)
    real = torch.arange(emissions.size(1), device=emissions.device) < lengths[:, None]  # (B, T)
    single = pairs.sum(2)  # (B, T, K): P(y_t = k)
    path = (single * emissions * real[:, :, None]).sum((1, 2))
    moves = (pairs[:, 1:] * transitions).sum((1, 2, 3))
    score = single[:, 0] @ start + path + moves + single[rows, lengths - 1] @ end
    return (_log_mass(emissions, real, start, transitions, end) - score).mean()


def softmax_loss(emissions: Tensor, labels: Tensor) -> Tensor:
    """Mean over sentences of the summed cross-entropy of their tokens: the CRF loss's scale."""
    total = cross_entropy(emissions.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    return total / len(labels)


def soft_softmax_loss(emissions: Tensor, pairs: Tensor) -> Tensor:
    """softmax_loss of a posterior, given as in soft_crf_loss."""
    return -(pairs.sum(2) * emissions.log_softmax(2)).sum() / len(pairs)
