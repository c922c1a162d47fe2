"""Limits of keys and engines as clients meet them, in virtual time."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import httpx
import pytest
from live_server import metric
from modelled_server import ModelledServer, completion, modelled_server, post, until

from steelyard.policies.admit.types import Ask
from steelyard.serve.config import AccessConfig, KeyLimits, LimitsConfig, SharingConfig
from steelyard.sim.virtual import run_virtual


def refusal_of(response: httpx.Response) -> tuple[str, int]:
    """Return the limit that a 429 names, and when to come back."""
    assert response.status_code == 429
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    wait = response.headers["retry-after"]
    assert wait.isdigit()
    assert f"Try again in {wait} s" in error["message"]
    return error["message"].partition(":")[0], int(wait)


def sharing(**default: float) -> SharingConfig:
    return SharingConfig(default=KeyLimits(**default))  # type: ignore[arg-type]


def refusals(server: ModelledServer, **labels: str) -> float:
    return metric(server.service.metrics.render().decode(), "vllm:requests_refused_total", **labels)


def test_requests_per_minute_for_each_key():
    async def main() -> None:
        async with modelled_server("ann", "bob", sharing=sharing(requests_per_min=2)) as server:
            ann, bob = server.client("ann"), server.client("bob")
            for _ in range(2):
                assert (await post(ann, completion())).status_code == 200
            limit, wait_s = refusal_of(await post(ann, completion()))
            assert (limit, wait_s) == ("requests_per_min", 30)
            assert (await post(bob, completion())).status_code == 200
            assert refusals(server, key="ann", limit="requests_per_min") == refusals(server) == 1
            await asyncio.sleep(wait_s)
            assert (await post(ann, completion())).status_code == 200, "who waits as long as told is let in"

    run_virtual(main())


def test_answers_and_refusals_say_how_the_key_stands():
    async def main() -> None:
        async with modelled_server("ann", "bob", sharing=sharing(requests_per_min=2, tokens_per_min=600)) as server:
            ann = server.client("ann")
            told = (await post(ann, completion(20, 10))).headers
            assert (told["x-ratelimit-limit-requests"], told["x-ratelimit-limit-tokens"]) == ("2", "600")
            assert told["x-ratelimit-remaining-requests"] == "1"
            assert 570 <= int(told["x-ratelimit-remaining-tokens"]) <= 575, "some came back while it was answered"
            assert 29 < float(told["x-ratelimit-reset-requests"].removesuffix("s")) <= 30
            assert 2.5 < float(told["x-ratelimit-reset-tokens"].removesuffix("s")) <= 3
            await post(ann, completion(20, 10))
            refused = await post(ann, completion(20, 10))
            assert refused.status_code == 429
            assert refused.headers["x-ratelimit-remaining-requests"] == "0"
            await asyncio.sleep(60)
            whole = (await ann.get("/v1/models")).headers
            assert (whole["x-ratelimit-remaining-requests"], whole["x-ratelimit-reset-requests"]) == ("2", "0s")
        async with modelled_server("ann") as free:
            assert not [name for name in (await post(free.client("ann"), completion())).headers if "ratelimit" in name]

    run_virtual(main())


def test_tokens_per_minute_give_back_what_was_not_used():
    async def main() -> None:
        async with modelled_server("ann", sharing=sharing(tokens_per_min=120)) as server:
            ann = server.client("ann")
            stopping = completion(20, 100, stop_token_ids=list(range(100)), ignore_eos=False)
            assert (await post(ann, stopping)).json()["usage"]["completion_tokens"] == 1
            assert (await post(ann, completion(20, 70))).status_code == 200
            limit, wait_s = refusal_of(await post(ann, completion(20, 70)))
            assert limit == "tokens_per_min"
            assert 30 < wait_s <= 45
            assert refusal_of(await post(ann, completion(1, 100)))[1] > wait_s

    run_virtual(main())


def test_an_answer_without_a_limit_counts_as_the_whole_context():
    async def main() -> None:
        async with modelled_server("ann", sharing=sharing(tokens_per_min=256)) as server:
            ann = server.client("ann")
            body = completion(6, n=2) | {"max_tokens": 250}
            running = asyncio.create_task(post(ann, body))
            await until(lambda: server.engine.num_running == 2)
            limit, wait_s = refusal_of(await post(ann, completion(1, 1)))
            assert limit == "tokens_per_min"
            assert wait_s > 50, "506 tokens are promised, and 256 come in a minute"
            assert (await running).status_code == 200

    run_virtual(main())


def test_concurrency_counts_until_the_end_however_it_comes():
    async def main() -> None:
        async with modelled_server("ann", "bob", sharing=sharing(max_concurrent=2)) as server:
            ann, bob = server.client("ann"), server.client("bob")
            first, second = (asyncio.create_task(post(ann, completion(4, 100))) for _ in range(2))
            await until(lambda: server.engine.num_running == 2)
            assert refusal_of(await post(ann, completion()))[0] == "max_concurrent"
            assert (await post(bob, completion())).status_code == 200
            first.cancel()  # the client has gone
            await until(lambda: server.engine.num_running == 1)
            assert (await post(ann, completion())).status_code == 200
            assert (await second).status_code == 200
            assert (await post(ann, completion(300))).status_code == 400
            assert not server.service.admission._concurrency._num_inside
            server.engine.check_invariants()

    run_virtual(main())


def test_concurrency_counts_from_the_beginning():
    """Whoever waits for a model holds a place, too."""

    async def main() -> None:
        async with modelled_server("ann", load_s=10.0, sharing=sharing(max_concurrent=2)) as server:
            ann = server.client("ann")
            waiting = [asyncio.create_task(post(ann, completion())) for _ in range(2)]
            await until(lambda: server.service.num_active == 2)
            assert refusal_of(await post(ann, completion()))[0] == "max_concurrent"
            for path, body in (("/tokenize", {"prompt": "x"}), ("/detokenize", {"tokens": [1]})):
                assert refusal_of(await ann.post(path, json=body))[0] == "max_concurrent"
            assert [(await one).status_code for one in waiting] == [200, 200]
            assert not server.service.admission._concurrency._num_inside

    run_virtual(main())


def test_a_full_queue_and_promised_memory_refuse_everybody():
    async def main() -> None:
        engine = {"max_num_seqs": 1, "max_waiting": 2}
        limits = LimitsConfig(retry_after_s=2.5)
        async with modelled_server("ann", "bob", engine=engine, limits=limits) as server:
            ann, bob = server.client("ann"), server.client("bob")
            running = [asyncio.create_task(post(ann, completion(4, 50)))]
            await until(lambda: server.engine.num_running == 1)
            running += [asyncio.create_task(post(ann, completion(4, 50))) for _ in range(2)]
            await until(lambda: server.engine.waiting_tenants()["ann"] == 2)
            assert refusal_of(await post(bob, completion())) == ("max_waiting", 3)
            text = server.service.metrics.render().decode()
            assert metric(text, "vllm:key_requests_waiting", key="ann", model_name="m") == 2
            await asyncio.gather(*running)
            assert (await post(bob, completion())).status_code == 200
            text = server.service.metrics.render().decode()
            assert metric(text, "vllm:key_queue_time_seconds_count", key="ann") == 3
            assert metric(text, "vllm:key_queue_time_seconds_count", key="bob") == 1

        async with modelled_server("ann", sharing=SharingConfig(kv_overcommit=0.15)) as server:
            ann = server.client("ann")
            running = [asyncio.create_task(post(ann, completion(6, 250))) for _ in range(2)]
            await until(lambda: server.engine.num_running == 2)
            assert refusal_of(await post(ann, completion(6, 250)))[0] == "kv_overcommit"
            assert (await post(ann, completion(1, 1))).status_code == 200
            await asyncio.gather(*running)

    run_virtual(main())


def test_who_is_refused_costs_no_tokenizing_and_no_model():
    async def main() -> None:
        async with modelled_server("ann", load_s=100.0, sharing=sharing(requests_per_min=1)) as server:
            ann = server.client("ann")
            server.service.admission._rate.book(Ask(key="ann", num_prompt_tokens=0, max_output_tokens=0), 0.0)
            limit, _ = refusal_of(await post(ann, {"prompt": "text", "max_tokens": 1}))
            assert limit == "requests_per_min"

    run_virtual(main())


def test_each_key_has_its_own_limits_and_priority():
    async def main() -> None:
        own = {"ann": KeyLimits(max_concurrent=1, priority=3), "bob": KeyLimits(priority=-2)}
        async with modelled_server("ann", "bob", "cyd", sharing=SharingConfig(keys=own)) as server:
            seen: dict[str, list[int]] = {"ann": [], "bob": [], "cyd": []}
            submit = server.engine.submit

            def note(request):
                seen[request.tenant].append(request.priority)
                return submit(request)

            server.engine.submit = note  # type: ignore[method-assign]
            for key, priorities in seen.items():
                for asked in (None, -100, 5):
                    assert (await post(server.client(key), completion(priority=asked))).status_code == 200
                expected = {"ann": [3, 3, 8], "bob": [-2, -2, 3], "cyd": [0, -100, 5]}
                assert priorities == expected[key]
            running = asyncio.create_task(post(server.client("ann"), completion(4, 50)))
            await until(lambda: server.engine.num_running == 1)
            assert refusal_of(await post(server.client("ann"), completion()))[0] == "max_concurrent"
            assert (await post(server.client("bob"), completion())).status_code == 200
            await running

    run_virtual(main())


def test_without_keys_everybody_is_one_caller():
    async def main() -> None:
        async with modelled_server(sharing=sharing(requests_per_min=1)) as server:
            assert (await post(server.client(), completion())).status_code == 200
            refusal_of(await post(server.client(), completion()))
            assert refusals(server, key="anonymous") == 1

    run_virtual(main())


def test_limits_keys_and_shares_change_while_requests_run(caplog, monkeypatch):
    monkeypatch.setattr("steelyard.serve.service.logger.propagate", True)

    async def main() -> None:
        async with modelled_server("ann", "bob", engine={"schedule_policy": "vtc"}) as server:
            ann, config = server.client("ann"), server.service.config
            running = asyncio.create_task(post(ann, completion(4, 50)))
            await until(lambda: server.engine.num_running == 1)
            changed = replace(
                config,
                sharing=SharingConfig(keys={"ann": KeyLimits(max_concurrent=1, weight=3.0)}),
                access=AccessConfig(api_keys=("ann:secret-of-ann", "cyd:secret-of-cyd")),
                max_engine_restarts=7,
            )
            server.service.reconfigure(changed)
            assert server.engine.policy.config.shares == {"ann": 3.0, "batch:ann": 3.0}
            assert refusal_of(await post(ann, completion()))[0] == "max_concurrent"
            assert (await running).status_code == 200
            assert (await post(ann, completion())).status_code == 200
            assert (await post(server.client("bob"), completion())).status_code == 401
            assert (await post(server.client("cyd"), completion())).status_code == 200
            assert server.service.config.max_engine_restarts == config.max_engine_restarts
            assert "max_engine_restarts" in caplog.text

    run_virtual(main())


def test_a_wrong_change_changes_nothing():
    async def main() -> None:
        async with modelled_server("ann", sharing=sharing(requests_per_min=1)) as server:
            config = server.service.config
            for wrong in (
                replace(config, sharing=SharingConfig(keys={"nobody": KeyLimits()})),
                replace(config, access=AccessConfig(api_keys=("tiny",)), sharing=SharingConfig()),
                replace(config, access=AccessConfig(), sharing=SharingConfig()),
            ):
                with pytest.raises(ValueError, match="key"):
                    server.service.reconfigure(wrong)
            assert server.service.config == config
            assert (await post(server.client("ann"), completion())).status_code == 200
            refusal_of(await post(server.client("ann"), completion()))

    run_virtual(main())


def test_a_flood_is_answered_at_once_and_leaves_nothing_behind():
    async def main() -> None:
        both = sharing(requests_per_min=60, max_concurrent=8)
        async with modelled_server("ann", sharing=both, engine={"max_waiting": 16}) as server:
            ann = server.client("ann")
            answers = await asyncio.gather(*(post(ann, completion(first=i % 90)) for i in range(200)))
            good = [answer for answer in answers if answer.status_code == 200]
            turned_away = [answer for answer in answers if answer.status_code != 200]
            assert len(good) == 8
            assert {refusal_of(answer)[0] for answer in turned_away} == {"max_concurrent"}
            assert refusals(server) == len(turned_away)
            server.engine.check_invariants()
            assert server.engine.load().num_promised_blocks == 0

    run_virtual(main())
