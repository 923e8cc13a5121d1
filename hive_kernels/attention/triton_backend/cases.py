"""Every launch of the forward and backward kernels, described for compilation without a GPU."""

from collections.abc import Iterator
from typing import Any

from hive_kernels.attention import tiles
from hive_kernels.attention.tiles import Tile
from hive_kernels.attention.triton_backend.backward import key_gradient_kernel, one_pass_kernel, query_gradient_kernel
from hive_kernels.attention.triton_backend.forward import forward_kernel
from hive_kernels.compile_case import CompileCase


def compile_cases(capability: int) -> Iterator[CompileCase]:
    """Every kernel with every tile that GPUs of ``capability`` (as 86) run, for groups of three heads.

    Heads are as wide as the tile, and for tiles of 128 also 80 wide, as an example of masked heads.
    """
    launches = [
        (role, Tile(*launch), dtype, dim)
        for (role, gpu, bits, padded, _), launch in tiles.TABLE.items()
        for dim in ((80, 128) if padded == 128 else (padded,))
        for dtype in (("fp16", "bf16") if bits == 16 else ("fp32",))
        if gpu == capability and launch != tiles.TWO_KERNELS
    ]
    for role, tile, dtype, dim in dict.fromkeys(launches):
        for images in ("dense", "packed"):
            yield compile_case("cross_attention", role, tile, dtype, dim, images)
            if role in ("forward", "query_gradient"):
                yield compile_case("joint_attention", role, tile, dtype, dim, images)
        if role == "key_gradient":
            yield compile_case("joint_attention", role, tile, dtype, dim, "text")


_KERNELS: dict[str, Any] = {
    "forward": forward_kernel,
    "query_gradient": query_gradient_kernel,
    "key_gradient": key_gradient_kernel,
    "one_pass": one_pass_kernel,
}


def compile_case(operation: str, role: str, tile: Tile, dtype: str, dim: int, keys: str) -> CompileCase:
    """One launch over ``keys``: "dense", images of one size that the tile divides; "packed", of any size; or "text"."""
    kernel = _KERNELS[role]
    constexprs: dict[str, Any] = {
        "GROUP": 3, "HEAD_DIM": dim, "BLOCK_D": tiles.block_d(dim), "BLOCK_M": tile.rows, "BLOCK_N": tile.keys,
        "EVEN": keys == "dense", "CAUSAL": keys == "text",
    }  # fmt: skip
    if operation == "cross_attention":
        constexprs |= {"k_text": None, "v_text": None}
    if keys == "dense":
        constexprs["cu_seqlens_k"] = None
    constexprs = {name: value for name, value in constexprs.items() if name in kernel.arg_names}
    types = dict.fromkeys(("lse", "delta"), "*fp32") | dict.fromkeys(("cu_seqlens_q", "cu_seqlens_k"), "*i32")
    types |= dict.fromkeys(("tokens", "keys", "batch", "tiles"), "i32") | {"scale": "fp32"}
    signature, attrs = {}, {}
    for i, name in enumerate(kernel.arg_names):
        stride = name.startswith("stride")
        signature[name] = "constexpr" if name in constexprs else types.get(name, "i32" if stride else f"*{dtype}")
        if stride or signature[name].startswith("*"):
            attrs[(i,)] = [["tt.divisibility", 16]]
    return CompileCase(
        name=f"{operation}.{role}.{keys}.{dtype}.d{dim}.{tile.rows}x{tile.keys}w{tile.warps}s{tile.stages}",
        function=kernel,
        signature=signature,
        constexprs=constexprs,
        num_warps=tile.warps,
        num_stages=tile.stages,
        attrs=attrs,
    )
