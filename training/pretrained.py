"""A published BERT in, the context encoder's first weights out.

Reads a folder as Hugging Face lays it out: ``model.safetensors``, ``vocab.txt``, ``config.json``.
Only the start: training goes on with every one of these weights.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from model.wordpiece import ROW, WordPieces


@dataclass(frozen=True)
class Pretrained:
    """Pieces by id, the encoder's shape as NetworkConfig names it, and its weights."""

    pieces: tuple[str, ...]
    shape: dict[str, Any]
    weights: dict[str, Tensor]


_LAYER = {
    "attended": "attention.output.dense",
    "attended_norm": "attention.output.LayerNorm",
    "widen": "intermediate.dense",
    "narrow": "output.dense",
    "norm": "output.LayerNorm",
}


def read_pretrained(folder: Path) -> Pretrained:
    """The folder's model. Raises ValueError, naming the folder, where it is no BERT."""
    try:
        config = json.loads((folder / "config.json").read_bytes())
        pieces = tuple((folder / "vocab.txt").read_text(encoding="utf-8").split("\n")[:-1])
        given = load_file(folder / "model.safetensors")
        given = {name.removeprefix("bert."): value.float() for name, value in given.items()}
        n_layers = int(config["num_hidden_layers"])
        shape: dict[str, Any] = {
            "context_layers": n_layers,
            "context_dim": int(config["hidden_size"]),
            "context_heads": int(config["num_attention_heads"]),
            "context_inner": int(config["intermediate_size"]),
        }
        weights = {
            "pieces.weight": given["embeddings.word_embeddings.weight"],
            # Every piece is of the first of BERT's two segments.
            "positions.weight": given["embeddings.position_embeddings.weight"][:ROW]
            + given["embeddings.token_type_embeddings.weight"][0],
            "norm.weight": given["embeddings.LayerNorm.weight"],
            "norm.bias": given["embeddings.LayerNorm.bias"],
        }
        for i in range(n_layers):
            there = f"encoder.layer.{i}"
            for part in ("weight", "bias"):
                projections = [
                    given[f"{there}.attention.self.{n}.{part}"] for n in ("query", "key", "value")
                ]
                weights[f"layers.{i}.attend.{part}"] = torch.cat(projections)
                for ours, theirs in _LAYER.items():
                    weights[f"layers.{i}.{ours}.{part}"] = given[f"{there}.{theirs}.{part}"]
        WordPieces(pieces)
    except OSError as error:
        raise ValueError(f"{folder}: {error.filename}: {error.strerror}") from None
    except KeyError as error:
        raise ValueError(f"{folder}: {error} is missing: not a BERT that this can read") from None
    except (ValueError, TypeError, SafetensorError) as error:
        raise ValueError(f"{folder}: {error}") from None
    return Pretrained(pieces, shape, weights)
