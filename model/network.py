"""The recurrent tagger: word types in, one row of emissions per token out. Needs torch.

Dimensions, in this file and everywhere else in the project:
    B  sentences in the batch      T  tokens in the longest of them
    N  word types in the batch     C  characters of a word type (CHAR_WINDOW)
    D  feature width               H  hidden width of one direction
    K  labels
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from model.config import NetworkConfig, TaggerConfig
from model.context import ContextEncoder
from model.features import PAD_ID, SHAPES, UNK_ID, Vocabulary


@dataclass(frozen=True)
class TypeTensors:
    """model.features.WordTypes as tensors on one device."""

    cased: Tensor  # (N,) int64
    lower: Tensor  # (N,)
    shapes: Tensor  # (N,)
    chars: Tensor  # (N, C)


@dataclass(frozen=True)
class LayoutTensors:
    """model.wordpiece.Layout as tensors on one device."""

    pieces: Tensor  # (R, S) int64
    shapes: Tensor  # (R, S)
    at: Tensor  # (B, T)


@dataclass(frozen=True)
class Dropout:
    """Probabilities, all 0 outside training."""

    features: float = 0.0  # of a feature, the same for all tokens of a sentence ("variational")
    output: float = 0.0  # likewise, of a hidden unit, between layers and after the last
    words: float = 0.0  # of a word type's vectors, which become <UNK>'s
    chars: float = 0.0  # of a word type's characters, one by one, which become <UNK>
    context: float = 0.0  # between the context encoder's layers


def locked_dropout(x: Tensor, p: float) -> Tensor:
    """One mask a sentence, for all its tokens. Gal & Ghahramani 2016, arXiv:1512.05287. (B, T, D)."""
    if not p:
        return x
    keep = torch.empty(x.size(0), 1, x.size(2), device=x.device).bernoulli_(1 - p)
    return x * (keep / (1 - p)).to(x.dtype)


def _to_unk(ids: Tensor, p: float) -> Tensor:
    if not p:
        return ids
    dropped = (torch.rand(ids.shape, device=ids.device) < p) & (ids != PAD_ID)
    return ids.masked_fill(dropped, UNK_ID)


class WordEncoder(nn.Module):
    """A row of D features for each word type, from its word vectors, characters and shape.

    The embedding look-ups are the tutorials' one-hot vector times a matrix. The characters go
    through a convolution and a maximum over positions (Ma & Hovy 2016, arXiv:1603.01354).
    """

    def __init__(self, config: NetworkConfig, n_cased: int, n_lower: int, n_chars: int) -> None:
        super().__init__()
        c = config
        self.cased = nn.Embedding(n_cased, c.cased_dim, padding_idx=PAD_ID) if c.cased_dim else None
        self.lower = nn.Embedding(n_lower, c.lower_dim, padding_idx=PAD_ID) if c.lower_dim else None
        self.chars: nn.Embedding | None = None
        if c.char_filters:
            self.chars = nn.Embedding(n_chars, c.char_dim, padding_idx=PAD_ID)
            pad = c.char_width // 2
            self.filters = nn.Conv1d(c.char_dim, c.char_filters, c.char_width, padding=pad)
        self.shapes = nn.Embedding(len(SHAPES), c.shape_dim) if c.shape_dim else None
        width = c.word_dim + c.char_filters + c.shape_dim
        self.projection = nn.Linear(width, c.feature_dim)

    def vectors(self, cased: Tensor, lower: Tensor) -> Tensor:
        """(N, word_dim): the two tables' rows side by side."""
        parts = [self.cased(cased)] if self.cased is not None else []
        if self.lower is not None:
            parts.append(self.lower(lower))
        return torch.cat(parts, 1) if parts else torch.empty(len(cased), 0, device=cased.device)

    def _maxima(self, table: nn.Embedding, chars: Tensor) -> Tensor:
        """(N, char_filters): the most that each filter gives anywhere in a word."""
        if not self.training or chars.device.type != "cpu":
            most: Tensor = self.filters(table(chars).transpose(1, 2)).amax(2)
            return most
        # Words are mostly short, and CHAR_WINDOW is long: only places that hold a character, and one where
        # a filter sees none, which stands for all such. It takes a quarter off a step of training.
        width = self.filters.kernel_size[0]
        half = width // 2
        lengths = (chars != PAD_ID).sum(1)
        order = lengths.argsort()
        n_places = (lengths[order] + half + 1).clamp(max=chars.size(1))
        seen = pad(chars[order], (half, half), value=PAD_ID).unfold(1, width, 1)  # (N, C, width)
        seen = seen[torch.arange(chars.size(1)) < n_places[:, None]]  # (all words' places, width)
        weight = self.filters.weight.permute(2, 1, 0).flatten(0, 1)  # (width * char_dim, char_filters)
        bias = self.filters.bias
        assert bias is not None
        given = torch.addmm(bias, table(seen).flatten(1), weight)
        sizes, counts = torch.unique(n_places, return_counts=True)
        parts = torch.split(given, (sizes * counts).tolist())
        alike = zip(parts, sizes.tolist(), counts.tolist(), strict=True)
        maxima = torch.cat([part.view(n, size, -1).amax(1) for part, size, n in alike])
        return torch.empty_like(maxima).index_copy(0, order, maxima)

    def project(self, vectors: Tensor, shapes: Tensor, chars: Tensor) -> Tensor:
        """Features (N, D) from word vectors (N, word_dim), shapes (N,) and characters (N, C)."""
        parts = [vectors]
        if self.chars is not None:
            parts.append(self._maxima(self.chars, chars).relu())  # (N, char_filters)
        if self.shapes is not None:
            parts.append(self.shapes(shapes))
        features: Tensor = self.projection(torch.cat(parts, 1))  # (N, D)
        return features

    def forward(self, types: TypeTensors, dropout: Dropout) -> Tensor:
        if dropout.words:
            seen = torch.rand(types.cased.shape, device=types.cased.device) >= dropout.words
            cased, lower = (torch.where(seen, i, UNK_ID) for i in (types.cased, types.lower))
        else:
            cased, lower = types.cased, types.lower
        chars = _to_unk(types.chars, dropout.chars)
        return self.project(self.vectors(cased, lower), types.shapes, chars)


