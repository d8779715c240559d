"""Three ways to compute the network; all give the same answers (tests/test_backend.py).

ONNX Runtime runs the exported graphs on a CPU and needs no torch. The kernel (model/kernel) stands in
for it where that was compiled, and the recurrence is int8. torch defines the model, and runs it on a GPU.

    B sentences, T tokens in the longest, N word types, D features, K labels.
"""

from __future__ import annotations

import os
import sys
from glob import glob
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from model import kernel
from model.artefact import Artefact, ArtefactError, Weights
from model.config import NetworkConfig
from model.features import PAD_ID, SHAPES, WordTypes
from model.wordpiece import Layout

if TYPE_CHECKING:
    import torch

Array = NDArray[np.float32]
Floats = NDArray[np.floating]
Rows = NDArray[np.int64]
WORD_TYPES_GRAPH, SENTENCES_GRAPH = "word_types.onnx", "sentences.onnx"
DEVICES = ("auto", "cpu", "cuda")
BACKENDS = ("auto", "kernel", "onnx", "torch")
CPU_BATCH_TOKENS = 1_024


class Backend(Protocol):
    """What a Tagger asks of a device."""

    name: str
    device: str
    n_features: int  # what it keeps of a word type: F numbers
    dtype: type[np.floating]  # of this type
    is_padded: bool  # whether padding takes as long as tokens do
    batch_tokens: int  # padded tokens of a batch: of more, none takes less time, and others wait

    def features(self, types: WordTypes) -> Floats:
        """(N, F) for N word types; N is at least 1."""

    def emissions(self, features: Floats, rows: Rows, lengths: Rows, layout: Layout | None = None) -> Array:
        """(B, T, K) for a table (…, F) of features and each token's row in it, (B, T); every length is
        at least 1, and padding any row.

        ``layout``: the batch's pieces, for a network with a context encoder.
        """

    def free_memory(self) -> None:
        """Gives back what the device's allocator keeps, after it ran out of memory."""


def _batch_tokens(network: NetworkConfig, device: str = "cpu") -> int:
    """In microseconds a word, on a CPU: of en-person 2.3 at 512, 2.2 at 1,024, 2.3 at 4,096; of
    en-person-accurate, whose context encoder's numbers must fit a cache, 183 at 256, 257 at 2,048.
    """
    if device.startswith("cuda"):
        return 16_384  # which wants far more at once
    return 256 if network.context_layers else CPU_BATCH_TOKENS


def _word_vectors(artefact: Artefact, types: WordTypes) -> Array:
    """(N, word_dim): the cased table's rows, then the lower-cased table's."""
    ids = {"words.cased.weight": types.cased, "words.lower.weight": types.lower}
    tables = artefact.tables
    parts = [tables[name].look_up(rows) for name, rows in ids.items() if name in tables]
    return np.concatenate(parts, 1) if parts else np.empty((len(types.shapes), 0), np.float32)


