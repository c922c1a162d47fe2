"""A decoder's whole step as one native call: a list of operations over shared row buffers (``csrc/program``).

Operations are added once, in the order in which a step runs them; adding computes nothing. Buffers are named by
:class:`Rows`. Tensors and matrices given to an operation are kept by the program.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steelyard.kernels.attention import AttentionSpec
from steelyard.kernels.native import native_kernels
from steelyard.kernels.packed_matrix import PackedMatrix
from steelyard.kernels.paged_attention import AttentionPlan
from steelyard.kernels.qlinear import Epilogue
from steelyard.kernels.threads import thread_pool


@dataclass(frozen=True, slots=True)
class Rows:
    """A buffer with a row per token: its number in the program, and the elements of a row."""

    buffer: int
    width: int


@dataclass(frozen=True, slots=True)
class RotationRows:
    """The cos and signed sin of a rotary embedding at each token's position."""

    cos: Rows
    sin: Rows


@dataclass(frozen=True, slots=True, kw_only=True)
class RotaryUse:
    """How queries and keys are prepared: their rotation, and the weights of their norms.

    Attributes:
        rotation: from :meth:`StepProgram.gather_rotation`; ``None`` for none.
        q_norm: ``[head_dim]`` float32, per-head norm before the rotation; ``None`` for none.
        k_norm: as ``q_norm``.
        eps: of the norms.
    """

    rotation: RotationRows | None
    q_norm: Tensor | None
    k_norm: Tensor | None
    eps: float


class StepProgram:
    """Operations of one model, and the buffers they work on. The extension must be there."""

    def __init__(self) -> None:
        native = native_kernels()
        assert native is not None, "ask native_available() first"
        self._native = native.make_program()
        self._kept: list[object] = []

    def float_rows(self, width: int) -> Rows:
        """Return a new buffer of float32 rows."""
        return Rows(self._native.add_float_rows(width), width)

    def quantised_rows(self, num_inputs: int) -> Rows:
        """Return a new buffer of quantised rows for matrices with so many inputs."""
        return Rows(self._native.add_quantised_rows(num_inputs), num_inputs)

    def embed(self, table: PackedMatrix, x: Rows, scale: float) -> None:
        """``x = scale · table[token]``."""
        self._native.embed(self._matrix(table), _pair(x), scale)

    def gather_rotation(self, table: int, dim: int) -> RotationRows:
        """Gather table number ``table`` of the step's at its positions, and return the buffers."""
        rotation = RotationRows(self.float_rows(dim), self.float_rows(dim))
        self._native.gather_rotation(table, (_pair(rotation.cos), _pair(rotation.sin)))
        return rotation

    def norm_quantise(self, x: Rows, q: Rows, weight: Tensor, eps: float) -> None:
        """``q = quantised(norm(x) · weight)``."""
        self._native.norm_quantise(_pair(x), _pair(q), self._address(weight), eps)

    def quantise(self, x: Rows, q: Rows) -> None:
        """``q = quantised(x)``."""
        self._native.quantise(_pair(x), _pair(q))

    def project(
        self, kind: str, weight: PackedMatrix, q: Rows, out: Rows, *, epilogue: Epilogue, bias: Tensor | None = None
    ) -> None:
        """Store, add or gate ``weight · q + bias`` in ``out``; ``kind`` names it in the profile."""
        self._native.project(kind, self._matrix(weight), _pair(q), _pair(out), self._address(bias), epilogue)

    def rope_write_kv(self, spec: AttentionSpec, qkv: Rows, use: RotaryUse) -> None:
        """Norm and rotate the queries and keys of ``qkv``, and put keys and values into the layer's cache."""
        self._native.rope_write_kv(
            spec.layer,
            _pair(qkv),
            spec.num_heads,
            spec.num_kv_heads,
            spec.head_dim,
            None if use.rotation is None else (_pair(use.rotation.cos), _pair(use.rotation.sin)),
            self._address(use.q_norm),
            self._address(use.k_norm),
            use.eps,
        )

    def attend(self, spec: AttentionSpec, qkv: Rows, out: Rows) -> None:
        """``out`` = attention of the queries of ``qkv`` over the layer's cache."""
        self._native.attend(spec.layer, _pair(qkv), _pair(out), spec.scale, spec.window or 0, spec.softcap or 0.0)

    def norm_add(self, y: Rows, x: Rows, weight: Tensor, eps: float) -> None:
        """``x += norm(y) · weight``; ``y`` is overwritten."""
        self._native.norm_add(_pair(y), _pair(x), self._address(weight), eps)

    def final_norm(self, x: Rows, weight: Tensor, eps: float) -> None:
        """The step's result = ``norm(x) · weight``."""
        self._native.final_norm(_pair(x), self._address(weight), eps)

    def run(
        self,
        token_ids: Tensor,
        plan: AttentionPlan,
        caches: Sequence[int],
        tables: Sequence[Tensor],
        width: int,
    ) -> Tensor:
        """Run the step and return its result, ``[tokens, width]`` float32.

        Args:
            token_ids: ``[tokens]`` int64, in the vocabulary.
            plan: of the same tokens.
            caches: address of each layer's blocks.
            tables: of every rotary embedding, cos and signed sin by position, ``[2, positions, dim]`` float32, with
                every position of the step.
            width: of the result.
        """
        assert token_ids.dtype is torch.int64
        out = torch.empty(len(token_ids), width)
        turns = [(cos.data_ptr(), sin.data_ptr()) for cos, sin in map(_dense, tables)]
        self._native.run(
            thread_pool(), len(token_ids), token_ids.data_ptr(), plan.native, plan.layout.native, caches, turns,
            out.data_ptr(),
        )  # fmt: skip
        return out

    def take_profile(self) -> dict[str, float]:
        """Return seconds spent per kind of operation since the last call."""
        return dict(self._native.take_profile())

    def _matrix(self, matrix: PackedMatrix) -> tuple[int, str, int, int]:
        self._kept.append(matrix)
        return matrix.data.data_ptr(), matrix.format, matrix.num_rows, matrix.num_inputs

    def _address(self, tensor: Tensor | None) -> int:
        if tensor is None:
            return 0
        dense = _dense(tensor.detach())
        self._kept.append(dense)
        return dense.data_ptr()


def _dense(tensor: Tensor) -> Tensor:
    assert tensor.dtype is torch.float32
    assert tensor.is_contiguous()
    return tensor


def _pair(rows: Rows) -> tuple[int, int]:
    return rows.buffer, rows.width
