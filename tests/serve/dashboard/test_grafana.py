"""The Grafana dashboard asks only for what /metrics has."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

import steelyard.serve.dashboard

FILE = Path(steelyard.serve.dashboard.__file__).parent / "grafana.json"
# Labels that Prometheus adds to what it collects.
COLLECTORS = {"instance"}


@pytest.fixture(scope="module")
def board() -> dict[str, Any]:
    return json.loads(FILE.read_text(encoding="utf-8"))


def expressions(board: dict[str, Any]) -> list[str]:
    queries = [one["definition"] for one in board["templating"]["list"] if "definition" in one]
    return queries + [target["expr"] for panel in board["panels"] for target in panel["targets"]]


def test_every_metric_and_label_is_one_of_ours(board: dict[str, Any], http: httpx.Client):
    http.post("/v1/completions", json={"prompt": "Once", "max_tokens": 3}).raise_for_status()
    http.post("/v1/completions", json={"prompt": "Once", "max_tokens": 3, "n": 24}).raise_for_status()
    text = http.get("/metrics").text
    declared = set(re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE))
    labels: dict[str, set[str]] = {}
    for name, told in re.findall(r"^([a-z0-9_:]+)\{(.*)\} \S+$", text, re.MULTILINE):
        labels.setdefault(name, set()).update(re.findall(r'(\w+)="', told))
    found = 0
    for expression in expressions(board):
        for name, told in re.findall(r"(vllm:[a-z0-9_]+)(?:\{([^}]*)\})?", expression):
            found += 1
            assert name in labels or name in declared, f"{name} is not in /metrics"
            asked = set(re.findall(r"(\w+)=~", told)) - COLLECTORS
            assert name not in labels or asked <= labels[name], f"{name} has not the labels {asked}"
    assert found > 30


def test_panels_do_not_lie_on_one_another(board: dict[str, Any]):
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken
        taken |= cells
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_no_source_is_named_but_by_the_variable(board: dict[str, Any]):
    sources = {target["datasource"]["uid"] for panel in board["panels"] for target in panel["targets"]}
    assert sources == {"${source}"}
    names = {one["name"] for one in board["templating"]["list"]}
    used = set(re.findall(r"\$(\w+)", json.dumps(expressions(board)))) - {"__rate_interval"}
    assert used <= names
