"""A server's :class:`~steelyard.hardware.device.Device` from predicted benchmark scores (S39), for the cost model.

The cost model asks a device for its memory's bandwidth; STREAM's triad is what measures it, so its predicted score is
what is filled in. The sample holds no test of matrix products, so rates stay as the device states them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from steelyard.cost.learned.perfcast import CHARACTERISTICS, BenchmarkRun
from steelyard.hardware.device import Device

STREAM_TRIAD = "Triad Bandwidth (NTW) (MB/s)"
_STREAM = {"workload": "Stream", "preset": "icc2021.5.0 | SSE", "test": STREAM_TRIAD}
_BYTES_PER_MB = 1e6


class PredictsScores(Protocol):
    """What predicts scores of runs, ``[runs]``, in the units of their tests."""

    def predict(self, runs: tuple[BenchmarkRun, ...]) -> NDArray[np.float64]:
        """Return a score for each run; what was measured is not looked at."""
        ...


def with_predicted_bandwidth(device: Device, server: BenchmarkRun, predictor: PredictsScores) -> Device:
    """Return ``device`` with the bandwidth of its first memory as predicted for ``server``'s characteristics.

    Raises:
        InputError: if the predictor never saw STREAM.
    """
    values = tuple(
        _STREAM.get(characteristic.name, value)
        for characteristic, value in zip(CHARACTERISTICS, server.values, strict=True)
    )
    triad = replace(server, test=STREAM_TRIAD, values=values)
    bandwidth = float(predictor.predict((triad,))[0]) * _BYTES_PER_MB
    return replace(device, memory=(replace(device.memory[0], bandwidth_bytes_per_s=bandwidth), *device.memory[1:]))
