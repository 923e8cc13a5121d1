"""python -m hive_kernels.backends: prints what computes each operation on this machine, and why a backend can't run."""

import torch

from hive_kernels.backends import table

print(table("cuda" if torch.cuda.is_available() else "cpu"))
