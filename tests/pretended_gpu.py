"""A GPU that there is not: tensors that say "cuda" and hold their numbers in main memory.

An operation on tensors of different devices raises, as CUDA has it. So a machine without a GPU finds
what most often breaks the way to one: a tensor made, or left, on the wrong device. It knows nothing
of CUDA's kernels, their rounding or their speed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

_GPU, _CPU = torch.device("cuda", 0), torch.device("cpu")
# What CUDA has take tensors of main memory too: copies, and rows chosen by number.
_MIXING = ("copy_", "index", "index_put_")


class _OnGpu(Tensor):
    """A tensor of the GPU's. autograd, which runs above, sees one on the CPU."""

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor) -> _OnGpu:
        made: _OnGpu = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
        )
        made.inner = inner
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return _GPU

    def tolist(self) -> Any:
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = (args, dict(kwargs or {}))
        name = func._overloadpacket.__name__
        for leaf in tree_leaves(given):
            # A CPU's number without dimensions may take part, but not as a fused optimiser's step.
            is_elsewhere = isinstance(leaf, Tensor) and not isinstance(leaf, _OnGpu)
            if is_elsewhere and name not in _MIXING and (leaf.dim() or "fused" in name):
                raise RuntimeError(f"{func}: Expected all tensors to be on the same device")
        inner_args, inner_kwargs = tree_map_only(_OnGpu, lambda tensor: tensor.inner, given)
        out = func(*inner_args, **inner_kwargs)
        if name == "copy_" and not isinstance(args[0], _OnGpu):
            return args[0]
        out = tree_map_only(Tensor, _OnGpu, out)
        return return_and_correct_aliasing(func, *given, out)


# What makes tensors on a device that it is told.
_MAKERS = ("arange", "as_tensor", "empty", "full", "ones", "rand", "tensor", "zeros")


def _making(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def made(*args: Any, device: str | torch.device | None = None, **options: Any) -> Tensor:
        return _moved(make(*args, **options), torch.device(device or "cpu"))

    return made


def _to(tensor: Tensor, *args: Any, **options: Any) -> Tensor:
    if args and isinstance(args[0], Tensor):
        args = (args[0].device, args[0].dtype)
    given = (*args, *options.values())
    dtypes = [each for each in given if isinstance(each, torch.dtype)]
    places = [torch.device(each) for each in given if isinstance(each, (str, torch.device))]
    cast = tensor.type(dtypes[0]) if dtypes else tensor
    return _moved(cast, places[0]) if places else cast


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy, with no way back for gradients, unless it is there already."""
    if tensor.device.type == device.type:
        return tensor
    own = tensor.detach()
    return own.inner.clone() if isinstance(own, _OnGpu) else _OnGpu(own.clone())


@contextmanager
def pretended_gpu() -> Iterator[None]:
    """Within it there is a CUDA device. Its bfloat16 is the CPU's, which has it for fewer operations."""
    autocast, overwrites = torch.autocast, torch.__future__.get_overwrite_module_params_on_conversion()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch, "autocast", lambda _, *args, **options: autocast("cpu", *args, **options))
        patch.setattr(torch, "inference_mode", torch.no_grad)  # in which a wrapped tensor has no views
        for name in _MAKERS:
            patch.setattr(torch, name, _making(getattr(torch, name)))
        patch.setattr(Tensor, "to", _to)
        patch.setattr(Tensor, "cpu", lambda tensor: _moved(tensor, _CPU))
        patch.setattr(Tensor, "pin_memory", lambda tensor: tensor)
        # Else a module that moves keeps its parameters, and takes over their memory only.
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        # oneDNN, which CUDA does not ask, has LSTMs of bfloat16 for processors with AVX-512 alone.
        is_enabled, *_ = torch.backends.mkldnn.set_flags(False)
        try:
            yield
        finally:
            torch.backends.mkldnn.set_flags(is_enabled)
            torch.__future__.set_overwrite_module_params_on_conversion(overwrites)
