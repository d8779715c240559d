"""The context encoder: a transformer over word pieces that tells the tagger what surrounds a word.

Post-norm layers as in Vaswani et al. 2017 (arXiv:1706.03762) and Devlin et al. 2019
(arXiv:1810.04805), so that published weights can be the start. Its pieces know nothing of case;
a learnt vector for the shape of the piece's word is added to each. Needs torch.

    R rows of pieces   S pieces in the longest   B sentences   T tokens in the longest
    E width            A attention heads
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, gelu

from model.config import NetworkConfig
from model.features import SHAPES
from model.wordpiece import ROW

EPSILON = 1e-12  # of the layer norms


class ContextLayer(nn.Module):
    """Self-attention, then two products of the inner width; each added to its input and normed."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.attend = nn.Linear(width, 3 * width)  # query, key, value
        self.attended = nn.Linear(width, width)
        self.attended_norm = nn.LayerNorm(width, eps=EPSILON)
        self.widen = nn.Linear(width, inner)
        self.narrow = nn.Linear(inner, width)
        self.norm = nn.LayerNorm(width, eps=EPSILON)

    def forward(self, x: Tensor, mask: Tensor, p: float) -> Tensor:
        """(R, S, E) for x (R, S, E) and mask (R, 1, 1, S), true where there is a piece."""
        n_rows, n_pieces, width = x.shape
        parts = self.attend(x).view(n_rows, n_pieces, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # each (R, A, S, E/A)
        # Written out: of rows this short, the fused kernel's way back takes ten times as long on a CPU.
        scores = (query @ key.transpose(2, 3)) * query.size(3) ** -0.5  # (R, A, S, S)
        found = scores.masked_fill(~mask, -torch.inf).softmax(3).to(value.dtype) @ value
        found = self.attended(found.transpose(1, 2).reshape(n_rows, n_pieces, width))
        x = self.attended_norm(x + dropout(found, p))
        out: Tensor = self.norm(x + dropout(self.narrow(gelu(self.widen(x))), p))
        return out


class ContextEncoder(nn.Module):
    """Pieces in, one vector a word out: that of its first piece."""

    def __init__(self, config: NetworkConfig, n_pieces: int) -> None:
        super().__init__()
        width = config.context_dim
        self.pieces = nn.Embedding(n_pieces, width, padding_idx=0)
        self.positions = nn.Embedding(ROW, width)
        self.shapes = nn.Embedding(len(SHAPES) + 1, width)
        nn.init.zeros_(self.shapes.weight)
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        self.layers = nn.ModuleList(
            ContextLayer(width, config.context_heads, config.context_inner)
            for _ in range(config.context_layers)
        )

    def forward(self, pieces: Tensor, shapes: Tensor, at: Tensor, p: float = 0.0) -> Tensor:
        """(B, T, E) for pieces and shapes (R, S) and at (B, T), as model.wordpiece.Layout has them.

        ``p``: dropout between the layers.
        """
        where = torch.arange(pieces.size(1), device=pieces.device)
        x = self.norm(self.pieces(pieces) + self.positions(where) + self.shapes(shapes))
        x = dropout(x, p)
        mask = (pieces != 0)[:, None, None]
        for layer in self.layers:
            x = layer(x, mask, p)
        words: Tensor = x.flatten(0, 1)[at]
        return words