def _used_chars(chars: NDArray[np.int64], filter_width: int) -> NDArray[np.int64]:
    """The columns that hold a character, and of what is padding for all as much as a filter sees at
    once: to the maximum over positions, more of it is nothing new. Words are mostly short."""
    longest = int((chars != PAD_ID).sum(1).max())
    return np.ascontiguousarray(chars[:, : longest + filter_width // 2 + 1])


# torch's order of gates → ONNX's, which the exported graphs have, and the kernel.
_GATES = {"lstm": (0, 3, 1, 2), "lstm-peephole": (0, 3, 1, 2), "gru": (1, 0, 2), "rnn": (0,)}


def onnx_gates(network: NetworkConfig, values: NDArray[Any]) -> NDArray[Any]:
    """Rows of one cell (gates * H, …), its gates in ONNX's order."""
    order = list(_GATES[network.cell])
    return values.reshape(len(order), network.hidden_dim, -1)[order].reshape(values.shape)


def gates_of(network: NetworkConfig, weights: Weights, layer: int, name: str) -> Array:
    """One parameter of all cells of a layer, (directions, gates * H, …), its gates in ONNX's order."""
    cells = range(network.n_directions)
    return np.stack([onnx_gates(network, weights[f"layers.{layer}.{d}.{name}"]) for d in cells])


def char_places(weights: Weights) -> Array:
    """(char_width, characters, char_filters): what a character gives the filters in each of their places.

    Looked up and added up, they are the convolution, in half the time that ONNX Runtime's takes.
    """
    return kernel.product("cd,fdp->pcf", weights["words.chars.weight"], weights["words.filters.weight"])


class OnnxBackend:
    """The exported graphs on the CPU. ``threads``: intra-op threads of this process."""

    name, device = "onnx", "cpu"
    is_padded = True

    def __init__(self, artefact: Artefact, threads: int = 1) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3

        def session(name: str) -> Any:
            if name not in artefact.graphs:
                raise ArtefactError(f"{artefact.config.name}: {name} is missing")
            return onnxruntime.InferenceSession(
                artefact.graphs[name], options, providers=["CPUExecutionProvider"]
            )

        network = artefact.config.network
        self._artefact = artefact
        self._is_int8 = network.int8_recurrence
        self._n_directions = network.n_directions
        self.batch_tokens = _batch_tokens(network)
        self.n_features = network.feature_dim
        self.dtype: type[np.floating] = np.float32
        if self._is_int8:
            self.n_features, self.dtype = network.n_directions * 4 * network.hidden_dim, np.float16
        self._word_types = session(WORD_TYPES_GRAPH)
        self._sentences = session(SENTENCES_GRAPH)
        # A graph takes only what its network looks at.
        self._takes = {value.name: value.shape for value in self._word_types.get_inputs()}
        # Older graphs take words of CHAR_WINDOW characters only.
        self._takes_few_chars = isinstance(self._takes.get("chars", (0, 0))[1], str)

    def features(self, types: WordTypes) -> Floats:
        chars = types.chars
        if self._takes_few_chars:
            chars = _used_chars(chars, self._artefact.config.network.char_width)
        inputs = {"vectors": _word_vectors(self._artefact, types), "shapes": types.shapes, "chars": chars}
        (out,) = self._word_types.run(None, {k: v for k, v in inputs.items() if k in self._takes})
        features: Floats = out
        return features

    def emissions(self, features: Floats, rows: Rows, lengths: Rows, layout: Layout | None = None) -> Array:
        if self._is_int8:
            return self._int8_emissions(features, rows, lengths)
        time_major = features.take(rows.T, axis=0)  # (T, B, D)
        inputs: dict[str, NDArray[Any]] = {"features": time_major, "lengths": lengths.astype(np.int32)}
        if layout is not None:
            inputs |= {
                "piece_vectors": self._artefact.tables["context.pieces.weight"].look_up(layout.pieces),
                "piece_shapes": layout.shapes,
                "is_piece": layout.pieces != 0,
                "at": np.ascontiguousarray(layout.at.T),
            }
        (out,) = self._sentences.run(None, inputs)
        emissions: Array = out.transpose(1, 0, 2)  # (T, B, K) → (B, T, K)
        return emissions

    def _int8_emissions(self, features: Floats, rows: Rows, lengths: Rows) -> Array:
        steps = np.arange(rows.shape[1])
        # What turns each sentence around within its own length, (B, T)
        turned = np.where(steps < lengths[:, None], lengths[:, None] - 1 - steps, steps)
        n = self._n_directions
        of_steps = np.empty((rows.shape[1], n, rows.shape[0]), np.int64)
        of_steps[:, 0] = rows.T
        if n == 2:
            of_steps[:, 1] = np.take_along_axis(rows, turned, axis=1).T
        # A word type's row holds one for each direction.
        of_steps *= n
        of_steps += np.arange(n)[:, None]
        gates = features.reshape(len(features) * n, -1)
        (parts,) = self._sentences.run(None, {"gates": gates, "rows": of_steps})  # (T, directions, B, K)
        emissions: Array = parts[:, 0].transpose(1, 0, 2)
        if n == 2:
            emissions = emissions + np.take_along_axis(
                parts[:, 1].transpose(1, 0, 2), turned[:, :, None], axis=1
            )
        return emissions

    def free_memory(self) -> None:
        pass


class KernelBackend:
    """Word types, and the int8 recurrence over them, by model/kernel: always one thread. ``level``: of
    kernel.levels(); by default the best.

    Raises ValueError where the kernel is not for this machine or network.
    """

    name, device = "kernel", "cpu"
    is_padded = False

    def __init__(self, artefact: Artefact, level: int | None = None) -> None:
        network = artefact.config.network
        if not network.int8_recurrence:
            raise ValueError("the kernel is for networks with an int8 recurrence")
        self._recurrence = _recurrence_of(artefact, level)
        self._word_types = kernel.WordTypes(_word_weights_of(artefact), level)
        self.batch_tokens = _batch_tokens(network)
        self.n_features = network.n_directions * 4 * network.hidden_dim
        self.dtype: type[np.floating] = np.float16

    def features(self, types: WordTypes) -> Floats:
        return self._word_types.gates(types)

    def emissions(self, features: Floats, rows: Rows, lengths: Rows, layout: Layout | None = None) -> Array:
        assert layout is None  # int8_recurrence goes without a context encoder
        return self._recurrence.emissions(features, rows, lengths)

    def free_memory(self) -> None:
        pass


def _word_weights_of(artefact: Artefact) -> kernel.WordWeights:
    network, weights = artefact.config.network, artefact.weights
    none = (np.zeros((1, 0), np.int8), np.zeros(1, np.float32))
    tables = [artefact.tables.get(f"words.{name}.weight") for name in ("cased", "lower")]
    return kernel.WordWeights(
        tables=tuple((table.rows, table.scales) if table else none for table in tables),
        places=char_places(weights) if network.char_filters else np.zeros((0, 0, 0), np.float32),
        filter_bias=weights.get("words.filters.bias", np.zeros(0, np.float32)),
        shapes=weights.get("words.shapes.weight", np.zeros((len(SHAPES), 0), np.float32)),
        projection=weights["words.projection.weight"],
        projection_bias=weights["words.projection.bias"],
        input=np.concatenate(gates_of(network, weights, 0, "weight_ih_l0")),
        bias=np.concatenate(gates_of(network, weights, 0, "bias_ih_l0")),
    )


def _recurrence_of(artefact: Artefact, level: int | None = None) -> kernel.Recurrence:
    network = artefact.config.network
    n = network.n_directions
    tables = [artefact.tables[f"layers.0.{d}.weight_hh_l0"] for d in range(n)]
    output = artefact.weights["output.weight"]
    return kernel.Recurrence(
        np.stack([onnx_gates(network, table.rows) for table in tables]),
        np.stack([onnx_gates(network, table.scales) for table in tables]),
        output.reshape(-1, n, network.hidden_dim).swapaxes(0, 1),
        artefact.weights["output.bias"],
        level,
    )


class TorchBackend:
    """The network itself, on any torch device."""

    name = "torch"
    is_padded = True

    def __init__(self, artefact: Artefact, device: str = "cpu") -> None:
        import torch

        self._torch = torch
        self.device = device
        self._artefact = artefact
        self.batch_tokens = _batch_tokens(artefact.config.network, device)
        self.n_features = artefact.config.network.feature_dim
        self.dtype: type[np.floating] = np.float32
        self._network = network_of(artefact).eval().to(device)
        if device.startswith("cuda"):
            # TensorFloat-32 rounds to 10 bits, and how depends on the kernel that a batch's shape
            # picks: answers would depend on the batch.
            torch.backends.cuda.matmul.allow_tf32 = False
            torch.backends.cudnn.allow_tf32 = False

    def _tensor(self, array: NDArray[Any]) -> torch.Tensor:
        tensor = self._torch.from_numpy(np.ascontiguousarray(array))
        if self.device.startswith("cuda"):
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor

    def features(self, types: WordTypes) -> Floats:
        with self._torch.inference_mode():
            vectors = self._tensor(_word_vectors(self._artefact, types))
            chars = _used_chars(types.chars, self._artefact.config.network.char_width)
            out = self._network.words.project(vectors, self._tensor(types.shapes), self._tensor(chars))
            features: Array = out.cpu().numpy()
            return features

    def emissions(self, features: Floats, rows: Rows, lengths: Rows, layout: Layout | None = None) -> Array:
        with self._torch.inference_mode():
            tensors = None
            if layout is not None:
                from model.network import LayoutTensors

                parts = (layout.pieces, layout.shapes, layout.at)
                tensors = LayoutTensors(*(self._tensor(part) for part in parts))
            out = self._network.emissions(
                self._tensor(features[rows]), self._tensor(lengths), layout=tensors
            )
            emissions: Array = out.cpu().numpy()
            return emissions

    def free_memory(self) -> None:
        if self.device.startswith("cuda"):
            self._torch.cuda.empty_cache()


def network_of(artefact: Artefact) -> Any:
    """The torch network with the artefact's weights, word tables included. Every weight must fit."""
    import torch

    from model.network import network_for

    network = network_for(artefact.config, artefact.vocabulary)
    state = {name: torch.from_numpy(np.array(value)) for name, value in artefact.weights.items()}
    for name, table in artefact.tables.items():
        state[name] = torch.from_numpy(table.look_up(np.arange(len(table.rows))))
    network.load_state_dict(state, strict=True)
    return network


def usable_cpus() -> int:
    """CPUs that this process may use: its affinity, and no more than its cgroup's quota."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as quota:
            most, period = quota.read().split()
        if most != "max":
            cpus = min(cpus, max(1, int(most) // int(period)))
    except (OSError, ValueError):
        pass  # no cgroup v2 here
    return cpus


# What their drivers put there: NVIDIA's and Jetson's, WSL's, and AMD's, which torch calls cuda too.
_GPU_FILES = ("/dev/nvidia*", "/dev/nvhost*", "/dev/nvgpu*", "/dev/dxg", "/dev/kfd")


def _may_have_gpu() -> bool:
    """Whether torch is to be asked, which takes 200 MB and a second or two."""
    return sys.platform != "linux" or any(glob(pattern) for pattern in _GPU_FILES)


def _cpu_backend(artefact: Artefact, threads: int) -> Backend:
    try:
        return KernelBackend(artefact)
    except ValueError:
        return OnnxBackend(artefact, threads)


def choose_backend(
    artefact: Artefact, *, device: str = "auto", backend: str = "auto", threads: int = 1
) -> Backend:
    """The backend to serve from: CUDA through torch where there is one, else the kernel where it was
    compiled and is for this machine and network, else ONNX Runtime.

    Raises ValueError for an unknown name, or a device or library that is not there.
    """
    if device not in DEVICES:
        raise ValueError(f"device {device!r} is not one of {DEVICES}")
    if backend not in BACKENDS:
        raise ValueError(f"backend {backend!r} is not one of {BACKENDS}")
    if device == "cuda" and backend in ("kernel", "onnx"):
        raise ValueError(f"backend {backend!r} serves from the CPU: device 'cuda' needs backend 'torch'")
    if backend == "kernel":
        return KernelBackend(artefact)
    if backend == "onnx":
        return OnnxBackend(artefact, threads)
    if backend == "auto" and (device == "cpu" or (device == "auto" and not _may_have_gpu())):
        return _cpu_backend(artefact, threads)
    try:
        import torch
    except ImportError:
        if device == "auto" and backend == "auto":
            return _cpu_backend(artefact, threads)
        raise ValueError(f"device {device!r} with backend {backend!r} needs torch") from None
    has_cuda = torch.cuda.is_available()
    if device == "cuda" and not has_cuda:
        raise ValueError("device 'cuda' was asked for, and torch finds no CUDA device")
    if device == "auto" and backend == "auto" and not has_cuda:
        return _cpu_backend(artefact, threads)
    on_cuda = has_cuda and device != "cpu"
    if not on_cuda:
        torch.set_num_threads(threads)
    return TorchBackend(artefact, "cuda" if on_cuda else "cpu")
