"""The released variant of HIVE: text reads its own sample's image and its own past in one softmax."""

from torch import Tensor

from hive_kernels import backends
from hive_kernels.attention.arguments import check_groups, check_keys
from hive_kernels.validation import check_cu_seqlens, check_float, check_tensor, under_autocast


def joint_attention(
    q: Tensor,
    k_text: Tensor,
    v_text: Tensor,
    k_image: Tensor,
    v_image: Tensor,
    cu_seqlens: Tensor,
    *,
    max_seqlen: int | None = None,
    cu_seqlens_image: Tensor | None = None,
    max_seqlen_image: int | None = None,
    scale: float | None = None,
    backend: str = "auto",
) -> Tensor:
    """softmax(scale * q [k_image; k_text]^T) [v_image; v_text], all visual tokens visible, text causal.

    Args:
        q: text queries [T, Hq, D], packed; fp16, bf16, fp32 or fp64; under torch.autocast cast to its dtype.
        k_text: text keys [T, Hkv, D], same dtype. Query head h reads key head h // (Hq / Hkv).
        v_text: text values, shaped as k_text, same dtype.
        k_image: visual keys [B, N, Hkv, D], or packed [Tk, Hkv, D] with ``cu_seqlens_image``; same dtype.
        v_image: visual values, shaped as k_image, same dtype.
        cu_seqlens: int32 [B+1], where each sample's text starts, ending with T. Texts may be empty.
        max_seqlen: no text has more tokens than this. When None, backend ``torch`` reads it from cu_seqlens, which
            synchronises a GPU; ``triton`` doesn't.
        cu_seqlens_image: int32 [B+1] for packed visual keys: images of different sizes, several a text, or none.
        max_seqlen_image: no image has more tokens than this; as max_seqlen, and only with cu_seqlens_image.
        scale: factor on the scores; D ** -0.5 when None.
        backend: see :func:`hive_kernels.resolve`.

    Returns:
        [T, Hq, D] in q's dtype. For a text without an image this is causal self-attention.

    Raises:
        ValueError: a shape, dtype or device doesn't fit; on a CPU also offsets that don't.
    """
    check_tensor("q", q, ("T", "Hq", "D"), q.device)
    total, heads, dim = q.shape
    check_tensor("k_text", k_text, (total, "Hkv", dim), q.device)
    check_tensor("v_text", v_text, tuple(k_text.shape), q.device)
    check_groups("k_text", k_text, heads)
    check_cu_seqlens("cu_seqlens", cu_seqlens, total, max_seqlen, q.device)
    check_keys(
        k_image, (k_text.shape[1], dim), cu_seqlens, cu_seqlens_image, max_seqlen_image,
        name="k_image", suffix="image", texts="cu_seqlens",
    )  # fmt: skip
    check_tensor("v_image", v_image, tuple(k_image.shape), q.device)
    q, k_text, v_text, k_image, v_image = under_autocast(q, k_text, v_text, k_image, v_image)
    check_float("q", q)
    for name, x in (("k_text", k_text), ("v_text", v_text), ("k_image", k_image), ("v_image", v_image)):
        check_float(name, x, q.dtype)
    scale = dim**-0.5 if scale is None else scale
    compute = backends.JOINT_ATTENTION.function(backend, q.device)
    return compute(
        q, k_text, v_text, k_image, v_image, cu_seqlens, max_seqlen, cu_seqlens_image, max_seqlen_image, scale
    )
