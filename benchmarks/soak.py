"""A server under mixed and ill-mannered load, for as long as you like: does it lose a block, a request or memory?

    python benchmarks/soak.py 180
    python benchmarks/soak.py 3600 --workers 32

A real `steelyard serve` with two names for the default model and room for one, so that models change places all the
time, two keys, one of them with limits that change every few seconds, and fair shares. Workers send whole and streamed
answers, leave in the middle or before the beginning, set deadlines, and send what is too large, malformed, forbidden or
unknown. In the end:

- every answer had a status that its request may get;
- the server counted every answer that clients saw, and no more than those who left early can explain;
- no KV block is in use, nothing runs, waits or holds a model;
- the greatest memory of the process in the last third of the time is not above that in the second.

Exit code 1 if one of these does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from steelyard.core.clock import now_s, sleep_s
from steelyard.core.units import MIB

KEYS = {"ann": "secret-of-ann", "bob": "secret-of-bob"}
MODELS = ("first", "second")
MODEL_MEMORY = "200M"  # one of them fits
MAX_BODY_BYTES = 200_000
CONFIG = f"""
models: [first=smollm2-135m-instruct, second=smollm2-135m-instruct]
model_memory: {MODEL_MEMORY}
kv_cache_memory: 48M
max_model_len: 512
max_num_seqs: 8
max_waiting: 64
max_body_bytes: {MAX_BODY_BYTES}
schedule_policy: vtc
drain_timeout: 20
api_key: [{", ".join(f"{name}:{secret}" for name, secret in KEYS.items())}]
keys:
  bob: {{requests_per_min: 240, tokens_per_min: 60000, max_concurrent: 3}}
