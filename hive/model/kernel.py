"""Chooses the backend of the fused operations."""

import torch

from hive.config import Kernel
from hive.errors import UserError
from hive_kernels import backends


def kernel_for(name: Kernel, device: torch.device) -> Kernel:
    """The backend that `--kernel` means on the device.

    Raises `UserError` if it can't run there, with the reason and the backends that can.
    """
    try:
        return backends.resolve(name, device)
    except ValueError as error:
        reason = str(error).removeprefix(f"backend is {name!r}, which ")
        raise UserError(f"--kernel is {name}, but that {reason}.") from error
