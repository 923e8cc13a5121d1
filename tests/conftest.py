"""What libraries have to know before they are imported.

Without a GPU, Triton kernels run in Triton's interpreter. No test asks the network.
"""

import os

import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_configure() -> None:
    """Nothing runs where Triton's interpreter can't."""
    from hive_kernels.launch import INTERPRETER_PROBLEM  # imported here, since it reads TRITON_INTERPRET

    if INTERPRETER_PROBLEM:
        raise pytest.UsageError(f"Triton kernels can't be tested here: {INTERPRETER_PROBLEM}.")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that only a GPU can pass are skipped where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))
