"""A trained tagger on disk: saving, verifying, loading. No pickle anywhere.

    config.json           format, tagger configuration, and how it was trained ("training")
    cased.txt lower.txt   the words of the two tables, a line each; a line's number is an id
    chars.json            the characters, a list
    pieces.txt            the word pieces, a line each, of a network with a context encoder
    weights.safetensors   the network; its largest matrices as int8 with one float32 scale a row
    word_types.onnx       word types → features   \\  the same network for ONNX Runtime,
    sentences.onnx        features → emissions    /   so that a CPU needs no torch
    expected.json         sentences with the answers that whoever loads this must reproduce
    MODEL_CARD.md         data, licences, scores, known failures
    manifest.json         sha256 of every other file

Written to a temporary folder beside its place and renamed, so that no reader sees half of one.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from model.config import NetworkConfig, TaggerConfig
from model.features import Vocabulary
from model.head import Chain, chain_of

FORMAT = 1
MANIFEST = "manifest.json"
# What is kept as int8: the tables of words and of pieces, the context encoder's products, and W_hh of
# an int8 recurrence.
TABLES = ("words.cased.weight", "words.lower.weight", "context.pieces.weight")
_PRODUCT = re.compile(r"context\.layers\.\d+\.(attend|attended|widen|narrow)\.weight")
_RECURRENT = re.compile(r"layers\.\d+\.\d+\.weight_hh_l0")
# So that the sum of two products with a uint8 fits into 16 bits: processors without VNNI add them
# there, saturated, and would answer otherwise than those that have it.
_RECURRENT_MOST = 63
_NEEDED = (
    "config.json", "cased.txt", "lower.txt", "chars.json", "weights.safetensors", "expected.json",
    "MODEL_CARD.md",
)  # fmt: skip
Weights = dict[str, NDArray[Any]]


def most_of(name: str, network: NetworkConfig) -> int:
    """The greatest int8 of a row, where the weight of this name is kept as int8; else 0."""
    if name in TABLES or _PRODUCT.fullmatch(name):
        return 127
    return _RECURRENT_MOST if network.int8_recurrence and _RECURRENT.fullmatch(name) else 0


class ArtefactError(ValueError):
    """A model folder that is not complete, not intact, or not of this format."""


@dataclass(frozen=True)
class Table:
    """A matrix of int8 rows, each with its scale; row i is ``rows[i] * scales[i]``."""

    rows: NDArray[np.int8]  # (V, D)
    scales: NDArray[np.float32]  # (V,)

    @classmethod
    def of(cls, values: NDArray[np.float32], most: int = 127) -> Table:
        """The nearest table: a row's greatest absolute value becomes ``most``."""
        scales = (np.abs(values).max(1) / most).astype(np.float32)
        safe = np.where(scales > 0, scales, 1)[:, None]
        # Clipped, since the scale of a row of subnormal numbers is itself rounded.
        return cls(np.clip(np.rint(values / safe), -most, most).astype(np.int8), scales)

    def look_up(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """float32, of ``ids``' shape and then D."""
        return self.rows[ids] * self.scales[ids][..., None]


@dataclass(frozen=True)
class Artefact:
    """One trained tagger, in memory. ``weights`` holds all but what is quantised, as float32."""

    config: TaggerConfig
    vocabulary: Vocabulary
    weights: Weights
    tables: dict[str, Table]
    graphs: dict[str, bytes]  # ONNX models by file name
    expected: list[dict[str, Any]]  # {"tokens", "labels", "scores"}
    training: dict[str, Any]  # how it was made and what it scored
    card: str = ""

    @property
    def chain(self) -> Chain:
        """The head's chain: what was learnt plus what IOB2 forbids."""
        w = self.weights
        return chain_of(w["start"], w["transitions"], w["end"], self.config.scheme)


def _files_of(artefact: Artefact) -> dict[str, bytes]:
    config = {
        "format": FORMAT,
        "tagger": artefact.config.as_json(),
        "training": artefact.training,
    }
    tensors = {name: np.ascontiguousarray(value) for name, value in artefact.weights.items()}
    for name, table in artefact.tables.items():
        tensors[f"{name}.int8"] = table.rows
        tensors[f"{name}.scale"] = table.scales
    pieces = artefact.vocabulary.pieces
    return {
        **({"pieces.txt": "".join(f"{p}\n" for p in pieces).encode()} if pieces else {}),
        "config.json": _json(config),
        "cased.txt": "".join(f"{w}\n" for w in artefact.vocabulary.cased).encode(),
        "lower.txt": "".join(f"{w}\n" for w in artefact.vocabulary.lower).encode(),
        "chars.json": _json(artefact.vocabulary.chars),
        "weights.safetensors": save_tensors(tensors),
        "expected.json": _json(artefact.expected),
        "MODEL_CARD.md": artefact.card.encode(),
        **artefact.graphs,
    }


def _json(value: object) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=1, sort_keys=True) + "\n").encode()