"""
PATIENCE_S = 120.0
CHANGE_S = 4.0
FLAT_BYTES = 48 * MIB  # what one third of the time may have above the one before
_TURNED_AWAY = {429}


@dataclass
class Findings:
    """What clients saw, and what the process took.

    Attributes:
        sent: requests by kind.
        statuses: answers by kind and status.
        seen: answers by status.
        num_left_early: requests whose client left before an answer.
        wrong: what no request should have met.
        rss_bytes: one sample a second.
    """

    sent: Counter[str] = field(default_factory=Counter)
    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    seen: Counter[int] = field(default_factory=Counter)
    num_left_early: int = 0
    wrong: list[str] = field(default_factory=list)
    rss_bytes: list[int] = field(default_factory=list)

    def note(self, kind: str, status: int, expected: set[int], text: str = "") -> None:
        """Count an answer."""
        self.statuses[kind, status] += 1
        self.seen[status] += 1
        if status not in expected:
            self.wrong.append(f"{kind}: {status} {text[:200]}")


class Client:
    """One worker's requests.

    Args:
        http: knows the server.
        rng: decides.
        findings: are added to.
    """

    def __init__(self, http: httpx.AsyncClient, rng: random.Random, findings: Findings) -> None:
        self._http, self._rng, self._findings = http, rng, findings
        self._kinds: list[tuple[int, Callable[[str], Awaitable[None]]]] = [
            (6, self.whole), (6, self.streamed), (4, self.leaves), (3, self.leaves_early), (2, self.deadline),
            (1, self.oversize), (1, self.malformed), (1, self.too_long), (1, self.unknown_model), (1, self.no_key),
        ]  # fmt: skip

    async def run(self, until_s: float) -> None:
        """Send one request after another."""
        weights = [weight for weight, _ in self._kinds]
        while now_s() < until_s:
            _, kind = self._rng.choices(self._kinds, weights)[0]
            self._findings.sent[kind.__name__] += 1
            try:
                await kind(kind.__name__)
            except httpx.HTTPError as error:
                self._findings.wrong.append(f"{kind.__name__}: {type(error).__name__} {error}")

    async def whole(self, kind: str) -> None:
        """Wait for a whole answer."""
        body = self._body(n=self._rng.choice([1, 1, 1, 3]))
        answer = await self._http.post("/v1/completions", json=body, headers=self._headers())
        self._findings.note(kind, answer.status_code, {200} | _TURNED_AWAY, answer.text)
        if answer.status_code == 200 and len(answer.json()["choices"]) != body["n"]:
            self._findings.wrong.append(f"{kind}: {answer.text[:200]}")

    async def streamed(self, kind: str) -> None:
        """Read a stream to its end."""
        async with self._stream(self._body(stream=True)) as answer:
            lines = [line async for line in answer.aiter_lines()]
        self._findings.note(kind, answer.status_code, {200} | _TURNED_AWAY)
        if answer.status_code == 200 and lines[-2:-1] != ["data: [DONE]"] and lines[-1:] != ["data: [DONE]"]:
            self._findings.wrong.append(f"{kind}: a stream without its end: {lines[-3:]}")

    async def leaves(self, kind: str) -> None:
        """Go away in the middle of a stream."""
        async with self._stream(self._body(stream=True, max_tokens=400, ignore_eos=True)) as answer:
            self._findings.note(kind, answer.status_code, {200} | _TURNED_AWAY)
            num_lines = self._rng.randint(1, 20)
            async for _ in answer.aiter_lines():
                num_lines -= 1
                if not num_lines:
                    break

    async def leaves_early(self, kind: str) -> None:
        """Go away before an answer, most of the time."""
        body = self._body(max_tokens=400, ignore_eos=True)
        try:
            async with asyncio.timeout(self._rng.random()):
                answer = await self._http.post("/v1/completions", json=body, headers=self._headers())
        except TimeoutError:
            self._findings.num_left_early += 1
        else:
            self._findings.note(kind, answer.status_code, {200} | _TURNED_AWAY, answer.text)

    async def deadline(self, kind: str) -> None:
        """Set a time that is too short."""
        headers = self._headers() | {"X-Request-Timeout": f"{self._rng.uniform(0.05, 0.5):.3f}"}
        body = self._body(max_tokens=400, ignore_eos=True)
        answer = await self._http.post("/v1/completions", json=body, headers=headers)
        self._findings.note(kind, answer.status_code, {200, 504} | _TURNED_AWAY, answer.text)

    async def oversize(self, kind: str) -> None:
        """Send a body beyond the limit."""
        body = self._body(prompt="x" * (MAX_BODY_BYTES + 1))
        answer = await self._http.post("/v1/completions", json=body, headers=self._headers())
        self._findings.note(kind, answer.status_code, {413}, answer.text)

    async def malformed(self, kind: str) -> None:
        """Send what is no request."""
        content = self._rng.choice([b"{", b"\xff\xfe", b'{"prompt": 5}', b'{"prompt": "x", "n": 1e9}', b"[" * 5000])
        headers = self._headers() | {"Content-Type": "application/json"}
        answer = await self._http.post("/v1/completions", content=content, headers=headers)
        self._findings.note(kind, answer.status_code, {400}, answer.text)

    async def too_long(self, kind: str) -> None:
        """Send a prompt beyond the context."""
        answer = await self._http.post(
            "/v1/completions", json=self._body(prompt="word " * 2000), headers=self._headers()
        )
        self._findings.note(kind, answer.status_code, {400} | _TURNED_AWAY, answer.text)

    async def unknown_model(self, kind: str) -> None:
        """Ask for a model that is not there."""
        answer = await self._http.post("/v1/completions", json=self._body(model="third"), headers=self._headers())
        self._findings.note(kind, answer.status_code, {404} | _TURNED_AWAY, answer.text)

    async def no_key(self, kind: str) -> None:
        """Come without a key."""
        answer = await self._http.post("/v1/completions", json=self._body())
        self._findings.note(kind, answer.status_code, {401}, answer.text)

    def _stream(self, body: dict[str, object]) -> AbstractAsyncContextManager[httpx.Response]:
        return self._http.stream("POST", "/v1/completions", json=body, headers=self._headers())

    def _headers(self) -> dict[str, str]:
        return {"X-API-Key": self._rng.choice(list(KEYS.values()))}

    def _body(self, **more: object) -> dict[str, object]:
        """Return a request; many share the beginning of their prompt, and few are for the second model."""
        prompt = "Once upon a time there was a " * self._rng.choice([1, 1, 4, 20]) + str(self._rng.randint(0, 50))
        model = self._rng.choices(MODELS, [49, 1])[0]
        return {"model": model, "prompt": prompt, "max_tokens": self._rng.randint(1, 40), "n": 1} | more


@dataclass(frozen=True)
class Served:
    """A server that runs.

    Attributes:
        process: its own.
        url: where it listens.
        config: its file of settings.
    """

    process: asyncio.subprocess.Process
    url: str
    config: Path

    @property
    def rss_bytes(self) -> int:
        """What it holds in memory now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) * 1024


@asynccontextmanager
async def served(folder: Path, settings: str) -> AsyncIterator[Served]:
    """Run a server with ``settings``, in YAML; it must end in order."""
    config, log = folder / "server.yaml", folder / "server.log"
    config.write_text(settings, encoding="utf-8")
    command = [sys.executable, "-m", "steelyard.cli.main", "serve", "--port", "0", "--config", str(config)]
    with log.open("wb") as stream:
        process = await asyncio.create_subprocess_exec(*command, stderr=stream)
    try:
        while "is ready" not in (text := log.read_text(encoding="utf-8", errors="replace")):
            if process.returncode is not None:
                raise SystemExit(text)
            await sleep_s(0.1)
        url = re.findall(r"http://[0-9.]+:\d+", log.read_text(encoding="utf-8"))[0]
        yield Served(process, url, config)
        process.send_signal(signal.SIGTERM)
        code, text = await process.wait(), log.read_text(encoding="utf-8")
        if code != 0 or "Traceback" in text:
            start = max(0, text.find("Traceback") - 300 if "Traceback" in text else len(text) - 3000)
            raise SystemExit(f"the server ended with {code}, and not in order:\n{text[start : start + 6000]}")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def soak(duration_s: float, num_workers: int, seed: int, folder: Path) -> list[str]:
    """Run it all, print what came of it and return what is wrong."""
    findings = Findings()
    async with served(folder, CONFIG) as server:
        limits = httpx.Limits(max_connections=num_workers, keepalive_expiry=2.0)
        async with httpx.AsyncClient(base_url=server.url, timeout=PATIENCE_S, limits=limits) as http:
            until_s = now_s() + duration_s
            rng = random.Random(seed)
            clients = [Client(http, random.Random(rng.random()), findings) for _ in range(num_workers)]
            beside = [asyncio.create_task(task) for task in (watch_memory(server, findings), change_limits(server))]
            await asyncio.gather(*(client.run(until_s) for client in clients))
            for task in beside:
                task.cancel()
            metrics = await metrics_at_rest(http)
    print_table(findings, metrics)
    return findings.wrong + unaccounted(findings, metrics) + left_over(metrics) + growth(findings.rss_bytes)


