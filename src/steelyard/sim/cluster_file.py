"""Clusters as TOML files. An unknown key is an error that names the nearest known one.

A step model's source is told by ``[replicas.steps] source = …``, one of :data:`STEP_SOURCES`; its other keys are the
source's own.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from steelyard.core.errors import InputError, SteelyardError, StorageError
from steelyard.cost.estimate import StepEstimate, StepModel
from steelyard.cost.fitted import FittedSteps, Polynomial, distserve_steps
from steelyard.cost.llmservingsim import shipped_steps
from steelyard.cost.parallel import ParallelSteps
from steelyard.cost.roofline import ModelShape, StepShape, step_cost
from steelyard.cost.splitwise import splitwise_steps
from steelyard.engine.config import EngineConfig
from steelyard.hardware.catalogue.read import find_device
from steelyard.hardware.device import Device, machine_from_table
from steelyard.sim.cluster import Cluster, ReplicaGroup
from steelyard.sim.conditions import Autoscale, Death, Fault, LinkLoss, PowerBudget, Slowness, Strike

_T = TypeVar("_T")
_Table = Mapping[str, Any]

_PLENTY = 1 << 20  # of waiting sequences: in a simulation a full queue would hide how long it becomes


def read_cluster(path: Path) -> Cluster:
    """Return the cluster in a TOML file.

    Raises:
        InputError: if it is no TOML, a key is unknown or missing, or a value impossible; names file and key.
        StorageError: if the file cannot be read.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        problem = f"it cannot be read: {error.strerror or error}"
        raise StorageError(problem, field=str(path), remedy="Give a cluster file that is there") from error
    except ValueError as error:
        raise InputError(f"it is no TOML ({error})", field=str(path), remedy="Correct it") from error
    try:
        return cluster_from_table(table)
    except SteelyardError as error:
        raise InputError(f"{error.field}: {error.problem}", field=str(path), remedy=error.remedy) from error


def cluster_from_table(table: _Table) -> Cluster:
    """Return the cluster of a table read by ``tomllib``; raises ``InputError`` like :func:`read_cluster`."""
    check_keys(table, ("name", "replicas", "router", "faults", "autoscale", "power"), "")
    router = dict(_subtable(table, "router", ""))
    return Cluster(
        name=table.get("name", "cluster"),
        groups=_each(table, "replicas", _group),
        route=router.pop("policy", "least_loaded"),
        route_options=router,
        faults=_each(table, "faults", _fault),
        autoscalers=_each(table, "autoscale", _autoscale),
        power=_with_policy(PowerBudget, _subtable(table, "power", ""), "power") if "power" in table else None,
    )


