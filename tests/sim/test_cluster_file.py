"""Cluster files: everything that they can say, and how each mistake is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from steelyard.core.errors import InputError, StorageError
from steelyard.sim.cluster_file import read_cluster
from steelyard.sim.conditions import Autoscale, Death, LinkLoss, PowerBudget, Priority, Slowness, Strike

GOOD = """
name = "two kinds"

[[replicas]]
name = "big"
count = 2
capacity = 2.0
num_devices = 8
idle_watts = 500
host_watts = 900
priority = "high"
dollars_per_hour = 30.5
[replicas.steps]
source = "splitwise"
model = "llama2-70b"
device = "h100"
tp = 8
[replicas.engine]
max_model_len = 4096
num_kv_blocks = 1000
[replicas.schedule]
policy = "priority"
starvation_s = 5.0

[[replicas]]
name = "small"
count = 3
[replicas.steps]
source = "fitted"
prefill = [1.0, 0.1, 0.0]
decode_small = [2.0, 0.0, 0.1]
decode_large = [2.0, 0.0, 0.1]
threshold = 64
[replicas.engine]
max_model_len = 4096
num_kv_blocks = 500

[router]
policy = "prefix_affinity"

[power]
watts = 9000
policy = "polca"
first = 0.78
every_s = 1

[[faults]]
kind = "death"
machine = "big-1"
at_s = 10
repair_s = 5

[[faults]]
kind = "slow"
machine = "small"
mtbf_s = 3600
for_s = 60
factor = 2.5

[[faults]]
kind = "link"
machine = "small-2"
at_s = 1.5
for_s = 2

[[autoscale]]
group = "small"
target_ongoing_requests = 8
policy = "reactive"
utilisation = 0.7
max_replicas = 6
cold_start_s = 45
"""


def read(tmp_path: Path, text: str):
    path = tmp_path / "cluster.toml"
    path.write_text(text)
    return read_cluster(path)


def test_everything_that_a_file_says_arrives(tmp_path: Path) -> None:
    cluster = read(tmp_path, GOOD)
    big, small = cluster.groups
    assert (cluster.name, cluster.route) == ("two kinds", "prefix_affinity")
    assert (big.count, big.capacity, big.num_devices, big.idle_watts, big.dollars_per_hour) == (2, 2.0, 8, 500, 30.5)
    assert (big.schedule, dict(big.schedule_options), small.schedule) == ("priority", {"starvation_s": 5.0}, "fcfs")
    assert (big.engine.max_model_len, small.engine.num_kv_blocks) == (4096, 500)
    assert cluster.faults == (
        Death(strike=Strike(machine="big-1", at_s=10), repair_s=5),
        Slowness(strike=Strike(machine="small", mtbf_s=3600), for_s=60, factor=2.5),
        LinkLoss(strike=Strike(machine="small-2", at_s=1.5), for_s=2),
    )
    options = {"utilisation": 0.7, "max_replicas": 6}
    scaler = Autoscale(group="small", target_ongoing_requests=8, options=options, cold_start_s=45)
    assert cluster.autoscalers == (scaler,)
    assert cluster.power == PowerBudget(watts=9000, policy="polca", options={"first": 0.78}, every_s=1)
    assert (big.priority, big.host_watts, small.priority) == (Priority.HIGH, 900, Priority.LOW)


@pytest.mark.parametrize(
    ("right", "wrong", "told"),
    [
        ('name = "two kinds"', 'nmae = "two kinds"', ("nmae", "Did you mean name?")),
        ("capacity = 2.0", "capacty = 2.0", ("replicas[0].capacty", "Did you mean capacity?")),
        ("count = 3", "count = 0", ("replicas[1].count", "0")),
        ("count = 3", 'count = "3"', ("replicas[1].count", "'3'")),
        ('name = "small"', 'name = "big"', ("replicas", "named ['big', 'big']")),
        ("tp = 8", "tpp = 8", ("replicas[0].steps.tpp", "Did you mean tp?")),
        ('source = "fitted"', 'source = "fited"', ("replicas[1].steps.source", "fitted")),
        ("threshold = 64", "", ("replicas[1].steps.threshold", "missing")),
        ("prefill = [1.0, 0.1, 0.0]", "prefill = [1.0]", ("replicas[1].steps.prefill", "three numbers")),
        ("num_kv_blocks = 500", "num_kv_blokcs = 500", ("replicas[1].engine.num_kv_blokcs", "num_kv_blocks")),
        ("starvation_s = 5.0", "starvatoin_s = 5.0", ("starvatoin_s", "starvation_s")),
        ('policy = "prefix_affinity"', 'policy = "prefix"', ("prefix", "prefix_affinity")),
        ('kind = "death"', 'kind = "deaht"', ("faults[0].kind", "death, slow, link")),
        ('kind = "death"', "", ("faults[0].kind", "missing")),
        ('machine = "big-1"', 'machine = "big-2"', ("faults[0].machine", "big-1")),
        ("repair_s = 5", "repair = 5", ("faults[0].repair", "Did you mean repair_s?")),
        ("factor = 2.5", "factor = -1", ("faults[1].factor", "-1")),
        ("factor = 2.5", "", ("faults[1].factor", "missing")),
        ("mtbf_s = 3600", "mtbf_s = 3600\nat_s = 1", ("faults[1].at_s", "one of at_s and mtbf_s")),
        ("mtbf_s = 3600", 'mtbf_s = "1h"', ("faults[1].mtbf_s", "'1h'")),
        ('group = "small"', 'group = "smal"', ("autoscale[0].group", "Did you mean small?")),
        ("utilisation = 0.7", "utilization = 0.7", ("autoscale[0].utilization", "utilisation")),
        ("target_ongoing_requests = 8", "", ("autoscale[0].target_ongoing_requests", "missing")),
        ('priority = "high"', 'priority = "hihg"', ("replicas[0].priority", "low, high")),
        ("watts = 9000", "watts = -1", ("power.watts", "-1")),
        ("first = 0.78", "frist = 0.78", ("power.frist", "first")),
        ("[[autoscale]]", "[autoscale]", ("autoscale", "[[autoscale]]")),
        ("[router]", "router = 3\n[other]", ("there is no such key", "router")),
    ],
)
def test_each_mistake_is_told_with_its_place_and_what_to_write(
    tmp_path: Path, right: str, wrong: str, told: tuple[str, str]
) -> None:
    assert right in GOOD
    with pytest.raises(InputError) as caught:
        read(tmp_path, GOOD.replace(right, wrong, 1))
    message = str(caught.value)
    assert str(tmp_path / "cluster.toml") in message
    for part in told:
        assert part in message


def test_what_is_no_toml_and_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no TOML"):
        read(tmp_path, "name = ")
    with pytest.raises(StorageError, match="cannot be read"):
        read_cluster(tmp_path / "nothing.toml")
    with pytest.raises(InputError, match="at least one group"):
        read(tmp_path, 'name = "empty"')
