"""``steelyard hardware``: the catalogue of devices, links and machines, and where its figures are from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from enum import Enum
from typing import Annotated, Any

import typer

from steelyard.cli.options import OutputOptions, examples, new_app, takes_groups
from steelyard.cli.output import format_table, print_json, write_line
from steelyard.core.names import pick
from steelyard.core.units import format_bytes
from steelyard.hardware.catalogue.read import all_devices, all_links, all_machines
from steelyard.hardware.catalogue.types import CatalogueDevice, CatalogueLink, CatalogueMachine
from steelyard.hardware.device import Device

_Entry = CatalogueDevice | CatalogueLink | CatalogueMachine
_GIGA, _TERA = 1e9, 1e12
_UNKNOWN = "–"

app = new_app("Show hardware known by name, and where each figure is from.")
app.callback()(lambda: None)


@app.command("list", epilog=examples("steelyard hardware list", "steelyard hardware list --json | jq '.links[].name'"))
@takes_groups
def list_all(*, output: OutputOptions) -> None:
    """List all devices, links and machines. Rates are dense peaks of data sheets, one way."""
    devices, links, machines = list(all_devices().values()), list(all_links().values()), list(all_machines().values())
    if output.json:
        print_json(_tables(devices, links, machines))
        return
    headers = ("DEVICE", "MEMORY", "GB/s", "TFLOP/s", "WATTS", "$/h", "TITLE")
    write_line(format_table(headers, [_device_row(one) for one in devices]))
    write_line("\n" + format_table(("LINK", "GB/s", "TITLE"), [_link_row(one) for one in links]))
    write_line(
        "\n" + format_table(("MACHINE", "DEVICES", "WATTS", "$/h", "TITLE"), [_machine_row(m) for m in machines])
    )
    write_line("\nTFLOP/s are of 16-bit numbers, or of float32 where there are none.")


@app.command("show", epilog=examples("steelyard hardware show a100-80gb", "steelyard hardware show dgx-h100 --json"))
@takes_groups
def show(
    *,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A device, link or machine of 'steelyard hardware list'.")
    ],
    output: OutputOptions,
) -> None:
    """Show every figure of one device, link or machine, and where it is from."""
    entries: dict[str, _Entry] = {**all_devices(), **all_links(), **all_machines()}
    entry = pick(entries, name, field="hardware")
    if output.json:
        print_json(_fields(entry))
        return
    rows = [(key, text, entry.provenance.of(key.partition(".")[0])) for key, text in _figures(entry)]
    write_line(f"{entry.name}: {entry.title}\n")
    write_line(format_table(("FIGURE", "VALUE", "SOURCE"), rows))


def _tables(*groups: list[Any]) -> dict[str, Any]:
    return {
        key: [_fields(one) for one in group]
        for key, group in zip(("devices", "links", "machines"), groups, strict=True)
    }


def _device_row(one: CatalogueDevice) -> tuple[str, ...]:
    tier = one.device.memory[0]
    return (
        one.name,
        format_bytes(tier.capacity_bytes),
        _number(tier.bandwidth_bytes_per_s, _GIGA),
        _number(_matrix_rate(one.device), _TERA),
        _number(one.peak_watts),
        _number(one.dollars_per_hour),
        one.title,
    )


def _link_row(one: CatalogueLink) -> tuple[str, ...]:
    return one.name, _number(one.bandwidth_bytes_per_s, _GIGA), one.title


def _machine_row(one: CatalogueMachine) -> tuple[str, ...]:
    price = one.prices[0].dollars_per_hour if one.prices else None
    return one.name, f"{one.num_devices} x {one.device}", _number(one.peak_watts), _number(price), one.title


def _matrix_rate(device: Device) -> float | None:
    rates = {peak.dtype: peak.flop_per_s for peak in device.peaks}
    return rates.get("float16", rates.get("bfloat16", rates.get("float32")))


def _figures(entry: _Entry) -> Iterator[tuple[str, str]]:
    """Yield every figure that is known, by its key in the data file, as text."""
    fields = _fields(entry)
    for key, value in fields.items():
        if key in ("name", "title", "kind", "source", "sources", "estimates"):
            continue
        if key == "memory":
            for tier in value:
                rate = _number(tier.get("bandwidth_bytes_per_s"), _GIGA)
                yield f"memory.{tier['name']}", f"{format_bytes(tier['capacity_bytes'])} at {rate} GB/s"
        elif key == "peaks":
            for peak in value:
                yield f"peaks.{peak['dtype']}", f"{_number(peak['flop_per_s'], _TERA)} TFLOP/s"
        elif key == "prices":
            for price in value:
                yield "prices", f"{price['dollars_per_hour']} $/h ({price['source']})"
        else:
            yield key, f"{value:g}" if isinstance(value, float) else str(value)


def _fields(entry: _Entry) -> dict[str, Any]:
    """Return an entry as its table in the data file, with its name; what is not known is left out."""
    table = asdict(entry, dict_factory=_known)
    device, provenance = table.pop("device", None), table.pop("provenance")
    if isinstance(device, Mapping):
        table = {"name": device["name"], **table, **device}
    elif device is not None:
        table["device"] = device
    return {**table, **provenance}


def _known(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {
        key: value.value if isinstance(value, Enum) else value for key, value in pairs if value not in (None, (), {})
    }


def _number(value: float | None, unit: float = 1.0) -> str:
    return _UNKNOWN if value is None else f"{value / unit:.5g}"
