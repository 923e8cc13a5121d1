"""What every launch of our Triton kernels needs around it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from hive_kernels import profiling
from hive_kernels.backends import INTERPRETED
from hive_kernels.validation import invalid

DTYPES = (torch.float16, torch.bfloat16, torch.float32)


@contextmanager
def ready(name: str, device: torch.device, *dtypes: torch.dtype) -> Iterator[None]:
    """The device selected, self-checked once (see :mod:`hive_kernels.selfcheck`), and ``name`` shown in profiles.

    Raises:
        ValueError: one of ``dtypes`` is none that the kernels serve here.
    """
    for dtype in dtypes:
        if dtype not in DTYPES:
            raise invalid("dtype", dtype, "torch.float16, torch.bfloat16 or torch.float32 under backend 'triton'")
        if INTERPRETED and dtype == torch.bfloat16:
            raise invalid(
                "dtype", dtype, "torch.float16 or torch.float32 under TRITON_INTERPRET=1, whose bf16 products are wrong"
            )
    if device.type != "cuda":
        with profiling.span(name):
            yield
        return
    from hive_kernels import selfcheck

    selfcheck.ensure(device)
    with torch.cuda.device(device), profiling.span(name):
        yield


def capability(device: torch.device) -> int:
    """The key of tile tables: 86 for an RTX 3090, 90 for an H100, 0 for the interpreter."""
    if device.type != "cuda":
        return 0
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor
