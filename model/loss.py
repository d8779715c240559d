"""The two heads' losses, in torch; what they fit is decoded by model/head.py.

B sentences   T tokens in the longest   K labels
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from model.head import Chain, messages

IGNORED = -100  # label id past a sentence's length
_MOST_SPREAD = 150.0  # of scores, for whose exponentials double precision has the range


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
    with torch.no_grad():
        own = (emissions * real[:, :, None]).abs()
        largest = torch.stack([scores.amax() for scores in (own, start, transitions, end)]).amax()
    if largest < _MOST_SPREAD:
        mass: Tensor = _LogMass.apply(emissions, real, start, transitions, end)  # type: ignore[no-untyped-call]
        return mass
    alpha = start + emissions[:, 0]  # (B, K): log mass of all beginnings
    for t in range(1, emissions.size(1)):
        longer = torch.logsumexp(alpha[:, :, None] + transitions, 1) + emissions[:, t]
        alpha = torch.where(real[:, t, None], longer, alpha)
    return torch.logsumexp(alpha + end, 1)


class _LogMass(torch.autograd.Function):
    """``_log_mass`` from the posterior that head.messages finds, on the CPU, wherever the emissions are.

    It is the expected score and the entropy of the posterior, and its gradients are the marginals. Autograd
    of the sum in logarithms took a fifth of a step's time, however few sentences it had: of each token
    some twenty operations on a hundred numbers each.
    """

    @staticmethod
    def forward(
        ctx: Any, emissions: Tensor, real: Tensor, start: Tensor, transitions: Tensor, end: Tensor
    ) -> Tensor:
        parts = (emissions, start, transitions, end)
        scores, first, moves, last = (part.detach().double().cpu().numpy() for part in parts)
        is_real = real.cpu().numpy()[:, :, None]  # (B, T, 1)
        lengths = is_real.sum((1, 2))
        marginals, suffixes = messages(scores, lengths, Chain(first, moves, last))
        marginals, suffixes = np.where(is_real, marginals, 0.0), np.where(is_real, suffixes, 1.0)
        moves = np.exp(moves)
        follows = suffixes[:, 1:]  # (B, T - 1, K)
        ahead = follows @ moves.T  # (B, T - 1, K): the mass of all that can follow each label
        before = marginals[:, :-1] * is_real[:, 1:]
        begins, ends = marginals[:, 0], marginals[np.arange(len(lengths)), lengths - 1]  # (B, K)
        # The moves' own scores are in both, and cancel out.
        expected = (marginals * scores).sum((1, 2)) + begins @ first + ends @ last
        entropy = (before * np.log(ahead)).sum((1, 2)) - (marginals[:, 1:] * np.log(follows)).sum((1, 2))
        entropy -= (begins * np.log(np.where(begins > 0, begins, 1.0))).sum(1)
        ctx.kept = marginals, ends, moves, before / ahead, follows
        ctx.like = [(part.device, part.dtype) for part in parts]
        return torch.from_numpy(expected + entropy).to(emissions)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        marginals, ends, moves, before, follows = ctx.kept
        share = grad.double().cpu().numpy()[:, None]  # (B, 1)
        n_labels = len(moves)
        came = (before * share[:, :, None]).reshape(-1, n_labels)
        of_emissions = marginals * share[:, :, None]
        of_moves = moves * (came.T @ follows.reshape(-1, n_labels))
        found = (of_emissions, of_emissions[:, 0].sum(0), of_moves, (ends * share).sum(0))
        of_emissions, *of_chain = (
            torch.from_numpy(part).to(device, dtype)
            for part, (device, dtype) in zip(found, ctx.like, strict=True)
        )
        return of_emissions, None, *of_chain


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
