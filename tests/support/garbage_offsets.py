"""``python -m tests.support.garbage_offsets``: the CUDA backend's attention, emulated, on offsets that are garbage.

test_cuda_memory.py starts it with guarded_memory.cpp preloaded. It prints each case before it runs it, and at the end
how many there were. Results are not looked at: nothing can be right.
"""

import ctypes
import os
import random
import signal

import torch
from torch import Tensor

from hive_kernels import resolve

INT_MIN, INT_MAX = -(2**31), 2**31 - 1
TOKENS, KEYS, SAMPLES = 6, 5, 3
NAMED = [
    [0, INT_MIN, 6, 6],
    [-1_000_000_000, 3, 6, 6],
    [INT_MIN, INT_MAX, INT_MIN, INT_MAX],
    [INT_MAX, INT_MAX, INT_MAX, INT_MAX],
    [6, 4, 2, 0],
    [0, 6, 0, 6],
    [0, 5, 3, 90],
    [2**30, -(2**30), 2**29, 7],
    [1_431_655_766, 3, 6, 6],  # times a group of 3 it is 2 in 32 bits
    [0],  # no sample
]


def garbage(generator: random.Random) -> list[int]:
    """Offsets near the tensor's ends, and anywhere in 32 bits."""
    anywhere = (generator.randint(INT_MIN, INT_MAX) >> generator.randint(0, 30) for _ in range(SAMPLES + 1))
    return [generator.choice((number, generator.randint(-2, 8))) for number in anywhere]


def run(offsets: list[int], packed: bool, group: int, dim: int, longest: int) -> None:
    """Forward and backward."""
    offsets_q = torch.tensor(offsets, dtype=torch.int32)
    samples = () if packed else (len(offsets) - 1,)
    q, k = (torch.zeros(shape).half() for shape in ((TOKENS, group, dim), (*samples, KEYS, 1, dim)))
    inputs = (q, k, k, offsets_q, offsets_q if packed else None, 1.0, longest)
    out, lse = torch.ops.hive_kernels_cuda.cross_attention(*inputs)
    torch.ops.hive_kernels_cuda.cross_attention_backward(q, out, lse, *inputs)


def touch(tensor: Tensor, byte: int) -> int:
    """How a process ends that reads this byte, counted from the tensor's first one: 0, or a signal's number."""
    child = os.fork()
    if child == 0:
        ctypes.string_at(tensor.data_ptr() + byte, 1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    """Runs all cases."""
    whole = torch.zeros(TOKENS, 3, 64).half()
    ends = {byte: touch(whole, byte) for byte in (0, whole.nbytes - 1, whole.nbytes, -4096)}
    assert [*ends.values()] == [0, 0, -signal.SIGSEGV, -signal.SIGSEGV], f"memory is not guarded: {ends}"
    resolve("cuda", "cpu")
    generator = random.Random(0)
    cases = 0
    for offsets in [*NAMED, *(garbage(generator) for _ in range(25))]:
        for packed in (False, True):
            group, dim, longest = (generator.choice(values) for values in ((1, 3, 16, 50), (64, 128), (1, 6)))
            print(f"offsets {offsets}, packed keys {packed}, group {group}, dim {dim}, longest {longest}", flush=True)
            run(offsets, packed, group, dim, longest)
            cases += 1
    print(f"{cases} cases")


if __name__ == "__main__":
    main()
