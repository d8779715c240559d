"""The kernel in C from Python: word types, the int8 recurrence and the chain's sums, where it was compiled.

    B sentences   T tokens in the longest   H hidden units a direction   K labels   D directions
    N word types  C characters of each

The library is built with the package where there is a C compiler (pyproject.toml), and used where
``levels()`` says that the processor has what it is written for; without it ONNX Runtime and NumPy compute
the same (model/backend.py, model/head.py). ctypes lets other threads run meanwhile.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.features import CHAR_WINDOW
from model.features import WordTypes as Encoded

_SIDE = 64  # SIDE of kernel.h
_FLOATS = 16  # of which there are whole numbers in each of its rows
_LINE = 64  # bytes of a cache line
_MOST_LABELS = 64  # MOST_LABELS of chain.c
LEVELS = ("none", "AVX2", "AVX-VNNI", "AVX-512 VNNI", "AMX")
_MOST_WEIGHT = 63  # two products of it and an unsigned byte fit into 16 bits


class _Network(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("hidden", "directions", "labels")),
        *((name, ctypes.c_void_p) for name in ("weights", "scales", "begin", "output", "bias")),
    ]


class _Words(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in (
            "cased", "lower", "filters", "width", "characters", "window", "features", "gates",
        )),
        *((name, ctypes.c_void_p) for name in (
            "cased_rows", "lower_rows", "cased_scales", "lower_scales", "places", "filter_bias", "shapes",
            "projection", "input", "bias",
        )),
    ]  # fmt: skip


@cache
def _library() -> Any:
    """None where it was not built, or does not fit this machine."""
    for suffix in EXTENSION_SUFFIXES:
        path = Path(__file__).with_name(f"_kernel{suffix}")
        if path.exists():
            try:
                found = ctypes.CDLL(str(path))
                found.nametag_levels.restype = ctypes.c_int32
                _declare(found.nametag_chain, "aa nnn aaa aaa dd aaaa")
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
def levels() -> tuple[int, ...]:
    """What this processor can be made use of with, the best last: indices of LEVELS."""
    library = _library()
    bits = library.nametag_levels() if library else 0
    return tuple(n for n in range(len(LEVELS)) if bits >> n & 1)


_Nothing = ctypes.c_char * 0


def _address(array: NDArray[Any]) -> int:
    """Of a contiguous array that may be written to. A fifth of the time that array.ctypes.data takes."""
    return ctypes.addressof(_Nothing.from_buffer(array))  # type: ignore[arg-type]


def _usable(at_level: int | None) -> int:
    """That level, or the processor's best. Raises ValueError where there is none such."""
    if not levels() or at_level not in (None, *levels()):
        raise ValueError(f"the kernel does not run on this processor at level {at_level or 'any'}")
    return at_level or levels()[-1]


