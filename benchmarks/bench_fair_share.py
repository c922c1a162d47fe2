"""One key floods a real server, another sends single requests: how long those take, by schedule policy.

    python benchmarks/bench_fair_share.py --floods 0 100 300

The flood comes at once: so many stories of 64 tokens. Beside it the light key asks for 8 tokens, waits for the answer,
pauses and asks again, ten times or until the flood has ended. Eight seats, the default model.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path

import httpx
from soak import served

from steelyard.core.clock import now_s, sleep_s

POLICIES = ("fcfs", "vtc")
SECRETS = {"heavy": "secret-of-heavy", "light": "secret-of-light"}
NUM_LIGHT = 10
PAUSE_S = 0.2


def settings(policy: str) -> str:
    """Return the server's settings."""
    keys = ", ".join(f"{name}:{secret}" for name, secret in SECRETS.items())
    return f"schedule_policy: {policy}\nmax_num_seqs: 8\nmax_model_len: 512\napi_key: [{keys}]\n"


async def took_s(http: httpx.AsyncClient, key: str, number: int, max_tokens: int) -> float:
    """Send a request and return how long its answer took."""
    body = {"prompt": f"Story {number}: once upon a time", "max_tokens": max_tokens, "ignore_eos": True}
    began_s = now_s()
    answer = await http.post("/v1/completions", json=body, headers={"X-API-Key": SECRETS[key]})
    answer.raise_for_status()
    return now_s() - began_s


async def light_waits_s(url: str, num_heavy: int) -> tuple[list[float], float]:
    """Return how long each light request took, and the whole flood."""
    limits = httpx.Limits(max_connections=num_heavy + 1)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as http:
        await took_s(http, "light", 0, 8)
        began_s = now_s()
        flood = [asyncio.create_task(took_s(http, "heavy", number, 64)) for number in range(num_heavy)]
        waits: list[float] = []
        while len(waits) < NUM_LIGHT and (not flood or not all(task.done() for task in flood)):
            await sleep_s(PAUSE_S)
            waits.append(await took_s(http, "light", len(waits), 8))
        await asyncio.gather(*flood)
        return waits, now_s() - began_s


async def measure(policy: str, num_heavy: int) -> str:
    """Return the line of one run."""
    with tempfile.TemporaryDirectory() as folder:
        async with served(Path(folder), settings(policy)) as server:
            waits, flood_s = await light_waits_s(server.url, num_heavy)
    mean_s = sum(waits) / len(waits)
    return f"{policy:<8}{num_heavy:>7}{max(waits):>12.2f}{mean_s:>10.2f}{len(waits):>8}{flood_s:>10.1f}"


def main() -> None:
    """Read the command line and print a table."""
    parser = argparse.ArgumentParser(description="What a light key waits beside a flood.")
    parser.add_argument("--floods", type=int, nargs="+", default=[0, 100, 300])
    given = parser.parse_args()
    print(f"{'policy':<8}{'flood':>7}{'longest s':>12}{'mean s':>10}{'asked':>8}{'flood s':>10}")
    for policy in POLICIES:
        for num_heavy in given.floods:
            print(asyncio.run(measure(policy, num_heavy)), flush=True)


if __name__ == "__main__":
    main()
