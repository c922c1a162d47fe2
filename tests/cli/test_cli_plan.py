"""``steelyard plan``: tables, JSON, TOML files, reasons, and errors that name what is wrong."""

import json
import math
import random
import tomllib
from datetime import datetime, timedelta

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


def test_context_prints_the_four_costs_and_writes_figure_and_plan(capsys, tmp_path):
    figure, path = tmp_path / "context.svg", tmp_path / "plan.toml"
    arguments = ["plan", "context", "--context", "50000", "--context", "4000", "--figure", str(figure), "--json"]
    assert run([*arguments, "--out", str(path)]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed.pop("reasons")
    assert tomllib.loads(path.read_text(encoding="utf-8")) == printed
    assert [costs["context_tokens"] for costs in printed["costs"]] == [4000, 50000]
    assert [costs["concurrency"] for costs in printed["costs"]] == [17, 1]
    assert figure.read_text(encoding="utf-8").startswith("<svg")


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["yi-34b-200k", "--device", "l4"], 1, "Take 3 of them"),
        (["yi-34b"], 2, "Did you mean yi-34b-200k"),
        (["--device", "a100"], 2, "Did you mean"),
        (["--context", "0"], 2, "below 1"),
        (["--devices", "0"], 2, "devices"),
    ],
)
def test_context_says_what_is_wrong(capsys, arguments, code, told):
    assert run(["plan", "context", *arguments]) == code
    assert told in capsys.readouterr().err


def test_fleet_takes_a_measured_profile_and_prints_weights(capsys, tmp_path):
    sizes, profile = tmp_path / "sizes.csv", tmp_path / "profile.toml"
    sizes.write_text("prompt_tokens,answer_tokens,requests\n10,5,1\n20,5,1\n", encoding="utf-8")
    profile.write_text(
        "[gpus.a]\nprice_per_hour = 1.0\nrates_per_s = [1, 0.1]\n[gpus.b]\nprice_per_hour = 3\nrates_per_s = [1, 1]\n",
        encoding="utf-8",
    )
    arguments = ["plan", "fleet", "--workload", str(sizes), "--profile", str(profile), "--rate", "2"]
    assert run([*arguments, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert {one["name"]: one["count"] for one in printed["gpus"]} == {"a": 1, "b": 1}
    assert printed["gpus"][0]["weights"] == [1, 0]
    assert printed["saved"] == pytest.approx(1 / 3)
    assert run([*arguments, "--limit", "b=0", "--limit", "a=3"]) == 1
    assert "serves at most" in capsys.readouterr().err
    assert run([*arguments, "--limit", "c=1"]) == 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--gpu", "a10"], "Did you mean a10"),
        (["--workload", "azure-conv"], "azure-conversation"),
        (["--slo-ms", "1"], "Allow 20.4 ms per token"),
        (["llama-2-70b"], "memory: requests of 16000+100 tokens"),
        (["--rate", "0"], "no request arrives"),
        (["--rate", "-1"], "no rate"),
        (["--limit", "h100"], "NAME=N"),
        (["--profile", "missing.toml"], "cannot be read"),
    ],
)
def test_fleet_says_what_is_wrong(capsys, arguments, told):
    assert run(["plan", "fleet", *arguments]) == 2
    assert told in capsys.readouterr().err


def test_fleet_names_requests_that_the_model_cannot_take(capsys, tmp_path):
    sizes = tmp_path / "sizes.csv"
    sizes.write_text("prompt_tokens,answer_tokens,requests\n4000,97,1\n4000,96,3\n", encoding="utf-8")
    assert run(["plan", "fleet", "llama-2-7b", "--workload", str(sizes), "--rate", "1", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [one["answer_tokens"] for one in printed["beyond_context"]] == [97]
    assert "4000+97 tokens (25.0% of all) are longer than llama-2-7b's context of 4096" in printed["reasons"][-1]
    assert run(["plan", "fleet", "llama-3-8b", "--workload", str(sizes), "--rate", "1", "--json"]) == 0
    assert "beyond_context" not in json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("limits", "slo_ms", "told"),
    [
        (("l4=1", "a10g=2", "a100-80gb=3", "h100=0"), "120", "Add 1 × l4 + 2 × a10g; no objective is loose enough"),
        (("l4=0", "a10g=0", "a100-80gb=5", "h100=0"), "40", "Add 1 × h100; or allow 51.1 ms per token"),
    ],
)
def test_fleet_with_too_few_devices_names_both_ways_out(capsys, limits, slo_ms, told):
    options = [word for name in limits for word in ("--limit", name)]
    assert run(["plan", "fleet", "--slo-ms", slo_ms, *options]) == 1
    assert told in capsys.readouterr().err


@pytest.fixture
def short_answers(tmp_path):
    """Return a trace's file whose requests are quick to simulate."""
    rows = [f"2023-11-16 18:15:{second:02}.0,900,40" for second in range(20)]
    path = tmp_path / "trace.csv"
    path.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]), encoding="utf-8")
    return str(path)


