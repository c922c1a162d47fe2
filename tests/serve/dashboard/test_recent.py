"""Requests that ended: numbers, the latest few hundred, by model."""

from __future__ import annotations

import asyncio

from steelyard.core.request import CompletionOutput, FinishReason, RequestOutput, RequestTimes
from steelyard.serve.dashboard.recent import RecentRequests
from steelyard.sim.virtual import run_virtual


def output(
    num_tokens: int, first_s: float | None = 1.5, reason: FinishReason | None = FinishReason.STOP
) -> RequestOutput:
    return RequestOutput(
        request_id="secret", prompt_token_ids=(1, 2, 3), num_cached_tokens=2, finished=reason is not None,
        outputs=(CompletionOutput(index=0, text="secret", token_ids=(7,) * num_tokens, finish_reason=reason),),
        times=RequestTimes(arrival_s=1.0, first_token_s=first_s, last_token_s=None if first_s is None else 2.5),
    )  # fmt: skip


def test_a_request_becomes_numbers():
    async def main() -> None:
        recent = RecentRequests()
        await asyncio.sleep(3.0)
        recent.add("a", output(5))
        recent.add("b", output(1))
        recent.add("b", output(0, first_s=None, reason=None))
        (one,) = recent.of("a", 0.0)
        assert (one.ended_s, one.num_prompt_tokens, one.num_cached_tokens, one.num_output_tokens) == (3.0, 3, 2, 5)
        assert (one.ttft_s, one.tpot_s, one.reason) == (0.5, 0.25, FinishReason.STOP)
        single, gone = recent.of("b", 0.0)
        assert (single.ttft_s, single.tpot_s) == (0.5, None)
        assert (gone.ttft_s, gone.tpot_s, gone.reason) == (None, None, FinishReason.CANCELLED)
        assert not list(recent.of("a", 3.0))
        assert "secret" not in repr(one)

    run_virtual(main())


def test_only_the_latest_are_kept():
    async def main() -> None:
        recent = RecentRequests()
        for number in range(2000):
            recent.add("a", output(number))
        kept = [one.num_output_tokens for one in recent.of("a", -1.0)]
        assert kept == list(range(2000 - len(kept), 2000))
        assert 100 < len(kept) < 1000

    run_virtual(main())
