"""The catalogue: its data files are whole, and what is wrong with an entry is named."""

import pytest

from steelyard.core.errors import InputError
from steelyard.hardware.catalogue.read import (
    all_devices,
    all_links,
    all_machines,
    device_entry,
    find_device,
    find_link,
    find_machine,
    link_entry,
    machine_entry,
)

_LINK = {"title": "A wire", "bandwidth_bytes_per_s": 1e9, "source": "a paper"}
_DEVICE = {
    "title": "A chip",
    "kind": "gpu",
    "memory": [{"name": "HBM", "capacity_bytes": 10, "bandwidth_bytes_per_s": 2.0}],
    "peaks": [{"dtype": "float16", "flop_per_s": 3.0}],
    "peak_watts": 4.0,
    "source": "a data sheet",
}


def test_every_link_and_device_that_is_named_exists():
    links = set(all_links())
    for device in all_devices().values():
        assert {device.host_link, device.peer_link} - {None} <= links
    for machine in all_machines().values():
        assert {machine.peer_link, machine.network} - {None} <= links
        assert {machine.device, machine.host} - {None} <= set(all_devices())


def test_names_are_unique_over_all_kinds():
    names = [*all_devices(), *all_links(), *all_machines()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("device", all_devices().values(), ids=lambda device: device.name)
def test_figures_are_of_the_right_size(device):
    assert 1e9 <= device.device.memory[0].capacity_bytes <= 5e12
    assert 1e11 <= device.device.bandwidth_bytes_per_s <= 1e13
    assert all(1e12 <= peak.flop_per_s <= 3e15 for peak in device.device.peaks)
    assert device.peak_watts is None or 40 <= device.peak_watts <= 1000
    assert device.provenance.source


def test_the_devices_that_planners_ask_for_are_there():
    assert find_device("A100-80GB").device.flop_per_s("float16") == 312e12
    assert find_device("l4").dollars_per_hour == 0.70
    assert find_device("sn40l").dollars_per_hour is None
    assert find_link("nvlink-4").bandwidth_bytes_per_s == 450e9
    assert find_machine("dgx-h100").num_devices == 8


@pytest.mark.parametrize(
    ("find", "name", "near"),
    [(find_device, "a100", "a100-40gb"), (find_link, "nvlnk-3", "nvlink-3"), (find_machine, "dgx-a10", "dgx-a100")],
)
def test_a_name_that_is_not_known_is_told_with_those_near(find, name, near):
    with pytest.raises(InputError) as caught:
        find(name)
    assert near in (caught.value.remedy or "")


def test_an_entry_is_read():
    device = device_entry("chip", {**_DEVICE, "prices": [{"dollars_per_hour": 5.0, "source": "a list"}]})
    assert (device.name, device.peak_watts, device.dollars_per_hour) == ("chip", 4.0, 5.0)
    assert device.device.memory[0].capacity_bytes == 10
    assert link_entry("wire", _LINK).latency_s is None


def test_figures_say_where_they_are_from():
    sources = {"sources": {"memory": "elsewhere"}, "estimates": {"peak_watts": "twice two"}}
    provenance = device_entry("chip", {**_DEVICE, **sources}).provenance
    assert provenance.of("peaks") == "a data sheet"
    assert provenance.of("memory") == "elsewhere"
    assert provenance.of("peak_watts") == "estimate: twice two"


@pytest.mark.parametrize(
    ("entry", "table", "field", "told"),
    [
        (device_entry, {**_DEVICE, "peak_wats": 1.0}, "x", "peak_watts"),
        (link_entry, {**_LINK, "bandwith_bytes_per_s": 1.0}, "x", "bandwidth_bytes_per_s"),
        (link_entry, {"title": "A wire", "bandwidth_bytes_per_s": 1e9}, "x", "source"),
        (link_entry, {"title": "A wire", "source": "a paper"}, "x", "Complete"),
        (machine_entry, {"title": "M", "device": "t4", "source": "a page"}, "x", "Complete"),
        (device_entry, {**_DEVICE, "sources": {"idle_watts": "a paper"}}, "x.sources", "peak_watts"),
        (device_entry, {**_DEVICE, "kind": "gpus"}, "kind", "gpu"),
    ],
)
def test_what_is_wrong_with_an_entry_is_named(entry, table, field, told):
    with pytest.raises(InputError) as caught:
        entry("x", table)
    assert caught.value.field == field
    assert told in (caught.value.remedy or "")
