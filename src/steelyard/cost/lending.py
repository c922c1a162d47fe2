"""Steps of an instance whose sequences' keys partly lie with other instances (S34, Infinite-LLM, DistAttention).

The parts of a step are those of :class:`~steelyard.cost.parallel.ParallelSteps`, at the same shares of the same peaks.
What differs is where attention happens: each holder of keys attends to its own, and a query that has keys elsewhere is
sent there in every layer, and an output and a log-sum-exp per head come back.

Pipeline stages are taken as always full: as many batches under way as there are stages, evenly sized. That is the best
that a pipeline can do, and what a static instance over several machines is granted here. Left out: contention on links.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from steelyard.cost.collectives import AlphaBeta, Collective
from steelyard.cost.parallel import ParallelSteps
from steelyard.cost.roofline import SequenceShape, StepShape, Work, linear_work, lm_head_work

LSE_BYTES = 4.0
"""Of a head's log-sum-exp, as it is sent."""


@final
@dataclass(frozen=True, kw_only=True)
class InstanceSteps:
    """What the parts of an instance's steps take.

    Attributes:
        steps: of the instance, by itself.
        outside: from each of its devices to one of another instance.
    """

    steps: ParallelSteps
    outside: AlphaBeta

    def dense_s(self, num_tokens: int, num_rows: int) -> float:
        """Return everything but attention of a step: ``num_tokens`` computed, of which ``num_rows`` get logits."""
        model, stages = self.steps.model, self.steps.pp
        shape = StepShape((SequenceShape(num_tokens, num_tokens),))
        linear, rows = linear_work(shape, model), lm_head_work(StepShape((SequenceShape(1, 1),) * num_rows), model)
        seconds = sum(self.steps.part_s(Work(work.flop / stages, work.num_bytes)) for work in (linear, rows))
        return seconds + self.steps.layers_s + self.steps.talk_s(num_tokens / stages)

    def attention_s(self, num_pairs: float, num_keys: float) -> float:
        """Return attention in all layers: so many pairs of a query and a key, and so many keys read.

        Operations and bytes as in :func:`~steelyard.cost.roofline.attention_work`.
        """
        model, stages = self.steps.model, self.steps.pp
        flop = 4.0 * model.num_heads * model.head_dim * model.num_layers * num_pairs
        return self.steps.part_s(Work(flop / stages, num_keys * self.kv_token_bytes / stages))

    def exchange_s(self, num_queries: int, num_lenders: int, num_written: int = 0) -> float:
        """Return what asking other instances takes in all layers.

        Args:
            num_queries: tokens of the step that have keys elsewhere.
            num_lenders: each of which is sent all of them.
            num_written: tokens whose keys and values are new and stored elsewhere.
        """
        if not num_lenders:
            return 0.0
        model, tp = self.steps.model, self.steps.tp
        there = num_queries * num_lenders * query_bytes(self.steps) / tp
        back = num_queries * num_lenders * answer_bytes(self.steps) / tp
        each_way = sum(self.outside.seconds(Collective.SEND, 2, size) for size in (there, back))
        return model.num_layers * each_way + num_written * self.kv_token_bytes / tp / self.outside.bytes_per_s

    @property
    def kv_token_bytes(self) -> float:
        """What one token's keys and values of all layers take."""
        model = self.steps.model
        return 2.0 * model.num_layers * model.num_kv_heads * model.head_dim * model.kv_bytes


def query_bytes(steps: ParallelSteps) -> float:
    """Return the bytes of one token's query in one layer, as wide as keys and values."""
    return steps.model.num_heads * steps.model.head_dim * steps.model.kv_bytes


def answer_bytes(steps: ParallelSteps) -> float:
    """Return the bytes of the answer to it: an output as wide as the query, and a log-sum-exp per head."""
    return query_bytes(steps) + steps.model.num_heads * LSE_BYTES
