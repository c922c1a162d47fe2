"""Run time and power of matrix products, predicted from their shape and tiling (S12).

The analytic part counts what a tiled kernel does: operations, bytes, tiles, how many rounds of tiles the streaming
multiprocessors (SMs) need, what is lost in the last round and at the edges. That gives a bound. A forest then learns
how far from the bound products of such features end, and another what the board draws. Learning the distance and not
the seconds is what lets it say something about sizes that it has not seen: trees cannot extrapolate, the bound does.
The paper's forest learns seconds and watts themselves from sizes, tile, operations, bytes and intensity, as far as its
published program shows; :mod:`steelyard.reproduce.s12` grows it beside ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from steelyard.core.errors import InputError
from steelyard.core.units import ceil_div
from steelyard.cost.learned.forest import Floats, Forest, load_forest
from steelyard.hardware.device import Device

_ITEM_BYTES = 4
TIME_FILE, POWER_FILE = "gemm-time.npz", "gemm-power.npz"
SLOWDOWN, WATTS = "log_slowdown", "watts"
FEATURES = (
    "log_m", "log_n", "log_k", "log_flop", "log_bytes", "log_intensity", "log_tiles", "log_rounds", "edge_efficiency",
    "round_efficiency", "resident_tiles", "log_tile_area", "log_tile_k", "log_compute_s", "log_memory_s",
    "transposed_a", "transposed_b", "scaled", "accumulates",
)  # fmt: skip


def _check_sizes(owner: object, *names: str) -> None:
    for name in names:
        size = getattr(owner, name)
        if size < 1:
            raise InputError(f"{size} is not positive", field=name, remedy="Give a whole number of at least 1")


@dataclass(frozen=True, slots=True)
class Tile:
    """What one thread block computes: ``m × n`` of the output, ``k`` of the depth at a time, in a ring of stages."""

    m: int
    n: int
    k: int
    stages: int = 2

    def __post_init__(self) -> None:
        _check_sizes(self, "m", "n", "k", "stages")


SIMT_TILE = Tile(128, 128, 8, 2)
"""Of CUTLASS's 32-bit kernel without tensor cores, and of PyTorch's for large products."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gemm:
    """``C[m, n] = α · A[m, k] · B[k, n] + β · C`` in 32-bit floats.

    Attributes:
        transposed_a: whether A lies in memory by rows of ``m``, as in ``transposed_b`` for B.
        scaled: whether α is not 1.
        accumulates: whether β is not 0, so that C is read too.

    Raises:
        InputError: if a size is not positive.
    """

    m: int
    n: int
    k: int
    tile: Tile = SIMT_TILE
    transposed_a: bool = False
    transposed_b: bool = False
    scaled: bool = False
    accumulates: bool = False

    def __post_init__(self) -> None:
        _check_sizes(self, "m", "n", "k")

    @property
    def flop(self) -> float:
        """One multiplication and one addition per element of A and column of B."""
        return 2.0 * self.m * self.n * self.k

    @property
    def num_bytes(self) -> float:
        """Bytes of each matrix moved once."""
        outputs = (2 if self.accumulates else 1) * self.m * self.n
        return float(_ITEM_BYTES) * (self.m * self.k + self.k * self.n + outputs)


