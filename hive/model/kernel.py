"""Chooses the backend of the fused operations."""

import torch

from hive.config import Kernel
from hive.errors import UserError, choose
from hive_kernels import backends


def check_kernel_name(name: Kernel) -> None:
    """Raises `UserError` for a name that is neither auto nor in the table of backends."""
    choose("--kernel", name, {"auto": None, **backends.BACKENDS})


def kernel_for(name: Kernel, device: torch.device) -> Kernel:
    """The backend that `--kernel` means on the device.

    Raises `UserError` for an unknown name, and if it can't run there, with the reason and the backends that can.
    """
    check_kernel_name(name)
    try:
        return backends.resolve(name, device)
    except ValueError as error:
        reason = str(error).removeprefix(f"backend is {name!r}, which ")
        raise UserError(f"--kernel is {name}, but that {reason}.") from error
