"""The JSON behind the page."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from live_server import KEYS, LiveServer, wait_until
from modelled_server import ModelledServer, completion, modelled_server, post, until

from steelyard.cost.calibration import Calibration, OperatorFit
from steelyard.cost.operators import OPERATORS
from steelyard.cost.profile import Profile, profile_text
from steelyard.hardware.device import PeakRate
from steelyard.hardware.this_machine import this_machine
from steelyard.serve.dashboard.hardware import KnownHardware
from steelyard.serve.dashboard.state import Dashboard, DashboardState, kv_state
from steelyard.serve.dashboard.watch import LINGER_S
from steelyard.sim.virtual import run_virtual


async def state(server: ModelledServer, since_s: float = 0.0) -> DashboardState:
    answer = await server.client().get("/dashboard/state", params={"since": since_s})
    assert answer.status_code == 200
    return answer.json()


@pytest.fixture(autouse=True)
def unmeasured(monkeypatch):
    """Nobody has measured this machine."""
    monkeypatch.setattr("steelyard.serve.dashboard.hardware.KnownHardware._changed_at", lambda self: None)


def test_an_engine_at_work():
    async def main() -> None:
        async with modelled_server() as server:
            await post(server.client(), completion(4, 2))  # loads the model
            idle = await state(server)
            assert idle["engine"] is not None
            assert idle["engine"]["sequences"] == []
            running = asyncio.create_task(post(server.client(), completion(20, 100)))
            await until(lambda: server.engine.num_running == 1)
            await asyncio.sleep(1.0)
            busy = await state(server, idle["now_s"])
            engine = busy["engine"]
            assert engine is not None
            (sequence,) = engine["sequences"]
            assert sequence["running"]
            assert sequence["num_prompt_tokens"] == 20
            assert 20 < sequence["num_tokens"] < 120
            assert engine["kv"]["num_used"] == sequence["num_blocks"] > 0
            assert {span["phase"] for span in engine["spans"]} == {"prefill", "decode"}
            assert engine["requests"] == []
            await running
            await asyncio.sleep(1.0)
            after = await state(server, busy["now_s"])
            assert after["engine"] is not None
            (request,) = after["engine"]["requests"]
            assert (request["num_prompt_tokens"], request["num_output_tokens"]) == (20, 100)
            assert request["tpot_s"] == pytest.approx(0.011)
            told = engine["buckets"] + after["engine"]["buckets"]
            assert sum(bucket["num_output_tokens"] for bucket in told) == 100
            assert sum(bucket["num_prompt_tokens"] for bucket in told) == 20
            assert after["machine"]["measured_at"] is None
            assert after["engine"]["expected"] is None

    run_virtual(main())


def test_who_looks_away_costs_the_engine_nothing():
    async def main() -> None:
        async with modelled_server() as server:
            await post(server.client(), completion(4, 2))
            observers = len(server.engine._observers)
            await state(server)
            assert len(server.engine._observers) == observers + 1
            await asyncio.sleep(LINGER_S + 1)
            assert len(server.engine._observers) == observers

    run_virtual(main())


def test_before_a_model_is_loaded():
    async def main() -> None:
        async with modelled_server() as server:
            for model in server.service.pool.models:
                model.llm, llm = None, model.llm
                told = await state(server)
                assert told["engine"] is None
                assert told["models"][0]["name"] == told["model"]
                model.llm = llm

    run_virtual(main())


def test_data_obeys_the_key(live: LiveServer, http: httpx.Client):
    assert httpx.get(live.url + "/dashboard/state").status_code == 401
    assert httpx.get(live.url + "/dashboard/state", headers={"x-api-key": "wrong"}).status_code == 401
    answer = http.get("/dashboard/state")
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"


def test_an_unknown_model_or_time_is_refused(http: httpx.Client):
    assert http.get("/dashboard/state", params={"model": "none"}).status_code == 404
    assert http.get("/dashboard/state", params={"since": "yesterday"}).status_code == 400
    assert http.get("/dashboard/state", params={"model": "alias"}).json()["model"] == "smol"


def test_nobodys_text_or_name_is_told(live: LiveServer, http: httpx.Client):
    http.get("/dashboard/state")
    body = {"prompt": "A very private matter", "max_tokens": 4, "user": "carol"}
    text = http.post("/v1/completions", json=body, headers={"x-request-id": "mine-alone"}).json()["choices"][0]["text"]
    told = http.get("/dashboard/state").text
    for secret in ("private", "mine-alone", "carol", *KEYS, *KEYS.values()):
        assert f'"{secret}' not in told
    assert text not in told
    assert '"reason":"length"' in told


def test_the_map_has_a_digit_for_each_block_until_there_are_too_many(live: LiveServer):
    kv = live.on_loop(lambda: kv_state(live.engine))
    assert len(kv["cells"]) == kv["num_blocks"] == 128
    assert kv["blocks_per_cell"] == 1
    assert kv["num_empty"] + kv["num_cached"] + kv["num_used"] + kv["num_shared"] == kv["num_blocks"]
    for kind, digit in (("num_empty", "0"), ("num_cached", "1"), ("num_used", "2"), ("num_shared", "3")):
        assert kv[kind] == kv["cells"].count(digit)  # type: ignore[literal-required]


def test_a_large_map_shows_the_busiest_of_several_blocks(live: LiveServer, monkeypatch):
    monkeypatch.setattr("steelyard.serve.dashboard.state._MAX_CELLS", 3)
    monkeypatch.setattr("steelyard.engine.engine.Engine.kv_block_states", bytes([0, 0, 1, 0, 2, 3, 0, 0]))
    kv = live.on_loop(lambda: kv_state(live.engine))
    assert (kv["cells"], kv["blocks_per_cell"]) == ("130", 3)
    assert (kv["num_empty"], kv["num_shared"]) == (5, 1)


@pytest.fixture
def measured(tmp_path: Path, monkeypatch) -> Path:
    """A description of this machine with round rates."""
    monkeypatch.undo()  # of `unmeasured`
    machine = this_machine()
    cpu = machine.devices[0]
    tier = replace(cpu.memory[0], bandwidth_bytes_per_s=1e9)
    rates = tuple(PeakRate(dtype=dtype, flop_per_s=1e9) for dtype in ("float32", "int8"))
    half = {"compute_efficiency": 0.5, "memory_efficiency": 0.5}
    fits = tuple(OperatorFit(operator=name, dtype=dtype, **half) for dtype in ("float32", "int8") for name in OPERATORS)
    profile = Profile(
        machine=replace(machine, devices=(replace(cpu, memory=(tier,), peaks=rates),)),
        measured_at="2026-01-31T12:00:00Z",
        calibration=Calibration(path="torch", fits=fits),
    )
    path = tmp_path / "probe.toml"
    path.write_text(profile_text(profile), encoding="utf-8")
    return path


def test_a_measured_machine_says_what_to_expect(live: LiveServer, measured: Path, http: httpx.Client):
    dashboard = Dashboard(live.service, KnownHardware(lambda: measured))
    before = live.on_loop(lambda: dashboard.state(None, 0.0))
    assert before["machine"]["measured_at"] == "2026-01-31T12:00:00Z"
    assert before["machine"]["device"] == "cpu"
    assert before["engine"] is not None
    expected = before["engine"]["expected"]
    assert expected is not None
    assert expected["decode"]["predicted"] == pytest.approx(expected["decode"]["limit"] / 2, rel=0.2)
    http.post("/v1/completions", json={"prompt": "Once", "max_tokens": 20, "ignore_eos": True})

    def told() -> bool:
        engine = live.on_loop(lambda: dashboard.state(None, before["now_s"]))["engine"]
        assert engine is not None
        return sum(bucket["decode"]["num_steps"] for bucket in engine["buckets"]) >= 19

    wait_until(told)
    engine = live.on_loop(lambda: dashboard.state(None, before["now_s"]))["engine"]
    assert engine is not None
    decodes = [bucket["decode"] for bucket in engine["buckets"] if bucket["decode"]["priced_s"] > 0]
    assert decodes
    assert all(one["predicted_s"] and one["predicted_s"] > one["limit_s"] > 0 for one in decodes)
    assert sum(bucket["num_bytes"] for bucket in engine["buckets"]) > 0


def test_two_starts_are_told_apart(live: LiveServer):
    states = [live.on_loop(lambda: Dashboard(live.service, KnownHardware()).state(None, 0.0)) for _ in range(2)]
    assert states[0]["instance"] != states[1]["instance"]
