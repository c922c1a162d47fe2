"""Compile every Triton kernel for an H100 or H200 and print its name and its matrix instructions; needs no GPU.

Run by ``test_compiles.py`` in a process of its own, because Triton either interprets or compiles. With ``all`` as its
argument it compiles more dtypes, sizes and specialised arguments, which takes a minute or two.
"""

from __future__ import annotations

import sys
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from steelyard.kernels.triton import add_rms_norm, kv_write, linear, paged_attention, swiglu
from steelyard.kernels.triton.launch import SAME_BITS

HOPPER = GPUTarget("cuda", 90, 32)
POINTERS = {"tables": "*i32", "tiles": "*i32", "parts": "*fp32", "stats": "*fp32", "slots": "*i64", "codes": "*u8"}
TENSORS = {
    "q", "k", "v", "x", "keys", "values", "out", "residual", "weight", "total", "normed", "gate_up", "cos", "sin",
    "scales", "minima", "bias",
}  # fmt: skip
FLOATS = {"scale", "eps"}


def compile_kernel(kernel: Any, dtype: str, constants: dict[str, Any], **options: int) -> None:
    """Compile ``kernel`` for tensors of ``dtype``; names tell what its other arguments are."""
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else kind(name, dtype) for name in names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if signature[name].startswith("*")}
    source = ASTSource(kernel, signature, {(names.index(name),): value for name, value in constants.items()}, aligned)
    ptx = triton.compile(source, target=HOPPER, options=options | SAME_BITS).asm["ptx"]
    spills = ptx.count("st.local")
    print(kernel.__name__, dtype, "wgmma" if "wgmma.mma_async" in ptx else "-", f"spills={spills}")


def kind(name: str, dtype: str) -> str:
    """Return Triton's type of the argument ``name``."""
    if name in POINTERS:
        return POINTERS[name]
    return f"*{dtype}" if name in TENSORS else "fp32" if name in FLOATS else "i32"


def attention(dtype: str, dim: int, group: int, window: int | None, softcap: float | None) -> None:
    """Compile both forms of attention."""
    shape = {
        "HEADS_KV": 4, "GROUP": group, "HEAD_DIM": dim, "DIM": 1 << (dim - 1).bit_length(), "ROWS": 64, "BLOCK": 16,
        "WINDOW": window, "SOFTCAP": softcap, "SEGMENT_": paged_attention.SEGMENT, "KEYS": paged_attention.KEY_TILE,
    }  # fmt: skip
    options = {"num_warps": 4 if dim <= 128 else 8, "num_stages": 2}
    compile_kernel(paged_attention._whole_kernel, dtype, shape, **options)
    compile_kernel(paged_attention._split_kernel, dtype, shape, **options)
    merge = {name: shape[name] for name in ("HEAD_DIM", "DIM", "WINDOW", "SEGMENT_")}
    compile_kernel(paged_attention._merge_kernel, dtype, merge, num_warps=1)


def products(dtype: str, bits: int, group: int) -> None:
    """Compile both forms of the product."""
    shape = {
        "BITS": bits, "GROUP": group, "OUTPUTS": 64, "INPUTS": linear.INPUT_TILE, "PARTS": linear.NUM_PARTS,
    }  # fmt: skip
    split = shape | {"ROWS": 16, "SPLIT": True, "bias": None}
    compile_kernel(linear._product_kernel, dtype, split, num_warps=4, num_stages=3)
    compile_kernel(linear._product_kernel, dtype, shape | {"ROWS": 64, "SPLIT": False}, num_warps=4, num_stages=3)


if __name__ == "__main__":
    attention("bf16", 128, 4, None, None)
    products("bf16", 4, 32)
    compile_kernel(linear._add_parts_kernel, "bf16", {"PARTS": 4, "SIZE": 256})
    compile_kernel(add_rms_norm._add_rms_norm_kernel, "bf16", {"SIZE": 4096}, num_warps=8)
    compile_kernel(swiglu._swiglu_kernel, "bf16", {"SIZE": 1024})
    compile_kernel(kv_write._write_kernel, "bf16", {"WIDTH": 1024, "SIZE": 1024})
    compile_kernel(
        kv_write._rotate_and_write_kernel, "bf16", {"HEAD_DIM": 128, "ROTATED": 64, "SIZE": 128}, num_warps=1
    )
    if sys.argv[1:] == ["all"]:
        attention("bf16", 64, 1, 512, 50.0)
        attention("fp16", 256, 2, None, None)
        attention("fp32", 80, 3, None, None)
        products("bf16", 8, 128)
        products("fp32", 4, 128)
        compile_kernel(linear._add_parts_kernel, "bf16", {"PARTS": 4, "SIZE": 256, "bias": None, "num_rows": 1})
