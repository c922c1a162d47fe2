"""Decoding on a GPU: tokens per second by batch size, as a share of what memory allows, beside transformers.

    python benchmarks/bench_gpu.py [--batches 1,8,64] [--context 512] [--out results/gpu]
    python benchmarks/bench_gpu.py --tiny      # the same code on a toy model, on any machine; its figures mean nothing

A Llama-2-7B-shaped model with random weights decodes one token per sequence and step, every sequence at the same
context; logits and a greedy choice are part of the step, scheduling and detokenising are not. The roofline is the time
to read the step's weights (embedding aside) and keys and values once at the bandwidth of a large copy, measured first.
Contenders are built one after another, so that each has the memory to itself. Writes gpu.json, gpu.md and gpu.svg.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, StaticCache

from steelyard.core.batch import SequenceWork
from steelyard.core.clock import Stopwatch, utc_timestamp
from steelyard.core.params import SamplingParams
from steelyard.core.sequence import Sequence
from steelyard.core.units import ceil_div
from steelyard.engine.model_runner import ModelRunner
from steelyard.engine.sampling import Sampler
from steelyard.kernels.triton_available import triton_interpreted, triton_usable
from steelyard.memory.kv_store import KVStore
from steelyard.memory.paged_kv import KVShape, PagedKVStore
from steelyard.models.config import (
    Activation,
    AttentionConfig,
    LayerConfig,
    MlpConfig,
    ModelConfig,
    NormKind,
    Residual,
    RopeConfig,
)
from steelyard.models.decoder import Decoder
from steelyard.models.quantised import WEIGHT_ONLY, Quantization

Step = Callable[[], object]
BLOCK_SIZE = 16


@dataclass(frozen=True)
class Shape:
    """A Llama's sizes."""

    hidden: int = 4096
    mlp: int = 11_008
    layers: int = 32
    heads: int = 32
    kv_heads: int = 32
    vocabulary: int = 32_000


@dataclass(frozen=True)
class Point:
    """One measurement: median seconds of a step, and of reading its bytes once."""

    contender: str
    batch: int
    step_s: float
    roofline_s: float

    @property
    def tokens_per_s(self) -> float:
        """Output tokens per second over all sequences."""
        return self.batch / self.step_s


def main() -> None:
    """Measure all contenders and write the results."""
    options = parse_arguments()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not options.tiny:
        sys.exit("no CUDA device here; --tiny runs the same code on a toy model")
    shape = Shape(64, 96, 2, 4, 2, 100) if options.tiny else Shape()
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    bandwidth = copy_bytes_per_s(device, 1 << (20 if options.tiny else 32))
    points: list[Point] = []
    with torch.inference_mode():
        for name, contender in contenders(shape, device, dtype, options).items():
            for batch, step, num_bytes in contender():
                point = Point(name, batch, median_s(step, options.repeats), num_bytes / bandwidth)
                points.append(point)
                print(f"{name}, batch {batch}: {point.tokens_per_s:.1f} tok/s", file=sys.stderr)
                del step  # and the KV cache with it, before the next one is made
    write(points, bandwidth, options)


def parse_arguments() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", default="1,2,4,8,16,32,64,128,256")
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--out", type=Path, default=Path("results/gpu"))
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    if options.tiny:
        options.batches, options.context, options.repeats = "1,3", 20, 1
    options.batches = [int(batch) for batch in options.batches.split(",")]
    return options


Contender = Callable[[], Iterator[tuple[int, Step, int]]]


def contenders(
    shape: Shape, device: torch.device, dtype: torch.dtype, options: argparse.Namespace
) -> dict[str, Contender]:
    """Return generators of (batch, step, bytes a step must read), by name."""
    found: dict[str, Contender] = {}
    if triton_usable(device):
        found |= {
            f"steelyard {name}": lambda bits=bits: ours(shape, device, dtype, options, bits)  # type: ignore[misc]
            for name, bits in (("16 bit", None), ("8 bit", 8), ("4 bit", 4))
        }
    found["steelyard, PyTorch attention, no graphs"] = lambda: plain(shape, device, dtype, options)
    found["transformers, static cache, compiled"] = lambda: theirs(shape, device, dtype, options)
    return found


