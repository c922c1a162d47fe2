"""Scores against their definitions, and what a replay costs by hand."""

from __future__ import annotations

import numpy as np
import pytest

from steelyard.plan.forecast.replay import replay
from steelyard.plan.forecast.scores import QUANTILES, crps, forecast_scores
from steelyard.policies.scale import make_scale_policy


def test_crps_is_what_its_definition_says():
    rng = np.random.default_rng(0)
    samples, came = rng.normal(size=(3, 40, 2)), rng.normal(size=(3, 2))
    plain = np.abs(samples - came[:, None]).mean(axis=1)
    plain -= np.abs(samples[:, :, None] - samples[:, None]).mean(axis=(1, 2)) / 2
    assert crps(samples, came) == pytest.approx(plain)
    certain = np.full((1, 5, 1), 2.0)
    assert crps(certain, np.array([[5.0]])) == pytest.approx(3.0), "of a certain future it is the distance"


def test_scores_by_hand():
    samples = np.arange(11.0).reshape(1, 11, 1)
    scores = forecast_scores(samples, np.array([[7.0]]))
    assert (scores.mae, scores.rmse, scores.covered) == (2.0, 2.0, 1.0)
    pinball = [q * (7 - 10 * q) if 10 * q < 7 else (q - 1) * (7 - 10 * q) for q in QUANTILES]
    assert scores.quantile_loss == pytest.approx(np.mean(pinball))
    assert forecast_scores(samples, np.array([[9.5]])).covered == 0.0


def test_a_replay_counts_idle_and_missing_replicas():
    came = np.array([[1.0, 2.5], [4.0, 0.2]])
    cost = replay(make_scale_policy("reactive", utilisation=1.0, min_replicas=0), np.array([2.0]), came, None)
    assert (cost.idle, cost.missing, cost.num_short_steps, cost.num_steps) == (1 + 2, 1 + 1, 2, 4)
    assert cost.cost(1.0, 10.0) == 3 + 20
    twice = cost + cost
    assert (twice.idle, twice.num_steps) == (6, 8)


def test_a_replay_shows_each_origin_its_own_futures():
    came = np.array([[1.0], [3.0]])
    futures = np.array([[[1.0]], [[3.0]]])
    policy = make_scale_policy("expected_cost", prior_weight=None, min_replicas=0)
    cost = replay(policy, np.array([9.0]), came, futures)
    assert (cost.idle, cost.missing) == (0, 0)
