"""Argument checks that the operations share. None of them synchronises a GPU, except under ``debug(True)``.

Every error is a ValueError made by :func:`invalid`: the argument, what was given, what is allowed.
"""

from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


_debugging = False


class debug:  # noqa: N801 - used as a function, or as a context manager
    """Turns checks of values on a GPU, which synchronise it, on or off: from now on, or inside a ``with`` block.

    The values are offsets and targets.
    """

    def __init__(self, on: bool) -> None:
        global _debugging
        self._before, _debugging = _debugging, on

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        global _debugging
        _debugging = self._before


def _readable(x: Tensor) -> bool:
    """Whether values may be read: on a CPU always, elsewhere when debugging; fake and traced tensors have none."""
    if type(x) is not Tensor or x.is_meta or torch.compiler.is_compiling():
        return False
    return x.device.type == "cpu" or _debugging


def invalid(argument: str, given: Any, allowed: str) -> ValueError:
    """The error that names an argument, what was given and what is allowed."""
    return ValueError(f"{argument} is {given}; allowed: {allowed}")


def check_tensor(argument: str, x: Any, shape: tuple[int | str, ...], device: torch.device) -> None:
    """Raises unless ``x`` is a tensor of ``shape`` on ``device``; ``shape`` has a letter where a size is free."""
    if not isinstance(x, Tensor):
        raise invalid(argument, f"a {type(x).__name__}", f"a tensor of shape {_text(shape)}")
    fits = len(shape) == x.dim()
    if fits:
        for wanted, size in zip(shape, x.shape, strict=True):  # a loop: all() costs a launch's worth of time here
            fits = fits and (wanted == size or isinstance(wanted, str))
    if not fits:
        raise invalid(f"{argument}.shape", tuple(x.shape), _text(shape))
    if x.device != device:
        raise invalid(f"{argument}.device", x.device, f"{device}, where the first argument is")


def check_float(argument: str, x: Tensor, dtype: torch.dtype | None = None) -> None:
    """Raises unless ``x`` is of a floating-point dtype, and of ``dtype`` where one is given."""
    if x.dtype not in FLOATS:
        raise invalid(f"{argument}.dtype", x.dtype, ", ".join(map(str, FLOATS)))
    if dtype is not None and x.dtype != dtype:
        raise invalid(f"{argument}.dtype", x.dtype, f"{dtype}, as the first argument has")


def check_cu_seqlens(argument: str, cu_seqlens: Any, total: int, max_seqlen: int | None, device: torch.device) -> None:
    """Raises unless the offsets are int32 [B+1], from 0 to ``total``, never decreasing, no step above ``max_seqlen``.

    Values are read on a CPU, and under :class:`debug`; elsewhere that would synchronise.
    """
    check_tensor(argument, cu_seqlens, ("B+1",), device)
    if cu_seqlens.dtype != torch.int32:
        raise invalid(f"{argument}.dtype", cu_seqlens.dtype, "torch.int32")
    if cu_seqlens.shape[0] == 0:
        raise invalid(f"{argument}.shape", (0,), "(B+1,), at least one element, the leading 0")
    if cu_seqlens.shape[0] == 1 and total != 0:
        raise invalid(f"{argument}.shape", (1,), f"(B+1,) with B >= 1 for {total} packed tokens")
    if max_seqlen is not None and (not isinstance(max_seqlen, int | torch.SymInt) or max_seqlen < 0):
        raise invalid(argument.replace("cu_seqlens", "max_seqlen"), max_seqlen, "None or an int >= 0")
    if not _readable(cu_seqlens):
        return
    offsets = cu_seqlens.tolist()
    lengths = [end - start for start, end in pairwise(offsets)]
    if offsets[0] != 0 or offsets[-1] != total:
        raise invalid(argument, f"from {offsets[0]} to {offsets[-1]}", f"from 0 to {total}, the packed tokens")
    if min(lengths, default=0) < 0:
        raise invalid(argument, f"decreasing after sample {lengths.index(min(lengths))}", "never decreasing")
    if max_seqlen is not None and max(lengths, default=0) > max_seqlen:
        raise invalid(argument, f"a sample of {max(lengths)} tokens", f"at most max_seqlen = {max_seqlen}")


def check_targets(argument: str, targets: Tensor, classes: int, ignored: int) -> None:
    """Raises under :class:`debug` unless targets are in [0, classes) or ``ignored``.

    Without it torch raises, but later.
    """
    if not _debugging or not _readable(targets):
        return
    wrong = (targets != ignored) & ((targets < 0) | (targets >= classes))
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise invalid(f"{argument}[{row}]", int(targets[row]), f"0 to {classes - 1}, or {ignored} for a row to ignore")


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """The dtype of torch.autocast on the device of ``x``; None when it is off or, as for fp64, doesn't apply."""
    device = x.device.type
    if x.dtype == torch.float64 or not _has_autocast(x.device) or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)


def under_autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors as autocast casts them for a matrix product, so that all backends get the same inputs."""
    dtype = autocast_dtype(tensors[0])
    return tensors if dtype is None else tuple(x.to(dtype) for x in tensors)


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """A context without autocast on ``device``; a null context where, as on the meta device, there is none."""
    return torch.autocast(device.type, enabled=False) if _has_autocast(device) else nullcontext()


def _has_autocast(device: torch.device) -> bool:
    """Whether there is autocast on the device; torch.amp.is_autocast_available breaks the graph of torch 2.11."""
    return device.type != "meta"


def _text(shape: tuple[int | str, ...]) -> str:
    return "(" + ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "") + ")"
