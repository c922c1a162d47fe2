"""Reading the catalogue: :func:`find_device`, :func:`find_link`, :func:`find_machine` and the lists of all.

An entry is a table; a device's has the keys of :class:`~steelyard.hardware.device.Device` as a probe writes them.
Every table has ``source``; ``sources`` and ``estimates`` name the figures that are from elsewhere.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import cache
from importlib import resources
from typing import Any, TypeVar

from steelyard.core.errors import InputError
from steelyard.core.names import check_keys, pick
from steelyard.hardware.catalogue.types import CatalogueDevice, CatalogueLink, CatalogueMachine, Price, Provenance
from steelyard.hardware.device import Device, device_from_table

_T = TypeVar("_T")
_Entry = TypeVar("_Entry", CatalogueDevice, CatalogueLink, CatalogueMachine)
_Table = Mapping[str, Any]

_DEVICE_FILES = ("gpus.toml", "accelerators.toml", "hosts.toml")
_PROVENANCE = ("source", "sources", "estimates")


def find_device(name: str) -> CatalogueDevice:
    """Return a device.

    Raises:
        InputError: if there is none of this name; it says which names are near.
    """
    return pick(all_devices(), name, field="device")


def find_link(name: str) -> CatalogueLink:
    """Return a link; raises ``InputError`` like :func:`find_device`."""
    return pick(all_links(), name, field="link")


def find_machine(name: str) -> CatalogueMachine:
    """Return a machine; raises ``InputError`` like :func:`find_device`."""
    return pick(all_machines(), name, field="machine")


@cache
def all_devices() -> Mapping[str, CatalogueDevice]:
    """Return the devices by name, in the order of the files."""
    return {name: one for file in _DEVICE_FILES for name, one in _entries(file, device_entry).items()}


@cache
def all_links() -> Mapping[str, CatalogueLink]:
    """Return the links by name."""
    return _entries("links.toml", link_entry)


@cache
def all_machines() -> Mapping[str, CatalogueMachine]:
    """Return the machines by name."""
    return _entries("machines.toml", machine_entry)


def device_entry(name: str, table: _Table) -> CatalogueDevice:
    """Return the device of a table read by ``tomllib``.

    Raises:
        InputError: if a key is missing, unknown or sourced without being there, or a value is impossible.
    """
    own = {field.name for field in fields(CatalogueDevice)} - {"device", "provenance"}
    of_device = {field.name for field in fields(Device)} - {"name"}
    check_keys(table, (*own, *of_device, *_PROVENANCE), field=name)
    device = device_from_table({"name": name, **{key: table[key] for key in table if key in of_device}})
    kept = {key: table[key] for key in table if key in own}
    return _made(CatalogueDevice, name, table, {**kept, "device": device, "prices": _prices(table)})


def link_entry(name: str, table: _Table) -> CatalogueLink:
    """Return the link of a table; raises ``InputError`` like :func:`device_entry`."""
    return _plain_entry(CatalogueLink, name, table)


def machine_entry(name: str, table: _Table) -> CatalogueMachine:
    """Return the machine of a table; raises ``InputError`` like :func:`device_entry`."""
    return _plain_entry(CatalogueMachine, name, table)


def _plain_entry(kind: type[_T], name: str, table: _Table) -> _T:
    own = {field.name for field in fields(kind)} - {"name", "provenance"}  # type: ignore[arg-type]
    check_keys(table, (*own, *_PROVENANCE), field=name)
    kept: dict[str, Any] = {key: table[key] for key in table if key in own}
    if "prices" in kept:
        kept["prices"] = _prices(table)
    return _made(kind, name, table, {**kept, "name": name})


def _made(kind: Callable[..., _T], name: str, table: _Table, values: Mapping[str, Any]) -> _T:
    try:
        return kind(**values, provenance=_provenance(name, table))
    except TypeError as error:
        raise InputError(f"cannot be read ({error})", field=name, remedy="Complete the entry") from None


def _provenance(name: str, table: _Table) -> Provenance:
    if not table.get("source"):
        raise InputError("says not where its figures are from", field=name, remedy="Add source = …")
    sources, estimates = table.get("sources", {}), table.get("estimates", {})
    for figures in (sources, estimates):
        check_keys(figures, (key for key in table if key not in _PROVENANCE), field=f"{name}.sources")
    return Provenance(source=table["source"], sources=sources, estimates=estimates)


def _prices(table: _Table) -> tuple[Price, ...]:
    return tuple(Price(**price) for price in table.get("prices", ()))


def _entries(file: str, entry: Callable[[str, _Table], _Entry]) -> Mapping[str, _Entry]:
    text = resources.files("steelyard.hardware.catalogue").joinpath(file).read_text(encoding="utf-8")
    return {name: entry(name, table) for name, table in tomllib.loads(text).items()}
