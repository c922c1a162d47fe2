"""S14, long-context transformers: the four costs of Yi-34B with 50,000 tokens on one A100, beside those of 4,000.

Our operations of the prefill are exact for causal attention. The paper's two prefill times are met by 2·34e9 + L·6656·s
operations per token, which is what we show as its count: about half of causal attention for the model's own hidden
size of 7,168. That count is inferred from its two numbers, not read in it.
"""

from __future__ import annotations

from collections.abc import Iterator

from steelyard.core.units import GIB
from steelyard.plan.figure import Panel, line_panels
from steelyard.plan.long_context import ContextCosts, ContextJob, context_costs
from steelyard.plan.serving_catalogue import find_serving_device, find_serving_model
from steelyard.reproduce.files import write_text_atomically
from steelyard.reproduce.options import ReproduceOptions, command_line
from steelyard.reproduce.report import Reproduction, ReproductionRow, stamped
from steelyard.reproduce.tables import beside

CLAIM = "34 B weights on one A100: 50K tokens leave room for 1 user instead of about 20, and prefill 14.1 s for 0.89 s"
PUBLISHED: dict[int, dict[str, float | None]] = {
    4_000: {"kv_gib": 0.92, "users": 20, "prefill_s": 0.89, "decode_s": 8.5, "switch_s": None},
    50_000: {"kv_gib": 11.0, "users": 1, "prefill_s": 14.1, "decode_s": 9.8, "switch_s": 1.1},
}
"""Length → the paper's numbers; ``None`` where we do not know one."""
_FIGURE = tuple(1000 * 2**power for power in range(9))


def reproduce(options: ReproduceOptions) -> Reproduction:
    """Run S14, write its figure into the results' directory and return its table."""
    figure = options.out_dir / "S14-context.svg"
    write_text_atomically(figure, four_costs_figure())
    return stamped(
        system="S14",
        claim=CLAIM,
        setup="Yi-34B-200K in float16 on one A100 of 80 GiB, peak rates (312 Tflop/s, 2.04 TB/s, 20 GB/s to the host), "
        f"answers of 250 tokens; figure: {figure}",
        rows=tuple(rows()),
        command=command_line("S14", options),
    )


def rows() -> Iterator[ReproductionRow]:
    """Yield the numbers of both lengths."""
    for length, published in PUBLISHED.items():
        costs = costs_at(length)
        ours = {
            "kv_gib": costs.kv_bytes / GIB,
            "users": float(costs.concurrency),
            "prefill_s": paper_prefill_s(length),
            "decode_s": costs.decode_s,
            "switch_s": costs.switch_s,
        }
        for name, value in published.items():
            what, unit = _WORDS[name]
            yield ReproductionRow(
                claim="–" if value is None else f"{value:g} {unit}",
                setup=f"{length} tokens: {what}",
                ours=f"{ours[name]:.3g} {unit}" if value is None else beside(ours[name], value, unit),
            )
        prefill = published["prefill_s"]
        assert prefill is not None
        yield ReproductionRow(
            claim=f"{prefill:g} s",
            setup=f"{length} tokens: prefill, causal attention counted exactly",
            ours=beside(costs.prefill_s, prefill, "s"),
        )


_WORDS = {
    "kv_gib": ("KV cache", "GiB"),
    "users": ("users at once", "users"),
    "prefill_s": ("prefill, the paper's count", "s"),
    "decode_s": ("decoding 250 tokens", "s"),
    "switch_s": ("switching users", "s"),
}


def costs_at(length: int) -> ContextCosts:
    """Return the four costs at one length."""
    return context_costs(_job(), length)


def paper_prefill_s(length: int) -> float:
    """Return the prefill by the operations that the paper's numbers agree with."""
    per_token = 2 * 34e9 + 60 * 6656 * length
    return length * per_token / _job().device.device.flop_per_s("float16")


def four_costs_figure() -> str:
    """Return the four costs against the length of the context, as SVG."""
    costs = [costs_at(length) for length in _FIGURE]
    names = {
        "concurrency": "users at once",
        "prefill_s": "prefill, s",
        "decode_s": "decode, s",
        "switch_s": "switch, s",
    }
    panels = [
        Panel(title, tuple((float(one.context_tokens), float(getattr(one, name))) for one in costs))
        for name, title in names.items()
    ]
    return line_panels(panels, title="Yi-34B-200K on one A100", x_label="context, tokens")


def _job() -> ContextJob:
    return ContextJob(model=find_serving_model("yi-34b-200k"), device=find_serving_device("a100-80gb"))
