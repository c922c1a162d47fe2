"""``steelyard plan place``: prefill and decode on instances of their own, or together."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from steelyard.cli.options import OutputOptions, check_at_least, examples, takes_groups
from steelyard.cli.output import format_table, working
from steelyard.cli.plan_output import PlanOptions, PrintedPlan, print_plan
from steelyard.cli.simulate import parse_slo
from steelyard.core.errors import InputError, ParamsError
from steelyard.core.names import pick
from steelyard.hardware.catalogue.read import find_device, find_link
from steelyard.plan.disaggregate import Question, Workload, within
from steelyard.plan.phase_instances import (
    PROFILED_DEVICE,
    PROFILED_MODELS,
    PROFILED_TOKENS,
    Scarce,
    device_price,
    modelled_instances,
    profiled_instances,
    profiled_kv_bytes,
)
from steelyard.plan.phases import Instance, Limits, Link
from steelyard.plan.place import Group, Kind
from steelyard.plan.place_plan import Affinity, PlaceJob, PlacePlan, Together, place_reasons, plan_place
from steelyard.plan.serving_catalogue import find_serving_device, find_serving_model, kv_token_bytes, serving_models
from steelyard.sim.traces import load_trace
from steelyard.sim.traces.synthetic import PUBLISHED, Lengths, lengths_of, published_lengths

EXAMPLES = examples(
    "steelyard plan place opt-13b --lengths sharegpt --slo ttft=0.25,tpot=0.1 --network low",
    "steelyard plan place llama-2-70b --device h100 --device a100-80gb --objective dollar --max-devices 4",
    "steelyard plan place llama-3-8b --trace AzureLLMInferenceTrace_conv.csv --slo ttft=0.5,tpot=0.03 --json",
)

_MODELS = (*PROFILED_MODELS, *serving_models())
_BETWEEN_MACHINES = "infiniband-hdr"
_DURATION_S = 10.0


@takes_groups
def place(
    *,
    model: Annotated[str, typer.Argument(metavar="MODEL", help=", ".join(_MODELS) + ".")] = "opt-13b",
    device: Annotated[
        list[str] | None, typer.Option(help="A device to choose; once per device.", show_default=PROFILED_DEVICE)
    ] = None,
    network: Annotated[
        str, typer.Option(help="high: KV crosses to any machine; low: both phases of a layer share one.")
    ] = "high",
    link: Annotated[
        str | None,
        typer.Option(help="That KV crosses.", show_default=f"{_BETWEEN_MACHINES} or, if low, the device's own"),
    ] = None,
    machine: Annotated[int, typer.Option(help="Devices of a machine, for a low network.")] = 8,
    max_devices: Annotated[int, typer.Option(help="Of an instance, at most.")] = 8,
    lengths: Annotated[str, typer.Option(help=f"Of prompts and answers: {', '.join(PUBLISHED)}.")] = "sharegpt",
    trace: Annotated[str | None, typer.Option(help="Draw lengths from this trace instead.", show_default=False)] = None,
    slo: Annotated[str, typer.Option("--slo", help="Both bounds, in seconds.")] = "ttft=0.25,tpot=0.1",
    share: Annotated[float, typer.Option(help="Of the requests that must keep to both.")] = 0.9,
    objective: Annotated[str, typer.Option(help="Requests/s per what: gpu, dollar or watt.")] = "gpu",
    rate: Annotated[float, typer.Option(help="Requests per second to serve, for a high network.")] = 10.0,
    context: Annotated[int, typer.Option(help="Tokens of prompt and answer; longer requests are cut.")] = 4096,
    requests: Annotated[int, typer.Option(help="Of a simulation, at least.")] = 100,
    seed: Annotated[int, typer.Option(help="Of all that is drawn.")] = 0,
    where: PlanOptions,
    output: OutputOptions,
) -> None:
    """Place prefill and decode on pools of instances, each with its own parallelism.

    Every instance is simulated with the engine's own scheduler at rising rates. OPT's steps on A100 are DistServe's
    published ones; those of other models come from the cost model.
    """
    for name, number in (("machine", machine), ("max_devices", max_devices), ("requests", requests)):
        check_at_least(name, number, 1)
    if not 0 < share <= 1:
        raise ParamsError(f"{share:g} is no share", field="share", remedy="Give a number above 0, at most 1")
    model = pick({one: one for one in _MODELS}, model, field="model")
    affinity = pick({one.value: one for one in Affinity}, network, field="network")
    scarce = pick({one.value: one for one in Scarce}, objective, field="objective")
    names = device or [PROFILED_DEVICE]
    if affinity is Affinity.LOW and len(names) > 1:
        raise ParamsError("a machine has devices of one kind", field="device", remedy="Give one, or --network high")
    bounds = parse_slo(slo)
    assert bounds is not None, "there is a default"
    limits = Limits(max_model_len=PROFILED_TOKENS if model in PROFILED_MODELS else context)
    drawn = _lengths(lengths, trace, seed)
    workload = Workload(
        lengths=within(drawn, limits), slo=bounds, share=share, count=requests, duration_s=_DURATION_S, seed=seed
    )
    question = Question(workload=workload, limits=limits, link=_link(model, names, affinity, link))
    instances = [one for name in names for one in _instances(model, name, scarce, max_devices, limits)]
    job = PlaceJob(
        question=question,
        instances=instances,
        affinity=affinity,
        machine_devices=machine,
        rate_per_s=rate,
        scarce=scarce,
    )
    with working("simulating instances"):
        plan = plan_place(job)
    text = "\n\n".join([_head(model, plan), format_table(_headers(plan), _rows(plan))])
    print_plan(PrintedPlan(text=text, reasons=place_reasons(plan), fields=_fields(model, plan)), where, output)


def _lengths(name: str, trace: str | None, seed: int) -> Lengths:
    return published_lengths(name) if trace is None else lengths_of(load_trace(trace, seed))


def _link(model: str, devices: list[str], affinity: Affinity, name: str | None) -> Link:
    """Return the link that keys and values cross, by default the slowest that the devices' machines have."""
    kv_bytes = profiled_kv_bytes(model) if model in PROFILED_MODELS else kv_token_bytes(find_serving_model(model))
    own = [find_serving_device(one) for one in devices]
    if name is not None:
        bytes_per_s = find_link(name).bandwidth_bytes_per_s
    elif affinity is Affinity.HIGH:
        bytes_per_s = find_link(_BETWEEN_MACHINES).bandwidth_bytes_per_s
    else:
        bytes_per_s = min(one.link_bytes_per_s or one.host_bytes_per_s for one in own)
    return Link(seconds_per_token=kv_bytes / bytes_per_s)


