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
    [0, 0, 0, 6],  # these are none
    [0, 3, 6, 6],
]
# Query heads of a key head, their size, and the bound on the tokens of a text. Blocks of 64 rows, of 256, and of wide
# heads; no room for sums, room for one text, for two texts, and for every sample.
SHAPES = [(3, 64, 1), (50, 64, 6), (22, 128, 6), (50, 128, 6)]


def garbage(generator: random.Random) -> list[int]:
    """Offsets near the tensor's ends, and anywhere in 32 bits."""
    anywhere = (generator.randint(INT_MIN, INT_MAX) >> generator.randint(0, 30) for _ in range(SAMPLES + 1))
    return [generator.choice((number, generator.randint(-2, 8))) for number in anywhere]


def run(offsets: list[int], packed: bool, shape: tuple[int, int, int]) -> None:
    """Forward and backward."""
    group, dim, longest = shape
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
    resolve("cuda", "cpu")
    ctypes.CDLL(None).guard_memory()
    whole = torch.zeros(TOKENS, 3, 64).half()
    ends = {byte: touch(whole, byte) for byte in (0, whole.nbytes - 1, whole.nbytes, -4096)}
    assert [*ends.values()] == [0, 0, -signal.SIGSEGV, -signal.SIGSEGV], f"memory is not guarded: {ends}"
    generator = random.Random(0)
    named = [(offsets, shape) for offsets in NAMED for shape in SHAPES]
    others = [(garbage(generator), SHAPES[number % len(SHAPES)]) for number in range(24)]
    for number, (offsets, shape) in enumerate(named + others):
        packed = (number + number // len(SHAPES)) % 2 == 0  # every shape has both
        print(f"offsets {offsets}, packed keys {packed}, (group, dim, longest) {shape}", flush=True)
        run(offsets, packed, shape)
    print(f"{len(named + others)} cases")


if __name__ == "__main__":
    main()