async def watch_memory(server: Served, findings: Findings) -> None:
    """Take a sample a second."""
    while True:
        findings.rss_bytes.append(server.rss_bytes)
        await sleep_s(1.0)


async def change_limits(server: Served) -> None:
    """Give the limited key other limits again and again, by the file or by a signal; some are wrong."""
    while True:
        for limit in ("max_concurrent: 3", "max_concurrent: 1", "max_concurrent: none", "max_concurrent: 5"):
            await sleep_s(CHANGE_S)
            server.config.write_text(CONFIG.replace("max_concurrent: 3", limit), encoding="utf-8")
            server.process.send_signal(signal.SIGHUP)


async def metrics_at_rest(http: httpx.AsyncClient) -> str:
    """Return the server's metrics once nothing runs, or as they are after a while."""
    text = ""
    for _ in range(100):
        text = (await http.get("/metrics", headers={"X-API-Key": KEYS["ann"]})).text
        if not left_over(text):
            break
        await sleep_s(0.1)
    return text


def samples(metrics: str, name: str) -> list[tuple[str, float]]:
    """Return a metric's labels and values."""
    return [
        (labels, float(value)) for labels, value in re.findall(rf"^vllm:{name}\{{(.*)\}} (\S+)$", metrics, re.MULTILINE)
    ]


def unaccounted(findings: Findings, metrics: str) -> list[str]:
    """Return the statuses that clients saw otherwise than the server counted them."""
    counted: Counter[int] = Counter()
    for labels, value in samples(metrics, "http_requests_total"):
        status = int(re.findall(r'status="(\d+)"', labels)[0])
        if status != 200 or 'path="/v1/completions"' in labels:
            counted[status] += int(value)
    problems = [
        f"{status}: clients saw {findings.seen[status]}, the server counted {counted[status]}"
        for status in sorted(counted | findings.seen)
        if counted[status] < findings.seen[status]
    ]
    too_many = counted.total() - findings.seen.total()
    if too_many > findings.num_left_early:
        problems.append(f"{too_many} answers beyond those seen, but only {findings.num_left_early} clients left early")
    return problems


def left_over(metrics: str) -> list[str]:
    """Return what is still in use."""
    names = ("kv_cache_usage_perc", "num_requests_running", "num_requests_waiting", "model_requests")
    return [f"{name}{{{labels}}} is {value:g}" for name in names for labels, value in samples(metrics, name) if value]


def growth(rss_bytes: list[int]) -> list[str]:
    """Return whether the last third took more memory than the second."""
    third = len(rss_bytes) // 3
    if third < 2:
        return []
    # The greatest, as a model that has just been put away takes nothing.
    middle, last = max(rss_bytes[third : 2 * third]), max(rss_bytes[2 * third :])
    return [f"memory grew from {middle / MIB:.0f} to {last / MIB:.0f} MiB"] if last > middle + FLAT_BYTES else []


def print_table(findings: Findings, metrics: str) -> None:
    """Print requests by kind, and memory."""
    statuses = sorted({status for _, status in findings.statuses})
    print(f"{'kind':<14}{'sent':>7}" + "".join(f"{status:>7}" for status in statuses))
    for kind, num_sent in findings.sent.most_common():
        print(f"{kind:<14}{num_sent:>7}" + "".join(f"{findings.statuses[kind, status]:>7}" for status in statuses))
    rss_mib = [sample / MIB for sample in findings.rss_bytes]
    tenth = max(1, len(rss_mib) // 10)
    greatest = [max(rss_mib[start : start + tenth]) for start in range(0, len(rss_mib), tenth)]
    print(f"left early: {findings.num_left_early}; greatest memory by tenths of the time, MiB:", end=" ")
    print(" ".join(f"{one:.0f}" for one in greatest))
    for name in ("requests_refused_total", "model_switch_seconds_count", "request_success_total"):
        print(name, {labels: int(value) for labels, value in samples(metrics, name)})


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description="A server under mixed and ill-mannered load.")
    parser.add_argument("seconds", type=float)
    parser.add_argument("--workers", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        wrong = asyncio.run(soak(given.seconds, given.workers, given.seed, Path(folder)))
    for problem in wrong[:20]:
        print("WRONG", problem)
    print("all is well" if not wrong else f"{len(wrong)} things are wrong")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
