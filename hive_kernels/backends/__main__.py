"""python -m hive_kernels.backends: prints what computes each operation on this machine, and why a backend can't run."""

import sys

import torch

from hive_kernels.backends import table
from hive_kernels.command import exit_code


def main() -> None:
    """Prints the table."""
    print(table("cuda" if torch.cuda.is_available() else "cpu"))


if __name__ == "__main__":
    sys.exit(exit_code(main))