def _aligned(values: NDArray[Any], dtype: Any = None) -> NDArray[Any]:
    """A copy that begins where a cache line does: a vector that lies in two is loaded in twice the time."""
    values = np.asarray(values, dtype)
    room = np.empty(values.nbytes + _LINE, dtype=np.uint8)
    start = -_address(room) % _LINE
    copy = room[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
    copy[...] = values
    return copy


def _filled_up(values: NDArray[np.float32], multiple: int, axis: int = -1) -> NDArray[np.float32]:
    """With zeros, to a whole multiple."""
    more = [(0, 0)] * values.ndim
    more[axis] = (0, -values.shape[axis] % multiple)
    return np.pad(values, more)


def _in_tiles(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """(inputs, outputs), both filled up, as (outputs / SIDE, inputs, SIDE)."""
    return weights.reshape(len(weights), -1, _SIDE).swapaxes(0, 1)


@dataclass(frozen=True)
class WordWeights:
    """What turns a word type into what it gives the gates. ``tables``: the cased words' and the
    lower-cased ones', rows (V, d) int8 and scales (V,); d may be 0."""

    tables: tuple[tuple[NDArray[np.int8], NDArray[np.float32]], ...]
    places: NDArray[np.float32]  # (width, characters, filters): what a character gives the filters there
    filter_bias: NDArray[np.float32]  # (filters,)
    shapes: NDArray[np.float32]  # (shapes, s)
    projection: NDArray[np.float32]  # (features, d + d + filters + s)
    projection_bias: NDArray[np.float32]  # (features,)
    input: NDArray[np.float32]  # (D * 4H, features)
    bias: NDArray[np.float32]  # (D * 4H,)


def product(of: str, one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float32]:
    """NumPy's einsum ``of`` two weights, in double precision and without BLAS.

    How BLAS rounds depends on how many cores there are, and answers would too.
    """
    found = np.einsum(of, one.astype(np.float64), other.astype(np.float64))
    return np.ascontiguousarray(found, dtype=np.float32)


class WordTypes:
    """Word types to gates, of one network. Raises ValueError for a network that the kernel is not
    written for."""

    def __init__(self, weights: WordWeights, at_level: int | None = None) -> None:
        self._level = _usable(at_level)
        w = weights
        n_gates = len(w.bias)
        if n_gates % _SIDE:
            raise ValueError(f"the kernel is for gates of whole {_SIDE}s, not {n_gates}")
        (cased, _), (lower, _) = w.tables
        n_words, n_filters = cased.shape[1] + lower.shape[1], len(w.filter_bias)
        of_words, of_filters, of_shapes = np.split(w.projection, [n_words, n_words + n_filters], axis=1)
        projection = np.concatenate([of_words.T, _filled_up(of_filters.T, _FLOATS, 0)])
        self._arrays = [
            _aligned(array)
            for array in (
                cased, lower, w.tables[0][1], w.tables[1][1],
                _filled_up(w.places, _FLOATS), _filled_up(w.filter_bias, _FLOATS),
                _filled_up(product("sd,od->so", w.shapes, of_shapes) + w.projection_bias, _SIDE),
                _in_tiles(_filled_up(projection, _SIDE)),
                _in_tiles(_filled_up(w.input, _SIDE).T),
                w.bias,
            )
        ]  # fmt: skip
        width, n_characters, filters = self._arrays[4].shape
        self._words = _Words(
            cased.shape[1], lower.shape[1], filters, width, n_characters, CHAR_WINDOW,
            self._arrays[6].shape[1], n_gates, *map(_address, self._arrays),
        )  # fmt: skip
        self._compute = _library().nametag_words
        _declare(self._compute, "a i aaaa n a")
        self._n_gates = n_gates

    def gates(self, types: Encoded) -> NDArray[np.float16]:
        """(N, D * 4H), a row a type, which is the same in any company."""
        out = np.empty((len(types.shapes), self._n_gates), dtype=np.float16)
        failed = self._compute(
            ctypes.addressof(self._words), self._level,
            _address(types.cased), _address(types.lower), _address(types.shapes), _address(types.chars),
            len(out), _address(out),
        )  # fmt: skip
        if failed:
            raise MemoryError("the word types' scratch memory")
        return out


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
        self._level = _usable(at_level)
        if hidden % 16 or gates != 4 * hidden:
            raise ValueError(f"the kernel is for hidden widths of whole 16s, not {hidden}")
        if np.abs(weights.astype(np.int16)).max(initial=0) > _MOST_WEIGHT:
            raise ValueError(f"the kernel is for weights of at most {_MOST_WEIGHT}")
        tiles = weights.reshape(directions, gates // _SIDE, _SIDE, hidden // 4, 4).transpose(0, 1, 3, 2, 4)
        self.n_labels = len(bias)
        self._arrays = (
            _aligned(tiles),
            _aligned(scales * np.float32(1 / 127), np.float32),
            _aligned(weights.sum(2, dtype=np.int32) * -128, np.int32),
            _aligned(output, np.float32),
            _aligned(bias, np.float32),
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
        order = np.argsort(-lengths, kind="stable") if len(lengths) > 1 else np.zeros(1, np.int64)
        out = np.empty((*rows.shape, self.n_labels), dtype=np.float32)
        failed = self._compute(
            ctypes.addressof(self._network), self._level,
            _address(gates), _address(rows), _address(lengths), _address(order), *rows.shape, _address(out),
        )  # fmt: skip
        if failed:
            raise MemoryError("the recurrence's scratch memory")
        return out


def sums_chains(n_labels: int) -> bool:
    """Whether there can be ChainSums for so many labels."""
    return n_labels <= _MOST_LABELS and _library() is not None


class ChainSums:
    """One chain's, at a temperature.

    ``scores``: its start (K,), transitions (K, K) and end (K,), -inf where a move is illegal; ``masses``:
    exp of them over the temperature. ``places``: decimal ones, to which labels' scores are rounded.
    """

    def __init__(
        self,
        scores: tuple[NDArray[np.float64], ...],
        masses: tuple[NDArray[np.float64], ...],
        temperature: float,
        places: int,
    ) -> None:
        self._arrays = [_aligned(array, np.float64) for array in (*scores, *masses)]
        self._given = (*map(_address, self._arrays), temperature, 10.0**places)
        self._compute = _library().nametag_chain

    def of(
        self, emissions: NDArray[np.float64], lengths: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Of emissions (B, T, K): model.head's ``best_path`` (B, T), the rounded scores of its labels
        (B, T), and ``messages`` at the temperature: marginals and suffixes, (B, T, K) each. 0 past a
        sentence's length."""
        emissions, lengths = np.ascontiguousarray(emissions), np.ascontiguousarray(lengths)
        n_sentences, n_steps, n_labels = emissions.shape
        path = np.zeros((n_sentences, n_steps), dtype=np.int64)
        out = np.zeros((1 + 2 * n_labels) * path.size)
        chosen, marginals = path.size, path.size * n_labels
        at = _address(out)
        failed = self._compute(
            _address(emissions), _address(lengths), n_sentences, n_steps, n_labels, *self._given,
            _address(path), at, at + 8 * chosen, at + 8 * (chosen + marginals),
        )  # fmt: skip
        if failed:
            raise MemoryError("the chain's scratch memory")
        scores, both = out[:chosen].reshape(path.shape), out[chosen:].reshape(2, *emissions.shape)
        return path, scores, both[0], both[1]
