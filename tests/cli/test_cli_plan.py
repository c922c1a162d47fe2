"""``steelyard plan``: tables, JSON, TOML files, reasons, and errors that name what is wrong."""

import json
import tomllib

import pytest

from steelyard.cli.app import run


def test_parallel_prints_layouts_and_reasons(capsys):
    assert run(["plan", "parallel", "gpt-22b", "--gpus", "64", "--batch", "64", "--top", "2"]) == 0
    out = capsys.readouterr().out
    assert "gpt-22b: 22." in out
    assert len([line for line in out.splitlines() if line[:1].isdigit()]) == 2
    assert "• Next best: TP" in out


def test_parallel_writes_the_plan_it_prints(capsys, tmp_path):
    path = tmp_path / "plan.toml"
    arguments = ["plan", "parallel", "--layers", "4", "--hidden", "256", "--heads", "4", "--gpus", "8", "--batch", "16"]
    assert run([*arguments, "--tp", "2", "--recompute", "full", "--json", "--out", str(path)]) == 0
    captured = capsys.readouterr()
    printed = json.loads(captured.out)
    assert printed.pop("reasons")
    assert tomllib.loads(path.read_text(encoding="utf-8")) == printed
    assert captured.err == f"written to {path}\n"
    assert {layout["tp"] for layout in printed["layouts"]} == {2}
    assert {layout["recompute"] for layout in printed["layouts"]} == {"full"}


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["gpt-1t", "--gpus", "8", "--batch", "8"], 1, "devices are enough"),
        (["gpt1t"], 2, "Did you mean gpt-1t"),
        (["gpt-22b", "--cluster", "dgx-a1000"], 2, "Did you mean dgx-a100"),
        (["gpt-22b", "--recompute", "most"], 2, "Give auto, none, selective, full"),
        (["gpt-22b", "--tp", "5"], 2, "tp = 5"),
        (["--layers", "4"], 2, "--hidden and --heads"),
        (["gpt-22b", "--top", "0"], 2, "top"),
    ],
)
def test_parallel_says_what_is_wrong(capsys, arguments, code, told):
    assert run(["plan", "parallel", *arguments]) == code
    assert told in capsys.readouterr().err
