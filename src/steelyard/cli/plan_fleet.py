"""``steelyard plan fleet``: which GPUs to rent for a workload."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from steelyard.cli.options import OutputOptions, examples, takes_groups
from steelyard.cli.output import format_table
from steelyard.cli.plan_output import PlanOptions, PrintedPlan, print_plan
from steelyard.core.errors import InputError
from steelyard.core.names import check_keys, pick
from steelyard.plan.fleet import FleetJob, FleetPlan, GpuType, SizeBucket, fleet_reasons, mix_text, plan_fleet
from steelyard.plan.fleet_nearest import plan_within, titles
from steelyard.plan.fleet_rates import modelled_type
from steelyard.plan.serving_catalogue import context_tokens, find_serving_device, find_serving_model, serving_models
from steelyard.plan.workload_sizes import known_workloads, request_sizes

EXAMPLES = examples(
    "steelyard plan fleet llama-2-7b --rate 8 --slo-ms 120",
    "steelyard plan fleet llama-3-8b --workload azure-code --gpu l4 --gpu h100 --limit h100=2 --rate 20",
    "steelyard plan fleet --workload sizes.csv --profile measured.toml --rate 30 --out plan.toml",
)

_GPUS = ("l4", "a10g", "a100-80gb", "h100")


@takes_groups
def fleet(
    *,
    model: Annotated[str, typer.Argument(metavar="MODEL", help=", ".join(serving_models()) + ".")] = "llama-2-7b",
    workload: Annotated[
        str, typer.Option(help=f"{', '.join(known_workloads())}, or a CSV: prompt_tokens,answer_tokens,requests.")
    ] = "azure-conversation",
    rate: Annotated[float, typer.Option(help="Requests per second, of all sizes.")] = 8.0,
    slo_ms: Annotated[float, typer.Option(help="Milliseconds per answered token at most, waiting included.")] = 120.0,
    gpu: Annotated[
        list[str] | None, typer.Option(help="A type to choose from; once per type.", show_default=", ".join(_GPUS))
    ] = None,
    profile: Annotated[
        Path | None, typer.Option(help="Measured rates instead of modelled ones, TOML.", show_default=False)
    ] = None,
    limit: Annotated[
        list[str] | None, typer.Option(help="How many there are, NAME=N; once per type.", show_default=False)
    ] = None,
    slices: Annotated[int, typer.Option(help="Pieces that a size's requests may be split into.")] = 8,
    where: PlanOptions,
    output: OutputOptions,
) -> None:
    """Choose the cheapest mix of GPU types that serves a workload within its objective.

    Rates come from the cost model, each device holding the whole model, or from a file: a table [gpus.NAME] with
    price_per_hour and rates_per_s, one for each row of the workload.
    """
    buckets = request_sizes(workload, rate)
    limits, longest = _limits(limit or []), None
    if profile is None:
        shape, longest, names = find_serving_model(model), context_tokens(model), gpu or list(_GPUS)
        check_keys(limits, [find_serving_device(name).name for name in names], field="limit")

        def job_within(objective_s: float) -> FleetJob:
            types = (modelled_type(shape, find_serving_device(name), buckets, objective_s) for name in names)
            return _job(buckets, types, limits, slices)

        plan = plan_within(job_within, slo_ms / 1000)
    else:
        plan = plan_fleet(_job(buckets, read_profile(profile, gpu), limits, slices))
    beyond = [] if longest is None else [one for one in buckets if one.rate_per_s and one.tokens > longest]
    head = f"{workload}, {rate:g} requests/s: {mix_text(plan.job.types, plan.counts)}, ${plan.price_per_hour:.2f}/h"
    text = "\n\n".join([head, format_table(_HEADERS, _rows(plan)), format_table(*_shares(plan))])
    reasons = [*fleet_reasons(plan), *_beyond_reasons(plan, beyond, f"{model}'s context of {longest} tokens")]
    print_plan(PrintedPlan(text=text, reasons=reasons, fields=_fields(plan, beyond)), where, output)


def _job(buckets: tuple[SizeBucket, ...], types: Iterable[GpuType], limits: Mapping[str, int], slices: int) -> FleetJob:
    known = {one.name: one for one in types}
    check_keys(limits, known, field="limit")
    limited = tuple(one.limited(limits.get(name, one.available)) for name, one in known.items())
    return FleetJob(buckets=buckets, types=limited, slices=slices)


def _beyond_reasons(plan: FleetPlan, beyond: Sequence[SizeBucket], longest: str) -> Iterator[str]:
    """Yield what is to be said of requests that the model cannot take."""
    if beyond:
        share = sum(one.rate_per_s for one in beyond) / plan.job.rate_per_s
        yield (
            f"Requests of {titles(beyond)} ({share:.1%} of all) are longer than {longest}: they are planned as if it "
            "took them."
        )


def read_profile(path: Path, names: list[str] | None) -> tuple[GpuType, ...]:
    """Return the types of a file of measured rates, all or those named.

    Raises:
        InputError: if the file cannot be read, or a key is missing or unknown.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}", field="profile", remedy="Give a TOML file") from None
    check_keys(table, ("gpus",), field="profile")
    types = {name: _measured(name, entry) for name, entry in table.get("gpus", {}).items()}
    return tuple(types.values()) if names is None else tuple(pick(types, name, field="gpu") for name in names)