def save(artefact: Artefact, folder: Path) -> None:
    """Writes the artefact as ``folder``, in place of what was there before."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        files = _files_of(artefact)
        hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        for name, data in {**files, MANIFEST: _json(hashes)}.items():
            with (fresh / name).open("wb") as out:
                out.write(data)
                out.flush()
                os.fsync(out.fileno())
        fresh.chmod(0o755)  # mkdtemp makes folders that only their owner can read
        if folder.exists():
            old = Path(mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
            try:
                folder.rename(old / folder.name)
                fresh.rename(folder)
            except BaseException:
                if not folder.exists():
                    (old / folder.name).rename(folder)
                old.rmdir()
                raise
            shutil.rmtree(old, ignore_errors=True)
        else:
            fresh.rename(folder)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def _verified(folder: Path) -> dict[str, bytes]:
    """The bytes of every file that the manifest names. Raises ArtefactError for any difference."""
    if not folder.is_dir():
        raise ArtefactError(f"{folder}: no such model folder")
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        items = sorted((str(name), str(digest)) for name, digest in manifest.items())
    except FileNotFoundError:
        raise ArtefactError(f"{folder}: holds no {MANIFEST}, so it is not a model folder") from None
    except (ValueError, AttributeError, RecursionError) as error:
        raise ArtefactError(f"{folder / MANIFEST}: not a manifest: {error}") from None
    files = {}
    for name, digest in items:
        try:
            data = (folder / Path(name).name).read_bytes()
        except OSError as error:
            raise ArtefactError(f"{folder / name}: {error.strerror}") from None
        except ValueError as error:  # a NUL or a lone surrogate in the name
            raise ArtefactError(f"{folder / MANIFEST}: file name {name!a}: {error}") from None
        if (actual := hashlib.sha256(data).hexdigest()) != digest:
            raise ArtefactError(
                f"{folder / name}: sha256 is {actual[:12]}…, the manifest says {digest[:12]}…: "
                "the file has changed since the model was saved"
            )
        files[name] = data
    return files


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Whatever is wrong with what a file says becomes an ArtefactError that names the file."""
    try:
        yield
    except ArtefactError:
        raise
    except KeyError as error:
        raise ArtefactError(f"{path}: {error} is missing") from None
    except (ValueError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        raise ArtefactError(f"{path}: {error}") from None


def load(folder: Path) -> Artefact:
    """Reads and verifies a model folder. Raises ArtefactError, naming the file, if anything is off."""
    files = _verified(folder)
    for name in _NEEDED:
        if name not in files:
            raise ArtefactError(f"{folder / MANIFEST}: {name!r} is missing")
    with _reading(folder / "config.json"):
        config = json.loads(files["config.json"])
        if config.get("format") != FORMAT:
            raise ArtefactError(
                f"{folder / 'config.json'}: format {config.get('format')!r}, expected {FORMAT}"
            )
        tagger = TaggerConfig.from_json(config["tagger"])
        training = config["training"]
    with _reading(folder / "cased.txt"):
        cased = _lines(files["cased.txt"])
    with _reading(folder / "lower.txt"):
        lower = _lines(files["lower.txt"])
    with _reading(folder / "chars.json"):
        chars = tuple(json.loads(files["chars.json"]))
    with _reading(folder / "expected.json"):
        expected = json.loads(files["expected.json"])
    with _reading(folder / "MODEL_CARD.md"):
        card = files["MODEL_CARD.md"].decode()
    with _reading(folder / "weights.safetensors"):
        tensors = load_tensors(files["weights.safetensors"])
        tables = {
            name: Table(tensors.pop(f"{name}.int8"), tensors.pop(f"{name}.scale"))
            for name in sorted(n.removesuffix(".int8") for n in tensors if n.endswith(".int8"))
        }
        n_labels = len(tagger.scheme.labels)
        shapes = {"start": (n_labels,), "transitions": (n_labels, n_labels), "end": (n_labels,)}
        for name, shape in shapes.items():
            if tensors[name].shape != shape:
                raise ValueError(f"the shape of {name!r} is {tensors[name].shape}, expected {shape}")
    with _reading(folder / "pieces.txt"):
        pieces = _lines(files["pieces.txt"]) if tagger.network.context_layers else ()
    network = tagger.network
    for name, words, width, table_name in (
        ("cased", cased, network.cased_dim, TABLES[0]),
        ("lower", lower, network.lower_dim, TABLES[1]),
        ("pieces", pieces, network.context_dim if pieces else 0, TABLES[2]),
    ):
        table = tables.get(table_name)
        if (table.rows.shape if table else (len(words), 0)) != (len(words), width):
            raise ArtefactError(
                f"{folder}: {name}.txt has {len(words)} words for a width of {width}, "
                f"the table's shape is {table.rows.shape if table else None}"
            )
    vocabulary = Vocabulary(cased, lower, chars, tagger.normalisation, pieces)
    graphs = {name: data for name, data in files.items() if name.endswith(".onnx")}
    return Artefact(tagger, vocabulary, tensors, tables, graphs, expected, training, card)


def _lines(data: bytes) -> tuple[str, ...]:
    return tuple(data.decode().split("\n")[:-1])