def test_nano_writes_the_plan_it_prints(capsys, tmp_path):
    path = tmp_path / "plan.toml"
    assert run(["plan", "nano", "llama-2-70b", "--json", "--out", str(path)]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert "nano-batches" in printed.pop("reasons")[0]
    assert tomllib.loads(path.read_text(encoding="utf-8")) == printed
    assert printed["pipeline"]["num_nano"] > 1
    assert printed["optimal_s"] < max(span["end_s"] for span in printed["spans"]) < printed["sequential_s"]


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["llama-2-70b", "--devices", "1"], 1, "Take more devices"),
        (["llama-2-7b", "--batch", "0"], 2, "error: batch: 0 is below 1"),
        (["llama-2-7b", "--prompt", "0"], 2, "error: prompt: 0 is below 1"),
        (["llama-2-7b", "--devices", "0"], 2, "error: devices: 0 is below 1"),
        (["llama-2-7c"], 2, "Did you mean llama-2-7b"),
        (["llama-2-7b", "--device", "a1000"], 2, "device"),
    ],
)
def test_nano_says_what_is_wrong(capsys, arguments, code, told):
    assert run(["plan", "nano", *arguments]) == code
    assert told in capsys.readouterr().err


def test_place_prints_pools_beside_both_phases_together(capsys, short_answers):
    arguments = ["plan", "place", "opt-13b", "--trace", short_answers, "--max-devices", "1", "--requests", "10"]
    assert run([*arguments, "--network", "low", "--machine", "2", "--slo", "ttft=0.2,tpot=0.023"]) == 0
    out = capsys.readouterr().out
    assert "opt-13b: prefill on" in out
    assert "TOGETHER/GPU" in out
    assert len([line for line in out.splitlines() if line.startswith("TP1 ")]) == 1
    assert "binds: at 1.2 times the goodput" in out


def test_place_writes_the_plan_it_prints(capsys, tmp_path, short_answers):
    path = tmp_path / "plan.toml"
    arguments = ["plan", "place", "llama-3-8b", "--trace", short_answers, "--max-devices", "1", "--requests", "10"]
    more = ["--device", "l4", "--slo", "ttft=1,tpot=0.1", "--objective", "dollar", "--rate", "1"]
    assert run([*arguments, *more, "--json", "--out", str(path)]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed.pop("reasons")
    assert tomllib.loads(path.read_text(encoding="utf-8")) == printed
    assert printed["objective"] == "dollar"
    assert printed["prefill"]["tp"] == printed["decode"]["pp"] == 1


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["opt-13"], 2, "Did you mean opt-13b"),
        (["--network", "middle"], 2, "high"),
        (["--objective", "euro"], 2, "dollar"),
        (["--slo", "ttft=1"], 2, "tpot_s"),
        (["--slo", "ttft=0.001,tpot=1", "--requests", "5"], 2, "s at least: TP4 reaches that"),
        (["--device", "h100"], 2, "profiled on a100-80gb only"),
        (["llama-2-70b", "--max-devices", "1"], 2, "Allow more devices"),
        (["llama-2-70b", "--device", "h100", "--device", "l4", "--network", "low"], 2, "devices of one kind"),
        (["--share", "0"], 2, "share"),
        (["--lengths", "poems"], 2, "sharegpt"),
        (["llama-2-7b", "--link", "nvlink-33"], 2, "nvlink"),
    ],
)
def test_place_says_what_is_wrong(capsys, arguments, code, told):
    assert run(["plan", "place", *arguments]) == code
    assert told in capsys.readouterr().err


