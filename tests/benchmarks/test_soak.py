"""The soak finds what is lost, and a short one finds nothing."""

from __future__ import annotations

import asyncio
from collections import Counter

from soak import Findings, growth, left_over, soak, unaccounted

from steelyard.core.units import MIB

METRICS = """
vllm:http_requests_total{path="/v1/completions",status="200"} 5.0
vllm:http_requests_total{path="/metrics",status="200"} 9.0
vllm:http_requests_total{path="unknown",status="413"} 2.0
vllm:kv_cache_usage_perc{model_name="first"} 0.0
vllm:num_requests_running{model_name="first"} 0.0
"""


def test_answers_are_accounted_for():
    assert unaccounted(Findings(seen=Counter({200: 5, 413: 2})), METRICS) == []
    assert unaccounted(Findings(seen=Counter({200: 4, 413: 2}), num_left_early=1), METRICS) == []
    (problem,) = unaccounted(Findings(seen=Counter({200: 4, 413: 2})), METRICS)
    assert "1 answers beyond" in problem
    (problem,) = unaccounted(Findings(seen=Counter({200: 5, 413: 2, 429: 1})), METRICS)
    assert problem.startswith("429: ")


def test_what_is_left_over_is_told():
    assert left_over(METRICS) == []
    assert left_over(METRICS.replace('perc{model_name="first"} 0.0', 'perc{model_name="first"} 0.25')) == [
        'kv_cache_usage_perc{model_name="first"} is 0.25'
    ]


def test_memory_that_grows_is_told():
    assert growth([]) == growth([MIB] * 3) == growth([500 * MIB, 900 * MIB] * 6) == []
    assert growth([number * 100 * MIB for number in range(9)]) == ["memory grew from 500 to 800 MiB"]


def test_statuses_that_a_request_may_not_get_are_told():
    findings = Findings()
    findings.note("whole", 200, {200})
    findings.note("whole", 500, {200}, "oh")
    assert findings.wrong == ["whole: 500 oh"]
    assert findings.seen == {200: 1, 500: 1}


def test_twenty_seconds_of_it_find_nothing_wrong(tmp_path, capsys):
    assert asyncio.run(soak(20.0, 12, 0, tmp_path)) == []
    assert "streamed" in capsys.readouterr().out