def _each(table: _Table, key: str, read: Callable[[_Table, str], _T]) -> tuple[_T, ...]:
    """Return what ``read`` makes of each table of an array."""
    entries = table.get(key, [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputError("it is no array of tables", field=key, remedy=f"Write [[{key}]] for each")
    return tuple(read(entry, f"{key}[{index}]") for index, entry in enumerate(entries))


def _group(table: _Table, where: str) -> ReplicaGroup:
    plain = {key: value for key, value in table.items() if key not in ("engine", "steps", "schedule")}
    schedule = dict(_subtable(table, "schedule", where))
    engine = {"max_waiting": _PLENTY, **_subtable(table, "engine", where)}
    return made(
        ReplicaGroup,
        {
            **plain,
            "steps": _steps(_subtable(table, "steps", where), f"{where}.steps"),
            "engine": made(EngineConfig, engine, f"{where}.engine"),
            "schedule": schedule.pop("policy", "fcfs"),
            "schedule_options": schedule,
        },
        where,
    )


def _fault(table: _Table, where: str) -> Fault:
    rest = dict(table)
    name = rest.pop("kind", None)
    if name not in FAULTS:
        problem = "is missing" if name is None else f"there is no fault {name!r}"
        raise InputError(problem, field=f"{where}.kind", remedy=f"Use one of {', '.join(FAULTS)}")
    own = {member.name for member in fields(FAULTS[name])} - {"strike"}
    check_keys(rest, {*own, *(member.name for member in fields(Strike))}, where)
    strike = made(Strike, {key: value for key, value in rest.items() if key not in own}, where)
    return made(FAULTS[name], {"strike": strike, **{key: rest[key] for key in rest if key in own}}, where)


FAULTS: dict[str, type[Fault]] = {"death": Death, "slow": Slowness, "link": LinkLoss}


def _autoscale(table: _Table, where: str) -> Autoscale:
    return _with_policy(Autoscale, table, where)


def _with_policy(kind: type[_T], table: _Table, where: str) -> _T:
    """Return a value with a policy; keys that are not its own are its policy's."""
    own = {member.name for member in fields(kind)} - {"options"}  # type: ignore[arg-type]
    options = {key: value for key, value in table.items() if key not in own}
    return made(kind, {**{key: table[key] for key in table if key in own}, "options": options}, where)


def _steps(table: _Table, where: str) -> StepModel:
    rest = dict(table)
    name = rest.pop("source", None)
    if name not in STEP_SOURCES:
        problem = "is missing" if name is None else f"there is no source {name!r}"
        raise InputError(problem, field=f"{where}.source", remedy=f"Use one of {', '.join(STEP_SOURCES)}")
    return STEP_SOURCES[name](rest, where)


# -- sources of step models -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class RooflineSteps:
    """A :class:`~steelyard.cost.estimate.StepModel` of :func:`~steelyard.cost.roofline.step_cost`.

    Attributes:
        model: what is computed.
        device: the replica's devices taken as one.
        overhead_s: per step.
        busy_watts: in steps at the full clock; ``None`` if not known.
    """

    model: ModelShape
    device: Device
    overhead_s: float = 0.0
    busy_watts: float | None = None

    def estimate(self, step: StepShape, *, clock_share: float = 1.0) -> StepEstimate:
        """See the protocol; time grows, and power falls, in proportion to the clock."""
        seconds = step_cost(step, self.model, self.device, overhead_s=self.overhead_s).seconds
        watts = None if self.busy_watts is None else self.busy_watts * clock_share
        return StepEstimate(seconds / clock_share, watts)


def _fitted(table: _Table, where: str) -> StepModel:
    """Return polynomials, given as three numbers each in milliseconds (:mod:`steelyard.cost.fitted`)."""
    polynomials = {key: value for key, value in table.items() if key in ("prefill", "decode_small", "decode_large")}
    for key, value in polynomials.items():
        if not isinstance(value, list) or len(value) != 3 or not all(isinstance(one, (int, float)) for one in value):
            raise InputError(f"{value!r} is no polynomial", field=_path(where, key), remedy="Give three numbers")
    return made(FittedSteps, {**table, **{key: Polynomial(*value) for key, value in polynomials.items()}}, where)


def _distserve(table: _Table, where: str) -> StepModel:
    check_keys(table, ("model", "engine", "tp"), where)
    return distserve_steps(table.get("model", "opt-13b"), table.get("engine", "distserve"), table.get("tp", 1))


def _splitwise(table: _Table, where: str) -> StepModel:
    check_keys(table, ("model", "device", "tp"), where)
    return splitwise_steps(table.get("model", "llama2-70b"), table.get("device", "a100-80gb"), table.get("tp", 8))


def _llmservingsim(table: _Table, where: str) -> StepModel:
    check_keys(table, ("device",), where)
    return shipped_steps(table.get("device", "rtx-4090"))


def _parallel(table: _Table, where: str) -> StepModel:
    """Return a decoder on a device of the catalogue, which is given by its name."""
    model = _model(table, where)
    return made(ParallelSteps, {**table, "model": model, "device": find_device(str(table.get("device", "")))}, where)


def _roofline(table: _Table, where: str) -> StepModel:
    machine = {"name": "inline", "cpu_model": "any", "num_logical_cores": 1, "num_usable_cores": 1}
    device = machine_from_table({**machine, "devices": [_subtable(table, "device", where)]}).devices[0]
    return made(RooflineSteps, {**table, "model": _model(table, where), "device": device}, where)


def _model(table: _Table, where: str) -> ModelShape:
    shape = dict(_subtable(table, "model", where))
    num_layers = shape.pop("num_layers", None)
    if num_layers is not None:
        shape["windows"] = (None,) * int(num_layers)
    return made(ModelShape, shape, f"{where}.model")


STEP_SOURCES: dict[str, Callable[[_Table, str], StepModel]] = {
    "distserve": _distserve,
    "fitted": _fitted,
    "llmservingsim": _llmservingsim,
    "parallel": _parallel,
    "roofline": _roofline,
    "splitwise": _splitwise,
}

# -- tables -----------------------------------------------------------------------------------------------------------


def check_keys(table: _Table, known: Collection[str], where: str) -> None:
    """Raise ``InputError`` if a key of ``table`` is not ``known``; it names the nearest one that is."""
    for key in table:
        if key not in known:
            near = get_close_matches(key, known, 1)
            remedy = f"Did you mean {near[0]}?" if near else f"Use only {', '.join(sorted(known))}"
            raise InputError("there is no such key", field=_path(where, key), remedy=remedy)


def made(kind: type[_T], table: _Table, where: str) -> _T:
    """Return ``kind(**table)`` for a dataclass; raises ``InputError`` for keys that are unknown or missing."""
    members = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    check_keys(table, members, where)
    for name, member in members.items():
        if name not in table and member.default is MISSING and member.default_factory is MISSING:
            raise InputError("is missing", field=_path(where, name), remedy="Add it")
    try:
        return kind(**table)
    except SteelyardError as error:
        raise InputError(error.problem, field=_path(where, error.field), remedy=error.remedy) from error
    except TypeError as error:
        raise InputError(f"a value is of the wrong kind ({error})", field=where, remedy="Correct it") from error


def _subtable(table: _Table, key: str, where: str) -> _Table:
    found = table.get(key, {})
    if not isinstance(found, dict):
        raise InputError(f"{found!r} is no table", field=_path(where, key), remedy=f"Write a table [{key}]")
    return found


def _path(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key
