"""A made-up container: a load with a day's rhythm that one other indicator announces an hour before."""

from __future__ import annotations

import numpy as np

from steelyard.plan.forecast.series import RawSeries

INDICATORS = ("load", "container_queue", "host_noise")


def made_up(num_steps: int = 1200, seed: int = 0) -> RawSeries:
    rng = np.random.default_rng(seed)
    steps = np.arange(num_steps + 6)
    jumps = np.repeat(rng.integers(0, 5, size=len(steps) // 6 + 1), 6)[: len(steps)]
    load = 3 + np.sin(2 * np.pi * steps / 144) + jumps
    values = np.stack([load[:-6], jumps[6:] + 1.0, rng.random(num_steps)], axis=1)
    values[:, 0] += 0.05 * rng.standard_normal(num_steps)
    return RawSeries(name="made-up", indicators=INDICATORS, step_s=600.0, first_s=0.0, values=values)
