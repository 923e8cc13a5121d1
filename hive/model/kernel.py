"""The backend of the fused operations that a run uses."""

import torch

from hive.config import Kernel
from hive.errors import UserError
from hive_kernels import backends


def kernel_for(name: Kernel, device: torch.device) -> Kernel:
    """The backend that `--kernel` means on the device; `UserError` says why it can't run there, and which can."""
    try:
        return backends.resolve(name, device)
    except ValueError as error:
        reason = str(error).removeprefix(f"backend is {name!r}, which ")
        raise UserError(f"--kernel is {name}, but that {reason}.") from error