@dataclass(frozen=True, slots=True, kw_only=True)
class TiledGpu:
    """A GPU as a tiled kernel meets it.

    Attributes:
        device: its 32-bit rate and the bandwidth of its first memory are the roofs.
        num_sms: streaming multiprocessors, each of which works at one tile or a few.
        shared_bytes: per SM, for the stages of tiles.
        num_registers: per SM, 32 bits each, which hold the outputs of tiles.
    """

    device: Device
    num_sms: int
    shared_bytes: int = 100 * 1024
    num_registers: int = 65536

    def __post_init__(self) -> None:
        _check_sizes(self, "num_sms", "shared_bytes", "num_registers")

    def resident_tiles(self, tile: Tile) -> int:
        """Return how many tiles an SM holds at once, 1 or more: by stages in shared memory, and by outputs in
        registers, of which a kernel needs about twice as many as outputs.
        """  # fmt: skip
        by_shared = self.shared_bytes // (tile.stages * (tile.m + tile.n) * tile.k * _ITEM_BYTES)
        by_registers = self.num_registers // (2 * tile.m * tile.n)
        return max(1, min(by_shared, by_registers))

    def bound_s(self, gemm: Gemm, *, clock_share: float = 1.0) -> float:
        """Return seconds below which this tiling cannot come: whole rounds of whole tiles, or all bytes once.

        Args:
            gemm: the product.
            clock_share: of the full clock; memory keeps its own.
        """
        return max(self.compute_s(gemm) / clock_share, gemm.num_bytes / self.device.bandwidth_bytes_per_s)

    def compute_s(self, gemm: Gemm) -> float:
        """Return the seconds of computing alone, every SM at one tile at a time."""
        tile = gemm.tile
        rate = self.device.flop_per_s("float32") / self.num_sms
        return self.num_rounds(gemm) * 2.0 * tile.m * tile.n * gemm.k / rate

    def num_rounds(self, gemm: Gemm) -> int:
        """Return how many tiles the busiest SM computes."""
        return ceil_div(num_tiles(gemm), self.num_sms)

    def features(self, gemm: Gemm) -> list[float]:
        """Return :data:`FEATURES` of a product."""
        tile, tiles, rounds = gemm.tile, num_tiles(gemm), self.num_rounds(gemm)
        covered = ceil_div(gemm.m, tile.m) * tile.m * ceil_div(gemm.n, tile.n) * tile.n
        logs = (gemm.m, gemm.n, gemm.k, gemm.flop, gemm.num_bytes, gemm.flop / gemm.num_bytes, tiles, rounds)
        return [
            *map(math.log, logs),
            gemm.m * gemm.n / covered,
            tiles / (rounds * self.num_sms),
            float(self.resident_tiles(tile)),
            math.log(tile.m * tile.n),
            math.log(tile.k),
            math.log(self.compute_s(gemm)),
            math.log(gemm.num_bytes / self.device.bandwidth_bytes_per_s),
            *map(float, (gemm.transposed_a, gemm.transposed_b, gemm.scaled, gemm.accumulates)),
        ]


def num_tiles(gemm: Gemm) -> int:
    """Return the tiles that cover a product's output."""
    return ceil_div(gemm.m, gemm.tile.m) * ceil_div(gemm.n, gemm.tile.n)


@dataclass(frozen=True, slots=True)
class GemmEstimate:
    """What a product takes: seconds, and watts of the board meanwhile."""

    seconds: float
    watts: float


@dataclass(frozen=True, slots=True, eq=False)
class GemmPredictor:
    """Forests that were trained on one GPU.

    Attributes:
        gpu: that they were trained on.
        time: answers the logarithm of measured seconds over :meth:`TiledGpu.bound_s`.
        power: answers watts.

    Raises:
        InputError: if a forest was grown on other features or answers something else.
    """

    gpu: TiledGpu
    time: Forest
    power: Forest

    def __post_init__(self) -> None:
        for forest, output in ((self.time, SLOWDOWN), (self.power, WATTS)):
            if forest.feature_names != FEATURES or forest.output_names != (output,):
                raise InputError(f"is no forest that predicts {output}", field="forest", remedy="Train it again")

    def predict(
        self, m: int, n: int, k: int, dtype: str = "float32", tile: Tile = SIMT_TILE, *, clock_share: float = 1.0
    ) -> GemmEstimate:
        """Return what ``A[m, k] · B[k, n]`` takes; outside of the sizes it was trained on, the nearest distance from
        the bound is kept.

        Raises:
            InputError: if a size is not positive, or the format is not 32-bit floats, the only one measured.
        """  # fmt: skip
        if dtype != "float32":
            problem = f"nothing was measured in {dtype}"
            raise InputError(problem, field="dtype", remedy="Use float32, or the roofline for other formats")
        gemm = Gemm(m=m, n=n, k=k, tile=tile)
        row = np.array([self.gpu.features(gemm)])
        slowdown = math.exp(self.time.predict(row)[0, 0])
        seconds = slowdown * self.gpu.bound_s(gemm, clock_share=clock_share)
        return GemmEstimate(seconds=seconds, watts=float(self.power.predict(row)[0, 0]))


def load_gemm_predictor(directory: Path, gpu: TiledGpu) -> GemmPredictor:
    """Return the predictor that ``steelyard reproduce S12`` left in a directory.

    Args:
        directory: holds :data:`TIME_FILE` and :data:`POWER_FILE`.
        gpu: that it was trained on.

    Raises:
        InputError: if a file is missing or holds something else.
    """
    return GemmPredictor(gpu, load_forest(directory / TIME_FILE), load_forest(directory / POWER_FILE))


def feature_rows(gpu: TiledGpu, gemms: list[Gemm]) -> Floats:
    """Return ``[gemms, features]``."""
    return np.array([gpu.features(gemm) for gemm in gemms])
