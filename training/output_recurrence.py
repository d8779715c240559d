"""Output recurrence: the label given to a token is an input of the next token's decision.

The states of the recurrent layers, h_t, go through one more hidden layer, which also sees the label
before (Jordan 1986; Goodfellow, Bengio & Courville 2016, section 10.2.1):

    z_t = tanh(W h_t + R[y_t-1])        scores_t = V z_t

Trained with the gold label as y_t-1, "teacher forcing" (Williams & Zipser 1989), all steps are
computed at once. Nobody knows the gold label when tagging: then the steps run one after the other,
each on the label that was just given, right or wrong.

The study alone has this head, for two reasons. It has only ever seen right labels before it, and
goes on from a wrong one as if it were right (exposure bias: Ranzato et al. 2016, arXiv:1511.06732).
And its scores depend on its own answers, so they are no emissions (B, T, K) that a graph without a
loop over tokens computes, and the served model's backends, scores and thresholds, which rest on
them, do not apply. The CRF models the same dependence and is decoded exactly.

B, T, H, K are those of model/network.py.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.config import NetworkConfig
from model.features import Vocabulary
from model.head import legality
from model.labels import LabelScheme
from model.network import BiRnnTagger, Dropout, LayoutTensors, TypeTensors


class OutputRecurrentTagger(BiRnnTagger):
    """A BiRnnTagger whose forward pass decodes greedily; ``taught`` is what it is trained with."""

    def __init__(self, config: NetworkConfig, vocabulary: Vocabulary, scheme: LabelScheme) -> None:
        if config.head != "softmax":
            raise ValueError(f"head is {config.head!r}: output recurrence replaces 'softmax'")
        n_labels = len(scheme.labels)
        super().__init__(
            config,
            n_cased=len(vocabulary.cased),
            n_lower=len(vocabulary.lower),
            n_chars=len(vocabulary.chars),
            n_labels=n_labels,
        )
        self.output = nn.Linear(self.output.in_features, config.hidden_dim)  # W
        self.feedback = nn.Embedding(n_labels + 1, config.hidden_dim)  # R; the last row: no label yet
        self.scores = nn.Linear(config.hidden_dim, n_labels)  # V
        legal = legality(scheme)
        moves = torch.as_tensor([*legal.transitions.tolist(), legal.start.tolist()])  # (K + 1, K)
        self.register_buffer("moves", moves, persistent=False)

    def decided(self, states: Tensor, before: Tensor) -> Tensor:
        """Scores (…, K) from W h_t (…, H) and the ids of the labels before (…)."""
        scores: Tensor = self.scores(torch.tanh(states + self.feedback(before)))
        return scores

    def greedy(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """The labels (B, T) that follow from the network's own, and their scores (B, T, K), in which
        what IOB2 forbids after the label given before is out of reach."""
        label = torch.full(states.shape[:1], self.feedback.num_embeddings - 1, device=states.device)
        labels, scores = [], []
        for state in states.unbind(1):
            step = self.decided(state, label) + self.get_buffer("moves")[label]  # (B, K)
            label = step.argmax(1)
            labels.append(label)
            scores.append(step)
        return torch.stack(labels, 1), torch.stack(scores, 1)

    def taught(
        self,
        types: TypeTensors,
        index: Tensor,
        lengths: Tensor,
        labels: Tensor | None,
        dropout: Dropout | None = None,
    ) -> Tensor:
        """Scores (B, T, K) given the label before each token: the gold one of ``labels`` (B, T), or,
        without them, the network's own, through which no gradient flows."""
        drop = dropout or Dropout()
        states = self.emissions(self.words(types, drop)[index], lengths, drop)  # (B, T, H)
        if labels is None:
            with torch.no_grad():
                labels = self.greedy(states)[0]
        first = labels.new_full((len(labels), 1), self.feedback.num_embeddings - 1)
        # Past a sentence's length any label does: nothing there is part of the loss.
        before = torch.cat([first, labels[:, :-1].clamp(min=0)], 1)
        return self.decided(states, before)

    def forward(
        self,
        types: TypeTensors,
        index: Tensor,
        lengths: Tensor,
        dropout: Dropout | None = None,
        layout: LayoutTensors | None = None,
    ) -> Tensor:
        """Scores (B, T, K) along the greedy path: its label is the best of each row, and every move
        of it is legal, so Viterbi over these rows finds the greedy path again."""
        return self.greedy(super().forward(types, index, lengths, dropout, layout))[1]
