"""A learned source of costs asks its predictor for every matrix of a step, and only for those."""

from dataclasses import dataclass, field, replace

import pytest

from steelyard.core.errors import InputError
from steelyard.cost.estimate import StepModel
from steelyard.cost.learned.gemm import GemmEstimate, TiledGpu
from steelyard.cost.learned.step import LearnedStepModel, MatrixShape, layer_matrices
from steelyard.cost.operators import operator_costs
from steelyard.cost.roofline import ModelShape, StepShape
from steelyard.hardware.device import Device, DeviceKind, MemoryTier, PeakRate

DEVICE = Device(
    name="test GPU",
    kind=DeviceKind.GPU,
    memory=(MemoryTier(name="memory", capacity_bytes=1 << 30, bandwidth_bytes_per_s=1e9),),
    peaks=(PeakRate(dtype="float32", flop_per_s=10e9),),
)
# hidden 64, 4 heads and 2 of keys of 16: queries 64, keys and values 64; a gated network of 96.
MODEL = ModelShape(
    num_layer_params=3 * 64 * (64 + 64 + 64 + 3 * 96),
    hidden_size=64,
    vocab_size=1000,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    windows=(None,) * 3,
    feed_forward_size=96,
)
STEP = StepShape.of((5, 5), (1, 40))


@dataclass
class Products:
    """A predictor whose products take one second per row of A, and which remembers what it was asked."""

    gpu: TiledGpu = field(default_factory=lambda: TiledGpu(device=DEVICE, num_sms=10))
    asked: list[tuple[int, int, int]] = field(default_factory=list)

    def predict(self, m: int, n: int, k: int, *, clock_share: float = 1.0) -> GemmEstimate:
        self.asked.append((m, n, k))
        return GemmEstimate(seconds=m / clock_share, watts=100.0 if n == 1000 else 40.0)


def test_matrices_by_hand():
    assert layer_matrices(MODEL) == (
        MatrixShape(128, 64, 3), MatrixShape(64, 64, 3), MatrixShape(192, 64, 3), MatrixShape(64, 96, 3),
    )  # fmt: skip
    ungated = replace(MODEL, num_layer_params=3 * 64 * (64 + 64 + 64 + 2 * 96))
    assert layer_matrices(ungated)[2] == MatrixShape(96, 64, 3)


def test_every_product_of_a_step_is_asked_for():
    products = Products()
    source: StepModel = LearnedStepModel(MODEL, products, overhead_s=0.25)
    found = source.estimate(STEP)
    assert products.asked == [(6, 128, 64), (6, 64, 64), (6, 192, 64), (6, 64, 96), (2, 1000, 64)]
    others = {cost.name: cost.limit_s for cost in operator_costs(MODEL, STEP, DEVICE)}
    rest = others["attention"] + others["elementwise"] + others["sampling"]
    assert found.seconds == pytest.approx(3 * 4 * 6 + 2 + rest + 0.25)
    assert found.watts == pytest.approx((72 * 40 + 2 * 100) / 74)


def test_the_same_step_is_not_predicted_twice():
    products = Products()
    source = LearnedStepModel(MODEL, products)
    assert source.estimate(STEP) == source.estimate(STEP)
    assert len(products.asked) == 5


def test_clocks_and_empty_steps():
    source = LearnedStepModel(MODEL, Products(), overhead_s=0.25)
    capped = source.estimate(STEP, clock_share=0.5)
    assert capped.seconds > 1.9 * source.estimate(STEP).seconds
    assert capped.watts is None
    empty = source.estimate(StepShape(()))
    assert (empty.seconds, empty.watts) == (0.25, None)


def test_models_that_cannot_be_told_apart_are_refused():
    with pytest.raises(InputError, match="do not follow from its sizes"):
        LearnedStepModel(replace(MODEL, num_layer_params=12345), Products())
    with pytest.raises(InputError, match="do not follow from its sizes"):
        LearnedStepModel(replace(MODEL, feed_forward_size=None), Products())
    with pytest.raises(InputError, match="nothing was measured in float16"):
        LearnedStepModel(replace(MODEL, dtype="float16"), Products())