class PeepholeLstm(nn.Module):
    """An LSTM whose gates also see the cell state (Gers, Schraudolph & Schmidhuber 2002, section 2).

    Parameters are named and laid out as nn.LSTM's (gates in the order i, f, g, o), plus
    ``peepholes`` (3, H): i and f see the state before the step, o the one after it.
    """

    def __init__(self, input_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.hidden_dim = hidden_dim
        self.weight_ih_l0 = nn.Parameter(torch.empty(4 * hidden_dim, input_dim))
        self.weight_hh_l0 = nn.Parameter(torch.empty(4 * hidden_dim, hidden_dim))
        self.bias_ih_l0 = nn.Parameter(torch.empty(4 * hidden_dim))
        self.bias_hh_l0 = nn.Parameter(torch.empty(4 * hidden_dim))
        self.peepholes = nn.Parameter(torch.empty(3, hidden_dim))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(hidden_dim**-0.5), hidden_dim**-0.5)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """Hidden states (B, T, H) for x (B, T, D); the second value only mirrors nn.LSTM."""
        gates_x = x @ self.weight_ih_l0.T + self.bias_ih_l0 + self.bias_hh_l0  # (B, T, 4H)
        h = c = x.new_zeros(x.size(0), self.hidden_dim)
        to_i, to_f, to_o = self.peepholes
        states = []
        for gates_t in gates_x.unbind(1):
            i, f, g, o = (gates_t + h @ self.weight_hh_l0.T).chunk(4, 1)
            c_next = torch.sigmoid(f + to_f * c) * c + torch.sigmoid(i + to_i * c) * torch.tanh(g)
            h = torch.sigmoid(o + to_o * c_next) * torch.tanh(c_next)
            c = c_next
            states.append(h)
        return torch.stack(states, 1), None


class RoundedLstm(nn.LSTM):
    """An LSTM for tagging alone, with the roundings of NetworkConfig.int8_recurrence.

    What a word type gives the gates is rounded to float16, and the state that W_hh is multiplied by to
    127ths, which is exact in int8, since it lies between -1 and 1. W_hh itself was rounded before
    (model/artefact.py), so ONNX Runtime multiplies integers.
    """

    weight_ih_l0: Tensor
    weight_hh_l0: Tensor
    bias_ih_l0: Tensor
    bias_hh_l0: Tensor

    def forward(self, x: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        """Hidden states (B, T, H) for x (B, T, D); the second value only mirrors nn.LSTM."""
        given = x @ self.weight_ih_l0.T + (self.bias_ih_l0 + self.bias_hh_l0)  # (B, T, 4H)
        gates_x = given.half().to(x.dtype)
        h = c = x.new_zeros(x.size(0), self.hidden_size)
        states = []
        for gates_t in gates_x.unbind(1):
            i, f, g, o = torch.addmm(gates_t, (h * 127).round() / 127, self.weight_hh_l0.T).chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            states.append(h)
        return torch.stack(states, 1), None


_CELLS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN, "rounded-lstm": RoundedLstm}


