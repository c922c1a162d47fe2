"""Draws the roofline of the measured machine, with measured kernels as points, as an SVG.

    python benchmarks/plot_roofline.py --measure [--profile probe.toml] [--out docs/roofline.svg]
    python benchmarks/plot_roofline.py [--kernels kernels.json] …

The machine is the stored ``steelyard probe``. With ``--measure`` our own kernels are measured, through the functions
that ``bench_*.py`` measure with. Others come from a JSON file, a list of objects with these keys:

    name     what to write beside the point
    flop     floating-point (or integer) operations of one call
    bytes    bytes that one call moves between memory and processor
    seconds  that it took

Both axes are logarithmic: operations per byte, and operations per second. The file is plain SVG that takes its colours
from the reader's light or dark scheme.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

import bench_argmax
import bench_attention
import bench_qgemm
import bench_rms_norm
import torch

from steelyard.cli.profiles import profile_path
from steelyard.core.errors import InputError
from steelyard.cost.profile import read_profile
from steelyard.engine.build import resolve_kv_cache_dtype
from steelyard.hardware.device import Device
from steelyard.kernels.argmax import argmax_rows
from steelyard.kernels.native import NativeKernels, native_kernels
from steelyard.kernels.rms_norm import rms_norm
from steelyard.kernels.threads import thread_pool
from steelyard.reproduce.files import write_text_atomically
from steelyard.reproduce.report import source_version

WIDTH, HEIGHT = 860, 520
LEFT, RIGHT, TOP, BOTTOM = 70, 170, 50, 60
LEGEND = 450  # where the kernels' names begin
INTENSITIES = (2.0**-4, 2.0**12)
PRODUCTS = (("q4_1", (4096, 4096), (1, 4, 16, 64, 512)), ("q8_0", (49152, 576), (1,)))
DECODES = {"64 × 512": [512] * 64}
NORM = (8192, 4096)  # past the caches, as is the argmax
ARGMAX_ROWS = 1024
STYLE = """
  svg { font: 13px system-ui, sans-serif; --ink: #1d2430; --soft: #6b7482; --grid: #e3e6ea; --back: #ffffff;
        --c0: #1f5fbf; --c1: #b3470f; --c2: #15795b; --c3: #7a3fb0; --c4: #8a6d00; }
  @media (prefers-color-scheme: dark) {
    svg { --ink: #e6e9ee; --soft: #98a2b1; --grid: #2c333d; --back: #14181e;
          --c0: #7fb0ff; --c1: #ff9d66; --c2: #5fd3ab; --c3: #c79bff; --c4: #e2c04d; } }
  text { fill: var(--ink); } .soft { fill: var(--soft); } .grid { stroke: var(--grid); }
  .roof { fill: none; stroke-width: 2; } .point { stroke: var(--back); stroke-width: 1.5; fill: var(--ink); }
  .number { fill: var(--back); font-size: 11px; }
"""


@dataclass(frozen=True)
class Kernel:
    """One measured kernel."""

    name: str
    flop: float
    num_bytes: float
    seconds: float

    @property
    def intensity(self) -> float:
        """Operations per byte."""
        return self.flop / self.num_bytes

    @property
    def flop_per_s(self) -> float:
        """Operations per second."""
        return self.flop / self.seconds


@dataclass(frozen=True)
class Scales:
    """From numbers to the picture."""

    flop_per_s: tuple[float, float]

    def x(self, intensity: float) -> float:
        """Return the horizontal place of so many operations per byte."""
        return LEFT + (WIDTH - LEFT - RIGHT) * _share(intensity, *INTENSITIES)

    def y(self, flop_per_s: float) -> float:
        """Return the vertical place of so many operations per second."""
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * _share(flop_per_s, *self.flop_per_s)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read machine and kernels, and write the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kernels", type=Path, help="JSON file of measured kernels")
    parser.add_argument("--measure", action="store_true", help="measure our own kernels (half a minute)")
    parser.add_argument("--profile", type=Path, default=profile_path(), help="of steelyard probe")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("docs/roofline.svg"))
    options = parser.parse_args(arguments)
    profile = read_profile(options.profile)
    if profile is None:
        raise SystemExit(f"{options.profile}: there is no such file. Run 'steelyard probe' first.")
    kernels = read_kernels(options.kernels.read_text(encoding="utf-8")) if options.kernels else ()
    if options.measure:
        kernels = (*kernels, *measured_kernels())
    machine, commit = profile.machine, source_version()
    title = f"{machine.cpu_model}, {machine.num_usable_cores} cores, {profile.measured_at or 'not dated'}, {commit}"
    write_text_atomically(options.out, picture(machine.device(options.device), kernels, title))
    print(f"written to {options.out}")


def measured_kernels() -> Iterator[Kernel]:
    """Measure our own kernels on all cores; the extension must be there."""
    native = native_kernels()
    if native is None:
        raise SystemExit("--measure needs the compiled extension")
    torch.manual_seed(0)
    with torch.inference_mode():
        yield from _products(native)
        yield from _attention()
        yield from _rows()


def _products(native: NativeKernels) -> Iterator[Kernel]:
    for kind, (outputs, inputs), counts in PRODUCTS:
        weights = bench_qgemm.some_weights(kind, outputs, inputs)
        for rows in counts:
            seconds = bench_qgemm.product_s(native, thread_pool(), weights, rows)
            moved = weights[0].num_bytes + rows * (inputs + 4 * outputs)  # 8-bit activations in, float32 out
            name = f"{kind[:2]} product, {rows} row{'s' if rows > 1 else ''}"
            yield Kernel(name, 2.0 * rows * outputs * inputs, float(moved), seconds)


def _attention() -> Iterator[Kernel]:
    dtype = resolve_kv_cache_dtype("auto", torch.float32, native=True)
    heads, dim, token_bytes = bench_attention.HEADS, bench_attention.DIM, bench_attention.shape(dtype).block_bytes
    token_bytes //= bench_attention.BLOCK
    works = {f"attention, prompt of {length}": ([length], length) for length in bench_attention.PREFILLS}
    works |= {f"attention, decode {name}": (contexts, 1) for name, contexts in DECODES.items()}
    calls = {name: bench_attention.native(dtype, *work) for name, work in works.items()}
    for name, seconds in bench_attention.fastest_s(calls).items():
        contexts, new = works[name]
        pairs = sum(new * context - new * (new - 1) / 2 for context in contexts)
        moved = sum(contexts) * token_bytes + 2 * 4 * len(contexts) * new * heads * dim  # float32 in and out
        yield Kernel(name, 4.0 * heads * dim * pairs, float(moved), seconds)


def _rows() -> Iterator[Kernel]:
    rows, width = NORM
    x, weight = torch.randn(rows, width), torch.randn(width)
    seconds = bench_rms_norm.call_us(lambda: rms_norm(x, weight, bench_rms_norm.EPS)) / 1e6
    yield Kernel(f"RMS norm, {rows} rows", 4.0 * x.numel(), 2.0 * x.nbytes, seconds)
    logits = torch.randn(ARGMAX_ROWS, bench_argmax.VOCABULARY)
    seconds = bench_argmax.call_us(lambda: argmax_rows(logits)) / 1e6
    yield Kernel(f"argmax, {ARGMAX_ROWS} rows", float(logits.numel()), float(logits.nbytes), seconds)


def read_kernels(text: str) -> tuple[Kernel, ...]:
    """Return the kernels of a JSON text.

    Raises:
        InputError: if it is not a list of objects with the four keys, or a number is not positive.
    """
    found = []
    for number, entry in enumerate(json.loads(text)):
        if not isinstance(entry, dict) or set(entry) != {"name", "flop", "bytes", "seconds"}:
            raise InputError("needs name, flop, bytes, seconds", field=f"kernel {number}", remedy="Complete it")
        numbers = [float(entry[key]) for key in ("flop", "bytes", "seconds")]
        if not all(math.isfinite(value) and value > 0 for value in numbers):
            raise InputError("has a number that is not positive", field=str(entry["name"]), remedy="Measure it again")
        found.append(Kernel(str(entry["name"]), *numbers))
    return tuple(found)


def picture(device: Device, kernels: tuple[Kernel, ...], title: str) -> str:
    """Return the SVG."""
    scales = _scales(device, kernels)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<title>Roofline of {escape(title)}</title>",
        f"<style>{STYLE}</style>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" style="fill: var(--back)"/>',
        f'<text x="{LEFT}" y="24" font-weight="600">{escape(title)}</text>',
        *_axes(scales),
        *_roofs(device, scales),
        *(line for number, kernel in enumerate(kernels, start=1) for line in _point(number, kernel, scales)),
        *_legend(kernels),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _scales(device: Device, kernels: tuple[Kernel, ...]) -> Scales:
    peaks = [peak.flop_per_s for peak in device.peaks] + [kernel.flop_per_s for kernel in kernels]
    lows = [device.bandwidth_bytes_per_s * INTENSITIES[0], *(kernel.flop_per_s for kernel in kernels)]
    return Scales((10 ** math.floor(math.log10(min(lows))), 10 ** math.ceil(math.log10(max(peaks) * 1.2))))


def _axes(scales: Scales) -> Iterator[str]:
    low, high = scales.flop_per_s
    for power in range(round(math.log10(low)), round(math.log10(high)) + 1):
        y = scales.y(10.0**power)
        yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text class="soft" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{_si(10.0**power)}</text>'
    for power in range(round(math.log2(INTENSITIES[0])), round(math.log2(INTENSITIES[1])) + 1, 2):
        x = scales.x(2.0**power)
        label = f"{2**power}" if power >= 0 else f"1/{2**-power}"
        yield f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        yield f'<text class="soft" x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{label}</text>'
    middle = (LEFT + WIDTH - RIGHT) / 2
    yield f'<text x="{middle}" y="{HEIGHT - 16}" text-anchor="middle">operations per byte</text>'
    yield f'<text x="{LEFT}" y="{TOP - 8}" class="soft">operations per second</text>'


def _roofs(device: Device, scales: Scales) -> Iterator[str]:
    """Yield one roof per number format, over the memory's slope that all of them share; then the caches' slopes."""
    bandwidth = device.bandwidth_bytes_per_s
    for number, peak in enumerate(sorted(device.peaks, key=lambda one: one.flop_per_s)):
        ridge = peak.flop_per_s / bandwidth
        ends = (INTENSITIES[0], bandwidth * INTENSITIES[0]), (ridge, peak.flop_per_s), (INTENSITIES[1], peak.flop_per_s)
        path = " ".join(f"{scales.x(x):.1f},{scales.y(y):.1f}" for x, y in ends)
        colour, place = f"var(--c{number % 5})", f'x="{WIDTH - RIGHT + 8}" y="{scales.y(peak.flop_per_s) + 4:.1f}"'
        yield f'<polyline class="roof" style="stroke: {colour}" points="{path}"/>'
        yield f'<text {place} style="fill: {colour}">{peak.dtype} {_si(peak.flop_per_s)}</text>'
    highest = max(peak.flop_per_s for peak in device.peaks)
    lowest = float(HEIGHT)
    for name, rate in sorted(_slopes(device), key=lambda slope: slope[1]):
        top = min(INTENSITIES[1], highest / rate)
        ends = f'x1="{scales.x(INTENSITIES[0]):.1f}" y1="{scales.y(rate * INTENSITIES[0]):.1f}"'
        ends += f' x2="{scales.x(top):.1f}" y2="{scales.y(rate * top):.1f}"'
        yield f'<line {ends} style="stroke: var(--soft)" stroke-dasharray="4 4"/>'
        x, y = scales.x(INTENSITIES[0] * 1.3), scales.y(rate * INTENSITIES[0] * 1.3) - 12
        lowest = y = min(y, lowest - 14)  # caches may be alike, their names must not lie on each other
        yield f'<text class="soft" x="{x:.1f}" y="{y:.1f}">{name} {rate / 1e9:.3g} GB/s</text>'


def _slopes(device: Device) -> Iterator[tuple[str, float]]:
    yield "memory", device.bandwidth_bytes_per_s
    for cache in device.caches:
        if cache.bandwidth_bytes_per_s is not None:
            yield f"L{cache.level}, one thread,", cache.bandwidth_bytes_per_s


def _point(number: int, kernel: Kernel, scales: Scales) -> Iterator[str]:
    intensity = min(max(kernel.intensity, INTENSITIES[0]), INTENSITIES[1])
    x, y = scales.x(intensity), scales.y(kernel.flop_per_s)
    yield f'<circle class="point" cx="{x:.1f}" cy="{y:.1f}" r="9"/>'
    yield f'<text class="number" x="{x:.1f}" y="{y + 4:.1f}" text-anchor="middle">{number}</text>'


def _legend(kernels: tuple[Kernel, ...]) -> Iterator[str]:
    """Yield the kernels' names and rates by number, in the corner below the roofs, where no kernel can lie."""
    bottom = HEIGHT - BOTTOM - 10
    for line, (number, kernel) in enumerate(reversed(list(enumerate(kernels, start=1)))):
        y = bottom - 16 * line
        name, rate = escape(kernel.name), _si(kernel.flop_per_s)
        yield f'<text x="{LEGEND}" y="{y}" text-anchor="end" class="soft">{number}</text>'
        yield f'<text x="{LEGEND + 8}" y="{y}">{name}</text>'
        yield f'<text x="{WIDTH - RIGHT - 8}" y="{y}" text-anchor="end" class="soft">{rate}</text>'


def _share(value: float, low: float, high: float) -> float:
    return math.log(value / low) / math.log(high / low)


def _si(value: float) -> str:
    for step, name in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= step * 0.9995:
            return f"{value / step:.3g} {name}"
    return f"{value:.3g}"


if __name__ == "__main__":
    main()
