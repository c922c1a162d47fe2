"""Steelyard's PyTorch path beside Hugging Face transformers, same weights, same threads, greedy, interleaved.

    python benchmarks/bench_transformers.py [--requests 64] [--repeats 3] [--write]

Both get the default model's weights dequantised to float32. One repeat runs every contender once, in turn; the table
holds medians over the repeats. ``--write`` appends the table to benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from steelyard.core.clock import Stopwatch, utc_timestamp
from steelyard.core.params import SamplingParams
from steelyard.engine.llm import LLM
from steelyard.hardware.this_machine import this_machine
from steelyard.models.catalogue import default_model
from steelyard.models.resolve import resolve_model
from steelyard.reproduce.report import describe_machine, source_version

RESULTS = Path(__file__).parent / "RESULTS.md"
VOCABULARY = 49_000
Prompts = list[list[int]]
Contender = Callable[[Prompts, int], int]


def main() -> None:
    """Run the comparison and print it."""
    options = parse_arguments()
    torch.set_num_threads(options.threads)
    prompts = random_prompts(options.requests, options.prompt_tokens)
    contenders = make_contenders(options.single_requests)
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for name, contender in contenders.items():
        contender(prompts[:2], 4)
        print(f"warm: {name}", file=sys.stderr)
    for repeat in range(options.repeats):
        for name, contender in contenders.items():
            with Stopwatch() as watch:
                tokens = contender(prompts, options.output_tokens)
            rates[name].append(tokens / watch.elapsed_s)
            print(f"repeat {repeat}: {name}: {rates[name][-1]:.1f} tok/s", file=sys.stderr)
    report = as_markdown(rates, options)
    print(report)
    if options.write:
        with RESULTS.open("a") as file:
            file.write(report)


def parse_arguments() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--single-requests", type=int, default=6, help="requests that one-at-a-time really runs")
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--output-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--write", action="store_true")
    return parser.parse_args()


def random_prompts(count: int, length: int) -> Prompts:
    """Return prompts without a common prefix, so that no prefix cache helps."""
    rng = random.Random(0)
    return [[rng.randrange(100, VOCABULARY) for _ in range(length)] for _ in range(count)]


def make_contenders(single_requests: int) -> dict[str, Contender]:
    """Load the same weights into both engines."""
    llm = LLM(max_model_len=2048)
    path = resolve_model(default_model()).path
    peer = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()

    def ours(prompts: Prompts, output_tokens: int) -> int:
        params = SamplingParams(temperature=0.0, max_tokens=output_tokens, ignore_eos=True)
        return sum(len(output.outputs[0].token_ids) for output in llm.generate(prompts, params))

    @torch.inference_mode()
    def static(prompts: Prompts, output_tokens: int) -> int:
        ids = torch.tensor(prompts)
        out = peer.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            min_new_tokens=output_tokens,
            max_new_tokens=output_tokens,
            pad_token_id=0,
        )
        return (out.shape[1] - ids.shape[1]) * len(prompts)

    def one_at_a_time(prompts: Prompts, output_tokens: int) -> int:
        return sum(static([prompt], output_tokens) for prompt in prompts[:single_requests])

    return {
        "steelyard, all at once": ours,
        "transformers, static batch of all": static,
        "transformers, one at a time": one_at_a_time,
        "steelyard, one at a time": lambda prompts, n: sum(ours([p], n) for p in prompts[:single_requests]),
    }


def as_markdown(rates: dict[str, list[float]], options: argparse.Namespace) -> str:
    """Return the result as a section of RESULTS.md."""
    medians = {name: statistics.median(values) for name, values in rates.items()}
    ours = medians["steelyard, all at once"]
    command = "python benchmarks/bench_transformers.py " + " ".join(sys.argv[1:])
    lines = [
        f"\n## {utc_timestamp()} · {options.requests} requests, {options.prompt_tokens} in / "
        f"{options.output_tokens} out, {options.threads} threads, float32, greedy\n",
        f"`{command.strip()}` · {describe_machine(this_machine())} · torch {torch.__version__} · "
        f"commit {source_version()}\n",
        "| contender | output tok/s (median) | lowest … highest | steelyard all at once is |",
        "|---|---|---|---|",
    ]
    for name, median in medians.items():
        spread = f"{min(rates[name]):.1f} … {max(rates[name]):.1f}"
        lines.append(f"| {name} | {median:.1f} | {spread} | {ours / median:.2f}× |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