def make_cell(cell: str, input_dim: int, hidden_dim: int) -> nn.Module:
    """One direction of one layer: (B, T, D) → ((B, T, H), …)."""
    if cell == "lstm-peephole":
        return PeepholeLstm(input_dim, hidden_dim)
    made: nn.Module = _CELLS[cell](input_dim, hidden_dim, batch_first=True)
    return made


def reversal(lengths: Tensor, n_steps: int) -> Tensor:
    """Indices (B, T) that turn each sentence around within its own length, padding left in place."""
    steps = torch.arange(n_steps, device=lengths.device)
    return torch.where(steps < lengths[:, None], lengths[:, None] - 1 - steps, steps)


class BiRnnTagger(nn.Module):
    """Many-to-many tagger: Tx = Ty, label t is read from both contexts of token t.

    After Huang, Xu & Yu 2015 (arXiv:1508.01991). The backward direction is a second network over
    the sentence turned around within its own length. So padding comes last for both directions
    and reaches no real token: a sentence's emissions do not depend on its batch. (Padded like
    this, training is three times as fast on a CPU as with packed sequences.)
    """

    def __init__(
        self,
        config: NetworkConfig,
        *,
        n_cased: int,
        n_lower: int,
        n_chars: int,
        n_labels: int,
        n_pieces: int = 0,
    ) -> None:
        super().__init__()
        self.config = config
        self.words = WordEncoder(config, n_cased, n_lower, n_chars)
        self.context: ContextEncoder | None = None
        width = config.feature_dim
        if config.context_layers:
            self.context = ContextEncoder(config, n_pieces)
            width += config.context_dim
        self.layers = nn.ModuleList()
        cell = "rounded-lstm" if config.int8_recurrence else config.cell
        for _ in range(config.n_layers):
            cells = (make_cell(cell, width, config.hidden_dim) for _ in range(config.n_directions))
            self.layers.append(nn.ModuleList(cells))
            width = config.hidden_dim * config.n_directions
        self.output = nn.Linear(width, n_labels)
        # The chain of model.head. Only the CRF learns it.
        learnt = config.head == "crf"
        self.start = nn.Parameter(torch.zeros(n_labels), requires_grad=learnt)
        self.transitions = nn.Parameter(torch.zeros(n_labels, n_labels), requires_grad=learnt)
        self.end = nn.Parameter(torch.zeros(n_labels), requires_grad=learnt)

    def emissions(
        self,
        x: Tensor,
        lengths: Tensor,
        dropout: Dropout | None = None,
        layout: LayoutTensors | None = None,
    ) -> Tensor:
        """(B, T, K) for features (B, T, D) and lengths (B,); past a length they mean nothing.

        ``layout``: the batch's pieces, for a network with a context encoder.
        """
        drop = dropout or Dropout()
        if self.context is not None:
            assert layout is not None
            context = self.context(layout.pieces, layout.shapes, layout.at, drop.context)
            x = torch.cat([x, context.to(x.dtype)], 2)  # (B, T, D + E)
        x = locked_dropout(x, drop.features)
        backwards = reversal(lengths, x.size(1))[:, :, None] if self.config.bidirectional else None
        for cells in self.layers:
            assert isinstance(cells, nn.ModuleList)
            states = [cells[0](x)[0]]  # (B, T, H)
            if backwards is not None:
                cell = cells[1]
                turned = x.gather(1, backwards.expand(-1, -1, x.size(2)))
                state = cell(turned)[0]
                states.append(state.gather(1, backwards.expand(-1, -1, state.size(2))))
            x = locked_dropout(torch.cat(states, 2), drop.output)  # (B, T, directions * H)
        out: Tensor = self.output(x)  # (B, T, K)
        return out

    def forward(
        self,
        types: TypeTensors,
        index: Tensor,
        lengths: Tensor,
        dropout: Dropout | None = None,
        layout: LayoutTensors | None = None,
    ) -> Tensor:
        """Emissions (B, T, K). ``index`` (B, T) holds each token's row among the N word types;
        past a sentence's length, any row. Every length is at least 1."""
        features = self.words(types, dropout or Dropout())  # (N, D)
        return self.emissions(features[index], lengths, dropout, layout)


def network_for(config: TaggerConfig, vocabulary: Vocabulary) -> BiRnnTagger:
    """A network of the configured shape, as wide as the vocabulary, with fresh weights."""
    return BiRnnTagger(
        config.network,
        n_cased=len(vocabulary.cased),
        n_lower=len(vocabulary.lower),
        n_chars=len(vocabulary.chars),
        n_labels=len(config.scheme.labels),
        n_pieces=len(vocabulary.pieces),
    )
