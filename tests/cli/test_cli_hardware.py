"""``steelyard hardware``: lists, one entry with its sources, JSON, and names that are not known."""

import json

from steelyard.cli.app import run
from steelyard.hardware.catalogue.read import all_devices, all_links, all_machines, device_entry, link_entry


def test_list_names_everything(capsys):
    assert run(["hardware", "list"]) == 0
    out = capsys.readouterr().out
    for name in (*all_devices(), *all_links(), *all_machines()):
        assert f"{name} " in out


def test_show_tells_where_each_figure_is_from(capsys):
    assert run(["hardware", "show", "rtx-4070"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    assert "58.3 TFLOP/s" in lines["peaks.float16"]
    assert "estimate: " in lines["peaks.float16"]
    assert "GeForce RTX 4070 specifications" in lines["peak_watts"]


def test_json_is_the_entry_as_in_its_data_file(capsys):
    assert run(["hardware", "list", "--json"]) == 0
    tables = json.loads(capsys.readouterr().out)
    devices = {table.pop("name"): table for table in tables["devices"]}
    assert {name: device_entry(name, table) for name, table in devices.items()} == all_devices()
    links = {table.pop("name"): table for table in tables["links"]}
    assert {name: link_entry(name, table) for name, table in links.items()} == all_links()
    assert [table["device"] for table in tables["machines"]] == [one.device for one in all_machines().values()]


def test_a_name_that_is_not_known_is_an_error(capsys):
    assert run(["hardware", "show", "dgx-a10"]) == 2
    assert "Did you mean dgx-a100" in capsys.readouterr().err
