"""Seconds of one optimiser step of a training run, by what they go into: :func:`training_step`.

Matrix products by their operations, everything else by the bytes it moves, collectives by their volume, and the
pipeline by its bubble (Megatron-LM, S43, arXiv:2104.04473, section 2.2). Computation and communication follow one
another, but for ZeRO stage 3's gathering, which hides behind computation. Left out: stragglers, reading data,
checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from steelyard.plan.training import Recompute, TrainingCluster, TrainingEfficiency, TrainingLayout, TrainingModel
from steelyard.plan.training_memory import GRADIENT_BYTES, WEIGHT_BYTES, params_per_gpu

_ELEMENT = 2  # bytes of an activation
# Elements moved per element of the residual stream (b·s·h), of it split over TP, and of the scores (b·a·s²), by fused
# kernels: norms, dropout with residual, GeLU, permutations of heads; softmax and its dropout.
_FORWARD = (11.0, 13.0, 4.5)
_BACKWARD = (19.0, 20.0, 5.5)
_LOSS_BYTES = 40.0  # per logit: to float32, maximum, exponential, sum, gradient
_ADAM_BYTES = 52.0  # per weight: gradient to float32, unscaled, its norm, two moments, master copy, float16 copy
_ZERO3_GATHERS = 3  # weights for the forward and the backward pass, gradients scattered


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingStep:
    """Seconds of one optimiser step.

    Attributes:
        compute_s: matrix products of one pipeline's microbatches; ``elementwise_s`` the kernels between them.
        tp_s: tensor-parallel collectives, ``pp_s`` sending activations between stages.
        bubble_s: of the pipeline's filling and draining.
        dp_s: gradients' reduction, and what of ZeRO's gathering is not hidden.
        optimiser_s: the update.
    """

    compute_s: float
    elementwise_s: float
    tp_s: float
    pp_s: float
    bubble_s: float
    dp_s: float
    optimiser_s: float

    @property
    def seconds(self) -> float:
        """The whole step."""
        busy = self.compute_s + self.elementwise_s + self.tp_s + self.pp_s
        return busy + self.bubble_s + self.dp_s + self.optimiser_s


@dataclass(frozen=True, slots=True)
class _Pass:
    """Seconds of one microbatch, forward and backward, through some layers."""

    compute_s: float
    elementwise_s: float
    tp_s: float

    @property
    def seconds(self) -> float:
        return self.compute_s + self.elementwise_s + self.tp_s


def training_step(
    model: TrainingModel,
    layout: TrainingLayout,
    cluster: TrainingCluster,
    efficiency: TrainingEfficiency,
    *,
    global_batch: int,
) -> TrainingStep:
    """Return what one optimiser step of ``global_batch`` sequences takes.

    The last stage, which also has the output layer, sets the pace; filling and draining is as long as the other stages'
    microbatches.
    """
    rates = _Rates(model, layout, cluster, efficiency)
    microbatches = layout.num_microbatches(global_batch)
    stage, head = rates.layers(model.num_layers / layout.pp), rates.head()
    sending_s = rates.sending_s()
    compute_s = microbatches * (stage.compute_s + head.compute_s)
    return TrainingStep(
        compute_s=compute_s,
        elementwise_s=microbatches * (stage.elementwise_s + head.elementwise_s),
        tp_s=microbatches * (stage.tp_s + head.tp_s),
        pp_s=microbatches * sending_s,
        bubble_s=(layout.pp - 1) / layout.interleave * (stage.seconds + sending_s),
        dp_s=rates.reduction_s() + _not_hidden_s(rates.gathering_s(microbatches), behind_s=compute_s),
        optimiser_s=rates.update_s(),
    )


def _not_hidden_s(seconds: float, *, behind_s: float) -> float:
    """Return what is left of ``seconds`` that overlap with ``behind_s``: a maximum without a corner.

    Where both are about as long, neither hides the other in every layer; the exponent is fitted to the ZeRO-3 runs of
    arXiv:2104.04473, table 2.
    """
    return float((seconds**3 + behind_s**3) ** (1 / 3) - behind_s) if seconds else 0.0


@dataclass(frozen=True, slots=True)
class _Rates:
    """Seconds of each part on this cluster."""

    model: TrainingModel
    layout: TrainingLayout
    cluster: TrainingCluster
    efficiency: TrainingEfficiency

    @property
    def rows(self) -> int:
        """Tokens of a microbatch."""
        return self.layout.microbatch * self.model.sequence_tokens

    def layers(self, num_layers: float) -> _Pass:
        """Return one microbatch's passes through that many layers, recomputation included."""
        scores_s, others_s = self._products_s(self._score_products()), self._products_s(self._weight_products())
        again = {Recompute.NONE: (0, 0), Recompute.SELECTIVE: (0, 1), Recompute.FULL: (1, 1)}[self.layout.recompute]
        flash = 0.5 if self.layout.flash_attention else 0.0  # its backward pass computes the scores once more
        compute_s = (3 + again[0]) * others_s + (3 + again[1] + flash) * scores_s
        return _Pass(num_layers * compute_s, num_layers * self._elementwise_s(again), num_layers * self._tp_s(again[0]))

    def head(self) -> _Pass:
        """Return one microbatch's passes through the output layer and the loss."""
        columns = self.model.vocab_size / self.layout.tp
        compute_s = 3 * self._product_s(1.0, self.rows, columns, self.model.hidden_size)
        return _Pass(compute_s, _LOSS_BYTES * self.rows * columns / self._memory_rate, self._all_reduce_s())

    def sending_s(self) -> float:
        """Return what one microbatch's activations and gradients take to and from a stage, all its chunks.

        Every tensor-parallel rank sends its own part, and the next node puts the parts together.
        """
        layout, cluster = self.layout, self.cluster
        if layout.pp == 1:
            return 0.0
        volume = self._stream_bytes
        rate = cluster.network_bytes_per_s * self.efficiency.network
        crossing_s = cluster.network_latency_s + volume / layout.tp / rate
        joining_s = 0.0 if layout.sequence_parallel else self._collective_s(volume, passes=1)
        return 2 * layout.interleave * (crossing_s + joining_s)

    def reduction_s(self) -> float:
        """Return what summing gradients over data-parallel ranks takes, a ring that uses all of a node's adapters."""
        layout = self.layout
        if layout.dp == 1 or layout.zero_stage == 3:
            return 0.0
        volume = params_per_gpu(self.model, layout) * GRADIENT_BYTES
        moved = 2 * (layout.dp - 1) / layout.dp * volume
        return moved / self._reduction_rate + 2 * layout.dp * self.cluster.network_latency_s

    def gathering_s(self, microbatches: int) -> float:
        """Return what ZeRO stage 3 takes to gather weights and scatter gradients for every microbatch."""
        layout = self.layout
        if layout.zero_stage < 3 or layout.dp == 1:
            return 0.0
        volume = params_per_gpu(self.model, layout) * WEIGHT_BYTES * (layout.dp - 1) / layout.dp
        return microbatches * _ZERO3_GATHERS * volume / (self.cluster.network_bytes_per_s * self.efficiency.gather)

    def update_s(self) -> float:
        """Return what Adam takes for the weights that this rank updates."""
        shards = self.layout.dp if self.layout.zero_stage else 1
        return _ADAM_BYTES * params_per_gpu(self.model, self.layout) / shards / self._memory_rate

    @property
    def _memory_rate(self) -> float:
        return self.cluster.memory_bytes_per_s * self.efficiency.memory

    @property
    def _reduction_rate(self) -> float:
        """Bytes per second and rank of a ring over the data-parallel ranks."""
        ranks_in_node = min(self.layout.dp, max(1, self.cluster.gpus_per_node // self.layout.tp))
        joined = ranks_in_node * self.layout.tp  # every tensor-parallel rank has a ring of its own over the same links
        inside = self.cluster.link_bytes_per_s(joined) * self.efficiency.link
        if ranks_in_node == self.layout.dp:
            return inside
        return min(inside, ranks_in_node * self.cluster.network_bytes_per_s * self.efficiency.network)

    @property
    def _stream_bytes(self) -> float:
        """Bytes of a microbatch's residual stream."""
        return float(_ELEMENT * self.rows * self.model.hidden_size)

    def _weight_products(self) -> Iterator[tuple[float, float, float, float]]:
        """Yield (count, rows, columns, length of the sum) of a layer's products with weights."""
        hidden, inner, tp = self.model.hidden_size, self.model.feed_forward, self.layout.tp
        yield 1.0, self.rows, 3 * hidden / tp, hidden
        yield 1.0, self.rows, hidden, hidden / tp
        yield 1.0, self.rows, inner / tp, hidden
        yield 1.0, self.rows, hidden, inner / tp

    def _score_products(self) -> Iterator[tuple[float, float, float, float]]:
        """Yield those of queries with keys and of probabilities with values; nobody skips the masked half."""
        model = self.model
        head = model.hidden_size / model.num_heads
        count = self.layout.microbatch * model.num_heads / self.layout.tp
        yield count, model.sequence_tokens, model.sequence_tokens, head
        yield count, model.sequence_tokens, head, model.sequence_tokens

    def _products_s(self, products: Iterator[tuple[float, float, float, float]]) -> float:
        return sum(self._product_s(*product) for product in products)

    def _product_s(self, count: float, rows: float, columns: float, length: float) -> float:
        """Return what ``count`` products of (rows, length) and (length, columns) take, as one batch."""
        efficiency = self.efficiency
        slower = (1 + efficiency.gemm_half_k / length) * (1 + efficiency.gemm_half_mn / (count * rows * columns))
        flop = 2.0 * count * rows * columns * length
        return flop * slower / (self.cluster.flop_per_s * efficiency.gemm)

    def _elementwise_s(self, again: tuple[int, int]) -> float:
        model, layout = self.model, self.layout
        stream = self._stream_bytes
        scores = float(_ELEMENT * layout.microbatch * model.num_heads * model.sequence_tokens**2) / layout.tp
        kept_whole = 1 / layout.tp if layout.sequence_parallel else 1.0
        whole, split, squares = (
            forward * (1 + repeated) + backward
            for forward, backward, repeated in zip(_FORWARD, _BACKWARD, (again[0], again[0], again[1]), strict=True)
        )
        squares = 0.0 if layout.flash_attention else squares * scores
        return (stream * (whole * kept_whole + split / layout.tp) + squares) / self._memory_rate

    def _tp_s(self, again: int) -> float:
        """Return a layer's collectives: two all-reduces forward, two backward, two if it is computed again.

        Sequence parallelism moves as much, as pairs of reduce-scatter and all-gather.
        """
        return (4 + 2 * again) * self._all_reduce_s()

    def _all_reduce_s(self) -> float:
        return self._collective_s(self._stream_bytes, passes=2)

    def _collective_s(self, volume: float, *, passes: int) -> float:
        """Return what a ring over the tensor-parallel ranks takes: 1 pass to gather or scatter, 2 to reduce to all."""
        tp, cluster = self.layout.tp, self.cluster
        if tp == 1:
            return 0.0
        if tp <= cluster.gpus_per_node:
            rate, latency_s = cluster.link_bytes_per_s(tp) * self.efficiency.link, cluster.link_latency_s
        else:
            rate, latency_s = cluster.network_bytes_per_s * self.efficiency.network, cluster.network_latency_s * tp
        return passes * ((tp - 1) / tp * volume / rate + latency_s)
