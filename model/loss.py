"""The two heads' losses, in torch; what they fit is decoded by model/head.py.

B sentences   T tokens in the longest   K labels
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

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
    """``_log_mass`` by the scaled forward-backward algorithm (Rabiner 1989, section V.A), whose gradients
    are the chain's marginals; on the CPU, wherever the emissions are.

    Autograd of the sum in logarithms took a fifth of a step's time, however few sentences it had: of each
    token some twenty operations on a hundred numbers each, and NumPy's cost a fifth of torch's.
    """

    @staticmethod
    def forward(
        ctx: Any, emissions: Tensor, real: Tensor, start: Tensor, transitions: Tensor, end: Tensor
    ) -> Tensor:
        parts = (emissions, start, transitions, end)
        scores, first, moves, last = (part.detach().double().cpu().numpy() for part in parts)
        is_real = real.cpu().numpy().T  # (T, B)
        scores = np.where(is_real[:, :, None], scores.swapaxes(0, 1), 0.0)  # (T, B, K)
        most = scores.max(2)
        potentials = np.exp(scores - most[:, :, None])
        first, moves, last = np.exp(first), np.exp(moves), np.exp(last)
        shortest = int(is_real.sum(0).min())
        alphas, totals = np.empty_like(potentials), np.empty(most.shape)
        alpha = first
        for t, potential in enumerate(potentials):
            before = alpha
            alpha = (before @ moves if t else before) * potential
            totals[t] = alpha.sum(1)
            alpha = alpha / totals[t, :, None]
            if t >= shortest:  # some have ended: their mass stays
                alpha = np.where(is_real[t, :, None], alpha, before)
            alphas[t] = alpha
        mass = alpha @ last  # (B,)
        ctx.kept = potentials, alphas, totals, is_real, shortest, moves, last, mass
        ctx.like = [(part.device, part.dtype) for part in parts]
        found = ((np.log(totals) + most) * is_real).sum(0) + np.log(mass)
        return torch.from_numpy(found).to(emissions)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        potentials, alphas, totals, is_real, shortest, moves, last, mass = ctx.kept
        share = grad.double().cpu().numpy()[:, None]  # (B, 1)
        beta = last / mass[:, None]  # so that alpha * beta, (B, K), is the marginals at each step
        betas, arrived = np.empty_like(alphas), np.zeros_like(alphas)
        for t in range(len(potentials) - 1, 0, -1):
            betas[t] = beta
            step = potentials[t] * beta / totals[t, :, None]
            before = step @ moves.T
            if t >= shortest:
                step, before = step * is_real[t, :, None], np.where(is_real[t, :, None], before, beta)
            arrived[t], beta = step, before
        betas[0] = beta
        marginals = alphas * betas * is_real[:, :, None] * share
        n_labels = len(last)
        came = (alphas[:-1] * share).reshape(-1, n_labels)
        of_moves = moves * (came.T @ arrived[1:].reshape(-1, n_labels))
        of_end = (alphas[-1] * last * share / mass[:, None]).sum(0)
        found = (marginals.swapaxes(0, 1), marginals[0].sum(0), of_moves, of_end)
        emissions, *chain = (
            torch.from_numpy(np.ascontiguousarray(part)).to(device, dtype)
            for part, (device, dtype) in zip(found, ctx.like, strict=True)
        )
        return emissions, None, *chain


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
