"""S07, Mélange: the authors' worked example, which GPU is better for which size, and mixes on real requests.

The two overheads per step of our rates were fitted to the signs of the published comparison; the mixes on the Azure
traces use them without further fitting. The paper's own workloads (Arena, PubMed) cannot be shipped, so its figures for
them stand beside ours for another workload, without a deviation.
"""

from __future__ import annotations

from collections.abc import Iterator

from steelyard.plan.fleet import FleetJob, FleetPlan, GpuType, SizeBucket, mix_text, plan_fleet
from steelyard.plan.fleet_rates import ServingEfficiency, modelled_type, served_rate
from steelyard.plan.serving_catalogue import find_serving_device, find_serving_model
from steelyard.plan.workload_sizes import request_sizes
from steelyard.reproduce.options import ReproduceOptions, command_line
from steelyard.reproduce.report import Reproduction, ReproductionRow, stamped
from steelyard.reproduce.tables import beside, read_table

CLAIM = "a mix of GPU types is up to 77 % cheaper than a single type"
GPUS = ("l4", "a10g", "a100-80gb", "h100")
RATES = (1.0, 4.0, 16.0, 32.0)
_SLO_S = 0.120
_MODEL = "llama-2-7b"


def reproduce(options: ReproduceOptions) -> Reproduction:
    """Run S07 and return its table."""
    return stamped(
        system="S07",
        claim=CLAIM,
        setup="Llama-2-7B in float16 on L4, A10G, A100, H100 at the paper's prices; 120 ms per token; modelled rates",
        rows=(*example_rows(), comparison_row(), *trace_rows(RATES[1:3] if options.quick else RATES)),
        command=command_line("S07", options),
    )


def example_rows() -> Iterator[ReproductionRow]:
    """Yield the worked example of the authors' programme: four sizes, two types, given rates."""
    plan = worked_example()
    yield ReproductionRow(
        claim="3 × A10G + 1 × A100, $6.70/h",
        setup="the authors' example: 30 requests/s of four sizes, given rates",
        ours=f"{mix_text(plan.job.types, plan.counts)}, {beside(plan.price_per_hour, 6.70, '$/h')}",
    )


def worked_example() -> FleetPlan:
    """Return the plan of the authors' example; their sizes have no names, so ours are made up."""
    rates = (6.0, 3.0, 15.0, 6.0)
    sizes = ((100, 100), (100, 200), (200, 100), (200, 200))
    pairs = zip(sizes, rates, strict=True)
    buckets = tuple(SizeBucket(prompt_tokens=p, answer_tokens=a, rate_per_s=rate) for (p, a), rate in pairs)
    types = (
        GpuType(name="a10g", price_per_hour=1.01, rates_per_s=(2, 1, 5, 2)),
        GpuType(name="a100-80gb", price_per_hour=3.67, rates_per_s=(20, 20, 40, 20)),
    )
    return plan_fleet(FleetJob(buckets=buckets, types=types, slices=1))


def comparison_row() -> ReproductionRow:
    """Return in how many sizes our rates prefer the same type per dollar as the measured ones."""
    pairs = [(ours, theirs) for ours, theirs in advantages()]
    same = sum((ours > 0) == (theirs > 0) for ours, theirs in pairs)
    wrong = [abs(theirs) for ours, theirs in pairs if (ours > 0) != (theirs > 0)]
    return ReproductionRow(
        claim=f"the better of A10G and A100 per dollar, {len(pairs)} sizes",
        setup="25 to 2000 tokens of prompt and answer; two overheads fitted to this",
        ours=f"the same in {same}; where not, the published advantage is at most {max(wrong, default=0):g} %",
    )


def advantages() -> Iterator[tuple[float, float]]:
    """Yield of each size our advantage per dollar and the published one, in percent: + for A10G, − for A100."""
    model, engine = find_serving_model(_MODEL), ServingEfficiency()
    pair = [find_serving_device(name) for name in ("a10g", "a100-80gb")]
    for row in read_table("s07_a10g_a100"):
        for column in ("in25", "in100", "in250", "in500", "in1000", "in2000"):
            size = int(column[2:]), int(row["output_len"])
            per_dollar = []
            for device in pair:
                served = served_rate(model, device, size, _SLO_S, engine)
                assert served is not None
                assert device.price_per_hour is not None
                per_dollar.append(served.rate_per_s / device.price_per_hour)
            small, large = per_dollar
            ours = small / large - 1 if small > large else 1 - large / small
            yield 100 * ours, float(row[column])


def trace_rows(rates: tuple[float, ...]) -> Iterator[ReproductionRow]:
    """Yield the cheapest mixes for requests as large as those of the Azure traces."""
    published = {"azure-conversation": "chats: up to 77 % cheaper", "azure-code": "documents: up to 33 % cheaper"}
    for workload, claim in published.items():
        for rate in rates:
            plan = trace_plan(workload, rate)
            assert plan.saved is not None
            assert plan.best_single is not None
            dearest = max(price for price in plan.single_prices if price is not None)
            yield ReproductionRow(
                claim=claim,
                setup=f"{workload}, {rate:g} requests/s",
                ours=f"{mix_text(plan.job.types, plan.counts)}: ${plan.price_per_hour:.2f}/h, {100 * plan.saved:.0f} % "
                f"less than {plan.best_single[0]} alone, {100 * (1 - plan.price_per_hour / dearest):.0f} % less than "
                f"the dearest type{'' if plan.proven else '; a cheaper mix may exist'}",
            )


def trace_plan(workload: str, rate: float) -> FleetPlan:
    """Return the cheapest mix for one of the Azure traces' sizes."""
    buckets = request_sizes(workload, rate)
    model = find_serving_model(_MODEL)
    types = tuple(modelled_type(model, find_serving_device(name), buckets, _SLO_S) for name in GPUS)
    return plan_fleet(FleetJob(buckets=buckets, types=types))
