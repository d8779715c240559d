"""A trained torch network in, an artefact out: exported graphs, quantised tables, expected answers.

The graphs are written operator by operator, not traced: ONNX's own LSTM, GRU and RNN take the
sentences' lengths (``sequence_lens``), so padding is exact, and LSTM knows peepholes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from model.artefact import Artefact, Table, most_of
from model.backend import (
    SENTENCES_GRAPH,
    WORD_TYPES_GRAPH,
    TorchBackend,
    char_places,
    gates_of,
    onnx_gates,
)
from model.config import NetworkConfig, TaggerConfig
from model.context import EPSILON
from model.features import Vocabulary
from model.network import BiRnnTagger
from model.tagger import Tagger

OPSET = 17
_MICROSOFT = "com.microsoft"  # ONNX Runtime's own operators
_COMMON = 50_000  # of a table's words, the first: it is in them that a column must matter
Array = NDArray[np.float32]

EXPECTED_SENTENCES = (
    "Harry Potter and Hermione Granger invented a new spell",
    "Harry Potter and Hermione Granger invented a new spell .",
    "The committee met on Tuesday and adjourned at noon .",
    "MARIE CURIE was born in Warsaw ; pierre curie , in Paris .",
    "\u738b \u5c0f \u660e met Zoe\u0308 O'Neill-\u00d1u\u00f1ez \U0001f389 on 3/4/2021",
    "Yes",
    "I wrote to J. R. R. Tolkien , C.S. Lewis , Ngozi Okonjo-Iweala and Nguy\u1ec5n V\u0103n An , "
    "but neither Washington nor the Ford Motor Company answered before Mr. Smith 's deadline .",
)


class _Graph:
    """Collects nodes and constants under unique names."""

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, value: NDArray[Any]) -> str:
        name = f"{self.prefix}c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def all(self, op: str, *inputs: str, n_outputs: int, **attributes: Any) -> list[str]:
        """All outputs of one more node."""
        names = [f"{self.prefix}n{len(self.nodes)}_{i}" for i in range(n_outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, **attributes))
        return names

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        """The output of one more node."""
        return self.all(op, *inputs, n_outputs=1, **attributes)[0]

    def model(
        self,
        inputs: list[onnx.ValueInfoProto],
        result: str,
        shape: list[Any],
        kind: int = TensorProto.FLOAT,
    ) -> bytes:
        out = helper.make_tensor_value_info("out", kind, shape)
        self.nodes.append(helper.make_node("Identity", [result], ["out"]))
        graph = helper.make_graph(self.nodes, "nametag", inputs, [out], self.constants)
        domains = [helper.make_opsetid("", OPSET), helper.make_opsetid(_MICROSOFT, 1)]
        model = helper.make_model(graph, opset_imports=domains)
        model.ir_version = 8
        onnx.checker.check_model(model)
        serialised: bytes = model.SerializeToString()
        return serialised


def word_types_graph(config: NetworkConfig, weights: dict[str, Array]) -> bytes:
    """vectors (N, word_dim), shapes (N,), chars (N, C) → features (N, D); only the used inputs.

    For an int8 recurrence, what they give the gates of each direction: (N, directions * 4H), float16.
    """
    g = _Graph()
    inputs, parts = [], []
    if config.word_dim:
        inputs.append(helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["N", config.word_dim]))
        parts.append("vectors")
    if config.char_filters:
        inputs.append(helper.make_tensor_value_info("chars", TensorProto.INT64, ["N", "C"]))
        parts.append(_filters(g, config, weights))
    if config.shape_dim:
        inputs.append(helper.make_tensor_value_info("shapes", TensorProto.INT64, ["N"]))
        parts.append(g.add("Gather", g.constant(weights["words.shapes.weight"]), "shapes"))
    x = g.add("Concat", *parts, axis=1)
    weight, bias = (g.constant(weights[f"words.projection.{n}"]) for n in ("weight", "bias"))
    x = g.add("Gemm", x, weight, bias, transB=1)
    if not config.int8_recurrence:
        return g.model(inputs, x, ["N", config.feature_dim])
    weight, bias = (
        g.constant(np.concatenate(gates_of(config, weights, 0, name)))
        for name in ("weight_ih_l0", "bias_ih_l0")
    )
    x = g.add("Cast", g.add("Gemm", x, weight, bias, transB=1), to=TensorProto.FLOAT16)
    return g.model(inputs, x, ["N", config.n_directions * 4 * config.hidden_dim], TensorProto.FLOAT16)


def _filters(g: _Graph, config: NetworkConfig, weights: dict[str, Array]) -> str:
    """chars (N, C) → (N, char_filters)."""
    around = config.char_width // 2
    padded = g.add("Pad", "chars", g.constant(np.array([0, around, 0, around], dtype=np.int64)))
    axis = g.constant(np.array([1], dtype=np.int64))
    x = ""
    for place, table in enumerate(char_places(weights)):  # (characters, char_filters)
        first, last = (g.constant(np.array([p], dtype=np.int64)) for p in (place, place - 2 * around))
        ends = last if place < 2 * around else g.constant(np.array([2**62], dtype=np.int64))
        here = g.add("Gather", g.constant(table), g.add("Slice", padded, first, ends, axis))
        x = g.add("Add", x, here) if x else here  # (N, C, char_filters)
    x = g.add("ReduceMax", x, axes=[1], keepdims=0)
    return g.add("Relu", g.add("Add", x, g.constant(weights["words.filters.bias"])))


def _context(g: _Graph, config: NetworkConfig, weights: dict[str, Array], tables: dict[str, Table]) -> str:
    """model.context.ContextEncoder: piece_vectors (R, S, E), piece_shapes and is_piece (R, S), and
    at (T, B) → (T, B, E). The large matrices stay int8 in the file, and are unpacked on loading."""
    width, heads = config.context_dim, config.context_heads

    def shape(*sizes: int) -> str:
        return g.constant(np.array(sizes, dtype=np.int64))

    def norm(x: str, name: str) -> str:
        scale, bias = (g.constant(weights[f"context.{name}.{part}"]) for part in ("weight", "bias"))
        return g.add("LayerNormalization", x, scale, bias, axis=-1, epsilon=EPSILON)

    def product(x: str, name: str) -> str:
        table = tables[f"context.{name}.weight"]
        rows = g.add("Cast", g.constant(np.ascontiguousarray(table.rows.T)), to=TensorProto.FLOAT)
        return g.add("MatMul", x, g.add("Mul", rows, g.constant(table.scales)))

    def linear(x: str, name: str) -> str:
        return g.add("Add", product(x, name), g.constant(weights[f"context.{name}.bias"]))

    def normed_sum(x: str, part: str, name: str, norm: str) -> str:
        """norm(x + linear(part)), in one pass over the memory."""
        operands = (f"{norm}.weight", f"{norm}.bias", f"{name}.bias")
        constants = (g.constant(weights[f"context.{operand}"]) for operand in operands)
        summed = product(part, name)
        return g.add("SkipLayerNormalization", summed, x, *constants, epsilon=EPSILON, domain=_MICROSOFT)

    shapes = g.add("Gather", g.constant(weights["context.shapes.weight"]), "piece_shapes")
    n_pieces = g.add("Gather", g.add("Shape", "piece_shapes"), shape(1))
    positions = g.add(
        "Slice", g.constant(weights["context.positions.weight"]), shape(0), n_pieces, shape(0)
    )
    x = norm(g.add("Add", g.add("Add", "piece_vectors", positions), shapes), "norm")
    hidden = g.constant(np.array(-np.inf, dtype=np.float32))
    seen = g.constant(np.array(0.0, dtype=np.float32))
    mask = g.add("Unsqueeze", g.add("Where", "is_piece", seen, hidden), shape(1, 2))  # (R, 1, 1, S)
    scale = g.constant(np.array((width // heads) ** -0.5, dtype=np.float32))
    for i in range(config.context_layers):
        parts = g.add("Reshape", linear(x, f"layers.{i}.attend"), shape(0, 0, 3, heads, width // heads))
        query, key, value = (
            g.add("Gather", parts, g.constant(np.array(n, dtype=np.int64)), axis=2) for n in range(3)
        )  # (R, S, A, E/A)
        query = g.add("Mul", g.add("Transpose", query, perm=[0, 2, 1, 3]), scale)
        key = g.add("Transpose", key, perm=[0, 2, 3, 1])
        value = g.add("Transpose", value, perm=[0, 2, 1, 3])
        weight = g.add("Softmax", g.add("Add", g.add("MatMul", query, key), mask), axis=-1)
        found = g.add("Transpose", g.add("MatMul", weight, value), perm=[0, 2, 1, 3])
        found = g.add("Reshape", found, shape(0, 0, width))
        x = normed_sum(x, found, f"layers.{i}.attended", f"layers.{i}.attended_norm")
        inner = linear(x, f"layers.{i}.widen")
        erf = g.add("Erf", g.add("Mul", inner, g.constant(np.array(0.5**0.5, dtype=np.float32))))
        erf = g.add("Add", erf, g.constant(np.array(1.0, dtype=np.float32)))
        inner = g.add("Mul", g.add("Mul", inner, erf), g.constant(np.array(0.5, dtype=np.float32)))
        x = normed_sum(x, inner, f"layers.{i}.narrow", f"layers.{i}.norm")
    return g.add("Gather", g.add("Reshape", x, shape(-1, width)), "at")  # (T, B, E)


def sentences_graph(
    config: NetworkConfig, weights: dict[str, Array], tables: dict[str, Table] | None = None
) -> bytes:
    """features (T, B, D), lengths (B,) int32 → emissions (T, B, K).

    With a context encoder also piece_vectors (R, S, E), piece_shapes (R, S), is_piece (R, S) and
    at (T, B), as model.wordpiece.Layout has them.
    """
    g = _Graph()
    inputs = [
        helper.make_tensor_value_info("features", TensorProto.FLOAT, ["T", "B", config.feature_dim]),
        helper.make_tensor_value_info("lengths", TensorProto.INT32, ["B"]),
    ]
    hidden = config.hidden_dim

    x = "features"
    if config.context_layers:
        sizes: dict[str, tuple[Any, list[str | int | None]]] = {
            "piece_vectors": (TensorProto.FLOAT, ["R", "S", config.context_dim]),
            "piece_shapes": (TensorProto.INT64, ["R", "S"]),
            "is_piece": (TensorProto.BOOL, ["R", "S"]),
            "at": (TensorProto.INT64, ["T", "B"]),
        }
        inputs += [helper.make_tensor_value_info(name, *size) for name, size in sizes.items()]
        x = g.add("Concat", x, _context(g, config, weights, tables or {}), axis=2)
    for layer in range(config.n_layers):
        biases = np.concatenate([gates_of(config, weights, layer, f"bias_{p}h_l0") for p in "ih"], 1)
        operands = [
            x,
            g.constant(gates_of(config, weights, layer, "weight_ih_l0")),
            g.constant(gates_of(config, weights, layer, "weight_hh_l0")),
            g.constant(biases),
            "lengths",
        ]
        attributes: dict[str, Any] = {
            "hidden_size": hidden,
            "direction": "bidirectional" if config.bidirectional else "forward",
        }
        if config.cell == "gru":
            attributes["linear_before_reset"] = 1
        if config.cell == "lstm-peephole":
            peepholes = np.stack(
                [weights[f"layers.{layer}.{d}.peepholes"] for d in range(config.n_directions)]
            )  # (directions, 3, H), in the order i, f, o; ONNX's is i, o, f
            flat = peepholes[:, [0, 2, 1]].reshape(config.n_directions, 3 * hidden)
            operands += ["", "", g.constant(flat)]
        op = {"lstm": "LSTM", "lstm-peephole": "LSTM", "gru": "GRU", "rnn": "RNN"}[config.cell]
        x = g.add(op, *operands, **attributes)  # (T, directions, B, H)
        x = g.add("Transpose", x, perm=[0, 2, 1, 3])
        width = hidden * config.n_directions
        x = g.add("Reshape", x, g.constant(np.array([0, 0, width], dtype=np.int64)))  # (T, B, width)
    x = g.add("MatMul", x, g.constant(weights["output.weight"].T))
    x = g.add("Add", x, g.constant(weights["output.bias"]))
    return g.model(inputs, x, ["T", "B", len(weights["output.bias"])])


def _step(config: NetworkConfig, weights: dict[str, Array], tables: dict[str, Table]) -> onnx.GraphProto:
    """One step of both directions of an int8 recurrence: state and cell (directions, B, H), and the rows
    (directions, B) of the outer graph's ``gates`` → state, cell, and parts of emissions (directions, B, K).
    """
    g = _Graph("step_")
    cells, hidden = range(config.n_directions), config.hidden_dim

    def sizes(*widths: int) -> str:
        return g.constant(np.array(widths, dtype=np.int64))

    unit, zero = g.constant(np.array(1 / 127, np.float32)), g.constant(np.array(128, np.uint8))
    state = g.add("QuantizeLinear", "state", unit, zero)
    parts = []
    for d, part in enumerate(g.all("Split", state, sizes(*[1] * len(cells)), axis=0, n_outputs=len(cells))):
        table = tables[f"layers.0.{d}.weight_hh_l0"]
        weight = g.constant(onnx_gates(config, table.rows).T)
        scale = g.constant(onnx_gates(config, table.scales))
        operands = (part, weight, unit, scale, zero)
        parts.append(g.add("MatMulIntegerToFloat", *operands, domain=_MICROSOFT))
    x = g.add("Cast", g.add("Gather", "gates", "rows"), to=TensorProto.FLOAT)
    x = g.add("Add", g.add("Concat", *parts, axis=0), x)  # (directions, B, 4H)
    sigmoids, tanh = g.all("Split", x, sizes(3 * hidden, hidden), axis=2, n_outputs=2)
    i, o, f = g.all("Split", g.add("Sigmoid", sigmoids), sizes(*[hidden] * 3), axis=2, n_outputs=3)
    cell = g.add("Add", g.add("Mul", f, "cell"), g.add("Mul", i, g.add("Tanh", tanh)))
    state = g.add("Mul", o, g.add("Tanh", cell))
    to_labels = weights["output.weight"].reshape(-1, len(cells), hidden).transpose(1, 2, 0)
    out = g.add("MatMul", state, g.constant(to_labels))

    def info(name: str, kind: int, *shape: str | int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, [len(cells), "B", *shape])

    return helper.make_graph(
        g.nodes,
        "step",
        [info("state", TensorProto.FLOAT, hidden), info("cell", TensorProto.FLOAT, hidden),
         info("rows", TensorProto.INT64)],
        [info(state, TensorProto.FLOAT, hidden), info(cell, TensorProto.FLOAT, hidden),
         info(out, TensorProto.FLOAT, to_labels.shape[2])],
        g.constants,
    )  # fmt: skip


def int8_sentences_graph(
    config: NetworkConfig, weights: dict[str, Array], tables: dict[str, Table]
) -> bytes:
    """gates (rows, 4H) float16, rows (T, directions, B) of them → parts of emissions (T, directions, B, K).

    Each direction's part is of its own step t, so the backward one's begins at the sentences' ends.
    Integers are summed exactly, in any order, so a sentence has the same states in any batch.
    """
    g = _Graph()
    n, hidden, n_labels = config.n_directions, config.hidden_dim, len(weights["output.bias"])
    ends = [g.constant(np.array(value, dtype=np.int64)) for value in ([n], [hidden], [2], [3])]
    n_sentences = g.add("Slice", g.add("Shape", "rows"), *ends[2:])
    fresh = g.add("ConstantOfShape", g.add("Concat", ends[0], n_sentences, ends[1], axis=0))
    step = _step(config, weights, tables)
    *_, out = g.all("Scan", fresh, fresh, "rows", n_outputs=3, body=step, num_scan_inputs=1)
    inputs = [
        helper.make_tensor_value_info("gates", TensorProto.FLOAT16, ["N", 4 * hidden]),
        helper.make_tensor_value_info("rows", TensorProto.INT64, ["T", n, "B"]),
    ]
    bias = np.zeros((n, 1, n_labels), np.float32)
    bias[0] = weights["output.bias"]
    return g.model(inputs, g.add("Add", out, g.constant(bias)), ["T", n, "B", n_labels])


def fold_tables(network: BiRnnTagger, columns: Mapping[str, int] | None = None) -> dict[str, Array]:
    """The network's weights, each word table turned into the axes that the projection reads.

    Of the projection's part W (D, d), the table E becomes F Q and W becomes Q, where F = E W' is what
    the words give the features, and Q (D, r) holds its principal axes: the product stays E W', and no
    row is what it was. The columns come in order of what they matter, so that rounding a row to int8
    costs least where it counts most. ``columns``: by table, how many of them are kept, at most min(D, d),
    which is exact.
    """
    weights = {k: v.detach().cpu().float().numpy().copy() for k, v in network.state_dict().items()}
    parts = []
    at = 0
    for name, width in (("cased", network.config.cased_dim), ("lower", network.config.lower_dim)):
        if width:
            part = weights["words.projection.weight"][:, at : at + width].astype(np.float64)
            key = f"words.{name}.weight"
            given = weights[key] @ part.T  # F (V, D)
            common = given[:_COMMON]
            _, axes = np.linalg.eigh(common.T @ common)  # in order of growing variance
            kept = min(width, len(part), (columns or {}).get(name) or width)
            axes = axes[:, ::-1][:, :kept]
            weights[key] = (given @ axes).astype(np.float32)
            parts.append(axes.astype(np.float32))
            at += width
    parts.append(weights["words.projection.weight"][:, at:])
    weights["words.projection.weight"] = np.concatenate(parts, 1)
    return weights


def make_artefact(
    network: BiRnnTagger,
    config: TaggerConfig,
    vocabulary: Vocabulary,
    *,
    training: dict[str, Any],
    card: str = "",
    expected_sentences: Sequence[str] = EXPECTED_SENTENCES,
    columns: Mapping[str, int] | None = None,
) -> Artefact:
    """The artefact of a trained network; its expected answers come from torch on the CPU.

    ``columns``: see fold_tables.
    """
    weights = fold_tables(network, columns)
    widths = {
        f"{name}_dim": weights[f"words.{name}.weight"].shape[1]
        for name in ("cased", "lower")
        if f"words.{name}.weight" in weights
    }
    config = replace(config, network=replace(config.network, **widths))
    if config.network.int8_recurrence:
        for d in range(config.network.n_directions):
            weights[f"layers.0.{d}.bias_ih_l0"] += weights[f"layers.0.{d}.bias_hh_l0"]
            weights[f"layers.0.{d}.bias_hh_l0"][:] = 0  # one bias is enough
    tables = {
        name: Table.of(weights.pop(name), most)
        for name in sorted(weights)
        if (most := most_of(name, config.network))
    }
    of_sentences = int8_sentences_graph if config.network.int8_recurrence else sentences_graph
    graphs = {
        WORD_TYPES_GRAPH: word_types_graph(config.network, weights),
        SENTENCES_GRAPH: of_sentences(config.network, weights, tables),
    }
    bare = Artefact(config, vocabulary, weights, tables, graphs, [], training, card)
    return with_expected(bare, expected_sentences)


def with_expected(artefact: Artefact, sentences: Sequence[str] = EXPECTED_SENTENCES) -> Artefact:
    """The artefact with its own answers, computed by torch on the CPU, as what to expect of it."""
    with torch.random.fork_rng():
        tagger = Tagger(artefact, TorchBackend(artefact))
        split = [sentence.split() for sentence in sentences]
        expected = [
            {"tokens": tokens, "labels": tagged.labels, "scores": tagged.scores}
            for tokens in split
            for tagged in tagger.tag([tokens], 0.0)
        ]
    return replace(artefact, expected=expected)
