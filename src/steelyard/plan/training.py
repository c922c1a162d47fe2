"""What is trained, how it is cut up, and on what: the nouns of the training planner.

A dense decoder of the GPT kind is cut by tensor (TP), pipeline (PP) and data (DP) degree, as in Megatron-LM (S43,
arXiv:2104.04473). Left out: experts, context parallelism, embeddings that are tied across pipeline stages.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import Enum

from steelyard.core.errors import ParamsError


class Recompute(Enum):
    """Which activations are computed again in the backward pass instead of kept (arXiv:2205.05198, section 5)."""

    NONE = "none"
    SELECTIVE = "selective"
    FULL = "full"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingModel:
    """A dense decoder and the length of its training sequences.

    Attributes:
        feed_forward_size: inner size of the feed-forward network; ``None`` for four times the hidden size.

    Raises:
        ParamsError: if a number is below 1.
    """

    name: str
    num_layers: int
    hidden_size: int
    num_heads: int
    sequence_tokens: int = 2048
    vocab_size: int = 51200
    feed_forward_size: int | None = None

    def __post_init__(self) -> None:
        _check_positive(self)

    @property
    def feed_forward(self) -> int:
        """Inner size of the feed-forward network."""
        return 4 * self.hidden_size if self.feed_forward_size is None else self.feed_forward_size

    @property
    def num_layer_params(self) -> int:
        """Weights of one layer's four matrices; biases and norms are left out."""
        return 2 * self.hidden_size * (2 * self.hidden_size + self.feed_forward)

    @property
    def num_params(self) -> int:
        """Weights of the layers' matrices, the embedding and the positions."""
        embedded = (self.vocab_size + self.sequence_tokens) * self.hidden_size
        return self.num_layers * self.num_layer_params + embedded

    def step_flop(self, global_batch: int) -> float:
        """Return the floating-point operations of one optimiser step as papers count them.

        Forward, backward and one recomputation: 96·B·s·l·h²·(1 + s/6h + V/16lh) for a feed-forward of 4h
        (arXiv:2104.04473, equation 3). What the layout really computes does not matter.
        """
        tokens = global_batch * self.sequence_tokens
        attention = 4.0 * self.sequence_tokens * self.hidden_size
        layers = self.num_layers * (2.0 * self.num_layer_params + attention)
        return tokens * (4.0 * layers + 6.0 * self.hidden_size * self.vocab_size)

    def model_flop(self, global_batch: int) -> float:
        """Return the operations of forward and backward alone, nothing computed twice."""
        tokens = global_batch * self.sequence_tokens
        attention = 4.0 * self.sequence_tokens * self.hidden_size
        layers = self.num_layers * (2.0 * self.num_layer_params + attention)
        return tokens * 3.0 * (layers + 2.0 * self.hidden_size * self.vocab_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingLayout:
    """How a training step is cut up.

    Attributes:
        tp: tensor-parallel degree, ``pp`` the pipeline's, ``dp`` the data's.
        microbatch: sequences that pass the pipeline together.
        interleave: stages that each pipeline rank holds (v); 1 is plain 1F1B.
        zero_stage: what is sharded over data-parallel ranks: 0 nothing, 1 optimiser states, 2 gradients too, 3 weights
            too (arXiv:1910.02054).
        sequence_parallel: whether norms and dropouts are split over tensor-parallel ranks too.
        flash_attention: whether scores stay on the chip (arXiv:2205.14135).

    Raises:
        ParamsError: if a degree is below 1, or the ZeRO stage is none of 0 to 3.
    """

    tp: int = 1
    pp: int = 1
    dp: int = 1
    microbatch: int = 1
    interleave: int = 1
    zero_stage: int = 0
    recompute: Recompute = Recompute.FULL
    sequence_parallel: bool = False
    flash_attention: bool = False

    def __post_init__(self) -> None:
        _check_positive(self, but=("zero_stage", "sequence_parallel", "flash_attention"))
        if self.zero_stage not in (0, 1, 2, 3):
            raise ParamsError(f"{self.zero_stage} is no ZeRO stage", field="zero_stage", remedy="Give 0, 1, 2 or 3")

    @property
    def num_gpus(self) -> int:
        """Ranks in all."""
        return self.tp * self.pp * self.dp

    def num_microbatches(self, global_batch: int) -> int:
        """Return how many microbatches each pipeline computes per step."""
        return global_batch // (self.dp * self.microbatch)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkTier:
    """What joins neighbouring devices of a node: each sends at this rate while up to ``max_ranks`` form a ring."""

    max_ranks: int
    bytes_per_s: float

    def __post_init__(self) -> None:
        _check_positive(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingCluster:
    """Equal nodes of equal devices.

    Attributes:
        flop_per_s: of one device's matrix units in the training format, as its data sheet says.
        memory_bytes: of one device, ``memory_bytes_per_s`` its reading rate.
        links: inside a node, the smallest group first; the last one joins the whole node.
        network_bytes_per_s: of one device to other nodes, one way.
        link_latency_s: of one collective inside a node; ``network_latency_s`` of a message to another node.

    Raises:
        ParamsError: if a number is not positive, or the links do not grow.
    """

    name: str
    flop_per_s: float
    memory_bytes: float
    memory_bytes_per_s: float
    links: tuple[LinkTier, ...]
    network_bytes_per_s: float
    link_latency_s: float = 20e-6
    network_latency_s: float = 10e-6

    def __post_init__(self) -> None:
        _check_positive(self)
        sizes = [link.max_ranks for link in self.links]
        if not sizes or sizes != sorted(set(sizes)):
            raise ParamsError(f"groups of {sizes} do not grow", field="links", remedy="Give the smallest group first")

    @property
    def gpus_per_node(self) -> int:
        """Devices of one node."""
        return self.links[-1].max_ranks

    def link_bytes_per_s(self, ranks: int) -> float:
        """Return the rate of each device in a ring of ``ranks`` neighbours inside a node."""
        return next(link.bytes_per_s for link in self.links if ranks <= link.max_ranks)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingEfficiency:
    """Which shares of the data sheet's rates a training framework reaches; one set for every model and layout.

    A product of an (m, k) and a (k, n) matrix runs at ``gemm`` / ((1 + gemm_half_k / k)·(1 + gemm_half_mn / mn)) of
    the peak: short sums and small outputs leave units idle.

    Attributes:
        gemm: share of the peak that endless products reach under sustained load.
        gemm_half_k: length of the sum at which half of that is reached, ``gemm_half_mn`` the output's size.
        memory: share of the memory's rate that element-wise kernels reach.
        link: share of the links' rate that collectives inside a node reach, ``network`` between nodes.
        gather: share of one device's network rate at which ZeRO stage 3 collects weights.

    Raises:
        ParamsError: if a share is not above 0 and at most 1.
    """

    gemm: float
    gemm_half_k: float
    gemm_half_mn: float
    memory: float
    link: float
    network: float
    gather: float

    def __post_init__(self) -> None:
        for name in ("gemm", "memory", "link", "network", "gather"):
            if not 0 < getattr(self, name) <= 1:
                raise ParamsError(f"{getattr(self, name)} is no share", field=name, remedy="Give above 0, at most 1")


def _check_positive(given: object, but: tuple[str, ...] = ()) -> None:
    for one in fields(given):  # type: ignore[arg-type]
        value = getattr(given, one.name)
        if one.name not in but and isinstance(value, (int, float)) and not value > 0:
            raise ParamsError(f"{value} is not positive", field=one.name, remedy="Give a number above 0")
