"""Which backend a name means, and what is said when it can't run."""

import subprocess
import sys

import pytest
import torch

import hive_kernels
from hive_kernels import resolve
from hive_kernels.backends import IMPLEMENTATIONS, reason_unavailable


def test_resolve():
    for device in ("cpu", "cuda", torch.device("cuda", 1), "meta"):
        assert resolve("auto", device) == "torch"
        assert resolve("torch", device) == "torch"
    assert resolve("reference", "cpu") == "reference"


@pytest.mark.parametrize("name", ["triton", "cuda"])
def test_backends_that_are_not_built_say_so(name):
    with pytest.raises(ValueError, match=rf"'{name}'.*not built in this version.*allowed here: auto, torch, reference"):
        resolve(name, "cuda")


def test_the_reference_needs_values():
    with pytest.raises(ValueError, match=r"can't run on meta: it reads cu_seqlens.*allowed here: auto, torch$"):
        resolve("reference", "meta")


def test_unknown_names():
    with pytest.raises(ValueError, match="backend is 'tirton'; allowed: auto, torch, reference, triton, cuda"):
        resolve("tirton", "cpu")


def test_every_public_operation_is_listed():
    assert set(IMPLEMENTATIONS) | {"resolve"} == set(hive_kernels.__all__)
    assert all(reason_unavailable(name, "cpu") is None for built in IMPLEMENTATIONS.values() for name in built)


def test_importing_needs_torch_alone():
    program = """
import sys
sys.modules.update(dict.fromkeys(("triton", "transformers", "hive")))  # importing one of these now fails
import hive_kernels
"""
    subprocess.run([sys.executable, "-c", program], check=True)