def _instances(model: str, device: str, scarce: Scarce, max_devices: int, limits: Limits) -> list[Instance]:
    found = find_device(device)
    price = device_price(found, scarce)
    if model not in PROFILED_MODELS:
        shape = find_serving_model(model)
        return modelled_instances(shape, found, max_devices, limits.max_model_len, price)
    if found.name != PROFILED_DEVICE:
        raise InputError(f"{model} was profiled on {PROFILED_DEVICE} only", field="device", remedy="Leave it out")
    return [one for one in profiled_instances(model, price) if one.num_devices <= max_devices]


_PHASES = ("PREFILL", "DECODE", "TOGETHER")


def _head(model: str, plan: PlacePlan) -> str:
    pools = plan.placement
    text = f"{model}: prefill on {_group_text(pools.prefill)}, decode on {_group_text(pools.decode)}"
    return f"{text}: {plan.goodput_per_s:.3g} requests/s, {plan.value:.3g} per {plan.job.scarce.value}"


def _group_text(group: Group[Instance]) -> str:
    return f"{group.count} × {group.kind.what.name}"


def _headers(plan: PlacePlan) -> tuple[str, ...]:
    unit = plan.job.scarce.value.upper()
    rates, values = ([f"{phase}/{per}" for phase in _PHASES] for per in ("S", unit))
    return ("INSTANCE", "DEVICES", *rates, *values)


def _rows(plan: PlacePlan) -> list[tuple[str, ...]]:
    """Return a row per instance: what it serves, then what that is per unit of price."""
    phases = [{kind.what.name: kind for kind in ordered} for ordered in (plan.prefill, plan.decode, plan.together)]
    rows = []
    for instance in plan.job.instances:
        found = [phase[instance.name] for phase in phases]
        served = [f"{kind.goodput_per_s:.2f}" for kind in found]
        rows.append((instance.name, str(instance.num_devices), *served, *(f"{kind.value:.3g}" for kind in found)))
    return rows


def _fields(model: str, plan: PlacePlan) -> dict[str, Any]:
    job, slo = plan.job, plan.job.question.workload.slo
    beside = plan.beside
    optional = {} if beside is None else {"gain": plan.gain, "together": _together_fields(beside)}
    return {
        "kind": "place",
        "model": model,
        "network": job.affinity.value,
        "objective": job.scarce.value,
        "slo": {"ttft_s": slo.ttft_s, "tpot_s": slo.tpot_s, "share": job.question.workload.share},
        "goodput_per_s": plan.goodput_per_s,
        "value": plan.value,
        **optional,
        "prefill": {"count": plan.placement.prefill.count, **_kind_fields(plan.placement.prefill.kind)},
        "decode": {"count": plan.placement.decode.count, **_kind_fields(plan.placement.decode.kind)},
    }


def _together_fields(beside: Together) -> dict[str, Any]:
    fields = {"count": beside.group.count, **_kind_fields(beside.group.kind)}
    return {**fields, "goodput_per_s": beside.goodput_per_s, "value": beside.value}


def _kind_fields(kind: Kind[Instance]) -> dict[str, Any]:
    what = kind.what
    return {
        "name": what.name,
        "tp": what.num_devices // what.stages,
        "pp": what.stages,
        "price": kind.price,
        "goodput_per_s": kind.goodput_per_s,
        "value": kind.value,
    }
