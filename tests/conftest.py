"""What several test files share: small artefacts, made here, and the skip reasons of the markers."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from model.artefact import Artefact, save
from model.config import NetworkConfig, TaggerConfig
from model.features import PAD, UNK, Vocabulary
from model.network import LayoutTensors, TypeTensors, network_for
from model.wordpiece import lay_out
from training.export import make_artefact

# Where two processes share the processors, torch's threads spend their time waiting for each other.
torch.set_num_threads(1)

# A shell that starts the tests in the background has them ignore it, and so would all they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
PIECES = (
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", *_LETTERS, ".", ",", "'", *(f"##{c}" for c in _LETTERS),
    "harry", "pot", "##ter", "spell", "her", "##mi", "##one", "new",
)  # fmt: skip
WORDS = "Harry Potter and Hermione Granger invented a new spell met London . ,".split()


def random_artefact(seed: int = 0, name: str = "tiny", **shape: object) -> Artefact:
    """An artefact of random weights: its answers mean nothing, but are answers."""
    defaults: dict[str, object] = {
        "hidden_dim": 6, "feature_dim": 12, "cased_dim": 5, "lower_dim": 4, "char_dim": 4,
        "char_filters": 6,
    }  # fmt: skip
    config = TaggerConfig(name=name, network=NetworkConfig(**{**defaults, **shape}))  # type: ignore[arg-type]
    lower = sorted({w.lower() for w in WORDS})
    chars = sorted(set("".join(WORDS)))
    vocabulary = Vocabulary(
        (PAD, UNK, *WORDS),
        (PAD, UNK, *lower),
        (PAD, UNK, *chars),
        pieces=PIECES if config.network.context_layers else (),
    )
    torch.manual_seed(seed)
    network = network_for(config, vocabulary)
    t = vocabulary.encoder.encode(WORDS)
    types = TypeTensors(*(torch.from_numpy(ids) for ids in (t.cased, t.lower, t.shapes, t.chars)))
    n = torch.tensor([len(WORDS)])
    layout = None
    if pieces := vocabulary.encoder.pieces:
        made = lay_out(
            t.pieces, t.shapes, np.arange(len(WORDS))[None], [len(WORDS)], pieces.first, pieces.last
        )
        layout = LayoutTensors(*(torch.from_numpy(a) for a in (made.pieces, made.shapes, made.at)))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(2.5)  # far enough from 0 that what a token is and where it stands shows
        if config.network.head == "crf":
            for parameter in (network.start, network.transitions, network.end):
                parameter.normal_(0, 0.5)
        # Emissions that vary about 0 by about 2, so that all labels occur.
        emissions = network(types, torch.arange(len(WORDS))[None], n, layout=layout)[0]  # (T, K)
        scale = 2 / emissions.std(0)
        network.output.weight.mul_(scale[:, None])
        network.output.bias.sub_(emissions.mean(0)).mul_(scale)
    return make_artefact(network, config, vocabulary, training={})


@pytest.fixture(scope="session")
def tiny_artefact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds a random artefact named "tiny"."""
    folder = tmp_path_factory.mktemp("artefacts") / "tiny"
    save(random_artefact(), folder)
    return folder