def ours(
    shape: Shape, device: torch.device, dtype: torch.dtype, options: argparse.Namespace, bits: int | None
) -> Iterator[tuple[int, Step, int]]:
    """Yield steps by Triton kernels, replayed where they can be recorded."""
    from steelyard.engine.cuda_graphs import DecodeGraphs  # noqa: PLC0415  Triton's kernels may not be there
    from steelyard.kernels.triton.linear import quantise_linears  # noqa: PLC0415
    from steelyard.memory.triton_kv import TritonKVStore  # noqa: PLC0415
    from steelyard.models.triton_layers import fuse_layers  # noqa: PLC0415

    decoder = random_decoder(shape, device, dtype)
    if bits is not None:
        quantise_linears(decoder, *WEIGHT_ONLY[Quantization(f"int{bits}")])
    fuse_layers(decoder)
    for batch in options.batches:
        store = TritonKVStore(kv_shape(shape, dtype), batch * ceil_div(options.context, BLOCK_SIZE), device)
        graphs = DecodeGraphs(decoder, store, max_batch=batch, max_model_len=options.context + BLOCK_SIZE)
        runner = ModelRunner(decoder, store, Sampler(), 1, graphs)
        yield batch, decode_step(runner, store, batch, options.context), step_bytes(decoder, store, batch, options)
        del runner, graphs, store


def plain(
    shape: Shape, device: torch.device, dtype: torch.dtype, options: argparse.Namespace
) -> Iterator[tuple[int, Step, int]]:
    """Yield steps of the path that needs no Triton."""
    decoder = random_decoder(shape, device, dtype)
    for batch in options.batches:
        store = PagedKVStore(kv_shape(shape, dtype), batch * ceil_div(options.context, BLOCK_SIZE), device)
        runner = ModelRunner(decoder, store, Sampler())
        yield batch, decode_step(runner, store, batch, options.context), step_bytes(decoder, store, batch, options)
        del runner, store


