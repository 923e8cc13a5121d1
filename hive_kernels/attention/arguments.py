"""The argument checks that the public functions of attention share; each error is a ValueError."""

from torch import Tensor

from hive_kernels.validation import check_cu_seqlens, check_tensor, invalid


def check_keys(
    k: Tensor, shape: tuple[int | str, int], cu_seqlens_q: Tensor, cu_seqlens_k: Tensor | None,
    max_seqlen_k: int | None, *, name: str, suffix: str, texts: str,
) -> None:  # fmt: skip
    """Raises unless k holds visual keys [B, N, Hkv, D] or, with ``cu_seqlens_k`` [B+1], packed ones [Tk, Hkv, D].

    Args:
        shape: (Hkv, D), where a letter is a free size.
        name: the caller's argument that k is, as "k".
        suffix: of the caller's arguments ``cu_seqlens_…`` and ``max_seqlen_…`` of packed keys, as "k".
        texts: the caller's argument that cu_seqlens_q is.
    """
    if cu_seqlens_k is None:
        check_tensor(name, k, (cu_seqlens_q.shape[0] - 1, "N", *shape), cu_seqlens_q.device)
        if max_seqlen_k is not None:
            raise invalid(f"max_seqlen_{suffix}", max_seqlen_k, f"None without cu_seqlens_{suffix}")
        return
    offsets = f"cu_seqlens_{suffix}"
    check_tensor(name, k, ("Tk", *shape), cu_seqlens_q.device)
    check_cu_seqlens(offsets, cu_seqlens_k, k.shape[0], max_seqlen_k, cu_seqlens_q.device)
    if cu_seqlens_k.shape != cu_seqlens_q.shape:
        allowed = f"{tuple(cu_seqlens_q.shape)}, as {texts} has"
        raise invalid(f"{offsets}.shape", tuple(cu_seqlens_k.shape), allowed)


def check_groups(name: str, k: Tensor, heads: int) -> None:
    """Raises unless the key heads, the last dimension but one of the argument ``name``, divide the query heads."""
    if k.shape[-2] == 0 or heads % k.shape[-2]:
        raise invalid(f"{name}.shape[{k.dim() - 2}]", k.shape[-2], f"a divisor of the {heads} query heads")
