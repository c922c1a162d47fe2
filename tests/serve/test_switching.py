"""Two models and room for one, with real weights."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
from live_server import live_server, metric

from steelyard.core.units import MIB
from steelyard.engine.build import LLMOptions
from steelyard.kernels.native import native_available
from steelyard.serve.config import ListenConfig, ModelSpec, ServeConfig
from steelyard.serve.sources import DiskModels

ROOM_BYTES = (200 if native_available() else 800) * MIB  # without compiled kernels a model is held in float32
CONFIG = ServeConfig(
    models=tuple(ModelSpec(source=None, names=(name,)) for name in ("first", "second")),
    model_memory_bytes=ROOM_BYTES,
    listen=ListenConfig(port=0),
    engine=LLMOptions(max_model_len=256, max_num_seqs=2, kv_cache_memory_bytes=32 * MIB),
)


def resident_bytes() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def test_models_change_places_and_leave_no_memory_behind():
    with live_server(CONFIG, DiskModels(CONFIG.engine)) as live, httpx.Client(base_url=live.url, timeout=60) as http:

        def ask(name: str) -> str:
            body = {"model": name, "prompt": "1, 2, 3,", "max_tokens": 4, "temperature": 0}
            answer = http.post("/v1/completions", json=body).json()
            assert answer["model"] == name
            return answer["choices"][0]["text"]

        text = ask("first")
        assert ask("second") == text
        sizes = []
        for _ in range(3):
            assert ask("first") == ask("second") == text
            sizes.append(resident_bytes())
        assert sizes[-1] - sizes[0] < 60 * MIB  # each model is larger
        states = {card["id"]: card["state"] for card in http.get("/v1/models").json()["data"]}
        assert states == {"first": "idle", "second": "ready"}
        told = http.get("/metrics").text
        assert metric(told, "vllm:model_loaded", model_name="second") == 1
        assert metric(told, "vllm:model_loaded", model_name="first") == 0
        assert metric(told, "vllm:model_memory_bytes") <= ROOM_BYTES
        assert metric(told, "vllm:model_switch_seconds_count", model_name="first") == 4
        assert metric(told, "vllm:model_switch_seconds_sum") > 0


def test_requests_for_both_at_once_are_all_answered():
    with live_server(CONFIG, DiskModels(CONFIG.engine)) as live, ThreadPoolExecutor(8) as threads:

        def ask(number: int) -> int:
            body = {"model": ("first", "second")[number % 2], "prompt": f"{number}", "max_tokens": 5}
            return httpx.post(live.url + "/v1/completions", json=body, timeout=60).status_code

        assert set(threads.map(ask, range(16))) == {200}
        for model in live.service.pool.models:
            assert model.num_leases == 0