def theirs(
    shape: Shape, device: torch.device, dtype: torch.dtype, options: argparse.Namespace
) -> Iterator[tuple[int, Step, int]]:
    """Yield transformers' decode steps over a static cache, compiled (not for the toy); each step makes it longer."""
    room = options.context + options.repeats + BLOCK_SIZE
    config = LlamaConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.hidden, intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
        max_position_embeddings=room,
    )  # fmt: skip
    with device:
        model = LlamaForCausalLM(config).to(dtype).eval()
    forward = model.forward if options.tiny else torch.compile(model.forward, mode="reduce-overhead", fullgraph=True)
    weights = sum(p.nbytes for p in model.parameters()) - model.get_input_embeddings().weight.nbytes
    per_token = 2 * shape.layers * shape.kv_heads * (shape.hidden // shape.heads) * dtype.itemsize
    for batch in options.batches:
        cache = StaticCache(config=config, max_cache_len=room)
        ids = torch.zeros(batch, 1, dtype=torch.int64, device=device)
        for start in range(0, options.context - 1, 128):  # fill the cache a little at a time
            past = torch.zeros(batch, min(128, options.context - 1 - start), dtype=torch.int64, device=device)
            model.forward(past, past_key_values=cache, position_ids=positions(start, past), use_cache=True)
        at = positions(options.context - 1, ids)

        def step(ids: torch.Tensor = ids, cache: StaticCache = cache, at: torch.Tensor = at) -> object:
            out = forward(ids, past_key_values=cache, position_ids=at, use_cache=True)
            return out.logits[:, -1].argmax(-1).tolist()

        yield batch, step, weights + batch * options.context * per_token


def positions(start: int, ids: torch.Tensor) -> torch.Tensor:
    """Return the position ids of ``ids`` that begin at ``start``."""
    return torch.arange(start, start + ids.shape[1], device=ids.device).expand(ids.shape)


def random_decoder(shape: Shape, device: torch.device, dtype: torch.dtype) -> Decoder:
    """Return a decoder with small random weights."""
    dim = shape.hidden // shape.heads
    attention = AttentionConfig(
        num_heads=shape.heads, num_kv_heads=shape.kv_heads, head_dim=dim, scale=dim**-0.5,
        rope=RopeConfig(theta=10_000.0, dim=dim),
    )  # fmt: skip
    layer = LayerConfig(attention=attention, feed_forward=MlpConfig(size=shape.mlp, activation=Activation.SILU))
    config = ModelConfig(
        family="llama", vocab_size=shape.vocabulary, hidden_size=shape.hidden, max_position_embeddings=4096,
        norm=NormKind.RMS, norm_eps=1e-5, residual=Residual.PRE, layers=(layer,) * shape.layers,
    )  # fmt: skip
    with torch.device("meta"):
        decoder = Decoder(config).to(dtype)
    decoder = decoder.to_empty(device=device).eval().requires_grad_(False)
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    return decoder


def kv_shape(shape: Shape, dtype: torch.dtype) -> KVShape:
    """Return the shape of the model's KV cache."""
    return KVShape(
        num_layers=shape.layers, num_kv_heads=shape.kv_heads, head_dim=shape.hidden // shape.heads,
        block_size=BLOCK_SIZE, dtype=dtype,
    )  # fmt: skip


def decode_step(runner: ModelRunner, store: KVStore, batch: int, context: int) -> Step:
    """Return a step in which every sequence computes its last token and chooses the next."""
    each = ceil_div(context, BLOCK_SIZE)
    works = [
        SequenceWork(make_sequence(number, context), context - 1, 1, tuple(range(number * each, number * each + each)))
        for number in range(batch)
    ]
    return lambda: runner.logits(runner.hidden(works, store)).argmax(-1).tolist()


def make_sequence(number: int, context: int) -> Sequence:
    """Return a sequence of ``context`` tokens."""
    params = SamplingParams(temperature=0.0)
    return Sequence(id=number, request_id="", index=0, prompt=(0,) * context, params=params, seed=0, arrival_s=0.0)


def step_bytes(decoder: Decoder, store: KVStore, batch: int, options: argparse.Namespace) -> int:
    """Return the bytes that a step must read: weights, embedding aside, and keys and values."""
    tensors = [*decoder.parameters(), *decoder.buffers()]
    weights = sum(tensor.nbytes for tensor in tensors) - decoder.embed.weight.nbytes
    return weights + batch * options.context * store.shape.block_bytes // BLOCK_SIZE


def copy_bytes_per_s(device: torch.device, num_bytes: int) -> float:
    """Return the bytes per second, read and written, of a large copy on ``device``."""
    source = torch.zeros(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * num_bytes / median_s(lambda: target.copy_(source), 20)


def median_s(step: Step, repeats: int) -> float:
    """Return the median seconds of ``step``, the device's work included, after three runs to warm up."""
    seconds = []
    for repeat in range(repeats + 3):
        synchronise()
        with Stopwatch() as watch:
            step()
            synchronise()
        if repeat >= 3:
            seconds.append(watch.elapsed_s)
    return statistics.median(seconds)


def synchronise() -> None:
    """Wait until the device has nothing left to do."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def write(points: list[Point], bandwidth: float, options: argparse.Namespace) -> None:
    """Write JSON, Markdown and SVG, and print the table."""
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    mode = ", Triton interpreted" if triton_interpreted() else ""
    header = (
        f"{utc_timestamp()} · {where}{mode} · torch {torch.__version__} · copy {bandwidth / 1e9:.1f} GB/s · "
        f"context {options.context}{' · toy model, figures mean nothing' if options.tiny else ''}"
    )
    rows = [
        f"| {p.contender} | {p.batch} | {p.tokens_per_s:.1f} | {p.step_s * 1e3:.3f} | {p.roofline_s / p.step_s:.0%} |"
        for p in points
    ]
    titles = "| contender | batch | output tok/s | ms a step | of roofline |\n|---|---|---|---|---|"
    table = "\n".join((titles, *rows))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "gpu.json").write_text(json.dumps({"run": header, "points": [asdict(p) for p in points]}, indent=1))
    (options.out / "gpu.md").write_text(f"## {header}\n\n{table}\n")
    (options.out / "gpu.svg").write_text(as_svg(points))
    print(f"{header}\n\n{table}")


def as_svg(points: list[Point]) -> str:
    """Return tokens per second over batch, both logarithmic to base 2, a line per contender."""
    width, height, margin = 640, 400, 60
    xs = torch.tensor([p.batch for p in points]).log2()
    ys = torch.tensor([p.tokens_per_s for p in points]).log2()
    x = (margin + (xs - xs.min()) / max(float(xs.max() - xs.min()), 1e-9) * (width - 2 * margin)).tolist()
    y = (height - margin - (ys - ys.min()) / max(float(ys.max() - ys.min()), 1e-9) * (height - 2 * margin)).tolist()
    names = list(dict.fromkeys(p.contender for p in points))
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-size="11">']
    for number, name in enumerate(names):
        mine = [i for i, p in enumerate(points) if p.contender == name]
        colour = f"hsl({360 * number // len(names)} 60% 40%)"
        line = " ".join(f"{x[i]:.1f},{y[i]:.1f}" for i in mine)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{margin}" y="{16 + 13 * number}" fill="{colour}">{name}</text>')
    for i, p in enumerate(points):
        parts.append(f'<text x="{x[i]:.1f}" y="{height - 30}" text-anchor="middle">{p.batch}</text>')
        parts.append(
            f'<circle cx="{x[i]:.1f}" cy="{y[i]:.1f}" r="3"><title>{p.tokens_per_s:.1f} tok/s</title></circle>'
        )
    parts.append(f'<text x="{width / 2}" y="{height - 8}" text-anchor="middle">batch; tokens per second upwards</text>')
    return "\n".join((*parts, "</svg>\n"))


if __name__ == "__main__":
    main()
