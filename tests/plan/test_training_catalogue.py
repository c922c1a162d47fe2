"""Clusters take their figures from the hardware catalogue: one truth per figure."""

from __future__ import annotations

from dataclasses import replace

import pytest

from steelyard.core.errors import InputError
from steelyard.hardware.catalogue.read import find_machine
from steelyard.plan.training_catalogue import cluster_of, find_training_cluster, find_training_model, training_models


def test_a_cluster_of_dgx_has_the_data_sheets_figures():
    cluster, _ = find_training_cluster("DGX-A100")
    assert (cluster.name, cluster.flop_per_s, cluster.memory_bytes_per_s) == ("dgx-a100", 312e12, 2039e9)
    assert cluster.memory_bytes == 80 * 2**30
    assert [(link.max_ranks, link.bytes_per_s) for link in cluster.links] == [(8, 300e9)]
    assert cluster.network_bytes_per_s == 25e9, "an adapter per device"


def test_dies_of_a_module_are_nearer_than_those_of_a_node():
    cluster, _ = find_training_cluster("frontier")
    assert [(link.max_ranks, link.bytes_per_s) for link in cluster.links] == [(2, 200e9), (8, 50e9)]
    assert cluster.network_bytes_per_s == 12.5e9, "four adapters for eight dies"


def test_a_machine_may_join_its_devices_by_another_link_than_their_own():
    machine = replace(find_machine("dgx-h100"), peer_link="nvlink-2", num_networks=4)
    cluster = cluster_of("mine", machine, ())
    assert cluster.links[0].bytes_per_s == 150e9
    assert cluster.network_bytes_per_s == 25e9


def test_unknown_names_are_told_with_those_near():
    with pytest.raises(InputError, match="Did you mean frontier"):
        find_training_cluster("frontiers")
    with pytest.raises(InputError, match="Did you mean gpt-1t"):
        find_training_model("gpt1t")
    assert "gpt-175b" in training_models()
