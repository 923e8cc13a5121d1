"""The definition of the four operations: sample by sample, plain products, any floating dtype.

Softmax and log-sum-exp are in fp32 or above.
"""

from itertools import pairwise

import torch
from torch import Tensor

from hive_kernels.validation import without_autocast


def cross_attention(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, max_seqlen_q: int | None, cu_seqlens_k: Tensor | None,
    max_seqlen_k: int | None, scale: float, return_lse: bool,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """q [T, Hq, D], k, v [B, N, Hkv, D] or packed [Tk, Hkv, D] -> out [T, Hq, D], and lse [T, Hq] on request."""
    images = _offsets(cu_seqlens_k)
    outputs, sums = [q[:0]], [q[:0, :, 0].to(_wide(q))]
    for i, (start, end) in enumerate(pairwise(cu_seqlens_q.tolist())):
        image = _image(i, images)
        scores = _scores(q[start:end], k[image], scale)
        # Without keys the sums are empty: out = 0, and lse = log 0 = -inf.
        outputs.append(_read(scores, v[image], q))
        if return_lse:
            sums.append(scores.logsumexp(-1).transpose(0, 1))
    return torch.cat(outputs), torch.cat(sums).detach() if return_lse else None


def joint_attention(
    q: Tensor, k_text: Tensor, v_text: Tensor, k_image: Tensor, v_image: Tensor, cu_seqlens: Tensor,
    max_seqlen: int | None, cu_seqlens_image: Tensor | None, max_seqlen_image: int | None, scale: float,
) -> Tensor:  # fmt: skip
    """q [T, Hq, D], k_text, v_text [T, Hkv, D], k_image, v_image [B, N, Hkv, D] or packed [Tk, Hkv, D] -> [T, Hq, D].

    One softmax over the concatenated image and text keys.
    """
    images, outputs = _offsets(cu_seqlens_image), [q[:0]]
    for i, (start, end) in enumerate(pairwise(cu_seqlens.tolist())):
        image = _image(i, images)
        scores = _scores(q[start:end], torch.cat([k_image[image], k_text[start:end]]), scale)
        values = torch.cat([v_image[image], v_text[start:end]])
        outputs.append(_read(_without_future(scores), values, q))
    return torch.cat(outputs)


def causal_attention(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, max_seqlen: int, scale: float) -> Tensor:
    """q [T, Hq, D], k, v [T, Hkv, D] -> [T, Hq, D]."""
    outputs = [q[:0]]
    for start, end in pairwise(cu_seqlens.tolist()):
        scores = _scores(q[start:end], k[start:end], scale)
        outputs.append(_read(_without_future(scores), v[start:end], q))
    return torch.cat(outputs)


def cross_attention_weights(
    q: Tensor, k: Tensor, lse: Tensor, tokens: Tensor, samples: Tensor, cu_seqlens_k: Tensor | None, scale: float,
    width: int, head_mean: bool,
) -> Tensor:  # fmt: skip
    """Maps of ``tokens`` [R], which belong to ``samples`` [R]: [R, Hq, width] or their mean [R, width]; lse's dtype."""
    images = _offsets(cu_seqlens_k)
    with without_autocast(q.device):
        chosen, sums = q[tokens].to(lse.dtype), lse[tokens]
        weights = chosen.new_zeros(*chosen.shape[:2], width)
        groups = q.shape[1] // k.shape[-2]
        for row, sample in enumerate(samples.tolist()):
            keys = k[_image(sample, images)].to(lse.dtype).repeat_interleave(groups, 1)  # [N, Hq, D]
            scores = torch.einsum("hd,nhd->hn", chosen[row], keys) * scale
            weights[row, :, : keys.shape[0]] = (scores - sums[row, :, None]).exp()
    return weights.mean(1) if head_mean else weights


def _wide(q: Tensor) -> torch.dtype:
    return torch.promote_types(q.dtype, torch.float32)


def _offsets(cu_seqlens: Tensor | None) -> list[int] | None:
    return None if cu_seqlens is None else cu_seqlens.tolist()


def _image(sample: int, offsets: list[int] | None) -> int | slice:
    """The index of a sample's keys [N, Hkv, D] in dense keys or, with ``offsets``, in packed ones."""
    return sample if offsets is None else slice(offsets[sample], offsets[sample + 1])


def _scores(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """scale * q k^T of one sample: q [L, Hq, D], k [N, Hkv, D] -> [Hq, L, N]."""
    keys = k.repeat_interleave(q.shape[1] // k.shape[1], 1).transpose(0, 1)  # [Hq, N, D]
    return (q.transpose(0, 1) @ keys.transpose(1, 2)).to(_wide(q)) * scale


def _without_future(scores: Tensor) -> Tensor:
    """[Hq, L, N + L] -> the same, -inf where one of the last L keys, the text's own, comes after the query."""
    length, keys = scores.shape[1:]
    future = torch.ones(length, keys, dtype=torch.bool, device=scores.device).triu(keys - length + 1)
    return scores.masked_fill(future, float("-inf"))


def _read(scores: Tensor, v: Tensor, q: Tensor) -> Tensor:
    """softmax(scores) v in q's dtype: scores [Hq, L, N], v [N, Hkv, D] -> [L, Hq, D]."""
    values = v.repeat_interleave(scores.shape[0] // v.shape[1], 1).transpose(0, 1)
    return (scores.softmax(-1).to(q.dtype) @ values).transpose(0, 1)
