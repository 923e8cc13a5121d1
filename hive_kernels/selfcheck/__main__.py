"""python -m hive_kernels.selfcheck [--fp32] [BACKEND]: checks a backend's kernels here, and prints the errors."""

import argparse
import sys

import torch

from hive_kernels.backends import BACKENDS, reason_unavailable
from hive_kernels.command import exit_code
from hive_kernels.selfcheck import SelfCheckError, device_name, run


def main(arguments: list[str] | None = None) -> None:
    """Checks the given backend, or triton, and prints the results; exits with a sentence if the check fails."""
    known = [name for name, backend in BACKENDS.items() if backend.checked]
    parser = argparse.ArgumentParser(
        prog="python -m hive_kernels.selfcheck",
        usage="%(prog)s [-h] [--fp32] [BACKEND]",
        description="Checks a backend's kernels on this machine, and prints the errors.",
    )
    parser.add_argument("backend", nargs="*", metavar="BACKEND", help=f"{' or '.join(known)}; triton if left out")
    parser.add_argument("--fp32", action="store_true", help="also in fp32, after the 16-bit types")
    options = parser.parse_args(arguments)
    given = options.backend
    if len(given) > 1 or not set(given) <= set(known):
        raise SystemExit(f"arguments are {' '.join(given)}; allowed: {' or '.join(known)}")
    backend = given[0] if given else "triton"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtypes = [dtype for dtype in BACKENDS[backend].checked[device.type] if options.fp32 or dtype.itemsize == 2]
    if options.fp32 and torch.float32 not in dtypes:
        raise SystemExit(f"--fp32 was given, but backend {backend} has no kernels in fp32: leave it out")
    reason = reason_unavailable(backend, device)
    if reason is not None:
        raise SystemExit(f"nothing to check on this machine: {reason}")
    try:
        results = run(device, backend, dtypes)
    except SelfCheckError as error:
        raise SystemExit(str(error)) from None
    for name, dtype, result in results:
        print(f"{name:36}{dtype!s:16}{result.name:12}{result.error:.2e} of {result.allowed:.2e}")
    print(f"{len(results)} results on {device_name(device)} within the tolerance")


if __name__ == "__main__":
    sys.exit(exit_code(main))
