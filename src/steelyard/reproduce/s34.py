"""S34, Infinite-LLM: engines that lend each other memory, beside static engines of the same 32 A100s.

Requests are drawn, as the paper's traces are not public as far as we know: most are short, some are as long as the
row says. A static cluster is made of the smallest engines that hold the longest request; the lending one of the
smallest that hold the model, with the paper's degrees as we remember them (7B on one device, 13B on two, 70B on eight).
Everything is there at the beginning, so that throughput is what is compared; the paper sends requests at rates. Each
row is run with prompts computed here, and with decoding alone, as if other machines had computed them. Steps are the
cost model's; nothing ran on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from random import Random

from steelyard.core.errors import InputError
from steelyard.cost.collectives import link_fit
from steelyard.cost.lending import InstanceSteps
from steelyard.cost.parallel import ParallelSteps
from steelyard.hardware.catalogue.read import find_device, find_link
from steelyard.plan.lending import BLOCK_SIZE, Demand, PoolConfig, serve_pile
from steelyard.plan.phase_instances import kv_room
from steelyard.plan.serving_catalogue import find_serving_model
from steelyard.reproduce.options import ReproduceOptions, command_line
from steelyard.reproduce.report import Reproduction, ReproductionRow, stamped

CLAIM = "1.03–2.4× the throughput and 2–19× longer context"
NUM_DEVICES = 32
_MODELS = {"llama-2-7b": 1, "llama-2-13b": 2, "llama-2-70b": 8}
_DEVICE, _LINK = "a100-80gb", "infiniband-hdr"
_MACHINE = 8
_OUTPUT = 256
_SHORT_MEAN, _SHORT_SPREAD = 1000.0, 1.0
_LONG_SHARE = 0.05
_REACHES = (0.5, 2.0, 8.0)
"""Longest requests, in contexts of one small engine."""


def reproduce(options: ReproduceOptions) -> Reproduction:
    """Run S34 and return its table."""
    number = 200 if options.quick else 1500
    return stamped(
        system="S34",
        claim=CLAIM,
        setup=f"{NUM_DEVICES} {_DEVICE}; {number} requests of log-normal length, {_LONG_SHARE:.0%} of them up to the "
        f"longest, {_OUTPUT} tokens of answer; static: the smallest engines that hold the longest",
        rows=tuple(row for model, tp in _MODELS.items() for row in model_rows(model, tp, number, options.seed)),
        command=command_line("S34", options),
    )


def model_rows(model: str, tp: int, number: int, seed: int) -> Iterator[ReproductionRow]:
    """Yield a model's rows: how long a context reaches, and throughput at rising longest requests."""
    small = pool(model, tp, "greedy")
    tokens = small.num_blocks * BLOCK_SIZE
    yield ReproductionRow(
        claim="2–19× longer",
        setup=f"{model}, {small.count} engines of {tp}: longest request, alone and with all that others lend",
        ours=f"{tokens:,} and {small.longest_blocks * BLOCK_SIZE:,} tokens",
        ratio=small.longest_blocks / small.num_blocks,
    )
    for reach in _REACHES:
        longest = int(reach * tokens) - _OUTPUT
        if reach >= small.count:
            continue
        demands = drawn(number, longest, seed)
        static = static_pool(model, tp, max(one.num_blocks for one in demands))
        devices = NUM_DEVICES // static.count
        for computes_prompts, what in ((True, "prompts and answers"), (False, "answers alone")):
            lending, fixed = (
                serve_pile(replace(one, computes_prompts=computes_prompts), demands) for one in (small, static)
            )
            rates = f"{lending.tokens_per_s:,.0f} tokens/s against {fixed.tokens_per_s:,.0f}"
            yield ReproductionRow(
                claim="1.03–2.4×",
                setup=f"{model}, up to {longest:,} tokens, {what}: lending engines of {tp}, static ones of {devices}",
                ours=f"{rates}; {lending.num_loans} loans",
                ratio=lending.tokens_per_s / fixed.tokens_per_s,
            )


def drawn(number: int, longest: int, seed: int) -> list[Demand]:
    """Return requests: log-normal short ones, and some evenly up to the longest, of which there is one at least."""
    rng = Random(f"{seed} {longest}")
    found = [Demand(longest, _OUTPUT)]
    while len(found) < number:
        is_long = rng.random() < _LONG_SHARE
        size = rng.uniform(1.0, longest) if is_long else _SHORT_MEAN * rng.lognormvariate(0.0, _SHORT_SPREAD)
        found.append(Demand(max(1, min(longest, round(size))), _OUTPUT))
    rng.shuffle(found)
    return found


def pool(model: str, num_devices: int, policy: str) -> PoolConfig:
    """Return engines of so many devices each, tensor-parallel within a machine, stages over machines."""
    shape, device = find_serving_model(model), find_device(_DEVICE)
    tp = min(num_devices, _MACHINE)
    steps = ParallelSteps(model=shape, device=device, tp=tp, pp=num_devices // tp)
    room = kv_room(shape, device, num_devices)
    return PoolConfig(
        steps=InstanceSteps(steps=steps, outside=link_fit(find_link(_LINK))),
        count=NUM_DEVICES // num_devices,
        num_blocks=room // BLOCK_SIZE,
        policy=policy,
    )


def static_pool(model: str, num_devices: int, num_blocks: int) -> PoolConfig:
    """Return the smallest static engines, of at least so many devices, that hold so many KV blocks.

    Raises:
        InputError: if not even one of all devices does.
    """
    while num_devices <= NUM_DEVICES:
        found = pool(model, num_devices, "none")
        if found.num_blocks >= num_blocks:
            return found
        num_devices *= 2
    problem = f"{num_blocks * BLOCK_SIZE:,} tokens do not fit into {NUM_DEVICES} devices"
    raise InputError(problem, field="longest", remedy="Ask for shorter requests")