@pytest.fixture
def history(tmp_path):
    """Return a load's file: ten days of hours, the same every day but for noise, beside an indicator."""
    rng, path = random.Random(0), tmp_path / "load.csv"
    loads = [30 - 25 * math.cos(2 * math.pi * hour / 24) + rng.random() for hour in range(240)]
    lines = [f"{datetime(2024, 1, 1) + timedelta(hours=hour)},{load},{rng.random()}" for hour, load in enumerate(loads)]
    path.write_text("\n".join(["time,requests,noise", *lines]), encoding="utf-8")
    return str(path)


SCALE = ["--unit", "10", "--forecaster", "seasonal", "--horizon", "21600", "--context", "24"]


def test_scale_prints_quantiles_replicas_and_how_good_it_was(capsys, history):
    assert run(["plan", "scale", history, *SCALE, "--cold-start", "3600", "--max", "2", "--running", "0"]) == 0
    out = capsys.readouterr().out
    assert "requests: 1 to 2 replicas over 6 h from 2024-01-11 00:00 UTC" in out
    assert len([line for line in out.splitlines() if line.startswith("2024-01-11")]) == 6
    assert "CRPS is 0." in out
    assert "of naive's" in out
    assert "so 91% of demands are to be covered" in out
    assert "--max 2 binds on" in out
    assert "Replicas take 3600 s to start: until 2024-01-11 01:00" in out


def test_scale_writes_the_plan_it_prints(capsys, tmp_path, history):
    path = tmp_path / "plan.toml"
    arguments = [*SCALE, "--column", "requests", "--policy", "reactive", "--json", "--out", str(path)]
    assert run(["plan", "scale", history, *arguments]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed.pop("reasons")
    assert tomllib.loads(path.read_text(encoding="utf-8")) == printed
    assert [one["forecaster"] for one in printed["held_out"]] == ["seasonal", "naive"]
    assert printed["steps"][1]["at"] == "2024-01-11T01:00:00+00:00"
    assert len(printed["steps"][0]["load"]) == len(printed["quantiles"])


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--forecaster", "season"], 2, "Did you mean seasonal"),
        (["--policy", "expected"], 2, "Did you mean expected_cost"),
        (["--column", "request"], 2, "Did you mean requests"),
        (["--unit", "0"], 2, "unit: 0 is not above 0"),
        (["--every", "0"], 2, "every"),
        (["--every", "60"], 2, "Give at least 3600"),
        (["--min", "4", "--max", "3"], 2, "4 to 3 is no range"),
        (["--horizon", "1e6"], 2, "too few to look back"),
        (["--idle-cost", "0"], 2, "idle_cost"),
        (["--running", "-1"], 2, "running"),
        (["--cold-start", "-1"], 2, "cold_start"),
    ],
)
def test_scale_says_what_is_wrong(capsys, history, arguments, code, told):
    assert run(["plan", "scale", history, *SCALE, *arguments]) == code
    assert told in capsys.readouterr().err


POWER = ["plan", "power", "llama-3-8b", "--servers", "2", "--added", "0,0.5", "--rate", "2", "--duration", "8"]


def test_power_prints_rows_and_reasons_and_writes_the_plan(capsys, tmp_path):
    path = tmp_path / "plan.toml"
    assert run([*POWER, "--json", "--out", str(path)]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed.pop("reasons")
    assert tomllib.loads(path.read_text(encoding="utf-8")) == printed
    assert printed["watts"] == 13_000
    assert printed["rows"][0]["num_servers"] == 2
    assert {"polca", "none"} == {row["policy"] for row in printed["rows"]}
    assert run(POWER) == 0
    out = capsys.readouterr().out
    assert "13.0 kW, made for 2 × dgx-a100" in out
    assert "LOW LATER" in out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--servers", "1"], "servers"),
        (["--servers", "100000"], "1000 at most"),
        (["--added", "0,x"], "added"),
        (["--added", "0.5,0"], "do not rise"),
        (["--policy", "polka"], "polca"),
        (["--others", "polka"], "polca"),
        (["--machine", "dgx-a10"], "dgx-a100"),
        (["--high-loss", "0.1"], "high_loss"),
        (["--high-share", "2"], "high_share"),
        (["--context", "100000000"], "do not fit"),
    ],
)
def test_power_says_what_is_wrong(capsys, arguments, told):
    assert run([*POWER, *arguments]) != 0
    assert told in capsys.readouterr().err
