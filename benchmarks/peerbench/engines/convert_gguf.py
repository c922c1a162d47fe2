"""A GGUF file in another type, by llama.cpp's own quantiser: ``convert_gguf.py SOURCE TARGET TYPE``.

The types' numbers are llama.cpp's. Weights that are quantised already are dequantised first, so the result loses what
the source lost and what the new type loses.
"""

from __future__ import annotations

import ctypes
import sys

import llama_cpp as lib

TYPES = {
    "F32": lib.LLAMA_FTYPE_ALL_F32,
    "F16": lib.LLAMA_FTYPE_MOSTLY_F16,
    "Q4_0": lib.LLAMA_FTYPE_MOSTLY_Q4_0,
    "Q8_0": lib.LLAMA_FTYPE_MOSTLY_Q8_0,
}


def convert(source: str, target: str, kind: str) -> None:
    """Write ``target``."""
    params = lib.llama_model_quantize_default_params()
    params.ftype = TYPES[kind]
    params.allow_requantize = True
    params.nthread = 2
    if code := lib.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params)):
        raise SystemExit(f"llama_model_quantize returned {code}")


if __name__ == "__main__":
    convert(*sys.argv[1:4])
