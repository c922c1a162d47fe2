"""Steps of a decoder on devices of the catalogue, by the roofline, with tensor, pipeline and expert parallelism.

Every part of a step takes the longer of computing and reading, at the share of the peaks that kernels reach, and the
parts follow one another. Tensor parallelism divides each part and all-reduces the residual stream twice a layer;
pipeline stages follow one another (a step's latency; what several batches under way at once bring is the planner's to
count); experts spread over the tensor-parallel devices, which exchange tokens twice a layer. Left out: imbalance of
experts, activations' traffic, and overlap of communication with computing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import final

from steelyard.core.errors import InputError
from steelyard.cost.collectives import FITS, AlphaBeta, Collective, link_fit
from steelyard.cost.estimate import StepEstimate
from steelyard.cost.power import power_model
from steelyard.cost.roofline import ModelShape, StepShape, Work, attention_work, linear_work, lm_head_work
from steelyard.hardware.catalogue.read import find_link
from steelyard.hardware.catalogue.types import CatalogueDevice


@dataclass(frozen=True, slots=True, kw_only=True)
class Efficiency:
    """What kernels reach of a device's peaks.

    Attributes:
        compute: of the matrix rate, in large products.
        memory: of the bandwidth, where reading weights is what it waits for.
        layer_s: of each layer beside that: small kernels and their launches.

    Raises:
        InputError: if a share is not above 0 and at most 1, or ``layer_s`` negative.
    """

    compute: float = 0.80
    memory: float = 0.77
    layer_s: float = 20e-6

    def __post_init__(self) -> None:
        for name in ("compute", "memory"):
            if not 0 < getattr(self, name) <= 1:
                raise InputError(f"{getattr(self, name)} is no share", field=name, remedy="Give a number from 0 to 1")
        if not self.layer_s >= 0:
            raise InputError(f"{self.layer_s} is no duration", field="layer_s", remedy="Give seconds, 0 or more")


# Medians over the bfloat16 products that NVIDIA's aiconfigurator 0.12 measured under vLLM: compute over those with
# m >= 2048 and n, k >= 4096, memory over those with m <= 8 and n k >= 2^24. The last two are fitted to a prompt of 2048
# tokens and a step of 16 decodes of Llama-3.1-8B as LLMServingSim measured them. Other devices get the middle of the
# first four.
EFFICIENCIES = {
    "a100-80gb": Efficiency(compute=0.90, memory=0.68),
    "h100": Efficiency(compute=0.81, memory=0.80),
    "h200": Efficiency(compute=0.79, memory=0.74),
    "l40s": Efficiency(compute=0.64, memory=0.81),
    "rtx-4090": Efficiency(compute=0.94, memory=0.88),
    "rtx-pro-6000": Efficiency(compute=0.78, memory=0.89),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """A mixture of experts, whose weights :class:`~steelyard.cost.roofline.ModelShape` does not count.

    Attributes:
        count: experts per layer.
        per_token: of them that a token passes.
        params: weights of one expert in all layers together.

    Raises:
        InputError: if a number is below 1, or a token passes more experts than there are.
    """

    count: int
    per_token: int
    params: int

    def __post_init__(self) -> None:
        if not (1 <= self.per_token <= self.count and self.params >= 1):
            problem = f"{self.per_token} of {self.count} experts of {self.params} weights cannot be"
            raise InputError(problem, field="experts", remedy="Give positive numbers, per_token at most count")

    def touched(self, num_tokens: int) -> float:
        """Return how many experts of a layer at least one token passes, on average, if all are alike."""
        return self.count * (1.0 - (1.0 - self.per_token / self.count) ** num_tokens)

    def work(self, num_tokens: int, weight_bytes: float) -> Work:
        """Return the operations, and the bytes of the experts that are touched, each read once."""
        flop = 2.0 * self.params * self.per_token * num_tokens
        return Work(flop, self.touched(num_tokens) * self.params * weight_bytes)


@final
@dataclass(frozen=True, kw_only=True)
class ParallelSteps:
    """A :class:`~steelyard.cost.estimate.StepModel` of a decoder on like devices.

    Attributes:
        model: what is computed; of a mixture, what every token passes.
        device: each of the replica's devices.
        tp: devices that share every layer.
        pp: stages that share out the layers.
        ep: of the ``tp`` devices, those that share out the experts instead of dividing each.
        experts: of a mixture.
        efficiency: ``None`` for the device's own in :data:`EFFICIENCIES`, or the middle of those.
        link: between the devices; ``None`` for the device's fit, else its peer link or its host link.
        overhead_s: of every step.

    Raises:
        InputError: if degrees do not divide what they share out, or the device's rate or link is not known.
    """

    model: ModelShape
    device: CatalogueDevice
    tp: int = 1
    pp: int = 1
    ep: int = 1
    experts: Experts | None = None
    efficiency: Efficiency | None = None
    link: AlphaBeta | None = None
    overhead_s: float = 0.0

    def __post_init__(self) -> None:
        self._divides("tp", self.tp, "query heads", self.model.num_heads)
        self._divides("pp", self.pp, "layers", self.model.num_layers)
        self._divides("ep", self.ep, "tensor-parallel devices", self.tp)
        if self.experts is not None:
            self._divides("ep", self.ep, "experts", self.experts.count)
        self.device.device.flop_per_s(self.model.dtype)

    @property
    def num_devices(self) -> int:
        """Of the replica."""
        return self.tp * self.pp

    def estimate(self, step: StepShape, *, clock_share: float = 1.0) -> StepEstimate:
        """See :class:`~steelyard.cost.estimate.StepModel`; the clock slows computing, not reading.

        Raises:
            InputError: if ``clock_share`` is not above 0 and at most 1.
        """
        if not 0 < clock_share <= 1:
            problem = f"{clock_share} is no share"
            raise InputError(problem, field="clock_share", remedy="Give a number above 0, at most 1")
        works = self.works(step)
        seconds = self.overhead_s + sum(self.part_s(work, clock_share=clock_share) for work in works)
        if step.sequences:
            seconds += self.layers_s + self.talk_s(step.num_tokens)
        return StepEstimate(seconds, self._watts(works, seconds, clock_share))

    def works(self, step: StepShape) -> tuple[Work, ...]:
        """Return the work of the whole replica, part by part: linear layers, attention, output projection, experts."""
        parts = (linear_work(step, self.model), attention_work(step, self.model), lm_head_work(step, self.model))
        if self.experts is None:
            return parts
        return (*parts, self.experts.work(step.num_tokens, self.model.weight_bytes))

    def num_bytes(self, step: StepShape) -> float:
        """Return what the replica's devices read and write, together."""
        return sum(work.num_bytes for work in self.works(step))

    @property
    def layers_s(self) -> float:
        """What small kernels and their launches take in all layers."""
        return self.model.num_layers * self._reached.layer_s

    def part_s(self, work: Work, *, clock_share: float = 1.0) -> float:
        """Return what a part takes; its stages follow one another, so only ``tp`` devices work at once."""
        device = self.device.device
        rate = self.tp * device.flop_per_s(self.model.dtype) * self._reached.compute * clock_share
        bandwidth = self.tp * device.bandwidth_bytes_per_s * self._reached.memory
        return max(work.flop / rate, work.num_bytes / bandwidth)

    def talk_s(self, num_tokens: float) -> float:
        """Return what a step's tokens take between the devices: activations as wide as keys and values."""
        model, size = self.model, num_tokens * self.model.hidden_size * self.model.kv_bytes
        seconds = 0.0
        if self.tp > 1:
            seconds += 2 * model.num_layers * self._between.seconds(Collective.ALL_REDUCE, self.tp, size)
        if self.pp > 1:
            seconds += (self.pp - 1) * self._between.seconds(Collective.SEND, 2, size)
        if self.experts is not None and self.ep > 1:
            sent = size * self.experts.per_token / self.ep
            seconds += 2 * model.num_layers * self._between.seconds(Collective.ALL_TO_ALL, self.ep, sent)
        return seconds

    @cached_property
    def _reached(self) -> Efficiency:
        return self.efficiency or EFFICIENCIES.get(self.device.name, Efficiency())

    @cached_property
    def _between(self) -> AlphaBeta:
        if self.link is not None:
            return self.link
        name = self.device.peer_link or self.device.host_link
        if self.device.name in FITS:
            return FITS[self.device.name]
        if name is None:
            problem = f"no link between several {self.device.name} is known"
            raise InputError(problem, field="link", remedy="Give the link, or one device")
        return link_fit(find_link(name))

    def _watts(self, works: tuple[Work, ...], seconds: float, clock_share: float) -> float | None:
        """Return the replica's power: each device by its use over the whole step."""
        power, device = power_model(self.device), self.device.device
        if power is None or seconds <= 0:
            return None
        moved = sum(work.num_bytes for work in works) / self.num_devices / seconds
        computed = sum(work.flop for work in works) / self.num_devices / seconds
        rate = device.flop_per_s(self.model.dtype) * clock_share
        return self.num_devices * power.watts(moved / device.bandwidth_bytes_per_s, computed / rate, clock_share)

    def _divides(self, name: str, degree: int, what: str, count: int) -> None:
        if degree < 1 or count % degree:
            near = [candidate for candidate in range(1, count + 1) if count % candidate == 0]
            remedy = f"Use one of {', '.join(map(str, near))}"
            raise InputError(f"{degree} does not divide {count} {what}", field=name, remedy=remedy)
