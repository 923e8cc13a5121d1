"""Logits in a few large chunks; gradients are computed while a chunk's logits are in memory.

torch's own F.linear_cross_entropy (2.13) is not used. It returns the loss in h's dtype, so a bf16 sum over a batch
keeps three digits; it ignores autocast; its weight gradient is added by index_add_, which uses atomics on a GPU; FLOP
and memory counters don't see its operations; a second backward pass is an error unless requested; and by default its
chunks at a vocabulary of 32,000 are so small that a few hundred rows take longer than with plain logits.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hive_kernels.linear_cross_entropy.reference import IGNORED
from hive_kernels.validation import without_autocast

# Elements of one chunk's logits: 256 MB in fp32, 2,000 rows at a vocabulary of 32,000, enough to fill a large GPU.
CHUNK_ELEMENTS = 2**26


def linear_cross_entropy(h: Tensor, w: Tensor, targets: Tensor) -> Tensor:
    """h [T, D], w [V, D], targets int64 [T] -> scalar, fp32 or above."""
    grad = torch.is_grad_enabled()
    return _ChunkedLoss.apply(h, w, targets, grad and h.requires_grad, grad and w.requires_grad)


class _ChunkedLoss(torch.autograd.Function):
    """The loss; its forward pass computes the gradients too.

    Recomputing the logits in backward would cost a fourth GEMM and save only the gradient of h, [T, D]; the weight's
    gradient is allocated at the start of the backward pass anyway, because this is the network's last operation.
    Backward scales copies, so it can run more than once (retain_graph).
    """

    @staticmethod
    def forward(ctx: Any, h: Tensor, w: Tensor, targets: Tensor, need_h: bool, need_w: bool) -> Tensor:
        wide = torch.promote_types(h.dtype, torch.float32)
        rows = max(CHUNK_ELEMENTS // max(w.shape[0], 1), 1)
        loss = torch.zeros((), dtype=wide, device=h.device)
        grad_h = torch.empty_like(h) if need_h else None
        grad_w = torch.zeros_like(w, dtype=wide) if need_w else None
        with without_autocast(h.device):
            for start in range(0, h.shape[0], rows):
                chunk = slice(start, start + rows)
                ignored = (targets[chunk] == IGNORED).unsqueeze(1)  # [R, 1]
                target = targets[chunk].unsqueeze(1).masked_fill(ignored, 0)
                logits = h[chunk] @ w.t()  # [R, V]
                log_p = logits.log_softmax(1, dtype=wide)
                # Not loss -=: compiled by torch 2.11, what an in-place operation returns gets no gradient.
                loss = loss - log_p.gather(1, target).masked_fill(ignored, 0).sum()
                if grad_h is None and grad_w is None:
                    continue
                p = log_p.exp_()
                p.scatter_(1, target, p.gather(1, target) - 1)  # the gradient with respect to the logits
                d_logits = p if p.dtype == h.dtype else logits.copy_(p)
                # An ignored row is zeroed in the [R, D] operands, not in the far larger [R, V].
                if grad_h is not None:
                    grad_h[chunk] = (d_logits @ w).masked_fill_(ignored, 0)
                if grad_w is not None:
                    grad_w += d_logits.t() @ h[chunk].masked_fill(ignored, 0)
        ctx.save_for_backward(grad_h, None if grad_w is None else grad_w.to(w.dtype))
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        grad_h, grad_w = (None if grad is None else grad * grads[0] for grad in ctx.saved_tensors)
        return grad_h, grad_w, None, None, None