def _measured(name: str, entry: dict[str, Any]) -> GpuType:
    check_keys(entry, ("price_per_hour", "rates_per_s", "available"), field=f"gpus.{name}")
    try:
        rates = tuple(float(rate) for rate in entry["rates_per_s"])
        price, available = float(entry["price_per_hour"]), entry.get("available")
        return GpuType(name=name, price_per_hour=price, rates_per_s=rates, available=available)
    except (KeyError, TypeError) as error:
        remedy = "Give price_per_hour and rates_per_s, one for each size"
        raise InputError(f"cannot be read ({error})", field=f"gpus.{name}", remedy=remedy) from None


def _limits(given: list[str]) -> dict[str, int]:
    limits = {}
    for one in given:
        name, _, number = one.partition("=")
        if not number.isdecimal():
            raise InputError(f"{one!r} is no limit", field="limit", remedy="Give NAME=N, e.g. h100=2")
        limits[name] = int(number)
    return limits


_HEADERS = ("GPU", "COUNT", "FILLED", "DOLLARS/H", "ALONE")


def _rows(plan: FleetPlan) -> list[tuple[str, ...]]:
    columns = zip(plan.job.types, plan.counts, plan.loads(), plan.single_prices, strict=True)
    return [
        (
            one.name,
            str(count),
            f"{100 * load / count:.0f} %" if count else "–",
            f"{count * one.price_per_hour:.2f}",
            "cannot" if single is None else f"{single:.2f}",
        )
        for one, count, load, single in columns
    ]


def _shares(plan: FleetPlan) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return the load balancer's table: of each size, the share that each rented type gets."""
    rented = [number for number, count in enumerate(plan.counts) if count]
    headers = ("UP TO TOKENS", "REQUESTS/S", *(plan.job.types[number].name for number in rented))
    rows = [
        (bucket.title, f"{bucket.rate_per_s:.3g}", *(f"{100 * plan.weights[one][number]:.0f} %" for one in rented))
        for number, bucket in enumerate(plan.job.buckets)
        if bucket.rate_per_s > 0
    ]
    return headers, rows


def _fields(plan: FleetPlan, beyond: Sequence[SizeBucket]) -> dict[str, Any]:
    optional = {"saved": plan.saved, "beyond_context": [_size_fields(bucket) for bucket in beyond] or None}
    return {
        "kind": "fleet",
        "rate_per_s": plan.job.rate_per_s,
        "price_per_hour": plan.price_per_hour,
        **{key: value for key, value in optional.items() if value is not None},
        "proven": plan.proven,
        "sizes": [_size_fields(bucket) for bucket in plan.job.buckets],
        "gpus": [
            {
                "name": one.name,
                "count": count,
                "load": load,
                "price_per_hour": one.price_per_hour,
                **({} if single is None else {"alone_price_per_hour": single}),
                "weights": list(weights),
            }
            for one, count, load, single, weights in zip(
                plan.job.types, plan.counts, plan.loads(), plan.single_prices, plan.weights, strict=True
            )
        ],
    }


def _size_fields(bucket: SizeBucket) -> dict[str, Any]:
    return {
        "prompt_tokens": bucket.prompt_tokens,
        "answer_tokens": bucket.answer_tokens,
        "rate_per_s": bucket.rate_per_s,
    }
