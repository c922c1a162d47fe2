"""What was to be expected of a run, beside what was measured: predicted | measured | limit.

A prediction is a run: the same engine serves the same requests in virtual time, on a machine whose steps take what the
cost model says. It is made after the run that it stands beside, so nothing of it is on the way of a token.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from steelyard.cli.bench_measure import RepeatResult, Workload, repeat_result
from steelyard.cli.loading import Loaded
from steelyard.cli.output import format_table
from steelyard.cli.probe_tables import format_fine_seconds
from steelyard.cli.profiles import known_machine
from steelyard.core.errors import InputError
from steelyard.core.params import SamplingParams
from steelyard.core.request import Request, RequestOutput
from steelyard.cost.calibration import IDEAL
from steelyard.cost.operators import OperatorRow, operator_costs, operator_rows, summed
from steelyard.engine.build import Parts
from steelyard.engine.executor import ModelledExecutor, StepCost, SyntheticTokens
from steelyard.engine.prediction import limit_step_cost, operator_step_cost
from steelyard.engine.pricing import Pricing, pricing_of
from steelyard.engine.step_profile import ProfiledStep
from steelyard.sim.virtual import run_virtual

_UNKNOWN = RepeatResult(prefill_tokens_per_s=None, decode_tokens_per_s=None, output_tokens_per_s=None)
_HEADERS = ("OPERATOR", "PREDICTED", "MEASURED", "LIMIT", "SHARE")


@dataclass(frozen=True, slots=True)
class Compared:
    """One rate, tokens per second; ``None`` where it is not known."""

    predicted: float | None
    measured: float | None
    limit: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What the cost model says of a run.

    Attributes:
        origin: what it was predicted from, in words.
        pricing: ``None`` if the device's rates are not known.
        predicted: rates; ``None`` if not known.
        limit: rates by the roofline; ``None`` if not known.
    """

    origin: str
    pricing: Pricing | None = None
    predicted: RepeatResult | None = None
    limit: RepeatResult | None = None

    def beside(self, prefill: float | None, decode: float | None) -> dict[str, Compared]:
        """Return the two rates beside measured ones: prompt tokens of all requests per second, and one request's."""
        told = [one or _UNKNOWN for one in (self.predicted, self.limit)]
        return {
            "prefill": Compared(told[0].prefill_tokens_per_s, prefill, told[1].prefill_tokens_per_s),
            "decode": Compared(told[0].decode_tokens_per_s, decode, told[1].decode_tokens_per_s),
        }


@dataclass(frozen=True, slots=True)
class OperatorTable:
    """Where the time of several steps of a kind went, on average."""

    kind: str
    num_steps: int
    predicted: bool
    rows: tuple[OperatorRow, ...]


def expectation(loaded: Loaded, workload: Workload) -> Expectation:
    """Return what to expect of a workload; measures this machine quickly if nobody did."""
    known = known_machine()
    parts = loaded.llm.engine.parts
    try:
        pricing = pricing_of(parts, known.profile)
        limit = rehearsed(parts, workload, limit_step_cost(pricing.model, pricing.device))
    except InputError:
        return Expectation(origin=known.origin)
    predicted = None
    if pricing.calibration is not None:
        cost = operator_step_cost(pricing.model, pricing.device, pricing.calibration)
        predicted = rehearsed(parts, workload, cost)
    return Expectation(origin=known.origin, pricing=pricing, predicted=predicted, limit=limit)


def rehearsed(parts: Parts, workload: Workload, step_cost: StepCost) -> RepeatResult:
    """Return the rates of one repeat of a workload whose steps take what ``step_cost`` says."""
    return repeat_result(run_virtual(_rehearse(parts, workload, step_cost)), workload)


