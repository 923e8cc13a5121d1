"""The cases that are measured: HIVE's shapes on a GPU, small ones on a CPU. The most important ones come first."""

import random
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from hive_kernels.testing import cu_seqlens

Operation = Literal["cross_attention", "joint_attention", "residual_projector", "gated_residual"]


@dataclass(frozen=True)
class Case:
    """One operation at one shape, forward and backward."""

    operation: Operation
    name: str
    sizes: tuple[int, ...]
    """Attention: batch, visual tokens, query heads, key heads. Projector: layers, rows, Dv, D. Gate: tokens, width."""
    lengths: tuple[int, int] = (0, 0)
    """Attention: shortest and longest text; each length is as likely as another."""

    def text_lengths(self) -> list[int]:
        """Tokens of each text, the same on every call."""
        generator = random.Random(0)  # not torch's, which has no values where launches are only recorded
        return [generator.randint(*self.lengths) for _ in range(self.sizes[0])]

    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the floating-point inputs, in the operation's order."""
        if self.operation == "residual_projector":
            layers, rows, width_in, width = self.sizes
            vectors = [(layers, width_in), (layers, width_in)]
            matrices = [(layers, width_in, width), (layers, width), (layers, width, width), (layers, width)]
            skip = [] if width_in == width else [(layers, width_in, width), (layers, width)]
            return [(layers, rows, width_in), *vectors, *matrices, *skip]
        if self.operation == "gated_residual":
            return [self.sizes, self.sizes, (1,)]
        batch, tokens, heads, key_heads = self.sizes
        text, image = sum(self.text_lengths()), (batch, tokens, key_heads, DIM)
        text_keys_values = [(text, key_heads, DIM)] * 2 if self.operation == "joint_attention" else []
        return [(text, heads, DIM), *text_keys_values, image, image]

    def output_shape(self) -> tuple[int, ...]:
        """Shape of the operation's output."""
        layers, rows, *_, width = self.sizes if self.operation == "residual_projector" else (0, 0, 0)
        return (layers, rows, width) if layers else self.shapes()[0]

    def inputs(self, device: torch.device, dtype: torch.dtype, seed: int) -> list[Tensor]:
        """Normally distributed inputs; weights are scaled so that products keep the variance."""
        generator = torch.Generator(device).manual_seed(seed)
        tensors = [torch.randn(shape, generator=generator, device=device) for shape in self.shapes()]
        if self.operation == "residual_projector":
            tensors = [x * x.shape[1] ** -0.5 if i and x.dim() == 3 else x for i, x in enumerate(tensors)]
        return [x.to(dtype) for x in tensors]

    def offsets(self, device: torch.device) -> Tensor:
        """cu_seqlens of the texts, int32 [batch + 1]."""
        return cu_seqlens(self.text_lengths(), device)


DIM = 64
TEXTS = {"77": (77, 77), "U(4,77)": (4, 77), "U(4,32)": (4, 32)}


def _attention(operation: Operation, batch: int, tokens: int, heads: tuple[int, int], text: str) -> Case:
    name = f"{operation} B{batch} N{tokens} Nt {text} heads {heads[0]}/{heads[1]}"
    return Case(operation, name, (batch, tokens, *heads), TEXTS[text])


def _projector(layers: int, rows: int, width_in: int, width: int) -> Case:
    return Case("residual_projector", f"projector {layers}x{rows} {width_in}->{width}", (layers, rows, width_in, width))


def full() -> list[Case]:
    """The cases for a GPU. The headline shapes come first, for a run that is cut off."""
    first = [_attention("cross_attention", 32, 576, (15, 5), text) for text in TEXTS]
    first += [_projector(4, 32 * 576, 1152, 960), _attention("joint_attention", 32, 576, (15, 5), "U(4,77)")]
    first += [Case("gated_residual", "gate 2464x960", (32 * 77, 960))]
    attention = [
        _attention("cross_attention", batch, tokens, heads, text)
        for heads in ((15, 5), (9, 3), (32, 8))
        for batch in (256, 32)
        for tokens in (576, 577)
        for text in TEXTS
    ]
    projectors = [_projector(4, 32 * 576, 768, 576), _projector(4, 32 * 576, 960, 960)]
    projectors += [_projector(1, 256 * 576, 1152, 960)]
    return list(dict.fromkeys([*first, *attention, *projectors]))


def small() -> list[Case]:
    """The cases for a CPU, which show that everything runs, not how fast."""
    attention = [
        Case(operation, f"{operation} small", (3, 33, 6, 2), (2, 9))
        for operation in ("cross_attention", "joint_attention")
    ]
    return [
        *attention,
        _projector(2, 96, 80, 64),
        _projector(2, 96, 64, 64),
        Case("gated_residual", "gate small", (64, 96)),
    ]
