"""Puts `hive_kernels` into somebody else's decoder block: text that reads image tokens, forward and backward.

    python examples/your_model.py --backend torch

Texts of different lengths lie end to end in one tensor, without padding; `cu_seqlens` says where each one starts.
"""

import argparse
import copy
import sys

import torch
from torch import Tensor, nn

from hive_kernels import cross_attention, gated_residual, resolve
from hive_kernels.command import exit_code


class Block(nn.Module):
    """The text reads the image behind a gate, then passes the block's own MLP."""

    def __init__(self, width: int, image_width: int, heads: int, kv_heads: int, backend: str) -> None:
        super().__init__()
        self.head_dim, self.backend = width // heads, backend
        self.norm = nn.LayerNorm(width)
        self.query, self.output = nn.Linear(width, width), nn.Linear(width, width)
        self.key_value = nn.Linear(image_width, 2 * kv_heads * self.head_dim)
        self.gate = nn.Parameter(torch.tensor(0.5))  # at 0 what the text reads would get no gradient at first
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, text: Tensor, image: Tensor, cu_seqlens: Tensor) -> Tensor:
        """`text` [T, width] of B packed texts, `image` [B, N, image_width], `cu_seqlens` int32 [B + 1]: [T, width]."""
        query = self.query(self.norm(text)).unflatten(-1, (-1, self.head_dim))  # [T, heads, head_dim]
        key, value = self.key_value(image).unflatten(-1, (2, -1, self.head_dim)).unbind(2)  # [B, N, kv_heads, head_dim]
        read = cross_attention(query, key, value, cu_seqlens, backend=self.backend)
        text = gated_residual(text, self.output(read.flatten(1)), self.gate, backend=self.backend)
        return text + self.mlp(text)


def main(argv: list[str] | None = None) -> None:
    """Runs the block with a backend and with the definition; raises AssertionError where they differ."""
    parser = argparse.ArgumentParser(description="One decoder block on hive_kernels, checked against the definition.")
    parser.add_argument("--backend", default="auto", help="one that `python -m hive_kernels.backends` lists")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        backend = resolve(parser.parse_args(argv).backend, device)
    except ValueError as error:  # an unknown name, or one that can't run here
        parser.error(str(error))
    torch.manual_seed(0)
    with torch.device(device):
        block = Block(width=256, image_width=192, heads=4, kv_heads=2, backend=backend)
        text, image = torch.randn(12, 256), torch.randn(2, 49, 192)
        cu_seqlens = torch.tensor([0, 7, 12], dtype=torch.int32)  # texts of 7 and 5 tokens
    definition = copy.deepcopy(block)
    definition.backend = "reference"
    outputs = [model(text, image, cu_seqlens) for model in (block, definition)]
    for output in outputs:
        output.square().mean().backward()
    gradients = [[weight.grad for weight in model.parameters()] for model in (block, definition)]
    torch.testing.assert_close([outputs[0], *gradients[0]], [outputs[1], *gradients[1]], rtol=1e-4, atol=1e-5)
    print(f"backend {backend}: output {tuple(outputs[0].shape)} and {len(gradients[0])} gradients as the definition's")


if __name__ == "__main__":
    sys.exit(exit_code(main))
