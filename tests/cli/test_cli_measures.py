"""Benchmarks' and perplexity's arithmetic, on outputs and scores made up here."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.cli.answers import decode_tokens_per_s, finish_reason, summary
from steelyard.cli.bench_measure import Workload, repeat_result, spread, summarise
from steelyard.cli.bench_startup import StartupResult, median_startup
from steelyard.cli.perplexity import Likelihood, windows
from steelyard.core.errors import ParamsError
from steelyard.core.request import CompletionOutput, FinishReason, RequestOutput, RequestTimes


def output(
    start_s: float = 0.0, num_tokens: int = 5, reason: FinishReason | None = FinishReason.LENGTH
) -> RequestOutput:
    """A request of 10 prompt tokens that waits 1 s, prefills for 2 s and decodes 4 tokens per second."""
    return RequestOutput(
        request_id="r",
        prompt_token_ids=tuple(range(10)),
        outputs=(CompletionOutput(index=0, text="t", token_ids=(1,) * num_tokens, finish_reason=reason),),
        finished=True,
        times=RequestTimes(
            arrival_s=start_s,
            first_scheduled_s=start_s + 1,
            first_token_s=start_s + 3,
            last_token_s=start_s + 3 + (num_tokens - 1) / 4,
        ),
    )


def workload(**changes: int) -> Workload:
    numbers = {"prompt_tokens": 10, "output_tokens": 5, "requests": 1, "concurrency": 1}
    return Workload(**{**numbers, "seed": 0, "warmup": 1, "repeat": 2, **changes})


def test_rates_follow_from_the_engines_times():
    result = repeat_result([output()], workload())
    assert result.prefill_tokens_per_s == 10 / 2
    assert result.decode_tokens_per_s == 4
    assert result.output_tokens_per_s == 5 / 4
    both = summarise([[output()], [output(7.0)]], workload())
    assert both.ttft_s is not None
    assert both.ttft_s.p50 == 3
    assert both.queue_s is not None
    assert both.queue_s.max == 1
    assert both.tpot_s is not None
    assert both.tpot_s.mean == pytest.approx(0.25)
    assert len(both.repeats) == 2
    assert both.fields()["e2e_s"]["p99"] == pytest.approx(4)


def test_what_a_workload_does_not_show_is_none():
    waiting = repeat_result([output(), output()], workload(requests=2))
    assert waiting.prefill_tokens_per_s is None
    one = summarise([[output(num_tokens=1)]], workload(output_tokens=1))
    assert (one.decode_tokens_per_s, one.output_tokens_per_s, one.tpot_s) == (None, None, None)
    assert decode_tokens_per_s(output(num_tokens=1)) is None


def test_summary_names_the_numbers():
    line = summary(output())
    for words in ("10 prompt tokens (0 cached)", "5 completion tokens", "TTFT 3 s", "4.0 tokens/s", "finish: length"):
        assert words in line
    assert finish_reason(output(reason=None)) == "cancelled"


def test_prompts_are_exact_seeded_and_new_in_each_repeat():
    wanted = workload(requests=3)
    repeats = list(wanted.prompts(1000))
    assert repeats == list(wanted.prompts(1000))
    assert [len(repeat) for repeat in repeats] == [3, 3, 3]
    assert all(len(prompt) == 10 and max(prompt) < 1000 for repeat in repeats for prompt in repeat)
    assert len({tuple(prompt) for repeat in repeats for prompt in repeat}) == 9
    assert repeats != list(workload(requests=3, seed=1).prompts(1000))


@pytest.mark.parametrize("name", ["prompt_tokens", "output_tokens", "requests", "concurrency", "repeat"])
def test_workloads_are_checked(name):
    with pytest.raises(ParamsError) as caught:
        workload(**{name: 0})
    assert caught.value.field == name
    with pytest.raises(ParamsError):
        workload().check_context(14)
    workload().check_context(15)


@given(st.lists(st.floats(0, 1e6), min_size=1))
def test_percentiles_are_values_that_occurred_in_order(values):
    found = spread(values)
    assert found is not None
    assert {found.p50, found.p90, found.p99, found.max} <= set(values)
    assert found.p50 <= found.p90 <= found.p99 <= found.max == max(values)
    assert spread([]) is None


def test_startup_times_add_up():
    results = [StartupResult(startup_s=s, load_s=1, ttft_s=0.5) for s in (3, 9, 4)]
    assert median_startup(results) == StartupResult(startup_s=4, load_s=1, ttft_s=0.5)
    assert median_startup(results).import_s == 2.5


@given(st.integers(1, 300), st.integers(2, 64), st.data())
def test_windows_count_each_token_once_with_enough_before_it(num_tokens, context, data):
    stride = data.draw(st.integers(1, context - 1))
    first = data.draw(st.sampled_from([0, 1]))
    slices = list(windows(num_tokens, context, stride, first=first))
    counted = [position for window in slices for position in range(window.first, window.end)]
    assert counted == list(range(first, num_tokens))
    assert all(window.end - window.start <= context for window in slices)
    assert all(window.first - window.start >= context - stride for window in slices[1:])


def test_perplexity_is_weighted_by_tokens():
    assert Likelihood(-10.0, 5).nll == 2.0
    assert Likelihood(-10.0, 5).perplexity == pytest.approx(7.389056)
    assert Likelihood(-1e6, 1).perplexity == float("inf")
