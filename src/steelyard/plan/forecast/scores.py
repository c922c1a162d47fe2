"""How good forecasts are that give possible futures: points, quantiles, and the whole distribution."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from steelyard.plan.forecast.series import Floats

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastScores:
    """Errors, in the unit of what was forecast.

    Attributes:
        mae: mean absolute error of the median future.
        rmse: root of the mean squared error of the mean future.
        crps: continuous ranked probability score.
        quantile_loss: mean pinball loss over :data:`QUANTILES`.
        covered: share of what came that lies at or below the 0.9 quantile; 0.9 is right.
    """

    mae: float
    rmse: float
    crps: float
    quantile_loss: float
    covered: float


def forecast_scores(samples: Floats, came: Floats) -> ForecastScores:
    """Return the errors of futures.

    Args:
        samples: ``[origins, futures, horizon]``.
        came: what came, ``[origins, horizon]``.
    """
    levels = np.quantile(samples, QUANTILES, axis=1)
    gaps = came - levels
    pinball = np.maximum(np.array(QUANTILES)[:, None, None] * gaps, (np.array(QUANTILES)[:, None, None] - 1) * gaps)
    return ForecastScores(
        mae=float(np.abs(came - np.median(samples, axis=1)).mean()),
        rmse=float(np.sqrt(((came - samples.mean(axis=1)) ** 2).mean())),
        crps=float(crps(samples, came).mean()),
        quantile_loss=float(pinball.mean()),
        covered=float((came <= levels[QUANTILES.index(0.9)]).mean()),
    )


def coverage(samples: Floats, came: Floats) -> tuple[float, ...]:
    """Return the share of what came at or below each of :data:`QUANTILES`; those would be right.

    Args:
        samples: ``[origins, futures, horizon]``.
        came: ``[origins, horizon]``.
    """
    return tuple((came <= np.quantile(samples, QUANTILES, axis=1)).mean(axis=(1, 2)).tolist())


def crps(samples: Floats, came: Floats) -> Floats:
    """Return the continuous ranked probability score (Gneiting and Raftery, 2007), ``[origins, horizon]``.

    E|X − y| − E|X − X′| / 2 over the futures, the second from their order: Σ (2i − n − 1) · x₍ᵢ₎ / n².
    """
    num = samples.shape[1]
    ordered = np.sort(samples, axis=1)
    weights = (2 * np.arange(1, num + 1) - num - 1) / num**2
    spread: Floats = np.einsum("onh,n->oh", ordered, weights)
    away: Floats = np.abs(samples - came[:, None]).mean(axis=1)
    return away - spread
