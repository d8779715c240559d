"""model/kernel.c from Python: the int8 recurrence and the chain's sums, where it was compiled.

    B sentences   T tokens in the longest   H hidden units a direction   K labels   D directions

The library is built with the package where there is a C compiler (pyproject.toml), and used where
``level()`` says that the processor has what it is written for; without it ONNX Runtime and NumPy compute
the same (model/backend.py, model/head.py). ctypes lets other threads run meanwhile.
"""

from __future__ import annotations

import ctypes
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SIDE = 64  # SIDE of kernel.c
_MOST_LABELS = 64  # MOST_LABELS there
LEVELS = ("none", "AVX2", "AVX-512 VNNI")
_MOST_WEIGHT = 63  # two products of it and an unsigned byte fit into 16 bits


class _Network(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("hidden", "directions", "labels")),
        *((name, ctypes.c_void_p) for name in ("weights", "scales", "offsets", "output", "bias")),
    ]


@cache
def _library() -> Any:
    """None where it was not built, or does not fit this machine."""
    for suffix in EXTENSION_SUFFIXES:
        path = Path(__file__).with_name(f"_kernel{suffix}")
        if path.exists():
            try:
                found = ctypes.CDLL(str(path))
                found.nametag_level.restype = ctypes.c_int32
                _declare(found.nametag_chain, "aa nnn aaa aaa d aaa")
            except (OSError, AttributeError):
                return None
            return found
    return None


def _declare(function: Any, arguments: str) -> None:
    """``arguments``: a an address, n a size, i a small number, d a float. Declared, numbers are passed as
    they are, which takes a third of the time that ctypes' own objects do."""
    kinds = {"a": ctypes.c_void_p, "n": ctypes.c_int64, "i": ctypes.c_int32, "d": ctypes.c_double}
    function.argtypes = [kinds[kind] for kind in arguments.replace(" ", "")]
    function.restype = ctypes.c_int32


@cache
def level() -> int:
    """How well this processor can be made use of: an index of LEVELS."""
    library = _library()
    return library.nametag_level() if library else 0


def _address(array: NDArray[Any]) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


class Recurrence:
    """Both directions' LSTM and the output layer, of one network.

    ``weights`` (D, 4H, H) int8, at most 63, and ``scales`` (D, 4H) of its rows; gates in the order i, o, f,
    g. ``output`` (D, K, H) and ``bias`` (K,). Raises ValueError for a network that the kernel is not
    written for.
    """

    def __init__(
        self,
        weights: NDArray[np.int8],
        scales: NDArray[np.float32],
        output: NDArray[np.float32],
        bias: NDArray[np.float32],
        at_level: int | None = None,
    ) -> None:
        directions, gates, hidden = weights.shape
        self._level = level() if at_level is None else at_level
        if not 0 < self._level <= level():
            raise ValueError(f"the kernel does not run on this processor at level {self._level}")
        if hidden % 16 or gates != 4 * hidden:
            raise ValueError(f"the kernel is for hidden widths of whole 16s, not {hidden}")
        if np.abs(weights.astype(np.int16)).max(initial=0) > _MOST_WEIGHT:
            raise ValueError(f"the kernel is for weights of at most {_MOST_WEIGHT}")
        tiles = weights.reshape(directions, gates // _SIDE, _SIDE, hidden // 4, 4).transpose(0, 1, 3, 2, 4)
        self.n_labels = len(bias)
        self._arrays = (
            np.ascontiguousarray(tiles),
            np.ascontiguousarray(scales * np.float32(1 / 127), dtype=np.float32),
            np.ascontiguousarray(weights.sum(2, dtype=np.int32) * 128, dtype=np.int32),
            np.ascontiguousarray(output, dtype=np.float32),
            np.ascontiguousarray(bias, dtype=np.float32),
        )
        addresses = [_address(array) for array in self._arrays]
        self._network = _Network(hidden, directions, self.n_labels, *addresses)
        self._compute = _library().nametag_emissions
        _declare(self._compute, "a i aaaa nn a")
        self._row = directions * gates

    def emissions(
        self, gates: NDArray[np.float16], rows: NDArray[np.int64], lengths: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """(B, T, K) for a table (…, D * 4H) of what word types give the gates, and each token's row in it,
        (B, T); past a sentence's length it means nothing."""
        if gates.dtype != np.float16 or gates.shape[1] != self._row or not gates.flags.c_contiguous:
            raise ValueError(f"gates: {gates.dtype} {gates.shape}; float16 (…, {self._row}) expected")
        rows = np.ascontiguousarray(rows, dtype=np.int64)
        lengths = np.ascontiguousarray(lengths, dtype=np.int64)
        order = np.argsort(-lengths, kind="stable")
        out = np.empty((*rows.shape, self.n_labels), dtype=np.float32)
        failed = self._compute(
            ctypes.addressof(self._network), self._level,
            _address(gates), _address(rows), _address(lengths), _address(order), *rows.shape, _address(out),
        )  # fmt: skip
        if failed:
            raise MemoryError("the recurrence's scratch memory")
        return out


def sums_chains(n_labels: int) -> bool:
    """Whether ``chain_sums`` can be called for so many labels."""
    return n_labels <= _MOST_LABELS and _library() is not None


def chain_sums(
    emissions: NDArray[np.float64],
    lengths: NDArray[np.int64],
    scores: tuple[NDArray[np.float64], ...],
    masses: tuple[NDArray[np.float64], ...],
    temperature: float,
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """model.head's ``best_path`` (B, T), and ``messages`` at ``temperature``: marginals and suffixes,
    (B, T, K) each; 0 past a sentence's length.

    ``scores``: the chain's start (K,), transitions (K, K) and end (K,), -inf where a move is illegal;
    ``masses``: exp of them over the temperature.
    """
    n_sentences, n_steps, n_labels = emissions.shape
    path = np.zeros((n_sentences, n_steps), dtype=np.int64)
    marginals, suffixes = np.zeros((2, *emissions.shape))
    given = [np.ascontiguousarray(array) for array in (emissions, lengths, *scores, *masses)]
    pointers = [_address(array) for array in given]
    failed = _library().nametag_chain(
        *pointers[:2], n_sentences, n_steps, n_labels, *pointers[2:], temperature,
        _address(path), _address(marginals), _address(suffixes),
    )  # fmt: skip
    if failed:
        raise MemoryError("the chain's scratch memory")
    return path, marginals, suffixes
