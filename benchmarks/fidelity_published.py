"""The simulator beside published serving runs: the same requests, and what they waited for in truth.

    python benchmarks/fidelity_published.py

vLLM served Llama-3.1-8B on two cards; the same project measured the operators there (LLMServingSim, MIT licence). The
requests of those runs go through the simulator with step times from those operators. Nothing is fitted to the runs:
what is taken from them are the requests, and the limits that vLLM was started with.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, quantiles

from steelyard.cost.llmservingsim import shipped_steps
from steelyard.engine.config import EngineConfig
from steelyard.sim.cluster import Cluster, ReplicaGroup
from steelyard.sim.simulate import simulate
from steelyard.sim.traces.types import Trace, TraceRequest

DATA = Path(__file__).with_name("data")
BLOCK = 16
MAX_MODEL_LEN = 32768


@dataclass(frozen=True, slots=True)
class Run:
    """A published run.

    Attributes:
        device: in the catalogue.
        num_kv_blocks: that vLLM had, of 16 tokens.
        max_num_seqs: that it was started with.
    """

    device: str
    num_kv_blocks: int
    max_num_seqs: int


# vLLM's log of the first run says its blocks; of the second, 0.9 of 95.6 GiB less 16.1 GB of weights and 2 GB besides.
RUNS = (Run("rtx-4090", 2588, 256), Run("rtx-pro-6000", 35_400, 128))


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of every request, in one order."""

    ttft_s: tuple[float, ...]
    tpot_s: tuple[float, ...]


def main() -> None:
    """Print measured, simulated and deviation for each run."""
    for run in RUNS:
        steps = shipped_steps(run.device)
        print(f"{run.device}, Llama-3.1-8B, vLLM 0.19")
        for name, error in steps.errors().items():
            print(f"  table {name}, left out: {error}")
        for line in table(measured(run), simulated(run)):
            print("  " + line)


def measured(run: Run) -> Times:
    """Return what vLLM took."""
    rows = list(_rows(run))
    return Times(
        tuple(float(row["first_token_s"]) - float(row["queued_s"]) for row in rows),
        tuple(
            (float(row["last_token_s"]) - float(row["first_token_s"])) / (int(row["output_tokens"]) - 1)
            for row in rows
            if int(row["output_tokens"]) > 1
        ),
    )


def simulated(run: Run) -> Times:
    """Return what the simulator takes for the same requests."""
    engine = EngineConfig(
        max_model_len=MAX_MODEL_LEN,
        num_kv_blocks=run.num_kv_blocks,
        block_size=BLOCK,
        max_num_seqs=run.max_num_seqs,
        max_num_batched_tokens=2048,
    )
    group = ReplicaGroup(name=run.device, count=1, steps=shipped_steps(run.device), engine=engine)
    requests = tuple(
        TraceRequest(float(row["queued_s"]), int(row["prompt_tokens"]), int(row["output_tokens"])) for row in _rows(run)
    )
    records = simulate(Cluster(groups=(group,)), Trace(name=run.device, requests=requests)).requests
    return Times(
        tuple(one.ttft_s for one in records if one.ttft_s is not None),
        tuple(one.tpot_s for one in records if one.tpot_s is not None),
    )


def table(truth: Times, guess: Times) -> Iterator[str]:
    """Yield the lines of a table in milliseconds."""
    yield f"{'':12}{'measured':>10}{'simulated':>11}{'deviation':>11}"
    for name in ("ttft_s", "tpot_s"):
        for what, of in STATISTICS.items():
            true, simulated_ = of(getattr(truth, name)), of(getattr(guess, name))
            label = f"{name.removesuffix('_s').upper()} {what}"
            yield f"{label:12}{true * 1e3:10.1f}{simulated_ * 1e3:11.1f}{simulated_ / true - 1:+11.1%}"


def _percentile(of: int) -> Callable[[Sequence[float]], float]:
    return lambda times: quantiles(times, n=100, method="inclusive")[of - 1]


STATISTICS: dict[str, Callable[[Sequence[float]], float]] = {
    "mean": fmean,
    "P50": _percentile(50),
    "P90": _percentile(90),
    "P99": _percentile(99),
}


def _rows(run: Run) -> list[dict[str, str]]:
    text = (DATA / f"llmservingsim_{run.device}.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


if __name__ == "__main__":
    main()