async def _rehearse(parts: Parts, workload: Workload, step_cost: StepCost) -> list[RequestOutput]:
    engine = parts.make_engine(ModelledExecutor(step_cost, SyntheticTokens(parts.model.config.vocab_size)))
    params = SamplingParams(max_tokens=workload.output_tokens, temperature=0.0, ignore_eos=True)
    loop = asyncio.create_task(engine.run())
    prompts = next(workload.prompts(parts.model.config.vocab_size))
    requests = [Request(id=str(n), prompt_token_ids=tuple(prompt), params=params) for n, prompt in enumerate(prompts)]
    responses = [engine.submit(request) for request in requests]
    outputs = [await response.result() for response in responses]
    await engine.close()
    await loop
    return outputs


def operator_tables(expected: Expectation, steps: Sequence[ProfiledStep]) -> tuple[OperatorTable, ...]:
    """Return where the steps' time went, those with prompts and those that only decode apart: predicted for the very
    steps that were measured."""
    if expected.pricing is None:
        return ()
    kinds = (("prefill", [s for s in steps if not s.is_decode]), ("decode", [s for s in steps if s.is_decode]))
    return tuple(_operator_table(kind, some, expected.pricing) for kind, some in kinds if some)


def _operator_table(kind: str, steps: Sequence[ProfiledStep], pricing: Pricing) -> OperatorTable:
    calibration = pricing.calibration or IDEAL
    costs = summed([operator_costs(pricing.model, step.shape, pricing.device, calibration) for step in steps])
    names = set(steps[0].seconds).intersection(*(step.seconds for step in steps))
    measured = {name: sum(step.seconds[name] for step in steps) for name in names}
    return OperatorTable(kind, len(steps), pricing.calibration is not None, operator_rows(costs, measured))


def comparison_table(rates: Mapping[str, Compared]) -> str:
    """Return the table of rates."""
    rows = [(name, _shown(one.predicted), _shown(one.measured), _shown(one.limit)) for name, one in rates.items()]
    return format_table(("TOKENS/S", "PREDICTED", "MEASURED", "LIMIT"), rows)


def comparison_fields(
    expected: Expectation, rates: Mapping[str, Compared], tables: Sequence[OperatorTable]
) -> dict[str, Any]:
    """Return rates, operators and their origin for JSON."""
    told = {table.kind: [_operator_fields(row, table) for row in table.rows] for table in tables}
    return {
        "predicted_from": expected.origin,
        **{name: asdict(one) for name, one in rates.items()},
        "operators": told,
    }


def operator_text(table: OperatorTable) -> str:
    """Return the mean of a table's steps, operator by operator, and all together."""
    steps = "one step" if table.num_steps == 1 else f"mean of {table.num_steps} steps"
    rows = [*(_operator_cells(row, table) for row in table.rows), _total_cells(table)]
    return f"{table.kind}, {steps}:\n" + format_table(_HEADERS, rows)


def _operator_fields(row: OperatorRow, table: OperatorTable) -> dict[str, Any]:
    predicted_s, measured_s, limit_s = _means(row, table)
    return {
        "operator": row.name, "predicted_s": predicted_s, "measured_s": measured_s, "limit_s": limit_s,
        "share": row.share,
    }  # fmt: skip


def _operator_cells(row: OperatorRow, table: OperatorTable) -> tuple[str, ...]:
    return (row.name, *map(_shown_s, _means(row, table)), f"{row.share:.0%}")


def _total_cells(table: OperatorTable) -> tuple[str, ...]:
    columns = zip(*(_means(row, table) for row in table.rows), strict=True)
    totals = [None if None in column else sum(filter(None, column)) for column in columns]
    return ("together", *map(_shown_s, totals), "")


def _means(row: OperatorRow, table: OperatorTable) -> tuple[float | None, float | None, float | None]:
    measured_s = None if row.measured_s is None else row.measured_s / table.num_steps
    return (row.predicted_s / table.num_steps if table.predicted else None, measured_s, row.limit_s / table.num_steps)


def _shown(rate: float | None) -> str:
    return "–" if rate is None else f"{rate:.1f}"


def _shown_s(seconds: float | None) -> str:
    return "–" if seconds is None else format_fine_seconds(seconds)
